//! What one voice costs: codec, jitter buffer, mixer, and the whole way through sender and receiver.
//! At 20 ms a frame a core has 20,000 µs; the codec alone is the yardstick for the rest.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use roundtable_core::{Timestamp, WallTime};
use roundtable_media_codec::{
    AudioDecoder, AudioEncoder, AudioFormat, OpusConfig, OpusDecoder, OpusEncoder,
};
use roundtable_sync::{JitterBuffer, JitterConfig, RtpMeta};
use roundtable_voice::{
    Activation, Gain, Mixer, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender,
    VoiceSenderConfig,
};

const FRAME: usize = 960;

/// A buzz of 140 Hz that swells: enough to keep the codec busy.
fn voice() -> Vec<f32> {
    (0..50 * FRAME)
        .map(|i| {
            let t = i as f32 / 48_000.0;
            let swell = 0.6 + 0.4 * (t * 9.0).sin();
            swell * 0.3 * ((t * 140.0).fract() - 0.5)
        })
        .collect()
}

fn codec(c: &mut Criterion) {
    let voice = voice();
    let mut encoder = OpusEncoder::new(&OpusConfig::default()).unwrap();
    let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
    let (mut packet, mut out) = ([0; 1100], [0.0; FRAME]);
    let mut frames = voice.chunks_exact(FRAME).cycle();
    c.bench_function("opus_encode_20_ms", |b| {
        b.iter(|| encoder.encode(frames.next().unwrap(), &mut packet).unwrap());
    });
    let packets: Vec<Vec<u8>> = voice
        .chunks_exact(FRAME)
        .map(|frame| {
            let len = encoder.encode(frame, &mut packet).unwrap();
            packet[..len].to_vec()
        })
        .collect();
    let mut packets = packets.iter().cycle();
    c.bench_function("opus_decode_20_ms", |b| {
        b.iter(|| decoder.decode(packets.next().unwrap(), &mut out).unwrap());
    });
    c.bench_function("opus_conceal_20_ms", |b| {
        b.iter(|| decoder.conceal(&mut out).unwrap());
    });
}

/// One packet in, one packet out, with fifty waiting.
fn jitter(c: &mut Criterion) {
    let meta = |index: u64| RtpMeta {
        sequence: (index & 0xffff) as u16,
        timestamp: ((index * FRAME as u64) & 0xffff_ffff) as u32,
        spurt: false,
    };
    let config = JitterConfig::voice().with_capacity(128, Duration::from_secs(2));
    let mut buffer = JitterBuffer::new(config).unwrap();
    let mut index = 0;
    let mut push = move |buffer: &mut JitterBuffer<u64>| {
        let now = Timestamp::from_millis(1_000 + index * 20);
        buffer.push(now, meta(index), index);
        index += 1;
    };
    (0..50).for_each(|_| push(&mut buffer));
    c.bench_function("jitter_insert_pop_depth_50", |b| {
        b.iter(|| {
            push(&mut buffer);
            black_box(buffer.pop())
        });
    });
}

fn mix(c: &mut Criterion) {
    let voice = voice();
    let mut mixer = Mixer::new();
    let mut gains = [Gain::new(0.5); 20];
    let mut out = [0.0; FRAME];
    c.bench_function("mix_20_voices_20_ms", |b| {
        b.iter(|| {
            for (gain, block) in gains.iter_mut().zip(voice.chunks_exact(FRAME)) {
                mixer.add(block, gain);
            }
            mixer.finish(&mut out);
            out[0]
        });
    });
}

/// A second of speech from microphone to ear.
fn session(c: &mut Criterion) {
    let voice = voice();
    let setup = || {
        let config = VoiceSenderConfig::default().with_activation(Activation::Always);
        let receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
        (VoiceSender::new(config).unwrap(), receiver)
    };
    c.bench_function("voice_session_1_s", |b| {
        b.iter_batched(
            setup,
            |(mut sender, mut receiver)| {
                let (mut out, mut block) = (Vec::new(), [0.0; 480]);
                for (tick, captured) in voice.chunks_exact(480).enumerate() {
                    let now = Timestamp::from_millis(10 * tick as u64);
                    sender.push(now, WallTime::from_millis(0), captured, &mut out);
                    for event in out.drain(..) {
                        if let VoiceOut::Packet(packet) = event {
                            receiver.push(now, packet);
                        }
                    }
                    receiver.pull(now, &mut block);
                }
                block[0]
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, codec, jitter, mix, session);
criterion_main!(benches);
