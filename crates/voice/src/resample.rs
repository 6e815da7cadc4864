//! Conversion between sample rates by a polyphase windowed sinc.

/// Taps on either side of an output sample, at the lower of both rates.
const HALF_TAPS: usize = 24;
/// The filter's edge as a share of the lower rate's Nyquist frequency.
const EDGE: f64 = 0.91;
/// Kaiser window: the stop band lies 80 dB down.
const KAISER_BETA: f64 = 8.0;
/// The largest filter, in taps over all phases: 8 MiB.
const MAX_TABLE: usize = 2 << 20;

/// Why two rates cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResampleError {
    /// Outside 4 to 384 kHz.
    #[error("sample rates lie between 4000 and 384000 Hz; this one is {0} Hz")]
    Rate(u32),
    /// The rates share so few factors that the filter would be huge.
    #[error("{from} Hz and {to} Hz have too little in common: go by way of 48000 Hz")]
    Ratio {
        /// Given rate in Hz.
        from: u32,
        /// Wanted rate in Hz.
        to: u32,
    },
}

/// Converts a stream of samples from one rate to another, in pieces of any length. Passes on
/// frequencies up to 91 % of the lower Nyquist frequency; holds back 24 samples of the lower rate.
#[derive(Debug, Clone)]
pub struct Resampler {
    /// One filter per phase, `taps` long each.
    table: Vec<f32>,
    taps: usize,
    up: usize,
    down: usize,
    phase: usize,
    input: Vec<f32>,
}

impl Resampler {
    /// A converter.
    ///
    /// # Errors
    /// [`ResampleError`] for rates out of range, or with too little in common.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, ResampleError> {
        for rate in [from_hz, to_hz] {
            if !(4_000..=384_000).contains(&rate) {
                return Err(ResampleError::Rate(rate));
            }
        }
        let common = gcd(from_hz, to_hz);
        let (up, down) = ((to_hz / common) as usize, (from_hz / common) as usize);
        let taps = 2 * HALF_TAPS * down.div_ceil(up).max(1);
        if up * taps > MAX_TABLE {
            let (from, to) = (from_hz, to_hz);
            return Err(ResampleError::Ratio { from, to });
        }
        Ok(Self {
            table: filter(up, down, taps),
            taps,
            up,
            down,
            phase: 0,
            // The first output sample lies on the first input sample.
            input: vec![0.0; taps / 2 - 1],
        })
    }

    /// Takes `samples` and appends what can be given to `out`.
    pub fn process(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        if self.up == self.down {
            out.extend_from_slice(samples);
            return;
        }
        self.input.extend_from_slice(samples);
        let mut begin = 0;
        while let Some(window) = self.input.get(begin..begin + self.taps) {
            let filter = &self.table[self.phase * self.taps..][..self.taps];
            out.push(dot(window, filter));
            self.phase += self.down;
            begin += self.phase / self.up;
            self.phase %= self.up;
        }
        self.input.drain(..begin);
    }

    /// Appends the samples that were held back to `out`, as if silence followed.
    pub fn finish(mut self, out: &mut Vec<f32>) {
        let silence = vec![0.0; self.taps / 2];
        if self.up != self.down {
            self.process(&silence, out);
        }
    }
}

/// The sum of products. In lanes, of which the compiler makes vectors: the order of a plain sum forbids it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f32 = rest.map(|(x, y)| x * y).sum();
    let mut sums = [0.0; LANES];
    for (x, y) in a.zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    rest + sums.iter().sum::<f32>()
}

/// Converts a whole recording. The result starts at the same time and lasts as long.
///
/// # Errors
/// [`ResampleError`] for rates out of range, or with too little in common.
pub fn resample(samples: &[f32], from_hz: u32, to_hz: u32) -> Result<Vec<f32>, ResampleError> {
    let mut resampler = Resampler::new(from_hz, to_hz)?;
    let mut out = Vec::new();
    resampler.process(samples, &mut out);
    resampler.finish(&mut out);
    Ok(out)
}

/// Filters of a [`RateShifter`]: positions between two samples, and taps of each.
const SHIFT_PHASES: usize = 256;
const SHIFT_TAPS: usize = 32;

