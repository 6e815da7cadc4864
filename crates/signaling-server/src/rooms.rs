//! The rooms: each is owned by one task, which lives while somebody is in it or on the way in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use roundtable_core::RoomId;
use roundtable_signaling_protocol::{
    Announce, CloseReason, ConnectionId, ErrorCode, Joined, MessageId, Output, Reply, Request,
    ResumeToken, Room, RoomLimits, RpcError,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    metrics::{Gauged, Metrics},
    outbox::{Full, Outbox},
};

/// Inputs waiting for a room. When it is full, the room's connections wait, and stop reading.
const QUEUE: usize = 64;

/// What connections tell their room.
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

/// All rooms by name.
#[derive(Debug)]
pub(crate) struct Rooms {
    limits: RoomLimits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held for a look-up, never across an await.
    by_name: Arc<Mutex<ByName>>,
}

/// A room's task ends when no strong sender is left.
type ByName = HashMap<RoomId, mpsc::WeakSender<Input>>;

impl Rooms {
    pub(crate) fn new(
        limits: RoomLimits,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            limits,
            metrics,
            stop,
            tasks,
            by_name: Arc::default(),
        }
    }

    /// The way into a room, which is made if it does not exist.
    pub(crate) fn get(&self, id: &RoomId) -> mpsc::Sender<Input> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = by_name.get(id).and_then(mpsc::WeakSender::upgrade) {
            return sender;
        }
        let (sender, inputs) = mpsc::channel(QUEUE);
        by_name.insert(id.clone(), sender.downgrade());
        let task = Task {
            room: Room::new(id.clone(), self.limits.clone()),
            outboxes: HashMap::new(),
            keep_alive: None,
            metrics: Arc::clone(&self.metrics),
        };
        let (id, by_name) = (id.clone(), Arc::clone(&self.by_name));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task.run(inputs) => {}
                () = stop.cancelled() => {}
            }
            // Under the same name another room may have begun meanwhile.
            let mut by_name = by_name.lock().unwrap_or_else(PoisonError::into_inner);
            if by_name
                .get(&id)
                .is_some_and(|sender| sender.strong_count() == 0)
            {
                by_name.remove(&id);
            }
        });
        sender
    }
}

struct Task {
    room: Room,
    outboxes: HashMap<ConnectionId, Outbox>,
    keep_alive: Option<mpsc::Sender<Input>>,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let metrics = Arc::clone(&self.metrics);
        let _counted = Gauged::new(&metrics.rooms);
        loop {
            let timeout = self.room.poll_timeout();
            let sleep = async {
                match timeout {
                    Some(time) => sleep_until(clock::instant(time)).await,
                    None => std::future::pending().await,
                }
            };
            let before = self.room.len();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.handle(input),
                    None => return,
                },
                () = sleep => self.room.handle_timeout(clock::now()),
            }
            self.flush();
            let after = self.room.len();
            metrics.peers.add(after.saturating_sub(before) as u64);
            metrics.peers.subtract(before.saturating_sub(after) as u64);
            if self.room.is_empty() {
                self.keep_alive = None;
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Join(join) => self.join(*join),
            Input::Request {
                connection,
                id,
                request,
            } => {
                let outcome = self.room.handle(clock::now(), connection, request);
                if let Err(error) = &outcome {
                    self.metrics.count_error(error.code);
                }
                if let Some(id) = id {
                    let text = match &outcome {
                        Ok(reply) => reply.encode(&id),
                        Err(error) => error.encode(Some(&id)),
                    };
                    self.send(connection, text);
                }
                if outcome == Ok(Reply::Left) {
                    self.outboxes.remove(&connection);
                }
            }
            Input::Lost { connection } => {
                self.outboxes.remove(&connection);
                self.room.connection_lost(clock::now(), connection);
            }
            Input::Expired { connection } => {
                self.outboxes.remove(&connection);
                self.room.expire(connection);
            }
        }
    }

    fn join(&mut self, join: Join) {
        let Join {
            connection,
            announce,
            outbox,
            reply,
            room,
        } = join;
        let outcome = match random_token() {
            Some(token) => self
                .room
                .announce(clock::wall(), connection, announce, token),
            None => Err(RpcError::new(ErrorCode::Internal, "no random bytes")),
        };
        if outcome.is_ok() {
            self.outboxes.insert(connection, outbox);
            self.keep_alive = Some(room);
        }
        // A connection that is gone by now will say so.
        let _ = reply.send(outcome);
    }

    /// Carries out what the room wants done.
    fn flush(&mut self) {
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Send { to, message } => self.send(to, message.encode()),
                Output::Close { connection, reason } => {
                    if reason == CloseReason::SlowConsumer {
                        self.metrics.evictions.add(1);
                    }
                    if let Some(outbox) = self.outboxes.remove(&connection) {
                        outbox.close(reason);
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

fn random_token() -> Option<ResumeToken> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(ResumeToken::from_random(bytes))
}
