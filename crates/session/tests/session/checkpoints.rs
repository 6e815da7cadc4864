//! What everyone has agreed to is final, and whoever comes later takes it as a whole.

use std::time::Duration;

use roundtable_command_log::{
    AuthorAtCut, Checkpoint, CheckpointName, FrameId, HeadAtCut, ProposeError, Role, Stable,
    StateHash,
};
use roundtable_core::{
    Channel::{Command, Control as ControlChannel, Snapshot},
    CloseCode, Frame,
    TransportKind::Quic,
};
use roundtable_session::{Event, GenesisSource, Input, InputError};
use roundtable_wire::{commands::ActionRef, session::Control};

use crate::world::{World, author, config, counted, forge, note, params, trail};

const TRIO: [&str; 3] = ["alice", "bob", "carol"];

fn stable(world: &World, name: &str) -> Option<Stable> {
    let log = world.node(name).session.log()?;
    log.checkpoint()
}

fn number(world: &World, name: &str) -> u64 {
    stable(world, name).map_or(0, |stable| stable.number)
}

/// Three who have written, and agreed on a checkpoint of it.
fn agreed(seed: u64, newcomers: &[&str]) -> World {
    let names = [&TRIO[..], newcomers].concat();
    let mut world = World::founded_by(seed, &names);
    world.mesh(&TRIO);
    world.secs(1);
    for name in TRIO {
        world.submit(name, vec![trail(name), note(name, &"x".repeat(40_000))]);
    }
    world.secs(10);
    world.input("alice", Input::ProposeCheckpoint).unwrap();
    world.secs(1);
    world
}

#[test]
fn peers_that_are_linked_agree_within_a_second() {
    let world = agreed(1, &[]);
    for name in TRIO {
        assert_eq!(stable(&world, name), stable(&world, "alice"));
        assert_eq!(number(&world, name), 1);
        let told =
            |event: &Event| matches!(event, Event::CheckpointStable(told) if told.number == 1);
        assert!(world.node(name).events.iter().any(told));
    }
    world.common_hash();
}

#[test]
fn only_an_admin_proposes() {
    let mut world = agreed(2, &[]);
    let refused = world.input("bob", Input::ProposeCheckpoint);
    let expected = InputError::NoCheckpoint(ProposeError::NotAdmin);
    assert_eq!(refused, Err(expected));
}

#[test]
fn who_joins_later_fetches_what_is_final_and_then_what_came_since() {
    let mut world = agreed(3, &["dave"]);
    let since = ["a", "b", "c"].map(trail).to_vec();
    world.submit("bob", since);
    world.secs(1);
    world.link("dave", "bob", Quic);
    world.secs(3);
    world.common_hash();
    assert_eq!(number(&world, "dave"), 1);
    // Bob has sent the three notes, and no frame that the checkpoint has made superfluous.
    let (pieces, bytes) = world.node("bob").sent[&Snapshot];
    assert!(
        pieces == 2 && bytes > 120_000,
        "{pieces} pieces, {bytes} bytes"
    );
    world.link("dave", "alice", Quic);
    world.link("dave", "carol", Quic);
    world.secs(3);
    // Dave is one of them: the next checkpoint needs him once he has written.
    world.submit("dave", vec![trail("dave")]);
    world.secs(10);
    world.input("alice", Input::ProposeCheckpoint).unwrap();
    world.secs(2);
    for name in ["alice", "bob", "carol", "dave"] {
        assert_eq!(number(&world, name), 2);
    }
    world.common_hash();
}

#[test]
fn a_long_state_comes_in_many_answers() {
    let names = ["alice", "bob"];
    let mut world = World::founded_by(4, &["alice", "bob"]);
    for n in 0..20 {
        let name = format!("note {n}");
        world.submit("alice", vec![note(&name, &n.to_string().repeat(30_000))]);
        world.millis(200);
    }
    world.input("alice", Input::ProposeCheckpoint).unwrap();
    world.secs(1);
    assert_eq!(number(&world, "alice"), 1, "alone, her own word is enough");
    world.mesh(&names);
    world.secs(3);
    assert_eq!(number(&world, "bob"), 1);
    world.common_hash();
    assert_eq!(world.node("bob").closed, []);
}

