//! A room's life as a seed has it: people come, write, quarrel over roles, lose links and power, and in the end
//! everyone must agree.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use roundtable_command_log::{Action, Genesis, GenesisParams, Key, Limits, Role};
use roundtable_core::{Bitrate, Channel, Frame, Timestamp, TransportKind};
use roundtable_netem::Conditions;
use roundtable_session::{GenesisSource, LinkId};

use crate::{
    CLAIM, Fault, Kind, NOTE, SCORE, TRAIL, Violation, World,
    hostile::{Equivocation, Forgers},
    schema,
};

/// How long a world may take to come to rest once everyone is linked.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most links that two peers have at a time.
const MAX_LINKS: usize = 2;
/// Bytes of a large value: a dozen of them are more than one answer to a request holds.
const LARGE: usize = 24 * 1024;
/// Of the first seeds every other world is small, of all others one in so many: fewer peers and a shorter life, and every
/// peer verifies every signature by itself. In the full ones a signature is verified once, by whoever sees it first.
const FIRST_SEEDS: u64 = 1000;
const SMALL_ONE_IN: u64 = 50;
/// Commands, partitions and crashes of a full world, and its peers.
const FULL: (u64, u32, u32, usize) = (200, 1, 1, 4);
/// Steps after which a full world is made to have what it lacks.
const FULL_STEPS: u64 = 50;
/// Most steps of any world.
const MAX_STEPS: u64 = 150;
/// How likely an address changes in each step of a world of real links.
const MOVE_PERCENT: u64 = 6;
/// How precisely convergence is measured.
const GLANCE: Duration = Duration::from_millis(10);

/// What the links of a world are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    /// A model: whole messages, each delayed and lost by itself.
    #[default]
    Model,
    /// QUIC, packet by packet.
    Quic,
    /// WebRTC, packet by packet.
    WebRtc,
    /// Some links are QUIC, some WebRTC.
    Mixed,
}

impl Medium {
    /// As the command line names it.
    const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Quic => "quic",
            Self::WebRtc => "webrtc",
            Self::Mixed => "mixed",
        }
    }

    const fn only(self) -> Option<TransportKind> {
        match self {
            Self::Quic => Some(TransportKind::Quic),
            Self::WebRtc => Some(TransportKind::WebRtc),
            Self::Model | Self::Mixed => None,
        }
    }
}

/// What a world that kept all promises has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Names the world.
    pub seed: u64,
    /// How many peers there were, of all kinds, those that came back under new keys counted again.
    pub peers: usize,
    /// Commands that honest peers have signed.
    pub commands: u64,
    /// How often a peer crashed.
    pub crashes: u32,
    /// How often the room was cut in two.
    pub partitions: u32,
    /// How often peers were shown that an author has forked its log.
    pub forks: u64,
    /// How many links over QUIC and over WebRTC came up.
    pub links: [u64; 2],
    /// How often a peer's address changed, which only real links know of.
    pub moves: u32,
    /// How often a peer came back with an older backup of its disk.
    pub rollbacks: u32,
    /// How many checkpoints have become stable.
    pub checkpoints: usize,
    /// From the moment when everyone was linked again until everyone held all that anyone had held then.
    pub converged_in: Duration,
    /// Names everything that was sent: equal for equal seeds. Over real links, whose handshakes are never
    /// the same, only when and how much.
    pub digest: [u8; 32],
}

impl Report {
    /// Whether the world had enough going on at once: at least four peers, 200 commands, a partition and a crash.
    pub fn is_full(&self) -> bool {
        is_full(self.commands, self.partitions, self.crashes, self.peers)
    }

    /// Whether it was meant to.
    pub fn is_small(&self) -> bool {
        is_small(self.seed)
    }
}

fn is_full(commands: u64, partitions: u32, crashes: u32, peers: usize) -> bool {
    let enough = [
        commands >= FULL.0,
        partitions >= FULL.1,
        crashes >= FULL.2,
        peers >= FULL.3,
    ];
    enough == [true; 4]
}

