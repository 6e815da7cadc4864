//! A sender that never waits, and a receiver that never reads.

use std::time::Duration;

use bytes::Bytes;
use roundtable_benches::print_figure;
use roundtable_core::{Channel, Frame};
use roundtable_transport::Link;
use tokio::{
    runtime::Runtime,
    task::yield_now,
    time::{sleep, timeout},
};

use crate::{
    live::{Peak, live},
    pair,
};

/// How long it lasts.
const FLOOD: Duration = Duration::from_secs(3);
/// Messages between two looks at what else there is to do.
const BURST: usize = 64;
/// Until what the process keeps in any case is there, or is gone again.
const REST: Duration = Duration::from_secs(1);

pub(crate) fn run() {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let before = live();
        let (from, to) = pair::webrtc().await;
        print_figure("flood_bytes", flood(before, &from, &to).await, "B");
        drop((from, to));
        sleep(REST).await;
        let before = live();
        let (from, to) = pair::quic().await;
        print_figure("quic_flood_bytes", flood(before, &from, &to).await, "B");
    });
}

/// The most that both ends hold, beyond `before`.
async fn flood(before: f64, from: &impl Link, _to: &impl Link) -> f64 {
    let payload = Bytes::from(vec![7; Channel::AppFast.max_message_len()]);
    let peak = Peak::watch();
    let flood = async {
        loop {
            for _ in 0..BURST {
                let frame = Frame::binary(Channel::AppFast, payload.clone());
                from.send(frame).await.unwrap();
            }
            yield_now().await;
        }
    };
    // It ends when its time is over, not before.
    let _: Result<(), _> = timeout(FLOOD, flood).await;
    sleep(REST).await;
    peak.finish() - before
}
