//! The machine's microphone and speakers, as far as there are any.

use std::time::Duration;

use roundtable_voice::{AudioConfig, Capture, Playback};

/// Keeps so much queued at the speakers: less stutters, more adds delay.
pub(super) const QUEUED: Duration = Duration::from_millis(20);

/// Open devices. One that is missing or gets lost is done without.
#[derive(Default)]
pub(super) struct Devices {
    microphone: Option<Capture>,
    speakers: Option<Playback>,
}

impl Devices {
    /// Opens what is wanted. May take the sound system a while: blocks.
    pub(super) fn open(microphone: bool, speakers: bool) -> Self {
        let config = AudioConfig::default();
        let microphone = microphone.then(|| {
            let opened = Capture::open(&config);
            opened.inspect_err(|error| tracing::warn!(%error, "no microphone: listening only"))
        });
        let speakers = speakers.then(|| {
            let opened = Playback::open(&config);
            opened.inspect_err(|error| tracing::warn!(%error, "no speakers: speaking only"))
        });
        Self {
            microphone: microphone.and_then(Result::ok),
            speakers: speakers.and_then(Result::ok),
        }
    }

    /// Appends what the microphone has heard since the last call.
    pub(super) fn read(&mut self, out: &mut Vec<f32>) {
        let Some(microphone) = &mut self.microphone else {
            return;
        };
        microphone.read(out);
        if microphone.is_lost() {
            tracing::warn!("the microphone is gone: listening only");
            self.microphone = None;
        }
    }

    /// Whether the speakers want a block now; `None` without speakers.
    pub(super) fn want(&self) -> Option<bool> {
        let speakers = self.speakers.as_ref()?;
        Some(speakers.queued() < QUEUED)
    }

    pub(super) fn write(&mut self, samples: &[f32]) {
        let Some(speakers) = &mut self.speakers else {
            return;
        };
        speakers.write(samples);
        if speakers.is_lost() {
            tracing::warn!("the speakers are gone: speaking only");
            self.speakers = None;
        }
    }
}
