//! The client against the real server: joining, losing the connection, coming back.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::time::Duration;

use common::{TestServer, Wire, any_port, code, next, soon};
use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_client::{
    Backoff, ClientConfig, ClientState, EndReason, ErrorCode, Event, EventStream, IceServer,
    JoinError, LeaveReason, OfferBody, RequestError, SignalingClient,
};
use roundtable_signaling_server::{ServerConfig, TurnConfig, TurnSecret};
use serde_json::json;
use tokio::net::TcpListener;

fn body() -> OfferBody {
    OfferBody::WebRtc { sdp: "v=0".into() }
}

#[tokio::test]
async fn joining_fails_with_what_to_do() {
    let server = TestServer::start(any_port().with_max_peers(2));
    let join = |name| SignalingClient::join(server.config("room", name));
    let _alice = join("alice").await.unwrap();
    assert!(matches!(join("alice").await, Err(JoinError::PeerIdTaken)));
    let _bob = join("bob").await.unwrap();
    assert!(matches!(
        join("carol").await,
        Err(JoinError::RoomFull { max: 2 })
    ));
    let big = server
        .config("other", "carol")
        .with_user_data(json!("x".repeat(2000)));
    let refused = SignalingClient::join(big).await;
    let code = ErrorCode::MessageTooLarge;
    assert!(matches!(refused, Err(JoinError::Rejected { code: c, .. }) if c == code));

    let at = |url: &str| {
        let (room, name) = (RoomId::new("room").unwrap(), PeerId::new("carol").unwrap());
        ClientConfig::new(url, room, name).unwrap()
    };
    let page = at(&format!("ws://{}/healthz", server.address));
    let refused = SignalingClient::join(page).await;
    assert!(matches!(
        refused,
        Err(JoinError::NotASignalingServer { .. })
    ));

    let plain = at(&format!("wss://{}", server.address));
    let refused = SignalingClient::join(plain).await;
    assert!(
        matches!(refused, Err(JoinError::Insecure { .. })),
        "{refused:?}"
    );

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("ws://{}", silent.local_addr().unwrap());
    let config = at(&silent_url).with_join_timeout(Duration::from_millis(100));
    assert!(matches!(
        SignalingClient::join(config).await,
        Err(JoinError::Timeout)
    ));
    drop(silent);
    let refused = SignalingClient::join(at(&silent_url)).await;
    assert!(matches!(refused, Err(JoinError::Unreachable { .. })));
}

