//! Errors that a client sees: JSON-RPC 2.0 §5.1 and the protocol's own.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The code of a JSON-RPC error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// −32700: not JSON.
    ParseError,
    /// −32600: JSON, but not a JSON-RPC 2.0 request.
    InvalidRequest,
    /// −32601: no such method.
    MethodNotFound,
    /// −32602: a parameter is missing or has the wrong type or form.
    InvalidParams,
    /// −32603: the server failed.
    Internal,
    /// −32000: no such peer in this room.
    PeerNotFound,
    /// −32001: the name is taken and `resume` does not fit.
    PeerIdTaken,
    /// −32002: the offer's body is not acceptable.
    OfferInvalid,
    /// −32003: the answer's body is not acceptable.
    AnswerInvalid,
    /// −32004: the candidate is not acceptable.
    IceCandidateInvalid,
    /// −32005: the room has as many peers as it takes.
    RoomFull,
    /// −32006: missing, expired or wrong grant.
    Unauthorized,
    /// −32007: too many messages.
    RateLimited,
    /// −32008: the message or a field of it exceeds its bound.
    MessageTooLarge,
    /// −32009: the `request_id` is unknown, answered or expired.
    OfferExpired,
    /// −32010: `peer.announce` comes first.
    NotAnnounced,
    /// −32011: nobody can be admitted now.
    Unavailable,
    /// A code that this version does not know.
    Other(i32),
}

impl ErrorCode {
    /// Every code that this version knows.
    pub const ALL: [Self; 17] = [
        Self::ParseError,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::PeerNotFound,
        Self::PeerIdTaken,
        Self::OfferInvalid,
        Self::AnswerInvalid,
        Self::IceCandidateInvalid,
        Self::RoomFull,
        Self::Unauthorized,
        Self::RateLimited,
        Self::MessageTooLarge,
        Self::OfferExpired,
        Self::NotAnnounced,
        Self::Unavailable,
    ];

    /// The number on the wire.
    pub const fn number(self) -> i32 {
        match self {
            Self::ParseError => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::PeerNotFound => -32000,
            Self::PeerIdTaken => -32001,
            Self::OfferInvalid => -32002,
            Self::AnswerInvalid => -32003,
            Self::IceCandidateInvalid => -32004,
            Self::RoomFull => -32005,
            Self::Unauthorized => -32006,
            Self::RateLimited => -32007,
            Self::MessageTooLarge => -32008,
            Self::OfferExpired => -32009,
            Self::NotAnnounced => -32010,
            Self::Unavailable => -32011,
            Self::Other(number) => number,
        }
    }

    /// The code with this number.
    pub fn from_number(number: i32) -> Self {
        let known = Self::ALL.into_iter().find(|code| code.number() == number);
        known.unwrap_or(Self::Other(number))
    }

    /// The code's name, as documented and as used for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ParseError => "ParseError",
            Self::InvalidRequest => "InvalidRequest",
            Self::MethodNotFound => "MethodNotFound",
            Self::InvalidParams => "InvalidParams",
            Self::Internal => "Internal",
            Self::PeerNotFound => "PeerNotFound",
            Self::PeerIdTaken => "PeerIdTaken",
            Self::OfferInvalid => "OfferInvalid",
            Self::AnswerInvalid => "AnswerInvalid",
            Self::IceCandidateInvalid => "IceCandidateInvalid",
            Self::RoomFull => "RoomFull",
            Self::Unauthorized => "Unauthorized",
            Self::RateLimited => "RateLimited",
            Self::MessageTooLarge => "MessageTooLarge",
            Self::OfferExpired => "OfferExpired",
            Self::NotAnnounced => "NotAnnounced",
            Self::Unavailable => "Unavailable",
            Self::Other(_) => "Other",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.number())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i32::deserialize(deserializer).map(Self::from_number)
    }
}

/// A JSON-RPC error object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RpcError {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong, for people. Never names peers of another room.
    pub message: Cow<'static, str>,
    /// What a program can use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ErrorData>,
}

/// The `data` of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorData {
    /// `RateLimited`, `Unavailable`: milliseconds to wait before the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// `RoomFull`: how many peers the room takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_peers: Option<usize>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The same error with a time to wait before the next attempt.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.data.get_or_insert_default().retry_after_ms = Some(retry_after_ms);
        self
    }

    /// The same error with the room's capacity.
    #[must_use]
    pub fn with_max_peers(mut self, max_peers: usize) -> Self {
        self.data.get_or_insert_default().max_peers = Some(max_peers);
        self
    }

    /// How long to wait before the next attempt, where the server said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.data?.retry_after_ms.map(Duration::from_millis)
    }
}

/// Why the server closes a WebSocket (RFC 6455 §7.4; 4000 and above are the protocol's own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// 1000: the peer has left.
    Left,
    /// 1001: the server drains; come back, here or elsewhere.
    Draining,
    /// 1009: a message was too large to be read.
    TooLarge,
    /// 4400: not a text message, or not this protocol.
    Protocol,
    /// 4401: missing, expired or wrong grant.
    Unauthorized,
    /// 4408: no `peer.announce` in time.
    AnnounceTimeout,
    /// 4409: a newer connection took this one's place by `resume`.
    Replaced,
    /// 4413: the client does not read what it is sent.
    SlowConsumer,
    /// 4429: too many messages.
    RateLimited,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Left,
        Self::Draining,
        Self::TooLarge,
        Self::Protocol,
        Self::Unauthorized,
        Self::AnnounceTimeout,
        Self::Replaced,
        Self::SlowConsumer,
        Self::RateLimited,
    ];

    /// The close code on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::Left => 1000,
            Self::Draining => 1001,
            Self::TooLarge => 1009,
            Self::Protocol => 4400,
            Self::Unauthorized => 4401,
            Self::AnnounceTimeout => 4408,
            Self::Replaced => 4409,
            Self::SlowConsumer => 4413,
            Self::RateLimited => 4429,
        }
    }

    /// The reason with this close code, if it is one of the protocol's.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// What the close frame says.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Draining => "server draining",
            Self::TooLarge => "message too large",
            Self::Protocol => "protocol error",
            Self::Unauthorized => "unauthorized",
            Self::AnnounceTimeout => "no announce in time",
            Self::Replaced => "replaced by a newer connection",
            Self::SlowConsumer => "slow consumer",
            Self::RateLimited => "rate limited",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips_and_unknown_ones_are_kept() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), code);
        }
        assert_eq!(ErrorCode::from_number(-1), ErrorCode::Other(-1));
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(reason));
        }
    }

    #[test]
    fn a_retry_time_is_shown_as_data() {
        let error = RpcError::new(ErrorCode::RateLimited, "slow down")
            .with_retry_after(Duration::from_millis(1500));
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json["code"], -32007);
        assert_eq!(json["data"]["retry_after_ms"], 1500);
    }
}