/// Plays a hair faster or slower: for clocks that differ. Holds back 16 samples, a third of a
/// millisecond; at the nominal rate samples pass unchanged.
#[derive(Debug, Clone)]
pub(crate) struct RateShifter {
    table: &'static [f32],
    input: Vec<f32>,
    /// Where the next output sample lies between two input samples, 0 to 1.
    phase: f64,
}

impl RateShifter {
    /// Samples that are held back.
    pub(crate) const HELD_BACK: usize = SHIFT_TAPS / 2;

    pub(crate) fn new() -> Self {
        let mut this = Self {
            table: shift_table(),
            input: Vec::with_capacity(16_384),
            phase: 0.0,
        };
        this.reset();
        this
    }

    /// As before the first sample.
    pub(crate) fn reset(&mut self) {
        self.input.clear();
        self.input.resize(SHIFT_TAPS / 2 - 1, 0.0);
        self.phase = 0.0;
    }

    /// Appends to `out` what `samples` sound like at `rate` times their speed.
    pub(crate) fn process(&mut self, samples: &[f32], rate: f64, out: &mut impl Extend<f32>) {
        self.input.extend_from_slice(samples);
        let count = self.input.len().saturating_sub(SHIFT_TAPS - 1);
        let nominal = rate == 1.0 && self.phase == 0.0;
        let begin = if nominal {
            let first = SHIFT_TAPS / 2 - 1;
            out.extend(self.input[first..first + count].iter().copied());
            count
        } else {
            self.interpolate(count, rate, out)
        };
        self.input.drain(..begin);
    }

    /// Returns how many input samples are done with.
    fn interpolate(&mut self, count: usize, rate: f64, out: &mut impl Extend<f32>) -> usize {
        let (table, input, mut position) = (self.table, &self.input, self.phase);
        out.extend(std::iter::from_fn(|| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // small, not negative
            let (begin, between) = (position as usize, position.fract() * SHIFT_PHASES as f64);
            if begin >= count {
                return None;
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below SHIFT_PHASES
            let (phase, blend) = (between as usize, between.fract() as f32);
            let window = &input[begin..begin + SHIFT_TAPS];
            let filters = &table[phase * SHIFT_TAPS..(phase + 2) * SHIFT_TAPS];
            let (below, above) = filters.split_at(SHIFT_TAPS);
            position += rate;
            let (below, above) = (dot(window, below), dot(window, above));
            Some(below + (above - below) * blend)
        }));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most a frame
        let done = (position as usize).min(self.input.len());
        self.phase = position - done as f64;
        done
    }

    /// Appends what was held back, as if silence followed, and begins anew.
    pub(crate) fn flush(&mut self, out: &mut impl Extend<f32>) {
        self.process(&[0.0; SHIFT_TAPS / 2], 1.0, out);
        self.reset();
    }
}

/// One filter for each position between two samples, and the first one again, shifted by a sample.
fn shift_table() -> &'static [f32] {
    static TABLE: std::sync::LazyLock<Vec<f32>> = std::sync::LazyLock::new(|| {
        let half = (SHIFT_TAPS / 2) as f64;
        let mut table = Vec::with_capacity((SHIFT_PHASES + 1) * SHIFT_TAPS);
        for phase in 0..=SHIFT_PHASES {
            let centre = half - 1.0 + phase as f64 / SHIFT_PHASES as f64;
            let tap = |k: usize| {
                let x = k as f64 - centre;
                sinc(x) * kaiser(x / half)
            };
            let sum: f64 = (0..SHIFT_TAPS).map(tap).sum();
            #[allow(clippy::cast_possible_truncation)] // single precision is what audio has
            table.extend((0..SHIFT_TAPS).map(|k| (tap(k) / sum) as f32));
        }
        table
    });
    &TABLE
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The filters of all phases, each with unit gain at 0 Hz.
fn filter(up: usize, down: usize, taps: usize) -> Vec<f32> {
    let edge = EDGE * (up as f64 / down as f64).min(1.0);
    let half = (taps / 2) as f64;
    let mut table = Vec::with_capacity(up * taps);
    for phase in 0..up {
        let centre = half - 1.0 + phase as f64 / up as f64;
        let tap = |k: usize| {
            let x = k as f64 - centre;
            sinc(edge * x) * kaiser(x / half)
        };
        let sum: f64 = (0..taps).map(tap).sum();
        #[allow(clippy::cast_possible_truncation)] // single precision is what audio has
        table.extend((0..taps).map(|k| (tap(k) / sum) as f32));
    }
    table
}

