//! What is captured, made better before it is sent: echo cancellation, noise suppression and gain control, by
//! `sonora`'s port of the WebRTC audio processing module (AEC3, NS, AGC2).

use sonora::{
    AudioProcessing, Config, StreamConfig,
    config::{
        AdaptiveDigital, EchoCanceller, GainController2, HighPassFilter, MaxProcessingRate,
        NoiseSuppression, NoiseSuppressionLevel, Pipeline,
    },
};

use crate::SAMPLE_RATE_HZ;

/// Processing works on 10 ms.
const BLOCK: usize = SAMPLE_RATE_HZ as usize / 100;
/// What was played may wait for this many blocks' worth of capture; the oldest goes.
const MAX_FAR_END: usize = 50 * BLOCK;

/// How much noise is taken away. More takes more of the voice with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoiseReduction {
    /// None.
    Off,
    /// About 6 dB.
    Low,
    /// About 12 dB.
    #[default]
    Moderate,
    /// About 18 dB.
    High,
    /// About 21 dB.
    VeryHigh,
}

/// What is done to captured sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessingConfig {
    /// See [`with_echo_cancellation`](Self::with_echo_cancellation).
    pub echo_cancellation: bool,
    /// See [`with_noise_reduction`](Self::with_noise_reduction).
    pub noise_reduction: NoiseReduction,
    /// See [`with_gain_control`](Self::with_gain_control).
    pub gain_control: bool,
}

impl Default for ProcessingConfig {
    fn default() -> Self {
        Self {
            echo_cancellation: true,
            noise_reduction: NoiseReduction::Moderate,
            gain_control: true,
        }
    }
}

impl ProcessingConfig {
    /// Whether what the speakers play is taken out of what the microphone hears. Default on; needless with
    /// a headset. The costliest of the three.
    #[must_use]
    pub fn with_echo_cancellation(mut self, echo_cancellation: bool) -> Self {
        self.echo_cancellation = echo_cancellation;
        self
    }

    /// How much steady noise is taken away. Default [`NoiseReduction::Moderate`]. Leave it off for music.
    #[must_use]
    pub fn with_noise_reduction(mut self, noise_reduction: NoiseReduction) -> Self {
        self.noise_reduction = noise_reduction;
        self
    }

    /// Whether a quiet voice is made as loud as others, within some seconds. Default on. Leave it off for
    /// music.
    #[must_use]
    pub fn with_gain_control(mut self, gain_control: bool) -> Self {
        self.gain_control = gain_control;
        self
    }

    fn as_config(self) -> Config {
        let level = match self.noise_reduction {
            NoiseReduction::Off => None,
            NoiseReduction::Low => Some(NoiseSuppressionLevel::Low),
            NoiseReduction::Moderate => Some(NoiseSuppressionLevel::Moderate),
            NoiseReduction::High => Some(NoiseSuppressionLevel::High),
            NoiseReduction::VeryHigh => Some(NoiseSuppressionLevel::VeryHigh),
        };
        Config {
            pipeline: Pipeline {
                maximum_internal_processing_rate: MaxProcessingRate::Rate48kHz,
                ..Pipeline::default()
            },
            high_pass_filter: Some(HighPassFilter::default()),
            echo_canceller: self.echo_cancellation.then(EchoCanceller::default),
            noise_suppression: level.map(|level| NoiseSuppression {
                level,
                ..NoiseSuppression::default()
            }),
            gain_controller2: self.gain_control.then(|| GainController2 {
                adaptive_digital: Some(AdaptiveDigital::default()),
                ..GainController2::default()
            }),
            ..Config::default()
        }
    }
}

/// Processes one captured voice, 48 kHz mono.
pub(crate) struct Processor {
    config: ProcessingConfig,
    processing: AudioProcessing,
    /// What was played since the last capture.
    far_end: Vec<f32>,
    scratch: [f32; BLOCK],
}

impl Processor {
    pub(crate) fn new(config: ProcessingConfig) -> Self {
        let format = StreamConfig::new(SAMPLE_RATE_HZ, 1);
        let builder = AudioProcessing::builder()
            .config(config.as_config())
            .capture_config(format)
            .render_config(format);
        Self {
            config,
            processing: builder.build(),
            far_end: Vec::with_capacity(MAX_FAR_END + BLOCK),
            scratch: [0.0; BLOCK],
        }
    }

    pub(crate) fn config(&self) -> ProcessingConfig {
        self.config
    }

    /// Notes what the speakers play, any number of samples.
    pub(crate) fn hear_far_end(&mut self, played: &[f32]) {
        if !self.config.echo_cancellation {
            return;
        }
        self.far_end.extend_from_slice(played);
        let excess = self.far_end.len().saturating_sub(MAX_FAR_END);
        self.far_end.drain(..excess);
    }

    /// Processes whole blocks of 10 ms in place; what is left over at the end stays as it is.
    pub(crate) fn process(&mut self, samples: &mut [f32]) {
        let whole = self.far_end.len() / BLOCK * BLOCK;
        for block in self.far_end[..whole].chunks_exact(BLOCK) {
            // Fails on a wrong length only.
            let _ = self
                .processing
                .process_render_f32(&[block], &mut [&mut self.scratch]);
        }
        self.far_end.drain(..whole);
        for block in samples.chunks_exact_mut(BLOCK) {
            let done = self
                .processing
                .process_capture_f32(&[block], &mut [&mut self.scratch]);
            if done.is_ok() {
                block.copy_from_slice(&self.scratch);
            }
        }
    }
}
