//! What hostile, late, damaged and unlucky frames do to a log: nothing that lasts.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use common::*;
use roundtable_command_log::{
    AppendError, CommandLog, FULL_HEADER_LEN, FrameError, FrameId, KeyError, NonceRange, Received,
    Role, RuleBreach, Strategy,
};
use roundtable_core::{AuthorId, MetricsVisitor, Observe, WallTime};
use roundtable_wire::commands::ActionRef;

fn rule(breach: RuleBreach) -> Result<Received, FrameError> {
    Err(FrameError::Rule(breach))
}

#[test]
fn command_log_rejects_signature_tampering() {
    let genesis = genesis();
    let frame = log(&genesis, 0).append(at(0), &[stroke("red")]).unwrap();
    for at_byte in 0..frame.bytes().len() {
        let mut bytes = frame.bytes().to_vec();
        bytes[at_byte] ^= 1;
        let mut log = reader(&genesis);
        let received = log.receive(at(0), bytes.into());
        assert!(received.is_err(), "byte {at_byte}: {received:?}");
        assert!(log.heads().is_empty());
    }
}

/// RFC 8032 §5.1.7 and ZIP 215 alike demand s < l; without that anyone could make a second
/// signature of every frame.
#[test]
fn a_signature_has_only_one_encoding() {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let genesis = genesis();
    let frame = log(&genesis, 0).append(at(0), &[stroke("red")]).unwrap();
    let mut bytes = frame.bytes().to_vec();
    let s = &mut bytes[FULL_HEADER_LEN - 32..FULL_HEADER_LEN];
    let mut carry = 0;
    for (s, l) in s.iter_mut().zip(L) {
        let sum = u16::from(*s) + u16::from(l) + carry;
        *s = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    let received = reader(&genesis).receive(at(0), bytes.into());
    assert!(matches!(received, Err(FrameError::Signature(_))));
}

#[test]
fn signature_verification_rejects_malformed_keys() {
    let genesis = genesis();
    let frame = log(&genesis, 0).append(at(0), &[stroke("red")]).unwrap();
    let with_author = |author: [u8; 32]| {
        let mut bytes = frame.bytes().to_vec();
        bytes[1..33].copy_from_slice(&author);
        reader(&genesis).receive(at(0), bytes.into())
    };
    let mut identity = [0; 32];
    identity[0] = 1;
    let order_four = [0; 32];
    for weak in [identity, order_four] {
        assert_eq!(with_author(weak), Err(FrameError::Key(KeyError::Weak)));
    }
    let mut no_point = [0; 32];
    no_point[0] = 2;
    assert_eq!(
        with_author(no_point),
        Err(FrameError::Key(KeyError::Malformed))
    );
}

#[test]
fn a_frame_of_another_room_does_not_verify() {
    let here = genesis();
    let there = genesis_with(|params| params.room = [43; 32]);
    let frame = log(&there, 0).append(at(0), &[stroke("red")]).unwrap();
    let received = reader(&here).receive(at(0), frame.bytes().clone());
    assert!(matches!(received, Err(FrameError::Signature(_))));
}

#[test]
fn a_replayed_frame_is_applied_once() {
    let genesis = genesis();
    let frame = log(&genesis, 0)
        .append(at(0), &[put(COUNT, "n", 1_i64.to_le_bytes().to_vec())])
        .unwrap();
    let mut log = reader(&genesis);
    give(&mut log, &frame);
    for _ in 0..3 {
        let again = log.receive(at(0), frame.bytes().clone());
        assert_eq!(again, Ok(Received::Duplicate));
    }
    log.settle(at(0));
    assert_eq!(value(&log, COUNT, "n"), Some(&1_i64.to_le_bytes()[..]));
    let applied = applied(&mut log);
    assert!(applied.len() == 1 && applied[0].counted);
}

/// Frames beyond a gap wait, unapplied, and are applied in order once it is filled.
#[test]
fn replay_tracker_handles_nonce_gaps_during_network_partition() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let frames: Vec<_> = (0..4)
        .map(|n| alice.append(at(n), &[stroke("a"), stroke(&n.to_string())]))
        .collect::<Result<_, _>>()
        .unwrap();
    let mut bob = reader(&genesis);
    let missing = |after, through| {
        Ok(Received::Waiting {
            missing: NonceRange {
                author: id(0),
                after,
                through,
            },
        })
    };
    assert_eq!(bob.receive(at(9), frames[3].bytes().clone()), missing(0, 6));
    assert_eq!(bob.receive(at(9), frames[1].bytes().clone()), missing(0, 2));
    let again = bob.receive(at(9), frames[3].bytes().clone());
    assert_eq!(again, Ok(Received::Duplicate));
    bob.settle(at(9));
    assert_eq!(bob.poll_update(), None);

    give(&mut bob, &frames[0]);
    assert_eq!(bob.head(id(0)).unwrap().nonce, 4);
    assert_eq!(bob.wants(&alice.heads()).len(), 1);
    give(&mut bob, &frames[2]);
    bob.settle(at(9));
    alice.settle(at(9));
    assert_eq!(bob.wants(&alice.heads()), []);
    assert_eq!(bob.state_hash(), alice.state_hash());
    let nonces: Vec<_> = applied(&mut bob)
        .into_iter()
        .map(|applied| applied.nonce)
        .collect();
    assert_eq!(nonces, [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// Several gaps at once, filled from either side, with every frame sent three times.
#[test]
fn replay_tracker_handles_nonce_gaps() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let frames: Vec<_> = (0..9)
        .map(|n| alice.append(at(n), &[stroke(&n.to_string())]).unwrap())
        .collect();
    let mut bob = reader(&genesis);
    for index in [8, 2, 5, 0, 7, 3, 1, 6, 4] {
        let first = bob.receive(at(9), frames[index].bytes().clone());
        assert!(
            !matches!(first, Ok(Received::Duplicate) | Err(_)),
            "{index}"
        );
        for _ in 0..2 {
            let again = bob.receive(at(9), frames[index].bytes().clone());
            assert_eq!(again, Ok(Received::Duplicate), "{index}");
        }
        bob.settle(at(9));
    }
    let nonces: Vec<_> = applied(&mut bob).iter().map(|a| a.nonce).collect();
    assert_eq!(nonces, (1..=9).collect::<Vec<_>>());
    assert_eq!(gauge(&bob, "log_waiting_frames"), 0.0);
}

#[test]
fn what_waits_is_bounded() {
    let genesis = genesis();
    let mut forger = Forger::new(&genesis, 1);
    let first = forger.stroke("0");
    let mut log = reader(&genesis);
    for n in 1..1000 {
        let frame = forger.stroke(&n.to_string());
        let received = log.receive(at(0), frame.bytes).unwrap();
        assert!(matches!(received, Received::Waiting { .. }));
    }
    assert_eq!(gauge(&log, "log_waiting_frames"), 256.0);
    log.receive(at(0), first.bytes).unwrap();
    assert_eq!(log.head(id(1)).unwrap().nonce, 257);
    assert_eq!(gauge(&log, "log_waiting_frames"), 0.0);
}

/// Frames beyond a gap have not been paid for yet: whatever an author's budget, it may sign hundreds of them, as long as can be.
#[test]
fn no_author_takes_all_the_room_in_which_frames_wait() {
    let genesis = genesis();
    let long = vec![7; 64 * 1024 - 1];
    let mut log = reader(&genesis);
    let flood = |log: &mut CommandLog, seed| {
        let mut forger = Forger::new(&genesis, seed);
        forger.nonce = 100;
        for _ in 0..256 {
            let put = ActionRef::Put {
                key_type: STROKE,
                key: b"s",
                value: &long,
            };
            log.receive(at(0), forger.sign(&[put]).bytes).unwrap();
        }
    };
    flood(&mut log, 1);
    flood(&mut log, 3);
    let mut bob = Forger::new(&genesis, 2);
    // More than what is left between two of the long ones.
    let text = "b".repeat(10_000);
    let frames: Vec<_> = (0..50).map(|_| bob.stroke(&text)).collect();
    for frame in &frames[1..] {
        log.receive(at(0), frame.bytes.clone()).unwrap();
    }
    log.receive(at(0), frames[0].bytes.clone()).unwrap();
    assert_eq!(log.head(id(2)).map(|head| head.nonce), Some(50));
    // The two that flood have half each of what is left of 16 MiB.
    let held = gauge(&log, "log_waiting_frames");
    assert!((240.0..=256.0).contains(&held), "{held}");
}

/// Ten minutes ahead of the local clock is not yet the future; a millisecond more is. Neither is a
/// verdict: what waits is not in the log, holds up only its author, and is taken in its time.
#[test]
fn command_log_rejects_future_timestamps() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let frames = [600_000, 600_001, 600_001]
        .map(|ahead_ms| alice.append(at(ahead_ms), &[stroke("red")]).unwrap());
    let mut log = reader(&genesis);
    let [now, early, after] = frames.each_ref().map(|frame| frame.bytes().clone());
    assert!(matches!(
        log.receive(at(0), now),
        Ok(Received::Accepted { .. })
    ));
    assert_eq!(log.receive(at(0), early), Ok(Received::Early));
    let behind = log.receive(at(0), after);
    assert!(
        !matches!(behind, Ok(Received::Accepted { .. }) | Err(_)),
        "{behind:?}"
    );
    log.settle(at(0));
    assert_eq!(log.head(id(0)).unwrap().nonce, 1);
    log.settle(at(1));
    assert_eq!(log.head(id(0)).unwrap().nonce, 3);
}

/// Lamport time does not wrap. It ends where nobody gets: there, a log says so and signs nothing more.
#[test]
fn command_log_handles_lamport_clock_wraparound() {
    let genesis = genesis();
    let mut forger = Forger::new(&genesis, 1);
    forger.lamport = u64::MAX;
    let soon = forger.clone().stroke("too high for its wall time").bytes;
    assert_eq!(
        reader(&genesis).receive(at(0), soon),
        rule(RuleBreach::LamportTooHigh)
    );
    // Half a billion years later the bound is where the numbers end.
    let end = WallTime::from_micros(u64::MAX);
    forger.wall_ms = end.as_millis();
    let last = forger.stroke("the highest").bytes;
    let mut alice = log(&genesis, 0);
    assert!(matches!(
        alice.receive(end, last),
        Ok(Received::Accepted { .. })
    ));
    let frame = alice.append(end, &[stroke("as high")]).unwrap();
    assert_eq!(frame.header().lamport, u64::MAX);
    let refused = alice.append(end, &[stroke("higher")]);
    assert_eq!(refused, Err(AppendError::ClockExhausted));
}

/// A clock that runs ahead is no crime: the frame waits until the time has come.
#[test]
fn command_log_rejects_entries_with_future_timestamps() {
    let genesis = genesis();
    let ahead_ms = 600_001;
    let frame = log(&genesis, 0)
        .append(at(ahead_ms), &[stroke("red")])
        .unwrap();
    let mut log = reader(&genesis);
    let received = log.receive(at(0), frame.bytes().clone());
    assert_eq!(received, Ok(Received::Early));
    log.settle(at(0));
    assert_eq!(value(&log, STROKE, "s"), None);
    log.settle(at(1));
    assert_eq!(value(&log, STROKE, "s"), Some(&b"red"[..]));
}

#[test]
fn rate_limiter_blocks_burst_of_1000_commands_in_1_second() {
    let genesis = genesis_with(|_| {});
    let mut honest = log(&genesis, 0);
    let appended = (0..1000)
        .filter(|ms| honest.append(at(*ms), &[stroke("red")]).is_ok())
        .count();
    assert_eq!(appended, 109, "a burst of 100, and 10 a second for 0.999 s");
    let refused = honest.append(at(999), &[stroke("red")]);
    let retry_after = Duration::from_millis(1);
    assert_eq!(refused, Err(AppendError::RateLimited { retry_after }));
    assert!(honest.append(at(1000), &[stroke("red")]).is_ok());

    // Who does not ask its own log meets the same rule at everyone else's.
    let mut cheat = Forger::new(&genesis, 1);
    let mut log = reader(&genesis);
    let outcome: Vec<_> = (0..1000)
        .map(|ms| {
            cheat.wall_ms = START_MS + ms;
            log.receive(at(0), cheat.stroke("red").bytes)
        })
        .collect();
    let first_refused = outcome.iter().position(Result::is_err).unwrap();
    assert_eq!(first_refused, 101, "100 at once, one after 100 ms");
    assert_eq!(outcome[first_refused], rule(RuleBreach::OverBudget));
    assert_eq!(log.head(id(1)).unwrap().nonce, 101);
}

#[test]
fn large_payloads_cost_more() {
    let genesis = genesis_with(|_| {});
    let mut log = log(&genesis, 0);
    let large = put(STROKE, "s", vec![0; 65_535]);
    assert!(log.append(at(0), std::slice::from_ref(&large)).is_ok());
    assert_eq!(
        log.append(at(0), &[large]),
        Err(AppendError::RateLimited {
            retry_after: Duration::from_secs(3)
        }),
        "65 tokens of which 35 are left, at 10 a second"
    );
    let many = vec![stroke("x"); 101];
    assert_eq!(log.append(at(0), &many), Err(AppendError::OverBurst));
}

#[test]
fn frames_that_break_a_rule_are_as_if_never_signed() {
    let genesis = genesis();
    let mut honest = Forger::new(&genesis, 1);
    honest.wall_ms = START_MS + 5;
    let mut log = reader(&genesis);
    log.receive(at(0), honest.stroke("a").bytes).unwrap();
    let refuses = |log: &mut CommandLog, change: fn(&mut Forger)| {
        let mut cheat = honest.clone();
        change(&mut cheat);
        log.receive(at(0), cheat.stroke("b").bytes)
    };
    assert_eq!(
        refuses(&mut log, |f| f.lamport = 1),
        rule(RuleBreach::LamportNotRising)
    );
    assert_eq!(
        refuses(&mut log, |f| f.lamport = (1 << 20) + 5 * 1024 + 1),
        rule(RuleBreach::LamportTooHigh)
    );
    assert_eq!(
        refuses(&mut log, |f| f.wall_ms -= 1),
        rule(RuleBreach::WallFalling)
    );
    assert_eq!(
        refuses(&mut log, |f| f.wall_ms = START_MS - 1),
        rule(RuleBreach::WallBeforeGenesis)
    );
    assert_eq!(refuses(&mut log, |f| f.nonce = 0), Err(FrameError::Nonces));
    assert_eq!(
        refuses(&mut log, |f| f.nonce = u64::MAX),
        Err(FrameError::Nonces)
    );
    let accepted = log.receive(at(0), honest.stroke("b").bytes);
    assert!(matches!(accepted, Ok(Received::Accepted { .. })));
    assert_eq!(counter(&log, "lamport-too-high"), 1);
}

#[test]
fn a_bad_frame_whose_successor_is_valid_takes_nothing_with_it() {
    let genesis = genesis();
    let mut author = Forger::new(&genesis, 1);
    let mut log = reader(&genesis);
    log.receive(at(0), author.stroke("a").bytes).unwrap();
    let mut bad = author.clone();
    bad.lamport = 1 << 40;
    let breach = bad.stroke("bad");
    bad.lamport = 3;
    let successor = bad.stroke("after bad");

    // The successor comes first, waits, and finds that what it follows is not there.
    let waits = log.receive(at(0), successor.bytes.clone());
    assert!(matches!(waits, Ok(Received::Waiting { .. })));
    assert!(log.receive(at(0), breach.bytes).is_err());
    log.receive(at(0), author.stroke("b").bytes).unwrap();
    assert_eq!(log.head(id(1)).unwrap().nonce, 2);
    log.receive(at(0), author.stroke("c").bytes).unwrap();
    log.receive(at(0), author.stroke("d").bytes).unwrap();
    assert_eq!(log.head(id(1)).unwrap().nonce, 4);
    assert_eq!(
        log.receive(at(0), successor.bytes),
        Ok(Received::Detached { author: id(1) }),
        "its place is taken by now"
    );
}

#[test]
fn the_header_counts_the_commands_of_the_body() {
    let genesis = genesis();
    let mut forger = Forger::new(&genesis, 1);
    let body = log(&genesis, 0)
        .append(at(0), &[stroke("red")])
        .unwrap()
        .body();
    let received = reader(&genesis).receive(at(0), forger.sign_body(7, &body).bytes);
    assert_eq!(received, Err(FrameError::Count { header: 7, body: 1 }));
    let received = reader(&genesis).receive(at(0), forger.sign_body(1, b"no body").bytes);
    assert!(
        matches!(received, Ok(Received::Waiting { .. })),
        "judged in its turn"
    );
}

/// An author at the clock's bound outranks others until their clocks are there, and stops nobody.
#[test]
fn an_attacker_at_the_lamport_cap_stops_nobody() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let mut cheat = Forger::new(&genesis, 1);
    cheat.wall_ms = START_MS + 600_000;
    cheat.lamport = (1 << 20) + 600_000 * 1024;
    alice.receive(at(0), cheat.stroke("mine").bytes).unwrap();
    let at_cap = alice.append(at(0), &[stroke("a")]).unwrap();
    assert_eq!(at_cap.header().lamport, 1 << 20);
    assert_eq!(
        alice.append(at(0), &[stroke("b")]),
        Err(AppendError::ClockExhausted)
    );
    assert!(alice.append(at(1), &[stroke("b")]).is_ok());
}

