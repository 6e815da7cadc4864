//! A call in virtual time: one voice, a network made of numbers, one listener.

use std::{collections::BTreeMap, time::Duration};

use roundtable_core::{MediaPacket, Timestamp, WallTime};
use roundtable_voice::{
    Pulled, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender, VoiceSenderConfig,
    VoiceStats,
};

/// 10 ms at 48 kHz.
pub const BLOCK: usize = 480;
/// The listener's first block begins here; what was captured at 0 is heard later.
const PHASE: Duration = Duration::from_millis(3);

/// One of the recordings that the demo speaks, as samples at 48 kHz.
pub fn speech(name: &str) -> Vec<f32> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../roundtable/assets");
    let mut wav = hound::WavReader::open(format!("{folder}/{name}.wav")).unwrap();
    assert_eq!(wav.spec().sample_rate, 48_000);
    let samples = wav
        .samples::<i16>()
        .map(|x| f32::from(x.unwrap()) / 32_768.0);
    samples.collect()
}

/// Repeatable randomness: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What happens to packets on their way.
#[derive(Clone)]
pub struct Network {
    pub loss: f64,
    pub delay_ms: f64,
    /// Uniform, on top of the delay; packets keep their order.
    pub jitter_ms: f64,
    /// The share of packets that take 30 ms more, and are overtaken.
    pub overtaken: f64,
    /// Packets sent between these times (ms) arrive only at the end of it.
    pub outage_ms: Option<(u64, u64)>,
    /// Uniform: by how much the listener's blocks are pulled late.
    pub pull_jitter_ms: f64,
    pub seed: u64,
}

impl Network {
    pub fn clean() -> Self {
        Self {
            loss: 0.0,
            delay_ms: 1.0,
            jitter_ms: 0.0,
            overtaken: 0.0,
            outage_ms: None,
            pull_jitter_ms: 0.0,
            seed: 1,
        }
    }
}

/// What the listener's ear gets, and how it came about.
pub struct Heard {
    /// From time 0 on.
    pub samples: Vec<f32>,
    pub pulled: Vec<Pulled>,
    pub stats: VoiceStats,
    pub sent: Vec<(Timestamp, MediaPacket)>,
    pub clocks: usize,
    pub lost: usize,
    /// The playout delay after each block, in milliseconds.
    pub delays: Vec<f32>,
}

/// Lets the listener hear `said` through `network`, with a second of silence after it.
pub fn call(said: &[f32], network: &Network) -> Heard {
    let sender = VoiceSenderConfig::default().with_rtp_start(65_530, u32::MAX - 48_000);
    let listener = VoiceReceiverConfig::default();
    call_with(said, network, sender, listener)
}

pub fn call_with(
    said: &[f32],
    network: &Network,
    sender: VoiceSenderConfig,
    listener: VoiceReceiverConfig,
) -> Heard {
    let mut random = Random(network.seed);
    let mut sender = VoiceSender::new(sender).unwrap();
    let mut receiver = VoiceReceiver::new(listener).unwrap();
    let mut wire: BTreeMap<(Timestamp, usize), MediaPacket> = BTreeMap::new();
    let (mut out, mut sent) = (Vec::new(), Vec::new());
    let mut samples = Vec::new();
    let (mut pulled, mut delays, mut clocks, mut lost) = (Vec::new(), Vec::new(), 0, 0);
    let (mut now, mut last) = (Timestamp::ZERO, Timestamp::ZERO);
    for tick in 0..said.len().div_ceil(BLOCK) + 100 {
        // The block that was captured until now.
        let captured = said.chunks(BLOCK).nth(tick).unwrap_or(&[0.0; BLOCK]);
        let capture = Timestamp::from_millis(10 * tick as u64);
        let wall = WallTime::from_millis(1_700_000_000_000 + 10 * tick as u64);
        now = capture + Duration::from_millis(10);
        sender.push(capture, wall, captured, &mut out);
        for event in out.drain(..) {
            let VoiceOut::Packet(packet) = event else {
                clocks += 1;
                continue;
            };
            sent.push((now, packet.clone()));
            if random.unit() < network.loss {
                lost += 1;
                continue;
            }
            let ms = network.delay_ms + network.jitter_ms * random.unit();
            let mut arrival = (now + Duration::from_secs_f64(ms / 1000.0)).max(last);
            last = arrival;
            if random.unit() < network.overtaken {
                arrival = arrival + Duration::from_millis(30);
            }
            if let Some((from, until)) = network.outage_ms
                && arrival >= Timestamp::from_millis(from)
            {
                arrival = arrival.max(Timestamp::from_millis(until));
            }
            wire.insert((arrival, sent.len()), packet);
        }
        now = now + PHASE;
        let nominal = now;
        now = now + Duration::from_secs_f64(network.pull_jitter_ms * random.unit() / 1000.0);
        while let Some(entry) = wire.first_entry()
            && entry.key().0 <= now
        {
            let ((arrival, _), packet) = entry.remove_entry();
            receiver.push(arrival, packet);
        }
        let mut block = [0.0; BLOCK];
        pulled.push(receiver.pull(now, &mut block));
        if tick == 0 {
            samples.resize(samples_of(nominal.saturating_since(Timestamp::ZERO)), 0.0);
        }
        samples.extend_from_slice(&block);
        delays.push(receiver.stats(now).delay_ms);
    }
    Heard {
        samples,
        pulled,
        stats: receiver.stats(now),
        sent,
        clocks,
        lost,
        delays,
    }
}

