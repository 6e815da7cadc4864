//! One task for each WebSocket: parses what comes in, writes what the room sends, keeps the time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use roundtable_signaling_protocol::{
    Announce, ClientMessage, CloseReason, ConnectionId, ErrorCode, Joined, Notification, Refusal,
    Reply, Request, RpcError,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite;

use crate::{
    Shared,
    accept::Slot,
    clock,
    metrics::Gauged,
    outbox::{self, Delivery, Inbox},
    rooms::{Input, Join},
};

/// How long a closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Clients are told to come back at a random moment of this span after the server stops.
const RECONNECT_SPREAD_MS: u64 = 1000;

/// Why a connection ends.
enum Exit {
    /// The server closes it.
    Close(CloseReason),
    /// The client closed it as one who leaves.
    ClientLeft,
    /// It broke.
    Lost,
}

/// A place in a room.
struct Place {
    room: mpsc::Sender<Input>,
    inbox: Inbox,
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
    pings: Interval,
}

/// Serves a WebSocket from upgrade to close.
pub(crate) async fn run(socket: WebSocket, slot: Slot, shared: Arc<Shared>) {
    let _counted = Gauged::new(&shared.metrics.connections);
    let ping_interval = shared.config.ping_interval;
    let mut pings = interval_at(clock::deadline(ping_interval), ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = Connection {
        id: shared.next_connection(),
        socket,
        shared: Arc::clone(&shared),
        pings,
    };
    let exit = match connection.enter().await {
        Ok((mut place, reply)) => {
            let Err(exit) = connection.stay(&mut place, reply).await;
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
        let deadline = sleep_until(clock::deadline(self.shared.config.announce_timeout));
        tokio::pin!(deadline);
        loop {
            let message = tokio::select! {
                message = self.socket.recv() => read(message)?,
                () = &mut deadline => return Err(Exit::Close(CloseReason::AnnounceTimeout)),
                () = stop.cancelled() => return Err(Exit::Close(CloseReason::Draining)),
            };
            let Some(text) = message else { continue };
            match self.on_first_text(&text).await? {
                Ok(entered) => return Ok(entered),
                Err(refusal) => self.refuse(None, &refusal).await?,
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

    /// Asks the room for a place.
    async fn ask_for_place(
        &mut self,
        announce: Announce,
    ) -> Option<Result<(Place, Joined), RpcError>> {
        let config = &self.shared.config;
        let room = self.shared.rooms.get(&announce.room);
        let (outbox, inbox) = outbox::channel(config.max_queued_messages, config.max_queued_bytes);
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
            (Place { room, inbox }, joined)
        }))
    }

    /// Answers the announce and serves the peer until there is a reason to stop.
    async fn stay(&mut self, place: &mut Place, reply: String) -> Result<Infallible, Exit> {
        self.write(Some(place), Message::text(reply)).await?;
        let stop = self.shared.stop.clone();
        let silence_timeout = self.shared.config.silence_timeout;
        let silence = sleep_until(clock::deadline(silence_timeout));
        tokio::pin!(silence);
        loop {
            tokio::select! {
                message = self.socket.recv() => {
                    silence.as_mut().reset(clock::deadline(silence_timeout));
                    if let Some(text) = read(message)? {
                        self.on_text(place, &text).await?;
                    }
                }
                delivery = place.inbox.recv() => match delivery {
                    Delivery::Text(text) => self.write(Some(place), Message::text(text)).await?,
                    // A room that stops with the server finishes everyone.
                    Delivery::Finished if stop.is_cancelled() => {
                        return Err(Exit::Close(CloseReason::Draining));
                    }
                    Delivery::Finished => return Err(Exit::Close(CloseReason::Left)),
                    Delivery::Close(reason) => return Err(Exit::Close(reason)),
                },
                _ = self.pings.tick() => {
                    self.write(Some(place), Message::Ping(Vec::new().into())).await?;
                }
                () = &mut silence => return Err(Exit::Lost),
                () = stop.cancelled() => return Err(Exit::Close(CloseReason::Draining)),
            }
        }
    }

    async fn on_text(&mut self, place: &mut Place, text: &str) -> Result<(), Exit> {
        let ClientMessage { id, request } = match ClientMessage::parse(text) {
            Ok(message) => message,
            Err(refusal) => return self.refuse(Some(place), &refusal).await,
        };
        self.shared.metrics.count_request(&request);
        match request {
            Request::Ping => {
                let server_time_ms = clock::wall().as_millis();
                let reply = Reply::Pong { server_time_ms };
                match id {
                    Some(id) => {
                        self.write(Some(place), Message::text(reply.encode(&id)))
                            .await
                    }
                    None => Ok(()),
                }
            }
            request => {
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
        let closed = async {
            match place {
                Some(place) => place.inbox.closed().await,
                None => std::future::pending().await,
            }
        };
        let write_timeout = self.shared.config.write_timeout;
        tokio::select! {
            written = timeout(write_timeout, self.socket.send(message)) => match written {
                Ok(Ok(())) => {
                    self.shared.metrics.sent_messages.add(1);
                    Ok(())
                }
                Ok(Err(_)) => Err(Exit::Lost),
                Err(_) => Err(Exit::Close(CloseReason::SlowConsumer)),
            },
            reason = closed => Err(Exit::Close(reason)),
            () = self.shared.stop.cancelled() => Err(Exit::Close(CloseReason::Draining)),
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
            if reason == Some(CloseReason::Draining) {
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

/// The text of a message, `None` for what only shows life.
fn read(message: Option<Result<Message, axum::Error>>) -> Result<Option<String>, Exit> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Some(text.as_str().to_owned())),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Binary(_))) => Err(Exit::Close(CloseReason::Protocol)),
        Some(Ok(Message::Close(frame))) => match frame {
            Some(frame) if matches!(frame.code, 1000 | 1001) => Err(Exit::ClientLeft),
            _ => Err(Exit::Lost),
        },
        Some(Err(error)) => match error.into_inner().downcast_ref() {
            Some(tungstenite::Error::Capacity(_)) => Err(Exit::Close(CloseReason::TooLarge)),
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