#[test]
fn frames_that_this_schema_does_not_know_are_kept_and_do_not_count() {
    let genesis = genesis();
    let mut forger = Forger::new(&genesis, 0);
    let mut log = reader(&genesis);
    forger.schema = [9; 32];
    log.receive(at(0), forger.stroke("other schema").bytes)
        .unwrap();
    forger.schema = *schema().hash().as_bytes();
    let unknown_type = ActionRef::Put {
        key_type: 99,
        key: b"s",
        value: b"x",
    };
    let unknown_role = ActionRef::SetRole {
        target: *id(1).as_bytes(),
        role: 7,
        covered_nonce: 0,
        covered_id: [0; 32],
    };
    let bad_value = ActionRef::Put {
        key_type: COUNT,
        key: b"n",
        value: b"seven",
    };
    let frame = forger.sign(&[unknown_type, unknown_role, bad_value]);
    log.receive(at(0), frame.bytes).unwrap();
    log.settle(at(0));
    let applied = applied(&mut log);
    assert_eq!(applied.len(), 4);
    assert!(applied.iter().all(|applied| !applied.counted));
    assert_eq!(log.entries(STROKE).count(), 0);
    assert_eq!(log.role_of(id(1)), Role::Viewer);
    assert_eq!(log.head(id(0)).unwrap().nonce, 4);
}

