//! A day: 24 virtual hours of packets through the real receiver, to see that neither delay nor memory grows.

use std::time::Duration;

use roundtable_core::{MediaPacket, Timestamp, WallTime};
use roundtable_voice::{
    Activation, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender, VoiceSenderConfig,
};
use serde_json::json;

use crate::{
    Dice, Error,
    aims::{self, Aim, Limit},
    listen::{PULL, PULLS},
};

/// The talker's sound card is fast by this.
const PPM: f64 = 50.0;
/// Packets that never arrive, in percent.
const LOST: f64 = 1.0;

/// How often a listener pulls in an hour.
const AN_HOUR: u64 = 3600 * PULLS;

/// Mean delay of each hour, in milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Day {
    pub(crate) hours_ms: Vec<f64>,
    /// Memory of the process at each hour's end in kilobytes, where the system tells.
    pub(crate) memory_kb: Vec<u64>,
    /// Share of the time that was made up, in percent.
    pub(crate) concealed: f64,
}

impl Day {
    /// By how much the last hour's delay is longer than the first's.
    pub(crate) fn growth_ms(&self) -> f64 {
        let ends = self.hours_ms.first().zip(self.hours_ms.last());
        ends.map_or(0.0, |(first, last)| last - first)
    }

    /// By how much more memory is used at the end than after the first hour, in kilobytes.
    pub(crate) fn memory_growth_kb(&self) -> i64 {
        let ends = self.memory_kb.first().zip(self.memory_kb.last());
        ends.map_or(0, |(first, last)| last.cast_signed() - first.cast_signed())
    }
}

/// The memory that the process has in use, in kilobytes; `None` where the system does not tell.
fn memory_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Lives through it: a hum in packets of 20 ms with up to 15 ms of jitter, 1 % of them lost, and a stall of
/// 200 ms every ten minutes.
pub(crate) fn live(hours: u64, as_json: bool) -> Result<Day, Error> {
    let payloads = hum()?;
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default())?;
    let mut dice = Dice::new(24);
    let (mut block, mut day, mut memory) = ([0.0; PULL], Vec::new(), Vec::new());
    let (mut sum, mut now, mut last) = (0.0, Timestamp::ZERO, Timestamp::ZERO);
    let ticks = hours * AN_HOUR;
    let mut number = 0_u64;
    for tick in 0..ticks {
        now = Timestamp::from_millis(tick * 1000 / PULLS);
        let sent = |number: u64| {
            Timestamp::from_micros((number as f64 * 20_000.0 / (1.0 + PPM * 1e-6)) as u64)
        };
        while sent(number) + Duration::from_millis(20) <= now {
            let delay = Duration::from_micros(dice.between((0, 15_000)));
            let stalled = number % 30_000 < 10 && number > 30_000;
            let stall = Duration::from_millis(if stalled {
                200 - 20 * (number % 30_000)
            } else {
                0
            });
            let at = (sent(number) + delay + stall).max(last);
            last = at;
            let lost = dice.between((0, 99)) < LOST as u64;
            if !lost {
                let packet = MediaPacket {
                    sequence: number as u16,
                    timestamp: (number * 960) as u32,
                    ..payloads[number as usize % payloads.len()].clone()
                };
                receiver.push(at, packet);
            }
            number += 1;
        }
        receiver.pull(now, &mut block);
        sum += f64::from(receiver.stats(now).delay_ms);
        if (tick + 1) % AN_HOUR == 0 {
            day.push(sum / AN_HOUR as f64);
            memory.extend(memory_kb());
            sum = 0.0;
        }
    }
    let day = Day {
        hours_ms: day,
        memory_kb: memory,
        concealed: percent_of(receiver.stats(now).concealed, hours * 3600),
    };
    day.show(as_json);
    Ok(day)
}

impl Day {
    /// What is aimed at. Of a single hour there is no growth to tell.
    pub(crate) fn aims(&self) -> Vec<Aim> {
        let several = self.hours_ms.len() > 1;
        let aim = |id, what, unit, most, value| Aim {
            id,
            what,
            unit,
            limit: Limit::AtMost(most),
            value,
        };
        vec![
            aim(
                "growth",
                "the delay in the last hour of a day, beyond that in the first",
                "ms",
                1.0,
                several.then(|| self.growth_ms()),
            ),
            aim(
                "memory_growth",
                "the process' memory at the end of a day, beyond that after an hour",
                "kB",
                1024.0,
                (self.memory_kb.len() > 1).then(|| self.memory_growth_kb() as f64),
            ),
            aim(
                "made_up_beyond_lost",
                "made up beyond what was lost, in the worst seed",
                "points",
                1.0,
                Some(self.concealed - LOST),
            ),
        ]
    }

    fn show(&self, as_json: bool) {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        if as_json {
            let hours: Vec<f64> = self.hours_ms.iter().copied().map(rounded).collect();
            let growth = rounded(self.growth_ms());
            let mut object = json!({"scenario": "day", "listener": "adaptive", "delay_by_hour_ms": hours, "growth_ms": growth, "memory_growth_kb": self.memory_growth_kb(), "concealed_percent": rounded(self.concealed)});
            aims::add_to(&mut object, &self.aims());
            println!("{object}");
        } else {
            println!(
                "day            adaptive   {:+.2} ms and {:+} kB from the first hour to the last of {}, concealed {:.2} %{}",
                self.growth_ms(),
                self.memory_growth_kb(),
                self.hours_ms.len(),
                self.concealed,
                aims::missed(&self.aims()),
            );
        }
    }
}

/// The share of so many seconds that these pieces of 10 ms are, in percent.
pub(crate) fn percent_of(pieces: u64, seconds: u64) -> f64 {
    pieces as f64 / seconds.max(1) as f64
}

/// A second of packets. A day of real speech takes longer to decode than it is worth.
pub(crate) fn hum() -> Result<Vec<MediaPacket>, Error> {
    let config = VoiceSenderConfig::default().with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config)?;
    let mut out = Vec::new();
    let samples: Vec<f32> = (0..48_000).map(|i| 0.1 * (i as f32 * 0.02).sin()).collect();
    sender.push(
        Timestamp::ZERO,
        WallTime::from_millis(0),
        &samples,
        &mut out,
    );
    let packets = out.into_iter().filter_map(|event| match event {
        VoiceOut::Packet(packet) => Some(packet),
        _ => None,
    });
    Ok(packets.collect())
}
