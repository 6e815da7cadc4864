//! Which branch of each author counts, and what follows for state and roles when that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use roundtable_core::AuthorId;

use crate::{
    Action, Covered, ForkProof, FrameId, Key, Role, SharedFrame, Update,
    chain::{Chain, Judged, Tip},
    fork::Shift,
    log::{CommandLog, Settling},
};

impl CommandLog {
    /// The forks in which authors' logs end, sorted by author. A fork below the frame that a role
    /// command names ends nothing and is not among them.
    pub fn forks(&self) -> Vec<ForkProof> {
        let mut forks: Vec<_> = self.chains.iter().filter_map(Chain::fork).collect();
        forks.sort_by_key(ForkProof::author);
        forks
    }

    /// The fork in which an author's log ends.
    pub fn fork(&self, author: AuthorId) -> Option<ForkProof> {
        self.chain(author)?.fork()
    }

    /// Whether this log has an author's frame with this id and last nonce (or its beginning, for
    /// nonce 0), and could use the proof that the author's log forks after it.
    pub fn lacks_fork(&self, author: AuthorId, nonce: u64, id: FrameId) -> bool {
        let Some(chain) = self.chain(author) else {
            return (nonce, id) == (0, FrameId::NONE) && self.has_room_for(author);
        };
        let node = chain.node_at(nonce, id).filter(|node| *node <= chain.trunk);
        node.is_some_and(|node| chain.fork_at(node).is_none())
    }

    /// A role command that restores an author whose log ends in a fork: it names the last frame of
    /// the branch that this log had followed, so that its frames count again. `None` if the author's
    /// log does not end in a fork. To choose the other branch, name a frame of it in
    /// [`Action::SetRole`].
    ///
    /// It takes effect if no role command on the author has a lower rank than this one will.
    pub fn restore_command(&self, target: AuthorId, role: Role) -> Option<Action> {
        let chain = self.chain(target).filter(|chain| chain.is_forked())?;
        let last = chain.tip_at(chain.path.len());
        let covered = Covered {
            nonce: last.nonce,
            id: last.id,
        };
        Some(Action::SetRole {
            target,
            role,
            covered,
        })
    }

    /// The frame that holds a command and counts.
    pub fn frame_with(&self, author: AuthorId, nonce: u64) -> Option<&SharedFrame> {
        let frame = self
            .chain(author)?
            .frames_after(nonce.checked_sub(1)?)
            .next();
        frame.filter(|frame| frame.header().first_nonce <= nonce)
    }

    /// Up to which nonce frames of an author are of use that do not count: a role command names one
    /// of them, on another branch than the one that counts here. 0 if there is no such command.
    pub fn sought(&self, author: AuthorId) -> u64 {
        self.chain(author).map_or(0, Chain::sought)
    }

    /// Evaluates roles and forks until they agree, and brings what the state is made of in line.
    ///
    /// Which branch of an author counts depends on role commands of lower rank than its own alone.
    /// So those of the lowest rank are decided first, and no decision is taken back.
    pub(crate) fn review(&mut self) {
        loop {
            self.refresh_roles();
            let mut contested: Vec<_> = (0..self.chains.len())
                .filter(|index| self.chains[*index].is_contested())
                .map(|index| {
                    (
                        self.roles.rank_of_rulings(self.chains[index].author()),
                        index,
                    )
                })
                .collect();
            contested.sort_unstable();
            let shifted = contested.into_iter().any(|(_, index)| self.decide(index));
            if !shifted {
                return;
            }
        }
    }

    /// Decides which branch of one author counts, and says whether that is news.
    fn decide(&mut self, index: usize) -> bool {
        let author = self.chains[index].author();
        let own = self.own.as_ref().is_some_and(|(_, own)| *own == index);
        let pins = self.roles.pins(author);
        let shift = self.chains[index].resolve(&pins, own);
        shift.is_some_and(|shift| {
            self.shift(index, &shift);
            true
        })
    }

    /// Keeps the proof that an author's path forks at a node.
    pub(crate) fn found_fork(&mut self, index: usize, node: usize, frame: SharedFrame, tip: &Tip) {
        let chain = &mut self.chains[index];
        chain.add_rival(node, frame, tip);
        if let Some(proof) = chain.fork_at(node) {
            self.arrived
                .push_back(Settling::Update(Box::new(Update::Forked(proof))));
        }
        self.counters.forked();
        self.review();
    }

    /// Takes what no longer counts out of state and roles, and what counts from now on in.
    fn shift(&mut self, index: usize, shift: &Shift) {
        let chain = &self.chains[index];
        let (author, after) = (chain.author(), chain.tip_at(shift.kept).nonce);
        if !shift.dropped.is_empty() {
            let gone = |settling: &Settling| match settling {
                Settling::Frame(frame) => {
                    frame.author() == author && frame.header().first_nonce > after
                }
                _ => false,
            };
            self.arrived.retain(|settling| !gone(settling));
            self.settled.retain(|settling| !gone(settling));
            self.applied
                .retain(|applied| applied.author != author || applied.nonce <= after);
            let puts = shift.dropped.iter().flat_map(|frame| frame.puts());
            let keys: BTreeSet<Key> = puts.map(|(_, key, _)| key).collect();
            for key in keys {
                self.state.retract(&key, author, after);
            }
            self.roles.retract(author, after);
            self.undos.retract(author, after);
            if self.own_author() == Some(author) {
                self.rebuild_own_history(after);
            }
            let retracted = Update::Retracted { author, after };
            self.arrived
                .push_back(Settling::Update(Box::new(retracted)));
        }
        let new: Vec<_> = self.chains[index]
            .frames_after(after)
            .map(Arc::clone)
            .collect();
        for frame in new {
            let actions = frame.actions();
            self.count(frame, actions);
        }
    }

    /// Evaluates roles, and gives the state anew what those wrote whose role has changed.
    fn refresh_roles(&mut self) {
        for (author, after) in self.roles.refresh() {
            let Some(index) = self.index.get(&author) else {
                continue;
            };
            let schema = self.schema.hash();
            let mut puts: BTreeMap<Key, Vec<_>> = BTreeMap::new();
            let frames = self.chains[*index].frames_after(after);
            for frame in frames.filter(|frame| frame.header().schema == schema) {
                for (order, key, value) in frame.puts().filter(|(order, ..)| order.nonce > after) {
                    puts.entry(key).or_default().push((order, value));
                }
            }
            for (key, values) in puts {
                self.state.retract(&key, author, after);
                for (order, value) in values {
                    self.index_put(order, key.clone(), value);
                }
            }
            self.undos.review(author, after);
        }
    }

    /// Lets a frame count that is at the end of its author's trunk.
    pub(crate) fn commit(&mut self, index: usize, frame: SharedFrame, judged: Judged) {
        self.chains[index].push(Arc::clone(&frame), judged.tip);
        self.count(frame, judged.actions);
    }
}
