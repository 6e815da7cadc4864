//! Ten peers of one room, each linked to each of the others over WebRTC.

use std::time::Instant;

use futures_util::StreamExt;
use roundtable::{Event, Room, RoomBuilder, TransportPreference};
use roundtable_benches::{print_figure, server::OpenServer};
use tokio::{runtime::Runtime, task::JoinSet};

const PEERS: usize = 10;

pub(crate) fn run() {
    let seconds = Runtime::new().unwrap().block_on(mesh());
    print_figure("mesh10_s", seconds, "s");
}

/// From the first peer's start until the last has been admitted by its nine others, handshakes included.
async fn mesh() -> f64 {
    let server = OpenServer::start();
    let start = Instant::now();
    let mut joining = JoinSet::new();
    for number in 0..PEERS {
        let builder = Room::builder(server.url(), "mesh", &format!("peer-{number}"));
        joining.spawn(linked_to_all(
            builder.transport(TransportPreference::WebRtc),
        ));
    }
    let rooms = joining.join_all().await;
    let seconds = start.elapsed().as_secs_f64();
    drop(rooms);
    seconds
}

async fn linked_to_all(builder: RoomBuilder) -> Room {
    let room = builder.join().await.unwrap();
    let mut events = room.events();
    let mut linked = 0;
    while linked < PEERS - 1 {
        if let Event::Connected { .. } = events.next().await.unwrap() {
            linked += 1;
        }
    }
    room
}
