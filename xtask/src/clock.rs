//! The one place in this crate that reads the clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
#[allow(clippy::disallowed_methods)] // this is the tool's clock
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock, in milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // this is the tool's clock
pub(crate) fn unix_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}
