//! Authors who sign twice in one place: what counts of them is a function of the frames, whatever
//! came first.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use std::collections::BTreeSet;

use common::*;
use roundtable_command_log::{
    Action, AppendError, CommandLog, Covered, Equivocation, ForkProof, FrameError, FrameId,
    Genesis, Received, Role, Update,
};
use roundtable_wire::commands::ActionRef;

const ALICE: u8 = 0;
const BOB: u8 = 1;
const CAROL: u8 = 2;

/// Bob, an Editor, has signed `a`, then `b`, and in its place `not b`; each of them goes on.
struct Twice {
    genesis: Genesis,
    alice: CommandLog,
    a: Forged,
    left: Vec<Forged>,
    right: Vec<Forged>,
}

impl Twice {
    fn new() -> Self {
        let genesis = genesis();
        let mut alice = log(&genesis, ALICE);
        alice.append(at(0), &[set_role(BOB, Role::Editor)]).unwrap();
        let mut bob = Forger::new(&genesis, BOB);
        bob.lamport = 10;
        let a = bob.stroke("a");
        let mut other = bob.clone();
        Self {
            a,
            left: ["b", "c", "d"].map(|value| bob.stroke(value)).into(),
            right: ["not b", "not c", "not d"]
                .map(|value| other.stroke(value))
                .into(),
            genesis,
            alice,
        }
    }

    fn give_alice<'a>(&mut self, frames: impl IntoIterator<Item = &'a Forged>) {
        for frame in frames {
            self.alice.receive(at(0), frame.bytes.clone()).unwrap();
        }
        self.alice.settle(at(0));
    }
}

/// What a proof comes to without the frames' bodies proves the same, as long as no byte of it changes.
fn assert_outlives_its_frames(proof: &ForkProof, genesis: &Genesis, elsewhere: &Genesis) {
    let kept = Equivocation::from(proof).encode();
    let read = Equivocation::decode(&kept, &genesis.hash()).unwrap();
    assert_eq!(read, Equivocation::from(proof));
    assert_eq!(
        (read.author(), read.parent(), read.after()),
        (proof.author(), proof.parent(), proof.after())
    );
    let frames = proof.frames().map(|frame| (frame.id(), frame.header()));
    assert_eq!(read.frames(), frames);
    assert!(Equivocation::decode(&kept, &elsewhere.hash()).is_err());
    for index in 0..kept.len() {
        let mut changed = kept;
        changed[index] ^= 1;
        assert!(
            Equivocation::decode(&changed, &genesis.hash()).is_err(),
            "{index}"
        );
    }
    let (first, second) = kept.split_at(kept.len() / 2);
    let twice = [first, first].concat().try_into().unwrap();
    let twice = Equivocation::decode(&twice, &genesis.hash());
    assert_eq!(twice, Err(FrameError::NoFork), "one frame, shown twice");
    let swapped = [second, first].concat().try_into().unwrap();
    assert!(Equivocation::decode(&swapped, &genesis.hash()).is_ok());
}

fn shown(log: &CommandLog) -> &str {
    std::str::from_utf8(value(log, STROKE, "s").unwrap()).unwrap()
}

fn updates(log: &mut CommandLog) -> Vec<Update> {
    std::iter::from_fn(|| log.poll_update()).collect()
}

fn names(target: u8, role: Role, nonce: u64, id: FrameId) -> Action {
    let (target, covered) = (common::id(target), Covered { nonce, id });
    Action::SetRole {
        target,
        role,
        covered,
    }
}

