#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod close;
mod config;
mod connecting;
mod driver;
mod error;
mod flight;
mod gather;
mod inbox;
mod link;
mod measure;
mod media;
mod outbox;
mod peer;
mod rtcp_tap;
mod sdp;
mod shared;
mod socket;

pub use config::{ConfigError, WebRtcConfig};
pub use connecting::Connecting;
pub use error::{ConnectError, MAX_CANDIDATE_LEN, MAX_CANDIDATES, MAX_SDP_LEN};
pub use link::WebRtcLink;
pub use roundtable_signaling_protocol::IceCandidate;
