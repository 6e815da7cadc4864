//! Shorter or longer without a click and without a change of pitch (WSOLA): one period of the voice
//! is cut out or repeated where it is most like its neighbour, and cross-faded.

/// Shortest and longest piece to cut or repeat, in samples at 48 kHz: 2.5 and 10 ms.
const MIN_LAG: usize = 120;
const MAX_LAG: usize = 480;
/// The search looks at every so manyth sample.
const STRIDE: usize = 4;
/// How alike neighbours must be, as normalised correlation.
const ALIKE: f32 = 0.75;
/// Energy a sample below which nobody hears a cut: -50 dBFS.
const QUIET: f32 = 1e-5;

/// Shortens `frame` by up to 10 ms; returns by how many samples, 0 where a cut would be heard.
pub(crate) fn shorten(frame: &mut Vec<f32>) -> usize {
    let Some(lag) = best_lag(frame) else {
        return 0;
    };
    for i in 0..lag {
        frame[i] = fade(frame[i], frame[lag + i], i, lag);
    }
    frame.drain(lag..2 * lag);
    lag
}

/// Lengthens `frame` by up to 10 ms; returns by how many samples, 0 where a repeat would be heard.
pub(crate) fn lengthen(frame: &mut Vec<f32>, scratch: &mut Vec<f32>) -> usize {
    let Some(lag) = best_lag(frame) else {
        return 0;
    };
    scratch.clear();
    scratch.extend_from_slice(&frame[..lag]);
    scratch.extend((0..lag).map(|i| fade(frame[lag + i], frame[i], i, lag)));
    scratch.extend_from_slice(&frame[lag..]);
    std::mem::swap(frame, scratch);
    lag
}

/// Goes from `from` to `to` as `i` goes from 0 to `len`.
fn fade(from: f32, to: f32, i: usize, len: usize) -> f32 {
    from + (to - from) * ((i as f32 + 0.5) / len as f32)
}

/// The distance at which the frame's beginning is most like what follows it.
fn best_lag(frame: &[f32]) -> Option<usize> {
    let longest = MAX_LAG.min(frame.len() / 2);
    if longest < MIN_LAG {
        return None;
    }
    let energy: f32 = frame.iter().map(|x| x * x).sum();
    if energy < QUIET * frame.len() as f32 {
        return Some(longest);
    }
    let (lag, likeness) = (MIN_LAG..=longest)
        .step_by(STRIDE)
        .map(|lag| (lag, likeness(frame, lag)))
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (likeness >= ALIKE).then_some(lag)
}

/// Normalised correlation of the first `lag` samples with the next.
fn likeness(frame: &[f32], lag: usize) -> f32 {
    let (mut cross, mut first, mut second) = (0.0, 0.0, 1e-9);
    for i in (0..lag).step_by(STRIDE) {
        let (a, b) = (frame[i], frame[lag + i]);
        cross += a * b;
        first += a * a;
        second += b * b;
    }
    cross / (first * second + 1e-12_f32).sqrt()
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // test signals
mod tests {
    use super::*;

    /// A voice of 120 Hz with overtones.
    fn voiced() -> Vec<f32> {
        let step = 120.0 * std::f32::consts::TAU / 48_000.0;
        let sample = |i: u16| {
            let t = f32::from(i) * step;
            0.2 * t.sin() + 0.1 * (3.0 * t).sin() + 0.05 * (5.0 * t).cos()
        };
        (0..960).map(sample).collect()
    }

    fn steepest(samples: &[f32]) -> f32 {
        let steps = samples.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        steps.fold(0.0, f32::max)
    }

    #[test]
    fn a_voice_loses_or_gains_whole_periods_without_an_edge() {
        let original = voiced();
        let mut shorter = original.clone();
        let cut = shorten(&mut shorter);
        assert!(cut.abs_diff(400) <= 4, "one period of 120 Hz: {cut}");
        assert_eq!(shorter.len(), 960 - cut);
        let mut longer = original.clone();
        let added = lengthen(&mut longer, &mut Vec::new());
        assert!(added.abs_diff(400) <= 4);
        assert_eq!(longer.len(), 960 + added);
        for changed in [&shorter, &longer] {
            assert!(steepest(changed) <= 1.1 * steepest(&original));
            assert_eq!(changed[0..1], original[0..1], "joins what was before");
            assert_eq!(
                changed[changed.len() - 1],
                original[959],
                "joins what follows"
            );
        }
    }

    #[test]
    fn noise_is_left_alone_unless_nobody_hears_it() {
        let mut random = 1_u32;
        let mut noise: Vec<f32> = (0..960)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (f64::from(random) / f64::from(u32::MAX) - 0.5) as f32
            })
            .collect();
        assert_eq!(shorten(&mut noise.clone()), 0);
        noise.iter_mut().for_each(|x| *x *= 0.001);
        assert_eq!(shorten(&mut noise), 480);
    }

    #[test]
    fn frames_too_short_to_cut_are_left_alone() {
        assert_eq!(shorten(&mut vec![0.0; 239]), 0);
        assert_eq!(shorten(&mut Vec::new()), 0);
    }
}