#[test]
fn nothing_after_a_fork_counts_and_what_had_counted_is_taken_back() {
    let mut story = Twice::new();
    let (a, left) = (story.a.bytes.clone(), std::mem::take(&mut story.left));
    story.alice.receive(at(0), a).unwrap();
    story.give_alice(&left);
    assert_eq!(shown(&story.alice), "d");
    assert_eq!(updates(&mut story.alice).len(), 5);

    let rival = story.right[0].bytes.clone();
    let received = story.alice.receive(at(0), rival.clone());
    assert!(matches!(received, Ok(Received::Forked { .. })));
    assert_eq!(story.alice.head(id(BOB)).unwrap().nonce, 1);
    story.alice.settle(at(0));
    assert_eq!(shown(&story.alice), "a");
    let updates = updates(&mut story.alice);
    let [Update::Forked(proof), Update::Retracted { author, after }] = &updates[..] else {
        panic!("{updates:?}");
    };
    assert_eq!((proof.author(), *author, *after), (id(BOB), id(BOB), 1));

    // Neither branch goes on, and nobody is to blame for passing it on.
    let again = story.alice.receive(at(0), rival);
    assert_eq!(again, Ok(Received::Duplicate));
    let child = story.alice.receive(at(0), story.right[1].bytes.clone());
    assert_eq!(child, Ok(Received::Ended));
}

#[test]
fn the_proof_convinces_a_stranger() {
    let mut story = Twice::new();
    let frames = [&story.a, &story.left[0], &story.right[0]].map(|frame| frame.bytes.clone());
    for frame in &frames {
        story.alice.receive(at(0), frame.clone()).unwrap();
    }
    let [proof] = &story.alice.forks()[..] else {
        panic!("one fork");
    };
    assert_eq!(proof.verify(&story.genesis), Ok(()));
    assert_eq!(proof.parent(), story.a.id);
    let elsewhere = genesis_with(|params| params.room = [7; 32]);
    assert!(proof.verify(&elsewhere).is_err());
    assert_outlives_its_frames(proof, &story.genesis, &elsewhere);

    // A log that has only what came before believes the two frames of the proof.
    let mut stranger = reader(&story.genesis);
    stranger.receive(at(0), frames[0].clone()).unwrap();
    for frame in proof.frames() {
        stranger.receive(at(0), frame.bytes().clone()).unwrap();
    }
    let theirs = stranger.fork(id(BOB)).map(|proof| proof.parent());
    assert_eq!(theirs, Some(proof.parent()));
}

#[test]
fn a_rival_that_breaks_a_rule_proves_nothing() {
    let mut story = Twice::new();
    story.give_alice(&[]);
    let mut bob = Forger::new(&story.genesis, BOB);
    bob.lamport = 10;
    bob.stroke("a");
    bob.lamport = 10; // not above that of `a`
    let cheat = bob.stroke("cheat").bytes;
    let frames = [story.a.bytes.clone(), story.left[0].bytes.clone()];
    for frame in frames {
        story.alice.receive(at(0), frame).unwrap();
    }
    assert!(story.alice.receive(at(0), cheat).is_err());
    assert!(story.alice.forks().is_empty());
    story.alice.settle(at(0));
    assert_eq!(shown(&story.alice), "b");
}

#[test]
fn a_fork_far_below_the_head_is_found_when_its_frame_comes() {
    let mut story = Twice::new();
    let mut bob = Forger::new(&story.genesis, BOB);
    bob.lamport = 10;
    let mut fork = None;
    for n in 0..500 {
        if n == 3 {
            fork = Some(bob.clone());
        }
        let frame = bob.stroke(&n.to_string());
        story.alice.receive(at(0), frame.bytes).unwrap();
    }
    let rival = fork.unwrap().stroke("rival");
    story.alice.receive(at(0), rival.bytes).unwrap();
    story.alice.settle(at(0));
    assert_eq!(story.alice.head(id(BOB)).unwrap().nonce, 3);
    assert_eq!(shown(&story.alice), "2");
}

#[test]
fn an_admin_of_lower_rank_restores_the_branch_that_it_names() {
    let mut story = Twice::new();
    let (left, right) = (
        std::mem::take(&mut story.left),
        std::mem::take(&mut story.right),
    );
    let a = story.a.bytes.clone();
    story.alice.receive(at(0), a).unwrap();
    story.give_alice(&left);
    story.give_alice(&right[..1]);
    updates(&mut story.alice);
    let restore = story.alice.restore_command(id(BOB), Role::Editor).unwrap();
    story.alice.append(at(0), &[restore]).unwrap();
    story.alice.settle(at(0));
    assert_eq!(shown(&story.alice), "d");
    assert_eq!(story.alice.head(id(BOB)).unwrap().nonce, 4);
    assert!(story.alice.forks().is_empty());
    let again: Vec<_> = applied(&mut story.alice)
        .into_iter()
        .filter(|applied| applied.author == id(BOB))
        .map(|applied| applied.nonce)
        .collect();
    assert_eq!(again, [2, 3, 4]);

    // Alice changes her mind. Of the other branch she has a frame only, and asks for the rest.
    let other = names(BOB, Role::Editor, 4, right[2].id);
    story.alice.append(at(0), &[other]).unwrap();
    story.alice.settle(at(0));
    assert_eq!(shown(&story.alice), "d", "not before it is here");
    story.give_alice(&right);
    assert_eq!(shown(&story.alice), "not d");
}

