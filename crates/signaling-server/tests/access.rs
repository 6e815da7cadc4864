//! A closed server: who gets in, who does not, for how long, and how much anyone may send.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Raw, TestServer, Wire, any_port, code, next, soon};
use roundtable_core::{PeerId, RoomId, WallTime};
use roundtable_signaling_client::{
    ClientConfig, EndReason, Event, JoinError, SignalingClient, TokenSource,
};
use roundtable_signaling_server::{MessageRate, ServerConfig, TurnConfig, TurnSecret};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// A closed server, its data, and one room.
struct Closed {
    server: TestServer,
    data: tempfile::TempDir,
    operator: String,
    room: String,
    invite: String,
    viewers: String,
    creator: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn closed(data: &Path) -> ServerConfig {
    ServerConfig::new("127.0.0.1:0".parse().unwrap()).with_data_dir(data)
}

impl Closed {
    async fn start() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl FnOnce(ServerConfig) -> ServerConfig) -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = TestServer::start(change(closed(data.path())));
        let operator = std::fs::read(data.path().join("operator-key.json")).unwrap();
        let operator: String = serde_json::from_slice(&operator).unwrap();
        let made = server.http("POST", "/v1/rooms", &operator, &Value::Null);
        let (status, made) = made.await;
        assert_eq!(status, 201, "{made}");
        Self {
            server,
            data,
            operator,
            room: text(&made["room"]),
            invite: text(&made["invite"]),
            viewers: text(&made["viewer_invite"]),
            creator: text(&made["creator_token"]),
        }
    }

    async fn another_room(&self) -> (String, String) {
        let made = self
            .server
            .http("POST", "/v1/rooms", &self.operator, &Value::Null);
        let (_, made) = made.await;
        (text(&made["room"]), text(&made["invite"]))
    }

    async fn grant_in(&self, room: &str, secret: Value) -> (u16, Value) {
        let path = format!("/v1/rooms/{room}/grants");
        self.server.http("POST", &path, "", &secret).await
    }

    async fn grant(&self, name: &str) -> String {
        let exchange = json!({"peer_id": name, "invite": self.invite});
        let (status, granted) = self.grant_in(&self.room, exchange).await;
        assert_eq!(status, 201, "{granted}");
        text(&granted["token"])
    }

    async fn announce(&self, name: &str, token: Value, resume: Value) -> (Raw, Value) {
        let mut raw = self.server.raw().await;
        let mut params = json!({"protocol": 1, "room": self.room, "peer_id": name,
            "capabilities": ["data"]});
        for (member, value) in [("token", token), ("resume", resume)] {
            if !value.is_null() {
                params[member] = value;
            }
        }
        let answer = raw.call("peer.announce", params).await;
        (raw, answer)
    }

    async fn member(&self, name: &str) -> (Raw, Value) {
        let token = json!(self.grant(name).await);
        let (raw, answer) = self.announce(name, token, Value::Null).await;
        assert!(answer["error"].is_null(), "{answer}");
        (raw, answer["result"].clone())
    }

    async fn assert_refused(&self, name: &str, token: Value) {
        let (mut raw, answer) = self.announce(name, token, Value::Null).await;
        assert_eq!(code(&answer), -32006, "{answer}");
        assert_eq!(raw.close_code().await, Some(4401));
    }

    async fn has_metric(&self, line: &str) -> bool {
        let metrics = self.server.get("/metrics").await;
        metrics
            .lines()
            .any(|found| found == format!("roundtable_signaling_{line}"))
    }
}

#[tokio::test]
async fn an_invite_becomes_a_grant_and_a_grant_a_place() {
    let closed = Closed::start().await;
    let (mut alice, joined) = closed.member("alice").await;
    let life =
        joined["grant_expires_ms"].as_u64().unwrap() - joined["server_time_ms"].as_u64().unwrap();
    assert!((590_000..=600_000).contains(&life), "{life}");
    let (mut bob, joined) = closed.member("bob").await;
    assert_eq!(joined["peers"][0]["peer_id"], "alice");
    assert_eq!(
        bob.offer("alice", "r").await["result"]["status"],
        "forwarded"
    );
    assert_eq!(alice.notification().await["method"], "peer.announced");
    let admin = json!({"peer_id": "carol", "creator_token": closed.creator});
    assert_eq!(
        closed.grant_in(&closed.room, admin).await.1["role"],
        "admin"
    );
    assert!(closed.has_metric("grants_total 3").await);
}

