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
