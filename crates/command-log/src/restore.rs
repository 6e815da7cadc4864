//! A log from what a store has kept of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use roundtable_core::{AuthorId, WallTime};

use crate::{
    CommandLog, FrameError, FrameId, FrameReader, Received, SignedFrame, UnverifiedFrame,
    backlog::Foreseen,
};

/// How often branches are tried that have not joined. Each time at least one author's log must have
/// changed, so an honest log needs one round for each rank of Admins that restored others.
const MAX_ROUNDS: usize = 64;

/// What a log has not taken of the own frames that a store has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Unrestored {
    /// How many are malformed, not signed by the own key, or break a rule.
    pub refused: usize,
    /// How many follow a frame that is missing, or one of these.
    pub waiting: usize,
}

impl CommandLog {
    /// Takes frames from a store, own and foreign, in any order; a store is trusted no more than a
    /// peer. What it applies is polled like anything else. Returns how many frames the log has taken.
    pub fn restore(&mut self, wall: WallTime, frames: impl IntoIterator<Item = Bytes>) -> usize {
        let before = self.kept_count();
        // What is refused is counted, and is as if it had not been stored.
        let mut readable: Vec<_> = frames
            .into_iter()
            .filter_map(|bytes| self.read(&mut FrameReader::default(), bytes).ok())
            .collect();
        self.sort_stored(&mut readable);
        let authors: Vec<_> = readable.iter().map(UnverifiedFrame::author).collect();
        let mut again = readable.clone();
        let received = self.receive_all(wall, readable);
        let early: HashSet<_> = authors
            .iter()
            .zip(&received)
            .filter(|(author, received)| {
                // Or it had to leave, for nobody had a role yet.
                came_too_soon(received) || !self.index.contains_key(author)
            })
            .map(|(author, _)| *author)
            .collect();
        again.retain(|frame| early.contains(&frame.author()));
        self.rejoin(wall, &again);
        self.kept_count() - before
    }

    /// What is not in the log of the own frames among those that a store has kept, now that they have been
    /// [restored](Self::restore). An author of which anything is missing must not go on: it would sign the same
    /// nonces again.
    pub fn unrestored(&self, frames: impl IntoIterator<Item = Bytes>) -> Unrestored {
        let mut unrestored = Unrestored::default();
        let Some(chain) = self.own_author().and_then(|own| self.chain(own)) else {
            return unrestored;
        };
        let counted = chain.records_after(0).map(|record| record.id);
        let aside = chain.set_aside().map(|frame| frame.id());
        let kept: HashSet<FrameId> = counted.chain(aside).collect();
        for bytes in frames {
            let claims = bytes.get(1..33) == Some(chain.author().as_bytes());
            match UnverifiedFrame::decode(bytes, &self.genesis.hash()) {
                Ok(frame) if frame.author() != chain.author() || kept.contains(&frame.id()) => {}
                Ok(frame) if frame.header().first_nonce <= chain.path.root().nonce => {}
                Ok(frame) => match chain.followed_by(&frame.frame) {
                    None => unrestored.waiting += 1,
                    Some(side) => {
                        let judged = chain.tip_aside(side).judge(&frame.frame, &self.genesis);
                        let sound = judged.is_ok()
                            && frame.verify(&self.genesis.hash(), &chain.key).is_ok();
                        unrestored.refused += usize::from(!sound);
                    }
                },
                Err(_) => unrestored.refused += usize::from(claims),
            }
        }
        unrestored
    }

