//! A few sessions, the cables between them, and a clock that jumps to the next thing to happen.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use bytes::{Buf, Bytes};
use ed25519_dalek::{Signer, SigningKey};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use roundtable_command_log::{
    Action, CommandLog, FrameId, FrameReader, Genesis, GenesisParams, Key, Limits, MergeRule,
    Schema, StateHash, Strategy, UnverifiedFrame,
};
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, CloseCode, Delivery, Frame, MetricsVisitor, Observe,
    Payload, PeerId, RoomId, Timestamp, TransportKind, WallTime,
};
use roundtable_session::{
    Event, GenesisSource, Input, InputError, LinkId, LinkInfo, Now, Output, Session, SessionConfig,
    Side, Taken, carries_commands,
};
use roundtable_wire::{
    commands::{ActionRef, Encoder},
    session::Control,
};

/// Key types of the tests' schema.
pub(crate) const NOTE: u16 = 1;
pub(crate) const TRAIL: u16 = 2;

pub(crate) fn schema() -> Schema {
    Schema::builder(1, 0)
        .key_type(NOTE, "note", Strategy::LastWriteWins)
        .key_type(
            TRAIL,
            "trail",
            Strategy::Merge(MergeRule::Append { max_len: 1 << 20 }),
        )
        .build()
        .unwrap()
}

pub(crate) fn key(name: &str) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(name.as_bytes()).as_bytes())
}

pub(crate) fn author(name: &str) -> AuthorId {
    AuthorId::from_bytes(key(name).verifying_key().to_bytes())
}

