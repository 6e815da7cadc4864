//! Who may do what, told as stories about Alice (0, the creator), Bob (1), Carol (2) and Dave (3).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use common::*;
use roundtable_command_log::{Action, CommandLog, Covered, FrameId, Role};
use roundtable_wire::commands::ActionRef;

const ALICE: u8 = 0;
const BOB: u8 = 1;
const CAROL: u8 = 2;
const DAVE: u8 = 3;

/// Four authors who sign what they like, at the Lamport times that the story says.
struct Story {
    authors: Vec<Forger>,
    frames: Vec<bytes::Bytes>,
    genesis: roundtable_command_log::Genesis,
}

impl Story {
    fn new() -> Self {
        Self::in_room(genesis())
    }

    /// A room with places for so many who write, the creator among them.
    fn with_places(max_writers: u16) -> Self {
        Self::in_room(genesis_with(|params| params.max_writers = max_writers))
    }

    fn in_room(genesis: roundtable_command_log::Genesis) -> Self {
        Self {
            authors: (0..4).map(|seed| Forger::new(&genesis, seed)).collect(),
            frames: Vec::new(),
            genesis,
        }
    }

    fn sign(&mut self, who: u8, lamport: u64, action: ActionRef<'_>) -> u64 {
        let author = &mut self.authors[usize::from(who)];
        author.lamport = lamport;
        let nonce = author.nonce;
        self.frames.push(author.sign(&[action]).bytes);
        nonce
    }

    fn role(&mut self, who: u8, lamport: u64, target: u8, role: Role, covered: u64) {
        let action = ActionRef::SetRole {
            target: *id(target).as_bytes(),
            role: role.number(),
            covered_nonce: covered,
            covered_id: [0; 32],
        };
        self.sign(who, lamport, action);
    }

    /// Writes to a key of its own, and returns the nonce.
    fn writes(&mut self, who: u8, lamport: u64, key: &str) -> u64 {
        let action = ActionRef::Put {
            key_type: STROKE,
            key: key.as_bytes(),
            value: b"x",
        };
        self.sign(who, lamport, action)
    }

    /// The log once all has arrived, in the order told and in reverse: both must agree.
    fn end(&self) -> CommandLog {
        let mut told = reader(&self.genesis);
        for frame in &self.frames {
            told.receive(at(0), frame.clone()).unwrap();
            told.settle(at(0));
        }
        let mut reversed = reader(&self.genesis);
        for frame in self.frames.iter().rev() {
            reversed.receive(at(0), frame.clone()).unwrap();
            reversed.settle(at(0));
        }
        assert_eq!(told.state_hash(), reversed.state_hash());
        told
    }

    fn counted(&self) -> Vec<String> {
        let log = self.end();
        log.entries(STROKE)
            .map(|(key, _)| String::from_utf8(key.bytes.to_vec()).unwrap())
            .collect()
    }
}

#[test]
fn a_viewers_commands_do_not_count_until_after_it_is_an_editor() {
    let mut story = Story::new();
    story.writes(BOB, 1, "before");
    story.role(ALICE, 5, BOB, Role::Editor, 0);
    story.writes(BOB, 5, "at the same time");
    story.writes(BOB, 6, "after");
    assert_eq!(story.counted(), ["after"]);
}

/// "Rejects" means that they do not count, not that their frames are refused. Who was revoked when is a matter of all role commands,
/// which arrive in any order: a log that refused the frames of a revoked author would lack them where the revocation turns out not to
/// count, or to cover less, and so never agree with a log that had them first. Their frames are kept, relayed and
/// numbered like any other, and change nothing.
#[test]
fn command_log_rejects_entries_from_revoked_author() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Editor, 0);
    let covered = story.writes(BOB, 2, "covered");
    story.role(ALICE, 10, BOB, Role::Viewer, covered);
    story.writes(BOB, 3, "backdated");
    story.writes(BOB, 11, "afterwards");
    assert_eq!(story.counted(), ["covered"]);
}

#[test]
fn an_author_that_is_trusted_again_does_not_get_back_what_was_taken() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Editor, 0);
    story.role(ALICE, 10, BOB, Role::Viewer, 0);
    story.writes(BOB, 5, "revoked");
    story.role(ALICE, 20, BOB, Role::Editor, 0);
    story.writes(BOB, 21, "again");
    assert_eq!(story.counted(), ["again"]);
}

#[test]
fn nobody_revokes_the_creator() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Admin, 0);
    story.role(BOB, 2, ALICE, Role::Viewer, 0);
    story.role(ALICE, 3, ALICE, Role::Viewer, 0);
    story.writes(ALICE, 4, "still here");
    assert_eq!(story.counted(), ["still here"]);
    assert_eq!(story.end().role_of(id(ALICE)), Role::Admin);
}

#[test]
fn an_editor_gives_no_roles() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Editor, 0);
    story.role(BOB, 2, CAROL, Role::Editor, 0);
    story.writes(CAROL, 3, "no");
    assert_eq!(story.end().role_of(id(CAROL)), Role::Viewer);
    assert!(story.counted().is_empty());
}

#[test]
fn an_admin_of_higher_rank_cannot_undo_what_a_lower_one_ruled() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Admin, 0);
    story.role(BOB, 2, CAROL, Role::Admin, 0);
    story.role(CAROL, 3, BOB, Role::Viewer, 0);
    story.writes(BOB, 4, "bob stays");
    story.role(ALICE, 5, DAVE, Role::Viewer, 0);
    story.role(BOB, 6, DAVE, Role::Editor, 0);
    story.writes(DAVE, 7, "dave may not");
    assert_eq!(story.counted(), ["bob stays"]);
}

