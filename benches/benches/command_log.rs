//! The command log: signing and judging, against a bare signature check in the same run.
#![allow(missing_docs, clippy::unwrap_used)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signer, SigningKey};
use roundtable_command_log::{
    Action, CommandLog, Genesis, GenesisParams, Key, Limits, PublicKey, Schema, Strategy,
};
use roundtable_core::{AuthorId, WallTime};

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
const FRAMES: usize = 256;

/// A room whose budget never runs out.
fn log() -> CommandLog {
    let key = SigningKey::from_bytes(&[1; 32]);
    let schema = Schema::builder(1, 0)
        .key_type(1, "stroke", Strategy::LastWriteWins)
        .build()
        .unwrap();
    let mut params = GenesisParams::new([9; 32], NOW, schema.hash());
    params.limits = Limits {
        burst: u32::MAX,
        per_second: u32::MAX,
    };
    let genesis = Genesis::create(params, &key).unwrap();
    CommandLog::new(genesis, schema, Some(key)).unwrap()
}

fn reader(of: &CommandLog) -> CommandLog {
    CommandLog::new(of.genesis().clone(), of.schema().clone(), None).unwrap()
}

/// Commands with 32-byte payloads over 1,000 keys, in frames of `size`.
fn batches(size: usize) -> Vec<Vec<Action>> {
    let action = |n: usize| {
        let key = Key::new(1, format!("key-{:04}", n % 1000));
        Action::put(key, format!("{n:024}"))
    };
    (0..FRAMES)
        .map(|frame| (0..size).map(|n| action(frame * size + n)).collect())
        .collect()
}

fn append_all(log: &mut CommandLog, batches: &[Vec<Action>]) -> Vec<Bytes> {
    let frames = batches.iter().map(|actions| log.append(NOW, actions));
    frames.map(|frame| frame.unwrap().bytes().clone()).collect()
}

fn accept_all(log: &mut CommandLog, frames: &[Bytes]) {
    for frame in frames {
        log.receive(NOW, frame.clone()).unwrap();
    }
    log.settle(NOW);
}

fn frames(c: &mut Criterion) {
    for size in [1, 32, 128] {
        let mut group = c.benchmark_group(format!("command_log/frames_of_{size}"));
        group.throughput(Throughput::Elements((FRAMES * size) as u64));
        let batches = batches(size);
        let mut author = log();
        let signed = append_all(&mut author, &batches);
        group.bench_function("append", |b| {
            b.iter_batched_ref(log, |log| append_all(log, &batches), BatchSize::LargeInput);
        });
        group.bench_function("accept", |b| {
            b.iter_batched_ref(
                || reader(&author),
                |log| accept_all(log, &signed),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

fn late_join(c: &mut Criterion) {
    let batches: Vec<_> = batches(32).into_iter().cycle().take(3125).collect();
    let mut author = log();
    let frames = append_all(&mut author, &batches);
    let mut group = c.benchmark_group("command_log");
    group.sample_size(10);
    group.bench_function("late_join_100k", |b| {
        b.iter_batched_ref(
            || reader(&author),
            |log| accept_all(log, &frames),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn bare_signature(c: &mut Criterion) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let message = [7; 216];
    let signature = key.sign(&message).to_bytes();
    let public = PublicKey::new(AuthorId::from_bytes(key.verifying_key().to_bytes())).unwrap();
    let mut group = c.benchmark_group("command_log/bare_signature");
    group.throughput(Throughput::Elements(1));
    group.bench_function("sign", |b| b.iter(|| key.sign(&message)));
    group.bench_function("verify", |b| {
        b.iter(|| public.verify(&message, &signature));
    });
    group.finish();
}

criterion_group!(benches, bare_signature, frames, late_join);
criterion_main!(benches);
