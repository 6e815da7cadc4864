//! The task that owns a room on this server: it carries out what the room's peers ask, and keeps the
//! room's record on the bus and the room in step. No peer waits for the bus but one that wants a
//! seat, or an answer from a peer of another server.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use roundtable_core::{PeerId, RoomId, Timestamp};
use roundtable_signaling_protocol::{
    Announce, Applicant, CloseReason, ConnectionId, ErrorCode, HandOver, Joined, MessageId, NodeId,
    Output, Parcel, Reply, Request, ResumeToken, Room, RoomLimits, Roster, RpcError, Ruling,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        Answer, Bus, Letter, Pending, Record, Revision, RouteError, Stored, Unreachable,
        unavailable,
    },
    clock,
    metrics::{Gauged, Metrics},
    outbox::{Full, Outbox},
    routes::{self, Routes, Signal},
};

/// Inputs waiting for a room. When it is full, the room's connections wait, and stop reading.
pub(crate) const QUEUE: usize = 64;

/// Letters that wait for a newer record; more are answered that the peer is elsewhere.
const MAX_PARKED: usize = 256;

/// After how long the bus is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How often a record is looked at though nobody said that it has changed.
const REFRESH: Duration = Duration::from_secs(30);

/// When whoever could not be served is to ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What connections and the bus tell a room.
#[derive(Debug)]
pub(crate) enum Input {
    Join(Box<Join>),
    Request {
        connection: ConnectionId,
        id: Option<MessageId>,
        request: Request,
    },
    /// The socket is gone.
    Lost {
        connection: ConnectionId,
    },
    /// The peer's grant is.
    Expired {
        connection: ConnectionId,
    },
    /// The record is this new.
    Changed(Revision),
    /// The record may be another, or gone.
    Reload,
    /// A server may be gone. The sender keeps the room alive until it has looked.
    Look(mpsc::Sender<Input>),
    /// Another server asks.
    Asked {
        letter: Letter,
        answer: oneshot::Sender<Answer>,
    },
}

/// A peer at the door.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) connection: ConnectionId,
    pub(crate) announce: Announce,
    pub(crate) outbox: Outbox,
    pub(crate) reply: oneshot::Sender<Result<Joined, RpcError>>,
    /// Keeps the room alive while somebody is in it.
    pub(crate) room: mpsc::Sender<Input>,
}

/// A peer at the door, and the resume token that it would get.
struct Waiting {
    join: Join,
    token: ResumeToken,
}

impl Waiting {
    fn refuse(self, metrics: &Metrics, error: RpcError) {
        if error.code == ErrorCode::Unavailable {
            metrics.unavailable.add(1);
        }
        // A connection that is gone by now will say so.
        let _ = self.join.reply.send(Err(error));
    }
}

type Asked = (Letter, oneshot::Sender<Answer>);

/// What came of the one thing that is asked of the bus at a time.
enum Done {
    Loaded(Result<Record, Unreachable>),
    Stored {
        outcome: Result<Stored, Unreachable>,
        draft: Drafted,
        /// For those who have moved here, what their old server had for them.
        handed: HashMap<PeerId, HandOver>,
    },
}

/// A change of the record under way.
struct Drafted {
    roster: Arc<Roster>,
    applicants: Vec<(Waiting, Ruling)>,
    displaced: Vec<PeerId>,
}

pub(crate) struct Task {
    id: RoomId,
    room: Room,
    outboxes: HashMap<ConnectionId, Outbox>,
    keep_alive: Option<mpsc::Sender<Input>>,
    metrics: Arc<Metrics>,
    bus: Arc<dyn Bus>,
    draining: CancellationToken,
    routes: Routes,
    /// The record as it was stored or read last.
    base: Record,
    must_load: bool,
    /// Whether the record may not be what this server wants it to be.
    dirty: bool,
    /// Bounded by the server's connections.
    waiting: VecDeque<Waiting>,
    parked: Vec<Asked>,
    asking: Option<Pending<'static, Done>>,
    /// Signals that are sent on to another server; each ends by itself.
    forwarding: JoinSet<()>,
    /// While the bus is away, when to try again.
    retry_at: Option<Timestamp>,
    refresh_at: Timestamp,
}

