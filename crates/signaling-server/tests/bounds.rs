//! What clients that misbehave get, while others are served.

mod common;

use std::time::Duration;

use common::{Raw, TestServer, any_port, code, next, soon};
use roundtable_signaling_client::{Event, SignalingClient};
use roundtable_signaling_server::{
    BindError, ConfigError, RoomLimits, Server, ServerConfig, TurnConfig, TurnSecret,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

#[tokio::test]
async fn malformed_messages_get_the_documented_codes_and_the_socket_lives_on() {
    let server = TestServer::open();
    let (mut raw, _) = server.member("room", "alice").await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let unclosed = "[".repeat(10_000);
    let request = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
    };
    let deep_offer = request("peer.offer", &deep);
    let deep_reason = request("peer.disconnect", &format!(r#"{{"reason":{deep}}}"#));
    for (text, expected) in [
        ("{", -32700),
        (&unclosed, -32700),
        (&deep, -32600),
        (&deep_offer, -32602),
        (&deep_reason, -32602),
        ("[]", -32600),
        (r#"["2.0",1,"ping",{}]"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"peer.dance"}"#, -32601),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"peer.offer","params":[]}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"peer.offer","params":{"to":"a b"}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"peer.announce","params":{"protocol":1,"room":"room","peer_id":"x","capabilities":["data"]}}"#,
            -32600,
        ),
    ] {
        raw.send_text(text).await;
        let response = raw.receive().await.unwrap();
        assert_eq!(code(&response), expected, "{text:.100} {response}");
    }
    raw.assert_nothing_came().await;
}

#[tokio::test]
async fn bodies_beyond_their_bounds_are_refused() {
    let server = TestServer::open();
    let (mut raw, _) = server.member("room", "alice").await;
    let (mut bob, _) = server.member("room", "bob").await;
    for (method, params, expected) in [
        ("peer.offer", json!({"sdp": "x".repeat(33 * 1024)}), -32008),
        ("peer.offer", json!({"sdp": ""}), -32002),
        ("peer.offer", json!({}), -32002),
        (
            "peer.offer",
            json!({"kind": "quic", "author_key": "ab"}),
            -32002,
        ),
        (
            "peer.answer",
            json!({"kind": "quic", "author_key": "a".repeat(64), "addresses": ["localhost:1"]}),
            -32003,
        ),
        (
            "peer.ice_candidate",
            json!({"candidate": "x".repeat(1025)}),
            -32008,
        ),
        (
            "peer.ice_candidate",
            json!({"candidate": "candidate:1\r\na=evil"}),
            -32004,
        ),
    ] {
        let mut params = params;
        params["to"] = json!("bob");
        params["request_id"] = json!("r");
        let response = raw.call(method, params).await;
        assert_eq!(code(&response), expected, "{method} {response}");
    }
    let long = json!({"to": "bob", "reason": "x".repeat(201)});
    assert_eq!(code(&raw.call("peer.disconnect", long).await), -32008);
    bob.assert_nothing_came().await;
}

#[tokio::test]
async fn what_is_relayed_never_outgrows_what_its_target_takes() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", &"a".repeat(64)).await;
    let config = server.config("room", "b");
    let (_bob, _, mut events) = SignalingClient::join(config).await.unwrap();
    // The largest that passes: control characters take six bytes each on the wire.
    let mut len = 10_900;
    loop {
        let offer = json!({"to": "b", "request_id": "r", "sdp": "\u{1}".repeat(len)});
        if code(&alice.call("peer.offer", offer).await) == 0 {
            break;
        }
        len -= 1;
    }
    assert!(len > 10_000, "{len}");
    assert!(matches!(next(&mut events).await, Event::Offer { .. }));
}

#[tokio::test]
async fn an_oversize_message_closes_with_1009_and_costs_no_memory() {
    let server = TestServer::open();
    let (mut raw, _) = server.member("room", "alice").await;
    // The server may close while we still write.
    let _ = raw.send(Message::text("x".repeat(1 << 20))).await;
    assert_eq!(raw.close_code().await, Some(1009));
}

#[tokio::test]
async fn binary_messages_close_with_4400() {
    let server = TestServer::open();
    let (mut raw, _) = server.member("room", "alice").await;
    raw.send(Message::binary(vec![0; 3])).await.unwrap();
    assert_eq!(raw.close_code().await, Some(4400));
}

#[tokio::test]
async fn nothing_but_an_announce_is_taken_first_and_that_not_for_ever() {
    let config = any_port().with_announce_timeout(Duration::from_millis(300));
    let server = TestServer::start(config);
    let mut raw = server.raw().await;
    assert_eq!(code(&raw.offer("alice", "x").await), -32010);
    assert_eq!(code(&raw.call("ping", json!({})).await), -32010);
    assert_eq!(raw.close_code().await, Some(4408));
}

#[tokio::test]
async fn an_announce_that_came_in_time_counts_though_the_server_is_late_to_read_it() {
    let timeout = Duration::from_millis(50);
    let server = TestServer::start(any_port().with_announce_timeout(timeout));
    for n in 0..10 {
        let mut raw = server.raw().await;
        // Until the server waits for it.
        tokio::time::sleep(timeout / 5).await;
        let announce = json!({"jsonrpc": "2.0", "id": 1, "method": "peer.announce", "params": {
            "protocol": 1, "room": format!("room-{n}"), "peer_id": "alice", "capabilities": ["data"],
        }});
        raw.send_text(announce.to_string()).await;
        // All of this test runs on one thread, the server too.
        std::thread::sleep(timeout * 2);
        let answer = raw.receive().await.expect("the announce was sent in time");
        assert!(answer["error"].is_null(), "{answer}");
    }
}

#[tokio::test]
async fn a_peer_that_never_reads_is_evicted_and_others_are_served() {
    let server = TestServer::start(any_port().with_queue(1000, 64 * 1024));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut sloth = Raw::connect(socket.connect(server.address).await.unwrap()).await;
    sloth.announce("room", "sloth", json!(null)).await;
    let (mut alice, _) = server.member("room", "alice").await;
    let sdp = "x".repeat(32 * 1024);
    let mut sent = 0;
    let left = loop {
        sent += 1;
        assert!(sent < 2000, "64 MB went somewhere");
        let offer = json!({"to": "sloth", "request_id": format!("r{sent}"), "sdp": sdp});
        if code(&alice.call("peer.offer", offer).await) == -32000 {
            break alice.notification().await;
        }
    };
    assert_eq!(
        left["params"],
        json!({"peer_id": "sloth", "reason": "evicted"})
    );
    let metrics = server.get("/metrics").await;
    assert!(metrics.contains("roundtable_signaling_evictions_total 1\n"));
    let (mut bob, _) = server.member("room", "bob").await;
    assert_eq!(
        bob.offer("alice", "r").await["result"]["status"],
        "forwarded"
    );
}

#[tokio::test]
async fn many_who_do_not_read_get_no_more_together_than_the_server_has_for_all() {
    const BUDGET: usize = 256 * 1024;
    let config = any_port().with_queue(1000, 64 * 1024);
    let limits = RoomLimits {
        max_held_bytes: 64 * 1024,
        ..RoomLimits::default()
    };
    let server = TestServer::start(config.with_room_limits(limits).with_queue_budget(BUDGET));
    let mut slow = Vec::new();
    for n in 0..16 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut sloth = Raw::connect(socket.connect(server.address).await.unwrap()).await;
        let room = format!("room-{n}");
        sloth.announce(&room, "sloth", json!(null)).await;
        let (sender, _) = server.member(&room, "sender").await;
        slow.push((sloth, sender));
    }
    let queued = async || -> usize {
        let metrics = server.get("/metrics").await;
        let name = "roundtable_signaling_queued_bytes ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    };
    let sdp = "x".repeat(8 * 1024);
    let mut most = 0;
    for n in 0.. {
        assert!(n < 2000, "256 MB went somewhere");
        let mut evicted = 0;
        for (_, sender) in &mut slow {
            let offer = json!({"to": "sloth", "request_id": format!("r{n}"), "sdp": sdp});
            evicted += usize::from(code(&sender.call("peer.offer", offer).await) == -32000);
        }
        most = most.max(queued().await);
        if evicted == slow.len() {
            break;
        }
    }
    // What is sent while one message is counted may be too much.
    assert!(most <= BUDGET + 16 * 1024, "{most} bytes");
    drop(slow);
    let (mut alice, _) = server.member("room", "alice").await;
    let (_bob, _) = server.member("room", "bob").await;
    let answer = alice.offer("bob", "r").await;
    assert_eq!(answer["result"]["status"], "forwarded");
}

#[tokio::test]
async fn silent_sockets_and_half_sent_headers_are_closed() {
    let short = Duration::from_millis(200);
    let server = TestServer::start(any_port().with_http_timeouts(short, short));
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHo")
        .await
        .unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    for stream in [&mut silent, &mut half, &mut idle] {
        let mut rest = Vec::new();
        soon(stream.read_to_end(&mut rest)).await.unwrap();
    }
}

#[tokio::test]
async fn who_asks_and_never_reads_the_answers_does_not_keep_its_place() {
    let short = Duration::from_millis(300);
    let config = any_port().with_max_connections(1);
    let server = TestServer::start(config.with_exchange_timeout(short));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut sloth = socket.connect(server.address).await.unwrap();
    let ask = b"GET /signaling.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let asking = async {
        while sloth.write_all(&ask).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    // The only place is free again in the end.
    let served = async || {
        let mut other = TcpStream::connect(server.address).await.unwrap();
        let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let _ = other.write_all(ask).await;
        let mut answer = Vec::new();
        let _ = soon(other.read_to_end(&mut answer)).await;
        answer.ends_with(b"ok\n")
    };
    let freed = async {
        while !served().await {
            tokio::time::sleep(short / 3).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = soon(freed) => {}
    }
}

#[tokio::test]
async fn a_silent_peer_is_lost() {
    let (ping, silence) = (Duration::from_millis(50), Duration::from_millis(300));
    let server = TestServer::start(any_port().with_heartbeat(ping, silence));
    let (mut alice, _) = server.member("room", "alice").await;
    // Alice reads, and so answers pings; bob does not.
    let (_bob, _) = server.member("room", "bob").await;
    alice.notification().await;
    alice.offer("bob", "never-read").await;
    let metrics = |text: String| text.contains("roundtable_signaling_connections 1\n");
    soon(async {
        while !metrics(server.get("/metrics").await) {
            alice.call("ping", json!({})).await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let server = TestServer::start(any_port().with_max_connections(1));
    let (mut alice, _) = server.member("room", "alice").await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let mut rest = Vec::new();
    // Closed with nothing said, or reset.
    let read = soon(second.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty());
    alice.assert_nothing_came().await;
}

#[tokio::test]
async fn pages_of_foreign_origins_may_not_connect() {
    let friends = ["https://friend.example".to_owned()];
    let server = TestServer::start(any_port().with_allowed_origins(friends));
    let url = format!("ws://{}/v1/ws", server.address);
    for (origin, allowed) in [
        ("https://evil.example".to_owned(), false),
        ("https://friend.example.evil.example".to_owned(), false),
        ("null".to_owned(), false),
        ("https://friend.example".to_owned(), true),
        (format!("http://{}", server.address), true),
    ] {
        let mut request = url.as_str().into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Origin", origin.parse().unwrap());
        let connected = soon(tokio_tungstenite::connect_async(request)).await;
        assert_eq!(connected.is_ok(), allowed, "{origin}");
    }
}

#[tokio::test]
async fn a_page_whose_name_is_turned_to_this_machine_may_not_connect() {
    let server = TestServer::open();
    let connect = async |host: &str| {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let mut request = format!("ws://{host}/v1/ws").into_client_request().unwrap();
        let origin = format!("http://{host}").parse().unwrap();
        request.headers_mut().insert("Origin", origin);
        soon(tokio_tungstenite::client_async(request, stream)).await
    };
    let port = server.address.port();
    connect(&format!("localhost:{port}")).await.unwrap();
    let refused = connect(&format!("rebound.example:{port}")).await;
    let Err(tungstenite::Error::Http(answer)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn probes_metrics_and_page_answer() {
    let server = TestServer::open();
    assert!(server.get("/healthz").await.ends_with("ok\n"));
    assert!(server.get("/readyz").await.ends_with("ready\n"));
    let page = server.get("/").await;
    assert!(page.starts_with("HTTP/1.1 200"));
    assert!(page.contains("content-security-policy: default-src 'none'"));
    for file in ["style.css", "app.js"] {
        assert!(page.contains(file), "the page uses {file}");
        let file = server.get(&format!("/{file}")).await;
        assert!(file.starts_with("HTTP/1.1 200"), "{file}");
    }
    assert!(server.get("/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_stopping_server_tells_its_clients_to_come_back() {
    let server = TestServer::open();
    let (mut alice, _) = server.member("room", "alice").await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    server.stop().await;
    let draining = alice.receive().await.unwrap();
    assert_eq!(draining["method"], "server.draining");
    assert!(draining["params"]["reconnect_after_ms"].is_u64());
    assert_eq!(alice.close_code().await, Some(1001));
    drop(idle);
}

#[tokio::test]
async fn bad_configuration_is_refused_before_a_socket_opens() {
    let config = ServerConfig::new("127.0.0.1:0".parse().unwrap());
    let refused = |config| match Server::bind(config) {
        Err(BindError::Config(error)) => Some(error),
        _ => None,
    };
    assert_eq!(refused(config.clone()), Some(ConfigError::OpenOrData));
    let both = config.clone().with_open(true).with_data_dir("nowhere");
    assert_eq!(refused(both), Some(ConfigError::OpenOrData));
    let anywhere = "0.0.0.0:0".parse().unwrap();
    let open = ServerConfig::new(anywhere).with_open(true);
    assert_eq!(refused(open), Some(ConfigError::OpenToAll(anywhere)));
    let config = config.with_open(true);
    let long = config
        .clone()
        .with_lives(Duration::from_secs(601), Duration::from_secs(1));
    assert_eq!(refused(long), Some(ConfigError::GrantLife));
    let secret = TurnSecret::new("s").unwrap();
    let stun = TurnConfig::new(["stun:example.org".into()], secret);
    assert_eq!(
        refused(config.clone().with_turn(stun)),
        Some(ConfigError::Turn)
    );
    assert_eq!(
        refused(config.clone().with_max_peers(0)),
        Some(ConfigError::MaxPeers)
    );
    let taken = Server::bind(config).unwrap();
    let again = Server::bind(any_port_at(taken.local_addr()));
    assert!(matches!(again, Err(BindError::Listen { .. })));
}

fn any_port_at(address: std::net::SocketAddr) -> ServerConfig {
    ServerConfig::new(address).with_open(true)
}
