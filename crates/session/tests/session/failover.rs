//! Several links to one peer, and links that die.

use roundtable_core::{
    Channel, CloseCode, Frame,
    TransportKind::{Quic, WebRtc},
};
use roundtable_session::{Event, Input, LinkId, Recipient};

use crate::world::{World, peer, trail};

fn gone(world: &World, name: &str) -> usize {
    let gone = |e: &&Event| matches!(e, Event::PeerGone { .. });
    world.node(name).events.iter().filter(gone).count()
}

fn first_link(world: &World, name: &str) -> LinkId {
    world.node(name).session.peers().next().unwrap().links[0].link
}

#[test]
fn quic_is_preferred_and_webrtc_takes_over_without_loss_or_repeat() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    let webrtc = world.link("alice", "bob", WebRtc);
    let quic = world.link("alice", "bob", Quic);
    world.secs(1);
    assert_eq!(first_link(&world, "alice"), quic);
    let on = |world: &World, link| world.node("bob").sent_on.get(&link).copied().unwrap_or(0);
    world.submit("bob", vec![trail("q")]);
    world.millis(100);
    assert_eq!((on(&world, webrtc), on(&world, quic)), (0, 1));
    for round in 0..40 {
        for name in ["alice", "bob"] {
            world.submit(name, vec![trail(&format!("{name}{round} "))]);
        }
        if round == 20 {
            // With frames under way on it.
            world.unplug(quic);
        }
        world.millis(7);
    }
    world.millis(200);
    world.common_hash();
    assert_eq!(first_link(&world, "alice"), webrtc);
    assert_eq!(
        world.node("alice").applied_of("bob"),
        (1..=41).collect::<Vec<_>>()
    );
    // The grant comes first.
    assert_eq!(
        world.node("bob").applied_of("alice"),
        (1..=41).collect::<Vec<_>>()
    );
    assert_eq!((gone(&world, "alice"), gone(&world, "bob")), (0, 0));
    world.unplug(webrtc);
    assert_eq!((gone(&world, "alice"), gone(&world, "bob")), (1, 1));
}

#[test]
fn the_last_words_on_a_lost_link_are_asked_for_on_the_next() {
    let mut world = World::founded_by(5, &["alice", "bob"]);
    world.link("alice", "bob", WebRtc);
    let quic = world.link("alice", "bob", Quic);
    world.secs(1);
    world.submit("bob", vec![trail("last")]);
    world.millis(12);
    assert_eq!(world.node("bob").sent_on[&quic], 1);
    world.unplug(quic);
    // Well before heads are compared for the sake of it.
    world.millis(150);
    assert_eq!(world.node("alice").trail(), "last");
}

#[test]
fn three_missed_heartbeats_end_a_silent_link() {
    let mut world = World::founded_by(2, &["alice", "bob"]);
    let link = world.link("alice", "bob", Quic);
    world.secs(10);
    let view = world.node("alice").session.peers().next().unwrap();
    let rtt = view.links[0].rtt.unwrap().as_millis();
    assert!((10..=70).contains(&rtt), "{rtt} ms");
    world.silence(link);
    world.millis(1900);
    assert!(world.node("alice").closed.is_empty());
    world.millis(2200);
    for name in ["alice", "bob"] {
        assert_eq!(
            world.node(name).closed,
            [(link, CloseCode::HEARTBEAT_TIMEOUT)]
        );
        assert_eq!(gone(&world, name), 1);
    }
}

#[test]
fn a_peer_that_left_the_room_loses_its_links() {
    let mut world = World::founded_by(3, &["alice", "bob"]);
    let link = world.link("alice", "bob", Quic);
    world.secs(1);
    let left = Input::PeerLeft { peer: peer("bob") };
    world.input("alice", left).unwrap();
    assert_eq!(world.node("alice").closed, [(link, CloseCode::NORMAL)]);
    assert_eq!(gone(&world, "alice"), 1);
    world.secs(1);
    assert_eq!(gone(&world, "bob"), 1);
}

#[test]
fn messages_reach_a_peer_once_however_many_links_it_has() {
    let mut world = World::founded_by(4, &["alice", "bob", "carol"]);
    world.mesh(&["alice", "bob", "carol"]);
    world.link("alice", "bob", WebRtc);
    world.secs(1);
    for to in [Recipient::All, Recipient::Peer(peer("bob"))] {
        let frame = Frame::text(Channel::App, format!("{to:?}"));
        world.input("alice", Input::Send { to, frame }).unwrap();
    }
    world.secs(1);
    assert_eq!(world.node("bob").texts().len(), 2);
    assert_eq!(world.node("carol").texts().len(), 1);
}

#[test]
fn a_newer_link_replaces_an_older_one_of_its_kind() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    let older = world.link("alice", "bob", WebRtc);
    let other = world.link("alice", "bob", Quic);
    world.secs(4);
    world.silence(older);
    let newer = world.link("alice", "bob", WebRtc);
    world.millis(200);
    let closed = world.node("alice").closed.clone();
    assert_eq!(closed, [(older, CloseCode::REPLACED)]);
    let links = world.node("alice").session.peers().next().unwrap().links;
    let links: Vec<_> = links.iter().map(|view| view.link).collect();
    assert_eq!(links, [other, newer]);
}

