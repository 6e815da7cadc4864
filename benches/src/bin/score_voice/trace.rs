//! From a talker through a network to a list of arrivals, which every listener gets alike.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use roundtable_core::{MediaClock, MediaCodec, MediaPacket, Timestamp, WallTime};
use roundtable_netem::{Flow, Netem};
use roundtable_voice::{VoiceOut, VoiceSender, VoiceSenderConfig};
use roundtable_wire::rtp::decode_red;

use crate::{
    Dice, Error, WARM_UP_S,
    scenario::{Scenario, Stalls},
};

/// What is captured at once: 10 ms at 48 kHz. Frames of 20 ms are sent at the same moments as with less.
pub(crate) const BLOCK: usize = 480;
/// How often the talker hears of losses.
const REPORTS: Duration = Duration::from_secs(1);

/// What arrives.
#[derive(Debug, Clone)]
pub(crate) enum Arrival {
    Packet(MediaPacket),
    Clock(MediaClock),
}

/// What a listener gets, and what is true about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// By time.
    pub(crate) arrivals: Vec<(Timestamp, Arrival)>,
    /// When the last one was sent.
    pub(crate) end: Timestamp,
    /// Packets sent since the warm-up, and those of them that never arrive.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Bytes of payload that were sent since the warm-up.
    pub(crate) bytes: u64,
    /// From the capture of a packet's last sample to its arrival, for the fastest one.
    pub(crate) fastest: Duration,
    /// The same for the slowest one since the warm-up.
    pub(crate) slowest: Duration,
    /// When the listener's blocks begin, after each 10 ms of the true clock.
    pub(crate) phase: Duration,
    /// How much faster than nominal the talker's sound card ran.
    pub(crate) ppm: f64,
}

impl Trace {
    /// Silence before the listener's first block.
    pub(crate) fn phase_samples(&self) -> usize {
        (self.phase.as_micros() * 48 / 1000) as usize
    }

    /// Kilobits a second of payload.
    pub(crate) fn kbps(&self) -> f64 {
        let seconds = self.end.as_micros() as f64 / 1e6 - WARM_UP_S;
        self.bytes as f64 * 8.0 / 1000.0 / seconds
    }
}

/// Where the listener's blocks begin is another place for each seed: 3, 6.3 and 9.7 ms, and so on. It decides how long a frame
/// waits for its block, whoever listens.
pub(crate) fn phase(seed: u64) -> Duration {
    Duration::from_micros((3_000 + 10_000 * (seed - 1) / 3) % 10_000)
}

/// A talker whose words go through a network.
struct Talk<'a> {
    scenario: &'a Scenario,
    net: Netem<(u64, Timestamp, Arrival)>,
    dice: Dice,
    sender: VoiceSender,
    talkers: u32,
    next_stall: Timestamp,
    /// Packets sent; the newest that has arrived; how many have; both at the last report (RFC 3550 A.3).
    sent: u64,
    newest: u64,
    arrived: u64,
    reported: (u64, u64),
    loss: f32,
    trace: Trace,
}

/// Lets somebody say `said` through the scenario's network.
pub(crate) fn talk(scenario: &Scenario, seed: u64, said: &[f32]) -> Result<Trace, Error> {
    let mut talk = Talk::new(scenario, seed)?;
    for (tick, block) in said.chunks_exact(BLOCK).enumerate() {
        talk.tick(tick, block)?;
    }
    Ok(talk.finish())
}

