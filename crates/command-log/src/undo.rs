//! Which puts their authors have taken back.
//!
//! An Undo or Redo names a put of its own author, further up in the same log. So an author's logs
//! decide about its own commands alone, in an order that all peers agree on, and nothing that
//! arrives late from others changes what is undone: the last of its commands about a put, of those
//! that count, says whether the put stands.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use roundtable_core::AuthorId;

use crate::{Order, outline::Outline, roles::Roles};

/// An Undo or Redo.
#[derive(Debug, Clone, Copy)]
struct Reversal {
    lamport: u64,
    target: u64,
    undoes: bool,
}

/// One author's commands of this kind.
#[derive(Debug, Default)]
struct Reversals {
    by_nonce: BTreeMap<u64, Reversal>,
    /// (target, nonce) of each.
    by_target: BTreeSet<(u64, u64)>,
}

/// All authors' Undo and Redo commands, and the puts about which they may have changed something.
#[derive(Debug, Default)]
pub(crate) struct Undos {
    authors: HashMap<AuthorId, Reversals>,
    stale: BTreeSet<(AuthorId, u64)>,
}

impl Undos {
    /// Adds an Undo (or a Redo), the next of its author's. One that does not name an earlier command
    /// does nothing.
    pub(crate) fn push(&mut self, order: Order, target: u64, undoes: bool) {
        if !(1..order.nonce).contains(&target) {
            return;
        }
        let reversals = self.authors.entry(order.author).or_default();
        let lamport = order.lamport;
        let reversal = Reversal {
            lamport,
            target,
            undoes,
        };
        reversals.by_nonce.insert(order.nonce, reversal);
        reversals.by_target.insert((target, order.nonce));
        self.stale.insert((order.author, target));
    }

    /// Whether a put is taken back now. This is where it would be said that what lies at or below
    /// a stable checkpoint cannot be.
    pub(crate) fn is_undone(&self, author: AuthorId, target: u64, roles: &Roles) -> bool {
        let Some(reversals) = self.authors.get(&author) else {
            return false;
        };
        let all = reversals.by_target.range((target, 0)..=(target, u64::MAX));
        let counted = all.rev().find_map(|(_, nonce)| {
            let reversal = reversals.by_nonce.get(nonce)?;
            let order = Order {
                lamport: reversal.lamport,
                author,
                nonce: *nonce,
            };
            roles.permits_put(&order).then_some(reversal)
        });
        counted.is_some_and(|reversal| reversal.undoes)
    }

    /// An author's role has changed for all nonces above `after`, and its puts there have been given
    /// to the state anew.
    pub(crate) fn review(&mut self, author: AuthorId, after: u64) {
        let Some(reversals) = self.authors.get(&author) else {
            return;
        };
        let Some(above) = after.checked_add(1) else {
            return;
        };
        let later = reversals.by_nonce.range(above..);
        let named_later = later.map(|(_, reversal)| reversal.target);
        let named = reversals.by_target.range((above, 0)..);
        let named = named.map(|(target, _)| *target);
        self.stale
            .extend(named_later.chain(named).map(|target| (author, target)));
    }

    /// Forgets what an author wrote above `after`: it does not count any more.
    pub(crate) fn retract(&mut self, author: AuthorId, after: u64) {
        let (Some(reversals), Some(above)) = (self.authors.get_mut(&author), after.checked_add(1))
        else {
            return;
        };
        for (nonce, Reversal { target, .. }) in reversals.by_nonce.split_off(&above) {
            reversals.by_target.remove(&(target, nonce));
            self.stale.insert((author, target));
        }
    }

    /// The puts that may have been taken back, or let count again, since the last time; by author,
    /// then by nonce.
    pub(crate) fn take_stale(&mut self) -> BTreeSet<(AuthorId, u64)> {
        std::mem::take(&mut self.stale)
    }
}

/// What the own author may take back next, and what it may let count again: the last put first.
/// A new put ends what could be let count again.
#[derive(Debug, Default)]
pub(crate) struct OwnHistory {
    undo: VecDeque<u64>,
    redo: VecDeque<u64>,
}

/// How far back the own history reaches.
const MAX_STEPS: usize = 4096;

impl OwnHistory {
    /// An own command.
    pub(crate) fn take(&mut self, nonce: u64, command: &Outline) {
        match command {
            Outline::Put { .. } => self.put(nonce),
            Outline::Reverse { target, undoes } => self.reversed(*target, *undoes),
            Outline::Other(_) => {}
        }
    }

    fn put(&mut self, nonce: u64) {
        self.redo.clear();
        if self.undo.len() == MAX_STEPS {
            self.undo.pop_front();
        }
        self.undo.push_back(nonce);
    }

    fn reversed(&mut self, target: u64, undoes: bool) {
        let (from, to) = if undoes {
            (&mut self.undo, &mut self.redo)
        } else {
            (&mut self.redo, &mut self.undo)
        };
        let at = from.iter().rposition(|nonce| *nonce == target);
        to.extend(at.and_then(|at| from.remove(at)));
    }

    pub(crate) fn next_undo(&self) -> Option<u64> {
        self.undo.back().copied()
    }

    pub(crate) fn next_redo(&self) -> Option<u64> {
        self.redo.back().copied()
    }
}
