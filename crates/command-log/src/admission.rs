//! Which frames get into the log, and what becomes of the others.

use std::{sync::Arc, time::Duration};

use roundtable_core::{AuthorId, WallTime};

use crate::{
    CommandLog, FrameError, NonceRange, SharedFrame, SignedFrame, UnverifiedFrame,
    backlog::Foreseen,
    chain::{Chain, Judged, Place},
    metrics::bump,
};

/// How far ahead of the local clock a frame's wall time may be before it waits.
const MAX_AHEAD: Duration = Duration::from_secs(600);
/// Of how many authors frames wait while their first has not come.
const MAX_WAITING_AUTHORS: usize = 1024;
/// How many bytes of frames wait, of all authors together.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// What became of a frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// It is in the log, and with it whatever had waited for it.
    Accepted {
        /// The frame.
        frame: SharedFrame,
    },
    /// It was in the log, or waits, already.
    Duplicate,
    /// Frames before it are missing: it waits, if there is room, until they come.
    Waiting {
        /// What to ask for.
        missing: NonceRange,
    },
    /// Its wall time is more than 10 minutes ahead of the local clock: it waits until it is not.
    Early,
    /// Its author has signed another frame for the same place: this one is kept as the proof. Unless
    /// an Admin has named one of the branches, nothing of the author counts any more from there on.
    Forked {
        /// The frame.
        frame: SharedFrame,
    },
    /// It lies on a branch that does not count now, and is kept because a role command that counts
    /// names a later frame of its author.
    Aside {
        /// The frame.
        frame: SharedFrame,
    },
    /// It comes after a fork of its author's log. It does not count and is not kept.
    Ended,
    /// It lies below a stable checkpoint, or on a branch that leaves its author's log there. It is not
    /// kept: what a checkpoint does not name never counts.
    Pruned,
    /// It has a place where this log has something else, and does not follow anything that this log
    /// has: somewhere below, this author's log forks. It is not kept.
    Detached {
        /// The author.
        author: AuthorId,
    },
}

impl CommandLog {
    /// Cheap checks first, the signature before anything is kept.
    pub(crate) fn admit(
        &mut self,
        wall: WallTime,
        unverified: UnverifiedFrame,
        foreseen: Foreseen,
    ) -> Result<Received, FrameError> {
        let frame = &unverified.frame;
        let known = self.index.get(&frame.author()).copied();
        let begun = known.is_some_and(|index| self.chains[index].path.len() > 0);
        if !begun && !self.has_room_for(frame.author()) {
            return Err(FrameError::TooManyAuthors);
        }
        let fresh = match known {
            Some(_) => None,
            None => Some(Chain::new(frame.author(), &self.genesis)?),
        };
        let chain = match (&fresh, known) {
            (Some(chain), _) => chain,
            (None, known) => &self.chains[known.unwrap_or_default()],
        };
        let place = chain.place(frame);
        let tip = match place {
            Place::Known => return Ok(Received::Duplicate),
            Place::Pruned => return Ok(Received::Pruned),
            Place::Ended => return Ok(Received::Ended),
            Place::Next | Place::Beyond if chain.waiting.holds(frame) => {
                return Ok(Received::Duplicate);
            }
            // Nothing is kept of it, and nothing follows that a peer could not claim without a frame: it
            // costs no verification.
            Place::Beyond if !self.may_wait(chain, frame) => {
                let missing = chain.gap(frame.header().first_nonce - 1);
                bump(&mut self.counters.not_held);
                return Ok(missing.map_or(Received::Early, |missing| Received::Waiting { missing }));
            }
            Place::Next => Some(chain.tip),
            Place::Rival(node) => Some(chain.tip_at(node)),
            Place::Aside(side) => Some(chain.tip_aside(side)),
            Place::Beyond | Place::Detached => None,
        };
        let judged = match (place, foreseen.judged) {
            (Place::Next, Some(judged)) => Some(judged),
            _ => match tip.map(|tip| tip.judge(frame, &self.genesis)) {
                // That its author breaks a rule is said only of one that has signed the frame.
                Some(Err(FrameError::Rule(breach))) => {
                    self.counters.verified(1);
                    unverified.verify(&self.genesis.hash(), &chain.key)?;
                    return Err(breach.into());
                }
                judged => judged.transpose()?,
            },
        };
        // Of an author of whom nothing is known, a frame from the future needs room as one beyond a gap does.
        if fresh.is_some() && self.is_early(frame, wall) && !self.may_wait(chain, frame) {
            bump(&mut self.counters.not_held);
            return Ok(Received::Early);
        }
        match foreseen.verdict {
            Some(verdict) => verdict?,
            None => {
                self.counters.verified(1);
                unverified.verify(&self.genesis.hash(), &chain.key)?;
            }
        }
        if place == Place::Detached {
            let author = frame.author();
            return Ok(Received::Detached { author });
        }
        let index = match (fresh, known) {
            (Some(chain), _) => self.insert(chain),
            (None, known) => known.unwrap_or_default(),
        };
        let (frame, source) = (Arc::new(unverified.frame), unverified.source);
        if let (Place::Aside(_), Some(judged)) = (place, &judged) {
            return Ok(self.put_aside(index, frame, judged, source, wall));
        }
        let received = self.take(index, place, frame, judged, wall);
        self.thin();
        Ok(received)
    }

