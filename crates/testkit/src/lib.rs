#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod cable;
mod checkpoints;
mod dice;
mod fault;
mod forge;
mod hostile;
mod misjudge;
mod model;
mod oracle;
mod peer;
mod scenario;
mod signaling;
mod violation;
mod world;

use roundtable_command_log::{MergeRule, Schema, SchemaError, Strategy};

pub use fault::Fault;
pub use peer::Kind;
pub use scenario::{Failure, Report, run};
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
