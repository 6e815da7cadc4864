//! Counts the bytes that are allocated and not yet freed.

use std::{alloc::System, time::Duration};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{task::JoinHandle, time::interval};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often [`Peak`] looks.
const TICK: Duration = Duration::from_millis(1);

/// Bytes that are allocated now.
pub(crate) fn live() -> f64 {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated) as f64
}

/// Looks at [`live`] every millisecond, and keeps the highest.
pub(crate) struct Peak {
    task: JoinHandle<()>,
    highest: tokio::sync::watch::Receiver<f64>,
}

impl Peak {
    pub(crate) fn watch() -> Self {
        let (report, highest) = tokio::sync::watch::channel(live());
        let task = tokio::spawn(async move {
            let mut ticks = interval(TICK);
            loop {
                ticks.tick().await;
                let now = live();
                report.send_if_modified(|highest| {
                    let is_higher = now > *highest;
                    *highest = highest.max(now);
                    is_higher
                });
            }
        });
        Self { task, highest }
    }

    /// The highest so far; ends it.
    pub(crate) fn finish(self) -> f64 {
        self.task.abort();
        *self.highest.borrow()
    }
}
