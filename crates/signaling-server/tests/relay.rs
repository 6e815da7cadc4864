//! What peers in rooms hear from one another, against the real server over real sockets.

mod common;

use std::time::Duration;

use common::{TestServer, any_port, code, next, soon};
use roundtable_core::PeerId;
use roundtable_signaling_client::{
    AnswerBody, Event, IceCandidate, LeaveReason, OfferBody, SignalingClient,
};
use roundtable_signaling_server::RoomLimits;
use serde_json::{Value, json};

fn sdp(sdp: &str) -> OfferBody {
    OfferBody::WebRtc { sdp: sdp.into() }
}

#[tokio::test]
async fn signaling_server_relays_offer_to_target_peer() {
    let server = TestServer::open();
    let join = |name| SignalingClient::join(server.config("room", name));
    let (alice, _, mut alice_hears) = join("alice").await.unwrap();
    let (bob, joined, mut bob_hears) = join("bob").await.unwrap();
    let (_carol, _, mut carol_hears) = join("carol").await.unwrap();
    let [alice_id, bob_id] = ["alice", "bob"].map(|name| PeerId::new(name).unwrap());
    assert_eq!(joined.peers[0].peer_id, alice_id);
    assert!(matches!(next(&mut alice_hears).await, Event::PeerAnnounced(p) if p.peer_id == bob_id));
    assert!(matches!(
        next(&mut alice_hears).await,
        Event::PeerAnnounced(_)
    ));

    let request_id = bob.offer(&alice_id, sdp("v=0 offer")).await.unwrap();
    let offer = Event::Offer {
        from: bob_id.clone(),
        request_id: request_id.clone(),
        body: sdp("v=0 offer"),
    };
    assert_eq!(next(&mut alice_hears).await, offer);

    let candidate = IceCandidate {
        candidate: "candidate:1 1 udp 1 127.0.0.1 9 typ host".into(),
        sdp_mid: Some("0".into()),
        ..IceCandidate::default()
    };
    bob.candidate(&alice_id, &request_id, candidate.clone())
        .await
        .unwrap();
    let early = Event::Candidate {
        from: bob_id.clone(),
        request_id: request_id.clone(),
        candidate,
    };
    assert_eq!(next(&mut alice_hears).await, early);

    let answer: AnswerBody = sdp("v=0 answer");
    alice
        .answer(&bob_id, &request_id, answer.clone())
        .await
        .unwrap();
    assert!(matches!(
        next(&mut bob_hears).await,
        Event::PeerAnnounced(_)
    ));
    let answered = Event::Answer {
        from: alice_id.clone(),
        request_id: request_id.clone(),
        body: answer.clone(),
    };
    assert_eq!(next(&mut bob_hears).await, answered);
    alice
        .answer(&bob_id, &request_id, answer)
        .await
        .expect_err("an offer is answered once");

    alice.disconnect(&bob_id, "enough").await.unwrap();
    let disconnected = Event::Disconnected {
        peer_id: alice_id,
        reason: "enough".into(),
    };
    assert_eq!(next(&mut bob_hears).await, disconnected);

    // Carol, for whom none of this was, hears next that bob leaves.
    bob.leave().await;
    let left = Event::PeerLeft {
        peer_id: bob_id,
        reason: LeaveReason::Left,
    };
    assert_eq!(next(&mut carol_hears).await, left);
    server.stop().await;
}

#[tokio::test]
async fn quic_addresses_and_keys_travel_as_they_are() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", "alice").await;
    let (mut bob, _) = server.member("room", "bob").await;
    alice.notification().await;
    let key = "ab".repeat(32);
    let offer = json!({"to": "alice", "request_id": "q", "kind": "quic",
        "author_key": key, "addresses": ["127.0.0.1:4433", "[::1]:4433"]});
    bob.call("peer.offer", offer).await;
    let heard = alice.notification().await;
    assert_eq!(heard["params"]["kind"], "quic");
    assert_eq!(heard["params"]["author_key"], key.as_str());
    assert_eq!(
        heard["params"]["addresses"],
        json!(["127.0.0.1:4433", "[::1]:4433"])
    );
}

