//! From the microphone to packets: voice activity, Opus, RTP numbering.

mod config;

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};
use roundtable_core::{Bitrate, MediaClock, MediaCodec, MediaPacket, NtpTime, Timestamp, WallTime};
use roundtable_media_codec::{AudioEncoder, AudioFormat, OpusEncoder};

#[cfg(feature = "processing")]
use crate::processing::Processor;
use crate::{
    SAMPLE_RATE_HZ, Vad, VoiceConfigError,
    arena::Arena,
    frames::{Framer, SpeechFrame},
    redundancy::{Protection, Repeats},
    vad::level_dbfs,
};

pub use config::{Activation, VoiceSenderConfig, VoiceSenderStats};

/// What a packet has room for, in bytes.
const MAX_PACKET_LEN: usize = 1100;
/// Samples in the longest frame: 60 ms.
const MAX_FRAME_LEN: usize = 2880;
/// What the codec makes of a frame that need not be sent, in bytes at most (discontinuous transmission).
const UNSENT_LEN: usize = 2;
/// Samples over which a talk spurt is faded in: 5 ms.
const FADE_IN: usize = 240;

/// What a [`VoiceSender`] gives to a link's Voice channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoiceOut {
    /// A packet of speech.
    Packet(MediaPacket),
    /// The sender's clock: before the first packet, then at intervals while it speaks
    /// ([`with_report_interval`](VoiceSenderConfig::with_report_interval)).
    Clock(MediaClock),
}

/// Turns captured speech into packets. While nobody speaks, nothing comes out.
pub struct VoiceSender {
    config: VoiceSenderConfig,
    encoder: OpusEncoder,
    #[cfg(feature = "processing")]
    processor: Option<Processor>,
    vad: Vad,
    framer: Framer,
    /// The newest frames that were not sent.
    preroll: VecDeque<SpeechFrame>,
    /// The frame that was captured last, for a codec that begins anew.
    last: Vec<f32>,
    repeats: Repeats,
    protection: Protection,
    fec_needed: bool,
    arena: Arena,
    sequence: u16,
    reported: Option<WallTime>,
    speaking: bool,
    /// The codec's discontinuous transmission left out the last frame.
    left_out: bool,
    talking: bool,
    muted: bool,
    stats: VoiceSenderStats,
}

impl VoiceSender {
    /// A sender that has heard nothing.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names what is out of range.
    pub fn new(config: VoiceSenderConfig) -> Result<Self, VoiceConfigError> {
        config.validate()?;
        let encoder = OpusEncoder::new(&config.opus)?;
        let mut this = Self {
            #[cfg(feature = "processing")]
            processor: config.processing.map(Processor::new),
            vad: Vad::new(config.vad)?,
            framer: Framer::new(encoder.frame_len(), config.first_timestamp),
            preroll: VecDeque::with_capacity(config.preroll + 1),
            last: Vec::with_capacity(MAX_FRAME_LEN),
            repeats: Repeats::new(),
            protection: Protection::default(),
            fec_needed: false,
            arena: Arena::new(),
            sequence: config.first_sequence,
            reported: None,
            speaking: false,
            left_out: false,
            talking: false,
            muted: false,
            stats: VoiceSenderStats::default(),
            encoder,
            config,
        };
        this.set_expected_loss(this.config.opus.expected_loss);
        Ok(this)
    }

    /// Goes on with other settings, in the midst of a word if need be: nothing that was captured is lost,
    /// and a listener hears nothing but the change itself. RTP numbers go on; where they begin is of no
    /// account here. The expected loss goes on too.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names what is out of range; the old settings then stay.
    pub fn reconfigure(&mut self, config: VoiceSenderConfig) -> Result<(), VoiceConfigError> {
        config.validate()?;
        let mut opus = config.opus.clone();
        opus.expected_loss = self.encoder.config().expected_loss;
        self.encoder.reconfigure(&opus, &self.last)?;
        if config.vad != self.config.vad {
            self.vad.reconfigure(config.vad)?;
        }
        if self.encoder.frame_len() != self.framer.frame_len() {
            self.framer.set_len(self.encoder.frame_len());
            self.forget_preroll();
        }
        #[cfg(feature = "processing")]
        if config.processing != self.processor.as_ref().map(Processor::config) {
            self.processor = config.processing.map(Processor::new);
        }
        self.config = config;
        self.set_expected_loss(self.stats.expected_loss);
        Ok(())
    }

    fn forget_preroll(&mut self) {
        while let Some(frame) = self.preroll.pop_front() {
            self.framer.recycle(frame);
        }
    }

