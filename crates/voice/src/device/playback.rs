//! The speakers.

use std::{sync::Arc, time::Duration};

use cpal::{Device, Stream};
use rtrb::Producer;

use super::{
    DeviceError, DeviceState, Direction,
    keeper::Keeper,
    ring::Health,
    system::{self, Shape},
};
use crate::{Resampler, SAMPLE_RATE_HZ};

/// Speakers that are kept open: ones that are missing, or get lost, are looked for again, and others stand in for them
/// meanwhile. Dropping it closes the device.
pub struct Playback {
    keeper: Keeper<End>,
}

/// Our end of a device.
struct End {
    ring: Producer<f32>,
    rate_hz: u32,
    /// One for each channel.
    resamplers: Vec<Resampler>,
    /// What one channel holds, before and after.
    given: Vec<f32>,
    taken: Vec<f32>,
    mix: Vec<f32>,
}

impl Playback {
    /// Begins to look for the speakers of this [id or name](super::DeviceInfo); with `None`, for the system's default,
    /// whichever that is at any time. Returns at once. What is written has 1 or 2 interleaved channels; more count as 2.
    ///
    /// `period` is what the device is asked to handle at once: [`DEVICE_PERIOD`](super::DEVICE_PERIOD) suits most, 5 ms where delay counts more
    /// than processor time and stutter on a busy machine; devices may give what they like.
    pub fn start(device: Option<&str>, channels: usize, period: Duration) -> Self {
        let wanted = device.map(str::to_owned);
        let channels = channels.clamp(1, 2);
        let shape = Shape { channels, period };
        Self {
            keeper: Keeper::start(Direction::Output, wanted, shape, open),
        }
    }

    /// Goes over to other speakers, as soon as they are there.
    pub fn choose(&self, device: Option<&str>) {
        self.keeper.choose(device.map(str::to_owned));
    }

    /// Queues samples, 48 kHz, interleaved. What does not fit in 200 ms is dropped and counted; without speakers all is
    /// dropped.
    pub fn write(&mut self, samples: &[f32]) {
        let Some((end, health)) = self.keeper.end() else {
            return;
        };
        let channels = end.resamplers.len();
        end.mix.clear();
        for (channel, resampler) in end.resamplers.iter_mut().enumerate() {
            end.given.clear();
            let given = samples.iter().skip(channel).step_by(channels);
            end.given.extend(given.take(samples.len() / channels));
            end.taken.clear();
            resampler.process(&end.given, &mut end.taken);
            end.mix.resize(end.taken.len() * channels, 0.0);
            let places = end.mix.iter_mut().skip(channel).step_by(channels);
            places.zip(&end.taken).for_each(|(place, x)| *place = *x);
        }
        let room = end.ring.slots() / channels * channels;
        let (fits, dropped) = end.mix.split_at(end.mix.len().min(room));
        let _ = end.ring.push_partial_slice(fits);
        if !dropped.is_empty() {
            health.add_missed((dropped.len() / channels) as u64);
        }
    }

    /// How long the device can play what is queued here; `None` without speakers. To keep the delay low, write the next
    /// block when less than two blocks are queued.
    pub fn queued(&mut self) -> Option<Duration> {
        let (end, _) = self.keeper.end()?;
        let queued = end.ring.buffer().capacity() - end.ring.slots();
        let frames = (queued / end.resamplers.len()) as u64;
        Some(Duration::from_micros(
            frames * 1_000_000 / u64::from(end.rate_hz),
        ))
    }

    /// How long what the sound system has taken waits inside it, as it tells; zero without speakers.
    pub fn latency(&mut self) -> Duration {
        let us = self
            .keeper
            .end()
            .map_or(0, |(_, health)| health.latency_us());
        Duration::from_micros(us.into())
    }

    /// How they are doing.
    pub fn state(&mut self) -> &DeviceState {
        self.keeper.state()
    }

    /// How they are doing, if that has changed since the last call. Of several changes the last is told.
    pub fn take_change(&mut self) -> Option<DeviceState> {
        self.keeper.take_change()
    }

    /// Frames that did not fit, or that the device had to do without. Wraps at 2^64.
    pub fn missed(&self) -> u64 {
        self.keeper.missed()
    }
}

fn open(device: &Device, shape: Shape, health: &Arc<Health>) -> Result<(Stream, End), DeviceError> {
    let running = system::playback(device, shape, health)?;
    let resampler = Resampler::new(SAMPLE_RATE_HZ, running.rate_hz)?;
    let end = End {
        ring: running.ring,
        rate_hz: running.rate_hz,
        resamplers: vec![resampler; shape.channels],
        given: Vec::new(),
        taken: Vec::new(),
        mix: Vec::new(),
    };
    Ok((running.stream, end))
}
