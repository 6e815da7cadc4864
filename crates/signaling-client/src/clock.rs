//! The one place in this crate that reads the clock.

use std::{sync::LazyLock, time::Duration};

use roundtable_core::Timestamp;
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
