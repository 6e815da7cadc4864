#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod actor;
mod backlog;
mod builder;
pub mod doctor;
mod error;
mod event;
mod invite;
mod links;
mod mesh;
mod negotiation;
mod network;
mod noted;
mod peers;
mod quality;
mod reconnect;
mod room;
mod store;
mod submitting;
mod telling;
mod transport;
pub mod voice;

/// Logs that were kept, read without joining their rooms: see [`Identity::store`](crate::Identity::store).
pub mod kept {
    pub use roundtable_command_log::{
        Ballot, Checkpoint, CommandLog, Covered, Equivocation, ForkProof, FrameError, Genesis,
        Snapshot,
    };
    pub use roundtable_log_store::{
        Claims, Contents, Culprit, Equivocations, Refusal, Refusals, Refused, Tally, Verification,
        VerifyError,
    };
}

pub use builder::RoomBuilder;
pub use error::{ConnectError, JoinError, MessageError, SubmitError};
pub use event::Event;
pub use invite::{Invite, InviteError};
pub use quality::{ConnectionQuality, QualityLevel, QualityReason};
pub use room::{Broadcast, PeerStatus, Room, Summary};
pub use transport::{CommandTransport, TransportPreference};

pub use roundtable_command_log::{
    Action, Applied, Entry, ForkProof, GenesisHash, Head, Key, Limits, MergeRule, Role, Schema,
    SchemaBuilder, Stable, StateHash, Strategy,
};
pub use roundtable_core::{
    AuthorId, Bitrate, CandidateType, Channel, CloseCode, LinkPath, LinkStats, PathProtocol,
    Payload, PeerId, RoomId, TransportKind, WallTime,
};
pub use roundtable_log_store::{Identity, IdentityError, Store, StoreError};
pub use roundtable_session::{MAX_MESSAGE_LEN, MessageStats};
pub use roundtable_signaling_client::{TokenError, TokenSource};
pub use roundtable_transport::Link;
pub use roundtable_transport_quic::QuicConfig;
pub use roundtable_transport_webrtc::{IcePolicy, IceServer, WebRtcConfig};

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ProjectReadme;
