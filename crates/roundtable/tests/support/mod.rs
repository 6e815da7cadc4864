//! A real signaling server on loopback, and rooms joined through it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test watches the real clock
#![allow(dead_code)] // each test binary uses its part

use std::{net::SocketAddr, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use roundtable::{Event, Room, RoomBuilder, StateHash};
use roundtable_signaling_server::{Server, ServerConfig};
use tokio::{sync::oneshot, task::JoinHandle};

/// How long anything in these tests may take; only failures take so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct TestServer {
    pub(crate) url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_with(ServerConfig::new(any).with_open(true)).await
    }

    pub(crate) async fn start_with(config: ServerConfig) -> Self {
        // `RUST_LOG=roundtable=debug` shows what a failing test did.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let server = Server::bind(config).unwrap();
        let url = format!("ws://{}", server.local_addr());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            server.run(async { drop(stopped.await) }).await;
        });
        Self { url, stop, task }
    }

    pub(crate) fn room(&self, peer: &str) -> RoomBuilder {
        Room::builder(&self.url, "test", peer)
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

/// A joined room with its events.
pub(crate) struct Member {
    pub(crate) room: Room,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
}

impl Member {
    pub(crate) async fn join(builder: RoomBuilder) -> Self {
        let room = builder.join().await.unwrap();
        let events = Box::pin(room.events());
        Self { room, events }
    }

    /// The first event for which `pick` has an answer.
    pub(crate) async fn wait_for<T>(
        &mut self,
        what: &str,
        pick: impl Fn(&Event) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                let event = self.events.next().await.expect("the room is open");
                if let Some(found) = pick(&event) {
                    return found;
                }
            }
        };
        let peer = self.room.peer().clone();
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{peer} waited in vain for {what}"))
    }

    pub(crate) async fn may_edit(&mut self) {
        self.wait_for("leave to edit", |e| {
            matches!(e, Event::MayEdit(true)).then_some(())
        })
        .await;
    }

    pub(crate) async fn hash(&self) -> Option<StateHash> {
        self.room.summary().await.unwrap().state_hash
    }
}

/// Waits until all members have the same state and `commands` commands.
pub(crate) async fn converged(members: &[&Member], commands: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut summaries = Vec::new();
        for member in members {
            summaries.push(member.room.summary().await.unwrap());
        }
        let same = summaries
            .windows(2)
            .all(|pair| pair[0].state_hash == pair[1].state_hash);
        let complete = summaries.iter().all(|summary| summary.commands == commands);
        if same && complete {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "no convergence: {summaries:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
