//! The one place in this crate that reads the clock.

use std::time::Instant;

/// The monotonic clock.
#[allow(clippy::disallowed_methods)] // this is the tool's clock
pub(crate) fn now() -> Instant {
    Instant::now()
}
