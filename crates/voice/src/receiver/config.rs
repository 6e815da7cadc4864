//! How a voice is received, and what is seen of it.

use std::time::Duration;

use roundtable_sync::{JitterConfig, PpmEstimate};

/// How to receive a voice.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VoiceReceiverConfig {
    /// See [`with_jitter`](Self::with_jitter).
    pub jitter: JitterConfig,
    /// See [`with_comfort_noise`](Self::with_comfort_noise).
    pub comfort_noise: bool,
    /// See [`with_drift_correction`](Self::with_drift_correction).
    pub drift_correction: bool,
}

impl Default for VoiceReceiverConfig {
    fn default() -> Self {
        Self {
            jitter: JitterConfig::voice(),
            comfort_noise: true,
            drift_correction: true,
        }
    }
}

impl VoiceReceiverConfig {
    /// As soon as possible: the buffer goes down to 2 ms and begins with 20. On a network that jitters it
    /// is as long as it must be.
    pub fn low_latency() -> Self {
        let ms = Duration::from_millis;
        let jitter = JitterConfig::voice().with_delay(ms(2), ms(120));
        Self::default().with_jitter(jitter.with_start_delay(ms(20)))
    }

    /// The jitter buffer's settings. Default [`JitterConfig::voice`]: 5 to 120 ms.
    #[must_use]
    pub fn with_jitter(mut self, jitter: JitterConfig) -> Self {
        self.jitter = jitter;
        self
    }

    /// Whether the voice's own background is imitated while it is silent, for up to 7 s, at most at -50 dB of
    /// full scale. Default on. Off gives digital silence.
    #[must_use]
    pub fn with_comfort_noise(mut self, comfort_noise: bool) -> Self {
        self.comfort_noise = comfort_noise;
        self
    }

    /// Whether the voice may be played a hair faster or slower, by 0.5 % at most: so a sender whose clock is off stays in time,
    /// and no frame waits longer for its block than it must. Default on. Off leaves both to
    /// [`stretched`](VoiceStats::stretched) frames.
    #[must_use]
    pub fn with_drift_correction(mut self, drift_correction: bool) -> Self {
        self.drift_correction = drift_correction;
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

/// What a [`VoiceReceiver`](crate::VoiceReceiver) has seen. Counters wrap at 2^64.
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
    /// Lost packets that the redundancy of later ones made good.
    pub recovered: u64,
    /// Frames of 10 ms that were made up in the midst of speech.
    pub concealed: u64,
    /// Frames of 10 ms that were made up where nothing was said: the sender's codec repeats frames (in-band FEC) and left
    /// these out, as it does with those in which it hears no voice.
    pub quiet: u64,
    /// Frames that were shortened or lengthened to change the delay.
    pub stretched: u64,
    /// Interarrival jitter (RFC 3550 §6.4.1) in milliseconds.
    pub jitter_ms: f32,
    /// By how much the last frame was played behind the fastest packet, in milliseconds.
    pub delay_ms: f32,
    /// By how much frames should be, in milliseconds.
    pub target_ms: f32,
    /// The share of packets that were not there when their turn came, of the last few seconds, 0 to 1;
    /// redundancy may have made them good.
    pub loss: f32,
    /// Payload bytes that came, without headers.
    pub bytes: u64,
    /// How much faster the sender's clock runs than ours; `None` before that is known.
    pub drift: Option<PpmEstimate>,
    /// How many times as fast as nominal the voice is played at the moment, 0.995 to 1.005.
    pub rate: f64,
    /// How loud the last frame was, in dB of full scale, root mean square; -200 for silence.
    pub level_dbfs: f32,
    /// How long a frame is, by the last one, in milliseconds.
    pub frame_ms: f32,
    /// Whether speech is being played.
    pub active: bool,
}