#[tokio::test]
async fn a_cut_wire_is_resumed_and_the_others_notice_nothing() {
    let server = TestServer::open();
    let wire = Wire::to(server.address).await;
    let (alice, _, mut alice_hears) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    let mut config = server.config("room", "bob");
    config = ClientConfig::new(
        &format!("ws://{}", wire.address),
        RoomId::new("room").unwrap(),
        PeerId::new("bob").unwrap(),
    )
    .unwrap()
    .with_backoff(Backoff {
        first: Duration::from_millis(50),
        base: Duration::from_millis(50),
        max: Duration::from_millis(100),
    })
    .with_user_data(json!({"was": config.url().as_str()}));
    let (bob, joined, mut bob_hears) = SignalingClient::join(config).await.unwrap();
    assert!(!joined.resumed);
    assert!(matches!(
        next(&mut alice_hears).await,
        Event::PeerAnnounced(_)
    ));

    let alice_id = PeerId::new("alice").unwrap();
    for _ in 0..3 {
        wire.cut();
        assert!(matches!(
            next(&mut bob_hears).await,
            Event::Reconnecting { attempt: 1, .. }
        ));
        // Made while there is no connection, it waits for it.
        bob.offer(&alice_id, body()).await.unwrap();
        assert!(matches!(next(&mut alice_hears).await, Event::Offer { .. }));
        loop {
            match next(&mut bob_hears).await {
                Event::Resumed(_) => break,
                Event::Reconnecting { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(*bob.state().borrow(), ClientState::Connected);
    }
    alice.leave().await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_comes_back_after_the_server_restarted() {
    let server = TestServer::open();
    let address = server.address;
    let (client, _, mut events) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    server.stop().await;
    assert_eq!(next(&mut events).await, Event::Draining);
    assert!(matches!(
        next(&mut events).await,
        Event::Reconnecting { attempt: 1, .. }
    ));
    let server = TestServer::start(ServerConfig::new(address).with_open(true));
    let (_bob, _) = server.member("room", "bob").await;
    let joined = loop {
        match next(&mut events).await {
            Event::Reconnecting { .. } => client.hint_reconnect_now(),
            Event::Rejoined(joined) => break joined,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(joined.peers[0].peer_id.as_str(), "bob");
    client
        .offer(&PeerId::new("bob").unwrap(), body())
        .await
        .unwrap();
    client.leave().await;
    assert_eq!(next(&mut events).await, Event::Ended(EndReason::Left));
    assert_eq!(soon(events.next()).await, None);
    server.stop().await;
}

#[tokio::test]
async fn a_hint_cuts_a_long_delay_short() {
    let server = TestServer::open();
    let address = server.address;
    let backoff = Backoff {
        first: Duration::from_secs(3600),
        base: Duration::from_secs(3600),
        max: Duration::from_secs(3600),
    };
    let config = server.config("room", "alice").with_backoff(backoff);
    let (client, _, mut events) = SignalingClient::join(config).await.unwrap();
    server.stop().await;
    let server = TestServer::start(ServerConfig::new(address).with_open(true));
    assert_eq!(next(&mut events).await, Event::Draining);
    assert!(matches!(
        next(&mut events).await,
        Event::Reconnecting { .. }
    ));
    client.hint_reconnect_now();
    assert!(matches!(next(&mut events).await, Event::Rejoined(_)));
    server.stop().await;
}

#[tokio::test]
async fn a_hint_finds_out_that_a_connection_hangs_long_before_its_silence_would() {
    let server = TestServer::open();
    let wire = Wire::to(server.address).await;
    let config = ClientConfig::new(
        &format!("ws://{}", wire.address),
        RoomId::new("room").unwrap(),
        PeerId::new("alice").unwrap(),
    )
    .unwrap()
    .with_silence_timeout(Duration::from_secs(3600));
    let (client, _, mut events) = SignalingClient::join(config).await.unwrap();
    // A connection that lives stays.
    client.hint_reconnect_now();
    client
        .disconnect(&PeerId::new("bob").unwrap(), "")
        .await
        .unwrap_err();
    assert_eq!(*client.state().borrow(), ClientState::Connected);
    wire.hang();
    client.hint_reconnect_now();
    assert!(matches!(
        next(&mut events).await,
        Event::Reconnecting { attempt: 1, .. }
    ));
    assert!(matches!(next(&mut events).await, Event::Resumed(_)));
    client.leave().await;
}

#[tokio::test]
async fn a_changed_network_costs_a_client_nothing() {
    let server = TestServer::open();
    let (alice, _, mut alice_hears) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    let (bob, _, mut bob_hears) = SignalingClient::join(server.config("room", "bob"))
        .await
        .unwrap();
    assert!(matches!(
        next(&mut alice_hears).await,
        Event::PeerAnnounced(_)
    ));
    let alice_id = PeerId::new("alice").unwrap();
    for _ in 0..3 {
        bob.network_changed();
        bob.offer(&alice_id, body()).await.unwrap();
        assert!(matches!(next(&mut alice_hears).await, Event::Offer { .. }));
        // Not even for a moment is it away.
        assert!(matches!(next(&mut bob_hears).await, Event::Resumed(_)));
        assert_eq!(*bob.state().borrow(), ClientState::Connected);
    }
    alice.leave().await;
    assert!(matches!(next(&mut bob_hears).await, Event::PeerLeft { .. }));
}

/// A server with TURN credentials that serve for four seconds.
fn with_turn() -> TestServer {
    let secret = TurnSecret::new("north").unwrap();
    // Where nobody listens: the credentials are not used here.
    let turn = TurnConfig::new(["turn:127.0.0.1:9".to_owned()], secret);
    TestServer::start(any_port().with_turn(turn.with_ttl(Duration::from_secs(4))))
}

/// When the first server's credentials end, in seconds of the Unix epoch.
fn expiry(servers: &[IceServer]) -> u64 {
    let username = servers[0].username.as_ref().unwrap();
    username.split(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn turn_credentials_are_renewed_before_they_end_and_nobody_notices() {
    let server = with_turn();
    let (alice, _, mut alice_hears) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    let (bob, joined, mut bob_hears) = SignalingClient::join(server.config("room", "bob"))
        .await
        .unwrap();
    assert!(matches!(
        next(&mut alice_hears).await,
        Event::PeerAnnounced(_)
    ));
    let mut servers = bob.ice_servers();
    assert_eq!(*servers.borrow_and_update(), joined.ice_servers);
    let mut ends = expiry(&joined.ice_servers);
    for _ in 0..2 {
        soon(servers.changed()).await.unwrap();
        let renewed = expiry(&servers.borrow_and_update());
        // Two or three of four seconds are over, give or take the rounding to whole ones.
        assert!(renewed > ends + 1, "{renewed} after {ends}");
        ends = renewed;
        assert!(matches!(next(&mut bob_hears).await, Event::Resumed(_)));
        assert_eq!(*bob.state().borrow(), ClientState::Connected);
    }
    bob.leave().await;
    assert_eq!(
        next_of_others(&mut alice_hears).await,
        Event::PeerLeft {
            peer_id: PeerId::new("bob").unwrap(),
            reason: LeaveReason::Left
        }
    );
    alice.leave().await;
}

/// The next event that is not about a client's own connection.
async fn next_of_others(events: &mut EventStream) -> Event {
    loop {
        match next(events).await {
            Event::Resumed(_) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn credentials_that_ended_while_there_was_no_server_are_new_after_it() {
    let server = with_turn();
    let address = server.address;
    let (client, joined, _events) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    let mut servers = client.ice_servers();
    let first = expiry(&servers.borrow_and_update());
    assert_eq!(first, expiry(&joined.ice_servers));
    server.stop().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(
        !servers.has_changed().unwrap(),
        "while there are no others the last ones stay"
    );
    let secret = TurnSecret::new("south").unwrap();
    let turn = TurnConfig::new(["turn:127.0.0.1:9".to_owned()], secret);
    let config = ServerConfig::new(address).with_open(true).with_turn(turn);
    let server = TestServer::start(config);
    client.hint_reconnect_now();
    soon(servers.changed()).await.unwrap();
    assert!(expiry(&servers.borrow()) > first + 3000);
    client.leave().await;
    server.stop().await;
}

#[tokio::test]
async fn leaving_frees_the_name_at_once_and_ends_every_clone() {
    let server = TestServer::open();
    let config = server.config("room", "alice");
    let (client, _, _events) = SignalingClient::join(config.clone()).await.unwrap();
    let clone = client.clone();
    client.leave().await;
    let offer = clone.offer(&PeerId::new("bob").unwrap(), body()).await;
    assert_eq!(offer, Err(RequestError::Ended));
    let (client, _, events) = SignalingClient::join(config.clone()).await.unwrap();
    // Dropping the last handle leaves too, and so does the event stream's end tell.
    drop(client);
    let mut events = events;
    assert_eq!(next(&mut events).await, Event::Ended(EndReason::Left));
    SignalingClient::join(config).await.unwrap();
}

#[tokio::test]
async fn a_replaced_client_ends() {
    let server = TestServer::open();
    let (_client, joined, mut events) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    let mut raw = server.raw().await;
    raw.announce("room", "alice", json!(joined.resume)).await;
    assert_eq!(next(&mut events).await, Event::Ended(EndReason::Replaced));
}

#[tokio::test]
async fn what_the_server_refuses_comes_back_as_an_error() {
    let server = TestServer::open();
    let (client, _, _events) = SignalingClient::join(server.config("room", "alice"))
        .await
        .unwrap();
    let nobody = PeerId::new("nobody").unwrap();
    match client.offer(&nobody, body()).await {
        Err(RequestError::Refused(error)) => assert_eq!(error.code, ErrorCode::PeerNotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_whose_events_nobody_reads_holds_few_and_comes_back_when_they_are_read() {
    let server = TestServer::open();
    let (client, _, mut events) = SignalingClient::join(server.config("room", "bob"))
        .await
        .unwrap();
    let (mut alice, _) = server.member("room", "alice").await;
    alice.offer("bob", "o").await;
    let candidate = json!({"jsonrpc": "2.0", "method": "peer.ice_candidate", "params":
        {"to": "bob", "request_id": "o", "candidate": "x".repeat(1000)}});
    let candidate = candidate.to_string();
    let mut sent = 0;
    let left = loop {
        for _ in 0..200 {
            alice.send_text(candidate.as_str()).await;
            sent += 1;
        }
        assert!(sent < 50_000, "50 MB went somewhere");
        // In order with what the room says, and so no earlier than the eviction.
        if code(&alice.offer("bob", "o").await) == -32000 {
            break alice.notification().await;
        }
    };
    assert_eq!(left["params"]["reason"], "evicted");

    let mut heard = 0;
    loop {
        match next(&mut events).await {
            Event::Rejoined(joined) => {
                assert_eq!(joined.peers[0].peer_id.as_str(), "alice");
                break;
            }
            Event::Candidate { .. } => heard += 1,
            _ => {}
        }
    }
    assert!(heard < sent, "{heard} of {sent}");
    client.leave().await;
}
