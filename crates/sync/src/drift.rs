//! How fast a sender's media clock runs by ours, and what to do about it.

use roundtable_core::{MediaClock, NtpTime, Timestamp, Unwrapper};

use crate::{
    SenderClock,
    envelope::{Added, Envelope, Point, Slope},
};

/// Drift below this shifts 36 ms an hour: nothing to do.
const NEGLIGIBLE_PPM: f64 = 10.0;
/// No crystal is this bad: something else is wrong.
const IMPLAUSIBLE_PPM: f64 = 1_000.0;
/// No network holds a packet up, or speeds it up, by this much.
const BREAK_S: f64 = 5.0;
/// So many packets in a row beyond that are a sender that started anew.
const PATIENCE: u8 = 3;
/// What an estimate that is no longer fed loses in certainty: crystals change with the temperature.
const AGEING_PPM_PER_S: f64 = 1.0 / 60.0;
/// Playing faster or slower by more than this is heard.
const MAX_CORRECTION: f64 = 0.01;
/// How fast the correction changes, in parts per million a second: five seconds for a bad crystal.
const SLEW_PPM_PER_S: f64 = 50.0;

/// A difference of rates with its 95 % interval, in parts per million.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PpmEstimate {
    /// The most probable value. Positive: the measured clock is the faster one.
    pub ppm: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl PpmEstimate {
    /// From what a second of the measured clock is longer than a second: a clock that stretches its
    /// seconds is slow.
    pub(crate) fn of_stretch(stretch: Slope) -> Self {
        let ppm = |stretch: f64| -stretch / (1.0 + stretch.max(-0.5)) * 1e6;
        Self {
            ppm: ppm(stretch.value),
            low: ppm(stretch.high),
            high: ppm(stretch.low),
        }
    }

    /// Half the width of the interval.
    pub fn uncertainty(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// The value of the interval that is nearest to nothing, as a magnitude.
    fn least(&self) -> f64 {
        self.low.max(-self.high).max(0.0)
    }

    /// The value of the interval that is farthest from nothing, as a magnitude.
    fn most(&self) -> f64 {
        self.high.max(-self.low)
    }
}

/// What an estimate calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriftAction {
    /// The clocks agree within 10 ppm.
    None,
    /// There may be drift, but too little or too uncertain to act on.
    Monitor,
    /// The drift is certainly above the threshold: play faster or slower by it.
    Adjust,
    /// The drift is certainly above 1,000 ppm: the sample rate is not what the sender says.
    Investigate,
}

/// What is known about a sender's media clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockDriftEstimate {
    /// How much faster the sender's media clock runs than our clock.
    pub drift: PpmEstimate,
    /// How much faster the sender's media clock runs than its own wall clock, by its reports. Near
    /// `drift`, it is the sender's sound card that is off; near zero, it is a whole machine.
    pub sender: Option<PpmEstimate>,
    /// Packets that were looked at.
    pub sample_count: u64,
    /// How many times as fast as nominal to play, so that what waits neither grows nor shrinks:
    /// within [0.99, 1.01].
    pub correction_factor: f64,
    /// What to do.
    pub recommended_action: DriftAction,
}

/// Measures a sender's media clock by the arrival of its packets, and by its reports.
///
/// Follows a path that gets longer or shorter, pauses, and both directions of wrapping timestamps. Keeps 256 points,
/// whatever comes.
#[derive(Debug, Clone)]
pub struct ClockDriftEstimator {
    rate_hz: f64,
    threshold_ppm: f64,
    timestamps: Unwrapper,
    first: Option<(Timestamp, i64)>,
    /// Transit of the last packet that was believed.
    transit_s: f64,
    wild: u8,
    packets: u64,
    envelope: Envelope,
    now_s: f64,
    /// The best estimate from before the path changed, and when it was.
    held: Option<(PpmEstimate, f64)>,
    reports: SenderClock,
}

impl ClockDriftEstimator {
    /// Nothing known, for a codec with this many ticks a second; drift above `threshold_ppm` calls
    /// for adjustment.
    pub fn new(clock_rate_hz: u32, threshold_ppm: f64) -> Self {
        Self {
            rate_hz: f64::from(clock_rate_hz.max(1)),
            threshold_ppm,
            timestamps: Unwrapper::new(),
            first: None,
            transit_s: 0.0,
            wild: 0,
            packets: 0,
            envelope: Envelope::new(),
            now_s: 0.0,
            held: None,
            reports: SenderClock::new(clock_rate_hz),
        }
    }

