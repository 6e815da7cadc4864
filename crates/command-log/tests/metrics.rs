//! What a log tells of itself.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::*;
use roundtable_command_log::{CommandLog, Received};
use roundtable_core::{MetricsVisitor, Observe};

/// Every figure by its name, and its label if it has one.
#[derive(Default)]
struct Seen(BTreeMap<String, f64>);

impl MetricsVisitor for Seen {
    #[allow(clippy::cast_precision_loss)] // small numbers
    fn counter(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        self.gauge(name, labels, value as f64);
    }

    fn gauge(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let label = labels.first().map(|(_, label)| format!("/{label}"));
        let name = format!("{name}{}", label.unwrap_or_default());
        assert_eq!(self.0.insert(name, value), None, "each once");
    }
}

#[track_caller]
fn shows(log: &CommandLog, expected: &[(&str, f64)]) {
    let mut seen = Seen::default();
    log.observe(&mut seen);
    for (name, value) in expected {
        assert_eq!(seen.0.get(*name), Some(value), "{name}");
    }
}

#[test]
fn frames_are_counted_from_their_arrival_until_they_are_polled() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let mut frames = Vec::new();
    for n in 0..10 {
        let two = [stroke(&format!("{n}")), stroke("x")];
        frames.push(alice.append(at(n), &two).unwrap().bytes().clone());
    }
    shows(
        &alice,
        &[
            ("log_appended_frames", 10.0),
            ("log_verified_signatures", 0.0),
        ],
    );

    let mut bob = reader(&genesis);
    bob.receive(at(9), frames[0].clone()).unwrap();
    assert_eq!(bob.restore(at(9), frames[1..9].iter().cloned()), 8);
    let again = bob.receive(at(9), frames[0].clone());
    assert_eq!(
        again,
        Ok(Received::Duplicate),
        "and nothing is verified for that"
    );
    let mut forged = frames[9].to_vec();
    forged[130] ^= 1;
    assert!(bob.receive(at(9), forged.into()).is_err());
    assert_eq!(bob.verified(), 10, "one by one or together, good or bad");
    shows(
        &bob,
        &[
            ("log_accepted_frames", 9.0),
            ("log_accepted_commands", 18.0),
            ("log_duplicate_frames", 1.0),
            ("log_queued_frames/arrived", 9.0),
            ("log_queued_frames/settled", 0.0),
            ("log_accepted_commands_per_second", 0.0),
        ],
    );
    bob.settle(at(9));
    shows(
        &bob,
        &[
            ("log_queued_frames/arrived", 0.0),
            ("log_queued_frames/settled", 9.0),
            ("log_accepted_commands_per_second", 1.8),
        ],
    );
    while bob.poll_update().is_some() {}
    shows(&bob, &[("log_queued_frames/settled", 0.0)]);
}

#[test]
fn the_shell_tells_what_verifying_took() {
    let mut log = reader(&genesis());
    log.tell_verified(1, Duration::from_micros(31));
    log.tell_verified(200, Duration::from_millis(2));
    log.tell_verified(0, Duration::from_secs(1));
    shows(
        &log,
        &[
            ("log_verify_us_bucket/8", 0.0),
            ("log_verify_us_bucket/16", 200.0),
            ("log_verify_us_bucket/32", 201.0),
            ("log_verify_us_bucket/+Inf", 201.0),
            ("log_verify_us_sum", 2031.0),
            ("log_verify_us_count", 201.0),
        ],
    );
}
