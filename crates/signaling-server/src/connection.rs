//! One task for each WebSocket: parses what comes in, writes what the room sends, keeps the time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use roundtable_core::{Timestamp, WallTime};
use roundtable_signaling_protocol::{
    Announce, ClientMessage, CloseReason, ConnectionId, ErrorCode, Joined, MessageId, Notification,
    Refusal, Reply, Request, RpcError, Spent, TokenBucket,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};
use tracing::Span;

use crate::{
    Shared,
    accept::Slot,
    clock,
    metrics::Gauged,
    outbox::{self, Delivery, Inbox},
    room_task::{Input, Join},
    session::{Moment, Session},
    turn::TurnConfig,
};

/// How long a closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Clients are told to come back at a random moment of this span after the server stops.
const RECONNECT_SPREAD_MS: u64 = 1000;

/// Why a connection ends.
#[derive(Debug)]
enum Exit {
    /// The server closes it.
    Close(CloseReason),
    /// The client closed it as one who leaves.
    ClientLeft,
    /// It broke.
    Lost,
}

impl Exit {
    fn log(&self) {
        use CloseReason::{Protocol, RateLimited, SlowConsumer, TooLarge};
        match self {
            Self::Close(why @ (Protocol | RateLimited | SlowConsumer | TooLarge)) => {
                tracing::warn!(?why, "closed");
            }
            other => tracing::debug!(why = ?other, "gone"),
        }
    }
}

/// A place in a room.
struct Place {
    room: mpsc::Sender<Input>,
    inbox: Inbox,
    /// Absent in an open server.
    session: Option<Session>,
    /// Who it is, for the log.
    span: Span,
}

impl Place {
    /// Tells the room that this connection is no more.
    async fn give_up(self, connection: ConnectionId, exit: &Exit) {
        let input = match exit {
            Exit::ClientLeft => Input::Request {
                connection,
                id: None,
                request: Request::Disconnect {
                    to: None,
                    reason: String::new(),
                },
            },
            Exit::Close(CloseReason::Unauthorized) => Input::Expired { connection },
            Exit::Close(_) | Exit::Lost => Input::Lost { connection },
        };
        // The room is gone only when the server stops.
        let _ = self.room.send(input).await;
    }
}

struct Connection {
    id: ConnectionId,
    socket: WebSocket,
    shared: Arc<Shared>,
    /// When the client gave its last sign of life.
    heard_at: Timestamp,
    /// When it is asked for one again.
    ping_at: Timestamp,
    /// What may still be sent; absent where the server sets no bound.
    bucket: Option<TokenBucket>,
    /// Whether the client knows that the server drains.
    told_to_go: bool,
}

/// Serves a WebSocket from upgrade to close.
pub(crate) async fn run(socket: WebSocket, slot: Slot, shared: Arc<Shared>) {
    let _counted = Gauged::new(&shared.metrics.connections);
    let rate = shared.config.message_rate;
    let now = clock::now();
    let mut connection = Connection {
        id: shared.next_connection(),
        socket,
        shared: Arc::clone(&shared),
        heard_at: now,
        ping_at: now + shared.config.ping_interval,
        bucket: rate.map(|rate| TokenBucket::new(now, rate.burst, rate.per_second)),
        told_to_go: false,
    };
    let exit = match connection.enter().await {
        Ok((mut place, reply)) => {
            place.span.in_scope(|| tracing::debug!("joined"));
            let Err(exit) = connection.stay(&mut place, reply).await;
            place.span.in_scope(|| exit.log());
            place.give_up(connection.id, &exit).await;
            exit
        }
        Err(exit) => exit,
    };
    connection.close(exit).await;
    drop(slot);
}

impl Connection {
    /// Waits for the announce until it succeeds or time is up; gives the place and what to answer.
    async fn enter(&mut self) -> Result<(Place, String), Exit> {
        let stop = self.shared.stop.clone();
        let ends = clock::now() + self.shared.config.announce_timeout;
        let deadline = sleep_until(clock::instant(ends));
        tokio::pin!(deadline);
        loop {
            let message = tokio::select! {
                // What has come in time counts, though this task may be late to read it.
                biased;
                () = stop.cancelled() => return Err(Exit::Close(CloseReason::Draining)),
                message = self.socket.recv() => message,
                () = &mut deadline => return Err(Exit::Close(CloseReason::AnnounceTimeout)),
            };
            if let Some(text) = self.admit(None, message).await? {
                match self.on_first_text(&text).await? {
                    Ok(entered) => return Ok(entered),
                    Err(refusal) => {
                        self.refuse(None, &refusal).await?;
                        if refusal.error.code == ErrorCode::Unauthorized {
                            return Err(Exit::Close(CloseReason::Unauthorized));
                        }
                    }
                }
            }
            // Who never stops talking would otherwise never be late.
            if ends <= clock::now() {
                return Err(Exit::Close(CloseReason::AnnounceTimeout));
            }
        }
    }

