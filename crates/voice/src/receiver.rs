//! From packets to sound: jitter buffer, Opus, concealment, stretching.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use roundtable_core::{MediaClock, MediaCodec, MediaPacket, NtpTime, Timestamp};
use roundtable_media_codec::{AudioDecoder, AudioFormat, MAX_OPUS_FRAME_MS, OpusDecoder};
use roundtable_sync::{
    Decision, JitterBuffer, JitterConfig, PlayoutState, PullClock, Pushed, RtpMeta, SenderClock,
    decide,
};

use crate::{SAMPLE_RATE_HZ, VoiceConfigError, guard::PopGuard, stretch};

/// The longest that one packet lasts.
const MAX_FRAME: usize = SAMPLE_RATE_HZ as usize / 1000 * MAX_OPUS_FRAME_MS;
/// Speech is made up in pieces of 10 ms.
const PIECE: usize = 480;
/// What is made up has a multiple of 2.5 ms.
const STEP: usize = 120;
/// Samples over which a talk spurt fades in: 2.5 ms.
const FADE: usize = 120;
/// Frames between two gentle changes of the delay.
const STRETCH_PAUSE: u32 = 4;
/// Delay beyond the target that calls for haste, in microseconds.
const HASTE_US: i64 = 20_000;
/// Share of lost packets from which on it pays to wait for the next packet's redundancy.
const LOSSY: f32 = 0.02;

/// How to receive a voice.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VoiceReceiverConfig {
    /// See [`with_jitter`](Self::with_jitter).
    pub jitter: JitterConfig,
}

impl Default for VoiceReceiverConfig {
    fn default() -> Self {
        Self {
            jitter: JitterConfig::voice(),
        }
    }
}

impl VoiceReceiverConfig {
    /// The jitter buffer's settings. Default [`JitterConfig::voice`]: 20 to 120 ms.
    #[must_use]
    pub fn with_jitter(mut self, jitter: JitterConfig) -> Self {
        self.jitter = jitter;
        self
    }
}

/// What a pulled block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pulled {
    /// Nobody spoke.
    Silence,
    /// Speech as it was said.
    Speech,
    /// Speech, some of it made up because packets were missing.
    Concealed,
}

/// What a [`VoiceReceiver`] has seen. Counters wrap at 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct VoiceStats {
    /// Packets that came.
    pub packets: u64,
    /// Packets that never came. May fall when one comes out of order.
    pub lost: u64,
    /// Packets that came too late to be heard.
    pub late: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets dropped because too many waited.
    pub displaced: u64,
    /// Packets that are no Opus.
    pub malformed: u64,
    /// Lost packets that the next one's redundancy made good.
    pub recovered: u64,
    /// Frames of 10 ms that were made up in the midst of speech.
    pub concealed: u64,
    /// Frames that were shortened or lengthened to change the delay.
    pub stretched: u64,
    /// Interarrival jitter (RFC 3550 §6.4.1) in milliseconds.
    pub jitter_ms: f32,
    /// By how much the last frame was played behind the fastest packet, in milliseconds.
    pub delay_ms: f32,
    /// By how much frames should be, in milliseconds.
    pub target_ms: f32,
    /// Whether speech is being played.
    pub active: bool,
}

/// Plays one remote voice: takes packets as they come and gives sound when asked.
pub struct VoiceReceiver {
    config: VoiceReceiverConfig,
    buffer: JitterBuffer<Bytes>,
    decoder: OpusDecoder,
    clock: SenderClock,
    pulls: PullClock,
    guard: PopGuard,
    player: Player,
    /// Decoded sound that was not pulled yet: less than two frames.
    ready: VecDeque<f32>,
    frame: Vec<f32>,
    scratch: Vec<f32>,
    /// Lost packets, smoothed.
    loss: f32,
    /// Samples made up in the midst of speech.
    concealed: u64,
    stats: VoiceStats,
}

/// Where playing is.
#[derive(Debug, Clone, Copy, Default)]
struct Player {
    playing: bool,
    /// RTP timestamp of the next sample, unwrapped.
    position: i64,
    /// Sequence number of the last packet that was played.
    sequence: Option<i64>,
    /// Samples that one packet holds, by the last one.
    frame_len: usize,
    /// Samples made up since the last packet for which none was skipped.
    held: usize,
    since_stretch: u32,
}

impl VoiceReceiver {
    /// A receiver that has heard nothing.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names what is out of range.
    pub fn new(config: VoiceReceiverConfig) -> Result<Self, VoiceConfigError> {
        if config.jitter.clock_rate_hz != SAMPLE_RATE_HZ {
            return Err(VoiceConfigError::Format);
        }
        Ok(Self {
            buffer: JitterBuffer::new(config.jitter)?,
            decoder: OpusDecoder::new(AudioFormat::VOICE)?,
            clock: SenderClock::new(SAMPLE_RATE_HZ),
            pulls: PullClock::new(),
            guard: PopGuard::new(),
            player: Player::default(),
            ready: VecDeque::with_capacity(2 * MAX_FRAME),
            frame: Vec::with_capacity(2 * MAX_FRAME),
            scratch: Vec::with_capacity(2 * MAX_FRAME),
            loss: 0.0,
            concealed: 0,
            stats: VoiceStats::default(),
            config,
        })
    }

