//! Signaling in virtual time: the room of a server, clients who negotiate with one another, and sockets between them that
//! delay and break. Both sides are the state machines of `roundtable-signaling-protocol`, and speak its JSON.

mod client;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use roundtable_core::{PeerId, RoomId, Timestamp, WallTime};
use roundtable_netem::{Conditions, Flow, Netem};
use roundtable_signaling_protocol::{
    ClientMessage, ConnectionId, ErrorCode, Kind, Output, Phase, Reply, Request, RequestId,
    ResumeToken, Room, RoomLimits, RpcError,
};

use crate::{dice::Dice, signaling::client::Client};

/// How finely time passes.
const TICK: Duration = Duration::from_millis(20);
/// How long things happen.
const LIFE: Duration = Duration::from_secs(30);
/// How soon after the last of them all must be agreed, where no socket breaks: no timer may be needed.
const CALM: Duration = Duration::from_secs(2);
/// The same where sockets break: offers, places and attempts expire first, one after the other.
const STORM: Duration = Duration::from_secs(180);

/// The kinds of link that every two peers negotiate.
const KINDS: [Kind; 2] = [Kind::WebRtc, Kind::Quic];

/// What happens in a world of signaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Peers come late and negotiate again and again, often both at once.
    Calm,
    /// Besides, sockets break, which either side may notice late, and peers leave and return.
    Storm,
}

/// Breaks all clients on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalingFault {
    /// When offers cross, each side gives way.
    EveryonePolite,
    /// Who comes back believes what it knew of the room before.
    KeepsOldPicture,
}

/// What a world that kept all promises has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SignalingReport {
    /// How often both sides agreed on an offer.
    pub agreed: u64,
    /// How often an offer was rolled back, since another crossed it.
    pub crossed: u64,
    /// How many sockets broke.
    pub broken: u64,
    /// How often a peer took its place again.
    pub resumed: u64,
    /// How many offers nobody answered in time.
    pub expired: u64,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalingViolation {
    /// Two peers have no link of a kind in the end, or each another.
    NotAgreed(PeerId, PeerId, Kind),
    /// A peer is wrong in the end about who is in the room.
    WrongPicture(PeerId),
    /// A peer was refused what it asked for, though no socket broke.
    Refused(PeerId, ErrorCode),
    /// The server passed on two answers to one offer.
    AnsweredTwice(RequestId),
    /// A candidate that was sent for the offer agreed on was not applied, though no socket broke.
    CandidateLost(PeerId, PeerId),
}

/// Where a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalingFailure {
    /// Replays the world.
    pub seed: u64,
    /// What was broken.
    pub violation: SignalingViolation,
}

impl fmt::Display for SignalingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {:?}", self.seed, self.violation)
    }
}

impl std::error::Error for SignalingFailure {}

/// Plays the world of a seed.
///
/// # Errors
/// [`SignalingFailure`] names the first promise that was broken.
pub fn run_signaling(
    seed: u64,
    weather: Weather,
    fault: Option<SignalingFault>,
) -> Result<SignalingReport, SignalingFailure> {
    let mut world = World::new(seed, weather, fault);
    let lived = world.live();
    lived.map_err(|violation| SignalingFailure { seed, violation })
}

/// A socket, as both of its ends have it.
#[derive(Debug)]
struct Socket {
    client: usize,
    up: Netem<String>,
    down: Netem<String>,
    announced: bool,
    /// When each side finds out that it broke.
    breaks: Option<[Timestamp; 2]>,
}

struct World {
    now: Timestamp,
    weather: Weather,
    dice: Dice,
    room: Room,
    sockets: BTreeMap<ConnectionId, Socket>,
    clients: Vec<Client>,
    answered: BTreeSet<(PeerId, RequestId)>,
    report: SignalingReport,
}

#[allow(clippy::expect_used)] // it is constant
fn room() -> RoomId {
    RoomId::new("world").expect("a valid name")
}

impl World {
    fn new(seed: u64, weather: Weather, fault: Option<SignalingFault>) -> Self {
        let mut dice = Dice::new(seed);
        let clients = 0..dice.between(2, 5);
        let clients = clients.map(|number| {
            let first = Timestamp::ZERO + dice.millis(0, 3000);
            Client::new(number, first, fault)
        });
        Self {
            now: Timestamp::ZERO,
            weather,
            clients: clients.collect(),
            dice,
            room: Room::new(room(), RoomLimits::default()),
            sockets: BTreeMap::new(),
            answered: BTreeSet::new(),
            report: SignalingReport::default(),
        }
    }

    fn live(&mut self) -> Result<SignalingReport, SignalingViolation> {
        while self.now < Timestamp::ZERO + LIFE {
            if self.dice.chance(10) {
                self.happen();
            }
            self.tick()?;
        }
        let patience = match self.weather {
            Weather::Calm => CALM,
            Weather::Storm => STORM,
        };
        let end = self.now + patience;
        while self.now < end && !(self.is_quiet() && self.judge().is_ok()) {
            self.tick()?;
        }
        self.judge()?;
        Ok(self.report)
    }

