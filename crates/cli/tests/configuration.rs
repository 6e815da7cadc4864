//! `roundtable serve` and its settings: from where they come, and what an operator is told who gets one wrong.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
};

use common::{Serve, refused, roundtable};
use serde_json::Value;

/// A configuration file, as long as the directory lives.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn a_bad_flag_gets_one_line_that_names_it() {
    for (line, hint) in [
        ("serve", "--data DIR"),
        ("serve --open --data d", "--data DIR"),
        ("serve --listen 0.0.0.0:0 --open", "--i-know"),
        ("serve --listen nowhere", "--listen"),
        ("serve --lisen 127.0.0.1:0", "--listen"),
        ("serve --data /dev/null", "--data"),
        ("serve --open --max-rooms many", "--max-rooms"),
        ("serve --open --max-peers 0", "max_peers"),
        ("serve --open --max-peers 51", "max_peers"),
        ("serve --open --max-connections 0", "max_connections"),
        ("serve --open --max-queued-mib 0", "max_queued_mib"),
        (
            "serve --open --max-connections 2305843009213693952",
            "max_connections",
        ),
        (
            "serve --open --max-connections-per-address 0",
            "max_connections_per_address",
        ),
        ("serve --open --grant-life-secs 601", "grant_life_secs"),
        ("serve --open --room-life-secs 0", "room_life_secs"),
        ("serve --open --message-burst 0", "message_burst"),
        (
            "serve --open --messages-per-second 0",
            "messages_per_second",
        ),
        ("serve --open --trusted-proxy 10.0.0.0/40", "trusted_proxy"),
        ("serve --open --allow-origin example.org", "allow_origin"),
        ("serve --open --stun example.org", "stun"),
        ("serve --open --turn turn:h", "turn_secret_file"),
        ("serve --open --turn-secret-file /nowhere", "/nowhere"),
        ("serve --open --log-format xml", "--log-format"),
        ("serve --open --log =", "log is wrong"),
        ("serve --open --tls-cert /nowhere.pem", "tls_key"),
        ("serve --open --tls-key /nowhere.pem", "tls_cert"),
        (
            "serve --open --tls-cert /nowhere.pem --tls-key /nowhere.pem",
            "tls_cert or tls_key is wrong: cannot read /nowhere.pem",
        ),
        (
            "serve --open --tls-cert Cargo.toml --tls-key Cargo.toml",
            "Cargo.toml is damaged",
        ),
        ("serve --open --nats http://x", "nats is wrong"),
        (
            "serve --open --nats nats://127.0.0.1:1 --nats-cluster a.b",
            "nats_cluster",
        ),
        (
            "serve --open --nats nats://127.0.0.1:1 --nats-credentials /nowhere.creds",
            "nats_credentials",
        ),
        (
            "serve --open --nats-credentials /x",
            "nats_credentials needs nats",
        ),
        ("serve --config /nowhere.toml", "/nowhere.toml"),
    ] {
        refused(&roundtable(line).output().unwrap(), hint);
    }
    let serve = Serve::start();
    let taken = roundtable(&format!("serve --listen {} --open", serve.address));
    refused(&{ taken }.output().unwrap(), &serve.address);
}

#[test]
fn an_open_server_is_open_to_all_only_for_who_knows() {
    let line = "serve --listen 0.0.0.0:0 --open --i-know";
    let mut process = roundtable(line).stdout(Stdio::piped()).spawn().unwrap();
    let mut listening = String::new();
    let read = BufReader::new(process.stdout.take().unwrap()).read_line(&mut listening);
    process.kill().unwrap();
    process.wait().unwrap();
    read.unwrap();
    assert!(
        listening.starts_with("listening on http://0.0.0.0:"),
        "{listening}"
    );
}

#[test]
fn a_bad_file_gets_one_line_that_names_the_file_and_the_setting() {
    for (text, hint) in [
        ("listen = ", "TOML"),
        ("lisen = \"127.0.0.1:0\"", "lisen"),
        ("listen = \"localhost\"", "listen"),
        ("listen = 8080", "listen"),
        ("open = \"perhaps\"", "open"),
        ("max_rooms = -1", "max_rooms"),
        ("max_rooms = \"many\"", "max_rooms"),
        ("max_rooms = [1]", "max_rooms"),
        ("turn = 7", "turn"),
        ("stun = { uri = \"x\" }", "stun"),
        ("log_format = \"xml\"", "log_format"),
        ("[tls]\ncert = \"x\"", "tls"),
    ] {
        let (_dir, path) = file(text);
        let line = format!("serve --config {}", path.display());
        let output = roundtable(&line).output().unwrap();
        refused(&output, hint);
        refused(&output, "serve.toml");
    }
}

