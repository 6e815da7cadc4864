//! What a log counts.

use roundtable_core::MetricsVisitor;

use crate::{FrameError, Strategy, error::NAMES};

/// Counters since the log was opened, wrapping at 2^64.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) appended: u64,
    accepted_frames: u64,
    accepted_commands: u64,
    pub(crate) duplicates: u64,
    pub(crate) waited: u64,
    pub(crate) not_held: u64,
    pub(crate) branched: u64,
    forks: u64,
    refused: [u64; NAMES.len()],
    conflicts: [u64; 3],
}

const STRATEGIES: [&str; 3] = ["last-write-wins", "reject", "merge"];

/// Counts one more, wrapping.
pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

impl Counters {
    /// Counts a frame that counts from now on, with so many commands.
    pub(crate) fn accepted(&mut self, commands: u32) {
        bump(&mut self.accepted_frames);
        self.accepted_commands = self.accepted_commands.wrapping_add(commands.into());
    }

    pub(crate) fn forked(&mut self) {
        bump(&mut self.forks);
    }

    pub(crate) fn refused(&mut self, error: &FrameError) {
        bump(&mut self.refused[usize::from(error.code())]);
    }

    pub(crate) fn conflict(&mut self, strategy: Strategy) {
        let strategy = match strategy {
            Strategy::LastWriteWins => 0,
            Strategy::Reject => 1,
            Strategy::Merge(_) => 2,
        };
        bump(&mut self.conflicts[strategy]);
    }

    pub(crate) fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        visitor.counter("log_appended_frames", &[], self.appended);
        visitor.counter("log_accepted_frames", &[], self.accepted_frames);
        visitor.counter("log_accepted_commands", &[], self.accepted_commands);
        visitor.counter("log_duplicate_frames", &[], self.duplicates);
        visitor.counter("log_waited_frames", &[], self.waited);
        visitor.counter("log_not_held_frames", &[], self.not_held);
        visitor.counter("log_branched_frames", &[], self.branched);
        visitor.counter("log_forks", &[], self.forks);
        for (reason, count) in NAMES.iter().zip(self.refused).skip(1) {
            visitor.counter("log_refused_frames", &[("reason", reason)], count);
        }
        for (strategy, count) in STRATEGIES.iter().zip(self.conflicts) {
            visitor.counter("log_conflicts", &[("strategy", strategy)], count);
        }
    }
}
