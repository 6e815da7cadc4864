//! Connections that others open to us, and who is waiting for them.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn::{Connection, Incoming, RecvStream};
use roundtable_core::{AuthorId, Channel, CloseCode};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    task::JoinSet,
};

use crate::{QuicConfig, driver, tls};

/// Incoming connections that are in their handshake or held; more are refused unanswered.
const MAX_PENDING: usize = 64;
/// From here on a newcomer must first prove its address (RFC 9000 §8.1.2), so that forged ones
/// cannot take all the places.
const RETRY_ABOVE: usize = 16;
/// Connections held although nobody awaits their author.
const MAX_HELD: usize = 16;

/// A connection whose author is proven and whose control stream is open.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) author: AuthorId,
    pub(crate) connection: Connection,
    pub(crate) control: RecvStream,
}

/// Who is awaited.
#[derive(Debug)]
pub(crate) struct Lobby {
    own: AuthorId,
    expected: Mutex<HashMap<AuthorId, oneshot::Sender<Arrival>>>,
    changed: Notify,
    places: Semaphore,
}

impl Lobby {
    pub(crate) fn new(own: AuthorId) -> Self {
        Self {
            own,
            expected: Mutex::default(),
            changed: Notify::new(),
            places: Semaphore::new(MAX_HELD),
        }
    }

    /// Awaits `author` for as long as the result lives. A later call for the same author takes an
    /// earlier one's place.
    pub(crate) fn expect(&self, author: AuthorId) -> Expectation<'_> {
        let (sender, arrival) = oneshot::channel();
        self.lock().insert(author, sender);
        self.changed.notify_waiters();
        Expectation {
            lobby: self,
            arrival,
        }
    }

    /// Hands the arrival to whoever awaits its author; holds it for a while if nobody does yet.
    async fn admit(&self, mut arrival: Arrival, config: &QuicConfig) {
        let connection = arrival.connection.clone();
        let mut expiry = pin!(tokio::time::sleep(config.hold));
        let mut place = None;
        loop {
            let changed = self.changed.notified();
            match self.hand_over(arrival) {
                Ok(()) => return,
                Err(refused) => arrival = refused,
            }
            if place.is_none() {
                let Ok(free) = self.places.try_acquire() else {
                    return turn_away(&arrival);
                };
                place = Some(free);
            }
            tokio::select! {
                biased; // so that a simulation repeats
                () = changed => {}
                () = &mut expiry => return turn_away(&arrival),
                _ = connection.closed() => return,
            }
        }
    }

    fn hand_over(&self, arrival: Arrival) -> Result<(), Arrival> {
        match self.lock().remove(&arrival.author) {
            Some(waiting) => waiting.send(arrival),
            None => Err(arrival),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AuthorId, oneshot::Sender<Arrival>>> {
        // Nothing panics while it holds the lock.
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn turn_away(arrival: &Arrival) {
    tracing::warn!(author = ?arrival.author, "refused a connection that nobody awaits");
    let code = driver::code(CloseCode::IDENTITY_MISMATCH);
    arrival
        .connection
        .close(code, b"nobody here awaits this author");
}

/// One author being awaited.
#[derive(Debug)]
pub(crate) struct Expectation<'a> {
    lobby: &'a Lobby,
    arrival: oneshot::Receiver<Arrival>,
}

impl Expectation<'_> {
    /// The author's connection, or `None` if a later expectation has taken this one's place.
    pub(crate) async fn arrival(&mut self) -> Option<Arrival> {
        (&mut self.arrival).await.ok()
    }
}

impl Drop for Expectation<'_> {
    fn drop(&mut self) {
        self.arrival.close();
        self.lobby.lock().retain(|_, sender| !sender.is_closed());
    }
}

/// Admits incoming connections until the endpoint closes or this is aborted.
pub(crate) async fn run(
    endpoint: quinn::Endpoint,
    lobby: Arc<Lobby>,
    config: Arc<QuicConfig>,
    alive: watch::Receiver<bool>,
) {
    let mut pending = JoinSet::new();
    loop {
        tokio::select! {
            biased; // places that have become free first
            Some(_) = pending.join_next() => {}
            incoming = endpoint.accept() => match incoming {
                None => return,
                Some(incoming) if pending.len() >= MAX_PENDING => incoming.refuse(),
                Some(incoming) if pending.len() >= RETRY_ABOVE && incoming.may_retry() => {
                    let _ = incoming.retry(); // fails only if it may not
                }
                Some(incoming) => {
                    let (lobby, config, alive) = (lobby.clone(), config.clone(), alive.clone());
                    pending.spawn(async move {
                        welcome(incoming, &lobby, &config).await;
                        drop(alive);
                    });
                }
            },
        }
    }
}

async fn welcome(incoming: Incoming, lobby: &Lobby, config: &QuicConfig) {
    let handshake = handshake(incoming, lobby.own);
    if let Ok(Some(arrival)) = tokio::time::timeout(config.handshake_deadline, handshake).await {
        lobby.admit(arrival, config).await;
    }
}

/// Completes TLS and waits for the control stream, by which the peer says that of all the
/// connections it may have tried, this is the one.
async fn handshake(incoming: Incoming, own: AuthorId) -> Option<Arrival> {
    let connection = incoming.accept().ok()?.await.ok()?;
    let author = tls::proven_author(&connection)?;
    if author == own {
        let code = driver::code(CloseCode::HANDSHAKE_REFLECTED);
        connection.close(code, b"this is the acceptor's own key");
        return None;
    }
    let mut control = connection.accept_uni().await.ok()?;
    match driver::read_channel(&mut control).await {
        Ok(Some(Channel::Control)) => Some(Arrival {
            author,
            connection,
            control,
        }),
        Ok(None) => None,
        Ok(Some(_)) | Err(_) => {
            let code = driver::code(CloseCode::PROTOCOL);
            connection.close(code, b"the first stream must be control");
            None
        }
    }
}