fn is_small(seed: u64) -> bool {
    let one_in = if seed < FIRST_SEEDS { 2 } else { SMALL_ONE_IN };
    seed.is_multiple_of(one_in)
}

/// A world in which a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Replays the world.
    pub seed: u64,
    /// What its links were made of.
    pub medium: Medium,
    /// What was broken.
    pub violation: Violation,
    /// The last things that happened, a line each.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "    {line}")?;
        }
        let Self {
            seed, violation, ..
        } = self;
        write!(
            f,
            "seed {seed}: {violation}\n    replay: cargo xtask sim --seed {seed} --seeds 1"
        )?;
        match self.medium {
            Medium::Model => Ok(()),
            medium => write!(f, " --transport {}", medium.name()),
        }
    }
}

impl std::error::Error for Failure {}

/// Plays the world of a seed, and holds it against everything that was promised. With a fault, the honest
/// peers break one promise on purpose.
///
/// # Errors
/// [`Failure`] names the first promise that was broken.
pub fn run(seed: u64, fault: Option<Fault>) -> Result<Report, Box<Failure>> {
    play(seed, fault, Medium::Model)
}

/// As [`run`] without a fault, over links of `medium`.
///
/// # Errors
/// [`Failure`] names the first promise that was broken.
pub fn run_over(seed: u64, medium: Medium) -> Result<Report, Box<Failure>> {
    play(seed, None, medium)
}

fn play(seed: u64, fault: Option<Fault>, medium: Medium) -> Result<Report, Box<Failure>> {
    let fail = |violation, trace| {
        let failure = Failure {
            seed,
            medium,
            violation,
            trace,
        };
        Box::new(failure)
    };
    let Ok(schema) = schema() else {
        return Err(fail(Violation::Panicked, Vec::new()));
    };
    roundtable_command_log::__remember_verdicts(!is_small(seed));
    let mut world = World::new(seed, schema);
    if medium != Medium::Model {
        world = match world.with_real_links(medium.only()) {
            Ok(world) => world,
            Err(_) => return Err(fail(Violation::Panicked, Vec::new())),
        };
    }
    world.fault = fault;
    world.break_rules();
    let mut life = Life::new(seed, world);
    let lived = catch_unwind(AssertUnwindSafe(|| life.live()));
    match lived.unwrap_or(Err(Violation::Panicked)) {
        Ok(report) => Ok(report),
        Err(violation) => Err(fail(violation, life.world.trace())),
    }
}

struct Life {
    seed: u64,
    world: World,
    forgers: Forgers,
    /// The room's, which is on every disk that it was on once.
    genesis: Option<Genesis>,
    /// Whether whoever comes first creates the room, rather than inviting others.
    first_come: bool,
    mend_at: Option<Timestamp>,
    /// Who is down, and when it returns.
    down: Vec<(usize, Timestamp)>,
    crashes: u32,
    partitions: u32,
    rollbacks: u32,
    moves: u32,
}

/// What may happen, each as often as it is listed.
const EVENTS: [fn(&mut Life); 35] = [
    Life::write,
    Life::write,
    Life::write,
    Life::write,
    Life::write,
    Life::write,
    Life::write,
    Life::write,
    Life::go_back,
    Life::go_back,
    Life::unplug,
    Life::unplug,
    Life::silence,
    Life::double,
    Life::double,
    Life::partition,
    Life::partition,
    Life::crash,
    Life::crash,
    Life::rule,
    Life::rule,
    Life::rule,
    Life::attack,
    Life::attack,
    Life::attack,
    Life::chatter,
    Life::talk,
    Life::talk,
    Life::join,
    Life::misinform,
    Life::pour,
    Life::restore_backup,
    Life::propose,
    Life::propose,
    Life::retire,
];

