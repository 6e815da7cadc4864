//! The task that owns the socket: carries requests out, hands events on, reconnects.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use roundtable_core::Timestamp;
use roundtable_signaling_protocol::{
    ClientMessage, IceServer, Joined, MessageId, Notification, Request, ResumeToken, ServerMessage,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, sleep_until, timeout},
};

use crate::{
    ClientConfig, ClientState, EndReason, Event, Hints, JoinError, RequestError, clock, event,
    reconnect::{Attempt, Reconnect},
    socket::{self, Lost, Received, Socket},
    token::{Renewal, TokenError},
};

/// Requests waiting for the task; further callers wait, each at most its own timeout.
pub(crate) const COMMAND_QUEUE: usize = 64;

/// Requests waiting for the server's answer, and requests waiting for the connection to come back.
const MAX_PENDING: usize = 64;

/// How long a connection may take to show life after a hint, and while somebody waits for it.
const HINT_TIMEOUT: Duration = Duration::from_secs(5);
const URGENT_HINT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a server that drains may take to say that it has read all that was written to it.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long leaving may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

type Done = oneshot::Sender<Result<(), RequestError>>;

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Call { request: Request, done: Done },
    Leave { done: oneshot::Sender<()> },
}

/// Why the task stops: the reason, and who waits for it to be gone.
#[derive(Debug)]
struct End {
    reason: EndReason,
    done: Option<oneshot::Sender<()>>,
}

impl From<EndReason> for End {
    fn from(reason: EndReason) -> Self {
        Self { reason, done: None }
    }
}

/// How a connection's service came to a stop.
enum Stop {
    Lost(Lost),
    /// There is a better one.
    Moved(Box<Socket>),
    End(End),
}

/// Our place, taken on another connection.
type Moving = Pin<Box<dyn Future<Output = Result<(Socket, Joined, usize), JoinError>> + Send>>;

/// The task's ends of the handles' channels.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) state: watch::Sender<ClientState>,
    pub(crate) ice_servers: watch::Sender<Vec<IceServer>>,
    pub(crate) hints: Arc<Hints>,
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

#[derive(Debug)]
pub(crate) struct Task {
    config: ClientConfig,
    resume: ResumeToken,
    reconnect: Reconnect,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    state: watch::Sender<ClientState>,
    ice_servers: watch::Sender<Vec<IceServer>>,
    hints: Arc<Hints>,
    /// Requests made while there was no connection.
    waiting: VecDeque<(Request, Done)>,
    /// Requests written and not answered, by id.
    pending: HashMap<i64, Done>,
    last_id: i64,
    renewal: Renewal,
    /// The `session.refresh` that is not answered yet.
    refreshing: Option<i64>,
}

impl Task {
    pub(crate) fn new(
        config: ClientConfig,
        joined: &Joined,
        server: usize,
        channels: Channels,
    ) -> Self {
        let Channels {
            commands,
            events,
            state,
            ice_servers,
            hints,
        } = channels;
        let mut reconnect = Reconnect::new(config.backoff, config.urls().len(), server);
        reconnect.connected(clock::now(), server, ice_life(joined), random());
        Self {
            renewal: Renewal::new(config.token_source(server), joined),
            refreshing: None,
            resume: joined.resume.clone(),
            config,
            reconnect,
            commands,
            events,
            state,
            ice_servers,
            hints,
            waiting: VecDeque::new(),
            pending: HashMap::new(),
            last_id: socket::ANNOUNCE_ID,
        }
    }

    pub(crate) async fn run(mut self, mut socket: Socket) {
        let end = loop {
            match self.serve(&mut socket).await {
                Stop::Lost(lost) => {
                    drop(socket);
                    match self.come_back(lost).await {
                        Ok(fresh) => socket = fresh,
                        Err(end) => break end,
                    }
                }
                Stop::Moved(fresh) => socket = *fresh,
                Stop::End(end) => {
                    if end.reason == EndReason::Left {
                        // A server that does not let us go in time notices by itself.
                        let _ = timeout(LEAVE_TIMEOUT, leave(socket)).await;
                    }
                    break end;
                }
            }
        };
        tracing::debug!(reason = ?end.reason, "signaling ended");
        self.state.send_replace(ClientState::Ended(end.reason));
        drop(self);
        if let Some(done) = end.done {
            // Nobody may be waiting any more.
            let _ = done.send(());
        }
    }

