//! What the commands of a body do, with keys and values by their places: nothing is copied.

use std::ops::Range;

use bytes::Bytes;
use roundtable_wire::commands::{ActionRef, Body, BodyError};

use crate::{Action, Key, rate::cost};

/// A command of a body.
#[derive(Debug, Clone)]
pub(crate) enum Outline {
    /// Puts a value on a key.
    Put {
        key_type: u16,
        /// Where in the body the key is.
        key: Range<u32>,
        /// Where in the body the value is.
        value: Range<u32>,
    },
    /// Takes back the own put with this nonce, or lets it count again.
    Reverse { target: u64, undoes: bool },
    /// All that is rare.
    Other(Box<Action>),
}

/// Verifies a body and outlines its commands.
pub(crate) fn outline(body: &[u8]) -> Result<Vec<Outline>, BodyError> {
    let commands = Body::verify(body)?.actions();
    Ok(commands.map(|action| Outline::of(&action, body)).collect())
}

impl Outline {
    /// Outlines an action that is borrowed from `body`.
    fn of(action: &ActionRef<'_>, body: &[u8]) -> Self {
        match *action {
            ActionRef::Put {
                key_type,
                key,
                value,
            } => Self::Put {
                key_type,
                key: place(body, key),
                value: place(body, value),
            },
            ActionRef::Undo { target } => Self::reverse(target, true),
            ActionRef::Redo { target } => Self::reverse(target, false),
            other => Self::Other(Box::new(Action::from_wire(other))),
        }
    }

    /// Outlines an own action whose key and value were encoded at these places.
    pub(crate) fn encoded(action: &Action, [key, value]: [Range<usize>; 2]) -> Self {
        match action {
            Action::Put {
                key: Key { key_type, .. },
                ..
            } => Self::Put {
                key_type: *key_type,
                key: narrow(key),
                value: narrow(value),
            },
            Action::Undo { target } => Self::reverse(*target, true),
            Action::Redo { target } => Self::reverse(*target, false),
            other => Self::Other(Box::new(other.clone())),
        }
    }

    const fn reverse(target: u64, undoes: bool) -> Self {
        Self::Reverse { target, undoes }
    }

    /// The action, which shares the body's memory.
    pub(crate) fn action(self, body: &Bytes) -> Action {
        let share = |place: Range<u32>| body.slice(place.start as usize..place.end as usize);
        match self {
            Self::Put {
                key_type,
                key,
                value,
            } => Action::put(Key::new(key_type, share(key)), share(value)),
            Self::Reverse { target, undoes } if undoes => Action::Undo { target },
            Self::Reverse { target, .. } => Action::Redo { target },
            Self::Other(action) => *action,
        }
    }

    /// Whether it says something of checkpoints.
    pub(crate) fn is_about_checkpoints(&self) -> bool {
        matches!(self, Self::Other(action) if action.is_about_checkpoints())
    }

    /// What it costs of its author's budget, in tokens.
    pub(crate) fn cost(&self) -> u64 {
        match self {
            Self::Put { key, value, .. } => cost(key.len() + value.len()),
            Self::Reverse { .. } => cost(0),
            Self::Other(action) => action.cost(),
        }
    }
}

/// The bytes at a place of a body.
pub(crate) fn at<'a>(body: &'a [u8], place: &Range<u32>) -> &'a [u8] {
    &body[place.start as usize..place.end as usize]
}

/// Where in `body` a part of it is.
fn place(body: &[u8], part: &[u8]) -> Range<u32> {
    let start = part.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
    debug_assert!(body.get(start..start + part.len()) == Some(part));
    narrow(start..start + part.len())
}

/// A body is never as long as 4 GiB.
fn narrow(place: Range<usize>) -> Range<u32> {
    let narrow = |at| u32::try_from(at).unwrap_or(u32::MAX);
    narrow(place.start)..narrow(place.end)
}