#[test]
fn append_refuses_what_would_not_count() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let mut bob = log(&genesis, 1);
    assert_eq!(
        bob.append(at(0), &[stroke("red")]),
        Err(AppendError::NotPermitted {
            needed: Role::Editor,
            held: Role::Viewer
        })
    );
    assert_eq!(
        alice.append(at(0), &[put(99, "s", "x")]),
        Err(AppendError::UnknownKeyType(99))
    );
    assert_eq!(
        alice.append(at(0), &[put(COUNT, "n", "seven")]),
        Err(AppendError::BadValue {
            key_type: COUNT,
            len: 5
        })
    );
    assert!(matches!(
        alice.append(at(0), &[]),
        Err(AppendError::Encode(_))
    ));
    assert_eq!(
        reader(&genesis).append(at(0), &[stroke("red")]),
        Err(AppendError::ReadOnly)
    );
    assert_eq!(alice.own_head(), None);
}

#[test]
fn a_room_has_no_more_writers_than_its_genesis_allows() {
    let genesis = genesis_with(|params| params.max_writers = 2);
    let mut alice = log(&genesis, 0);
    alice.append(at(0), &[set_role(1, Role::Editor)]).unwrap();
    assert_eq!(
        alice.append(at(0), &[set_role(2, Role::Editor)]),
        Err(AppendError::TooManyWriters(2))
    );
    alice.append(at(0), &[set_role(1, Role::Viewer)]).unwrap();
    let both = [set_role(1, Role::Editor), set_role(2, Role::Editor)];
    assert_eq!(
        alice.append(at(0), &both),
        Err(AppendError::TooManyWriters(2))
    );
    assert!(alice.append(at(0), &[set_role(2, Role::Editor)]).is_ok());
}

