//! Forks: what is kept of them, and which branch counts.
//!
//! Two frames that follow the same frame of their author, both by the rules, prove that it has
//! signed twice in one place. Nothing after such a place counts, unless an Admin says which branch
//! does: a role command that counts names a frame of its target and thereby *pins* the branch on
//! which that frame lies, up to it. Of the role commands on an author, those of the lowest rank pin,
//! the last in order first. An author's own rank is that of such a command or higher, so that no
//! author can have a say, even through others, in which of its own branches count.

use std::{collections::BTreeMap, sync::Arc};

use roundtable_core::AuthorId;

use crate::{
    Covered, FrameError, FrameId, Genesis, PublicKey, SharedFrame, SignedFrame,
    aside::Aside,
    chain::{Chain, Step, Tip},
    waiting::Waiting,
};

/// At how many nodes of one author's path another frame is remembered, and how many bytes of such
/// frames. Beyond that those furthest from the root are forgotten, except the one at which the trunk
/// ends.
const MAX_RIVALS: usize = 256;
const MAX_RIVAL_BYTES: usize = 1 << 20;

/// Proof that an author has signed two frames for one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkProof {
    left: SharedFrame,
    right: SharedFrame,
}

impl ForkProof {
    /// Who has signed twice.
    pub fn author(&self) -> AuthorId {
        self.left.author()
    }

    /// The frame that both follow, [`FrameId::NONE`] if they claim to be the author's first.
    pub fn parent(&self) -> FrameId {
        self.left.header().previous
    }

    /// The nonce with which that frame ends, 0 if there is none. What counts of the author ends
    /// here, unless an Admin has named one of the branches.
    pub fn after(&self) -> u64 {
        self.left.header().first_nonce - 1
    }

    /// The two frames; the first is of the branch that the log had followed.
    pub const fn frames(&self) -> [&SharedFrame; 2] {
        [&self.left, &self.right]
    }

    /// Checks what can be checked without the author's log: two different frames of one author of
    /// this room, after the same frame, with its signatures. That both keep the rules of the log is
    /// for one to say that holds it up to [`parent`](Self::parent).
    ///
    /// # Errors
    /// [`FrameError`] for what one of the frames lacks, [`FrameError::NoFork`] if they are in order.
    pub fn verify(&self, genesis: &Genesis) -> Result<(), FrameError> {
        let key = PublicKey::new(self.author())?;
        for frame in self.frames() {
            frame.verify(&genesis.hash(), &key)?;
        }
        let place = |frame: &SignedFrame| {
            let header = frame.header();
            (header.author, header.previous, header.first_nonce)
        };
        if place(&self.left) != place(&self.right) || self.left.id() == self.right.id() {
            return Err(FrameError::NoFork);
        }
        Ok(())
    }
}

/// What is known of an author's frames beside its path.
#[derive(Debug, Default)]
pub(crate) struct Forks {
    /// By node: another frame than the path's that follows it.
    pub(crate) rivals: BTreeMap<usize, Step>,
    /// What comes after those, or is a third frame at a node.
    aside: Aside,
    /// Up to which nonce frames are collected though they do not count.
    sought: u64,
}

/// What a frame follows that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The path's frame before this node.
    Node(usize),
    /// The other frame at this node.
    Rival(usize),
    /// One that was put aside.
    Aside(FrameId),
}

/// How a trunk has changed.
#[derive(Debug)]
pub(crate) struct Shift {
    /// How many frames at its start have stayed.
    pub(crate) kept: usize,
    /// What has gone.
    pub(crate) dropped: Vec<SharedFrame>,
}

impl Forks {
    /// Forgets the forks below a node, and counts nodes from there.
    pub(crate) fn drop_below(&mut self, node: usize) {
        let rivals = self.rivals.split_off(&node).into_iter();
        self.rivals = rivals.map(|(at, rival)| (at - node, rival)).collect();
    }
}

impl Chain {
    /// Whether the trunk ends in a fork.
    pub(crate) fn is_forked(&self) -> bool {
        self.trunk < self.path.len()
    }

    /// Whether role commands may decide how much counts.
    pub(crate) fn is_contested(&self) -> bool {
        !self.forks.rivals.is_empty()
    }

