//! Many voices into one.

/// Above this the mix is turned down, rather than clipped.
const CEILING: f32 = 0.89;
/// How much of the way back to full gain is made in a block of 10 ms.
const RELEASE_PER_BLOCK: f32 = 0.05;

/// A voice's volume, changed without a click.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    current: f32,
    target: f32,
}

impl Gain {
    /// This volume from the start: 0 is mute, 1 is as it came. At most 8; NaN counts as 0.
    pub fn new(gain: f32) -> Self {
        let gain = Self::sane(gain);
        Self {
            current: gain,
            target: gain,
        }
    }

    /// Goes to another volume within the next block.
    pub fn set(&mut self, gain: f32) {
        self.target = Self::sane(gain);
    }

    /// The volume that was asked for.
    pub fn get(self) -> f32 {
        self.target
    }

    fn sane(gain: f32) -> f32 {
        if gain.is_nan() {
            0.0
        } else {
            gain.clamp(0.0, 8.0)
        }
    }
}

impl Default for Gain {
    fn default() -> Self {
        Self::new(1.0)
    }
}

/// Adds voices up and keeps the sum from clipping: where it would, the whole mix is turned down in
/// time and comes back within a second. A mix that stays below the ceiling is passed on unchanged.
#[derive(Debug, Clone)]
pub struct Mixer {
    sum: Vec<f32>,
    limit: f32,
}

impl Default for Mixer {
    fn default() -> Self {
        Self::new()
    }
}

impl Mixer {
    /// A mixer with nothing in it.
    pub const fn new() -> Self {
        Self {
            sum: Vec::new(),
            limit: 1.0,
        }
    }

    /// Adds a block of a voice. Blocks of one mix should be equally long; a shorter one counts as
    /// followed by silence. What is not finite counts as silence.
    pub fn add(&mut self, samples: &[f32], gain: &mut Gain) {
        if self.sum.len() < samples.len() {
            self.sum.resize(samples.len(), 0.0);
        }
        let step = (gain.target - gain.current) / samples.len().max(1) as f32;
        let mut volume = gain.current;
        for (sum, sample) in self.sum.iter_mut().zip(samples) {
            volume += step;
            let part = sample * volume;
            *sum += if part.is_finite() { part } else { 0.0 };
        }
        gain.current = gain.target;
    }

    /// Writes the mix of what was added since the last call to `out`, within ±1. What is missing is
    /// silence; what is too much is dropped.
    pub fn finish(&mut self, out: &mut [f32]) {
        self.sum.resize(out.len(), 0.0);
        let peak = self.sum.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
        let needed = if peak > CEILING { CEILING / peak } else { 1.0 };
        let begin = self.limit;
        let end = needed
            .min(begin + RELEASE_PER_BLOCK * (1.0 - begin) + 1e-4)
            .min(1.0);
        let step = (end - begin) / out.len().max(1) as f32;
        let mut limit = begin;
        for (out, sum) in out.iter_mut().zip(&self.sum) {
            limit += step;
            *out = soften(sum * limit);
        }
        self.limit = end;
        self.sum.clear();
    }
}

/// Leaves what is below the ceiling alone and bends the rest, so that nothing reaches beyond ±1.
fn soften(x: f32) -> f32 {
    let over = x.abs() - CEILING;
    if over <= 0.0 {
        return x;
    }
    let room = 1.0 - CEILING;
    (CEILING + room * over / (room + over)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f32, hz: f32) -> Vec<f32> {
        let step = hz * std::f32::consts::TAU / 48_000.0;
        (0..48_000)
            .map(|i| amplitude * (i as f32 * step).sin())
            .collect()
    }

    /// Mixes blocks of 10 ms.
    fn mix(voices: &[Vec<f32>]) -> Vec<f32> {
        let mut mixer = Mixer::new();
        let mut gains = vec![Gain::default(); voices.len()];
        let mut out = vec![0.0; voices[0].len()];
        for (index, block) in out.chunks_exact_mut(480).enumerate() {
            for (voice, gain) in voices.iter().zip(&mut gains) {
                mixer.add(&voice[index * 480..][..480], gain);
            }
            mixer.finish(block);
        }
        out
    }

    #[test]
    fn a_quiet_mix_passes_unchanged() {
        let voice = tone(0.4, 300.0);
        assert_eq!(mix(std::slice::from_ref(&voice)), voice);
    }

    #[test]
    fn twenty_loud_voices_do_not_clip_and_make_no_edges() {
        let voices: Vec<_> = (0..20_u8)
            .map(|k| tone(0.5, 100.0 + 17.0 * f32::from(k)))
            .collect();
        let out = mix(&voices);
        let sum: Vec<f32> = (0..out.len())
            .map(|i| voices.iter().map(|v| v[i]).sum())
            .collect();
        assert!(out.iter().all(|x| x.abs() < 1.0));
        let steepest = |x: &[f32]| {
            x.windows(2)
                .map(|w| (w[1] - w[0]).abs())
                .fold(0.0, f32::max)
        };
        assert!(
            steepest(&out[4_800..]) <= steepest(&sum[4_800..]),
            "no step steeper than the voices"
        );
    }

    #[test]
    fn the_limiter_lets_go_within_a_second() {
        let mut mixer = Mixer::new();
        let mut out = [0.0; 480];
        mixer.add(&[4.0; 480], &mut Gain::default());
        mixer.finish(&mut out);
        for _ in 0..100 {
            mixer.add(&[0.5; 480], &mut Gain::default());
            mixer.finish(&mut out);
        }
        assert!(out[479] > 0.49, "{}", out[479]);
    }

    #[test]
    fn volume_changes_without_a_step_and_mute_is_silent() {
        let mut mixer = Mixer::new();
        let mut gain = Gain::new(1.0);
        gain.set(0.0);
        let mut out = [0.0; 480];
        mixer.add(&[0.5; 480], &mut gain);
        mixer.finish(&mut out);
        assert!(out.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 0.002));
        mixer.add(&[0.5; 480], &mut gain);
        mixer.finish(&mut out);
        assert_eq!(out, [0.0; 480]);
        gain.set(f32::NAN);
        assert_eq!(gain.get(), 0.0);
    }

    #[test]
    fn what_is_not_a_number_is_silence() {
        let mut mixer = Mixer::new();
        let mut out = [1.0; 4];
        mixer.add(&[f32::NAN, f32::INFINITY, 0.5], &mut Gain::default());
        mixer.finish(&mut out);
        assert_eq!(out, [0.0, 0.0, 0.5, 0.0]);
    }
}
