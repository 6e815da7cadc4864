//! Whether someone speaks.

use std::time::Duration;

use earshot::Detector;

use crate::{Resampler, SAMPLE_RATE_HZ, VoiceConfigError};

/// The detector looks at 16 ms at 16 kHz.
const WINDOW: usize = 256;
const WINDOW_MS: u64 = 16;

/// How voice activity is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VadConfig {
    /// See [`with_threshold`](Self::with_threshold).
    pub threshold: f32,
    /// See [`with_onset_frames`](Self::with_onset_frames).
    pub onset_frames: u32,
    /// See [`with_hangover`](Self::with_hangover).
    pub hangover: Duration,
    /// See [`with_floor_dbfs`](Self::with_floor_dbfs).
    pub floor_dbfs: f32,
}

impl Default for VadConfig {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            onset_frames: 3,
            hangover: Duration::from_millis(320),
            floor_dbfs: -60.0,
        }
    }
}

impl VadConfig {
    /// The detector's score above which 16 ms count as voice. Default 0.5; 0 to 1. Lower hears more
    /// speech, and more noise.
    #[must_use]
    pub fn with_threshold(mut self, threshold: f32) -> Self {
        self.threshold = threshold;
        self
    }

    /// How many windows of 16 ms in a row must be voice before it counts. Default 3.
    #[must_use]
    pub fn with_onset_frames(mut self, frames: u32) -> Self {
        self.onset_frames = frames;
        self
    }

    /// For how long speech is taken to go on after the last voice. Default 320 ms. Shorter saves
    /// packets and cuts the ends of words.
    #[must_use]
    pub fn with_hangover(mut self, hangover: Duration) -> Self {
        self.hangover = hangover;
        self
    }

    /// The level below which nothing is voice. Default -60 dB of full scale, root mean square.
    #[must_use]
    pub fn with_floor_dbfs(mut self, floor: f32) -> Self {
        self.floor_dbfs = floor;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), VoiceConfigError> {
        if (0.0..=1.0).contains(&self.threshold) {
            Ok(())
        } else {
            Err(VoiceConfigError::Threshold)
        }
    }
}

/// Hysteresis: opens after some active frames in a row, closes after some inactive ones.
#[derive(Debug, Clone)]
pub struct Gate {
    open_after: u32,
    close_after: u32,
    /// Frames in a row that speak for a change.
    run: u32,
    open: bool,
}

impl Gate {
    /// A closed gate. Both counts are at least 1.
    pub fn new(open_after: u32, close_after: u32) -> Self {
        Self {
            open_after: open_after.max(1),
            close_after: close_after.max(1),
            run: 0,
            open: false,
        }
    }

    /// Takes a frame's verdict; returns whether the gate is open now.
    pub fn update(&mut self, active: bool) -> bool {
        self.run = if active == self.open { 0 } else { self.run + 1 };
        let needed = if self.open {
            self.close_after
        } else {
            self.open_after
        };
        if self.run >= needed {
            self.open = !self.open;
            self.run = 0;
        }
        self.open
    }

    /// Whether the gate is open.
    pub fn is_open(&self) -> bool {
        self.open
    }
}

/// A voice activity detector for one stream of 48 kHz mono.
pub struct Vad {
    config: VadConfig,
    detector: Box<Detector>,
    decimator: Resampler,
    window: Vec<f32>,
    gate: Gate,
}

impl Vad {
    /// A detector that has heard nothing.
    ///
    /// # Errors
    /// [`VoiceConfigError::Threshold`] for a threshold outside 0 to 1.
    pub fn new(config: VadConfig) -> Result<Self, VoiceConfigError> {
        config.validate()?;
        let windows = config.hangover.as_millis().div_ceil(u128::from(WINDOW_MS));
        let hangover = u32::try_from(windows).unwrap_or(u32::MAX);
        Ok(Self {
            config,
            detector: Detector::default_boxed(),
            decimator: Resampler::new(SAMPLE_RATE_HZ, 16_000)
                .map_err(|_| VoiceConfigError::Format)?,
            window: Vec::with_capacity(4 * WINDOW),
            gate: Gate::new(config.onset_frames, hangover),
        })
    }

    /// Hears some samples, any number; returns whether someone speaks now.
    pub fn push(&mut self, samples: &[f32]) -> bool {
        self.decimator.process(samples, &mut self.window);
        let whole = self.window.len() / WINDOW * WINDOW;
        for window in self.window[..whole].chunks_exact_mut(WINDOW) {
            // The detector takes nothing beyond full scale.
            window.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
            let score = self.detector.predict_f32(window);
            let loud = level_dbfs(window) >= self.config.floor_dbfs;
            self.gate.update(loud && score >= self.config.threshold);
        }
        self.window.drain(..whole);
        self.gate.is_open()
    }

    /// Forgets what was heard: nobody speaks.
    pub fn reset(&mut self) {
        self.detector.reset();
        self.window.clear();
        self.gate = Gate::new(self.gate.open_after, self.gate.close_after);
    }
}

/// Root mean square in dB of full scale; -200 for silence.
pub(crate) fn level_dbfs(samples: &[f32]) -> f32 {
    let energy: f32 = samples.iter().map(|x| x * x).sum();
    10.0 * (energy / samples.len().max(1) as f32).max(1e-20).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vad_hysteresis_prevents_rapid_toggling() {
        let mut gate = Gate::new(3, 5);
        let mut changes = 0;
        let mut open = false;
        // Verdicts that alternate every frame, then every other frame.
        for index in 0..1_000_u32 {
            let active = if index < 500 {
                index % 2 == 0
            } else {
                index / 2 % 2 == 0
            };
            changes += u32::from(gate.update(active) != open);
            open = gate.is_open();
        }
        assert_eq!(changes, 0, "two active frames in a row open nothing");

        let mut run = |active, frames: usize| (0..frames).map(|_| gate.update(active)).last();
        assert_eq!(run(true, 3), Some(true));
        for _ in 0..50 {
            assert_eq!(run(false, 4), Some(true), "a gap shorter than the hangover");
            assert_eq!(run(true, 1), Some(true));
        }
        assert_eq!(run(false, 5), Some(false));
    }

    #[test]
    fn a_voice_that_stutters_is_one_spurt() {
        // 30 ms of buzz every 60 ms: a voice at its most broken.
        let mut vad = Vad::new(VadConfig::default().with_threshold(0.0)).unwrap();
        let mut toggles = 0;
        let mut open = false;
        for block in 0..600_u32 {
            let on = block < 500 && block % 6 < 5;
            let amplitude = if on { 0.2 } else { 0.0 };
            let samples: Vec<f32> = (0..480_u16)
                .map(|i| amplitude * (f32::from(i % 240) / 240.0 - 0.5))
                .collect();
            let now = vad.push(&samples);
            toggles += u32::from(now != open);
            open = now;
        }
        assert_eq!(toggles, 2, "opens once and closes once");
        assert!(!open);
    }

    #[test]
    fn a_bad_threshold_is_refused() {
        let config = VadConfig::default().with_threshold(1.5);
        assert_eq!(Vad::new(config).err(), Some(VoiceConfigError::Threshold));
    }
}
