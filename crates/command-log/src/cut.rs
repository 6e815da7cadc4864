//! What a log comes to at a cut.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_core::AuthorId;

use crate::{
    AuthorAtCut, Checkpoint, CommandLog, HeadAtCut, MAX_CHECKPOINT_AUTHORS, Role, SharedFrame,
    StateHash,
    chain::{Chain, Tip},
    roles::Roles,
    state::State,
};

/// A checkpoint that this log would propose, and the log as it is there.
pub(crate) struct Draft {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) at_cut: CommandLog,
}

impl CommandLog {
    /// The checkpoint with this cut and these heads; `None` unless this log knows all frames below
    /// them. It is a function of the frames that it names and of the last stable checkpoint: what came
    /// after does not bear on it. Costs time in proportion to them and to the state.
    pub(crate) fn draft(
        &self,
        proposer: AuthorId,
        cut: u64,
        heads: &BTreeMap<AuthorId, HeadAtCut>,
    ) -> Option<Draft> {
        let known = heads.iter();
        let known = known.map(|(author, head)| Some((*author, self.frames_to(*author, head)?)));
        let known: Vec<_> = known.collect::<Option<_>>()?;
        let mut at_cut = self.at_last_checkpoint();
        for (author, frames) in known {
            let chain = self.chain(author).into_iter();
            let frames = chain.flat_map(|chain| (0..frames).map(|index| chain.path.frame(index)));
            at_cut.follow(author, frames)?;
        }
        // What the frames say of other checkpoints has no say, nor has the clock: nothing that is named waits.
        at_cut.review();
        at_cut.settle_undos();
        at_cut.state.settle(&at_cut.schema, &at_cut.chains);
        let authors = self.named(heads, &at_cut).into_iter();
        let authors = authors.map(|author| AuthorAtCut {
            author,
            head: at_cut.head_at_cut(author),
            role: at_cut.roles.standing(author),
        });
        let mut checkpoint = Checkpoint {
            number: self.line.last().number + 1,
            previous: self.line.name(),
            proposer,
            cut,
            state: StateHash::from_bytes([0; 32]),
            authors: authors.collect(),
        };
        // With the roles that it names: some may have found no place.
        let roles = Roles::after(&checkpoint, &self.genesis);
        checkpoint.state = at_cut.state.hash(&self.genesis.hash(), &roles);
        Some(Draft { checkpoint, at_cut })
    }

    /// Whom a checkpoint with these heads names: those who have written, or were named before; then, of those
    /// who have only been given a role, first whom it raises, as long as there is a place, then others up to
    /// the half, lest names without a writer take the places of writers.
    fn named(&self, heads: &BTreeMap<AuthorId, HeadAtCut>, at_cut: &Self) -> BTreeSet<AuthorId> {
        let before = self.line.last();
        let written = heads.iter();
        let written =
            written.filter(|(author, head)| head.nonce > 0 || before.author(**author).is_some());
        let mut named: BTreeSet<_> = written.map(|(author, _)| *author).collect();
        let default = self.genesis.params().default_role;
        let ruled = at_cut.roles.ruled_authors();
        let (raised, others): (Vec<_>, Vec<_>) =
            ruled.partition(|author| at_cut.role_of(*author) > default);
        let raised = raised.into_iter().map(|who| (who, MAX_CHECKPOINT_AUTHORS));
        let others = others.into_iter();
        for (author, most) in raised.chain(others.map(|who| (who, MAX_CHECKPOINT_AUTHORS / 2))) {
            if named.len() < most {
                named.insert(author);
            }
        }
        named
    }

    /// The heads that this log would name at a cut: of those that it must, and of others as many as fit.
    pub(crate) fn heads_at(&self, cut: u64) -> BTreeMap<AuthorId, HeadAtCut> {
        let before = self.line.last();
        let mut heads: BTreeMap<_, _> = before
            .authors
            .iter()
            .map(|at| (at.author, self.head_below(at.author, cut)))
            .collect();
        let new = self.chains.iter().map(Chain::author);
        // Who has no place is as if it had written nothing.
        let new = new
            .filter(|author| before.author(*author).is_none() && !self.roles.is_outside(*author));
        let mut new: Vec<_> = new.map(|author| (self.places(author), author)).collect();
        new.sort_unstable_by_key(|(places, author)| (std::cmp::Reverse(*places), *author));
        for (places, author) in new {
            let head = self.head_below(author, cut);
            if head.nonce > 0 && heads.len() < places {
                heads.insert(author, head);
            }
        }
        heads
    }

