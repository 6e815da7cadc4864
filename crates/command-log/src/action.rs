//! What a command does.

use bytes::Bytes;
use roundtable_core::AuthorId;
use roundtable_wire::commands::{ActionRef, Ballot as WireBallot};

use crate::{CheckpointName, FrameId, rate::cost};

/// What an author may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Role {
    /// Reads. Its commands are kept and do not count.
    #[default]
    Viewer = 0,
    /// Puts values.
    Editor = 1,
    /// Puts values and gives roles.
    Admin = 2,
}

impl Role {
    /// The role with this number on the wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Viewer),
            1 => Some(Self::Editor),
            2 => Some(Self::Admin),
            _ => None,
        }
    }

    /// The role's number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A key of the shared state. Sorted by type, then by bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The key's type in the room's schema.
    pub key_type: u16,
    /// At most 256 bytes of the application's choice.
    pub bytes: Bytes,
}

impl Key {
    /// A key of a type.
    pub fn new(key_type: u16, bytes: impl Into<Bytes>) -> Self {
        Self {
            key_type,
            bytes: bytes.into(),
        }
    }
}

/// Where a role command cuts its target's log: later nonces are governed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Covered {
    /// The last nonce that is not governed, 0 for none.
    pub nonce: u64,
    /// The id of the target's frame that holds this nonce, [`FrameId::NONE`] for none.
    pub id: FrameId,
}

impl Covered {
    /// Nothing covered: the whole log is governed.
    pub const NOTHING: Self = Self {
        nonce: 0,
        id: FrameId::NONE,
    };
}

/// Which checkpoint an author speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The checkpoint.
    pub checkpoint: CheckpointName,
    /// The stable one that it follows, [`CheckpointName::NONE`] if it is the first.
    pub previous: CheckpointName,
}

impl Ballot {
    const fn as_wire(self) -> WireBallot {
        WireBallot {
            checkpoint: *self.checkpoint.as_bytes(),
            previous: *self.previous.as_bytes(),
        }
    }

    const fn from_wire(ballot: WireBallot) -> Self {
        Self {
            checkpoint: CheckpointName::from_bytes(ballot.checkpoint),
            previous: CheckpointName::from_bytes(ballot.previous),
        }
    }
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Sets, proposes or merges a value, as the strategy of the key's type says.
    Put {
        /// The key.
        key: Key,
        /// The value; with the key's bytes at most 64 KiB.
        value: Bytes,
    },
    /// Gives an author a role. Counts if its own author is an Admin.
    SetRole {
        /// Who gets the role.
        target: AuthorId,
        /// The role.
        role: Role,
        /// From where on.
        covered: Covered,
    },
    /// Takes back a put of the same author: it does nothing from now on, as if it had never been
    /// written. The values of other commands on its key take its place.
    Undo {
        /// The put's nonce.
        target: u64,
    },
    /// Lets a put of the same author count again that was taken back, in its old place.
    Redo {
        /// The put's nonce.
        target: u64,
    },
    /// Proposes a checkpoint. Counts if its own author is an Admin.
    Propose {
        /// In its fixed layout.
        checkpoint: Bytes,
    },
    /// Says that a proposed checkpoint is true of its author's log, and promises to write nothing at
    /// or below the cut.
    Acknowledge(Ballot),
    /// Takes back a proposal of the same author.
    Withdraw(Ballot),
    /// Makes a proposed checkpoint final as far as its author is concerned, once all writers have
    /// acknowledged it.
    Commit(Ballot),
    /// Asks that the checkpoint after the last stable one need not wait for an author.
    Retire {
        /// The author.
        author: AuthorId,
        /// The last stable checkpoint, [`CheckpointName::NONE`] if there is none.
        previous: CheckpointName,
    },
    /// An action of a later version: it takes a nonce and does nothing. Cannot be appended.
    Unknown {
        /// Its number in the wire schema.
        kind: u8,
    },
}

