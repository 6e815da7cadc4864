//! What a stable checkpoint does to a log: of what lies below, only what it comes to is left.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use roundtable_core::{AuthorId, WallTime};

use crate::{
    Certificate, Checkpoint, CheckpointName, CommandLog, Covered, FrameId, Key, SharedFrame,
    Update,
    certificate::Line,
    chain::{Chain, Tip},
    fork::Forks,
    log::Settling,
    outline::Outline,
    path::BodyPlace,
    roles::Roles,
    state::State,
    testimony::{Room, Testimony},
    undo::Undos,
};

/// All values at a checkpoint.
pub(crate) type Values = BTreeMap<Key, Bytes>;

/// A stable checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stable {
    /// Its place in the line of stable checkpoints, from 1.
    pub number: u64,
    /// Its name.
    pub name: CheckpointName,
    /// The highest Lamport time that lies below it.
    pub cut: u64,
}

/// A checkpoint that is stable while this log lacks something below it.
#[derive(Debug)]
pub(crate) struct Behind {
    certificate: Certificate,
    /// Whether nothing is lacking, and this log comes to something else: no frame will mend that.
    differs: bool,
}

/// How much of an author's log had counted before it was pruned.
struct Counted {
    author: AuthorId,
    /// The frames above the checkpoint, and their Lamport times.
    above: Vec<(FrameId, u64)>,
}

impl CommandLog {
    /// The last stable checkpoint.
    pub fn checkpoint(&self) -> Option<Stable> {
        let last = self.line.last();
        (last.number > 0).then(|| Stable {
            number: last.number,
            name: self.line.name(),
            cut: last.cut,
        })
    }

    /// What the last stable checkpoint says.
    pub fn checkpoint_contents(&self) -> Option<&Checkpoint> {
        let last = self.line.last();
        (last.number > 0).then_some(last)
    }

    /// What the stable checkpoint with this number says.
    pub fn checkpoint_at(&self, number: u64) -> Option<Checkpoint> {
        self.line.checkpoint(number, &self.genesis)
    }

    /// What makes each of the stable checkpoints so, from the first.
    pub fn certificates(&self) -> &[Certificate] {
        self.line.certificates()
    }

    /// Whether a checkpoint is proposed that others should wait for: an Admin's who was not retired, not
    /// withdrawn, and not found to be false.
    pub fn has_open_proposal(&self) -> bool {
        self.binding_proposals().next().is_some()
    }

    /// Whether anybody has written something that is not about checkpoints, above one Lamport time and not
    /// above another.
    pub fn has_news(&self, above: u64, through: u64) -> bool {
        let within = above.saturating_add(1)..=through;
        let records = self.chains.iter().flat_map(|chain| chain.records_after(0));
        let mut records = records.filter(|record| within.contains(&record.header.lamport));
        records.any(|record| {
            let mut commands = record.outlines();
            commands.any(|(_, command)| !command.is_about_checkpoints())
        })
    }

    /// The number of a checkpoint that is stable while this log lacks something below it: to go on, it
    /// needs the frames or a [snapshot](Self::install).
    pub fn behind(&self) -> Option<u64> {
        self.behind.as_ref().map(|_| self.line.last().number + 1)
    }

    /// What is left of an author's budget after its last frame, in thousandths of a token.
    pub fn budget_of(&self, author: AuthorId) -> Option<u64> {
        let chain = self.chain(author)?;
        Some(chain.tip.budget.parts())
    }

    /// The last nonce of an author that lies below the last stable checkpoint: its frames up to there
    /// are gone.
    pub fn pruned_through(&self, author: AuthorId) -> u64 {
        self.chain(author)
            .map_or(0, |chain| chain.path.root().nonce)
    }

