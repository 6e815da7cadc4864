//! From the microphone to packets: voice activity, Opus, RTP numbering.

use std::{collections::VecDeque, time::Duration};

use bytes::{BufMut, BytesMut};
use roundtable_core::{MediaClock, MediaPacket, NtpTime, Timestamp, WallTime};
use roundtable_media_codec::{AudioEncoder, AudioFormat, OpusConfig, OpusEncoder};

use crate::{
    SAMPLE_RATE_HZ, Vad, VadConfig, VoiceConfigError,
    frames::{Framer, SpeechFrame},
    vad::level_dbfs,
};

/// What a packet has room for, in bytes.
const MAX_PACKET_LEN: usize = 1100;
/// How often the sender's clock is reported while it speaks (RFC 3550 §6.2 minimum).
const CLOCK_INTERVAL: Duration = Duration::from_secs(5);
/// Memory for packets is taken in pieces of this many bytes.
const ARENA: usize = 16 * 1024;
/// Samples over which a talk spurt is faded in: 5 ms.
const FADE_IN: usize = 240;

/// What decides that speech is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Voice activity.
    #[default]
    Voice,
    /// Nothing: everything is sent while not muted. For music and push-to-talk.
    Always,
}

/// How to send a voice.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VoiceSenderConfig {
    /// See [`with_opus`](Self::with_opus).
    pub opus: OpusConfig,
    /// See [`with_vad`](Self::with_vad).
    pub vad: VadConfig,
    /// See [`with_activation`](Self::with_activation).
    pub activation: Activation,
    /// See [`with_preroll`](Self::with_preroll).
    pub preroll: usize,
    /// See [`with_rtp_start`](Self::with_rtp_start).
    pub first_sequence: u16,
    /// See [`with_rtp_start`](Self::with_rtp_start).
    pub first_timestamp: u32,
}

impl Default for VoiceSenderConfig {
    fn default() -> Self {
        Self {
            opus: OpusConfig::default(),
            vad: VadConfig::default(),
            activation: Activation::Voice,
            preroll: 3,
            first_sequence: 0,
            first_timestamp: 0,
        }
    }
}

impl VoiceSenderConfig {
    /// The codec's settings. Default 32 kbit/s in 20 ms frames; 48 kHz mono is required.
    #[must_use]
    pub fn with_opus(mut self, opus: OpusConfig) -> Self {
        self.opus = opus;
        self
    }

    /// The voice activity detector's settings.
    #[must_use]
    pub fn with_vad(mut self, vad: VadConfig) -> Self {
        self.vad = vad;
        self
    }

    /// What decides that speech is sent. Default [`Activation::Voice`].
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// How many frames from before voice was detected are sent with it, so that no word loses its
    /// beginning. Default 3; 0 to 10. The listener catches up with them within a few hundred
    /// milliseconds.
    #[must_use]
    pub fn with_preroll(mut self, frames: usize) -> Self {
        self.preroll = frames;
        self
    }

    /// Where RTP numbers begin; should be random (RFC 3550 §5.1). Default 0 and 0.
    #[must_use]
    pub fn with_rtp_start(mut self, sequence: u16, timestamp: u32) -> Self {
        self.first_sequence = sequence;
        self.first_timestamp = timestamp;
        self
    }
}

/// What a [`VoiceSender`] gives to a link's Voice channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoiceOut {
    /// A packet of speech.
    Packet(MediaPacket),
    /// The sender's clock: before the first packet, then every 5 s of speech.
    Clock(MediaClock),
}

/// Turns captured speech into packets. While nobody speaks, nothing comes out.
pub struct VoiceSender {
    config: VoiceSenderConfig,
    encoder: OpusEncoder,
    vad: Vad,
    framer: Framer,
    /// The newest frames that were not sent.
    preroll: VecDeque<SpeechFrame>,
    arena: BytesMut,
    sequence: u16,
    reported: Option<WallTime>,
    speaking: bool,
    muted: bool,
}