impl Life {
    fn new(seed: u64, mut world: World) -> Self {
        Self {
            seed,
            first_come: world.dice.chance(30),
            world,
            forgers: Forgers::new(),
            genesis: None,
            mend_at: None,
            down: Vec::new(),
            crashes: 0,
            partitions: 0,
            rollbacks: 0,
            moves: 0,
        }
    }

    fn live(&mut self) -> Result<Report, Violation> {
        let full = !is_small(self.seed);
        self.found(full);
        let steps = if full {
            FULL_STEPS
        } else {
            self.world.dice.between(15, 45)
        };
        let mut step = 0;
        while step < steps || (full && step < MAX_STEPS && !self.is_full()) {
            let lacks = step >= steps;
            if lacks && self.crashes == 0 {
                self.crash();
            } else if lacks {
                self.fill();
            } else if let Some(event) = self.world.dice.pick(&EVENTS) {
                event(self);
            }
            if self.world.is_wired() && self.world.dice.chance(MOVE_PERCENT) {
                self.readdress();
            }
            let pause = self.world.dice.millis(1, 300);
            self.pass(pause);
            self.world.verdict()?;
            step += 1;
        }
        self.reunite();
        let converged_in = self.converge()?;
        self.world.check()?;
        Ok(Report {
            seed: self.seed,
            peers: self.world.peers.len(),
            commands: self.world.signed,
            crashes: self.crashes,
            partitions: self.partitions,
            forks: self.world.forks,
            links: self.world.links_up,
            moves: self.moves,
            rollbacks: self.rollbacks,
            checkpoints: self.world.stable.len(),
            converged_in,
            digest: self.world.digest(),
        })
    }

    /// Whether it has all that a full world has; every world ends with a partition.
    fn is_full(&self) -> bool {
        let Self { world, crashes, .. } = self;
        is_full(
            world.signed,
            self.partitions.max(1),
            *crashes,
            world.peers.len(),
        )
    }

    /// The room begins, in quiet.
    fn found(&mut self, full: bool) {
        let world = &mut self.world;
        world.open_room = world.dice.chance(50);
        let kinds = [Equivocation::Never, Equivocation::Once, Equivocation::Often];
        world.equivocation = world.dice.pick(&kinds).unwrap_or_default();
        world.set_conditions(conditions(5, 10, 0));
        let honest = match (full, world.is_wired()) {
            (true, _) => world.dice.between(4, 8),
            (false, false) => world.dice.between(3, 5),
            // Packet by packet, rooms of two are of interest too.
            (false, true) => world.dice.between(2, 5),
        };
        for _ in 0..honest {
            world.add(Kind::Honest);
        }
        if world.equivocation != Equivocation::Never || world.dice.chance(50) {
            world.add(Kind::Hostile);
        }
        if world.dice.chance(30) {
            world.add(Kind::Guest);
        }
        for peer in &mut world.peers {
            let skew = [0, 2, 120][world.dice.index(3).unwrap_or_default()] * 1_000_000;
            let skew = i64::try_from(world.dice.below(2 * skew + 1)).unwrap_or_default()
                - i64::try_from(skew).unwrap_or_default();
            peer.skew_micros = skew;
        }
        // The founder's clock is the room's: it is the truth.
        world.peers[0].skew_micros = 0;
        let params = self.params();
        let world = &mut self.world;
        let founder = if self.first_come {
            GenesisSource::FirstCome(params)
        } else {
            GenesisSource::Create(params)
        };
        world.start(0, founder);
        for number in self.world.numbers(|peer| peer.kind != Kind::Guest) {
            if number > 0 {
                self.start(number);
            }
        }
        self.world.run_for(Duration::from_secs(3));
        let conditions = self.any_conditions();
        self.world.note(format!("begins: {conditions:?}"));
        self.world.set_conditions(conditions);
    }