fn sinc(x: f64) -> f64 {
    let angle = std::f64::consts::PI * x;
    if angle.abs() < 1e-9 {
        1.0
    } else {
        angle.sin() / angle
    }
}

fn kaiser(x: f64) -> f64 {
    let inside = (1.0 - x * x).max(0.0);
    bessel_i0(KAISER_BETA * inside.sqrt()) / bessel_i0(KAISER_BETA)
}

/// Modified Bessel function of the first kind, order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let mut term = 1.0;
    let mut sum = 1.0;
    for k in 1..40 {
        term *= quarter / f64::from(k * k);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hz: f32, len: usize) -> Vec<f32> {
        let step = hz * std::f32::consts::TAU / rate as f32;
        (0..len).map(|i| 0.5 * (i as f32 * step).sin()).collect()
    }

    fn level(samples: &[f32]) -> f32 {
        (samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32).sqrt()
    }

    #[test]
    fn a_tone_keeps_its_pitch_its_level_and_its_place() {
        for (from, to) in [
            (16_000, 48_000),
            (44_100, 48_000),
            (48_000, 16_000),
            (22_050, 48_000),
            (48_000, 44_100),
        ] {
            let second = from as usize;
            let out = resample(&tone(from, 1_000.0, second), from, to).unwrap();
            assert!(
                out.len().abs_diff(to as usize) <= 3,
                "{from} to {to}: {}",
                out.len()
            );
            let wanted = tone(to, 1_000.0, out.len());
            let inner = 200..out.len() - 200;
            let off: Vec<f32> = inner.map(|i| out[i] - wanted[i]).collect();
            assert!(level(&off) < 1e-3, "{from} to {to}: off by {}", level(&off));
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_carry_is_gone() {
        let out = resample(&tone(48_000, 11_000.0, 48_000), 48_000, 16_000).unwrap();
        assert!(level(&out[100..15_900]) < 1e-3);
    }

    #[test]
    fn pieces_of_any_length_give_the_same() {
        let input = tone(44_100, 440.0, 10_000);
        let whole = resample(&input, 44_100, 48_000).unwrap();
        let mut resampler = Resampler::new(44_100, 48_000).unwrap();
        let mut pieces = Vec::new();
        for piece in input.chunks(77) {
            resampler.process(piece, &mut pieces);
        }
        resampler.finish(&mut pieces);
        assert_eq!(pieces, whole);
    }

    #[test]
    fn a_shifted_tone_is_the_tone_of_the_shifted_pitch() {
        for (rate, hz) in [(1.01, 1_000.0), (0.99, 3_000.0), (1.0005, 8_000.0)] {
            let input = tone(48_000, hz, 48_000);
            let mut shifter = RateShifter::new();
            let mut out = Vec::new();
            for piece in input.chunks(480) {
                shifter.process(piece, rate, &mut out);
            }
            let expected = 48_000.0 / rate;
            assert!((out.len() as f64 - expected).abs() <= 32.0, "{}", out.len());
            #[allow(clippy::cast_possible_truncation)] // samples
            let wanted = (0..out.len()).map(|i| {
                let t = i as f64 * rate * f64::from(hz) * std::f64::consts::TAU / 48_000.0;
                0.5 * t.sin() as f32
            });
            let off: Vec<f32> = out.iter().zip(wanted).map(|(a, b)| a - b).collect();
            let noise = level(&off[100..]);
            assert!(noise < 1e-3, "{rate} {hz}: {noise}");
        }
    }

    #[test]
    fn at_the_nominal_rate_samples_pass_unchanged() {
        let input = tone(48_000, 440.0, 4_800);
        let (mut shifter, mut out) = (RateShifter::new(), Vec::new());
        for piece in input.chunks(77) {
            shifter.process(piece, 1.0, &mut out);
        }
        shifter.flush(&mut out);
        assert_eq!(out, input);
    }

    #[test]
    fn impossible_rates_are_named() {
        assert_eq!(resample(&[], 0, 48_000), Err(ResampleError::Rate(0)));
        let (from, to) = (44_101, 383_999);
        assert_eq!(
            resample(&[], from, to),
            Err(ResampleError::Ratio { from, to })
        );
    }
}