#[test]
fn no_branch_can_speak_for_itself() {
    let genesis = genesis();
    let mut log = log(&genesis, ALICE);
    log.append(
        at(0),
        &[set_role(BOB, Role::Admin), set_role(CAROL, Role::Admin)],
    )
    .unwrap();
    let mut bob = Forger::new(&genesis, BOB);
    bob.lamport = 10;
    let mut other = bob.clone();
    let left = bob.stroke("b");
    let name = |target: u8, frame: &Forged| ActionRef::SetRole {
        target: *id(target).as_bytes(),
        role: 2,
        covered_nonce: 1,
        covered_id: *frame.id.as_bytes(),
    };
    let own = bob.sign(&[name(BOB, &left)]);
    let rival = other.stroke("not b");
    // Carol is Bob's equal.
    let mut carol = Forger::new(&genesis, CAROL);
    carol.lamport = 20;
    let equal = carol.sign(&[name(BOB, &left)]);
    for frame in [left, own, equal, rival] {
        log.receive(at(0), frame.bytes).unwrap();
    }
    log.settle(at(0));
    assert_eq!(log.head(id(BOB)), None);
    assert_eq!(log.forks()[0].after(), 0);
}

/// Whoever's key is the lower: the forked author's, or that of the Admin who says which branch counts.
#[test]
fn a_restored_author_is_there_after_a_restart() {
    let genesis = genesis();
    let lower = (1..=u8::MAX).find(|seed| id(*seed) < id(ALICE)).unwrap();
    let higher = (1..=u8::MAX).find(|seed| id(*seed) > id(ALICE)).unwrap();
    for author in [lower, higher] {
        let mut alice = log(&genesis, ALICE);
        alice
            .append(at(0), &[set_role(author, Role::Editor)])
            .unwrap();
        let mut left = Forger::new(&genesis, author);
        left.lamport = 10;
        let first = left.stroke("a");
        let mut right = left.clone();
        let rival = right.stroke("not b");
        let branch: Vec<_> = ["b", "c", "d"].map(|value| left.stroke(value)).into();
        for frame in [&first].into_iter().chain(&branch).chain([&rival]) {
            alice.receive(at(0), frame.bytes.clone()).unwrap();
        }
        let restore = alice.restore_command(id(author), Role::Editor).unwrap();
        alice.append(at(0), &[restore]).unwrap();
        alice.settle(at(0));
        assert_eq!(shown(&alice), "d");

        let kept: Vec<_> = alice.kept().map(|frame| frame.bytes().clone()).collect();
        let mut again = log(&genesis, ALICE);
        assert_eq!(again.restore(at(0), kept.clone()), kept.len());
        again.settle(at(0));
        assert_eq!(shown(&again), "d", "author {author}");
        assert_eq!(again.heads(), alice.heads());
        assert_eq!(again.state_hash(), alice.state_hash());
    }
}

