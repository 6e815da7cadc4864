//! Beside a real coturn: who gets in with which credentials, and what the server's check says of it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use common::{TestServer, any_port, has_tool, soon};
use roundtable_core::{PeerId, WallTime};
use roundtable_signaling_server::{IceServer, TurnConfig, TurnSecret};

/// A coturn on a port of its own; ends with the test.
struct Coturn {
    port: u16,
    process: Child,
    _dir: tempfile::TempDir,
}

/// What keeps coturn 4.6 from relaying to where it should not.
const DENIED: [&str; 2] = [
    "denied-peer-ip=127.0.0.0-127.255.255.255",
    "denied-peer-ip=::ffff:0.0.0.0-::ffff:255.255.255.255",
];

/// A port for UDP and TCP that is free, and below those that the system and other coturns give out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    let ports = || 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
    let is_free = |port: &u16| {
        let address = ("127.0.0.1", *port);
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    std::iter::repeat_with(ports).find(is_free).unwrap()
}

impl Coturn {
    /// `None` where there is no coturn.
    fn start(port: u16, lines: &[&str]) -> Option<Self> {
        if !has_tool("turnserver", "coturn") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut config = format!(
            "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\nlistening-port={port}\nrealm=lab\nuse-auth-secret\n\
             no-cli\nno-tls\nno-dtls\nlog-file=stdout\npidfile={0}/pid\nuserdb={0}/db\n",
            dir.path().display()
        );
        for line in lines {
            config += &format!("{line}\n");
        }
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
        Some(Self {
            port,
            process,
            _dir: dir,
        })
    }