#[tokio::test]
async fn who_is_invited_may_take_less_and_gets_no_more() {
    let closed = Closed::start().await;
    let ask = async |secret: &str, wish: Value| {
        let mut exchange = json!({"peer_id": "alice", "invite": secret});
        for (member, value) in wish.as_object().unwrap() {
            exchange[member] = value.clone();
        }
        closed.grant_in(&closed.room, exchange).await
    };
    let (status, granted) = ask(&closed.viewers, json!({})).await;
    assert_eq!((status, &granted["role"]), (201, &json!("viewer")));
    let (_, granted) = ask(&closed.invite, json!({"role": "viewer"})).await;
    assert_eq!(granted["role"], "viewer");
    for (secret, role) in [
        (&closed.viewers, "editor"),
        (&closed.viewers, "admin"),
        (&closed.invite, "admin"),
    ] {
        let (status, answer) = ask(secret, json!({"role": role})).await;
        assert_eq!(status, 403, "{role} {answer}");
    }
    // A grant for sound alone does not open data channels.
    let (_, granted) = ask(&closed.invite, json!({"can": ["audio"]})).await;
    assert_eq!(granted["can"], json!(["audio"]));
    closed
        .assert_refused("alice", granted["token"].clone())
        .await;
    let (_, granted) = ask(&closed.invite, json!({"can": ["data"]})).await;
    let (_alice, answer) = closed
        .announce("alice", granted["token"].clone(), Value::Null)
        .await;
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn nobody_gets_in_with_less_than_a_grant_for_this_name_in_this_room() {
    let closed = Closed::start().await;
    let (other, invite) = closed.another_room().await;
    let elsewhere = json!({"peer_id": "mallory", "invite": invite});
    let elsewhere = closed.grant_in(&other, elsewhere).await.1["token"].clone();
    let good = closed.grant("mallory").await;
    let body = good.split('.').nth(1).unwrap();
    // {"alg":"none","kid":…} as the header, with the right claims and no signature.
    let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoiMDAifQ.{body}.");
    for token in [Value::Null, json!(""), json!(unsigned), elsewhere] {
        closed.assert_refused("mallory", token).await;
    }
    // A grant of one's own does not give another's name.
    closed.assert_refused("alice", json!(good)).await;
    let (_, answer) = closed.announce("mallory", json!(good), Value::Null).await;
    assert!(answer["error"].is_null(), "{answer}");
    let error = "errors_total{code=\"Unauthorized\"} 5";
    assert!(closed.has_metric(error).await);
}

#[tokio::test]
async fn a_squatted_name_and_a_stolen_resume_token_take_no_place() {
    let closed = Closed::start().await;
    let (mut alice, joined) = closed.member("alice").await;
    let resume = joined["resume"].clone();
    // Mallory may be granted the name, but it is held.
    let token = json!(closed.grant("alice").await);
    let (_, answer) = closed.announce("alice", token.clone(), Value::Null).await;
    assert_eq!(code(&answer), -32001);
    let guess = json!("0".repeat(32));
    let (_, answer) = closed.announce("alice", token, guess).await;
    assert_eq!(code(&answer), -32001);
    // The stolen token without a grant, and with a grant of Mallory's own.
    let (_, answer) = closed.announce("alice", Value::Null, resume.clone()).await;
    assert_eq!(code(&answer), -32006);
    let own = json!(closed.grant("mallory").await);
    let (_, answer) = closed.announce("alice", own.clone(), resume.clone()).await;
    assert_eq!(code(&answer), -32006);
    let (_mallory, answer) = closed.announce("mallory", own, resume).await;
    assert_eq!(answer["result"]["resumed"], false);
    assert_eq!(alice.notification().await["params"]["peer_id"], "mallory");
    alice.assert_nothing_came().await;
}

#[tokio::test]
async fn a_signal_does_not_leave_its_room() {
    let closed = Closed::start().await;
    let (mut alice, _) = closed.member("alice").await;
    let (other, invite) = closed.another_room().await;
    let exchange = json!({"peer_id": "mallory", "invite": invite});
    let token = closed.grant_in(&other, exchange).await.1["token"].clone();
    let mut mallory = closed.server.raw().await;
    let announce = json!({"protocol": 1, "room": other, "peer_id": "mallory",
        "capabilities": ["data"], "token": token});
    assert!(mallory.call("peer.announce", announce).await["error"].is_null());
    assert_eq!(code(&mallory.offer("alice", "r").await), -32000);
    let renamed = json!({"to": "alice", "request_id": "s", "sdp": "v=0", "from": "bob",
        "room": closed.room});
    assert_eq!(code(&mallory.call("peer.offer", renamed).await), -32000);
    alice.assert_nothing_came().await;
}

#[tokio::test]
async fn a_grant_that_ends_on_a_live_socket_is_announced_and_then_closes_it() {
    let lives = (Duration::from_secs(3), Duration::from_secs(3600));
    let closed = Closed::with(|config| config.with_lives(lives.0, lives.1)).await;
    let (mut alice, _) = closed.member("alice").await;
    let expiring = alice.notification().await;
    assert_eq!(expiring["method"], "session.expiring");
    assert!(expiring["params"]["expires_in_ms"].as_u64().unwrap() <= 3000);
    // A grant for somebody else renews nothing.
    let foreign = json!({"token": closed.grant("bob").await});
    assert_eq!(code(&alice.call("session.refresh", foreign).await), -32006);
    let (mut bob, _) = closed.member("bob").await;
    assert_eq!(alice.close_code().await, Some(4401));
    let left = loop {
        let heard = bob.notification().await;
        if heard["method"] == "peer.left" {
            break heard;
        }
    };
    assert_eq!(
        left["params"],
        json!({"peer_id": "alice", "reason": "expired"})
    );
    assert_eq!(bob.close_code().await, Some(4401));
}

#[tokio::test]
async fn a_refreshed_grant_keeps_the_socket() {
    let lives = (Duration::from_secs(6), Duration::from_secs(3600));
    let closed = Closed::with(|config| config.with_lives(lives.0, lives.1)).await;
    let (mut alice, joined) = closed.member("alice").await;
    let mut ends = joined["grant_expires_ms"].as_u64().unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let token = json!({"token": closed.grant("alice").await});
        let refreshed = alice.call("session.refresh", token).await;
        let later = refreshed["result"]["grant_expires_ms"].as_u64().unwrap();
        assert!(later > ends, "{refreshed}");
        ends = later;
    }
}

