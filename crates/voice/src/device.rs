//! Microphone and speakers, by cpal, kept open whatever happens to them.
//!
//! Two threads of two kinds touch a device. The sound system's own calls us back under a deadline: there, samples move
//! through wait-free rings and nothing else is done (`ring`). A thread of ours opens the device, notices that it is
//! gone, and opens it or another again (`keeper`). Resampling and everything above happens where [`Capture::read`]
//! and [`Playback::write`] are called; those never wait for a device.

mod capture;
mod keeper;
mod orders;
mod playback;
mod ring;
mod system;

use std::time::Duration;

use cpal::ErrorKind;

pub use self::{capture::Capture, playback::Playback, system::AudioDevices};
use crate::ResampleError;

/// What a device is asked to handle at once, where nothing else is wanted.
pub const DEVICE_PERIOD: Duration = Duration::from_millis(10);

/// Why there is no sound. A peer goes on without: having no device is a state, not a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No sound system runs here.
    #[error("no sound system answers: is PulseAudio, PipeWire or ALSA there?")]
    NoHost,
    /// No such microphone, or none at all.
    #[error("there is no such microphone: plug one in, or choose another")]
    NoInput,
    /// No such speakers, or none at all.
    #[error("there are no such speakers: plug some in, or choose others")]
    NoOutput,
    /// Someone else has it.
    #[error("another program holds the device: close it and try again")]
    Busy,
    /// The system does not allow it.
    #[error("the system does not allow the use of the device: grant it in its privacy settings")]
    Denied,
    /// It was there and is not any more.
    #[error("the device is gone")]
    Gone,
    /// It was opened, or is being opened, and neither takes nor gives samples.
    #[error("the device does not move: unplug it and plug it in again, or choose another")]
    Stalled,
    /// Samples of a kind that is not supported.
    #[error("the device takes neither 16-bit, 32-bit nor floating point samples")]
    SampleFormat,
    /// A rate that cannot be converted.
    #[error(transparent)]
    Rate(#[from] ResampleError),
    /// Anything else that the sound system said.
    #[error("the sound system failed: {0:?}")]
    System(ErrorKind),
}

impl From<cpal::Error> for DeviceError {
    fn from(error: cpal::Error) -> Self {
        match error.kind() {
            ErrorKind::HostUnavailable => Self::NoHost,
            ErrorKind::DeviceBusy => Self::Busy,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::DeviceNotAvailable | ErrorKind::StreamInvalidated => Self::Gone,
            other => Self::System(other),
        }
    }
}

/// Which way sound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A microphone.
    Input,
    /// Speakers.
    Output,
}

impl Direction {
    /// `input` or `output`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    const fn missing(self) -> DeviceError {
        match self {
            Self::Input => DeviceError::NoInput,
            Self::Output => DeviceError::NoOutput,
        }
    }
}

/// A microphone or speakers that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What the sound system calls it: the same after a restart, such as `pulseaudio:alsa_input.usb-1`.
    pub id: String,
    /// What people call it. Two devices may have one name.
    pub name: String,
    /// Whether it is the one that is used where none is chosen.
    pub is_default: bool,
}

/// The devices that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceList {
    /// Microphones.
    pub inputs: Vec<DeviceInfo>,
    /// Speakers.
    pub outputs: Vec<DeviceInfo>,
}

/// How a microphone or speakers are doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceState {
    /// It is being looked for.
    #[default]
    Opening,
    /// It runs.
    Open {
        /// What it is.
        device: DeviceInfo,
        /// Whether it stands in for the chosen one, which is not there. Once that is, it is taken.
        stands_in: bool,
    },
    /// There is none. It is looked for again, every two seconds at the least.
    Missing(DeviceError),
}

impl DeviceState {
    /// Whether sound passes.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}
