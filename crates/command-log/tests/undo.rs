//! Taking back, and letting count again.

#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use common::*;
use roundtable_command_log::{Action, AppendError, CommandLog, Covered, Role};
use roundtable_wire::commands::ActionRef;

/// A room in which authors 0, 1 and 2 may write, and the logs of the first two.
fn two() -> (CommandLog, CommandLog) {
    let genesis = genesis();
    let (mut alice, mut bob) = (log(&genesis, 0), log(&genesis, 1));
    let roles = [set_role(1, Role::Editor), set_role(2, Role::Editor)];
    let frame = alice.append(at(0), &roles).unwrap();
    give(&mut bob, &frame);
    for log in [&mut alice, &mut bob] {
        log.settle(at(0));
    }
    (alice, bob)
}

/// Writes one command, gives it to the other, and lets both settle.
fn write(from: &mut CommandLog, to: &mut CommandLog, action: Action) -> u64 {
    let frame = from.append(at(0), &[action]).unwrap();
    give(to, &frame);
    from.settle(at(0));
    to.settle(at(0));
    frame.header().last_nonce()
}

fn undo(log: &CommandLog, nonce: u64) -> Action {
    log.undo_command(nonce).unwrap()
}

#[test]
fn the_value_before_an_undone_one_is_back_and_redo_brings_the_later_one_again() {
    let (mut alice, mut bob) = two();
    write(&mut alice, &mut bob, stroke("red"));
    let blue = write(&mut alice, &mut bob, stroke("blue"));
    let command = undo(&alice, blue);
    write(&mut alice, &mut bob, command);
    for log in [&alice, &bob] {
        assert_eq!(value(log, STROKE, "s"), Some(&b"red"[..]));
    }
    let command = alice.redo_command(blue).unwrap();
    write(&mut alice, &mut bob, command);
    for log in [&alice, &bob] {
        assert_eq!(value(log, STROKE, "s"), Some(&b"blue"[..]));
    }
    assert_eq!(alice.state_hash(), bob.state_hash());
}

#[test]
fn what_others_wrote_stays_when_an_author_goes_back() {
    let (mut alice, mut bob) = two();
    let first = write(&mut alice, &mut bob, stroke("alice"));
    write(&mut bob, &mut alice, stroke("bob"));
    let command = undo(&alice, first);
    write(&mut alice, &mut bob, command);
    assert_eq!(value(&alice, STROKE, "s"), Some(&b"bob"[..]));
    // Each goes its own way back: the key is empty once both have.
    let last = bob.next_undo().unwrap();
    let command = undo(&bob, last);
    write(&mut bob, &mut alice, command);
    assert_eq!(value(&alice, STROKE, "s"), None);
}

#[test]
fn an_undone_claim_goes_to_whoever_claimed_next() {
    let (mut alice, mut bob) = two();
    let claim = |name: &str| put(CLAIM, "tile", name.to_owned());
    let first = write(&mut alice, &mut bob, claim("alice"));
    write(&mut bob, &mut alice, claim("bob"));
    let command = undo(&alice, first);
    write(&mut alice, &mut bob, command);
    for log in [&alice, &bob] {
        assert_eq!(value(log, CLAIM, "tile"), Some(&b"bob"[..]));
    }
}

#[test]
fn undone_terms_leave_a_sum_and_come_back_to_it() {
    let (mut alice, mut bob) = two();
    let add = |n: i64| put(COUNT, "sum", n.to_le_bytes().to_vec());
    let sum = |log: &CommandLog| {
        value(log, COUNT, "sum").map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
    };
    let five = write(&mut alice, &mut bob, add(5));
    write(&mut bob, &mut alice, add(7));
    let command = undo(&alice, five);
    write(&mut alice, &mut bob, command);
    assert_eq!((sum(&alice), sum(&bob)), (Some(7), Some(7)));
    write(&mut bob, &mut alice, add(1));
    let command = alice.redo_command(five).unwrap();
    write(&mut alice, &mut bob, command);
    assert_eq!((sum(&alice), sum(&bob)), (Some(13), Some(13)));
}

