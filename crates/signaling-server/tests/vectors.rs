//! The protocol's vectors, which `signaling-protocol` runs against its room, against a server over sockets: in virtual
//! time, since some of them wait for half a minute.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use common::{Raw, TestServer, any_port};
use serde_json::Value;
use tokio::{task, time};

/// How long a conversation may take on a real clock before something must be stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Longer than any conversation.
const LONG: Duration = Duration::from_secs(3600);

/// Keeps tokio's paused clock where it is until the sender is dropped. By itself it runs on to the next timer whenever
/// every task waits, for a socket too, but not while something blocks.
fn hold_clock() -> mpsc::Sender<()> {
    let (running, ended) = mpsc::channel::<()>();
    task::spawn_blocking(move || ended.recv_timeout(STUCK));
    running
}

/// Lets the server's tasks do what they can do without time passing.
async fn settle() {
    for _ in 0..100 {
        task::yield_now().await;
    }
}

/// A server and the clients of one file, who know its tokens by the names that they have there.
struct Conversation {
    server: TestServer,
    clients: BTreeMap<u64, Raw>,
    tokens: HashMap<String, String>,
    now_ms: u64,
}

impl Conversation {
    async fn step(&mut self, step: &Value) {
        let at_ms = step["at_ms"].as_u64().unwrap();
        settle().await; // what nobody was to hear of is done before time passes
        time::advance(Duration::from_millis(at_ms - self.now_ms)).await;
        self.now_ms = at_ms;
        settle().await;
        if let Some(client) = step["lose"].as_u64() {
            self.lose(client).await;
        }
        if let Some(client) = step["on"].as_u64() {
            let mut text = match &step["text"] {
                Value::String(text) => text.clone(),
                _ => step["send"].to_string(),
            };
            for (written, real) in &self.tokens {
                text = text.replace(written, real);
            }
            self.client(client).await.send_text(text).await;
        }
        for heard in step["hear"].as_array().unwrap() {
            let client = self.client(heard["on"].as_u64().unwrap()).await;
            if let Some(code) = heard["close"].as_u64() {
                let closed = client.receive().await.unwrap_err();
                assert_eq!(closed.map(u64::from), Some(code));
                self.clients.remove(&heard["on"].as_u64().unwrap());
                continue;
            }
            let message = client.notification().await;
            self.compare(message, &heard["message"]);
        }
    }

    async fn client(&mut self, client: u64) -> &mut Raw {
        if !self.clients.contains_key(&client) {
            let raw = self.server.raw().await;
            self.clients.insert(client, raw);
        }
        self.clients.get_mut(&client).unwrap()
    }

    /// Breaks a connection and waits until the server has noticed.
    async fn lose(&mut self, client: u64) {
        let before = self.connections().await;
        drop(self.clients.remove(&client).unwrap());
        while self.connections().await == before {}
        settle().await;
    }

    async fn connections(&self) -> String {
        let metrics = self.server.get("/metrics").await;
        let gauge = "roundtable_signaling_connections ";
        let line = metrics.lines().find(|line| line.starts_with(gauge));
        line.expect("connections are counted").to_owned()
    }

    /// Holds a message against the written one, but for what a server chooses: what errors say to people, the time of
    /// its clock, and tokens, which are remembered.
    fn compare(&mut self, mut message: Value, written: &Value) {
        if let Some(error) = message.get_mut("error").and_then(Value::as_object_mut) {
            error.remove("message");
        }
        if let Some(result) = message.get_mut("result").and_then(Value::as_object_mut) {
            for chosen in ["resume", "server_time_ms"] {
                let Some(real) = result.get(chosen).cloned() else {
                    continue;
                };
                if let (Some(token), Some(name)) =
                    (real.as_str(), written["result"][chosen].as_str())
                {
                    self.tokens.insert(name.to_owned(), token.to_owned());
                }
                result.insert(chosen.to_owned(), written["result"][chosen].clone());
            }
        }
        assert_eq!(message, *written);
    }
}

async fn run(path: &Path) {
    println!("{}", path.display());
    let file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let max_peers = file["max_peers"].as_u64().unwrap().try_into().unwrap();
    let config = any_port().with_max_peers(max_peers);
    // Clients of the vectors neither answer pings in time nor hurry to announce.
    let config = config
        .with_heartbeat(LONG, LONG)
        .with_announce_timeout(LONG);
    let mut conversation = Conversation {
        server: TestServer::start(config),
        clients: BTreeMap::new(),
        tokens: HashMap::new(),
        now_ms: 0,
    };
    for (number, step) in file["steps"].as_array().unwrap().iter().enumerate() {
        println!("step {number}");
        conversation.step(step).await;
    }
    settle().await;
    for (_, mut client) in conversation.clients {
        client.assert_nothing_came().await;
    }
}

// Paused from the start, so that timers, which count whole milliseconds, are due exactly when they should be.
#[tokio::test(start_paused = true)]
async fn a_server_says_over_its_sockets_what_the_vectors_say() {
    let _running = hold_clock();
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../signaling-protocol/tests/vectors");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "the vectors are there");
    for path in files {
        run(&path).await;
    }
}