pub(crate) fn peer(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

pub(crate) fn at(mono: Timestamp) -> Now {
    Now {
        mono,
        wall: WallTime::from_micros(1_700_000_000_000_000 + mono.as_micros()),
    }
}

/// A room that is quick to write in and takes guests.
pub(crate) fn params(room: u8) -> GenesisParams {
    let wall = at(Timestamp::ZERO).wall;
    GenesisParams {
        limits: Limits {
            burst: 2000,
            per_second: 1000,
        },
        guests_allowed: true,
        ..GenesisParams::new([room; 32], wall, schema().hash())
    }
}

/// A session's settings with a seed of its own.
pub(crate) fn config(name: &str, genesis: GenesisSource) -> SessionConfig {
    config_of_run(name, genesis, "seed")
}

/// The same, with another seed for each run of a peer.
pub(crate) fn config_of_run(name: &str, genesis: GenesisSource, run: &str) -> SessionConfig {
    let room = RoomId::new("demo").unwrap();
    let seed = *blake3::hash(&[run.as_bytes(), name.as_bytes()].concat()).as_bytes();
    SessionConfig::new(peer(name), room, key(name), schema(), genesis, seed)
}

/// A command that appends the text to the one trail that all share.
pub(crate) fn trail(text: &str) -> Action {
    Action::put(Key::new(TRAIL, "all"), text.to_owned())
}

/// A command that sets a note.
pub(crate) fn note(name: &str, text: &str) -> Action {
    Action::put(Key::new(NOTE, name.to_owned()), text.to_owned())
}

/// A session and all that it has said.
pub(crate) struct Node {
    pub(crate) session: Session,
    pub(crate) events: Vec<Event>,
    /// Closes asked for by this session, by link.
    pub(crate) closed: Vec<(LinkId, CloseCode)>,
    /// Frames and bytes handed to links, by channel.
    pub(crate) sent: HashMap<Channel, (usize, usize)>,
    /// Frames other than Control's, by link.
    pub(crate) sent_on: HashMap<LinkId, usize>,
    /// Whether messages on App are read as soon as they come.
    pub(crate) reads: bool,
    /// Command frames that a shell would have made durable by now.
    durable: HashSet<FrameId>,
    /// What is needed to read the frames of a link, by whether they go out.
    taps: HashMap<(LinkId, bool), FrameReader>,
}

impl Node {
    /// Which command frame a frame on a link carries, in whatever form; `None` for anything else.
    fn command(&mut self, link: LinkId, outgoing: bool, frame: &Frame) -> Option<FrameId> {
        let (Channel::Command, Payload::Binary(bytes)) = (frame.channel, &frame.payload) else {
            return None;
        };
        let genesis = self.session.genesis()?.hash();
        let tap = self.taps.entry((link, outgoing)).or_default();
        Some(tap.read(bytes.clone(), &genesis).ok()?.id())
    }

    /// The command frames that a datagram of the session's repeats.
    fn repeated(&self, frame: &Frame) -> Vec<FrameId> {
        let (Some(genesis), Payload::Binary(bytes)) = (self.session.genesis(), &frame.payload)
        else {
            return Vec::new();
        };
        let mut rest = match carries_commands(frame) && frame.channel != Channel::Command {
            true => bytes.slice(5..),
            false => Bytes::new(),
        };
        let mut ids = Vec::new();
        while rest.len() > 2 {
            let len = usize::from(rest.get_u16_le());
            let frame = rest.split_to(len.min(rest.len()));
            let frame = UnverifiedFrame::decode(frame, &genesis.hash());
            ids.extend(frame.ok().map(|frame| frame.id()));
        }
        ids
    }

    /// Nonces of commands by this author, in the order in which they were applied here.
    pub(crate) fn applied_of(&self, name: &str) -> Vec<u64> {
        let author = author(name);
        let of_author = self.events.iter().filter_map(|event| match event {
            Event::Applied(applied) if applied.author == author => Some(applied.nonce),
            _ => None,
        });
        of_author.collect()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let texts = self.events.iter().filter_map(|event| match event {
            Event::Message {
                payload: Payload::Text(text),
                ..
            } => Some(text.clone()),
            _ => None,
        });
        texts.collect()
    }

    pub(crate) fn trail(&self) -> String {
        let log = self.session.log().unwrap();
        let value = log.get(&Key::new(TRAIL, "all")).unwrap_or_default();
        String::from_utf8(value.to_vec()).unwrap()
    }
}

/// How long a transport takes to send again what was lost: two round trips and the peer's acknowledgement delay.
const RETRANSMISSION: Duration = Duration::from_millis(150);

struct Cable {
    ends: [String; 2],
    up: [bool; 2],
    /// Both ends believe in it, but nothing gets through.
    silent: bool,
    /// When the last message of a reliable channel arrives, by receiving end and channel.
    ordered: HashMap<(usize, Channel), Timestamp>,
    /// Bytes a second, if it is slow: then what waits to be sent waits in the order of the channels' priorities, as real links have it.
    rate: Option<u64>,
    /// What waits, by receiving end: a message goes after those of higher priority and before those of lower.
    queues: [BTreeMap<(u8, u64), Frame>; 2],
    busy: [bool; 2],
}

enum Arrival {
    Frame(Frame),
    Closed,
    /// The line towards this end is free for the next message.
    Free,
}

/// How two peers are linked. The defaults are those of two honest peers.
#[derive(Clone)]
pub(crate) struct Plug {
    pub(crate) kind: TransportKind,
    /// What each end takes for the link's binding.
    pub(crate) bindings: [[u8; 32]; 2],
    /// Whether each end believes that the other promises the session protocol.
    pub(crate) promises: [bool; 2],
}

impl Plug {
    pub(crate) fn new(kind: TransportKind) -> Self {
        Self {
            kind,
            bindings: [[7; 32]; 2],
            promises: [true; 2],
        }
    }
}

/// All peers of a test.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    nodes: BTreeMap<String, Node>,
    cables: BTreeMap<u64, Cable>,
    in_flight: BTreeMap<(Timestamp, u64), (u64, usize, Arrival)>,
    counter: u64,
    rng: ChaCha20Rng,
    datagrams: ChaCha20Rng,
    /// How many in a thousand messages are lost: for ever in datagrams, and until the transport sends them again, 150 ms later, on
    /// reliable channels.
    pub(crate) loss_per_mille: u64,
    /// Who sends other bytes than its session's as a snapshot, and on which link.
    forged: Option<(String, LinkId, Vec<u8>)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Timestamp::from_millis(1000),
            nodes: BTreeMap::new(),
            cables: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            counter: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            datagrams: ChaCha20Rng::seed_from_u64(!seed),
            loss_per_mille: 0,
            forged: None,
        }
    }

    /// A room of these peers, not linked yet; the first has founded it.
    pub(crate) fn founded_by(seed: u64, names: &[&str]) -> Self {
        let mut world = Self::new(seed);
        world.add(config(names[0], GenesisSource::Create(params(1))), names[0]);
        let genesis = world.node(names[0]).session.genesis().unwrap().clone();
        for name in &names[1..] {
            world.add(config(name, GenesisSource::Known(genesis.clone())), name);
        }
        world
    }

    pub(crate) fn add(&mut self, config: SessionConfig, name: &str) {
        let session = Session::new(config, at(self.now)).unwrap();
        let node = Node {
            session,
            events: Vec::new(),
            closed: Vec::new(),
            sent: HashMap::new(),
            sent_on: HashMap::new(),
            reads: true,
            durable: HashSet::new(),
            taps: HashMap::new(),
        };
        self.nodes.insert(name.to_owned(), node);
        self.drain(name);
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    pub(crate) fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    /// Has a peer send a message to everyone; says who gets it.
    pub(crate) fn broadcast(&mut self, name: &str, payload: Payload) -> Result<Taken, InputError> {
        let sent = self.nodes.get_mut(name).unwrap().session.broadcast(payload);
        self.drain(name);
        sent
    }

    pub(crate) fn input(&mut self, name: &str, input: Input) -> Result<(), InputError> {
        let now = at(self.now);
        let node = self.nodes.get_mut(name).unwrap();
        if let Input::Received { link, frame } = &input {
            let received = node.command(*link, false, frame);
            node.durable.extend(received);
            let repeated = node.repeated(frame);
            node.durable.extend(repeated);
        }
        let result = node.session.handle_input(now, input);
        self.drain(name);
        result
    }

    /// Hands a session what an earlier one has stored.
    pub(crate) fn restore(&mut self, name: &str, frames: Vec<Bytes>) {
        let now = at(self.now);
        let node = self.nodes.get_mut(name).unwrap();
        let count = frames.len();
        assert_eq!(node.session.restore(now, frames), count);
        let restored = node.session.log().into_iter().flat_map(CommandLog::kept);
        node.durable.extend(restored.map(|frame| frame.id()));
        self.drain(name);
    }

    pub(crate) fn submit(&mut self, name: &str, actions: Vec<Action>) {
        self.input(name, Input::Submit { actions }).unwrap();
    }

    /// Links two peers, the first being the one that offers.
    pub(crate) fn link(&mut self, a: &str, b: &str, kind: TransportKind) -> LinkId {
        self.plug(a, b, &Plug::new(kind))
    }

    pub(crate) fn plug(&mut self, a: &str, b: &str, plug: &Plug) -> LinkId {
        self.counter += 1;
        let id = LinkId(self.counter);
        let ends = [a.to_owned(), b.to_owned()];
        let cable = Cable {
            ends: ends.clone(),
            up: [true; 2],
            silent: false,
            ordered: HashMap::new(),
            rate: None,
            queues: Default::default(),
            busy: [false; 2],
        };
        self.cables.insert(id.0, cable);
        for end in 0..2 {
            let info = LinkInfo {
                peer: peer(&ends[1 - end]),
                side: [Side::Initiator, Side::Responder][end],
                kind: plug.kind,
                binding: ChannelBinding::from_bytes(plug.bindings[end]),
                proven_author: None,
                promises_session: plug.promises[end],
            };
            self.input(&ends[end], Input::LinkUp { link: id, info })
                .unwrap();
        }
        id
    }

    /// Links every two of these peers over QUIC.
    pub(crate) fn mesh(&mut self, names: &[&str]) {
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                self.link(a, b, TransportKind::Quic);
            }
        }
    }

    /// The link breaks, with all that is under way on it, and both ends notice at once.
    pub(crate) fn unplug(&mut self, id: LinkId) {
        self.in_flight.retain(|_, (cable, ..)| *cable != id.0);
        let Some(cable) = self.cables.remove(&id.0) else {
            return;
        };
        for (end, up) in cable.ends.iter().zip(cable.up) {
            if up {
                self.input(end, Input::LinkDown { link: id }).unwrap();
            }
        }
    }

    /// The link goes silent, with all that is under way on it, and neither end notices.
    pub(crate) fn silence(&mut self, id: LinkId) {
        self.in_flight.retain(|_, (cable, ..)| *cable != id.0);
        self.cables.get_mut(&id.0).unwrap().silent = true;
    }

    /// All links between a peer and others.
    pub(crate) fn links_of(&self, name: &str) -> Vec<LinkId> {
        let of_peer = self
            .cables
            .iter()
            .filter(|(_, c)| c.ends.iter().any(|e| e == name));
        of_peer.map(|(id, _)| LinkId(*id)).collect()
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next_moment().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// Runs for seconds.
    pub(crate) fn secs(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Runs for milliseconds.
    pub(crate) fn millis(&mut self, millis: u64) {
        self.run(Duration::from_millis(millis));
    }

    /// The state hash of all peers, which must be one and the same.
    pub(crate) fn common_hash(&self) -> StateHash {
        let hash = |node: &Node| node.session.state_hash().unwrap();
        let hashes: Vec<_> = self.nodes.iter().map(|(name, n)| (name, hash(n))).collect();
        assert!(
            hashes.iter().all(|(_, hash)| *hash == hashes[0].1),
            "states differ: {hashes:?}"
        );
        hashes[0].1
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    /// Has a peer send a control message that its session did not.
    pub(crate) fn inject(&mut self, from: &str, link: LinkId, message: &Control) {
        let frame = Frame::binary(Channel::Control, message.encode());
        self.send(from, link, Some(frame));
    }

    /// Has a peer send a frame that its session did not.
    pub(crate) fn inject_frame(&mut self, from: &str, link: LinkId, frame: Frame) {
        self.send(from, link, Some(frame));
    }

    /// Has a peer answer the next request for a snapshot on this link with these bytes, before its own
    /// session can.
    pub(crate) fn forge_snapshot(&mut self, from: &str, link: LinkId, bytes: &[u8]) {
        self.forged = Some((from.to_owned(), link, bytes.to_vec()));
    }

    /// Puts false bytes into the pieces of a snapshot.
    fn falsify(&self, from: &str, link: LinkId, frame: &mut Frame) {
        let Some((liar, on, bytes)) = &self.forged else {
            return;
        };
        if let Payload::Binary(piece) = &mut frame.payload
            && (liar.as_str(), *on) == (from, link)
            && frame.channel == Channel::Snapshot
        {
            let offset = u64::from_le_bytes(piece[20..28].try_into().unwrap()) as usize;
            let forged = &bytes[offset..offset + piece.len() - 28];
            *piece = [&piece[..28], forged].concat().into();
        }
    }

    /// Makes a link slow, in both directions.
    pub(crate) fn slow_down(&mut self, id: LinkId, bytes_per_second: u64) {
        self.cables.get_mut(&id.0).unwrap().rate = Some(bytes_per_second);
    }

    /// Bytes on a channel that wait for a slow line to a peer.
    pub(crate) fn waiting(&self, id: LinkId, to: &str, channel: Channel) -> usize {
        let cable = &self.cables[&id.0];
        let end = usize::from(cable.ends[1] == to);
        let frames = cable.queues[end].values();
        let of_channel = frames.filter(|frame| frame.channel == channel);
        of_channel.map(Frame::payload_len).sum()
    }

    /// Sends what is next on a slow line, if that is free.
    fn next_on_line(&mut self, id: u64, end: usize) {
        self.counter += 1;
        let Some(cable) = self.cables.get_mut(&id) else {
            return;
        };
        let (Some(rate), Some((_, frame))) = (cable.rate, cable.queues[end].pop_first()) else {
            cable.busy[end] = false;
            return;
        };
        cable.busy[end] = true;
        let bytes = frame.payload_len() as u64 + 40;
        let free = self.now + Duration::from_micros(bytes * 1_000_000 / rate);
        let arrival = free + Duration::from_millis(5);
        let key = (arrival, self.counter);
        self.in_flight.insert(key, (id, end, Arrival::Frame(frame)));
        self.counter += 1;
        let key = (free, self.counter);
        self.in_flight.insert(key, (id, end, Arrival::Free));
    }

    fn next_moment(&self) -> Option<Timestamp> {
        let arrival = self.in_flight.keys().next().map(|(time, _)| *time);
        let timeouts = self.nodes.values().filter_map(|n| n.session.next_timeout());
        timeouts.chain(arrival).min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (cable, end, arrival) = entry.remove();
            self.arrive(cable, end, arrival);
        }
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            let now = at(self.now);
            let session = &mut self.nodes.get_mut(&name).unwrap().session;
            if session.next_timeout().is_some_and(|due| due <= self.now) {
                session.handle_timeout(now);
                let next = session.next_timeout();
                assert!(next.is_none_or(|next| next > self.now), "{name} would spin");
                self.drain(&name);
            }
        }
    }

    fn arrive(&mut self, id: u64, end: usize, arrival: Arrival) {
        if matches!(arrival, Arrival::Free) {
            return self.next_on_line(id, end);
        }
        let Some(cable) = self.cables.get_mut(&id).filter(|cable| cable.up[end]) else {
            return;
        };
        let name = cable.ends[end].clone();
        let link = LinkId(id);
        let input = match arrival {
            Arrival::Frame(frame) => Input::Received { link, frame },
            Arrival::Closed => {
                cable.up[end] = false;
                Input::LinkDown { link }
            }
            Arrival::Free => return,
        };
        self.input(&name, input).unwrap();
    }

    fn drain(&mut self, name: &str) {
        loop {
            let node = self.nodes.get_mut(name).unwrap();
            let Some(output) = node.session.poll_output() else {
                return;
            };
            match output {
                Output::Event(event) => {
                    if let Event::OwnFrame(frame) = &event {
                        node.durable.insert(frame.id());
                    }
                    let read = match &event {
                        Event::Message {
                            peer,
                            channel: Channel::App,
                            payload,
                        } if node.reads => Some((peer.clone(), len(payload))),
                        _ => None,
                    };
                    node.events.push(event);
                    if let Some((peer, len)) = read {
                        let read = Input::Read { peer, len };
                        node.session.handle_input(at(self.now), read).unwrap();
                    }
                }
                Output::Transmit { link, frame } => {
                    if frame.channel == Channel::Command {
                        let id = node.command(link, true, &frame);
                        let durable = id.is_some_and(|id| node.durable.contains(&id));
                        assert!(durable, "{name} sent a frame too early");
                    }
                    let durable = |id: FrameId| node.durable.contains(&id);
                    let repeated = node.repeated(&frame);
                    assert!(
                        repeated.into_iter().all(durable),
                        "{name} repeated a frame too early"
                    );
                    let useful = frame.channel != Channel::Control && !is_sessions_own(&frame);
                    *node.sent_on.entry(link).or_default() += usize::from(useful);
                    let (frames, bytes) = node.sent.entry(frame.channel).or_default();
                    *frames += 1;
                    *bytes += frame.payload_len();
                    self.send(name, link, Some(frame));
                }
                Output::Close { link, code, .. } => {
                    node.closed.push((link, code));
                    self.send(name, link, None);
                }
            }
        }
    }

    /// Puts a frame, or a link's end, on its way. Reliable channels keep their order, each for
    /// itself; one may overtake another.
    fn send(&mut self, from: &str, link: LinkId, mut frame: Option<Frame>) {
        if let Some(frame) = &mut frame {
            self.falsify(from, link, frame);
        }
        // What the session sends unreliably leaves everything else as it would be without; and acknowledgements take no
        // chances, so that a world without messages is the same with them as without.
        let jitter = match &frame {
            Some(frame) if is_acknowledgement(frame) => 0,
            Some(frame) if is_sessions_own(frame) => self.datagrams.next_u64() % 30_000,
            _ => self.random(30_000),
        };
        self.counter += 1;
        let Some(cable) = self.cables.get_mut(&link.0) else {
            return;
        };
        let sender = usize::from(cable.ends[1] == from);
        assert!(
            cable.up[sender],
            "{from} sends on a link that it has closed"
        );
        cable.up[sender] = frame.is_some();
        if cable.silent {
            return;
        }
        let end = 1 - sender;
        if cable.rate.is_some()
            && let Some(frame) = frame
        {
            let key = (7 - frame.channel.priority(), self.counter);
            cable.queues[end].insert(key, frame);
            if !cable.busy[end] {
                self.next_on_line(link.0, end);
            }
            return;
        }
        let mut arrival = self.now + Duration::from_micros(5000 + jitter);
        let lost = self.loss_per_mille > 0 && self.rng.next_u64() % 1000 < self.loss_per_mille;
        match &frame {
            Some(frame) if frame.channel.delivery() == Delivery::ReliableOrdered => {
                if lost {
                    arrival = arrival + RETRANSMISSION;
                }
                let last = cable.ordered.entry((end, frame.channel)).or_default();
                arrival = arrival.max(*last);
                *last = arrival;
            }
            Some(_) if lost => return,
            Some(_) => {}
            None => {
                let last = cable.ordered.iter().filter(|((to, _), _)| *to == end);
                arrival = last.map(|(_, time)| *time).fold(arrival, Timestamp::max);
            }
        }
        let what = frame.map_or(Arrival::Closed, Arrival::Frame);
        self.in_flight
            .insert((arrival, self.counter), (link.0, end, what));
    }
}

