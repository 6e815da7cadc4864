//! What a room does about a network that is cut, and comes back.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test watches the real clock

#[path = "support/cable.rs"]
mod cable;
mod support;

use std::time::Duration;

use cable::Cable;
use roundtable::{Action, CloseCode, Event, Key, QuicConfig, Room, TransportPreference};
use support::{Member, TestServer, converged};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

fn connected(event: &Event) -> Option<()> {
    matches!(event, Event::Connected { .. }).then_some(())
}

fn disconnected(event: &Event) -> Option<CloseCode> {
    match event {
        Event::Disconnected { code, .. } => Some(*code),
        _ => None,
    }
}

/// Two peers that are linked over QUIC, by a cable.
async fn two_by(cable: &Cable) -> [Member; 2] {
    let mut members = Vec::new();
    for (name, address) in ["alice", "bob"].into_iter().zip(cable.peers) {
        let builder = Room::builder(&cable.url, "test", name)
            .transport(TransportPreference::Quic)
            .quic(QuicConfig::default().with_bind(address));
        let mut member = Member::join(builder).await;
        member.may_edit().await;
        members.push(member);
    }
    // The other may edit only since it is linked.
    members[0].wait_for("bob", connected).await;
    members.try_into().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_heartbeat_detects_connection_death_after_3_missed() {
    let server = TestServer::start().await;
    let cable = Cable::lay(&server.url).await;
    let [mut alice, mut bob] = two_by(&cable).await;
    cable.cut();
    // QUIC itself would take longer.
    let code = alice.wait_for("the loss", disconnected).await;
    assert_eq!(code, CloseCode::HEARTBEAT_TIMEOUT);
    assert_eq!(bob.wait_for("the loss", disconnected).await, code);
    cable.mend_signaling();
    for member in [alice, bob] {
        member.room.leave().await;
    }
    server.stop().await;
}

/// The link comes back before signaling does, and what was written on both sides meanwhile is on both sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_transport_recovers_from_temporary_network_partition() {
    let server = TestServer::start().await;
    let cable = Cable::lay(&server.url).await;
    let [mut alice, mut bob] = two_by(&cable).await;
    converged(&[&alice, &bob], 1).await;
    cable.cut();
    for member in [&mut alice, &mut bob] {
        member.wait_for("the loss", disconnected).await;
        let key = Key::new(0, member.room.peer().to_string());
        let put = Action::put(key, "was cut off");
        member.room.submit([put]).await.unwrap();
    }
    cable.mend_links();
    for member in [&mut alice, &mut bob] {
        member.wait_for("the other", connected).await;
    }
    converged(&[&alice, &bob], 3).await;
    cable.mend_signaling();
    for member in [alice, bob] {
        member.room.leave().await;
    }
    server.stop().await;
}

/// Somebody may have been announced as the server died, who waits for whoever knows nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_alone_when_signaling_dies_knocks_every_half_second_at_first() {
    let server = TestServer::start().await;
    let cable = Cable::lay(&server.url).await;
    let address = cable.url.strip_prefix("ws://").unwrap().to_owned();
    let mut alice = Member::join(Room::builder(&cable.url, "test", "alice")).await;
    alice.may_edit().await;
    drop(cable);
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    let mut knocks = 0;
    let count = async {
        loop {
            drop(listener.accept().await.unwrap());
            knocks += 1;
        }
    };
    let _: Result<(), _> = timeout(Duration::from_secs(4), count).await;
    // Pauses that grow to 4 s leave room for four or five.
    assert!(knocks >= 7, "{knocks} in four seconds");
    alice.room.leave().await;
    server.stop().await;
}