#[test]
fn after_a_clock_was_set_back_retry_after_counts_from_where_it_was() {
    let genesis = genesis_with(|_| {});
    let mut log = log(&genesis, 0);
    log.append(at(5000), &vec![stroke("x"); 100]).unwrap();
    let Err(AppendError::RateLimited { retry_after }) = log.append(at(2000), &[stroke("x")]) else {
        panic!("the bucket is empty");
    };
    assert_eq!(retry_after, Duration::from_millis(3100));
    let ms = 2000 + u64::try_from(retry_after.as_millis()).unwrap();
    assert!(log.append(at(ms - 1), &[stroke("x")]).is_err());
    assert!(log.append(at(ms), &[stroke("x")]).is_ok());
}

#[test]
fn strangers_cannot_keep_out_an_author_that_was_given_a_role() {
    let genesis = genesis();
    let mut log = reader(&genesis);
    let grant = common::log(&genesis, 0)
        .append(at(0), &[set_role(1, Role::Editor)])
        .unwrap();
    give(&mut log, &grant);
    log.settle(at(0));
    let mut stranger = Forger::new(&genesis, 0);
    // Of whom some have higher keys than all that were kept before them, and are not taken.
    let refused = (0..1300_u16).filter_map(|n| {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        stranger.key = ed25519_dalek::SigningKey::from_bytes(&seed);
        (stranger.previous, stranger.nonce) = ([0; 32], 1);
        log.receive(at(0), stranger.stroke("spam").bytes).err()
    });
    let refused: Vec<_> = refused.collect();
    assert!(!refused.is_empty());
    assert!(
        refused
            .iter()
            .all(|error| *error == FrameError::TooManyAuthors)
    );
    assert_eq!(log.authors(), 1 + 1024, "the creator and strangers");
    let mut editor = Forger::new(&genesis, 1);
    assert!(log.receive(at(0), editor.stroke("mine").bytes).is_ok());
}