    /// Whether nothing is under way that could change what is agreed.
    fn is_quiet(&self) -> bool {
        let quiet = |socket: &Socket| {
            let idle = |line: &Netem<String>| line.next_timeout().is_none();
            socket.breaks.is_none() && idle(&socket.up) && idle(&socket.down)
        };
        self.sockets.values().all(quiet) && self.room.poll_timeout().is_none()
    }

    /// Something that nobody is to blame for.
    fn happen(&mut self) {
        let Some(one) = self.dice.index(self.clients.len()) else {
            return;
        };
        let Some(other) = self.dice.index(self.clients.len()) else {
            return;
        };
        let Some(kind) = self.dice.pick(&KINDS) else {
            return;
        };
        match self.dice.below(10) {
            0..=6 => {
                // Most often both at once, or nearly.
                self.offer(one, other, kind);
                if self.dice.chance(70) {
                    self.offer(other, one, kind);
                }
            }
            7 | 8 if self.weather == Weather::Storm => self.break_socket(one),
            9 if self.weather == Weather::Storm && self.dice.chance(30) => {
                let back = self.dice.millis(0, 40_000);
                self.clients[one].leave(self.now + back);
                self.send_all(one);
                self.clients[one].socket = None;
            }
            _ => {}
        }
    }

    fn offer(&mut self, from: usize, to: usize, kind: Kind) {
        let peer = self.clients[to].name.clone();
        let id = self.request_id();
        self.clients[from].offer(self.now, &peer, kind, id);
        self.send_all(from);
    }