/// A backup of Bob's log, restored and written to, forks it: neither copy goes on.
#[test]
fn an_author_that_finds_its_own_log_forked_signs_nothing() {
    let genesis = genesis_with(|params| params.default_role = Role::Editor);
    let mut bob = log(&genesis, BOB);
    let first = bob.append(at(0), &[stroke("first")]).unwrap();
    let mut backup = log(&genesis, BOB);
    give(&mut backup, &first);
    let mine = bob.append(at(0), &[stroke("mine")]).unwrap();
    let mut yours = vec![backup.append(at(0), &[stroke("yours")]).unwrap()];
    yours.push(backup.append(at(0), &[stroke("more")]).unwrap());

    give(&mut backup, &mine);
    let refused = backup.append(at(0), &[stroke("again")]);
    assert_eq!(refused, Err(AppendError::Forked));

    // It keeps what it has signed, over a restart too, so that it cannot sign that again when an
    // Admin names its branch.
    let stored: Vec<_> = backup.kept().map(|frame| frame.bytes().clone()).collect();
    let mut backup = log(&genesis, BOB);
    assert_eq!(backup.restore(at(0), stored), 4);
    let mut alice = log(&genesis, ALICE);
    let restore = alice
        .append(at(0), &[names(BOB, Role::Editor, 2, yours[0].id())])
        .unwrap();
    give(&mut backup, &restore);
    backup.settle(at(0));
    assert_eq!(backup.own_head().unwrap().id, yours[1].id());
    backup.append(at(0), &[stroke("again")]).unwrap();
}

/// An Admin names the branch of the other copy: what this one has signed does not count, and is kept.
#[test]
fn an_author_keeps_what_it_signed_on_the_branch_that_was_not_named() {
    let genesis = genesis_with(|params| params.default_role = Role::Editor);
    let mut bob = log(&genesis, BOB);
    let first = bob.append(at(0), &[stroke("first")]).unwrap();
    let mut backup = log(&genesis, BOB);
    give(&mut backup, &first);
    let mine = bob.append(at(0), &[stroke("mine")]).unwrap();
    let yours = ["yours", "more", "yet more"].map(|text| {
        let frame = backup.append(at(0), &[stroke(text)]);
        frame.unwrap()
    });
    give(&mut backup, &mine);
    let ruling = log(&genesis, ALICE)
        .append(at(0), &[names(BOB, Role::Editor, 2, mine.id())])
        .unwrap();
    give(&mut backup, &ruling);
    backup.settle(at(0));
    assert_eq!(shown(&backup), "mine");
    let stored: BTreeSet<_> = backup.kept().map(|frame| frame.id()).collect();
    let signed = [&first, &mine, &ruling].into_iter().chain(&yours);
    assert_eq!(stored, signed.map(|frame| frame.id()).collect());

    let stored: Vec<_> = backup.kept().map(|frame| frame.bytes().clone()).collect();
    let mut again = log(&genesis, BOB);
    assert_eq!(again.restore(at(0), stored), 6);
    again.settle(at(0));
    assert_eq!(shown(&again), "mine");
}

/// Whoever goes on reading where it had stopped is not left with the commands of a branch that no
/// longer counts.
#[test]
fn after_another_branch_is_named_the_history_begins_anew() {
    let mut story = Twice::new();
    let frames: Vec<_> = [&story.a].into_iter().chain(&story.left).collect();
    for frame in frames {
        story.alice.receive(at(0), frame.bytes.clone()).unwrap();
    }
    let stopped_at = story.alice.heads();
    let since = |log: &CommandLog| -> Vec<_> {
        let entries = log.entries_since(&stopped_at);
        let of_bob = entries.filter(|entry| entry.author == id(BOB));
        of_bob.map(|entry| (entry.nonce, entry.frame)).collect()
    };
    assert_eq!(since(&story.alice), []);

    let rival = story.right[0].bytes.clone();
    story.alice.receive(at(0), rival).unwrap();
    assert_eq!(since(&story.alice), [(1, story.a.id)], "shorter now");

    let other = names(BOB, Role::Editor, 4, story.right[2].id);
    story.alice.append(at(0), &[other]).unwrap();
    story.alice.settle(at(0)); // from now on that branch is taken
    let right = std::mem::take(&mut story.right);
    story.give_alice(&right);
    let ids = [story.a.id, right[0].id, right[1].id, right[2].id];
    let all: Vec<_> = (1..).zip(ids).collect();
    assert_eq!(since(&story.alice), all);

    // A log that is merely behind has nothing new for whoever has read on elsewhere.
    let mut behind = reader(&story.genesis);
    behind.receive(at(0), story.a.bytes.clone()).unwrap();
    behind.settle(at(0));
    assert_eq!(since(&behind), []);
}
