//! Why a link was closed, as a number that the other end sees.

use std::fmt;

/// A link's close code. Codes below 100 belong to Roundtable and are listed in
/// `docs/protocols/links.md`; 1000 to 1999 are the application's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The peer left on purpose.
    pub const NORMAL: Self = Self(0);
    /// The transport failed or went silent; nobody chose to close.
    pub const LOST: Self = Self(1);
    /// Another link to the same peer took over.
    pub const REPLACED: Self = Self(2);
    /// The other side broke the link protocol: an unknown channel, a malformed frame.
    pub const PROTOCOL: Self = Self(3);
    /// A message was larger than its channel allows.
    pub const TOO_LARGE: Self = Self(4);
    /// The other side fell too far behind on reading.
    pub const SLOW_CONSUMER: Self = Self(5);
    /// The peer's user disconnected from us, and connects again when it wants to. The other side leaves that to it.
    pub const DISCONNECTED: Self = Self(6);
    /// No session handshake within 5 s of the link's opening, though `session` was announced.
    pub const HANDSHAKE_TIMEOUT: Self = Self(20);
    /// The handshake was malformed or came out of order.
    pub const HANDSHAKE_INVALID: Self = Self(21);
    /// The handshake's signature does not verify, or it showed a weak key.
    pub const HANDSHAKE_SIGNATURE: Self = Self(22);
    /// The peer speaks another major version.
    pub const VERSION_MISMATCH: Self = Self(23);
    /// The peer's command schema differs.
    pub const SCHEMA_MISMATCH: Self = Self(24);
    /// The peer's room has another genesis, and neither may adopt the other's.
    pub const GENESIS_MISMATCH: Self = Self(25);
    /// The peer is not who signaling or the link's TLS said it is.
    pub const IDENTITY_MISMATCH: Self = Self(26);
    /// The peer showed our own key or our own nonce.
    pub const HANDSHAKE_REFLECTED: Self = Self(27);
    /// The peer promises no handshake, and this room admits no guests.
    pub const GUESTS_REFUSED: Self = Self(28);
    /// The peer has as many links to others as a room has members.
    pub const ROOM_FULL: Self = Self(29);
    /// Three heartbeats were missed.
    pub const HEARTBEAT_TIMEOUT: Self = Self(40);

    /// Whether the same two peers may well get a link again: nobody refused anybody.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::LOST | Self::SLOW_CONSUMER | Self::ROOM_FULL | Self::HEARTBEAT_TIMEOUT
        )
    }

    /// A short name, `"unknown"` for a code that this version does not know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NORMAL => "normal",
            Self::LOST => "lost",
            Self::REPLACED => "replaced",
            Self::PROTOCOL => "protocol",
            Self::TOO_LARGE => "too-large",
            Self::SLOW_CONSUMER => "slow-consumer",
            Self::DISCONNECTED => "disconnected",
            Self::HANDSHAKE_TIMEOUT => "handshake-timeout",
            Self::HANDSHAKE_INVALID => "handshake-invalid",
            Self::HANDSHAKE_SIGNATURE => "handshake-signature",
            Self::VERSION_MISMATCH => "version-mismatch",
            Self::SCHEMA_MISMATCH => "schema-mismatch",
            Self::GENESIS_MISMATCH => "genesis-mismatch",
            Self::IDENTITY_MISMATCH => "identity-mismatch",
            Self::HANDSHAKE_REFLECTED => "handshake-reflected",
            Self::GUESTS_REFUSED => "guests-refused",
            Self::ROOM_FULL => "room-full",
            Self::HEARTBEAT_TIMEOUT => "heartbeat-timeout",
            _ => "unknown",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({self})")
    }
}
