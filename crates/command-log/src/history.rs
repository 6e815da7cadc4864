//! The log as a history: what was written since, and what of it its author may take back.

use std::collections::HashMap;

use bytes::Bytes;
use roundtable_core::{AuthorId, WallTime};

use crate::{
    Action, CommandLog, FrameId, Head,
    chain::Chain,
    outline::{self, Outline},
    path::Record,
    undo::OwnHistory,
};

/// A command of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who wrote it.
    pub author: AuthorId,
    /// Its number in the author's log.
    pub nonce: u64,
    /// Its Lamport time.
    pub lamport: u64,
    /// When its author signed it, by the author's clock.
    pub wall: WallTime,
    /// The frame that it came in.
    pub frame: FrameId,
    /// What it does.
    pub action: Action,
    /// Whether its author's role, the schema and the merge rule let it count.
    pub counted: bool,
    /// Whether its author has taken it back.
    pub undone: bool,
}

impl CommandLog {
    /// The commands beyond `heads`, which are this log's as they were at some time or another log's,
    /// in the order of all commands; with no heads, all. What arrived late stands before what was
    /// there already: whoever goes on from time to time sees each command once, in the order in
    /// which each author wrote, and only this log's whole history in the order that counts. Of an
    /// author of whom another branch counts by now, all that counts comes again.
    ///
    /// Decodes each frame when its turn comes; sorts the frames, not their commands.
    pub fn entries_since(&self, heads: &[Head]) -> impl Iterator<Item = Entry> {
        let seen = heads.iter().map(|head| (head.author, self.seen_by(head)));
        let seen: HashMap<_, _> = seen.collect();
        let seen = move |author| seen.get(&author).copied().unwrap_or(0);
        let mut places = Vec::new();
        for chain in &self.chains {
            let from = chain.path.through(seen(chain.author()));
            let ordered = |index| {
                let header = chain.path.record(index).header;
                (header.order(header.first_nonce), chain, index)
            };
            places.extend((from..chain.trunk).map(ordered));
        }
        places.sort_by_key(|(order, ..)| *order);
        places.into_iter().flat_map(move |(order, chain, index)| {
            let after = seen(order.author);
            self.entries_of(&chain.path.record(index))
                .filter(move |entry| entry.nonce > after)
        })
    }

    /// Up to which nonce whoever was at `head` has seen what counts here: nothing for certain, if
    /// that head is of another branch.
    fn seen_by(&self, head: &Head) -> u64 {
        let parted = match self.id_at(head.author, head.nonce) {
            Some(id) => id != head.id,
            // Without a fork, this log is merely behind.
            None => self.chain(head.author).is_some_and(Chain::is_contested),
        };
        if parted { 0 } else { head.nonce }
    }

    fn entries_of(&self, record: &Record<'_>) -> impl Iterator<Item = Entry> + use<'_> {
        let (header, frame) = (record.header, record.id);
        let body = Bytes::copy_from_slice(record.body);
        record.outlines().map(move |(nonce, command)| {
            let action = command.action(&body);
            Entry {
                author: header.author,
                nonce,
                lamport: header.lamport,
                wall: header.wall(),
                frame,
                counted: self.counts(&header, nonce, &action),
                undone: matches!(action, Action::Put { .. })
                    && self.undos.is_undone(header.author, nonce, &self.roles),
                action,
            }
        })
    }

    /// The command that takes back the own put with this nonce; `None` if there is no such put, or
    /// it has been taken back.
    pub fn undo_command(&self, nonce: u64) -> Option<Action> {
        self.may_reverse(nonce, true)
            .then_some(Action::Undo { target: nonce })
    }

    /// The command that lets the own put with this nonce count again; `None` if there is no such
    /// put, or it has not been taken back.
    pub fn redo_command(&self, nonce: u64) -> Option<Action> {
        self.may_reverse(nonce, false)
            .then_some(Action::Redo { target: nonce })
    }

    /// The nonce of the last own put that has not been taken back. Reaches 4,096 puts back.
    pub fn next_undo(&self) -> Option<u64> {
        self.own_history.next_undo()
    }

    /// The nonce of the own put that was taken back last; `None` if another was written since.
    pub fn next_redo(&self) -> Option<u64> {
        self.own_history.next_redo()
    }

    /// Whether an own put stands and may be taken back, or the other way round.
    pub(crate) fn may_reverse(&self, nonce: u64, stands: bool) -> bool {
        self.own_author().is_some_and(|own| {
            let undone = self.undos.is_undone(own, nonce, &self.roles);
            self.is_put(own, nonce) && undone != stands
        })
    }

    /// Whether the command with this nonce is there and a put.
    pub(crate) fn is_put(&self, author: AuthorId, nonce: u64) -> bool {
        let chain = self.chain(author);
        let mut commands = chain
            .and_then(|chain| chain.record_with(nonce))
            .into_iter()
            .flat_map(|record| record.outlines());
        commands.any(|(n, command)| n == nonce && matches!(command, Outline::Put { .. }))
    }

    /// Takes the own history from the own frames up to a nonce.
    pub(crate) fn rebuild_own_history(&mut self, through: u64) {
        let own = self.own_author().and_then(|own| self.chain(own));
        let records = own.into_iter().flat_map(|chain| chain.records_after(0));
        let commands = records.flat_map(|record| record.outlines());
        let mut history = OwnHistory::default();
        for (nonce, command) in commands.take_while(|(nonce, _)| *nonce <= through) {
            history.take(nonce, &command);
        }
        self.own_history = history;
    }

    /// Tells the state which puts stand, of those about which something has changed.
    pub(crate) fn settle_undos(&mut self) {
        // The puts of one frame and then the next: each is decoded once.
        let mut decoded: Option<(Record<'_>, Vec<Outline>)> = None;
        for (author, target) in self.undos.take_stale() {
            let known = decoded.as_ref().filter(|(record, _)| {
                record.header.author == author && record.header.last_nonce() >= target
            });
            if known.is_none() {
                let chain = self.index.get(&author).map(|index| &self.chains[*index]);
                decoded = chain
                    .and_then(|chain| chain.record_with(target))
                    .map(|record| {
                        let outlines = record.outlines().map(|(_, command)| command);
                        let outlines = outlines.collect();
                        (record, outlines)
                    });
            }
            let Some((record, outlines)) = &decoded else {
                continue;
            };
            let nth = target.checked_sub(record.header.first_nonce);
            let nth = nth.and_then(|nth| usize::try_from(nth).ok());
            let command = nth.and_then(|nth| outlines.get(nth));
            if let Some(Outline::Put { key_type, key, .. }) = command {
                let undone = self.undos.is_undone(author, target, &self.roles);
                let key = (*key_type, outline::at(record.body, key));
                let order = record.header.order(target);
                self.state.set_undone(key, &order, undone, &self.chains);
            }
        }
    }
}