    fn with_secrets(secrets: &[&str]) -> Option<Self> {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|secret| format!("static-auth-secret={secret}"))
            .collect();
        let lines: Vec<_> = secrets.iter().map(String::as_str).chain(DENIED).collect();
        Self::start(free_port(), &lines)
    }

    /// By what the program says of itself.
    fn is_older_than(major: u32, minor: u32) -> bool {
        let version = Command::new("turnserver")
            .arg("--version")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let numbers = text
            .lines()
            .find(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let mut numbers = numbers
            .unwrap_or_default()
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor)
    }

    fn uri(&self) -> String {
        format!("turn:127.0.0.1:{}", self.port)
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until the server's check says this of every way to the TURN servers.
async fn until_all(server: &TestServer, state: &str) -> String {
    let all = async {
        loop {
            let ready = server.get("/readyz").await;
            let mut checks = ready
                .lines()
                .filter(|line| line.starts_with("turn"))
                .peekable();
            if checks.peek().is_some() && checks.all(|line| line.contains(state)) {
                return ready;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(all).await
}

fn checking(turn: &TurnConfig) -> TestServer {
    let config = any_port().with_turn(turn.clone());
    TestServer::start(config.with_ice_check_interval(Duration::from_millis(100)))
}

fn secret(text: &str) -> TurnSecret {
    TurnSecret::new(text).unwrap()
}

#[tokio::test]
async fn the_check_turns_red_with_the_turn_server_and_green_again() {
    let Some(coturn) = Coturn::with_secrets(&["north"]) else {
        return;
    };
    let turn = TurnConfig::new([coturn.uri()], secret("north"));
    let config = any_port().with_turn(turn).with_ice_required(true);
    let server = TestServer::start(config.with_ice_check_interval(Duration::from_millis(100)));
    let ready = until_all(&server, ": up").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    for transport in ["udp", "tcp"] {
        assert!(
            ready.contains(&format!("over {transport}: up\n")),
            "{ready}"
        );
        let up = format!("transport=\"{transport}\"}} 1\n");
        assert!(server.get("/metrics").await.contains(&up));
    }

    let port = coturn.port;
    drop(coturn);
    let red = until_all(&server, ": down").await;
    assert!(red.starts_with("HTTP/1.1 503"), "{red}");
    assert!(
        server
            .get("/metrics")
            .await
            .contains("transport=\"udp\"} 0\n")
    );

    let lines: Vec<_> = ["static-auth-secret=north"]
        .into_iter()
        .chain(DENIED)
        .collect();
    let _again = Coturn::start(port, &lines).unwrap();
    let green = until_all(&server, ": up").await;
    assert!(green.starts_with("HTTP/1.1 200"), "{green}");
    server.stop().await;
}

async fn failures(server: &TestServer) -> Vec<String> {
    let metrics = server.get("/metrics").await;
    let lines = metrics
        .lines()
        .filter(|line| line.contains("ice_server_failures_total{"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn secrets_rotate_while_both_count_and_the_check_tells_when_they_do_not() {
    let Some(coturn) = Coturn::with_secrets(&["north", "south"]) else {
        return;
    };
    let turn = TurnConfig::new([coturn.uri()], secret("north"));
    let server = checking(&turn);
    until_all(&server, ": up").await;
    let before = failures(&server).await;
    turn.rotate(secret("south"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(failures(&server).await, before, "no check failed meanwhile");
    turn.rotate(secret("east"));
    let red = until_all(&server, "refuses the credentials").await;
    assert!(
        red.starts_with("HTTP/1.1 200"),
        "TURN is not required: {red}"
    );
}

#[tokio::test]
async fn credentials_serve_until_they_expire() {
    let Some(coturn) = Coturn::with_secrets(&["north"]) else {
        return;
    };
    let wall = |offset: i64| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        WallTime::from_millis(now.saturating_add_signed(offset) * 1000)
    };
    let with = |of: &TurnSecret, expires: WallTime| {
        let credentials = of.credentials(&PeerId::new("alice").unwrap(), expires);
        let server = IceServer {
            urls: vec![coturn.uri()],
            username: Some(credentials.username),
            credential: Some(credentials.password),
        };
        let config = any_port().with_ice_servers(vec![server]);
        TestServer::start(config.with_ice_check_interval(Duration::from_millis(100)))
    };
    until_all(&with(&secret("north"), wall(60)), ": up").await;
    until_all(
        &with(&secret("north"), wall(-60)),
        "refuses the credentials",
    )
    .await;
    until_all(&with(&secret("south"), wall(60)), "refuses the credentials").await;
}

#[tokio::test]
async fn a_turn_server_that_relays_to_its_own_loopback_is_named() {
    let lines = ["static-auth-secret=north", "allow-loopback-peers"];
    let Some(open) = Coturn::start(free_port(), &lines) else {
        return;
    };
    let server = checking(&TurnConfig::new([open.uri()], secret("north")));
    let named = until_all(&server, "its own loopback addresses").await;
    assert!(named.contains("up, but exposed"), "{named}");
    let exposed = "ice_server_exposed{kind=\"turn\"";
    let metrics = server.get("/metrics").await;
    let mut exposed = metrics.lines().filter(|line| line.contains(exposed));
    assert!(exposed.all(|line| line.ends_with(" 1")), "{metrics}");
}

#[tokio::test]
async fn a_turn_server_that_takes_a_mapped_address_for_another_is_named() {
    if UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("SKIP: no IPv6 here, and only an IPv6 relay takes such addresses");
        return;
    }
    // CVE-2026-27624: the list of denied peers does not know IPv4 addresses in IPv6 form.
    let lines = ["static-auth-secret=north", "relay-ip=::1", DENIED[0]];
    let Some(coturn) = Coturn::start(free_port(), &lines) else {
        return;
    };
    if !Coturn::is_older_than(4, 9) {
        return;
    }
    let server = checking(&TurnConfig::new([coturn.uri()], secret("north")));
    let named = until_all(&server, "CVE-2026-27624").await;
    assert!(named.contains("up, but exposed"), "{named}");
    let lines = [
        "static-auth-secret=north",
        "relay-ip=::1",
        DENIED[0],
        DENIED[1],
    ];
    let coturn = Coturn::start(free_port(), &lines).unwrap();
    let server = checking(&TurnConfig::new([coturn.uri()], secret("north")));
    until_all(&server, ": up").await;
    assert!(!server.get("/readyz").await.contains("exposed"));
}

#[tokio::test]
async fn a_server_that_answers_nothing_or_nonsense_is_down() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nonsense = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let port = nonsense.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = nonsense.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xff; 4096]).await;
        }
    });
    let uris = [
        format!(
            "turn:127.0.0.1:{}?transport=udp",
            silent.local_addr().unwrap().port()
        ),
        format!("turn:127.0.0.1:{port}?transport=tcp"),
    ];
    let server = checking(&TurnConfig::new(uris, secret("north")));
    let down = until_all(&server, ": down").await;
    assert!(down.contains("no answer within 5 s"), "{down}");
    assert!(down.contains("no STUN message"), "{down}");
}

#[tokio::test]
async fn a_stun_server_is_asked_for_an_address() {
    let Some(coturn) = Coturn::with_secrets(&["north"]) else {
        return;
    };
    let stun = IceServer {
        urls: vec![format!("stun:127.0.0.1:{}", coturn.port)],
        username: None,
        credential: None,
    };
    let config = any_port().with_ice_servers(vec![stun]);
    let server = TestServer::start(config.with_ice_check_interval(Duration::from_millis(100)));
    let up = async {
        while !server.get("/readyz").await.contains("over udp: up") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(up).await;
}
