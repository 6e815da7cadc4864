//! Authors who sign twice in one place: what counts of them is a function of the frames, whatever
//! came first.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use roundtable_command_log::{
    Action, AppendError, CommandLog, Covered, ForkProof, FrameId, Genesis, Received, Role, Update,
};
use roundtable_core::AuthorId;
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
        assert_eq!(heads(&again), heads(&alice));
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

// Trees of frames, and a plain reading of the rules.

const AUTHORS: u8 = 4;

#[derive(Debug, Clone)]
enum Act {
    Put(u8),
    /// Takes back the command so far back in the own log, or lets it count again.
    Reverse(u64, bool),
    /// Whom, the role, and which of its frames so far is named, if any.
    SetRole(u8, Role, Option<prop::sample::Index>),
}

#[derive(Debug, Clone)]
struct Scripted {
    author: u8,
    rise: u64,
    /// How far back the frame is that this one follows.
    back: usize,
    acts: Vec<Act>,
}

fn act() -> impl Strategy<Value = Act> {
    let role = prop::sample::select(&[Role::Viewer, Role::Editor, Role::Admin, Role::Admin][..]);
    prop_oneof![
        3 => any::<u8>().prop_map(Act::Put),
        1 => (1..5_u64, any::<bool>()).prop_map(|(back, undoes)| Act::Reverse(back, undoes)),
        2 => (0..AUTHORS, role, prop::option::of(any::<prop::sample::Index>()))
            .prop_map(|(target, role, named)| Act::SetRole(target, role, named)),
    ]
}

fn script() -> impl Strategy<Value = Vec<Scripted>> {
    let back = prop_oneof![6 => Just(0_usize), 1 => 1..6_usize];
    let frame = (
        0..AUTHORS,
        1..4_u64,
        back,
        prop::collection::vec(act(), 1..3),
    )
        .prop_map(|(author, rise, back, acts)| Scripted {
            author,
            rise,
            // A creator that forks would end most of the story.
            back: if author == 0 { 0 } else { back },
            acts,
        });
    prop::collection::vec(frame, 1..50).prop_map(|mut script| {
        let grant = |target| Act::SetRole(target, Role::Admin, None);
        script.insert(
            0,
            Scripted {
                author: 0,
                rise: 1,
                back: 0,
                acts: vec![grant(1), grant(2)],
            },
        );
        script
    })
}

/// A frame as the plain reading sees it.
#[derive(Debug, Clone)]
struct Plain {
    author: AuthorId,
    id: FrameId,
    previous: FrameId,
    first: u64,
    last: u64,
    lamport: u64,
    bytes: Bytes,
    acts: Vec<PlainAct>,
}

#[derive(Debug, Clone)]
enum PlainAct {
    Put(u8),
    Reverse(u64, bool),
    SetRole(AuthorId, Role, Covered),
}

fn sign(genesis: &Genesis, script: &[Scripted]) -> Vec<Plain> {
    let mut frames: Vec<Plain> = Vec::new();
    // For each frame the author's state after it; the first of each author's is the beginning.
    let mut tips: BTreeMap<u8, Vec<Forger>> = BTreeMap::new();
    for Scripted {
        author,
        rise,
        back,
        acts,
    } in script
    {
        let tips = tips
            .entry(*author)
            .or_insert_with(|| vec![Forger::new(genesis, *author)]);
        let mut forger = tips[tips.len().saturating_sub(1 + back)].clone();
        forger.lamport += rise;
        let acts: Vec<_> = acts
            .iter()
            .zip(forger.nonce..)
            .map(|(act, nonce)| match act {
                Act::Put(value) => PlainAct::Put(*value),
                Act::Reverse(back, undoes) => {
                    PlainAct::Reverse(nonce.saturating_sub(*back), *undoes)
                }
                Act::SetRole(target, role, named) => {
                    let of_target: Vec<_> =
                        frames.iter().filter(|f| f.author == id(*target)).collect();
                    let named = named.filter(|_| !of_target.is_empty());
                    let covered = named.map_or(Covered::NOTHING, |named| {
                        let frame = named.get(&of_target);
                        Covered {
                            nonce: frame.last,
                            id: frame.id,
                        }
                    });
                    PlainAct::SetRole(id(*target), *role, covered)
                }
            })
            .collect();
        let wires: Vec<_> = acts.iter().map(wire).collect();
        let (previous, first, lamport) = (forger.previous, forger.nonce, forger.lamport);
        let forged = forger.sign(&wires);
        // To sign the same again is no fork.
        if frames.iter().any(|frame| frame.id == forged.id) {
            continue;
        }
        frames.push(Plain {
            author: id(*author),
            id: forged.id,
            previous: FrameId::from_bytes(previous),
            first,
            last: forger.nonce - 1,
            lamport,
            bytes: forged.bytes,
            acts,
        });
        tips.push(forger);
    }
    frames
}

