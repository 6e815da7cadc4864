//! The bus over NATS. Rosters are a JetStream key-value bucket, changed by the expected sequence of
//! a key's last message; letters are requests to a server's own subject, where *no responders* says
//! that the server is gone; leases are renewed by a message a second.

mod jetstream;
mod leases;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event, Message, RequestErrorKind, ServerAddr, Subscriber,
    connection::State as Connection,
};
use bytes::Bytes;
use futures_util::StreamExt;
use roundtable_core::RoomId;
use roundtable_signaling_protocol::{NodeId, Roster};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};

use super::{
    Answer, Bus, BusEvent, Letter, Notice, Pending, Record, Revision, RouteError, Stored,
    Unreachable,
};
use crate::{clock, cluster::NatsConfig, metrics::Metrics};
use leases::{Leases, RENEWAL};

/// How long nobody new is admitted after the records were lost: the servers put their peers back
/// meanwhile.
const SETTLING: Duration = Duration::from_secs(2);

/// How long the store, and another server, may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// After how long the store is prepared again if that failed.
const RETRY: Duration = Duration::from_millis(200);

/// Longest pause between two attempts to reconnect.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Messages of one subscription that wait to be looked at; more are lost, and every record is then
/// read again.
const SUBSCRIPTION_QUEUE: usize = 4096;

/// Events of the connection that wait to be looked at.
const CONNECTION_QUEUE: usize = 64;

/// Shortest pause between two times that every record is read again because messages were lost.
const RESET_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct NatsBus {
    node: NodeId,
    /// What it tells the others each second: its name, and its public URL if it has one.
    lease: Bytes,
    names: Names,
    metrics: Arc<Metrics>,
    client: OnceLock<Client>,
    state: Mutex<State>,
}

/// Subjects and the stream's name, all beginning with the cluster's.
#[derive(Debug)]
struct Names {
    bucket: String,
    stream: String,
    cluster: String,
}

impl Names {
    fn new(cluster: &str) -> Self {
        Self {
            bucket: format!("$KV.{cluster}_rooms"),
            stream: format!("KV_{cluster}_rooms"),
            cluster: cluster.to_owned(),
        }
    }

    fn record(&self, room: &RoomId) -> String {
        format!("{}.{room}", self.bucket)
    }

    fn changed(&self, room: &str) -> String {
        format!("{}.changed.{room}", self.cluster)
    }

    fn letters(&self, node: &NodeId, room: &str) -> String {
        format!("{}.node.{node}.{room}", self.cluster)
    }

    fn notices(&self) -> String {
        format!("{}.notice", self.cluster)
    }

    fn leases(&self) -> String {
        format!("{}.lease", self.cluster)
    }

    /// Where nobody listens.
    fn nobody(&self) -> String {
        format!("{}.nobody", self.cluster)
    }

    fn api(&self, call: &str) -> String {
        format!("$JS.API.STREAM.{call}.{}", self.stream)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Whether the bus can be used.
    is_up: bool,
    leases: Leases,
    /// Which making of the bucket this is: another one has lost its records.
    created: Option<String>,
    /// Until when nobody new is admitted.
    settles: Option<Instant>,
}

impl State {
    /// While this server's own lease may have run out, as after it stood still, it had best be silent.
    fn can_be_used(&self) -> bool {
        self.is_up && self.leases.is_held(clock::deadline(Duration::ZERO))
    }
}

/// What has to be done before the server begins: all that can go wrong in the configuration.
#[derive(Debug)]
pub(crate) struct Prepared {
    options: ConnectOptions,
    addresses: Vec<ServerAddr>,
    bus: Arc<NatsBus>,
    connection: mpsc::Receiver<Event>,
}

impl Prepared {
    pub(crate) fn new(
        node: NodeId,
        config: &NatsConfig,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (events, connection) = mpsc::channel(CONNECTION_QUEUE);
        let mut options = ConnectOptions::new()
            .name(format!("roundtable {node}"))
            .no_echo()
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .ping_interval(Duration::from_secs(2))
            .subscription_capacity(SUBSCRIPTION_QUEUE)
            .reconnect_delay_callback(|attempts| match attempts {
                0 | 1 => Duration::ZERO,
                _ => LONGEST_PAUSE,
            })
            .event_callback(move |event| {
                let events = events.clone();
                async move {
                    // The receiver goes only with the server.
                    let _ = events.send(event).await;
                }
            });
        if let Some(path) = &config.credentials {
            options = options.credentials(&std::fs::read_to_string(path)?)?;
        }
        let bus = NatsBus {
            lease: match &config.public_url {
                Some(url) => format!("{node} {url}").into(),
                None => node.as_str().to_owned().into(),
            },
            node,
            names: Names::new(&config.cluster),
            metrics,
            client: OnceLock::new(),
            state: Mutex::default(),
        };
        Ok(Self {
            options,
            addresses: config.addresses.clone(),
            bus: Arc::new(bus),
            connection,
        })
    }

