//! How long to hold packets: an estimate of how far behind the fastest packet the others arrive.
//!
//! A packet's *transit* is its arrival on our clock minus its RTP time. The difference between two
//! clocks is in it, and nobody knows that, but the smallest transit of the last seconds stands
//! for a packet that nothing held up; what others need beyond that is their *relative delay*. A
//! histogram of it that slowly forgets gives the delay within which almost every packet arrives.

use std::time::Duration;

use roundtable_core::Timestamp;

/// Width of a bucket. Finer than anyone hears, coarse enough to stay small.
const BUCKET_US: i64 = 5_000;
/// Relative delays of 0 to 500 ms; later packets count as 500.
const BUCKETS: usize = 100;
/// Packets after which the fastest one is forgotten, at the earliest half way.
const BASE_WINDOW: u32 = 200;
/// Silence after which old transits say nothing any more: drift of 100 ppm makes 3 ms of it.
const STALE: Duration = Duration::from_secs(30);
/// No network holds a packet up by this much: the sender has started anew.
const BREAK_US: u64 = 5_000_000;
/// Two peaks within this time are a pattern.
const PEAK_MEMORY: Duration = Duration::from_secs(10);
/// How long a pattern of peaks is provided for after the last one.
const PEAK_HOLD: Duration = Duration::from_secs(5);

/// Bounds and temper of a [`DelayEstimator`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DelayConfig {
    /// The target never falls below this.
    pub min: Duration,
    /// The target never rises above this.
    pub max: Duration,
    /// The target before there is a measurement.
    pub start: Duration,
    /// The share of packets that should arrive in time, 0.5 to 0.999.
    pub quantile: f32,
    /// How many packets the histogram remembers, about.
    pub memory: f32,
}

/// Estimates the playout delay that a stream needs.
#[derive(Debug, Clone)]
pub struct DelayEstimator {
    config: DelayConfig,
    transit: WindowedMin,
    last_arrival: Option<Timestamp>,
    histogram: [f32; BUCKETS],
    weight: f32,
    target_us: i64,
    peak: Peak,
}

/// The smallest value of the last 100 to 200, in two halves.
#[derive(Debug, Clone, Copy, Default)]
struct WindowedMin {
    older: Option<i64>,
    newer: Option<i64>,
    count: u32,
}

impl WindowedMin {
    fn add(&mut self, value: i64) {
        if self.count == BASE_WINDOW / 2 {
            self.older = self.newer.take();
            self.count = 0;
        }
        self.count += 1;
        self.newer = Some(self.newer.map_or(value, |least| least.min(value)));
    }

    fn get(self) -> Option<i64> {
        self.older.into_iter().chain(self.newer).min()
    }
}

/// Delay spikes that come again before the histogram would provide for them.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    last: Option<(Timestamp, i64)>,
    held_us: i64,
    since: Timestamp,
}

impl Peak {
    fn observe(&mut self, now: Timestamp, delay_us: i64) {
        if let Some((then, before)) = self.last {
            let apart = now.saturating_since(then);
            // Packets of one spike are one peak.
            if apart < Duration::from_millis(500) {
                self.last = Some((then, before.max(delay_us)));
                return;
            }
            if apart < PEAK_MEMORY {
                self.held_us = self.at(now).max(before.min(delay_us));
                self.since = now;
            }
        }
        self.last = Some((now, delay_us));
    }

    /// What is held at `now`: constant for [`PEAK_HOLD`], then 20 ms less each second. Time alone
    /// takes it down, so no pattern of packets can keep it up.
    fn at(&self, now: Timestamp) -> i64 {
        let after = now.saturating_since(self.since).saturating_sub(PEAK_HOLD);
        let decayed = i64::try_from(after.as_micros() / 50).unwrap_or(i64::MAX);
        self.held_us.saturating_sub(decayed).max(0)
    }
}

impl DelayEstimator {
    /// An estimator without any measurement.
    pub fn new(config: DelayConfig) -> Self {
        Self {
            config,
            transit: WindowedMin::default(),
            last_arrival: None,
            histogram: [0.0; BUCKETS],
            weight: 0.0,
            target_us: micros(config.start),
            peak: Peak::default(),
        }
    }

    /// Takes note that media of time `media_us` (RTP time, unwrapped, in microseconds) arrived.
    /// With `count` false only the fastest transit learns from it: for packets that the sender
    /// itself held back. Returns the relative delay.
    pub fn arrived(&mut self, now: Timestamp, media_us: i64, count: bool) -> Duration {
        let transit = signed(now).saturating_sub(media_us);
        let stale = self
            .last_arrival
            .is_some_and(|last| now.saturating_since(last) > STALE);
        if stale {
            self.transit = WindowedMin::default();
        }
        self.last_arrival = Some(now);
        self.transit.add(transit);
        let base = self.transit.get().unwrap_or(transit);
        let delay_us = transit - base;
        if count {
            self.count(now, delay_us);
        }
        Duration::from_micros(delay_us.unsigned_abs())
    }

    /// Whether media of time `media_us` that arrives at `now` cannot belong to the stream: no network
    /// holds a packet up, or speeds it up, by 5 s.
    pub fn is_break(&self, now: Timestamp, media_us: i64) -> bool {
        let transit = signed(now).saturating_sub(media_us);
        let base = self.transit.get();
        base.is_some_and(|base| transit.abs_diff(base) > BREAK_US)
    }

    fn count(&mut self, now: Timestamp, delay_us: i64) {
        // Young estimates weigh each packet alike; old ones forget.
        let keep = 1.0 - 1.0 / (self.weight + 1.0).min(self.config.memory);
        self.histogram.iter_mut().for_each(|share| *share *= keep);
        self.weight = (self.weight + 1.0).min(self.config.memory);
        let bucket = usize::try_from(delay_us / BUCKET_US).unwrap_or(0);
        self.histogram[bucket.min(BUCKETS - 1)] += 1.0 - keep;
        if delay_us > self.target_us {
            self.peak.observe(now, delay_us);
        }
        self.target_us = self.quantile_us();
    }

    /// The upper edge of the bucket that holds the quantile.
    fn quantile_us(&self) -> i64 {
        let mut beyond = 1.0;
        let mut edge = 0;
        for share in &self.histogram {
            edge += BUCKET_US;
            beyond -= share;
            if beyond <= 1.0 - self.config.quantile {
                break;
            }
        }
        edge
    }

    /// How long after the fastest packet's time media should be played, within the bounds.
    pub fn target(&self, now: Timestamp) -> Duration {
        let wanted = self.target_us.max(self.peak.at(now)).unsigned_abs();
        Duration::from_micros(wanted).clamp(self.config.min, self.config.max.max(self.config.min))
    }

    /// Moves the lower bound, for instance to wait for redundancy. The upper one still holds.
    pub fn set_min(&mut self, min: Duration) {
        self.config.min = min.min(self.config.max);
    }

    /// How much media that was captured at `media_us` is behind the fastest packet at `now`, in
    /// microseconds, negative if it would have to be played before it can arrive. `None` before
    /// the first packet.
    pub fn delay_of_us(&self, now: Timestamp, media_us: i64) -> Option<i64> {
        let base = self.transit.get()?;
        Some(signed(now).saturating_sub(media_us).saturating_sub(base))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn signed(time: Timestamp) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
