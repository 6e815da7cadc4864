//! A NATS server of the test's own, and servers of ours that it joins.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)] // for tests alone, each using a part

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_client::{ClientConfig, Event, EventStream};
use tokio::time::{sleep, timeout};

use crate::common::{Serve, has_tool};

/// Longer than anything here may take; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A NATS server with JetStream.
pub struct Nats {
    process: Option<Child>,
    port: u16,
}

impl Nats {
    /// `None` where there is no `nats-server`.
    pub async fn start() -> Option<Self> {
        if !has_tool("nats-server", "nats-server") {
            return None;
        }
        let port = free_port();
        let mut nats = Self {
            process: None,
            port,
        };
        nats.run().await;
        Some(nats)
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs with an empty store.
    pub async fn run(&mut self) {
        let store = std::env::temp_dir().join(format!("roundtable-nats-{}", self.port));
        let process = Command::new("nats-server")
            .args(["--addr", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--jetstream", "--store_dir", store.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let address = format!("127.0.0.1:{}", self.port);
        soon("NATS", async {
            while TcpStream::connect(&address).is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        let store = std::env::temp_dir().join(format!("roundtable-nats-{}", self.port));
        // A store that was never written is not there.
        let _ = std::fs::remove_dir_all(store);
    }
}

/// A port that nothing listens on.
pub fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

/// A server process of the cluster, which admits peers.
pub async fn node(nats: &Nats, rest: &str) -> Serve {
    node_at(nats, 0, rest).await
}

/// The same, for who holds a grant.
pub async fn closed_node(nats: &Nats, rest: &str) -> Serve {
    start(nats, 0, rest).await
}

pub async fn node_at(nats: &Nats, port: u16, rest: &str) -> Serve {
    start(nats, port, &format!("--open {rest}")).await
}

async fn start(nats: &Nats, port: u16, rest: &str) -> Serve {
    let limits = "--max-connections-per-address 10000 --log warn";
    let nats = nats.url();
    let serve = Serve::at(port, &format!("--nats {nats} {limits} {rest}"), &[]);
    soon("a server that is ready", async {
        while !get(&serve.address, "/readyz").starts_with("HTTP/1.1 200") {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    serve
}

/// Asks a server to stop, as a service manager does.
pub fn terminate(serve: &Serve) {
    signal(serve, "-TERM");
}

/// Sends a server a signal, as `kill` names it.
pub fn signal(serve: &Serve, name: &str) {
    let pid = serve.process.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status();
    assert!(sent.unwrap().success());
}

pub async fn nodes(nats: &Nats, rest: &str) -> [Serve; 3] {
    [
        node(nats, rest).await,
        node(nats, rest).await,
        node(nats, rest).await,
    ]
}

pub fn get(address: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    exchange(address, &request)
}

pub fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// What a metric of a server stands at.
pub fn metric(address: &str, name: &str) -> usize {
    let name = format!("roundtable_signaling_{name} ");
    let metrics = get(address, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}

pub fn peer(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

/// To join by the first of these servers, and go to the others if need be.
pub fn config(servers: &[&Serve], room: &str, name: &str) -> ClientConfig {
    let url = |serve: &&Serve| format!("ws://{}", serve.address);
    let (first, more) = servers.split_first().unwrap();
    ClientConfig::new(&url(first), RoomId::new(room).unwrap(), peer(name))
        .unwrap()
        .with_more_urls(more.iter().map(url))
        .unwrap()
}

/// The next event that the test is about: not that a connection was lost or made again.
pub async fn hears(events: &mut EventStream) -> Event {
    loop {
        let event = soon("an event", events.next())
            .await
            .expect("the stream ended");
        let is_connection = matches!(
            event,
            Event::Reconnecting { .. } | Event::Resumed(_) | Event::Draining
        );
        if !is_connection {
            return event;
        }
    }
}
