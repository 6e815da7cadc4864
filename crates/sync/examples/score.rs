//! How well clocks are told apart, and sound and pictures kept in step, in virtual time: one JSON object a
//! figure, as `cargo xtask score sync` shows them.
#![allow(clippy::unwrap_used)]

#[path = "../tests/sim/mod.rs"]
mod sim;

use roundtable_sync::MediaKind::{Audio, Video};
use sim::{jittery, percentile, step_of};

fn show(id: &str, value: f64, unit: &str, target: &str, met: bool) {
    println!(
        r#"{{"id":"{id}","value":{value:.2},"unit":"{unit}","target":"{target}","met":{met}}}"#
    );
}

fn main() {
    drift();
    lip_sync();
}

/// 200 clocks that are up to 500 ppm off, under ±20 ms of jitter.
fn drift() {
    for (seconds, most) in [(60, 10.0), (600, 2.0)] {
        let score = sim::drift_score(0..200, seconds);
        let at = |what: &str| format!("drift_{what}_{seconds}_s");
        let limit = format!("<= {most}");
        show(
            &at("error_p95"),
            score.p95_ppm,
            "ppm",
            &limit,
            score.p95_ppm <= most,
        );
        show(
            &at("error_worst"),
            score.worst_ppm,
            "ppm",
            &limit,
            score.worst_ppm <= most,
        );
        let covered = 100.0 * score.covered;
        show(
            &at("interval_holds"),
            covered,
            "%",
            ">= 93",
            covered >= 93.0,
        );
    }
}

/// A minute of sound and pictures over jittery paths of which none, one or both get 200 ms longer for 20 s.
fn lip_sync() {
    let (mut steady, mut stepped, mut locked) = (Vec::new(), Vec::new(), 0.0_f64);
    for seed in 0..10 {
        let outcome = jittery(seed, |_, _| 0.0);
        locked = locked.max(outcome.locked_s.unwrap());
        steady.extend(outcome.skews_after(2.0));
        for streams in [&[Video][..], &[Audio], &[Audio, Video]] {
            stepped.extend(jittery(seed, step_of(streams)).skews_after(2.0));
        }
    }
    steady.sort_by(f64::total_cmp);
    stepped.sort_by(f64::total_cmp);
    let (p95, p99) = (percentile(&steady, 0.95), percentile(&steady, 0.99));
    let worst = percentile(&stepped, 1.0);
    show("skew_p95", p95, "ms", "<= 10", p95 <= 10.0);
    show("skew_p99", p99, "ms", "<= 20", p99 <= 20.0);
    show("skew_worst_in_a_step", worst, "ms", "<= 45", worst <= 45.0);
    show("locked_after", locked, "s", "<= 2", locked <= 2.0);
}
