//! How well drift is measured: 200 seeds after one minute and after ten, under ±20 ms of jitter.
//!
//! `cargo run --release -p roundtable-sync --example drift_score`

#[path = "../tests/sim/mod.rs"]
mod sim;

fn main() {
    for seconds in [60, 600] {
        let score = sim::drift_score(0..200, seconds);
        println!(
            "{seconds} s: 95 % of errors within {:.2} ppm, worst {:.2} ppm, intervals hold the truth {:.1} % of the time",
            score.p95_ppm,
            score.worst_ppm,
            score.covered * 100.0
        );
    }
}
