//! Cuts below which nothing changes any more: how they come about, what they settle, and that whoever
//! joins by one is where whoever has seen everything is.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use common::{room::*, *};
use proptest::prelude::*;
use roundtable_command_log::{
    Action, AppendError, Ballot, CertificateError, CheckpointName, CommandLog, ProposeError,
    Received, Role, Snapshot, SnapshotError, Update,
};

fn updates(log: &mut CommandLog) -> Vec<Update> {
    std::iter::from_fn(|| log.poll_update()).collect()
}

#[test]
fn a_checkpoint_is_stable_when_every_writer_has_committed_it() {
    let mut room = Room::new(&[(BOB, Role::Editor), (CAROL, Role::Viewer)]);
    room.write(
        1,
        &[stroke("red"), put(COUNT, "n", 5_i64.to_le_bytes().to_vec())],
    );
    let before = room.logs[0].state_hash();
    let ballot = room.propose(0);
    assert_eq!(room.logs[0].due(at(0)), None, "the proposer comes last");
    assert_eq!(room.logs[2].due(at(0)), None, "Carol has written nothing");

    assert_eq!(room.logs[1].due(at(0)), Some(Action::Acknowledge(ballot)));
    room.write(1, &[Action::Acknowledge(ballot)]);
    room.write(0, &[Action::Acknowledge(ballot)]);
    room.write(0, &[Action::Commit(ballot)]);
    assert_eq!(room.numbers(), [0, 0, 0]);
    room.write(1, &[Action::Commit(ballot)]);
    assert_eq!(room.numbers(), [1, 1, 1]);

    for log in &mut room.logs {
        assert_eq!(log.state_hash(), before);
        assert_eq!(log.checkpoint().unwrap().name, ballot.checkpoint);
        let stable = log.checkpoint().map(Update::CheckpointStable);
        assert!(updates(log).contains(&stable.unwrap()));
        // Of what lay below, no frame is left.
        assert!(
            log.frames()
                .all(|frame| frame.header().lamport > log.checkpoint().unwrap().cut)
        );
    }
    // The log goes on from there, and Merge from what it had come to.
    room.write(1, &[put(COUNT, "n", 2_i64.to_le_bytes().to_vec())]);
    assert_eq!(
        value(&room.logs[2], COUNT, "n"),
        Some(&7_i64.to_le_bytes()[..])
    );
    assert_eq!(value(&room.logs[0], STROKE, "s"), Some(&b"red"[..]));
}

#[test]
fn whoever_joins_by_a_snapshot_is_where_whoever_has_seen_everything_is() {
    let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
    room.write(
        1,
        &[set_role(DAVE, Role::Editor), put(CLAIM, "seat", "bob")],
    );
    room.write(2, &[put(POINTS, "p", "x"), put(CLAIM, "seat", "carol")]);
    room.checkpoint(1);
    room.write(2, &[stroke("blue"), put(POINTS, "p", "y")]);
    room.checkpoint(0);
    room.write(1, &[set_role(CAROL, Role::Viewer), stroke("green")]);
    let (joiner, replayer) = (room.joiner(1), room.replayer());
    assert_eq!(room.numbers(), [2, 2, 2]);
    for after in 0..4 {
        let snapshot = room.logs[0].snapshot(after);
        let len = snapshot.map(|snapshot| snapshot.encode().len() as u64);
        assert_eq!(room.logs[0].snapshot_len(after), len, "after {after}");
    }
    assert_eq!(essence(&joiner), essence(&room.logs[0]));
    assert_eq!(essence(&replayer), essence(&room.logs[0]));
    assert_eq!(value(&joiner, CLAIM, "seat"), Some(&b"bob"[..]));
    assert_eq!(value(&joiner, POINTS, "p"), Some(&b"xy"[..]));
}

