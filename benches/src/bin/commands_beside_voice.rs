//! How long commands take beside as many voice packets as twenty speakers make, on the same link over loopback: what
//! `voice_packets_dont_block_command_packets` asserts to arrive at all.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly
#![allow(clippy::disallowed_methods)] // to read the clock is what a bench does

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_benches::print_figure;
use roundtable_core::{Channel, Frame, MediaCodec, MediaPacket};
use roundtable_transport::Link;
use roundtable_transport_quic::{QuicConfig, QuicEndpoint, QuicLink};
use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};
use tokio::time::{sleep_until, timeout};

/// A millisecond apart.
const VOICES: u16 = 10_000;
/// Of so many voice packets each has a command with it.
const EVERY: u16 = 10;
const COMMAND_LEN: usize = 600;
/// An Opus frame of 20 ms at 32 kbit/s.
const VOICE_LEN: usize = 80;
/// No command takes as long as this, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let (alice, bob) = webrtc().await;
    let webrtc_ms = p99_ms(&alice, &bob).await;
    print_figure("command_p99_beside_voice_ms", webrtc_ms, "ms");
    // An endpoint outlives its links.
    let ends = [1, 2].map(endpoint);
    let (alice, bob) = quic(&ends).await;
    let quic_ms = p99_ms(&alice, &bob).await;
    print_figure("quic_command_p99_beside_voice_ms", quic_ms, "ms");
}

async fn webrtc() -> (WebRtcLink, WebRtcLink) {
    let config = WebRtcConfig::default().with_addresses([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let (offering, offer) = Connecting::offer(&config).await.unwrap();
    let (answering, answer) = Connecting::answer(&config, &offer).await.unwrap();
    offering.accept_answer(&answer).await.unwrap();
    let (alice, bob) = tokio::join!(offering.opened(), answering.opened());
    (alice.unwrap(), bob.unwrap())
}

fn endpoint(seed: u8) -> QuicEndpoint {
    let config = QuicConfig::default().with_bind((Ipv4Addr::LOCALHOST, 0).into());
    QuicEndpoint::bind(config, &SigningKey::from_bytes(&[seed; 32])).unwrap()
}

async fn quic([alice, bob]: &[QuicEndpoint; 2]) -> (QuicLink, QuicLink) {
    let addresses = [bob.local_address()];
    let (dialled, accepted) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    (dialled.unwrap(), accepted.unwrap())
}

/// The 99th percentile of the time from giving a command to the link until it is there.
async fn p99_ms(alice: &impl Link, bob: &impl Link) -> f64 {
    let both = async { tokio::join!(send(alice), receive(bob)) };
    let (sent, arrived) = timeout(PATIENCE, both).await.unwrap();
    let times = sent.iter().zip(&arrived);
    let mut times: Vec<Duration> = times.map(|(sent, arrived)| *arrived - *sent).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100].as_secs_f64() * 1e3
}

/// When each command was given to the link.
async fn send(link: &impl Link) -> Vec<Instant> {
    let begin = Instant::now();
    let command = Bytes::from(vec![7; COMMAND_LEN]);
    let mut sent = Vec::new();
    for number in 0..VOICES {
        sleep_until((begin + Duration::from_millis(number.into())).into()).await;
        let packet = MediaPacket {
            sequence: number,
            timestamp: u32::from(number) * 48,
            marker: number == 0,
            codec: MediaCodec::Opus,
            payload: vec![7; VOICE_LEN].into(),
        };
        let voice = Frame::media(Channel::Voice, packet);
        link.send(voice).await.unwrap();
        if number.is_multiple_of(EVERY) {
            sent.push(Instant::now());
            let command = Frame::binary(Channel::Command, command.clone());
            link.send(command).await.unwrap();
        }
    }
    sent
}

/// When each came; commands keep their order.
async fn receive(link: &impl Link) -> Vec<Instant> {
    let mut arrived = Vec::new();
    while arrived.len() < usize::from(VOICES / EVERY) {
        if link.recv().await.unwrap().channel == Channel::Command {
            arrived.push(Instant::now());
        }
    }
    arrived
}
