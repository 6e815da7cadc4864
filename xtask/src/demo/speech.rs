//! Does a recording hold a speaker's words, and nobody else's? And how long were they under way?
//!
//! Two views of the same sound. The *envelope* (loudness over time) shows that the words are there
//! in their order, with nothing missing: its correlation with the source's must be high at one
//! single delay. The *waveform* dates each stretch of speech to a fraction of a millisecond, and
//! finds another speaker's voice far below the level at which the envelope would show it.

use std::path::Path;

/// Least correlation of the envelopes at which a recording holds the words.
pub(crate) const MIN_CORRELATION: f64 = 0.9;
/// Least share of the stretches with speech that must be found in the waveform.
pub(crate) const MIN_DATED: f64 = 0.8;
/// A speaker whose waveform matches more than this is heard, though he should not be. Voices that
/// are not there stay below 0.04; one at a twentieth of the loudness reaches 0.09.
pub(crate) const MAX_PRESENCE: f64 = 0.1;

/// All sounds are compared at this rate, in hertz: speech is nearly all below half of it.
const RATE: u64 = 8000;
/// Samples of an envelope's step: 10 ms.
const STEP: usize = 80;
const STEPS_PER_SECOND: usize = 100;
/// Left out at the start, in steps: the link is being set up.
const SETTLING: usize = 50;
/// Left out at the end, in steps: peers leave.
const LEAVING: usize = 100;
/// Less than this, in steps, proves nothing.
const MIN_STEPS: usize = 5 * STEPS_PER_SECOND;
/// The stretch of waveform that is dated at once, in samples: 200 ms. In a longer one, playout that
/// catches up after a pause moves the words more than once; in a shorter one, voices resemble by chance.
const STRETCH: usize = 1600;
/// The stretch that is searched at once for another voice, in samples: 400 ms.
const SEARCHED: usize = 3200;
/// How far around the envelope's delay the waveform is searched, in samples: 60 ms.
const FINE: i64 = 480;
/// Longest delay, in steps, that counts as live speech: 1 s.
const LONGEST: usize = STEPS_PER_SECOND;
/// A stretch whose best match is worse than this is not dated.
const DATED: f64 = 0.5;

/// Why a sound file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SoundError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: hound::Error,
    },
    /// It is not 16-bit mono at a multiple of 8 kHz.
    #[error("{path} is not 16-bit mono at a multiple of 8 kHz")]
    Format {
        /// The file.
        path: String,
    },
}

/// Sound at 8 kHz, and when its first sample was heard or spoken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sound {
    /// Amplitudes, −1 to 1.
    pub(crate) samples: Vec<f32>,
    /// Microseconds since the Unix epoch.
    pub(crate) start_us: u64,
}

impl Sound {
    /// Reads a WAV file whose first sample is from `start_us`.
    pub(crate) fn read(path: &Path, start_us: u64) -> Result<Self, SoundError> {
        let shown = || path.display().to_string();
        let failed = |source| SoundError::Read {
            path: shown(),
            source,
        };
        let mut reader = hound::WavReader::open(path).map_err(failed)?;
        let spec = reader.spec();
        let factor = usize::try_from(u64::from(spec.sample_rate) / RATE).unwrap_or(0);
        if spec.channels != 1
            || spec.bits_per_sample != 16
            || factor == 0
            || u64::from(spec.sample_rate) % RATE != 0
        {
            return Err(SoundError::Format { path: shown() });
        }
        let samples: Vec<i16> = reader.samples().collect::<Result<_, _>>().map_err(failed)?;
        let samples = samples
            .chunks_exact(factor)
            .map(|chunk| {
                let sum: f32 = chunk.iter().map(|&sample| f32::from(sample)).sum();
                sum / f32::from(i16::MAX) / chunk.len() as f32
            })
            .collect();
        Ok(Self { samples, start_us })
    }

