#![forbid(unsafe_code)]
// A server that is alone has nobody to hear from; with the feature nothing is excused.
#![cfg_attr(not(feature = "nats"), allow(dead_code))]
#![doc = include_str!("../README.md")]

mod accept;
mod access;
mod address;
mod api;
mod budget;
mod bus;
mod clock;
#[cfg(feature = "nats")]
mod cluster;
mod config;
mod connection;
mod health;
mod http;
mod ice_uri;
mod metrics;
mod outbox;
mod page;
mod probe;
mod process;
mod room_task;
mod rooms;
mod routes;
mod session;
mod store;
mod tls;
mod turn;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use roundtable_signaling_protocol::ConnectionId;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use address::{AddressRange, NotARange};
pub use config::{ConfigError, MessageRate, ServerConfig};
pub use roundtable_signaling_protocol::{IceServer, RoomLimits, TurnSecret};
pub use store::DataError;
pub use tls::{TlsConfig, TlsError};
pub use turn::TurnConfig;

#[cfg(feature = "nats")]
pub use cluster::{NatsConfig, NatsConfigError};

use crate::{
    access::Access,
    address::Addresses,
    budget::Budget,
    bus::{Bus, memory::MemoryBus},
    health::Health,
    metrics::Metrics,
    rooms::{Life, Rooms},
};

/// Connections that the kernel holds until they are accepted: a storm of joins fits.
const BACKLOG: u32 = 4096;

/// How long [`Server::run`] waits for tasks to end once they are told to.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server of a cluster is still there for peers that are on their way to another, after
/// the last connection is closed.
const LINGER: Duration = Duration::from_secs(3);

/// How often it looks whether they are there.
const LINGER_STEP: Duration = Duration::from_millis(20);

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file of NATS credentials cannot be read.
    #[error(
        "nats_credentials is wrong: cannot take them: {source}; give a .creds file that the server may read"
    )]
    NatsCredentials {
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// What all tasks of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) bus: Arc<dyn Bus>,
    /// Absent in an open server.
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) addresses: Addresses,
    /// Of what waits for clients.
    pub(crate) budget: Arc<Budget>,
    /// Cancelled when the server is to stop: the first stage of `life`.
    pub(crate) health: Health,
    pub(crate) stop: CancellationToken,
    pub(crate) life: Life,
    /// Every task of the server.
    pub(crate) tasks: TaskTracker,
    slots: Arc<Semaphore>,
    next_connection: AtomicU64,
}

impl Shared {
    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// How long clients have to go elsewhere when the server stops; none where there is no
    /// elsewhere.
    pub(crate) fn drain_grace(&self) -> Option<Duration> {
        self.bus.is_shared().then_some(self.config.drain)
    }

    /// Completes when no connection is open.
    async fn connections_gone(&self) {
        let all = u32::try_from(self.config.max_connections).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.slots.acquire_many(all).await;
    }

    /// Completes when no peer has its place here, and nothing remains that another server is to get.
    async fn peers_gone(&self) {
        while self.metrics.peers.get() + self.metrics.owing_rooms.get() > 0 {
            sleep(LINGER_STEP).await;
        }
    }
}

/// The keys of a closed server, which a handle can have read again.
#[derive(Debug, Clone)]
pub struct GrantKeys(Arc<Access>);

impl GrantKeys {
    /// Reads `keys.json` of the data directory again: its first key signs from now on, both count. Grants
    /// of keys that are no longer in it end at once. Gives the id of the key that signs. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`DataError`]; the keys then stay as they were.
    pub fn reload(&self) -> Result<String, DataError> {
        self.0.reload_keys().map(|id| id.to_string())
    }
}

/// A signaling server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    #[cfg(feature = "nats")]
    nats: Option<bus::nats::Prepared>,
}