#[test]
fn going_back_and_forth_follows_the_own_commands_and_a_new_one_ends_the_way_forth() {
    let (mut alice, mut bob) = two();
    let nonces = ["a", "b", "c"].map(|text| write(&mut alice, &mut bob, stroke(text)));
    write(&mut bob, &mut alice, stroke("not mine"));
    assert_eq!(
        (alice.next_undo(), alice.next_redo()),
        (Some(nonces[2]), None)
    );
    for nonce in [nonces[2], nonces[1]] {
        assert_eq!(alice.next_undo(), Some(nonce));
        let command = undo(&alice, nonce);
        write(&mut alice, &mut bob, command);
    }
    assert_eq!(
        (alice.next_undo(), alice.next_redo()),
        (Some(nonces[0]), Some(nonces[1]))
    );
    let command = alice.redo_command(nonces[1]).unwrap();
    write(&mut alice, &mut bob, command);
    assert_eq!(
        (alice.next_undo(), alice.next_redo()),
        (Some(nonces[1]), Some(nonces[2]))
    );
    let new = write(&mut alice, &mut bob, stroke("new"));
    assert_eq!((alice.next_undo(), alice.next_redo()), (Some(new), None));
}

#[test]
fn what_a_returning_author_may_undo_is_what_it_could_before() {
    let (mut alice, mut bob) = two();
    let nonces = ["a", "b"].map(|text| write(&mut alice, &mut bob, stroke(text)));
    let command = undo(&alice, nonces[1]);
    write(&mut alice, &mut bob, command);
    let mut back = log(alice.genesis(), 0);
    back.restore(at(0), alice.frames().map(|frame| frame.bytes().clone()));
    assert_eq!(back.next_undo(), Some(nonces[0]));
    assert_eq!(back.next_redo(), Some(nonces[1]));
}

#[test]
fn only_what_stands_is_taken_back_and_only_by_its_author() {
    let (mut alice, mut bob) = two();
    let first = write(&mut alice, &mut bob, stroke("a"));
    assert!(bob.undo_command(first).is_none(), "bob has no such command");
    assert!(alice.redo_command(first).is_none(), "it stands");
    // The grant of roles, nothing at all, and what does not exist.
    for target in [1, 0, 99, u64::MAX] {
        assert!(alice.undo_command(target).is_none());
        let refused = alice.append(at(0), &[Action::Undo { target }]);
        assert_eq!(refused, Err(AppendError::NothingToReverse(target)));
    }
    let command = undo(&alice, first);
    write(&mut alice, &mut bob, command.clone());
    assert_eq!(
        alice.append(at(0), &[command]),
        Err(AppendError::NothingToReverse(first))
    );
}

/// An Undo names a put of its own author. One that names an Undo, itself, a later command, a role
/// or nothing takes its nonce and does nothing: to take an Undo back, redo the put.
#[test]
fn an_undo_of_anything_but_an_earlier_put_does_nothing() {
    let genesis = genesis();
    let mut forger = Forger::new(&genesis, 0);
    let mut reader = reader(&genesis);
    let put = |value: &'static [u8]| ActionRef::Put {
        key_type: STROKE,
        key: b"s",
        value,
    };
    let undo = |target| ActionRef::Undo { target };
    let role = ActionRef::SetRole {
        target: *id(1).as_bytes(),
        role: 1,
        covered_nonce: 0,
        covered_id: [0; 32],
    };
    // 1 to 3: the put, taken back, and the attempt to take that back.
    let frames = [
        forger.sign(&[put(b"red"), undo(1), undo(2)]),
        // 4 to 8: itself, a later one, nothing, a role.
        forger.sign(&[undo(4), undo(9), undo(0), role, undo(7)]),
        forger.sign(&[put(b"blue")]),
    ];
    for frame in &frames {
        reader.receive(at(0), frame.bytes.clone()).unwrap();
        reader.settle(at(0));
    }
    assert_eq!(value(&reader, STROKE, "s"), Some(&b"blue"[..]));
    assert_eq!(reader.role_of(id(1)), Role::Editor);
    let undone: Vec<_> = reader
        .entries_since(&[])
        .filter(|entry| entry.undone)
        .map(|entry| entry.nonce)
        .collect();
    assert_eq!(undone, [1]);
    let counted: Vec<_> = reader
        .entries_since(&[])
        .filter(|entry| !entry.counted)
        .map(|entry| entry.nonce)
        .collect();
    assert_eq!(counted, [3, 4, 5, 6, 8]);
}

