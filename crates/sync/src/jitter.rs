//! The buffer that packets wait in: ordered, bounded, told the time.

use std::{collections::VecDeque, time::Duration};

use roundtable_core::{Timestamp, Unwrapper};

use crate::{Arrival, DelayConfig, DelayEstimator, JitterConfig, JitterConfigError};

/// More missing packets than this at once are a sender that started anew (RFC 3550 A.1).
const MAX_DROPOUT: u64 = 3_000;

/// How much media the delay is learnt from, about.
const MEMORY: Duration = Duration::from_secs(10);

/// The parts of an RTP header that ordering needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpMeta {
    /// Sequence number, wrapping.
    pub sequence: u16,
    /// Timestamp of the first sample, wrapping.
    pub timestamp: u32,
    /// Whether this begins a talk spurt. The packets that a sender had held back until it knew
    /// come with it; their delay says nothing about the network.
    pub spurt: bool,
}

/// A packet in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<T> {
    /// Sequence number, unwrapped.
    pub sequence: i64,
    /// Timestamp of the first sample in ticks, unwrapped.
    pub timestamp: i64,
    /// Whether this begins a talk spurt.
    pub spurt: bool,
    /// When it arrived.
    pub arrival: Timestamp,
    /// What it carries.
    pub payload: T,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// It waits for its time.
    Queued,
    /// It waits for its time, and the oldest packets had to go.
    Displaced,
    /// It is here already; dropped.
    Duplicate,
    /// Its time has passed; dropped.
    Late,
    /// Its number lies far from all others; dropped unless its successor comes next.
    Stray,
    /// The sender has started anew: everything else was dropped, and it waits for its time.
    Restarted,
}

/// Counters since the buffer was made. They wrap at 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JitterStats {
    /// Packets that came, whatever became of them.
    pub packets: u64,
    /// Packets that should have come by now and have not (RFC 3550 §6.4.1: may fall when one
    /// comes out of order).
    pub lost: u64,
    /// Packets that came after their time.
    pub late: u64,
    /// Packets that had not come when another one's redundancy brought them.
    pub repeated: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets dropped because the buffer was full.
    pub displaced: u64,
    /// Packets far out of sequence.
    pub strays: u64,
    /// Packets that wait.
    pub current_frames: usize,
    /// The most packets that ever waited at once.
    pub peak: usize,
    /// By how much the last packet that was popped was behind the fastest one, in milliseconds.
    pub current_delay_ms: f32,
    /// The same, smoothed over some 16 packets.
    pub average_delay_ms: f32,
    /// The share of packets that are lost, of all that should have come, 0 to 1.
    pub loss: f32,
    /// Interarrival jitter (RFC 3550 §6.4.1) in milliseconds.
    pub jitter_ms: f32,
}

/// An adaptive jitter buffer: orders what comes, and says when each packet should be played.
///
/// Inserting costs O(log n) comparisons, and no packet moves when they come in order; popping is
/// O(1).
#[derive(Debug)]
pub struct JitterBuffer<T> {
    config: JitterConfig,
    packets: VecDeque<Packet<T>>,
    delay: DelayEstimator,
    stream: Option<Stream>,
    restart: Option<u16>,
    stats: JitterStats,
    /// See [`JitterStats::average_delay_ms`].
    average_delay_ms: Option<f32>,
    /// Losses of streams before the current one.
    lost_before: u64,
    /// How much faster than nominal the sender's clock runs by ours, as a ratio.
    drift: f64,
}

/// What is known about the stream since the sender last started anew.
#[derive(Debug, Clone)]
struct Stream {
    sequences: Unwrapper,
    timestamps: Unwrapper,
    first: i64,
    highest: i64,
    received: u64,
    /// Bit `k`: whether `highest - k` has come.
    seen: u128,
    /// The same of packets that came as the redundancy of later ones.
    repeated: u128,
    /// Highest sequence number that was popped.
    popped: i64,
    /// Timestamps below this have been played.
    played: i64,
    arrival: Timestamp,
    timestamp: i64,
    /// A timestamp and its time on the sender's clock in microseconds, as fast as ours: the newest.
    anchor: (i64, f64),
    /// Of the packet that arrived last.
    sequence: i64,
    /// What one packet lasts, by the last two that came one after the other.
    frame_ticks: i64,
    /// When the talk spurt began.
    spurt: i64,
    held_back: bool,
    jitter_us: f64,
}

