//! A closed server as its users meet it: a room is made, its invite handed on, and who has it gets in.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Serve, has_tool, refused, roundtable};
use serde_json::{Value, json};

fn http(server: &Serve, method: &str, path: &str, bearer: &str, body: &Value) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {bearer}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

/// A closed server with one room.
struct Closed {
    server: Serve,
    room: String,
    invite: String,
    creator: String,
    _data: tempfile::TempDir,
}

impl Closed {
    fn start(rest: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Serve::with(&format!("--data {} {rest}", data.path().display()));
        let operator = std::fs::read(data.path().join("operator-key.json")).unwrap();
        let operator: String = serde_json::from_slice(&operator).unwrap();
        let (status, made) = http(&server, "POST", "/v1/rooms", &operator, &Value::Null);
        assert_eq!(status, 201, "{made}");
        let made: Value = serde_json::from_str(&made).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let (room, invite, creator) = (text("room"), text("invite"), text("creator_token"));
        Self {
            server,
            room,
            invite,
            creator,
            _data: data,
        }
    }

    fn link(&self) -> String {
        format!(
            "http://{}/?room={}#invite={}",
            self.server.address, self.room, self.invite
        )
    }

    fn peers(&self) -> String {
        let (_, metrics) = http(&self.server, "GET", "/metrics", "", &Value::Null);
        let peers = metrics
            .lines()
            .find_map(|line| line.strip_prefix("roundtable_signaling_peers "));
        peers.unwrap().to_owned()
    }
}

/// A joined peer; ends with the test.
struct Peer {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn join(line: &str) -> Self {
        let mut process = roundtable(&format!("join {line} --json --transport quic"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    fn event(&mut self, name: &str) -> Value {
        for line in self.lines.by_ref().lines() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["event"] == name {
                return event;
            }
        }
        panic!("it ended without {name}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_invite_is_handed_from_peer_to_peer_and_lets_each_of_them_in() {
    let closed = Closed::start("");
    let mut alice = Peer::join(&format!("--invite {} --name alice", closed.link()));
    let handed_on = alice.event("room")["invite"].as_str().unwrap().to_owned();
    assert!(
        handed_on.contains("#genesis=") && handed_on.contains(&closed.invite),
        "{handed_on}"
    );
    let mut bob = Peer::join(&format!("--invite {handed_on} --name bob"));
    assert_eq!(bob.event("connected")["peer"], "alice");
    assert_eq!(alice.event("connected")["peer"], "bob");
    let rest = format!(
        "--server ws://{} --room {} --name carol",
        closed.server.address, closed.room
    );
    let mut carol = Peer::join(&format!("{rest} --invite-grant {}", closed.invite));
    carol.event("connected");
}

#[test]
fn grants_are_renewed_while_a_peer_stays_and_a_single_one_ends() {
    let closed = Closed::start("--grant-life-secs 2");
    let path = format!("/v1/rooms/{}/grants", closed.room);
    let exchange = json!({"peer_id": "bob", "invite": closed.invite});
    let mut alice = Peer::join(&format!("--invite {} --name alice", closed.link()));
    alice.event("joined");
    let (status, granted) = http(&closed.server, "POST", &path, "", &exchange);
    assert_eq!(status, 201, "{granted}");
    let granted: Value = serde_json::from_str(&granted).unwrap();
    let rest = format!(
        "--server ws://{} --room {} --name bob",
        closed.server.address, closed.room
    );
    let mut bob = Peer::join(&format!(
        "{rest} --token {}",
        granted["token"].as_str().unwrap()
    ));
    bob.event("joined");
    bob.event("signaling_ended");
    // Alice has outlived several of her grants by now, and stays.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(closed.peers(), "1");
}

#[test]
fn who_has_no_good_invite_is_told_what_to_do() {
    let closed = Closed::start("");
    let rest = format!(
        "--server ws://{} --room {} --name mallory",
        closed.server.address, closed.room
    );
    refused(
        &roundtable(&format!("join {rest}")).output().unwrap(),
        "invite",
    );
    let guess = roundtable(&format!("join {rest} --invite-grant guess"))
        .output()
        .unwrap();
    refused(&guess, "ask whoever invited you");
    refused(
        &roundtable(&format!("join {rest} --token guess"))
            .output()
            .unwrap(),
        "invite",
    );
    let (status, _) = http(
        &closed.server,
        "DELETE",
        &format!("/v1/rooms/{}", closed.room),
        &closed.creator,
        &Value::Null,
    );
    assert_eq!(status, 204);
    let late = roundtable(&format!("join --invite {} --name late", closed.link()))
        .output()
        .unwrap();
    refused(&late, "ask whoever invited you");
}

#[test]
fn everything_goes_over_tls_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    let serve = Serve::with(&format!(
        "--open --tls-cert {} --tls-key {}",
        path("cert.pem").display(),
        path("key.pem").display()
    ));
    let port = serve.address.rsplit(':').next().unwrap();
    let join = || {
        roundtable(&format!(
            "join --server wss://localhost:{port} --room r --name n --duration 0.1"
        ))
    };
    refused(&join().output().unwrap(), "trusts");
    let trusting = join()
        .env("SSL_CERT_FILE", path("cert.pem"))
        .output()
        .unwrap();
    assert!(trusting.status.success(), "{trusting:?}");
}

/// A browser on the page; ends with the test.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_browser_joins_by_the_invite_in_the_links_fragment() {
    if !has_tool("chromium", "chromium") {
        return;
    }
    let closed = Closed::start("--grant-life-secs 4");
    let profile = tempfile::tempdir().unwrap();
    let open = |link: &str, profile: &Path| {
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
            ])
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(link);
        Browser(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    };
    let link = closed.link().replace("#invite", "&name=browser#invite");
    let _browser = open(&link, profile.path());
    let joined = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(200));
        closed.peers() == "1"
    });
    assert!(joined, "the browser is not in the room");
    // It outlives its grants, too.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(closed.peers(), "1");
}