    /// Loudness in steps of 10 ms, each over the 50 ms around it: words and syllables, but neither
    /// the pitch nor the few milliseconds by which a playout delay moves.
    fn envelope(&self) -> Vec<f64> {
        const AROUND: usize = 2;
        let power: Vec<f64> = self.samples.chunks_exact(STEP).map(power).collect();
        (0..power.len())
            .map(|step| {
                let last = power.len().min(step + AROUND + 1);
                let around = &power[step.saturating_sub(AROUND)..last];
                (around.iter().sum::<f64>() / around.len() as f64).sqrt()
            })
            .collect()
    }
}

/// A speaker, who says the same again and again without a pause.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Speaker {
    /// Who.
    pub(crate) name: String,
    /// What is said.
    pub(crate) words: Sound,
}

/// How a recording compares with what was said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    /// Correlation of the envelopes at the best delay, −1 to 1.
    pub(crate) correlation: f64,
    /// Delay of each stretch of speech that could be dated, in milliseconds.
    pub(crate) delays_ms: Vec<f64>,
    /// Share of the stretches with speech that could be dated, 0 to 1.
    pub(crate) dated: f64,
    /// The other speaker who is heard most, and how well his waveform matches, 0 to 1.
    pub(crate) intruder: Option<(String, f64)>,
}

/// Why a recording cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CompareError {
    /// There is too little of it.
    #[error("the recording is too short")]
    TooShort,
}