impl Stream {
    fn new(now: Timestamp, meta: RtpMeta) -> Self {
        let sequence = i64::from(meta.sequence);
        Self {
            sequences: Unwrapper::new(),
            timestamps: Unwrapper::new(),
            first: sequence,
            highest: sequence - 1,
            received: 0,
            seen: 0,
            repeated: 0,
            popped: i64::MIN,
            played: i64::MIN,
            arrival: now,
            timestamp: i64::from(meta.timestamp),
            anchor: (i64::from(meta.timestamp), 0.0),
            sequence,
            frame_ticks: 0,
            spurt: i64::from(meta.timestamp),
            held_back: true,
            jitter_us: 0.0,
        }
    }

    /// Marks `sequence` as received, unless it was already or nobody can tell.
    fn mark(&mut self, sequence: i64) -> bool {
        let ahead = sequence - self.highest;
        if ahead > 0 {
            let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.repeated = self.repeated.checked_shl(shift).unwrap_or(0);
            self.highest = sequence;
        } else {
            let back = u32::try_from(-ahead).unwrap_or(u32::MAX);
            let bit = 1_u128.checked_shl(back).unwrap_or(0);
            if bit == 0 || self.seen & bit != 0 {
                return false;
            }
            self.seen |= bit;
        }
        self.first = self.first.min(sequence);
        self.received += 1;
        true
    }

    fn lost(&self) -> u64 {
        let expected = (self.highest - self.first + 1).unsigned_abs();
        expected.saturating_sub(self.received)
    }
}

