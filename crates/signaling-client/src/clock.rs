//! The one place in this crate that reads the clock.

use std::time::Duration;

use tokio::time::Instant;

/// The moment `after` from now, for timers.
#[allow(clippy::disallowed_methods)] // this is the shell's clock
pub(crate) fn deadline(after: Duration) -> Instant {
    Instant::now() + after
}
