#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod agreement;
mod anti_entropy;
mod arrivals;
mod carried;
mod checkpoints;
mod clocks;
mod commands;
mod config;
mod control;
mod datagrams;
mod descent;
mod event;
mod exchange;
mod fetch;
#[cfg(any(test, feature = "__fuzz"))]
mod fuzz;
mod given_up;
mod handshake;
mod heartbeat;
mod links;
mod messages;
mod messaging;
mod metrics;
mod outbox;
mod own_head;
mod pacing;
mod restore;
mod room;
mod session;
mod submissions;

pub use config::{ConfigError, GenesisSource, SessionConfig};
pub use datagrams::carries_commands;
pub use event::{
    Event, Input, InputError, LinkId, LinkInfo, LinkView, MessageStats, Now, Output, PeerView,
    Recipient, Side, Standing, Taken,
};
pub use handshake::PROTOCOL_VERSION;
pub use messages::MAX_MESSAGE_LEN;
pub use session::Session;

#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub use fuzz::{__fuzz_anti_entropy, __fuzz_handshake, __fuzz_session, __fuzz_session_ops};