#[tokio::test]
async fn a_creator_ends_the_room_and_everyone_is_out() {
    let closed = Closed::start().await;
    let (mut alice, _) = closed.member("alice").await;
    let path = format!("/v1/rooms/{}", closed.room);
    let server = &closed.server;
    for (method, bearer) in [("PUT", &closed.invite), ("DELETE", &closed.operator)] {
        let (status, _) = server.http(method, &path, bearer, &Value::Null).await;
        assert_eq!(status, 403, "{method}");
    }
    let (status, renewed) = server
        .http("PUT", &path, &closed.creator, &Value::Null)
        .await;
    assert_eq!(status, 200);
    assert!(renewed["expires_ms"].is_u64());
    let late = closed.grant("bob").await;
    let (status, _) = server
        .http("DELETE", &path, &closed.creator, &Value::Null)
        .await;
    assert_eq!(status, 204);
    assert_eq!(alice.close_code().await, Some(4401));
    closed.assert_refused("bob", json!(late)).await;
    let exchange = json!({"peer_id": "bob", "invite": closed.invite});
    assert_eq!(closed.grant_in(&closed.room, exchange).await.0, 403);
    assert!(closed.has_metric("expirations_total 1").await);
}

#[tokio::test]
async fn one_rotation_disturbs_nobody_and_two_retire_a_leaked_key() {
    let closed = Closed::start().await;
    let (mut alice, _) = closed.member("alice").await;
    let old = closed.grant("bob").await;
    let rotate = || {
        closed
            .server
            .http("POST", "/v1/keys", &closed.operator, &Value::Null)
    };
    assert_eq!(rotate().await.0, 201);
    let (_, answer) = closed.announce("bob", json!(old), Value::Null).await;
    assert!(answer["error"].is_null(), "{answer}");
    let (mut carol, _) = closed.member("carol").await;
    assert_eq!(rotate().await.0, 201);
    assert_eq!(
        alice.close_code().await,
        Some(4401),
        "her grant is the old key's"
    );
    carol.call("ping", json!({})).await;
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn a_server_of_a_cluster_makes_no_key_that_the_others_do_not_know() {
    use roundtable_signaling_server::NatsConfig;
    // That NATS is away makes no difference.
    let nats = NatsConfig::new(["nats://127.0.0.1:1"]).unwrap();
    let closed = Closed::with(|config| config.with_nats(nats)).await;
    let keys = std::fs::read(closed.data.path().join("keys.json")).unwrap();
    let rotate = |bearer| closed.server.http("POST", "/v1/keys", bearer, &Value::Null);
    let (status, answer) = rotate(&closed.operator).await;
    assert_eq!(status, 409, "{answer}");
    let guide = "docs/guides/operate.md";
    assert!(text(&answer["error"]).contains(guide), "{answer}");
    assert_eq!(rotate("guess").await.0, 401);
    let after = std::fs::read(closed.data.path().join("keys.json")).unwrap();
    assert_eq!(keys, after);
}

#[tokio::test]
async fn the_http_interface_tells_strangers_nothing() {
    let closed = Closed::start().await;
    let server = &closed.server;
    for (method, path, bearer, body, expected) in [
        ("POST", "/v1/rooms", "", json!(null), 401),
        ("POST", "/v1/rooms", "guess", json!(null), 401),
        (
            "POST",
            "/v1/keys",
            closed.creator.as_str(),
            json!(null),
            401,
        ),
        ("PUT", "/v1/rooms/nowhere", "guess", json!(null), 403),
        ("DELETE", "/v1/rooms/a%2F..%2Fb", "guess", json!(null), 403),
        ("GET", "/v1/turn-credentials", "", json!(null), 401),
    ] {
        let (status, answer) = server.http(method, path, bearer, &body).await;
        assert_eq!(status, expected, "{method} {path} {answer}");
        assert!(answer["error"].is_string(), "{answer}");
    }
    // A wrong secret and a room that is not there look the same.
    let guess = json!({"peer_id": "m", "invite": "guess"});
    let wrong = closed.grant_in(&closed.room, guess.clone()).await;
    assert_eq!(wrong, closed.grant_in("nowhere", guess).await);
    assert_eq!(wrong.0, 403);
    for body in [
        json!({"peer_id": "a b", "invite": closed.invite}),
        json!({"peer_id": "m"}),
        json!({"invite": closed.invite}),
        json!({"peer_id": "m", "invite": closed.invite, "rank": "admin"}),
        json!({"peer_id": "m", "invite": closed.invite, "role": "owner"}),
        json!({"peer_id": "m", "invite": closed.invite, "can": ["everything"]}),
        json!({"peer_id": "m", "invite": "x".repeat(5000)}),
        json!([]),
    ] {
        assert_eq!(closed.grant_in(&closed.room, body).await.0, 400);
    }
    assert!(closed.has_metric("refused_grants_total 2").await);
    let open = TestServer::open();
    let (status, _) = open.http("POST", "/v1/rooms", "x", &Value::Null).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn turn_credentials_are_for_their_holder() {
    let secret = TurnSecret::new("north").unwrap();
    let turn = TurnConfig::new(["turn:127.0.0.1:3478".into()], secret.clone());
    let shared = turn.clone();
    let closed = Closed::with(|config| config.with_turn(shared)).await;
    let (_alice, joined) = closed.member("alice").await;
    let server = &joined["ice_servers"][0];
    assert_eq!(server["urls"], json!(["turn:127.0.0.1:3478"]));
    let username = text(&server["username"]);
    assert!(username.ends_with(":alice"), "{username}");
    let grant = closed.grant("alice").await;
    let ask = async |path: &str| closed.server.http("GET", path, &grant, &Value::Null).await;
    let (status, answer) = ask("/v1/turn-credentials?username=alice").await;
    assert_eq!((status, &answer["ttl"]), (200, &json!(3600)));
    assert!(text(&answer["username"]).ends_with(":alice"));
    let signed_with = |secret: &TurnSecret, answer: &Value| {
        let username = text(&answer["username"]);
        let expires_s: u64 = username.split(':').next().unwrap().parse().unwrap();
        let (alice, expires) = (
            PeerId::new("alice"),
            WallTime::from_millis(expires_s * 1000),
        );
        secret.credentials(&alice.unwrap(), expires).password == text(&answer["password"])
    };
    assert!(signed_with(&secret, &answer));
    let next = TurnSecret::new("south").unwrap();
    turn.rotate(next.clone());
    let (_, answer) = ask("/v1/turn-credentials").await;
    assert!(signed_with(&next, &answer) && !signed_with(&secret, &answer));
    assert_eq!(ask("/v1/turn-credentials?username=bob").await.0, 403);
}

#[tokio::test]
async fn who_sends_too_much_is_told_to_wait_and_then_closed() {
    let rate = MessageRate {
        burst: 5,
        per_second: 1,
    };
    let server = TestServer::start(any_port().with_message_rate(Some(rate)));
    let (mut alice, _) = server.member("room", "alice").await;
    let (mut flood, _) = server.member("room", "flood").await;
    let refused = loop {
        let answer = flood.call("ping", json!({})).await;
        if !answer["error"].is_null() {
            break answer;
        }
    };
    assert_eq!(code(&refused), -32007, "{refused}");
    let wait = refused["error"]["data"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=2000).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_millis(wait + 100)).await;
    assert!(
        flood.call("ping", json!({})).await["error"].is_null(),
        "who waits is heard"
    );
    for _ in 0..20 {
        // The server may close while we still write.
        let ping = json!({"jsonrpc": "2.0", "method": "ping"}).to_string();
        let _ = flood
            .send(tokio_tungstenite::tungstenite::Message::text(ping))
            .await;
    }
    assert_eq!(flood.close_code().await, Some(4429));
    assert!(alice.call("ping", json!({})).await["error"].is_null());
    let metrics = server.get("/metrics").await;
    assert!(metrics.contains("roundtable_signaling_rate_closes_total 1\n"));
}

#[tokio::test]
async fn an_announce_flood_ends_before_the_announce_timeout() {
    let rate = MessageRate {
        burst: 10,
        per_second: 1,
    };
    let server = TestServer::start(any_port().with_message_rate(Some(rate)));
    let (_alice, _) = server.member("room", "alice").await;
    let mut flood = server.raw().await;
    let announce = json!({"jsonrpc": "2.0", "id": 1, "method": "peer.announce", "params":
        {"protocol": 1, "room": "room", "peer_id": "alice", "capabilities": ["data"]}});
    for _ in 0..40 {
        let message = tokio_tungstenite::tungstenite::Message::text(announce.to_string());
        if flood.send(message).await.is_err() {
            break;
        }
    }
    assert_eq!(flood.close_code().await, Some(4429));
}

#[tokio::test]
async fn an_address_holds_so_many_connections_and_a_trusted_proxy_speaks_for_many() {
    let direct = TestServer::start(any_port().with_max_connections_per_address(1));
    let (_alice, _) = direct.member("room", "alice").await;
    let mut second = TcpStream::connect(direct.address).await.unwrap();
    let mut rest = Vec::new();
    let read = soon(tokio::io::AsyncReadExt::read_to_end(&mut second, &mut rest)).await;
    assert!(read.is_err() || rest.is_empty(), "closed at once");

    let proxies = ["127.0.0.0/8".parse().unwrap()];
    let config = any_port().with_max_connections_per_address(1);
    let proxied = TestServer::start(config.with_trusted_proxies(proxies));
    let connect = async |client: &str| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let url = format!("ws://{}/v1/ws", proxied.address);
        let mut request = url.as_str().into_client_request().unwrap();
        let forwarded = format!("6.6.6.6, {client}").parse().unwrap();
        request.headers_mut().insert("X-Forwarded-For", forwarded);
        soon(tokio_tungstenite::connect_async(request)).await
    };
    let _first = connect("1.2.3.4").await.unwrap();
    assert!(connect("1.2.3.4").await.is_err(), "429");
    let _other = connect("1.2.3.5").await.unwrap();
    let metrics = proxied.get("/metrics").await;
    assert!(metrics.contains("roundtable_signaling_refused_addresses_total 1\n"));
}

