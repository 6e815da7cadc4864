//! What a room's store remembers of misconduct, for an audit: forks for good, and what was refused.

use std::time::Duration;

use roundtable_command_log::{ForkProof, GenesisHash};
use roundtable_core::Timestamp;
use roundtable_log_store::{Contents, Equivocations, Record, Refusal, Refusals};

/// How often refusals are put into the store, whatever floods there are: as much as a crash may lose of them.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was noted, and what of that is not in the store yet.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    equivocations: Equivocations,
    refusals: Refusals,
    forked: bool,
    refused: bool,
    next: Timestamp,
}

impl Noted {
    /// Goes on after what was stored.
    pub(crate) fn of(stored: &Contents) -> Self {
        Self {
            equivocations: stored.equivocations(),
            refusals: stored.refusals(),
            ..Self::default()
        }
    }

    pub(crate) fn forked(&mut self, proof: &ForkProof) {
        self.forked |= self.equivocations.note(proof);
    }

    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refusals.note(refusal);
        self.refused = true;
    }

    /// Lets refusals be put into the store at once.
    pub(crate) fn hasten(&mut self) {
        self.next = Timestamp::ZERO;
    }

    /// Puts into the store what is due; `append` says whether it has taken a record, and else is asked again the next time.
    pub(crate) fn keep(
        &mut self,
        now: Timestamp,
        genesis: GenesisHash,
        mut append: impl FnMut(Record) -> bool,
    ) -> bool {
        if self.forked {
            self.forked = !append(self.equivocations.record(genesis));
        }
        if self.refused && self.next <= now && append(self.refusals.record(genesis)) {
            (self.refused, self.next) = (false, now + INTERVAL);
        }
        !self.forked && (!self.refused || self.next > now)
    }
}