impl<T> JitterBuffer<T> {
    /// An empty buffer.
    ///
    /// # Errors
    /// [`JitterConfigError`] names the setting that is out of range.
    pub fn new(config: JitterConfig) -> Result<Self, JitterConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            packets: VecDeque::with_capacity(config.max_packets + 1),
            delay: DelayEstimator::new(Self::delays(&config)),
            stream: None,
            restart: None,
            stats: JitterStats::default(),
            average_delay_ms: None,
            lost_before: 0,
            drift: 0.0,
        })
    }

    fn delays(config: &JitterConfig) -> DelayConfig {
        DelayConfig {
            min: config.min_delay,
            max: config.max_delay,
            start: config.start_delay,
            late_share: config.late_share,
            memory: MEMORY,
        }
    }

    /// Goes on with other bounds: what waits stays, as far as there is room, and so do counters and what is known about delays.
    /// With another clock rate a new stream is expected.
    ///
    /// # Errors
    /// [`JitterConfigError`] names the setting that is out of range; the old ones then stay.
    pub fn reconfigure(&mut self, config: JitterConfig) -> Result<(), JitterConfigError> {
        config.validate()?;
        let rate_hz = std::mem::replace(&mut self.config, config).clock_rate_hz;
        if rate_hz == config.clock_rate_hz {
            self.delay.reconfigure(Self::delays(&config));
            self.make_room();
        } else {
            self.start_anew();
        }
        Ok(())
    }

    /// Takes a packet that arrived at `now`. When the buffer is full, the oldest make room.
    pub fn push(&mut self, now: Timestamp, meta: RtpMeta, payload: T) -> Pushed {
        self.stats.packets += 1;
        let mut outcome = Pushed::Queued;
        if self.is_stray(now, meta) {
            if self.restart != Some(meta.sequence) {
                self.restart = Some(meta.sequence.wrapping_add(1));
                self.stats.strays += 1;
                return Pushed::Stray;
            }
            self.start_anew();
            outcome = Pushed::Restarted;
        }
        self.restart = None;
        let stream = self.stream.get_or_insert_with(|| Stream::new(now, meta));
        let sequence = stream.sequences.unwrap_u16(meta.sequence);
        let timestamp = stream.timestamps.unwrap_u32(meta.timestamp);
        if !stream.mark(sequence) {
            self.stats.duplicates += 1;
            return Pushed::Duplicate;
        }
        let overtaken = sequence <= stream.popped || timestamp < stream.played;
        let place = self.packets.partition_point(|p| p.sequence < sequence);
        if !self.fits(place, timestamp) {
            self.stats.strays += 1;
            return Pushed::Stray;
        }
        self.observe(now, sequence, timestamp, meta.spurt);
        self.move_anchor(timestamp);
        if overtaken {
            self.stats.late += 1;
            return Pushed::Late;
        }
        let packet = Packet {
            sequence,
            timestamp,
            spurt: meta.spurt,
            arrival: now,
            payload,
        };
        self.packets.insert(place, packet);
        self.stats.peak = self.stats.peak.max(self.packets.len());
        if self.make_room() && outcome == Pushed::Queued {
            outcome = Pushed::Displaced;
        }
        outcome
    }

    /// Whether time goes on from packet to packet with this one at `place`. No honest sender makes one
    /// where it does not; taken in, it would stretch the span when those around it are gone.
    fn fits(&self, place: usize, timestamp: i64) -> bool {
        let before = place.checked_sub(1).and_then(|i| self.packets.get(i));
        let after = self.packets.get(place);
        before.is_none_or(|p| p.timestamp <= timestamp)
            && after.is_none_or(|p| p.timestamp >= timestamp)
    }

    /// Whether a packet cannot belong to the stream: far off in sequence, or in time.
    fn is_stray(&self, now: Timestamp, meta: RtpMeta) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        let sequence = stream.sequences.clone().unwrap_u16(meta.sequence);
        let timestamp = stream.timestamps.clone().unwrap_u32(meta.timestamp);
        sequence.abs_diff(stream.highest) > MAX_DROPOUT
            || self.delay.is_break(now, self.media_us(timestamp))
    }

    fn start_anew(&mut self) {
        self.lost_before += self.stream.take().map_or(0, |stream| stream.lost());
        self.packets.clear();
        self.delay = DelayEstimator::new(Self::delays(&self.config));
    }

    /// Tells the buffer that the sender's clock runs by so many parts per million faster than ours, which is not known at first.
    /// Transits are then compared as if both ran alike, so that drift does not pass for jitter.
    pub fn set_drift(&mut self, ppm: f64) {
        self.drift = if ppm.is_finite() {
            ppm.clamp(-1e4, 1e4) / 1e6
        } else {
            0.0
        };
    }

    /// Another drift holds from the newest packet on: what came before keeps its place.
    fn move_anchor(&mut self, timestamp: i64) {
        let us = self.media_us_exactly(timestamp);
        if let Some(stream) = &mut self.stream
            && stream.anchor.0 < timestamp
        {
            stream.anchor = (timestamp, us);
        }
    }

    /// Learns from a packet's arrival.
    fn observe(&mut self, now: Timestamp, sequence: i64, timestamp: i64, spurt: bool) {
        let media_us = self.media_us(timestamp);
        let Some(stream) = &mut self.stream else {
            return;
        };
        let rate_hz = self.config.clock_rate_hz;
        let ticks = timestamp - stream.timestamp;
        let ticks_us = media_time_us(ticks, rate_hz);
        let arrival_us = now.saturating_since(stream.arrival).as_micros();
        let apart_us = i64::try_from(arrival_us).unwrap_or(i64::MAX);
        // What the sender held back until it knew that someone speaks comes faster than it was said.
        stream.held_back = spurt || (stream.held_back && apart_us < ticks_us / 2);
        if !stream.held_back {
            let difference = apart_us.abs_diff(ticks_us) as f64;
            stream.jitter_us += (difference - stream.jitter_us) / 16.0;
        }
        if spurt {
            stream.spurt = stream.spurt.max(timestamp);
        } else if sequence == stream.sequence + 1 {
            stream.frame_ticks = ticks;
        }
        let arrival = if stream.held_back {
            Arrival::HeldBack
        } else if sequence < stream.highest {
            Arrival::Overtaken(media_time_us(stream.frame_ticks, rate_hz))
        } else {
            Arrival::InOrder
        };
        (stream.arrival, stream.timestamp, stream.sequence) = (now, timestamp, sequence);
        self.delay.arrived(now, media_us, arrival);
    }

    /// Learns that `carrier`, which was pushed at `now`, also holds the packet that was sent `packets` before
    /// it and is `ticks` older. If that one has not come, the target learns from it as if it came now: where
    /// redundancy is worth waiting for, it is waited for.
    pub fn repeats(&mut self, now: Timestamp, carrier: RtpMeta, packets: u16, ticks: u32) {
        let rate_hz = self.config.clock_rate_hz;
        let Some(stream) = &mut self.stream else {
            return;
        };
        let sequence = stream.sequences.clone().unwrap_u16(carrier.sequence) - i64::from(packets);
        let timestamp = stream.timestamps.clone().unwrap_u32(carrier.timestamp) - i64::from(ticks);
        let back = u32::try_from(stream.highest - sequence).unwrap_or(u32::MAX);
        let bit = 1_u128.checked_shl(back).unwrap_or(0);
        let came = (stream.seen | stream.repeated) & bit != 0;
        if bit == 0 || came || sequence < stream.first || timestamp < stream.spurt {
            return;
        }
        stream.repeated |= bit;
        self.stats.repeated += 1;
        let length_us = media_time_us(stream.frame_ticks, rate_hz);
        let media_us = self.media_us(timestamp);
        self.delay.repeated(now, media_us, length_us);
    }

    fn make_room(&mut self) -> bool {
        let mut made = false;
        while self.packets.len() > self.config.max_packets || self.span() > self.config.max_span {
            self.packets.pop_front();
            self.stats.displaced += 1;
            made = true;
        }
        made
    }

    /// The oldest packet that waits.
    pub fn front(&self) -> Option<&Packet<T>> {
        self.packets.front()
    }

    /// The newest packet that waits.
    pub fn back(&self) -> Option<&Packet<T>> {
        self.packets.back()
    }

    /// Takes out the oldest packet; whatever is older is late from now on.
    pub fn pop(&mut self) -> Option<Packet<T>> {
        let packet = self.packets.pop_front()?;
        if let Some(stream) = &mut self.stream {
            stream.popped = packet.sequence;
            stream.played = stream.played.max(packet.timestamp);
        }
        Some(packet)
    }

    /// The same for one that is played from `now` on: the delays of [`JitterStats`] are told by it.
    pub fn pop_at(&mut self, now: Timestamp) -> Option<Packet<T>> {
        let packet = self.pop()?;
        let delay_us = self.delay_us(now, packet.timestamp).unwrap_or(0);
        let delay_ms = delay_us as f32 / 1000.0;
        let average_ms = self.average_delay_ms.unwrap_or(delay_ms);
        self.stats.current_delay_ms = delay_ms;
        self.average_delay_ms = Some(average_ms + (delay_ms - average_ms) / 16.0);
        Some(packet)
    }

    /// Takes out the oldest packet if its time has come at `now`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<Packet<T>> {
        let timestamp = self.front()?.timestamp;
        let target = i64::try_from(self.target().as_micros()).unwrap_or(i64::MAX);
        if self.delay_us(now, timestamp)? < target {
            return None;
        }
        self.pop_at(now)
    }

    /// Declares everything before `timestamp` (unwrapped) as played: what waits or comes of it is
    /// late.
    pub fn advance(&mut self, timestamp: i64) {
        if let Some(stream) = &mut self.stream {
            stream.played = stream.played.max(timestamp);
        }
        while self.front().is_some_and(|p| p.timestamp < timestamp) {
            self.pop();
            self.stats.late += 1;
        }
    }

    /// How long after the fastest packet's time media should be played.
    pub fn target(&self) -> Duration {
        self.delay.target()
    }

    /// By how much `timestamp` (unwrapped), played at `now`, would be behind the fastest packet,
    /// in microseconds. `None` before the first packet.
    pub fn delay_us(&self, now: Timestamp, timestamp: i64) -> Option<i64> {
        self.delay.delay_of_us(now, self.media_us(timestamp))
    }

    /// Media time between the oldest and the newest packet that wait.
    pub fn span(&self) -> Duration {
        match (self.front(), self.back()) {
            (Some(front), Some(back)) => {
                let us = media_time_us(back.timestamp - front.timestamp, self.config.clock_rate_hz);
                Duration::from_micros(us.max(0).unsigned_abs())
            }
            _ => Duration::ZERO,
        }
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether no packet waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The counters.
    pub fn stats(&self) -> JitterStats {
        let stream = self.stream.as_ref();
        let lost = self.lost_before + stream.map_or(0, Stream::lost);
        let came = self.stats.packets - self.stats.duplicates - self.stats.strays;
        #[allow(clippy::cast_possible_truncation)] // a figure to look at
        JitterStats {
            lost,
            current_frames: self.packets.len(),
            average_delay_ms: self.average_delay_ms.unwrap_or(0.0),
            loss: lost as f32 / (lost + came).max(1) as f32,
            jitter_ms: stream.map_or(0.0, |stream| stream.jitter_us / 1000.0) as f32,
            ..self.stats
        }
    }

    /// When a timestamp was, in microseconds of a clock as fast as ours.
    fn media_us(&self, timestamp: i64) -> i64 {
        #[allow(clippy::cast_possible_truncation)] // years fit
        let us = self.media_us_exactly(timestamp) as i64;
        us
    }

    fn media_us_exactly(&self, timestamp: i64) -> f64 {
        let (anchor, us) = self
            .stream
            .as_ref()
            .map_or((0, 0.0), |stream| stream.anchor);
        let ticks = timestamp.saturating_sub(anchor) as f64;
        us + ticks * 1e6 / f64::from(self.config.clock_rate_hz) / (1.0 + self.drift)
    }
}

