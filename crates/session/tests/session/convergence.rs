//! What one peer writes, all peers hold, whatever happens to their links.

use proptest::prelude::*;
use roundtable_command_log::{CommandLog, GenesisParams, Role};
use roundtable_core::{
    Channel::Command,
    TransportKind::{Quic, WebRtc},
};
use roundtable_session::{Event, GenesisSource, Input};
use roundtable_wire::commands::ActionRef;

use crate::world::{NOTE, World, author, config, forge, note, params, trail};

#[test]
fn three_peers_converge_to_equal_state() {
    let mut world = World::founded_by(1, &["alice", "bob", "carol"]);
    world.mesh(&["alice", "bob", "carol"]);
    world.secs(1);
    for round in 0..20 {
        for name in ["alice", "bob", "carol"] {
            let text = format!("{name}{round} ");
            world.submit(name, vec![trail(&text), note("title", &text)]);
        }
        world.millis(33);
    }
    world.secs(1);
    world.common_hash();
    let trail = world.node("alice").trail();
    assert_eq!(trail.split_whitespace().count(), 60);
    // Every command came exactly once, each author's in order.
    for reader in ["alice", "bob", "carol"] {
        let expected: Vec<u64> = (1..=40).collect();
        assert_eq!(world.node(reader).applied_of("bob"), expected);
    }
}

#[test]
fn live_commands_are_not_sent_twice() {
    let mut world = World::founded_by(2, &["alice", "bob", "carol", "dave"]);
    world.mesh(&["alice", "bob", "carol", "dave"]);
    world.secs(1);
    let before = world.node("alice").sent[&Command].0;
    for round in 0..100 {
        world.submit("alice", vec![trail(&format!("{round} "))]);
        world.millis(50);
    }
    world.secs(5);
    world.common_hash();
    // 100 frames to 3 peers each, though heads were compared while they were under way.
    let sent = world.node("alice").sent[&Command].0 - before;
    assert_eq!(sent, 300);
}

#[test]
fn a_late_joiner_catches_up_without_loading_anything_twice() {
    let mut world = World::founded_by(3, &["alice", "bob", "carol", "dave"]);
    world.mesh(&["alice", "bob", "carol"]);
    world.secs(1);
    let text = "x".repeat(500);
    for round in 0..200 {
        let name = ["alice", "bob", "carol"][round % 3];
        world.submit(name, vec![trail(&text), note("count", &round.to_string())]);
        world.millis(15);
    }
    world.secs(1);
    let sent_before = total_commands_sent(&world);
    for name in ["alice", "bob", "carol"] {
        world.link("dave", name, WebRtc);
    }
    world.secs(2);
    world.common_hash();
    let frames: usize = world.node("dave").session.log().unwrap().frames().count();
    let sent = total_commands_sent(&world) - sent_before;
    // One more: alice grants dave the role of an Editor, and tells all three.
    assert_eq!(sent, frames - 1 + 3);
}

fn total_commands_sent(world: &World) -> usize {
    let sent = |name| world.node(name).sent.get(&Command).map_or(0, |sent| sent.0);
    ["alice", "bob", "carol", "dave"]
        .into_iter()
        .map(sent)
        .sum()
}

#[test]
fn a_large_log_loads_in_windows() {
    let mut world = World::founded_by(4, &["alice", "bob"]);
    for round in 0..50 {
        let text = "y".repeat(20_000);
        world.submit("alice", vec![note(&round.to_string(), &text)]);
        world.millis(100);
    }
    let linked = world.now;
    world.link("bob", "alice", Quic);
    // A megabyte is to be loaded, but no more than one window of it is ever under way.
    let mut most = 0;
    while world.node("bob").session.state_hash() != world.node("alice").session.state_hash() {
        world.millis(1);
        let sent = world
            .node("alice")
            .sent
            .get(&Command)
            .map_or(0, |(_, bytes)| *bytes);
        let log = world.node("bob").session.log().unwrap();
        let arrived: usize = log.frames().map(|frame| frame.body().len()).sum();
        let under_way = sent - arrived;
        most = most.max(under_way);
        assert!(world.now.saturating_since(linked).as_secs() < 2);
    }
    assert!((200 * 1024..300 * 1024).contains(&most), "{most}");
}

