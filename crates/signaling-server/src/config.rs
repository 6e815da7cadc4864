//! How the server is to run.

use std::{net::SocketAddr, time::Duration};

use roundtable_signaling_protocol::{IceServer, RoomLimits, limits};

/// What is wrong with a [`ServerConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Access grants do not exist yet, so a server that is not open could let nobody in.
    #[error(
        "access grants come with a later version: start with --open to let anyone who reaches the server join any room (for development and trusted networks)"
    )]
    GrantsNotYet,
    /// A room takes at least one peer, at most [`MAX_PEERS`](limits::MAX_PEERS).
    #[error("max_peers must be 1 to {}", limits::MAX_PEERS)]
    MaxPeers,
    /// At least one connection must be allowed.
    #[error("max_connections must be at least 1")]
    MaxConnections,
    /// A timeout of zero would close every connection at once.
    #[error("timeouts must be longer than zero")]
    ZeroTimeout,
}

/// How a [`Server`](crate::Server) runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) open: bool,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) room: RoomLimits,
    pub(crate) ice_servers: Vec<IceServer>,
    pub(crate) max_connections: usize,
    pub(crate) max_queued_messages: usize,
    pub(crate) max_queued_bytes: usize,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) announce_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) silence_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            open: false,
            allowed_origins: Vec::new(),
            room: RoomLimits::default(),
            ice_servers: Vec::new(),
            max_connections: 16_384,
            max_queued_messages: 64,
            max_queued_bytes: 128 * 1024,
            first_byte_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            announce_timeout: limits::ANNOUNCE_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            silence_timeout: limits::SILENCE_TIMEOUT,
            write_timeout: Duration::from_secs(10),
        }
    }
}

impl ServerConfig {
    /// The defaults, listening on `listen`; port 0 takes any free one.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            ..Self::default()
        }
    }

    /// Lets anyone join any room, without a grant. Default: off.
    #[must_use]
    pub fn with_open(mut self, open: bool) -> Self {
        self.open = open;
        self
    }

    /// Further origins (`https://example.org`) whose pages may connect. A page that the server
    /// serves itself may always, and so may a client that sends no `Origin` (no browser).
    #[must_use]
    pub fn with_allowed_origins(mut self, origins: impl IntoIterator<Item = String>) -> Self {
        self.allowed_origins = origins.into_iter().collect();
        self
    }

    /// The bounds of every room.
    #[must_use]
    pub fn with_room_limits(mut self, limits: RoomLimits) -> Self {
        self.room = limits;
        self
    }

    /// Most peers in a room. Default 10, at most 50; a full mesh costs each peer one link to
    /// every other.
    #[must_use]
    pub fn with_max_peers(mut self, max_peers: usize) -> Self {
        self.room.max_peers = max_peers;
        self
    }

    /// STUN and TURN servers that peers are told to use. Default: none.
    #[must_use]
    pub fn with_ice_servers(mut self, ice_servers: Vec<IceServer>) -> Self {
        self.ice_servers = ice_servers;
        self
    }

    /// Most TCP connections at once; further ones are closed at once. Default 16,384; each needs a
    /// file descriptor and, announced, about 10 KB.
    #[must_use]
    pub fn with_max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Most messages and bytes queued for one client; one that falls further behind is evicted as
    /// a slow consumer. Default 64 and 128 KiB.
    #[must_use]
    pub fn with_queue(mut self, max_messages: usize, max_bytes: usize) -> Self {
        self.max_queued_messages = max_messages.max(1);
        self.max_queued_bytes = max_bytes;
        self
    }

    /// How long a TCP connection may take to send its first byte (default 10 s), and its request's
    /// header (default 5 s).
    #[must_use]
    pub fn with_http_timeouts(mut self, first_byte: Duration, header: Duration) -> Self {
        self.first_byte_timeout = first_byte;
        self.header_timeout = header;
        self
    }

    /// How long a WebSocket may take to announce. Default 5 s.
    #[must_use]
    pub fn with_announce_timeout(mut self, announce_timeout: Duration) -> Self {
        self.announce_timeout = announce_timeout;
        self
    }

    /// How often clients are pinged (default 15 s) and after how much silence they count as lost
    /// (default 45 s).
    #[must_use]
    pub fn with_heartbeat(mut self, ping_interval: Duration, silence_timeout: Duration) -> Self {
        self.ping_interval = ping_interval;
        self.silence_timeout = silence_timeout;
        self
    }

    /// How long a client may take to receive one message before it counts as a slow consumer.
    /// Default 10 s.
    #[must_use]
    pub fn with_write_timeout(mut self, write_timeout: Duration) -> Self {
        self.write_timeout = write_timeout;
        self
    }

    /// Checks the whole; [`Server::bind`](crate::Server::bind) does so first.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting and the mend.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let timeouts = [
            self.first_byte_timeout,
            self.header_timeout,
            self.announce_timeout,
            self.ping_interval,
            self.silence_timeout,
            self.write_timeout,
        ];
        if !self.open {
            Err(ConfigError::GrantsNotYet)
        } else if !(1..=limits::MAX_PEERS).contains(&self.room.max_peers) {
            Err(ConfigError::MaxPeers)
        } else if self.max_connections == 0 {
            Err(ConfigError::MaxConnections)
        } else if timeouts.contains(&Duration::ZERO) {
            Err(ConfigError::ZeroTimeout)
        } else {
            Ok(())
        }
    }
}
