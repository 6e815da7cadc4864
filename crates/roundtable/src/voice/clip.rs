//! Speech from and to WAV files.

use std::{
    io::BufWriter,
    path::{Path, PathBuf},
    sync::Arc,
};

use roundtable_voice::{ResampleError, resample};

use super::SAMPLE_RATE_HZ;

/// The longest clip that is loaded, in seconds: clips live in memory whole.
const MAX_CLIP_S: u32 = 600;

/// Why a sound file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClipError {
    /// The file cannot be opened or is not a WAV file.
    #[error("cannot read {} as WAV: {source}; convert it with `sox IN -b 16 OUT.wav`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: hound::Error,
    },
    /// The file has a sample rate that cannot be converted.
    #[error("cannot use the sample rate of {}: {source}; convert it with `sox IN -r 48000 OUT.wav`", path.display())]
    Rate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ResampleError,
    },
    /// The file has no samples, or is longer than ten minutes.
    #[error("{} has {seconds} s of sound; a clip has more than none and at most 600", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// How long it is, rounded down.
        seconds: u32,
    },
}

/// A recording to speak: mono, 48 kHz, in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clip {
    pub(crate) samples: Arc<[f32]>,
    pub(crate) looped: bool,
}

impl Clip {
    /// Reads a WAV file of any rate, depth and channel count; channels are averaged.
    ///
    /// # Errors
    /// [`ClipError`] names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ClipError> {
        let path = path.as_ref();
        let unreadable = |source| ClipError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut reader = hound::WavReader::open(path).map_err(unreadable)?;
        let spec = reader.spec();
        let seconds = reader.duration() / spec.sample_rate.max(1);
        if reader.duration() == 0 || seconds > MAX_CLIP_S {
            return Err(ClipError::Length {
                path: path.to_owned(),
                seconds,
            });
        }
        let interleaved: Vec<f32> = match spec.sample_format {
            hound::SampleFormat::Float => reader.samples().collect::<Result<_, _>>(),
            hound::SampleFormat::Int => {
                let scale = 1.0 / 2_f32.powi(i32::from(spec.bits_per_sample) - 1);
                #[allow(clippy::cast_precision_loss)] // 24 bits fit, and more is inaudible
                reader
                    .samples::<i32>()
                    .map(|s| s.map(|s| s as f32 * scale))
                    .collect()
            }
        }
        .map_err(unreadable)?;
        let channels = usize::from(spec.channels.max(1));
        let mono: Vec<f32> = interleaved
            .chunks_exact(channels)
            .map(|frame| frame.iter().sum::<f32>() / f32::from(spec.channels.max(1)))
            .collect();
        let samples = resample(&mono, spec.sample_rate, SAMPLE_RATE_HZ).map_err(|source| {
            ClipError::Rate {
                path: path.to_owned(),
                source,
            }
        })?;
        Ok(Self {
            samples: samples.into(),
            looped: false,
        })
    }

    /// Starts again from the beginning when the end is reached. Default: falls silent.
    #[must_use]
    pub fn looped(mut self, looped: bool) -> Self {
        self.looped = looped;
        self
    }

    /// The sample at `position` samples from the start; silence behind the end.
    pub(crate) fn sample(&self, position: u64) -> f32 {
        let length = self.samples.len() as u64;
        let position = if self.looped {
            position % length
        } else {
            position
        };
        usize::try_from(position)
            .ok()
            .and_then(|i| self.samples.get(i))
            .copied()
            .unwrap_or(0.0)
    }
}

/// Writes 48 kHz 16-bit WAV.
pub(crate) struct Recorder {
    writer: hound::WavWriter<BufWriter<std::fs::File>>,
}

impl Recorder {
    pub(crate) fn create(path: &Path, channels: usize) -> Result<Self, hound::Error> {
        let spec = hound::WavSpec {
            channels: if channels == 2 { 2 } else { 1 },
            sample_rate: SAMPLE_RATE_HZ,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        Ok(Self {
            writer: hound::WavWriter::create(path, spec)?,
        })
    }

    pub(crate) fn write(&mut self, samples: &[f32]) -> Result<(), hound::Error> {
        for sample in samples {
            #[allow(clippy::cast_possible_truncation)] // clamped to the range of i16
            let value = (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)) as i16;
            self.writer.write_sample(value)?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(), hound::Error> {
        self.writer.finalize()
    }
}
