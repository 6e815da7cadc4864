//! The words that are said: the recordings that the demo speaks.

use crate::Error;

/// Three people, half a minute.
pub(crate) fn recorded() -> Result<Vec<f32>, Error> {
    let mut speech = Vec::new();
    for name in ["alice", "bob", "carol"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/roundtable/assets");
        let mut wav = hound::WavReader::open(format!("{folder}/{name}.wav"))?;
        for sample in wav.samples::<i16>() {
            speech.push(f32::from(sample?) / 32_768.0);
        }
    }
    Ok(speech)
}

/// The same again and again, for so many seconds.
pub(crate) fn lasting(speech: &[f32], seconds: u64) -> Vec<f32> {
    let len = usize::try_from(seconds * 48_000).unwrap_or(usize::MAX);
    speech.iter().copied().cycle().take(len).collect()
}