    /// The fork in which the trunk ends.
    pub(crate) fn fork(&self) -> Option<ForkProof> {
        self.fork_at(self.trunk)
    }

    /// The fork at a node.
    pub(crate) fn fork_at(&self, node: usize) -> Option<ForkProof> {
        let right = Arc::clone(&self.forks.rivals.get(&node)?.frame);
        let left = (node < self.path.len()).then(|| self.path.frame(node))?;
        Some(ForkProof { left, right })
    }

    /// The forks of which two frames are known, on the path and so far as they lie above its root.
    pub(crate) fn known_forks(&self) -> impl Iterator<Item = ForkProof> {
        self.forks
            .rivals
            .keys()
            .filter_map(|node| self.fork_at(*node))
    }

    /// Frames that do not count: those on the path beyond the trunk, the other frames at forks, and
    /// what was put aside.
    pub(crate) fn set_aside(&self) -> impl Iterator<Item = SharedFrame> {
        let beyond = (self.trunk..self.path.len()).map(|index| self.path.frame(index));
        let rivals = self.forks.rivals.values().map(|step| &step.frame);
        beyond.chain(rivals.chain(self.forks.aside.frames()).cloned())
    }

    /// Whether a frame was put aside.
    pub(crate) fn is_aside(&self, id: FrameId) -> bool {
        self.forks.aside.contains(id)
    }

    /// Up to which nonce frames are kept that do not count, because a role command names one that
    /// has not come; 0 if none does.
    pub(crate) const fn sought(&self) -> u64 {
        self.forks.sought
    }

    /// Where a frame belongs that does not count, if it is sought.
    pub(crate) fn side_of(&self, frame: &SignedFrame) -> Option<Side> {
        let sought = frame.header().first_nonce <= self.forks.sought;
        sought.then(|| self.followed_by(frame)).flatten()
    }

    /// What a frame follows of all that is known.
    pub(crate) fn followed_by(&self, frame: &SignedFrame) -> Option<Side> {
        let (header, forks) = (frame.header(), &self.forks);
        let (previous, before) = (header.previous, header.first_nonce - 1);
        if let Some(node) = self.node_at(before, previous) {
            return Some(Side::Node(node));
        }
        let mut rivals = forks.rivals.iter();
        let rival = rivals.find(|(_, rival)| rival.frame.id() == previous);
        let side = match rival {
            Some((node, _)) => Side::Rival(*node),
            None => Side::Aside(forks.aside.get(previous)?.frame.id()),
        };
        (self.tip_aside(side).nonce == before).then_some(side)
    }

    /// What the rules for a frame on a side depend on.
    pub(crate) fn tip_aside(&self, side: Side) -> Tip {
        let step = match side {
            Side::Node(node) => return self.tip_at(node),
            Side::Rival(node) => self.forks.rivals.get(&node),
            Side::Aside(id) => self.forks.aside.get(id),
        };
        step.map_or(self.path.root(), Step::tip)
    }

    /// Keeps a frame that does not count, and that `source` has shown; it has been judged and verified.
    pub(crate) fn put_aside(&mut self, frame: SharedFrame, tip: &Tip, source: Option<AuthorId>) {
        let budget = tip.budget;
        self.forks.aside.keep(Step { frame, budget }, source);
    }

    /// Keeps the proof that the path forks at a node; the frame has been judged and verified.
    pub(crate) fn add_rival(&mut self, node: usize, frame: SharedFrame, tip: &Tip) {
        let budget = tip.budget;
        self.forks.rivals.insert(node, Step { frame, budget });
        let mut bytes: usize = self.forks.rivals.values().map(Step::len).sum();
        while self.forks.rivals.len() > MAX_RIVALS || bytes > MAX_RIVAL_BYTES {
            let mut nodes = self.forks.rivals.keys().rev();
            let furthest = nodes.find(|other| **other != node && **other != self.trunk);
            let Some(furthest) = furthest.copied() else {
                return;
            };
            let rival = self.forks.rivals.remove(&furthest);
            bytes -= rival.as_ref().map_or(0, Step::len);
        }
    }

