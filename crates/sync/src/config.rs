//! How a jitter buffer is set up.

use std::time::Duration;

/// Bounds of a [`JitterBuffer`](crate::JitterBuffer).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct JitterConfig {
    /// Ticks of the RTP clock a second.
    pub clock_rate_hz: u32,
    /// See [`with_delay`](Self::with_delay).
    pub min_delay: Duration,
    /// See [`with_delay`](Self::with_delay).
    pub max_delay: Duration,
    /// See [`with_start_delay`](Self::with_start_delay).
    pub start_delay: Duration,
    /// See [`with_late_share`](Self::with_late_share).
    pub late_share: f32,
    /// See [`with_capacity`](Self::with_capacity).
    pub max_packets: usize,
    /// See [`with_capacity`](Self::with_capacity).
    pub max_span: Duration,
}

impl JitterConfig {
    /// For speech in Opus: 5 to 120 ms of delay, 40 to begin with.
    pub const fn voice() -> Self {
        Self {
            clock_rate_hz: 48_000,
            min_delay: Duration::from_millis(5),
            max_delay: Duration::from_millis(120),
            start_delay: Duration::from_millis(40),
            late_share: 0.0065,
            max_packets: 128,
            max_span: Duration::from_secs(1),
        }
    }

    /// For pictures at 90 kHz: 50 to 200 ms of delay, 80 to begin with.
    pub const fn video() -> Self {
        Self {
            clock_rate_hz: 90_000,
            min_delay: Duration::from_millis(50),
            max_delay: Duration::from_millis(200),
            start_delay: Duration::from_millis(80),
            ..Self::voice()
        }
    }

    /// Bounds of the target delay beyond the fastest packet. Default 5 to 120 ms; 0 to 1 s. What
    /// arrives later than the maximum is heard late or not at all. The frame itself is not counted: with one of 20 ms, 25 ms
    /// of speech wait at the least, and less than 20 beyond it only where the measured jitter allows it.
    #[must_use]
    pub fn with_delay(mut self, min: Duration, max: Duration) -> Self {
        self.min_delay = min;
        self.max_delay = max;
        self
    }

    /// The target before anything was measured. Default 40 ms.
    #[must_use]
    pub fn with_start_delay(mut self, start: Duration) -> Self {
        self.start_delay = start;
        self
    }

    /// The share of what is played that may have to be made up because packets come too late. Default 0.0065;
    /// 0.0001 to 0.2. Less means more delay.
    #[must_use]
    pub fn with_late_share(mut self, share: f32) -> Self {
        self.late_share = share;
        self
    }

    /// How much is held at most, in packets (1 to 4096) and in media time. Default 128 and 1 s. When full, the
    /// oldest packets are dropped.
    #[must_use]
    pub fn with_capacity(mut self, packets: usize, span: Duration) -> Self {
        self.max_packets = packets;
        self.max_span = span;
        self
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`JitterConfigError`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), JitterConfigError> {
        if self.clock_rate_hz == 0 {
            return Err(JitterConfigError::ClockRate);
        }
        if self.min_delay > self.max_delay || self.max_delay > Duration::from_secs(1) {
            return Err(JitterConfigError::Delay);
        }
        if !(0.0001..=0.2).contains(&self.late_share) {
            return Err(JitterConfigError::LateShare);
        }
        if !(1..=4096).contains(&self.max_packets) || self.max_span < self.max_delay {
            return Err(JitterConfigError::Capacity);
        }
        Ok(())
    }
}