    /// How many authors a checkpoint may name before there is no place in it for this one: half is left for those
    /// whose commands may count, and of that as much as there may be writers for those.
    fn places(&self, author: AuthorId) -> usize {
        let params = self.genesis.params();
        if self.role_of(author) > params.default_role {
            MAX_CHECKPOINT_AUTHORS
        } else if self.may_count(author) {
            MAX_CHECKPOINT_AUTHORS - usize::from(params.max_writers)
        } else {
            MAX_CHECKPOINT_AUTHORS / 2
        }
    }

    /// Whether a checkpoint names an author, or has a place left for it.
    pub(crate) fn has_place(&self, author: AuthorId, checkpoint: &Checkpoint) -> bool {
        checkpoint.author(author).is_some() || checkpoint.authors.len() < self.places(author)
    }

    /// Whether commands of an author may count.
    pub(crate) fn may_count(&self, author: AuthorId) -> bool {
        self.roles.names(author) || self.role_of(author) > Role::Viewer
    }

    /// The last frame of an author's log that lies below a cut.
    pub(crate) fn head_below(&self, author: AuthorId, cut: u64) -> HeadAtCut {
        let tip = match self.chain(author) {
            Some(chain) => chain.tip_below(cut),
            None => Tip::start(&self.genesis),
        };
        HeadAtCut::of(&tip)
    }

    fn head_at_cut(&self, author: AuthorId) -> HeadAtCut {
        let tip = self.chain(author).map(|chain| chain.tip);
        HeadAtCut::of(&tip.unwrap_or_else(|| Tip::start(&self.genesis)))
    }

    /// How many frames of an author lie between the last stable checkpoint and a head, if they are
    /// known.
    fn frames_to(&self, author: AuthorId, head: &HeadAtCut) -> Option<usize> {
        match self.chain(author) {
            Some(chain) => {
                let node = chain.node_at(head.nonce, head.id)?;
                (chain.tip_at(node) == head.tip()).then_some(node)
            }
            None => (head.tip() == Tip::start(&self.genesis)).then_some(0),
        }
    }

    /// This log as it was at its last stable checkpoint.
    fn at_last_checkpoint(&self) -> Self {
        let last = self.line.last();
        let mut log = Self::empty(self.genesis.clone(), self.schema.clone());
        log.line = self.line.without_past();
        log.roles = Roles::after(last, &self.genesis);
        log.state = State::after(&self.state.base(), &self.schema);
        for at in &last.authors {
            if let Ok(mut chain) = Chain::new(at.author, &self.genesis) {
                chain.begin_at(at.head.tip());
                log.insert(chain);
            }
        }
        log
    }

    /// Adds frames of one author that another log has judged and verified.
    fn follow(
        &mut self,
        author: AuthorId,
        frames: impl Iterator<Item = SharedFrame>,
    ) -> Option<()> {
        let mut frames = frames.peekable();
        if frames.peek().is_none() {
            // It may be no usable key: roles can be given to any.
            return Some(());
        }
        let index = match self.index.get(&author) {
            Some(index) => *index,
            None => {
                let chain = Chain::new(author, &self.genesis).ok()?;
                self.insert(chain)
            }
        };
        for frame in frames {
            let judged = self.chains[index].tip.judge(&frame, &self.genesis).ok()?;
            self.commit(index, frame, judged);
        }
        Some(())
    }
}

impl Chain {
    /// The end of the trunk below a cut.
    fn tip_below(&self, cut: u64) -> Tip {
        let (mut low, mut high) = (0, self.trunk);
        while low < high {
            let middle = low.midpoint(high);
            if self.path.record(middle).header.lamport <= cut {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.tip_at(low)
    }

    /// Begins anew, without frames, after one that is not here.
    pub(crate) fn begin_at(&mut self, root: Tip) {
        self.path.restart(root);
        (self.trunk, self.tip) = (0, root);
    }
}
