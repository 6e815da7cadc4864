//! Body of the fuzz target `session_ops`: three sessions, an Admin and two whom it made Editors, do whatever a list of
//! operations says, over links that deliver, break and come double. In the end they are linked and left alone, and must
//! hold the same, and have got each other's messages.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::OnceLock,
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_command_log::{
    Action, CommandLog, Genesis, GenesisParams, Key, Limits, MergeRule, Role, Schema, Strategy,
};
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, Frame, Payload, PeerId, RoomId, Timestamp, TransportKind,
};

use super::at;
use crate::{
    Event, GenesisSource, Input, LinkId, LinkInfo, Output, Recipient, Session, SessionConfig, Side,
};

const PEERS: usize = 3;
/// So that each run is short.
const MAX_OPS: usize = 300;
/// Links at a time.
const MAX_WIRES: usize = 8;
/// How long everyone may take to come to hold everything, once all are linked.
const PATIENCE: Duration = Duration::from_secs(60);
/// Strategies by key type.
const STRATEGIES: [Strategy; 3] = [
    Strategy::LastWriteWins,
    Strategy::Reject,
    Strategy::Merge(MergeRule::Append { max_len: 64 }),
];

/// A peer, by number; 0 has begun the room.
#[derive(Debug, Clone, Copy)]
struct Who(usize);

impl<'a> Arbitrary<'a> for Who {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(u.int_in_range(0..=PEERS - 1)?))
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    /// Writes to a key of a type.
    Put(Who, u8, u8, u8),
    Undo(Who),
    Redo(Who),
    /// Gives somebody a role, as far as one may.
    Rule(Who, Who, u8),
    /// Sends somebody a message of so many bytes and a few.
    Say(Who, Who, u16),
    /// One more link between two.
    Link(Who, Who),
    /// A link breaks; what was under way is lost. The ends that are told close it.
    Break(u8, [bool; 2]),
    /// So many frames arrive at an end of a link.
    Deliver(u8, bool, u8),
    /// So many hundredths of a second pass.
    Wait(u8),
    /// A peer stops without notice, and returns with all own frames and some of the others'.
    Crash(Who, u8),
    /// A peer sends bytes that make no sense on a channel.
    Garble(u8, bool, u8, [u8; 6]),
}

struct Peer {
    session: Session,
    /// Its own frames, which are on its disk.
    own: Vec<Bytes>,
    /// The last nonce of each author that was applied.
    applied: BTreeMap<AuthorId, u64>,
    starts: u8,
}

struct Wire {
    ends: [usize; 2],
    up: [bool; 2],
    /// What is under way to each end; `None` is the news that the other has closed.
    queues: [VecDeque<Option<Frame>>; 2],
}

/// What became of the messages of one peer, in one of its lives, to another.
#[derive(Default)]
struct Said {
    sent: u64,
    received: u64,
    last: u64,
    /// How many the sender was told may be missing.
    undelivered: u64,
}

struct World {
    now: Timestamp,
    /// By sender, its life, and receiver.
    talk: BTreeMap<(usize, u8, usize), Said>,
    peers: Vec<Peer>,
    wires: BTreeMap<u64, Wire>,
    wires_made: u64,
}

/// Plays a list of operations. Whatever they are, nobody panics or spins, everyone applies each author's commands once
/// and in order, and in the end all agree.
#[allow(unreachable_pub)] // reached with the feature
pub fn __fuzz_session_ops(data: &[u8]) {
    // Signing and verifying is no part of what is looked for, and would be most of the time.
    #[cfg(feature = "__fuzz")]
    roundtable_command_log::__remember_verdicts(true);
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    for _ in 0..MAX_OPS {
        if input.is_empty() {
            break;
        }
        let Ok(op) = Op::arbitrary(&mut input) else {
            break;
        };
        world.perform(op);
    }
    world.settle();
}

/// What is the same in every world: to make it takes longer than many a world lasts.
struct Constants {
    keys: [SigningKey; PEERS],
    schema: Schema,
    genesis: Genesis,
}

fn constants() -> &'static Constants {
    static CONSTANTS: OnceLock<Constants> = OnceLock::new();
    CONSTANTS.get_or_init(Constants::new)
}

impl Constants {
    #[allow(clippy::expect_used)] // all of it is constant
    fn new() -> Self {
        let keys = [1, 2, 3].map(|byte| SigningKey::from_bytes(&[byte; 32]));
        let types = STRATEGIES.into_iter().zip(1..);
        let schema = types.fold(Schema::builder(1, 0), |schema, (strategy, id)| {
            schema.key_type(id, &format!("type {id}"), strategy)
        });
        let schema = schema.build().expect("three types");
        let params = GenesisParams {
            limits: Limits {
                burst: 10_000,
                per_second: 10_000,
            },
            ..GenesisParams::new([7; 32], at(Timestamp::ZERO).wall, schema.hash())
        };
        let genesis = Genesis::create(params, &keys[0]).expect("rules in range");
        Self {
            keys,
            schema,
            genesis,
        }
    }
}

