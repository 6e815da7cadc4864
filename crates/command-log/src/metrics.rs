//! What a log counts.

use std::time::Duration;

use roundtable_core::{MetricsVisitor, Rate, Timestamp, WallTime};

use crate::{FrameError, Strategy, error::NAMES};

/// Counters since the log was opened, wrapping at 2^64.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) appended: u64,
    accepted_frames: u64,
    accepted_commands: u64,
    /// Since the rate was brought up to date.
    recent_commands: u32,
    rate: Rate,
    /// How many signatures have been verified, and how long that took.
    pub(crate) verified: u64,
    latencies: Latencies,
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
        self.recent_commands = self.recent_commands.saturating_add(commands);
    }

    /// Brings the rate of accepted commands up to date.
    pub(crate) fn settled(&mut self, wall: WallTime) {
        let now = Timestamp::from_millis(wall.as_millis());
        self.rate
            .add(now, std::mem::take(&mut self.recent_commands));
    }

    /// Counts signatures that were verified.
    pub(crate) fn verified(&mut self, signatures: u64) {
        self.verified = self.verified.wrapping_add(signatures);
    }

    /// Learns how long it took to verify so many signatures.
    pub(crate) fn took(&mut self, signatures: u64, took: Duration) {
        self.latencies.add(signatures, took);
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
        let rate = self.rate.per_second();
        visitor.gauge("log_accepted_commands_per_second", &[], rate);
        visitor.counter("log_verified_signatures", &[], self.verified);
        self.latencies.observe(visitor);
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

/// The latency of each signature's verification, as a histogram.
#[derive(Debug, Clone, Default)]
struct Latencies {
    /// How many took at most as long as the bound with the same index.
    within: [u64; BOUNDS_US.len()],
    count: u64,
    sum_us: u64,
}

/// In microseconds.
const BOUNDS_US: [u64; 8] = [8, 16, 32, 64, 128, 256, 1024, 4096];
const BOUNDS: [&str; 8] = ["8", "16", "32", "64", "128", "256", "1024", "4096"];

impl Latencies {
    /// Each of those that were verified together took its share.
    fn add(&mut self, signatures: u64, took: Duration) {
        let total_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let Some(each_us) = total_us.checked_div(signatures) else {
            return;
        };
        self.count = self.count.wrapping_add(signatures);
        self.sum_us = self.sum_us.wrapping_add(total_us);
        let buckets = self.within.iter_mut().zip(BOUNDS_US);
        for (within, _) in buckets.filter(|(_, bound)| each_us <= *bound) {
            *within = within.wrapping_add(signatures);
        }
    }

    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        for (bound, within) in BOUNDS.iter().zip(self.within) {
            visitor.counter("log_verify_us_bucket", &[("le", bound)], within);
        }
        visitor.counter("log_verify_us_bucket", &[("le", "+Inf")], self.count);
        visitor.counter("log_verify_us_sum", &[], self.sum_us);
        visitor.counter("log_verify_us_count", &[], self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_shared_out_among_what_was_verified_together() {
        let mut latencies = Latencies::default();
        latencies.add(1, Duration::from_micros(40));
        latencies.add(100, Duration::from_micros(1000));
        latencies.add(0, Duration::from_secs(1));
        assert_eq!(latencies.within, [0, 100, 100, 101, 101, 101, 101, 101]);
        assert_eq!((latencies.count, latencies.sum_us), (101, 1040));
        latencies.add(1, Duration::MAX);
        assert_eq!((latencies.count, latencies.within[7]), (102, 101));
    }

    #[test]
    fn counters_wrap() {
        let mut latencies = Latencies {
            within: [u64::MAX; 8],
            count: u64::MAX,
            sum_us: u64::MAX,
        };
        latencies.add(1, Duration::from_micros(1));
        assert_eq!(
            (latencies.within, latencies.count, latencies.sum_us),
            ([0; 8], 0, 0)
        );
        let mut counters = Counters {
            accepted_frames: u64::MAX,
            accepted_commands: u64::MAX,
            verified: u64::MAX,
            ..Counters::default()
        };
        counters.accepted(2);
        counters.verified(3);
        let Counters {
            accepted_frames,
            accepted_commands,
            verified,
            ..
        } = counters;
        assert_eq!([accepted_frames, accepted_commands, verified], [0, 1, 2]);
    }

    #[test]
    fn the_rate_is_that_of_accepted_commands() {
        let mut counters = Counters::default();
        for second in 1..=100 {
            counters.accepted(32);
            counters.settled(WallTime::from_millis(1_700_000_000_000 + second * 1000));
        }
        let rate = counters.rate.per_second();
        assert!((28.0..36.0).contains(&rate), "{rate}");
    }
}
