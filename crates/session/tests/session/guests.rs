//! Peers without the session protocol.

use bytes::Bytes;
use roundtable_command_log::GenesisParams;
use roundtable_core::{
    Channel, ChannelBinding, CloseCode, Frame, MediaCodec, MediaPacket, MetricsVisitor, Observe,
    TransportKind,
};
use roundtable_session::{
    Event, GenesisSource, Input, InputError, LinkId, LinkInfo, Recipient, Side, Standing,
};

use crate::world::{World, config, params, peer};

const GUEST: LinkId = LinkId(900);

fn guest_arrives(world: &mut World, host: &str) {
    let info = LinkInfo {
        peer: peer("browser"),
        side: Side::Responder,
        kind: TransportKind::WebRtc,
        binding: ChannelBinding::from_bytes([5; 32]),
        proven_author: None,
        promises_session: false,
    };
    world
        .input(host, Input::LinkUp { link: GUEST, info })
        .unwrap();
}

fn receive(world: &mut World, host: &str, frame: Frame) {
    let input = Input::Received { link: GUEST, frame };
    world.input(host, input).unwrap();
}

fn speech() -> MediaPacket {
    MediaPacket {
        sequence: 1,
        timestamp: 960,
        marker: true,
        codec: MediaCodec::Opus,
        payload: Bytes::from_static(&[1, 2, 3]),
    }
}

fn send(world: &mut World, from: &str, to: Recipient, frame: Frame) -> Result<(), InputError> {
    world.input(from, Input::Send { to, frame })
}

/// Reads one counter.
struct Counter(&'static str, Option<u64>);

impl MetricsVisitor for Counter {
    fn counter(&mut self, name: &'static str, _: &[(&'static str, &str)], value: u64) {
        if name == self.0 {
            self.1 = Some(value);
        }
    }

    fn gauge(&mut self, _: &'static str, _: &[(&'static str, &str)], _: f64) {}
}

#[test]
fn voice_of_one_who_has_proven_nothing_is_dropped_and_counted() {
    let mut world = World::founded_by(1, &["alice"]);
    world.secs(1);
    let info = LinkInfo {
        peer: peer("mallory"),
        side: Side::Responder,
        kind: TransportKind::WebRtc,
        binding: ChannelBinding::from_bytes([5; 32]),
        proven_author: None,
        promises_session: true,
    };
    world
        .input("alice", Input::LinkUp { link: GUEST, info })
        .unwrap();
    for _ in 0..5 {
        receive(&mut world, "alice", Frame::media(Channel::Voice, speech()));
    }
    let alice = world.node("alice");
    let media = |e: &&Event| matches!(e, Event::Media { .. });
    assert_eq!(alice.events.iter().filter(media).count(), 0);
    let mut dropped = Counter("session_dropped_frames", None);
    alice.session.observe(&mut dropped);
    assert_eq!(dropped.1, Some(5));
}

#[test]
fn a_guest_takes_part_in_media_and_messages_but_not_in_commands() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    world.mesh(&["alice", "bob"]);
    world.secs(1);
    guest_arrives(&mut world, "alice");
    let browser = world
        .node("alice")
        .session
        .peers()
        .find(|v| v.peer == peer("browser"));
    assert_eq!(browser.unwrap().standing, Standing::Guest);

    receive(&mut world, "alice", Frame::text(Channel::App, "hello"));
    receive(&mut world, "alice", Frame::media(Channel::Voice, speech()));
    let command = world
        .node("bob")
        .session
        .log()
        .unwrap()
        .frames()
        .next()
        .unwrap()
        .bytes()
        .clone();
    let (hash, frames) = (
        world.node("alice").session.state_hash(),
        world.node("alice").sent.clone(),
    );
    for channel in [
        Channel::Command,
        Channel::Snapshot,
        Channel::Replication,
        Channel::Control,
    ] {
        receive(&mut world, "alice", Frame::binary(channel, command.clone()));
    }
    let alice = world.node("alice");
    let media = |e: &&Event| matches!(e, Event::Media { peer: p, .. } if *p == peer("browser"));
    assert_eq!(alice.texts(), ["hello"]);
    assert_eq!(alice.events.iter().filter(media).count(), 1);
    let others = alice.events.iter().filter(|e| {
        matches!(e, Event::Message { channel, .. } if *channel != Channel::App)
            || matches!(e, Event::Misbehaved { .. })
    });
    assert_eq!(others.count(), 0);
    assert_eq!((alice.session.state_hash(), &alice.sent), (hash, &frames));

    // The other way: media and messages go to everyone, state only to members.
    send(
        &mut world,
        "alice",
        Recipient::All,
        Frame::media(Channel::Voice, speech()),
    )
    .unwrap();
    assert_eq!(world.node("alice").sent[&Channel::Voice].0, 2);
    let deltas = |world: &World| {
        let sent = world.node("alice").sent.get(&Channel::Replication);
        sent.map_or(0, |(frames, _)| *frames)
    };
    let before = deltas(&world);
    let delta = Frame::binary(Channel::Replication, vec![1]);
    send(&mut world, "alice", Recipient::All, delta.clone()).unwrap();
    assert_eq!(deltas(&world), before + 1);
    assert_eq!(
        send(&mut world, "alice", Recipient::Peer(peer("browser")), delta),
        Err(InputError::Unreachable(peer("browser")))
    );
}