#[test]
fn budgets_go_on_where_they_were() {
    let genesis = genesis_with(|params| params.limits.burst = 20);
    let mut alice = log(&genesis, ALICE);
    alice.append(at(0), &[stroke("a"), stroke("b")]).unwrap();
    let proposal = alice.checkpoint_command(alice.lamport()).unwrap();
    alice.append(at(0), &[proposal]).unwrap();
    while let Some(due) = alice.due(at(0)) {
        alice.append(at(0), &[due]).unwrap();
        alice.settle(at(0));
    }
    let mut joiner = reader(&genesis);
    let snapshot = alice.snapshot(0).unwrap();
    joiner.install(at(0), &snapshot).unwrap();
    for frame in alice.kept() {
        give(&mut joiner, &frame);
    }
    // Six tokens are spent; the next frame costs as many as are left, and one more is too much.
    let last = alice.own_head().unwrap();
    let mut forger = Forger::new(&genesis, ALICE);
    forger.previous = *last.id.as_bytes();
    (forger.nonce, forger.lamport) = (last.nonce + 1, last.lamport + 1);
    let mut greedy = forger.clone();
    let body = |n: usize| vec![stroke("x"); n];
    let encode = |actions: &[Action]| {
        let wire: Vec<_> = actions
            .iter()
            .map(|action| match action {
                Action::Put { key, value } => roundtable_wire::commands::ActionRef::Put {
                    key_type: key.key_type,
                    key: &key.bytes,
                    value,
                },
                other => panic!("{other:?}"),
            })
            .collect();
        roundtable_wire::commands::Encoder::default()
            .encode(wire)
            .unwrap()
            .to_vec()
    };
    let left = 20 - last.nonce as usize;
    for log in [&mut alice, &mut joiner] {
        let mut greedy = greedy.clone();
        let too_much = greedy.sign_body(left as u32 + 1, &encode(&body(left + 1)));
        assert!(log.receive(at(0), too_much.bytes).is_err());
    }
    let fits = greedy.sign_body(left as u32, &encode(&body(left)));
    for log in [&mut alice, &mut joiner] {
        let received = log.receive(at(0), fits.bytes.clone()).unwrap();
        assert!(matches!(received, Received::Accepted { .. }));
    }
}

#[test]
fn what_comes_late_below_a_cut_never_counts_and_bars_nobody() {
    let mut room = Room::new(&[(BOB, Role::Editor), (CAROL, Role::Editor)]);
    // Carol, who has written nothing yet, writes while nobody hears her.
    let late = room.logs[2].append(at(0), &[stroke("late"), put(CLAIM, "seat", "carol")]);
    let late = late.unwrap();
    room.write(1, &[stroke("bob"), put(CLAIM, "seat", "bob")]);
    room.propose(0);
    room.settle(&[0, 1]);
    assert_eq!(room.numbers(), [1, 1, 1]);

    room.tell(&late, |_| true);
    for log in &room.logs {
        assert_eq!(value(log, CLAIM, "seat"), Some(&b"bob"[..]));
        assert_eq!(value(log, STROKE, "s"), Some(&b"bob"[..]));
    }
    // She goes on from there, and counts.
    room.write(2, &[stroke("carol")]);
    for log in &room.logs {
        assert_eq!(value(log, STROKE, "s"), Some(&b"carol"[..]));
    }
    let own = updates(&mut room.logs[2]);
    let retracted = Update::Retracted {
        author: id(CAROL),
        after: 0,
    };
    assert!(own.contains(&retracted), "she is told what she lost");
    assert_eq!(essence(&room.joiner(0)), essence(&room.replayer()));
}

#[test]
fn a_claim_below_a_cut_is_final_and_an_undo_reaches_no_further() {
    let mut room = Room::new(&[(BOB, Role::Editor)]);
    room.write(1, &[put(CLAIM, "seat", "bob"), stroke("old")]);
    let nonce = room.logs[1].own_head().unwrap().nonce;
    assert_eq!(room.logs[1].next_undo(), Some(nonce));
    room.checkpoint(0);
    assert_eq!(room.logs[1].undo_command(nonce), None);
    assert_eq!(room.logs[1].next_undo(), None);
    let refused = room.logs[1].append(at(0), &[Action::Undo { target: nonce }]);
    assert_eq!(refused, Err(AppendError::NothingToReverse(nonce)));
    // Signed all the same, it does nothing; what is above the cut can be taken back.
    let head = room.logs[1].own_head().unwrap();
    let mut bob = Forger::new(&room.genesis, BOB);
    bob.previous = *head.id.as_bytes();
    (bob.nonce, bob.lamport) = (head.nonce + 1, head.lamport + 1);
    let undo = roundtable_wire::commands::ActionRef::Undo { target: nonce };
    let undo = bob.sign(&[undo]);
    let new = bob.stroke("new");
    for log in &mut room.logs {
        for forged in [&undo, &new] {
            log.receive(at(0), forged.bytes.clone()).unwrap();
        }
        log.settle(at(0));
        assert_eq!(value(log, STROKE, "s"), Some(&b"new"[..]));
    }
    let take_back = room.logs[1].next_undo().unwrap();
    room.write(1, &[Action::Undo { target: take_back }]);
    room.write(0, &[put(CLAIM, "seat", "alice")]);
    for log in &room.logs {
        assert_eq!(value(log, STROKE, "s"), Some(&b"old"[..]));
        assert_eq!(value(log, CLAIM, "seat"), Some(&b"bob"[..]));
    }
}