/// The name says more than the log promises: it has one owner and no lock of its own (`append` takes `&mut self`), so threads
/// that share one bring the lock. Appends are one after the other then, and what is shown is that none of a hundred is lost,
/// skipped or numbered twice, whichever thread comes first. Applications share a room's handle instead, which hands over
/// to the one task that owns the log.
#[test]
fn command_log_handles_concurrent_append_from_100_threads() {
    let genesis = genesis();
    let alice = Mutex::new(log(&genesis, 0));
    std::thread::scope(|scope| {
        for n in 0..100 {
            let alice = &alice;
            scope.spawn(move || {
                let action = stroke(&n.to_string());
                alice.lock().unwrap().append(at(n), &[action]).unwrap();
            });
        }
    });
    let mut alice = alice.into_inner().unwrap();
    let mut copy = reader(&genesis);
    let frames: Vec<_> = alice.frames().collect();
    assert_eq!(frames.len(), 100);
    frames.iter().for_each(|frame| give(&mut copy, frame));
    alice.settle(at(100));
    copy.settle(at(100));
    assert_eq!(copy.head(id(0)), alice.own_head());
    assert_eq!(copy.state_hash(), alice.state_hash());
}

#[test]
fn a_restored_author_goes_on_where_it_stopped() {
    let genesis = genesis();
    let mut before = log(&genesis, 0);
    for n in 0..1000 {
        before.append(at(0), &[stroke(&n.to_string())]).unwrap();
    }
    // A store may return frames in any order.
    let mut stored: Vec<_> = before.frames().map(|frame| frame.bytes().clone()).collect();
    stored.reverse();
    stored.push(Bytes::from_static(b"damaged"));
    let mut after = log(&genesis, 0);
    assert_eq!(after.restore(at(1), stored), 1000);
    assert_eq!(after.own_head(), before.own_head());
    let next = after.append(at(1), &[stroke("next")]).unwrap();
    give(&mut before, &next);
    before.settle(at(1));
    after.settle(at(1));
    assert_eq!(after.state_hash(), before.state_hash());
}

