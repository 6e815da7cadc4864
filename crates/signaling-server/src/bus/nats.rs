//! The bus over NATS. Rosters are a JetStream key-value bucket, changed by the expected sequence of
//! a key's last message; letters are requests to a server's own subject, where *no responders* says
//! that the server is gone; leases are renewed by a message a second.
//!
//! The JetStream API is spoken as it was in NATS 2.9: later servers take it too, and the client
//! library's own calls want more.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, RequestErrorKind, ServerAddr, Subscriber,
    connection::State as Connection,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::StreamExt;
use roundtable_core::RoomId;
use roundtable_signaling_protocol::{NodeId, Roster};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
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

/// How often a server renews its lease.
const RENEWAL: Duration = Duration::from_secs(1);

/// How long a lease lasts. Two less than the ten seconds in which a dead server's peers are gone.
const LEASE: Duration = Duration::from_secs(6);

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

/// JetStream: the expected sequence is not the last.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// JetStream: there is no such message.
const NO_MESSAGE: u64 = 10_037;

#[derive(Debug)]
pub(crate) struct NatsBus {
    node: NodeId,
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

    fn api(&self, call: &str) -> String {
        format!("$JS.API.STREAM.{call}.{}", self.stream)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Since when the bus can be used without a break; absent while it cannot.
    up_since: Option<Instant>,
    /// When each other server was last heard of.
    heard: BTreeMap<NodeId, Instant>,
    /// Which making of the bucket this is: another one has lost its records.
    created: Option<String>,
    /// Until when nobody new is admitted.
    settles: Option<Instant>,
}

// --- what JetStream says ---------------------------------------------------------------------------

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    err_code: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Reply<T> {
    Failure { error: Failure },
    Success(T),
}

#[derive(Deserialize)]
struct StreamInfo {
    created: String,
    #[serde(default)]
    state: StreamState,
}

#[derive(Deserialize, Default)]
struct StreamState {
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

#[derive(Deserialize)]
struct Got {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    seq: Revision,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Ack {
    seq: Revision,
}

#[derive(Deserialize)]
struct Deleted {}

#[derive(Serialize, Deserialize)]
struct Changed {
    revision: Revision,
}

// --- the bus ----------------------------------------------------------------------------------------

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
                leases: client.subscribe(names.leases()).await?,
            })
        };
        match subscriptions.await {
            Ok(subscriptions) => {
                let manager = Manager {
                    bus: Arc::clone(&bus),
                    events,
                    prepare_at: None,
                    answering: JoinSet::new(),
                };
                tokio::join!(
                    manager.run(connection, subscriptions),
                    bus.renew_lease(&client)
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
    leases: Subscriber,
}

/// Watches the connection and hands on what comes.
struct Manager {
    bus: Arc<NatsBus>,
    events: mpsc::Sender<BusEvent>,
    /// When to prepare the store, while it is not.
    prepare_at: Option<Instant>,
    /// Letters that wait for a room's answer; each ends when it comes, or with the room.
    answering: JoinSet<()>,
}

impl Manager {
    async fn run(mut self, mut connection: mpsc::Receiver<Event>, mut from: Subscriptions) {
        let mut ticks = interval_at(clock::deadline(RENEWAL), RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at = None;
        loop {
            let prepare_at = self.prepare_at;
            let prepare = async {
                match prepare_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = connection.recv() => self.on_connection(event).await,
                () = prepare => if self.prepare().await {
                    look_at = Some(clock::deadline(LEASE + RENEWAL));
                },
                Some(message) = from.letters.next() => self.on_letter(message).await,
                Some(message) = from.changes.next() => self.on_change(&message).await,
                Some(message) = from.notices.next() => self.on_notice(&message).await,
                Some(message) = from.leases.next() => self.bus.on_lease(&message),
                now = ticks.tick() => {
                    let was_due = look_at.is_some_and(|at| at <= now);
                    if was_due {
                        look_at = None;
                    }
                    if self.bus.forget_expired(now) || was_due {
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
            Event::SlowConsumer(_) => self.tell(BusEvent::Reset).await,
            other => tracing::debug!(%other, "NATS"),
        }
    }

    /// Makes the store ready; tells whether it is.
    async fn prepare(&mut self) -> bool {
        self.prepare_at = None;
        match timeout(TIMEOUT, self.bus.make_bucket()).await {
            Ok(Ok(created)) => {
                self.bus.set_up(created);
                tracing::info!("NATS is here");
                self.tell(BusEvent::Reset).await;
                true
            }
            Ok(Err(Unreachable)) | Err(_) => {
                self.prepare_at = Some(clock::deadline(RETRY));
                false
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

fn last_token(subject: &str) -> Option<RoomId> {
    RoomId::new(subject.rsplit('.').next()?).ok()
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
        match self.state().up_since {
            Some(_) => self.client(),
            None => Err(Unreachable),
        }
    }

    fn set_down(&self) {
        let was_up = self.state().up_since.take().is_some();
        self.metrics.bus_up.subtract(u64::from(was_up));
    }

    fn set_up(&self, created: String) {
        let now = clock::deadline(Duration::ZERO);
        let mut state = self.state();
        self.metrics.bus_up.add(u64::from(state.up_since.is_none()));
        state.up_since = Some(now);
        // Nobody's lease runs out for what could not be heard.
        for heard in state.heard.values_mut() {
            *heard = now;
        }
        if state.created.as_ref() != Some(&created) {
            state.settles = Some(now + SETTLING);
            state.created = Some(created);
        }
    }

    async fn renew_lease(&self, client: &Client) {
        let mut ticks = interval_at(clock::deadline(Duration::ZERO), RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let name = Bytes::copy_from_slice(self.node.as_str().as_bytes());
        loop {
            ticks.tick().await;
            if client.connection_state() == Connection::Connected {
                // A lost connection is noticed elsewhere.
                let _ = client.publish(self.names.leases(), name.clone()).await;
            }
        }
    }

    fn on_lease(&self, message: &Message) {
        let name = std::str::from_utf8(&message.payload).ok();
        let node = name.and_then(|name| NodeId::new(name).ok());
        if let Some(node) = node {
            let now = clock::deadline(Duration::ZERO);
            self.state().heard.insert(node, now);
        }
    }

    /// Forgets the servers whose lease has run out; tells whether there were any.
    fn forget_expired(&self, now: Instant) -> bool {
        let mut state = self.state();
        if state.up_since.is_none() {
            return false;
        }
        let before = state.heard.len();
        state
            .heard
            .retain(|_, heard| now.saturating_duration_since(*heard) <= LEASE);
        state.heard.len() != before
    }

    /// Asks JetStream.
    async fn api<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &serde_json::Value,
    ) -> Result<Reply<T>, Unreachable> {
        let client = self.client()?;
        let reply = client.request(self.names.api(call), encode(body)).await;
        let reply = reply.map_err(|error| {
            tracing::debug!(%error, call, "JetStream does not answer");
            Unreachable
        })?;
        serde_json::from_slice(&reply.payload).map_err(|_| Unreachable)
    }

    /// Makes the bucket if it is not there; tells when it was made.
    async fn make_bucket(&self) -> Result<String, Unreachable> {
        let config = json!({
            "name": self.names.stream,
            "subjects": [format!("{}.>", self.names.bucket)],
            "storage": "memory",
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": true,
            "num_replicas": 1,
        });
        if let Reply::Success(info) = self.api::<StreamInfo>("CREATE", &config).await? {
            return Ok(info.created);
        }
        // There is one, made otherwise, as by an operator who wants replicas.
        match self.api::<StreamInfo>("INFO", &json!({})).await? {
            Reply::Success(info) => Ok(info.created),
            Reply::Failure { .. } => Err(Unreachable),
        }
    }

    async fn get(&self, room: &RoomId) -> Result<Record, Unreachable> {
        self.usable()?;
        let last = json!({ "last_by_subj": self.names.record(room) });
        match self.api::<Got>("MSG.GET", &last).await? {
            Reply::Success(Got { message }) => {
                let text = BASE64_STANDARD.decode(message.data);
                let text = text.map_err(|_| Unreachable)?;
                // Taken for empty, it would be written over: who is in the room would be forgotten.
                let roster: Roster = serde_json::from_slice(&text).map_err(|error| {
                    tracing::error!(%room, %error, "a record cannot be read");
                    Unreachable
                })?;
                Ok(Record {
                    revision: message.seq,
                    roster: Arc::new(roster),
                })
            }
            Reply::Failure { error } if error.err_code == NO_MESSAGE => Ok(Record::default()),
            Reply::Failure { .. } => Err(Unreachable),
        }
    }

    async fn put(
        &self,
        room: &RoomId,
        expected: Revision,
        roster: &Roster,
    ) -> Result<Stored, Unreachable> {
        let client = self.usable()?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        let sent = client
            .request_with_headers(self.names.record(room), headers, encode(roster))
            .await;
        let ack = sent.map_err(|error| {
            tracing::debug!(%error, %room, "a record cannot be stored");
            Unreachable
        })?;
        let revision = match serde_json::from_slice::<Reply<Ack>>(&ack.payload) {
            Ok(Reply::Success(Ack { seq })) => seq,
            Ok(Reply::Failure { error }) if error.err_code == WRONG_LAST_SEQUENCE => {
                return Ok(Stored::Conflict);
            }
            Ok(Reply::Failure { .. }) | Err(_) => return Err(Unreachable),
        };
        let changed = encode(&Changed { revision });
        // Whoever misses it reads the record by and by.
        let _ = client
            .publish(self.names.changed(room.as_str()), changed)
            .await;
        if !roster.is_empty() {
            return Ok(Stored::At(revision));
        }
        // By its number, so that a record that somebody has put in its place stays.
        let body = json!({ "seq": revision, "no_erase": true });
        match self.api::<Deleted>("MSG.DELETE", &body).await {
            Ok(_) => Ok(Stored::At(0)),
            Err(Unreachable) => Ok(Stored::At(revision)),
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

    async fn list(&self) -> Result<Vec<RoomId>, Unreachable> {
        let filter = json!({ "subjects_filter": format!("{}.>", self.names.bucket) });
        match self.api::<StreamInfo>("INFO", &filter).await? {
            Reply::Success(info) => {
                let subjects = info.state.subjects.into_keys();
                Ok(subjects.filter_map(|s| last_token(&s)).collect())
            }
            Reply::Failure { .. } => Err(Unreachable),
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
        if state.up_since.is_none() {
            return Err(Duration::from_secs(1));
        }
        match state.settles {
            Some(settled) if now < settled => Err(settled - now),
            _ => Ok(()),
        }
    }

    fn is_gone(&self, node: &NodeId) -> bool {
        let now = clock::deadline(Duration::ZERO);
        let state = self.state();
        let Some(up_since) = state.up_since else {
            return false;
        };
        let heard = state.heard.get(node).copied().unwrap_or(up_since);
        now.saturating_duration_since(heard.max(up_since)) > LEASE
    }

    fn leads(&self) -> bool {
        let state = self.state();
        let first = state.heard.keys().next();
        state.up_since.is_some() && first.is_none_or(|first| self.node < *first)
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
