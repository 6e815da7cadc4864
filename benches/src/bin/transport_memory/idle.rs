//! Links on which nothing happens.

use std::time::Duration;

use bytes::Bytes;
use roundtable_benches::print_figure;
use roundtable_core::{Channel, Frame};
use roundtable_transport::Link;
use roundtable_transport_webrtc::WebRtcLink;
use tokio::{runtime::Runtime, time::sleep};

use crate::{live::live, pair};

/// Links that are open at once.
const LINKS: usize = 50;
/// Ends of those.
const ENDS: f64 = 2.0 * LINKS as f64;
/// What each link has carried when it is idle again, each way.
const MESSAGES: usize = 64;
const MESSAGE: usize = 16 << 10;
/// Until what is under way has been acknowledged, and several checks of the path have been answered.
const REST: Duration = Duration::from_secs(3);

pub(crate) fn run() {
    Runtime::new().unwrap().block_on(idle());
}

async fn idle() {
    // What the process keeps once it has had a link is no part of the next.
    drop(open_and_use().await);
    sleep(REST).await;
    let before = live();
    let mut links = Vec::with_capacity(LINKS);
    for _ in 0..LINKS {
        links.push(pair::webrtc().await);
    }
    sleep(REST).await;
    let held = live() - before;
    print_figure("idle_bytes_per_webrtc_conn", held / ENDS, "B");
    for (alice, bob) in &links {
        use_both_ways(alice, bob).await;
    }
    sleep(REST).await;
    let held = live() - before;
    print_figure("used_bytes_per_webrtc_conn", held / ENDS, "B");
}

async fn open_and_use() -> (WebRtcLink, WebRtcLink) {
    let (alice, bob) = pair::webrtc().await;
    use_both_ways(&alice, &bob).await;
    (alice, bob)
}

async fn use_both_ways(alice: &WebRtcLink, bob: &WebRtcLink) {
    tokio::join!(carry(alice, bob), carry(bob, alice));
}

async fn carry(from: &WebRtcLink, to: &WebRtcLink) {
    let message = Bytes::from(vec![7; MESSAGE]);
    let send = async {
        for _ in 0..MESSAGES {
            let frame = Frame::binary(Channel::App, message.clone());
            from.send(frame).await.unwrap();
        }
    };
    let receive = async {
        for _ in 0..MESSAGES {
            to.recv().await.unwrap();
        }
    };
    tokio::join!(send, receive);
}
