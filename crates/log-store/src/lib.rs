#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

#[cfg(feature = "redb")]
mod database;
mod identity;
mod memory;
mod store;
mod verify;

#[cfg(feature = "redb")]
pub use database::Database;
pub use identity::{Identity, IdentityError, RoomLog};
pub use memory::MemoryStore;
pub use store::{Contents, Record, Store, StoreError};
pub use verify::{Refused, Verification, VerifyError};