#[test]
fn a_rank_survives_a_checkpoint() {
    let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
    room.write(1, &[set_role(DAVE, Role::Admin)]);
    room.checkpoint(0);
    let mut dave = log(&room.genesis, DAVE);
    dave.install(at(0), &room.logs[0].snapshot(0).unwrap())
        .unwrap();
    for frame in room.logs[0].kept() {
        give(&mut dave, &frame);
    }
    // Dave's rank is two: he unseats neither Bob, who appointed him, nor Carol, whom Alice did.
    let coup = [set_role(BOB, Role::Viewer), set_role(CAROL, Role::Viewer)];
    let coup = dave.append(at(0), &coup).unwrap();
    room.tell(&coup, |_| true);
    assert_eq!(room.logs[0].role_of(id(BOB)), Role::Admin);
    assert_eq!(room.logs[0].role_of(id(CAROL)), Role::Editor);
    // Bob's is one: what he says of Dave counts.
    let revoke = room.logs[1].role_command(id(DAVE), Role::Viewer);
    room.write(1, &[revoke]);
    assert_eq!(room.logs[2].role_of(id(DAVE)), Role::Viewer);
    assert_eq!(essence(&room.joiner(2)), essence(&room.replayer()));
}

#[test]
fn a_fork_at_or_below_a_named_head_is_over() {
    let mut room = Room::new(&[(BOB, Role::Editor)]);
    let mut bob = Forger::new(&room.genesis, BOB);
    bob.lamport = 10;
    let mut other = bob.clone();
    let signed = bob.stroke("a");
    let rival = other.stroke("not a");
    let rival_goes_on = other.stroke("not b");
    give_forged(&mut room, &signed);
    // Bob's log is beyond reach; by his own hand he consents.
    let ballot = room.propose(0);
    bob.lamport = room.logs[0].lamport() + 1;
    for action in bob_consents(ballot) {
        let frame = bob.sign(&[action]);
        give_forged(&mut room, &frame);
    }
    room.settle(&[0]);
    assert_eq!(room.numbers()[0], 1);
    for forged in [&rival, &rival_goes_on] {
        let received = room.logs[0].receive(at(0), forged.bytes.clone());
        assert_eq!(received, Ok(Received::Pruned));
    }
    room.logs[0].settle(at(0));
    assert_eq!(room.logs[0].forks(), []);
    assert_eq!(value(&room.logs[0], STROKE, "s"), Some(&b"a"[..]));
}

fn bob_consents(ballot: Ballot) -> [roundtable_wire::commands::ActionRef<'static>; 2] {
    use roundtable_wire::commands::{ActionRef, Ballot as Wire};
    let wire = Wire {
        checkpoint: *ballot.checkpoint.as_bytes(),
        previous: *ballot.previous.as_bytes(),
    };
    [ActionRef::Acknowledge(wire), ActionRef::Commit(wire)]
}

fn give_forged(room: &mut Room, forged: &Forged) {
    let received = room.logs[0].receive(at(0), forged.bytes.clone()).unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    room.logs[0].settle(at(0));
}

#[test]
fn a_proven_forker_is_not_waited_for() {
    let mut room = Room::new(&[(BOB, Role::Editor), (CAROL, Role::Editor)]);
    room.write(1, &[stroke("bob")]);
    let mut carol = Forger::new(&room.genesis, CAROL);
    carol.lamport = 10;
    let mut twin = carol.clone();
    for forged in [carol.stroke("x"), twin.stroke("y")] {
        for log in &mut room.logs[..2] {
            log.receive(at(0), forged.bytes.clone()).unwrap();
            log.settle(at(0));
        }
    }
    room.logs.truncate(2);
    room.checkpoint(0);
    assert_eq!(room.numbers(), [1, 1]);
    let joiner = room.joiner(0);
    assert_eq!(essence(&joiner), essence(&room.logs[1]));
    assert_eq!(joiner.forks().len(), 1, "above her head it is still a fork");
}