#[tokio::test]
async fn a_client_with_a_source_of_grants_outlives_each_of_them() {
    let lives = (Duration::from_secs(4), Duration::from_secs(3600));
    let closed = Arc::new(Closed::with(|config| config.with_lives(lives.0, lives.1)).await);
    let fetched = Arc::new(AtomicUsize::new(0));
    let (exchange, count) = (Arc::clone(&closed), Arc::clone(&fetched));
    let source = TokenSource::new(move || {
        let (exchange, count) = (Arc::clone(&exchange), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(exchange.grant("alice").await)
        }
    });
    let config = closed.server.config(&closed.room, "alice");
    let config = config.with_token_source(source);
    let (client, _, mut events) = SignalingClient::join(config).await.unwrap();
    let fixed = closed.server.config(&closed.room, "bob");
    let fixed = fixed.with_token(closed.grant("bob").await);
    let (_bob, _, mut bob_hears) = SignalingClient::join(fixed).await.unwrap();
    // Bob's grant is as long as one of alice's, and he has but one.
    loop {
        match next(&mut bob_hears).await {
            Event::Ended(reason) => break assert_eq!(reason, EndReason::Unauthorized),
            Event::GrantExpiring { expires_in } => assert!(expires_in <= lives.0),
            other => panic!("{other:?}"),
        }
    }
    tokio::time::sleep(lives.0).await;
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(50), events.next()).await {
        let event = event.unwrap();
        let lost = matches!(event, Event::Ended(_) | Event::Reconnecting { .. });
        assert!(!lost, "{event:?}");
    }
    assert!(fetched.load(Ordering::Relaxed) >= 3);
    client.leave().await;
}

