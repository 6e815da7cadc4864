//! What a session can tell about itself.

use roundtable_core::{MetricsVisitor, Observe, Timestamp};

use crate::{Session, event::Standing, links::Link};

/// Counters since the session began, wrapping at 2^64.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Links given up because of what their peers did or left undone.
    pub(crate) refused_links: u64,
    /// Elided frames that could not be restored.
    pub(crate) misread_frames: u64,
    /// Frames dropped on links that are gone: too early, or not for a guest.
    pub(crate) dropped_frames: u64,
    /// Submissions that were refused because the queue or the budget had no room.
    pub(crate) rate_limited: u64,
    /// Submissions that filled a frame, so that it was signed before the flush interval was over.
    pub(crate) filled: u64,
    /// How often signing was put off because the budget was spent.
    pub(crate) deferred: u64,
}

/// Events a second, as an exponentially weighted moving average over about 10 s.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    per_second: f64,
    at: Timestamp,
}

impl Rate {
    const OVER_SECONDS: f64 = 10.0;

    pub(crate) fn add(&mut self, now: Timestamp, count: u32) {
        let passed = now.saturating_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.per_second *= (-passed / Self::OVER_SECONDS).exp();
        self.per_second += f64::from(count) / Self::OVER_SECONDS;
    }
}

impl Counters {
    pub(crate) fn link_refused(&mut self) {
        self.refused_links = self.refused_links.wrapping_add(1);
    }

    pub(crate) fn misread(&mut self) {
        self.misread_frames = self.misread_frames.wrapping_add(1);
    }

    pub(crate) fn rate_limited(&mut self) {
        self.rate_limited = self.rate_limited.wrapping_add(1);
    }

    pub(crate) fn filled(&mut self) {
        self.filled = self.filled.wrapping_add(1);
    }

    pub(crate) fn deferred(&mut self) {
        self.deferred = self.deferred.wrapping_add(1);
    }

    pub(crate) fn link_gone(&mut self, link: &Link) {
        self.dropped_frames = self.dropped_frames.wrapping_add(link.dropped);
    }
}

impl Observe for Session {
    #[allow(clippy::cast_precision_loss)] // gauges are for people
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        let links = |standing: fn(&Standing) -> bool| {
            let links = self.links.iter();
            links.filter(|(_, link)| standing(&link.standing())).count() as f64
        };
        let standings = [
            ("handshaking", links(|s| *s == Standing::Handshaking)),
            ("member", links(|s| matches!(s, Standing::Member(_)))),
            ("guest", links(|s| *s == Standing::Guest)),
        ];
        for (standing, count) in standings {
            visitor.gauge("session_links", &[("standing", standing)], count);
        }
        let Counters {
            refused_links,
            misread_frames,
            dropped_frames,
            rate_limited,
            filled,
            deferred,
        } = self.counters;
        let dropped = self.links.iter().fold(dropped_frames, |sum, (_, link)| {
            sum.wrapping_add(link.dropped)
        });
        visitor.counter("session_refused_links", &[], refused_links);
        visitor.counter("session_misread_frames", &[], misread_frames);
        visitor.counter("session_dropped_frames", &[], dropped);
        visitor.counter("session_rate_limited_submissions", &[], rate_limited);
        visitor.counter("session_full_frames", &[], filled);
        visitor.counter("session_deferred_signings", &[], deferred);
        let queued = self.submissions.len() as f64;
        visitor.gauge("session_queued_commands", &[], queued);
        let rate = self.signing_rate.per_second;
        visitor.gauge("session_signed_commands_per_second", &[], rate);
        let ahead = self.clock_ahead_ms() as f64;
        visitor.gauge("session_clock_ahead_ms", &[], ahead);
        if let Some(log) = self.log() {
            log.observe(visitor);
        }
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
        assert!((45.0..55.0).contains(&rate.per_second), "{rate:?}");
        rate.add(at(200), 0);
        assert!(rate.per_second < 0.01, "{rate:?}");
        // A clock that stands still or goes back adds up, and does not divide by zero.
        rate.add(at(100), 10);
        assert!(rate.per_second.is_finite());
    }

    #[test]
    fn counters_wrap() {
        let mut counters = Counters {
            refused_links: u64::MAX,
            rate_limited: u64::MAX,
            deferred: u64::MAX,
            ..Counters::default()
        };
        counters.link_refused();
        counters.rate_limited();
        counters.deferred();
        let Counters {
            refused_links,
            rate_limited,
            deferred,
            ..
        } = counters;
        assert_eq!([refused_links, rate_limited, deferred], [0; 3]);
    }
}
