//! `roundtable doctor` against a signaling server, with and without TURN.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::net::UdpSocket;

use common::{Serve, roundtable};

#[test]
fn without_a_turn_server_it_says_who_will_not_connect() {
    let serve = Serve::start();
    let line = format!("doctor --server ws://{}", serve.address);
    let output = roundtable(&line).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("ok    signaling: let us in"), "{text}");
    assert!(
        text.contains("ok    direct: this machine reaches itself"),
        "{text}"
    );
    for each in [
        "ok    direct over TCP: this machine reaches itself by TCP alone",
        "  IPv6: this machine ",
        "note  TURN over UDP: no server is named for it",
        "note  TURN over TCP: no server is named for it",
        "note  TURN over TLS: no server is named for it",
    ] {
        assert!(text.contains(each), "{text}");
    }
    assert!(text.contains("FAIL  strict NATs: "), "{text}");
    assert!(text.contains("no TURN server is configured"), "{text}");
}

#[test]
fn a_turn_server_that_does_not_answer_is_named_for_each_transport() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "north-north-north-north-north-north").unwrap();
    let serve = Serve::with(&format!(
        "--open --turn turn:127.0.0.1:{port} --turn-secret-file {}",
        secret.display()
    ));
    let line = format!("doctor --json --server ws://{}", serve.address);
    let output = roundtable(&line).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |check: String| {
        let mut findings = told["findings"].as_array().unwrap().iter();
        let finding = findings.find(|finding| finding["check"] == check.as_str());
        finding.unwrap()["says"].as_str().unwrap().to_owned()
    };
    let udp = of(format!(
        "TURN over UDP, turn:127.0.0.1:{port}?transport=udp"
    ));
    assert!(udp.contains("no answer"), "{udp}");
    let tcp = of(format!(
        "TURN over TCP, turn:127.0.0.1:{port}?transport=tcp"
    ));
    assert!(tcp.contains("no TCP connection"), "{tcp}");
    let tls = of("TURN over TLS".to_owned());
    assert!(tls.contains("turns:HOST:443"), "{tls}");
}

#[test]
fn a_server_that_is_not_there_is_said_in_one_line() {
    let output = roundtable("doctor --server ws://127.0.0.1:9")
        .output()
        .unwrap();
    common::refused(&output, "127.0.0.1:9");
}
