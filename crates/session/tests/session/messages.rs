//! Messages of the application: once and in order over links that come and go, of any length, and in nobody's way.

use std::time::Duration;

use bytes::Bytes;
use roundtable_core::{
    Channel, CloseCode, Frame, MediaPacket, Payload,
    TransportKind::{Quic, WebRtc},
};
use roundtable_session::{
    Event, GenesisSource, Input, InputError, LinkId, MAX_MESSAGE_LEN, MessageStats, Recipient,
};

use crate::world::{Plug, World, config, config_of_run, params, peer, trail};

fn send(world: &mut World, from: &str, to: &str, payload: Payload) -> Result<(), InputError> {
    let to = Recipient::Peer(peer(to));
    let channel = Channel::App;
    let frame = Frame { channel, payload };
    world.input(from, Input::Send { to, frame })
}

fn text(number: usize) -> Payload {
    Payload::Text(format!("{number}"))
}

fn bytes(len: usize) -> Payload {
    let bytes: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
    Payload::Binary(bytes.into())
}

fn received(world: &World, name: &str) -> Vec<Payload> {
    let events = world.node(name).events.iter();
    let payloads = events.filter_map(|event| match event {
        Event::Message {
            channel: Channel::App,
            payload,
            ..
        } => Some(payload.clone()),
        _ => None,
    });
    payloads.collect()
}

fn undelivered(world: &World, name: &str) -> Vec<usize> {
    let events = world.node(name).events.iter();
    let counts = events.filter_map(|event| match event {
        Event::Undelivered { count, .. } => Some(*count),
        _ => None,
    });
    counts.collect()
}

fn stats(world: &World, of: &str, with: &str) -> MessageStats {
    let mut peers = world.node(of).session.peers();
    peers.find(|view| view.peer == peer(with)).unwrap().messages
}

/// Says whatever it says in both directions, a round every 7 ms.
fn talk(world: &mut World, rounds: std::ops::Range<usize>, sent: &mut Vec<Payload>) {
    for round in rounds {
        let payload = match round % 10 {
            9 => bytes(100_000 + round),
            _ => text(round),
        };
        for (from, to) in [("alice", "bob"), ("bob", "alice")] {
            send(world, from, to, payload.clone()).unwrap();
        }
        sent.push(payload);
        world.millis(7);
    }
}

#[test]
fn messages_survive_links_that_break_with_them_under_way() {
    for seed in 0..10 {
        let mut world = World::founded_by(seed, &["alice", "bob"]);
        let mut sent = Vec::new();
        let link = world.link("alice", "bob", WebRtc);
        world.secs(1);
        talk(&mut world, 0..30, &mut sent);
        // With messages under way, and parts of some.
        world.unplug(link);
        talk(&mut world, 30..60, &mut sent);
        world.link("alice", "bob", WebRtc);
        talk(&mut world, 60..80, &mut sent);
        world.secs(3);
        for name in ["alice", "bob"] {
            assert!(received(&world, name) == sent, "seed {seed}: {name}");
            assert!(undelivered(&world, name).is_empty());
        }
        let stats = stats(&world, "alice", "bob");
        assert_eq!((stats.sent, stats.received, stats.waiting), (80, 80, 0));
    }
}

#[test]
fn another_transport_takes_over_without_loss_or_repeat_and_gives_back() {
    for seed in 0..20 {
        let mut world = World::founded_by(seed, &["alice", "bob"]);
        let mut sent = Vec::new();
        world.link("alice", "bob", WebRtc);
        let mut quic = world.link("alice", "bob", Quic);
        world.secs(1);
        for round in 0..5 {
            talk(&mut world, round * 20..round * 20 + 10, &mut sent);
            if round % 2 == 0 {
                world.unplug(quic);
            } else {
                world.silence(quic);
            }
            talk(&mut world, round * 20 + 10..round * 20 + 20, &mut sent);
            quic = world.link("alice", "bob", Quic);
            world.millis(30);
        }
        world.secs(8);
        for name in ["alice", "bob"] {
            assert!(received(&world, name) == sent, "seed {seed}: {name}");
        }
    }
}