#[test]
fn one_peer_gets_four_links_and_no_more() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    for _ in 0..4 {
        world.link("alice", "bob", WebRtc);
    }
    assert_eq!(world.node("alice").closed, []);
    let fifth = world.link("alice", "bob", WebRtc);
    assert!(
        world
            .node("alice")
            .closed
            .contains(&(fifth, CloseCode::PROTOCOL))
    );
    world.secs(1);
    assert_eq!(gone(&world, "alice"), 0);
}

/// A room in which alice's link to bob carries voice to her and is cut, with another to fall back on.
#[test]
fn a_link_that_stops_in_the_middle_of_a_talk_is_passed_over_half_a_second_later() {
    let mut world = World::founded_by(6, &["alice", "bob"]);
    let webrtc = world.link("alice", "bob", WebRtc);
    let quic = world.link("alice", "bob", Quic);
    let talk = |world: &mut World, millis: u64| {
        for _ in 0..millis / 20 {
            for (name, to) in [("alice", "bob"), ("bob", "alice")] {
                let frame = Frame::binary(Channel::AppFast, vec![0; 60]);
                let to = Recipient::Peer(peer(to));
                world.input(name, Input::Send { to, frame }).unwrap();
            }
            world.millis(20);
        }
    };
    world.millis(200);
    talk(&mut world, 2000);
    assert_eq!(first_link(&world, "alice"), quic);
    world.submit("bob", vec![trail("last words")]);
    world.millis(12);
    world.silence(quic);
    talk(&mut world, 420);
    assert_eq!(first_link(&world, "alice"), quic, "it may still be jitter");
    talk(&mut world, 120);
    assert!(world.node("alice").session.is_silent(quic));
    assert_eq!(first_link(&world, "alice"), webrtc);
    assert_eq!(first_link(&world, "bob"), webrtc);
    // Two seconds before the link is dead, and before heads are compared for the sake of it.
    world.millis(200);
    assert_eq!(world.node("alice").trail(), "last words");
    assert_eq!(world.node("alice").closed, []);
    world.secs(4);
    let dead = [(quic, CloseCode::HEARTBEAT_TIMEOUT)];
    assert_eq!(world.node("alice").closed, dead);
}

#[test]
fn of_two_links_that_opened_together_one_end_chooses_which_stays() {
    for seed in 0..20 {
        let mut world = World::founded_by(seed, &["alice", "bob"]);
        // Both have dialled, and both got through.
        let first = world.link("alice", "bob", Quic);
        let gap = world.random(900);
        world.millis(gap);
        let second = world.link("bob", "alice", Quic);
        world.secs(1);
        for round in 0..80 {
            world.submit("alice", vec![trail(&format!("a{round} "))]);
            world.submit("bob", vec![trail(&format!("b{round} "))]);
            world.millis(100);
        }
        let both = [&world.node("alice").closed, &world.node("bob").closed].map(Vec::len);
        assert_eq!(both.iter().sum::<usize>(), 1, "seed {seed}: {both:?}");
        for name in ["alice", "bob"] {
            let links = world.node(name).session.peers().next().unwrap().links;
            let links: Vec<_> = links.iter().map(|view| view.link).collect();
            assert_eq!(links, [second], "seed {seed}, not {first:?}");
            assert_eq!(gone(&world, name), 0);
        }
        world.common_hash();
        let nonces: Vec<_> = (1..=80).collect();
        assert_eq!(world.node("alice").applied_of("bob"), nonces, "seed {seed}");
    }
}

#[test]
fn a_better_link_takes_over_from_a_worse_one_without_loss_or_repeat() {
    let mut world = World::founded_by(7, &["alice", "bob"]);
    let webrtc = world.link("alice", "bob", WebRtc);
    world.secs(2);
    let quic = world.link("bob", "alice", Quic);
    for round in 0..60 {
        world.submit("alice", vec![trail(&format!("a{round} "))]);
        world.submit("bob", vec![trail(&format!("b{round} "))]);
        world.millis(100);
    }
    let closed = [world.node("alice"), world.node("bob")].map(|node| node.closed.clone());
    assert_eq!(closed.concat(), [(webrtc, CloseCode::REPLACED)]);
    assert_eq!(first_link(&world, "alice"), quic);
    world.secs(1);
    world.common_hash();
    let nonces: Vec<_> = (1..=60).collect();
    assert_eq!(world.node("alice").applied_of("bob"), nonces);
    // The grant comes first.
    assert_eq!(world.node("bob").applied_of("alice").len(), 61);
}

#[test]
fn mixed_quic_webrtc_clients_converge_state() {
    for seed in 0..10 {
        let mut world = World::founded_by(seed, &["alice", "bob", "carol", "dave"]);
        // Bob speaks QUIC alone and carol WebRTC alone, so that they have no link.
        world.link("alice", "bob", Quic);
        world.link("alice", "carol", WebRtc);
        world.link("dave", "bob", Quic);
        world.link("dave", "carol", WebRtc);
        world.link("alice", "dave", Quic);
        world.secs(1);
        world.loss_per_mille = 50;
        let names = ["alice", "bob", "carol", "dave"];
        for round in 0..50 {
            for name in names {
                world.submit(name, vec![trail(&format!("{name}{round} "))]);
            }
            let pause = world.random(40);
            world.millis(pause);
        }
        world.loss_per_mille = 0;
        world.secs(5);
        world.common_hash();
        for name in names {
            let text = world.node(name).trail();
            assert_eq!(text.split(' ').count(), 201, "seed {seed}: {name}");
        }
    }
}