    /// Finds out which branch counts and how much of it, given what role commands pin, the first
    /// to be heeded first. Of an author's own frames none is let go.
    pub(crate) fn resolve(&mut self, pins: &[Covered], own: bool) -> Option<Shift> {
        let before = self.trunk;
        let mut shift = Shift {
            kept: before,
            dropped: Vec::new(),
        };
        let (mut pinned, mut sought) = (0, 0);
        for pin in pins {
            if pin.nonce <= self.tip_at(pinned).nonce {
                continue;
            }
            match self.find(pin, pinned) {
                Some(Spot::Path(node)) => pinned = node,
                Some(Spot::Beside) => {}
                Some(Spot::Off { node, steps }) => {
                    let depth = steps.len();
                    let old = self.switch(node, steps);
                    // What we have signed stays known, lest it be signed again.
                    for step in old.iter().skip(1).filter(|_| own) {
                        self.forks.aside.keep(step.clone(), None);
                    }
                    let counted = shift.kept.saturating_sub(node);
                    shift.kept = shift.kept.min(node);
                    shift
                        .dropped
                        .extend(old.into_iter().take(counted).map(|step| step.frame));
                    pinned = node + depth;
                }
                None => sought = pin.nonce.max(sought),
            }
        }
        let fork = self.forks.rivals.range(pinned..).next();
        self.trunk = fork.map_or(self.path.len(), |(node, _)| *node);
        self.tip = self.tip_at(self.trunk);
        if self.trunk < shift.kept {
            let dropped = self.trunk..shift.kept;
            shift
                .dropped
                .extend(dropped.map(|index| self.path.frame(index)));
            shift.kept = self.trunk;
        }
        self.forks.sought = if own { u64::MAX } else { sought };
        if self.forks.sought == 0 {
            self.forks.aside = Aside::default();
        }
        if self.is_forked() {
            self.waiting = Waiting::default();
        }
        let same = self.trunk == before && shift.dropped.is_empty();
        (!same).then_some(shift)
    }

    /// Where the frame is that a role command names.
    fn find(&self, pin: &Covered, pinned: usize) -> Option<Spot> {
        let is_named = |step: &Step| {
            let header = step.frame.header();
            step.frame.id() == pin.id
                && (header.first_nonce..=header.last_nonce()).contains(&pin.nonce)
        };
        if let Some(index) = self.path.holding(pin.nonce)
            && self.path.record(index).id == pin.id
        {
            return Some(Spot::Path(index + 1));
        }
        let mut steps = self.forks.aside.line_to(pin.id);
        let previous = steps
            .first()
            .map_or(pin.id, |first| first.frame.header().previous);
        let mut rivals = self.forks.rivals.iter();
        let rival = rivals.find(|(_, rival)| rival.frame.id() == previous);
        let node = match (rival, steps.first()) {
            (Some((node, rival)), _) => {
                steps.insert(0, rival);
                *node
            }
            (None, Some(first)) => self.node_at(first.frame.header().first_nonce - 1, previous)?,
            (None, None) => return None,
        };
        if node < pinned || !steps.last().is_some_and(|last| is_named(last)) {
            return Some(Spot::Beside);
        }
        let steps = steps.into_iter().cloned().collect();
        Some(Spot::Off { node, steps })
    }

    /// Goes on from a node by another branch, and by what was put aside after it. What was there is let go but
    /// for its first frame, and is returned.
    fn switch(&mut self, node: usize, steps: Vec<Step>) -> Vec<Step> {
        let old = self.path.split_off(node);
        self.forks.rivals.split_off(&(node + 1));
        if let Some(first) = old.first() {
            self.forks.rivals.insert(node, first.clone());
        }
        for step in &steps {
            self.forks.aside.remove(step.frame.id());
            self.path.push(&step.frame, step.budget);
        }
        old
    }
}

/// Where a frame is that a role command names.
enum Spot {
    /// The path's, before this node.
    Path(usize),
    /// At the end of a branch that leaves the path at a node.
    Off { node: usize, steps: Vec<Step> },
    /// On a branch that leaves the path below what is pinned: it names nothing.
    Beside,
}
