#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod accept;
mod access;
mod address;
mod api;
mod clock;
mod config;
mod connection;
mod http;
#[allow(dead_code)]
mod ice_uri;
mod metrics;
mod outbox;
mod page;
mod rooms;
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
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use address::{AddressRange, NotARange};
pub use config::{ConfigError, MessageRate, ServerConfig};
pub use roundtable_signaling_protocol::{IceServer, RoomLimits, TurnSecret};
pub use store::DataError;
pub use tls::{TlsConfig, TlsError};
pub use turn::TurnConfig;

use crate::{access::Access, address::Addresses, metrics::Metrics, rooms::Rooms};

/// Connections that the kernel holds until they are accepted: a storm of joins fits.
const BACKLOG: u32 = 4096;

/// How long [`Server::run`] waits for connections to close once it is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

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
}

/// What all tasks of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rooms: Rooms,
    /// Absent in an open server.
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) addresses: Addresses,
    /// Cancelled when the server is to stop.
    pub(crate) stop: CancellationToken,
    /// Every task of the server.
    pub(crate) tasks: TaskTracker,
    slots: Arc<Semaphore>,
    next_connection: AtomicU64,
}

impl Shared {
    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }
}

/// A signaling server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
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
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let metrics = Arc::new(Metrics::default());
        let shared = Shared {
            rooms: Rooms::new(
                config.room.clone(),
                Arc::clone(&metrics),
                stop.clone(),
                tasks.clone(),
            ),
            access,
            addresses: Addresses::new(config.max_per_address),
            slots: Arc::new(Semaphore::new(config.max_connections)),
            next_connection: AtomicU64::new(0),
            config,
            metrics,
            stop,
            tasks,
        };
        Ok(Self {
            listener,
            address,
            shared: Arc::new(shared),
        })
    }

    /// The address that the server listens on, its port filled in.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes. Clients are then told to come back
    /// (`server.draining`) and the connections closed; when this returns, at most 5 s later,
    /// nothing of the server is left.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self {
            listener, shared, ..
        } = self;
        // Dropping the future stops the server just as well.
        let _stop = shared.stop.clone().drop_guard();
        if let Some(tls) = shared.config.tls.clone() {
            shared.tasks.spawn(tls.watch(shared.stop.clone()));
        }
        tokio::select! {
            () = shutdown => {}
            () = accept::run(&listener, &shared) => {}
        }
        drop(listener);
        shared.stop.cancel();
        shared.tasks.close();
        if timeout(DRAIN_TIMEOUT, shared.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = shared.tasks.len(), "connections left open at exit");
        }
    }
}
