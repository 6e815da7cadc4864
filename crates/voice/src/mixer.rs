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
        gain.max(0.0).min(8.0)
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