#[test]
fn a_bad_variable_gets_one_line_that_names_it() {
    for (name, value, hint) in [
        ("ROUNDTABLE_MAX_ROOMS", "many", "max_rooms"),
        ("ROUNDTABLE_LISTEN", "here", "listen"),
        ("ROUNDTABLE_OPEN", "perhaps", "open"),
        ("ROUNDTABLE_CONFIG", "/nowhere.toml", "/nowhere.toml"),
    ] {
        let output = roundtable("serve").env(name, value).output().unwrap();
        refused(&output, hint);
    }
}

#[test]
fn the_settings_in_effect_are_printed_and_can_be_used() {
    let (_dir, path) = file("max_peers = 3\nlisten = \"127.0.0.1:1\"\nopen = true");
    let line = format!(
        "serve --config {} --listen 127.0.0.1:0 --print-config",
        path.display()
    );
    let printed = roundtable(&line)
        .env("ROUNDTABLE_STUN", "stun:a:1,stun:b:2")
        .output()
        .unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).unwrap();
    for setting in [
        "listen = \"127.0.0.1:0\"",
        "max_peers = 3",
        "open = true",
        "max_rooms = 10000",
        "stun = [\"stun:a:1\",\"stun:b:2\"]",
    ] {
        assert!(
            printed.lines().any(|line| line == setting),
            "{setting} in {printed}"
        );
    }
    let (_dir, again) = file(&printed);
    let serve = Serve::with(&format!("--config {}", again.display()));
    let joined = serve.join("--name alice --duration 0.1");
    assert!(joined.status.success(), "{joined:?}");
}

#[test]
fn help_says_what_holds_without_a_flag_and_which_variable_sets_it() {
    let help = roundtable("serve --help").output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("[default: 16384] [env: ROUNDTABLE_MAX_CONNECTIONS]"),
        "{help}"
    );
}

#[test]
fn the_example_configuration_is_one() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/deploy/roundtable.toml");
    let line = format!("serve --print-config --config {}", example.display());
    let printed = roundtable(&line).output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("log_format = \"json\"\n"), "{printed}");
}

#[cfg(unix)]
#[test]
fn logs_are_json_that_says_which_peer_in_which_room_and_nothing_secret() {
    let data = tempfile::tempdir().unwrap();
    let line = format!(
        "serve --listen 127.0.0.1:0 --log-format json --log debug --data {}",
        data.path().display()
    );
    let mut process = roundtable(&line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut listening = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut listening)
        .unwrap();
    let address = listening
        .trim()
        .trim_start_matches("listening on http://")
        .trim_end_matches('/')
        .to_owned();
    let operator = std::fs::read(data.path().join("operator-key.json")).unwrap();
    let operator: String = serde_json::from_slice(&operator).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    let request = format!(
        "POST /v1/rooms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {operator}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut made = String::new();
    stream.read_to_string(&mut made).unwrap();
    let made: Value = serde_json::from_str(made.split_once("\r\n\r\n").unwrap().1).unwrap();
    let (room, invite) = (
        made["room"].as_str().unwrap(),
        made["invite"].as_str().unwrap(),
    );
    let link = format!("http://{address}/?room={room}#invite={invite}");
    let joined = roundtable(&format!("join --invite {link} --name alice --duration 0.1"))
        .output()
        .unwrap();
    assert!(joined.status.success(), "{joined:?}");
    let stopped = std::process::Command::new("kill")
        .arg(process.id().to_string())
        .status();
    assert!(stopped.unwrap().success());
    let output = process.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_alice =
        |line: &Value| line["span"]["peer_id"] == "alice" && line["span"]["room"] == room;
    assert!(lines.iter().any(of_alice), "{log}");
    for secret in [
        invite,
        operator.as_str(),
        "eyJ",
        "candidate:",
        "m=application",
    ] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
