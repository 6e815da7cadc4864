//! Which genesis a room without an invite agrees on.

use roundtable_command_log::{Genesis, Role};
use roundtable_core::{CloseCode, TransportKind::Quic};
use roundtable_session::{Event, GenesisSource, Input};

use crate::world::{World, author, config, key, params, trail};

fn first_comers(seed: u64, names: &[&str]) -> World {
    let mut world = World::new(seed);
    for (n, name) in names.iter().enumerate() {
        let source = GenesisSource::FirstCome(params(n as u8 + 1));
        world.add(config(name, source), name);
    }
    world
}

fn alone(world: &mut World, name: &str) {
    world.input(name, Input::AloneInRoom).unwrap();
}

fn known(world: &World, name: &str) -> Vec<(bool, bool)> {
    let known = world
        .node(name)
        .events
        .iter()
        .filter_map(|event| match event {
            Event::GenesisKnown {
                verified, created, ..
            } => Some((*verified, *created)),
            _ => None,
        });
    known.collect()
}

#[test]
fn whoever_is_alone_creates_the_room_and_the_others_take_it_on_trust() {
    let mut world = first_comers(1, &["alice", "bob"]);
    alone(&mut world, "alice");
    world.link("bob", "alice", Quic);
    world.secs(1);
    assert_eq!(known(&world, "alice"), [(false, true)]);
    assert_eq!(known(&world, "bob"), [(false, false)]);
    world.submit("bob", vec![trail("b")]);
    world.secs(1);
    world.common_hash();
    let log = world.node("alice").session.log().unwrap();
    assert_eq!(log.role_of(author("bob")), Role::Editor);
}

#[test]
fn peers_without_a_genesis_are_ready_and_learn_it_later() {
    let mut world = first_comers(2, &["alice", "bob", "carol"]);
    world.link("bob", "carol", Quic);
    world.secs(8);
    let ready = |e: &Event| matches!(e, Event::PeerReady { .. });
    assert!(world.node("bob").events.iter().any(ready));
    let submit = Input::Submit {
        actions: vec![trail("x")],
    };
    assert!(world.input("bob", submit).is_err());
    alone(&mut world, "alice");
    world.link("bob", "alice", Quic);
    world.secs(1);
    world.submit("bob", vec![trail("b")]);
    world.secs(3);
    world.common_hash();
}

#[test]
fn an_invite_is_true_to_its_hash() {
    let genesis = Genesis::create(params(1), &key("alice")).unwrap();
    let mut world = World::new(3);
    world.add(
        config("alice", GenesisSource::Known(genesis.clone())),
        "alice",
    );
    world.add(
        config("mallory", GenesisSource::Create(params(9))),
        "mallory",
    );
    world.add(config("bob", GenesisSource::Invited(genesis.hash())), "bob");
    alone(&mut world, "alice");
    // bob meets an impostor first, and no other room will do.
    world.link("bob", "mallory", Quic);
    world.secs(1);
    let codes: Vec<_> = world
        .node("bob")
        .closed
        .iter()
        .map(|(_, code)| *code)
        .collect();
    assert_eq!(codes, [CloseCode::GENESIS_MISMATCH]);
    assert!(known(&world, "bob").is_empty());
    world.link("bob", "alice", Quic);
    world.secs(1);
    assert_eq!(known(&world, "bob"), [(true, false)]);
}

#[test]
fn two_founders_who_were_alone_agree_and_lose_no_command() {
    for seed in 0..4 {
        let mut world = first_comers(4 + seed, &["alice", "bob"]);
        world.millis(seed);
        alone(&mut world, "alice");
        alone(&mut world, "bob");
        world.submit("alice", vec![trail("a")]);
        world.submit("bob", vec![trail("b")]);
        world.secs(1);
        world.link("alice", "bob", Quic);
        world.secs(1);
        world.common_hash();
        let mut letters: Vec<_> = world.node("alice").trail().chars().collect();
        letters.sort_unstable();
        assert_eq!(letters, ['a', 'b']);
        let geneses = ["alice", "bob"].map(|name| known(&world, name).len());
        assert!(geneses == [1, 2] || geneses == [2, 1], "{geneses:?}");
    }
}

