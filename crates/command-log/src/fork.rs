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
    chain::{Chain, Step, Tip},
    waiting::Waiting,
};

/// At how many nodes of one author's path another frame is remembered. Beyond that those furthest
/// from the root are forgotten, except the one at which the trunk ends.
const MAX_RIVALS: usize = 256;

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
    /// A branch off the path.
    branch: Option<Branch>,
    /// Up to which nonce frames are collected though they do not count.
    sought: u64,
}

#[derive(Debug)]
struct Branch {
    /// Where it leaves the path.
    node: usize,
    steps: Vec<Step>,
}

/// Where a frame belongs that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// At the end of the path.
    Path,
    /// At the end of the branch.
    Branch,
    /// After the other frame at this node.
    Rival(usize),
    /// It is a third frame at this node.
    Node(usize),
}

/// How a trunk has changed.
#[derive(Debug)]
pub(crate) struct Shift {
    /// How many frames at its start have stayed.
    pub(crate) kept: usize,
    /// What has gone.
    pub(crate) dropped: Vec<SharedFrame>,
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
        let left = Arc::clone(&self.path.get(node)?.frame);
        let right = Arc::clone(&self.forks.rivals.get(&node)?.frame);
        Some(ForkProof { left, right })
    }

    /// Frames that do not count: those on the path beyond the trunk, the branch, and the other
    /// frames at forks.
    pub(crate) fn set_aside(&self) -> impl Iterator<Item = &SharedFrame> {
        let rivals = self.forks.rivals.values();
        let branch = self.forks.branch.iter().flat_map(|branch| {
            // It may begin with a rival, which has its turn already.
            let first = self.forks.rivals.get(&branch.node);
            let known = first.is_some_and(|first| first.frame == branch.steps[0].frame);
            &branch.steps[usize::from(known)..]
        });
        let steps = self.path[self.trunk..].iter().chain(rivals).chain(branch);
        steps.map(|step| &step.frame)
    }

    /// Up to which nonce frames are kept that do not count, because a role command names one that
    /// has not come; 0 if none does.
    pub(crate) const fn sought(&self) -> u64 {
        self.forks.sought
    }

    /// Where a frame belongs that does not count, if it is sought.
    pub(crate) fn side_of(&self, frame: &SignedFrame) -> Option<Side> {
        let header = frame.header();
        if header.first_nonce > self.forks.sought {
            return None;
        }
        let follows = |tip: Tip| tip.id == header.previous && tip.nonce + 1 == header.first_nonce;
        if self.is_forked() && follows(self.tip_at(self.path.len())) {
            return Some(Side::Path);
        }
        let branch = self.forks.branch.as_ref();
        if branch.is_some_and(|branch| branch.steps.last().is_some_and(|s| follows(s.tip()))) {
            return Some(Side::Branch);
        }
        let mut rivals = self.forks.rivals.iter();
        if let Some((node, _)) = rivals.find(|(_, rival)| follows(rival.tip())) {
            return Some(Side::Rival(*node));
        }
        let node = self.node_at(header.first_nonce - 1, header.previous);
        node.filter(|node| *node < self.path.len()).map(Side::Node)
    }

    /// What the rules for a frame on a side depend on.
    pub(crate) fn tip_aside(&self, side: Side) -> Tip {
        let rival = |node| self.forks.rivals.get(node).map(Step::tip);
        match &side {
            Side::Path => self.tip_at(self.path.len()),
            Side::Branch => {
                let branch = self.forks.branch.as_ref();
                let last = branch.and_then(|branch| branch.steps.last());
                last.map_or(self.root, Step::tip)
            }
            Side::Rival(node) => rival(node).unwrap_or(self.root),
            Side::Node(node) => self.tip_at(*node),
        }
    }

    /// Keeps a frame that does not count; it has been judged and verified.
    pub(crate) fn put_aside(&mut self, side: Side, frame: SharedFrame, tip: &Tip) {
        let step = Step {
            frame,
            budget: tip.budget,
        };
        let new = |node, steps| Some(Branch { node, steps });
        match side {
            Side::Path => self.path.push(step),
            Side::Branch => {
                if let Some(branch) = &mut self.forks.branch {
                    branch.steps.push(step);
                }
            }
            Side::Rival(node) => {
                let rival = self.forks.rivals.get(&node).cloned();
                self.forks.branch = new(node, rival.into_iter().chain([step]).collect());
            }
            Side::Node(node) => self.forks.branch = new(node, vec![step]),
        }
    }

    /// Keeps the proof that the path forks at a node; the frame has been judged and verified.
    pub(crate) fn add_rival(&mut self, node: usize, frame: SharedFrame, tip: &Tip) {
        let budget = tip.budget;
        self.forks.rivals.insert(node, Step { frame, budget });
        if self.forks.rivals.len() > MAX_RIVALS {
            let mut nodes = self.forks.rivals.keys().rev();
            let furthest = nodes.find(|other| **other != node && **other != self.trunk);
            if let Some(furthest) = furthest.copied() {
                self.forks.rivals.remove(&furthest);
            }
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
                Some(Spot::Off { node, steps, depth }) => {
                    let old = self.switch(node, steps);
                    // What we have signed stays known, lest it be signed again.
                    if own && !old.is_empty() {
                        let steps = old.clone();
                        self.forks.branch = Some(Branch { node, steps });
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
            let dropped = &self.path[self.trunk..shift.kept];
            shift
                .dropped
                .extend(dropped.iter().map(|step| Arc::clone(&step.frame)));
            shift.kept = self.trunk;
        }
        self.forks.sought = if own { u64::MAX } else { sought };
        if self.forks.sought == 0 {
            self.forks.branch = None;
        }
        if self.is_forked() {
            self.waiting = Waiting::default();
        }
        let same = self.trunk == before && shift.dropped.is_empty();
        (!same).then_some(shift)
    }

    /// Where the frame is that a role command names, unless it lies beside what is pinned.
    fn find(&self, pin: &Covered, pinned: usize) -> Option<Spot> {
        let is_named = |step: &Step| {
            let header = step.frame.header();
            step.frame.id() == pin.id
                && (header.first_nonce..=header.last_nonce()).contains(&pin.nonce)
        };
        if let Some(node) = self.node_after(pin.nonce)
            && is_named(&self.path[node - 1])
        {
            return Some(Spot::Path(node));
        }
        if let Some(Branch { node, steps }) = &self.forks.branch
            && let Some(index) = steps.iter().position(is_named)
        {
            let (node, steps, depth) = (*node, steps.clone(), index + 1);
            return (node >= pinned).then_some(Spot::Off { node, steps, depth });
        }
        let mut rivals = self.forks.rivals.range(pinned..);
        let (node, rival) = rivals.find(|(_, rival)| is_named(rival))?;
        Some(Spot::Off {
            node: *node,
            steps: vec![rival.clone()],
            depth: 1,
        })
    }

    /// Goes on from a node by another branch. What was there is let go but for its first frame, and
    /// is returned.
    fn switch(&mut self, node: usize, steps: Vec<Step>) -> Vec<Step> {
        let old = self.path.split_off(node);
        self.forks.rivals.split_off(&(node + 1));
        if let Some(first) = old.first() {
            self.forks.rivals.insert(node, first.clone());
        }
        self.path.extend(steps);
        self.forks.branch = None;
        old
    }
}

/// Where a frame is that a role command names.
enum Spot {
    /// The path's, before this node.
    Path(usize),
    /// That many frames up a branch that leaves the path at a node.
    Off {
        node: usize,
        steps: Vec<Step>,
        depth: usize,
    },
}
