//! Sounds that are found again whatever a codec does to them, and when they were made.

/// Samples a second of what is said and recorded.
pub(crate) const RATE_HZ: usize = 48_000;
/// Chirps are looked for at a quarter of it: they end at 4 kHz.
const THIN: usize = 4;
/// How long a chirp lasts: 40 ms.
const LEN: usize = RATE_HZ / 25;
/// From here to there.
const HZ: (f32, f32) = (500.0, 4_000.0);
/// The likeness from which on a chirp counts as heard, 0 to 1.
const LIKE: f32 = 0.7;
/// How late one may be heard.
const LATEST_MS: usize = 400;

fn chirp() -> Vec<f32> {
    let len = LEN as f32;
    let sweep = (HZ.1 - HZ.0) / len;
    let sample = |i: usize| {
        let i = i as f32;
        let cycles = (HZ.0 + sweep * i / 2.0) * i / RATE_HZ as f32;
        let window = 0.5 - 0.5 * (i / len * std::f32::consts::TAU).cos();
        0.5 * window * (cycles * std::f32::consts::TAU).sin()
    };
    (0..LEN).map(sample).collect()
}

/// Where chirp `k` begins: half a second apart, but never at the same place in a frame or a block.
fn begin(k: usize) -> usize {
    RATE_HZ / 1000 * (500 * (k + 1) + 37 * k % 100)
}

/// So many chirps, and a second of silence at the end.
pub(crate) fn said(count: usize) -> Vec<f32> {
    let mut samples = vec![0.0; begin(count) + RATE_HZ];
    for k in 0..count {
        samples[begin(k)..][..LEN].copy_from_slice(&chirp());
    }
    samples
}

/// When each chirp that was said at the mouth, and heard there, was heard at the ear: the time between, in milliseconds;
/// `None` where it was not. `offset_ms` is by how much the ear's recording began later.
pub(crate) fn delays_ms(
    mouth: &[f32],
    ear: &[f32],
    offset_ms: f64,
    count: usize,
) -> Vec<Option<f64>> {
    let (mouth, ear, chirp) = (thin(mouth), thin(ear), thin(&chirp()));
    let per_ms = (RATE_HZ / THIN / 1000) as f64;
    // Chirps are alike: the first one is in the first stretch that has any, which is too short for two.
    let stretch = RATE_HZ / THIN / 4;
    let first = (0..20).find_map(|i| find(&chirp, &mouth, i * stretch, (i + 1) * stretch));
    let Some(first) = first else {
        return vec![None; count];
    };
    let place = |k: usize| {
        let expected = first + (begin(k) - begin(0)) / THIN;
        find(&chirp, &mouth, expected.saturating_sub(600), expected + 600)
    };
    let delay = |k: usize| {
        let at = place(k)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a place in a recording
        let same = (at as f64 - offset_ms * per_ms).max(0.0) as usize;
        let latest = same + LATEST_MS * RATE_HZ / THIN / 1000;
        let heard = find(&chirp, &ear, same, latest)?;
        Some((heard as f64 - at as f64) / per_ms + offset_ms)
    };
    (0..count).map(delay).collect()
}

fn thin(samples: &[f32]) -> Vec<f32> {
    let mean = |group: &[f32]| group.iter().sum::<f32>() / THIN as f32;
    samples.chunks_exact(THIN).map(mean).collect()
}

/// Where `part` lies in `whole` between two places, if it does.
fn find(part: &[f32], whole: &[f32], from: usize, to: usize) -> Option<usize> {
    let whole = whole.get(from..(to + part.len()).min(whole.len()))?;
    let energy: f32 = part.iter().map(|x| x * x).sum();
    let likeness = |window: &[f32]| {
        let (mut xy, mut yy) = (0.0, 1e-6);
        for (x, y) in part.iter().zip(window) {
            xy += x * y;
            yy += y * y;
        }
        xy / (energy * yy).sqrt()
    };
    let all = whole.windows(part.len()).map(likeness).enumerate();
    let (place, best) = all.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best >= LIKE).then_some(from + place)
}

/// The value that this share of them does not exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
