//! What can be set on a QUIC endpoint.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{IdleTimeout, TransportConfig, VarInt};
use roundtable_transport::NetworkHandle;

use crate::window::BoundedCubic;

/// Streams a peer may have open towards us: one for each reliable channel.
const PEER_STREAMS: u32 = 4;
/// Loss detection starts from this round trip; quinn's 333 ms makes a lost first packet costly.
const INITIAL_RTT: Duration = Duration::from_millis(75);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const DATAGRAMS_RECEIVED: usize = 256 << 10;
/// Datagrams wait in our own queue, where the urgent ones can overtake, not in quinn's.
const DATAGRAMS_SENT: usize = 16 << 10;

/// Settings of a [`QuicEndpoint`](crate::QuicEndpoint).
///
/// ```
/// use std::time::Duration;
/// use roundtable_transport_quic::QuicConfig;
///
/// let config = QuicConfig::default()
///     .with_bind("127.0.0.1:0".parse().unwrap())
///     .with_idle_timeout(Duration::from_secs(3));
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicConfig {
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) idle_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) handshake_deadline: Duration,
    pub(crate) accept_deadline: Duration,
    pub(crate) hold: Duration,
    pub(crate) socket_buffer: usize,
    pub(crate) network: Option<NetworkHandle>,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            bind: None,
            idle_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            handshake_deadline: Duration::from_secs(5),
            accept_deadline: Duration::from_secs(10),
            hold: Duration::from_secs(5),
            socket_buffer: 2 << 20,
            network: None,
        }
    }
}

/// Which setting is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// See [`QuicConfig::with_idle_timeout`].
    #[error("the idle timeout must be from 100 ms to 10 minutes")]
    IdleTimeout,
    /// See [`QuicConfig::with_keep_alive`].
    #[error("the keep-alive interval must be above zero and below half the idle timeout")]
    KeepAlive,
    /// A deadline is zero.
    #[error("the handshake, accept and hold times must be above zero")]
    Deadline,
}

impl QuicConfig {
    /// Local UDP address. Default: `[::]` with any port, for IPv4 too, or `0.0.0.0` where there is
    /// no IPv6.
    #[must_use]
    pub fn with_bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Silence after which a link is lost ([`CloseCode::LOST`](roundtable_core::CloseCode::LOST)).
    /// Default 5 s, from 100 ms to 10 min; the smaller of both peers' counts. Shorter notices a
    /// dead peer sooner and mistakes a longer outage for one.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How often an idle link sends a packet to stay alive, below half the idle timeout. Default
    /// 1 s; costs about 40 bytes each way every time.
    #[must_use]
    pub fn with_keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// How long [`connect`](crate::QuicEndpoint::connect) may take in all, and an incoming
    /// handshake. Default 5 s.
    #[must_use]
    pub fn with_handshake_deadline(mut self, deadline: Duration) -> Self {
        self.handshake_deadline = deadline;
        self
    }

    /// How long [`accept_from`](crate::QuicEndpoint::accept_from) waits. Default 10 s.
    #[must_use]
    pub fn with_accept_deadline(mut self, deadline: Duration) -> Self {
        self.accept_deadline = deadline;
        self
    }

    /// How long a connection from an author that nobody awaits yet is held before it is refused.
    /// Default 5 s; at most 16 are held.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Kernel send and receive buffer of the socket in bytes, as far as the system allows. Default
    /// 2 MiB; smaller ones lose packets in bursts.
    #[must_use]
    pub fn with_socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// Runs over `network` in place of the system's, as a simulation does. Default none. What
    /// [`with_bind`](Self::with_bind) and [`with_socket_buffer`](Self::with_socket_buffer) say is of
    /// no account then.
    #[must_use]
    pub fn with_network(mut self, network: NetworkHandle) -> Self {
        self.network = Some(network);
        self
    }

    /// Checks the ranges that the setters document.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let idle = Duration::from_millis(100)..=Duration::from_secs(600);
        if !idle.contains(&self.idle_timeout) {
            return Err(ConfigError::IdleTimeout);
        }
        if self.keep_alive.is_zero() || self.keep_alive >= self.idle_timeout / 2 {
            return Err(ConfigError::KeepAlive);
        }
        let deadlines = [self.handshake_deadline, self.accept_deadline, self.hold];
        if deadlines.iter().any(Duration::is_zero) {
            return Err(ConfigError::Deadline);
        }
        Ok(())
    }

    /// The QUIC transport parameters that these settings mean.
    pub(crate) fn transport(&self) -> Result<TransportConfig, ConfigError> {
        self.validate()?;
        let idle =
            IdleTimeout::try_from(self.idle_timeout).map_err(|_| ConfigError::IdleTimeout)?;
        let mut transport = TransportConfig::default();
        let under_way = BoundedCubic {
            most: CONNECTION_WINDOW.into(),
        };
        transport
            .congestion_controller_factory(Arc::new(under_way))
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(PEER_STREAMS))
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(INITIAL_RTT)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
            .send_window(u64::from(CONNECTION_WINDOW))
            .datagram_receive_buffer_size(Some(DATAGRAMS_RECEIVED))
            .datagram_send_buffer_size(DATAGRAMS_SENT);
        Ok(transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_alive_that_cannot_keep_the_link_alive_is_refused() {
        let config = QuicConfig::default().with_keep_alive(Duration::from_secs(4));
        assert_eq!(config.validate(), Err(ConfigError::KeepAlive));
        let config = QuicConfig::default().with_keep_alive(Duration::MAX);
        assert_eq!(config.validate(), Err(ConfigError::KeepAlive));
        let config = QuicConfig::default().with_idle_timeout(Duration::ZERO);
        assert_eq!(config.validate(), Err(ConfigError::IdleTimeout));
        let config = QuicConfig::default().with_accept_deadline(Duration::ZERO);
        assert_eq!(config.validate(), Err(ConfigError::Deadline));
    }
}