/// Whether a frame is what a session sends unreliably for itself.
fn is_sessions_own(frame: &Frame) -> bool {
    let own = |bytes: &Bytes| bytes.starts_with(b"RTU1");
    frame.channel == Channel::Replication
        && matches!(&frame.payload, Payload::Binary(bytes) if own(bytes))
}

fn is_acknowledgement(frame: &Frame) -> bool {
    let Payload::Binary(bytes) = &frame.payload else {
        return false;
    };
    let control = (frame.channel == Channel::Control).then(|| Control::decode(bytes));
    matches!(control, Some(Ok(Control::Acknowledged { .. })))
}

fn len(payload: &Payload) -> usize {
    match payload {
        Payload::Text(text) => text.len(),
        Payload::Binary(bytes) => bytes.len(),
        Payload::Media(_) | Payload::Clock(_) => 0,
    }
}

struct Counter(&'static str, u64);

impl MetricsVisitor for Counter {
    fn counter(&mut self, name: &'static str, _: &[(&'static str, &str)], value: u64) {
        if name == self.0 {
            self.1 = value;
        }
    }

    fn gauge(&mut self, _: &'static str, _: &[(&'static str, &str)], _: f64) {}
}

/// What one of a session's counters has come to.
pub(crate) fn counted(world: &World, name: &str, counter: &'static str) -> u64 {
    let mut counter = Counter(counter, 0);
    world.node(name).session.observe(&mut counter);
    counter.1
}

/// A frame of one command that no session has signed, after a frame and with a nonce of one's choice.
pub(crate) fn forge(
    genesis: &Genesis,
    name: &str,
    (previous, nonce): ([u8; 32], u64),
    action: ActionRef<'_>,
) -> Bytes {
    let mut encoder = Encoder::default();
    let body = encoder.encode([action]).unwrap();
    let fields = [
        &author(name).as_bytes()[..],
        &previous,
        &nonce.to_le_bytes(),
        &1_u32.to_le_bytes(),
        &nonce.to_le_bytes(),
        &at(Timestamp::ZERO).wall.as_millis().to_le_bytes(),
        schema().hash().as_bytes(),
    ]
    .concat();
    let hash = *blake3::hash(body).as_bytes();
    let context: &[u8] = b"roundtable/command-frame/v1\0";
    let signed = [context, genesis.hash().as_bytes(), &fields, &hash].concat();
    let signature = key(name).sign(&signed).to_bytes();
    [&[1], &fields[..], &signature, body].concat().into()
}
