//! Worlds of signaling: whatever crosses, breaks and expires, every two peers agree in the end on one offer of each kind.

use roundtable_testkit::{
    SignalingFault, SignalingReport, SignalingViolation, Weather, run_signaling,
};

fn play(weather: Weather) -> SignalingReport {
    let mut all = SignalingReport::default();
    for seed in 0..30 {
        let report = run_signaling(seed, weather, None);
        let report = report.unwrap_or_else(|failure| panic!("{failure}"));
        all.agreed += report.agreed;
        all.crossed += report.crossed;
        all.broken += report.broken;
        all.resumed += report.resumed;
        all.expired += report.expired;
    }
    all
}

#[test]
fn offers_that_cross_are_agreed_on_at_once_and_nothing_is_refused() {
    let seen = play(Weather::Calm);
    assert!(seen.crossed > 300, "{seen:?}");
    assert_eq!((seen.broken, seen.expired), (0, 0));
}

#[test]
fn sockets_that_break_unnoticed_cost_time_and_no_agreement() {
    let seen = play(Weather::Storm);
    assert!(seen.crossed > 100 && seen.broken > 100, "{seen:?}");
    assert!(seen.resumed > 50 && seen.expired > 10, "{seen:?}");
}

#[test]
fn one_seed_is_one_world() {
    let world = |seed| run_signaling(seed, Weather::Storm, None);
    assert_eq!(world(1), world(1));
    assert_ne!(world(1), world(2));
}

fn caught(weather: Weather, fault: SignalingFault) -> Option<SignalingViolation> {
    let failures = (0..20).filter_map(|seed| run_signaling(seed, weather, Some(fault)).err());
    failures.map(|failure| failure.violation).next()
}

#[test]
fn two_polite_sides_are_caught() {
    let caught = caught(Weather::Calm, SignalingFault::EveryonePolite);
    assert!(
        matches!(caught, Some(SignalingViolation::Refused(..))),
        "{caught:?}"
    );
}

#[test]
fn a_client_that_believes_its_old_picture_is_caught() {
    let caught = caught(Weather::Storm, SignalingFault::KeepsOldPicture);
    assert!(caught.is_some());
}