#[test]
fn the_absent_are_retired_by_more_than_half() {
    let mut room = Room::new(&[(BOB, Role::Editor), (CAROL, Role::Editor)]);
    for who in [1, 2] {
        room.write(who, &[stroke("here")]);
    }
    room.checkpoint(0);
    room.write(1, &[stroke("without Carol")]);
    room.propose(0);
    room.settle(&[0, 1]);
    assert_eq!(room.numbers(), [1, 1, 1], "Carol has not consented");
    for who in [0, 1] {
        let retire = room.logs[who].retire_command(id(CAROL));
        room.write(who, &[retire]);
    }
    room.settle(&[0, 1]);
    assert_eq!(room.numbers(), [2, 2, 2]);
    assert_eq!(essence(&room.joiner(1)), essence(&room.replayer()));
}

#[test]
fn two_proposals_are_settled_by_the_proposers() {
    let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
    room.write(1, &[stroke("bob")]);
    room.write(2, &[stroke("carol")]);
    let cut = room.logs[0].lamport();
    let proposals = [0, 1].map(|who| room.logs[who].checkpoint_command(cut).unwrap());
    let frames = [0, 1].map(|who| {
        let proposal = std::slice::from_ref(&proposals[who]);
        room.logs[who].append(at(0), proposal).unwrap()
    });
    frames.iter().for_each(|frame| room.tell(frame, |_| true));
    room.settle(&[0, 1, 2]);
    assert_eq!(room.numbers(), [1, 1, 1]);
    assert_eq!(essence(&room.joiner(2)), essence(&room.replayer()));
}

#[test]
fn a_proposal_that_passes_over_what_a_writer_has_written_is_withdrawn() {
    let mut room = Room::new(&[(BOB, Role::Editor)]);
    room.write(1, &[stroke("known")]);
    let unknown = room.logs[1].append(at(0), &[stroke("on its way")]).unwrap();
    // Alice's log moves on, so her cut lies above what she has not seen.
    for value in ["1", "2", "3"] {
        room.write(0, &[stroke(value)]);
    }
    room.propose(0);
    room.settle(&[0, 1]);
    assert_eq!(room.numbers(), [0, 0], "Bob does not give up what he wrote");
    room.tell(&unknown, |_| true);
    room.settle(&[0, 1]);
    room.checkpoint(0);
    assert_eq!(room.numbers(), [1, 1]);
    assert_eq!(essence(&room.joiner(0)), essence(&room.replayer()));
}

#[test]
fn only_what_is_due_is_said() {
    let mut room = Room::new(&[(BOB, Role::Editor)]);
    room.write(1, &[stroke("bob")]);
    assert_eq!(
        room.logs[1].checkpoint_command(1),
        Err(ProposeError::NotAdmin)
    );
    let ballot = room.propose(0);
    for action in [Action::Commit(ballot), Action::Withdraw(ballot)] {
        let said = room.logs[1].append(at(0), &[action]);
        assert_eq!(said, Err(AppendError::NotDue));
    }
    assert_eq!(room.logs[0].checkpoint_command(2), Err(ProposeError::Open));
}

#[test]
fn a_lie_is_not_acknowledged() {
    let mut room = Room::new(&[(BOB, Role::Admin)]);
    room.write(1, &[stroke("bob")]);
    let Action::Propose { checkpoint } = room.logs[1].checkpoint_command(2).unwrap() else {
        panic!("a proposal");
    };
    let mut checkpoint = roundtable_command_log::Checkpoint::decode(&checkpoint).unwrap();
    checkpoint.state = roundtable_command_log::StateHash::from_bytes([7; 32]);
    let lie = Action::Propose {
        checkpoint: checkpoint.encode(),
    };
    room.write(1, &[lie]);
    assert_eq!(room.logs[0].due(at(0)), None);
    assert!(matches!(room.logs[1].due(at(0)), Some(Action::Withdraw(_))));
}