    async fn on_first_text(
        &mut self,
        text: &str,
    ) -> Result<Result<(Place, String), Refusal>, Exit> {
        let ClientMessage { id, request } = match ClientMessage::parse(text) {
            Ok(message) => message,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.shared.metrics.count_request(&request);
        let (id, error) = match (id, request) {
            (Some(id), Request::Announce(announce)) => {
                // The room is gone only when the server stops.
                let outcome = self.ask_for_place(*announce).await;
                match outcome.ok_or(Exit::Close(CloseReason::Draining))? {
                    Ok((place, joined)) => {
                        let reply = Reply::Joined(Box::new(joined)).encode(&id);
                        return Ok(Ok((place, reply)));
                    }
                    Err(error) => (Some(id), error),
                }
            }
            (id, _) => {
                let message = "a request of peer.announce comes first";
                (id, RpcError::new(ErrorCode::NotAnnounced, message))
            }
        };
        Ok(Err(Refusal {
            is_notification: id.is_none(),
            id,
            error,
        }))
    }

    /// The text of what came, unless it is nothing but a sign of life or the client sends too much.
    async fn admit(
        &mut self,
        place: Option<&mut Place>,
        message: Option<Result<Message, axum::Error>>,
    ) -> Result<Option<Utf8Bytes>, Exit> {
        let text = read(message)?;
        self.heard_at = clock::now();
        let bucket = self.bucket.as_mut();
        match bucket.map_or(Spent::Granted, |bucket| bucket.spend(self.heard_at)) {
            Spent::Granted => return Ok(text),
            Spent::Denied(wait) => {
                if let Some(text) = text {
                    self.refuse(place, &too_fast(&text, wait)).await?;
                }
            }
            Spent::Exhausted => {
                self.shared.metrics.rate_closes.add(1);
                return Err(Exit::Close(CloseReason::RateLimited));
            }
        }
        Ok(None)
    }

    /// Asks the room for a place, for a peer that may have one.
    async fn ask_for_place(
        &mut self,
        announce: Announce,
    ) -> Option<Result<(Place, Joined), RpcError>> {
        let session = match &self.shared.access {
            Some(access) => match Session::begin(access, &announce) {
                Ok(session) => Some(session),
                Err(error) => return Some(Err(error.into())),
            },
            None => None,
        };
        let config = &self.shared.config;
        let room = self.shared.rooms.get(&announce.room);
        let (outbox, inbox) = outbox::channel(
            config.max_queued_messages,
            config.max_queued_bytes,
            &self.shared.budget,
        );
        let (reply, answer) = oneshot::channel();
        let join = Join {
            connection: self.id,
            announce,
            outbox,
            reply,
            room: room.clone(),
        };
        room.send(Input::Join(Box::new(join))).await.ok()?;
        Some(answer.await.ok()?.map(|mut joined| {
            joined.ice_servers.clone_from(&config.ice_servers);
            let turn = config.turn.as_ref();
            joined.ice_ttl_ms = turn.map(TurnConfig::ttl_ms);
            let turn = turn.map(|turn| turn.ice_server(clock::wall(), &joined.peer_id));
            joined.ice_servers.extend(turn);
            joined.servers = self.shared.bus.elsewhere();
            let expires = session.as_ref().map(Session::expires);
            joined.grant_expires_ms = expires.map(WallTime::as_millis);
            let (room_id, peer_id) = (&joined.room, &joined.peer_id);
            let span = tracing::info_span!("peer", room = %room_id, %peer_id);
            let place = Place {
                room,
                inbox,
                session,
                span,
            };
            (place, joined)
        }))
    }

    /// Answers the announce and serves the peer until there is a reason to stop.
    async fn stay(&mut self, place: &mut Place, reply: String) -> Result<Infallible, Exit> {
        self.write(Some(place), Message::text(reply)).await?;
        // One timer and one token, made once: whatever is waited for here is looked at with every message.
        let due = self.due(place);
        let alarm = sleep_until(clock::instant(due));
        let mut armed = Some(due);
        let ending = self.shared.life.drain.clone().cancelled_owned();
        tokio::pin!(alarm, ending);
        loop {
            tokio::select! {
                message = self.socket.recv() => {
                    if let Some(text) = self.admit(Some(place), message).await? {
                        self.on_text(place, &text).await?;
                    }
                }
                delivery = place.inbox.recv() => match delivery {
                    Delivery::Text(text) => self.write(Some(place), Message::text(text)).await?,
                    Delivery::Finished(reason) | Delivery::Close(reason) => {
                        return Err(Exit::Close(reason));
                    }
                },
                () = &mut alarm => {
                    self.on_alarm(place).await?;
                    armed = None;
                }
                () = revoked(&mut place.session) => return Err(self.expired()),
                () = &mut ending => {
                    if self.told_to_go {
                        return Err(Exit::Close(CloseReason::Draining));
                    }
                    if let Some(grace) = self.shared.drain_grace() {
                        self.tell_to_go(place, grace).await?;
                    }
                    self.told_to_go = true;
                    ending.set(self.shared.life.stop.clone().cancelled_owned());
                }
            }
            // What moves away is looked at when the alarm goes off in vain.
            let due = self.due(place);
            if armed.is_none_or(|armed| due < armed) {
                alarm.as_mut().reset(clock::instant(due));
                armed = Some(due);
            }
        }
    }

    /// When the next thing is due: a ping, the end of patience, a grant's end.
    fn due(&self, place: &Place) -> Timestamp {
        let silence = self.heard_at + self.shared.config.silence_timeout;
        let first = self.ping_at.min(silence);
        let session = place.session.as_ref().map(Session::due);
        session.map_or(first, |session| first.min(session))
    }

    async fn on_alarm(&mut self, place: &mut Place) -> Result<(), Exit> {
        let now = clock::now();
        if self.heard_at + self.shared.config.silence_timeout <= now {
            return Err(Exit::Lost);
        }
        if self.ping_at <= now {
            self.ping_at = now + self.shared.config.ping_interval;
            let ping = Message::Ping(Vec::new().into());
            self.write(Some(place), ping).await?;
        }
        match place.session.as_mut().and_then(Session::look) {
            Some(Moment::Expiring(left)) => {
                let expires_in_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                let notification = Notification::Expiring { expires_in_ms };
                self.write(Some(place), Message::text(notification.encode()))
                    .await
            }
            Some(Moment::Ended) => Err(self.expired()),
            None => Ok(()),
        }
    }

    /// The grant has ended, or was revoked.
    fn expired(&self) -> Exit {
        self.shared.metrics.expirations.add(1);
        Exit::Close(CloseReason::Unauthorized)
    }

    /// Asks the client to go to another server, at a moment of its own.
    async fn tell_to_go(&mut self, place: &mut Place, grace: Duration) -> Result<(), Exit> {
        let spread = u64::try_from(grace.as_millis() / 2).unwrap_or(u64::MAX);
        let notification = Notification::Draining {
            reconnect_after_ms: random_below(spread.max(1)),
            url: self.elsewhere(),
        };
        self.write(Some(place), Message::text(notification.encode()))
            .await
    }

    /// One of the other servers, if they say where they are: their turn comes by chance.
    fn elsewhere(&self) -> Option<String> {
        let mut urls = self.shared.bus.elsewhere();
        let chosen = random_below(u64::try_from(urls.len()).ok()?.max(1));
        let chosen = usize::try_from(chosen).ok().filter(|n| *n < urls.len())?;
        Some(urls.swap_remove(chosen))
    }

    async fn on_text(&mut self, place: &mut Place, text: &str) -> Result<(), Exit> {
        let ClientMessage { id, request } = match ClientMessage::parse(text) {
            Ok(message) => message,
            Err(refusal) => return self.refuse(Some(place), &refusal).await,
        };
        self.shared.metrics.count_request(&request);
        match (request, &mut place.session) {
            (Request::Ping, _) => {
                let server_time_ms = clock::wall().as_millis();
                let reply = Reply::Pong { server_time_ms };
                self.answer(place, id, Ok(reply)).await
            }
            (Request::Refresh { token }, Some(session)) => {
                let outcome = session.refresh(&token).map_err(RpcError::from);
                let outcome = outcome.map(|expires| Reply::Refreshed {
                    grant_expires_ms: expires.as_millis(),
                });
                self.answer(place, id, outcome).await
            }
            (request, _) => {
                let connection = self.id;
                let input = Input::Request {
                    connection,
                    id,
                    request,
                };
                // The room is gone only when the server stops.
                let sent = place.room.send(input).await;
                sent.map_err(|_| Exit::Close(CloseReason::Draining))
            }
        }
    }

    /// Answers a request that is not the room's; a notification is not answered.
    async fn answer(
        &mut self,
        place: &mut Place,
        id: Option<MessageId>,
        outcome: Result<Reply, RpcError>,
    ) -> Result<(), Exit> {
        match (outcome, id) {
            (Ok(reply), Some(id)) => {
                self.write(Some(place), Message::text(reply.encode(&id)))
                    .await
            }
            (Ok(_), None) => Ok(()),
            (Err(error), id) => {
                let refusal = Refusal {
                    is_notification: id.is_none(),
                    id,
                    error,
                };
                self.refuse(Some(place), &refusal).await
            }
        }
    }

    async fn refuse(&mut self, place: Option<&mut Place>, refusal: &Refusal) -> Result<(), Exit> {
        self.shared.metrics.count_error(refusal.error.code);
        if refusal.is_notification {
            return Ok(());
        }
        let text = refusal.error.encode(refusal.id.as_ref());
        self.write(place, Message::text(text)).await
    }

    /// Writes one message; who does not take it in time is a slow consumer.
    async fn write(&mut self, place: Option<&mut Place>, message: Message) -> Result<(), Exit> {
        // Most often the message goes out at once, and nothing else need even be made.
        let closed = async {
            match place {
                Some(place) => place.inbox.closed().await,
                None => std::future::pending().await,
            }
        };
        let stopped = async { self.shared.life.stop.cancelled().await };
        let too_late = async { sleep(self.shared.config.write_timeout).await };
        tokio::select! {
            biased;
            written = self.socket.send(message) => match written {
                Ok(()) => {
                    self.shared.metrics.sent_messages.add(1);
                    Ok(())
                }
                Err(_) => Err(Exit::Lost),
            },
            reason = closed => Err(Exit::Close(reason)),
            () = stopped => Err(Exit::Close(CloseReason::Draining)),
            () = too_late => Err(Exit::Close(CloseReason::SlowConsumer)),
        }
    }

    /// Closes the socket as well as it can be closed.
    async fn close(mut self, exit: Exit) {
        let reason = match exit {
            Exit::Close(reason) => Some(reason),
            Exit::ClientLeft => None,
            Exit::Lost => return,
        };
        let closing = async {
            let is_alone = self.shared.drain_grace().is_none();
            if reason == Some(CloseReason::Draining) && (is_alone || !self.told_to_go) {
                let notification = Notification::Draining {
                    reconnect_after_ms: random_below(RECONNECT_SPREAD_MS),
                    url: None,
                };
                self.socket
                    .send(Message::text(notification.encode()))
                    .await?;
            }
            if let Some(reason) = reason {
                let frame = CloseFrame {
                    code: reason.code(),
                    reason: reason.text().into(),
                };
                self.socket.send(Message::Close(Some(frame))).await?;
            }
            // What the client still sends is read, lest its end be reset before it reads ours.
            while let Some(Ok(_)) = self.socket.recv().await {}
            Ok::<_, axum::Error>(())
        };
        // A client that does not follow is dropped.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

async fn revoked(session: &mut Option<Session>) {
    match session {
        Some(session) => session.revoked().await,
        None => std::future::pending().await,
    }
}

/// What a client is told that does not slow down.
fn too_fast(text: &str, wait: Duration) -> Refusal {
    let (id, is_notification) = match ClientMessage::parse(text) {
        Ok(message) => (message.id.clone(), message.id.is_none()),
        Err(refusal) => (refusal.id, refusal.is_notification),
    };
    let error = RpcError::new(ErrorCode::RateLimited, "too many messages: slow down");
    Refusal {
        id,
        is_notification,
        error: error.with_retry_after(wait),
    }
}

/// The text of a message, `None` for what only shows life.
fn read(message: Option<Result<Message, axum::Error>>) -> Result<Option<Utf8Bytes>, Exit> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Binary(_))) => Err(Exit::Close(CloseReason::Protocol)),
        Some(Ok(Message::Close(frame))) => match frame {
            Some(frame) if matches!(frame.code, 1000 | 1001) => Err(Exit::ClientLeft),
            _ => Err(Exit::Lost),
        },
        Some(Err(error)) => match error.into_inner().downcast_ref() {
            Some(tungstenite::Error::Capacity(_)) => Err(Exit::Close(CloseReason::TooLarge)),
            // A connection that breaks, too, is no proper end to tungstenite.
            Some(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                Err(Exit::Lost)
            }
            Some(tungstenite::Error::Utf8(_) | tungstenite::Error::Protocol(_)) => {
                Err(Exit::Close(CloseReason::Protocol))
            }
            _ => Err(Exit::Lost),
        },
        None => Err(Exit::Lost),
    }
}

fn random_below(bound: u64) -> u64 {
    // The middle, where the operating system has no random bytes: this is no secret.
    getrandom::u64().map_or(bound / 2, |random| random % bound)
}
