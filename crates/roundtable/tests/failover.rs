//! Which of several ways a room takes to a peer, and what it says of them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test watches the real clock

#[path = "support/cable.rs"]
mod cable;
mod support;

use std::time::Duration;

use cable::Cable;
use roundtable::{
    Action, Event, Key, PeerId, QualityLevel, QuicConfig, Room, TransportKind, TransportPreference,
};
use support::{Member, PATIENCE, TestServer, converged};

fn connected(event: &Event) -> Option<TransportKind> {
    match event {
        Event::Connected { transport, .. } => Some(*transport),
        _ => None,
    }
}

async fn write(member: &Member, key: &str) {
    let put = Action::put(Key::new(0, key.to_owned()), member.room.peer().to_string());
    member.room.submit([put]).await.unwrap();
}

/// Waits until the peer is linked by these kinds of link, and no others.
async fn linked_by(member: &Member, kinds: &[TransportKind]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let peers = member.room.peers().await;
        let links = peers.iter().flat_map(|peer| &peer.links);
        let now: Vec<_> = links.map(|(kind, _)| *kind).collect();
        if now == kinds {
            return;
        }
        let late = tokio::time::Instant::now() >= deadline;
        assert!(!late, "linked by {now:?}, not by {kinds:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// QUIC goes by a cable that is cut, WebRTC does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtc_carries_the_room_until_quic_gets_through_and_again_when_it_is_cut() {
    let server = TestServer::start().await;
    let cable = Cable::lay(&server.url).await;
    cable.cut();
    cable.mend_signaling();
    let mut members = Vec::new();
    for (name, address) in ["alice", "bob"].into_iter().zip(cable.peers) {
        let builder =
            Room::builder(&cable.url, "test", name).quic(QuicConfig::default().with_bind(address));
        let mut member = Member::join(builder).await;
        member.may_edit().await;
        members.push(member);
    }
    let [mut alice, mut bob]: [Member; 2] = members.try_into().ok().unwrap();
    // Long before QUIC has been given up.
    assert_eq!(
        alice.wait_for("bob", connected).await,
        TransportKind::WebRtc
    );
    write(&alice, "by webrtc").await;
    write(&bob, "by webrtc, too").await;
    converged(&[&alice, &bob], 3).await;

    cable.mend_links();
    alice.room.network_changed().await;
    for member in [&mut alice, &mut bob] {
        let quic = |event: &Event| connected(event).filter(|kind| *kind == TransportKind::Quic);
        member.wait_for("quic", quic).await;
    }
    write(&alice, "by both").await;
    write(&bob, "by both, too").await;
    for member in [&alice, &bob] {
        linked_by(member, &[TransportKind::Quic]).await;
    }
    converged(&[&alice, &bob], 5).await;

    cable.cut();
    cable.mend_signaling();
    write(&alice, "while cut").await;
    write(&bob, "while cut, too").await;
    for member in [&mut alice, &mut bob] {
        assert_eq!(
            member.wait_for("it again", connected).await,
            TransportKind::WebRtc
        );
    }
    converged(&[&alice, &bob], 7).await;
    for member in [alice, bob] {
        member.room.leave().await;
    }
    server.stop().await;
}

/// Bob and carol have no transport in common, and come to the same state by way of alice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_quic_webrtc_clients_converge_to_identical_state() {
    let server = TestServer::start().await;
    let mut members = Vec::new();
    for (name, transport) in [
        ("alice", TransportPreference::Auto),
        ("bob", TransportPreference::Quic),
        ("carol", TransportPreference::WebRtc),
    ] {
        let mut member = Member::join(server.room(name).transport(transport)).await;
        member.may_edit().await;
        members.push(member);
    }
    for round in 0..5 {
        for member in &members {
            // They all write to the same key, and each to one of its own.
            write(member, "title").await;
            write(member, &format!("{} {round}", member.room.peer())).await;
        }
    }
    // And alice's two grants.
    let all: Vec<_> = members.iter().collect();
    converged(&all, 32).await;
    for (name, kind) in [
        ("bob", TransportKind::Quic),
        ("carol", TransportKind::WebRtc),
    ] {
        let alice = members[0].room.peers().await;
        let peer = alice
            .iter()
            .find(|peer| peer.peer.as_str() == name)
            .unwrap();
        assert_eq!(peer.links[0].0, kind);
    }
    for member in members {
        member.room.leave().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_says_how_good_its_connections_are() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice")).await;
    alice.may_edit().await;
    let mut bob = Member::join(server.room("bob")).await;
    bob.may_edit().await;
    let peer = bob.room.peer().clone();
    let changed = |event: &Event| match event {
        Event::QualityChanged { peer, quality } => Some((peer.clone(), quality.clone())),
        _ => None,
    };
    let (of, quality) = alice.wait_for("a verdict", changed).await;
    assert_eq!((of, quality.level), (peer.clone(), QualityLevel::Good));
    assert!(quality.rtt.is_some(), "{quality:?}");
    let history = alice.room.quality_history(&peer).await;
    assert!(history.len() >= 3, "{history:?}");
    assert_eq!(
        alice.room.quality(&peer).await.unwrap().transport,
        quality.transport
    );

    let metrics = alice.room.metrics().await;
    for line in [
        "roundtable_connection_quality{peer=\"bob\",transport=\"quic\"} ",
        "roundtable_connection_rtt_ms{peer=\"bob\",transport=\"quic\"} ",
        "roundtable_connection_bandwidth_bps{peer=\"bob\",transport=\"quic\"} ",
        "roundtable_transport_sent_packets_total{transport=\"quic\"} ",
        "roundtable_transport_lost_packets_total{transport=\"quic\"} ",
        "roundtable_channel_received_bytes_total{transport=\"quic\",channel=\"control\"} ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    bob.room.leave().await;
    let gone = |event: &Event| matches!(event, Event::Disconnected { .. }).then_some(());
    alice.wait_for("bob's leaving", gone).await;
    let nobody: PeerId = "nobody".parse().unwrap();
    assert_eq!(alice.room.quality(&nobody).await, None);
    // What was counted stays when links are gone.
    let metrics = alice.room.metrics().await;
    let sent = "roundtable_transport_sent_packets_total{transport=\"quic\"} ";
    assert!(metrics.contains(sent), "{metrics}");
    alice.room.leave().await;
    server.stop().await;
}
