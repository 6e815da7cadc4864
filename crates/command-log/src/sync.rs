//! What two logs tell each other to become equal.

use roundtable_core::AuthorId;

use crate::FrameId;

/// How far a log has an author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// The author.
    pub author: AuthorId,
    /// Its last nonce here.
    pub nonce: u64,
    /// The id of its last frame here.
    pub id: FrameId,
    /// The Lamport time of its last frame here.
    pub lamport: u64,
}

/// A run of an author's commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NonceRange {
    /// The author.
    pub author: AuthorId,
    /// The nonce before the first.
    pub after: u64,
    /// The last nonce.
    pub through: u64,
}