/// Frames beyond a gap wait, so an Undo is never looked at before what it names.
#[test]
fn an_undo_that_arrives_before_its_target_waits_for_it() {
    let (mut alice, mut bob) = two();
    write(&mut alice, &mut bob, stroke("red"));
    let target = alice.append(at(0), &[stroke("blue")]).unwrap();
    let command = undo(&alice, target.header().first_nonce);
    let command = alice.append(at(0), &[command]).unwrap();
    for frame in [&command, &target] {
        give(&mut bob, frame);
        bob.settle(at(0));
        assert_eq!(value(&bob, STROKE, "s"), Some(&b"red"[..]));
    }
    alice.settle(at(0));
    assert_eq!(bob.state_hash(), alice.state_hash());
}

/// Whatever order they arrive in: what the revocation governs does not count, an Undo included.
#[test]
fn an_undo_that_a_revocation_governs_does_not_count() {
    let (mut alice, mut bob) = two();
    let put = bob.append(at(0), &[stroke("bob")]).unwrap();
    let covered = Covered {
        nonce: put.header().last_nonce(),
        id: put.id(),
    };
    let command = undo(&bob, covered.nonce);
    let command = bob.append(at(0), &[command]).unwrap();
    give(&mut alice, &put);
    let revoke = Action::SetRole {
        target: id(1),
        role: Role::Viewer,
        covered,
    };
    let revoke = alice.append(at(0), &[revoke]).unwrap();
    give(&mut alice, &command);
    give(&mut bob, &revoke);
    for log in [&mut alice, &mut bob] {
        log.settle(at(0));
        assert_eq!(value(log, STROKE, "s"), Some(&b"bob"[..]));
    }
    // Made an Editor again for its whole log, it has taken the command back after all.
    let restore = alice.append(at(0), &[set_role(1, Role::Editor)]).unwrap();
    alice.settle(at(0));
    assert_eq!(
        value(&alice, STROKE, "s"),
        Some(&b"bob"[..]),
        "grants do not reach back"
    );
    give(&mut bob, &restore);
    bob.settle(at(0));
    assert_eq!(alice.state_hash(), bob.state_hash());
}

#[test]
fn the_history_since_some_heads_is_what_came_after_them_in_order() {
    let (mut alice, mut bob) = two();
    let before = alice.heads();
    write(&mut alice, &mut bob, stroke("a"));
    // A frame of two commands of which one has been seen.
    let frame = bob.append(at(0), &[stroke("b1"), stroke("b2")]).unwrap();
    give(&mut alice, &frame);
    write(&mut alice, &mut bob, stroke("c"));
    let texts = |log: &CommandLog, heads: &[_]| -> Vec<String> {
        let of = |action| match action {
            Action::Put { value, .. } => String::from_utf8(value.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        log.entries_since(heads)
            .map(|entry| of(entry.action))
            .collect()
    };
    assert_eq!(texts(&alice, &before), ["a", "b1", "b2", "c"]);
    assert_eq!(texts(&alice, &alice.heads()), Vec::<String>::new());
    assert_eq!(texts(&alice, &[]).len(), 6, "with the two grants");
    let mut partly = alice.heads();
    for head in &mut partly {
        head.nonce -= 1;
        head.id = alice.frame_with(head.author, head.nonce).unwrap().id();
    }
    assert_eq!(texts(&alice, &partly), ["b2", "c"]);
}
