//! How well clocks are told apart through a jittery network, in virtual time.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures
#![allow(clippy::unwrap_used)]

mod sim;

use std::time::Duration;

use proptest::prelude::*;
use roundtable_core::{MediaClock, NtpTime, Timestamp};
use roundtable_sync::{ClockDriftEstimator, DriftAction, RateCorrection};
use sim::{Dice, clock_at, drift_after, drift_score};

#[test]
fn drift_is_known_within_10_ppm_after_a_minute_and_the_interval_is_honest() {
    let score = drift_score(0..200, 60);
    assert!(score.p95_ppm <= 10.0, "{score:?}");
    assert!(score.covered >= 0.93, "{score:?}");
    assert!(
        score.covered <= 0.99,
        "an interval that is always right says little: {score:?}"
    );
}

#[test]
fn drift_is_known_within_2_ppm_after_ten_minutes() {
    let score = drift_score(0..20, 600);
    assert!(score.worst_ppm <= 2.0, "{score:?}");
}

#[test]
fn synthetic_drift_of_a_tenth_of_a_percent_is_found_whichever_its_sign() {
    for ppm in [-1_500.0, -500.0, 0.0, 500.0, 1_500.0] {
        let estimate = drift_after(7, ppm, 60);
        assert!(
            (estimate.drift.ppm - ppm).abs() <= 10.0,
            "{ppm}: {estimate:?}"
        );
        let factor = estimate.correction_factor;
        assert!((factor - 1.0 - ppm / 1e6).abs() <= 10e-6, "{factor}");
    }
}

#[test]
fn the_recommended_action_follows_what_is_certain() {
    let action = |ppm, seconds| drift_after(3, ppm, seconds).recommended_action;
    assert_eq!(action(0.0, 300), DriftAction::None);
    assert_eq!(action(50.0, 300), DriftAction::Monitor);
    assert_eq!(action(110.0, 8), DriftAction::Monitor, "not certain yet");
    assert_eq!(action(300.0, 300), DriftAction::Adjust);
    assert_eq!(action(-5_000.0, 300), DriftAction::Investigate);
}

#[test]
fn the_interval_is_honest_for_noise_of_other_shapes() {
    let shapes: [fn(&mut Dice) -> f64; 3] = [
        |dice| 20.0 * (dice.unit() + dice.unit()),
        |dice| -10.0 * (1.0 - dice.unit()).ln(),
        |dice| 3.0 * dice.unit() * dice.unit(),
    ];
    for (index, noise_ms) in shapes.iter().enumerate() {
        let covered = (0..100).filter(|seed| {
            let mut dice = Dice(1_000 + seed);
            let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
            for packet in 0..3_000_u32 {
                let media_us = f64::from(packet) * 20e3;
                let arrival = 1e6 + media_us / (1.0 + 70e-6) + 1e3 * noise_ms(&mut dice);
                estimator.add_observation(packet * 960, Timestamp::from_micros(arrival as u64));
            }
            let drift = estimator.estimate_drift().unwrap().drift;
            (drift.low..=drift.high).contains(&70.0)
        });
        let covered = covered.count();
        assert!(covered >= 91, "shape {index}: {covered} of 100");
    }
}

/// Two minutes of voice with the path's delay given by the time in seconds.
fn through(seed: u64, ppm: f64, path_ms: impl Fn(f64) -> f64) -> ClockDriftEstimator {
    let mut dice = Dice(seed);
    let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
    for packet in 0..6_000_u32 {
        let media_s = f64::from(packet) * 0.02;
        let held_up_s = (path_ms(media_s) + 20.0 * dice.unit()) / 1e3;
        let arrival = 1e6 * (1.0 + media_s / (1.0 + ppm * 1e-6) + held_up_s);
        estimator.add_observation(packet * 960, Timestamp::from_micros(arrival as u64));
    }
    estimator
}

#[test]
fn a_path_that_gets_longer_or_shorter_is_no_drift() {
    for by_ms in [-150.0, 200.0] {
        for seed in 0..5 {
            let step = |at: f64| 300.0 + if at > 60.0 { by_ms } else { 0.0 };
            let drift = through(seed, 80.0, step).estimate_drift().unwrap().drift;
            assert!((drift.ppm - 80.0).abs() < 10.0, "{by_ms} ms: {drift:?}");
        }
    }
}

#[test]
fn congestion_of_seconds_is_no_drift() {
    for seed in 0..5 {
        let congested = |at: f64| if at % 20.0 < 2.0 { 120.0 } else { 30.0 };
        let drift = through(seed, -40.0, congested)
            .estimate_drift()
            .unwrap()
            .drift;
        assert!((drift.ppm + 40.0).abs() < 10.0, "{drift:?}");
    }
}

