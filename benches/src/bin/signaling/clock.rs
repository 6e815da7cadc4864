//! The one place where this program reads a clock.
#![allow(clippy::disallowed_methods)]

use std::{sync::LazyLock, time::Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since the program first asked.
pub(crate) fn micros() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Seconds since `start`, which [`micros`] gave.
#[allow(clippy::cast_precision_loss)] // no run takes centuries
pub(crate) fn seconds_since(start: u64) -> f64 {
    micros().saturating_sub(start) as f64 / 1e6
}

/// Now, for timers.
pub(crate) fn instant() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
