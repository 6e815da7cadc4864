//! Many frames at once come to the same as one by one.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use bytes::Bytes;
use common::*;
use proptest::{collection::vec, prelude::*, sample::Index};
use roundtable_command_log::{
    CommandLog, FrameError, Genesis, Received, Role, SignatureError, UnverifiedFrame,
};

/// So many frames of each of so many authors, the first of whom makes Editors of the others.
fn frames(genesis: &Genesis, authors: u8, of_each: usize) -> Vec<Bytes> {
    let mut creator = log(genesis, 0);
    let grants: Vec<_> = (1..authors).map(|n| set_role(n, Role::Editor)).collect();
    let mut frames = Vec::new();
    if !grants.is_empty() {
        frames.push(creator.append(at(0), &grants).unwrap().bytes().clone());
    }
    for number in 0..authors {
        let mut author = log(genesis, number);
        author.restore(at(0), frames.iter().take(1).cloned());
        for n in 0..of_each {
            let actions = [put(POINTS, "p", vec![number]), stroke(&format!("{n}"))];
            let frame = author.append(at(n as u64), &actions).unwrap();
            frames.push(frame.bytes().clone());
        }
    }
    frames
}

/// The verdicts, and the log after them.
fn one_by_one(genesis: &Genesis, frames: &[Bytes]) -> (Vec<Verdict>, CommandLog) {
    let mut log = reader(genesis);
    let verdicts = frames
        .iter()
        .map(|frame| log.receive(at(0), frame.clone()))
        .collect();
    log.settle(at(0));
    (verdicts, log)
}

fn together(genesis: &Genesis, frames: &[Bytes]) -> (Vec<Verdict>, CommandLog) {
    let mut log = reader(genesis);
    let frames = frames
        .iter()
        .map(|bytes| UnverifiedFrame::decode(bytes.clone(), &genesis.hash()));
    let frames: Vec<_> = frames.collect();
    let mut verdicts = log
        .receive_all(at(0), frames.iter().flatten().cloned())
        .into_iter();
    let verdicts = frames
        .into_iter()
        .map(|frame| frame.and_then(|_| verdicts.next().unwrap()));
    let verdicts = verdicts.collect();
    log.settle(at(0));
    (verdicts, log)
}

type Verdict = Result<Received, FrameError>;

#[test]
fn a_backlog_of_several_authors_is_accepted() {
    let genesis = genesis();
    let frames = frames(&genesis, 3, 400);
    let (verdicts, log) = together(&genesis, &frames);
    let accepted = |verdict: &Verdict| matches!(verdict, Ok(Received::Accepted { .. }));
    assert!(verdicts.iter().all(accepted));
    assert_eq!(
        log.state_hash(),
        one_by_one(&genesis, &frames).1.state_hash()
    );
}

#[test]
fn one_bad_signature_among_many_is_found_and_costs_nobody_else() {
    let genesis = genesis();
    let mut frames = frames(&genesis, 3, 100);
    let bad = 150; // of the second author, whose later frames then follow nothing
    let mut altered = frames[bad].to_vec();
    altered[130] ^= 1; // in the signature
    frames[bad] = altered.into();
    let (verdicts, log) = together(&genesis, &frames);
    assert_eq!(verdicts[bad], Err(FrameError::Signature(SignatureError)));
    let waiting = |verdict: &&Verdict| matches!(verdict, Ok(Received::Waiting { .. }));
    assert_eq!(verdicts.iter().filter(waiting).count(), 201 - bad - 1);
    assert_eq!(log.head(id(2)).unwrap().nonce, 200);
}

/// That a rule was broken is said only of who has signed the frame.
#[test]
fn a_breach_that_nobody_has_signed_is_a_bad_signature() {
    let genesis = genesis();
    let mut forger = Forger::new(&genesis, 0);
    let mut frames: Vec<_> = (0..20).map(|_| forger.stroke("fine").bytes).collect();
    forger.lamport = u64::MAX;
    let breach = forger.stroke("beyond the cap").bytes;
    let mut unsigned = breach.to_vec();
    unsigned[130] ^= 1; // in the signature
    frames.extend([unsigned.into(), breach]);
    let (verdicts, _) = together(&genesis, &frames);
    assert_eq!(verdicts[20], Err(FrameError::Signature(SignatureError)));
    assert!(matches!(verdicts[21], Err(FrameError::Rule(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damaged, repeated, missing and shuffled frames, and forks.
    #[test]
    fn verdicts_are_those_of_frames_one_by_one(
        damage in vec((any::<Index>(), any::<Index>(), 0..8_u8), 0..6),
        repeats in vec((any::<Index>(), any::<Index>()), 0..6),
        missing in vec(any::<Index>(), 0..3),
        swaps in vec((any::<Index>(), any::<Index>()), 0..6),
        forks in 0..3_u8,
    ) {
        let genesis = genesis();
        let mut frames = frames(&genesis, 3, 12);
        for fork in 0..forks {
            let mut forger = Forger::new(&genesis, fork);
            frames.extend((0..5).map(|_| forger.stroke("another").bytes));
        }
        for index in missing {
            frames.remove(index.index(frames.len()));
        }
        for (from, to) in repeats {
            let again = frames[from.index(frames.len())].clone();
            frames.insert(to.index(frames.len()), again);
        }
        for (a, b) in swaps {
            let (a, b) = (a.index(frames.len()), b.index(frames.len()));
            frames.swap(a, b);
        }
        for (which, at, bit) in damage {
            let which = which.index(frames.len());
            let mut damaged = frames[which].to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            frames[which] = damaged.into();
        }
        let (expected, single) = one_by_one(&genesis, &frames);
        let (verdicts, log) = together(&genesis, &frames);
        prop_assert_eq!(verdicts, expected);
        prop_assert_eq!(log.heads(), single.heads());
        prop_assert_eq!(log.forks(), single.forks());
        prop_assert_eq!(log.state_hash(), single.state_hash());
    }
}
