//! The one place in this crate that reads the clock.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use roundtable_core::{Timestamp, WallTime};
use tokio::time::Instant;

#[allow(clippy::disallowed_methods)] // this is the shell's clock
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Monotonic time since the first use in the process.
#[allow(clippy::disallowed_methods)] // this is the shell's clock
pub(crate) fn now() -> Timestamp {
    let start = *START;
    Timestamp::ZERO + Instant::now().saturating_duration_since(start)
}

/// The timers' idea of `time`.
pub(crate) fn instant(time: Timestamp) -> Instant {
    *START + time.saturating_since(Timestamp::ZERO)
}

/// The moment `after` from now, for timers.
pub(crate) fn deadline(after: Duration) -> Instant {
    instant(now() + after)
}

/// Wall-clock time.
#[allow(clippy::disallowed_methods)] // this is the shell's clock
pub(crate) fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    WallTime::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
