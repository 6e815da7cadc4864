#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod link;
mod memory;
mod network;
mod queue;

pub use clock::SystemClock;
pub use link::{Closed, Link, MAX_REASON_LEN, SendError, check_frame};
pub use memory::MemoryLink;
pub use network::{DatagramSocket, Network, NetworkHandle};
pub use queue::{FrameQueue, LaneStats, QueueLimits};
