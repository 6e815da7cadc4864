//! Links: what a network costs over the in-memory link of the same run, and the RTP codec beside a
//! plain copy of the payload.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;
use roundtable_core::{Channel, Frame, MediaCodec, MediaPacket};
use roundtable_transport::{Link, MemoryLink};
use roundtable_transport_quic::{QuicConfig, QuicEndpoint, QuicLink};
use roundtable_wire::rtp::{PayloadTypes, decode_packet, encode_packet};
use tokio::runtime::Runtime;

/// Frames of one bulk transfer: 4 MiB in all.
const BULK: usize = 256;
const BULK_LEN: usize = 16 << 10;

async fn endpoints() -> (QuicEndpoint, QuicEndpoint) {
    let bind = |seed| {
        let config = QuicConfig::default().with_bind("127.0.0.1:0".parse().unwrap());
        QuicEndpoint::bind(config, &SigningKey::from_bytes(&[seed; 32])).unwrap()
    };
    (bind(1), bind(2))
}

async fn quic(alice: &QuicEndpoint, bob: &QuicEndpoint) -> (QuicLink, QuicLink) {
    let addresses = bob.local_candidates();
    let (dialled, accepted) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    (dialled.unwrap(), accepted.unwrap())
}

/// There and back again, 64 bytes.
async fn round_trip(a: &impl Link, b: &impl Link, channel: Channel) {
    let frame = Frame::binary(channel, vec![7; 64]);
    a.send(frame).await.unwrap();
    b.send(b.recv().await.unwrap()).await.unwrap();
    black_box(a.recv().await.unwrap());
}

async fn bulk(a: &impl Link, b: &impl Link, payload: &Bytes) {
    let send = async {
        for _ in 0..BULK {
            let frame = Frame::binary(Channel::Command, payload.clone());
            a.send(frame).await.unwrap();
        }
    };
    let receive = async {
        for _ in 0..BULK {
            black_box(b.recv().await.unwrap());
        }
    };
    tokio::join!(send, receive);
}

fn links(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let memory = MemoryLink::pair(None, None);
    let (alice, bob) = runtime.block_on(endpoints());
    let network = runtime.block_on(quic(&alice, &bob));

    let mut group = c.benchmark_group("link/round_trip_64B");
    for channel in [Channel::Command, Channel::AppFast] {
        group.bench_function(BenchmarkId::new("memory", channel.name()), |b| {
            b.iter(|| runtime.block_on(round_trip(&memory.0, &memory.1, channel)));
        });
        group.bench_function(BenchmarkId::new("quic", channel.name()), |b| {
            b.iter(|| runtime.block_on(round_trip(&network.0, &network.1, channel)));
        });
    }
    group.finish();

    let payload = Bytes::from(vec![7; BULK_LEN]);
    let mut group = c.benchmark_group("link/bulk_16KiB");
    group.throughput(Throughput::Bytes((BULK * BULK_LEN) as u64));
    group.bench_function("memory", |b| {
        b.iter(|| runtime.block_on(bulk(&memory.0, &memory.1, &payload)));
    });
    group.bench_function("quic", |b| {
        b.iter(|| runtime.block_on(bulk(&network.0, &network.1, &payload)));
    });
    group.finish();

    c.bench_function("link/open/quic", |b| {
        b.iter(|| runtime.block_on(quic(&alice, &bob)));
    });
}

fn rtp(c: &mut Criterion) {
    let types = PayloadTypes::default();
    let packet = MediaPacket {
        sequence: 1,
        timestamp: 960,
        marker: false,
        codec: MediaCodec::Opus,
        payload: Bytes::from(vec![7; 120]),
    };
    let mut encoded = BytesMut::new();
    encode_packet(&packet, 42, &types, &mut encoded);
    let encoded = encoded.freeze();

    let mut group = c.benchmark_group("rtp/opus_packet");
    group.bench_function("copy", |b| {
        b.iter(|| BytesMut::from(&black_box(&packet).payload[..]));
    });
    group.bench_function("encode", |b| {
        b.iter(|| {
            let mut out = BytesMut::new();
            encode_packet(black_box(&packet), 42, &types, &mut out);
            out
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| decode_packet(black_box(&encoded), &types).unwrap());
    });
    group.finish();
}

criterion_group!(benches, links, rtp);
criterion_main!(benches);
