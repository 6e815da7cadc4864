//! Microphone and speaker, by cpal.
//!
//! The callbacks of the audio system run on its own thread, under a deadline: they move samples
//! through wait-free rings and do nothing else. Resampling and everything above happens where
//! [`Capture::read`] and [`Playback::write`] are called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use cpal::{
    BufferSize, Device, ErrorKind, FromSample, Host, Sample, SampleFormat, SizedSample, Stream,
    StreamConfig, SupportedStreamConfig,
    traits::{DeviceTrait, HostTrait, StreamTrait},
};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{ResampleError, Resampler, SAMPLE_RATE_HZ};

/// What the device is asked to handle at once; many give what they like.
const PERIOD_MS: u32 = 10;
/// What the rings hold: the caller may be late by so much.
const RING_MS: u32 = 200;
/// How long a device may take to start.
const START: Duration = Duration::from_secs(5);

/// Which devices to open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AudioConfig {
    /// See [`with_input`](Self::with_input).
    pub input: Option<String>,
    /// See [`with_output`](Self::with_output).
    pub output: Option<String>,
}

impl AudioConfig {
    /// The microphone's name, as [`AudioDevices::list`] tells it. Default: the system's default.
    #[must_use]
    pub fn with_input(mut self, name: impl Into<String>) -> Self {
        self.input = Some(name.into());
        self
    }

    /// The speaker's name, as [`AudioDevices::list`] tells it. Default: the system's default.
    #[must_use]
    pub fn with_output(mut self, name: impl Into<String>) -> Self {
        self.output = Some(name.into());
        self
    }
}

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
    /// No such speaker, or none at all.
    #[error("there is no such speaker: plug one in, or choose another")]
    NoOutput,
    /// Someone else has it.
    #[error("another program holds the device: close it and try again")]
    Busy,
    /// The system does not allow it.
    #[error("the system does not allow the use of the device: grant it in its privacy settings")]
    Denied,
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
            other => Self::System(other),
        }
    }
}

/// The names of the devices that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceNames {
    /// Microphones.
    pub inputs: Vec<String>,
    /// Speakers.
    pub outputs: Vec<String>,
}

/// The machine's sound devices.
#[derive(Debug, Clone, Copy)]
pub struct AudioDevices;

impl AudioDevices {
    /// The devices that are there now.
    ///
    /// # Errors
    /// [`DeviceError::NoHost`] where no sound system runs.
    pub fn list() -> Result<DeviceNames, DeviceError> {
        let host = host();
        let names = |devices: &mut dyn Iterator<Item = Device>| devices.filter_map(name).collect();
        Ok(DeviceNames {
            inputs: names(&mut host.input_devices()?),
            outputs: names(&mut host.output_devices()?),
        })
    }

    /// Opens a microphone and a speaker, and starts both. They need not share a rate, nor have
    /// one channel at 48 kHz: that is converted.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(config: &AudioConfig) -> Result<(Capture, Playback), DeviceError> {
        Ok((Capture::open(config)?, Playback::open(config)?))
    }
}

/// PulseAudio where it was asked for and is there, otherwise what the system prefers.
fn host() -> Host {
    #[cfg(all(feature = "pulse", target_os = "linux"))]
    if let Ok(host) = cpal::host_from_id(cpal::HostId::PulseAudio) {
        return host;
    }
    cpal::default_host()
}

fn name(device: Device) -> Option<String> {
    Some(device.description().ok()?.name().to_owned())
}

fn named(mut devices: impl Iterator<Item = Device>, wanted: &str) -> Option<Device> {
    devices.find(|device| device.description().is_ok_and(|it| it.name() == wanted))
}

/// What the callbacks tell.
#[derive(Debug, Default)]
struct Health {
    lost: AtomicBool,
    /// Samples that found no room, or were not there in time.
    missed: AtomicU64,
}

impl Health {
    fn heed(&self, error: &cpal::Error) {
        let gone = matches!(
            error.kind(),
            ErrorKind::DeviceNotAvailable
                | ErrorKind::HostUnavailable
                | ErrorKind::StreamInvalidated
        );
        if gone {
            self.lost.store(true, Relaxed);
        }
    }
}

