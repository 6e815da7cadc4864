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

    /// The time of the next own frame, `None` at the very end of time.
    pub(crate) fn next(self) -> Option<u64> {
        self.0.checked_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lamport time never wraps: at its end there is no next, and the bound, which saturates too,
    /// keeps it from getting there.
    #[test]
    fn lamport_clock_handles_u64_wraparound() {
        let mut clock = LamportClock::default();
        clock.observe(u64::MAX - 1);
        assert_eq!(clock.next(), Some(u64::MAX));
        clock.observe(u64::MAX);
        assert_eq!(clock.next(), None);
        assert_eq!(bound(u64::MAX), u64::MAX);
        assert!(bound(1 << 40) < 1 << 51);
    }
}
