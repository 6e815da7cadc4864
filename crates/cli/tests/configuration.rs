//! `roundtable serve` and its settings: from where they come, and what an operator is told who gets one wrong.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::path::PathBuf;

use common::{Serve, refused, roundtable};

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