/// A running microphone.
pub struct Capture {
    _stream: Stream,
    ring: Consumer<f32>,
    resampler: Resampler,
    scratch: Vec<f32>,
    health: Arc<Health>,
}

impl Capture {
    /// Opens and starts the microphone that `config` names.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(config: &AudioConfig) -> Result<Self, DeviceError> {
        let host = host();
        let device = match &config.input {
            Some(name) => named(host.input_devices()?, name),
            None => host.default_input_device(),
        };
        let device = device.ok_or(DeviceError::NoInput)?;
        let wanted = at_voice_rate(
            device.default_input_config()?,
            device.supported_input_configs()?,
        );
        let health = Arc::new(Health::default());
        let start = |config| match wanted.sample_format() {
            SampleFormat::F32 => capture::<f32>(&device, config, &health),
            SampleFormat::I16 => capture::<i16>(&device, config, &health),
            SampleFormat::I32 => capture::<i32>(&device, config, &health),
            _ => Err(DeviceError::SampleFormat),
        };
        let (small, liked) = configs(&wanted);
        let (stream, ring) = start(small).or_else(|_| start(liked))?;
        stream.play()?;
        Ok(Self {
            _stream: stream,
            ring,
            resampler: Resampler::new(wanted.sample_rate(), SAMPLE_RATE_HZ)?,
            scratch: Vec::new(),
            health,
        })
    }

    /// Appends what was captured since the last call to `out`, 48 kHz mono, and returns how many
    /// samples. Call at least every 200 ms, or the oldest are kept and the newest dropped.
    pub fn read(&mut self, out: &mut Vec<f32>) -> usize {
        let before = out.len();
        self.scratch.clear();
        if let Ok(chunk) = self.ring.read_chunk(self.ring.slots()) {
            let (first, second) = chunk.as_slices();
            self.scratch.extend_from_slice(first);
            self.scratch.extend_from_slice(second);
            chunk.commit_all();
        }
        self.resampler.process(&self.scratch, out);
        out.len() - before
    }

    /// Whether the device has gone away. Open again to go on.
    pub fn is_lost(&self) -> bool {
        self.health.lost.load(Relaxed)
    }

    /// Samples that were dropped because [`read`](Self::read) came too late.
    pub fn missed(&self) -> u64 {
        self.health.missed.load(Relaxed)
    }
}

/// A running speaker.
pub struct Playback {
    _stream: Stream,
    ring: Producer<f32>,
    rate_hz: u32,
    resampler: Resampler,
    scratch: Vec<f32>,
    health: Arc<Health>,
}

impl Playback {
    /// Opens and starts the speaker that `config` names.
    ///
    /// # Errors
    /// [`DeviceError`] says what is missing.
    pub fn open(config: &AudioConfig) -> Result<Self, DeviceError> {
        let host = host();
        let device = match &config.output {
            Some(name) => named(host.output_devices()?, name),
            None => host.default_output_device(),
        };
        let device = device.ok_or(DeviceError::NoOutput)?;
        let wanted = at_voice_rate(
            device.default_output_config()?,
            device.supported_output_configs()?,
        );
        let health = Arc::new(Health::default());
        let start = |config| match wanted.sample_format() {
            SampleFormat::F32 => playback::<f32>(&device, config, &health),
            SampleFormat::I16 => playback::<i16>(&device, config, &health),
            SampleFormat::I32 => playback::<i32>(&device, config, &health),
            _ => Err(DeviceError::SampleFormat),
        };
        let (small, liked) = configs(&wanted);
        let (stream, ring) = start(small).or_else(|_| start(liked))?;
        stream.play()?;
        Ok(Self {
            _stream: stream,
            ring,
            rate_hz: wanted.sample_rate(),
            resampler: Resampler::new(SAMPLE_RATE_HZ, wanted.sample_rate())?,
            scratch: Vec::new(),
            health,
        })
    }