    /// Learns from a packet with this RTP timestamp that arrived at `received_at`. A packet that no
    /// network can have brought then is ignored, until three in a row have it that the sender
    /// started anew.
    pub fn add_observation(&mut self, timestamp: u32, received_at: Timestamp) {
        let mut timestamps = self.timestamps.clone();
        let ticks = timestamps.unwrap_u32(timestamp);
        let (begin, zero) = *self.first.get_or_insert((received_at, ticks));
        let media_s = (ticks - zero) as f64 / self.rate_hz;
        let arrival_s = seconds_between(received_at, begin);
        let transit_s = arrival_s - media_s;
        if (transit_s - self.transit_s).abs() > BREAK_S {
            self.wild += 1;
            if self.wild >= PATIENCE {
                self.start_over();
            }
            return;
        }
        self.wild = 0;
        self.timestamps = timestamps;
        self.transit_s = transit_s;
        self.packets += 1;
        self.now_s = arrival_s;
        let before = self.drift();
        if self.envelope.add(Point { media_s, transit_s }) == Added::Restarted {
            self.held = before.map(|drift| (drift, arrival_s));
        }
    }

    /// Learns from a sender report. Returns whether it was believed.
    pub fn add_report(&mut self, clock: MediaClock) -> bool {
        self.reports.update(clock)
    }

    /// What is known; `None` before 320 packets. A packet updates it at a cost that does not grow.
    pub fn estimate_drift(&self) -> Option<ClockDriftEstimate> {
        let drift = self.drift()?;
        let factor = 1.0 + drift.ppm / 1e6;
        Some(ClockDriftEstimate {
            drift,
            sender: self.reports.rate(),
            sample_count: self.packets,
            correction_factor: factor.clamp(1.0 - MAX_CORRECTION, 1.0 + MAX_CORRECTION),
            recommended_action: self.action(&drift),
        })
    }

    /// The narrower of what the path shows now and what it showed before it changed.
    fn drift(&self) -> Option<PpmEstimate> {
        let fit = self.envelope.fit();
        let fresh = fit.map(|fit| PpmEstimate::of_stretch(fit.slope));
        let held = self.held.map(|(drift, since)| {
            let doubt = (self.now_s - since).max(0.0) * AGEING_PPM_PER_S;
            PpmEstimate {
                low: drift.low - doubt,
                high: drift.high + doubt,
                ..drift
            }
        });
        let narrower =
            |a: &PpmEstimate, b: &PpmEstimate| a.uncertainty().total_cmp(&b.uncertainty());
        fresh.into_iter().chain(held).min_by(narrower)
    }

    fn action(&self, drift: &PpmEstimate) -> DriftAction {
        if drift.least() > IMPLAUSIBLE_PPM {
            DriftAction::Investigate
        } else if drift.least() > self.threshold_ppm {
            DriftAction::Adjust
        } else if drift.most() < NEGLIGIBLE_PPM {
            DriftAction::None
        } else {
            DriftAction::Monitor
        }
    }

    /// When what carries `timestamp` was captured, by the sender's wall clock; `None` before its
    /// first report.
    pub fn ntp_of(&self, timestamp: u32) -> Option<NtpTime> {
        self.reports.ntp_of(timestamp)
    }

    /// The stream has begun anew, perhaps with another clock: forgets all but a report that came
    /// ahead of the new stream.
    pub fn restart(&mut self) {
        self.start_over();
        self.held = None;
        self.packets = 0;
        self.reports.restart();
    }

    /// Other numbers, and still the same clock for all we know.
    fn start_over(&mut self) {
        self.held = self.drift().map(|drift| (drift, 0.0));
        self.timestamps = Unwrapper::new();
        self.first = None;
        self.transit_s = 0.0;
        self.wild = 0;
        self.now_s = 0.0;
        self.envelope.clear();
    }
}

fn seconds_between(later: Timestamp, earlier: Timestamp) -> f64 {
    let ahead = later.saturating_since(earlier).as_secs_f64();
    ahead - earlier.saturating_since(later).as_secs_f64()
}

/// The rate to play at: goes to what an estimate asks for, by 50 ppm a second, so that nobody hears
/// it change.
#[derive(Debug, Clone, Default)]
pub struct RateCorrection {
    ppm: f64,
    aim_ppm: f64,
    at: Option<Timestamp>,
}

impl RateCorrection {
    /// The nominal rate.
    pub const fn new() -> Self {
        Self {
            ppm: 0.0,
            aim_ppm: 0.0,
            at: None,
        }
    }

    /// How many times as fast as nominal to play at `now`, within [0.99, 1.01]. An estimate that
    /// asks to adjust moves the aim, one that says there is nothing to do takes it back, and any
    /// other leaves it.
    pub fn update(&mut self, now: Timestamp, estimate: Option<&ClockDriftEstimate>) -> f64 {
        if let Some(estimate) = estimate {
            match estimate.recommended_action {
                DriftAction::None => self.aim_ppm = 0.0,
                DriftAction::Monitor => {}
                DriftAction::Adjust | DriftAction::Investigate => {
                    self.aim_ppm = (estimate.correction_factor - 1.0) * 1e6;
                }
            }
        }
        let passed = self.at.map_or(0.0, |at| seconds_between(now, at).max(0.0));
        self.at = Some(now);
        let reach = passed * SLEW_PPM_PER_S;
        self.ppm += (self.aim_ppm - self.ppm).clamp(-reach, reach);
        1.0 + self.ppm / 1e6
    }
}