/// Compares a recording with the speaker it is of and the others it should not hold.
pub(crate) fn compare(
    recording: &Sound,
    speaker: &Speaker,
    others: &[&Speaker],
) -> Result<Comparison, CompareError> {
    let words = speaker.words.envelope();
    let heard = recording.envelope();
    let since = since(recording, &speaker.words);
    let first = usize::try_from(-since / STEP as i64).unwrap_or(0) + SETTLING;
    let last = heard.len().saturating_sub(LEAVING);
    if last < first + MIN_STEPS || words.is_empty() {
        return Err(CompareError::TooShort);
    }
    let (delay, correlation) = (0..LONGEST)
        .map(|delay| {
            let shift = since - (delay * STEP) as i64;
            (
                delay,
                envelope_match(&heard[first..last], &words, shift, first),
            )
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((0, 0.0));
    let span = first * STEP..last * STEP;
    let coarse = (delay * STEP) as i64;
    let (delays_ms, dated) = date(recording, &speaker.words, span.clone(), coarse);
    let intruder = others
        .iter()
        .map(|other| {
            (
                other.name.clone(),
                presence(recording, &other.words, span.clone()),
            )
        })
        .max_by(|a, b| a.1.total_cmp(&b.1));
    Ok(Comparison {
        correlation,
        delays_ms,
        dated,
        intruder,
    })
}

/// The best correlation of a recording's envelope with words whose time is not known.
pub(crate) fn compare_undated(recording: &Sound, words: &Sound) -> Result<f64, CompareError> {
    let (heard, words) = (recording.envelope(), words.envelope());
    let last = heard.len().saturating_sub(LEAVING);
    if last < SETTLING + MIN_STEPS || words.is_empty() {
        return Err(CompareError::TooShort);
    }
    let best = (0..words.len())
        .map(|offset| envelope_match(&heard[SETTLING..last], &words, (offset * STEP) as i64, 0))
        .fold(-1.0, f64::max);
    Ok(best)
}

/// The smallest value that this many percent of the values do not exceed, or `None` of nothing.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Samples from the first word to the start of the recording; negative if it started before.
fn since(recording: &Sound, words: &Sound) -> i64 {
    let micros = recording.start_us.cast_signed() - words.start_us.cast_signed();
    micros * RATE.cast_signed() / 1_000_000
}

/// Correlation of what was heard from step `first` on with the words `shift` samples further on.
fn envelope_match(heard: &[f64], words: &[f64], shift: i64, first: usize) -> f64 {
    let start = shift.div_euclid(STEP as i64) + first as i64;
    let expected: Vec<f64> = (0..heard.len())
        .map(|step| looped(words, start + step as i64))
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_heard, mean_expected) = (mean(heard), mean(&expected));
    let pairs = heard.iter().zip(&expected);
    normalised(pairs.map(|(heard, expected)| (heard - mean_heard, expected - mean_expected)))
}

/// The delay of every stretch in `span` in which the words are loud, around a coarse delay in
/// samples, and the share of such stretches that could be dated.
fn date(
    recording: &Sound,
    words: &Sound,
    span: std::ops::Range<usize>,
    coarse: i64,
) -> (Vec<f64>, f64) {
    let since = since(recording, words);
    let stretches: Vec<(usize, i64)> = stretches(recording, span, STRETCH)
        .map(|at| (at, at as i64 + since - coarse))
        .filter(|&(_, place)| is_loud(words, place, STRETCH))
        .collect();
    let delays: Vec<f64> = stretches
        .iter()
        .filter_map(|&(at, place)| {
            let heard = &recording.samples[at..at + STRETCH];
            let (fine, quality) = (-FINE..=FINE)
                .map(|fine| (fine, waveform_match(heard, &words.samples, place - fine)))
                .max_by(|a, b| a.1.total_cmp(&b.1))?;
            (quality >= DATED).then(|| (coarse + fine) as f64 * 1000.0 / RATE as f64)
        })
        .collect();
    let share = delays.len() as f64 / stretches.len().max(1) as f64;
    (delays, share)
}

/// How well a speaker's waveform is found in a recording that should not hold it, 0 to 1.
///
/// The matches of all stretches are averaged delay by delay before the best delay is taken: what
/// resembles by chance does so at another delay each time, what is really there always at the same.
fn presence(recording: &Sound, words: &Sound, span: std::ops::Range<usize>) -> f64 {
    /// In samples: 400 ms.
    const LONGEST: i64 = 3200;
    let since = since(recording, words);
    let places: Vec<(usize, i64)> = stretches(recording, span, SEARCHED)
        .map(|at| (at, at as i64 + since))
        .filter(|&(_, place)| is_loud(words, place - LONGEST / 4, SEARCHED))
        .collect();
    (0..LONGEST)
        .step_by(2)
        .map(|delay| {
            let sum: f64 = places
                .iter()
                .map(|&(at, place)| {
                    let heard = &recording.samples[at..at + SEARCHED];
                    waveform_match(heard, &words.samples, place - delay)
                })
                .sum();
            sum.abs() / places.len().max(1) as f64
        })
        .fold(0.0, f64::max)
}

/// Where stretches of `len` samples begin that lie in `span`, one after the other.
fn stretches(
    recording: &Sound,
    span: std::ops::Range<usize>,
    len: usize,
) -> impl Iterator<Item = usize> {
    let end = span.end.min(recording.samples.len());
    span.step_by(len).take_while(move |at| at + len <= end)
}

/// Whether the `len` samples of the words at this place are louder than a third of their average.
fn is_loud(words: &Sound, place: i64, len: usize) -> bool {
    let there: Vec<f32> = (0..len as i64)
        .map(|offset| looped(&words.samples, place + offset))
        .collect();
    rms(&there) > rms(&words.samples) / 3.0
}

fn waveform_match(heard: &[f32], words: &[f32], place: i64) -> f64 {
    let start = index(words.len(), place);
    let expected = words[start..].iter().chain(words.iter().cycle());
    let pairs = heard.iter().zip(expected);
    normalised(pairs.map(|(&heard, &expected)| (f64::from(heard), f64::from(expected))))
}

/// Correlation of pairs, −1 to 1; 0 if one side is silent.
fn normalised(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (xy, xx, yy) = pairs.fold((0.0, 0.0, 0.0), |(xy, xx, yy), (x, y)| {
        (xy + x * y, xx + x * x, yy + y * y)
    });
    let power: f64 = xx * yy;
    if power > 0.0 { xy / power.sqrt() } else { 0.0 }
}

fn rms(samples: &[f32]) -> f64 {
    power(samples).sqrt()
}

fn power(samples: &[f32]) -> f64 {
    let sum: f64 = samples.iter().map(|&s| f64::from(s) * f64::from(s)).sum();
    sum / samples.len().max(1) as f64
}

fn index(len: usize, place: i64) -> usize {
    // A remainder is below the length, so it fits.
    usize::try_from(place.rem_euclid(len.max(1) as i64)).unwrap_or(0)
}

fn looped<T: Copy>(values: &[T], place: i64) -> T {
    values[index(values.len(), place)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOKEN_AT: u64 = 1_700_000_000_000_000;

    fn speaker(name: &str) -> Speaker {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/roundtable/assets");
        let words = Sound::read(&assets.join(format!("{name}.wav")), SPOKEN_AT).unwrap();
        let name = name.into();
        Speaker { name, words }
    }

    /// Fifteen seconds from 3.21 s after the speaker began, heard `delay_ms` later.
    fn heard(speaker: &Speaker, delay_ms: i64, gain: f32) -> Sound {
        let offset = 3210 * 8 - delay_ms * 8;
        let samples = (0..15 * 8000)
            .map(|at| gain * looped(&speaker.words.samples, at + offset))
            .collect();
        let start_us = SPOKEN_AT + 3_210_000;
        Sound { samples, start_us }
    }

    fn mixed(mut one: Sound, other: &Sound) -> Sound {
        for (sample, more) in one.samples.iter_mut().zip(&other.samples) {
            *sample += more;
        }
        one
    }

    #[test]
    fn a_delayed_and_quieter_voice_is_recognised_and_dated() {
        let (alice, bob) = (speaker("alice"), speaker("bob"));
        let result = compare(&heard(&alice, 73, 0.4), &alice, &[&bob]).unwrap();
        assert!(result.correlation > 0.95, "{result:?}");
        assert!(result.dated > MIN_DATED, "{result:?}");
        assert!(result.delays_ms.iter().all(|ms| (ms - 73.0).abs() < 0.2));
        let (_, intruder) = result.intruder.unwrap();
        assert!(intruder < MAX_PRESENCE / 2.0, "{intruder}");
    }

    #[test]
    fn a_voice_that_playout_hurries_after_each_pause_is_found_all_the_same() {
        // Every two seconds begin 60 ms late, and catch up by leaving out 3.75 ms each 50 ms.
        const LEFT_OUT: i64 = 30;
        let alice = speaker("alice");
        let mut hurried = heard(&alice, 60, 1.0);
        let offset = 3210 * 8 - 60 * 8;
        for (at, sample) in hurried.samples.iter_mut().enumerate() {
            let at = at as i64;
            let behind = LEFT_OUT * (16 - at % 16_000 / 400).max(0);
            *sample = looped(&alice.words.samples, at + offset - behind);
        }
        let result = compare(&hurried, &alice, &[]).unwrap();
        assert!(result.correlation > MIN_CORRELATION, "{result:?}");
        assert!(result.dated > MIN_DATED, "{result:?}");
    }

    #[test]
    fn a_recording_that_began_before_the_speaker_did_is_compared_from_the_first_word() {
        let alice = speaker("alice");
        let mut late_speaker = alice.clone();
        late_speaker.words.start_us += 3_210_000;
        let lead_in = Sound {
            samples: [vec![0.0; 3250 * 8], heard(&alice, 3210, 1.0).samples].concat(),
            start_us: SPOKEN_AT,
        };
        let result = compare(&lead_in, &late_speaker, &[]).unwrap();
        assert!(result.correlation > 0.95, "{result:?}");
        assert!(result.delays_ms.iter().all(|ms| (ms - 40.0).abs() < 0.2));
    }

    #[test]
    fn each_wrong_speaker_is_refused() {
        for (said, expected) in [("alice", "bob"), ("bob", "carol"), ("carol", "alice")] {
            let result = compare(&heard(&speaker(said), 60, 1.0), &speaker(expected), &[]).unwrap();
            assert!(result.correlation < 0.7, "{said}: {}", result.correlation);
            assert!(result.dated < 0.3, "{said}: {}", result.dated);
        }
    }

    #[test]
    fn silence_holds_nothing() {
        let alice = speaker("alice");
        let result = compare(&heard(&alice, 60, 0.0), &alice, &[]).unwrap();
        assert!(result.correlation.abs() < 0.1);
        assert!(result.delays_ms.is_empty());
    }

    #[test]
    fn words_in_another_order_are_refused() {
        let alice = speaker("alice");
        let mut swapped = heard(&alice, 60, 1.0);
        for block in swapped.samples.chunks_exact_mut(2 * 12_000) {
            let (first, second) = block.split_at_mut(12_000);
            first.swap_with_slice(second);
        }
        let result = compare(&swapped, &alice, &[]).unwrap();
        assert!(
            result.correlation < MIN_CORRELATION,
            "{}",
            result.correlation
        );
    }

    #[test]
    fn a_hole_of_two_seconds_is_noticed() {
        let alice = speaker("alice");
        let mut holed = heard(&alice, 60, 1.0);
        holed.samples[20_000..36_000].fill(0.0);
        let result = compare(&holed, &alice, &[]).unwrap();
        assert!(
            result.correlation < MIN_CORRELATION,
            "{}",
            result.correlation
        );
    }

    #[test]
    fn another_voice_is_found_though_it_is_too_quiet_for_the_envelope() {
        let (alice, bob, carol) = (speaker("alice"), speaker("bob"), speaker("carol"));
        let both = mixed(heard(&alice, 60, 1.0), &heard(&bob, 85, 0.1));
        let result = compare(&both, &alice, &[&carol, &bob]).unwrap();
        assert!(result.correlation > 0.9, "{}", result.correlation);
        let (name, presence) = result.intruder.unwrap();
        assert_eq!(name, "bob");
        assert!(presence > MAX_PRESENCE, "{presence}");
    }

    #[test]
    fn two_voices_equally_loud_are_refused() {
        let (alice, bob) = (speaker("alice"), speaker("bob"));
        let both = mixed(heard(&alice, 60, 1.0), &heard(&bob, 60, 1.0));
        let result = compare(&both, &alice, &[&bob]).unwrap();
        assert!(
            result.correlation < MIN_CORRELATION,
            "{}",
            result.correlation
        );
        assert!(result.intruder.unwrap().1 > MAX_PRESENCE);
    }

    #[test]
    fn speech_later_than_live_is_refused() {
        let alice = speaker("alice");
        let result = compare(&heard(&alice, 1600, 1.0), &alice, &[]).unwrap();
        assert!(
            result.correlation < MIN_CORRELATION,
            "{}",
            result.correlation
        );
    }

    #[test]
    fn words_of_unknown_time_are_recognised_by_their_envelope_alone() {
        let (alice, bob) = (speaker("alice"), speaker("bob"));
        let recording = heard(&alice, 400, 0.5);
        assert!(compare_undated(&recording, &alice.words).unwrap() > 0.95);
        assert!(compare_undated(&recording, &bob.words).unwrap() < 0.6);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50), Some(10.0));
        assert_eq!(percentile(&values, 95), Some(19.0));
        assert_eq!(percentile(&values[..1], 95), Some(20.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_few_seconds_prove_nothing() {
        let alice = speaker("alice");
        let mut short = heard(&alice, 60, 1.0);
        short.samples.truncate(5 * 8000);
        assert_eq!(compare(&short, &alice, &[]), Err(CompareError::TooShort));
    }
}
