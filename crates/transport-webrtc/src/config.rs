//! How a link is made.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use roundtable_core::Channel;
use roundtable_signaling_protocol::IceServer;
use roundtable_transport::NetworkHandle;

/// How WebRTC links are made. Cheap to clone; one serves any number of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebRtcConfig {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ice_servers: Vec<IceServer>,
    pub(crate) ice_policy: IcePolicy,
    pub(crate) tcp: bool,
    pub(crate) hide_addresses: bool,
    pub(crate) gathering_timeout: Duration,
    pub(crate) trusted: Vec<Vec<u8>>,
    pub(crate) open_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) lost_after: Duration,
    pub(crate) socket_buffer: usize,
    pub(crate) send_buffer: usize,
    pub(crate) in_flight: usize,
    pub(crate) receive_buffer: usize,
    pub(crate) media_queue: usize,
    pub(crate) network: Option<NetworkHandle>,
}

/// Which ways a link may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IcePolicy {
    /// The best that connects: direct where possible, else through a relay.
    #[default]
    All,
    /// Only through a TURN server, so that no peer learns an address of this machine. Costs the
    /// detour.
    Relay,
}

/// The largest frame of any channel and what the queue adds for it.
const SMALLEST_BUFFER: usize = Channel::Command.max_message_len() + 1024;
const KEEP_ALIVE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_millis(500);
const GATHERING: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const LOST_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

impl Default for WebRtcConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ice_servers: Vec::new(),
            ice_policy: IcePolicy::All,
            tcp: true,
            hide_addresses: false,
            gathering_timeout: Duration::from_secs(5),
            trusted: Vec::new(),
            open_timeout: Duration::from_secs(9),
            keep_alive: Duration::from_millis(400),
            lost_after: Duration::from_secs(5),
            socket_buffer: 2 << 20,
            send_buffer: 256 << 10,
            in_flight: 512 << 10,
            receive_buffer: 1 << 20,
            media_queue: 256,
            network: None,
        }
    }
}

/// A value of [`WebRtcConfig`] that is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// See [`WebRtcConfig::with_keep_alive`].
    #[error("the keep-alive interval is {0:?}; give 100 ms to 500 ms")]
    KeepAlive(Duration),
    /// See [`WebRtcConfig::with_lost_after`].
    #[error("the time after which a silent link is lost is {0:?}; give 1 s to 30 s")]
    LostAfter(Duration),
    /// See [`WebRtcConfig::with_gathering_timeout`].
    #[error("the gathering timeout is {0:?}; give 100 ms to 30 s")]
    GatheringTimeout(Duration),
    /// See [`WebRtcConfig::with_open_timeout`].
    #[error("the open timeout is zero")]
    OpenTimeout,
    /// A buffer does not hold the largest frame.
    #[error("a buffer has {0} bytes; the largest frame needs {SMALLEST_BUFFER}")]
    Buffer(usize),
    /// See [`WebRtcConfig::with_media_queue`].
    #[error("the media queue is empty")]
    MediaQueue,
}

impl WebRtcConfig {
    /// The addresses that are bound and offered as host candidates. Default: none given, which
    /// means every address of every interface but link-local ones, and `127.0.0.1`. At most 16
    /// are used. One address of a family is bound itself; of several, the wildcard address is bound
    /// and packets to other addresses are dropped.
    #[must_use]
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// The STUN and TURN servers to use, as signaling hands them out. Default none, which connects
    /// only peers that reach each other directly. The first 16 URLs count. A URL that is not
    /// understood fails by itself and is named in the error when no link comes up.
    #[must_use]
    pub fn with_ice_servers(mut self, servers: impl IntoIterator<Item = IceServer>) -> Self {
        self.ice_servers = servers.into_iter().collect();
        self
    }

    /// Adds servers to those of [`with_ice_servers`](Self::with_ice_servers), behind them.
    #[must_use]
    pub fn with_more_ice_servers(mut self, servers: impl IntoIterator<Item = IceServer>) -> Self {
        self.ice_servers.extend(servers);
        self
    }

    /// The servers to use.
    pub fn ice_servers(&self) -> &[IceServer] {
        &self.ice_servers
    }

    /// Whether links may run over TCP (RFC 6544).
    pub const fn has_tcp(&self) -> bool {
        self.tcp
    }

    /// Which ways a link may take. Default [`IcePolicy::All`].
    #[must_use]
    pub fn with_ice_policy(mut self, policy: IcePolicy) -> Self {
        self.ice_policy = policy;
        self
    }

    /// Whether peers may meet over TCP as well (RFC 6544), where no UDP comes through and at least one can
    /// be connected to. Default yes. Until a link is open it then listens on up to four addresses, on
    /// ports that the system chooses.
    #[must_use]
    pub fn with_tcp(mut self, tcp: bool) -> Self {
        self.tcp = tcp;
        self
    }