/// Its program was started again: it gets nothing twice, and the sender knows what may be missing.
#[test]
fn what_a_restarted_peer_had_not_acknowledged_has_a_definite_fate() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    let link = world.link("alice", "bob", Quic);
    world.secs(1);
    for number in 0..10 {
        send(&mut world, "alice", "bob", text(number)).unwrap();
    }
    world.secs(1);
    assert_eq!(received(&world, "bob").len(), 10);
    world.unplug(link);
    for number in 10..13 {
        send(&mut world, "alice", "bob", text(number)).unwrap();
    }
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    let again = config_of_run("bob", GenesisSource::Known(genesis), "again");
    world.add(again, "bob");
    world.link("alice", "bob", Quic);
    world.secs(1);
    assert_eq!(undelivered(&world, "alice"), [3]);
    send(&mut world, "alice", "bob", text(13)).unwrap();
    send(&mut world, "bob", "alice", text(14)).unwrap();
    world.secs(1);
    assert_eq!(received(&world, "bob"), [text(13)]);
    assert_eq!(received(&world, "alice"), [text(14)]);
}

#[test]
fn a_peer_that_leaves_or_stays_away_is_not_sent_to_for_ever() {
    let mut world = World::founded_by(2, &["alice", "bob", "carol"]);
    world.link("alice", "bob", Quic);
    let to_carol = world.link("alice", "carol", Quic);
    world.secs(1);
    world.unplug(to_carol);
    send(&mut world, "alice", "carol", text(1)).unwrap();
    let left = Input::PeerLeft { peer: peer("bob") };
    send(&mut world, "alice", "bob", text(1)).unwrap();
    world.input("alice", left).unwrap();
    assert_eq!(undelivered(&world, "alice"), [1]);
    let refused = send(&mut world, "alice", "bob", text(2));
    assert_eq!(refused, Err(InputError::Unreachable(peer("bob"))));
    world.secs(599);
    assert_eq!(undelivered(&world, "alice"), [1]);
    world.secs(2);
    assert_eq!(undelivered(&world, "alice"), [1, 1]);
    let refused = send(&mut world, "alice", "carol", text(2));
    assert_eq!(refused, Err(InputError::Unreachable(peer("carol"))));
    // It was away, and had not noticed.
    world.link("alice", "carol", Quic);
    world.secs(1);
    for (from, to) in [("alice", "carol"), ("carol", "alice")] {
        send(&mut world, from, to, text(3)).unwrap();
    }
    world.secs(1);
    assert_eq!(received(&world, "carol"), [text(3)]);
    assert_eq!(received(&world, "alice"), [text(3)]);
}

/// When each command reached bob's state and each packet of alice's voice reached bob, and how much of messages waited for the line at
/// most, while a message of so many bytes was on its way over a line of 1 MB/s.
fn disturbed_by(len: usize) -> (Vec<Duration>, usize, usize) {
    const RATE: u64 = 1_000_000;
    let mut world = World::founded_by(3, &["alice", "bob"]);
    let link = world.link("alice", "bob", Quic);
    world.secs(3);
    world.slow_down(link, RATE);
    if len > 0 {
        send(&mut world, "alice", "bob", bytes(len)).unwrap();
    }
    let (mut latencies, mut waiting) = (Vec::new(), 0);
    for second in 0..100 {
        let (before, start) = (world.node("bob").applied_of("alice").len(), world.now);
        world.submit("alice", vec![trail(".")]);
        for packet in 0..10 {
            let packet = MediaPacket {
                sequence: second * 10 + packet,
                timestamp: 0,
                marker: false,
                codec: roundtable_core::MediaCodec::Opus,
                payload: Bytes::from_static(&[0; 80]),
            };
            let frame = Frame::media(Channel::Voice, packet);
            let to = Recipient::All;
            world.input("alice", Input::Send { to, frame }).unwrap();
            for _ in 0..20 {
                world.millis(1);
                waiting = waiting.max(world.waiting(link, "bob", Channel::App));
                let late = world.now.saturating_since(start);
                let applied = world.node("bob").applied_of("alice").len() > before;
                if applied && latencies.len() == usize::from(second) {
                    latencies.push(late);
                }
            }
        }
    }
    let voice = world.node("bob").events.iter();
    let voice = voice.filter(|event| matches!(event, Event::Media { .. }));
    (latencies, voice.count(), waiting)
}