    /// Takes a packet that arrived at `now`. What is no Opus is counted and dropped.
    pub fn push(&mut self, now: Timestamp, packet: MediaPacket) {
        let holds = self.decoder.packet_len(&packet.payload);
        if packet.codec != MediaCodec::Opus || !holds.is_ok_and(|len| len > 0) {
            self.stats.malformed += 1;
            return;
        }
        let meta = RtpMeta {
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            spurt: packet.marker,
        };
        if self.buffer.push(now, meta, packet.payload) == Pushed::Restarted {
            self.player = Player::default();
            self.decoder.reset();
        }
    }

    /// Takes the sender's clock, that came at `_now`.
    pub fn push_clock(&mut self, _now: Timestamp, clock: MediaClock) {
        self.clock.update(clock);
    }

    /// Fills `out` with the next samples, 48 kHz mono, which will be heard from `now` on. Usually
    /// 10 ms of them; at most 120 ms, and a block of 10 ms delays least.
    pub fn pull(&mut self, now: Timestamp, out: &mut [f32]) -> Pulled {
        let begin = self.pulls.tick(now, samples_duration(out.len()));
        let mut pulled = if self.ready.is_empty() {
            Pulled::Silence
        } else {
            Pulled::Speech
        };
        while self.ready.len() < out.len() {
            let at = begin + samples_duration(self.ready.len());
            let wanted = out.len() - self.ready.len();
            pulled = pulled.max(self.produce(at, wanted));
        }
        let len = out.len();
        for (out, sample) in out.iter_mut().zip(self.ready.drain(..len)) {
            *out = sample;
        }
        pulled
    }

    /// Makes some sound that begins at `at`: at least one sample, silence no more than `wanted`.
    fn produce(&mut self, at: Timestamp, wanted: usize) -> Pulled {
        if self.player.playing {
            self.buffer.advance(self.player.position);
        }
        let state = self.state(at);
        match decide(&state) {
            Decision::Silence(us) => {
                let len = samples_in_us(us).clamp(1, wanted);
                self.ready.extend(std::iter::repeat_n(0.0, len));
                Pulled::Silence
            }
            Decision::Start => self.start(),
            Decision::Stop => {
                self.conceal(PIECE);
                self.fade_out();
                self.emit();
                self.player.playing = false;
                Pulled::Concealed
            }
            Decision::Hold => {
                self.conceal(PIECE);
                self.emit();
                self.player.held += PIECE;
                Pulled::Concealed
            }
            Decision::Conceal(us) => self.fill(samples_in_us(us)),
            change => self.play(change, &state),
        }
    }

    fn state(&self, at: Timestamp) -> PlayoutState {
        let player = &self.player;
        let front = self.buffer.front();
        let back = self.buffer.back();
        let target = self.buffer.target(at).as_micros();
        PlayoutState {
            playing: player.playing,
            gap_us: front.map(|packet| ticks_us(packet.timestamp - player.position)),
            pause: front.is_some_and(|p| p.spurt || player.sequence == Some(p.sequence - 1)),
            delay_us: front
                .and_then(|packet| self.buffer.delay_us(at, packet.timestamp))
                .unwrap_or(0),
            target_us: i64::try_from(target).unwrap_or(i64::MAX),
            held_us: ticks_us(player.held as i64),
            level_us: back.map_or(0, |packet| {
                ticks_us(packet.timestamp - player.position + player.frame_len as i64)
            }),
        }
    }

    /// Begins a talk spurt with the oldest packet.
    fn start(&mut self) -> Pulled {
        self.player.playing = true;
        self.decode_front();
        let ramp = self.frame.iter_mut().take(FADE).enumerate();
        ramp.for_each(|(i, x)| *x *= i as f32 / FADE as f32);
        self.emit();
        Pulled::Speech
    }

    /// Plays the oldest packet, stretched if that is not too often.
    fn play(&mut self, change: Decision, state: &PlayoutState) -> Pulled {
        self.decode_front();
        self.stats.delay_ms = state.delay_us as f32 / 1000.0;
        self.player.since_stretch += 1;
        let haste = (state.delay_us - state.target_us).abs() > HASTE_US;
        if haste || self.player.since_stretch > STRETCH_PAUSE {
            let changed = match change {
                Decision::Accelerate => stretch::shorten(&mut self.frame),
                Decision::Expand => stretch::lengthen(&mut self.frame, &mut self.scratch),
                _ => 0,
            };
            if changed > 0 {
                self.player.since_stretch = 0;
                self.stats.stretched += 1;
            }
        }
        self.emit();
        Pulled::Speech
    }