fn wire(act: &PlainAct) -> ActionRef<'_> {
    match act {
        PlainAct::Put(value) => ActionRef::Put {
            key_type: POINTS,
            key: b"p",
            value: std::slice::from_ref(value),
        },
        PlainAct::Reverse(target, true) => ActionRef::Undo { target: *target },
        PlainAct::Reverse(target, false) => ActionRef::Redo { target: *target },
        PlainAct::SetRole(target, role, covered) => ActionRef::SetRole {
            target: *target.as_bytes(),
            role: role.number(),
            covered_nonce: covered.nonce,
            covered_id: *covered.id.as_bytes(),
        },
    }
}

type Place = (u64, AuthorId, u64);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ruling {
    rank: usize,
    place: Reverse<Place>,
    target: AuthorId,
    role: Role,
    covered: Covered,
}

/// The meaning of a set of frames, rank by rank and from scratch.
struct Meaning<'a> {
    frames: &'a [Plain],
    rulings: BTreeSet<Ruling>,
}

impl<'a> Meaning<'a> {
    fn of(frames: &'a [Plain]) -> Self {
        let rulings = BTreeSet::new();
        let mut meaning = Self { frames, rulings };
        for rank in 1.. {
            let mut found = Vec::new();
            for (place, act) in meaning.commands() {
                let PlainAct::SetRole(target, role, covered) = act else {
                    continue;
                };
                if meaning.standing(place) == (Role::Admin, Some(rank - 1)) {
                    found.push(Ruling {
                        rank,
                        place: Reverse(place),
                        target: *target,
                        role: *role,
                        covered: *covered,
                    });
                }
            }
            if found.is_empty() {
                return meaning;
            }
            meaning.rulings.extend(found);
        }
        meaning
    }

    fn on(&self, author: AuthorId) -> Vec<&Ruling> {
        let on = |ruling: &&Ruling| ruling.target == author;
        self.rulings.iter().filter(on).collect()
    }

    fn standing(&self, (lamport, author, nonce): Place) -> (Role, Option<usize>) {
        if author == id(0) {
            return (Role::Admin, Some(0));
        }
        let mut lowest = Role::Admin;
        let governs = |ruling: &&&Ruling| ruling.covered.nonce < nonce;
        for ruling in self.on(author).iter().filter(governs) {
            lowest = lowest.min(ruling.role);
            if ruling.place.0.0 < lamport {
                return (lowest, Some(ruling.rank));
            }
        }
        (Role::Viewer, None)
    }

    fn frame(&self, id: FrameId) -> Option<&'a Plain> {
        self.frames.iter().find(|frame| frame.id == id)
    }

    /// Whether the second frame is the first or comes after it.
    fn is_below(&self, below: Option<&Plain>, above: &Plain) -> bool {
        let Some(below) = below else { return true };
        let ancestors = std::iter::successors(Some(above), |f| self.frame(f.previous));
        let mut ancestors = ancestors.map(|frame| frame.id);
        ancestors.any(|id| id == below.id)
    }

    /// An author's log.
    fn trunk(&self, author: AuthorId) -> Vec<&'a Plain> {
        let rulings = self.on(author);
        let lowest = rulings.first().map(|ruling| ruling.rank);
        let pins = rulings.iter().filter(|r| Some(r.rank) == lowest);
        let mut end: Option<&Plain> = None;
        for pin in pins.filter(|_| author != id(0)) {
            if let Some(named) = self.frame(pin.covered.id)
                && named.author == author
                && self.is_below(end, named)
            {
                end = Some(named);
            }
        }
        loop {
            let previous = end.map_or(FrameId::NONE, |frame| frame.id);
            let follows = |frame: &&Plain| frame.author == author && frame.previous == previous;
            let next: Vec<_> = self.frames.iter().filter(follows).collect();
            let [only] = next[..] else { break };
            end = Some(only);
        }
        let mut trunk: Vec<_> =
            std::iter::successors(end, |frame| self.frame(frame.previous)).collect();
        trunk.reverse();
        trunk
    }

    /// All commands that count or not, in order.
    fn commands(&self) -> Vec<(Place, &'a PlainAct)> {
        let mut commands: Vec<_> = (0..AUTHORS)
            .flat_map(|author| self.trunk(id(author)))
            .flat_map(|frame| {
                let place = |nonce| (frame.lamport, frame.author, nonce);
                (frame.first..).map(place).zip(&frame.acts)
            })
            .collect();
        commands.sort_by_key(|(place, _)| *place);
        commands
    }

    fn points(&self) -> Vec<u8> {
        let mut points = Vec::new();
        let commands = self.commands();
        let counts = |place| self.standing(place).0 >= Role::Editor;
        let undone = |(_, author, nonce): Place| {
            let last = commands.iter().rev().find_map(|(place, act)| match act {
                PlainAct::Reverse(target, undoes)
                    if place.1 == author && *target == nonce && counts(*place) =>
                {
                    Some(*undoes)
                }
                _ => None,
            });
            last == Some(true)
        };
        for (place, act) in &commands {
            if let PlainAct::Put(value) = act
                && counts(*place)
                && !undone(*place)
                && points.len() < 40
            {
                points.push(*value);
            }
        }
        points
    }

    fn heads(&self) -> BTreeMap<AuthorId, (u64, FrameId)> {
        let heads = (0..AUTHORS).filter_map(|author| {
            let trunk = self.trunk(id(author));
            let last = trunk.last()?;
            Some((id(author), (last.last, last.id)))
        });
        heads.collect()
    }

    fn roles(&self) -> BTreeMap<AuthorId, Role> {
        let authors = (0..AUTHORS).map(id);
        let now = |author| (author, self.standing((u64::MAX, author, u64::MAX)).0);
        authors
            .map(now)
            .filter(|(_, role)| *role != Role::Viewer)
            .collect()
    }
}

