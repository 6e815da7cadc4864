//! Speaking and listening in a room.

mod clip;
#[cfg(feature = "device")]
mod devices;
mod recorder;
mod task;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use roundtable_core::PeerId;
pub use roundtable_voice::{SAMPLE_RATE_HZ, VoiceReceiverConfig, VoiceSenderConfig, VoiceStats};
use tokio::sync::{mpsc, watch};

pub use clip::{Clip, ClipError};
pub(crate) use task::{Control, FromVoice, ToVoice, VoiceTask};

/// Where a voice comes from.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Source {
    /// Nowhere: this peer only listens.
    #[default]
    Silent,
    /// A recording.
    Clip(Clip),
    /// The default microphone. Without one this peer only listens.
    #[cfg(feature = "device")]
    Microphone,
}

/// Why voice could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VoiceError {
    /// The codec or a buffer is set up wrongly.
    #[error(transparent)]
    Config(#[from] roundtable_voice::VoiceConfigError),
    /// The directory for recordings cannot be made or written.
    #[error("cannot record into {}: {source}", path.display())]
    Record {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How a peer speaks and listens. Default: listens, and plays to nowhere.
#[derive(Debug, Clone, Default)]
#[must_use = "give it to RoomBuilder::voice"]
pub struct Voice {
    pub(crate) source: Source,
    pub(crate) record: Option<PathBuf>,
    #[cfg(feature = "device")]
    pub(crate) speakers: bool,
    pub(crate) sender: VoiceSenderConfig,
    pub(crate) receiver: VoiceReceiverConfig,
}

impl Voice {
    /// Speaks this.
    pub fn say(mut self, clip: Clip) -> Self {
        self.source = Source::Clip(clip);
        self
    }

    /// Speaks through the default microphone and plays through the default speakers. A device that
    /// is missing is done without, and logged.
    #[cfg(feature = "device")]
    pub fn devices(mut self) -> Self {
        if matches!(self.source, Source::Silent) {
            self.source = Source::Microphone;
        }
        self.speakers = true;
        self
    }

    /// Records each remote speaker to `PEER.wav`, and everyone together to `mix.wav`, in this
    /// directory: 48 kHz, mono, 16 bit, about 5.8 MB a minute and file.
    pub fn record(mut self, directory: impl Into<PathBuf>) -> Self {
        self.record = Some(directory.into());
        self
    }

    /// How speech is detected and encoded.
    pub fn sender(mut self, config: VoiceSenderConfig) -> Self {
        self.sender = config;
        self
    }

    /// How arriving speech is buffered.
    pub fn receiver(mut self, config: VoiceReceiverConfig) -> Self {
        self.receiver = config;
        self
    }
}

/// The controls of a room's voice. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VoiceHandle {
    controls: mpsc::Sender<Control>,
    stats: watch::Receiver<Arc<HashMap<PeerId, VoiceStats>>>,
}

impl VoiceHandle {
    /// Stops or resumes sending this peer's voice.
    pub async fn mute(&self, muted: bool) {
        // A room that was left is mute.
        let _ = self.controls.send(Control::Mute(muted)).await;
    }

    /// How loud `peer` is played: 0 is not at all, 1 as it came, at most 8.
    pub async fn set_volume(&self, peer: PeerId, volume: f32) {
        let _ = self.controls.send(Control::Volume(peer, volume)).await;
    }

    /// What is heard of each peer, renewed once a second.
    pub fn stats(&self) -> Arc<HashMap<PeerId, VoiceStats>> {
        self.stats.borrow().clone()
    }
}
