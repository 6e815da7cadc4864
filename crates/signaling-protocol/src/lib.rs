#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod client_message;
#[cfg(any(test, feature = "__fuzz"))]
mod cluster_ops;
mod error;
mod grant;
mod json_rpc;
mod model;
mod negotiation;
mod room;
#[cfg(any(test, feature = "__fuzz"))]
mod room_ops;
mod roster;
mod server_message;
mod text;
mod token_bucket;
mod turn;

pub mod limits;

pub use client_message::{Announce, ClientMessage, Refusal, Request};
pub use error::{CloseReason, ErrorCode, ErrorData, RpcError};
pub use grant::{Grant, GrantError, GrantKey, GrantKeyId, GrantVerifier, Media, MediaSet, Role};
pub use model::{
    AnswerBody, Capabilities, Capability, Description, DescriptionError, IceCandidate, IceServer,
    Joined, Kind, LeaveReason, MessageId, OfferBody, PeerInfo, RequestId, ResumeToken,
};
pub use negotiation::{CandidateAction, Negotiation, OfferAction, Phase, UnexpectedAnswer};
pub use room::cluster::{Applicant, Draft, Ruling};
pub use room::hand_over::HandOver;
pub use room::parcel::Parcel;
pub use room::{ConnectionId, Output, Room, RoomLimits};
pub use roster::{Fingerprint, NodeId, Roster, Seat, SeatKey};
pub use server_message::{Malformed, Notification, Reply, ServerMessage};
pub use token_bucket::{Spent, TokenBucket};
pub use turn::{TurnCredentials, TurnSecret};

#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub use cluster_ops::__fuzz_cluster_ops;
#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub use room_ops::__fuzz_room_ops;

/// Body of the fuzz target `signaling_message`: both parsers, and what they take must survive a
/// round trip.
#[cfg(feature = "__fuzz")]
#[doc(hidden)]
#[allow(clippy::missing_panics_doc)] // panicking is how a fuzz target reports
pub fn __fuzz_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(message) = ClientMessage::parse(text) {
        let again = ClientMessage::parse(&message.encode());
        assert_eq!(again.as_ref(), Ok(&message));
    }
    if let Ok(ServerMessage::Notification(message)) = ServerMessage::parse(text) {
        let again = ServerMessage::parse(&message.encode());
        assert!(matches!(again, Ok(ServerMessage::Notification(same)) if same == message));
    }
}
