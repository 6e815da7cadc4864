#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod cable;
mod checkpoints;
mod dial;
mod dice;
mod digest;
mod duct;
mod fault;
mod forge;
mod hostile;
mod messages;
mod misjudge;
mod model;
mod oracle;
mod peer;
mod scenario;
mod setup;
mod signaling;
mod violation;
mod wire;
mod world;

use roundtable_command_log::{MergeRule, Schema, SchemaError, Strategy};

pub use dial::{DialError, SIGNALING_DELAY, WireLink, dial};
pub use duct::Duct;
pub use fault::Fault;
pub use peer::Kind;
pub use scenario::{Failure, Medium, Report, run, run_over};
pub use setup::{SetUpFailure, in_virtual_time, set_up};
pub use signaling::{
    SignalingFailure, SignalingFault, SignalingReport, SignalingViolation, Weather, run_signaling,
};
pub use violation::Violation;
pub use world::World;

/// A key type whose last command counts.
pub const NOTE: u16 = 1;
/// A key type whose first command counts.
pub const CLAIM: u16 = 2;
/// A key type whose commands are joined.
pub const TRAIL: u16 = 3;
/// A key type whose commands are added up.
pub const SCORE: u16 = 4;

/// The schema that simulated rooms speak.
///
/// # Errors
/// None; the builder has the type.
pub fn schema() -> Result<Schema, SchemaError> {
    let trail = MergeRule::Append { max_len: 4096 };
    Schema::builder(1, 0)
        .key_type(NOTE, "note", Strategy::LastWriteWins)
        .key_type(CLAIM, "claim", Strategy::Reject)
        .key_type(TRAIL, "trail", Strategy::Merge(trail))
        .key_type(SCORE, "score", Strategy::Merge(MergeRule::Add))
        .build()
}