#[test]
fn equals_cannot_revoke_each_other() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Admin, 0);
    story.role(ALICE, 2, CAROL, Role::Admin, 0);
    story.role(BOB, 3, CAROL, Role::Viewer, 0);
    story.role(CAROL, 3, BOB, Role::Viewer, 0);
    let log = story.end();
    assert_eq!(log.role_of(id(BOB)), Role::Admin);
    assert_eq!(log.role_of(id(CAROL)), Role::Admin);
}

#[test]
fn with_an_admin_go_the_rulings_it_made_beyond_what_was_covered() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Admin, 0);
    story.role(BOB, 2, CAROL, Role::Editor, 0); // Bob's nonce 1
    story.role(BOB, 3, DAVE, Role::Editor, 0); // Bob's nonce 2
    story.writes(CAROL, 4, "carol");
    story.writes(DAVE, 4, "dave");
    story.role(ALICE, 9, BOB, Role::Viewer, 1);
    assert_eq!(story.counted(), ["carol"]);
}

#[test]
fn two_who_appoint_each_other_gain_nothing() {
    let mut story = Story::new();
    story.role(BOB, 1, CAROL, Role::Admin, 0);
    story.role(CAROL, 1, BOB, Role::Admin, 0);
    story.writes(BOB, 2, "bob");
    assert!(story.counted().is_empty());
}

#[test]
fn an_admin_that_becomes_an_editor_keeps_writing_and_stops_ruling() {
    let mut story = Story::new();
    story.role(ALICE, 1, BOB, Role::Admin, 0);
    story.role(ALICE, 10, BOB, Role::Editor, 0);
    story.writes(BOB, 2, "unseen");
    story.role(BOB, 3, CAROL, Role::Editor, 0);
    story.writes(CAROL, 11, "carol");
    assert_eq!(story.counted(), ["unseen"]);
}

#[test]
fn a_room_may_let_everyone_edit_and_still_revoke() {
    let genesis = genesis_with(|params| params.default_role = Role::Editor);
    let mut alice = log(&genesis, ALICE);
    let mut bob = log(&genesis, BOB);
    let wrote = bob.append(at(0), &[stroke("hi")]).unwrap();
    give(&mut alice, &wrote);
    let head = bob.own_head().unwrap();
    let revoke = alice.role_command(id(BOB), Role::Viewer);
    let covered = Covered {
        nonce: head.nonce,
        id: head.id,
    };
    let Action::SetRole { covered: named, .. } = revoke else {
        panic!("not a role command");
    };
    assert_eq!(named, covered);
    assert_ne!(named.id, FrameId::NONE);
    let revoked = alice.append(at(0), &[revoke]).unwrap();
    give(&mut bob, &revoked);
    assert!(bob.append(at(0), &[stroke("bye")]).is_err());
    bob.settle(at(0));
    assert_eq!(value(&bob, STROKE, "s"), Some(&b"hi"[..]));
}

#[test]
fn a_room_has_no_more_writers_than_places() {
    let mut story = Story::with_places(2);
    story.role(ALICE, 1, BOB, Role::Editor, 0);
    story.role(ALICE, 2, CAROL, Role::Editor, 0);
    story.writes(BOB, 3, "bob");
    story.writes(CAROL, 3, "carol");
    assert_eq!(story.counted(), ["bob"]);
    let told: Vec<_> = applied(&mut story.end())
        .iter()
        .map(|a| a.counted)
        .collect();
    assert_eq!(
        told,
        [true, false, true, false],
        "the second grant, and what rests on it"
    );

    // Who writes already takes no other place, and who no longer does makes room.
    story.role(ALICE, 4, BOB, Role::Admin, 1);
    story.role(ALICE, 5, BOB, Role::Viewer, 1);
    story.role(ALICE, 6, DAVE, Role::Editor, 0);
    story.writes(CAROL, 7, "carol again");
    story.writes(DAVE, 7, "dave");
    assert_eq!(story.counted(), ["bob", "dave"]);
}

/// Bob is an Admin by Alice's leave: for all whom he lets in, those whom she lets in come first, whenever.
#[test]
fn those_whom_a_lower_rank_lets_in_have_the_places() {
    let mut story = Story::with_places(3);
    story.role(ALICE, 1, BOB, Role::Admin, 0);
    story.role(BOB, 2, CAROL, Role::Editor, 0);
    story.writes(CAROL, 3, "carol");
    assert_eq!(story.counted(), ["carol"]);
    story.role(ALICE, 9, DAVE, Role::Editor, 0);
    story.writes(DAVE, 10, "dave");
    assert_eq!(story.counted(), ["dave"]);
}

/// An Admin who found no place is none: what it rules does not count either.
#[test]
fn who_finds_no_place_rules_nothing() {
    let mut story = Story::with_places(2);
    story.role(ALICE, 1, BOB, Role::Editor, 0);
    story.role(ALICE, 2, CAROL, Role::Admin, 0);
    story.role(CAROL, 3, BOB, Role::Viewer, 0);
    story.writes(BOB, 4, "bob");
    assert_eq!(story.counted(), ["bob"]);
    assert_eq!(story.end().role_of(id(CAROL)), Role::Viewer);
}