#[test]
fn two_rooms_that_both_have_people_in_them_do_not_mix() {
    let mut world = first_comers(9, &["alice", "bob", "carol", "dave"]);
    alone(&mut world, "alice");
    alone(&mut world, "carol");
    world.link("bob", "alice", Quic);
    world.link("dave", "carol", Quic);
    world.secs(3);
    for name in ["alice", "bob", "carol", "dave"] {
        world.submit(name, vec![trail(name)]);
    }
    world.secs(1);
    world.link("bob", "carol", Quic);
    world.secs(1);
    let codes = ["bob", "carol"].map(|n| world.node(n).closed.first().map(|(_, code)| *code));
    assert!(
        codes.contains(&Some(CloseCode::GENESIS_MISMATCH)),
        "{codes:?}"
    );
    let hash = |name| world.node(name).session.state_hash();
    assert_eq!(hash("alice"), hash("bob"));
    assert_eq!(hash("carol"), hash("dave"));
}

#[test]
fn a_lone_founder_yields_to_a_room_with_people_in_it() {
    let mut world = first_comers(10, &["alice", "bob", "carol"]);
    alone(&mut world, "alice");
    alone(&mut world, "carol");
    world.submit("carol", vec![trail("c")]);
    world.link("bob", "alice", Quic);
    world.secs(3);
    world.submit("bob", vec![trail("b")]);
    world.secs(1);
    world.link("carol", "alice", Quic);
    world.link("carol", "bob", Quic);
    world.secs(3);
    world.common_hash();
    assert_eq!(world.node("alice").trail(), "bc");
}

#[test]
fn a_room_whose_creator_left_too_early_is_founded_by_one_of_those_who_wait() {
    let mut world = first_comers(11, &["alice", "bob", "carol"]);
    world.mesh(&["alice", "bob", "carol"]);
    world.secs(9);
    assert!(world.node("alice").session.genesis().is_none());
    world.secs(3);
    let founders = ["alice", "bob", "carol"].map(|name| known(&world, name));
    assert_eq!(
        founders.iter().filter(|k| **k == [(false, true)]).count(),
        1
    );
    assert_eq!(
        founders.iter().filter(|k| **k == [(false, false)]).count(),
        2
    );
    for name in ["alice", "bob", "carol"] {
        world.submit(name, vec![trail(name)]);
    }
    world.secs(3);
    world.common_hash();
}

#[test]
fn lone_founders_agree_and_lose_no_command_however_their_handshakes_cross() {
    let names = ["alice", "bob", "carol", "dave"];
    for seed in 0..40 {
        let mut world = first_comers(100 + seed, &names);
        for name in names {
            alone(&mut world, name);
            world.submit(
                name,
                vec![trail(&format!("1{name} ")), trail(&format!("2{name} "))],
            );
        }
        world.secs(1);
        world.mesh(&names);
        world.secs(1);
        for name in names {
            assert_eq!(world.node(name).closed, [], "{name}, seed {seed}");
        }
        world.common_hash();
        let trail = world.node("dave").trail();
        assert_eq!(trail.split_whitespace().count(), 8, "{trail}, seed {seed}");
        for name in names {
            let [first, second] = [1, 2].map(|n| trail.find(&format!("{n}{name}")));
            assert!(first < second, "{trail}, seed {seed}");
        }
    }
}

#[test]
fn a_genesis_that_turns_firm_while_another_peer_arrives_is_settled_at_once() {
    for run in 0..300 {
        let (seed, millis) = (run * 104_729 + 17, 1700 + run * 7919 % 500);
        let mut world = first_comers(seed, &["alice", "bob", "carol"]);
        alone(&mut world, "alice");
        alone(&mut world, "carol");
        world.link("bob", "alice", Quic);
        world.millis(millis);
        world.link("carol", "alice", Quic);
        world.link("carol", "bob", Quic);
        world.secs(3);
        for name in ["alice", "bob", "carol"] {
            let closed = &world.node(name).closed;
            assert_eq!(closed, &[], "{name}, seed {seed}, after {millis} ms");
        }
        world.common_hash();
    }
}

