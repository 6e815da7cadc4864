//! Two ends of one kind of link, each on a thread of its own with a runtime of one thread.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_benches::print_figure;
use roundtable_core::{AuthorId, Channel, CloseCode, Frame};
use roundtable_transport::Link;
use roundtable_transport_quic::{QuicConfig, QuicEndpoint, QuicLink};
use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// One message of the bulk.
const CHUNK: usize = 16 << 10;
/// One message that goes there and back.
const SMALL: usize = 64;
const WARM_UP: usize = 200;

/// How much is done.
struct Load {
    bulk: usize,
    trips: usize,
    opens: usize,
}

const FULL: Load = Load {
    bulk: 128 << 20,
    trips: 4000,
    opens: 60,
};
const QUICK: Load = Load {
    bulk: 64 << 20,
    trips: 1000,
    opens: 20,
};

/// What signaling would carry.
pub(crate) struct Signaling {
    to: UnboundedSender<String>,
    from: UnboundedReceiver<String>,
}

impl Signaling {
    fn say(&self, word: impl Into<String>) {
        self.to.send(word.into()).unwrap();
    }

    async fn hear(&mut self) -> String {
        self.from.recv().await.unwrap()
    }
}

/// A kind of link.
pub(crate) trait Kind {
    const NAME: &str;
    /// How the figures of opening begin.
    const OPEN: &str;
    type Link: Link;
    /// What outlives a link.
    type End;

    fn bind(seed: u8) -> Self::End;
    /// From the first word of the negotiation on until it is open.
    async fn begin(end: &Self::End, signaling: &mut Signaling) -> Self::Link;
    async fn follow(end: &Self::End, signaling: &mut Signaling) -> Self::Link;
}

pub(crate) enum WebRtc {}
pub(crate) enum Quic {}

impl Kind for WebRtc {
    const NAME: &str = "webrtc";
    const OPEN: &str = "open";
    type Link = WebRtcLink;
    type End = WebRtcConfig;

    fn bind(_: u8) -> WebRtcConfig {
        WebRtcConfig::default().with_addresses([IpAddr::V4(Ipv4Addr::LOCALHOST)])
    }

    async fn begin(config: &WebRtcConfig, signaling: &mut Signaling) -> WebRtcLink {
        let (connecting, offer) = Connecting::offer(config).await.unwrap();
        signaling.say(offer);
        let answer = signaling.hear().await;
        connecting.accept_answer(&answer).await.unwrap();
        connecting.opened().await.unwrap()
    }

    async fn follow(config: &WebRtcConfig, signaling: &mut Signaling) -> WebRtcLink {
        let offer = signaling.hear().await;
        let (connecting, answer) = Connecting::answer(config, &offer).await.unwrap();
        signaling.say(answer);
        connecting.opened().await.unwrap()
    }
}

/// The author of an end.
fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn author(seed: u8) -> AuthorId {
    AuthorId::from_bytes(key(seed).verifying_key().to_bytes())
}

impl Kind for Quic {
    const NAME: &str = "quic";
    const OPEN: &str = "quic_open";
    type Link = QuicLink;
    type End = QuicEndpoint;

    fn bind(seed: u8) -> QuicEndpoint {
        let config = QuicConfig::default().with_bind((Ipv4Addr::LOCALHOST, 0).into());
        QuicEndpoint::bind(config, &key(seed)).unwrap()
    }

    async fn begin(endpoint: &QuicEndpoint, signaling: &mut Signaling) -> QuicLink {
        signaling.say("where are you?");
        let address = signaling.hear().await.parse().unwrap();
        endpoint.connect(&[address], author(2)).await.unwrap()
    }

    async fn follow(endpoint: &QuicEndpoint, signaling: &mut Signaling) -> QuicLink {
        signaling.hear().await;
        signaling.say(endpoint.local_address().to_string());
        endpoint.accept_from(author(1)).await.unwrap()
    }
}

/// Measures one kind of link and prints its figures.
pub(crate) fn run<K: Kind>(quick: bool) {
    let load = if quick { &QUICK } else { &FULL };
    let (to_bob, from_alice) = unbounded_channel();
    let (to_alice, from_bob) = unbounded_channel();
    let alice = Signaling {
        to: to_bob,
        from: from_bob,
    };
    let bob = Signaling {
        to: to_alice,
        from: from_alice,
    };
    thread::scope(|scope| {
        scope.spawn(|| on_one_thread(answer::<K>(bob, load)));
        scope.spawn(|| on_one_thread(ask::<K>(alice, load)));
    });
}

fn on_one_thread(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(work);
}

/// The end that measures.
async fn ask<K: Kind>(mut signaling: Signaling, load: &Load) {
    let (end, name) = (K::bind(1), K::NAME);
    let mut opened = Vec::new();
    for _ in 0..load.opens {
        let start = Instant::now();
        let link = K::begin(&end, &mut signaling).await;
        signaling.hear().await; // open there, too
        opened.push(start.elapsed());
        // It says goodbye while the next one opens.
        drop(link);
    }
    let open = K::OPEN;
    print_figure(
        &format!("{open}_p50_ms"),
        quantile(&mut opened, 50) * 1e3,
        "ms",
    );
    print_figure(
        &format!("{open}_p95_ms"),
        quantile(&mut opened, 95) * 1e3,
        "ms",
    );

    let link = K::begin(&end, &mut signaling).await;
    signaling.hear().await;
    let small = Frame::binary(Channel::App, vec![7; SMALL]);
    let mut trips = Vec::new();
    for trip in 0..WARM_UP + load.trips {
        let start = Instant::now();
        link.send(small.clone()).await.unwrap();
        link.recv().await.unwrap();
        if trip >= WARM_UP {
            trips.push(start.elapsed());
        }
    }
    print_figure(
        &format!("{name}_rtt_p50_us"),
        quantile(&mut trips, 50) * 1e6,
        "µs",
    );
    print_figure(
        &format!("{name}_rtt_p99_us"),
        quantile(&mut trips, 99) * 1e6,
        "µs",
    );

    let chunk = Bytes::from(vec![7; CHUNK]);
    let start = Instant::now();
    for _ in 0..load.bulk / CHUNK {
        let frame = Frame::binary(Channel::App, chunk.clone());
        link.send(frame).await.unwrap();
    }
    link.recv().await.unwrap(); // all is there
    let rate = load.bulk as f64 / start.elapsed().as_secs_f64() / 1e6;
    print_figure(&format!("{name}_throughput"), rate, "MB/s");
    link.close(CloseCode::NORMAL, "").await;
}

/// The end that answers: sends small messages back, and one when the bulk is complete.
async fn answer<K: Kind>(mut signaling: Signaling, load: &Load) {
    let end = K::bind(2);
    for _ in 0..=load.opens {
        let link = K::follow(&end, &mut signaling).await;
        signaling.say("open");
        let mut missing = load.bulk;
        while let Ok(frame) = link.recv().await {
            let len = frame.payload_len();
            if len == SMALL {
                link.send(frame).await.unwrap();
                continue;
            }
            missing -= len;
            if missing == 0 {
                let done = Frame::binary(Channel::App, vec![7; SMALL]);
                link.send(done).await.unwrap();
            }
        }
    }
}

/// In seconds.
fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    times[last * percent / 100].as_secs_f64()
}
