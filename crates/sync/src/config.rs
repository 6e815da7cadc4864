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
    /// See [`with_quantile`](Self::with_quantile).
    pub quantile: f32,
    /// See [`with_capacity`](Self::with_capacity).
    pub max_packets: usize,
    /// See [`with_capacity`](Self::with_capacity).
    pub max_span: Duration,
}

impl JitterConfig {
    /// For speech in Opus: 20 to 120 ms of delay, 40 to begin with.
    pub const fn voice() -> Self {
        Self {
            clock_rate_hz: 48_000,
            min_delay: Duration::from_millis(20),
            max_delay: Duration::from_millis(120),
            start_delay: Duration::from_millis(40),
            quantile: 0.97,
            max_packets: 128,
            max_span: Duration::from_secs(1),
        }
    }

    /// Bounds of the target delay beyond the fastest packet. Default 20 to 120 ms; 0 to 1 s. What
    /// arrives later than the maximum is heard late or not at all.
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

    /// The share of packets that should arrive in time. Default 0.97; 0.5 to 0.999. Higher means
    /// more delay.
    #[must_use]
    pub fn with_quantile(mut self, quantile: f32) -> Self {
        self.quantile = quantile;
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
        if !(0.5..=0.999).contains(&self.quantile) {
            return Err(JitterConfigError::Quantile);
        }
        if !(1..=4096).contains(&self.max_packets) || self.max_span < self.max_delay {
            return Err(JitterConfigError::Capacity);
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
    /// Outside 0.5 to 0.999.
    #[error("the quantile lies between 0.5 and 0.999")]
    Quantile,
    /// No room, too much, or a span that the largest delay does not fit.
    #[error("the buffer holds 1 to 4096 packets and at least the largest delay")]
    Capacity,
}
