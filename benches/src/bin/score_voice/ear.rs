//! The delay that an ear would notice: where what was said is found again in what was heard. It asks no
//! listener for its own opinion, so it serves for all alike.

/// What is compared is thinned out to 4 kHz.
const THINNED: usize = 12;
const RATE: f64 = 48_000.0 / THINNED as f64;
/// 60 ms: several periods of a voice.
const WINDOW: usize = 240;
/// No delay beyond 800 ms is looked for.
const LAGS: usize = 3_200;
/// Energy a sample below which nothing is said.
const QUIET: f32 = 0.0005;
/// How alike they must be, as normalised correlation.
const ALIKE: f32 = 0.8;

/// Of the places where they are nearly as alike as where they are most, the finer look decides: a vowel is like itself a
/// period later.
const NEARLY: f32 = 0.15;

/// When something was said, in seconds of the listener's clock, and how much later it was heard, in
/// milliseconds. Of the first 60 ms of each stretch of 60 ms in which somebody speaks.
pub(crate) fn delays(said: &[f32], heard: &[f32], ppm: f64) -> Vec<(f64, f64)> {
    let (thin_said, thin_heard) = (thin(said), thin(heard));
    let windows = thin_said.chunks_exact(WINDOW).enumerate();
    windows
        .filter(|(_, window)| energy(window) > QUIET * WINDOW as f32)
        .filter_map(|(index, window)| {
            let at_s = (index * WINDOW) as f64 / RATE / (1.0 + ppm * 1e-6);
            let begin = (at_s * RATE) as usize;
            let rest = thin_heard.get(begin..)?;
            let lags = places(window, &rest[..rest.len().min(WINDOW + LAGS)]);
            let part = said.get(index * WINDOW * THINNED..(index + 1) * WINDOW * THINNED)?;
            let lag = finest(part, heard, begin * THINNED, &lags)?;
            Some((
                at_s,
                ((begin * THINNED + lag) as f64 / 48_000.0 - at_s) * 1000.0,
            ))
        })
        .collect()
}

fn thin(samples: &[f32]) -> Vec<f32> {
    let mean = |chunk: &[f32]| chunk.iter().sum::<f32>() / THINNED as f32;
    samples.chunks_exact(THINNED).map(mean).collect()
}

fn energy(samples: &[f32]) -> f32 {
    samples.iter().map(|x| x * x).sum()
}

/// How alike two equally long pieces are, the first one's energy given.
fn likeness(part: &[f32], own: f32, window: &[f32]) -> f32 {
    let cross: f32 = part.iter().zip(window).map(|(x, y)| x * y).sum();
    cross / (own * energy(window) + 1e-9).sqrt()
}

/// Where `part` may lie in `whole`: the peaks of likeness.
fn places(part: &[f32], whole: &[f32]) -> Vec<usize> {
    let own = energy(part);
    let windows = whole.windows(part.len());
    let alike: Vec<f32> = windows.map(|window| likeness(part, own, window)).collect();
    let best = alike.iter().copied().fold(ALIKE, f32::max);
    let at = |lag: usize| alike.get(lag).copied().unwrap_or(-1.0);
    let peaks = (0..alike.len()).filter(|&lag| {
        let before = lag.checked_sub(1).map_or(-1.0, at);
        at(lag) > best - NEARLY && at(lag) >= before && at(lag) > at(lag + 1)
    });
    peaks.collect()
}

/// Which of these places it is, in samples after `begin`, if they are alike there at all.
fn finest(part: &[f32], heard: &[f32], begin: usize, lags: &[usize]) -> Option<usize> {
    let own = energy(part);
    let around = lags.iter().flat_map(|lag| {
        let centre = lag * THINNED;
        centre.saturating_sub(THINNED)..=centre + THINNED
    });
    let rated = around.filter_map(|lag| {
        let window = heard.get(begin + lag..begin + lag + part.len())?;
        Some((lag, likeness(part, own, window)))
    });
    let (lag, likeness) = rated.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (likeness > ALIKE - NEARLY).then_some(lag)
}