#[test]
fn a_partition_heals() {
    let mut world = World::founded_by(5, &["alice", "bob", "carol", "dave"]);
    world.mesh(&["alice", "bob", "carol", "dave"]);
    world.secs(1);
    // alice and bob lose sight of carol and dave; nobody notices at first.
    let between = |world: &World| {
        let left = world
            .links_of("alice")
            .into_iter()
            .chain(world.links_of("bob"));
        let right = [world.links_of("carol"), world.links_of("dave")].concat();
        left.filter(|id| right.contains(id)).collect::<Vec<_>>()
    };
    for id in between(&world) {
        world.silence(id);
    }
    for round in 0..100 {
        for name in ["alice", "bob", "carol", "dave"] {
            world.submit(name, vec![trail(&format!("{name}{round} "))]);
        }
        world.millis(100);
    }
    let hash = |world: &World, name| world.node(name).session.state_hash();
    assert_eq!(hash(&world, "alice"), hash(&world, "bob"));
    assert_ne!(hash(&world, "alice"), hash(&world, "carol"));
    // Their heartbeats have ended the dead links; now new ones come up.
    for (a, b) in [
        ("alice", "carol"),
        ("alice", "dave"),
        ("bob", "carol"),
        ("bob", "dave"),
    ] {
        world.link(a, b, WebRtc);
    }
    world.secs(1);
    world.common_hash();
    assert_eq!(world.node("dave").trail().split_whitespace().count(), 400);
}

#[test]
fn a_frame_reaches_a_peer_that_has_no_link_to_its_author() {
    let mut world = World::founded_by(6, &["alice", "bob", "carol"]);
    world.link("bob", "alice", Quic);
    world.link("carol", "bob", Quic);
    world.secs(1);
    world.submit("alice", vec![trail("a")]);
    world.submit("bob", vec![trail("b")]);
    world.secs(3);
    assert_eq!(world.node("carol").applied_of("alice").last(), Some(&2));
    world.common_hash();
    // bob was made an Editor by alice; carol has met no Admin and stays a Viewer.
    let role = |name| {
        let log = world.node("carol").session.log().unwrap();
        log.role_of(author(name))
    };
    assert_eq!(
        [role("alice"), role("bob"), role("carol")],
        [Role::Admin, Role::Editor, Role::Viewer]
    );
}

/// Keys cost nothing: somebody shows each of two peers a thousand, not the same, before they meet.
#[test]
fn throw_away_keys_neither_part_a_room_nor_get_anybody_blamed() {
    let mut world = World::new(10);
    let open = GenesisParams {
        default_role: Role::Editor,
        ..params(1)
    };
    world.add(config("alice", GenesisSource::Create(open)), "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis.clone())), "bob");
    let put = ActionRef::Put {
        key_type: NOTE,
        key: b"title",
        value: b"spam",
    };
    let frames = |keys: std::ops::Range<u32>| {
        let frame = |n: u32| forge(&genesis, &format!("key {n}"), ([0; 32], 1), put);
        keys.map(frame).collect::<Vec<_>>()
    };
    world.restore("alice", frames(0..900));
    world.restore("bob", frames(600..1500));
    world.link("alice", "bob", Quic);
    world.secs(10);
    world.common_hash();
    let heads = |name| world.node(name).session.log().map(CommandLog::heads);
    assert_eq!(heads("alice"), heads("bob"));
    assert_eq!(heads("alice").map(|heads| heads.len()), Some(1024));
    // What there is no room for is not asked for again and again.
    let asked = |world: &World| {
        let sent = |name: &str| world.node(name).sent[&Command].0;
        sent("alice") + sent("bob")
    };
    let before = asked(&world);
    world.secs(10);
    assert_eq!(asked(&world), before);
    for name in ["alice", "bob"] {
        let misbehaved = |event: &Event| matches!(event, Event::Misbehaved { .. });
        assert!(!world.node(name).events.iter().any(misbehaved), "{name}");
    }
}

#[test]
fn a_peer_back_with_its_key_but_without_its_log_forks_nothing() {
    let mut world = World::founded_by(7, &["alice", "bob"]);
    world.mesh(&["alice", "bob"]);
    world.secs(1);
    for round in 0..10 {
        world.submit("bob", vec![trail(&round.to_string())]);
        world.millis(20);
    }
    world.secs(1);
    for id in world.links_of("bob") {
        world.unplug(id);
    }
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis)), "bob");
    assert!(!world.node("bob").session.may_sign());
    world.link("bob", "alice", Quic);
    world.secs(2);
    assert!(world.node("bob").session.may_sign());
    world.submit("bob", vec![trail("!")]);
    world.secs(1);
    world.common_hash();
    assert_eq!(world.node("alice").trail(), "0123456789!");
    let misbehaved = |event: &Event| matches!(event, Event::Misbehaved { .. });
    assert!(!world.node("alice").events.iter().any(misbehaved));
}