    /// Queues samples, 48 kHz mono. What does not fit is dropped and counted.
    pub fn write(&mut self, samples: &[f32]) {
        self.scratch.clear();
        self.resampler.process(samples, &mut self.scratch);
        let (_, dropped) = self.ring.push_partial_slice(&self.scratch);
        self.health.missed.fetch_add(dropped.len() as u64, Relaxed);
    }

    /// How long the device can play what is queued. To keep the delay low, write the next block
    /// when less than two blocks are queued.
    pub fn queued(&self) -> Duration {
        let queued = self.ring.buffer().capacity() - self.ring.slots();
        Duration::from_micros(queued as u64 * 1_000_000 / u64::from(self.rate_hz))
    }

    /// Whether the device has gone away. Open again to go on.
    pub fn is_lost(&self) -> bool {
        self.health.lost.load(Relaxed)
    }

    /// Samples that did not fit, or that the device had to do without.
    pub fn missed(&self) -> u64 {
        self.health.missed.load(Relaxed)
    }
}

fn ring_len(rate_hz: u32) -> usize {
    (rate_hz / 1000 * RING_MS) as usize
}

/// The device's default, but at 48 kHz if it can.
fn at_voice_rate(
    default: SupportedStreamConfig,
    mut supported: impl Iterator<Item = cpal::SupportedStreamConfigRange>,
) -> SupportedStreamConfig {
    supported
        .find(|range| {
            range.channels() == default.channels()
                && range.sample_format() == default.sample_format()
        })
        .and_then(|range| range.try_with_sample_rate(SAMPLE_RATE_HZ))
        .unwrap_or(default)
}

/// With a small period, and with the one that the device likes.
fn configs(wanted: &SupportedStreamConfig) -> (StreamConfig, StreamConfig) {
    let liked = StreamConfig {
        channels: wanted.channels(),
        sample_rate: wanted.sample_rate(),
        buffer_size: BufferSize::Default,
    };
    let small = BufferSize::Fixed(wanted.sample_rate() * PERIOD_MS / 1000);
    let small = StreamConfig {
        buffer_size: small,
        ..liked
    };
    (small, liked)
}

/// A stream that mixes the device's channels down into a ring.
fn capture<T: SizedSample>(
    device: &Device,
    config: StreamConfig,
    health: &Arc<Health>,
) -> Result<(Stream, Consumer<f32>), DeviceError>
where
    f32: FromSample<T>,
{
    let (mut producer, consumer) = RingBuffer::new(ring_len(config.sample_rate));
    let channels = usize::from(config.channels.max(1));
    let (counter, watcher) = (health.clone(), health.clone());
    let stream = device.build_input_stream(
        config,
        move |data: &[T], _| {
            let frames = data.len() / channels;
            let room = frames.min(producer.slots());
            let mono = data.chunks_exact(channels).map(|frame| {
                frame.iter().map(|x| f32::from_sample(*x)).sum::<f32>() / channels as f32
            });
            if let Ok(chunk) = producer.write_chunk_uninit(room) {
                chunk.fill_from_iter(mono);
            }
            counter.missed.fetch_add((frames - room) as u64, Relaxed);
        },
        move |error| watcher.heed(&error),
        Some(START),
    )?;
    Ok((stream, consumer))
}

/// A stream that plays a ring on all of the device's channels, and silence when it is empty.
fn playback<T: SizedSample + FromSample<f32>>(
    device: &Device,
    config: StreamConfig,
    health: &Arc<Health>,
) -> Result<(Stream, Producer<f32>), DeviceError> {
    let (producer, mut consumer) = RingBuffer::<f32>::new(ring_len(config.sample_rate));
    let channels = usize::from(config.channels.max(1));
    let (counter, watcher) = (health.clone(), health.clone());
    let stream = device.build_output_stream(
        config,
        move |data: &mut [T], _| {
            let mut missed = 0;
            for frame in data.chunks_exact_mut(channels) {
                let sample = consumer.pop().unwrap_or_else(|_| {
                    missed += 1;
                    0.0
                });
                frame.fill(T::from_sample(sample));
            }
            counter.missed.fetch_add(missed, Relaxed);
        },
        move |error| watcher.heed(&error),
        Some(START),
    )?;
    Ok((stream, producer))
}
