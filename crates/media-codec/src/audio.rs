//! What audio is, and what a codec does to it.

use std::{sync::Arc, time::Duration};

use roundtable_core::{Bitrate, MediaCodec, Timestamp};

/// How samples are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AudioFormat {
    /// Samples a second and channel, in Hz.
    pub sample_rate_hz: u32,
    /// Interleaved channels, 1 or 2.
    pub channels: u8,
}

impl AudioFormat {
    /// What every voice in Roundtable is in: 48 kHz, one channel.
    pub const VOICE: Self = Self {
        sample_rate_hz: 48_000,
        channels: 1,
    };

    /// Samples per channel in `duration`, rounded down.
    pub const fn samples_in(self, duration: Duration) -> usize {
        let samples = duration.as_micros() * self.sample_rate_hz as u128 / 1_000_000;
        #[allow(clippy::cast_possible_truncation)] // audio that fills an address space is not held
        {
            samples as usize
        }
    }

    /// How long `samples` per channel last, rounded down to a microsecond.
    pub const fn duration_of(self, samples: usize) -> Duration {
        let rate = if self.sample_rate_hz == 0 {
            1
        } else {
            self.sample_rate_hz as u64
        };
        Duration::from_micros((samples as u64).saturating_mul(1_000_000) / rate)
    }
}

/// A stretch of audio. Cheap to clone: the samples are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioFrame {
    /// How to read `samples`.
    pub format: AudioFormat,
    /// When the first sample was captured.
    pub time: Timestamp,
    /// Interleaved, nominally in [-1, 1].
    pub samples: Arc<[f32]>,
}

impl AudioFrame {
    /// How long the frame lasts.
    pub fn duration(&self) -> Duration {
        let channels = usize::from(self.format.channels.max(1));
        self.format.duration_of(self.samples.len() / channels)
    }
}

/// Turns samples into packets.
pub trait AudioEncoder: Send {
    /// What the packets are called on a link.
    fn codec(&self) -> MediaCodec;

    /// The format of the samples that it takes.
    fn format(&self) -> AudioFormat;

    /// Samples per channel in one packet.
    fn frame_len(&self) -> usize;

    /// Encodes exactly one frame of interleaved samples into `packet` and returns the packet's
    /// length in bytes. With discontinuous transmission, a length of 2 or less may be left unsent.
    ///
    /// # Errors
    /// [`EncodeError`]; the encoder goes on with the next frame.
    fn encode(&mut self, samples: &[f32], packet: &mut [u8]) -> Result<usize, EncodeError>;

    /// Aims at another bit rate from the next frame on.
    ///
    /// # Errors
    /// [`CodecConfigError::Bitrate`] outside what the codec can do; the rate then stays.
    fn set_bitrate(&mut self, bitrate: Bitrate) -> Result<(), CodecConfigError>;

    /// Prepares the packets for this share of loss, 0 to 1 (clamped), from the next frame on.
    fn set_expected_loss(&mut self, loss: f32);
}

/// What a packet holds of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastFrame {
    /// A coarse copy.
    Carried,
    /// Nothing, though it could: the encoder repeats nothing at all, or heard no voice in that frame.
    LeftOut,
    /// Nothing: this kind of packet cannot.
    Impossible,
}

/// Turns packets into samples, and makes up for those that are missing.
pub trait AudioDecoder: Send {
    /// The format of the samples that it gives.
    fn format(&self) -> AudioFormat;

    /// Decodes `packet` into `samples` and returns how many samples per channel it holds. A buffer
    /// of 120 ms takes any packet.
    ///
    /// # Errors
    /// [`DecodeError`]; the decoder goes on with the next packet.
    fn decode(&mut self, packet: &[u8], samples: &mut [f32]) -> Result<usize, DecodeError>;

    /// Fills `samples` with what the lost packet before `next` held, as far as `next` carries it
    /// redundantly; where it does not, this conceals. Call [`decode`](Self::decode) with `next`
    /// afterwards. The length must be that of the lost packet.
    ///
    /// # Errors
    /// [`DecodeError`], as for [`decode`](Self::decode).
    fn recover(&mut self, next: &[u8], samples: &mut [f32]) -> Result<usize, DecodeError>;

    /// What `packet` holds of the packet before it, for [`recover`](Self::recover).
    fn last_in(&self, packet: &[u8]) -> LastFrame;

    /// Fills `samples` with a plausible continuation, fading as losses add up. The length must be
    /// a multiple of 2.5 ms, at most 120 ms.
    ///
    /// # Errors
    /// [`DecodeError::Length`] for another length.
    fn conceal(&mut self, samples: &mut [f32]) -> Result<usize, DecodeError>;

    /// Samples per channel that `packet` holds, without decoding it.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] or [`DecodeError::Empty`].
    fn packet_len(&self, packet: &[u8]) -> Result<usize, DecodeError>;

    /// Forgets the past, as before the first packet.
    fn reset(&mut self);
}

/// Why a codec was not set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecConfigError {
    /// Not a rate that the codec knows.
    #[error("Opus takes 8000, 12000, 16000, 24000 or 48000 Hz, not {0} Hz: resample first")]
    SampleRate(u32),
    /// Neither mono nor stereo.
    #[error("a codec takes 1 or 2 channels, not {0}: mix down first")]
    Channels(u8),
    /// Not a duration that one packet can have.
    #[error("an Opus packet is made of 10, 20, 40 or 60 ms, not {0:?}")]
    FrameDuration(Duration),
    /// Outside 6 to 510 kbit/s.
    #[error("Opus codes at 6 to 510 kbit/s, not at {0}")]
    Bitrate(Bitrate),
    /// Outside 0 to 10.
    #[error("complexity goes from 0 to 10, not to {0}")]
    Complexity(u8),
    /// Not a share.
    #[error("the expected loss is a share from 0 to 1")]
    ExpectedLoss,
    /// The native library refused, most likely for want of memory.
    #[error("libopus could not set up a codec")]
    Library,
}

/// Why a frame was not encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Not exactly one frame.
    #[error("a frame has {expected} samples, not {actual}")]
    Length {
        /// What the encoder was set up for, all channels together.
        expected: usize,
        /// What it was given.
        actual: usize,
    },
    /// The packet does not fit the buffer.
    #[error("the buffer is too small for the packet: 1100 bytes always suffice")]
    BufferTooSmall,
    /// The native library failed.
    #[error("libopus failed to encode a frame")]
    Library,
}

/// Why nothing was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A packet without a byte.
    #[error("the packet is empty")]
    Empty,
    /// Not a packet of this codec.
    #[error("the packet is malformed")]
    Malformed,
    /// The packet holds more than the buffer takes.
    #[error("the packet holds more samples than the buffer takes")]
    BufferTooSmall,
    /// A stretch that cannot be concealed or recovered in one piece.
    #[error("{0} samples cannot be concealed: take a multiple of 2.5 ms, at most 120 ms")]
    Length(usize),
    /// The native library failed.
    #[error("libopus failed to decode a packet")]
    Library,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_durations_agree() {
        let twenty = Duration::from_millis(20);
        assert_eq!(AudioFormat::VOICE.samples_in(twenty), 960);
        assert_eq!(AudioFormat::VOICE.duration_of(960), twenty);
        let frame = AudioFrame {
            format: AudioFormat {
                channels: 2,
                ..AudioFormat::VOICE
            },
            time: Timestamp::ZERO,
            samples: vec![0.0; 1920].into(),
        };
        assert_eq!(frame.duration(), twenty);
    }
}
