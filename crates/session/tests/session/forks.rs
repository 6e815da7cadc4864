//! Two copies of one identity sign, far apart: everyone finds out, and comes to the same end.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_command_log::{CommandLog, Genesis, GenesisParams, Role};
use roundtable_core::{AuthorId, Channel, Timestamp, TransportKind::Quic};
use roundtable_session::{Event, GenesisSource, Input};
use roundtable_wire::session::{Control, Head};

use crate::world::*;

/// Bob writes ten commands that alice sees. Then a copy of him, restored from a backup of the first six,
/// writes others with carol, while alice, dave and bob are out of reach.
fn two_bobs() -> World {
    let mut world = World::founded_by(31, &["alice", "bob", "carol", "dave"]);
    world.mesh(&["alice", "bob", "carol", "dave"]);
    world.secs(1);
    for round in 0..6 {
        world.submit("bob", vec![trail(&round.to_string())]);
        world.millis(20);
    }
    world.secs(3);
    let log = world.node("bob").session.log().unwrap();
    let backup: Vec<_> = log.frames().map(|frame| frame.bytes().clone()).collect();
    for id in world.links_of("carol") {
        world.unplug(id);
    }
    for round in 6..10 {
        world.submit("bob", vec![trail(&round.to_string())]);
        world.millis(20);
    }
    world.secs(1);
    for id in world.links_of("bob") {
        world.unplug(id);
    }
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis)), "bob");
    world.restore("bob", backup);
    world.link("bob", "carol", Quic);
    world.secs(3);
    world.submit("bob", vec![trail("!")]);
    world.submit("bob", vec![trail("?")]);
    world.secs(1);
    assert_eq!(world.node("alice").trail(), "0123456789");
    assert_eq!(world.node("carol").trail(), "012345!?");
    world
}

fn offenders(world: &World, name: &str) -> usize {
    let events = &world.node(name).events;
    let forked =
        |event: &&Event| matches!(event, Event::Forked(proof) if proof.author() == author("bob"));
    events.iter().filter(forked).count()
}

#[test]
fn a_fork_below_the_heads_is_found_proven_and_spread() {
    let mut world = two_bobs();
    // Only carol and alice meet; dave hears of it from alice alone.
    world.link("carol", "alice", Quic);
    world.secs(8);
    for name in ["alice", "carol", "dave"] {
        assert_eq!(world.node(name).trail(), "012345", "{name}");
        assert_eq!(offenders(&world, name), 1, "{name}");
        let retracted = |event: &Event| matches!(event, Event::Retracted { after: 6, .. });
        assert!(world.node(name).events.iter().any(retracted), "{name}");
    }
    world.common_hash();

    // A newcomer learns it with the rest.
    world.add(config("erin", GenesisSource::FirstCome(params(9))), "erin");
    world.link("erin", "dave", Quic);
    world.secs(8);
    assert_eq!(offenders(&world, "erin"), 1);
    let proofs = |name: &str| world.node(name).session.log().map(CommandLog::forks);
    assert_eq!(proofs("erin").map(|forks| forks.len()), Some(1));
}

#[test]
fn who_finds_its_own_log_forked_says_so_and_an_admin_restores_it() {
    let mut world = two_bobs();
    world.link("carol", "alice", Quic);
    world.secs(5);
    assert_eq!(offenders(&world, "bob"), 1);
    let refused = world.input(
        "bob",
        Input::Submit {
            actions: vec![trail("x")],
        },
    );
    assert!(refused.is_err());

    // Alice has followed the first Bob's branch, and chooses it. The second gets what it had lost.
    let log = world.node("alice").session.log().unwrap();
    let restore = log.restore_command(author("bob"), Role::Editor).unwrap();
    world.submit("alice", vec![restore]);
    world.secs(8);
    for name in ["alice", "carol", "dave"] {
        assert_eq!(world.node(name).trail(), "0123456789", "{name}");
    }
    world.common_hash();
    world.submit("bob", vec![trail("!")]);
    world.secs(6);
    assert_eq!(world.node("dave").trail(), "0123456789!");
    assert_eq!(offenders(&world, "dave"), 1);
}

