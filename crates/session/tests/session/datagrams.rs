//! What is sent unreliably, to be there sooner.

use roundtable_core::{Channel, Frame, TransportKind::Quic};
use roundtable_session::{GenesisSource, Input, InputError, Recipient};

use crate::world::{World, config, counted, params, peer, trail};

/// Alice's room, with bob in it, who repeats commands in datagrams or does not.
fn room(seed: u64, datagrams: bool) -> World {
    let mut world = World::new(seed);
    let source = GenesisSource::Create(params(1));
    world.add(config("alice", source).with_datagrams(datagrams), "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis)), "bob");
    world.link("alice", "bob", Quic);
    world.secs(4);
    world
}

/// How long commands take from bob to alice, in milliseconds, sorted; one is written every 60 ms while 5 % of all packets are lost.
fn latencies(seed: u64, datagrams: bool) -> (Vec<u64>, World) {
    let mut world = room(seed, datagrams);
    world.loss_per_mille = 50;
    let mut latencies = Vec::new();
    for round in 0..400 {
        world.submit("bob", vec![trail(&format!("{round} "))]);
        let before = world.node("alice").applied_of("bob").len();
        assert!(
            before >= round,
            "seed {seed}: an earlier one is still missing"
        );
        let mut took = 0;
        while world.node("alice").applied_of("bob").len() == before {
            world.millis(1);
            took += 1;
        }
        latencies.push(took);
        world.millis(60 - took.min(60));
    }
    world.loss_per_mille = 0;
    world.secs(3);
    latencies.sort_unstable();
    (latencies, world)
}

#[test]
fn a_lost_packet_delays_a_command_no_longer_than_its_repetition() {
    let mut slow = [0, 0];
    for seed in 0..4 {
        for (index, datagrams) in [false, true].into_iter().enumerate() {
            let (latencies, world) = latencies(seed, datagrams);
            // What waits for the transport takes at least the 150 ms of the retransmission.
            slow[index] += latencies.iter().filter(|took| **took >= 150).count();
            world.common_hash();
            let nonces: Vec<_> = (1..=400).collect();
            assert_eq!(world.node("alice").applied_of("bob"), nonces, "seed {seed}");
            let used = counted(&world, "alice", "session_used_repetitions");
            assert_eq!(used > 0, datagrams, "seed {seed}: {used} repetitions used");
        }
    }
    // 5 % of 1,600, and those that both packets are lost of.
    assert!((50..120).contains(&slow[0]), "{slow:?}");
    assert!(slow[1] <= slow[0] / 8, "{slow:?}");
}

#[test]
fn repetitions_are_few_and_small() {
    let mut world = room(5, true);
    let before = world.node("bob").sent.get(&Channel::Replication).copied();
    let before = before.unwrap_or_default();
    // Two seconds of a command every 15 ms.
    for round in 0..133 {
        world.submit("bob", vec![trail(&format!("{round} "))]);
        world.millis(15);
    }
    world.secs(1);
    let (messages, bytes) = world.node("bob").sent[&Channel::Replication];
    let (messages, bytes) = (messages - before.0, bytes - before.1);
    assert!((50..=101).contains(&messages), "{messages}");
    let log = world.node("bob").session.log().unwrap();
    let written = log.frames_after(crate::world::author("bob"), 0, usize::MAX);
    let once: usize = written.map(|frame| frame.bytes().len()).sum();
    // Each at least once and at most twice, and a few bytes around it.
    assert!((once..=once * 5 / 2).contains(&bytes), "{bytes} of {once}");

    // What does not fit into a datagram is not repeated.
    world.submit("bob", vec![trail(&"x".repeat(2000))]);
    world.secs(1);
    let (after, _) = world.node("bob").sent[&Channel::Replication];
    assert_eq!(after - before.0, messages);
    world.common_hash();
}

#[test]
fn what_is_no_repetition_of_the_peers_own_next_command_changes_nothing() {
    let mut world = room(6, true);
    let link = world.links_of("bob")[0];
    world.submit("bob", vec![trail("a")]);
    world.millis(500);
    let hash = world.common_hash();
    let frames: Vec<_> = ["alice", "bob"]
        .into_iter()
        .flat_map(|name| {
            let log = world.node("bob").session.log().unwrap();
            log.frames_after(crate::world::author(name), 0, usize::MAX)
        })
        .map(|frame| frame.bytes().clone())
        .collect();
    let mut messages: Vec<Vec<u8>> = vec![
        b"RTU1".to_vec(),
        b"RTU1\x00".to_vec(),
        b"RTU1\x00\xff\xff".to_vec(),
        b"RTU1\x01".to_vec(),
        b"RTU1\x01junk".to_vec(),
        b"RTU1\x07".to_vec(),
    ];
    for frame in frames.iter().filter(|frame| frame.len() < 1000) {
        // Known already, of somebody else, or cut short.
        let len = u16::try_from(frame.len()).unwrap().to_le_bytes();
        messages.push([b"RTU1\x00", &len[..], frame].concat());
        messages.push([b"RTU1\x00", &len[..], &frame[..40]].concat());
        let mut changed = frame.to_vec();
        changed[70] ^= 1;
        messages.push([b"RTU1\x00", &len[..], &changed].concat());
    }
    for message in messages {
        let frame = Frame::binary(Channel::Replication, message);
        world.inject_frame("bob", link, frame);
    }
    world.secs(1);
    assert_eq!(world.common_hash(), hash);
    assert_eq!(world.node("alice").closed, []);
    assert_eq!(world.links_of("alice").len(), 1);
}

#[test]
fn a_users_message_cannot_pass_for_the_sessions_own() {
    let mut world = room(7, true);
    let to = Recipient::Peer(peer("bob"));
    let frame = Frame::binary(Channel::Replication, &b"RTU1 is mine"[..]);
    let refused = world.input("alice", Input::Send { to, frame });
    assert_eq!(refused, Err(InputError::WrongChannel(Channel::Replication)));
}
