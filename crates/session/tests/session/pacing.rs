//! What one peer sends in great numbers delays what others send by a moment at most.

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::{Genesis, GenesisParams, Role};
use roundtable_core::{Channel, Frame, TransportKind::Quic};
use roundtable_session::{GenesisSource, Input, LinkId};
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
