//! Rooms whose members reach each other through the TURN server that signaling hands out, or in spite of it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test watches the real clock

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use roundtable::{
    Event, IcePolicy, IceServer, Payload, RoomBuilder, TransportKind, TransportPreference,
    WebRtcConfig,
};
use roundtable_signaling_server::{ServerConfig, TurnConfig, TurnSecret};
use support::{Member, TestServer};

/// A coturn that takes the credentials of a signaling server with the secret `north`.
struct Coturn {
    port: u16,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Coturn {
    /// `None` where there is no coturn.
    fn start() -> Option<Self> {
        let runs = Command::new("turnserver").arg("--version").output().is_ok();
        let missing = "SKIP: no turnserver (apt-get install coturn)";
        assert!(
            runs || std::env::var_os("ROUNDTABLE_STRICT").is_none(),
            "{missing}"
        );
        if !runs {
            eprintln!("{missing}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let is_free = |port: &u16| {
            let address = (Ipv4Addr::LOCALHOST, *port);
            UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
        };
        let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let port = (first..).find(is_free).unwrap();
        let config = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={port}\nrealm=lab\nuse-auth-secret\n\
             static-auth-secret=north\nallow-loopback-peers\nno-cli\nno-tls\nno-dtls\nlog-file=stdout\n\
             pidfile={0}/pid\nuserdb={0}/db\n",
            dir.path().display()
        );
        let path = dir.path().join("turnserver.conf");
        std::fs::write(&path, config).unwrap();
        let process = Command::new("turnserver")
            .arg("-c")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let coturn = Self {
            port,
            process,
            _dir: dir,
        };
        let listens = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        assert!(listens, "coturn does not listen");
        Some(coturn)
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connected(event: &Event) -> Option<TransportKind> {
    match event {
        Event::Connected { transport, .. } => Some(*transport),
        _ => None,
    }
}

/// Hides every address of its own.
fn hidden(room: RoomBuilder) -> RoomBuilder {
    let loopback = [Ipv4Addr::LOCALHOST.into()];
    let webrtc = WebRtcConfig::default().with_addresses(loopback);
    room.webrtc(webrtc.with_ice_policy(IcePolicy::Relay))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_through_the_turn_server_that_signaling_hands_out() {
    let Some(coturn) = Coturn::start() else {
        return;
    };
    let uri = format!("turn:127.0.0.1:{}", coturn.port);
    let turn = TurnConfig::new([uri], TurnSecret::new("north").unwrap());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = ServerConfig::new(any).with_open(true).with_turn(turn);
    let server = TestServer::start_with(config).await;
    let room = |peer| hidden(server.room(peer)).transport(TransportPreference::WebRtc);
    let mut alice = Member::join(room("alice")).await;
    let mut bob = Member::join(room("bob")).await;
    for member in [&mut alice, &mut bob] {
        let transport = member.wait_for("the other", connected).await;
        assert_eq!(transport, TransportKind::WebRtc);
    }
    // A better way is looked for at once; another one by the same server does not take over.
    alice.room.network_changed().await;
    for (member, seconds) in [(&mut alice, 6), (&mut bob, 1)] {
        let next = |event: &Event| match event {
            Event::Connected { .. } => Some("connected"),
            Event::Disconnected { .. } => Some("disconnected"),
            _ => None,
        };
        let next = member.wait_for("a change", next);
        let next = tokio::time::timeout(Duration::from_secs(seconds), next).await;
        assert_ne!(next, Ok("connected"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrtc_ice_gathering_timeout_falls_back_to_quic() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dead = IceServer {
        urls: vec![format!("turn:{}", silent.local_addr().unwrap())],
        username: Some("alice".into()),
        credential: Some("wonder".into()),
    };
    let server = TestServer::start().await;
    // Relays are all that WebRTC may use, and their server never answers.
    let room = |peer| {
        let webrtc = WebRtcConfig::default()
            .with_ice_servers([dead.clone()])
            .with_ice_policy(IcePolicy::Relay)
            .with_gathering_timeout(Duration::from_millis(300));
        server.room(peer).webrtc(webrtc)
    };
    let mut alice = Member::join(room("alice")).await;
    let mut bob = Member::join(room("bob")).await;
    for member in [&mut alice, &mut bob] {
        let transport = member.wait_for("the other", connected).await;
        assert_eq!(transport, TransportKind::Quic);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_go_on_when_the_network_changes() {
    let server = TestServer::start().await;
    let room = |peer| server.room(peer).transport(TransportPreference::WebRtc);
    let mut alice = Member::join(room("alice")).await;
    let mut bob = Member::join(room("bob")).await;
    for member in [&mut alice, &mut bob] {
        member.wait_for("the other", connected).await;
    }
    // Both at once, which one of them answers; and once more.
    for round in 0..2_u8 {
        alice.room.network_changed().await;
        if round == 0 {
            bob.room.network_changed().await;
        }
        for number in 0..20_u8 {
            let text = format!("{round} {number}");
            alice.room.broadcast(Payload::Text(text)).await.unwrap();
        }
        for number in 0..20_u8 {
            let expected = format!("{round} {number}");
            let text = bob
                .wait_for("the next message", |event| match event {
                    Event::Message {
                        payload: Payload::Text(text),
                        ..
                    } => Some(text.clone()),
                    Event::Disconnected { .. } => Some("disconnected".into()),
                    _ => None,
                })
                .await;
            assert_eq!(text, expected);
        }
    }
}
