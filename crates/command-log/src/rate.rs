//! How much an author may write: an integer token bucket that is a function of its chain, so that
//! every peer comes to the same verdict whenever the frames arrive.

use std::time::Duration;

use crate::Limits;

/// Parts of a token, so that integer arithmetic loses nothing at any rate.
const PARTS: u64 = 1000;

/// What is left in a bucket, in thousandths of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget(u64);

impl Budget {
    /// A full bucket.
    pub(crate) const fn full(limits: &Limits) -> Self {
        Self(limits.burst as u64 * PARTS)
    }

    /// The bucket with this many thousandths of a token.
    pub(crate) const fn from_parts(parts: u64) -> Self {
        Self(parts)
    }

    /// What is left, in thousandths of a token.
    pub(crate) const fn parts(self) -> u64 {
        self.0
    }

    /// The bucket after `elapsed_ms` of signed wall time.
    pub(crate) fn refilled(self, elapsed_ms: u64, limits: &Limits) -> Self {
        let gained = elapsed_ms.saturating_mul(u64::from(limits.per_second));
        Self(self.0.saturating_add(gained).min(Self::full(limits).0))
    }

    /// The bucket after paying `cost` tokens, or how long it takes until it could.
    pub(crate) fn spend(self, cost: u64, limits: &Limits) -> Result<Self, Shortfall> {
        let parts = cost.saturating_mul(PARTS);
        if parts > Self::full(limits).0 {
            return Err(Shortfall::Never);
        }
        self.0.checked_sub(parts).map(Self).ok_or_else(|| {
            let missing = parts - self.0;
            let wait_ms = missing.div_ceil(u64::from(limits.per_second));
            Shortfall::Wait(Duration::from_millis(wait_ms))
        })
    }
}

/// Why a bucket cannot pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortfall {
    /// It can after this long.
    Wait(Duration),
    /// The cost is more than a full bucket.
    Never,
}

/// What a command with this much payload costs: one token, and one more for each full KiB.
pub(crate) const fn cost(payload_len: usize) -> u64 {
    1 + payload_len as u64 / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        burst: 100,
        per_second: 10,
    };

    #[test]
    fn rate_limiter_refills_correctly_after_long_idle() {
        let empty = Budget::full(&LIMITS).spend(100, &LIMITS).unwrap();
        assert_eq!(empty.refilled(u64::MAX, &LIMITS), Budget::full(&LIMITS));
        assert_eq!(empty.refilled(9_999, &LIMITS), Budget(99_990));
        assert_eq!(empty.refilled(10_000, &LIMITS), Budget::full(&LIMITS));
    }

    #[test]
    fn a_wait_is_exactly_long_enough() {
        for per_second in [1, 7, 10, 60, 999] {
            let limits = Limits {
                burst: 100,
                per_second,
            };
            let empty = Budget::full(&limits).spend(100, &limits).unwrap();
            let Err(Shortfall::Wait(wait)) = empty.spend(3, &limits) else {
                panic!("an empty bucket paid");
            };
            let ms = u64::try_from(wait.as_millis()).unwrap();
            assert!(empty.refilled(ms, &limits).spend(3, &limits).is_ok());
            assert!(empty.refilled(ms - 1, &limits).spend(3, &limits).is_err());
        }
    }

    #[test]
    fn small_steps_add_up_to_one_large_step() {
        let empty = Budget::full(&LIMITS).spend(100, &LIMITS).unwrap();
        let steps = (0..1000).fold(empty, |budget, _| budget.refilled(3, &LIMITS));
        assert_eq!(steps, empty.refilled(3000, &LIMITS));
    }

    #[test]
    fn payload_costs_by_the_full_kibibyte() {
        assert_eq!([0, 1023, 1024, 65_536].map(cost), [1, 1, 2, 65],);
        let limits = Limits {
            burst: 64,
            per_second: 1,
        };
        assert_eq!(
            Budget::full(&limits).spend(65, &limits),
            Err(Shortfall::Never)
        );
    }
}
