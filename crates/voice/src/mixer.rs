//! Many voices into one.

use crate::{Placement, SAMPLE_RATE_HZ};

/// Above this the mix is turned down, rather than clipped.
const CEILING: f32 = 0.89;
/// How much of the way back to full gain is left after 10 ms.
const LEFT_AFTER_10_MS: f32 = 0.95;
/// By how much more the gain comes back in 10 ms, so that it arrives.
const ARRIVAL: f32 = 1e-4;
/// Samples of a channel in 10 ms.
const TEN_MS: f32 = SAMPLE_RATE_HZ as f32 / 100.0;

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
    channels: usize,
    sum: Vec<f32>,
    limit: f32,
}

impl Default for Mixer {
    fn default() -> Self {
        Self::new()
    }
}

impl Mixer {
    /// A mono mixer with nothing in it.
    pub const fn new() -> Self {
        Self {
            channels: 1,
            sum: Vec::new(),
            limit: 1.0,
        }
    }

    /// A stereo mixer with nothing in it; its mix is interleaved, left first.
    pub const fn stereo() -> Self {
        let mut stereo = Self::new();
        stereo.channels = 2;
        stereo
    }

    /// Interleaved channels of the mix, 1 or 2.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Adds a block of a voice, mono, in front of the listener. Blocks of one mix should be equally long; a
    /// shorter one counts as followed by silence. What is not finite counts as silence.
    pub fn add(&mut self, samples: &[f32], gain: &mut Gain) {
        self.add_placed(samples, gain, &mut Placement::CENTRE.clone());
    }

    /// The same for a voice that is somewhere. A mono mixer knows no direction, only the distance.
    pub fn add_placed(&mut self, samples: &[f32], gain: &mut Gain, placement: &mut Placement) {
        let len = samples.len() * self.channels;
        if self.sum.len() < len {
            self.sum.resize(len, 0.0);
        }
        let ears = |[left, right]: [f32; 2], volume: f32| match self.channels {
            1 => [((left * left + right * right) / 2.0).sqrt() * volume; 2],
            _ => [left * volume, right * volume],
        };
        let mut volume = ears(placement.current, gain.current);
        let end = ears(placement.target, gain.target);
        let count = samples.len().max(1) as f32;
        let step = [(end[0] - volume[0]) / count, (end[1] - volume[1]) / count];
        for (sums, sample) in self.sum.chunks_exact_mut(self.channels).zip(samples) {
            for (channel, sum) in sums.iter_mut().enumerate() {
                volume[channel] += step[channel];
                let part = sample * volume[channel];
                *sum += if part.is_finite() { part } else { 0.0 };
            }
        }
        gain.current = gain.target;
        placement.current = placement.target;
    }

    /// Writes the mix of what was added since the last call to `out`, within ±1. What is missing is
    /// silence; what is too much is dropped.
    pub fn finish(&mut self, out: &mut [f32]) {
        self.sum.resize(out.len(), 0.0);
        let peak = self.sum.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
        let needed = if peak > CEILING { CEILING / peak } else { 1.0 };
        let begin = self.limit;
        let len = (out.len() / self.channels).max(1) as f32;
        let left = LEFT_AFTER_10_MS.powf(len / TEN_MS);
        let back = 1.0 - left * (1.0 - begin) + ARRIVAL * len / TEN_MS;
        let end = needed.min(back).min(1.0);
        let step = (end - begin) / len;
        let mut limit = begin;
        let sums = self.sum.chunks_exact(self.channels);
        for (out, sums) in out.chunks_exact_mut(self.channels).zip(sums) {
            limit += step;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = soften(sum * limit);
            }
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

    /// A loud moment, and how loud the mix is 200 ms later.
    fn loudness_after(block: usize, channels: usize) -> f32 {
        let mut mixer = if channels == 2 {
            Mixer::stereo()
        } else {
            Mixer::new()
        };
        let mut out = vec![0.0; block * channels];
        for index in 0..9_600 / block + 1 {
            let voice = if index == 0 { 4.0 } else { 0.5 };
            mixer.add(&vec![voice; block], &mut Gain::default());
            mixer.finish(&mut out);
        }
        out[block * channels - 1]
    }

    #[test]
    fn the_limiter_lets_go_as_fast_in_blocks_of_any_length() {
        let wanted = loudness_after(480, 1);
        for (block, channels) in [(120, 1), (240, 1), (240, 2), (960, 2)] {
            let loudness = loudness_after(block, channels);
            assert!(
                (loudness - wanted).abs() < 0.002,
                "{block}: {loudness}, not {wanted}"
            );
        }
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
    fn voices_keep_their_sides_and_move_without_a_step() {
        let mut mixer = Mixer::stereo();
        let (mut left, mut right) = (Placement::CENTRE, Placement::CENTRE);
        left.set([0.8, 0.1]);
        right.set([0.0, 0.5]);
        let mut out = [0.0; 960];
        for block in 0..2 {
            mixer.add_placed(&[0.5; 480], &mut Gain::default(), &mut left);
            mixer.add_placed(&[0.25; 480], &mut Gain::default(), &mut right);
            mixer.finish(&mut out);
            let steps = out.windows(3).map(|three| (three[2] - three[0]).abs());
            assert!(steps.fold(0.0, f32::max) < 0.002, "block {block}");
        }
        assert!((out[958] - 0.4).abs() < 1e-6 && (out[959] - 0.175).abs() < 1e-6);
        let mut mono = Mixer::new();
        let mut far = Placement::CENTRE;
        far.set([0.1, 0.1]);
        let mut out = [0.0; 480];
        for _ in 0..2 {
            mono.add_placed(&[0.5; 480], &mut Gain::default(), &mut far);
            mono.finish(&mut out);
        }
        assert!((out[479] - 0.05).abs() < 1e-6, "{}", out[479]);
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
