//! What those do who want that there are no checkpoints any more, and that there are some all the same.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use common::{room::*, *};
use ed25519_dalek::SigningKey;
use roundtable_command_log::{
    Action, AppendError, AuthorAtCut, Ballot, Checkpoint, CheckpointName, CommandLog, Covered,
    HeadAtCut, KeyError, Role, StateHash,
};
use roundtable_core::AuthorId;
use roundtable_wire::commands::{ActionRef, Ballot as WireBallot};

/// What a log would propose now.
fn proposal(log: &mut CommandLog) -> Checkpoint {
    let cut = log.lamport();
    match log.checkpoint_command(cut).unwrap() {
        Action::Propose { checkpoint } => Checkpoint::decode(&checkpoint).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn propose(checkpoint: &Checkpoint) -> Action {
    let checkpoint = checkpoint.encode();
    Action::Propose { checkpoint }
}

/// A proposal that says something else of the state than this one, and has a higher name.
fn lie_above(room: &Room, truth: &Checkpoint) -> Checkpoint {
    let hash = room.genesis.hash();
    let lies = (0..=u8::MAX).map(|n| Checkpoint {
        state: StateHash::from_bytes([n; 32]),
        ..truth.clone()
    });
    let mut lies = lies.filter(|lie| lie.name(&hash) > truth.name(&hash));
    lies.next().unwrap()
}

/// Signs whatever it is told, from where an author's log ends.
fn forger_after(room: &Room, seed: u8) -> Forger {
    let mut forger = Forger::new(&room.genesis, seed);
    if let Some(head) = room.logs[0].head(id(seed)) {
        forger.previous = *head.id.as_bytes();
        forger.nonce = head.nonce + 1;
    }
    forger.lamport = room.logs[0].lamport() + 1;
    forger
}

fn tell_forged(room: &mut Room, forged: &Forged, whom: &[usize]) {
    for who in whom {
        room.logs[*who]
            .receive(at(0), forged.bytes.clone())
            .unwrap();
        room.logs[*who].settle(at(0));
    }
}

fn wire(ballot: Ballot) -> WireBallot {
    WireBallot {
        checkpoint: *ballot.checkpoint.as_bytes(),
        previous: *ballot.previous.as_bytes(),
    }
}

/// Any number of people.
fn stranger(number: u16) -> SigningKey {
    let mut secret = [77; 32];
    secret[..2].copy_from_slice(&number.to_le_bytes());
    SigningKey::from_bytes(&secret)
}

#[test]
fn a_decoy_in_the_frame_of_a_proposal_changes_nothing() {
    let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
    room.write(2, &[stroke("carol")]);
    let truth = proposal(&mut room.logs[1]);
    let decoy = lie_above(&room, &truth);
    room.write(1, &[propose(&decoy), propose(&truth)]);
    room.settle(&[0, 1, 2]);
    assert_eq!(room.numbers(), [1, 1, 1]);
    for log in &room.logs {
        assert_eq!(log.checkpoint_at(1), Some(truth.clone()));
    }
    assert_eq!(essence(&room.joiner(0)), essence(&room.replayer()));
}

#[test]
fn a_role_for_a_key_that_nobody_can_use_stops_nothing() {
    let mut room = Room::new(&[(BOB, Role::Admin)]);
    room.write(1, &[stroke("bob")]);
    let weak = AuthorId::from_bytes([0; 32]);
    let role = Action::SetRole {
        target: weak,
        role: Role::Editor,
        covered: Covered::NOTHING,
    };
    let refused = room.logs[0].append(at(0), &[role]);
    assert_eq!(refused, Err(AppendError::UnusableKey(KeyError::Weak)));
    let forged = forger_after(&room, ALICE).sign(&[ActionRef::SetRole {
        target: *weak.as_bytes(),
        role: 1,
        covered_nonce: 0,
        covered_id: [0; 32],
    }]);
    tell_forged(&mut room, &forged, &[0, 1]);
    assert_eq!(room.logs[1].role_of(weak), Role::Editor);
    room.checkpoint(0);
    room.checkpoint(1);
    assert_eq!(room.numbers(), [2, 2]);
    assert_eq!(essence(&room.joiner(0)), essence(&room.logs[1]));
}

#[test]
fn a_proposer_that_left_binds_nobody_once_it_is_retired_or_no_admin() {
    for retired in [true, false] {
        let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
        room.write(1, &[stroke("bob")]);
        room.write(2, &[stroke("carol")]);
        room.propose(1);
        room.settle(&[0, 2]);
        assert_eq!(room.numbers(), [0, 0, 0], "Bob's is acknowledged and open");
        let go_on = match retired {
            true => room.logs[0].retire_command(id(BOB)),
            false => room.logs[0].role_command(id(BOB), Role::Viewer),
        };
        room.write(0, &[go_on]);
        room.propose(0);
        room.settle(&[0, 2]);
        assert_eq!(room.numbers(), [1, 1, 1], "retired: {retired}");
        assert_eq!(essence(&room.joiner(2)), essence(&room.replayer()));
    }
}

#[test]
fn whoever_was_retired_and_is_there_again_can_propose() {
    let mut room = Room::new(&[(BOB, Role::Editor), (CAROL, Role::Editor)]);
    for who in [1, 2] {
        room.write(who, &[stroke("here")]);
    }
    room.checkpoint(0);
    for who in [1, 2] {
        let retire = room.logs[who].retire_command(id(ALICE));
        room.write(who, &[retire]);
    }
    room.write(0, &[stroke("back")]);
    room.checkpoint(0);
    assert_eq!(room.numbers(), [2, 2, 2]);
}

#[test]
fn whoever_has_acknowledged_another_since_follows_and_does_not_lead() {
    let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
    room.write(1, &[stroke("bob")]);
    room.write(2, &[stroke("carol")]);
    let old = room.propose(1);
    room.settle(&[0, 2]);
    let revoke = room.logs[0].role_command(id(BOB), Role::Viewer);
    room.write(0, &[revoke]);
    let new = room.propose(0);
    let due = room.logs[2].due(at(0)).unwrap();
    assert_eq!(due, Action::Acknowledge(new));
    room.write(2, &[due]);
    // Bob's last word on his own comes late, and reaches Carol alone.
    let mut bob = forger_after(&room, BOB);
    let late = bob.sign(&[ActionRef::Acknowledge(wire(old))]);
    tell_forged(&mut room, &late, &[2]);
    assert_eq!(
        room.logs[2].due(at(0)),
        None,
        "others may commit the new one"
    );
    // Alice has said nothing of hers yet.
    tell_forged(&mut room, &late, &[0]);
    let due = room.logs[0].due(at(0)).unwrap();
    assert_eq!(due, Action::Commit(old));
    room.write(0, &[due]);
    assert_eq!(room.logs[2].due(at(0)), Some(Action::Commit(old)));
}

#[test]
fn what_all_have_acknowledged_is_committed_though_its_proposer_takes_it_back() {
    let mut room = Room::new(&[(BOB, Role::Admin), (CAROL, Role::Editor)]);
    room.write(1, &[stroke("bob")]);
    room.write(2, &[stroke("carol")]);
    let ballot = room.propose(1);
    room.settle(&[0, 2]);
    let mut bob = forger_after(&room, BOB);
    for action in [
        ActionRef::Acknowledge(wire(ballot)),
        ActionRef::Withdraw(wire(ballot)),
    ] {
        let forged = bob.sign(&[action]);
        tell_forged(&mut room, &forged, &[0, 2]);
    }
    for who in [0, 2] {
        assert_eq!(room.logs[who].due(at(0)), Some(Action::Commit(ballot)));
    }
}

#[test]
fn whoever_is_retired_or_revoked_vetoes_nothing() {
    for retired in [true, false] {
        let mut room = Room::new(&[(BOB, Role::Editor), (CAROL, Role::Editor)]);
        room.write(1, &[stroke("bob")]);
        room.write(2, &[stroke("carol")]);
        if retired {
            for who in [0, 2] {
                let retire = room.logs[who].retire_command(id(BOB));
                room.write(who, &[retire]);
            }
        } else {
            let revoke = room.logs[0].role_command(id(BOB), Role::Viewer);
            room.write(0, &[revoke]);
        }
        // Carol knows of something that Alice's proposal does not name.
        let mut bob = forger_after(&room, BOB);
        let unknown = bob.stroke("unknown to Alice");
        tell_forged(&mut room, &unknown, &[1, 2]);
        for value in ["1", "2"] {
            room.write(0, &[stroke(value)]);
        }
        room.propose(0);
        room.settle(&[0, 2]);
        assert_eq!(room.numbers(), [1, 1, 1], "retired: {retired}");
    }
}

#[test]
fn a_certificate_holds_no_more_retirements_than_decide() {
    let editors = [BOB, CAROL, DAVE].map(|seed| (seed, Role::Editor));
    let mut room = Room::new(&editors);
    for who in [1, 2, 3] {
        room.write(who, &[stroke("here")]);
    }
    room.checkpoint(0);
    let retire = room.logs[0].retire_command(id(CAROL));
    for who in [0, 1, 3] {
        room.write(who, std::slice::from_ref(&retire));
    }
    for seed in 20..40 {
        let previous = room.logs[0].checkpoint().unwrap().name;
        let forged = forger_after(&room, seed).sign(&[ActionRef::Retire {
            author: *id(CAROL).as_bytes(),
            previous: *previous.as_bytes(),
        }]);
        tell_forged(&mut room, &forged, &[0, 1, 2, 3]);
    }
    room.write(0, &[stroke("without Carol")]);
    room.propose(0);
    room.settle(&[0, 1, 3]);
    assert_eq!(room.numbers(), [2, 2, 2, 2]);
    // The proposal, three commits, and of four writers the creator and one more who retire Carol.
    let certificate = &room.logs[0].certificates()[1];
    assert_eq!(certificate.frames().len(), 1 + 3 + 2);
    assert_eq!(essence(&room.joiner(3)), essence(&room.logs[0]));
}

/// A proposal by an author of no role, who names itself an Admin in it.
fn usurpation(truth: &Checkpoint, usurper: AuthorId, number: u8) -> Checkpoint {
    let mut claim = truth.clone();
    claim.proposer = usurper;
    claim.state = StateHash::from_bytes([number; 32]);
    claim.authors.retain(|at| at.author != usurper);
    let genesis = truth.authors[0].head;
    claim.authors.push(AuthorAtCut {
        author: usurper,
        head: HeadAtCut {
            nonce: 0,
            id: roundtable_command_log::FrameId::NONE,
            lamport: 0,
            ..genesis
        },
        role: Some((Role::Admin, 1)),
    });
    claim.authors.sort_by_key(|at| at.author);
    claim
}

#[test]
fn only_what_may_come_about_keeps_others_from_proposing() {
    let mut room = Room::new(&[(BOB, Role::Admin)]);
    room.write(1, &[stroke("bob")]);
    let truth = proposal(&mut room.logs[0]);
    let usurped = usurpation(&truth, id(DAVE), 0).encode();
    let forged = forger_after(&room, DAVE).sign(&[ActionRef::Propose {
        checkpoint: &usurped,
    }]);
    tell_forged(&mut room, &forged, &[0, 1]);
    assert!(!room.logs[0].has_open_proposal());
    assert_eq!(room.logs[0].due(at(0)), None);

    let truth = proposal(&mut room.logs[1]);
    let lie = lie_above(&room, &truth);
    room.write(1, &[propose(&lie)]);
    assert!(room.logs[0].has_open_proposal());
    assert_eq!(room.logs[0].due(at(0)), None);
    assert!(
        !room.logs[0].has_open_proposal(),
        "it was found to be false"
    );
}

#[test]
fn whoever_has_lied_is_believed_again_after_the_next_checkpoint() {
    let mut room = Room::new(&[(BOB, Role::Admin)]);
    room.write(1, &[stroke("bob")]);
    let truth = proposal(&mut room.logs[1]);
    let lie = lie_above(&room, &truth);
    room.write(1, &[propose(&lie)]);
    room.settle(&[0, 1]);
    room.propose(1);
    assert_eq!(room.logs[0].due(at(0)), None, "no second replay for a liar");
    room.settle(&[1]);
    room.checkpoint(0);
    assert_eq!(room.numbers(), [1, 1]);
    room.write(1, &[stroke("more")]);
    room.checkpoint(1);
    assert_eq!(room.numbers(), [2, 2]);
}

#[test]
fn a_proposal_that_found_no_room_is_found_when_it_was_committed() {
    let mut room = Room::new(&[(BOB, Role::Admin)]);
    room.write(1, &[stroke("bob")]);
    let truth = proposal(&mut room.logs[0]);
    let mut late = reader(&room.genesis);
    for seed in 20..40 {
        let claims: Vec<_> = (0..4)
            .map(|number| usurpation(&truth, id(seed), number).encode())
            .collect();
        let claims: Vec<_> = claims
            .iter()
            .map(|checkpoint| ActionRef::Propose { checkpoint })
            .collect();
        let forged = Forger::new(&room.genesis, seed).sign(&claims);
        late.receive(at(0), forged.bytes).unwrap();
    }
    room.checkpoint(1);
    assert_eq!(room.numbers(), [1, 1]);
    // Of Bob all comes before anything that makes him an Admin.
    let (bobs, others): (Vec<_>, Vec<_>) = room
        .frames
        .iter()
        .partition(|frame| frame.author() == id(BOB));
    for frame in bobs.into_iter().chain(others) {
        give(&mut late, frame);
    }
    late.settle(at(0));
    assert_eq!(late.checkpoint(), room.logs[0].checkpoint());
}

#[test]
fn names_that_nobody_writes_by_take_no_places_from_writers() {
    let mut room = Room::new(&[(BOB, Role::Admin)]);
    let names: Vec<_> = (0..700)
        .map(|number| Action::SetRole {
            target: AuthorId::from_bytes(stranger(number).verifying_key().to_bytes()),
            role: Role::Viewer,
            covered: Covered::NOTHING,
        })
        .collect();
    for some in names.chunks(350) {
        room.write(1, some);
    }
    room.checkpoint(0);
    assert_eq!(room.numbers(), [1, 1]);
    room.write(0, &[set_role(CAROL, Role::Editor)]);
    room.checkpoint(1);
    assert_eq!(room.numbers(), [2, 2]);
    assert_eq!(room.logs[1].role_of(id(CAROL)), Role::Editor);
    let joiner = room.joiner(0);
    assert_eq!(essence(&joiner), essence(&room.logs[1]));
    assert_eq!(joiner.state_hash(), room.logs[0].state_hash());
}

#[test]
fn authors_beyond_the_places_of_a_checkpoint_do_not_prevent_it() {
    let genesis = genesis_with(|params| {
        params.default_role = Role::Editor;
        params.limits.burst = 1_000_000;
    });
    let mut alice = log(&genesis, ALICE);
    let mut authors = Vec::new();
    for number in 0..650 {
        let mut forger = Forger::new(&genesis, 0);
        forger.key = stranger(number);
        alice.receive(at(0), forger.stroke("x").bytes).unwrap();
        authors.push(AuthorId::from_bytes(forger.key.verifying_key().to_bytes()));
    }
    alice.settle(at(0));
    for some in authors.chunks(325) {
        let previous = CheckpointName::NONE;
        let retire = |author: &AuthorId| Action::Retire {
            author: *author,
            previous,
        };
        let retire: Vec<_> = some.iter().map(retire).collect();
        alice.append(at(0), &retire).unwrap();
    }
    let proposal = alice.checkpoint_command(alice.lamport()).unwrap();
    alice.append(at(0), &[proposal]).unwrap();
    while let Some(due) = alice.due(at(0)) {
        alice.append(at(0), &[due]).unwrap();
        alice.settle(at(0));
    }
    assert_eq!(alice.checkpoint().map(|stable| stable.number), Some(1));
}

/// A creator alone commits what it likes. To replay what lies below the last of these must not replay what lies
/// below each of the others, one within the other.
#[test]
fn checkpoints_below_a_cut_are_not_followed_on_the_way_to_it() {
    const MANY: u16 = 100;
    let genesis = genesis();
    let mut alice = Forger::new(&genesis, ALICE);
    let mut log = reader(&genesis);
    let mut last = alice.stroke("x");
    log.receive(at(0), last.bytes).unwrap();
    for nth in 1..=MANY {
        let (nonce, lamport) = (alice.nonce - 1, alice.lamport - 1);
        let head = HeadAtCut {
            nonce,
            id: last.id,
            lamport,
            wall_ms: START_MS,
            budget: (1_000_000 - nonce) * 1_000,
        };
        let named = |state: [u8; 32]| Checkpoint {
            number: 1,
            previous: CheckpointName::NONE,
            proposer: id(ALICE),
            cut: lamport,
            state: StateHash::from_bytes(state),
            authors: vec![AuthorAtCut {
                author: id(ALICE),
                head,
                role: None,
            }],
        };
        // Each has a lower name than all below it, and is the first to be looked at.
        let is_next = |checkpoint: &Checkpoint| {
            let name = checkpoint.name(&genesis.hash());
            let prefix = u32::from(u16::from_be_bytes([name.as_bytes()[0], name.as_bytes()[1]]));
            (prefix * u32::from(MANY)) >> 16 == u32::from(MANY - nth)
        };
        let states = (0..=u16::MAX).map(|n| {
            let mut state = [0; 32];
            state[..2].copy_from_slice(&n.to_le_bytes());
            state
        });
        let checkpoint = states.map(named).find(is_next).unwrap();
        let ballot = wire(Ballot {
            checkpoint: checkpoint.name(&genesis.hash()),
            previous: CheckpointName::NONE,
        });
        let checkpoint = checkpoint.encode();
        last = alice.sign(&[
            ActionRef::Propose {
                checkpoint: &checkpoint,
            },
            ActionRef::Commit(ballot),
            ActionRef::Withdraw(ballot),
        ]);
        log.receive(at(0), last.bytes).unwrap();
    }
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let settled = small.spawn(move || {
        log.settle(at(0));
        log.behind()
    });
    assert_eq!(settled.unwrap().join().unwrap(), Some(1), "none is true");
}
