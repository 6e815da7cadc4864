//! Voice between rooms over real sockets.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::time::Duration;

use roundtable::{
    Event, PeerId, TransportPreference,
    voice::{Clip, Voice, volume_command},
};
use support::{Member, PATIENCE, TestServer};

/// Waits until `peer` begins or ceases to speak.
async fn speaks(listener: &mut Member, peer: &str, wanted: bool) {
    let what = format!("{peer} to speak: {wanted}");
    let seen = |event: &Event| match event {
        Event::Speaking {
            peer: who,
            speaking,
        } if who.as_str() == peer => (*speaking == wanted).then_some(()),
        _ => None,
    };
    listener.wait_for(&what, seen).await;
}

fn clip() -> Voice {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/alice.wav");
    Voice::default().say(Clip::open(path).unwrap().looped(true))
}

/// Asks until there is an answer.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("in time")
}

/// Alice speaks and is heard; what both ends know of it adds up.
async fn session(transport: TransportPreference) {
    let server = TestServer::start().await;
    let alice = Member::join(server.room("alice").voice(clip())).await;
    let listen = server
        .room("bob")
        .transport(transport)
        .voice(Voice::default());
    let mut bob = Member::join(listen).await;
    speaks(&mut bob, "alice", true).await;
    let voice = bob.room.voice().unwrap().clone();
    let heard = until(async || {
        let diagnostics = voice.diagnostics();
        let alice = diagnostics.speakers.first()?.clone();
        (alice.stats.packets > 20).then_some(alice)
    })
    .await;
    assert_eq!((heard.peer.as_str(), heard.stats.malformed), ("alice", 0));
    assert_eq!(heard.latency.frame_ms, 20.0);
    assert!(voice.diagnostics().to_string().contains("alice"));
    let metrics = bob.room.metrics().await;
    for name in [
        "# TYPE roundtable_voice_received_packets_total counter\n",
        "roundtable_voice_received_packets_total{peer=\"alice\"} ",
        "roundtable_voice_latency_ms{peer=\"alice\",stage=\"buffer\"} ",
        "roundtable_session_dropped_frames_total ",
    ] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    // Bob's reports reach Alice, whatever the link.
    let loss = until(async || {
        let peers = alice.room.peers().await;
        peers.first()?.links.first()?.1.voice_loss
    })
    .await;
    assert!((0.0..=1.0).contains(&loss));
    bob.room.leave().await;
    alice.room.leave().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voice_session_establishes_over_webrtc() {
    session(TransportPreference::WebRtc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voice_session_establishes_over_quic() {
    session(TransportPreference::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editor_mutes_a_peer_for_everyone_by_command() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice").voice(Voice::default())).await;
    let bob = Member::join(server.room("bob").voice(clip())).await;
    let mut carol = Member::join(server.room("carol").voice(Voice::default())).await;
    alice.may_edit().await;
    speaks(&mut alice, "bob", true).await;
    speaks(&mut carol, "bob", true).await;

    let mute = volume_command(bob.room.author(), 0.0);
    alice.room.submit(vec![mute]).await.unwrap();
    speaks(&mut carol, "bob", false).await;
    until(async || bob.room.voice()?.diagnostics().sender.muted.then_some(())).await;

    let louder = volume_command(bob.room.author(), 1.5);
    alice.room.submit(vec![louder]).await.unwrap();
    speaks(&mut carol, "bob", true).await;
    let bob_id: PeerId = "bob".parse().unwrap();
    until(async || {
        let diagnostics = carol.room.voice()?.diagnostics();
        let bob = diagnostics.speakers.iter().find(|s| s.peer == bob_id)?;
        (bob.volume == 1.5).then_some(())
    })
    .await;
    for member in [alice, bob, carol] {
        member.room.leave().await;
    }
    server.stop().await;
}
