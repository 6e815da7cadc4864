#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod arena;
mod comfort;
#[cfg(feature = "device")]
mod device;
mod diagnostics;
mod flood;
mod frames;
mod guard;
mod loss;
mod mixer;
#[cfg(feature = "processing")]
mod processing;
mod receiver;
mod redundancy;
mod resample;
mod sender;
mod spatial;
mod stretch;
mod vad;

#[cfg(feature = "device")]
pub use device::{
    AudioDevices, Capture, DEVICE_PERIOD, DeviceError, DeviceInfo, DeviceList, DeviceState,
    Direction, Playback,
};
pub use diagnostics::{LatencyBreakdown, SpeakerDiagnostics, VoiceDiagnostics};
pub use flood::FloodGuard;
pub use loss::LossEstimate;
pub use mixer::{Gain, Mixer};
#[cfg(feature = "processing")]
pub use processing::{NoiseReduction, ProcessingConfig};
pub use receiver::{Pulled, VoiceReceiver, VoiceReceiverConfig, VoiceStats};
pub use resample::{ResampleError, Resampler, resample};
pub use sender::{Activation, VoiceOut, VoiceSender, VoiceSenderConfig, VoiceSenderStats};
pub use spatial::{Listener, Placement, Position, SpatialConfig};
pub use vad::{Gate, Vad, VadConfig, VadKind, level_dbfs};

use roundtable_media_codec::CodecConfigError;
use roundtable_sync::JitterConfigError;

/// Samples a second of all voice.
pub const SAMPLE_RATE_HZ: u32 = 48_000;

/// Why a voice was not set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoiceConfigError {
    /// The codec's settings.
    #[error(transparent)]
    Codec(#[from] CodecConfigError),
    /// The jitter buffer's settings.
    #[error(transparent)]
    Jitter(#[from] JitterConfigError),
    /// Another format than the one that all voices share.
    #[error("a voice has one channel at 48 kHz: mix down and resample first")]
    Format,
    /// The threshold is not a score.
    #[error("the threshold of voice activity lies between 0 and 1")]
    Threshold,
    /// More than ten frames.
    #[error("at most 10 frames of preroll are kept")]
    Preroll,
    /// Shorter than 100 ms, or longer than a minute.
    #[error("the sender's clock is reported every 100 ms to 60 s")]
    ReportInterval,
    /// More than two frames.
    #[error("a packet repeats at most 2 frames")]
    Redundancy,
}
