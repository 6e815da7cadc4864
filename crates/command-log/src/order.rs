//! The total order of commands.

use roundtable_core::AuthorId;

/// Where a command stands among all commands of a room. Compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// The Lamport time of its frame.
    pub lamport: u64,
    /// Its author.
    pub author: AuthorId,
    /// Its number in the author's log.
    pub nonce: u64,
}
