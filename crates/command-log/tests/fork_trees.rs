//! Authors who sign twice in many places: trees of frames, held against a plain reading of the rules. What counts is a
//! function of the frames, whatever came first.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use roundtable_command_log::{CommandLog, Covered, ForkProof, FrameId, Genesis, Role, Update};
use roundtable_core::AuthorId;
use roundtable_wire::commands::ActionRef;

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
        while let Some(update) = log.poll_update() {
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