#[tokio::test]
async fn a_client_with_an_invite_joins_by_any_server_that_answers() {
    let closed = Closed::start().await;
    // Takes connections, as far as the client can tell, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (format!("ws://{}", silent.local_addr().unwrap()), silent);
    let answers = format!("ws://{}", closed.server.address);
    // In both orders: which of them the client begins with is random.
    for (name, urls) in [("a", [&silent.0, &answers]), ("b", [&answers, &silent.0])] {
        let (room, name) = (
            RoomId::new(&closed.room).unwrap(),
            PeerId::new(name).unwrap(),
        );
        let config = ClientConfig::new(urls[0], room, name).unwrap();
        let config = config.with_more_urls([urls[1]]).unwrap();
        let joined = SignalingClient::join(config.with_invite(closed.invite.clone())).await;
        joined.unwrap().0.leave().await;
    }
}

#[tokio::test]
async fn an_invite_that_no_server_takes_is_told_even_if_others_are_down() {
    let closed = Closed::start().await;
    let down = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("ws://{}", down.local_addr().unwrap());
    drop(down);
    let config = closed.server.config(&closed.room, "alice");
    let config = config.with_more_urls([nobody]).unwrap();
    let refused = SignalingClient::join(config.with_invite("wrong")).await;
    let error = refused.err().unwrap();
    assert!(error.to_string().contains("the invite is not"), "{error}");
}

