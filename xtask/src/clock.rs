//! The one place in this crate that reads the clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
#[allow(clippy::disallowed_methods)] // this is the tool's clock
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // this is the tool's clock
pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