/// How a [`SyncManager`](crate::SyncManager) plays a peer's streams together.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SyncConfig {
    /// See [`with_audio`](Self::with_audio).
    pub audio: JitterConfig,
    /// See [`with_video`](Self::with_video).
    pub video: JitterConfig,
    /// See [`with_dead_band`](Self::with_dead_band).
    pub dead_band: Duration,
    /// See [`with_max_step`](Self::with_max_step).
    pub max_step: Duration,
    /// See [`with_max_hold`](Self::with_max_hold).
    pub max_hold: Duration,
    /// See [`with_max_skew`](Self::with_max_skew).
    pub max_skew: Duration,
    /// See [`with_drift_threshold_ppm`](Self::with_drift_threshold_ppm).
    pub drift_threshold_ppm: f64,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            audio: JitterConfig::voice(),
            video: JitterConfig::video(),
            dead_band: Duration::from_millis(30),
            max_step: Duration::from_millis(80),
            max_hold: Duration::from_millis(250),
            max_skew: Duration::from_millis(45),
            drift_threshold_ppm: 100.0,
        }
    }
}

impl SyncConfig {
    /// The sound's buffer. Default [`JitterConfig::voice`].
    #[must_use]
    pub fn with_audio(mut self, audio: JitterConfig) -> Self {
        self.audio = audio;
        self
    }

    /// The picture's buffer. Default [`JitterConfig::video`].
    #[must_use]
    pub fn with_video(mut self, video: JitterConfig) -> Self {
        self.video = video;
        self
    }

    /// Within this of where it should be, playout moves by 20 ms a second, which nobody notices; beyond
    /// it, by steps. Default 30 ms; at most 1 s.
    #[must_use]
    pub fn with_dead_band(mut self, dead_band: Duration) -> Self {
        self.dead_band = dead_band;
        self
    }

    /// The longest step, of which there is one in 250 ms. Default 80 ms; 1 ms to 1 s. Longer ones are
    /// sooner in step, and heard.
    #[must_use]
    pub fn with_max_step(mut self, max_step: Duration) -> Self {
        self.max_step = max_step;
        self
    }

    /// How much longer than it need be sound is held for the picture's sake. Default 250 ms; at most
    /// 1 s. A picture that needs more is shown late.
    #[must_use]
    pub fn with_max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// A picture farther behind the sound than this is not shown. Default 45 ms, where lips begin
    /// to look wrong; at most 1 s.
    #[must_use]
    pub fn with_max_skew(mut self, max_skew: Duration) -> Self {
        self.max_skew = max_skew;
        self
    }

    /// Drift that is certainly above this is corrected. Default 100 ppm; 0 to 1,000. Less is left to
    /// the jitter buffer.
    #[must_use]
    pub fn with_drift_threshold_ppm(mut self, ppm: f64) -> Self {
        self.drift_threshold_ppm = ppm;
        self
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`JitterConfigError`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), JitterConfigError> {
        self.audio.validate()?;
        self.video.validate()?;
        let second = Duration::from_secs(1);
        let longest = self.dead_band.max(self.max_hold).max(self.max_skew);
        if longest.max(self.max_step) > second || self.max_step < Duration::from_millis(1) {
            return Err(JitterConfigError::Alignment);
        }
        if !(0.0..=1_000.0).contains(&self.drift_threshold_ppm) {
            return Err(JitterConfigError::Drift);
        }
        Ok(())
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JitterConfigError {
    /// Zero ticks a second.
    #[error("an RTP clock has at least one tick a second")]
    ClockRate,
    /// Minimum above maximum, or maximum above 1 s.
    #[error("the delay's bounds must be in order, and at most 1 s")]
    Delay,
    /// Outside 0.0001 to 0.2.
    #[error("the share that may come late lies between 0.0001 and 0.2")]
    LateShare,
    /// No room, too much, or a span that the largest delay does not fit.
    #[error("the buffer holds 1 to 4096 packets and at least the largest delay")]
    Capacity,
    /// A bound of the alignment above 1 s, or steps below 1 ms.
    #[error("dead band, hold, skew and step are at most 1 s, and a step at least 1 ms")]
    Alignment,
    /// Outside 0 to 1,000 ppm.
    #[error("the drift's threshold lies between 0 and 1000 ppm")]
    Drift,
}
