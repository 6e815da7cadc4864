#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod clock;
mod config;
mod delay;
mod jitter;
mod playout;

pub use clock::SenderClock;
pub use config::{JitterConfig, JitterConfigError};
pub use delay::{DelayConfig, DelayEstimator};
#[cfg(any(test, feature = "__fuzz"))]
pub use jitter::__fuzz_jitter_ops;
pub use jitter::{JitterBuffer, JitterStats, Packet, Pushed, RtpMeta};
pub use playout::{Decision, PlayoutState, PullClock, decide};

#[cfg(test)]
mod tests;