    /// Takes captured samples, 48 kHz mono in [-1, 1], any number of them, and appends what is to be
    /// sent to `out`. `capture` and `wall` are the monotonic and the wall-clock time of the first
    /// sample. At most one frame less a sample is held back.
    pub fn push(
        &mut self,
        capture: Timestamp,
        wall: WallTime,
        samples: &[f32],
        out: &mut Vec<VoiceOut>,
    ) {
        if self.framer.align(capture) {
            // What comes after the hole begins anew: nothing from before it goes out with it.
            self.forget_preroll();
            self.speaking = false;
        }
        let (mut samples, mut wall) = (samples, wall);
        while let Some(frame) = self.framer.take(&mut samples, &mut wall) {
            self.push_frame(frame, out);
        }
    }

    /// Notes what the speakers play, 48 kHz mono, any number of samples, so that its echo can be taken out of
    /// what is captured. Half a second may wait for the next capture; the oldest goes.
    #[cfg(feature = "processing")]
    pub fn hear_far_end(&mut self, played: &[f32]) {
        if let Some(processor) = &mut self.processor {
            processor.hear_far_end(played);
        }
    }

    #[cfg_attr(not(feature = "processing"), allow(unused_mut))]
    fn push_frame(&mut self, mut frame: SpeechFrame, out: &mut Vec<VoiceOut>) {
        #[cfg(feature = "processing")]
        if let Some(processor) = &mut self.processor {
            processor.process(&mut frame.samples);
        }
        self.stats.level_dbfs = level_dbfs(&frame.samples);
        self.last.clear();
        if self.muted {
            return self.framer.recycle(frame);
        }
        self.last.extend_from_slice(&frame.samples);
        let voice = match self.config.activation {
            Activation::Voice => self.vad.push(&frame.samples),
            Activation::Always => true,
            Activation::PushToTalk => self.talking,
        };
        match (self.speaking, voice) {
            (false, false) => return self.keep(frame),
            (true, true) => self.send(frame, false, out),
            (true, false) => self.end_spurt(frame, out),
            (false, true) => self.begin_spurt(frame, out),
        }
        self.speaking = voice;
    }

    /// Keeps a silent frame, in case it turns out to be the beginning of a word. Who pushes a button to
    /// talk has not said anything before.
    fn keep(&mut self, frame: SpeechFrame) {
        self.preroll.push_back(frame);
        let kept = match self.config.activation {
            Activation::PushToTalk => 0,
            Activation::Voice | Activation::Always => self.config.preroll,
        };
        while self.preroll.len() > kept
            && let Some(oldest) = self.preroll.pop_front()
        {
            self.framer.recycle(oldest);
        }
    }

    fn begin_spurt(&mut self, frame: SpeechFrame, out: &mut Vec<VoiceOut>) {
        self.preroll.push_back(frame);
        self.repeats.clear();
        let mut first = true;
        while let Some(mut frame) = self.preroll.pop_front() {
            let silent = level_dbfs(&frame.samples) < self.config.vad.floor_dbfs;
            if first && silent && !self.preroll.is_empty() {
                self.framer.recycle(frame);
                continue;
            }
            if first {
                let ramp = frame.samples.iter_mut().take(FADE_IN).enumerate();
                ramp.for_each(|(i, x)| *x *= i as f32 / FADE_IN as f32);
            }
            self.send(frame, first, out);
            first = false;
        }
    }

    /// The last frame fades out, so that the listener's ear meets no edge.
    fn end_spurt(&mut self, mut frame: SpeechFrame, out: &mut Vec<VoiceOut>) {
        let len = frame.samples.len() as f32;
        let ramp = frame.samples.iter_mut().enumerate();
        ramp.for_each(|(i, x)| *x *= 1.0 - i as f32 / len);
        self.send(frame, false, out);
    }

