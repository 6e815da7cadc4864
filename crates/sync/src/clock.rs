//! RTP time to the sender's wall clock and back (RFC 3550 §6.4.1).

use std::collections::VecDeque;

use roundtable_core::{MediaClock, NtpTime, Unwrapper};

use crate::{
    drift::PpmEstimate,
    envelope::{Point, least_squares},
};

/// A report may lie off the line of the last one by this much: capture is stamped by a busy machine.
const TOLERANCE_S: f64 = 0.01;
/// And by this share of the time between them: no crystal and no clock discipline is as bad as 0.2 %.
const MAX_SLOPE_ERROR: f64 = 0.002;
/// After so many reports that contradict the line, but not each other, the sender's clock was set.
const PATIENCE: u8 = 3;
/// Reports that the rate is measured by: five minutes of them.
const HISTORY: usize = 64;
/// Reports before a rate is given.
const MIN_REPORTS: usize = 4;
/// Reports are no finer than this: one tick at 90 kHz.
const RESOLUTION_S: f64 = 1e-5;

/// Maps a sender's RTP timestamps to its wall clock by the newest believable report.
///
/// Reports that go backwards, or that lie off the line of the last one by more than 10 ms and 0.2 %
/// of the time between, are ignored until three that agree with each other say the same: a
/// clock that was set.
#[derive(Debug, Clone)]
pub struct SenderClock {
    rate_hz: f64,
    timestamps: Unwrapper,
    anchor: Option<Anchor>,
    /// A report that contradicts the anchor, and how many have agreed with it in a row.
    rival: Option<(Anchor, u8)>,
    history: VecDeque<Anchor>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Anchor {
    ntp: NtpTime,
    timestamp: i64,
}

impl Anchor {
    /// Seconds by the media clock and by the wall clock since `earlier`.
    fn since(&self, earlier: &Self, rate_hz: f64) -> (f64, f64) {
        let ticks = (self.timestamp - earlier.timestamp) as f64 / rate_hz;
        (ticks, ntp_difference_s(self.ntp, earlier.ntp))
    }

    fn continues(&self, earlier: &Self, rate_hz: f64) -> bool {
        let (media, wall) = self.since(earlier, rate_hz);
        let off = (wall - media).abs();
        media >= 0.0 && wall >= 0.0 && off <= TOLERANCE_S + media * MAX_SLOPE_ERROR
    }
}

impl SenderClock {
    /// A mapping without reports, for a codec with this many ticks a second.
    pub fn new(clock_rate_hz: u32) -> Self {
        Self {
            rate_hz: f64::from(clock_rate_hz.max(1)),
            timestamps: Unwrapper::new(),
            anchor: None,
            rival: None,
            history: VecDeque::with_capacity(HISTORY),
        }
    }

    /// Learns from a report. Returns whether it was believed.
    pub fn update(&mut self, clock: MediaClock) -> bool {
        let mut timestamps = self.timestamps.clone();
        let next = Anchor {
            ntp: clock.ntp,
            timestamp: timestamps.unwrap_u32(clock.timestamp),
        };
        let continues = |earlier: &Anchor| next.continues(earlier, self.rate_hz);
        if self.anchor.as_ref().is_some_and(|last| !continues(last)) {
            let agreed = match &self.rival {
                Some((rival, count)) if continues(rival) => count + 1,
                _ => 1,
            };
            self.rival = Some((next, agreed));
            if agreed < PATIENCE {
                return false;
            }
            self.history.clear();
        }
        self.adopt(next, timestamps);
        true
    }

    fn adopt(&mut self, anchor: Anchor, timestamps: Unwrapper) {
        self.timestamps = timestamps;
        self.anchor = Some(anchor);
        self.rival = None;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(anchor);
    }

    /// The stream has begun anew, with other numbers: forgets all reports but the last, if that one
    /// contradicted the stream before.
    pub fn restart(&mut self) {
        let rival = self.rival.take();
        self.anchor = None;
        self.history.clear();
        self.timestamps = Unwrapper::new();
        if let Some((anchor, _)) = rival {
            let ticks = anchor.timestamp.rem_euclid(1 << 32);
            let mut timestamps = Unwrapper::new();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below 2^32
            let timestamp = timestamps.unwrap_u32(ticks as u32);
            self.adopt(
                Anchor {
                    timestamp,
                    ..anchor
                },
                timestamps,
            );
        }
    }

    /// When the sample of `timestamp` was captured, on the sender's wall clock; `None` before the
    /// first report. Right for timestamps within half their range of the last report: 12 hours at
    /// 48 kHz, 6 at 90 kHz.
    pub fn ntp_of(&self, timestamp: u32) -> Option<NtpTime> {
        let anchor = self.anchor?;
        let ticks = self.timestamps.clone().unwrap_u32(timestamp) - anchor.timestamp;
        let fraction = ticks as f64 / self.rate_hz * f64::from(1_u32 << 31) * 2.0;
        #[allow(clippy::cast_possible_truncation)] // ±12 hours fit 2^48
        let shift = fraction.round() as i64;
        Some(NtpTime(anchor.ntp.0.wrapping_add_signed(shift)))
    }

    /// The RTP timestamp of what was captured at `ntp`; `None` before the first report.
    pub fn timestamp_of(&self, ntp: NtpTime) -> Option<u32> {
        let anchor = self.anchor?;
        let ticks = ntp_difference_s(ntp, anchor.ntp) * self.rate_hz;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // RTP time wraps
        Some(anchor.timestamp.wrapping_add(ticks.round() as i64) as u32)
    }

    /// How much faster the sender's media clock runs than its own wall clock: the least-squares line
    /// through the last 64 reports. No network is in it. `None` before the fourth report.
    pub fn rate(&self) -> Option<PpmEstimate> {
        let first = self.history.front()?;
        if self.history.len() < MIN_REPORTS {
            return None;
        }
        let origin = Point {
            media_s: 0.0,
            transit_s: 0.0,
        };
        let mut points = [origin; HISTORY];
        for (point, report) in points.iter_mut().zip(&self.history) {
            let (media_s, wall_s) = report.since(first, self.rate_hz);
            let transit_s = wall_s - media_s;
            *point = Point { media_s, transit_s };
        }
        let points = &points[..self.history.len()];
        least_squares(points, RESOLUTION_S).map(PpmEstimate::of_stretch)
    }
}

/// `a - b` in seconds, by the shorter way round the era of 2036.
fn ntp_difference_s(a: NtpTime, b: NtpTime) -> f64 {
    let difference = a.0.wrapping_sub(b.0).cast_signed();
    difference as f64 / (f64::from(1_u32 << 31) * 2.0)
}

/// `a - b` in microseconds, by the shorter way round the era of 2036.
pub(crate) fn ntp_difference_us(a: NtpTime, b: NtpTime) -> i64 {
    let difference = i128::from(a.0.wrapping_sub(b.0).cast_signed());
    i64::try_from((difference * 1_000_000) >> 32).unwrap_or(i64::MAX)
}
