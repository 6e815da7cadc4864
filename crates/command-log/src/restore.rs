//! A log from what a store has kept of it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use roundtable_core::WallTime;

use crate::{
    CommandLog, FrameError, FrameId, FrameReader, Received, UnverifiedFrame, backlog::Foreseen,
};

/// How often branches are tried that have not joined. Each time at least one author's log must have
/// changed, so an honest log needs one round for each rank of Admins that restored others.
const MAX_ROUNDS: usize = 64;

impl CommandLog {
    /// Takes frames from a store, own and foreign, in any order; a store is trusted no more than a
    /// peer. What it applies is polled like anything else. Returns how many frames the log has taken.
    pub fn restore(&mut self, wall: WallTime, frames: impl IntoIterator<Item = Bytes>) -> usize {
        let before = self.kept().count();
        // What is refused is counted, and is as if it had not been stored.
        let mut readable: Vec<_> = frames
            .into_iter()
            .filter_map(|bytes| self.read(&mut FrameReader::default(), bytes).ok())
            .collect();
        readable.sort_by_key(|frame| (frame.author(), frame.header().first_nonce));
        let authors: Vec<_> = readable.iter().map(UnverifiedFrame::author).collect();
        let mut again = readable.clone();
        let received = self.receive_all(wall, readable);
        let early: HashSet<_> = authors
            .iter()
            .zip(&received)
            .filter_map(|(author, received)| came_too_soon(received).then_some(*author))
            .collect();
        again.retain(|frame| early.contains(&frame.author()));
        self.rejoin(wall, &again);
        self.kept().count() - before
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

    fn counts_frame(&self, frame: &UnverifiedFrame) -> bool {
        let ours = self.frame_with(frame.author(), frame.header().first_nonce);
        ours.is_some_and(|ours| ours.id() == frame.id())
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
