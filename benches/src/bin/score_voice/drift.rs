//! An hour of a clock that is off, heard on a tone, where the least edge shows.

use std::{f64::consts::TAU, time::Duration};

use roundtable_core::{MediaPacket, Timestamp, WallTime};
use roundtable_voice::{
    Activation, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender, VoiceSenderConfig,
};
use serde_json::json;

use crate::{
    Dice, Error, WARM_UP_S,
    aims::{self, Aim, Limit},
    day::percent_of,
    listen::{PULL, PULLS},
};

/// A tone with a whole number of periods in 20 ms.
const HZ: f64 = 400.0;
const AMPLITUDE: f64 = 0.3;

/// What came of it, since the tenth second.
#[derive(Debug, Clone)]
pub(crate) struct Drift {
    /// By how much the talker's clock is fast, in parts per million.
    pub(crate) ppm: f64,
    pub(crate) minutes: u64,
    /// The steepest step from one sample to the next, as a multiple of the tone's own.
    pub(crate) steepest: f64,
    /// Between the least and the greatest delay, in milliseconds.
    pub(crate) spread_ms: f64,
    pub(crate) mean_ms: f64,
    /// Frames that were cut or lengthened, and pieces of 10 ms that were made up.
    pub(crate) stretched: u64,
    pub(crate) concealed: u64,
}

/// So many hours with up to 10 ms of jitter.
pub(crate) fn hour(hours: u64, ppm: f64, as_json: bool) -> Result<Drift, Error> {
    let packets = tone()?;
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default())?;
    let mut dice = Dice::new(500);
    let ticks = hours * 3600 * PULLS;
    let warm_up = WARM_UP_S as u64 * PULLS;
    let (mut number, mut arrival, mut block) = (0_u64, Timestamp::ZERO, [0.0_f32; PULL]);
    let (mut steepest, mut last, mut begun) = (0.0_f32, 0.0_f32, None);
    let (mut least, mut most, mut sum) = (f32::MAX, f32::MIN, 0.0);
    for tick in 0..ticks {
        let now = Timestamp::from_millis(100 + tick * 1000 / PULLS);
        while arrival <= now {
            let packet = MediaPacket {
                sequence: number as u16,
                timestamp: (number * 960) as u32,
                marker: number == 0,
                ..packets[number as usize % packets.len()].clone()
            };
            receiver.push(arrival, packet);
            number += 1;
            let sent_us = number as f64 * 20_000.0 / (1.0 + ppm * 1e-6);
            let jitter = Duration::from_micros(dice.between((0, 10_000)));
            arrival = arrival.max(Timestamp::from_micros(sent_us as u64) + jitter);
        }
        receiver.pull(now, &mut block);
        if tick >= warm_up {
            let stats = receiver.stats(now);
            begun.get_or_insert(stats);
            for sample in block {
                steepest = steepest.max((sample - last).abs());
                last = sample;
            }
            (least, most) = (least.min(stats.delay_ms), most.max(stats.delay_ms));
            sum += f64::from(stats.delay_ms);
        }
        last = block[PULL - 1];
    }
    let (before, after) = (begun.unwrap_or_default(), receiver.stats(Timestamp::ZERO));
    let drift = Drift {
        ppm,
        minutes: hours * 60,
        steepest: f64::from(steepest) / (AMPLITUDE * HZ * TAU / 48_000.0),
        spread_ms: f64::from(most - least),
        mean_ms: sum / ticks.saturating_sub(warm_up).max(1) as f64,
        stretched: after.stretched - before.stretched,
        concealed: after.concealed - before.concealed,
    };
    drift.show(as_json);
    Ok(drift)
}

impl Drift {
    /// What is aimed at: nothing is heard of it. A stretch's own steps are a tenth steeper than the tone's.
    pub(crate) fn aims(&self) -> Vec<Aim> {
        let most = |id, what, unit, most, value| Aim {
            id,
            what,
            unit,
            limit: Limit::AtMost(most),
            value: Some(value),
        };
        vec![
            most(
                "steepest_step",
                "the steepest step in a tone from a clock that is off, as a multiple of the tone's own",
                "times",
                1.1,
                self.steepest,
            ),
            most(
                "made_up_beyond_lost",
                "made up beyond what was lost, in the worst seed",
                "points",
                1.0,
                percent_of(self.concealed, self.minutes * 60),
            ),
        ]
    }

    fn show(&self, as_json: bool) {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        if as_json {
            let mut object = json!({"scenario": "drift_hour", "listener": "adaptive", "ppm": self.ppm, "minutes": self.minutes, "steepest_step": rounded(self.steepest), "delay_mean_ms": rounded(self.mean_ms), "delay_spread_ms": rounded(self.spread_ms), "stretched": self.stretched, "concealed_pieces": self.concealed});
            aims::add_to(&mut object, &self.aims());
            println!("{object}");
        } else {
            println!(
                "drift_hour     adaptive   {:+} ppm for {} min: steepest step {:.2} of the tone's own, delay {:.1} ms within {:.1} ms, {} stretched, {} pieces of 10 ms made up{}",
                self.ppm,
                self.minutes,
                self.steepest,
                self.mean_ms,
                self.spread_ms,
                self.stretched,
                self.concealed,
                aims::missed(&self.aims()),
            );
        }
    }
}

/// A second of a tone in its steady state, in packets; their end joins their beginning.
fn tone() -> Result<Vec<MediaPacket>, Error> {
    let config = VoiceSenderConfig::default().with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config)?;
    let step = HZ * TAU / 48_000.0;
    let sample = |i: u32| (AMPLITUDE * (f64::from(i) * step).sin()) as f32;
    let samples: Vec<f32> = (0..96_000).map(sample).collect();
    let mut out = Vec::new();
    sender.push(
        Timestamp::ZERO,
        WallTime::from_millis(0),
        &samples,
        &mut out,
    );
    let packets = out.into_iter().filter_map(|event| match event {
        VoiceOut::Packet(packet) => Some(packet),
        VoiceOut::Clock(_) => None,
    });
    Ok(packets.skip(50).collect())
}
