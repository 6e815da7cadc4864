//! What a link can tell about itself.

use std::time::Duration;

use crate::Channel;

/// What a link is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportKind {
    /// In memory, inside one process.
    Memory,
    /// QUIC (RFC 9000).
    Quic,
    /// WebRTC (RFC 8825).
    WebRtc,
}

impl TransportKind {
    /// `"memory"`, `"quic"` or `"webrtc"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Quic => "quic",
            Self::WebRtc => "webrtc",
        }
    }
}

/// Counters of one channel since the link opened. They wrap at 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelStats {
    /// Frames handed to the transport.
    pub sent_frames: u64,
    /// Payload bytes handed to the transport.
    pub sent_bytes: u64,
    /// Frames handed to the user of the link.
    pub received_frames: u64,
    /// Payload bytes handed to the user of the link.
    pub received_bytes: u64,
    /// Frames dropped at this end: malformed, not negotiated, or the queue was full.
    pub dropped_frames: u64,
}

/// What kind of transport address one end of a link uses (RFC 8445 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CandidateType {
    /// An address of the machine itself.
    Host,
    /// What a NAT made of it, as a STUN server saw it.
    ServerReflexive,
    /// What a NAT made of it, as the peer saw it.
    PeerReflexive,
    /// An address on a TURN server.
    Relay,
}

impl CandidateType {
    /// As SDP calls it (RFC 8839 §5.1): `host`, `srflx`, `prflx` or `relay`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relay => "relay",
        }
    }
}

/// By which kinds of address a link runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkPath {
    /// At this end.
    pub local: CandidateType,
    /// At the peer's end, as far as this end knows.
    pub remote: CandidateType,
}

/// A snapshot of a link's measurements.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkStats {
    /// Round-trip time, smoothed; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Share of packets lost on the way to the peer, 0 to 1, as far as the transport knows.
    pub loss: f32,
    /// Share of our voice packets that the peer missed between its last two reports (RFC 3550 §6.4.1),
    /// 0 to 1; `None` before the first report.
    pub voice_loss: Option<f32>,
    /// Interarrival jitter of received media (RFC 3550 §6.4.1).
    pub jitter: Option<Duration>,
    /// By which kinds of address the link runs; `None` where ICE has not chosen them.
    pub path: Option<LinkPath>,
    /// Counters by [`Channel::number`].
    pub channels: [ChannelStats; 8],
}

impl LinkStats {
    /// The counters of `channel`.
    pub fn channel(&self, channel: Channel) -> &ChannelStats {
        &self.channels[usize::from(channel.number())]
    }

    /// The counters of `channel`, to be changed.
    pub fn channel_mut(&mut self, channel: Channel) -> &mut ChannelStats {
        &mut self.channels[usize::from(channel.number())]
    }
}