fn author(number: usize) -> AuthorId {
    AuthorId::from_bytes(constants().keys[number].verifying_key().to_bytes())
}

#[allow(clippy::expect_used)] // a digit is a valid name
fn name(number: usize) -> PeerId {
    PeerId::new(&format!("p{number}")).expect("a valid name")
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Timestamp::ZERO,
            talk: BTreeMap::new(),
            peers: Vec::new(),
            wires: BTreeMap::new(),
            wires_made: 0,
        };
        for number in 0..PEERS {
            let session = world.session(number, 0);
            world.peers.push(Peer {
                session,
                own: Vec::new(),
                applied: BTreeMap::new(),
                starts: 1,
            });
        }
        world.input(0, Input::AloneInRoom);
        world.link_all();
        world.pass(Duration::from_millis(500));
        world
    }

    #[allow(clippy::expect_used)] // the defaults work
    fn session(&self, number: usize, starts: u8) -> Session {
        let byte = u8::try_from(number).unwrap_or_default();
        let mut seed = [byte; 32];
        seed[0] = starts;
        let config = SessionConfig::new(
            name(number),
            RoomId::new("fuzz").expect("a valid name"),
            constants().keys[number].clone(),
            constants().schema.clone(),
            GenesisSource::Known(constants().genesis.clone()),
            seed,
        );
        Session::new(config, at(self.now)).expect("the defaults work")
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Put(Who(who), key_type, key, value) => {
                let key_type = 1 + u16::from(key_type) % 3;
                let put = Action::put(Key::new(key_type, vec![key % 4]), vec![value]);
                self.submit(who, Some(put));
            }
            Op::Undo(Who(who)) => {
                let command = self
                    .log(who)
                    .undo_command(self.log(who).next_undo().unwrap_or(0));
                self.submit(who, command);
            }
            Op::Redo(Who(who)) => {
                let command = self
                    .log(who)
                    .redo_command(self.log(who).next_redo().unwrap_or(0));
                self.submit(who, command);
            }
            Op::Rule(Who(who), Who(target), role) => {
                let role = Role::from_number(role % 3).unwrap_or_default();
                let command = self.log(who).role_command(author(target), role);
                self.submit(who, Some(command));
            }
            Op::Say(Who(from), Who(to), len) => self.say(from, to, len.into()),
            Op::Link(Who(a), Who(b)) if a != b && self.wires.len() < MAX_WIRES => self.link(a, b),
            Op::Link(..) => {}
            Op::Break(wire, told) => self.cut(wire, told),
            Op::Deliver(wire, end, count) => {
                let id = self.pick(wire);
                for _ in 0..count {
                    id.into_iter().for_each(|id| self.arrive(id, end.into()));
                }
            }
            Op::Wait(hundredths) => {
                self.now = self.now + Duration::from_millis(10 * u64::from(hundredths));
                self.timers();
            }
            Op::Crash(Who(who), kept) => self.crash(who, kept.into()),
            Op::Garble(wire, end, channel, bytes) => {
                let channel = Channel::from_number(channel % 8).unwrap_or(Channel::Control);
                let frame = Frame::binary(channel, bytes.to_vec());
                let wire = self.pick(wire).and_then(|id| self.wires.get_mut(&id));
                wire.into_iter()
                    .for_each(|wire| wire.queues[usize::from(end)].push_back(Some(frame.clone())));
            }
        }
    }

    #[allow(clippy::expect_used)] // every session was given the genesis
    fn log(&self, number: usize) -> &CommandLog {
        let log = self.peers[number].session.log();
        log.expect("a session that knows its genesis has a log")
    }

    fn say(&mut self, from: usize, to: usize, len: usize) {
        let line = (from, self.peers[from].starts, to);
        let said = self.talk.entry(line).or_default();
        said.sent += 1;
        let mut message = said.sent.to_le_bytes().to_vec();
        message.push(line.1);
        message.resize(9 + len, 0);
        let frame = Frame::binary(Channel::App, message);
        let to = Recipient::Peer(name(to));
        let send = Input::Send { to, frame };
        let session = &mut self.peers[from].session;
        if session.handle_input(at(self.now), send).is_err() {
            said.sent -= 1;
        }
        self.carry_out(from);
    }

    /// The application has got a message, and reads it. A peer that sends what makes no sense on a wire is not meant.
    fn heard(&mut self, reader: usize, peer: &PeerId, message: &Bytes) {
        let from = (0..PEERS).find(|from| name(*from) == *peer);
        if let (Some(from), Some((number, [life, ..]))) = (from, message.split_first_chunk())
            && let Some(said) = self.talk.get_mut(&(from, *life, reader))
        {
            let number = u64::from_le_bytes(*number);
            assert!(number > said.last, "a message comes once, and in order");
            (said.last, said.received) = (number, said.received + 1);
        }
        let (peer, len) = (peer.clone(), message.len());
        self.input_later(reader, Input::Read { peer, len });
    }

    /// An input from within [`carry_out`](Self::carry_out), which goes on with what comes of it.
    fn input_later(&mut self, number: usize, input: Input) {
        let taken = self.peers[number].session.handle_input(at(self.now), input);
        assert_eq!(taken, Ok(()));
    }

    /// Every message has arrived, or its sender was told that it may not.
    fn check_messages(&self) {
        for ((from, life, _), said) in &self.talk {
            let lives = self.peers[*from].starts == *life;
            let accounted = said.received + said.undelivered;
            assert!(!lives || accounted >= said.sent, "a message is missing");
        }
    }

    /// What may not be written now is not.
    fn submit(&mut self, number: usize, action: Option<Action>) {
        let now = at(self.now);
        let actions = action.into_iter().collect::<Vec<_>>();
        if !actions.is_empty() {
            let session = &mut self.peers[number].session;
            let _ = session.handle_input(now, Input::Submit { actions });
            self.carry_out(number);
        }
    }

    fn input(&mut self, number: usize, input: Input) {
        let now = at(self.now);
        let taken = self.peers[number].session.handle_input(now, input);
        assert_eq!(taken, Ok(()));
        self.carry_out(number);
    }

    fn link(&mut self, a: usize, b: usize) {
        self.wires_made += 1;
        let id = self.wires_made;
        let wire = Wire {
            ends: [a, b],
            up: [true; 2],
            queues: Default::default(),
        };
        self.wires.insert(id, wire);
        for (me, other, side) in [(a, b, Side::Initiator), (b, a, Side::Responder)] {
            let mut binding = [0; 32];
            binding[..8].copy_from_slice(&id.to_le_bytes());
            let info = LinkInfo {
                peer: name(other),
                side,
                kind: [TransportKind::Quic, TransportKind::WebRtc]
                    [usize::from(id.is_multiple_of(2))],
                binding: ChannelBinding::from_bytes(binding),
                proven_author: None,
                promises_session: true,
            };
            let link = LinkId(id);
            self.input(me, Input::LinkUp { link, info });
        }
    }

    fn link_all(&mut self) {
        for a in 0..PEERS {
            (a + 1..PEERS).for_each(|b| self.link(a, b));
        }
    }

    fn pick(&self, number: u8) -> Option<u64> {
        let count = self.wires.len();
        self.wires
            .keys()
            .nth(usize::from(number) % count.max(1))
            .copied()
    }

    fn cut(&mut self, number: u8, told: [bool; 2]) {
        let Some(id) = self.pick(number) else {
            return;
        };
        let Some(wire) = self.wires.remove(&id) else {
            return;
        };
        for (end, told) in told.into_iter().enumerate() {
            if wire.up[end] && told {
                self.input(wire.ends[end], Input::LinkDown { link: LinkId(id) });
            } else if wire.up[end] {
                // This end sends into the void until its heartbeats tell.
                let void = self.wires.entry(id).or_insert(Wire {
                    ends: wire.ends,
                    up: [false; 2],
                    queues: Default::default(),
                });
                void.up[end] = true;
            }
        }
    }

    /// The next thing arrives at an end of a link.
    fn arrive(&mut self, id: u64, end: usize) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        let (number, link) = (wire.ends[end], LinkId(id));
        match wire.queues[end].pop_front() {
            Some(parcel) if wire.up[end] => match parcel {
                Some(frame) => self.input(number, Input::Received { link, frame }),
                None => {
                    wire.up[end] = false;
                    self.input(number, Input::LinkDown { link });
                }
            },
            _ => {}
        }
    }

    fn crash(&mut self, number: usize, kept: usize) {
        let frames = self.log(number).frames();
        let foreign = frames.filter(|frame| frame.author() != author(number));
        let foreign: Vec<Bytes> = foreign
            .map(|frame| frame.bytes().clone())
            .take(kept)
            .collect();
        for wire in self.wires.values_mut() {
            if let Some(end) = wire.ends.iter().position(|end| *end == number) {
                wire.up[end] = false;
                wire.queues[end].clear();
                // The system closes what a dead process had open.
                wire.queues[1 - end].push_back(None);
            }
        }
        let starts = self.peers[number].starts.wrapping_add(1);
        let session = self.session(number, starts);
        let now = at(self.now);
        let peer = &mut self.peers[number];
        (peer.session, peer.starts) = (session, starts);
        peer.applied.clear();
        let stored = peer.own.iter().cloned().chain(foreign);
        peer.session.restore(now, stored);
        self.carry_out(number);
    }

    /// Does what a session wants done.
    fn carry_out(&mut self, number: usize) {
        while let Some(output) = self.peers[number].session.poll_output() {
            match output {
                Output::Transmit { link, frame } => self.transmit(number, link, Some(frame)),
                Output::Close { link, .. } => {
                    self.transmit(number, link, None);
                    if let Some(wire) = self.wires.get_mut(&link.0) {
                        let end = usize::from(wire.ends[1] == number);
                        wire.up[end] = false;
                    }
                }
                Output::Event(event) => self.on_event(number, event),
            }
        }
    }

    fn transmit(&mut self, number: usize, link: LinkId, parcel: Option<Frame>) {
        if let Some(wire) = self.wires.get_mut(&link.0) {
            let other = usize::from(wire.ends[0] == number);
            if wire.up[other] {
                wire.queues[other].push_back(parcel);
            }
        }
    }

    fn on_event(&mut self, number: usize, event: Event) {
        let peer = &mut self.peers[number];
        match event {
            Event::Message {
                peer,
                channel: Channel::App,
                payload: Payload::Binary(message),
            } => self.heard(number, &peer, &message),
            Event::Undelivered { peer: to, count } => {
                let to = (0..PEERS).find(|number| name(*number) == to);
                let line = to.map(|to| (number, peer.starts, to));
                let said = line.and_then(|line| self.talk.get_mut(&line));
                said.into_iter()
                    .for_each(|said| said.undelivered += count as u64);
            }
            Event::OwnFrame(frame) => peer.own.push(frame.bytes().clone()),
            Event::Applied(applied) => {
                let last = peer.applied.entry(applied.author).or_default();
                assert_eq!(applied.nonce, *last + 1, "applied once, and in order");
                *last = applied.nonce;
            }
            _ => {}
        }
    }

    fn timers(&mut self) {
        for number in 0..PEERS {
            for _ in 0..1000 {
                let due = self.peers[number].session.next_timeout();
                if due.is_none_or(|due| due > self.now) {
                    break;
                }
                self.peers[number].session.handle_timeout(at(self.now));
                self.carry_out(number);
            }
            let due = self.peers[number].session.next_timeout();
            assert!(due.is_none_or(|due| due > self.now), "a session spins");
        }
    }

    /// Everything arrives, until nothing is under way.
    fn deliver_all(&mut self) {
        loop {
            self.wires.retain(|_, wire| wire.up.contains(&true));
            let busy = |wire: &Wire, end: usize| wire.up[end] && !wire.queues[end].is_empty();
            let next = self.wires.iter().find_map(|(id, wire)| {
                let end = (0..2).find(|end| busy(wire, *end))?;
                Some((*id, end))
            });
            match next {
                Some((id, end)) => self.arrive(id, end),
                None => return,
            }
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.deliver_all();
            let due = |peer: &Peer| peer.session.next_timeout();
            let next = self.peers.iter().filter_map(due).chain([end]).min();
            self.now = next.unwrap_or(end).clamp(self.now, end);
            self.timers();
        }
        self.deliver_all();
    }

    /// All are linked anew and left alone: then they hold the same.
    fn settle(&mut self) {
        let wires = std::mem::take(&mut self.wires);
        for (id, wire) in wires {
            for end in (0..2).filter(|end| wire.up[*end]) {
                self.input(wire.ends[end], Input::LinkDown { link: LinkId(id) });
            }
        }
        self.link_all();
        let deadline = self.now + PATIENCE;
        while !self.agrees() {
            assert!(self.now < deadline, "no agreement");
            self.pass(Duration::from_millis(200));
        }
        self.pass(Duration::from_secs(5));
        self.check_messages();
    }

    fn agrees(&self) -> bool {
        let all = |number| {
            let log = self.log(number);
            (
                log.heads(),
                log.state_hash(),
                log.roles().collect::<Vec<_>>(),
            )
        };
        (1..PEERS).all(|number| all(number) == all(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happens_to_three_peers_they_agree_in_the_end(data in vec(any::<u8>(), 0..1500)) {
            __fuzz_session_ops(&data);
        }
    }
}
