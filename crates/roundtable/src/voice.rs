//! Speaking and listening in a room.

mod clip;
mod desk;
#[cfg(feature = "device")]
mod devices;
mod listeners;
mod recorder;
mod task;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use roundtable_core::{Bitrate, PeerId};
pub use roundtable_media_codec::{OpusConfig, OpusUse};
pub use roundtable_sync::JitterConfig;
pub use roundtable_voice::{
    Activation, LatencyBreakdown, Listener, Position, SAMPLE_RATE_HZ, SpatialConfig,
    SpeakerDiagnostics, VadConfig, VadKind, VoiceConfigError, VoiceDiagnostics,
    VoiceReceiverConfig, VoiceSenderConfig, VoiceSenderStats, VoiceStats,
};
#[cfg(feature = "device")]
pub use roundtable_voice::{
    AudioDevices, Capture, DEVICE_PERIOD, DeviceError, DeviceInfo, DeviceList, DeviceState,
    Direction, Playback,
};
#[cfg(feature = "processing")]
pub use roundtable_voice::{NoiseReduction, ProcessingConfig};
use tokio::sync::{mpsc, oneshot, watch};

pub use clip::{Clip, ClipError};
pub(crate) use listeners::{KEY_NAME, Listeners, RoomVolumes, STRATEGY};
pub use listeners::{KEY_TYPE, volume_command};
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
    /// The microphone. While there is none, this peer only listens.
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
    #[cfg(feature = "device")]
    pub(crate) input: Option<String>,
    #[cfg(feature = "device")]
    pub(crate) output: Option<String>,
    /// What devices are asked to handle at once, where it is not what suits most.
    #[cfg(feature = "device")]
    pub(crate) period: Option<std::time::Duration>,
    pub(crate) sender: VoiceSenderConfig,
    pub(crate) receiver: VoiceReceiverConfig,
    pub(crate) spatial: Option<SpatialConfig>,
}

impl Voice {
    /// Speaks this.
    pub fn say(mut self, clip: Clip) -> Self {
        self.source = Source::Clip(clip);
        self
    }

    /// Speaks through the microphone and plays through the speakers: those that [`input`](Self::input) and
    /// [`output`](Self::output) choose, or the system's defaults. While one is missing it is done without; it is taken
    /// into use when it comes, and taken again when it comes back. [`Event::Device`](crate::Event::Device) tells.
    #[cfg(feature = "device")]
    pub fn devices(mut self) -> Self {
        if matches!(self.source, Source::Silent) {
            self.source = Source::Microphone;
        }
        self.speakers = true;
        self
    }

    /// The microphone's [id or name](DeviceInfo), as [`AudioDevices::list`] tells it. Default: the system's default,
    /// whichever that is at any time. It stands in where the chosen one is not there.
    #[cfg(feature = "device")]
    pub fn input(mut self, device: impl Into<String>) -> Self {
        self.input = Some(device.into());
        self
    }

    /// The speakers' [id or name](DeviceInfo), likewise.
    #[cfg(feature = "device")]
    pub fn output(mut self, device: impl Into<String>) -> Self {
        self.output = Some(device.into());
        self
    }

    /// Records each remote speaker to `PEER.wav`, and everyone together to `mix.wav`, in this
    /// directory: 48 kHz, mono, 16 bit, about 5.8 MB a minute and file.
    pub fn record(mut self, directory: impl Into<PathBuf>) -> Self {
        self.record = Some(directory.into());
        self
    }

    /// As soon as possible, for music together and for games: 10 ms frames, the codec's shortest delay, a buffer from 2 ms.
    /// Devices are asked for 5 ms at once. Takes half as many bits again, and a network that does not jitter.
    #[cfg_attr(not(feature = "device"), allow(unused_mut))]
    pub fn low_latency(mut self) -> Self {
        #[cfg(feature = "device")]
        {
            self.period = Some(DEVICE_PERIOD / 2);
        }
        self.sender(VoiceSenderConfig::low_latency())
            .receiver(VoiceReceiverConfig::low_latency())
    }

    /// Mixes in stereo, so that voices have places: see [`VoiceHandle::place`]. The speakers and a recording of the mix
    /// get two channels then.
    pub fn spatial(mut self, config: SpatialConfig) -> Self {
        self.spatial = Some(config);
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
    diagnostics: watch::Receiver<Arc<VoiceDiagnostics>>,
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

    /// Begins or ends talking, for [`Activation::PushToTalk`].
    pub async fn talk(&self, talking: bool) {
        let _ = self.controls.send(Control::Talk(talking)).await;
    }

    /// Puts `peer` somewhere, or, with `None`, in both ears and near. Heard as a direction where the voice was set
    /// up by [`Voice::spatial`], and as a distance otherwise.
    pub async fn place(&self, peer: PeerId, position: Option<Position>) {
        let _ = self.controls.send(Control::Place(peer, position)).await;
    }

    /// Puts this user somewhere.
    pub async fn place_listener(&self, listener: Listener) {
        let _ = self.controls.send(Control::Listener(listener)).await;
    }

    /// Goes over to another microphone or other speakers, by [id or name](DeviceInfo), or with `None` to the system's
    /// default. Only where [`Voice::devices`] asked for devices.
    #[cfg(feature = "device")]
    pub async fn choose_device(&self, direction: Direction, device: Option<String>) {
        let _ = self.controls.send(Control::Device(direction, device)).await;
    }

    /// Sends at another bit rate, without redundancy and headers, from the next frame on.
    ///
    /// # Errors
    /// [`VoiceConfigError::Codec`] outside 6 to 510 kbit/s. In a room that was left nothing is sent, and all is well.
    pub async fn set_bitrate(&self, bitrate: Bitrate) -> Result<(), VoiceConfigError> {
        self.ask(|reply| Control::Bitrate(bitrate, reply)).await
    }

    /// Detects and encodes speech by other settings from the next frame on. Nobody hears a gap.
    ///
    /// # Errors
    /// [`VoiceConfigError`] names what is out of range; the old settings then stay.
    pub async fn reconfigure(&self, config: VoiceSenderConfig) -> Result<(), VoiceConfigError> {
        self.ask(|reply| Control::Sender(Box::new(config), reply))
            .await
    }

    async fn ask(
        &self,
        control: impl FnOnce(oneshot::Sender<Result<(), VoiceConfigError>>) -> Control,
    ) -> Result<(), VoiceConfigError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.controls.send(control(reply)).await;
        answer.await.unwrap_or(Ok(()))
    }

    /// How the call is going, renewed once a second. As text it is an overlay; `Room::metrics` has it for
    /// Prometheus.
    pub fn diagnostics(&self) -> Arc<VoiceDiagnostics> {
        self.diagnostics.borrow().clone()
    }

    /// What is heard of each peer, renewed once a second.
    pub fn stats(&self) -> HashMap<PeerId, VoiceStats> {
        let diagnostics = self.diagnostics();
        let speakers = diagnostics.speakers.iter();
        speakers
            .map(|speaker| (speaker.peer.clone(), speaker.stats))
            .collect()
    }
}
