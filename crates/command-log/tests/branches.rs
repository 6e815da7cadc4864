//! What is kept of the branches of a forked log: enough to follow the one that an Admin names, and no more than that,
//! whatever its author signs.

#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::*;
use roundtable_command_log::{
    Action, CommandLog, Covered, FrameId, FrameReader, Genesis, Received, Role, Unrestored,
    UnverifiedFrame,
};
use roundtable_wire::commands::ActionRef;

const ALICE: u8 = 0;
const BOB: u8 = 1;
const CAROL: u8 = 2;
const EVE: u8 = 3;

/// As large as a frame's only command may be.
const LARGE: usize = 64 * 1024 - 1;

fn names(target: u8, frame: FrameId, nonce: u64) -> Action {
    Action::SetRole {
        target: id(target),
        role: Role::Editor,
        covered: Covered { nonce, id: frame },
    }
}

/// A room in which Bob writes.
fn log_of_alice(genesis: &Genesis) -> CommandLog {
    let mut alice = log(genesis, ALICE);
    alice.append(at(0), &[set_role(BOB, Role::Editor)]).unwrap();
    alice
}

/// Bob's log up to its first frame.
fn first_of_bob(genesis: &Genesis) -> (Forger, Forged) {
    let mut bob = Forger::new(genesis, BOB);
    bob.lamport = 10;
    let first = bob.stroke("first");
    (bob, first)
}

fn large(forger: &mut Forger, byte: u8) -> Forged {
    let value = vec![byte; LARGE];
    forger.sign(&[ActionRef::Put {
        key_type: STROKE,
        key: b"s",
        value: &value,
    }])
}

fn shown_by(log: &mut CommandLog, peer: u8, frame: &Forged) -> Received {
    let read = log.read(&mut FrameReader::default(), frame.bytes.clone());
    log.receive_frame(at(0), read.unwrap().shown_by(id(peer)))
        .unwrap()
}

fn stored(log: &CommandLog) -> Vec<Bytes> {
    log.kept().map(|frame| frame.bytes().clone()).collect()
}

fn shown(log: &CommandLog) -> &[u8] {
    value(log, STROKE, "s").unwrap_or_default()
}

/// Carol shows the branch that Alice has named; between any two frames of it Bob, by way of Eve, shows frames for
/// the same places, more of them than are kept.
#[test]
fn a_branch_is_completed_whatever_its_author_signs_beside_it() {
    let genesis = genesis();
    let mut alice = log_of_alice(&genesis);
    let (mut bob, first) = first_of_bob(&genesis);
    let mut others = bob.clone();
    let mut rival = bob.clone();
    let mut frames = vec![first, bob.stroke("here")];
    frames.push(rival.stroke("rival"));
    for frame in &frames {
        alice.receive(at(0), frame.bytes.clone()).unwrap();
    }
    let named: Vec<_> = (0..8_u8).map(|n| large(&mut others, n)).collect();
    let last = named.last().unwrap();
    alice.append(at(0), &[names(BOB, last.id, 9)]).unwrap();
    alice.settle(at(0));
    for (round, frame) in named.iter().enumerate() {
        shown_by(&mut alice, CAROL, frame);
        for n in 0..40_u8 {
            let mut noise = bob.clone();
            (noise.previous, noise.nonce) = (rival.previous, rival.nonce);
            noise.lamport += u64::from(n) + 100 * u64::try_from(round).unwrap();
            shown_by(&mut alice, EVE, &large(&mut noise, n));
        }
        let bytes: usize = alice.set_aside().map(|frame| frame.bytes().len()).sum();
        assert!(bytes <= 17 << 20, "{bytes}");
    }
    alice.settle(at(0));
    assert_eq!(alice.head(id(BOB)).unwrap().id, last.id);
    assert!(shown(&alice) == [7; LARGE]);
}

/// To show a branch twice, as two peers do, is to show it once.
#[test]
fn a_branch_that_is_shown_twice_is_one_branch() {
    let genesis = genesis();
    let mut alice = log_of_alice(&genesis);
    let (mut bob, first) = first_of_bob(&genesis);
    let (mut rival, mut named) = (bob.clone(), bob.clone());
    for frame in [&first, &bob.stroke("here"), &rival.stroke("rival")] {
        alice.receive(at(0), frame.bytes.clone()).unwrap();
    }
    let branch = ["there", "more", "most"].map(|text| named.stroke(text));
    alice.append(at(0), &[names(BOB, branch[2].id, 4)]).unwrap();
    alice.settle(at(0));
    for frame in &branch[..2] {
        assert!(matches!(
            shown_by(&mut alice, CAROL, frame),
            Received::Aside { .. }
        ));
    }
    assert_eq!(shown_by(&mut alice, EVE, &branch[0]), Received::Duplicate);
    shown_by(&mut alice, EVE, &branch[2]);
    alice.settle(at(0));
    assert_eq!(shown(&alice), b"most");
}

