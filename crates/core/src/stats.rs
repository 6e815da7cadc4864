//! What a link can tell about itself.

use std::{fmt, time::Duration};

use crate::{Bitrate, Channel};

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

impl ChannelStats {
    /// What was counted since `earlier`, even if a counter has wrapped meanwhile.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            sent_frames: self.sent_frames.wrapping_sub(earlier.sent_frames),
            sent_bytes: self.sent_bytes.wrapping_sub(earlier.sent_bytes),
            received_frames: self.received_frames.wrapping_sub(earlier.received_frames),
            received_bytes: self.received_bytes.wrapping_sub(earlier.received_bytes),
            dropped_frames: self.dropped_frames.wrapping_sub(earlier.dropped_frames),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            sent_frames: self.sent_frames.wrapping_add(other.sent_frames),
            sent_bytes: self.sent_bytes.wrapping_add(other.sent_bytes),
            received_frames: self.received_frames.wrapping_add(other.received_frames),
            received_bytes: self.received_bytes.wrapping_add(other.received_bytes),
            dropped_frames: self.dropped_frames.wrapping_add(other.dropped_frames),
        }
    }
}

/// Counters of the UDP packets of a link since it opened, whatever they carried. They wrap at 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketStats {
    /// Packets sent, those that were sent again included.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Packets received.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Packets that the transport found lost on the way to the peer; what was in them of reliable channels was sent
    /// again. Always 0 where the transport does not tell (WebRTC, memory).
    pub lost: u64,
}

impl PacketStats {
    /// What was counted since `earlier`, even if a counter has wrapped meanwhile.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent.wrapping_sub(earlier.sent),
            sent_bytes: self.sent_bytes.wrapping_sub(earlier.sent_bytes),
            received: self.received.wrapping_sub(earlier.received),
            received_bytes: self.received_bytes.wrapping_sub(earlier.received_bytes),
            lost: self.lost.wrapping_sub(earlier.lost),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            sent: self.sent.wrapping_add(other.sent),
            sent_bytes: self.sent_bytes.wrapping_add(other.sent_bytes),
            received: self.received.wrapping_add(other.received),
            received_bytes: self.received_bytes.wrapping_add(other.received_bytes),
            lost: self.lost.wrapping_add(other.lost),
        }
    }
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

/// What carries the packets of a link from this machine to the peer, or to the TURN server that relays for this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathProtocol {
    /// UDP.
    Udp,
    /// TCP: where a packet is lost, it holds up all behind it.
    Tcp,
    /// TLS over TCP, to a TURN server.
    Tls,
}

impl PathProtocol {
    /// `udp`, `tcp` or `tls`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// By which kinds of address a link runs. Shown as `host/srflx over udp`, this end's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkPath {
    /// At this end.
    pub local: CandidateType,
    /// At the peer's end, as far as this end knows.
    pub remote: CandidateType,
    /// By what packets leave this machine. The peer may reach its own TURN server by something else.
    pub protocol: PathProtocol,
}

impl LinkPath {
    /// Whether it leads over a TURN server at either end.
    pub fn is_relayed(self) -> bool {
        [self.local, self.remote].contains(&CandidateType::Relay)
    }
}

impl fmt::Display for LinkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            local,
            remote,
            protocol,
        } = self;
        let (local, remote) = (local.name(), remote.name());
        write!(f, "{local}/{remote} over {}", protocol.name())
    }
}

/// A snapshot of a link's measurements.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkStats {
    /// Round-trip time, smoothed; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Share of packets lost on the way to the peer, 0 to 1, as far as the transport knows.
    pub loss: f32,
    /// Share of our voice packets that the peer missed between its last two reports (RFC 3550 §6.4.1),
    /// 0 to 1; `None` before the first report, and [a while](Self::COUNTS_FOR) after the last.
    pub voice_loss: Option<f32>,
    /// Interarrival jitter of received media (RFC 3550 §6.4.1); `None` before the first, and a while after the last.
    pub jitter: Option<Duration>,
    /// By which kinds of address and which protocol the link runs; `None` where ICE has not chosen them.
    pub path: Option<LinkPath>,
    /// How much the link can send: over QUIC by what congestion control lets out in a round trip, over WebRTC the most that was
    /// carried at a time in the last 10 s in which the link had enough to carry. A link that is not made use of is underestimated, or `None`;
    /// so is one whose peer reads slowly.
    pub bandwidth: Option<Bitrate>,
    /// Counters of its packets.
    pub packets: PacketStats,
    /// Counters by [`Channel::number`].
    pub channels: [ChannelStats; 8],
}

impl LinkStats {
    /// For how long what was measured on media, or reported of it, says something of the line: twice the longest time between two
    /// reports of a stream (RFC 3550 §6.2).
    pub const COUNTS_FOR: Duration = Duration::from_secs(10);

    /// The counters of `channel`.
    pub fn channel(&self, channel: Channel) -> &ChannelStats {
        &self.channels[usize::from(channel.number())]
    }

    /// The counters of `channel`, to be changed.
    pub fn channel_mut(&mut self, channel: Channel) -> &mut ChannelStats {
        &mut self.channels[usize::from(channel.number())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_metrics_handle_wrapping_counters() {
        let counted = |by: u64| {
            let at = |start: u64| start.wrapping_add(by);
            let channel = ChannelStats {
                sent_frames: at(u64::MAX - 2),
                sent_bytes: at(u64::MAX),
                received_frames: at(u64::MAX - 10),
                received_bytes: at(7),
                dropped_frames: at(u64::MAX - 4),
            };
            let packets = PacketStats {
                sent: at(u64::MAX - 1),
                sent_bytes: at(0),
                received: at(u64::MAX),
                received_bytes: at(u64::MAX - 9),
                lost: at(u64::MAX - 5),
            };
            (channel, packets)
        };
        let (before, after) = (counted(0), counted(10));
        let tens = ChannelStats {
            sent_frames: 10,
            sent_bytes: 10,
            received_frames: 10,
            received_bytes: 10,
            dropped_frames: 10,
        };
        assert_eq!(after.0.since(&before.0), tens);
        assert_eq!(before.0.plus(&tens), after.0, "totals wrap, too");
        let tens = PacketStats {
            sent: 10,
            sent_bytes: 10,
            received: 10,
            received_bytes: 10,
            lost: 10,
        };
        assert_eq!(after.1.since(&before.1), tens);
        assert_eq!(before.1.plus(&tens), after.1);
    }
}