impl<'a> Talk<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Result<Self, Error> {
        let mut dice = Dice::new(seed);
        let next_stall = match scenario.stalls {
            Stalls::Never => Timestamp::from_micros(u64::MAX),
            Stalls::Once { at_s, .. } => Timestamp::from_millis(at_s * 1000),
            Stalls::Often { pause_ms, .. } => Timestamp::from_millis(dice.between(pause_ms)),
        };
        Ok(Self {
            net: Netem::new(seed, scenario.conditions),
            sender: sender(scenario, 0)?,
            talkers: 0,
            next_stall,
            sent: 0,
            newest: 0,
            arrived: 0,
            reported: (0, 0),
            loss: 0.0,
            trace: Trace {
                ppm: scenario.ppm,
                fastest: Duration::MAX,
                phase: phase(seed),
                ..Trace::default()
            },
            dice,
            scenario,
        })
    }

    /// Captures 10 ms.
    fn tick(&mut self, tick: usize, block: &[f32]) -> Result<(), Error> {
        let at = |blocks: usize| {
            let us = blocks as f64 * 10_000.0 / (1.0 + self.scenario.ppm * 1e-6);
            Timestamp::from_micros(us.round() as u64)
        };
        let (capture, now) = (at(tick), at(tick + 1));
        self.stall(now);
        if let Some(seconds) = self.scenario.new_talker_s
            && tick > 0
            && (tick as u64).is_multiple_of(seconds * 100)
        {
            self.talkers += 1;
            self.sender = sender(self.scenario, self.talkers)?;
            self.sender.set_expected_loss(self.loss);
        }
        let wall = WallTime::from_micros(1_700_000_000_000_000 + capture.as_micros());
        let mut out = Vec::new();
        self.sender.push(capture, wall, block, &mut out);
        for event in out {
            self.send(now, event);
        }
        self.receive(now);
        if now.as_micros() / micros(REPORTS) > capture.as_micros() / micros(REPORTS) {
            self.report();
        }
        self.trace.end = now;
        Ok(())
    }

    fn stall(&mut self, now: Timestamp) {
        if now < self.next_stall {
            return;
        }
        let ms = Duration::from_millis;
        let (length, pause) = match self.scenario.stalls {
            Stalls::Never => return,
            Stalls::Once { for_ms, .. } => (ms(for_ms), Duration::from_secs(1 << 40)),
            Stalls::Often { pause_ms, for_ms } => {
                let length = self.dice.between(for_ms);
                (ms(length), ms(length + self.dice.between(pause_ms)))
            }
        };
        self.net.stall(now + length);
        self.next_stall = now + pause;
    }

    fn send(&mut self, now: Timestamp, event: VoiceOut) {
        match event {
            VoiceOut::Packet(packet) => {
                let len = packet.payload.len();
                self.sent += 1;
                if is_measured(now) {
                    self.trace.sent += 1;
                    self.trace.lost += 1; // until it arrives
                    self.trace.bytes += len as u64;
                }
                let message = (self.sent, now, Arrival::Packet(packet));
                self.net.send(now, Flow::Datagram, len, message);
            }
            VoiceOut::Clock(clock) => {
                let message = (0, now, Arrival::Clock(clock));
                self.net.send(now, Flow::Stream(0), 28, message);
            }
        }
    }

    /// Takes what has arrived by `now`.
    fn receive(&mut self, now: Timestamp) {
        while let Some(at) = self.net.next_timeout().filter(|at| *at <= now) {
            let Some((number, sent, arrival)) = self.net.poll(at) else {
                break;
            };
            if matches!(arrival, Arrival::Packet(_)) {
                self.newest = self.newest.max(number);
                self.arrived += 1;
                let transit = at.saturating_since(sent);
                self.trace.fastest = self.trace.fastest.min(transit);
                if is_measured(sent) {
                    self.trace.lost -= 1;
                    self.trace.slowest = self.trace.slowest.max(transit);
                }
            }
            self.trace.arrivals.push((at, arrival));
        }
    }

    /// The talker hears how many of its packets were lost lately.
    fn report(&mut self) {
        let (newest, arrived) = std::mem::replace(&mut self.reported, (self.newest, self.arrived));
        let expected = self.newest - newest;
        if expected >= 10 {
            let lost = expected.saturating_sub(self.arrived - arrived) as f32 / expected as f32;
            self.loss += (lost - self.loss) / 4.0;
            self.sender.set_expected_loss(self.loss);
        }
    }

    fn finish(mut self) -> Trace {
        let last = Timestamp::from_micros(u64::MAX);
        self.receive(last);
        self.trace
    }
}

fn sender(scenario: &Scenario, talker: u32) -> Result<VoiceSender, Error> {
    let (sequence, timestamp) = scenario.rtp_start;
    let config = VoiceSenderConfig::default()
        .with_activation(scenario.activation)
        .with_redundancy(scenario.redundancy)
        .with_rtp_start(
            sequence.wrapping_add((talker * 20_011) as u16),
            timestamp.wrapping_add(talker.wrapping_mul(1_234_567_891)),
        );
    let mut sender = VoiceSender::new(config)?;
    sender.set_expected_loss(0.0);
    Ok(sender)
}

pub(crate) fn is_measured(at: Timestamp) -> bool {
    at.as_micros() as f64 >= WARM_UP_S * 1e6
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a packet carries beside what it repeats (RFC 2198), which others know nothing of.
fn own_frame(packet: &MediaPacket) -> Bytes {
    let blocks = match packet.codec {
        MediaCodec::OpusRed => decode_red(&packet.payload).ok(),
        _ => None,
    };
    let own = blocks.and_then(Iterator::last);
    own.map_or_else(|| packet.payload.clone(), |block| block.payload)
}

/// Writes the packets as `NAME.csv`, with the columns of a trace, and what they carry, one after the
/// other, as `NAME.opus`.
pub(crate) fn write(trace: &Trace, folder: &Path, name: &str) -> io::Result<PathBuf> {
    let mut table = String::from("arrival_us,seq,rtp_timestamp,payload_len\n");
    let mut payloads = Vec::new();
    for (at, arrival) in &trace.arrivals {
        let Arrival::Packet(packet) = arrival else {
            continue;
        };
        let payload = own_frame(packet);
        let (us, len) = (at.as_micros(), payload.len());
        // A string takes whatever is written.
        let _ = writeln!(table, "{us},{},{},{len}", packet.sequence, packet.timestamp);
        payloads.extend_from_slice(&payload);
    }
    let path = folder.join(name).with_extension("csv");
    fs::write(&path, table)?;
    fs::write(path.with_extension("opus"), payloads)?;
    Ok(path)
}
