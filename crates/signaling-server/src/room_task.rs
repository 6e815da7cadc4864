//! The task that owns a room on this server: it carries out what the room's peers ask, and keeps the
//! room's record on the bus and the room in step. No peer waits for the bus but one that wants a
//! seat, or an answer from a peer of another server.

mod membership;
mod signals;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use roundtable_core::{PeerId, RoomId, Timestamp};
use roundtable_signaling_protocol::{
    Announce, CloseReason, ConnectionId, HandOver, Joined, MessageId, Output, Request, Room,
    RoomLimits, RpcError,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::{
    budget::{Budget, Charge},
    bus::{Answer, Bus, Letter, Pending, Record, Revision, Stored, Unreachable},
    clock,
    metrics::{Gauged, Metrics},
    outbox::{Full, Outbox},
    room_task::membership::{Drafted, Waiting},
    routes::Routes,
};

/// Inputs waiting for a room. When it is full, the room's connections wait, and stop reading.
pub(crate) const QUEUE: usize = 64;

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

pub(crate) struct Task {
    id: RoomId,
    room: Room,
    outboxes: HashMap<ConnectionId, Outbox>,
    budget: Arc<Budget>,
    /// What waits for peers whose connection is lost.
    held: Charge,
    /// Most of it for each, while the budget is large enough.
    max_held: usize,
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
        budget: Arc<Budget>,
        draining: CancellationToken,
    ) -> Self {
        Self {
            held: Charge::new(Arc::clone(&budget)),
            budget,
            max_held: limits.max_held_bytes,
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
        // What the alarm is set to; `None` if it has gone off. It is never set later: it goes off in vain now and then, which
        // costs less than to set it anew with every offer.
        let mut armed: Option<Timestamp> = None;
        let alarm = sleep_until(clock::instant(Timestamp::ZERO));
        tokio::pin!(alarm);
        loop {
            if let Some(due) = self.poll_timeout()
                && armed.is_none_or(|armed| due < armed)
            {
                alarm.as_mut().reset(clock::instant(due));
                armed = Some(due);
            }
            let before = self.room.local_len();
            let owed = self.owes();
            tokio::select! {
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    self.handle(input);
                    self.flush();
                    // What waits already is done at one go.
                    for _ in 1..QUEUE {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.handle(input);
                        self.flush();
                    }
                }
                () = &mut alarm, if armed.is_some() => {
                    armed = None;
                    self.on_timeout(clock::now());
                }
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
            let owes = self.owes();
            metrics.owing_rooms.add(u64::from(owes && !owed));
            metrics.owing_rooms.subtract(u64::from(owed && !owes));
            if !self.room.has_local() && self.is_idle() {
                self.keep_alive = None;
            }
        }
    }

    /// Whether nothing remains to be told to the bus or to other servers.
    fn is_idle(&self) -> bool {
        let wants_nothing = !self.dirty && self.waiting.is_empty() && self.parked.is_empty();
        let owes_nothing = !self.owes() && !self.room.may_be_asked();
        wants_nothing && self.asking.is_none() && owes_nothing
    }

    /// Whether another server is to get something from here: a signal that is on its way, or what a peer
    /// left that has gone there.
    fn owes(&self) -> bool {
        !self.routes.is_empty() || !self.forwarding.is_empty() || self.room.keeps_for_others()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let refresh = self.bus.is_shared().then_some(self.refresh_at);
        let own = [
            self.retry_at,
            refresh,
            self.routes.poll_timeout(),
            self.patience_ends(),
        ];
        own.into_iter()
            .flatten()
            .chain(self.room.poll_timeout())
            .min()
    }

    fn on_timeout(&mut self, now: Timestamp) {
        self.room.handle_timeout(now);
        self.lose_patience(now);
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

    /// Carries out what the room wants done.
    fn flush(&mut self) {
        self.flush_to(None);
    }

    /// The same; what goes to the connection `back` has waited for it.
    fn flush_to(&mut self, back: Option<ConnectionId>) {
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Send { to, message } if Some(to) == back => {
                    if let Some(outbox) = self.outboxes.get(&to) {
                        outbox.send_waited(message.encode());
                    }
                }
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
        self.held.set(self.room.held_bytes());
        let max_held = self.budget.share_of(self.max_held);
        self.room.set_max_held_bytes(max_held);
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
