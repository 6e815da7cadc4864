//! Which authors a log keeps that nobody has given a role.
//!
//! Keys cost nothing, so there has to be a bound, and which authors are within it decides in some rooms what counts. So
//! it is no matter of who came first: of those who have begun a log, the ones with the lowest keys are kept.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_core::AuthorId;

use crate::{
    CommandLog, MAX_CHECKPOINT_AUTHORS,
    chain::Chain,
    fork::{Forks, Shift},
    waiting::Waiting,
};

/// How many authors a log keeps that have no role and are not named by the last stable checkpoint.
const MAX_STRANGERS: usize = 1024;
/// How many more it keeps while a checkpoint is pending that names them: as many as one can.
const MAX_AWAITED: usize = MAX_CHECKPOINT_AUTHORS;

/// Those authors, and the places in the log that others have left.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// Who has at least one frame here.
    members: BTreeSet<AuthorId>,
    most: usize,
    /// Who has no place, and is kept until the checkpoint that names it is settled. It counts for nothing, as where it was
    /// let go: what counts does not depend on which checkpoints one has heard of.
    awaited: BTreeSet<AuthorId>,
    most_awaited: usize,
    /// By whose chain is still there, without frames.
    vacant: BTreeMap<AuthorId, usize>,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            members: BTreeSet::new(),
            most: MAX_STRANGERS,
            awaited: BTreeSet::new(),
            most_awaited: MAX_AWAITED,
            vacant: BTreeMap::new(),
        }
    }
}

impl Crowd {
    fn has_room_for(&self, author: AuthorId) -> bool {
        let last = self.members.last();
        self.members.len() < self.most || last.is_some_and(|last| author <= *last)
    }
}

impl CommandLog {
    /// Whether frames of this author are of use: it has a role, or the last stable checkpoint names it, or it is among the
    /// 1,024 others with the lowest keys. Strangers may fill the log with authors, but never keep out one that was given a
    /// role, and which of them are kept does not depend on who came first. Nor do they keep out, for as long as a checkpoint
    /// may become stable, those whom it names.
    pub fn has_room_for(&self, author: AuthorId) -> bool {
        let own = self.own_author() == Some(author);
        own || !self.is_stranger(author)
            || self.crowd.has_room_for(author)
            || self.may_await(author)
    }

    /// Whether an author without a place is kept for the sake of a checkpoint.
    fn may_await(&self, author: AuthorId) -> bool {
        let awaited = &self.crowd.awaited;
        let fits = awaited.contains(&author) || awaited.len() < self.crowd.most_awaited;
        fits && self.is_awaited(author)
    }

    /// Whether an author has nothing but its key to show.
    fn is_stranger(&self, author: AuthorId) -> bool {
        author != self.genesis.creator()
            && !self.roles.names(author)
            && self.line.last().author(author).is_none()
    }

    /// Finds out anew whether an author is among those of whom only so many are kept.
    pub(crate) fn regroup(&mut self, author: AuthorId) {
        self.crowd.awaited.remove(&author);
        let begun = self.chain(author).is_some_and(|chain| chain.path.len() > 0);
        if begun && self.is_stranger(author) {
            self.crowd.members.insert(author);
        } else {
            self.crowd.members.remove(&author);
        }
    }

    /// Finds that out of all authors.
    pub(crate) fn regroup_all(&mut self) {
        let authors: Vec<_> = self.index.keys().copied().collect();
        self.crowd.members.clear();
        self.crowd.awaited.clear();
        authors.into_iter().for_each(|author| self.regroup(author));
    }

    /// Has those who were kept for a checkpoint show anew why they should be.
    pub(crate) fn call_awaited(&mut self) {
        let awaited = std::mem::take(&mut self.crowd.awaited);
        awaited.into_iter().for_each(|author| self.regroup(author));
    }

    /// Lets go of strangers until there are not too many. Whatever of theirs had counted does not any more.
    pub(crate) fn thin(&mut self) {
        let own = self.own_author();
        if let Some(own) = own.filter(|own| self.crowd.has_room_for(*own)) {
            self.regroup(own);
        }
        if self.crowd.members.len() > self.crowd.most {
            // Somebody may have a role by now.
            self.review();
        }
        while self.crowd.members.len() > self.crowd.most {
            match self.crowd.members.pop_last() {
                // What we have signed stays known, lest it be signed again. It counts no more than elsewhere.
                Some(last) if own == Some(last) => {}
                Some(last) if self.may_await(last) => {
                    self.crowd.awaited.insert(last);
                }
                Some(last) => self.let_go(last),
                None => return,
            }
        }
        self.weigh_outsiders();
    }

    /// Lets commands of authors that are here without a place, our own among them, count as long as others would keep them.
    fn weigh_outsiders(&mut self) {
        let mut outside = self.crowd.awaited.clone();
        let own = self.own_author();
        let placeless = |own: &AuthorId| self.is_stranger(*own) && !self.crowd.has_room_for(*own);
        outside.extend(own.filter(placeless));
        for author in self.roles.set_outside(outside) {
            if let Some(index) = self.index.get(&author) {
                self.put_again(*index, 0);
                self.undos.review(author, 0);
            }
        }
    }

    /// Forgets an author and all its frames.
    fn let_go(&mut self, author: AuthorId) {
        let Some(index) = self.index.get(&author).copied() else {
            return;
        };
        let chain = &mut self.chains[index];
        let dropped = chain.records_after(0).map(|record| record.frame());
        let dropped = dropped.collect();
        chain.empty();
        self.shift(index, &Shift { kept: 0, dropped });
        self.vacate(index);
    }

    /// Forgets an author of whom no frame is left. Its chain stays where it is, for what comes after it is known by its place.
    pub(crate) fn vacate(&mut self, index: usize) {
        let author = self.chains[index].author();
        self.index.remove(&author);
        self.crowd.vacant.insert(author, index);
    }

    /// Gives an author a place among the chains: the one that it had if that is still free, so that no author has two.
    pub(crate) fn insert(&mut self, chain: Chain) -> usize {
        let author = chain.author();
        let vacant = &mut self.crowd.vacant;
        let last = vacant.last_key_value().map(|(author, _)| *author);
        let left = vacant.remove(&author);
        let left = left.or_else(|| vacant.remove(&last?));
        let index = match left {
            Some(index) => {
                self.chains[index] = chain;
                index
            }
            None => {
                self.chains.push(chain);
                self.chains.len() - 1
            }
        };
        self.index.insert(author, index);
        index
    }
}

impl Chain {
    /// Whether nothing is known of the author, not even by a checkpoint.
    pub(crate) fn is_blank(&self) -> bool {
        self.path.len() == 0 && self.path.root().nonce == 0 && self.waiting.len() == 0
    }

    /// Lets go of all frames.
    fn empty(&mut self) {
        self.begin_at(self.path.root());
        self.forks = Forks::default();
        self.waiting = Waiting::default();
    }
}

#[cfg(test)]
mod tests;
