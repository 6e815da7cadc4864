//! The line that turns capture into playout, and how it may move.

use std::time::Duration;

use roundtable_core::Timestamp;

use crate::SyncConfig;

/// The line moves by a millisecond in so many: 2 % faster or slower speech is not noticed.
const SLEW: i64 = 50;
/// Time between two steps, so that several can be told from a jump.
const STEP_PAUSE: Duration = Duration::from_millis(250);
/// Steps go on until no more than this is left, in microseconds.
const ARRIVED_US: i64 = 5_000;

/// Playout on our clock minus capture on the sender's, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct PlayoutLine {
    offset_us: i64,
    slewed: Timestamp,
    stepped: Option<Timestamp>,
    /// Beyond the dead band, and not there yet.
    stepping: bool,
}

impl PlayoutLine {
    pub(crate) fn new(now: Timestamp, offset_us: i64) -> Self {
        Self {
            offset_us,
            slewed: now,
            stepped: None,
            stepping: false,
        }
    }

    pub(crate) fn offset_us(&self) -> i64 {
        self.offset_us
    }

    /// Moves towards `wanted_us`: within the dead band gently, beyond it by bounded steps until it is
    /// there. Returns whether it stepped.
    pub(crate) fn follow(&mut self, now: Timestamp, wanted_us: i64, config: &SyncConfig) -> bool {
        let away = wanted_us.saturating_sub(self.offset_us);
        let passed = micros(now.saturating_since(self.slewed));
        let bound = if self.stepping {
            ARRIVED_US.min(micros(config.dead_band))
        } else {
            micros(config.dead_band)
        };
        self.stepping = away.abs() > bound;
        if !self.stepping {
            let reach = passed / SLEW;
            self.slewed = self.slewed + Duration::from_micros((reach * SLEW).unsigned_abs());
            self.offset_us += away.clamp(-reach, reach);
            return false;
        }
        self.slewed = now;
        let resting = |at: Timestamp| now.saturating_since(at) < STEP_PAUSE;
        if self.stepped.is_some_and(resting) {
            return false;
        }
        let most = micros(config.max_step);
        self.offset_us += away.clamp(-most, most);
        self.stepped = Some(now);
        true
    }

    /// Nothing was there to play: the line is where media is.
    pub(crate) fn stalled(&mut self, by_us: i64) {
        self.offset_us = self.offset_us.saturating_add(by_us);
    }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn signed(time: Timestamp) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The time so many microseconds after the process started, or its start.
pub(crate) fn timestamp(us: i64) -> Timestamp {
    Timestamp::from_micros(u64::try_from(us).unwrap_or(0))
}