#[test]
fn guests_are_refused_where_the_genesis_forbids_them() {
    let mut world = World::new(2);
    let closed_room = GenesisParams {
        guests_allowed: false,
        ..params(1)
    };
    world.add(config("alice", GenesisSource::Create(closed_room)), "alice");
    guest_arrives(&mut world, "alice");
    assert_eq!(
        world.node("alice").closed,
        [(GUEST, CloseCode::GUESTS_REFUSED)]
    );
    receive(&mut world, "alice", Frame::text(Channel::App, "hello"));
    assert!(world.node("alice").texts().is_empty());
}

#[test]
fn a_guest_waits_until_the_genesis_is_known() {
    for allowed in [true, false] {
        let mut world = World::new(3);
        let room = GenesisParams {
            guests_allowed: allowed,
            ..params(1)
        };
        world.add(config("alice", GenesisSource::Create(room)), "alice");
        world.add(config("bob", GenesisSource::FirstCome(params(2))), "bob");
        guest_arrives(&mut world, "bob");
        receive(&mut world, "bob", Frame::text(Channel::App, "too early"));
        world.link("bob", "alice", TransportKind::Quic);
        world.secs(1);
        receive(&mut world, "bob", Frame::text(Channel::App, "hello"));
        let bob = world.node("bob");
        if allowed {
            assert_eq!(bob.texts(), ["hello"]);
        } else {
            assert_eq!(bob.closed, [(GUEST, CloseCode::GUESTS_REFUSED)]);
            assert!(bob.texts().is_empty());
        }
    }
}

#[test]
fn a_peer_whose_promise_was_stripped_on_one_side_is_cut_by_the_other() {
    // A hostile server hides bob's capability from alice, who takes him for a guest.
    let mut world = World::founded_by(4, &["alice", "bob"]);
    let plug = crate::world::Plug {
        promises: [false, true],
        ..crate::world::Plug::new(TransportKind::WebRtc)
    };
    world.plug("alice", "bob", &plug);
    world.secs(6);
    let codes: Vec<_> = world
        .node("bob")
        .closed
        .iter()
        .map(|(_, code)| *code)
        .collect();
    assert_eq!(codes, [CloseCode::HANDSHAKE_TIMEOUT]);
    let gone = |e: &Event| matches!(e, Event::PeerGone { .. });
    assert!(world.node("alice").events.iter().any(gone));
}

#[test]
fn a_guest_cannot_take_the_name_of_a_linked_member() {
    let mut world = World::founded_by(1, &["alice", "browser"]);
    world.link("alice", "browser", TransportKind::WebRtc);
    world.secs(1);
    guest_arrives(&mut world, "alice");
    let refused = [(GUEST, CloseCode::IDENTITY_MISMATCH)];
    assert_eq!(world.node("alice").closed, refused);
}

#[test]
fn a_guest_gives_way_to_the_member_whose_name_it_has() {
    let mut world = World::founded_by(1, &["alice", "browser"]);
    guest_arrives(&mut world, "alice");
    assert_eq!(world.node("alice").closed, []);
    world.link("alice", "browser", TransportKind::WebRtc);
    world.secs(1);
    let refused = [(GUEST, CloseCode::IDENTITY_MISMATCH)];
    assert_eq!(world.node("alice").closed, refused);
}