#[test]
fn wild_timestamps_do_not_sway_the_estimate_and_a_sender_that_starts_anew_keeps_its_clock() {
    let mut estimator = through(1, 200.0, |_| 40.0);
    let before = estimator.estimate_drift().unwrap();
    let at = |packet: u32| Timestamp::from_micros(121_040_000 + u64::from(packet) * 19_996);
    estimator.add_observation(1 << 30, at(0));
    estimator.add_observation(3 << 30, at(0));
    assert_eq!(estimator.estimate_drift(), Some(before));
    for packet in 0..1_000 {
        estimator.add_observation(0x8000_0000 + packet * 960, at(packet));
    }
    let after = estimator.estimate_drift().unwrap().drift;
    assert!((after.ppm - 200.0).abs() < 10.0, "{after:?}");
}

#[test]
fn pauses_of_an_hour_and_timestamps_that_wrap_do_no_harm() {
    let mut dice = Dice(5);
    let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
    let ppm = 120.0;
    for spurt in 0..30_u32 {
        for packet in 0..100_u32 {
            // An hour is 172,800,000 ticks: the timestamp wraps after 24 of them.
            let media_s = f64::from(spurt) * 3_600.0 + f64::from(packet) * 0.02;
            let arrival = 1e6 * (1.0 + media_s / (1.0 + ppm * 1e-6) + 0.04 * dice.unit());
            let timestamp = (spurt.wrapping_mul(172_800_000)).wrapping_add(packet * 960);
            estimator.add_observation(timestamp, Timestamp::from_micros(arrival as u64));
        }
    }
    let drift = estimator.estimate_drift().unwrap().drift;
    assert!((drift.ppm - ppm).abs() < 0.1, "{drift:?}");
}

#[test]
fn reports_tell_the_senders_media_clock_from_its_wall_clock() {
    let mut dice = Dice(9);
    let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
    for packet in 0..3_000_u32 {
        let capture_us = f64::from(packet) * 20_000.0;
        let timestamp = (f64::from(packet) * 960.0 * (1.0 + 250e-6)) as u32;
        if packet % 250 == 0 {
            let stamped = capture_us + 100.0 * dice.unit();
            assert!(estimator.add_report(clock_at(stamped, timestamp)));
        }
        let arrival = Timestamp::from_micros(capture_us as u64 + 30_000 + dice.roll() % 30_000);
        estimator.add_observation(timestamp, arrival);
    }
    let sender = estimator.estimate_drift().unwrap().sender.unwrap();
    assert!((sender.ppm - 250.0).abs() < 4.0, "{sender:?}");
    assert!((sender.low..=sender.high).contains(&250.0), "{sender:?}");
}

#[test]
fn correction_is_gradual_and_bounded() {
    let estimate = drift_after(1, 30_000.0, 60);
    assert_eq!(estimate.correction_factor, 1.01);
    let mut correction = RateCorrection::new();
    let mut last = correction.update(Timestamp::ZERO, Some(&estimate));
    for second in 1..400 {
        let ratio = correction.update(Timestamp::from_millis(second * 1_000), Some(&estimate));
        assert!((ratio - last).abs() <= 50.1e-6 && ratio <= 1.01);
        last = ratio;
    }
    assert!((last - 1.01).abs() < 1e-9);
    let calm = drift_after(1, 0.0, 300);
    let hour = Timestamp::from_millis(3_600_000);
    assert_eq!(correction.update(hour, Some(&calm)), 1.0);
    assert_eq!(correction.update(hour + Duration::from_secs(1), None), 1.0);
}

proptest! {
    #[test]
    fn whatever_comes_the_estimate_is_a_number_and_the_correction_bounded(
        packets in prop::collection::vec((any::<u32>(), 0..1_000_000_000_u64), 0..200),
        steps in prop::collection::vec((0..100_000_u32, 0..100_000_u64), 400..3_000),
        reports in prop::collection::vec((any::<u64>(), any::<u32>()), 0..100),
    ) {
        let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
        let (mut timestamp, mut now) = (0_u32, 0_u64);
        for (ticks, us) in steps {
            (timestamp, now) = (timestamp.wrapping_add(ticks), now + us);
            estimator.add_observation(timestamp, Timestamp::from_micros(now));
        }
        for (timestamp, us) in packets {
            estimator.add_observation(timestamp, Timestamp::from_micros(us));
        }
        for (ntp, timestamp) in reports {
            estimator.add_report(MediaClock { ntp: NtpTime(ntp), timestamp });
        }
        if let Some(estimate) = estimator.estimate_drift() {
            prop_assert!(estimate.drift.ppm.is_finite());
            prop_assert!(estimate.drift.low <= estimate.drift.ppm);
            prop_assert!(estimate.drift.ppm <= estimate.drift.high);
            prop_assert!((0.99..=1.01).contains(&estimate.correction_factor));
        }
    }
}
