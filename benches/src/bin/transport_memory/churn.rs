//! One peer that stays in a room, and one that comes and goes.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use roundtable::{Event, Identity, Room, RoomBuilder, TransportPreference};
use roundtable_benches::{print_figure, server::OpenServer};
use tokio::{runtime::Runtime, time::sleep};

use crate::live::live;

const CYCLES: usize = 1000;
const QUICK_CYCLES: usize = 200;
/// After so many cycles what is kept for the next is there.
const WARM_UP: usize = 100;
/// Until sockets are closed, and tasks have ended.
const REST: Duration = Duration::from_secs(3);

pub(crate) fn run(quick: bool) {
    let cycles = if quick { QUICK_CYCLES } else { CYCLES };
    let grown = Runtime::new().unwrap().block_on(churn(cycles));
    print_figure("churn_1000_growth_bytes", grown, "B");
}

/// What the process has grown by, server and peers, in a thousand cycles.
async fn churn(cycles: usize) -> f64 {
    let server = OpenServer::start();
    let builder = |peer: &str| {
        let builder = Room::builder(server.url(), "churn", peer);
        builder.transport(TransportPreference::WebRtc)
    };
    let host = builder("host").join().await.unwrap();
    let mut seen = host.events();
    // The same person, or the room's log would rightly grow by what is said of each.
    let guest = Identity::ephemeral().unwrap();
    let mut warm = 0.0;
    for cycle in 0..cycles {
        if cycle == WARM_UP {
            sleep(REST).await;
            warm = live();
        }
        come_and_go(builder("guest").identity(guest.clone()), &mut seen).await;
    }
    sleep(REST).await;
    let grown = live() - warm;
    host.leave().await;
    grown * CYCLES as f64 / (cycles - WARM_UP) as f64
}

/// Joins, and leaves as soon as both have admitted each other. Returns when it is gone for who stays.
async fn come_and_go(builder: RoomBuilder, seen: &mut (impl Stream<Item = Event> + Unpin)) {
    let guest = builder.join().await.unwrap();
    let mut events = guest.events();
    let is_connected = |event: &Event| matches!(event, Event::Connected { .. });
    let is_disconnected = |event: &Event| matches!(event, Event::Disconnected { .. });
    tokio::join!(until(&mut events, is_connected), until(seen, is_connected));
    guest.leave().await;
    until(seen, is_disconnected).await;
}

async fn until(events: &mut (impl Stream<Item = Event> + Unpin), wanted: impl Fn(&Event) -> bool) {
    while !wanted(&events.next().await.unwrap()) {}
}
