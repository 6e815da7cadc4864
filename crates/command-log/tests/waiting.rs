//! Whoever sends frames of many authors whose turn has not come takes up no more room than there is, and keeps nobody out.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use std::collections::BTreeMap;

use common::*;
use ed25519_dalek::SigningKey;
use roundtable_command_log::{CommandLog, Genesis, Received, Role};
use roundtable_core::{MetricsVisitor, Observe, WallTime};

/// Of how many authors frames wait while their first has not come.
const AUTHORS: u64 = 1024;
/// How many bytes wait in all.
const BYTES: u64 = 16 << 20;
/// How many keys a hostile peer makes.
const KEYS: u16 = 2000;
const HONEST: u8 = 1;

#[derive(Default)]
struct Seen(BTreeMap<&'static str, u64>);

impl MetricsVisitor for Seen {
    fn counter(&mut self, name: &'static str, _: &[(&'static str, &str)], value: u64) {
        self.0.insert(name, value);
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small counts
    fn gauge(&mut self, name: &'static str, _: &[(&'static str, &str)], value: f64) {
        self.0.insert(name, value as u64);
    }
}

fn metric(log: &CommandLog, name: &str) -> u64 {
    let mut seen = Seen::default();
    log.observe(&mut seen);
    seen.0[name]
}

/// One of many authors who sign what a hostile peer likes.
fn stranger(genesis: &Genesis, number: u16) -> Forger {
    let mut forger = Forger::new(genesis, 0);
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    forger.key = SigningKey::from_bytes(&seed);
    forger
}

/// A log that knows the room's creator, and whom that has made an Editor.
fn room(genesis: &Genesis) -> CommandLog {
    let mut room = reader(genesis);
    let editor = set_role(HONEST, Role::Editor);
    give(
        &mut room,
        &log(genesis, 0).append(at(0), &[editor]).unwrap(),
    );
    room.settle(at(0));
    room
}

/// Takes three frames of an honest author in an order in which the last two have to wait, and then, as peers serve what is
/// asked for, from the first on.
fn honest_frames_get_in(genesis: &Genesis, room: &mut CommandLog, now: WallTime) {
    let mut honest = Forger::new(genesis, HONEST);
    let frames: Vec<_> = (0..3).map(|_| honest.stroke("mine").bytes).collect();
    for frame in [1, 2, 0, 1, 2] {
        room.receive(now, frames[frame].clone()).unwrap();
    }
    room.settle(now);
    assert_eq!(room.head(id(HONEST)).unwrap().nonce, 3);
    assert_eq!(value(room, STROKE, "s"), Some(&b"mine"[..]));
}

#[test]
fn frames_beyond_gaps_of_any_number_of_authors_wait_for_so_many_alone() {
    let genesis = genesis();
    let mut room = room(&genesis);
    let before = metric(&room, "log_verified_signatures");
    for number in 0..KEYS {
        let mut forger = stranger(&genesis, number);
        forger.nonce = 100;
        let received = room.receive(at(0), forger.stroke("spam").bytes);
        assert!(
            matches!(received, Ok(Received::Waiting { .. })),
            "{received:?}"
        );
    }
    assert_eq!(metric(&room, "log_waiting_frames"), AUTHORS);
    assert_eq!(metric(&room, "log_authors"), 1 + AUTHORS);
    assert_eq!(metric(&room, "log_waited_frames"), u64::from(KEYS));
    let left = u64::from(KEYS) - AUTHORS;
    assert_eq!(metric(&room, "log_not_held_frames"), left);
    let verified = metric(&room, "log_verified_signatures") - before;
    assert_eq!(verified, AUTHORS, "what is not kept is not verified");
    honest_frames_get_in(&genesis, &mut room, at(0));
}

#[test]
fn frames_from_the_future_of_any_number_of_authors_wait_for_so_many_alone() {
    let genesis = genesis();
    let mut room = room(&genesis);
    let before = metric(&room, "log_verified_signatures");
    let hour_ms = 3_600_000;
    for number in 0..KEYS {
        let mut forger = stranger(&genesis, number);
        forger.wall_ms += hour_ms;
        let received = room.receive(at(0), forger.stroke("spam").bytes);
        assert_eq!(received, Ok(Received::Early));
    }
    assert_eq!(metric(&room, "log_waiting_frames"), AUTHORS);
    assert_eq!(metric(&room, "log_authors"), 1 + AUTHORS);
    let left = u64::from(KEYS) - AUTHORS;
    assert_eq!(metric(&room, "log_not_held_frames"), left);
    let verified = metric(&room, "log_verified_signatures") - before;
    assert_eq!(verified, AUTHORS, "what is not kept is not verified");
    honest_frames_get_in(&genesis, &mut room, at(0));
    // Their time comes, and what was held is in the log, of as many strangers as it keeps.
    room.settle(at(hour_ms));
    assert_eq!(metric(&room, "log_waiting_frames"), 0);
    assert_eq!(metric(&room, "log_authors"), 2 + AUTHORS);
    assert_eq!(room.heads().len() as u64, 2 + AUTHORS);
}

/// Whoever has less waiting than another loses nothing to it.
#[test]
fn long_frames_of_many_authors_wait_within_the_bytes_that_there_are() {
    let genesis = genesis();
    let mut room = room(&genesis);
    let long = "x".repeat(64 * 1024 - 1);
    let flood = |room: &mut CommandLog, numbers: std::ops::Range<u16>| {
        let mut len = 0;
        for number in numbers {
            let mut forger = stranger(&genesis, number);
            forger.nonce = 100;
            let frame = forger.stroke(&long).bytes;
            len = frame.len() as u64;
            room.receive(at(0), frame).unwrap();
        }
        len
    };
    let len = flood(&mut room, 0..400);
    let held = BYTES / len;
    assert_eq!(metric(&room, "log_waiting_frames"), held);
    assert_eq!(metric(&room, "log_authors"), 1 + held);
    assert_eq!(metric(&room, "log_not_held_frames"), 400 - held);

    // Between the floods, frames of two honest authors come before their first: together more than what is left, each less than
    // one long frame.
    let frames = [HONEST, HONEST + 1].map(|seed| {
        let mut honest = Forger::new(&genesis, seed);
        let text = "b".repeat(600);
        let frames = (0..50).map(|_| honest.stroke(&text).bytes);
        frames.collect::<Vec<_>>()
    });
    for frame in frames.iter().flat_map(|frames| &frames[1..]) {
        room.receive(at(0), frame.clone()).unwrap();
    }
    flood(&mut room, 400..700);
    let left = metric(&room, "log_waiting_frames") - 2 * 49;
    assert!(left == held - 1 || left == held - 2, "{left} of {held}");
    assert_eq!(
        metric(&room, "log_authors"),
        3 + left,
        "the others are forgotten"
    );
    assert_eq!(metric(&room, "log_not_held_frames"), 700 - left);
    for (frames, seed) in frames.iter().zip(HONEST..) {
        room.receive(at(0), frames[0].clone()).unwrap();
        assert_eq!(room.head(id(seed)).unwrap().nonce, 50);
    }
    assert_eq!(metric(&room, "log_waiting_frames"), left);
}