#[tokio::test]
async fn signaling_server_handles_peer_disconnection_gracefully() {
    let limits = RoomLimits {
        resume_ttl: Duration::from_millis(100),
        ..RoomLimits::default()
    };
    let server = TestServer::start(any_port().with_room_limits(limits));
    let (mut alice, _) = server.member("room", "alice").await;
    let (bob, _) = server.member("room", "bob").await;
    alice.notification().await;
    drop(bob); // no close frame: the socket just breaks
    let left = alice.notification().await;
    assert_eq!(left["method"], "peer.left");
    assert_eq!(left["params"], json!({"peer_id": "bob", "reason": "lost"}));
    assert_eq!(code(&alice.offer("bob", "late").await), -32000);
    let (_bob_again, joined) = server.member("room", "bob").await;
    assert_eq!(joined["peers"][0]["peer_id"], "alice");
}

#[tokio::test]
async fn signaling_server_supports_10_concurrent_rooms() {
    let server = TestServer::open();
    let mut rooms = Vec::new();
    for room in 0..10 {
        let room = format!("room-{room}");
        let mut peers = Vec::new();
        for peer in 0..10 {
            let (raw, joined) = server.member(&room, &format!("peer-{peer}")).await;
            assert_eq!(joined["peers"].as_array().unwrap().len(), peer);
            peers.push(raw);
        }
        rooms.push(peers);
    }
    for (number, peers) in rooms.iter_mut().enumerate() {
        let request_id = format!("offer-{number}");
        peers[9].offer("peer-0", &request_id).await;
        for _ in 1..10 {
            assert_eq!(peers[0].notification().await["method"], "peer.announced");
        }
        assert_eq!(
            peers[0].notification().await["params"]["request_id"],
            *request_id
        );
        peers[0].assert_nothing_came().await;
    }
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.contains("roundtable_signaling_rooms 10\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("roundtable_signaling_peers 100\n"),
        "{metrics}"
    );
    drop(rooms);
    server.stop().await;
}

#[tokio::test]
async fn an_offer_that_nobody_answers_expires() {
    let limits = RoomLimits {
        offer_ttl: Duration::from_millis(200),
        ..RoomLimits::default()
    };
    let server = TestServer::start(any_port().with_room_limits(limits));
    let (mut alice, _) = server.member("room", "alice").await;
    let (mut bob, _) = server.member("room", "bob").await;
    bob.offer("alice", "o1").await;
    let expired = bob.notification().await;
    assert_eq!(expired["method"], "peer.offer_expired");
    assert_eq!(
        expired["params"],
        json!({"to": "alice", "request_id": "o1"})
    );
    let answer = json!({"to": "bob", "request_id": "o1", "sdp": "v=0"});
    assert_eq!(code(&alice.call("peer.answer", answer).await), -32009);
}

#[tokio::test]
async fn a_forged_from_is_ignored() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", "alice").await;
    let (mut mallory, _) = server.member("room", "mallory").await;
    alice.notification().await;
    let offer = json!({"to": "alice", "from": "bob", "request_id": "f", "sdp": "v=0"});
    mallory.call("peer.offer", offer).await;
    assert_eq!(alice.notification().await["params"]["from"], "mallory");
}

#[tokio::test]
async fn nothing_crosses_from_one_room_to_another() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("red", "alice").await;
    let (mut mallory, joined) = server.member("blue", "mallory").await;
    assert_eq!(joined["peers"], json!([]));
    assert_eq!(code(&mallory.offer("alice", "x").await), -32000);
    let everything = [
        (
            "peer.answer",
            json!({"to": "alice", "request_id": "x", "sdp": "v=0"}),
        ),
        (
            "peer.ice_candidate",
            json!({"to": "alice", "request_id": "x", "candidate": ""}),
        ),
        ("peer.disconnect", json!({"to": "alice", "reason": "x"})),
    ];
    for (method, params) in everything {
        assert_eq!(
            code(&mallory.call(method, params).await),
            -32000,
            "{method}"
        );
    }
    alice.assert_nothing_came().await;
}

#[tokio::test]
async fn a_third_peer_cannot_answer_or_trickle_into_an_offer() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", "alice").await;
    let (mut bob, _) = server.member("room", "bob").await;
    let (mut mallory, _) = server.member("room", "mallory").await;
    bob.offer("alice", "o").await;
    for to in ["alice", "bob"] {
        let answer = json!({"to": to, "request_id": "o", "sdp": "v=0"});
        assert_eq!(code(&mallory.call("peer.answer", answer).await), -32009);
        let candidate = json!({"to": to, "request_id": "o", "candidate": "candidate:1"});
        assert_eq!(
            code(&mallory.call("peer.ice_candidate", candidate).await),
            -32009
        );
    }
    let answer = json!({"to": "bob", "request_id": "o", "sdp": "v=0"});
    assert_eq!(
        alice.call("peer.answer", answer).await["result"]["status"],
        "forwarded"
    );
}