    fn params(&mut self) -> GenesisParams {
        let world = &mut self.world;
        let room = *blake3::hash(&world.dice.number().to_le_bytes()).as_bytes();
        let wall = world.peers[0].clock(world.now).wall;
        let limits = Limits {
            burst: 300,
            per_second: 100,
        };
        GenesisParams {
            limits,
            guests_allowed: true,
            // Sometimes there is no place for all.
            max_writers: [64, 64, 64, 3, 5][world.dice.index(5).unwrap_or_default()],
            default_role: if world.dice.chance(20) {
                Role::Editor
            } else {
                Role::Viewer
            },
            ..GenesisParams::new(room, wall, world.schema.hash())
        }
    }

    fn any_conditions(&mut self) -> Conditions {
        let dice = &mut self.world.dice;
        Conditions {
            duplicate_per_mille: 20,
            reorder_per_mille: 20,
            rate: dice.chance(20).then(|| Bitrate::from_kbps(2000)),
            ..conditions(
                dice.between(1, 120),
                dice.below(60),
                [0, 5, 30, 100][dice.index(4).unwrap_or_default()],
            )
        }
    }

    /// Starts a peer that has not been here, or comes back.
    fn start(&mut self, number: usize) {
        let source = match (self.genesis(), self.first_come) {
            (Some(genesis), true) if self.world.peers[number].starts > 0 => {
                GenesisSource::Remembered(genesis)
            }
            (_, true) => GenesisSource::FirstCome(self.params()),
            (Some(genesis), false) if self.world.dice.chance(50) => {
                GenesisSource::Invited(genesis.hash())
            }
            (Some(genesis), false) => GenesisSource::Known(genesis),
            (None, false) => return,
        };
        // Who returns has its genesis on disk.
        let source = match (source, self.genesis()) {
            (GenesisSource::Invited(_), Some(genesis)) if self.world.peers[number].starts > 0 => {
                GenesisSource::Known(genesis)
            }
            (source, _) => source,
        };
        self.world.start(number, source);
    }

    fn genesis(&mut self) -> Option<Genesis> {
        if self.genesis.is_none() {
            self.genesis = self.world.genesis();
        }
        self.genesis.clone()
    }

    /// Lets time pass, and those return whose time has come.
    fn pass(&mut self, duration: Duration) {
        self.world.run_for(duration);
        let now = self.world.now;
        if self.mend_at.is_some_and(|at| at <= now) {
            self.mend_at = None;
            self.world.note("the room is whole again".into());
            self.world.mend();
        }
        let back: Vec<_> = self
            .down
            .iter()
            .filter(|(_, at)| *at <= now)
            .map(|(number, _)| *number)
            .collect();
        self.down.retain(|(_, at)| *at > now);
        for number in back {
            self.come_back(number);
        }
    }

    fn come_back(&mut self, number: usize) {
        self.world.note(format!("p{number} is back"));
        self.start(number);
    }

    fn any_honest(&mut self) -> usize {
        let honest = self.world.honest();
        self.world.dice.pick(&honest).unwrap_or_default()
    }

    fn any_author(&mut self) -> usize {
        let authors = self.world.numbers(|peer| peer.kind != Kind::Guest);
        self.world.dice.pick(&authors).unwrap_or_default()
    }

    /// Several peers write at once.
    fn write(&mut self) {
        for _ in 0..self.world.dice.between(1, 3) {
            let writer = self.any_honest();
            let count = self.world.dice.between(1, 6);
            let actions: Vec<_> = (0..count).map(|_| self.any_put()).collect();
            if self.world.submit(writer, actions).is_ok() {
                self.world.note(format!("p{writer} writes {count}"));
            }
        }
    }

    /// One who may writes much.
    fn fill(&mut self) {
        let may_sign = |number: &usize| {
            let session = self.world.session(*number);
            session.is_some_and(|session| session.may_sign())
        };
        let writers: Vec<_> = self.world.honest().into_iter().filter(may_sign).collect();
        if let Some(writer) = self.world.dice.pick(&writers) {
            let actions: Vec<_> = (0..10).map(|_| self.any_put()).collect();
            // What its budget does not allow is not written.
            let _ = self.world.submit(writer, actions);
        }
    }

