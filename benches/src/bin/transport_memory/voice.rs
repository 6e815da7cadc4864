//! Rooms in which everybody speaks at once.

use std::{fs, time::Duration};

use futures_util::StreamExt;
use roundtable::{
    Event, Room, RoomBuilder, TransportPreference,
    voice::{Clip, Voice},
};
use roundtable_benches::{print_figure, server::OpenServer};
use tokio::{runtime::Runtime, task::JoinSet, time::sleep};

use crate::live::{Peak, live};

/// How long they speak.
const SPEECH: Duration = Duration::from_secs(10);
const QUICK_SPEECH: Duration = Duration::from_secs(3);
const PEERS: usize = 10;

pub(crate) fn run(quick: bool) {
    let speech = if quick { QUICK_SPEECH } else { SPEECH };
    Runtime::new().unwrap().block_on(voice(speech));
}

/// The most that a peer holds while all speak, in live bytes, and what the process has grown by.
async fn voice(speech: Duration) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crates/roundtable/assets/carol.wav"
    );
    let clip = Clip::open(path).unwrap().looped(true);
    let server = OpenServer::start();
    let (before, resident_before) = (live(), resident());
    let mut joining = JoinSet::new();
    for number in 0..PEERS {
        let builder = Room::builder(server.url(), "voice", &format!("peer-{number}"));
        let speaks = Voice::default().say(clip.clone());
        let builder = builder.transport(TransportPreference::WebRtc);
        joining.spawn(linked_to_all(builder.voice(speaks)));
    }
    let rooms = joining.join_all().await;
    let peak = Peak::watch();
    sleep(speech).await;
    let per_peer = |bytes: f64| bytes / PEERS as f64;
    let grown = resident() - resident_before;
    print_figure(
        "voice_bytes_per_peer",
        per_peer(peak.finish() - before),
        "B",
    );
    print_figure("voice_resident_bytes_per_peer", per_peer(grown), "B");
    for room in rooms {
        assert!(
            room.voice().unwrap().stats().len() == PEERS - 1,
            "all are heard"
        );
        room.leave().await;
    }
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

/// The process' memory, with what C libraries have allocated, in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<f64>().unwrap() * 1024.0
}