    /// Whether the descriptions and candidates name this machine's addresses by random `.local` names,
    /// which only machines on the same network can look up (multicast DNS), as browsers do. Default no.
    /// It hides addresses from signaling and from peers that do not connect; whoever does connect directly
    /// sees where packets come from. To hide them from peers, too, use [`IcePolicy::Relay`].
    #[must_use]
    pub fn with_hidden_addresses(mut self, hide: bool) -> Self {
        self.hide_addresses = hide;
        self
    }

    /// How long STUN and TURN servers have to answer. Default 5 s, range 100 ms to 30 s. The link
    /// opens meanwhile where it can.
    #[must_use]
    pub fn with_gathering_timeout(mut self, timeout: Duration) -> Self {
        self.gathering_timeout = timeout;
        self
    }

    /// Certificates (DER) to trust for `turns:` servers beside the system's roots. Default none.
    #[must_use]
    pub fn with_trusted_certificates(mut self, der: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.trusted = der.into_iter().collect();
        self
    }

    /// From the start of the negotiation until the link must be open. Default 9 s. It includes
    /// the time that signaling takes.
    #[must_use]
    pub fn with_open_timeout(mut self, timeout: Duration) -> Self {
        self.open_timeout = timeout;
        self
    }

    /// How often a STUN check goes out, which also measures the round-trip time. Default 400 ms,
    /// range 100 ms to 500 ms: an outage is recognised by 1 s without any packet. Costs about
    /// 200 bytes each way.
    #[must_use]
    pub fn with_keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// After how much silence a link is closed as lost. Default 5 s, range 1 s to 30 s; beyond
    /// that SCTP itself gives up.
    #[must_use]
    pub fn with_lost_after(mut self, silence: Duration) -> Self {
        self.lost_after = silence;
        self
    }

    /// The size asked for each socket's send and receive buffer, in bytes. Default 2 MiB: with the
    /// system's 208 KiB, bursts overflow and throughput falls tenfold. The system may grant less.
    #[must_use]
    pub fn with_socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// How many bytes may wait on each channel before `send` waits (or drops, on an unreliable
    /// channel). Default 256 KiB, at least the largest frame. A frame counts 64 bytes more than its
    /// payload.
    #[must_use]
    pub fn with_send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// How many bytes each channel may have handed to SCTP without acknowledgement. Default
    /// 512 KiB, at least the largest frame; throughput is at most this per round trip.
    #[must_use]
    pub fn with_in_flight(mut self, bytes: usize) -> Self {
        self.in_flight = bytes;
        self
    }

    /// How many bytes of received messages may wait for `recv` before SCTP's receive window
    /// closes. Default 1 MiB, at least the largest frame.
    #[must_use]
    pub fn with_receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// How many received media packets may wait for `recv` before the oldest is dropped. Default
    /// 256, at least 1.
    #[must_use]
    pub fn with_media_queue(mut self, packets: usize) -> Self {
        self.media_queue = packets;
        self
    }

    /// Runs over `network` in place of the system's, as a simulation does. Default none. What
    /// [`with_addresses`](Self::with_addresses) and
    /// [`with_socket_buffer`](Self::with_socket_buffer) say is of no account then; STUN and TURN servers count as
    /// unsupported, and `.local` names are neither looked up nor answered for.
    #[must_use]
    pub fn with_network(mut self, network: NetworkHandle) -> Self {
        self.network = Some(network);
        self
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`ConfigError`] names the first value that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !KEEP_ALIVE.contains(&self.keep_alive) {
            return Err(ConfigError::KeepAlive(self.keep_alive));
        }
        if !LOST_AFTER.contains(&self.lost_after) {
            return Err(ConfigError::LostAfter(self.lost_after));
        }
        if !GATHERING.contains(&self.gathering_timeout) {
            return Err(ConfigError::GatheringTimeout(self.gathering_timeout));
        }
        if self.open_timeout.is_zero() {
            return Err(ConfigError::OpenTimeout);
        }
        let buffers = [self.send_buffer, self.in_flight, self.receive_buffer];
        if let Some(small) = buffers.into_iter().find(|size| *size < SMALLEST_BUFFER) {
            return Err(ConfigError::Buffer(small));
        }
        if self.media_queue == 0 {
            return Err(ConfigError::MediaQueue);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range_and_bad_values_are_named() {
        let config = WebRtcConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let minute = Duration::from_secs(60);
        assert_eq!(
            config.clone().with_lost_after(minute).validate(),
            Err(ConfigError::LostAfter(minute))
        );
        assert_eq!(
            config.with_send_buffer(1000).validate(),
            Err(ConfigError::Buffer(1000))
        );
    }
}