    /// One peer takes back what it wrote last, or lets it count again, a few steps.
    fn go_back(&mut self) {
        let writer = self.any_honest();
        for _ in 0..self.world.dice.between(1, 4) {
            let forth = self.world.dice.chance(40);
            let log = self.world.session(writer).and_then(|session| session.log());
            let command = log.and_then(|log| {
                let back = || log.undo_command(log.next_undo()?);
                let forth = forth.then(|| log.redo_command(log.next_redo()?));
                forth.flatten().or_else(back)
            });
            let Some(command) = command else {
                return;
            };
            let what = format!("p{writer} writes {command:?}");
            if self.world.submit(writer, vec![command]).is_ok() {
                self.world.note(what);
            }
            self.pass(Duration::from_millis(12));
        }
    }

    /// One peer writes frame after frame.
    fn pour(&mut self) {
        let writer = self.any_honest();
        let frames = self.world.dice.between(10, 30);
        self.world.note(format!("p{writer} pours out {frames}"));
        for _ in 0..frames {
            let action = self.any_put();
            // What its role or its budget does not allow is not written.
            let _ = self.world.submit(writer, vec![action]);
            self.pass(Duration::from_millis(12));
        }
    }

    /// Some peers send each other messages, now and then a long one.
    fn talk(&mut self) {
        let honest = self.world.honest();
        for _ in 0..self.world.dice.between(1, 8) {
            let pair = [(); 2].map(|()| self.world.dice.pick(&honest));
            let [Some(from), Some(to)] = pair else {
                return;
            };
            let long = if self.world.dice.chance(10) {
                100_000
            } else {
                300
            };
            let len = self.world.dice.index(long).unwrap_or_default();
            if from != to && self.world.say(from, to, len) {
                self.world.note(format!("p{from} tells p{to} {len} bytes"));
            }
        }
    }

    /// Signaling says that a peer has left, whether or not that is true.
    fn misinform(&mut self) {
        let (told, about) = (self.any_honest(), self.any_author());
        if told != about {
            self.world
                .note(format!("p{told} hears that p{about} has left"));
            self.world.tell_left(told, about);
        }
    }

    fn any_put(&mut self) -> Action {
        let dice = &mut self.world.dice;
        let key = [b'a' + dice.below(5).to_le_bytes()[0]].to_vec();
        let value = dice.below(1000);
        let text = format!("{value} ").into_bytes();
        let (key_type, value) = match dice.below(4) {
            0 => (CLAIM, text),
            1 => (TRAIL, text),
            2 => (SCORE, value.to_le_bytes().to_vec()),
            _ if dice.chance(5) => (NOTE, vec![b'x'; LARGE]),
            _ => (NOTE, text),
        };
        Action::put(Key::new(key_type, key), value)
    }

    /// An Admin gives or takes a role.
    fn rule(&mut self) {
        let admin = |world: &World, number: &usize| {
            let log = world.session(*number).and_then(|session| session.log());
            log.is_some_and(|log| log.role_of(world.author(*number)) == Role::Admin)
        };
        let admins: Vec<_> = self
            .world
            .honest()
            .into_iter()
            .filter(|number| admin(&self.world, number))
            .collect();
        let (ruler, mut subject) = (self.world.dice.pick(&admins), self.any_author());
        if self.world.equivocation != Equivocation::Never && self.world.dice.chance(40) {
            let hostile = self.world.numbers(|peer| peer.kind == Kind::Hostile);
            subject = hostile.first().copied().unwrap_or(subject);
        }
        let role = self
            .world
            .dice
            .pick(&[Role::Viewer, Role::Editor, Role::Admin, Role::Admin]);
        let (Some(ruler), Some(role)) = (ruler, role) else {
            return;
        };
        let subject_key = self.world.author(subject);
        let restores = self.world.dice.chance(70);
        let log = self.world.session(ruler).and_then(|session| session.log());
        let command = log.map(|log| {
            let restore = log.restore_command(subject_key, role).filter(|_| restores);
            restore.unwrap_or_else(|| log.role_command(subject_key, role))
        });
        if self
            .world
            .submit(ruler, command.into_iter().collect())
            .is_ok()
        {
            self.world
                .note(format!("p{ruler} makes p{subject} {role:?}"));
        }
    }

