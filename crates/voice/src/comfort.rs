//! Comfort noise: while someone is silent, a little of the noise that was around the voice, so that
//! the line does not sound dead and the voice's own noise does not come and go with it.

use std::time::Duration;

use crate::{SAMPLE_RATE_HZ, vad::rms};

/// Noise is never louder than -50 dB of full scale, and quieter than -78 dB nobody hears it.
const LOUDEST: f32 = 0.003_2;
const QUIETEST: f32 = 0.000_125;
/// Frames over which the quietest one is looked for, at least half of them.
const WINDOW: u32 = 100;
/// How long noise goes on after a voice, and how long it takes to fade in and out.
const HOLD: usize = samples(Duration::from_secs(5));
const FADE_IN: f32 = 1.0 / samples(Duration::from_millis(40)) as f32;
const FADE_OUT: f32 = 1.0 / samples(Duration::from_secs(2)) as f32;
/// Rooms hum rather than hiss: one pole at about 2.5 kHz, and what it takes from the level.
const SOFTNESS: f32 = 0.7;
const MAKE_UP: f32 = 2.4;

#[allow(clippy::cast_possible_truncation)] // a few seconds
const fn samples(time: Duration) -> usize {
    time.as_millis() as usize * SAMPLE_RATE_HZ as usize / 1000
}

/// Learns a voice's background and makes some of it.
#[derive(Debug, Clone)]
pub(crate) struct ComfortNoise {
    /// Root mean square of the quietest frame, in the current and in the last half of the window.
    quietest: [f32; 2],
    frames: u32,
    /// Samples made since the voice ended.
    made: usize,
    gain: f32,
    random: u32,
    last: f32,
}

impl ComfortNoise {
    pub(crate) const fn new() -> Self {
        Self {
            quietest: [f32::MAX; 2],
            frames: 0,
            made: 0,
            gain: 0.0,
            random: 1,
            last: 0.0,
        }
    }

    /// Learns from a frame as it was said.
    pub(crate) fn hear(&mut self, frame: &[f32]) {
        let level = rms(frame);
        (self.made, self.gain) = (0, 0.0);
        if level < QUIETEST {
            return; // digital silence, or the end of a fade
        }
        if self.frames == WINDOW / 2 {
            self.quietest = [f32::MAX, self.quietest[0]];
            self.frames = 0;
        }
        self.frames += 1;
        self.quietest[0] = self.quietest[0].min(level);
    }

    /// What the background sounds like by now, as root mean square; `None` before it was heard.
    fn level(&self) -> Option<f32> {
        let quietest = self.quietest[0].min(self.quietest[1]);
        (quietest < f32::MAX).then_some(quietest.min(LOUDEST))
    }

    /// Appends `len` samples of noise, or of silence where none is known.
    pub(crate) fn make(&mut self, len: usize, out: &mut impl Extend<f32>) {
        let level = self.level().unwrap_or(0.0);
        out.extend((0..len).map(|_| {
            self.made = self.made.saturating_add(1);
            self.gain = if self.made < HOLD {
                (self.gain + FADE_IN).min(1.0)
            } else {
                (self.gain - FADE_OUT).max(0.0)
            };
            if level * self.gain == 0.0 {
                return 0.0;
            }
            self.random = self
                .random
                .wrapping_mul(1_664_525)
                .wrapping_add(1_013_904_223);
            let white = self.random as f32 / u32::MAX as f32 * 2.0 - 1.0;
            // Uniform in ±1 has a root mean square of 1/√3.
            self.last = SOFTNESS * self.last + (1.0 - SOFTNESS) * white;
            self.last * MAKE_UP * 3.0_f32.sqrt() * level * self.gain
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_is_as_loud_as_the_background_and_ends() {
        let mut noise = ComfortNoise::new();
        let mut out = Vec::new();
        noise.make(480, &mut out);
        assert_eq!(out, [0.0; 480], "nothing was heard yet");
        for frame in 0..200 {
            let level = if frame % 10 == 0 { 0.001 } else { 0.1 };
            noise.hear(&[level; 960]);
        }
        out.clear();
        noise.make(48_000, &mut out);
        let level = rms(&out[4_800..]);
        assert!((0.000_8..0.001_25).contains(&level), "{level}");
        assert!(out[..48].iter().all(|x| x.abs() < 1e-4), "fades in");
        out.clear();
        noise.make(8 * 48_000, &mut out);
        assert_eq!(out.last(), Some(&0.0), "and out");
    }

    #[test]
    fn a_voice_without_background_leaves_silence() {
        let mut noise = ComfortNoise::new();
        (0..50).for_each(|_| noise.hear(&[0.0; 960]));
        let mut out = Vec::new();
        noise.make(960, &mut out);
        assert_eq!(out, [0.0; 960]);
    }

    #[test]
    fn a_loud_room_is_not_made_louder_than_noise_may_be() {
        let mut noise = ComfortNoise::new();
        (0..50).for_each(|_| noise.hear(&[0.3; 960]));
        let mut out = Vec::new();
        noise.make(48_000, &mut out);
        assert!(rms(&out) < 0.004);
    }
}