/// It takes 16 s, in which a command comes at most one chunk's time later than without, and no packet of voice is late or lost.
#[test]
fn a_message_of_16_mib_on_a_slow_link_delays_neither_commands_nor_voice() {
    let (alone, voice_alone, _) = disturbed_by(0);
    let (beside, voice, waiting) = disturbed_by(MAX_MESSAGE_LEN);
    assert_eq!((alone.len(), beside.len()), (100, 100));
    assert_eq!((voice_alone, voice), (1000, 1000));
    let chunk = Duration::from_micros(16_500);
    let worst = |latencies: &[Duration]| latencies.iter().copied().max().unwrap();
    // One before the frame, and one before what bob does about it at its next tick.
    assert!(
        worst(&beside) <= worst(&alone) + 2 * chunk,
        "{:?} instead of {:?}",
        worst(&beside),
        worst(&alone)
    );
    assert!(waiting > 400_000, "the line was busy: {waiting}");
    assert!(waiting <= 600_000, "{waiting} bytes of messages waited");
}

#[test]
fn a_message_of_16_mib_arrives_and_a_longer_one_is_refused_before_anything_is_sent() {
    let mut world = World::founded_by(4, &["alice", "bob"]);
    world.link("alice", "bob", Quic);
    world.secs(1);
    let before = world.node("alice").sent.get(&Channel::App).copied();
    let refused = send(&mut world, "alice", "bob", bytes(MAX_MESSAGE_LEN + 1));
    let (len, max) = (MAX_MESSAGE_LEN + 1, MAX_MESSAGE_LEN);
    let channel = Channel::App;
    assert_eq!(refused, Err(InputError::TooLarge { channel, len, max }));
    assert_eq!(world.node("alice").sent.get(&Channel::App).copied(), before);
    send(&mut world, "alice", "bob", bytes(MAX_MESSAGE_LEN)).unwrap();
    let full = send(&mut world, "alice", "bob", text(1));
    assert_eq!(full, Err(InputError::QueueFull(peer("bob"))));
    assert!(!world.node("alice").session.is_writable(&peer("bob")));
    world.secs(10);
    let writable = |event: &Event| matches!(event, Event::Writable { .. });
    assert!(world.node("alice").events.iter().any(writable));
    assert!(received(&world, "bob") == [bytes(MAX_MESSAGE_LEN)]);
}

#[test]
fn a_peer_that_does_not_read_is_sent_no_more_until_it_does() {
    let mut world = World::founded_by(5, &["alice", "bob"]);
    world.link("alice", "bob", Quic);
    world.node_mut("bob").reads = false;
    world.secs(1);
    for number in 0..3_u8 {
        let payload = Payload::Binary(vec![number; MAX_MESSAGE_LEN].into());
        send(&mut world, "alice", "bob", payload).unwrap();
        world.secs(10);
        let more = world.node("alice").session.is_writable(&peer("bob"));
        assert_eq!(more, number == 0, "after {number}");
        if !more {
            break;
        }
    }
    assert_eq!(received(&world, "bob").len(), 1);
    let read = Input::Read {
        peer: peer("alice"),
        len: MAX_MESSAGE_LEN,
    };
    world.input("bob", read).unwrap();
    world.secs(10);
    assert_eq!(received(&world, "bob").len(), 2);
}