    /// Decodes the oldest packet into the frame; what is no speech after all is made up.
    fn decode_front(&mut self) {
        let Some(packet) = self.buffer.pop() else {
            return self.frame.clear();
        };
        let follows = self.player.sequence == Some(packet.sequence - 1);
        // What was made up before a pause of the speaker stood for nothing.
        let pause = packet.spurt || (follows && packet.timestamp > self.player.position);
        if !pause {
            self.count_concealed(self.player.held);
        }
        self.learn_loss(packet.sequence);
        self.frame.resize(MAX_FRAME, 0.0);
        match self.decoder.decode(&packet.payload, &mut self.frame) {
            Ok(len) => {
                self.frame.truncate(len);
                self.guard.check(&mut self.frame);
            }
            Err(_) => {
                self.stats.malformed += 1;
                let len = self.player.frame_len.max(PIECE);
                self.conceal(len);
                self.count_concealed(len);
            }
        }
        self.player.sequence = Some(packet.sequence);
        self.player.position = packet.timestamp + self.frame.len() as i64;
        self.player.frame_len = self.frame.len();
        self.player.held = 0;
    }

    /// Fills a part of a hole of `missing` samples beyond what was made up already. The packet just
    /// before the oldest waiting one may be in that one's redundancy; all else is made up.
    fn fill(&mut self, missing: usize) -> Pulled {
        self.player.position += self.player.held as i64;
        self.count_concealed(self.player.held);
        self.player.held = 0;
        let frame_len = self.player.frame_len.max(PIECE);
        let next = self.buffer.front().map(|packet| packet.payload.clone());
        let redundant = next.filter(|next| missing == frame_len && self.decoder.carries_last(next));
        self.frame.resize(frame_len, 0.0);
        let recovered =
            redundant.is_some_and(|next| self.decoder.recover(&next, &mut self.frame).is_ok());
        let len = match recovered {
            true => frame_len,
            false if missing > frame_len => frame_len.min(missing - frame_len),
            false => missing,
        };
        if recovered {
            self.stats.recovered += 1;
            self.guard.lost();
            self.guard.check(&mut self.frame);
        } else {
            self.conceal(len);
            self.count_concealed(len);
        }
        self.player.position += len as i64;
        self.emit();
        if recovered {
            Pulled::Speech
        } else {
            Pulled::Concealed
        }
    }

    /// Makes up `len` samples in the frame.
    fn conceal(&mut self, len: usize) {
        self.guard.lost();
        let len = len.clamp(1, MAX_FRAME);
        self.frame.resize(len.next_multiple_of(STEP), 0.0);
        if self.decoder.conceal(&mut self.frame).is_err() {
            self.frame.fill(0.0);
        }
        self.frame.truncate(len);
    }

    fn fade_out(&mut self) {
        let len = self.frame.len() as f32;
        let ramp = self.frame.iter_mut().enumerate();
        ramp.for_each(|(i, x)| *x *= 1.0 - (i + 1) as f32 / len);
    }

    fn emit(&mut self) {
        self.ready.extend(self.frame.iter().copied());
    }

    fn count_concealed(&mut self, samples: usize) {
        self.concealed += samples as u64;
    }

    /// Follows the share of packets that were not there when their turn came, and waits for
    /// redundancy where it is high.
    fn learn_loss(&mut self, sequence: i64) {
        let last = self.player.sequence.unwrap_or(sequence - 1);
        let missing = (sequence - last - 1).clamp(0, 64);
        for _ in 0..missing {
            self.loss += (1.0 - self.loss) / 64.0;
        }
        self.loss -= self.loss / 64.0;
        let patience = if self.loss > LOSSY {
            samples_duration(self.player.frame_len) + samples_duration(PIECE)
        } else {
            Duration::ZERO
        };
        self.buffer
            .set_min_delay(self.config.jitter.min_delay.max(patience));
    }

    /// When what was said at RTP `timestamp` was captured, on the sender's wall clock; `None` before
    /// its first report.
    pub fn capture_time(&self, timestamp: u32) -> Option<NtpTime> {
        self.clock.ntp_of(timestamp)
    }

    /// Whether speech is being played.
    pub fn is_active(&self) -> bool {
        self.player.playing
    }

    /// The figures at `now`.
    pub fn stats(&self, now: Timestamp) -> VoiceStats {
        let buffer = self.buffer.stats();
        VoiceStats {
            packets: buffer.packets + self.stats.malformed,
            lost: buffer.lost,
            late: buffer.late,
            duplicates: buffer.duplicates,
            displaced: buffer.displaced,
            concealed: self.concealed / PIECE as u64,
            jitter_ms: buffer.jitter_ms,
            target_ms: self.buffer.target(now).as_secs_f32() * 1000.0,
            active: self.player.playing,
            ..self.stats
        }
    }
}

fn samples_duration(samples: usize) -> Duration {
    AudioFormat::VOICE.duration_of(samples)
}

fn samples_in_us(us: i64) -> usize {
    AudioFormat::VOICE.samples_in(Duration::from_micros(us.max(0).unsigned_abs()))
}

fn ticks_us(ticks: i64) -> i64 {
    let us = i128::from(ticks) * 1_000_000 / i128::from(SAMPLE_RATE_HZ);
    i64::try_from(us).unwrap_or(i64::MAX)
}
