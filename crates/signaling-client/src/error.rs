//! What can go wrong, and what to do about it.

use std::time::Duration;

use roundtable_signaling_protocol::{ErrorCode, RpcError};
use tokio_tungstenite::tungstenite;
use url::Url;

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody listens there, or the network does not lead there.
    #[error("no signaling server reachable at {url}: is it running, and is the address right?")]
    Unreachable {
        /// Where.
        url: Url,
        /// What the network said.
        #[source]
        source: Option<Box<tungstenite::Error>>,
    },
    /// Something answered a `wss` URL that is not trusted, or does not speak TLS.
    #[error(
        "no secure connection to {url}: its certificate must be one that this machine trusts, and it must speak TLS 1.3"
    )]
    Insecure {
        /// Where.
        url: Url,
        /// What TLS said.
        #[source]
        source: Box<tungstenite::Error>,
    },
    /// The room has a peer of this name.
    #[error("this name is taken in the room: choose another")]
    PeerIdTaken,
    /// The room has as many peers as it takes.
    #[error("the room is full ({max} peers): try again when someone has left, or use another room")]
    RoomFull {
        /// How many it takes.
        max: usize,
    },
    /// The server wants a grant, or another one.
    #[error(
        "the server wants a valid grant for this room: ask whoever invited you for a new invite"
    )]
    Unauthorized,
    /// The [`TokenSource`](crate::TokenSource) has no grant.
    #[error("no grant for this room could be had: {source}")]
    NoToken {
        /// What it met.
        source: crate::TokenError,
    },
    /// The server cannot take anyone now.
    #[error("the server takes nobody now: try again later")]
    Unavailable {
        /// When, if the server said so.
        retry_after: Option<Duration>,
    },
    /// The server refused for another reason.
    #[error("the server refused: {message} ({code})")]
    Rejected {
        /// The protocol's code.
        code: ErrorCode,
        /// The server's words.
        message: Box<str>,
    },
    /// Something answered that does not speak the protocol.
    #[error("{url} answers, but not as a signaling server: check the URL's port and path")]
    NotASignalingServer {
        /// Where.
        url: Url,
    },
    /// No answer in time.
    #[error("the server did not answer in time: try again, or raise the join timeout")]
    Timeout,
}

impl JoinError {
    pub(crate) fn refused(error: RpcError) -> Self {
        match error.code {
            ErrorCode::PeerIdTaken => Self::PeerIdTaken,
            ErrorCode::RoomFull => Self::RoomFull {
                max: error.data.and_then(|data| data.max_peers).unwrap_or(0),
            },
            ErrorCode::Unauthorized => Self::Unauthorized,
            ErrorCode::Unavailable | ErrorCode::RateLimited => Self::Unavailable {
                retry_after: error.retry_after(),
            },
            code => Self::Rejected {
                code,
                message: error.message.into(),
            },
        }
    }

    /// Whether another server of the cluster may do better.
    pub(crate) fn is_of_the_server(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Insecure { .. }
                | Self::NotASignalingServer { .. }
                | Self::Unauthorized
                | Self::NoToken { .. }
                | Self::Unavailable { .. }
                | Self::Timeout
        )
    }

    /// How much it tells, where each of several servers has another: what one says of us tells more than
    /// that it has no place, and that more than that it was not there.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 0,
            Self::Timeout => 1,
            Self::NotASignalingServer { .. } | Self::Insecure { .. } => 2,
            Self::Unavailable { .. } => 3,
            Self::NoToken { .. } => 4,
            Self::Unauthorized
            | Self::PeerIdTaken
            | Self::RoomFull { .. }
            | Self::Rejected { .. } => 5,
        }
    }

    /// What the server asked for before the next attempt.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after } => *retry_after,
            _ => None,
        }
    }

    /// Whether a client that was in the room should give up when it meets this on its way back.
    pub(crate) fn ends(&self) -> Option<EndReason> {
        match self {
            Self::Unauthorized => Some(EndReason::Unauthorized),
            Self::Rejected { code, .. } if *code != ErrorCode::Internal => {
                Some(EndReason::Refused { code: *code })
            }
            _ => None,
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] RpcError),
    /// The connection was lost after the request was written: whether it arrived is not known.
    #[error("the connection was lost before the server answered")]
    ConnectionLost,
    /// No answer within 10 s, time spent reconnecting included.
    #[error("the server did not answer in time")]
    Timeout,
    /// The client has left or given up; [`Event::Ended`](crate::Event::Ended) says why.
    #[error("the client is no longer in the room")]
    Ended,
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// Why a client is no longer in its room and will not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// It left, or its last handle was dropped.
    Left,
    /// A newer connection took its place.
    Replaced,
    /// Its grant is no longer good.
    Unauthorized,
    /// The server would not have it back.
    Refused {
        /// The protocol's code.
        code: ErrorCode,
    },
    /// The event stream was not read for so long that its queue overflowed.
    EventsUnread,
}
