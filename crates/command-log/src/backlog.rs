//! Many frames at once: their signatures are verified together.

use std::collections::{HashMap, hash_map::Entry};

use roundtable_core::{AuthorId, WallTime};

use crate::{
    CommandLog, FrameError, PublicKey, Received, SignatureError, UnverifiedFrame,
    chain::{Judged, Tip},
    verify::Batch,
};

/// How many signatures are verified together. More would be a little faster, and delay the first.
const TOGETHER: usize = 2048;

/// What was found out about a frame ahead of its turn.
#[derive(Default)]
pub(crate) struct Foreseen {
    /// That it keeps the rules if it is the next of its author's log.
    pub(crate) judged: Option<Judged>,
    /// Whether its signature verifies.
    pub(crate) verdict: Option<Result<(), SignatureError>>,
}

impl CommandLog {
    /// Judges frames from anyone, in this order: the verdicts are those that
    /// [`receive_frame`](Self::receive_frame) comes to, one by one. Several times faster than that if most of
    /// them follow each other in the logs of their authors, because signatures are verified
    /// together, up to 2,048 at a time, about 20 ms.
    pub fn receive_all(
        &mut self,
        wall: WallTime,
        frames: impl IntoIterator<Item = UnverifiedFrame>,
    ) -> Vec<Result<Received, FrameError>> {
        let mut frames = frames.into_iter().peekable();
        let mut received = Vec::new();
        while frames.peek().is_some() {
            let together = self.foresee(frames.by_ref().take(TOGETHER));
            let verified = together.iter().filter(|(_, f)| f.verdict.is_some());
            self.counters.verified(verified.count() as u64);
            for (frame, foreseen) in together {
                let result = self.admit(wall, frame, foreseen);
                self.tally(&result);
                received.push(result);
            }
        }
        received
    }

    /// Looks ahead: what follows the end of its author's log, or another such frame, is held against
    /// the rules, and if it keeps them its signature is verified with the others. Nothing is decided
    /// yet; of all other frames nothing is known.
    fn foresee(
        &self,
        frames: impl Iterator<Item = UnverifiedFrame>,
    ) -> Vec<(UnverifiedFrame, Foreseen)> {
        let mut batch = Batch::default();
        let mut ends = HashMap::new();
        let mut foreseen: Vec<_> = frames
            .map(|frame| {
                let judged = self.foresee_one(&frame, &mut ends, &mut batch);
                let verdict = None;
                (frame, Foreseen { judged, verdict })
            })
            .collect();
        let queued = foreseen
            .iter_mut()
            .filter(|(_, foreseen)| foreseen.judged.is_some());
        for ((_, foreseen), verdict) in queued.zip(batch.verify()) {
            foreseen.verdict = Some(verdict);
        }
        foreseen
    }

    /// Judges a frame at the end that its author's log will have, if all goes well, and moves that.
    fn foresee_one(
        &self,
        frame: &UnverifiedFrame,
        ends: &mut HashMap<AuthorId, (PublicKey, Tip)>,
        batch: &mut Batch,
    ) -> Option<Judged> {
        let (author, header) = (frame.author(), frame.header());
        let (key, end) = match ends.entry(author) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.end_of(author)?),
        };
        if header.previous != end.id || header.first_nonce != end.nonce.saturating_add(1) {
            return None;
        }
        let judged = end.judge(&frame.frame, &self.genesis).ok()?;
        *end = judged.tip;
        frame.queue(&self.genesis.hash(), key, batch);
        Some(judged)
    }

    /// An author's key, and the end of its log if that may go on.
    fn end_of(&self, author: AuthorId) -> Option<(PublicKey, Tip)> {
        match self.chain(author) {
            Some(chain) => (!chain.is_forked()).then_some((chain.key, chain.tip)),
            None if !self.has_room_for(author) => None,
            None => Some((PublicKey::new(author).ok()?, Tip::start(&self.genesis))),
        }
    }
}