#[tokio::test]
async fn a_client_without_a_good_grant_is_told_so() {
    let closed = Closed::start().await;
    let config = closed.server.config(&closed.room, "alice");
    let refused = SignalingClient::join(config.clone()).await;
    assert!(matches!(refused, Err(JoinError::Unauthorized)));
    let source = TokenSource::new(|| async { Err("the door is shut".into()) });
    let refused = SignalingClient::join(config.with_token_source(source)).await;
    let error = refused.err().unwrap();
    assert!(error.to_string().contains("the door is shut"), "{error}");
}

/// To join `server` or the one at `first`.
fn either(
    first: &str,
    server: &Closed,
    address: &std::net::SocketAddr,
    name: &str,
) -> ClientConfig {
    let (room, name) = (RoomId::new(&server.room), PeerId::new(name));
    let config = ClientConfig::new(first, room.unwrap(), name.unwrap()).unwrap();
    config.with_more_urls([format!("ws://{address}")]).unwrap()
}

#[tokio::test]
async fn a_server_that_refuses_does_not_keep_a_client_from_the_others() {
    let (stranger, host) = (Closed::start().await, Closed::start().await);
    let first = format!("ws://{}", stranger.server.address);
    // Which is tried first is left to chance.
    for n in 0..6 {
        let name = format!("p{n}");
        let config = either(&first, &host, &host.server.address, &name);
        let config = config.with_token(host.grant(&name).await);
        SignalingClient::join(config).await.unwrap();
    }
    let config = either(&first, &host, &host.server.address, "invited");
    let joined = SignalingClient::join(config.with_invite(&host.invite)).await;
    joined.unwrap();

    // What a server says of the client tells more than that another is not there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("ws://{}", nobody.local_addr().unwrap());
    drop(nobody);
    for first in [first, nowhere] {
        let config = either(&first, &host, &host.server.address, "mallory");
        let refused = SignalingClient::join(config.with_token("forged")).await;
        assert!(
            matches!(refused, Err(JoinError::Unauthorized)),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_client_on_its_way_back_asks_the_others_when_one_server_refuses() {
    let (stranger, host) = (Closed::start().await, Closed::start().await);
    let wire = Wire::to(host.server.address).await;
    let first = format!("ws://{}", stranger.server.address);
    let config = either(&first, &host, &wire.address, "alice");
    let config = config.with_token(host.grant("alice").await);
    let (_alice, _, mut hears) = SignalingClient::join(config).await.unwrap();
    // The one that is tried next does not know her.
    wire.cut();
    loop {
        match next(&mut hears).await {
            Event::Reconnecting { .. } => {}
            Event::Resumed(_) => break,
            other => panic!("{other:?}"),
        }
    }
}
