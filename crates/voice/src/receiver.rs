//! From packets to sound: jitter buffer, Opus, concealment, stretching.

mod config;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use roundtable_core::{MediaClock, MediaPacket, NtpTime, Timestamp};
use roundtable_media_codec::{
    AudioDecoder, AudioFormat, LastFrame, MAX_OPUS_FRAME_MS, OpusDecoder,
};
use roundtable_sync::{
    ClockDriftEstimate, ClockDriftEstimator, Decision, JitterBuffer, PlayoutState, PullClock,
    Pushed, RtpMeta, decide, pace,
};

use crate::{
    SAMPLE_RATE_HZ, VoiceConfigError, comfort::ComfortNoise, guard::PopGuard, redundancy::Speech,
    resample::RateShifter, stretch, vad::level_dbfs,
};

pub use config::{Pulled, VoiceReceiverConfig, VoiceStats};

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
/// Packets after which redundancy that is no longer sent is no longer counted on: ten seconds, for the codec leaves it out in
/// pauses.
const DEPTH_MEMORY: u32 = 500;
/// Drift that is surely above this is worth telling of, in parts per million.
const DRIFT_THRESHOLD_PPM: f64 = 20.0;
/// By how much the pace changes from one frame to the next: from nothing to the most takes ten frames.
const PACE_STEP: f64 = 0.0005;

/// Plays one remote voice: takes packets as they come and gives sound when asked.
pub struct VoiceReceiver {
    config: VoiceReceiverConfig,
    buffer: JitterBuffer<Speech>,
    decoder: OpusDecoder,
    drift: ClockDriftEstimator,
    estimate: Option<ClockDriftEstimate>,
    /// The slowest pace that a frame of the present block asks for.
    pace: f64,
    shifter: RateShifter,
    pulls: PullClock,
    guard: PopGuard,
    noise: ComfortNoise,
    player: Player,
    depth: Depth,
    /// Decoded sound that was not pulled yet: less than two frames.
    ready: VecDeque<f32>,
    /// Samples that were last pulled at once.
    block: usize,
    frame: Vec<f32>,
    scratch: Vec<f32>,
    /// Lost packets, smoothed.
    loss: f32,
    /// Samples made up in the midst of speech.
    concealed: u64,
    /// Samples made up where nothing was said.
    quiet: u64,
    stats: VoiceStats,
}

/// Where playing is.
#[derive(Debug, Clone, Copy, Default)]
struct Player {
    playing: bool,
    /// RTP timestamp of the next sample, unwrapped.
    position: i64,
    /// Sequence number of the last packet that was played, itself or from a later one's redundancy.
    sequence: Option<i64>,
    /// The same of packets that came themselves.
    came: Option<i64>,
    /// Samples that one packet holds, by the last one.
    frame_len: usize,
    /// Samples made up since the last packet for which none was skipped.
    held: usize,
    since_stretch: u32,
}

/// The frame that comes next of those that are here.
struct Head {
    sequence: i64,
    timestamp: i64,
    spurt: bool,
    payload: Bytes,
    /// Whether it is a packet's own, rather than repeated by a later one.
    own: bool,
}

/// How many packets back redundancy reaches, as far as is known.
#[derive(Debug, Clone, Copy, Default)]
struct Depth {
    packets: usize,
    age: u32,
}

