//! What a voice costs, as `cargo xtask bench media` reads it.
#![allow(clippy::unwrap_used)] // a bench may fail loudly
#![allow(clippy::cast_possible_truncation)] // RTP numbers wrap

use std::{alloc::System, time::Duration};

use roundtable_benches::{cpu_seconds, print_figure};
use roundtable_core::{Timestamp, WallTime};
use roundtable_media_codec::{
    AudioDecoder, AudioEncoder, AudioFormat, OpusConfig, OpusDecoder, OpusEncoder,
};
use roundtable_sync::{JitterBuffer, JitterConfig, RtpMeta};
use roundtable_voice::{
    Activation, Gain, Mixer, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender,
    VoiceSenderConfig,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// 20 ms at 48 kHz.
const FRAME: usize = 960;
/// 10 ms.
const BLOCK: usize = 480;
const ROUNDS: usize = 20;

/// Ten seconds of a recording.
fn speech() -> Vec<f32> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crates/roundtable/assets/carol.wav"
    );
    let mut wav = hound::WavReader::open(path).unwrap();
    let samples = wav.samples::<i16>();
    samples
        .map(|x| f32::from(x.unwrap()) / 32_768.0)
        .take(48_000 * 10)
        .collect()
}

fn main() {
    let speech = speech();
    codec(&speech);
    jitter();
    mix(&speech);
    session(&speech);
    allocations(&speech);
}

fn codec(speech: &[f32]) {
    let setup = || {
        let encoder = OpusEncoder::new(&OpusConfig::default()).unwrap();
        (encoder, OpusDecoder::new(AudioFormat::VOICE).unwrap())
    };
    let round = |(encoder, decoder): &mut (OpusEncoder, OpusDecoder)| {
        let (mut packet, mut out) = ([0; 1100], [0.0; FRAME]);
        for frame in speech.chunks_exact(FRAME) {
            let len = encoder.encode(frame, &mut packet).unwrap();
            decoder.decode(&packet[..len], &mut out).unwrap();
        }
        out[0]
    };
    let frames = (speech.len() / FRAME) as f64;
    let ms = cpu_seconds(ROUNDS, setup, round) * 1e3 / frames;
    print_figure("opus_roundtrip_ms", ms, "ms");
}

/// Packets of which every fourth comes after the next, with 50 waiting.
fn jitter() {
    const PACKETS: u64 = 20_000;
    let config = JitterConfig::voice().with_capacity(128, Duration::from_secs(2));
    let push = |buffer: &mut JitterBuffer<u64>, number: u64| {
        let now = Timestamp::from_millis(1_000 + number * 20);
        let swapped = match number % 4 {
            2 => number + 1,
            3 => number - 1,
            _ => number,
        };
        let meta = RtpMeta {
            sequence: swapped as u16,
            timestamp: (swapped * FRAME as u64) as u32,
            spurt: swapped == 0,
        };
        buffer.push(now, meta, swapped);
    };
    let setup = || {
        let mut buffer = JitterBuffer::new(config).unwrap();
        (0..52).for_each(|number| push(&mut buffer, number));
        buffer
    };
    let round = |buffer: &mut JitterBuffer<u64>| {
        for number in 52..PACKETS {
            push(buffer, number);
            std::hint::black_box(buffer.pop());
        }
    };
    let ns = cpu_seconds(ROUNDS, setup, round) * 1e9 / (PACKETS - 52) as f64;
    print_figure("jitter_insert_pop_ns", ns, "ns");
}

fn mix(speech: &[f32]) {
    let setup = || (Mixer::new(), [Gain::new(0.5); 20]);
    let times = 100;
    let round = |(mixer, gains): &mut (Mixer, [Gain; 20])| {
        let mut out = [0.0; FRAME];
        for _ in 0..times {
            for (gain, block) in gains.iter_mut().zip(speech.chunks_exact(FRAME)) {
                mixer.add(block, gain);
            }
            mixer.finish(&mut out);
        }
        out[0]
    };
    let ms = cpu_seconds(ROUNDS, setup, round) * 1e3 / f64::from(times);
    print_figure("mix_20_ms", ms, "ms");
}

/// One voice from the microphone to the ear.
struct Call {
    sender: VoiceSender,
    receiver: VoiceReceiver,
    mixer: Mixer,
    gain: Gain,
    out: Vec<VoiceOut>,
    ticks: u64,
}

impl Call {
    fn new(activation: Activation) -> Self {
        let config = VoiceSenderConfig::default().with_activation(activation);
        Self {
            sender: VoiceSender::new(config).unwrap(),
            receiver: VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap(),
            mixer: Mixer::new(),
            gain: Gain::default(),
            out: Vec::with_capacity(8),
            ticks: 0,
        }
    }

    fn speak(&mut self, block: &[f32]) {
        let now = Timestamp::from_millis(10 * self.ticks);
        self.ticks += 1;
        let wall = WallTime::from_millis(0);
        self.sender.push(now, wall, block, &mut self.out);
    }

    fn listen(&mut self) -> f32 {
        let now = Timestamp::from_millis(10 * self.ticks);
        for event in self.out.drain(..) {
            if let VoiceOut::Packet(packet) = event {
                self.receiver.push(now, packet);
            }
        }
        let mut block = [0.0; BLOCK];
        self.receiver.pull(now, &mut block);
        self.mixer.add(&block, &mut self.gain);
        self.mixer.finish(&mut block);
        block[0]
    }
}

fn session(speech: &[f32]) {
    let round = |call: &mut Call| {
        for block in speech.chunks_exact(BLOCK) {
            call.speak(block);
            std::hint::black_box(call.listen());
        }
    };
    let lasts = speech.len() as f64 / 48_000.0;
    let call = || Call::new(Activation::Voice);
    let percent = cpu_seconds(5, call, round) / lasts * 100.0;
    print_figure("voice_cpu_percent_per_speaker", percent, "%");
}

fn allocations(speech: &[f32]) {
    // Every frame is to be sent, so that there are as many as are counted.
    let mut call = Call::new(Activation::Always);
    let (mut sending, mut listening) = (0, 0);
    let blocks = speech.chunks_exact(BLOCK);
    for (tick, block) in blocks.enumerate() {
        let region = Region::new(ALLOCATOR);
        call.speak(block);
        let sent = region.change().allocations;
        let region = Region::new(ALLOCATOR);
        call.listen();
        let heard = region.change().allocations;
        // The first seconds take what is used again later.
        if tick >= 300 {
            sending += sent;
            listening += heard;
        }
    }
    let frames = (speech.len() / BLOCK - 300) as f64 / 2.0;
    print_figure("allocs_per_frame", listening as f64 / frames, "");
    print_figure("allocs_per_frame_sent", sending as f64 / frames, "");
}
