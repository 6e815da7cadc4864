//! What can go wrong for the user of a room.

use std::time::Duration;

use roundtable_core::{Channel, IdError, PeerId};
use roundtable_session::InputError;

use crate::{IdentityError, InviteError, voice::VoiceError};

/// Why a room could not be joined. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The room or the peer has an illegal name.
    #[error("illegal name: {0}")]
    Name(#[from] IdError),
    /// The server's URL is not usable.
    #[error(transparent)]
    Server(#[from] roundtable_signaling_client::ConfigError),
    /// The invite is damaged.
    #[error(transparent)]
    Invite(#[from] InviteError),
    /// Signaling refused, or is not there.
    #[error(transparent)]
    Signaling(#[from] roundtable_signaling_client::JoinError),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A session setting is out of range.
    #[error(transparent)]
    Session(#[from] roundtable_session::ConfigError),
    /// A WebRTC setting is out of range.
    #[error(transparent)]
    WebRtc(#[from] roundtable_transport_webrtc::ConfigError),
    /// Of what the identity has signed in this room, and its store has kept, not all can be used.
    #[error(
        "of the own frames stored for this room {refused} are damaged and {waiting} follow one that is missing: \
         restore the identity from a backup, or start with a new one"
    )]
    Restore {
        /// How many are malformed, not signed by the identity, or break a rule.
        refused: usize,
        /// How many follow a frame that is missing.
        waiting: usize,
    },
    /// What the store has kept of the room's last checkpoint is not what its writers have committed.
    #[error("the room's stored checkpoint is damaged ({0}): restore the identity from a backup")]
    Checkpoint(#[from] roundtable_command_log::SnapshotError),
    /// The identity knows a room of this name, and it is not the one of the invite.
    #[error(
        "this identity has been in another room of this name: use another identity, or the right invite"
    )]
    OtherRoom,
    /// No QUIC endpoint could be opened.
    #[error(transparent)]
    Quic(#[from] roundtable_transport_quic::BindError),
    /// Voice could not be set up.
    #[error(transparent)]
    Voice(#[from] VoiceError),
    /// The system gave no random numbers.
    #[error("the system's random number generator failed: {0}")]
    Random(getrandom::Error),
}

/// Why commands were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The room is not ready for commands yet: no peer has shown its log, and the room was not
    /// found empty either.
    #[error("not ready yet: wait for Event::MayEdit(true), then submit again")]
    NotReady,
    /// No invite vouches for the room, and it may still turn out to be another than the peers'. Until a peer
    /// has been linked for 2 s, nothing is made final.
    #[error(
        "this room may still turn out to be another: try again once a peer has been linked for 2 s"
    )]
    Unsettled,
    /// This machine's clock is more than 5 minutes from the median of the linked peers'.
    #[error(
        "this machine's clock is {} s {} those of its peers: set it, then submit again",
        by.as_secs(), if *ahead { "ahead of" } else { "behind" }
    )]
    ClockOff {
        /// Whether it is ahead.
        ahead: bool,
        /// By how much.
        by: Duration,
    },
    /// More commands than the room's limits allow. None of these was taken.
    #[error("more commands than the room allows: try again in {} ms", retry_after.as_millis())]
    RateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// The log would not take such a command: the own role is too low, the schema has no such key
    /// type, a limit is passed.
    #[error(transparent)]
    Refused(#[from] roundtable_command_log::AppendError),
    /// No checkpoint can be proposed now.
    #[error(transparent)]
    Checkpoint(#[from] roundtable_command_log::ProposeError),
    /// The identity's disk failed, and nothing may be sent that is not on disk.
    #[error("own commands can no longer be stored: see the log, and join again")]
    Storage,
    /// The room has been left.
    #[error("the room has been left")]
    Left,
}

impl From<InputError> for SubmitError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::RateLimited { retry_after } => Self::RateLimited { retry_after },
            InputError::Refused(error) => Self::Refused(error),
            InputError::NoCheckpoint(error) => Self::Checkpoint(error),
            InputError::ClockOff { ahead, by } => Self::ClockOff { ahead, by },
            InputError::Unsettled => Self::Unsettled,
            _ => Self::NotReady,
        }
    }
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The peer is not linked.
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// So much waits for the peer already that no more is taken.
    #[error(
        "{0} is too slow: more than 4 MiB wait for it; try again later, or use `send`, which waits"
    )]
    QueueFull(PeerId),
    /// The payload is neither text nor bytes.
    #[error("media is no message: use `Payload::Text` or `Payload::Binary`")]
    NotAMessage,
    /// The value cannot be written as JSON.
    #[error(
        "the value cannot be written as JSON, most likely because the keys of a map are no text"
    )]
    NotJson,
    /// The message is larger than its channel takes, or than the peer does: guests take 60 KiB.
    #[error("a message on {} has at most {max} bytes; this one has {len}: split it", channel.name())]
    TooLarge {
        /// The channel.
        channel: Channel,
        /// The message's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The room has been left.
    #[error("the room has been left")]
    Left,
}

/// Why a peer is not connected or disconnected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Signaling knows no such peer in the room.
    #[error("{0} is not in the room")]
    NotPresent(PeerId),
    /// The room has been left.
    #[error("the room has been left")]
    Left,
}
