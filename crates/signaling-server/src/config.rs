//! How the server is to run.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use roundtable_signaling_protocol::{IceServer, RoomLimits, limits};

use crate::{AddressRange, TlsConfig, TurnConfig, access::AccessLimits, ice_uri::IceUri};

/// What is wrong with a [`ServerConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A closed server keeps keys and rooms; an open one has none.
    #[error(
        "choose how peers get in: --data DIR keeps keys and rooms there and lets in who holds a grant; --open lets anyone into any room (for development)"
    )]
    OpenOrData,
    /// Anyone who reaches an open server may use it.
    #[error(
        "--open lets anyone in, and {0} is not a loopback address: add --i-know if that is meant, or use --data DIR"
    )]
    OpenToAll(SocketAddr),
    /// No grant may live longer than [`MAX_GRANT_LIFE`](limits::MAX_GRANT_LIFE).
    #[error("grant_life_secs must be 1 to {}", limits::MAX_GRANT_LIFE.as_secs())]
    GrantLife,
    /// What clients would be told to use is no TURN server.
    #[error(
        "turn is wrong: give turn:HOST:PORT or turns:HOST:PORT, at least one, and a turn_life_secs above 0"
    )]
    Turn,
    /// What clients would be told to use is no STUN server.
    #[error("stun is wrong: give stun:HOST:PORT, such as stun:stun.example.org:3478")]
    Stun,
    /// No page has such an origin.
    #[error("allow_origin is wrong: give a scheme and a host, such as https://example.org")]
    Origin,
    /// Nobody could say anything.
    #[error("message_burst and messages_per_second must be at least 1")]
    MessageRate,
    /// A room takes at least one peer, at most [`MAX_PEERS`](limits::MAX_PEERS).
    #[error("max_peers must be 1 to {}", limits::MAX_PEERS)]
    MaxPeers,
    /// At least one connection must be allowed, in all and from each address; in all, at most `u32::MAX`.
    #[error(
        "max_connections must be 1 to {}, and max_connections_per_address at least 1",
        u32::MAX
    )]
    MaxConnections,
    /// A client whose queue is full would be put out because of the others.
    #[error("max_queued_mib must be at least 1, and four times what waits for one client")]
    QueueBudget,
    /// A timeout of zero would close every connection at once.
    #[error("timeouts must be longer than zero, and so must room_life_secs")]
    ZeroTimeout,
}

/// How many messages each connection may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageRate {
    /// At once.
    pub burst: u32,
    /// In the long run.
    pub per_second: u32,
}