    /// Serves one connection until it is lost or the client ends.
    async fn serve(&mut self, socket: &mut Socket) -> Stop {
        let silence = sleep_until(clock::deadline(self.config.silence_timeout));
        tokio::pin!(silence);
        let mut moving: Option<Moving> = None;
        loop {
            // What is written to a connection that is given up may not arrive.
            let next = match moving {
                None => self.waiting.pop_front(),
                Some(_) => None,
            };
            if let Some((request, done)) = next {
                if let Err(lost) = self.write(socket, request, done).await {
                    return lost.into();
                }
                continue;
            }
            self.pending.retain(|_, done| !done.is_closed());
            let has_room = self.pending.len() < MAX_PENDING && self.waiting.len() < MAX_PENDING;
            tokio::select! {
                command = self.commands.recv(), if has_room => match take(command) {
                    Ok((request, done)) => self.waiting.push_back((request, done)),
                    Err(end) => return Stop::End(end),
                },
                received = receive(&self.events, socket) => {
                    let message = match received {
                        Ok(Received::Message(message)) => Some(message),
                        Ok(Received::SignOfLife) => None,
                        Err(lost) => return self.lost(lost, moving).await,
                    };
                    silence.as_mut().reset(clock::deadline(self.config.silence_timeout));
                    if let Some(message) = message
                        && let ControlFlow::Break(end) = self.on_message(message)
                    {
                        return Stop::End(end);
                    }
                }
                token = self.renewal.next() => {
                    if let Err(lost) = self.refresh(socket, token).await {
                        return lost.into();
                    }
                }
                () = due(self.reconnect.move_at()), if moving.is_none() => {
                    match self.start_moving(socket).await {
                        Ok(started) => moving = Some(started),
                        Err(lost) => return lost.into(),
                    }
                }
                () = self.hints.network.notified(), if moving.is_none() => {
                    self.reconnect.network_changed(clock::now());
                }
                moved = moved(&mut moving) => {
                    moving = None;
                    match moved {
                        Ok(fresh) => return self.settle(socket, fresh).await,
                        Err(error) => self.could_not_move(&error),
                    }
                }
                () = self.hints.reconnect.notified() => {
                    if let Err(lost) = socket.ping().await {
                        return lost.into();
                    }
                    let deadline = silence.deadline().min(self.hint_deadline());
                    silence.as_mut().reset(deadline);
                }
                () = &mut silence => return Lost(None).into(),
            }
        }
    }

    /// When a connection that was asked for a sign of life counts as lost.
    fn hint_deadline(&self) -> tokio::time::Instant {
        clock::deadline(match self.hints.is_urgent() {
            true => URGENT_HINT_TIMEOUT,
            false => HINT_TIMEOUT,
        })
    }

    // --- from one connection to another -----------------------------------------------------------

    /// Takes our place by a new connection, while the present one stands: once a server that drains has read
    /// what was written to it, for it would take nothing from us afterwards.
    async fn start_moving(&mut self, socket: &mut Socket) -> Result<Moving, Lost> {
        let (done, all_read) = oneshot::channel();
        if self.reconnect.is_asked_to_go() {
            self.write(socket, Request::Ping, done).await?;
        }
        let server = self.reconnect.begin_move();
        let (config, resume) = (self.config.clone(), self.resume.clone());
        Ok(Box::pin(async move {
            // A server that does not say so is not waited for; neither is one that was not asked.
            let _ = timeout(READ_TIMEOUT, all_read).await;
            let (socket, joined) = socket::join(&config, server, Some(resume), None).await?;
            Ok((socket, joined, server))
        }))
    }

    fn could_not_move(&mut self, error: &JoinError) {
        tracing::debug!(%error, "no other connection yet");
        self.reconnect.move_failed(clock::now(), random());
    }

    /// Hears the old connection out, and goes on with the new one.
    async fn settle(&mut self, old: &mut Socket, fresh: (Socket, Joined, usize)) -> Stop {
        let last_words = self.reconnect.last_words();
        let hearing = async {
            while let Ok(received) = receive(&self.events, old).await {
                if let Received::Message(message) = received
                    && let ControlFlow::Break(end) = self.on_message(message)
                {
                    return Err(end);
                }
            }
            Ok(())
        };
        // A connection that hangs is left to itself.
        if let Ok(Err(end)) = timeout(last_words, hearing).await {
            return Stop::End(end);
        }
        self.fail_pending();
        match self.arrive(fresh) {
            Ok(socket) => Stop::Moved(Box::new(socket)),
            Err(end) => Stop::End(end),
        }
    }

    /// The connection is lost. If another is under way, that may be why: it is waited for.
    async fn lost(&mut self, lost: Lost, moving: Option<Moving>) -> Stop {
        let Some(moving) = moving else {
            return lost.into();
        };
        match self.meanwhile(moving).await {
            Ok(Ok(fresh)) => {
                self.fail_pending();
                match self.arrive(fresh) {
                    Ok(socket) => Stop::Moved(Box::new(socket)),
                    Err(end) => Stop::End(end),
                }
            }
            // It may be our own new connection that has replaced this one.
            Ok(Err(_)) => Lost(None).into(),
            Err(end) => Stop::End(end),
        }
    }

