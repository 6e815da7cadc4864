//! One type over every kind of link.

use roundtable_core::{AuthorId, ChannelBinding, CloseCode, Frame, LinkStats, TransportKind};
use roundtable_transport::{Closed, Link, MemoryLink, SendError};
use roundtable_transport_quic::QuicLink;
use roundtable_transport_webrtc::WebRtcLink;

/// A link to one remote peer, whatever it is made of. Cheap to clone; clones share the link.
///
/// The set is closed on purpose: dispatch is a `match`, not a trait object, and a reader sees
/// every transport there is.
#[derive(Debug, Clone)]
pub enum CommandTransport {
    /// QUIC, between native peers that can reach each other.
    Quic(QuicLink),
    /// WebRTC, to browsers and through NATs.
    WebRtc(WebRtcLink),
    /// In memory, inside one process: for tests and local play.
    Memory(MemoryLink),
}

macro_rules! each {
    ($self:ident, $link:ident => $call:expr) => {
        match $self {
            Self::Quic($link) => $call,
            Self::WebRtc($link) => $call,
            Self::Memory($link) => $call,
        }
    };
}

impl CommandTransport {
    /// Whether the peer takes voice in packets that repeat earlier frames (RFC 2198). One that does not is sent
    /// them without.
    pub fn takes_redundant_voice(&self) -> bool {
        match self {
            Self::Quic(_) | Self::Memory(_) => true,
            Self::WebRtc(link) => link.takes_redundant_voice(),
        }
    }
}

impl Link for CommandTransport {
    fn kind(&self) -> TransportKind {
        each!(self, link => link.kind())
    }

    fn binding(&self) -> ChannelBinding {
        each!(self, link => link.binding())
    }

    fn remote_author(&self) -> Option<AuthorId> {
        each!(self, link => link.remote_author())
    }

    fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        each!(self, link => link.try_send(frame))
    }

    async fn send(&self, frame: Frame) -> Result<(), SendError> {
        each!(self, link => link.send(frame).await)
    }

    async fn recv(&self) -> Result<Frame, Closed> {
        each!(self, link => link.recv().await)
    }

    fn stats(&self) -> LinkStats {
        each!(self, link => link.stats())
    }

    async fn close(&self, code: CloseCode, reason: &str) {
        each!(self, link => link.close(code, reason).await);
    }
}

/// Which transports a peer offers and accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportPreference {
    /// Both race where both peers can, QUIC with a head start of 250 ms; the better stays, and takes over when it comes later. WebRTC alone
    /// to peers without QUIC.
    #[default]
    Auto,
    /// QUIC only: peers without it are not linked.
    Quic,
    /// WebRTC only.
    WebRtc,
}

impl TransportPreference {
    /// Whether QUIC may be used.
    pub const fn allows_quic(self) -> bool {
        !matches!(self, Self::WebRtc)
    }

    /// Whether WebRTC may be used.
    pub const fn allows_webrtc(self) -> bool {
        !matches!(self, Self::Quic)
    }
}