impl Depth {
    fn learn(&mut self, packets: usize) {
        self.age += 1;
        if packets >= self.packets || self.age > DEPTH_MEMORY {
            *self = Self { packets, age: 0 };
        }
    }
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
            drift: ClockDriftEstimator::new(SAMPLE_RATE_HZ, DRIFT_THRESHOLD_PPM),
            estimate: None,
            pace: 1.0,
            shifter: RateShifter::new(),
            pulls: PullClock::new(),
            guard: PopGuard::new(),
            noise: ComfortNoise::new(),
            player: Player::default(),
            depth: Depth::default(),
            ready: VecDeque::with_capacity(2 * MAX_FRAME),
            block: PIECE,
            frame: Vec::with_capacity(2 * MAX_FRAME),
            scratch: Vec::with_capacity(2 * MAX_FRAME),
            loss: 0.0,
            concealed: 0,
            quiet: 0,
            stats: VoiceStats {
                rate: 1.0,
                level_dbfs: -200.0,
                ..VoiceStats::default()
            },
            config,
        })
    }

    /// Goes on with other settings, in the midst of a word if need be: what waits stays and counters go on; another delay
    /// is come to by and by.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names what is out of range; the old settings then stay.
    pub fn reconfigure(&mut self, config: VoiceReceiverConfig) -> Result<(), VoiceConfigError> {
        if config.jitter.clock_rate_hz != SAMPLE_RATE_HZ {
            return Err(VoiceConfigError::Format);
        }
        self.buffer.reconfigure(config.jitter)?;
        self.config = config;
        Ok(())
    }

    /// Takes a packet that arrived at `now`. What is no Opus is counted and dropped.
    pub fn push(&mut self, now: Timestamp, packet: MediaPacket) {
        let meta = RtpMeta {
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            spurt: packet.marker,
        };
        self.stats.bytes = self.stats.bytes.wrapping_add(packet.payload.len() as u64);
        let decoder = &self.decoder;
        let is_frame = |frame: &[u8]| decoder.packet_len(frame).is_ok_and(|len| len > 0);
        let Some(speech) = Speech::read(packet, is_frame) else {
            self.stats.malformed += 1;
            return;
        };
        let fec = (decoder.last_in(&speech.frame) == LastFrame::Carried)
            .then(|| decoder.packet_len(&speech.frame).unwrap_or(0));
        self.depth
            .learn(speech.depth().max(usize::from(fec.is_some())));
        let repeated = speech.offsets(fec);
        match self.buffer.push(now, meta, speech) {
            Pushed::Restarted => {
                if self.player.playing {
                    self.stop();
                }
                self.player = Player::default();
                self.decoder.reset();
                self.drift.restart();
            }
            Pushed::Stray | Pushed::Duplicate => return,
            _ => {}
        }
        for (packets, ticks) in repeated.into_iter().flatten() {
            self.buffer.repeats(now, meta, packets, ticks);
        }
        self.drift.add_observation(meta.timestamp, now);
        self.estimate = self.drift.estimate_drift();
        self.buffer.set_drift(self.sure_drift_ppm());
    }

    /// What is certain of the drift, in parts per million: the end of its interval that is nearer to none.
    fn sure_drift_ppm(&self) -> f64 {
        let certain =
            |estimate: ClockDriftEstimate| 0.0_f64.clamp(estimate.drift.low, estimate.drift.high);
        self.estimate.map_or(0.0, certain)
    }

    /// Takes the sender's clock, that came at `_now`.
    pub fn push_clock(&mut self, _now: Timestamp, clock: MediaClock) {
        self.drift.add_report(clock);
    }

    /// Fills `out` with the next samples, 48 kHz mono, which will be heard from `now` on. Usually
    /// 5 or 10 ms of them, at most 120; half a block, in the mean, is added to the delay.
    pub fn pull(&mut self, now: Timestamp, out: &mut [f32]) -> Pulled {
        let begin = self.pulls.tick(now, samples_duration(out.len()));
        self.block = out.len();
        self.pace = f64::INFINITY;
        let mut pulled = if self.ready.is_empty() {
            Pulled::Silence
        } else {
            Pulled::Speech
        };
        while self.ready.len() < out.len() {
            // Decided now: what comes while the block plays is of no use to it.
            let wanted = out.len() - self.ready.len();
            pulled = pulled.max(self.produce(begin, wanted));
        }
        let len = out.len();
        for (out, sample) in out.iter_mut().zip(self.ready.drain(..len)) {
            *out = sample;
        }
        pulled
    }

    /// Makes some sound for the block that begins at `at`: at least one sample, silence no more than `wanted`.
    fn produce(&mut self, at: Timestamp, wanted: usize) -> Pulled {
        if self.player.playing {
            self.buffer.advance(self.player.position);
        }
        let state = self.state(at);
        match decide(&state) {
            Decision::Silence(us) => {
                let len = samples_in_us(us).clamp(1, wanted);
                self.be_silent(len);
                Pulled::Silence
            }
            Decision::Start => self.start(at, &state),
            Decision::Stop => {
                self.stop();
                Pulled::Concealed
            }
            Decision::Hold => {
                self.conceal(PIECE);
                self.emit();
                self.player.held += PIECE;
                Pulled::Concealed
            }
            Decision::Conceal(us) => self.fill(samples_in_us(us), &state),
            change => self.play(at, change, &state),
        }
    }

    /// The next frame: the oldest that is here and was not played, be it repeated by a later packet.
    fn head(&self) -> Option<Head> {
        let front = self.buffer.front()?;
        let speech = &front.payload;
        // What lies before a pause is not repeated after it.
        let unheard = match self.player.sequence {
            _ if front.spurt => 0,
            Some(_) => front.timestamp - self.player.position,
            None => i64::MAX,
        };
        Some(match speech.oldest_within(unheard) {
            Some(older) => Head {
                sequence: front.sequence - older.back,
                timestamp: front.timestamp - older.offset,
                spurt: false,
                payload: older.payload.clone(),
                own: false,
            },
            None => Head {
                sequence: front.sequence,
                timestamp: front.timestamp,
                spurt: front.spurt,
                payload: speech.frame.clone(),
                own: true,
            },
        })
    }

    fn state(&self, at: Timestamp) -> PlayoutState {
        let player = &self.player;
        let head = self.head();
        let head = head.as_ref();
        let back = self.buffer.back();
        let target = self.buffer.target().as_micros();
        PlayoutState {
            playing: player.playing,
            gap_us: head.map(|head| ticks_us(head.timestamp - player.position)),
            pause: head.is_some_and(|h| h.spurt || player.sequence == Some(h.sequence - 1)),
            delay_us: head
                .and_then(|head| self.buffer.delay_us(at, head.timestamp))
                .unwrap_or(0),
            target_us: i64::try_from(target).unwrap_or(i64::MAX),
            block_us: ticks_us(self.block as i64),
            ready_us: ticks_us(self.ready.len() as i64),
            held_us: ticks_us(player.held as i64),
            level_us: back.map_or(0, |packet| {
                ticks_us(packet.timestamp - player.position + player.frame_len as i64)
            }),
        }
    }

    /// Ends a talk spurt softly: what was made up after it fades out.
    fn stop(&mut self) {
        self.conceal(PIECE);
        self.fade_out();
        self.emit();
        self.shifter.flush(&mut self.ready);
        self.player.playing = false;
        self.stats.level_dbfs = -200.0;
    }

    /// Begins a talk spurt with the oldest frame.
    fn start(&mut self, at: Timestamp, state: &PlayoutState) -> Pulled {
        self.player.playing = true;
        self.stats.delay_ms = heard_behind_ms(state, 0);
        self.stats.rate = 1.0;
        self.shifter.reset();
        self.decode_head(at);
        let ramp = self.frame.iter_mut().take(FADE).enumerate();
        ramp.for_each(|(i, x)| *x *= i as f32 / FADE as f32);
        // As much as the shifter holds back: else each frame would end just before a block does, and the next
        // one would have to be there a block earlier.
        let held_back = RateShifter::HELD_BACK;
        self.ready.extend(std::iter::repeat_n(0.0, held_back));
        self.emit();
        Pulled::Speech
    }

    /// Plays the oldest packet, stretched if that is not too often.
    fn play(&mut self, at: Timestamp, change: Decision, state: &PlayoutState) -> Pulled {
        self.decode_head(at);
        self.stats.delay_ms = heard_behind_ms(state, 0);
        self.keep_pace(state);
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

    /// Moves the frames within the blocks. Where several begin in one block, the slowest pace suits them all.
    fn keep_pace(&mut self, state: &PlayoutState) {
        if !self.config.drift_correction {
            return;
        }
        self.pace = self.pace.min(pace(state, self.sure_drift_ppm()));
        let change = (self.pace - self.stats.rate).clamp(-PACE_STEP, PACE_STEP);
        self.stats.rate += change;
    }

    /// Decodes the oldest frame; what is no speech after all is made up.
    fn decode_head(&mut self, at: Timestamp) {
        let Some(head) = self.head() else {
            return self.frame.clear();
        };
        if head.own {
            self.buffer.pop_at(at);
            self.learn_loss(head.sequence);
        } else {
            self.stats.recovered += 1;
        }
        let follows = self.player.sequence == Some(head.sequence - 1);
        // What was made up before a pause of the speaker stood for nothing.
        let pause = head.spurt || (follows && head.timestamp > self.player.position);
        if !pause {
            self.count_concealed(self.player.held);
        }
        self.frame.resize(MAX_FRAME, 0.0);
        match self.decoder.decode(&head.payload, &mut self.frame) {
            Ok(len) => {
                self.frame.truncate(len);
                self.guard.check(&mut self.frame);
                self.noise.hear(&self.frame);
                self.stats.level_dbfs = level_dbfs(&self.frame);
            }
            Err(_) => {
                self.stats.malformed += 1;
                let len = self.player.frame_len.max(PIECE);
                self.conceal(len);
                self.count_concealed(len);
            }
        }
        self.player.sequence = Some(head.sequence);
        self.player.position = head.timestamp + self.frame.len() as i64;
        self.player.frame_len = self.frame.len();
        self.player.held = 0;
    }

    /// Fills a part of a hole of `missing` samples beyond what was made up already. The frame just
    /// before the next one may be in that one's own redundancy; all else is made up.
    fn fill(&mut self, missing: usize, state: &PlayoutState) -> Pulled {
        self.player.position += self.player.held as i64;
        self.count_concealed(self.player.held);
        self.player.held = 0;
        let frame_len = self.player.frame_len.max(PIECE);
        let next = self.head().map(|head| head.payload);
        let next = next.filter(|_| missing == frame_len);
        let last = next.as_ref().map(|next| self.decoder.last_in(next));
        self.frame.resize(frame_len, 0.0);
        let recovered = last == Some(LastFrame::Carried)
            && next.is_some_and(|next| self.decoder.recover(&next, &mut self.frame).is_ok());
        let len = match recovered {
            true => frame_len,
            false if missing > frame_len => frame_len.min(missing - frame_len),
            false => missing,
        };
        if recovered {
            self.stats.recovered += 1;
            self.stats.delay_ms = heard_behind_ms(state, missing);
            self.guard.lost();
            self.guard.check(&mut self.frame);
        } else {
            self.conceal(len);
            if last == Some(LastFrame::LeftOut) && self.depth.packets > 0 {
                self.quiet += len as u64;
            } else {
                self.count_concealed(len);
            }
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

    /// Hands the frame on, at the sender's pace.
    fn emit(&mut self) {
        let rate = self.stats.rate;
        self.shifter.process(&self.frame, rate, &mut self.ready);
    }

    fn be_silent(&mut self, len: usize) {
        if self.config.comfort_noise {
            self.noise.make(len, &mut self.ready);
        } else {
            self.ready.extend(std::iter::repeat_n(0.0, len));
        }
    }

    fn count_concealed(&mut self, samples: usize) {
        self.concealed += samples as u64;
    }

    /// Follows the share of packets that were not there when their turn came.
    fn learn_loss(&mut self, sequence: i64) {
        let last = self.player.came.replace(sequence).unwrap_or(sequence - 1);
        let missing = (sequence - last - 1).clamp(0, 64);
        for _ in 0..missing {
            self.loss += (1.0 - self.loss) / 64.0;
        }
        self.loss -= self.loss / 64.0;
    }

    /// When what was said at RTP `timestamp` was captured, on the sender's wall clock; `None` before
    /// its first report.
    pub fn capture_time(&self, timestamp: u32) -> Option<NtpTime> {
        self.drift.ntp_of(timestamp)
    }

    /// Whether speech is being played.
    pub fn is_active(&self) -> bool {
        self.player.playing
    }

    /// The figures at `now`.
    pub fn stats(&self, _now: Timestamp) -> VoiceStats {
        let buffer = self.buffer.stats();
        VoiceStats {
            packets: buffer.packets + self.stats.malformed,
            lost: buffer.lost,
            late: buffer.late,
            duplicates: buffer.duplicates,
            displaced: buffer.displaced,
            concealed: self.concealed / PIECE as u64,
            quiet: self.quiet / PIECE as u64,
            jitter_ms: buffer.jitter_ms,
            target_ms: self.buffer.target().as_secs_f32() * 1000.0,
            loss: self.loss,
            frame_ms: samples_duration(self.player.frame_len).as_secs_f32() * 1000.0,
            drift: self.estimate.map(|estimate| estimate.drift),
            active: self.player.playing,
            ..self.stats
        }
    }
}

/// By how much what lies so many samples before the oldest packet is heard behind the fastest one, in milliseconds.
fn heard_behind_ms(state: &PlayoutState, before: usize) -> f32 {
    (state.delay_us + state.ready_us + ticks_us(before as i64)) as f32 / 1000.0
}

fn samples_duration(samples: usize) -> Duration {
    AudioFormat::VOICE.duration_of(samples)
}

/// Rounded up, so that the ticks that [`ticks_us`] rounded down are all there again.
fn samples_in_us(us: i64) -> usize {
    let samples = i128::from(us.max(0)) * i128::from(SAMPLE_RATE_HZ);
    usize::try_from((samples + 999_999) / 1_000_000).unwrap_or(usize::MAX)
}

fn ticks_us(ticks: i64) -> i64 {
    let us = i128::from(ticks) * 1_000_000 / i128::from(SAMPLE_RATE_HZ);
    i64::try_from(us).unwrap_or(i64::MAX)
}