#[test]
fn a_snapshot_is_used_only_if_the_writers_have_committed_it() {
    let mut room = Room::new(&[(BOB, Role::Editor)]);
    room.write(1, &[stroke("red")]);
    room.checkpoint(0);
    let snapshot = room.logs[0].snapshot(0).unwrap();
    let bytes = snapshot.encode();
    let at_value = bytes
        .windows(3)
        .rposition(|window| window == b"red")
        .unwrap();
    let mut false_value = bytes.to_vec();
    false_value[at_value] = b'R';
    let mut joiner = reader(&room.genesis);
    let read = |bytes: Vec<u8>| Snapshot::decode(bytes.into()).unwrap();
    assert_eq!(
        joiner.install(at(0), &read(false_value)),
        Err(SnapshotError::Values)
    );
    assert_eq!(joiner.checkpoint(), None);

    // Without Bob's commit it is not stable.
    let frames = room.logs[0].certificates()[0].frames().to_vec();
    let without = frames.iter().filter(|frame| frame.author() != id(BOB));
    let without: Vec<_> = without.collect();
    let mut forged = vec![1];
    forged.extend(0_u64.to_le_bytes());
    forged.extend(1_u32.to_le_bytes());
    forged.extend((without.len() as u32).to_le_bytes());
    for frame in &without {
        forged.extend((frame.bytes().len() as u32).to_le_bytes());
        forged.extend(frame.bytes());
    }
    let refused = joiner.install(at(0), &read(forged));
    assert_eq!(
        refused,
        Err(SnapshotError::Certificate(CertificateError::NotStable(1)))
    );
    assert_eq!(joiner.install(at(0), &snapshot), Ok(true));
    assert_eq!(joiner.install(at(0), &snapshot), Ok(false));
}

/// What happens in a room, one after the other.
#[derive(Debug, Clone)]
enum Step {
    Write {
        who: usize,
        key_type: u16,
        heard_by: u8,
    },
    Spread,
    Propose {
        who: usize,
    },
    Due {
        who: usize,
    },
    Role {
        target: usize,
        role: Role,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let write =
        (0..4_usize, 1..5_u16, any::<u8>()).prop_map(|(who, key_type, heard_by)| Step::Write {
            who,
            key_type,
            heard_by,
        });
    prop_oneof![
        6 => write,
        3 => Just(Step::Spread),
        2 => (0..2_usize).prop_map(|who| Step::Propose { who }),
        6 => (0..4_usize).prop_map(|who| Step::Due { who }),
        1 => (1..4_usize, 0..3_u8).prop_map(|(target, role)| Step::Role { target, role: Role::from_number(role).unwrap() }),
    ]
}

/// A room in which frames are heard now by some and then by others.
struct Scattered {
    room: Room,
    /// How far each log has heard of all frames, in order.
    heard: Vec<usize>,
    stable: Vec<CheckpointName>,
}

impl Scattered {
    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write {
                who,
                key_type,
                heard_by,
            } => {
                let value = (self.room.frames.len() as i64).to_le_bytes().to_vec();
                self.sign(*who, &put(*key_type, "k", value));
                for who in (0..4).filter(|who| heard_by & (1 << who) != 0) {
                    self.hear(who)?;
                }
            }
            Step::Spread => {
                for who in 0..4 {
                    self.hear(who)?;
                }
            }
            Step::Propose { who } => {
                let cut = self.room.logs[*who].lamport();
                if let Ok(proposal) = self.room.logs[*who].checkpoint_command(cut) {
                    self.sign(*who, &proposal);
                }
            }
            Step::Due { who } => {
                if let Some(due) = self.room.logs[*who].due(at(0)) {
                    self.sign(*who, &due);
                }
            }
            Step::Role { target, role } => {
                let target = id(*target as u8);
                let command = self.room.logs[0].role_command(target, *role);
                self.sign(0, &command);
            }
        }
        for log in &mut self.room.logs {
            log.settle(at(0));
        }
        Ok(())
    }

    fn sign(&mut self, who: usize, action: &Action) {
        if let Ok(frame) = self.room.logs[who].append(at(0), std::slice::from_ref(action)) {
            self.room.frames.push(frame);
        }
    }

    /// Nothing that is stable is taken back, all logs go the same way, and no frame that comes changes what lies
    /// below.
    fn hear(&mut self, who: usize) -> Result<(), TestCaseError> {
        let log = &mut self.room.logs[who];
        for frame in &self.room.frames[self.heard[who]..] {
            let before = log.checkpoint();
            log.receive(at(0), frame.bytes().clone()).unwrap();
            log.settle(at(0));
            let after = log.checkpoint();
            let number =
                |stable: Option<roundtable_command_log::Stable>| stable.map_or(0, |s| s.number);
            prop_assert!(number(after) >= number(before));
            if let Some(stable) = after {
                let known = self.stable.get(stable.number as usize - 1);
                prop_assert!(known.is_none_or(|name| *name == stable.name));
                if known.is_none() {
                    self.stable.push(stable.name);
                }
            }
        }
        self.heard[who] = self.room.frames.len();
        Ok(())
    }
}

