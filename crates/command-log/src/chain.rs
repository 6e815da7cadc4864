//! One author's log: which frame may come next, and which came too early.

use std::cmp::Ordering;

use roundtable_core::AuthorId;

use crate::{
    Action, FrameError, FrameId, Genesis, Header, KeyError, Limits, NonceRange, PublicKey,
    RuleBreach, SharedFrame, SignedFrame, clock,
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
    budget: Budget,
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
    /// It follows the last frame.
    Next,
    /// It is there already.
    Known,
    /// Frames before it are missing.
    Beyond,
    /// Another frame has its place.
    Fork,
}

/// One author's log.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) key: PublicKey,
    pub(crate) tip: Tip,
    pub(crate) waiting: Waiting,
    frames: Vec<SharedFrame>,
}

impl Chain {
    /// An empty log.
    pub(crate) fn new(author: AuthorId, genesis: &Genesis) -> Result<Self, KeyError> {
        Ok(Self {
            key: PublicKey::new(author)?,
            tip: Tip::start(genesis),
            frames: Vec::new(),
            waiting: Waiting::default(),
        })
    }

    /// Whose log it is.
    pub(crate) const fn author(&self) -> AuthorId {
        self.key.author()
    }

    /// Where a frame belongs.
    pub(crate) fn place(&self, frame: &SignedFrame) -> Place {
        let header = frame.header();
        match header.first_nonce.cmp(&(self.tip.nonce.saturating_add(1))) {
            Ordering::Equal if header.previous == self.tip.id => Place::Next,
            Ordering::Equal => Place::Fork,
            Ordering::Greater => Place::Beyond,
            Ordering::Less => match self.frame_of(header.first_nonce) {
                Some(known) if known.id() == frame.id() => Place::Known,
                _ => Place::Fork,
            },
        }
    }

    /// The end of the log once this frame is in it, and what the frame does, if its body and its
    /// header keep the rules.
    pub(crate) fn judge(
        &self,
        frame: &SignedFrame,
        genesis: &Genesis,
    ) -> Result<Judged, FrameError> {
        let (actions, header) = (frame.decode_actions()?, frame.header());
        if actions.len() as u64 != u64::from(header.count) {
            return Err(FrameError::Count {
                header: header.count,
                body: actions.len(),
            });
        }
        let cost = total_cost(&actions);
        let tip = self.tip.extended(header, frame.id(), cost, genesis)?;
        Ok(Judged { tip, actions })
    }

    /// Takes a frame whose place is next and that has been judged and verified.
    pub(crate) fn push(&mut self, frame: SharedFrame, tip: Tip) {
        self.frames.push(frame);
        self.tip = tip;
        // Whatever waited for the same place has lost it.
        self.waiting.drop_through(tip.nonce);
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
    pub(crate) fn gap(&self, through: u64) -> Option<NonceRange> {
        let before_held = self.waiting.first().map(|first| first - 1);
        let range = NonceRange {
            author: self.author(),
            after: self.tip.nonce,
            through: before_held.unwrap_or(through),
        };
        (range.through > range.after).then_some(range)
    }

    /// All frames in order.
    pub(crate) fn frames(&self) -> &[SharedFrame] {
        &self.frames
    }

    /// The frames from the one that holds the nonce after `nonce`.
    pub(crate) fn frames_after(&self, nonce: u64) -> &[SharedFrame] {
        let ended = |frame: &SharedFrame| frame.header().last_nonce() <= nonce;
        &self.frames[self.frames.partition_point(ended)..]
    }

    fn frame_of(&self, nonce: u64) -> Option<&SharedFrame> {
        self.frames_after(nonce.checked_sub(1)?).first()
    }
}

/// What keeps the rules.
pub(crate) struct Judged {
    /// The end of the log with the frame in it.
    pub(crate) tip: Tip,
    /// What the frame does.
    pub(crate) actions: Vec<Action>,
}

/// What commands cost their author together.
pub(crate) fn total_cost(actions: &[Action]) -> u64 {
    actions.iter().map(Action::cost).sum()
}