impl Server {
    /// Checks the configuration and listens; connections wait until [`run`](Self::run). Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind(config: ServerConfig) -> Result<Self, BindError> {
        config.validate()?;
        let open_access = |root| Access::open(root, config.access.clone()).map(Arc::new);
        let access = config.data.as_deref().map(open_access).transpose()?;
        let address = config.listen;
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            #[cfg(unix)] // elsewhere the option means that two servers may share the port
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) =
            listen().map_err(|source| BindError::Listen { address, source })?;
        let (life, tasks) = (Life::default(), TaskTracker::new());
        let metrics = Arc::new(Metrics::default());
        let node = bus::random_node().map_err(|_| BindError::NoRandomness)?;
        #[cfg(feature = "nats")]
        let nats = {
            let prepare = |nats| bus::nats::Prepared::new(node.clone(), nats, Arc::clone(&metrics));
            let prepared = config.nats.as_ref().map(prepare).transpose();
            prepared.map_err(|source| BindError::NatsCredentials { source })?
        };
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new(node));
        #[cfg(feature = "nats")]
        let bus = nats.as_ref().map_or(bus, |nats| nats.bus());
        // What is shared says so itself, once it is reached.
        metrics.bus_up.add(u64::from(!bus.is_shared()));
        let budget = Arc::new(Budget::new(config.queue_budget));
        let rooms = Rooms::new(
            config.room.clone(),
            Arc::clone(&metrics),
            Arc::clone(&bus),
            Arc::clone(&budget),
            life.clone(),
            tasks.clone(),
        );
        let shared = Shared {
            rooms: Arc::new(rooms),
            bus,
            access,
            addresses: Addresses::new(config.max_per_address),
            budget,
            health: Health::new(&config),
            slots: Arc::new(Semaphore::new(config.max_connections)),
            next_connection: AtomicU64::new(0),
            config,
            metrics,
            stop: life.drain.clone(),
            life,
            tasks,
        };
        Ok(Self {
            listener,
            address,
            shared: Arc::new(shared),
            #[cfg(feature = "nats")]
            nats,
        })
    }

    /// The address that the server listens on, its port filled in.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The keys that sign grants, to be read again while the server runs; none in an open server.
    pub fn grant_keys(&self) -> Option<GrantKeys> {
        self.shared.access.clone().map(GrantKeys)
    }

    /// Serves until `shutdown` completes. Clients are then told to go elsewhere or to come back
    /// (`server.draining`); a server of a cluster gives them time for that
    /// ([`with_drain`](ServerConfig::with_drain)). Then the connections are closed; when this
    /// returns, nothing of the server is left.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (listener, shared) = (self.listener, self.shared);
        // Dropping the future stops the server just as well.
        let _stop = shared.life.guard();
        shared.health.start(&shared.tasks, &shared.stop);
        if let Some(tls) = shared.config.tls.clone() {
            shared.tasks.spawn(tls.watch(shared.stop.clone()));
        }
        #[cfg(feature = "nats")]
        if let Some(nats) = self.nats {
            start_bus(&shared, |events| nats.run(events));
        }
        tokio::select! {
            () = shutdown => {}
            () = accept::run(&listener, &shared) => {}
        }
        drop(listener);
        shared.life.drain.cancel();
        if let Some(grace) = shared.drain_grace() {
            // Whoever is still here then is put out.
            let _ = timeout(grace, shared.connections_gone()).await;
        }
        shared.life.stop.cancel();
        if timeout(END_TIMEOUT, shared.connections_gone())
            .await
            .is_err()
        {
            tracing::warn!("connections left open at exit");
        }
        if shared.bus.is_shared() {
            // Who finds nobody here has to enter anew.
            let _ = timeout(LINGER, shared.peers_gone()).await;
        }
        shared.life.end.cancel();
        shared.tasks.close();
        if timeout(END_TIMEOUT, shared.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = shared.tasks.len(), "tasks left at exit");
        }
    }
}

/// Starts what keeps the bus going, and what hands on its news.
#[cfg(feature = "nats")]
fn start_bus<F: Future<Output = ()> + Send + 'static>(
    shared: &Arc<Shared>,
    run: impl FnOnce(tokio::sync::mpsc::Sender<bus::BusEvent>) -> F,
) {
    let (events, news) = tokio::sync::mpsc::channel(bus::EVENT_QUEUE);
    let (rooms, bus) = (Arc::clone(&shared.rooms), Arc::clone(&shared.bus));
    let (end, access) = (shared.life.end.clone(), shared.access.clone());
    let running = run(events);
    shared.tasks.spawn(async move {
        tokio::select! {
            ((), ()) = async { tokio::join!(running, cluster::run(news, rooms, bus, access)) } => {}
            () = end.cancelled() => {}
        }
    });
}
