//! Lamport time: a count that orders commands by what their authors had seen. No wall clock here.

/// How far ahead of the genesis any Lamport time may be at its start.
const HEAD_START: u64 = 1 << 20;
/// How many more steps each millisecond of signed wall time allows.
const PER_MS: u64 = 1024;

/// The highest Lamport time that a frame may carry whose author signed `elapsed_ms` after the
/// genesis. A hostile author can thus push the clock only to where everyone can follow; at
/// `u64::MAX` it would stop, and that is 571 million years away.
pub(crate) const fn bound(elapsed_ms: u64) -> u64 {
    HEAD_START.saturating_add(elapsed_ms.saturating_mul(PER_MS))
}

/// The highest Lamport time seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LamportClock(u64);

impl LamportClock {
    /// Learns of a frame.
    pub(crate) fn observe(&mut self, lamport: u64) {
        self.0 = self.0.max(lamport);
    }

    /// The highest seen.
    pub(crate) const fn highest(self) -> u64 {
        self.0
    }

    /// The time of the next own frame: one above all seen, unless its bound is lower. An author
    /// that pushes the clock to its bound thus outranks others for a while and stops nobody.
    pub(crate) fn next(self, elapsed_ms: u64) -> u64 {
        self.0.saturating_add(1).min(bound(elapsed_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lamport time never wraps: it saturates, and the bound, which saturates too, keeps it from
    /// getting there.
    #[test]
    fn lamport_clock_handles_u64_wraparound() {
        let mut clock = LamportClock::default();
        clock.observe(u64::MAX - 1);
        assert_eq!(clock.next(u64::MAX), u64::MAX);
        clock.observe(u64::MAX);
        assert_eq!(clock.next(u64::MAX), u64::MAX);
        assert!(bound(1 << 40) < 1 << 51);
    }

    #[test]
    fn the_next_time_is_above_all_seen_within_the_bound() {
        let mut clock = LamportClock::default();
        assert_eq!(clock.next(0), 1);
        clock.observe(41);
        assert_eq!(clock.next(0), 42);
        clock.observe(bound(600_000));
        assert_eq!(clock.next(7), bound(7));
    }
}
