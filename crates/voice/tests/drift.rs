//! A sender whose clock is off, heard for a long time: on a tone, where the least edge shows.
#![allow(clippy::unwrap_used)]

use std::{f64::consts::TAU, time::Duration};

use roundtable_core::{MediaPacket, Timestamp, WallTime};
use roundtable_voice::{
    Activation, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender, VoiceSenderConfig,
};

/// A tone with a whole number of periods in 20 ms.
const HZ: f64 = 400.0;
const FRAME: u32 = 960;
const FRAME_S: f64 = 0.02;
const MINUTES: u64 = 3;

/// Packets of a tone in its steady state; their end joins their beginning.
fn tone() -> Vec<MediaPacket> {
    let config = VoiceSenderConfig::default().with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config).unwrap();
    let step = HZ * TAU / 48_000.0;
    #[allow(clippy::cast_possible_truncation)] // samples
    let samples: Vec<f32> = (0..48_000 * 2)
        .map(|i| (0.3 * (f64::from(i) * step).sin()) as f32)
        .collect();
    let mut out = Vec::new();
    sender.push(
        Timestamp::ZERO,
        WallTime::from_millis(0),
        &samples,
        &mut out,
    );
    let packets = out.into_iter().filter_map(|out| match out {
        VoiceOut::Packet(packet) => Some(packet),
        VoiceOut::Clock(_) => None,
    });
    packets.skip(50).collect()
}

/// What a listener hears of a sender whose clock is `ppm` fast, over a network with up to 10 ms of jitter.
struct Listening {
    receiver: VoiceReceiver,
    now: Timestamp,
    /// The steepest step, and the delays in milliseconds, of the second half.
    steepest: f32,
    delays: Vec<f32>,
    /// How fast it was played, at each block of the second half.
    rates: Vec<f64>,
    stretched: u64,
    concealed: u64,
}

fn listen(ppm: f64, correct: bool) -> Listening {
    let packets = tone();
    let config = VoiceReceiverConfig::default().with_drift_correction(correct);
    let mut this = Listening {
        receiver: VoiceReceiver::new(config).unwrap(),
        now: Timestamp::ZERO,
        steepest: 0.0,
        delays: Vec::new(),
        rates: Vec::new(),
        stretched: 0,
        concealed: 0,
    };
    let (mut block, mut last, mut random) = ([0.0_f32; 480], 0.0_f32, 1_u64);
    let mut number = 0_u32;
    let mut arrival = Duration::ZERO;
    let blocks = MINUTES * 6_000;
    for tick in 0..blocks {
        this.now = Timestamp::from_millis(100 + 10 * tick);
        while Timestamp::ZERO + arrival <= this.now {
            let mut packet = packets[number as usize % packets.len()].clone();
            #[allow(clippy::cast_possible_truncation)] // wraps
            let sequence = number as u16;
            packet.sequence = sequence;
            packet.timestamp = number.wrapping_mul(FRAME);
            packet.marker = number == 0;
            this.receiver.push(Timestamp::ZERO + arrival, packet);
            number += 1;
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let jitter = (random >> 40) as f64 / f64::from(1_u32 << 24) * 0.01;
            let sent = f64::from(number) * FRAME_S / (1.0 + ppm / 1e6);
            arrival = arrival.max(Duration::from_secs_f64(sent + jitter));
        }
        this.receiver.pull(this.now, &mut block);
        let stats = this.receiver.stats(this.now);
        if tick == blocks / 2 {
            (this.stretched, this.concealed) = (stats.stretched, stats.concealed);
        }
        if tick > blocks / 2 {
            for sample in block {
                this.steepest = this.steepest.max((sample - last).abs());
                last = sample;
            }
            this.delays.push(stats.delay_ms);
            this.rates.push(stats.rate);
        }
        last = block[479];
    }
    let stats = this.receiver.stats(this.now);
    // Before the drift is known, a packet may come late.
    assert!(this.concealed <= 1, "{stats:?}");
    this.concealed = stats.concealed - this.concealed;
    assert_eq!((stats.lost, stats.displaced, this.concealed), (0, 0, 0));
    this.stretched = stats.stretched - this.stretched;
    this
}

#[test]
fn a_clock_that_is_500_ppm_off_is_neither_heard_nor_adds_delay() {
    #[allow(clippy::cast_possible_truncation)] // a sample
    let natural = (0.3 * (HZ * TAU / 48_000.0)) as f32;
    for ppm in [500.0, -500.0] {
        let heard = listen(ppm, true);
        let stats = heard.receiver.stats(heard.now);
        let drift = stats.drift.unwrap();
        assert!((drift.low..drift.high).contains(&ppm), "{drift:?}");
        assert!(
            heard
                .rates
                .iter()
                .all(|rate| (0.995..=1.005).contains(rate))
        );
        // At the end it may be anywhere within a block of 10 ms.
        let mean = heard.rates.iter().sum::<f64>() / heard.rates.len() as f64;
        let block = 0.010 / (MINUTES as f64 * 30.0);
        assert!((mean - 1.0 - ppm / 1e6).abs() < 1.2 * block, "{mean}");
        assert!(
            heard.steepest < 1.1 * natural,
            "{} where a tone has {natural}",
            heard.steepest
        );
        let spread = heard.delays.iter().copied().fold(f32::MIN, f32::max)
            - heard.delays.iter().copied().fold(f32::MAX, f32::min);
        assert!(spread < 15.0, "{ppm}: the delay moves by {spread} ms");
        assert!(
            heard.stretched <= 2,
            "{ppm}: stretched {} times",
            heard.stretched
        );
    }
}

#[test]
fn without_correction_stretching_takes_up_the_drift() {
    let heard = listen(500.0, false);
    // 45 ms of 90 s, in cuts of at most 10 ms.
    assert!(heard.stretched >= 4, "{}", heard.stretched);
    assert_eq!(heard.receiver.stats(heard.now).rate, 1.0);
}