    fn request_id(&mut self) -> RequestId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.dice.number().to_le_bytes());
        RequestId::from_random(bytes)
    }

    /// A socket stops carrying; each side finds out later, or never if the other has moved on.
    fn break_socket(&mut self, client: usize) {
        let Some(socket) = self.clients[client]
            .socket
            .and_then(|id| self.sockets.get_mut(&id))
        else {
            return;
        };
        if socket.breaks.is_none() {
            let notice = [5000, 20_000].map(|longest| self.now + self.dice.millis(0, longest));
            socket.breaks = Some(notice);
            self.report.broken += 1;
        }
    }

    fn tick(&mut self) -> Result<(), SignalingViolation> {
        self.now = self.now + TICK;
        self.room.handle_timeout(self.now);
        self.put_out();
        for id in self.sockets.keys().copied().collect::<Vec<_>>() {
            self.serve(id)?;
        }
        for client in 0..self.clients.len() {
            self.hear(client);
            self.wake(client);
        }
        self.open_links();
        Ok(())
    }

    // --- the server -----------------------------------------------------------------------------

    /// Carries out what a connection has sent.
    fn serve(&mut self, id: ConnectionId) -> Result<(), SignalingViolation> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Ok(());
        };
        if let Some([_, noticed]) = socket.breaks {
            if noticed <= self.now {
                self.room.connection_lost(self.now, id);
                self.put_out();
                if let Some(socket) = self.sockets.remove(&id) {
                    self.clients[socket.client].lose(self.now, id);
                }
            }
            return Ok(());
        }
        while let Some(text) = self
            .sockets
            .get_mut(&id)
            .and_then(|socket| socket.up.poll(self.now))
        {
            let Ok(ClientMessage {
                id: message,
                request,
            }) = ClientMessage::parse(&text)
            else {
                continue;
            };
            let outcome = self.carry_out(id, request)?;
            if let Some(message) = message {
                let text = match outcome {
                    Ok(reply) => reply.encode(&message),
                    Err(error) => error.encode(Some(&message)),
                };
                self.send_down(id, text);
            }
            self.put_out();
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        id: ConnectionId,
        request: Request,
    ) -> Result<Result<Reply, RpcError>, SignalingViolation> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Ok(Err(RpcError::new(ErrorCode::Internal, "no such socket")));
        };
        let client = socket.client;
        let answer = match &request {
            Request::Answer { to, request_id, .. } => Some((to.clone(), request_id.clone())),
            _ => None,
        };
        let outcome = match request {
            Request::Announce(announce) if !socket.announced => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&self.dice.number().to_le_bytes());
                let token = ResumeToken::from_random(bytes);
                let wall = WallTime::from_millis(self.now.as_micros() / 1000);
                let joined = self.room.announce(wall, id, *announce, token);
                socket.announced = joined.is_ok();
                self.report.resumed +=
                    u64::from(joined.as_ref().is_ok_and(|joined| joined.resumed));
                joined.map(|joined| Reply::Joined(Box::new(joined)))
            }
            request => self.room.handle(self.now, id, request),
        };
        if outcome == Ok(Reply::Left) {
            self.sockets.remove(&id);
        }
        match &outcome {
            Err(error) if self.weather == Weather::Calm => {
                let name = self.clients[client].name.clone();
                return Err(SignalingViolation::Refused(name, error.code));
            }
            Ok(_) => {
                if let Some((to, request_id)) = answer
                    && !self.answered.insert((to, request_id.clone()))
                {
                    return Err(SignalingViolation::AnsweredTwice(request_id));
                }
            }
            Err(_) => {}
        }
        Ok(outcome)
    }

    fn put_out(&mut self) {
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Send { to, message } => self.send_down(to, message.encode()),
                Output::Close { connection, .. } => {
                    if let Some(socket) = self.sockets.remove(&connection) {
                        self.clients[socket.client].lose(self.now, connection);
                    }
                }
            }
        }
    }

    fn send_down(&mut self, to: ConnectionId, text: String) {
        if let Some(socket) = self.sockets.get_mut(&to)
            && socket.breaks.is_none()
        {
            socket
                .down
                .send(self.now, Flow::Stream(0), text.len(), text);
        }
    }

    // --- the clients ----------------------------------------------------------------------------

    fn hear(&mut self, client: usize) {
        let Some(id) = self.clients[client].socket else {
            return;
        };
        loop {
            let Some(socket) = self.sockets.get_mut(&id) else {
                return;
            };
            if let Some([noticed, _]) = socket.breaks {
                if noticed <= self.now {
                    self.clients[client].lose(self.now, id);
                }
                return;
            }
            let Some(text) = socket.down.poll(self.now) else {
                return;
            };
            let id = self.request_id();
            self.clients[client].hear(self.now, &text, &id, &mut self.report);
            self.send_all(client);
        }
    }

    /// What a client does because its time has come.
    fn wake(&mut self, client: usize) {
        if self.clients[client].dials(self.now) {
            let id = ConnectionId(self.dice.number());
            let conditions = Conditions {
                delay: self.dice.millis(1, 80),
                jitter: self.dice.millis(0, 40),
                ..Conditions::default()
            };
            let seed = self.dice.number();
            let socket = Socket {
                client,
                up: Netem::new(seed, conditions),
                down: Netem::new(seed ^ 1, conditions),
                announced: false,
                breaks: None,
            };
            self.sockets.insert(id, socket);
            self.clients[client].announce(id);
        }
        for (peer, kind) in self.clients[client].due(self.now) {
            let id = self.request_id();
            self.clients[client].offer(self.now, &peer, kind, id);
        }
        self.send_all(client);
        let pause = self.dice.millis(500, 3000);
        self.clients[client].give_up_late(self.now, pause);
    }

    fn send_all(&mut self, client: usize) {
        let Client {
            socket, outgoing, ..
        } = &mut self.clients[client];
        for text in outgoing.drain(..) {
            if let Some(socket) = socket.and_then(|id| self.sockets.get_mut(&id))
                && socket.breaks.is_none()
            {
                socket.up.send(self.now, Flow::Stream(0), text.len(), text);
            }
        }
    }

    // --- the links ------------------------------------------------------------------------------

    /// Both ends of a link open once both know the same offer and its answer; a link that the other end has given up
    /// goes silent.
    fn open_links(&mut self) {
        let pairs = (0..self.clients.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        for (a, b) in pairs.collect::<Vec<_>>() {
            for kind in KINDS {
                let (ours, theirs) = (self.phase(a, b, kind), self.phase(b, a, kind));
                let same = ours.is_some()
                    && ours.as_ref().map(|(_, id)| id) == theirs.as_ref().map(|(_, id)| id);
                let phases = [ours, theirs].map(|end| end.map(|(phase, _)| phase));
                let ready = phases
                    .iter()
                    .all(|p| matches!(p, Some(Phase::Connecting | Phase::Connected)));
                let newly = phases.contains(&Some(Phase::Connecting));
                self.report.agreed += u64::from(same && ready && newly);
                for (own, other) in [(a, b), (b, a)] {
                    let peer = self.clients[other].name.clone();
                    self.clients[own].link(self.now, &peer, kind, same && ready);
                }
            }
        }
    }

    fn phase(&self, own: usize, other: usize, kind: Kind) -> Option<(Phase, RequestId)> {
        let negotiation = self.clients[own].negotiation(&self.clients[other].name, kind)?;
        Some((negotiation.phase(), negotiation.request_id()?.clone()))
    }

    // --- the verdict ----------------------------------------------------------------------------

    fn judge(&self) -> Result<(), SignalingViolation> {
        let everyone: BTreeSet<_> = self.room.peers().map(|peer| peer.peer_id.clone()).collect();
        for (own, client) in self.clients.iter().enumerate() {
            let mut picture = client.picture();
            picture.insert(client.name.clone());
            if picture != everyone || everyone.len() != self.clients.len() {
                return Err(SignalingViolation::WrongPicture(client.name.clone()));
            }
            for (other, peer) in self
                .clients
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != own)
            {
                for kind in KINDS {
                    let (ours, theirs) =
                        (self.phase(own, other, kind), self.phase(other, own, kind));
                    let agreed =
                        ours == theirs && ours.is_some_and(|(phase, _)| phase == Phase::Connected);
                    if !agreed {
                        return Err(SignalingViolation::NotAgreed(
                            client.name.clone(),
                            peer.name.clone(),
                            kind,
                        ));
                    }
                    if self.weather == Weather::Calm && !client.has_all_candidates(&peer.name, kind)
                    {
                        return Err(SignalingViolation::CandidateLost(
                            client.name.clone(),
                            peer.name.clone(),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