#[test]
fn who_was_away_goes_on_from_the_checkpoint_that_was_agreed_without_it() {
    let mut world = agreed(5, &[]);
    for link in world.links_of("carol") {
        world.unplug(link);
    }
    world.submit("carol", vec![trail("(carol, alone)")]);
    world.submit("alice", vec![trail("(alice)")]);
    world.secs(10);
    for name in ["alice", "bob"] {
        let retire = Input::Retire {
            author: author("carol"),
        };
        world.input(name, retire).unwrap();
    }
    world.secs(10);
    world.input("alice", Input::ProposeCheckpoint).unwrap();
    world.secs(1);
    assert_eq!(number(&world, "bob"), 2);

    world.link("carol", "bob", Quic);
    world.link("carol", "alice", Quic);
    world.secs(5);
    assert_eq!(number(&world, "carol"), 2);
    world.common_hash();
    let trail_of = |world: &World, name| world.node(name).trail();
    assert!(!trail_of(&world, "bob").contains("alone"), "too late");
    world.submit("carol", vec![trail("(carol, back)")]);
    world.secs(1);
    world.common_hash();
    assert!(trail_of(&world, "alice").ends_with("(carol, back)"));
}

#[test]
fn a_snapshot_that_nobody_committed_costs_its_sender_the_link() {
    let mut world = agreed(6, &["dave"]);
    // Alice's answer is false; Bob's is not.
    let link = world.link("dave", "alice", Quic);
    let Some(snapshot) = world.node("alice").session.log().unwrap().snapshot(0) else {
        panic!("there is one");
    };
    let mut bytes = snapshot.encode().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    world.forge_snapshot("alice", link, &bytes);
    world.secs(2);
    let closed = &world.node("dave").closed;
    assert_eq!(closed, &[(link, CloseCode::PROTOCOL)]);
    assert_eq!(stable(&world, "dave"), None);
    world.link("dave", "bob", Quic);
    world.secs(3);
    assert_eq!(number(&world, "dave"), 1);
    world.common_hash();
}

#[test]
fn pieces_that_nobody_asked_for_are_dropped() {
    let mut world = agreed(7, &[]);
    let link = world.links_of("alice")[0];
    let before = world.node("bob").sent[&ControlChannel];
    for message in [&b"RTK1"[..], &[b"RTK1".as_slice(), &[0xff; 40]].concat()] {
        let frame = Frame::binary(Snapshot, message.to_vec());
        world.inject_frame("alice", link, frame);
    }
    world.inject(
        "alice",
        link,
        &Control::WantCheckpoint {
            after: u64::MAX,
            offset: u64::MAX,
        },
    );
    world.inject(
        "alice",
        link,
        &Control::WantCheckpoint {
            after: 0,
            offset: u64::MAX,
        },
    );
    world.inject(
        "alice",
        link,
        &Control::Pruned {
            checkpoints: u64::MAX,
        },
    );
    world.secs(10);
    world.common_hash();
    assert!(world.node("bob").sent[&ControlChannel].0 > before.0);
    assert!(world.node("bob").closed.is_empty() && world.node("carol").closed.is_empty());
}

#[test]
fn a_peer_with_a_log_of_its_own_adopts_no_snapshot_of_another_room() {
    let mut world = agreed(8, &[]);
    world.add(
        config("eve", GenesisSource::Create(crate::world::params(9))),
        "eve",
    );
    world.link("eve", "alice", Quic);
    world.secs(2);
    assert_eq!(number(&world, "eve"), 0);
    assert!(!world.node("eve").sent.contains_key(&Command));
}

