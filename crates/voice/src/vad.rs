//! Whether someone speaks.

use std::time::Duration;

use earshot::Detector;

use crate::{Resampler, SAMPLE_RATE_HZ, VoiceConfigError};

/// By how much voice stands out from noise for [`VadKind::Energy`], in dB.
const STANDS_OUT_DB: f32 = 9.0;
/// How fast the noise level is taken to rise, in dB a window: 9 dB in about five seconds.
const NOISE_RISE_DB: f32 = 0.03;

/// What tells voice from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VadKind {
    /// A small neural network that knows what voices sound like (`earshot`): steady and sudden noise alike is
    /// none.
    #[default]
    Neural,
    /// The level: what is 9 dB above the noise of the last seconds. Costs next to nothing, and takes a
    /// slammed door for a voice.
    Energy,
}

/// The detector looks at 16 ms at 16 kHz.
const WINDOW: usize = 256;
const WINDOW_MS: u64 = 16;

/// How voice activity is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VadConfig {
    /// See [`with_kind`](Self::with_kind).
    pub kind: VadKind,
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
            kind: VadKind::Neural,
            threshold: 0.5,
            onset_frames: 3,
            hangover: Duration::from_millis(320),
            floor_dbfs: -60.0,
        }
    }
}

impl VadConfig {
    /// What tells voice from the rest. Default [`VadKind::Neural`], the costlier one.
    #[must_use]
    pub fn with_kind(mut self, kind: VadKind) -> Self {
        self.kind = kind;
        self
    }

    /// The neural detector's score above which 16 ms count as voice. Default 0.5; 0 to 1. Lower hears
    /// more speech, and more noise.
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

    /// A closed gate with this hysteresis.
    fn gate(&self) -> Gate {
        let windows = self.hangover.as_millis().div_ceil(u128::from(WINDOW_MS));
        let hangover = u32::try_from(windows).unwrap_or(u32::MAX);
        Gate::new(self.onset_frames, hangover)
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
    /// Level of the noise in dB of full scale: falls at once and rises slowly.
    noise_dbfs: f32,
}

impl Vad {
    /// A detector that has heard nothing.
    ///
    /// # Errors
    /// [`VoiceConfigError::Threshold`] for a threshold outside 0 to 1.
    pub fn new(config: VadConfig) -> Result<Self, VoiceConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            detector: Detector::default_boxed(),
            decimator: Resampler::new(SAMPLE_RATE_HZ, 16_000)
                .map_err(|_| VoiceConfigError::Format)?,
            window: Vec::with_capacity(4 * WINDOW),
            gate: config.gate(),
            noise_dbfs: f32::MAX,
        })
    }

    /// Goes on with other settings, and with what it knows of the voice.
    ///
    /// # Errors
    /// As [`new`](Self::new); the old settings then stay.
    pub fn reconfigure(&mut self, config: VadConfig) -> Result<(), VoiceConfigError> {
        config.validate()?;
        let open = self.gate.is_open();
        self.gate = Gate {
            open,
            ..config.gate()
        };
        self.config = config;
        Ok(())
    }

    /// Hears some samples, any number; returns whether someone speaks now.
    pub fn push(&mut self, samples: &[f32]) -> bool {
        self.decimator.process(samples, &mut self.window);
        let whole = self.window.len() / WINDOW * WINDOW;
        for window in self.window[..whole].chunks_exact_mut(WINDOW) {
            // The detector takes nothing beyond full scale.
            window.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
            let level = level_dbfs(window);
            let voice = match self.config.kind {
                VadKind::Neural => self.detector.predict_f32(window) >= self.config.threshold,
                VadKind::Energy => level >= self.noise_dbfs.max(-90.0) + STANDS_OUT_DB,
            };
            self.noise_dbfs = level.min(self.noise_dbfs + NOISE_RISE_DB);
            self.gate.update(voice && level >= self.config.floor_dbfs);
        }
        self.window.drain(..whole);
        self.gate.is_open()
    }

    /// Forgets what was heard: nobody speaks.
    pub fn reset(&mut self) {
        self.detector.reset();
        self.window.clear();
        self.noise_dbfs = f32::MAX;
        self.gate = self.config.gate();
    }
}

/// Root mean square.
pub(crate) fn rms(samples: &[f32]) -> f32 {
    let energy: f32 = samples.iter().map(|x| x * x).sum();
    (energy / samples.len().max(1) as f32).sqrt()
}

/// Root mean square in dB of full scale; -200 for silence.
pub fn level_dbfs(samples: &[f32]) -> f32 {
    20.0 * rms(samples).max(1e-10).log10()
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

    /// Whether anything opens the gate within two seconds of this.
    fn opens(kind: VadKind, sample: impl Fn(u32) -> f32) -> bool {
        let mut vad = Vad::new(VadConfig::default().with_kind(kind)).unwrap();
        (0..200_u32).any(|block| {
            let samples: Vec<f32> = (0..480).map(|i| sample(block * 480 + i)).collect();
            vad.push(&samples)
        })
    }

    /// White noise, repeatable.
    fn hiss(i: u32) -> f32 {
        let mut x = i.wrapping_mul(0x9E37_79B9);
        x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
        (x ^ (x >> 16)) as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    /// 120 Hz with overtones, in syllables: 200 ms of every 300, after half a second.
    fn syllables(i: u32) -> f32 {
        let t = (i % 480_000) as f32 / 48_000.0;
        let said = t > 0.5 && t % 0.3 < 0.2;
        let tones = (1..20_u8).map(|k| {
            let k = f32::from(k);
            (t * 120.0 * k * std::f32::consts::TAU).sin() / k
        });
        if said { 0.15 * tones.sum::<f32>() } else { 0.0 }
    }

    #[test]
    fn vad_detects_speech_above_threshold() {
        // The neural detector knows people from tones: it hears a recording.
        let alice = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../roundtable/assets/alice.wav"
        );
        let alice = hound::WavReader::open(alice).unwrap().into_samples::<i16>();
        let alice: Vec<f32> = alice.map(|x| f32::from(x.unwrap()) / 32_768.0).collect();
        let recorded = |i: u32| alice[i as usize] + 0.003 * hiss(i);
        for kind in [VadKind::Neural, VadKind::Energy] {
            assert!(opens(kind, recorded), "{kind:?}: a recording");
        }
        assert!(opens(VadKind::Energy, |i| syllables(i) + 0.003 * hiss(i)));
    }

    #[test]
    fn vad_ignores_background_noise_below_threshold() {
        for kind in [VadKind::Neural, VadKind::Energy] {
            assert!(!opens(kind, |i| 0.017 * hiss(i)), "{kind:?}: hiss");
            assert!(
                !opens(kind, |i| 0.0005 * syllables(i)),
                "{kind:?}: far away"
            );
        }
    }

    #[test]
    fn a_bad_threshold_is_refused() {
        let config = VadConfig::default().with_threshold(1.5);
        assert_eq!(Vad::new(config).err(), Some(VoiceConfigError::Threshold));
    }
}