/// An application that follows what a log tells it.
#[derive(Default)]
struct Follower(BTreeMap<AuthorId, u64>);

impl Follower {
    fn follow(&mut self, log: &mut CommandLog) {
        for update in updates(log) {
            match update {
                Update::Applied(applied) => {
                    let last = self.0.entry(applied.author).or_default();
                    assert_eq!(applied.nonce, *last + 1, "each once and in order");
                    *last = applied.nonce;
                }
                Update::Retracted { author, after } => {
                    let last = self.0.entry(author).or_default();
                    *last = after.min(*last);
                }
                _ => {}
            }
        }
        self.0.retain(|_, last| *last > 0);
    }
}

fn heads(log: &CommandLog) -> BTreeMap<AuthorId, (u64, FrameId)> {
    let heads = log.heads().into_iter();
    heads
        .map(|head| (head.author, (head.nonce, head.id)))
        .collect()
}

/// Feeds frames in the order of `plan`, then each branch in order, as peers serve them, until
/// nothing changes any more.
fn deliver(
    genesis: &Genesis,
    frames: &[Plain],
    plan: &[(prop::sample::Index, bool)],
    follower: &mut Follower,
) -> CommandLog {
    let mut log = reader(genesis);
    for (frame, settle) in plan {
        let frame = frame.get(frames);
        log.receive(at(0), frame.bytes.clone()).unwrap();
        if *settle {
            log.settle(at(0));
            follower.follow(&mut log);
        }
    }
    let meaning = Meaning {
        frames,
        rulings: BTreeSet::new(),
    };
    let mut quiet = 0;
    while quiet < 3 {
        let before = heads(&log);
        for last in frames.iter().rev() {
            let up = std::iter::successors(Some(last), |f| meaning.frame(f.previous));
            let mut branch: Vec<_> = up.collect();
            branch.reverse();
            for frame in branch {
                log.receive(at(0), frame.bytes.clone()).unwrap();
            }
            log.settle(at(0));
        }
        follower.follow(&mut log);
        quiet = if heads(&log) == before { quiet + 1 } else { 0 };
    }
    log
}

fn parents(log: &CommandLog) -> Vec<(AuthorId, FrameId)> {
    let forks = log.forks().into_iter();
    forks
        .map(|proof: ForkProof| (proof.author(), proof.parent()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_counts_of_forked_logs_is_a_function_of_the_frames(
        script in script(),
        plan in prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.2)), 0..150),
    ) {
        let genesis = genesis();
        let frames = sign(&genesis, &script);
        let meaning = Meaning::of(&frames);
        let mut follower = Follower::default();
        let some = deliver(&genesis, &frames, &plan, &mut follower);
        let other = deliver(&genesis, &frames, &[], &mut Follower::default());

        prop_assert_eq!(heads(&other), meaning.heads());
        prop_assert_eq!(heads(&some), meaning.heads());
        prop_assert_eq!(parents(&some), parents(&other));
        prop_assert_eq!(some.roles().collect::<BTreeMap<_, _>>(), meaning.roles());
        let points = meaning.points();
        prop_assert_eq!(value(&some, POINTS, "p").unwrap_or_default(), &points[..]);
        prop_assert_eq!(some.state_hash(), other.state_hash());

        // The application has followed, and what the log holds is enough to come there again.
        let applied: BTreeMap<_, _> = heads(&some).into_iter().map(|(a, (nonce, _))| (a, nonce)).collect();
        prop_assert_eq!(follower.0, applied);
        let kept: Vec<_> = some.kept().map(|frame| frame.bytes().clone()).collect();
        let mut again = reader(&genesis);
        again.restore(at(0), kept);
        again.settle(at(0));
        prop_assert_eq!(heads(&again), heads(&some));
        prop_assert_eq!(again.state_hash(), some.state_hash());
    }
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
