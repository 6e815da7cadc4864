#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod action;
mod admission;
mod backlog;
mod chain;
mod clock;
mod elided;
mod error;
mod fork;
mod frame;
#[cfg(feature = "__fuzz")]
mod fuzz;
mod genesis;
mod history;
mod id;
mod layout;
mod log;
mod metrics;
mod order;
mod rate;
mod restore;
mod roles;
mod schema;
mod state;
mod sync;
mod trunk;
mod undo;
mod verify;
mod waiting;

pub use action::{Action, Covered, Key, Role};
pub use admission::Received;
pub use elided::{FrameReader, FrameWriter, ReadError};
pub use error::{AppendError, FrameError, OpenError, RuleBreach};
pub use fork::ForkProof;
pub use frame::{FULL_HEADER_LEN, Header, SharedFrame, SignedFrame, UnverifiedFrame};
#[cfg(feature = "__fuzz")]
pub use fuzz::__fuzz_frame;
pub use genesis::{Genesis, GenesisError, GenesisParams, Limits, MERGE_VERSION};
pub use history::Entry;
pub use id::{FrameId, GenesisHash, SchemaHash, StateHash};
pub use log::{Applied, CommandLog, Update};
pub use order::Order;
pub use schema::{KeyType, MergeRule, Schema, SchemaBuilder, SchemaError, Strategy};
pub use sync::{Head, NonceRange};
pub use verify::{KeyError, PublicKey, SignatureError};

use roles::Roles;