/// Bob forks his log at each frame, from the last to the first.
#[test]
fn proofs_of_forks_are_bounded_by_their_bytes() {
    let genesis = genesis();
    let mut alice = reader(&genesis);
    let (mut bob, first) = first_of_bob(&genesis);
    alice.receive(at(0), first.bytes).unwrap();
    let mut places = Vec::new();
    for n in 0..40 {
        places.push(bob.clone());
        let frame = bob.stroke(&n.to_string());
        alice.receive(at(0), frame.bytes).unwrap();
    }
    let trunk: BTreeSet<_> = alice.frames().map(|frame| frame.id()).collect();
    for mut place in places.into_iter().rev() {
        let rival = large(&mut place, 1);
        let received = alice.receive(at(0), rival.bytes).unwrap();
        assert!(matches!(received, Received::Forked { .. }));
    }
    let rivals = alice
        .set_aside()
        .filter(|frame| !trunk.contains(&frame.id()));
    let bytes: usize = rivals.map(|frame| frame.bytes().len()).sum();
    assert!((1..=1 << 20).contains(&bytes), "{bytes}");
    assert_eq!(alice.forks()[0].after(), 1, "the lowest is kept");
}

/// Nobody has said yet which branch counts when Alice starts again; afterwards nobody is there to ask.
#[test]
fn after_a_restart_a_forked_author_can_still_be_restored() {
    let genesis = genesis();
    for rival_first in [false, true] {
        let (mut bob, first) = first_of_bob(&genesis);
        let mut other = bob.clone();
        // Which of the two is the lower must not matter.
        other.lamport += u64::from(rival_first);
        let rival = other.stroke("rival");
        let branch = ["b", "c", "d"].map(|text| bob.stroke(text));
        let mut alice = log_of_alice(&genesis);
        for frame in [&first].into_iter().chain(&branch).chain([&rival]) {
            alice.receive(at(0), frame.bytes.clone()).unwrap();
        }
        let kept = stored(&alice);
        let mut again = log(&genesis, ALICE);
        again.restore(at(0), kept.iter().rev().cloned());
        assert_eq!(stored(&again).len(), kept.len());
        again.append(at(0), &[names(BOB, branch[2].id, 4)]).unwrap();
        again.settle(at(0));
        assert_eq!(shown(&again), b"d");
    }
}

/// Three copies of Bob's identity have gone on in three ways, and he has seen all of it.
#[test]
fn an_author_with_three_branches_is_restored_with_all_of_them() {
    let genesis = genesis_with(|params| params.default_role = Role::Editor);
    let mut bob = log(&genesis, BOB);
    let first = bob.append(at(0), &[stroke("first")]).unwrap();
    let mut frames = vec![first.bytes().clone()];
    for text in ["one", "two", "three"] {
        let mut copy = log(&genesis, BOB);
        give(&mut copy, &first);
        for n in 0..3 {
            let frame = copy.append(at(0), &[stroke(&format!("{text} {n}"))]);
            frames.push(frame.unwrap().bytes().clone());
        }
    }
    let mut again = log(&genesis, BOB);
    assert_eq!(again.restore(at(0), frames.clone()), frames.len());
    assert_eq!(again.unrestored(frames.clone()), Unrestored::default());

    // What is damaged is told from what follows it.
    let mut damaged = frames.clone();
    let mut bytes = damaged[2].to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    damaged[2] = bytes.into();
    let mut again = log(&genesis, BOB);
    again.restore(at(0), damaged.clone());
    let lost = again.unrestored(damaged);
    assert_eq!((lost.refused, lost.waiting), (1, 1));
    let of_alice = log(&genesis, ALICE)
        .append(at(0), &[stroke("hers")])
        .unwrap();
    let foreign = [of_alice.bytes().clone(), Bytes::from_static(b"nobody's")];
    assert_eq!(again.unrestored(foreign), Unrestored::default());
}

#[test]
fn a_frame_says_nothing_of_who_has_shown_it() {
    let genesis = genesis();
    let (_, first) = first_of_bob(&genesis);
    let read = UnverifiedFrame::decode(first.bytes.clone(), &genesis.hash()).unwrap();
    assert_eq!(read.shown_by(id(EVE)).bytes(), &first.bytes);
}