/// Microseconds that so many ticks last. Saturates after six years at 48 kHz.
fn media_time_us(ticks: i64, rate_hz: u32) -> i64 {
    ticks.saturating_mul(1_000_000) / i64::from(rate_hz)
}

/// Body of the fuzz target `jitter_ops`: whatever is pushed, popped and skipped, the bounds and the
/// order hold.
#[cfg(any(test, feature = "__fuzz"))]
#[doc(hidden)]
pub fn __fuzz_jitter_ops(data: &[u8]) {
    let config = JitterConfig::voice().with_capacity(16, Duration::from_millis(400));
    let Ok(mut buffer) = JitterBuffer::new(config) else {
        return;
    };
    let mut now = Timestamp::ZERO;
    let mut last_sequence = i64::MIN;
    for op in data.chunks_exact(8) {
        now = now + Duration::from_millis(u64::from(op[1]));
        let meta = RtpMeta {
            sequence: u16::from_be_bytes([op[2], op[3]]),
            timestamp: u32::from_be_bytes([op[4], op[5], op[6], op[7]]),
            spurt: op[0] & 0x80 != 0,
        };
        match op[0] % 8 {
            0..=3 => {
                if buffer.push(now, meta, ()) == Pushed::Restarted {
                    last_sequence = i64::MIN;
                }
            }
            4 => buffer.repeats(now, meta, u16::from(op[1]), meta.timestamp >> 8),
            5 | 6 => {
                if let Some(packet) = buffer.pop_due(now).or_else(|| buffer.pop()) {
                    assert!(packet.sequence > last_sequence);
                    last_sequence = packet.sequence;
                }
            }
            _ if op[1] == 0 => buffer.set_drift(f64::from(meta.timestamp) - 2e9),
            _ => buffer.advance(i64::from(meta.timestamp)),
        }
        assert!(buffer.len() <= 16);
        assert!(buffer.span() <= Duration::from_millis(400));
        let target = buffer.target();
        assert!(target >= Duration::from_millis(5) && target <= Duration::from_millis(120));
    }
}
