//! Which branch of each author counts, and what follows for state and roles when that changes.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_core::AuthorId;

use crate::{
    Action, Covered, ForkProof, FrameId, Header, Role, SharedFrame, Update,
    chain::{Chain, Judged, Tip},
    fork::Shift,
    log::{CommandLog, Settling, narrow},
    outline::{self, Outline},
    state::Op,
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
    pub fn frame_with(&self, author: AuthorId, nonce: u64) -> Option<SharedFrame> {
        Some(self.chain(author)?.record_with(nonce)?.frame())
    }

    /// The id of that frame.
    pub(crate) fn id_at(&self, author: AuthorId, nonce: u64) -> Option<FrameId> {
        Some(self.chain(author)?.record_with(nonce)?.id)
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
        // What is said of checkpoints counts on any branch.
        self.hear(&frame);
        let chain = &mut self.chains[index];
        chain.add_rival(node, frame, tip);
        if let Some(proof) = chain.fork_at(node) {
            self.testimony.note_fork(proof.clone(), &self.line);
            self.arrived
                .push_back(Settling::Update(Box::new(Update::Forked(proof))));
        }
        self.counters.forked();
        self.review();
    }

    /// Takes what no longer counts out of state and roles, and what counts from now on in.
    pub(crate) fn shift(&mut self, index: usize, shift: &Shift) {
        let chain = &self.chains[index];
        let (author, after) = (chain.author(), chain.tip_at(shift.kept).nonce);
        if !shift.dropped.is_empty() {
            self.forget_pending(author, after);
            let mut keys = BTreeSet::new();
            for frame in &shift.dropped {
                let body = frame.body_bytes();
                for command in outline::outline(body).unwrap_or_default() {
                    if let Outline::Put { key_type, key, .. } = command {
                        keys.insert((key_type, outline::at(body, &key)));
                    }
                }
            }
            for key in keys {
                self.state.retract(key, narrow(index), after);
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
            .records_after(after)
            .map(|record| (record.frame(), record.at))
            .collect();
        for (frame, at) in new {
            let commands = outline::outline(frame.body_bytes()).unwrap_or_default();
            self.count(index, frame, at, commands);
        }
    }

    /// Evaluates roles, and gives the state anew what those wrote whose role has changed.
    fn refresh_roles(&mut self) {
        for (author, after) in self.roles.refresh() {
            self.regroup(author);
            if let Some(index) = self.index.get(&author) {
                self.put_again(*index, after);
                self.undos.review(author, after);
            }
        }
    }

    /// Gives the state anew what an author wrote above `after`.
    pub(crate) fn put_again(&mut self, index: usize, after: u64) {
        let (chains, schema) = (&self.chains[..], &self.schema);
        let cut = self.line.last().cut;
        let mut puts: BTreeMap<(u16, &[u8]), Vec<_>> = BTreeMap::new();
        let records = chains[index].records_after(after);
        let speaks = |header: &Header| header.schema == schema.hash() && header.lamport > cut;
        for record in records.filter(|record| speaks(&record.header)) {
            for (nonce, command) in record.outlines().filter(|(nonce, _)| *nonce > after) {
                if let Outline::Put {
                    key_type,
                    key,
                    value,
                } = command
                {
                    let order = record.header.order(nonce);
                    let op = Op::new(narrow(index), &order, record.at.within(&value));
                    let key = (key_type, outline::at(record.body, &key));
                    let value = outline::at(record.body, &value);
                    puts.entry(key).or_default().push((order, op, value));
                }
            }
        }
        for (key, ops) in puts {
            self.state.retract(key, narrow(index), after);
            let Some(strategy) = schema.strategy(key.0) else {
                continue;
            };
            for (order, op, value) in ops {
                if strategy.accepts(value) && self.roles.permits_put(&order) {
                    self.state.push(key, op, strategy, chains);
                }
            }
        }
    }

    /// Forgets what an author wrote above `after` and nobody was told yet.
    pub(crate) fn forget_pending(&mut self, author: AuthorId, after: u64) {
        let gone = |settling: &Settling| match settling {
            Settling::Frame(frame) => {
                frame.author() == author && frame.header().first_nonce > after
            }
            Settling::Update(update) => match &**update {
                Update::Applied(applied) => applied.author == author && applied.nonce > after,
                _ => false,
            },
        };
        self.arrived.retain(|settling| !gone(settling));
        self.settled.retain(|settling| !gone(settling));
        self.applied
            .retain(|applied| applied.author != author || applied.nonce <= after);
    }

    /// Lets a frame count that is at the end of its author's trunk.
    pub(crate) fn commit(&mut self, index: usize, frame: SharedFrame, judged: Judged) {
        let at = self.chains[index].push(&frame, judged.tip);
        if self.chains[index].path.len() == 1 {
            self.regroup(frame.author());
        }
        self.count(index, frame, at, judged.commands);
    }
}
