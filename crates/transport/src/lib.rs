#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod clock;
mod link;

pub use clock::SystemClock;
pub use link::{Closed, Link, SendError, check_frame};
