//! How a voice is sent, and what was.

use std::time::Duration;

use roundtable_core::Bitrate;
use roundtable_media_codec::{AudioFormat, OpusConfig};

#[cfg(feature = "processing")]
use crate::ProcessingConfig;
use crate::{VadConfig, VoiceConfigError, redundancy::MAX_DEPTH};

/// What decides that speech is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Voice activity.
    #[default]
    Voice,
    /// Nothing: everything is sent while not muted. For music.
    Always,
    /// The user, by [`VoiceSender::talk`](crate::VoiceSender::talk).
    PushToTalk,
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
    /// See [`with_redundancy`](Self::with_redundancy).
    pub redundancy: usize,
    /// See [`with_report_interval`](Self::with_report_interval).
    pub report_interval: Duration,
    /// See [`with_processing`](Self::with_processing).
    #[cfg(feature = "processing")]
    pub processing: Option<ProcessingConfig>,
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
            redundancy: 2,
            report_interval: Duration::from_secs(5),
            #[cfg(feature = "processing")]
            processing: None,
            first_sequence: 0,
            first_timestamp: 0,
        }
    }
}

impl VoiceSenderConfig {
    /// As soon as possible: see [`OpusConfig::low_latency`]; and no preroll, which a listener has to catch up with.
    pub fn low_latency() -> Self {
        Self::default()
            .with_opus(OpusConfig::low_latency())
            .with_preroll(0)
    }

    /// For thin lines: see [`OpusConfig::low_bandwidth`]; one frame is repeated at most.
    pub fn low_bandwidth() -> Self {
        Self::default()
            .with_opus(OpusConfig::low_bandwidth())
            .with_preroll(1)
            .with_redundancy(1)
    }

    /// For instruments: see [`OpusConfig::music`]; everything is sent, voice or not.
    pub fn music() -> Self {
        Self::default()
            .with_opus(OpusConfig::music())
            .with_activation(Activation::Always)
    }

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
    /// beginning. Default 3; 0 to 10. The listener catches up with most of them within half a
    /// second; where the word begins with a hiss, in which nothing can be cut out unheard, by 5 ms a second until a vowel comes.
    #[must_use]
    pub fn with_preroll(mut self, frames: usize) -> Self {
        self.preroll = frames;
        self
    }

    /// How many frames a packet may repeat while listeners report loss (RFC 2198). Default 2; 0 to 2. One is repeated from 1 %
    /// of loss on, two from 8 %; each adds the codec's bit rate once more, and one frame of delay at the listener. With
    /// 0, the codec's own redundancy serves instead: it costs quality rather than bit rate.
    #[must_use]
    pub fn with_redundancy(mut self, frames: usize) -> Self {
        self.redundancy = frames;
        self
    }

    /// How often the sender's clock is reported while it speaks. Default 5 s (RFC 3550 §6.2); 100 ms to 60 s. A report takes
    /// some 80 bytes on the wire; more of them tell drift and lip-sync sooner.
    #[must_use]
    pub fn with_report_interval(mut self, interval: Duration) -> Self {
        self.report_interval = interval;
        self
    }

    /// What is done to captured sound before anything else. Default nothing. Echo cancellation needs to
    /// hear what is played: see [`VoiceSender::hear_far_end`](crate::VoiceSender::hear_far_end).
    #[cfg(feature = "processing")]
    #[must_use]
    pub fn with_processing(mut self, processing: Option<ProcessingConfig>) -> Self {
        self.processing = processing;
        self
    }

    /// Where RTP numbers begin; should be random (RFC 3550 §5.1). Default 0 and 0.
    #[must_use]
    pub fn with_rtp_start(mut self, sequence: u16, timestamp: u32) -> Self {
        self.first_sequence = sequence;
        self.first_timestamp = timestamp;
        self
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), VoiceConfigError> {
        if self.opus.format != AudioFormat::VOICE {
            return Err(VoiceConfigError::Format);
        }
        if self.preroll > 10 {
            return Err(VoiceConfigError::Preroll);
        }
        if self.redundancy > MAX_DEPTH {
            return Err(VoiceConfigError::Redundancy);
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.report_interval) {
            return Err(VoiceConfigError::ReportInterval);
        }
        self.vad.validate()?;
        Ok(self.opus.validate()?)
    }
}

/// What a [`VoiceSender`](crate::VoiceSender) has done. Counters wrap at 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct VoiceSenderStats {
    /// Packets sent.
    pub packets: u64,
    /// Bytes of payload in them, without headers.
    pub bytes: u64,
    /// Level of the last captured frame in dB of full scale, root mean square; -200 for silence.
    pub level_dbfs: f32,
    /// What the codec aims at, without redundancy.
    pub bitrate: Bitrate,
    /// The share of loss that packets are prepared for, 0 to 1.
    pub expected_loss: f32,
    /// Frames that each packet repeats.
    pub redundancy: usize,
    /// Whether the codec's own redundancy is on.
    pub fec: bool,
    /// Whether speech is being sent.
    pub speaking: bool,
    /// Whether muted.
    pub muted: bool,
}