/// Its queue of events takes so many, whatever their length; and another peer has its share all the same.
#[test]
fn short_messages_that_are_not_read_stop_their_sender_and_nobody_else() {
    let mut world = World::founded_by(5, &["alice", "bob", "carol"]);
    world.link("alice", "bob", Quic);
    world.link("carol", "bob", Quic);
    world.node_mut("bob").reads = false;
    world.secs(1);
    for number in 0..3000 {
        send(&mut world, "alice", "bob", text(number)).unwrap();
    }
    world.secs(5);
    let came = received(&world, "bob").len();
    assert!((1024..1024 + 256).contains(&came), "{came}");
    send(&mut world, "carol", "bob", text(3000)).unwrap();
    world.secs(1);
    assert_eq!(received(&world, "bob").len(), came + 1);
    assert_eq!(received(&world, "bob").last(), Some(&text(3000)));
    // Its application goes on.
    world.node_mut("bob").reads = true;
    for payload in received(&world, "bob").into_iter().take(came) {
        let Payload::Text(text) = payload else {
            panic!("only texts were sent")
        };
        let (peer, len) = (peer("alice"), text.len());
        world.input("bob", Input::Read { peer, len }).unwrap();
    }
    world.secs(5);
    let all = received(&world, "bob");
    assert_eq!(all.len(), 3001);
    assert_eq!(all[came + 1..], (came..3000).map(text).collect::<Vec<_>>());
}

#[test]
fn a_guest_that_floods_who_does_not_read_loses_its_link_and_stops_no_member() {
    let mut world = World::founded_by(6, &["alice", "bob", "guest"]);
    world.link("alice", "bob", Quic);
    let mut plug = Plug::new(WebRtc);
    plug.promises = [false; 2];
    let link = world.plug("alice", "guest", &plug);
    world.node_mut("alice").reads = false;
    world.secs(1);
    for number in 0..257 {
        let chatter = Frame::text(Channel::App, format!("{number}"));
        world.inject_frame("guest", link, chatter);
    }
    world.secs(1);
    assert_eq!(received(&world, "alice").len(), 256);
    let closed = &world.node("alice").closed;
    assert_eq!(closed, &[(link, CloseCode::PROTOCOL)]);
    send(&mut world, "bob", "alice", text(1)).unwrap();
    world.secs(1);
    assert_eq!(received(&world, "alice").len(), 257);
}

/// One end knows the other, and has begun to send to it, when the first link dies before that knows as much.
#[test]
fn a_link_that_dies_in_the_handshake_takes_no_messages_with_it() {
    let mut cases = 0;
    for seed in 0..40 {
        let mut world = World::founded_by(seed, &["alice", "bob"]);
        let link = world.link("alice", "bob", WebRtc);
        while send(&mut world, "alice", "bob", text(1)).is_err() {
            world.millis(1);
        }
        if send(&mut world, "bob", "alice", text(2)).is_ok() {
            continue;
        }
        cases += 1;
        world.unplug(link);
        world.secs(1);
        world.link("alice", "bob", WebRtc);
        world.secs(1);
        assert_eq!(received(&world, "bob"), [text(1)], "seed {seed}");
        assert!(undelivered(&world, "alice").is_empty(), "seed {seed}");
    }
    assert!(cases > 5, "{cases}");
}

#[test]
fn guests_and_older_versions_exchange_messages_as_they_are() {
    let mut world = World::founded_by(6, &["alice", "guest"]);
    let mut plug = Plug::new(WebRtc);
    plug.promises = [false; 2];
    let link = world.plug("alice", "guest", &plug);
    world.secs(1);
    let hello = Frame::text(Channel::App, "hello");
    world.inject_frame("guest", link, hello);
    send(&mut world, "alice", "guest", text(7)).unwrap();
    world.secs(1);
    assert_eq!(world.node("alice").texts(), ["hello"]);
    assert_eq!(world.node("guest").texts(), ["7"]);
    let max = Channel::App.max_message_len();
    let long = send(&mut world, "alice", "guest", bytes(max + 1));
    assert!(matches!(long, Err(InputError::TooLarge { max: of, .. }) if of == max));
}