fn samples_of(time: Duration) -> usize {
    time.as_micros() as usize * 48 / 1000
}

/// Energy in windows of 10 ms, smoothed over three.
pub fn envelope(samples: &[f32]) -> Vec<f32> {
    let windows: Vec<f32> = samples
        .chunks(BLOCK)
        .map(|window| (window.iter().map(|x| x * x).sum::<f32>() / BLOCK as f32).sqrt())
        .collect();
    let around = |i: usize| &windows[i.saturating_sub(1)..(i + 2).min(windows.len())];
    (0..windows.len())
        .map(|i| around(i).iter().sum::<f32>() / around(i).len() as f32)
        .collect()
}

/// Normalised correlation of two equally long series about their means.
pub fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mean = |x: &[f32]| x.iter().sum::<f32>() / len.max(1) as f32;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f32, f32) -> f32| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum();
    let (xy, xx, yy): (f32, f32, f32) =
        (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    xy / (xx * yy).sqrt().max(1e-12)
}

/// How alike the envelopes are over delays of 0 to 400 ms: the mean over the half seconds in which somebody speaks, each with
/// the delay that suits it best, for delay changes within a call.
pub fn envelope_match(said: &[f32], heard: &[f32]) -> f32 {
    const HALF_SECOND: usize = 50;
    let (said, heard) = (envelope(said), envelope(heard));
    let (mut sum, mut pieces) = (0.0, 0.0);
    for (index, piece) in said.chunks(HALF_SECOND).enumerate() {
        if piece.len() < HALF_SECOND / 2 || piece.iter().copied().fold(0.0, f32::max) < 0.02 {
            continue;
        }
        let rest = &heard[(index * HALF_SECOND).min(heard.len())..];
        let lags = 0..40.min(rest.len());
        sum += lags
            .map(|lag| correlation(piece, &rest[lag..]))
            .fold(-1.0, f32::max);
        pieces += 1.0;
    }
    sum / f32::max(pieces, 1.0)
}

/// The delay of each stretch of 60 ms of speech in milliseconds, sorted: where the waveform of what
/// was said is found again in what was heard. Judged at 4 kHz.
pub fn mouth_to_ear_ms(said: &[f32], heard: &[f32]) -> Vec<f32> {
    const WINDOW: usize = 240;
    const LAGS: usize = 800;
    let thin =
        |x: &[f32]| -> Vec<f32> { x.chunks(12).map(|c| c.iter().sum::<f32>() / 12.0).collect() };
    let (said, heard) = (thin(said), thin(heard));
    let mut delays: Vec<f32> = said
        .chunks_exact(WINDOW)
        .enumerate()
        .filter(|(_, window)| window.iter().map(|x| x * x).sum::<f32>() > 0.0005 * WINDOW as f32)
        .filter_map(|(i, window)| find(window, heard.get(i * WINDOW..i * WINDOW + WINDOW + LAGS)?))
        .map(|lag| lag as f32 / 4.0)
        .collect();
    delays.sort_by(f32::total_cmp);
    delays
}

/// Where `part` lies in `whole`, if anywhere.
fn find(part: &[f32], whole: &[f32]) -> Option<usize> {
    let energy: f32 = part.iter().map(|x| x * x).sum();
    let likeness = |window: &[f32]| {
        let (mut xy, mut yy) = (0.0, 1e-9);
        for (x, y) in part.iter().zip(window) {
            xy += x * y;
            yy += y * y;
        }
        xy / (energy * yy).sqrt()
    };
    let best = whole.windows(part.len()).map(likeness).enumerate();
    let (lag, likeness) = best.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (likeness > 0.8).then_some(lag)
}

/// The element that this share of the sorted values lies below.
pub fn percentile(sorted: &[f32], share: f32) -> f32 {
    sorted[((sorted.len() - 1) as f32 * share) as usize]
}

/// The largest step from one sample to the next: a click is a step that no voice makes.
pub fn steepest(samples: &[f32]) -> f32 {
    let steps = samples.windows(2).map(|pair| (pair[1] - pair[0]).abs());
    steps.fold(0.0, f32::max)
}