    /// The client is in the room by a new connection.
    fn arrive(&mut self, (socket, joined, server): (Socket, Joined, usize)) -> Result<Socket, End> {
        let (now, life) = (clock::now(), ice_life(&joined));
        self.reconnect.connected(now, server, life, random());
        self.resume = joined.resume.clone();
        self.renewal.joined(&joined);
        self.refreshing = None;
        self.ice_servers.send_replace(joined.ice_servers.clone());
        let event = match joined.resumed {
            true => Event::Resumed(joined),
            false => Event::Rejoined(joined),
        };
        match self.tell(event) {
            ControlFlow::Continue(()) => {
                self.state.send_replace(ClientState::Connected);
                Ok(socket)
            }
            ControlFlow::Break(end) => Err(end),
        }
    }

    fn fail_pending(&mut self) {
        for (_, done) in self.pending.drain() {
            // The caller may have given up.
            let _ = done.send(Err(RequestError::ConnectionLost));
        }
    }

    // --- requests and messages --------------------------------------------------------------------

    /// Writes a request. Candidates go as notifications: they are many, and nothing depends on the
    /// answer.
    async fn write(
        &mut self,
        socket: &mut Socket,
        request: Request,
        done: Done,
    ) -> Result<(), Lost> {
        if done.is_closed() {
            return Ok(());
        }
        let is_notification = matches!(request, Request::Candidate { .. });
        let message = if is_notification {
            ClientMessage::notification(request)
        } else {
            self.last_id += 1;
            ClientMessage::request(MessageId::Number(self.last_id), request)
        };
        let written = socket.send(&message).await;
        let outcome = written.map_err(|_| RequestError::ConnectionLost);
        if is_notification || outcome.is_err() {
            // The caller may have given up.
            let _ = done.send(outcome);
        } else {
            self.pending.insert(self.last_id, done);
        }
        written
    }

    /// Shows the server a new grant, if there is one.
    async fn refresh(
        &mut self,
        socket: &mut Socket,
        token: Result<String, TokenError>,
    ) -> Result<(), Lost> {
        match token {
            Ok(token) => {
                self.last_id += 1;
                self.refreshing = Some(self.last_id);
                let id = MessageId::Number(self.last_id);
                let message = ClientMessage::request(id, Request::Refresh { token });
                socket.send(&message).await
            }
            Err(error) => {
                tracing::warn!(%error, "no new grant for the room");
                self.renewal.failed();
                Ok(())
            }
        }
    }

    /// Takes the answer to a `session.refresh`, if it is one.
    fn on_refreshed(&mut self, message: &ServerMessage) -> bool {
        let refreshing =
            |id: &MessageId| matches!(id, MessageId::Number(id) if Some(*id) == self.refreshing);
        match message {
            ServerMessage::Result { id, result } if refreshing(id) => {
                match ServerMessage::refreshed(result) {
                    Ok(expires_ms) => self.renewal.granted(expires_ms),
                    Err(_) => self.renewal.failed(),
                }
            }
            ServerMessage::Error {
                id: Some(id),
                error,
            } if refreshing(id) => {
                tracing::warn!(%error, "the server refused a new grant");
                self.renewal.failed();
            }
            _ => return false,
        }
        self.refreshing = None;
        true
    }