/// A machine whose clock was set back must not sign its last nonces again.
#[test]
fn own_frames_never_wait_for_their_time() {
    let genesis = genesis();
    let mut before = log(&genesis, 0);
    let frame = before.append(at(3_600_000), &[stroke("red")]).unwrap();
    let mut after = log(&genesis, 0);
    assert_eq!(after.restore(at(0), [frame.bytes().clone()]), 1);
    assert_eq!(
        after
            .append(at(0), &[stroke("b")])
            .unwrap()
            .header()
            .first_nonce,
        2
    );
}

#[test]
fn an_author_that_lacks_its_own_frames_does_not_sign() {
    let genesis = genesis();
    let mut before = log(&genesis, 0);
    let lost = before.append(at(0), &[stroke("a")]).unwrap();
    let found = before.append(at(0), &[stroke("b")]).unwrap();
    let mut after = log(&genesis, 0);
    give(&mut after, &found);
    assert_eq!(
        after.append(at(1), &[stroke("c")]),
        Err(AppendError::OwnFramesMissing)
    );
    give(&mut after, &lost);
    let next = after.append(at(1), &[stroke("c")]).unwrap();
    assert_eq!(next.header().previous, found.id());
}

#[test]
fn two_logs_tell_each_other_what_they_lack() {
    let genesis = genesis();
    let mut alice = log(&genesis, 0);
    let mut bob = log(&genesis, 1);
    let grant = alice.append(at(0), &[set_role(1, Role::Editor)]).unwrap();
    give(&mut bob, &grant);
    for n in 0..10 {
        alice.append(at(n), &[stroke("a")]).unwrap();
        bob.append(at(n), &[stroke("b")]).unwrap();
    }
    for range in alice.offers(&bob.heads()) {
        assert_eq!((range.author, range.after, range.through), (id(0), 1, 11));
        let some = alice.frames_after(range.author, range.after, 600).count();
        assert_eq!(some, 2, "as many as fit");
        let one = alice.frames_after(range.author, range.after, 0).count();
        assert_eq!(one, 1, "at least one");
    }
    for range in alice.wants(&bob.heads()) {
        for frame in bob.frames_after(range.author, range.after, usize::MAX) {
            give(&mut alice, &frame);
        }
    }
    for range in bob.wants(&alice.heads()) {
        for frame in alice.frames_after(range.author, range.after, usize::MAX) {
            give(&mut bob, &frame);
        }
    }
    alice.settle(at(10));
    bob.settle(at(10));
    assert_eq!(alice.heads(), bob.heads());
    assert_eq!(alice.state_hash(), bob.state_hash());
    assert_eq!(alice.offers(&bob.heads()), []);
    assert_ne!(alice.heads()[0].id, FrameId::NONE);
}

