//! The sound system: what is there, and how a device of it is opened.

use std::{sync::Arc, time::Duration};

use cpal::{
    BufferSize, Device, ErrorKind, FromSample, Host, HostId, SampleFormat, SizedSample, Stream,
    StreamConfig, SupportedStreamConfig, SupportedStreamConfigRange,
    traits::{DeviceTrait, HostTrait, StreamTrait},
};
use rtrb::{Consumer, Producer};

use super::{
    DeviceError, DeviceInfo, DeviceList, Direction,
    ring::{Feed, Health, Tap},
};
use crate::SAMPLE_RATE_HZ;

/// The machine's sound system. Connecting takes a moment: keep it rather than connect again.
pub struct AudioDevices {
    host: Host,
}

impl AudioDevices {
    /// Connects to PulseAudio, or what stands in for it in PipeWire, where that was asked for (feature `pulse`) and is
    /// there, otherwise to PipeWire itself (feature `pipewire`), otherwise to what the system prefers.
    pub fn connect() -> Self {
        Self { host: host() }
    }

    /// Connects to this sound system, or as [`connect`](Self::connect) does.
    pub(super) fn of(id: Option<HostId>) -> Result<Self, DeviceError> {
        Ok(match id {
            Some(id) => Self {
                host: cpal::host_from_id(id)?,
            },
            None => Self::connect(),
        })
    }

    pub(super) fn host(&self) -> HostId {
        self.host.id()
    }

    /// The devices that are there now. May take the sound system a while: blocks.
    ///
    /// # Errors
    /// [`DeviceError::NoHost`] where no sound system runs.
    pub fn list(&self) -> Result<DeviceList, DeviceError> {
        let renewed = self.renewed()?;
        let host = renewed.as_ref().unwrap_or(&self.host);
        Ok(DeviceList {
            inputs: infos(host, Direction::Input)?,
            outputs: infos(host, Direction::Output)?,
        })
    }

    /// PipeWire's host, made anew: it knows only the devices that were there when it was made.
    #[cfg(all(feature = "pipewire", target_os = "linux"))]
    fn renewed(&self) -> Result<Option<Host>, DeviceError> {
        let id = self.host.id();
        let renewed = (id == HostId::PipeWire).then(|| cpal::host_from_id(id));
        Ok(renewed.transpose()?)
    }

    #[cfg(not(all(feature = "pipewire", target_os = "linux")))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)] // as above
    fn renewed(&self) -> Result<Option<Host>, DeviceError> {
        Ok(None)
    }

    /// The device of this id, else of this name, else the default one. The flag says that it is not what was wanted.
    pub(super) fn find(
        &self,
        direction: Direction,
        wanted: Option<&str>,
    ) -> Result<Found, DeviceError> {
        let renewed = self.renewed()?;
        let host = renewed.as_ref().unwrap_or(&self.host);
        let devices = devices(host, direction)?;
        let default = default(host, direction);
        let default_id = default.as_ref().and_then(id);
        let chosen = wanted.and_then(|wanted| {
            let named = |device: &&Device| {
                info(device, None).is_some_and(|it| it.id == wanted || it.name == wanted)
            };
            let by_id = devices
                .iter()
                .find(|device| id(device).as_deref() == Some(wanted));
            by_id.or_else(|| devices.iter().find(named)).cloned()
        });
        let stands_in = wanted.is_some() && chosen.is_none();
        let device = chosen.or(default).ok_or(direction.missing())?;
        let info = info(&device, default_id.as_deref()).ok_or(direction.missing())?;
        Ok(Found {
            device,
            info,
            stands_in,
        })
    }
}

/// A device to be opened.
pub(super) struct Found {
    pub(super) device: Device,
    pub(super) info: DeviceInfo,
    pub(super) stands_in: bool,
}

fn host() -> Host {
    #[cfg(all(feature = "pulse", target_os = "linux"))]
    if let Ok(host) = cpal::host_from_id(cpal::HostId::PulseAudio) {
        return host;
    }
    #[cfg(all(feature = "pipewire", target_os = "linux"))]
    if let Ok(host) = cpal::host_from_id(cpal::HostId::PipeWire) {
        return host;
    }
    cpal::default_host()
}

fn devices(host: &Host, direction: Direction) -> Result<Vec<Device>, DeviceError> {
    Ok(match direction {
        Direction::Input => host.input_devices()?.collect(),
        Direction::Output => host.output_devices()?.collect(),
    })
}

fn default(host: &Host, direction: Direction) -> Option<Device> {
    match direction {
        Direction::Input => host.default_input_device(),
        Direction::Output => host.default_output_device(),
    }
}

fn infos(host: &Host, direction: Direction) -> Result<Vec<DeviceInfo>, DeviceError> {
    let default = default(host, direction).and_then(|device| id(&device));
    let devices = devices(host, direction)?;
    let infos = devices
        .iter()
        .filter_map(|device| info(device, default.as_deref()));
    Ok(infos.collect())
}

fn id(device: &Device) -> Option<String> {
    Some(device.id().ok()?.to_string())
}

fn info(device: &Device, default: Option<&str>) -> Option<DeviceInfo> {
    let id = id(device)?;
    Some(DeviceInfo {
        name: device.description().ok()?.name().to_owned(),
        is_default: default == Some(&id),
        id,
    })
}

/// How a device is to be opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Interleaved channels on our side of the speakers, 1 or 2.
    pub(super) channels: usize,
    /// What the device is asked to handle at once; many give what they like.
    pub(super) period: Duration,
}

