//! What a command does.

use std::ops::Range;

use bytes::Bytes;
use roundtable_core::AuthorId;
use roundtable_wire::commands::ActionRef;

use crate::{FrameId, rate::cost};

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
            Self::SetRole { .. } => Role::Admin,
        }
    }

    /// What the command costs of its author's budget, in tokens.
    pub fn cost(&self) -> u64 {
        cost(self.as_wire().payload_len())
    }

    /// The same action with its key and value at these places of a body.
    pub(crate) fn within(&self, body: &Bytes, [key_at, value_at]: [Range<usize>; 2]) -> Self {
        match self {
            Self::Put { key, .. } => Self::Put {
                key: Key::new(key.key_type, body.slice(key_at)),
                value: body.slice(value_at),
            },
            other => other.clone(),
        }
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
            Self::Unknown { kind } => ActionRef::Unknown { kind: *kind },
        }
    }

    /// The action that `action`, borrowed from `body`, stands for; it shares the body's memory.
    pub(crate) fn from_wire(action: ActionRef<'_>, body: &Bytes) -> Self {
        /// What stands for a role of a later version.
        const SET_ROLE: u8 = 2;
        match action {
            ActionRef::Put {
                key_type,
                key,
                value,
            } => Self::Put {
                key: Key::new(key_type, share(body, key)),
                value: share(body, value),
            },
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
            ActionRef::Unknown { kind } => Self::Unknown { kind },
            _ => Self::Unknown { kind: u8::MAX },
        }
    }
}

fn share(body: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        body.slice_ref(part)
    }
}
