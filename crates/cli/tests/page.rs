//! The browser page's way from a server that stops to another: its signaling module, run by Node.
#![allow(clippy::unwrap_used)] // these are tests

mod common;
#[path = "common/nats.rs"]
mod nats;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use common::{Serve, has_tool};
use nats::{Nats, free_port, get, node_at, terminate};

const MODULE: &str = include_str!("../../signaling-server/web/signaling.js");

/// Joins, and tells of each place that it gets: by which server's name it was taken, and whether it is the same.
const SCRIPT: &str = "
globalThis.addEventListener = () => {};
globalThis.CloseEvent ??= class extends Event {
  constructor(type, init) { super(type); this.code = init.code; }
};
const { Signaling } = await import(process.argv[1]);
const signaling = new Signaling(process.argv[2], { room: 'room', peer_id: 'page', capabilities: ['data'] });
signaling.addEventListener('joined', (event) => console.log(event.detail.resumed ? 'resumed' : 'rejoined'));
signaling.addEventListener('reconnecting', () => console.log('lost'));
signaling.addEventListener('ended', (event) => console.log('ended', event.detail));
await signaling.join();
console.log('joined');
";

struct Page {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
    _module: tempfile::TempDir,
}

impl Page {
    fn open(server: &Serve) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join("signaling.mjs");
        std::fs::write(&module, MODULE).unwrap();
        let mut process = Command::new("node")
            .args([
                "--experimental-websocket",
                "--input-type=module",
                "-e",
                SCRIPT,
            ])
            .arg(module)
            .arg(format!("ws://{}/v1/ws", server.address))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            lines,
            _module: dir,
        }
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_goes_to_the_server_that_a_stopping_one_names_and_keeps_its_place() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    if !has_tool("node", "nodejs") {
        return;
    }
    let ports = [free_port(), free_port()];
    let start = |port| {
        let public = format!("--public-url ws://127.0.0.1:{port} --drain-secs 2");
        let nats = &nats;
        async move { node_at(nats, port, &public).await }
    };
    let (mut one, mut two) = (start(ports[0]).await, start(ports[1]).await);
    let policy = get(&one.address, "/");
    let other = format!("ws://127.0.0.1:{}", ports[1]);
    assert!(policy.contains(&other), "the page may go there: {policy}");
    let mut page = Page::open(&one);
    assert_eq!(page.says(), "joined");
    terminate(&one);
    assert_eq!(page.says(), "resumed");
    one.process.wait().unwrap();
    // Killed, not stopped: it comes back where it was before, for that is what it knows.
    let one = start(ports[0]).await;
    two.process.kill().unwrap();
    two.process.wait().unwrap();
    assert_eq!(page.says(), "lost");
    assert_eq!(page.says(), "resumed");
    drop(one);
}
