//! How long to hold packets: an estimate of how far behind the fastest packet the others arrive, and of
//! what it would cost to wait for fewer of them.
//!
//! A packet's *transit* is its arrival on our clock minus its RTP time. The difference between two
//! clocks is in it, and nobody knows that, but the smallest transit of the last seconds stands
//! for a packet that nothing held up; what others need beyond that is their *relative delay*.
//!
//! Imagine a listener who waits for `T`, makes speech up while a packet is not there, is as late as that
//! packet from then on, and catches up by and by. A packet costs him as much as its relative delay is
//! beyond `T` and beyond how late he is already. So each packet adds to the cost of all `T` in an interval,
//! which a histogram takes. It slowly forgets, and the target is the least `T` at which the share of
//! speech that is made up stays within a bound.
//!
//! Packets that were overtaken, or that come only as another one's redundancy, cost all that they last.
//! One event alone changes nothing: what is far beyond the target waits until another one like it comes
//! within ten seconds, and then the lesser one counts.

use std::time::Duration;

use roundtable_core::Timestamp;

/// Width of a bucket.
const BUCKET_US: i64 = 2_000;
/// Relative delays of 0 to 500 ms; what is beyond counts as 500.
const BUCKETS: usize = 250;
/// Packets after which the fastest one is forgotten, at the earliest half way.
const BASE_WINDOW: u32 = 200;
/// Silence after which old transits say nothing any more: drift of 100 ppm makes 3 ms of it.
const STALE: Duration = Duration::from_secs(30);
/// No network holds a packet up by this much: the sender has started anew.
const BREAK_US: u64 = 5_000_000;
/// Costs below this are forgotten.
const NEGLIGIBLE_US: f32 = 1.0;
/// How much of the time that it goes on the listener catches up.
const CATCH_UP: i64 = 10; // percent
/// Speech is made up in pieces of 10 ms: half a one too much in the mean.
const HALF_PIECE_US: i64 = 5_000;
/// What is lost for good costs more than what is only heard later.
const LOST_WEIGHT: i64 = 2;
/// So far beyond the target, in microseconds, a delay may be an accident.
const OUTLIER_US: i64 = 20_000;
/// So much media, in microseconds, must have come before what it says is taken at its word: until then the target falls
/// from the one to begin with.
const TRIAL_US: f32 = 2e6;
/// Two accidents within this time are a pattern.
const OUTLIER_MEMORY: Duration = Duration::from_secs(10);
/// The longest time, in microseconds, that a packet stands for: more is a pause.
const MAX_STEP_US: i64 = 120_000;

/// Bounds and temper of a [`DelayEstimator`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DelayConfig {
    /// The target never falls below this.
    pub min: Duration,
    /// The target never rises above this.
    pub max: Duration,
    /// The target before there is a measurement.
    pub start: Duration,
    /// The share of speech that may have to be made up because packets come late, 0.0001 to 0.2.
    pub late_share: f32,
    /// How much media the histogram remembers, about.
    pub memory: Duration,
}

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// After all that were sent before it, as far as they came.
    InOrder,
    /// After one that was sent later, or as the redundancy of one: it lasts so many microseconds.
    Overtaken(i64),
    /// The sender itself held it back: only the fastest transit learns from it.
    HeldBack,
}

/// Estimates the playout delay that a stream needs.
#[derive(Debug, Clone)]
pub struct DelayEstimator {
    config: DelayConfig,
    transit: WindowedMin,
    last_arrival: Option<Timestamp>,
    cost: CostHistogram,
    /// Media time of the newest packet.
    newest_us: Option<i64>,
    /// Up to which transit the imagined listener is late.
    late_us: i64,
    accident: Option<Accident>,
    /// Transit up to which to wait; `None` before a packet counted.
    until_us: Option<i64>,
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

/// An interval of transits that a packet made dear.
#[derive(Debug, Clone, Copy)]
struct Accident {
    at: Timestamp,
    from_us: i64,
    to_us: i64,
    cost_us: i64,
}

/// What it would cost to wait only up to a transit: by buckets, of which the first one begins at `origin_us`.
///
/// Transits rather than relative delays, so that what is known stays true when the fastest packet is
/// another one: on a path that has become longer, the old delays must not count on top.
#[derive(Debug, Clone)]
struct CostHistogram {
    origin_us: i64,
    buckets: [f32; BUCKETS],
    /// Nothing costs anything from this bucket on: most are empty most of the time.
    used: usize,
    /// Media time that this was seen in.
    time_us: f32,
}

impl CostHistogram {
    const fn new() -> Self {
        Self {
            origin_us: 0,
            buckets: [0.0; BUCKETS],
            used: 0,
            time_us: 0.0,
        }
    }

