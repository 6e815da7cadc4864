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

/// When something was said, in seconds of the listener's clock, and how much later it was heard, in
/// milliseconds. Of the first 60 ms of each stretch of 60 ms in which somebody speaks.
pub(crate) fn delays(said: &[f32], heard: &[f32], ppm: f64) -> Vec<(f64, f64)> {
    let (said, heard) = (thin(said), thin(heard));
    let windows = said.chunks_exact(WINDOW).enumerate();
    windows
        .filter(|(_, window)| energy(window) > QUIET * WINDOW as f32)
        .filter_map(|(index, window)| {
            let at_s = (index * WINDOW) as f64 / RATE / (1.0 + ppm * 1e-6);
            let begin = (at_s * RATE) as usize;
            let rest = heard.get(begin..)?;
            let lag = find(window, &rest[..rest.len().min(WINDOW + LAGS)])?;
            Some((at_s, ((begin + lag) as f64 / RATE - at_s) * 1000.0))
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

/// Where `part` lies in `whole`, if anywhere.
fn find(part: &[f32], whole: &[f32]) -> Option<usize> {
    let own = energy(part);
    let likeness = |window: &[f32]| {
        let cross: f32 = part.iter().zip(window).map(|(x, y)| x * y).sum();
        cross / (own * energy(window) + 1e-9).sqrt()
    };
    let best = whole.windows(part.len()).map(likeness).enumerate();
    let (lag, likeness) = best.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (likeness > ALIKE).then_some(lag)
}
