//! Ten peers of one room, each linked to each of the others over WebRTC.

use std::{net::SocketAddr, time::Instant};

use futures_util::StreamExt;
use roundtable::{Event, Room, RoomBuilder, TransportPreference};
use roundtable_benches::print_figure;
use roundtable_signaling_server::{Server, ServerConfig};
use tokio::{runtime::Runtime, task::JoinSet};

const PEERS: usize = 10;

pub(crate) fn run() {
    let seconds = Runtime::new().unwrap().block_on(mesh());
    print_figure("mesh10_s", seconds, "s");
}

/// From the first peer's start until the last has been admitted by its nine others, handshakes included.
async fn mesh() -> f64 {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(ServerConfig::new(any).with_open(true)).unwrap();
    let url = format!("ws://{}", server.local_addr());
    let serving = tokio::spawn(server.run(std::future::pending()));
    let start = Instant::now();
    let mut joining = JoinSet::new();
    for number in 0..PEERS {
        let builder = Room::builder(&url, "mesh", &format!("peer-{number}"));
        joining.spawn(linked_to_all(
            builder.transport(TransportPreference::WebRtc),
        ));
    }
    let rooms = joining.join_all().await;
    let seconds = start.elapsed().as_secs_f64();
    drop(rooms);
    serving.abort();
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