/// A stream that runs until it is dropped, and our end of its ring.
pub(super) struct Running<R> {
    pub(super) stream: Stream,
    pub(super) ring: R,
    pub(super) rate_hz: u32,
}

/// Opens and starts a microphone.
pub(super) fn capture(
    device: &Device,
    shape: Shape,
    health: &Arc<Health>,
) -> Result<Running<Consumer<f32>>, DeviceError> {
    let wanted = at_voice_rate(
        device.default_input_config()?,
        device.supported_input_configs()?,
    );
    let start = |config| match wanted.sample_format() {
        SampleFormat::F32 => tap::<f32>(device, config, health),
        SampleFormat::I16 => tap::<i16>(device, config, health),
        SampleFormat::I32 => tap::<i32>(device, config, health),
        _ => Err(DeviceError::SampleFormat),
    };
    started(&wanted, shape.period, start)
}

/// Opens and starts speakers, for a mix of one or two channels.
pub(super) fn playback(
    device: &Device,
    shape: Shape,
    health: &Arc<Health>,
) -> Result<Running<Producer<f32>>, DeviceError> {
    let channels = shape.channels;
    let wanted = at_voice_rate(
        device.default_output_config()?,
        device.supported_output_configs()?,
    );
    let start = |config| match wanted.sample_format() {
        SampleFormat::F32 => feed::<f32>(device, channels, config, health),
        SampleFormat::I16 => feed::<i16>(device, channels, config, health),
        SampleFormat::I32 => feed::<i32>(device, channels, config, health),
        _ => Err(DeviceError::SampleFormat),
    };
    started(&wanted, shape.period, start)
}

/// With the period that is wanted if the device can, otherwise with the one that it likes.
fn started<R>(
    wanted: &SupportedStreamConfig,
    period: Duration,
    start: impl Fn(StreamConfig) -> Result<(Stream, R), DeviceError>,
) -> Result<Running<R>, DeviceError> {
    let liked = StreamConfig {
        channels: wanted.channels(),
        sample_rate: wanted.sample_rate(),
        buffer_size: BufferSize::Default,
    };
    let frames = u128::from(wanted.sample_rate()) * period.as_micros() / 1_000_000;
    let small = StreamConfig {
        buffer_size: BufferSize::Fixed(u32::try_from(frames).unwrap_or(u32::MAX).max(1)),
        ..liked
    };
    let (stream, ring) = start(small).or_else(|_| start(liked))?;
    stream.play()?;
    Ok(Running {
        stream,
        ring,
        rate_hz: wanted.sample_rate(),
    })
}

/// The device's default, but at 48 kHz if it can.
fn at_voice_rate(
    default: SupportedStreamConfig,
    supported: impl Iterator<Item = SupportedStreamConfigRange>,
) -> SupportedStreamConfig {
    // Some systems name each rate as a range of its own.
    supported
        .filter(|range| {
            range.channels() == default.channels()
                && range.sample_format() == default.sample_format()
        })
        .find_map(|range| range.try_with_sample_rate(SAMPLE_RATE_HZ))
        .unwrap_or(default)
}

fn tap<T: SizedSample>(
    device: &Device,
    config: StreamConfig,
    health: &Arc<Health>,
) -> Result<(Stream, Consumer<f32>), DeviceError>
where
    f32: FromSample<T>,
{
    let (mut tap, ring) = Tap::new(config.sample_rate, config.channels, health.clone());
    let stream = device.build_input_stream(
        config,
        move |data: &[T], info| {
            let at = info.timestamp();
            tap.take(data, at.callback.saturating_duration_since(at.capture));
        },
        watch(health),
        None,
    )?;
    Ok((stream, ring))
}

fn feed<T: SizedSample + FromSample<f32>>(
    device: &Device,
    channels: usize,
    config: StreamConfig,
    health: &Arc<Health>,
) -> Result<(Stream, Producer<f32>), DeviceError> {
    let (mut feed, ring) = Feed::new(
        config.sample_rate,
        channels,
        config.channels,
        health.clone(),
    );
    let stream = device.build_output_stream(
        config,
        move |data: &mut [T], info| {
            let at = info.timestamp();
            feed.fill(data, at.playback.saturating_duration_since(at.callback));
        },
        watch(health),
        None,
    )?;
    Ok((stream, ring))
}

/// Heeds the errors after which a stream is of no use.
fn watch(health: &Arc<Health>) -> impl FnMut(cpal::Error) + Send + 'static {
    let health = health.clone();
    move |error| {
        let gone = matches!(
            error.kind(),
            ErrorKind::DeviceNotAvailable
                | ErrorKind::HostUnavailable
                | ErrorKind::StreamInvalidated
        );
        if gone {
            health.lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use cpal::SupportedBufferSize;

    use super::*;

    #[test]
    fn a_device_that_names_each_rate_by_itself_is_opened_at_48_khz() {
        let range = |channels, format, rate_hz| {
            let size = SupportedBufferSize::Unknown;
            SupportedStreamConfigRange::new(channels, rate_hz, rate_hz, size, format)
        };
        let rates = [44_100, SAMPLE_RATE_HZ, 96_000];
        let all = || {
            rates
                .map(|rate_hz| range(2, SampleFormat::F32, rate_hz))
                .into_iter()
        };
        let default = range(2, SampleFormat::F32, 44_100).with_max_sample_rate();
        assert_eq!(at_voice_rate(default, all()).sample_rate(), SAMPLE_RATE_HZ);
        let mono = range(1, SampleFormat::F32, 44_100).with_max_sample_rate();
        assert_eq!(at_voice_rate(mono, all()), mono);
    }
}
