//! What the measuring programs under `src/bin` share; the criterion benches are under `benches/`.
#![forbid(unsafe_code)]

pub mod room;
pub mod server;

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Prints a raw figure as the JSON line that `cargo xtask bench` reads.
pub fn print_figure(id: &str, value: f64, unit: &str) {
    println!(r#"{{"id":"{id}","value":{value},"unit":"{unit}"}}"#);
}

/// How many seconds `work` takes: the fastest of `rounds` (at least one), each with a fresh `setup` that is not
/// counted. Whatever else the machine does only ever adds time.
#[allow(clippy::disallowed_methods)] // to read the clock is what a bench does
pub fn seconds<T, R>(
    rounds: usize,
    mut setup: impl FnMut() -> T,
    mut work: impl FnMut(&mut T) -> R,
) -> f64 {
    let mut round = || {
        let mut state = setup();
        let start = Instant::now();
        std::hint::black_box(work(&mut state));
        start.elapsed().as_secs_f64()
    };
    (1..rounds).fold(round(), |fastest, _| round().min(fastest))
}

/// The same in seconds of this thread's CPU time, where others run on the same cores.
pub fn cpu_seconds<T, R>(
    rounds: usize,
    mut setup: impl FnMut() -> T,
    mut work: impl FnMut(&mut T) -> R,
) -> f64 {
    let cpu_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    let mut round = || {
        let mut state = setup();
        let start = cpu_time();
        std::hint::black_box(work(&mut state));
        cpu_time() - start
    };
    (1..rounds).fold(round(), |fastest, _| round().min(fastest))
}

/// How often a second `work`, which does `count` things at once, does one of them.
#[allow(clippy::cast_precision_loss)] // no figure has that many digits
pub fn per_second<T, R>(
    count: usize,
    rounds: usize,
    setup: impl FnMut() -> T,
    work: impl FnMut(&mut T) -> R,
) -> f64 {
    count as f64 / seconds(rounds, setup, work)
}
