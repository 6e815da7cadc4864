//! What it costs to follow a sender's clock, and to play sound and pictures in step.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use roundtable_core::{MediaClock, NtpTime, Timestamp};
use roundtable_sync::{ClockDriftEstimator, MediaKind, RtpMeta, SyncConfig, SyncManager};

/// A packet's arrival in microseconds: every 20 ms, held up by 0 to 32 ms.
fn arrival_us(index: u64) -> u64 {
    1_000_000 + index * 20_000 + (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 49)
}

/// One packet; every 256th fits the line anew, through 256 points.
fn drift(c: &mut Criterion) {
    let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
    let mut index = 0_u64;
    let mut next = || {
        index += 1;
        let arrival = Timestamp::from_micros(arrival_us(index));
        estimator.add_observation((index * 960) as u32, arrival);
    };
    (0..70_000).for_each(|_| next());
    c.bench_function("drift_observation", |b| b.iter(&mut next));
    c.bench_function("drift_estimate", |b| {
        b.iter(|| black_box(estimator.estimate_drift()));
    });
}

/// One frame of sound and one picture in, and what is due out.
fn lip_sync(c: &mut Criterion) {
    let mut bob = SyncManager::new("bob".parse().unwrap(), SyncConfig::default()).unwrap();
    for kind in [MediaKind::Audio, MediaKind::Video] {
        let (ntp, timestamp) = (NtpTime(0xE94A_BC00_0000_0000), 0);
        bob.update_sender_report(kind, MediaClock { ntp, timestamp });
    }
    let mut index = 0_u64;
    c.bench_function("sync_frame_of_each", |b| {
        b.iter(|| {
            let now = Timestamp::from_millis(100 + index * 20);
            let meta = |ticks: u64| RtpMeta {
                sequence: index as u16,
                timestamp: (index * ticks) as u32,
                spurt: index == 0,
            };
            bob.process_audio_frame(now, meta(960), index);
            bob.process_video_frame(now, meta(1_800), index);
            index += 1;
            black_box((bob.pop_next_audio_frame(now), bob.pop_next_video_frame(now)))
        });
    });
}

criterion_group!(benches, drift, lip_sync);
criterion_main!(benches);
