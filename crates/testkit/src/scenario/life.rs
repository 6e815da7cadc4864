//! The course of a life: how it begins, what may happen in it, and how it comes to rest.

use std::time::Duration;

use roundtable_command_log::{Genesis, GenesisParams, Limits, Role};
use roundtable_core::{Bitrate, Timestamp};
use roundtable_netem::Conditions;
use roundtable_session::GenesisSource;

use super::{Report, is_full, is_small};
use crate::{
    Kind, Violation, World,
    hostile::{Equivocation, Forgers},
};

/// How long a world may take to come to rest once everyone is linked.
const PATIENCE: Duration = Duration::from_secs(60);
/// Steps after which a full world is made to have what it lacks.
const FULL_STEPS: u64 = 50;
/// Most steps of any world.
const MAX_STEPS: u64 = 150;
/// How likely an address changes in each step of a world of real links.
const MOVE_PERCENT: u64 = 6;
/// How precisely convergence is measured.
const GLANCE: Duration = Duration::from_millis(10);

/// A world, and what its seed still has in store for it.
pub(super) struct Life {
    seed: u64,
    pub(super) world: World,
    pub(super) forgers: Forgers,
    /// The room's, which is on every disk that it was on once.
    genesis: Option<Genesis>,
    /// Whether whoever comes first creates the room, rather than inviting others.
    first_come: bool,
    pub(super) mend_at: Option<Timestamp>,
    /// Who is down, and when it returns.
    pub(super) down: Vec<(usize, Timestamp)>,
    pub(super) crashes: u32,
    pub(super) partitions: u32,
    pub(super) rollbacks: u32,
    pub(super) moves: u32,
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
    pub(super) fn new(seed: u64, mut world: World) -> Self {
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

    pub(super) fn live(&mut self) -> Result<Report, Violation> {
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
            excused: self.world.excused,
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
    pub(super) fn start(&mut self, number: usize) {
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
    pub(super) fn pass(&mut self, duration: Duration) {
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

    pub(super) fn any_honest(&mut self) -> usize {
        let honest = self.world.honest();
        self.world.dice.pick(&honest).unwrap_or_default()
    }

    pub(super) fn any_author(&mut self) -> usize {
        let authors = self.world.numbers(|peer| peer.kind != Kind::Guest);
        self.world.dice.pick(&authors).unwrap_or_default()
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

pub(super) fn conditions(delay_ms: u64, jitter_ms: u64, loss_per_mille: u16) -> Conditions {
    Conditions {
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::from_millis(jitter_ms),
        loss_per_mille,
        ..Conditions::default()
    }
}