/// A member says again and again that it holds more of a newcomer's log than the newcomer does.
#[test]
fn a_member_that_lies_about_heads_keeps_nobody_from_writing() {
    let mut world = World::founded_by(33, &["alice", "eve", "bob"]);
    world.link("eve", "alice", Quic);
    world.secs(1);
    let lie = |world: &mut World| {
        let head = Head {
            author: author("bob"),
            id: [7; 32],
            nonce: 1000,
        };
        for link in world.links_of("eve") {
            world.inject("eve", link, &Control::Heads(vec![head]));
        }
    };
    world.link("bob", "eve", Quic);
    world.millis(90); // enough for a handshake, not for an answer to heads
    assert!(!world.node("bob").session.may_sign());
    lie(&mut world);
    world.link("bob", "alice", Quic);
    let mut waited = 0;
    while !world.node("bob").session.may_sign() {
        lie(&mut world);
        world.millis(200);
        waited += 1;
        assert!(waited < 25, "kept from signing");
    }
    for _ in 0..20 {
        lie(&mut world);
        world.millis(50);
    }
    world.submit("bob", vec![trail("here")]);
    world.secs(3);
    assert_eq!(world.node("alice").trail(), "here");
}

/// A room in which everyone may write, and of each of `count` authors a frame and two that follow it.
fn room_of_forked(count: u16, len: usize) -> (World, Vec<AuthorId>, Vec<Bytes>) {
    let mut world = World::new(34);
    let params = GenesisParams {
        default_role: Role::Editor,
        ..params(1)
    };
    world.add(config("alice", GenesisSource::Create(params)), "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    let forked = (0..count).map(|number| {
        let seed = blake3::hash(&number.to_le_bytes());
        forked_log(&genesis, &SigningKey::from_bytes(seed.as_bytes()), len)
    });
    let (authors, frames): (_, Vec<_>) = forked.unzip();
    for name in ["bob", "eve"] {
        world.add(config(name, GenesisSource::Known(genesis.clone())), name);
    }
    (world, authors, frames.concat())
}

fn forked_log(genesis: &Genesis, key: &SigningKey, len: usize) -> (AuthorId, Vec<Bytes>) {
    let wall = at(Timestamp::ZERO).wall;
    let open = || CommandLog::new(genesis.clone(), schema(), Some(key.clone())).unwrap();
    let (mut left, mut right) = (open(), open());
    let first = left.append(wall, &[note("first", "")]).unwrap();
    right.receive(wall, first.bytes().clone()).unwrap();
    let sides = [(&mut left, "l"), (&mut right, "r")];
    let sides = sides.map(|(log, text)| log.append(wall, &[note("side", &text.repeat(len))]));
    let frames = [Ok(first)].into_iter().chain(sides);
    let frames = frames.map(|frame| frame.unwrap().bytes().clone());
    (left.own_author().unwrap(), frames.collect())
}

fn forks_at(world: &World, name: &str) -> usize {
    let log = world.node(name).session.log().unwrap();
    log.forks().len()
}

#[test]
fn more_forks_than_one_message_lists_are_all_told() {
    let (mut world, authors, frames) = room_of_forked(600, 1);
    world.restore("alice", frames);
    world.link("alice", "bob", Quic);
    world.secs(20);
    assert_eq!(forks_at(&world, "bob"), authors.len());
}

/// Eve announces, again and again, as many forks as one peer may be asked to prove.
#[test]
fn a_member_that_announces_what_it_cannot_prove_keeps_no_proof_away() {
    let (mut world, authors, frames) = room_of_forked(3, 1);
    world.restore("alice", frames);
    let link = world.link("eve", "bob", Quic);
    world.secs(1);
    let made_up: Vec<_> = (0..512_u32)
        .map(|number| Head {
            author: AuthorId::from_bytes(*blake3::hash(&number.to_be_bytes()).as_bytes()),
            id: [0; 32],
            nonce: 0,
        })
        .collect();
    let lie = |world: &mut World| world.inject("eve", link, &Control::Forks(made_up.clone()));
    lie(&mut world);
    world.link("alice", "bob", Quic);
    for _ in 0..1600 {
        lie(&mut world);
        world.millis(5);
    }
    assert_eq!(forks_at(&world, "bob"), authors.len());
}

#[test]
fn proofs_that_do_not_fit_one_answer_come_with_the_next() {
    let (mut world, authors, frames) = room_of_forked(40, 8 * 1024);
    for name in ["alice", "bob"] {
        world.restore(name, frames.clone());
    }
    let link = world.link("alice", "bob", Quic);
    world.secs(3);
    let sent = |world: &World| {
        let sent = world.node("alice").sent.get(&Channel::Command);
        sent.map_or(0, |(frames, _)| *frames)
    };
    let before = sent(&world);
    let log = world.node("alice").session.log().unwrap();
    let wanted = log.forks().into_iter().map(|fork| Head {
        author: fork.author(),
        id: *fork.parent().as_bytes(),
        nonce: fork.after(),
    });
    let wanted = Control::WantForks(wanted.collect());
    world.inject("bob", link, &wanted);
    world.secs(1);
    assert_eq!(sent(&world) - before, 2 * authors.len());
}