    fn send(&mut self, frame: SpeechFrame, marker: bool, out: &mut Vec<VoiceOut>) {
        let buffer = self.arena.buffer(MAX_PACKET_LEN);
        buffer.put_bytes(0, MAX_PACKET_LEN);
        // A frame of the right length into a buffer of the right size always encodes; were libopus to
        // fail, the listener would conceal one frame.
        let encoded = self.encoder.encode(&frame.samples, buffer);
        let own = buffer.split_to(encoded.unwrap_or(0)).freeze();
        if self.config.opus.dtx && (1..=UNSENT_LEN).contains(&own.len()) {
            // No number is spent: to the listener this is a pause of the speaker, not a loss.
            self.left_out = true;
            return self.framer.recycle(frame);
        }
        self.report(&frame, out);
        let resumed = std::mem::take(&mut self.left_out);
        if resumed {
            self.repeats.clear();
        }
        if !own.is_empty() {
            let (codec, payload) = self.protect(frame.timestamp, own);
            self.stats.packets = self.stats.packets.wrapping_add(1);
            self.stats.bytes = self.stats.bytes.wrapping_add(payload.len() as u64);
            out.push(VoiceOut::Packet(MediaPacket {
                sequence: self.sequence,
                timestamp: frame.timestamp,
                marker: marker || resumed,
                codec,
                payload,
            }));
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.framer.recycle(frame);
    }

    /// Adds what the packet should repeat to its own frame.
    fn protect(&mut self, timestamp: u32, own: Bytes) -> (MediaCodec, Bytes) {
        let depth = self.protection.depth;
        let buffer = self.arena.buffer(MAX_PACKET_LEN);
        let wrapped = depth > 0
            && self
                .repeats
                .wrap(timestamp, &own, depth, MAX_PACKET_LEN, buffer);
        self.repeats.remember(timestamp, own.clone());
        if wrapped {
            (MediaCodec::OpusRed, buffer.split().freeze())
        } else {
            (MediaCodec::Opus, own)
        }
    }

    fn report(&mut self, frame: &SpeechFrame, out: &mut Vec<VoiceOut>) {
        let interval = u64::try_from(self.config.report_interval.as_micros()).unwrap_or(u64::MAX);
        let since = |last: WallTime| frame.wall.as_micros().abs_diff(last.as_micros());
        if self.reported.is_none_or(|last| since(last) >= interval) {
            self.reported = Some(frame.wall);
            out.push(VoiceOut::Clock(MediaClock {
                ntp: NtpTime::from(frame.wall),
                timestamp: frame.timestamp,
            }));
        }
    }

    /// Mutes or unmutes. From the next sample on nothing is sent, and nothing said while muted is
    /// ever sent.
    pub fn mute(&mut self, muted: bool) {
        if muted == self.muted {
            return;
        }
        // The unfinished frame would carry what was said while muted into the first one after.
        self.framer.forget();
        #[cfg(feature = "processing")]
        if let Some(processor) = self.processor.as_mut().filter(|_| !muted) {
            // So would its filters, by a few milliseconds.
            processor.process(&mut [0.0; FADE_IN * 2]);
        }
        if muted {
            self.forget_preroll();
            self.vad.reset();
            self.speaking = false;
        }
        self.muted = muted;
    }

    /// Begins or ends talking, for [`Activation::PushToTalk`]: takes effect with the next frame.
    pub fn talk(&mut self, talking: bool) {
        self.talking = talking;
    }

    /// Whether muted.
    pub fn is_muted(&self) -> bool {
        self.muted
    }

    /// Whether speech is being sent.
    pub fn speaking(&self) -> bool {
        self.speaking
    }

    /// Samples in one packet.
    pub fn frame_len(&self) -> usize {
        self.encoder.frame_len()
    }

    /// Prepares packets for the share of loss (0 to 1) that listeners report: see
    /// [`with_redundancy`](VoiceSenderConfig::with_redundancy). Below 0.5 % no bits go into redundancy.
    pub fn set_expected_loss(&mut self, loss: f32) {
        let loss = if loss.is_nan() {
            0.0
        } else {
            loss.clamp(0.0, 1.0)
        };
        self.stats.expected_loss = loss;
        self.protection = self
            .protection
            .at(loss, self.config.redundancy, self.fec_needed);
        let codec_loss = if self.protection.fec { loss } else { 0.0 };
        self.encoder.set_expected_loss(codec_loss);
    }

    /// Whether some listener takes no repeated frames, so that under loss the codec's own redundancy is
    /// wanted besides. Default not. Takes effect with the next expected loss.
    pub fn set_fec_needed(&mut self, needed: bool) {
        self.fec_needed = needed;
    }

    /// What was sent, and how.
    pub fn stats(&self) -> VoiceSenderStats {
        VoiceSenderStats {
            bitrate: self.encoder.config().bitrate,
            redundancy: self.protection.depth,
            fec: self.protection.fec && self.config.opus.fec,
            speaking: self.speaking,
            muted: self.muted,
            ..self.stats
        }
    }

    /// Aims at another bit rate.
    ///
    /// # Errors
    /// [`VoiceConfigError::Codec`] outside 6 to 510 kbit/s.
    pub fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), VoiceConfigError> {
        self.encoder.set_bitrate(bitrate)?;
        self.config.opus.bitrate = bitrate;
        Ok(())
    }
}

const _: () = assert!(SAMPLE_RATE_HZ == AudioFormat::VOICE.sample_rate_hz);
