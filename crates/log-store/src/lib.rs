#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

#[cfg(feature = "redb")]
mod database;
mod equivocations;
mod identity;
mod memory;
mod refusals;
mod store;
mod verify;

#[cfg(feature = "redb")]
pub use database::Database;
pub use equivocations::Equivocations;
pub use identity::{Identity, IdentityError, RoomLog};
pub use memory::MemoryStore;
pub use refusals::{Claims, Culprit, Refusal, Refusals, Tally};
pub use store::{Contents, Record, Store, StoreError};
pub use verify::{Refused, Verification, VerifyError};