#[test]
fn who_gives_up_a_genesis_that_turns_firm_elsewhere_comes_back_to_it_with_its_log() {
    let mut returned = 0;
    for seed in 0..60 {
        let mut world = first_comers(seed, &["alice", "bob", "carol"]);
        alone(&mut world, "alice");
        alone(&mut world, "carol");
        let hash = |world: &World, name| world.node(name).session.genesis().unwrap().hash();
        if hash(&world, "carol") > hash(&world, "alice") {
            continue;
        }
        let hers = hash(&world, "alice");
        world.link("bob", "alice", Quic);
        world.submit("alice", vec![trail("1")]);
        world.millis(1900 + seed * 3);
        world.submit("alice", vec![trail("2")]);
        world.link("carol", "alice", Quic);
        world.link("carol", "bob", Quic);
        world.millis(60);
        let left = hash(&world, "alice") != hers;
        if world.node("alice").session.may_sign() {
            world.submit("alice", vec![trail("3")]);
        }
        world.secs(5);
        world.submit("alice", vec![trail("4")]);
        world.secs(1);
        world.common_hash();
        for name in ["alice", "bob", "carol"] {
            assert_eq!(world.node(name).closed, [], "{name}, seed {seed}");
        }
        let trail = world.node("carol").trail();
        assert!(matches!(&trail[..], "1234" | "124"), "{trail}, seed {seed}");
        returned += usize::from(left && hash(&world, "alice") == hers);
    }
    assert!(returned > 0);
}

#[test]
fn who_has_joined_a_room_stays_there_whatever_founders_come_by() {
    for n in 0..8 {
        let mut world = first_comers(n, &["alice", "bob"]);
        alone(&mut world, "alice");
        world.link("bob", "alice", Quic);
        world.secs(3);
        world.add(config("erin", GenesisSource::FirstCome(params(50))), "erin");
        let source = GenesisSource::FirstCome(params(60 + n as u8));
        world.add(config("mallory", source), "mallory");
        alone(&mut world, "mallory");
        world.link("erin", "bob", Quic);
        world.millis(150);
        world.link("mallory", "erin", Quic);
        world.secs(3);
        assert_eq!(known(&world, "erin"), [(false, false)]);
        world.common_hash();
    }
}

#[test]
fn a_founder_whose_company_has_left_yields_again() {
    let mut world = first_comers(12, &["alice", "bob", "carol", "dave"]);
    for (founder, other) in [("alice", "bob"), ("carol", "dave")] {
        alone(&mut world, founder);
        world.link(other, founder, Quic);
    }
    world.secs(3);
    for id in world.links_of("bob") {
        world.unplug(id);
    }
    world.link("alice", "carol", Quic);
    world.secs(1);
    let hash = |name| world.node(name).session.genesis().unwrap().hash();
    assert_eq!(hash("alice"), hash("carol"));
    // bob has what alice wrote, and keeps to it.
    world.link("bob", "carol", Quic);
    world.secs(1);
    let codes = ["bob", "carol"].map(|n| world.node(n).closed.first().map(|(_, code)| *code));
    assert!(
        codes.contains(&Some(CloseCode::GENESIS_MISMATCH)),
        "{codes:?}"
    );
}

#[test]
fn a_remembered_room_is_given_up_for_one_with_people_in_it_and_a_vouched_one_is_not() {
    let genesis = Genesis::create(params(7), &key("bob")).unwrap();
    for vouched in [false, true] {
        let mut world = first_comers(13, &["alice", "carol"]);
        alone(&mut world, "alice");
        world.link("carol", "alice", Quic);
        world.secs(3);
        let source = match vouched {
            true => GenesisSource::Known(genesis.clone()),
            false => GenesisSource::Remembered(genesis.clone()),
        };
        world.add(config("bob", source), "bob");
        world.link("bob", "alice", Quic);
        world.secs(1);
        let closed = world.node("bob").closed.len() + world.node("alice").closed.len();
        if vouched {
            assert_eq!(known(&world, "bob"), [(true, true)]);
            assert!(closed > 0);
        } else {
            assert_eq!(known(&world, "bob"), [(false, true), (false, false)]);
            assert_eq!(closed, 0);
        }
    }
}