    /// Moves the first bucket to about `base_us`. What does not fit falls into the last one.
    fn move_to(&mut self, base_us: i64) {
        let shift = base_us.saturating_sub(self.origin_us).div_euclid(BUCKET_US);
        if shift == 0 {
            return;
        }
        self.origin_us = self
            .origin_us
            .saturating_add(shift.saturating_mul(BUCKET_US));
        let by = usize::try_from(shift.unsigned_abs()).map_or(BUCKETS, |by| by.min(BUCKETS));
        if shift > 0 {
            self.buckets.copy_within(by.., 0);
            self.buckets[BUCKETS - by..].fill(0.0);
            self.used = self.used.saturating_sub(by);
        } else {
            let beyond: f32 = self.buckets[BUCKETS - by..].iter().sum();
            self.buckets.copy_within(..BUCKETS - by, by);
            self.buckets[..by].fill(0.0);
            self.buckets[BUCKETS - 1] += beyond;
            self.used = match beyond > 0.0 {
                true => BUCKETS,
                false => (self.used + by).min(BUCKETS),
            };
        }
    }

    /// Time goes on by `step_us`; of what is older than `memory`, little is left.
    fn pass(&mut self, step_us: i64, memory: Duration) {
        let memory_us = memory.as_micros() as f32;
        let keep = 1.0 - (step_us as f32 / memory_us).clamp(0.0, 1.0);
        let used = &mut self.buckets[..self.used];
        used.iter_mut().for_each(|cost| *cost *= keep);
        while let Some(last) = self.used.checked_sub(1)
            && self.buckets[last] < NEGLIGIBLE_US
        {
            self.buckets[last] = 0.0;
            self.used = last;
        }
        self.time_us = self.time_us * keep + step_us as f32;
    }

    /// A listener who waits for less than `to_us` has to make up what he waits less, down to `from_us`.
    fn add_interval(&mut self, from_us: i64, to_us: i64) {
        let end = BUCKETS as i64 * BUCKET_US;
        let from = from_us.saturating_sub(self.origin_us).clamp(0, end);
        let to = to_us.saturating_sub(self.origin_us).clamp(0, end);
        let first = usize::try_from(from / BUCKET_US).unwrap_or(0);
        let last = usize::try_from((to + BUCKET_US - 1) / BUCKET_US).unwrap_or(0);
        for (index, cost) in self.buckets.iter_mut().enumerate().take(last).skip(first) {
            let low = index as i64 * BUCKET_US;
            let overlap = to.min(low + BUCKET_US) - from.max(low);
            *cost += overlap.max(0) as f32;
        }
        self.used = self.used.max(last);
    }

    /// A listener who waits for less than `until_us` has to make up `cost_us`.
    fn add_lump(&mut self, until_us: i64, cost_us: i64) {
        let place = until_us
            .saturating_sub(self.origin_us)
            .div_euclid(BUCKET_US);
        let bucket = usize::try_from(place).unwrap_or(0).min(BUCKETS - 1);
        self.buckets[bucket] += cost_us as f32;
        self.used = self.used.max(bucket + 1);
    }

    /// The least transit at which no more than `share` of the time is made up.
    fn until_us(&self, share: f32) -> i64 {
        let mut left = share * self.time_us;
        let used = self.buckets[..self.used].iter();
        for (index, cost) in used.enumerate().rev() {
            if *cost > left {
                // As if the bucket's cost were spread evenly over it.
                #[allow(clippy::cast_possible_truncation)] // less than a bucket
                let part = (left / cost * BUCKET_US as f32) as i64;
                return self.origin_us + (index as i64 + 1) * BUCKET_US - part;
            }
            left -= cost;
        }
        self.origin_us
    }
}

impl DelayEstimator {
    /// An estimator without any measurement.
    pub fn new(config: DelayConfig) -> Self {
        Self {
            config,
            transit: WindowedMin::default(),
            last_arrival: None,
            cost: CostHistogram::new(),
            newest_us: None,
            late_us: i64::MIN,
            accident: None,
            until_us: None,
        }
    }

    /// Goes on with other bounds; what was measured stays.
    pub fn reconfigure(&mut self, config: DelayConfig) {
        self.config = config;
        if self.until_us.is_some() {
            self.until_us = Some(self.cost.until_us(config.late_share));
        }
    }

    /// Takes note that media of time `media_us` (RTP time, unwrapped, in microseconds) arrived. Returns
    /// the relative delay.
    pub fn arrived(&mut self, now: Timestamp, media_us: i64, arrival: Arrival) -> Duration {
        let transit_us = signed(now).saturating_sub(media_us);
        let stale = self
            .last_arrival
            .is_some_and(|last| now.saturating_since(last) > STALE);
        if stale {
            self.forget_transits(transit_us);
        }
        self.last_arrival = Some(now);
        let before_us = self.base_us();
        self.transit.add(transit_us);
        let base_us = self.transit.get().unwrap_or(transit_us);
        let moved_us = base_us.saturating_sub(before_us);
        if moved_us < -OUTLIER_US {
            // A shorter path, not a faster packet: it will jitter as the old one did.
            self.move_along(moved_us);
        }
        self.cost.move_to(base_us);
        self.learn(now, media_us, transit_us, arrival);
        Duration::from_micros((transit_us - base_us).unsigned_abs())
    }