    /// Gives the log once more what it has let go because it did not know yet, when the frames came,
    /// which branch an Admin has named or whom it has given a role. Each branch comes from below, as
    /// peers serve it, until nothing changes any more.
    fn rejoin(&mut self, wall: WallTime, frames: &[UnverifiedFrame]) {
        let by_id: HashMap<_, _> = frames.iter().map(|frame| (frame.id(), frame)).collect();
        let followed: HashSet<FrameId> = by_id.values().map(|f| f.header().previous).collect();
        let ends: Vec<_> = frames
            .iter()
            .filter(|frame| !followed.contains(&frame.id()))
            .collect();
        if ends.is_empty() {
            return;
        }
        self.review();
        for _ in 0..MAX_ROUNDS {
            let before = self.heads();
            for end in &ends {
                for frame in self.branch_to(end, &by_id) {
                    // Nobody is told what becomes of it: it was counted when it came first.
                    let _ = self.admit(wall, frame.clone(), Foreseen::default());
                }
                self.review();
            }
            if self.heads() == before {
                return;
            }
        }
    }

    /// The frames up to `end`, from where they leave what counts.
    fn branch_to<'a>(
        &self,
        end: &'a UnverifiedFrame,
        by_id: &HashMap<FrameId, &'a UnverifiedFrame>,
    ) -> Vec<&'a UnverifiedFrame> {
        let down = std::iter::successors(Some(end), |frame| {
            by_id.get(&frame.header().previous).copied()
        });
        let mut branch: Vec<_> = down.take_while(|frame| !self.counts_frame(frame)).collect();
        branch.reverse();
        branch
    }

    /// Puts frames in the order in which they are best taken: by author, each one's longest branch first. All of that is
    /// kept then, whether or not its log forks.
    fn sort_stored(&self, frames: &mut [UnverifiedFrame]) {
        frames.sort_by_cached_key(|frame| (frame.author(), frame.header().first_nonce));
        let meet = |pair: &[UnverifiedFrame]| {
            let [one, next] = [pair[0].header(), pair[1].header()];
            one.author == next.author && next.first_nonce <= one.last_nonce()
        };
        // Without two frames for one nonce there is only one branch.
        if frames.windows(2).any(meet) {
            let longest = self.longest_branches(frames);
            frames.sort_by_cached_key(|frame| {
                let beside = !longest.contains(&frame.id());
                (frame.author(), beside, frame.header().first_nonce)
            });
        }
    }

    /// By author, the frames of the branch from the beginning that reaches furthest.
    fn longest_branches(&self, frames: &[UnverifiedFrame]) -> HashSet<FrameId> {
        let by_id: HashMap<FrameId, &SignedFrame> =
            frames.iter().map(|f| (f.id(), &f.frame)).collect();
        let previous = |frame: &&SignedFrame| by_id.get(&frame.header().previous).copied();
        let mut lines: BTreeMap<AuthorId, Vec<&SignedFrame>> = BTreeMap::new();
        let mut seen = HashSet::new();
        let mut last_first: Vec<_> = frames.iter().map(|frame| &frame.frame).collect();
        last_first.sort_by_key(|frame| std::cmp::Reverse(frame.header().last_nonce()));
        for end in last_first {
            if lines.contains_key(&end.author()) {
                continue;
            }
            // What another branch has gone down already ends at a gap.
            let line = std::iter::successors(Some(end), previous);
            let line: Vec<_> = line.take_while(|frame| seen.insert(frame.id())).collect();
            let first = line.last().map(|frame| frame.header().previous);
            let root = self.chain(end.author()).map(|chain| chain.path.root().id);
            if first == Some(root.unwrap_or(FrameId::NONE)) {
                lines.insert(end.author(), line);
            }
        }
        lines
            .into_values()
            .flatten()
            .map(|frame| frame.id())
            .collect()
    }

    fn counts_frame(&self, frame: &UnverifiedFrame) -> bool {
        self.id_at(frame.author(), frame.header().first_nonce) == Some(frame.id())
    }
}

/// Whether what became of a frame depends on what had come before it, of its author or of others.
fn came_too_soon(received: &Result<Received, FrameError>) -> bool {
    matches!(
        received,
        Ok(Received::Forked { .. }
            | Received::Aside { .. }
            | Received::Ended
            | Received::Detached { .. })
            | Err(FrameError::TooManyAuthors)
    )
}
