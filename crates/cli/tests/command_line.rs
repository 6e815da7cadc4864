//! The command as its users meet it: what it says, and how it ends.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use common::{Serve, refused, roundtable};
use serde_json::Value;

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_peer_joins_an_empty_room_and_leaves_in_good_order() {
    let output = Serve::start().join("--name alice --duration 0.3 --submit-rate 50 --json");
    assert!(output.status.success(), "{output:?}");
    let events = events(&output);
    let of = |name| events.iter().find(|event| event["event"] == name).unwrap();
    assert_eq!(of("joined")["peer"], "alice");
    assert_eq!(of("room")["created"], true);
    assert!(of("room")["invite"].as_str().unwrap().contains("#genesis="));
    let summary = of("summary");
    assert!(summary["commands"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary["tasks_left"], 0);
    if cfg!(target_os = "linux") {
        assert_eq!(summary["sockets_left"], 0);
    }
}

#[test]
fn bad_input_ends_with_one_line_that_helps() {
    let nowhere = roundtable("join --server ws://127.0.0.1:1 --room r --name n")
        .output()
        .unwrap();
    refused(&nowhere, "127.0.0.1:1");
    let url = roundtable("join --server ftp://x --room r --name n")
        .output()
        .unwrap();
    refused(&url, "ws://");
    let serve = Serve::start();
    refused(&serve.join("--name a%b"), "name");
    refused(&serve.join("--name n --say /nowhere.wav"), "/nowhere.wav");
    refused(
        &serve.join("--name n --submit-rate 100000"),
        "--submit-rate",
    );
    let text = serve.join(&format!("--name n --say {}", file!()));
    refused(&text, "sox");
    let invite = roundtable("join --invite http://x/ --name n")
        .output()
        .unwrap();
    refused(&invite, "?room=");
}

#[test]
fn a_closed_server_keeps_its_secrets_and_lets_nobody_in_without_a_grant() {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("closed-server");
    let _ = std::fs::remove_dir_all(&data);
    let serve = Serve::with(&format!("--data {}", data.display()));
    refused(&serve.join("--name alice"), "grant");
    let second = format!("serve --listen 127.0.0.1:0 --data {}", data.display());
    refused(&roundtable(&second).output().unwrap(), "in use");
    #[cfg(unix)]
    for file in ["operator-key.json", "keys.json"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(data.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[cfg(unix)]
#[test]
fn a_server_asked_to_reload_its_turn_secret_goes_on() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("turn-secret");
    std::fs::write(&file, "north\n").unwrap();
    let serve = Serve::with(&format!(
        "--open --turn turn:127.0.0.1:3478 --turn-secret-file {}",
        file.display()
    ));
    for secret in ["south\n", ""] {
        std::fs::write(&file, secret).unwrap();
        let hangup = format!("kill -HUP {}", serve.process.id());
        assert!(
            Command::new("sh")
                .args(["-c", &hangup])
                .status()
                .unwrap()
                .success()
        );
        let joined = serve.join("--name alice --duration 0.1");
        assert!(joined.status.success(), "{joined:?}");
    }
}

#[test]
fn a_full_room_and_a_taken_name_are_refused() {
    let serve = Serve::start();
    let line = |name: &str| {
        format!(
            "join --server ws://{} --room r --name {name} --duration 60 --json",
            serve.address
        )
    };
    let mut peers: Vec<Child> = (0..10)
        .map(|n| {
            let mut child = roundtable(&line(&format!("p{n}")))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut joined = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut joined)
                .unwrap();
            assert!(joined.contains("joined"), "{joined}");
            child
        })
        .collect();
    refused(&serve.join("--name p11"), "10");
    peers.truncate(10);
    for child in &mut peers {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let first = serve.join("--name p0");
    refused(&first, "taken");
}