#[test]
fn a_peer_back_with_part_of_its_log_is_not_reassured_by_one_who_knows_less() {
    let mut world = World::founded_by(9, &["alice", "bob", "carol"]);
    world.link("bob", "alice", Quic);
    world.secs(1);
    for round in 0..10 {
        world.submit("bob", vec![trail(&round.to_string())]);
        world.millis(20);
    }
    world.secs(1);
    let log = world.node("bob").session.log().unwrap();
    let stored = log
        .frames()
        .filter(|frame| frame.author() != author("bob") || frame.header().first_nonce <= 6)
        .map(|frame| frame.bytes().clone());
    let stored: Vec<_> = stored.collect();
    for id in world.links_of("bob") {
        world.unplug(id);
    }
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis)), "bob");
    world.restore("bob", stored);
    let log = world.node("bob").session.log().unwrap();
    assert_eq!(log.head(author("bob")).unwrap().nonce, 6);
    assert_eq!(log.role_of(author("bob")), Role::Editor);
    // carol has just come and holds nothing; within this time she has shown so, and no more.
    world.link("bob", "carol", Quic);
    // Nor is bob alone, should signaling have lost her: whoever is linked may know more yet.
    world.input("bob", Input::AloneInRoom).unwrap();
    world.millis(200);
    assert!(!world.node("bob").session.may_sign());
    world.link("bob", "alice", Quic);
    world.secs(2);
    world.submit("bob", vec![trail("!")]);
    world.secs(3);
    assert_eq!(world.node("alice").trail(), "0123456789!");
    // What peers brought back is handed to the shell as well: the store lacks it.
    let own = world
        .node("bob")
        .events
        .iter()
        .filter_map(|event| match event {
            Event::OwnFrame(frame) => Some(frame.header().first_nonce),
            _ => None,
        });
    assert_eq!(own.collect::<Vec<_>>(), [7, 8, 9, 10, 11]);
}

#[test]
fn an_admin_back_without_its_log_gives_roles_as_soon_as_it_knows_what_it_wrote() {
    let mut world = World::founded_by(8, &["alice", "bob", "carol"]);
    world.link("bob", "alice", Quic);
    world.secs(1);
    for id in world.links_of("alice") {
        world.unplug(id);
    }
    world.link("bob", "carol", Quic);
    world.secs(1);
    let genesis = world.node("bob").session.genesis().unwrap().clone();
    world.add(config("alice", GenesisSource::Known(genesis)), "alice");
    world.link("alice", "carol", Quic);
    world.link("alice", "bob", Quic);
    world.secs(2);
    assert!(world.node("carol").session.may_sign());
    world.submit("carol", vec![trail("c")]);
    world.secs(3);
    world.common_hash();
}

/// What happens in a random room.
#[derive(Debug, Clone)]
enum Chance {
    Write(usize),
    Link(usize, usize),
    Unplug(usize),
    Silence(usize),
    Wait(u64),
}

fn chance() -> impl Strategy<Value = Chance> {
    let peer = 0..4_usize;
    prop_oneof![
        4 => peer.clone().prop_map(Chance::Write),
        2 => (peer.clone(), peer).prop_map(|(a, b)| Chance::Link(a, b)),
        1 => any::<usize>().prop_map(Chance::Unplug),
        1 => any::<usize>().prop_map(Chance::Silence),
        4 => (1..600_u64).prop_map(Chance::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_schedule_of_writing_and_breaking_converges_once_links_hold(
        seed in any::<u64>(), chances in prop::collection::vec(chance(), 1..60),
    ) {
        let names = ["alice", "bob", "carol", "dave"];
        let mut world = World::founded_by(seed, &names);
        world.mesh(&names);
        world.secs(1);
        let mut written = [0_u64; 4];
        for (round, chance) in chances.into_iter().enumerate() {
            let links: Vec<_> = names.iter().flat_map(|name| world.links_of(name)).collect();
            match chance {
                Chance::Write(peer) => {
                    world.submit(names[peer], vec![trail(&format!("{round} "))]);
                    written[peer] += 1;
                }
                Chance::Link(a, b) if a != b => {
                    world.link(names[a], names[b], [Quic, WebRtc][round % 2]);
                }
                Chance::Unplug(n) if !links.is_empty() => world.unplug(links[n % links.len()]),
                Chance::Silence(n) if !links.is_empty() => world.silence(links[n % links.len()]),
                Chance::Wait(millis) => world.millis(millis),
                _ => {}
            }
        }
        world.mesh(&names);
        world.secs(8);
        world.common_hash();
        for reader in names {
            for (author, count) in names.iter().zip(written) {
                let granted = if *author == "alice" { 3 } else { 0 };
                let expected: Vec<u64> = (1..=count + granted).collect();
                prop_assert_eq!(world.node(reader).applied_of(author), expected);
            }
        }
    }
}