/// How a [`Server`](crate::Server) runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) open: bool,
    open_to_all: bool,
    pub(crate) data: Option<PathBuf>,
    pub(crate) access: AccessLimits,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) turn: Option<TurnConfig>,
    pub(crate) message_rate: Option<MessageRate>,
    pub(crate) max_per_address: usize,
    pub(crate) trusted_proxies: Vec<AddressRange>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) room: RoomLimits,
    pub(crate) ice_servers: Vec<IceServer>,
    pub(crate) ice_check_interval: Duration,
    pub(crate) ice_required: bool,
    pub(crate) max_connections: usize,
    pub(crate) max_queued_messages: usize,
    pub(crate) max_queued_bytes: usize,
    pub(crate) queue_budget: usize,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) exchange_timeout: Duration,
    pub(crate) announce_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) silence_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) drain: Duration,
    #[cfg(feature = "nats")]
    pub(crate) nats: Option<crate::NatsConfig>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            open: false,
            open_to_all: false,
            data: None,
            access: AccessLimits {
                grant_life: limits::MAX_GRANT_LIFE,
                room_life: limits::ROOM_LIFE,
                max_rooms: 10_000,
            },
            tls: None,
            turn: None,
            message_rate: Some(MessageRate {
                burst: 500,
                per_second: 100,
            }),
            max_per_address: 1024,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            room: RoomLimits::default(),
            ice_servers: Vec::new(),
            ice_check_interval: Duration::from_secs(30),
            ice_required: false,
            max_connections: 16_384,
            max_queued_messages: 64,
            max_queued_bytes: 128 * 1024,
            queue_budget: 512 * 1024 * 1024,
            first_byte_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(30),
            announce_timeout: limits::ANNOUNCE_TIMEOUT,
            ping_interval: limits::PING_INTERVAL,
            silence_timeout: limits::SILENCE_TIMEOUT,
            write_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            #[cfg(feature = "nats")]
            nats: None,
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

    /// The address to listen on. Default 127.0.0.1:8080; port 0 takes any free one.
    #[must_use]
    pub fn with_listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// Lets anyone join any room, without a grant. Default: off.
    #[must_use]
    pub fn with_open(mut self, open: bool) -> Self {
        self.open = open;
        self
    }

    /// Lets an open server listen on addresses that others can reach. Default: off, and refused.
    #[must_use]
    pub fn with_open_to_all(mut self, open_to_all: bool) -> Self {
        self.open_to_all = open_to_all;
        self
    }

    /// Lets in only who holds a grant, and keeps keys and rooms in this directory, which is made on
    /// first start. Default: none; a server has either a data directory or is open.
    #[must_use]
    pub fn with_data_dir(mut self, data: impl Into<PathBuf>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// How long a grant lives (default 10 min, which is the most) and a room's session unless it is
    /// renewed (default 1 h).
    #[must_use]
    pub fn with_lives(mut self, grant: Duration, room: Duration) -> Self {
        (self.access.grant_life, self.access.room_life) = (grant, room);
        self
    }

    /// Most rooms at once. Default 10,000; each is a small file. An open server's rooms are bounded
    /// by its connections alone.
    #[must_use]
    pub fn with_max_rooms(mut self, max_rooms: usize) -> Self {
        self.access.max_rooms = max_rooms;
        self
    }

    /// Serves `https` and `wss` in place of `http` and `ws`. Default: none; put a proxy in front.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// TURN servers that peers get credentials for. Default: none.
    #[must_use]
    pub fn with_turn(mut self, turn: TurnConfig) -> Self {
        self.turn = Some(turn);
        self
    }

    /// How many messages each connection may send; `None` sets no bound. Default 500 at once and 100
    /// a second: who joins nine peers sends about 250. More are refused with `RateLimited`, and who
    /// goes on for as many again is closed with 4429.
    #[must_use]
    pub fn with_message_rate(mut self, message_rate: Option<MessageRate>) -> Self {
        self.message_rate = message_rate;
        self
    }

    /// Most connections at once from one address (IPv6: one /64). Default 1024: a school may sit
    /// behind one.
    #[must_use]
    pub fn with_max_connections_per_address(mut self, max_per_address: usize) -> Self {
        self.max_per_address = max_per_address;
        self
    }

    /// Proxies whose `X-Forwarded-For` is believed; their clients' addresses then count, not theirs.
    /// Default: none.
    #[must_use]
    pub fn with_trusted_proxies(mut self, proxies: impl IntoIterator<Item = AddressRange>) -> Self {
        self.trusted_proxies = proxies.into_iter().collect();
        self
    }

    /// Further origins (`https://example.org`) whose pages may connect. A page that the server
    /// serves itself may always, and so may a client that sends no `Origin` (no browser). To a server that listens on a
    /// loopback address only `localhost` and addresses are its own; behind a proxy its public origin is named here.
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

    /// How often STUN and TURN servers are checked. Default 30 s; a check takes at most 5 s more.
    #[must_use]
    pub fn with_ice_check_interval(mut self, interval: Duration) -> Self {
        self.ice_check_interval = interval;
        self
    }

    /// Whether `/readyz` answers 503 while one of the STUN and TURN servers fails its check. Default: no, since most peers
    /// get on without; the answer's text and the metrics tell in any case.
    #[must_use]
    pub fn with_ice_required(mut self, required: bool) -> Self {
        self.ice_required = required;
        self
    }

    /// Most TCP connections at once, 1 to `u32::MAX`; further ones are closed at once. Default 16,384; each needs a
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

    /// Most bytes that wait for all clients together, those whose connection is lost included. Default 512 MiB. When more than
    /// three quarters of it are used, each queue takes less, so that the longest ones are too long first: their
    /// clients are evicted as slow consumers, and more is refused that would wait for who is away.
    #[must_use]
    pub fn with_queue_budget(mut self, bytes: usize) -> Self {
        self.queue_budget = bytes;
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

    /// How long a TCP connection may live that does not become a WebSocket, from its first byte on (with TLS, from the
    /// handshake's end): whoever asks and does not read the answers would else hold its place for ever. Default 30 s; an
    /// answer that is on its way then has 2 s more.
    #[must_use]
    pub fn with_exchange_timeout(mut self, exchange_timeout: Duration) -> Self {
        self.exchange_timeout = exchange_timeout;
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

    /// The NATS that joins this server with others. Default: none, it is alone.
    #[cfg(feature = "nats")]
    #[must_use]
    pub fn with_nats(mut self, nats: crate::NatsConfig) -> Self {
        self.nats = Some(nats);
        self
    }

    /// How long a server of a cluster that is to stop gives its clients to go to another; they are
    /// told to do so at a random moment of its first half. Default 10 s. A server that is alone
    /// closes its connections at once.
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Where clients reach this server of a cluster, if it says so.
    pub(crate) fn public_url(&self) -> Option<&str> {
        #[cfg(feature = "nats")]
        {
            self.nats.as_ref()?.public_url.as_deref()
        }
        #[cfg(not(feature = "nats"))]
        {
            None
        }
    }

    /// Checks the whole; [`Server::bind`](crate::Server::bind) does so first.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting and the mend.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let timeouts = [
            self.first_byte_timeout,
            self.header_timeout,
            self.exchange_timeout,
            self.announce_timeout,
            self.ping_interval,
            self.silence_timeout,
            self.write_timeout,
            self.ice_check_interval,
            self.access.room_life,
        ];
        let lives = Duration::from_secs(1)..=limits::MAX_GRANT_LIFE;
        let rate = self.message_rate;
        let is_url = |url: &String| url.parse::<IceUri>().is_ok();
        let checks = [
            (self.open != self.data.is_some(), ConfigError::OpenOrData),
            (
                !self.open || self.open_to_all || self.listen.ip().is_loopback(),
                ConfigError::OpenToAll(self.listen),
            ),
            (
                lives.contains(&self.access.grant_life),
                ConfigError::GrantLife,
            ),
            (
                self.turn.as_ref().is_none_or(TurnConfig::is_valid),
                ConfigError::Turn,
            ),
            (
                self.ice_servers
                    .iter()
                    .flat_map(|server| &server.urls)
                    .all(is_url),
                ConfigError::Stun,
            ),
            (
                self.allowed_origins.iter().all(|origin| is_origin(origin)),
                ConfigError::Origin,
            ),
            (
                rate.is_none_or(|rate| rate.burst > 0 && rate.per_second > 0),
                ConfigError::MessageRate,
            ),
            (
                (1..=limits::MAX_PEERS).contains(&self.room.max_peers),
                ConfigError::MaxPeers,
            ),
            (
                u32::try_from(self.max_connections).is_ok_and(|max| max > 0)
                    && self.max_per_address > 0,
                ConfigError::MaxConnections,
            ),
            (
                self.queue_budget / 4 >= self.max_queued_bytes.max(self.room.max_held_bytes),
                ConfigError::QueueBudget,
            ),
            (
                !timeouts.contains(&Duration::ZERO)
                    && self.tls.as_ref().is_none_or(TlsConfig::is_valid),
                ConfigError::ZeroTimeout,
            ),
        ];
        let failed = checks.into_iter().find(|(holds, _)| !holds);
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Whether a browser could send this as `Origin` (RFC 6454): a scheme and an authority, and nothing after.
fn is_origin(origin: &str) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some_and(|authority| !authority.is_empty() && !authority.contains(['/', ' ', ',']))
}
