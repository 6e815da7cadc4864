//! How a part shows its numbers without knowing who reads them.

use crate::Timestamp;

/// Receives metrics from an [`Observe`]r. Names are `snake_case` with the unit last
/// (`rtt_ms`, `received_bytes`).
pub trait MetricsVisitor {
    /// A value that only grows, wrapping at 2^64.
    fn counter(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64);
    /// A value that goes up and down.
    fn gauge(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64);
}

/// Something that can be asked for its metrics.
pub trait Observe {
    /// Shows every metric once. Must not block.
    fn observe(&self, visitor: &mut dyn MetricsVisitor);
}

/// Events a second, as an exponentially weighted moving average over about 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    per_second: f64,
    at: Timestamp,
}

impl Rate {
    const OVER_SECONDS: f64 = 10.0;

    /// So many events have happened now. With none, it only learns what time it is.
    pub fn add(&mut self, now: Timestamp, count: u32) {
        let passed = now.saturating_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.per_second *= (-passed / Self::OVER_SECONDS).exp();
        self.per_second += f64::from(count) / Self::OVER_SECONDS;
    }

    /// The average as of the last [`add`](Self::add).
    pub const fn per_second(&self) -> f64 {
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_comes_to_what_happens_and_fades_when_nothing_does() {
        let mut rate = Rate::default();
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        for second in 1..=100 {
            rate.add(at(second), 50);
        }
        assert!((45.0..55.0).contains(&rate.per_second()), "{rate:?}");
        rate.add(at(200), 0);
        assert!(rate.per_second() < 0.01, "{rate:?}");
        // A clock that stands still or goes back adds up, and does not divide by zero.
        rate.add(at(100), 10);
        assert!(rate.per_second().is_finite());
    }
}
