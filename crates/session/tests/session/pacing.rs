//! What one peer sends in great numbers delays what others send by a moment at most.

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::{Genesis, GenesisParams, Role};
use roundtable_core::{Channel, Frame, TransportKind::Quic};
use roundtable_session::{Event, GenesisSource, Input, LinkId};
use roundtable_wire::{
    commands::ActionRef,
    session::{Control, Head},
};

use crate::world::*;

/// A frame of Eve's beyond a gap that never closes.
fn beyond_gap(genesis: &Genesis, nonce: u64) -> Bytes {
    let put = ActionRef::Put {
        key_type: NOTE,
        key: b"eve",
        value: b"x",
    };
    forge(genesis, "eve", ([7; 32], nonce), put)
}

fn room() -> (World, LinkId) {
    let mut world = World::new(51);
    let params = GenesisParams {
        default_role: Role::Editor,
        ..params(1)
    };
    world.add(config("alice", GenesisSource::Create(params)), "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    for name in ["bob", "eve"] {
        world.add(config(name, GenesisSource::Known(genesis.clone())), name);
    }
    world.link("alice", "bob", Quic);
    let link = world.link("eve", "bob", Quic);
    world.secs(3);
    (world, link)
}

/// Each of Eve's frames is closer to the gap than those before, and so is kept for a moment in place of another:
/// each has to be verified, and none is of use.
#[test]
fn a_flood_of_frames_that_bring_nothing_is_verified_at_a_steady_pace() {
    let (mut world, link) = room();
    let genesis = world.node("bob").session.genesis().unwrap().clone();
    for nonce in (10_000..15_000).rev() {
        let frame = Frame::binary(Channel::Command, beyond_gap(&genesis, nonce));
        world.input("bob", Input::Received { link, frame }).unwrap();
    }
    world.submit("alice", vec![trail("here")]);
    world.run(Duration::from_millis(60));
    assert_eq!(world.node("bob").trail(), "here");
    let unused = |world: &World| counted(world, "bob", "session_unused_verifications");
    let at_once = unused(&world);
    assert!((256..=2500).contains(&at_once), "{at_once}");
    assert!(counted(&world, "bob", "session_overrun_frames") > 0);
    world.secs(1);
    assert!(unused(&world) <= at_once + 1256, "{}", unused(&world));

    // She is no enemy for ever.
    world.secs(5);
    world.submit("eve", vec![trail("!")]);
    world.secs(3);
    assert_eq!(world.node("bob").trail(), "here!");
}

/// Mallory signs what breaks a rule, and Eve passes it on: that Mallory is at fault is proven, and is all that is said of
/// either. But Eve has no more of Bob's verifications than for anything else that brings nothing.
#[test]
fn who_signs_a_breach_is_blamed_for_it_and_who_passes_it_on_is_not() {
    let mut world = World::new(52);
    let mut params = params(1);
    (params.limits.burst, params.limits.per_second) = (1, 1);
    world.add(config("bob", GenesisSource::Create(params)), "bob");
    let genesis = world.node("bob").session.genesis().unwrap().clone();
    world.add(config("eve", GenesisSource::Known(genesis.clone())), "eve");
    let link = world.link("eve", "bob", Quic);
    world.secs(3);
    // Costs three times what Mallory has.
    let breach = forge(
        &genesis,
        "mallory",
        ([0; 32], 1),
        ActionRef::Put {
            key_type: NOTE,
            key: b"mallory",
            value: &[0; 2048],
        },
    );
    let give = |world: &mut World, bytes: &Bytes| {
        let frame = Frame::binary(Channel::Command, bytes.clone());
        world.input("bob", Input::Received { link, frame }).unwrap();
    };
    let before = counted(&world, "bob", "session_unused_verifications");
    for _ in 0..20 {
        give(&mut world, &breach);
    }
    world.millis(100);
    let after = counted(&world, "bob", "session_unused_verifications");
    assert_eq!(after - before, 20);
    let blamed = |world: &World| {
        let events = world.node("bob").events.iter();
        let blamed = events.filter_map(|event| match event {
            Event::Misbehaved { author, code, .. } => Some((*author, *code)),
            _ => None,
        });
        blamed.collect::<Vec<_>>()
    };
    assert_eq!(blamed(&world), [(Some(author("mallory")), 13); 20]);
    assert!(!world.links_of("bob").is_empty(), "Eve is still there");
    let events = world.node("bob").events.iter();
    let told = events.filter_map(|event| match event {
        Event::Misbehaved { sender, header, .. } => Some((*sender, header.as_deref()?.author)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, [(author("eve"), author("mallory")); 20]);

    // What Mallory has not signed is Eve's own doing.
    let mut forged = breach.to_vec();
    forged[189 - 64] ^= 1;
    give(&mut world, &Bytes::from(forged));
    world.millis(100);
    assert_eq!(blamed(&world).last(), Some(&(None, 6)));
}

/// Eve asks again and again where Bob parts from her, in messages as long as they may be.
#[test]
fn questions_are_answered_at_a_steady_pace() {
    let (mut world, link) = room();
    let head = Head {
        author: author("alice"),
        id: [0; 32],
        nonce: 1,
    };
    let sent = |world: &World| world.node("bob").sent[&Channel::Control].0;
    let before = sent(&world);
    for _ in 0..1000 {
        let frame = Frame::binary(Channel::Control, Control::Probe(vec![head; 512]).encode());
        world.input("bob", Input::Received { link, frame }).unwrap();
    }
    assert!(sent(&world) <= before + 1);
    world.millis(100);
    assert!(sent(&world) <= before + 30, "{}", sent(&world) - before);
}
