#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod bandwidth;
mod channels;
mod check;
mod close;
mod config;
mod connecting;
mod driver;
mod error;
mod flight;
#[cfg(any(test, feature = "__fuzz"))]
mod fuzz;
mod gather;
mod ice_server;
mod inbox;
mod interfaces;
mod lanes;
mod link;
mod mdns;
mod measure;
mod media;
mod multicast;
mod outbox;
mod peer;
mod premature;
mod relay;
mod restart;
mod rtcp_tap;
mod sdp;
mod shared;
mod socket;
mod stream;
mod stun;
mod tcp;

pub use check::{
    LinkCheck, NatMapping, ServerCheck, ServersCheck, check_link, check_link_over_tcp,
    check_servers,
};
pub use config::{ConfigError, IcePolicy, WebRtcConfig};
pub use connecting::Connecting;
pub use error::{
    ConnectError, MAX_CANDIDATE_LEN, MAX_CANDIDATES, MAX_SDP_LEN, ServerError, ServerFailure,
    ServerFailures,
};
#[cfg(any(test, feature = "__fuzz"))]
pub use fuzz::{__fuzz_channel_message, __fuzz_sdp_and_candidates};
pub use link::WebRtcLink;
pub use restart::IceRestart;
pub use roundtable_signaling_protocol::{IceCandidate, IceServer};