    /// Goes on to each checkpoint that has become stable, as far as this log knows what lies below.
    pub(crate) fn advance(&mut self, wall: WallTime) {
        loop {
            let found = match &self.behind {
                Some(behind) if behind.differs => return,
                Some(behind) => Some(behind.certificate.clone()),
                None if !self.testimony.take_news() => return,
                None => {
                    self.hear_again();
                    self.testimony.find_stable(&self.line, &self.genesis)
                }
            };
            let Some(certificate) = found else { return };
            let mut line = self.line.clone();
            if line.extend(certificate.clone(), &self.genesis).is_err() {
                self.behind = None;
                return;
            }
            let drafted = self.drafted.take_if(|(name, _)| *name == line.name());
            if let Some((_, values)) = drafted {
                // It was replayed when it was judged.
                self.rebase(line, &values, wall);
                continue;
            }
            let next = line.last();
            let heads = next.authors.iter().map(|at| (at.author, at.head));
            let draft = self.draft(next.proposer, next.cut, &heads.collect());
            let differs = draft.is_some();
            match draft.filter(|draft| draft.checkpoint == *next) {
                Some(draft) => {
                    let values = draft.at_cut.state.values();
                    self.rebase(line, &values, wall);
                }
                None => {
                    self.behind = Some(Behind {
                        certificate,
                        differs,
                    });
                    return;
                }
            }
        }
    }

    /// Looks for proposals that were not taken for want of room, and that writers have committed all the
    /// same.
    fn hear_again(&mut self) {
        let missed = self.testimony.missed(&self.line, &self.genesis);
        if missed.is_empty() {
            return;
        }
        let kept: Vec<_> = self.kept().collect();
        for frame in &kept {
            self.testimony
                .note_missed(frame, &missed, &self.line, &self.genesis);
        }
    }

    /// Puts a checkpoint in the place of all that lies below it.
    pub(crate) fn rebase(&mut self, line: Line, values: &Values, wall: WallTime) {
        self.review();
        let next = line.last().clone();
        let cuts = [self.line.last().cut, next.cut];
        self.report_pending(next.cut);
        let named = next.authors.iter();
        let named: BTreeMap<_, _> = named.map(|at| (at.author, at.head.nonce)).collect();
        let before: Vec<_> = self
            .chains
            .iter()
            .map(|chain| Counted::of(chain, named.get(&chain.author()).copied().unwrap_or(0)))
            .collect();
        (self.line, self.behind, self.drafted) = (line, None, None);
        for at in &next.authors {
            let (own, tip) = (self.own_author() == Some(at.author), at.head.tip());
            match self.index.get(&at.author) {
                Some(index) => self.chains[*index].rebase(tip, own),
                None => {
                    // A key that cannot be used has signed nothing.
                    if let Ok(mut chain) = Chain::new(at.author, &self.genesis) {
                        chain.rebase(tip, own);
                        self.insert(chain);
                    }
                }
            }
        }
        self.rebuild(&next, values);
        let stable = self.checkpoint().map(Update::CheckpointStable);
        let stable = stable.map(|update| Settling::Update(Box::new(update)));
        self.arrived.extend(stable);
        for counted in &before {
            self.report_difference(counted, cuts);
        }
        for index in 0..self.chains.len() {
            self.release(index, wall);
        }
        self.review();
        self.thin();
    }

    /// Hears what a verified frame says about checkpoints.
    pub(crate) fn hear(&mut self, frame: &SharedFrame) {
        let room = Room {
            line: &self.line,
            genesis: &self.genesis,
            roles: &self.roles,
        };
        self.testimony.note(frame, &room);
    }

    /// Makes roles, state and the like anew from a checkpoint and what counts above it.
    fn rebuild(&mut self, next: &Checkpoint, values: &Values) {
        self.clock.observe(next.cut);
        self.testimony = Testimony::default();
        self.roles = Roles::after(next, &self.genesis);
        self.undos = Undos::default();
        let old = std::mem::replace(&mut self.state, State::after(values, &self.schema));
        let counters = self.counters.clone();
        for index in 0..self.chains.len() {
            // Roles first, for they decide whether puts count.
            self.index_again(index, |command| matches!(command, Outline::Other(_)));
        }
        self.roles.refresh();
        self.regroup_all();
        for frame in self.kept().collect::<Vec<_>>() {
            self.hear(&frame);
        }
        for proof in self.chains.iter().flat_map(Chain::known_forks) {
            self.testimony.note_fork(proof, &self.line);
        }
        for index in 0..self.chains.len() {
            self.index_again(index, |command| !matches!(command, Outline::Other(_)));
        }
        self.counters = counters;
        self.rebuild_own_history(u64::MAX);
        self.settle_undos();
        self.state.settle(&self.schema, &self.chains);
        self.state.replace(old);
    }

