#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod channel;
mod close;
mod id;
mod media;
mod metrics;
mod rate;
mod sequence;
mod stats;
mod time;

pub use channel::{Channel, Delivery, Frame, Payload};
pub use close::CloseCode;
pub use id::{AuthorId, ChannelBinding, IdError, PeerId, RoomId};
pub use media::{MediaClock, MediaCodec, MediaPacket, NtpTime};
pub use metrics::{MetricsVisitor, Observe, Rate};
pub use rate::Bitrate;
pub use sequence::{Unwrapper, sequence_is_newer};
pub use stats::{
    CandidateType, ChannelStats, LinkPath, LinkStats, PacketStats, PathProtocol, TransportKind,
};
pub use time::{Clock, Timestamp, WallTime};