impl VoiceSender {
    /// A sender that has heard nothing.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names what is out of range.
    pub fn new(config: VoiceSenderConfig) -> Result<Self, VoiceConfigError> {
        if config.opus.format != AudioFormat::VOICE {
            return Err(VoiceConfigError::Format);
        }
        if config.preroll > 10 {
            return Err(VoiceConfigError::Preroll);
        }
        let encoder = OpusEncoder::new(&config.opus)?;
        Ok(Self {
            vad: Vad::new(config.vad)?,
            framer: Framer::new(encoder.frame_len(), config.first_timestamp),
            preroll: VecDeque::with_capacity(config.preroll + 1),
            arena: BytesMut::new(),
            sequence: config.first_sequence,
            reported: None,
            speaking: false,
            muted: false,
            encoder,
            config,
        })
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
        self.framer.align(capture);
        let (mut samples, mut wall) = (samples, wall);
        while let Some(frame) = self.framer.take(&mut samples, &mut wall) {
            self.push_frame(frame, out);
        }
    }

    fn push_frame(&mut self, frame: SpeechFrame, out: &mut Vec<VoiceOut>) {
        if self.muted {
            return self.framer.recycle(frame);
        }
        let voice = match self.config.activation {
            Activation::Voice => self.vad.push(&frame.samples),
            Activation::Always => true,
        };
        match (self.speaking, voice) {
            (false, false) => return self.keep(frame),
            (true, true) => self.send(frame, false, out),
            (true, false) => self.end_spurt(frame, out),
            (false, true) => self.begin_spurt(frame, out),
        }
        self.speaking = voice;
    }

    /// Keeps a silent frame, in case it turns out to be the beginning of a word.
    fn keep(&mut self, frame: SpeechFrame) {
        self.preroll.push_back(frame);
        if self.preroll.len() > self.config.preroll
            && let Some(oldest) = self.preroll.pop_front()
        {
            self.framer.recycle(oldest);
        }
    }

    fn begin_spurt(&mut self, frame: SpeechFrame, out: &mut Vec<VoiceOut>) {
        self.preroll.push_back(frame);
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
        self.report(&frame, out);
        if self.arena.capacity() < MAX_PACKET_LEN {
            self.arena.reserve(ARENA);
        }
        self.arena.put_bytes(0, MAX_PACKET_LEN);
        // A frame of the right length into a buffer of the right size always encodes; were libopus to
        // fail, the listener would conceal one frame.
        let encoded = self.encoder.encode(&frame.samples, &mut self.arena);
        let len = encoded.unwrap_or(0);
        let payload = self.arena.split_to(len).freeze();
        self.arena.clear();
        if len > 0 {
            out.push(VoiceOut::Packet(MediaPacket {
                sequence: self.sequence,
                timestamp: frame.timestamp,
                marker,
                codec: self.encoder.codec(),
                payload,
            }));
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.framer.recycle(frame);
    }

    fn report(&mut self, frame: &SpeechFrame, out: &mut Vec<VoiceOut>) {
        let interval = u64::try_from(CLOCK_INTERVAL.as_micros()).unwrap_or(u64::MAX);
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
        if muted && !self.muted {
            while let Some(frame) = self.preroll.pop_front() {
                self.framer.recycle(frame);
            }
            self.vad.reset();
            self.speaking = false;
        }
        self.muted = muted;
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

    /// Prepares packets for the share of loss (0 to 1) that listeners report. At 0 no bits go into
    /// redundancy.
    pub fn set_expected_loss(&mut self, loss: f32) {
        self.encoder.set_expected_loss(loss);
    }

    /// Aims at another bit rate.
    ///
    /// # Errors
    /// [`VoiceConfigError::Codec`] outside 6 to 510 kbit/s.
    pub fn set_bitrate(
        &mut self,
        bitrate: roundtable_core::Bitrate,
    ) -> Result<(), VoiceConfigError> {
        Ok(self.encoder.set_bitrate(bitrate)?)
    }
}

const _: () = assert!(SAMPLE_RATE_HZ == AudioFormat::VOICE.sample_rate_hz);
