//! How much a link carries: what the peer acknowledges while more waits to be sent. The core does not tell what congestion control
//! lets out.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use roundtable_core::Bitrate;

/// Over how much time one rate is taken, at least, and at most: with longer pauses it tells of the application.
const SAMPLE: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_millis(500);
/// With less waiting, the application may be what is slow.
const FILLED: u64 = 16 << 10;
/// For how long a rate counts.
const REMEMBERED: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// Bytes acknowledged until then.
    acknowledged: u64,
    /// Whether enough waited to fill the link.
    is_busy: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Bandwidth {
    last: Option<Look>,
    /// Rates in bits a second and when they were seen, the oldest first, each higher than all behind it: no more than there are
    /// samples in the time that is remembered.
    rates: VecDeque<(Instant, u32)>,
}

impl Bandwidth {
    /// Whether it is time for the next [`sample`](Self::sample).
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last.at) >= SAMPLE)
    }

    /// So many payload bytes were handed to the core since the beginning, of which so many are not acknowledged.
    pub(crate) fn sample(&mut self, now: Instant, handed: u64, waiting: u64) {
        let look = Look {
            at: now,
            acknowledged: handed.saturating_sub(waiting),
            is_busy: waiting >= FILLED,
        };
        let Some(last) = self.last.replace(look) else {
            return;
        };
        let took = now.saturating_duration_since(last.at);
        // A link that had nothing to send is not the slower for it.
        if last.is_busy && look.is_busy && took <= LONGEST {
            let bytes = look.acknowledged.saturating_sub(last.acknowledged);
            let millis = took.as_millis().max(1);
            let bps = u128::from(bytes) * 8000 / millis;
            let bps = u32::try_from(bps).unwrap_or(u32::MAX);
            while self.rates.pop_back_if(|(_, rate)| *rate <= bps).is_some() {}
            self.rates.push_back((now, bps));
        }
        let is_old = |(at, _): &mut (Instant, u32)| now.saturating_duration_since(*at) > REMEMBERED;
        while self.rates.pop_front_if(is_old).is_some() {}
    }

    /// The highest rate that is remembered; `None` if the link was not filled of late.
    pub(crate) fn estimate(&self) -> Option<Bitrate> {
        let highest = self.rates.front().filter(|(_, bps)| *bps > 0);
        highest.map(|(_, bps)| Bitrate::from_bps(*bps))
    }
}

#[cfg(test)]
mod tests {
    use roundtable_core::Clock;
    use roundtable_transport::SystemClock;

    use super::*;

    fn start() -> Instant {
        SystemClock::instant(SystemClock.now())
    }

    /// Looks every 100 ms, while so many bytes are acknowledged in each and so many wait.
    fn run(bandwidth: &mut Bandwidth, from: (Instant, u64), steps: u32, each: u64, waiting: u64) {
        for step in 1..=steps {
            let now = from.0 + SAMPLE * step;
            assert!(bandwidth.is_due(now));
            bandwidth.sample(now, from.1 + u64::from(step) * each + waiting, waiting);
        }
    }

    #[test]
    fn a_link_that_is_filled_carries_what_is_acknowledged() {
        let (now, mut bandwidth) = (start(), Bandwidth::default());
        run(&mut bandwidth, (now, 0), 20, 12_500, 60_000);
        assert_eq!(bandwidth.estimate(), Some(Bitrate::from_kbps(1000)));
        // It becomes slower; the better time is forgotten after a while.
        let later = (now + SAMPLE * 20, 250_000);
        run(&mut bandwidth, later, 50, 5000, 60_000);
        assert_eq!(bandwidth.estimate(), Some(Bitrate::from_kbps(1000)));
        let later = (now + SAMPLE * 70, 500_000);
        run(&mut bandwidth, later, 60, 5000, 60_000);
        assert_eq!(bandwidth.estimate(), Some(Bitrate::from_kbps(400)));
    }

    #[test]
    fn a_link_that_has_little_to_send_says_nothing_of_what_it_could() {
        let (now, mut bandwidth) = (start(), Bandwidth::default());
        run(&mut bandwidth, (now, 0), 50, 100, 1000);
        assert_eq!(bandwidth.estimate(), None);
        // Filled for a moment, and again much later.
        bandwidth.sample(now + SAMPLE * 51, 70_000, 60_000);
        bandwidth.sample(now + SAMPLE * 90, 140_000, 60_000);
        assert_eq!(bandwidth.estimate(), None);
    }

    #[test]
    fn what_was_seen_is_forgotten_when_nothing_is_sent_any_more() {
        let (now, mut bandwidth) = (start(), Bandwidth::default());
        run(&mut bandwidth, (now, 0), 20, 12_500, 60_000);
        run(&mut bandwidth, (now + SAMPLE * 20, 310_000), 101, 0, 0);
        assert_eq!(bandwidth.estimate(), None);
    }
}