#[test]
fn the_strategy_of_a_key_decides() {
    let genesis = genesis();
    let mut log = log(&genesis, 0);
    let number = |n: i64| n.to_le_bytes().to_vec();
    for n in 0..3 {
        let value = n.to_string();
        log.append(
            at(0),
            &[
                put(STROKE, "k", value.clone()),
                put(CLAIM, "k", value.clone()),
                put(POINTS, "k", value),
                put(COUNT, "k", number(n - 5)),
            ],
        )
        .unwrap();
    }
    log.settle(at(0));
    assert_eq!(value(&log, STROKE, "k"), Some(&b"2"[..]));
    assert_eq!(value(&log, CLAIM, "k"), Some(&b"0"[..]));
    assert_eq!(value(&log, POINTS, "k"), Some(&b"012"[..]));
    assert_eq!(value(&log, COUNT, "k"), Some(&number(-12)[..]));
    let changed: Vec<_> = std::iter::from_fn(|| log.poll_changed()).collect();
    assert_eq!(changed.len(), 4);
    log.settle(at(0));
    assert_eq!(log.poll_changed(), None);

    let too_long = put(POINTS, "k", vec![b'x'; 38]);
    log.append(at(0), &[too_long, put(POINTS, "k", "3")])
        .unwrap();
    log.settle(at(0));
    assert_eq!(value(&log, POINTS, "k"), Some(&b"0123"[..]));
    assert_eq!(
        schema().strategy(CLAIM),
        Some(Strategy::Reject),
        "the strategy is the schema's, never the command's"
    );
}

#[derive(Default)]
struct Seen(Vec<(String, f64)>);

impl MetricsVisitor for Seen {
    fn counter(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        let label = labels.first().map_or(name, |(_, label)| label);
        self.0.push((label.to_owned(), value as f64));
    }

    fn gauge(&mut self, name: &'static str, _: &[(&'static str, &str)], value: f64) {
        self.0.push((name.to_owned(), value));
    }
}

fn gauge(log: &CommandLog, name: &str) -> f64 {
    let mut seen = Seen::default();
    log.observe(&mut seen);
    seen.0.iter().find(|(seen, _)| seen == name).unwrap().1
}

fn counter(log: &CommandLog, reason: &str) -> u64 {
    gauge(log, reason) as u64
}

#[test]
fn author_ids_are_the_keys_bytes() {
    let expected = AuthorId::from_bytes(key(3).verifying_key().to_bytes());
    assert_eq!(log(&genesis(), 3).own_author(), Some(expected));
}
