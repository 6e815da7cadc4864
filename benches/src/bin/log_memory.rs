//! How much memory the command log takes, as `cargo xtask bench log` reads it. A program by itself, because
//! counting slows every allocation down.
#![allow(clippy::unwrap_used)] // a bench may fail loudly

use std::alloc::System;

use roundtable_benches::{
    print_figure,
    room::{self, NOW, STROKE},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const COMMANDS: usize = 100_000;

#[allow(clippy::cast_precision_loss)] // no figure has that many digits
fn main() {
    for (id, size) in [("bytes_per_command", 1), ("bytes_per_framed_command", 32)] {
        let backlog = room::backlog(STROKE, COMMANDS, size, 4);
        let region = Region::new(ALLOCATOR);
        let mut log = room::reader();
        for frame in &backlog {
            log.receive(NOW, frame.to_vec().into()).unwrap();
        }
        log.settle(NOW);
        while log.poll_update().is_some() {}
        while log.poll_changed().is_some() {}
        let change = region.change();
        let held = change.bytes_allocated - change.bytes_deallocated;
        print_figure(id, held as f64 / COMMANDS as f64, "B");
        drop(log);
    }
}
