#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod aligned;
mod clock;
mod config;
mod delay;
mod drift;
mod envelope;
mod jitter;
mod line;
mod manager;
mod playout;
mod stream;

pub use aligned::collect_aligned_frames;
pub use clock::SenderClock;
pub use config::{JitterConfig, JitterConfigError, SyncConfig};
pub use delay::{Arrival, DelayConfig, DelayEstimator};
pub use drift::{
    ClockDriftEstimate, ClockDriftEstimator, DriftAction, PpmEstimate, RateCorrection,
};
#[cfg(any(test, feature = "__fuzz"))]
pub use jitter::__fuzz_jitter_ops;
pub use jitter::{JitterBuffer, JitterStats, Packet, Pushed, RtpMeta};
pub use manager::{MediaKind, SyncManager, SyncState, SyncStats, SyncedFrame, TimestampOffset};
pub use playout::{Decision, PlayoutState, PullClock, decide, pace};

#[cfg(test)]
mod tests;