    pub(crate) fn bus(&self) -> Arc<NatsBus> {
        Arc::clone(&self.bus)
    }

    /// Keeps the bus going for as long as it is polled.
    pub(crate) async fn run(self, events: mpsc::Sender<BusEvent>) {
        let Self {
            options,
            addresses,
            bus,
            connection,
        } = self;
        let client = match options.connect(addresses).await {
            Ok(client) => client,
            Err(error) => {
                // With retries from the start this is what cannot be mended by waiting.
                tracing::error!(%error, "NATS cannot be used");
                return;
            }
        };
        let _ = bus.client.set(client.clone());
        let names = &bus.names;
        let subscriptions = async {
            Ok::<_, async_nats::SubscribeError>(Subscriptions {
                letters: client.subscribe(names.letters(&bus.node, "*")).await?,
                changes: client.subscribe(names.changed("*")).await?,
                notices: client.subscribe(names.notices()).await?,
            })
        };
        let leases = client.subscribe(names.leases());
        match tokio::try_join!(subscriptions, leases) {
            Ok((subscriptions, leases)) => {
                let manager = Manager {
                    bus: Arc::clone(&bus),
                    events,
                    prepare_at: None,
                    reset_at: None,
                    answering: JoinSet::new(),
                };
                tokio::join!(
                    manager.run(connection, subscriptions),
                    bus.keep_leases(&client, leases)
                );
            }
            Err(error) => tracing::error!(%error, "NATS cannot be used"),
        }
    }
}

struct Subscriptions {
    letters: Subscriber,
    changes: Subscriber,
    notices: Subscriber,
}

/// Watches the connection and hands on what comes.
struct Manager {
    bus: Arc<NatsBus>,
    events: mpsc::Sender<BusEvent>,
    /// When to prepare the store, while it is not.
    prepare_at: Option<Instant>,
    /// When to say that messages were lost, if any were.
    reset_at: Option<Instant>,
    /// Letters that wait for a room's answer; each ends when it comes, or with the room.
    answering: JoinSet<()>,
}

impl Manager {
    async fn run(mut self, mut connection: mpsc::Receiver<Event>, mut from: Subscriptions) {
        let mut ticks = interval_at(clock::deadline(RENEWAL), RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (prepare, reset) = (due(self.prepare_at), due(self.reset_at));
            tokio::select! {
                Some(event) = connection.recv() => self.on_connection(event).await,
                () = prepare => self.prepare().await,
                () = reset => self.reset().await,
                Some(message) = from.letters.next() => self.on_letter(message).await,
                Some(message) = from.changes.next() => self.on_change(&message).await,
                Some(message) = from.notices.next() => self.on_notice(&message).await,
                _ = ticks.tick() => {
                    let is_any_gone = self.bus.state().leases.expire();
                    if is_any_gone {
                        self.tell(BusEvent::Gone).await;
                    }
                }
                else => return,
            }
        }
    }

    async fn tell(&self, event: BusEvent) {
        // The receiver goes only with the server.
        let _ = self.events.send(event).await;
    }

    async fn on_connection(&mut self, event: Event) {
        match event {
            Event::Connected => self.prepare_at = Some(clock::deadline(Duration::ZERO)),
            Event::Disconnected | Event::Closed => {
                tracing::warn!("NATS is away: nobody new is admitted");
                self.prepare_at = None;
                self.bus.set_down();
            }
            Event::SlowConsumer(_) => {
                self.reset_at
                    .get_or_insert_with(|| clock::deadline(RESET_PAUSE));
            }
            other => tracing::debug!(%other, "NATS"),
        }
    }

    /// Has every record read again.
    async fn reset(&mut self) {
        self.reset_at = None;
        self.tell(BusEvent::Reset).await;
    }

    /// Makes the store ready, or tries again later.
    async fn prepare(&mut self) {
        self.prepare_at = None;
        match timeout(TIMEOUT, self.bus.make_ready()).await {
            Ok(Ok(created)) => {
                self.bus.set_up(created);
                tracing::info!("NATS is here");
                self.reset().await;
            }
            Ok(Err(Unreachable)) | Err(_) => {
                self.prepare_at = Some(clock::deadline(RETRY));
            }
        }
    }

    async fn on_letter(&mut self, message: Message) {
        let (Some(reply), Some(room)) = (message.reply, last_token(&message.subject)) else {
            return;
        };
        let Ok(letter) = serde_json::from_slice::<Letter>(&message.payload) else {
            tracing::warn!("a server of the cluster wrote what cannot be read");
            return;
        };
        let (answer, answered) = oneshot::channel();
        let Some(client) = self.bus.client.get().cloned() else {
            return;
        };
        while self.answering.try_join_next().is_some() {}
        self.answering.spawn(async move {
            if let Ok(answer) = answered.await {
                // Who asked notices by the time it takes.
                let _ = client.publish(reply, encode(&answer)).await;
            }
        });
        self.tell(BusEvent::Asked {
            room,
            letter,
            answer,
        })
        .await;
    }

