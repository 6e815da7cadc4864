//! How many messages a client may send: a token bucket that may run into debt, so that a client
//! that goes on after it was told to wait is told apart from one that slows down.

use std::time::Duration;

use roundtable_core::Timestamp;

/// One token in the bucket's own unit.
const TOKEN: u64 = 1_000_000;

/// What [`TokenBucket::spend`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// The message is within bounds.
    Granted,
    /// It is not, and the sender should wait so long.
    Denied(Duration),
    /// The sender has been denied a whole `burst` and does not slow down.
    Exhausted,
}

/// A bucket of `burst` tokens that refills at `per_second`; each message spends one, denied ones
/// too, down to a debt of `burst`.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// `burst` more than there are tokens, in millionths, so that debt is no negative number.
    level: u64,
    burst: u64,
    per_second: u64,
    refilled: Timestamp,
}

impl TokenBucket {
    /// A full bucket. `burst` and `per_second` count as at least 1.
    pub fn new(now: Timestamp, burst: u32, per_second: u32) -> Self {
        let burst = u64::from(burst.max(1)) * TOKEN;
        Self {
            level: 2 * burst,
            burst,
            per_second: u64::from(per_second.max(1)),
            refilled: now,
        }
    }

    /// Spends a token.
    pub fn spend(&mut self, now: Timestamp) -> Spent {
        // A token is as many millionths as a second has microseconds.
        let elapsed = now.saturating_since(self.refilled).as_micros();
        let refill = elapsed.saturating_mul(self.per_second.into());
        let refill = u64::try_from(refill).unwrap_or(u64::MAX);
        self.level = self.level.saturating_add(refill).min(2 * self.burst);
        self.refilled = self.refilled.max(now);
        let Some(level) = self.level.checked_sub(TOKEN) else {
            return Spent::Exhausted;
        };
        self.level = level;
        if level >= self.burst {
            return Spent::Granted;
        }
        // Until the next message finds a whole token.
        let missing = self.burst + TOKEN - level;
        Spent::Denied(Duration::from_micros(missing.div_ceil(self.per_second)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_burst_passes_then_the_rate_then_nothing() {
        let mut bucket = TokenBucket::new(at(0), 3, 10);
        for _ in 0..3 {
            assert_eq!(bucket.spend(at(0)), Spent::Granted);
        }
        let Spent::Denied(wait) = bucket.spend(at(0)) else {
            panic!("the burst is spent")
        };
        assert_eq!(wait, Duration::from_millis(200), "the denied one counts");
        assert_eq!(bucket.spend(at(200)), Spent::Granted, "who waits is heard");
        for _ in 0..3 {
            assert!(matches!(bucket.spend(at(200)), Spent::Denied(_)));
        }
        assert_eq!(bucket.spend(at(200)), Spent::Exhausted);
    }

    #[test]
    fn a_long_pause_fills_it_once_and_time_that_runs_back_does_nothing() {
        let mut bucket = TokenBucket::new(at(0), 2, 1);
        let late = Timestamp::from_micros(u64::MAX);
        assert_eq!(bucket.spend(late), Spent::Granted);
        assert_eq!(bucket.spend(at(0)), Spent::Granted);
        assert!(matches!(bucket.spend(at(1)), Spent::Denied(_)));
    }

    #[test]
    fn a_steady_sender_at_the_rate_is_never_denied() {
        let mut bucket = TokenBucket::new(at(0), 1, 7);
        for n in 0..10_000_u64 {
            let now = Timestamp::from_micros(n * 142_858);
            assert_eq!(bucket.spend(now), Spent::Granted, "message {n}");
        }
    }
}