#[test]
fn an_admin_that_is_told_to_proposes_from_time_to_time_and_only_what_is_new() {
    let mut world = World::new(9);
    let alice = config("alice", GenesisSource::Create(crate::world::params(1)));
    let alice = alice.with_checkpoint_interval(Duration::from_secs(10));
    world.add(alice, "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis)), "bob");
    world.mesh(&["alice", "bob"]);
    world.secs(1);
    world.submit("bob", vec![trail("bob")]);
    world.secs(20);
    assert_eq!(number(&world, "bob"), 1);
    world.secs(60);
    assert_eq!(number(&world, "bob"), 1, "nothing was written since");
    world.submit("bob", vec![trail("again")]);
    world.secs(20);
    assert_eq!(number(&world, "alice"), 2);
    world.common_hash();
}

#[test]
fn a_proposal_of_a_stranger_keeps_nobody_from_proposing() {
    let mut world = World::new(20);
    let alice = config("alice", GenesisSource::Create(crate::world::params(1)));
    let alice = alice.with_checkpoint_interval(Duration::from_secs(10));
    world.add(alice, "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis.clone())), "bob");
    let link = world.link("alice", "bob", Quic);
    world.secs(1);
    // Mallory names herself an Admin, in her own proposal.
    let nothing = HeadAtCut {
        nonce: 0,
        id: FrameId::NONE,
        lamport: 0,
        wall_ms: genesis.params().wall.as_millis(),
        budget: 0,
    };
    let mallory = AuthorAtCut {
        author: author("mallory"),
        head: nothing,
        role: Some((Role::Admin, 1)),
    };
    let proposal = Checkpoint {
        number: 1,
        previous: CheckpointName::NONE,
        proposer: author("mallory"),
        cut: 1,
        state: StateHash::from_bytes([0; 32]),
        authors: vec![mallory],
    };
    let checkpoint = &proposal.encode();
    let propose = ActionRef::Propose { checkpoint };
    let frame = forge(&genesis, "mallory", ([0; 32], 1), propose);
    world.inject_frame("bob", link, Frame::binary(Command, frame));
    world.submit("bob", vec![trail("bob")]);
    world.secs(1);
    let log = world.node("alice").session.log().unwrap();
    assert!(log.head(author("mallory")).is_some(), "alice has seen it");
    world.secs(20);
    assert_eq!(number(&world, "bob"), 1);
    world.common_hash();
}

#[test]
fn a_flood_of_requests_is_answered_at_a_pace() {
    let mut world = agreed(10, &[]);
    let link = world.links_of("alice")[0];
    for offset in 0..500 {
        let want = Control::WantCheckpoint { after: 0, offset };
        world.inject("alice", link, &want);
    }
    world.millis(200);
    // One answer of a few pieces each five milliseconds.
    let (pieces, _) = world.node("bob").sent[&Snapshot];
    assert!((1..=160).contains(&pieces), "{pieces}");
}

/// A piece of a snapshot, as it travels.
fn piece(number: u64, len: u64, offset: u64, bytes: &[u8]) -> Frame {
    let fields = [number, len, offset].map(u64::to_le_bytes).concat();
    Frame::binary(Snapshot, [b"RTK1", &fields[..], bytes].concat())
}

/// Dave meets mallory first, who claims to have more checkpoints than anyone and sends a piece each half second.
/// How many checkpoints dave has in the end, and how many snapshots were too long for him.
fn dave_after(secs: u64, seed: u64, sent: impl Fn(u64) -> Frame) -> (u64, u64) {
    let mut world = agreed(seed, &["dave", "mallory"]);
    let link = world.link("dave", "mallory", Quic);
    world.millis(200);
    let claim = Control::Pruned {
        checkpoints: u64::MAX,
    };
    world.inject("mallory", link, &claim);
    world.millis(200);
    world.link("dave", "bob", Quic);
    for nth in 0..secs * 2 {
        if world.node("dave").closed.is_empty() {
            world.inject_frame("mallory", link, sent(nth));
        }
        world.millis(500);
    }
    let oversized = counted(&world, "dave", "session_oversized_snapshots");
    (number(&world, "dave"), oversized)
}

#[test]
fn a_peer_that_brings_nothing_new_does_not_keep_others_from_being_asked() {
    // A snapshot of no checkpoint at all; one that begins beyond the first; an empty piece; a byte at a time.
    let nothing = [&[1][..], &[0; 12]].concat();
    assert_eq!(dave_after(5, 11, |_| piece(9, 13, 0, &nothing)).0, 1);
    let gap = [&[1, 7][..], &[0; 11]].concat();
    assert_eq!(dave_after(5, 12, |_| piece(9, 13, 0, &gap)).0, 1);
    assert_eq!(dave_after(5, 13, |_| piece(9, 100, 0, &[])).0, 1);
    assert_eq!(dave_after(5, 14, |nth| piece(9, 100, nth, &[0])).0, 1);
}

#[test]
fn a_peer_that_begins_anew_for_ever_is_left_after_its_turn() {
    let full = [0; 60 * 1024];
    let endless = |nth| piece(nth + 1, 1 << 27, 0, &full);
    assert_eq!(dave_after(20, 15, endless).0, 0, "he cannot know yet");
    assert_eq!(dave_after(35, 15, endless).0, 1);
}

#[test]
fn a_snapshot_that_is_too_long_is_counted_and_another_asked() {
    let (number, oversized) = dave_after(5, 16, |_| piece(9, (256 << 20) + 1, 0, &[0; 60 * 1024]));
    assert_eq!(number, 1);
    assert!(oversized > 0);
}

fn too_long(world: &World, name: &str) -> Vec<(Option<String>, u64, u64)> {
    let told = world.node(name).events.iter();
    let told = told.filter_map(|event| match event {
        Event::SnapshotTooLong { peer, len, max } => {
            let peer = peer.as_ref().map(|peer| peer.as_str().to_owned());
            Some((peer, *len, *max))
        }
        _ => None,
    });
    told.collect()
}

/// The members have a bound of 50 kB, dave has one of 30 kB. Two checkpoints are small, the third is not.
#[test]
fn users_are_told_when_the_state_is_too_long_to_be_joined_and_when_it_is_not_any_more() {
    let mut world = World::new(21);
    let source = GenesisSource::Create(params(1));
    world.add(
        config("alice", source).with_max_snapshot_len(50_000),
        "alice",
    );
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    for (name, max) in [("bob", 50_000), ("dave", 30_000)] {
        let source = GenesisSource::Known(genesis.clone());
        world.add(config(name, source).with_max_snapshot_len(max), name);
    }
    world.mesh(&["alice", "bob"]);
    world.secs(1);
    let checkpoint = |world: &mut World, len: usize| {
        for (key, len) in [("a", len), ("b", 10)] {
            world.submit("alice", vec![note(key, &"x".repeat(len))]);
        }
        world.secs(10);
        world.input("alice", Input::ProposeCheckpoint).unwrap();
        world.secs(1);
    };
    checkpoint(&mut world, 40_000);
    assert_eq!(too_long(&world, "bob"), []);
    let link = world.link("dave", "alice", Quic);
    world.secs(10);
    // He asks again and again, and is told once.
    let told = too_long(&world, "dave");
    assert!(
        matches!(&told[..], [(Some(peer), 40_000.., 30_000)] if peer == "alice"),
        "{told:?}"
    );
    assert_eq!(number(&world, "dave"), 0);

    checkpoint(&mut world, 55_000);
    for name in ["alice", "bob"] {
        let told = too_long(&world, name);
        assert!(
            matches!(told[..], [(None, 55_000.., 50_000)]),
            "{name}: {told:?}"
        );
    }
    // What is longer than is made is not sent either, only how long it is.
    world.unplug(link);
    let sent = world.node("alice").sent[&Snapshot];
    world.link("dave", "alice", Quic);
    world.secs(10);
    let (_, bytes) = world.node("alice").sent[&Snapshot];
    assert!(bytes - sent.1 < 1000, "{sent:?}, {bytes}");
    assert_eq!(too_long(&world, "dave").len(), 2);

    checkpoint(&mut world, 10);
    world.secs(10);
    assert_eq!(number(&world, "dave"), 3);
    assert_eq!(too_long(&world, "alice").len(), 1);
}

#[test]
fn who_asks_for_many_snapshots_does_not_keep_others_waiting() {
    let mut world = World::founded_by(17, &["alice", "bob", "mallory"]);
    for n in 0..8 {
        world.submit("alice", vec![trail(&n.to_string())]);
        world.secs(5);
        world.input("alice", Input::ProposeCheckpoint).unwrap();
        world.secs(1);
    }
    assert_eq!(number(&world, "alice"), 8);
    let link = world.link("mallory", "alice", Quic);
    world.millis(200);
    // Whenever one may be made, what she wants is not among those that are kept.
    let ask = |world: &mut World, times: std::ops::Range<u64>| {
        for nth in times {
            let after = 1 + (nth + 10) / 20 % 7;
            let want = Control::WantCheckpoint { after, offset: 0 };
            world.inject("mallory", link, &want);
            world.millis(10);
        }
    };
    ask(&mut world, 0..200);
    world.link("bob", "alice", Quic);
    ask(&mut world, 200..500);
    assert_eq!(number(&world, "bob"), 8);
}

#[test]
fn nothing_is_said_of_checkpoints_while_the_genesis_may_give_way() {
    let mut world = World::new(18);
    let loose = |name, room| config(name, GenesisSource::FirstCome(crate::world::params(room)));
    let alice = loose("alice", 1).with_checkpoint_interval(Duration::from_secs(10));
    world.add(alice, "alice");
    world.add(
        config("bob", GenesisSource::Create(crate::world::params(2))),
        "bob",
    );
    world.input("alice", Input::AloneInRoom).unwrap();
    world.submit("alice", vec![trail("(alice, alone)")]);
    world.secs(30);
    let refused = world.input("alice", Input::ProposeCheckpoint);
    assert_eq!(refused, Err(InputError::Unsettled));
    assert_eq!(number(&world, "alice"), 0);
    // Bob's genesis is firm, and alice takes it with what she has written.
    world.link("alice", "bob", Quic);
    world.secs(5);
    world.common_hash();
    assert_eq!(world.node("bob").trail(), "(alice, alone)");
}

#[test]
fn with_a_checkpoint_a_genesis_stays_firm() {
    let mut world = World::new(19);
    let loose = |name, room| config(name, GenesisSource::FirstCome(crate::world::params(room)));
    world.add(loose("alice", 1), "alice");
    world.add(loose("bob", 9), "bob");
    world.add(
        config("carol", GenesisSource::Create(crate::world::params(2))),
        "carol",
    );
    world.input("alice", Input::AloneInRoom).unwrap();
    let link = world.link("bob", "alice", Quic);
    world.submit("alice", vec![trail("(alice)")]);
    world.secs(10);
    world.input("alice", Input::ProposeCheckpoint).unwrap();
    world.secs(1);
    assert_eq!(number(&world, "alice"), 1);
    world.unplug(link);
    world.secs(1);
    world.link("alice", "carol", Quic);
    world.secs(5);
    assert_eq!(world.node("alice").trail(), "(alice)");
    assert_eq!(number(&world, "alice"), 1);
}
