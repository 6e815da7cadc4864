//! One stream of a peer: its buffer, its clock, and when it would be played by itself.

use std::{collections::VecDeque, time::Duration};

use roundtable_core::{MediaClock, NtpTime, Timestamp};

use crate::{
    ClockDriftEstimator, JitterBuffer, JitterConfig, JitterConfigError, Packet, Pushed, RtpMeta,
    clock::ntp_difference_us,
    line::{micros, signed},
};

/// Frames that must all come late before that counts as the path's delay.
const RECENT: usize = 3;
/// For how long the worst delay is remembered.
const WORST_MEMORY: Duration = Duration::from_secs(5);
/// Delays remembered at most. When full, the newest stands for the one before it.
const MAX_WORST: usize = 256;

/// The greatest transit of the last 5 s: each entry is less than the one before it.
#[derive(Debug, Default)]
struct Worst(VecDeque<(Timestamp, i64)>);

impl Worst {
    fn add(&mut self, now: Timestamp, transit_us: i64) {
        let passed = |at: Timestamp| now.saturating_since(at) > WORST_MEMORY;
        while self.0.front().is_some_and(|(at, _)| passed(*at)) {
            self.0.pop_front();
        }
        while self.0.back().is_some_and(|(_, least)| *least <= transit_us) {
            self.0.pop_back();
        }
        if self.0.len() == MAX_WORST {
            self.0.pop_back();
        }
        self.0.push_back((now, transit_us));
    }

    fn get(&self) -> Option<i64> {
        self.0.front().map(|(_, transit_us)| *transit_us)
    }
}

#[derive(Debug)]
pub(crate) struct Stream<T> {
    pub(crate) buffer: JitterBuffer<T>,
    pub(crate) drift: ClockDriftEstimator,
    /// The newest frame: its timestamp, unwrapped, and when it came.
    newest: Option<(i64, Timestamp)>,
    /// Arrival on our clock minus media time of the last frames, in microseconds.
    recent: [Option<i64>; RECENT],
    /// Of single frames, and of what three in a row all needed.
    worst: Worst,
    worst_of_three: Worst,
    rate_hz: u32,
    /// The buffer's least delay.
    least_us: i64,
}

impl<T> Stream<T> {
    pub(crate) fn new(config: JitterConfig, threshold_ppm: f64) -> Result<Self, JitterConfigError> {
        Ok(Self {
            buffer: JitterBuffer::new(config)?,
            drift: ClockDriftEstimator::new(config.clock_rate_hz, threshold_ppm),
            newest: None,
            recent: [None; RECENT],
            worst: Worst::default(),
            worst_of_three: Worst::default(),
            rate_hz: config.clock_rate_hz,
            least_us: micros(config.min_delay),
        })
    }

    pub(crate) fn push(&mut self, now: Timestamp, meta: RtpMeta, payload: T) -> Pushed {
        let pushed = self.buffer.push(now, meta, payload);
        match pushed {
            Pushed::Duplicate | Pushed::Stray => return pushed,
            Pushed::Restarted => {
                self.drift.restart();
                self.recent = [None; RECENT];
                (self.worst, self.worst_of_three) = Default::default();
                self.newest = None;
            }
            _ => {}
        }
        self.drift.add_observation(meta.timestamp, now);
        if let Some(back) = self.buffer.back()
            && self
                .newest
                .is_none_or(|(newest, _)| newest < back.timestamp)
        {
            self.newest = Some((back.timestamp, now));
            self.recent.rotate_left(1);
            let transit_us = signed(now) - media_us(back.timestamp, self.rate_hz);
            self.recent[RECENT - 1] = Some(transit_us);
            self.worst.add(now, transit_us);
            if let Some(all_us) = self.recent_us() {
                self.worst_of_three.add(now, all_us);
            }
        }
        pushed
    }

    /// Whether frames have come.
    pub(crate) fn is_active(&self) -> bool {
        self.newest.is_some()
    }

    pub(crate) fn report(&mut self, clock: MediaClock) -> bool {
        self.drift.add_report(clock)
    }

    /// When what was captured at `timestamp` (unwrapped) should be heard or seen, were there no other
    /// stream, in microseconds on our clock: the buffer's delay after the fastest packet, but no later
    /// than the worst one of the last 5 s or than the least delay asks for, and no earlier than any three
    /// in a row all came in that time. So it follows a path that changes within seconds both ways.
    pub(crate) fn natural_us(&self, now: Timestamp, timestamp: i64) -> Option<i64> {
        let fastest = signed(now) - self.buffer.delay_us(now, timestamp)?;
        let media_us = media_us(timestamp, self.rate_hz);
        let worst = self.worst.get().map_or(i64::MIN, |us| us + media_us);
        let most = worst.max(fastest + self.least_us);
        let target = fastest + micros(self.buffer.target());
        let arrived = self.worst_of_three.get();
        let arrived = arrived.map_or(i64::MIN, |us| us + media_us);
        Some(target.min(most).max(arrived))
    }

    /// The transit that each of the last three frames needed.
    fn recent_us(&self) -> Option<i64> {
        self.recent.iter().copied().min().flatten()
    }

    /// The line that the last three frames could just have been played by.
    pub(crate) fn arrival_line_us(&self, origin: NtpTime) -> Option<i64> {
        let (newest, _) = self.newest?;
        let arrived = self.recent_us()? + media_us(newest, self.rate_hz);
        Some(arrived.saturating_sub(self.capture_us(newest, origin)?))
    }

    /// When what has `timestamp` was captured, by the sender's wall clock.
    pub(crate) fn capture(&self, timestamp: i64) -> Option<NtpTime> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // RTP time wraps
        self.drift.ntp_of(timestamp as u32)
    }

    /// The same in microseconds since `origin`.
    pub(crate) fn capture_us(&self, timestamp: i64, origin: NtpTime) -> Option<i64> {
        let capture = self.capture(timestamp)?;
        Some(ntp_difference_us(capture, origin))
    }

    /// The line that this stream would play by if it were alone.
    pub(crate) fn own_line_us(&self, now: Timestamp, origin: NtpTime) -> Option<i64> {
        let (newest, _) = self.newest?;
        let natural = self.natural_us(now, newest)?;
        Some(natural.saturating_sub(self.capture_us(newest, origin)?))
    }

    /// Where the fastest packet lies: arrival on our clock minus capture on the sender's.
    pub(crate) fn fastest_us(&self, now: Timestamp, origin: NtpTime) -> Option<i64> {
        let (newest, _) = self.newest?;
        let delay = self.buffer.delay_us(now, newest)?;
        Some(signed(now) - delay - self.capture_us(newest, origin)?)
    }

    /// Whether a frame came within the last so many microseconds.
    pub(crate) fn is_live(&self, now: Timestamp, within_us: i64) -> bool {
        let since = |(_, at): (i64, Timestamp)| micros(now.saturating_since(at));
        self.newest.is_some_and(|newest| since(newest) <= within_us)
    }

    /// When the packet was captured, as if it had been the fastest: comparable between peers, whatever
    /// their clocks say.
    pub(crate) fn instant_us(&self, now: Timestamp, packet: &Packet<T>) -> Option<i64> {
        let delay = self.buffer.delay_us(now, packet.timestamp)?;
        Some(signed(now).saturating_sub(delay))
    }
}

fn media_us(timestamp: i64, rate_hz: u32) -> i64 {
    timestamp.saturating_mul(1_000_000) / i64::from(rate_hz.max(1))
}
