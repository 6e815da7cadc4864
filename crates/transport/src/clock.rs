//! The one place in this crate that reads the clock.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use roundtable_core::{Clock, Timestamp, WallTime};

#[allow(clippy::disallowed_methods)] // this is the shell's clock
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The machine's clock. All copies share one epoch: the first use in the process. In a tokio runtime
/// whose clock is paused or has been, the time of day apart, it shows that runtime's time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The [`std::time::Instant`] of `time`, for timers.
    pub fn instant(time: Timestamp) -> Instant {
        *START + std::time::Duration::from_micros(time.as_micros())
    }
}

#[allow(clippy::disallowed_methods)] // this is the shell's clock
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let start = *START;
        let now = tokio::time::Instant::now().into_std();
        let micros = now.saturating_duration_since(start).as_micros();
        Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> WallTime {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallTime::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}