impl Task {
    pub(crate) fn new(
        id: RoomId,
        limits: RoomLimits,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
        draining: CancellationToken,
    ) -> Self {
        Self {
            room: Room::on_node(id.clone(), limits, bus.node().clone()),
            routes: Routes::new(Arc::clone(&bus), id.clone()),
            id,
            outboxes: HashMap::new(),
            keep_alive: None,
            metrics,
            bus,
            draining,
            base: Record::default(),
            must_load: true,
            dirty: false,
            waiting: VecDeque::new(),
            parked: Vec::new(),
            asking: None,
            forwarding: JoinSet::new(),
            retry_at: None,
            refresh_at: clock::now() + REFRESH,
        }
    }

    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let metrics = Arc::clone(&self.metrics);
        let _counted = Gauged::new(&metrics.rooms);
        loop {
            let timeout = self.poll_timeout();
            let sleep = async {
                match timeout {
                    Some(time) => sleep_until(clock::instant(time)).await,
                    None => std::future::pending().await,
                }
            };
            let before = self.room.local_len();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.handle(input),
                    None => return,
                },
                () = sleep => self.on_timeout(clock::now()),
                done = asked(&mut self.asking) => {
                    self.asking = None;
                    self.on_done(done);
                }
                outcome = self.routes.next(clock::now) => self.on_answer(outcome),
            }
            self.flush();
            self.dirty |= self.room.local_len() != before;
            while self.forwarding.try_join_next().is_some() {}
            self.advance();
            self.flush();
            let after = self.room.local_len();
            metrics.peers.add(after.saturating_sub(before) as u64);
            metrics.peers.subtract(before.saturating_sub(after) as u64);
            if !self.room.has_local() && self.is_idle() {
                self.keep_alive = None;
            }
        }
    }

    /// Whether nothing remains to be told to the bus.
    fn is_idle(&self) -> bool {
        let wants_nothing = !self.dirty && self.waiting.is_empty() && self.parked.is_empty();
        wants_nothing && self.asking.is_none() && self.routes.is_empty()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let refresh = self.bus.is_shared().then_some(self.refresh_at);
        let own = [self.retry_at, refresh, self.routes.poll_timeout()];
        own.into_iter()
            .flatten()
            .chain(self.room.poll_timeout())
            .min()
    }

    fn on_timeout(&mut self, now: Timestamp) {
        self.room.handle_timeout(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.refresh_at <= now {
            self.refresh_at = now + REFRESH;
            self.must_load = true;
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Join(join) => self.join(*join),
            Input::Request {
                connection,
                id,
                request,
            } => self.on_request(connection, id, request),
            Input::Lost { connection } => {
                self.outboxes.remove(&connection);
                self.room.connection_lost(clock::now(), connection);
            }
            Input::Expired { connection } => {
                self.outboxes.remove(&connection);
                self.room.expire(connection);
            }
            Input::Changed(revision) => self.must_load |= revision != self.base.revision,
            Input::Reload => {
                self.base = Record::default();
                (self.must_load, self.retry_at) = (true, None);
            }
            Input::Look(room) => {
                self.keep_alive.get_or_insert(room);
                self.dirty = true;
            }
            Input::Asked { letter, answer } => self.on_letter(letter, answer),
        }
    }

    // --- membership -------------------------------------------------------------------------------

    fn join(&mut self, join: Join) {
        self.keep_alive.get_or_insert_with(|| join.room.clone());
        let Some(token) = random_token() else {
            let error = RpcError::new(ErrorCode::Internal, "no random bytes");
            // A connection that is gone by now will say so.
            let _ = join.reply.send(Err(error));
            return;
        };
        let waiting = Waiting { join, token };
        if self.room.resumes_here(&waiting.join.announce) {
            // No other server has a say in this.
            self.let_in(waiting, None);
            self.dirty = true;
        } else {
            self.waiting.push_back(waiting);
        }
    }

    fn let_in(&mut self, waiting: Waiting, handed: Option<HandOver>) {
        let Waiting { join, token } = waiting;
        let peer = join.announce.peer_id.clone();
        let joined = self
            .room
            .let_in(clock::wall(), join.connection, join.announce, &token);
        self.outboxes.insert(join.connection, join.outbox);
        if let Some(handed) = handed {
            self.room.take_over(clock::now(), &peer, handed);
        }
        // A connection that is gone by now will say so.
        let _ = join.reply.send(Ok(joined));
    }

    /// Asks of the bus what is to be asked next, if nothing is asked of it now.
    fn advance(&mut self) {
        let (room, revision) = (&self.room, self.base.revision);
        let node_of = |peer: &PeerId| room.node_of(peer).cloned();
        for signal in self.routes.advance(clock::now(), revision, node_of) {
            self.strand(&signal);
        }
        if self.asking.is_some() {
            return;
        }
        if self.retry_at.is_some() && self.waiting.is_empty() && self.parked.is_empty() {
            return;
        }
        let is_needed = self.room.has_local() || !self.parked.is_empty();
        let wants = self.dirty || !self.waiting.is_empty();
        if self.must_load && (is_needed || wants) {
            self.load();
        } else if wants {
            self.draft();
        }
    }

    fn load(&mut self) {
        self.must_load = false;
        let (bus, id) = (Arc::clone(&self.bus), self.id.clone());
        self.asking = Some(Box::pin(async move { Done::Loaded(bus.load(&id).await) }));
    }

    fn draft(&mut self) {
        self.dirty = false;
        let closed = self.bus.admits().err().map(unavailable);
        let applicants = self.waiting.iter().map(|waiting| Applicant {
            announce: &waiting.join.announce,
            resume: &waiting.token,
        });
        let gone = |node: &_| self.bus.is_gone(node);
        let draft = self
            .room
            .draft(&self.base.roster, gone, closed.as_ref(), applicants);
        let applicants = self.waiting.drain(..).zip(draft.rulings).collect();
        let is_same = draft.roster == *self.base.roster;
        let drafted = Drafted {
            roster: Arc::new(draft.roster),
            applicants,
            displaced: draft.displaced,
        };
        if is_same {
            // Nobody can have got a seat.
            self.carry_out(drafted, HashMap::new());
        } else {
            self.asking = Some(store(
                Arc::clone(&self.bus),
                self.id.clone(),
                self.base.revision,
                drafted,
            ));
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Loaded(Ok(record)) => {
                self.refresh_at = clock::now() + REFRESH;
                // What the record should be instead shows in the next draft.
                self.dirty |= record.revision != self.base.revision || record.revision == 0;
                self.adopt(record);
                for (letter, answer) in std::mem::take(&mut self.parked) {
                    self.carry_out_letter(letter, answer);
                }
            }
            Done::Loaded(Err(Unreachable)) => {
                let applicants = std::mem::take(&mut self.waiting);
                self.turn_away(applicants);
            }
            Done::Stored {
                outcome,
                draft,
                handed,
            } => match outcome {
                Ok(Stored::At(revision)) => {
                    let roster = Arc::clone(&draft.roster);
                    self.adopt(Record { revision, roster });
                    self.carry_out(draft, handed);
                }
                Ok(Stored::Conflict) => {
                    self.metrics.bus_conflicts.add(1);
                    self.must_load = true;
                    let again = draft.applicants.into_iter().rev();
                    again.for_each(|(waiting, _)| self.waiting.push_front(waiting));
                    self.dirty = true;
                }
                Err(Unreachable) => {
                    let applicants = draft.applicants.into_iter();
                    self.turn_away(applicants.map(|(waiting, _)| waiting));
                    self.dirty = true;
                }
            },
        }
    }

    fn adopt(&mut self, record: Record) {
        self.room.adopt(clock::now(), &record.roster);
        self.base = record;
        self.routes.hurry();
    }

    /// A draft's rulings hold.
    fn carry_out(&mut self, draft: Drafted, mut handed: HashMap<PeerId, HandOver>) {
        for peer in &draft.displaced {
            self.room.displace(peer);
        }
        for (waiting, ruling) in draft.applicants {
            let peer = &waiting.join.announce.peer_id;
            match ruling {
                Ruling::Seated => self.let_in(waiting, None),
                Ruling::Moved { .. } => {
                    let handed = handed.remove(peer);
                    self.let_in(waiting, handed);
                }
                Ruling::Refused(error) => waiting.refuse(&self.metrics, error),
            }
        }
    }

    /// The bus is away: nobody enters, and everybody stays.
    fn turn_away(&mut self, applicants: impl IntoIterator<Item = Waiting>) {
        self.must_load = true;
        self.retry_at = Some(clock::now() + RETRY);
        for waiting in applicants {
            waiting.refuse(&self.metrics, unavailable(RETRY_AFTER));
        }
        for (_, answer) in self.parked.drain(..) {
            // Whoever asked may have given up.
            let _ = answer.send(Answer::Elsewhere);
        }
    }

    // --- signals ----------------------------------------------------------------------------------

    fn on_request(&mut self, connection: ConnectionId, id: Option<MessageId>, request: Request) {
        let is_remote = |peer: &PeerId| self.room.node_of(peer).is_some();
        if request.to().is_some_and(is_remote) {
            match self.room.send_out(clock::now(), connection, request) {
                Ok(parcel) => {
                    let pushed = self.routes.push(clock::now(), parcel, connection, id);
                    if let Err(signal) = pushed {
                        self.strand(&signal);
                    }
                }
                Err(error) => self.answer(connection, id, &Err(error)),
            }
            return;
        }
        let outcome = self.room.handle(clock::now(), connection, request);
        let has_left = outcome == Ok(Reply::Left);
        self.answer(connection, id, &outcome);
        if has_left {
            self.outboxes.remove(&connection);
        }
    }

    fn answer(
        &mut self,
        connection: ConnectionId,
        id: Option<MessageId>,
        outcome: &Result<Reply, RpcError>,
    ) {
        if let Err(error) = outcome {
            self.metrics.count_error(error.code);
        }
        if let Some(id) = id {
            let text = match outcome {
                Ok(reply) => reply.encode(&id),
                Err(error) => error.encode(Some(&id)),
            };
            self.send(connection, text);
        }
    }

    fn on_answer(&mut self, outcome: routes::Outcome) {
        let routes::Outcome::Answered(signal, answer) = outcome else {
            self.metrics.route_failures.add(1);
            self.must_load = true;
            return;
        };
        let outcome = match answer {
            Ok(Answer::Done) => Ok(Reply::Forwarded),
            Ok(Answer::Refused(error)) => Err(error),
            Ok(Answer::Handed(_) | Answer::Elsewhere)
            | Err(RouteError::Dead | RouteError::Silent) => {
                self.metrics.route_failures.add(1);
                Err(unavailable(RETRY_AFTER))
            }
        };
        if outcome.is_err() {
            self.room.take_back(&signal.parcel);
        }
        self.answer(signal.connection, signal.id, &outcome);
    }

    /// A signal whose peer is no longer on another server, or that is one too many.
    fn strand(&mut self, signal: &Signal) {
        self.room.take_back(&signal.parcel);
        let is_present = self.room.peers().any(|p| p.peer_id == signal.parcel.to);
        let error = match is_present {
            true => unavailable(RETRY_AFTER),
            false => RpcError::new(ErrorCode::PeerNotFound, "no such peer in this room"),
        };
        self.answer(signal.connection, signal.id.clone(), &Err(error));
    }

    fn on_letter(&mut self, letter: Letter, answer: oneshot::Sender<Answer>) {
        match &letter {
            // Who it is from may have entered by a record that is not known here yet.
            Letter::Signal { revision, .. } if *revision > self.base.revision => {
                if self.parked.len() < MAX_PARKED {
                    self.parked.push((letter, answer));
                    self.must_load = true;
                } else {
                    // Whoever asked may have given up.
                    let _ = answer.send(Answer::Elsewhere);
                }
            }
            _ => self.carry_out_letter(letter, answer),
        }
    }

    fn carry_out_letter(&mut self, letter: Letter, answer: oneshot::Sender<Answer>) {
        let now = clock::now();
        let outcome = match letter {
            Letter::Take { peer, seat, to } => {
                let handed = PeerId::new(&peer)
                    .ok()
                    .and_then(|peer| self.room.give_up(now, &peer, seat, &to));
                self.must_load = true;
                handed.map_or(Answer::Elsewhere, Answer::Handed)
            }
            Letter::Signal {
                forwarded, parcel, ..
            } => {
                if let Some(node) = self.room.node_of(&parcel.to).cloned() {
                    if !forwarded {
                        self.forward(node, parcel, answer);
                        return;
                    }
                    Answer::Elsewhere
                } else if self.draining.is_cancelled() && self.room.is_away(&parcel.to) {
                    // It is on its way to another server; what would be held here would be lost.
                    Answer::Elsewhere
                } else {
                    match self.room.receive(now, parcel) {
                        Ok(_) => Answer::Done,
                        Err(error) => Answer::Refused(error),
                    }
                }
            }
        };
        // Whoever asked may have given up.
        let _ = answer.send(outcome);
    }

    /// Sends a signal on to where its peer is now.
    fn forward(&mut self, node: NodeId, parcel: Parcel, answer: oneshot::Sender<Answer>) {
        let (bus, room) = (Arc::clone(&self.bus), self.id.clone());
        let letter = Letter::Signal {
            revision: self.base.revision,
            forwarded: true,
            parcel,
        };
        self.forwarding.spawn(async move {
            let forwarded = bus.ask(&node, &room, letter).await;
            if let Ok(forwarded) = forwarded {
                // Whoever asked may have given up.
                let _ = answer.send(forwarded);
            }
        });
    }

    // --- connections ------------------------------------------------------------------------------

    /// Carries out what the room wants done.
    fn flush(&mut self) {
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Send { to, message } => self.send(to, message.encode()),
                Output::Close { connection, reason } => {
                    if reason == CloseReason::SlowConsumer {
                        self.metrics.evictions.add(1);
                    }
                    match (self.outboxes.remove(&connection), reason) {
                        // What it was sent before it moved is not sent again.
                        (Some(outbox), CloseReason::Replaced) => outbox.finish(reason),
                        (Some(outbox), _) => outbox.close(reason),
                        (None, _) => {}
                    }
                }
            }
        }
    }

    /// Sends, or throws out who does not read.
    fn send(&mut self, to: ConnectionId, text: String) {
        let sent = self.outboxes.get(&to).map(|outbox| outbox.send(text));
        if sent == Some(Err(Full)) {
            self.room.evict(to);
        }
    }
}

async fn asked(asking: &mut Option<Pending<'static, Done>>) -> Done {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// Stores a draft, and asks the servers that its applicants come from what they have for them.
fn store(
    bus: Arc<dyn Bus>,
    room: RoomId,
    expected: Revision,
    draft: Drafted,
) -> Pending<'static, Done> {
    Box::pin(async move {
        let outcome = bus.store(&room, expected, &draft.roster).await;
        let mut handed = HashMap::new();
        if matches!(outcome, Ok(Stored::At(_))) {
            for (waiting, ruling) in &draft.applicants {
                let Ruling::Moved { from, seat } = ruling else {
                    continue;
                };
                let peer = &waiting.join.announce.peer_id;
                let letter = Letter::Take {
                    peer: peer.to_string(),
                    seat: *seat,
                    to: bus.node().clone(),
                };
                // A server that is dead has nothing for anybody.
                if let Ok(Answer::Handed(had)) = bus.ask(from, &room, letter).await {
                    handed.insert(peer.clone(), had);
                }
            }
        }
        Done::Stored {
            outcome,
            draft,
            handed,
        }
    })
}

fn random_token() -> Option<ResumeToken> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(ResumeToken::from_random(bytes))
}