    fn any_link(&mut self) -> Option<u64> {
        let links: Vec<u64> = self.world.cables.keys().copied().collect();
        self.world.dice.pick(&links)
    }

    fn unplug(&mut self) {
        if let Some(link) = self.any_link() {
            self.world.note(format!("link {link} breaks"));
            self.world.unplug(link);
        }
    }

    fn silence(&mut self) {
        if let Some(link) = self.any_link() {
            self.world.note(format!("link {link} goes silent"));
            self.world.silence(link);
        }
    }

    /// A peer is in another network from one moment to the next.
    fn readdress(&mut self) {
        let running = self.world.running();
        if let Some(number) = self.world.dice.pick(&running) {
            self.moves += 1;
            self.world.note(format!("p{number} has another address"));
            self.world.readdress(number);
        }
    }

    /// A second link between two peers that have one.
    fn double(&mut self) {
        let Some([a, b]) = self
            .any_link()
            .and_then(|link| Some(self.world.cables.get(&link)?.ends))
        else {
            return;
        };
        let members = [a, b].map(|number| self.world.session(number).is_some());
        let cut = self.world.partitioned && self.world.peers[a].side != self.world.peers[b].side;
        let links = self.world.cables.values().filter(|cable| cable.joins(a, b));
        if members == [true; 2] && !cut && links.count() < MAX_LINKS {
            let kind = self.world.any_kind();
            self.world.note(format!("p{a} and p{b} have one more link"));
            self.world.link(a, b, kind);
        }
    }

    fn partition(&mut self) {
        if self.world.partitioned {
            return;
        }
        for number in 0..self.world.peers.len() {
            self.world.peers[number].side = self.world.dice.chance(50);
        }
        let lasts = self.world.dice.millis(500, 9000);
        self.mend_at = Some(self.world.now + lasts);
        self.partitions += 1;
        let sides = self.world.numbers(|peer| peer.side);
        self.world
            .note(format!("{sides:?} are cut off for {lasts:?}"));
        self.world.partition();
    }

    /// A peer dies and will return, or another does in its place, with a key of its own.
    fn crash(&mut self) {
        let honest = self.world.honest();
        if honest.len() < 3 {
            return;
        }
        let number = self.any_honest();
        let silently = self.world.dice.chance(50);
        self.crashes += 1;
        self.world
            .note(format!("p{number} crashes, silently: {silently}"));
        self.world.crash(number, silently);
        if number > 0 && self.world.dice.chance(20) {
            self.world.peers[number].gone = true;
            self.join();
        } else {
            let returns = self.world.now + self.world.dice.millis(50, 6000);
            self.down.push((number, returns));
        }
    }

    /// A peer dies, and comes back with an older backup of its disk. Whoever it meets then may speak
    /// first, but somebody who holds all that it had signed is there, and the network is quick.
    fn restore_backup(&mut self) {
        let honest = self.world.honest();
        let number = self.any_honest();
        let author = self.world.author(number);
        let head = |peer: usize| self.world.session(peer)?.log()?.head(author);
        let own = head(number);
        let known = honest
            .iter()
            .any(|peer| *peer != number && head(*peer) == own);
        if self.world.partitioned || !self.down.is_empty() || !known || own.is_none() {
            return;
        }
        let frames = self.world.peers[number].store.own.len();
        let kept = self.world.dice.index(frames).unwrap_or_default();
        self.rollbacks += 1;
        self.world.note(format!(
            "p{number} is back with {kept} of {frames} own frames"
        ));
        let before = self.world.conditions();
        self.world.set_conditions(conditions(5, 10, 0));
        self.world.run_for(Duration::from_secs(1));
        self.world.crash(number, false);
        self.world.roll_back(number, kept);
        self.world.run_for(Duration::from_millis(300));
        self.start(number);
        self.world.run_for(Duration::from_secs(4));
        self.world.set_conditions(before);
    }