    fn on_message(&mut self, message: ServerMessage) -> ControlFlow<End> {
        if self.on_refreshed(&message) {
            return ControlFlow::Continue(());
        }
        match message {
            ServerMessage::Result { id, .. } => self.answer(&id, Ok(())),
            ServerMessage::Error {
                id: Some(id),
                error,
            } => self.answer(&id, Err(error.into())),
            ServerMessage::Error { id: None, error } => {
                tracing::warn!(%error, "the signaling server could not read a message");
            }
            ServerMessage::Notification(notification) => {
                if let Notification::Draining {
                    reconnect_after_ms,
                    url,
                } = &notification
                {
                    let named = url.as_deref().and_then(|url| self.config.learn(url));
                    named.into_iter().for_each(|n| self.reconnect.sent_to(n));
                    let after = Duration::from_millis(*reconnect_after_ms);
                    self.reconnect.draining(clock::now(), after);
                }
                if matches!(notification, Notification::Expiring { .. })
                    && self.refreshing.is_none()
                {
                    self.renewal.hurry();
                }
                if let Some(event) = Event::from_notification(notification) {
                    return self.tell(event);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn answer(&mut self, id: &MessageId, outcome: Result<(), RequestError>) {
        let MessageId::Number(id) = id else { return };
        if let Some(done) = self.pending.remove(id) {
            // The caller may have given up.
            let _ = done.send(outcome);
        }
    }

    /// Queues an event. Nobody listening is fine; a listener that does not read is not.
    fn tell(&self, event: Event) -> ControlFlow<End> {
        match self.events.try_send(event) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Continue(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                ControlFlow::Break(EndReason::EventsUnread.into())
            }
        }
    }

    /// Reconnects until it succeeds or there is no point in going on.
    async fn come_back(&mut self, Lost(code): Lost) -> Result<Socket, End> {
        self.fail_pending();
        let has_grants = self.config.token_source(self.reconnect.server()).is_some();
        self.reconnect.lost(clock::now(), code, has_grants)?;
        self.refreshing = None;
        let mut took = Duration::ZERO;
        loop {
            let urgent = self.hints.is_urgent();
            let next = self.reconnect.next_attempt(urgent, took, random());
            let Attempt {
                number: attempt,
                delay,
                server,
                patience,
            } = next;
            self.state
                .send_replace(ClientState::Reconnecting { attempt });
            tracing::debug!(attempt, ?delay, ?code, "signaling connection lost");
            if let ControlFlow::Break(end) = self.tell(Event::Reconnecting { attempt, delay }) {
                return Err(end);
            }
            let hints = Arc::clone(&self.hints);
            let pause = async {
                tokio::select! {
                    () = sleep(delay) => {}
                    () = hints.reconnect.notified() => {}
                    () = hints.network.notified() => {}
                }
            };
            self.meanwhile(pause).await?;
            let (config, resume) = (self.config.clone(), self.resume.clone());
            let (hints, begun) = (Arc::clone(&self.hints), clock::now());
            let joining = async move {
                tokio::select! {
                    joined = socket::join(&config, server, Some(resume), patience) => joined,
                    // It was begun on a network that is no more, or when nobody was in a hurry.
                    () = hints.reconnect.notified() => Err(JoinError::Timeout),
                    () = hints.network.notified() => Err(JoinError::Timeout),
                }
            };
            let error = match self.meanwhile(joining).await? {
                Ok((socket, joined)) => return self.arrive((socket, joined, server)),
                Err(error) => error,
            };
            took = clock::now().saturating_since(begun);
            tracing::debug!(attempt, %error, "reconnect failed");
            self.reconnect.attempt_failed(&error)?;
        }
    }

    /// Runs `future` while collecting requests, which wait for the connection to come back.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(future);
        loop {
            self.waiting.retain(|(_, done)| !done.is_closed());
            tokio::select! {
                output = &mut future => return Ok(output),
                command = self.commands.recv(), if self.waiting.len() < MAX_PENDING => {
                    self.waiting.push_back(take(command)?);
                }
            }
        }
    }
}

/// How long the ICE servers serve that the client was told of; for ever where there are no credentials.
fn ice_life(joined: &Joined) -> Option<Duration> {
    joined.ice_ttl_ms.map(Duration::from_millis)
}

async fn due(at: Option<Timestamp>) {
    match at {
        Some(at) => sleep_until(clock::instant(at)).await,
        None => std::future::pending().await,
    }
}

async fn moved(moving: &mut Option<Moving>) -> Result<(Socket, Joined, usize), JoinError> {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}

/// A request, or the end if the client is to leave.
fn take(command: Option<Command>) -> Result<(Request, Done), End> {
    let reason = EndReason::Left;
    match command {
        Some(Command::Call { request, done }) => Ok((request, done)),
        Some(Command::Leave { done }) => Err(End {
            reason,
            done: Some(done),
        }),
        None => Err(reason.into()),
    }
}

/// Reads the socket while there is room for what it may bring. Cancel safe.
async fn receive(events: &mpsc::Sender<Event>, socket: &mut Socket) -> Result<Received, Lost> {
    // An error means that nobody listens: the room is then as good as endless.
    let _room = events.reserve_many(event::RESERVED).await;
    socket.receive().await
}

async fn leave(mut socket: Socket) {
    let request = Request::Disconnect {
        to: None,
        reason: String::new(),
    };
    if socket
        .send(&ClientMessage::notification(request))
        .await
        .is_ok()
    {
        socket.close().await;
    }
}

/// Any number; the middle of the range where the operating system has none to give.
pub(crate) fn random() -> u32 {
    let mut bytes = [0, 0, 0, 0x80];
    // Falls back on the bytes above: jitter is not a secret.
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