    async fn on_notice(&self, message: &Message) {
        match serde_json::from_slice(&message.payload) {
            Ok(notice) => self.tell(BusEvent::Noticed(notice)).await,
            Err(error) => {
                tracing::warn!(%error, "a server of the cluster wrote what cannot be read");
            }
        }
    }

    async fn on_change(&self, message: &Message) {
        let room = last_token(&message.subject);
        let changed = serde_json::from_slice::<Changed>(&message.payload);
        if let (Some(room), Ok(Changed { revision })) = (room, changed) {
            self.tell(BusEvent::Changed { room, revision }).await;
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn last_token(subject: &str) -> Option<RoomId> {
    RoomId::new(subject.rsplit('.').next()?).ok()
}

/// What a server tells the others when it has stored a record.
#[derive(Serialize, Deserialize)]
struct Changed {
    revision: Revision,
}

fn encode(value: &impl Serialize) -> Bytes {
    // Fails for maps with keys that are not strings; none of ours has such keys.
    serde_json::to_vec(value).unwrap_or_default().into()
}

impl NatsBus {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, while requests have a chance: it would otherwise keep them for later.
    fn client(&self) -> Result<&Client, Unreachable> {
        let client = self.client.get().ok_or(Unreachable)?;
        match client.connection_state() {
            Connection::Connected => Ok(client),
            _ => Err(Unreachable),
        }
    }

    fn usable(&self) -> Result<&Client, Unreachable> {
        match self.state().can_be_used() {
            true => self.client(),
            false => Err(Unreachable),
        }
    }

    /// Makes what is needed, and has the others know of this server; tells when the bucket was made.
    async fn make_ready(&self) -> Result<String, Unreachable> {
        let created = self.make_bucket().await?;
        match self.renew_lease(self.client()?).await {
            true => Ok(created),
            false => Err(Unreachable),
        }
    }

    fn set_down(&self) {
        let mut state = self.state();
        state.leases.pause();
        let was_up = std::mem::replace(&mut state.is_up, false);
        self.metrics.bus_up.subtract(u64::from(was_up));
    }

    fn set_up(&self, created: String) {
        let now = clock::deadline(Duration::ZERO);
        let mut state = self.state();
        self.metrics.bus_up.add(u64::from(!state.is_up));
        state.is_up = true;
        state.leases.begin(now);
        if state.created.as_ref() != Some(&created) {
            state.settles = Some(now + SETTLING);
            state.created = Some(created);
        }
    }

    async fn send(
        &self,
        node: &NodeId,
        room: &RoomId,
        letter: Letter,
    ) -> Result<Answer, RouteError> {
        // A server that is only cut off from the store can still be reached.
        let client = self.client().map_err(|Unreachable| RouteError::Dead)?;
        let subject = self.names.letters(node, room.as_str());
        let answer = client.request(subject, encode(&letter)).await;
        match answer {
            Ok(message) => serde_json::from_slice(&message.payload).map_err(|_| RouteError::Silent),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(RouteError::Dead),
            Err(_) => Err(RouteError::Silent),
        }
    }
}

impl Bus for NatsBus {
    fn node(&self) -> &NodeId {
        &self.node
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn admits(&self) -> Result<(), Duration> {
        let now = clock::deadline(Duration::ZERO);
        let state = self.state();
        if !state.can_be_used() {
            return Err(Duration::from_secs(1));
        }
        match state.settles {
            Some(settled) if now < settled => Err(settled - now),
            _ => Ok(()),
        }
    }

    fn is_gone(&self, node: &NodeId) -> bool {
        self.state().leases.is_gone(node)
    }

    fn elsewhere(&self) -> Vec<String> {
        self.state().leases.urls(&self.node)
    }

    fn leads(&self) -> bool {
        self.state().leases.puts_first(&self.node)
    }

    fn load<'a>(&'a self, room: &'a RoomId) -> Pending<'a, Result<Record, Unreachable>> {
        Box::pin(self.get(room))
    }

    fn store<'a>(
        &'a self,
        room: &'a RoomId,
        expected: Revision,
        roster: &'a Arc<Roster>,
    ) -> Pending<'a, Result<Stored, Unreachable>> {
        Box::pin(self.put(room, expected, roster))
    }

    fn ask<'a>(
        &'a self,
        node: &'a NodeId,
        room: &'a RoomId,
        letter: Letter,
    ) -> Pending<'a, Result<Answer, RouteError>> {
        Box::pin(self.send(node, room, letter))
    }

    fn tell_all(&self, notice: Notice) -> Pending<'_, ()> {
        Box::pin(async move {
            if let Ok(client) = self.client() {
                // Who misses it asks when it is back.
                let _ = client.publish(self.names.notices(), encode(&notice)).await;
            }
        })
    }

    fn rooms(&self) -> Pending<'_, Result<Vec<RoomId>, Unreachable>> {
        Box::pin(self.list())
    }
}
