//! One author's log: which frame may come next, and which came too early.

use roundtable_core::AuthorId;

use crate::{
    FrameError, FrameId, Genesis, Header, KeyError, Limits, NonceRange, PublicKey, RuleBreach,
    SharedFrame, SignedFrame, clock,
    fork::{Forks, Side},
    outline::{Outline, outline},
    path::{BodyPlace, Path, Record},
    rate::{Budget, Shortfall},
    waiting::Waiting,
};

/// The end of an author's log and all that the rules for its next frame depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) nonce: u64,
    pub(crate) id: FrameId,
    pub(crate) lamport: u64,
    pub(crate) wall_ms: u64,
    pub(crate) budget: Budget,
}

impl Tip {
    /// Before the first frame.
    pub(crate) fn start(genesis: &Genesis) -> Self {
        Self {
            nonce: 0,
            id: FrameId::NONE,
            lamport: 0,
            wall_ms: genesis.params().wall.as_millis(),
            budget: Budget::full(&genesis.params().limits),
        }
    }

    /// What is left of the budget after paying `cost` at `wall_ms`.
    pub(crate) fn afford(
        &self,
        wall_ms: u64,
        cost: u64,
        limits: &Limits,
    ) -> Result<Budget, Shortfall> {
        let elapsed_ms = wall_ms.saturating_sub(self.wall_ms);
        self.budget.refilled(elapsed_ms, limits).spend(cost, limits)
    }

    /// The end of the log once a frame with this header, id and cost is in it. A pure function:
    /// what one peer accepts, all accept.
    pub(crate) fn extended(
        &self,
        header: &Header,
        id: FrameId,
        cost: u64,
        genesis: &Genesis,
    ) -> Result<Self, RuleBreach> {
        let elapsed_ms = genesis
            .elapsed_ms(header.wall_ms)
            .ok_or(RuleBreach::WallBeforeGenesis)?;
        if header.wall_ms < self.wall_ms {
            return Err(RuleBreach::WallFalling);
        }
        if header.lamport <= self.lamport {
            return Err(RuleBreach::LamportNotRising);
        }
        if header.lamport > clock::bound(elapsed_ms) {
            return Err(RuleBreach::LamportTooHigh);
        }
        let budget = self
            .afford(header.wall_ms, cost, &genesis.params().limits)
            .map_err(|_| RuleBreach::OverBudget)?;
        Ok(Self {
            nonce: header.last_nonce(),
            id,
            lamport: header.lamport,
            wall_ms: header.wall_ms,
            budget,
        })
    }
}

/// What a frame is to the log that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It follows the last frame that counts.
    Next,
    /// It is there already.
    Known,
    /// Frames before it are missing.
    Beyond,
    /// It follows the frame at this node, as another frame does: the log forks.
    Rival(usize),
    /// It does not count, but lies on a branch that a role command may name.
    Aside(Side),
    /// It comes after a fork: it does not count.
    Ended,
    /// It lies below a stable checkpoint, or on a branch that leaves its author's log there: whatever
    /// it says is settled.
    Pruned,
    /// What it follows is not in this log: the logs of two peers differ below it.
    Detached,
}

/// A frame beside the path, and what is left of its author's budget after it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) frame: SharedFrame,
    pub(crate) budget: Budget,
}

/// One author's frames.
///
/// All that it has signed by the rules forms a tree. This is what has to be known of it: one path
/// from the root, and where the path was seen to fork, one other frame. A *node* is a place between
/// frames: node 0 is the root, node n comes after the n-th frame of the path. The author's log is
/// the *trunk*, the path up to the first fork that no role command decides; the rest is in `fork.rs`.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) key: PublicKey,
    /// The end of the trunk.
    pub(crate) tip: Tip,
    pub(crate) waiting: Waiting,
    pub(crate) path: Path,
    /// How many frames of the path count.
    pub(crate) trunk: usize,
    pub(crate) forks: Forks,
}

impl Chain {
    /// An empty log.
    pub(crate) fn new(author: AuthorId, genesis: &Genesis) -> Result<Self, KeyError> {
        let path = Path::new(author, genesis);
        Ok(Self {
            key: PublicKey::new(author)?,
            tip: path.root(),
            waiting: Waiting::default(),
            path,
            trunk: 0,
            forks: Forks::default(),
        })
    }

    /// Whose log it is.
    pub(crate) const fn author(&self) -> AuthorId {
        self.key.author()
    }

    /// Where a frame belongs.
    pub(crate) fn place(&self, frame: &SignedFrame) -> Place {
        let header = frame.header();
        let before = header.first_nonce - 1;
        let root = self.path.root();
        let parted = before == root.nonce && header.previous != root.id;
        if before < root.nonce || (root.nonce > 0 && parted) {
            return Place::Pruned;
        }
        if before == self.tip.nonce && header.previous == self.tip.id && !self.is_forked() {
            return Place::Next;
        }
        if self.is_aside(frame.id()) {
            return Place::Known;
        }
        if let Some(node) = self.node_at(before, header.previous) {
            return self.place_after(node, frame);
        }
        match self.side_of(frame) {
            Some(side) => Place::Aside(side),
            None if self.is_forked() => Place::Ended,
            None if before > self.tip.nonce => Place::Beyond,
            None => Place::Detached,
        }
    }

