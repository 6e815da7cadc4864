#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod action;
mod admission;
mod aside;
mod backlog;
mod certificate;
mod chain;
mod checkpoint;
mod clock;
mod consent;
mod crowd;
mod cut;
mod duty;
mod elided;
mod equivocation;
mod error;
mod faults;
mod fork;
mod frame;
#[cfg(feature = "__fuzz")]
mod fuzz;
mod genesis;
mod history;
mod id;
mod layout;
mod log;
#[cfg(feature = "__memo")]
mod memo;
mod metrics;
mod order;
mod outline;
mod path;
mod prune;
mod rate;
mod restore;
mod roles;
mod schema;
mod snapshot;
mod state;
mod sync;
mod testimony;
mod trunk;
mod undo;
mod verify;
mod waiting;

pub use action::{Action, Ballot, Covered, Key, Role};
pub use admission::Received;
pub use certificate::{Certificate, CertificateError};
pub use checkpoint::{AuthorAtCut, Checkpoint, CheckpointError, HeadAtCut, MAX_CHECKPOINT_AUTHORS};
pub use elided::{FrameReader, FrameWriter, ReadError};
pub use equivocation::Equivocation;
pub use error::{AppendError, FrameError, OpenError, ProposeError, RuleBreach};
#[cfg(feature = "__faults")]
pub use faults::{__Broken, __break_rule};
pub use fork::ForkProof;
pub use frame::{FULL_HEADER_LEN, Header, SharedFrame, SignedFrame, UnverifiedFrame};
#[cfg(feature = "__fuzz")]
pub use fuzz::{__fuzz_frame, __fuzz_snapshot};
pub use genesis::{Genesis, GenesisError, GenesisParams, Limits, MERGE_VERSION};
pub use history::Entry;
pub use id::{CheckpointName, FrameId, GenesisHash, SchemaHash, StateHash};
pub use log::{Applied, CommandLog, Update};
#[cfg(feature = "__memo")]
pub use memo::__remember_verdicts;
pub use order::Order;
pub use prune::Stable;
pub use restore::Unrestored;
pub use schema::{KeyType, MergeRule, Schema, SchemaBuilder, SchemaError, Strategy};
pub use snapshot::{Snapshot, SnapshotError};
pub use sync::{Head, NonceRange};
pub use verify::{KeyError, PublicKey, SignatureError};

use roles::Roles;