impl Action {
    /// Sets, proposes or merges a value.
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key,
            value: value.into(),
        }
    }

    /// The role that an author needs for this to count.
    pub const fn needs(&self) -> Role {
        match self {
            Self::Put { .. } | Self::Undo { .. } | Self::Redo { .. } | Self::Unknown { .. } => {
                Role::Editor
            }
            Self::SetRole { .. } | Self::Propose { .. } => Role::Admin,
            // Whose role was taken may still have to consent to a cut.
            Self::Acknowledge(_) | Self::Withdraw(_) | Self::Commit(_) | Self::Retire { .. } => {
                Role::Viewer
            }
        }
    }

    /// Whether it says something of checkpoints.
    pub const fn is_about_checkpoints(&self) -> bool {
        matches!(
            self,
            Self::Propose { .. }
                | Self::Acknowledge(_)
                | Self::Withdraw(_)
                | Self::Commit(_)
                | Self::Retire { .. }
        )
    }

    /// What the command costs of its author's budget, in tokens.
    pub fn cost(&self) -> u64 {
        cost(self.as_wire().payload_len())
    }

    pub(crate) fn as_wire(&self) -> ActionRef<'_> {
        match self {
            Self::Put { key, value } => ActionRef::Put {
                key_type: key.key_type,
                key: &key.bytes,
                value,
            },
            Self::SetRole {
                target,
                role,
                covered,
            } => ActionRef::SetRole {
                target: *target.as_bytes(),
                role: role.number(),
                covered_nonce: covered.nonce,
                covered_id: *covered.id.as_bytes(),
            },
            Self::Undo { target } => ActionRef::Undo { target: *target },
            Self::Redo { target } => ActionRef::Redo { target: *target },
            Self::Propose { checkpoint } => ActionRef::Propose { checkpoint },
            Self::Acknowledge(ballot) => ActionRef::Acknowledge(ballot.as_wire()),
            Self::Withdraw(ballot) => ActionRef::Withdraw(ballot.as_wire()),
            Self::Commit(ballot) => ActionRef::Commit(ballot.as_wire()),
            Self::Retire { author, previous } => ActionRef::Retire {
                author: *author.as_bytes(),
                previous: *previous.as_bytes(),
            },
            Self::Unknown { kind } => ActionRef::Unknown { kind: *kind },
        }
    }

    /// The action that `action` stands for; keys and values are copied.
    pub(crate) fn from_wire(action: ActionRef<'_>) -> Self {
        /// What stands for a role of a later version.
        const SET_ROLE: u8 = 2;
        let copy = Bytes::copy_from_slice;
        match action {
            ActionRef::Put {
                key_type,
                key,
                value,
            } => Self::put(Key::new(key_type, copy(key)), copy(value)),
            ActionRef::SetRole {
                target,
                role,
                covered_nonce: nonce,
                covered_id,
            } => match Role::from_number(role) {
                Some(role) => Self::SetRole {
                    target: AuthorId::from_bytes(target),
                    role,
                    covered: Covered {
                        nonce,
                        id: FrameId::from_bytes(covered_id),
                    },
                },
                None => Self::Unknown { kind: SET_ROLE },
            },
            ActionRef::Undo { target } => Self::Undo { target },
            ActionRef::Redo { target } => Self::Redo { target },
            ActionRef::Propose { checkpoint } => Self::Propose {
                checkpoint: copy(checkpoint),
            },
            ActionRef::Acknowledge(ballot) => Self::Acknowledge(Ballot::from_wire(ballot)),
            ActionRef::Withdraw(ballot) => Self::Withdraw(Ballot::from_wire(ballot)),
            ActionRef::Commit(ballot) => Self::Commit(Ballot::from_wire(ballot)),
            ActionRef::Retire { author, previous } => Self::Retire {
                author: AuthorId::from_bytes(author),
                previous: CheckpointName::from_bytes(previous),
            },
            ActionRef::Unknown { kind } => Self::Unknown { kind },
            _ => Self::Unknown { kind: u8::MAX },
        }
    }
}