    /// Where a frame belongs that follows a node of the path, not being the next one to count.
    fn place_after(&self, node: usize, frame: &SignedFrame) -> Place {
        let successor = (node < self.path.len()).then(|| self.path.record(node).id);
        let rival = self.forks.rivals.get(&node).map(|rival| rival.frame.id());
        if successor == Some(frame.id()) || rival == Some(frame.id()) {
            return Place::Known;
        }
        match (successor, rival) {
            (Some(_), None) if node <= self.trunk => Place::Rival(node),
            _ => self.side_of(frame).map_or(Place::Ended, Place::Aside),
        }
    }

    /// The node between the frame that ends with `nonce` and has this id, and the one after it.
    pub(crate) fn node_at(&self, nonce: u64, id: FrameId) -> Option<usize> {
        let node = self.path.through(nonce);
        let tip = self.tip_at(node);
        (tip.nonce == nonce && tip.id == id).then_some(node)
    }

    /// What the rules for the next frame after a node depend on.
    pub(crate) fn tip_at(&self, node: usize) -> Tip {
        self.path.tip_at(node)
    }

    /// Takes a frame whose place is next and that has been judged and verified. Says where its body
    /// is.
    pub(crate) fn push(&mut self, frame: &SignedFrame, tip: Tip) -> BodyPlace {
        let body = self.path.push(frame, tip.budget);
        self.trunk = self.path.len();
        self.tip = tip;
        // Whatever waited for the same place has lost it.
        self.waiting.drop_through(tip.nonce);
        body
    }

    /// Lets go of the frames below a node of the trunk: it is the root from now on, so that nodes are
    /// counted from there, and forks below it are forgotten. The state must not point into these
    /// frames any more.
    pub(crate) fn drop_below(&mut self, node: usize) {
        let node = node.min(self.trunk);
        self.path.drop_front(node);
        self.trunk -= node;
        self.forks.drop_below(node);
    }

    /// The held frame that has the place after the last one.
    pub(crate) fn held_next(&self) -> Option<&SharedFrame> {
        self.waiting.at(self.tip.nonce.saturating_add(1))
    }

    /// Lets go of the held frame that has the place after the last one.
    pub(crate) fn drop_held_next(&mut self) {
        self.waiting.drop_through(self.tip.nonce.saturating_add(1));
    }

    /// The nonces that are missing before the first held frame, up to `through` if none is held.
    /// After a fork none is.
    pub(crate) fn gap(&self, through: u64) -> Option<NonceRange> {
        let before_held = self.waiting.first().map(|first| first - 1);
        let range = NonceRange {
            author: self.author(),
            after: self.tip.nonce,
            through: before_held.unwrap_or(through),
        };
        (!self.is_forked() && range.through > range.after).then_some(range)
    }

    /// The frames that count from the one that holds the nonce after `nonce`, in order.
    pub(crate) fn records_after(&self, nonce: u64) -> impl Iterator<Item = Record<'_>> {
        let from = self.path.through(nonce);
        (from..self.trunk).map(|index| self.path.record(index))
    }

    /// The frame that counts and holds this nonce.
    pub(crate) fn record_with(&self, nonce: u64) -> Option<Record<'_>> {
        let index = self.path.holding(nonce)?;
        (index < self.trunk).then(|| self.path.record(index))
    }
}

impl Step {
    /// How many bytes its frame has.
    pub(crate) fn len(&self) -> usize {
        self.frame.bytes().len()
    }

    /// The end of a log with this frame in it.
    pub(crate) fn tip(&self) -> Tip {
        let header = self.frame.header();
        Tip {
            nonce: header.last_nonce(),
            id: self.frame.id(),
            lamport: header.lamport,
            wall_ms: header.wall_ms,
            budget: self.budget,
        }
    }
}

/// What keeps the rules.
pub(crate) struct Judged {
    /// The end of the log with the frame in it.
    pub(crate) tip: Tip,
    /// What the frame does.
    pub(crate) commands: Vec<Outline>,
}

impl Tip {
    /// The end of the log once `frame` is in it, and what the frame does, if its body and its
    /// header keep the rules.
    pub(crate) fn judge(
        &self,
        frame: &SignedFrame,
        genesis: &Genesis,
    ) -> Result<Judged, FrameError> {
        let (commands, header) = (outline(frame.body_bytes())?, frame.header());
        if commands.len() as u64 != u64::from(header.count) {
            return Err(FrameError::Count {
                header: header.count,
                body: commands.len(),
            });
        }
        let cost = commands.iter().map(Outline::cost).sum();
        let tip = self.extended(header, frame.id(), cost, genesis)?;
        Ok(Judged { tip, commands })
    }
}
