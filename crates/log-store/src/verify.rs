//! A kept log, held against its genesis: every signature and every rule, without a peer.

use std::collections::HashSet;

use roundtable_command_log::{
    CommandLog, FrameError, OpenError, Received, SharedFrame, Snapshot, SnapshotError,
};
use roundtable_core::{AuthorId, WallTime};

use crate::Contents;

/// What came of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The log that the frames make, settled; it has no key and signs nothing.
    pub log: CommandLog,
    /// What does not belong into it, by author and then in the order of its frames.
    pub refused: Vec<Refused>,
    /// Frames that wait for others before them, or for their time.
    pub waiting: usize,
}

/// A frame that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Under whose name it was kept.
    pub author: AuthorId,
    /// Which of this author's frames it is, counted from 1.
    pub position: usize,
    /// Why.
    pub error: FrameError,
}

/// Why a log cannot be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The store has no such room, or the room's genesis is not known yet.
    #[error("no genesis of this room is kept")]
    NoGenesis,
    /// The genesis, the schema and this version do not go together.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is kept of the last stable checkpoint is not what the room's writers have committed.
    #[error("the kept checkpoint does not verify: {0}")]
    Snapshot(#[from] SnapshotError),
}

impl Contents {
    /// Verifies every checkpoint and every frame from the genesis on; `now` is for frames dated ahead of it.
    ///
    /// # Errors
    /// [`VerifyError`] if there is nothing to verify against.
    pub fn verify(&self, now: WallTime) -> Result<Verification, VerifyError> {
        let genesis = self.genesis.clone().ok_or(VerifyError::NoGenesis)?;
        let schema = self.schema.clone().ok_or(VerifyError::NoGenesis)?;
        let mut log = CommandLog::new(genesis, schema, None)?;
        if let Some(snapshot) = &self.snapshot {
            log.install(now, &Snapshot::decode(snapshot.clone())?)?;
        }
        // What counts of a forked author may hang on an author who comes later.
        log.restore(now, self.frames.values().flatten().cloned());
        let (mut refused, mut belonging) = (Vec::new(), HashSet::new());
        for (author, frames) in &self.frames {
            for (frame, position) in frames.iter().zip(1..) {
                match log.receive(now, frame.clone()) {
                    // A checkpoint has made it superfluous.
                    Ok(Received::Pruned) => {}
                    Ok(_) => {
                        belonging.insert(frame);
                    }
                    Err(error) => refused.push(Refused {
                        author: *author,
                        position,
                        error,
                    }),
                }
            }
        }
        log.settle(now);
        let kept = log.kept_count();
        let waiting = belonging.len().saturating_sub(kept);
        Ok(Verification {
            log,
            refused,
            waiting,
        })
    }
}

impl Verification {
    /// Whether every frame belongs into the log.
    pub fn is_sound(&self) -> bool {
        self.refused.is_empty()
    }

    /// Frames that are kept and do not count: proofs of forks, and what lies beyond them.
    pub fn set_aside(&self) -> usize {
        self.log.set_aside().count()
    }

    /// An author's frames that count.
    pub fn frames_of(&self, author: AuthorId) -> impl Iterator<Item = SharedFrame> {
        self.log.frames_after(author, 0, usize::MAX)
    }
}