#[tokio::test]
async fn a_full_room_and_a_taken_name_are_refused_and_the_socket_may_try_again() {
    let server = TestServer::start(any_port().with_max_peers(2));
    let (_alice, _) = server.member("room", "alice").await;
    let mut raw = server.raw().await;
    assert_eq!(
        code(&raw.announce("room", "alice", Value::Null).await),
        -32001
    );
    let guess = json!("0".repeat(32));
    assert_eq!(code(&raw.announce("room", "alice", guess).await), -32001);
    assert!(raw.announce("room", "bob", Value::Null).await["result"].is_object());
    let full = server
        .raw()
        .await
        .announce("room", "carol", Value::Null)
        .await;
    assert_eq!(code(&full), -32005);
    assert_eq!(full["error"]["data"]["max_peers"], 2);
}

#[tokio::test]
async fn a_lost_place_is_resumed_with_all_that_came_meanwhile() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", "alice").await;
    let (bob, joined) = server.member("room", "bob").await;
    alice.notification().await;
    drop(bob);
    alice.offer("bob", "while-away").await;

    let mut bob = server.raw().await;
    let resumed = bob.announce("room", "bob", joined["resume"].clone()).await;
    assert_eq!(resumed["result"]["resumed"], true);
    assert_ne!(
        resumed["result"]["resume"], joined["resume"],
        "changed on each use"
    );
    assert_eq!(
        bob.notification().await["params"]["request_id"],
        "while-away"
    );
    alice.assert_nothing_came().await;

    // A token counts until the next one is used.
    let fresh = resumed["result"]["resume"].clone();
    let resumed = server.raw().await.announce("room", "bob", fresh).await;
    assert_eq!(resumed["result"]["resumed"], true);
    let mut thief = server.raw().await;
    let stale = thief
        .announce("room", "bob", joined["resume"].clone())
        .await;
    assert_eq!(code(&stale), -32001);
}

#[tokio::test]
async fn as_much_as_can_wait_for_a_lost_peer_reaches_it_and_more_is_refused() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", "alice").await;
    let (bob, joined) = server.member("room", "bob").await;
    let (mut carol, _) = server.member("room", "carol").await;
    drop(bob);
    // A name that is taken, and a socket that hears nothing: it is lost once an offer waits.
    let mut last = json!(null);
    for n in 0..200 {
        for sender in [&mut alice, &mut carol] {
            last = sender.offer("bob", &format!("o{n}")).await;
        }
    }
    assert_eq!(code(&last), -32011, "{last}");
    assert!(last["error"]["data"]["retry_after_ms"].is_u64());
    let (_dave, _) = server.member("room", "dave").await;
    let mut bob = server.raw().await;
    let again = bob.announce("room", "bob", joined["resume"].clone()).await;
    assert_eq!(again["result"]["resumed"], true, "{again}");
    for _ in 0..64 {
        assert_eq!(bob.notification().await["method"], "peer.offer");
    }
    assert_eq!(bob.notification().await["method"], "peer.announced");
    assert_eq!(
        alice.offer("bob", "now").await["result"]["status"],
        "forwarded"
    );
    assert_eq!(bob.notification().await["params"]["request_id"], "now");
}

#[tokio::test]
async fn a_resume_replaces_the_older_connection() {
    let server = TestServer::open();
    let (mut old, joined) = server.member("room", "bob").await;
    let mut new = server.raw().await;
    new.announce("room", "bob", joined["resume"].clone()).await;
    assert_eq!(old.close_code().await, Some(4409));
    new.assert_nothing_came().await;
}

#[tokio::test]
async fn a_room_is_forgotten_with_its_last_peer_and_begins_anew_with_the_next() {
    let server = TestServer::open();
    for _ in 0..20 {
        let (mut alice, joined) = server.member("room", "alice").await;
        assert_eq!(joined["peers"], json!([]));
        let left = alice.call("peer.disconnect", json!({"reason": ""})).await;
        assert_eq!(left["result"]["status"], "left");
        assert_eq!(alice.close_code().await, Some(1000));
    }
    let empty = async {
        while !server
            .get("/metrics")
            .await
            .contains("roundtable_signaling_rooms 0\n")
        {}
    };
    soon(empty).await;
    assert!(
        server
            .get("/metrics")
            .await
            .contains("roundtable_signaling_peers 0\n")
    );
}