    /// Takes note that media of time `media_us`, which lasts `length_us`, came as the redundancy of a
    /// packet that arrived at `now`, and had not come before.
    pub fn repeated(&mut self, now: Timestamp, media_us: i64, length_us: i64) {
        let transit_us = signed(now).saturating_sub(media_us);
        self.learn(now, media_us, transit_us, Arrival::Overtaken(length_us));
    }

    fn learn(&mut self, now: Timestamp, media_us: i64, transit_us: i64, arrival: Arrival) {
        let newest_us = self.newest_us.unwrap_or(media_us);
        self.newest_us = Some(newest_us.max(media_us));
        let step_us = media_us.saturating_sub(newest_us).clamp(0, MAX_STEP_US);
        let before_us = self.late_us.saturating_sub(step_us * CATCH_UP / 100);
        match arrival {
            Arrival::HeldBack => {
                self.late_us = before_us.max(transit_us);
                return;
            }
            Arrival::InOrder => {
                self.late_us = before_us.max(transit_us);
                self.cost.pass(step_us, self.config.memory);
                if before_us != i64::MIN {
                    self.charge(Accident {
                        at: now,
                        from_us: before_us,
                        to_us: transit_us,
                        cost_us: transit_us.saturating_sub(before_us),
                    });
                }
            }
            Arrival::Overtaken(length_us) => self.charge(Accident {
                at: now,
                from_us: transit_us,
                to_us: transit_us,
                cost_us: LOST_WEIGHT * length_us.clamp(0, MAX_STEP_US),
            }),
        }
        self.until_us = Some(self.cost.until_us(self.config.late_share));
    }

    /// After a long silence: what is known about delays stays, relative to a fastest packet that may be
    /// another one now.
    fn forget_transits(&mut self, transit_us: i64) {
        self.move_along(transit_us.saturating_sub(self.base_us()));
        self.transit = WindowedMin::default();
        self.late_us = i64::MIN;
        self.accident = None;
    }

    /// Takes what is known relative to the fastest packet to stay so, though that one moves.
    fn move_along(&mut self, moved_us: i64) {
        self.cost.origin_us = self.cost.origin_us.saturating_add(moved_us);
        self.until_us = self.until_us.map(|until| until.saturating_add(moved_us));
    }

    /// Counts what a packet cost, unless it may have been an accident.
    fn charge(&mut self, accident: Accident) {
        let known_us = self.until_us.unwrap_or(accident.to_us);
        let bound_us = known_us.max(self.base_us() + micros(self.config.min));
        let counted = if accident.to_us <= bound_us.saturating_add(OUTLIER_US) {
            accident
        } else {
            let recent =
                |other: &Accident| accident.at.saturating_since(other.at) <= OUTLIER_MEMORY;
            match self.accident.filter(recent) {
                Some(other) if other.to_us > accident.to_us => accident,
                Some(other) => {
                    self.accident = Some(accident);
                    other
                }
                None => {
                    self.accident = Some(accident);
                    return;
                }
            }
        };
        if counted.from_us < counted.to_us {
            self.cost.add_interval(counted.from_us, counted.to_us);
            self.cost.add_lump(counted.to_us, HALF_PIECE_US);
        } else if counted.from_us == counted.to_us {
            self.cost.add_lump(counted.to_us, counted.cost_us);
        }
    }

    fn base_us(&self) -> i64 {
        self.transit.get().unwrap_or(0)
    }

    /// Whether media of time `media_us` that arrives at `now` cannot belong to the stream: no network
    /// holds a packet up, or speeds it up, by 5 s.
    pub fn is_break(&self, now: Timestamp, media_us: i64) -> bool {
        let transit = signed(now).saturating_sub(media_us);
        let base = self.transit.get();
        base.is_some_and(|base| transit.abs_diff(base) > BREAK_US)
    }

    /// How long after the fastest packet's time media should be played, within the bounds.
    pub fn target(&self) -> Duration {
        let wanted = self.until_us.map_or(self.config.start, |until_us| {
            let wanted_us = until_us.saturating_sub(self.base_us());
            Duration::from_micros(u64::try_from(wanted_us).unwrap_or(0))
        });
        let doubt = (1.0 - self.cost.time_us / TRIAL_US).max(0.0);
        let wanted = wanted.max(self.config.start.mul_f32(doubt));
        wanted.clamp(self.config.min, self.config.max.max(self.config.min))
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