#[test]
fn a_snapshot_that_would_take_far_more_memory_than_its_bytes_is_not_read() {
    let head = |certificates: u32| [&[1][..], &[0; 8], &certificates.to_le_bytes()].concat();
    let of = |counts: &[u32]| {
        counts
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let many = 1_000;
    // Certificates of no frame, frames of no byte, and more frames than any certificate has.
    let frame = [of(&[200]), vec![1; 200]].concat();
    let frames = [of(&[4_097]), frame.repeat(4_097)].concat();
    for rest in [of(&vec![0; many]), of(&[2, 0, 0]).repeat(many), frames] {
        let bytes = [head(many as u32), rest].concat();
        let read = Snapshot::decode(bytes.into());
        assert_eq!(read, Err(SnapshotError::Malformed));
    }
}

#[test]
fn what_proposes_no_checkpoint_that_follows_costs_no_verification() {
    let mut room = Room::new(&[(BOB, Role::Editor)]);
    room.write(1, &[stroke("red")]);
    room.checkpoint(0);
    room.write(1, &[stroke("green")]);
    room.checkpoint(0);
    // The second checkpoint without the first. Its first signature is false, too.
    let frames: Vec<_> = room.logs[0].certificates()[1].frames().to_vec();
    let mut bytes = [&[1][..], &[0; 8], &1_u32.to_le_bytes()].concat();
    bytes.extend((frames.len() as u32).to_le_bytes());
    for frame in &frames {
        bytes.extend((frame.bytes().len() as u32).to_le_bytes());
        bytes.extend_from_slice(frame.bytes());
    }
    let signature = bytes.len() - frames.last().unwrap().body().len() - 1;
    bytes[signature] ^= 1;
    let snapshot = Snapshot::decode(bytes.into()).unwrap();
    let installed = reader(&room.genesis).install(at(0), &snapshot);
    let expected = SnapshotError::Certificate(CertificateError::NoProposal);
    assert_eq!(installed, Err(expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn all_go_the_same_way_whatever_they_hear_when(steps in prop::collection::vec(step(), 10..120)) {
        let room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor), (DAVE, Role::Editor)]);
        let heard = vec![room.frames.len(); 4];
        let mut scattered = Scattered { room, heard, stable: Vec::new() };
        for step in &steps {
            scattered.run(step)?;
        }
        // In the end all hear everything, and say what is due.
        for _ in 0..40 {
            scattered.run(&Step::Spread)?;
            for who in 0..4 {
                scattered.run(&Step::Due { who })?;
            }
        }
        scattered.run(&Step::Spread)?;
        let room = &scattered.room;
        let (joiner, replayer) = (room.joiner(3), room.replayer());
        for log in room.logs.iter().chain([&joiner, &replayer]) {
            prop_assert_eq!(essence(log), essence(&room.logs[0]));
            prop_assert_eq!(log.behind(), None);
        }
    }

    #[test]
    fn damaged_snapshots_are_refused_without_a_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4)) {
        let mut room = Room::new(&[(BOB, Role::Editor)]);
        room.write(1, &[stroke("red"), put(CLAIM, "seat", "bob")]);
        room.checkpoint(0);
        let good = room.logs[0].snapshot(0).unwrap().encode();
        let mut bad = good.to_vec();
        for (at, bit) in flips {
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
        }
        prop_assume!(bad != good);
        let mut joiner = reader(&room.genesis);
        let used = Snapshot::decode(bad.into()).and_then(|snapshot| joiner.install(at(0), &snapshot));
        prop_assert!(used.is_err() || joiner.state_hash() == room.logs[0].state_hash());
    }
}