    /// Someone comes late.
    fn join(&mut self) {
        if self.world.running().len() >= 10 {
            return;
        }
        let number = self.world.add(Kind::Honest);
        self.world.note(format!("p{number} joins"));
        self.start(number);
    }

    fn propose(&mut self) {
        self.world.propose();
    }

    fn retire(&mut self) {
        self.world.retire();
    }

    fn attack(&mut self) {
        for number in self.world.numbers(|peer| peer.kind == Kind::Hostile) {
            self.world.attack(number, &mut self.forgers);
        }
    }

    /// Guests say something, on channels that are theirs and on others.
    fn chatter(&mut self) {
        for number in self.world.numbers(|peer| peer.kind == Kind::Guest) {
            let links = self
                .world
                .cables
                .iter()
                .filter(|(_, cable)| cable.ends.contains(&number));
            let links: Vec<u64> = links.map(|(id, _)| *id).collect();
            for link in links.into_iter().map(LinkId) {
                self.world
                    .transmit(number, link, Frame::text(Channel::App, "hello"));
                for channel in [Channel::Command, Channel::Control, Channel::Snapshot] {
                    let frame = Frame::binary(channel, vec![1; 300]);
                    self.world.transmit(number, link, frame);
                }
            }
        }
    }

    /// Everyone is back, and the room is cut in two for the last time.
    fn reunite(&mut self) {
        for (number, _) in std::mem::take(&mut self.down) {
            self.come_back(number);
        }
        let longest = if self.world.dice.chance(10) {
            29_000
        } else {
            8000
        };
        let last = self.world.dice.millis(500, longest);
        self.mend_at = None;
        self.world.mend();
        self.partition();
        self.mend_at = None;
        self.world.run_for(Duration::from_secs(1));
        self.write();
        self.rule();
        self.world.run_for(last);
        self.world.note("all are linked from here on".into());
        let calm = conditions(self.world.dice.between(5, 80), 20, 5);
        self.world.set_conditions(calm);
        self.world.mend();
        self.world.dial();
    }

    /// Waits until everyone has what anyone had, and then until nothing changes any more.
    fn converge(&mut self) -> Result<Duration, Violation> {
        let (start, frontier) = (self.world.now, self.world.frontier());
        self.wait(start, |world| world.holds_everywhere(&frontier))?;
        let converged_in = self.world.now.saturating_since(start);
        // Whatever was still to be written has been when nothing changes for longer than peers take
        // to compare what they hold.
        loop {
            self.wait(start, |world| world.at_rest().is_some())?;
            let before = self.world.at_rest();
            self.world.run_for(Duration::from_secs(5));
            if self.world.at_rest() == before {
                return Ok(converged_in);
            }
            self.world.verdict()?;
        }
    }

    fn wait(&mut self, start: Timestamp, done: impl Fn(&World) -> bool) -> Result<(), Violation> {
        while !done(&self.world) {
            if self.world.now > start + PATIENCE {
                return Err(Violation::NoConvergence(PATIENCE.as_secs()));
            }
            self.world.run_for(GLANCE);
            self.world.verdict()?;
        }
        Ok(())
    }
}

fn conditions(delay_ms: u64, jitter_ms: u64, loss_per_mille: u16) -> Conditions {
    Conditions {
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::from_millis(jitter_ms),
        loss_per_mille,
        ..Conditions::default()
    }
}