    /// Does with a verified frame what its place calls for.
    fn take(
        &mut self,
        index: usize,
        place: Place,
        frame: SharedFrame,
        judged: Option<Judged>,
        wall: WallTime,
    ) -> Received {
        let early = self.is_early(&frame, wall);
        match (place, judged) {
            (Place::Next, Some(judged)) if !early => {
                self.commit(index, Arc::clone(&frame), judged);
                self.release(index, wall);
                Received::Accepted { frame }
            }
            // Nobody waits for it; peers that see its time come show it again.
            (Place::Rival(_), _) if early => Received::Early,
            (Place::Rival(node), Some(judged)) => {
                self.found_fork(index, node, Arc::clone(&frame), &judged.tip);
                Received::Forked { frame }
            }
            _ => self.hold(index, frame),
        }
    }

    /// Keeps a verified frame that does not count, unless its time has not come.
    fn put_aside(
        &mut self,
        index: usize,
        frame: SharedFrame,
        judged: &Judged,
        source: Option<AuthorId>,
        wall: WallTime,
    ) -> Received {
        if self.is_early(&frame, wall) {
            return Received::Early;
        }
        // What is said of checkpoints counts on any branch.
        self.hear(&frame);
        self.chains[index].put_aside(Arc::clone(&frame), &judged.tip, source);
        Received::Aside { frame }
    }

    /// Whether a frame's time has not come. An own frame never waits: it would be signed again.
    fn is_early(&self, frame: &SignedFrame, wall: WallTime) -> bool {
        let ahead_ms = u64::try_from(MAX_AHEAD.as_millis()).unwrap_or(u64::MAX);
        let latest_ms = wall.as_millis().saturating_add(ahead_ms);
        frame.header().wall_ms > latest_ms && self.own_author() != Some(frame.author())
    }

    /// Whether there is room for a frame to wait, if only in the place of another: its author has less there than another has, or
    /// has one that is further from its gap.
    fn may_wait(&self, chain: &Chain, frame: &SignedFrame) -> bool {
        let with_it = chain.waiting.bytes() + frame.bytes().len();
        let heaviest = self.heaviest_waiting();
        let heaviest = heaviest.map_or(0, |index| self.chains[index].waiting.bytes());
        let fits = self.waiting_bytes() + frame.bytes().len() <= MAX_WAITING_BYTES
            || with_it <= heaviest
            || chain.waiting.last() > Some(frame.header().first_nonce);
        let known = self.index.contains_key(&chain.author());
        (known || self.has_room_to_wait())
            && fits
            && chain.waiting.has_room_for(frame.header().first_nonce)
    }

    /// Whether there is room for another author of whom nothing can count before more has come.
    fn has_room_to_wait(&self) -> bool {
        let waits = |chain: &&Chain| chain.path.len() == 0 && chain.waiting.len() > 0;
        self.chains.iter().filter(waits).count() < MAX_WAITING_AUTHORS
    }

    fn waiting_bytes(&self) -> usize {
        self.chains.iter().map(|chain| chain.waiting.bytes()).sum()
    }

    /// Whose frames take most of the room for those that wait.
    fn heaviest_waiting(&self) -> Option<usize> {
        let waiting = (0..self.chains.len()).filter(|i| self.chains[*i].waiting.len() > 0);
        waiting.max_by_key(|index| self.chains[*index].waiting.bytes())
    }

    /// Has a verified frame wait, if there is room. When there is not, whoever has most there loses what is furthest from its
    /// gap: so nobody drives out what others have, up to an equal share.
    fn hold(&mut self, index: usize, frame: SharedFrame) -> Received {
        let before = frame.header().first_nonce - 1;
        if !self.may_wait(&self.chains[index], &frame) || !self.chains[index].waiting.hold(frame) {
            bump(&mut self.counters.not_held);
        }
        while self.waiting_bytes() > MAX_WAITING_BYTES
            && let Some(heaviest) = self.heaviest_waiting()
        {
            self.chains[heaviest].waiting.drop_last();
            bump(&mut self.counters.not_held);
            self.vacate_if_blank(heaviest);
        }
        let missing = self.chains[index].gap(before);
        self.vacate_if_blank(index);
        match missing {
            Some(missing) => Received::Waiting { missing },
            None => Received::Early,
        }
    }

    /// Forgets an author of whom nothing is kept, unless it is our own.
    fn vacate_if_blank(&mut self, index: usize) {
        let own = self.own.as_ref().is_some_and(|(_, own)| *own == index);
        if self.chains[index].is_blank() && !own {
            self.vacate(index);
        }
    }

    /// Takes in the held frames whose turn it is.
    pub(crate) fn release(&mut self, index: usize, wall: WallTime) {
        while let Some(frame) = self.chains[index].held_next().cloned() {
            if self.is_early(&frame, wall) {
                return;
            }
            let chain = &mut self.chains[index];
            if chain.place(&frame) != Place::Next {
                chain.drop_held_next();
                continue;
            }
            match chain.tip.judge(&frame, &self.genesis) {
                Ok(judged) => self.commit(index, frame, judged),
                Err(error) => {
                    chain.drop_held_next();
                    self.counters.refused(&error);
                }
            }
        }
    }
}