    /// Gives state and roles those commands of an author's trunk that they need.
    fn index_again(&mut self, index: usize, needed: impl Fn(&Outline) -> bool) {
        let records = self.chains[index].records_after(0);
        let records = records.filter(|record| self.may_matter(&record.header));
        let records: Vec<(SharedFrame, BodyPlace, Vec<_>)> = records
            .map(|record| {
                let commands = record.outlines();
                let commands = commands.filter(|(_, command)| needed(command)).collect();
                (record.frame(), record.at, commands)
            })
            .collect();
        for (frame, at, commands) in records {
            for (nonce, command) in commands {
                let order = frame.header().order(nonce);
                self.index_command(index, &frame, at, order, command);
            }
        }
    }

    /// Says what has become of commands that had been applied, or that count only now.
    fn report_difference(&mut self, before: &Counted, [old_cut, cut]: [u64; 2]) {
        let author = before.author;
        let Some(chain) = self.chain(author) else {
            return;
        };
        let root = chain.path.root().nonce;
        let now: Vec<_> = chain
            .records_after(0)
            .map(|record| (record.id, record.header))
            .collect();
        // What lies below the cut without being named has counted until now, unless it lay below the last
        // one already.
        let stays = |((id, lamport), (now, _)): &(&(FrameId, u64), &(FrameId, _))| {
            id == now && !(old_cut + 1..=cut).contains(lamport)
        };
        let pairs = before.above.iter().zip(&now);
        let same = pairs.take_while(stays).count();
        let kept = same.checked_sub(1).map(|last| now[last].1.last_nonce());
        let kept = kept.unwrap_or(root);
        if same < before.above.len() {
            self.forget_pending(author, kept);
            let after = kept;
            let retracted = Update::Retracted { author, after };
            self.arrived
                .push_back(Settling::Update(Box::new(retracted)));
        }
        if same < now.len() {
            let chain = self.chain(author).into_iter();
            let new = chain.flat_map(|chain| chain.records_after(kept));
            let new: Vec<_> = new.map(|record| record.frame()).collect();
            self.arrived.extend(new.into_iter().map(Settling::Frame));
        }
    }

    /// Says of the commands below a cut whether they count while that can be told.
    fn report_pending(&mut self, cut: u64) {
        let pending: Vec<_> = self
            .settled
            .drain(..)
            .chain(self.arrived.drain(..))
            .collect();
        let mut decided = VecDeque::new();
        for settling in pending {
            match settling {
                Settling::Frame(frame) if frame.header().lamport <= cut => {
                    let applied = self.applied_by(&frame).into_iter().map(Update::Applied);
                    decided.extend(applied.map(|update| Settling::Update(Box::new(update))));
                }
                other => decided.push_back(other),
            }
        }
        self.arrived = decided;
    }
}

impl Counted {
    fn of(chain: &Chain, above: u64) -> Self {
        let records = chain.records_after(above);
        Self {
            author: chain.author(),
            above: records.map(|r| (r.id, r.header.lamport)).collect(),
        }
    }
}

impl Chain {
    /// Makes the end of the log at a checkpoint its root. What is known of the branch on which that lies
    /// stays, from there on.
    fn rebase(&mut self, root: Tip, own: bool) {
        if root.nonce <= self.path.root().nonce {
            return;
        }
        let pin = Covered {
            nonce: root.nonce,
            id: root.id,
        };
        self.resolve(&[pin], own);
        match self.node_at(root.nonce, root.id) {
            Some(node) => self.drop_below(node),
            None => {
                self.begin_at(root);
                self.forks = Forks::default();
            }
        }
        self.waiting.drop_through(root.nonce);
        self.resolve(&[], own);
    }
}
