//! The one place in this crate that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // this is the shell's clock
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Monotonic time, for deadlines.
#[allow(clippy::disallowed_methods)] // this is the shell's clock
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
