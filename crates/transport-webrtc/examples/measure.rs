//! Measures links over loopback: how long they take to open, how fast bulk data goes, how long a
//! small message takes both ways. Run it in release.

use std::{net::Ipv4Addr, time::Duration};

use roundtable_core::{Channel, Clock, CloseCode, Frame};
use roundtable_transport::{Link, SystemClock};
use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};

type Error = Box<dyn std::error::Error>;

const LINKS: usize = 200;
const BULK_FRAMES: usize = 20_000;
const BULK_LEN: usize = 16 << 10;
const PINGS: usize = 5_000;

async fn pair(config: &WebRtcConfig) -> Result<(WebRtcLink, WebRtcLink), Error> {
    let (offering, offer) = Connecting::offer(config).await?;
    let (answering, answer) = Connecting::answer(config, &offer).await?;
    offering.accept_answer(&answer).await?;
    Ok(tokio::try_join!(offering.opened(), answering.opened())?)
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: p50 {:?}, p95 {:?}, p99 {:?}",
        at(50),
        at(95),
        at(99)
    );
}

async fn open(config: &WebRtcConfig) -> Result<(), Error> {
    let mut times = Vec::with_capacity(LINKS);
    for _ in 0..LINKS {
        let start = SystemClock.now();
        let (a, b) = pair(config).await?;
        times.push(SystemClock.now().saturating_since(start));
        a.close(CloseCode::NORMAL, "").await;
        b.close(CloseCode::NORMAL, "").await;
    }
    report("offer to open", times);
    Ok(())
}

async fn bulk(config: &WebRtcConfig) -> Result<(), Error> {
    let (a, b) = pair(config).await?;
    let start = SystemClock.now();
    let send = async {
        for _ in 0..BULK_FRAMES {
            let frame = Frame::binary(Channel::Snapshot, vec![0; BULK_LEN]);
            a.send(frame).await?;
        }
        Ok::<_, Error>(())
    };
    let receive = async {
        for _ in 0..BULK_FRAMES {
            b.recv().await?;
        }
        Ok::<_, Error>(())
    };
    tokio::try_join!(send, receive)?;
    let seconds = SystemClock.now().saturating_since(start).as_secs_f64();
    println!(
        "bulk: {:.0} MB/s",
        (BULK_FRAMES * BULK_LEN) as f64 / 1e6 / seconds
    );
    Ok(())
}

async fn ping(config: &WebRtcConfig) -> Result<(), Error> {
    let (a, b) = pair(config).await?;
    tokio::spawn(async move {
        while let Ok(frame) = b.recv().await {
            if b.send(frame).await.is_err() {
                break;
            }
        }
    });
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let start = SystemClock.now();
        a.send(Frame::binary(Channel::Command, vec![0; 64])).await?;
        a.recv().await?;
        times.push(SystemClock.now().saturating_since(start));
    }
    report("64 bytes there and back", times);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let config = WebRtcConfig::default().with_addresses([Ipv4Addr::LOCALHOST.into()]);
    open(&config).await?;
    bulk(&config).await?;
    ping(&config).await
}
