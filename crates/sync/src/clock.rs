//! RTP time to the sender's wall clock and back (RFC 3550 §6.4.1).

use roundtable_core::{MediaClock, NtpTime, Unwrapper};

/// Reports whose line bends by more than this against the nominal rate are not believed: 1 %.
const MAX_SLOPE_ERROR: f64 = 0.01;
/// After so many unbelievable reports in a row the sender's clock really was set.
const PATIENCE: u8 = 3;

/// Maps a sender's RTP timestamps to its wall clock by the newest believable report.
///
/// Reports that go backwards, or that contradict the media clock's rate by more than 1 %, are
/// ignored until three in a row do, which is a clock that was set.
#[derive(Debug, Clone)]
pub struct SenderClock {
    rate_hz: f64,
    timestamps: Unwrapper,
    anchor: Option<Anchor>,
    doubted: u8,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    ntp: NtpTime,
    timestamp: i64,
}

impl SenderClock {
    /// A mapping without reports, for a codec with this many ticks a second.
    pub fn new(clock_rate_hz: u32) -> Self {
        Self {
            rate_hz: f64::from(clock_rate_hz.max(1)),
            timestamps: Unwrapper::new(),
            anchor: None,
            doubted: 0,
        }
    }

    /// Learns from a report. Returns whether it was believed.
    pub fn update(&mut self, clock: MediaClock) -> bool {
        let mut timestamps = self.timestamps.clone();
        let next = Anchor {
            ntp: clock.ntp,
            timestamp: timestamps.unwrap_u32(clock.timestamp),
        };
        if let Some(last) = self.anchor {
            let ticks = (next.timestamp - last.timestamp) as f64 / self.rate_hz;
            let wall = ntp_difference_s(next.ntp, last.ntp);
            let off = (wall - ticks).abs();
            if ticks < 0.0 || wall < 0.0 || off > 0.002 + ticks * MAX_SLOPE_ERROR {
                self.doubted += 1;
                if self.doubted < PATIENCE {
                    return false;
                }
            }
        }
        self.doubted = 0;
        self.timestamps = timestamps;
        self.anchor = Some(next);
        true
    }

    /// When the sample of `timestamp` was captured, on the sender's wall clock; `None` before the
    /// first report. Right for timestamps within 12 hours of the last report.
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
}

/// `a - b` in seconds, by the shorter way round the era of 2036.
fn ntp_difference_s(a: NtpTime, b: NtpTime) -> f64 {
    let difference = a.0.wrapping_sub(b.0).cast_signed();
    difference as f64 / (f64::from(1_u32 << 31) * 2.0)
}
