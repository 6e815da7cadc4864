//! The log as a history: what was written since, and what of it its author may take back.

use std::collections::HashMap;

use roundtable_core::{AuthorId, WallTime};

use crate::{
    Action, CommandLog, FrameId, Head, Key, Order, SharedFrame, chain::Chain, undo::OwnHistory,
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
        let mut frames: Vec<&SharedFrame> = Vec::new();
        for Head { author, .. } in self.heads() {
            frames.extend(self.frames_after(author, seen(author), usize::MAX));
        }
        frames.sort_by_key(|frame| frame.header().order(frame.header().first_nonce));
        frames.into_iter().flat_map(move |frame| {
            let after = seen(frame.author());
            self.entries_of(frame)
                .filter(move |entry| entry.nonce > after)
        })
    }

    /// Up to which nonce whoever was at `head` has seen what counts here: nothing for certain, if
    /// that head is of another branch.
    fn seen_by(&self, head: &Head) -> u64 {
        let parted = match self.frame_with(head.author, head.nonce) {
            Some(frame) => frame.id() != head.id,
            // Without a fork, this log is merely behind.
            None => self.chain(head.author).is_some_and(Chain::is_contested),
        };
        if parted { 0 } else { head.nonce }
    }

    fn entries_of(&self, frame: &SharedFrame) -> impl Iterator<Item = Entry> + use<'_> {
        let (header, id) = (*frame.header(), frame.id());
        let numbered = frame.actions().into_iter().zip(header.first_nonce..);
        numbered.map(move |(action, nonce)| Entry {
            author: header.author,
            nonce,
            lamport: header.lamport,
            wall: header.wall(),
            frame: id,
            counted: self.counts(&header, nonce, &action),
            undone: matches!(action, Action::Put { .. })
                && self.undos.is_undone(header.author, nonce, &self.roles),
            action,
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
            self.put_at(own, nonce).is_some() && undone != stands
        })
    }

    /// An author's put with this nonce.
    pub(crate) fn put_at(&self, author: AuthorId, nonce: u64) -> Option<(Order, Key)> {
        let mut puts = self.frame_with(author, nonce)?.puts();
        let (order, key, _) = puts.find(|(order, ..)| order.nonce == nonce)?;
        Some((order, key))
    }

    /// Takes the own history from the own frames up to a nonce.
    pub(crate) fn rebuild_own_history(&mut self, through: u64) {
        let own = self.own_author().and_then(|own| self.chain(own));
        let mut history = OwnHistory::default();
        for frame in own.into_iter().flat_map(Chain::frames) {
            let numbered = frame
                .actions()
                .into_iter()
                .zip(frame.header().first_nonce..);
            for (action, nonce) in numbered.filter(|(_, nonce)| *nonce <= through) {
                match action {
                    Action::Put { .. } => history.put(nonce),
                    Action::Undo { target } => history.reversed(target, true),
                    Action::Redo { target } => history.reversed(target, false),
                    _ => {}
                }
            }
        }
        self.own_history = history;
    }

    /// Tells the state which puts stand, of those about which something has changed.
    pub(crate) fn settle_undos(&mut self) {
        // The puts of one frame and then the next: each is decoded once.
        let mut decoded = None;
        let mut puts: HashMap<u64, (Order, Key)> = HashMap::new();
        for (author, target) in self.undos.take_stale() {
            if decoded.is_none_or(|(of, last)| of != author || last < target) {
                let Some(frame) = self.frame_with(author, target) else {
                    continue;
                };
                decoded = Some((author, frame.header().last_nonce()));
                let keyed = frame
                    .puts()
                    .map(|(order, key, _)| (order.nonce, (order, key)));
                puts = keyed.collect();
            }
            if let Some((order, key)) = puts.get(&target) {
                let undone = self.undos.is_undone(author, target, &self.roles);
                self.state.set_undone(key, *order, undone);
            }
        }
    }
}