#[test]
fn a_broadcast_says_who_gets_it_and_who_does_not() {
    let mut world = World::founded_by(7, &["alice", "bob", "carol", "guest"]);
    world.link("alice", "bob", Quic);
    let to_carol = world.link("alice", "carol", Quic);
    let mut plug = Plug::new(WebRtc);
    plug.promises = [false; 2];
    world.plug("alice", "guest", &plug);
    world.secs(1);
    world.unplug(to_carol);
    let sent = world.broadcast("alice", bytes(100_000)).unwrap();
    let names: Vec<_> = sent
        .iter()
        .map(|(peer, sent)| (peer.as_str(), sent.is_ok()))
        .collect();
    assert_eq!(names, [("bob", true), ("carol", true), ("guest", false)]);
    world.link("alice", "carol", Quic);
    world.secs(1);
    for name in ["bob", "carol"] {
        assert!(received(&world, name) == [bytes(100_000)], "{name}");
    }
    let long = world.broadcast("alice", bytes(MAX_MESSAGE_LEN + 1));
    assert!(matches!(long, Err(InputError::TooLarge { .. })));
}

#[test]
fn who_breaks_the_rules_of_messages_loses_its_link() {
    let chunk = |number: u64, kind: u8, len: usize| {
        let bytes = [&number.to_le_bytes()[..], &[kind], &vec![0; len]].concat();
        Frame::binary(Channel::App, bytes)
    };
    let cases = [
        vec![Frame::binary(Channel::App, vec![1; 3])],
        vec![Frame::text(Channel::App, "bare")],
        vec![chunk(5, 0, 3)],
        (1..30).map(|number| chunk(number, 2, 60_000)).collect(),
    ];
    for (case, frames) in cases.into_iter().enumerate() {
        let mut world = World::founded_by(8, &["alice", "mallory"]);
        let link = world.link("alice", "mallory", Quic);
        world.secs(1);
        for frame in frames {
            world.inject_frame("mallory", link, frame);
        }
        world.millis(200);
        let closed = &world.node("alice").closed;
        assert_eq!(closed, &[(link, CloseCode::PROTOCOL)], "case {case}");
    }
}

#[test]
fn a_room_takes_no_more_peers_than_it_is_for() {
    let mut world = World::new(9);
    let small = config("alice", GenesisSource::Create(params(1))).with_max_peers(3);
    world.add(small, "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    let mut links = Vec::<LinkId>::new();
    for name in ["bob", "carol", "dave"] {
        world.add(config(name, GenesisSource::Known(genesis.clone())), name);
        links.push(world.link("alice", name, Quic));
        world.secs(1);
    }
    let closed = &world.node("alice").closed;
    assert_eq!(closed, &[(links[2], CloseCode::ROOM_FULL)]);
    // A second link to one who is there is none too many; and a place that is free is taken.
    world.link("alice", "bob", WebRtc);
    world.unplug(links[1]);
    world.link("alice", "dave", Quic);
    world.secs(1);
    let peers = world.node("alice").session.peers();
    let peers: Vec<_> = peers.map(|view| view.peer.as_str().to_owned()).collect();
    assert_eq!(peers, ["bob", "dave"]);
}

#[test]
fn who_is_disconnected_is_told_so() {
    let mut world = World::founded_by(10, &["alice", "bob"]);
    let link = world.link("alice", "bob", Quic);
    world.secs(1);
    let disconnect = Input::Disconnect { peer: peer("bob") };
    world.input("alice", disconnect).unwrap();
    let closed = &world.node("alice").closed;
    assert_eq!(closed, &[(link, CloseCode::DISCONNECTED)]);
    let refused = send(&mut world, "alice", "bob", text(1));
    assert_eq!(refused, Err(InputError::Unreachable(peer("bob"))));
}
