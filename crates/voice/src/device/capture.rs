//! The microphone.

use std::{sync::Arc, time::Duration};

use cpal::{Device, Stream};
use rtrb::Consumer;

use super::{
    DeviceError, DeviceState, Direction,
    keeper::Keeper,
    ring::Health,
    system::{self, Shape},
};
use crate::{Resampler, SAMPLE_RATE_HZ, level_dbfs};

/// A microphone that is kept open: one that is missing, or gets lost, is looked for again, and another stands in for it
/// meanwhile. Dropping it closes the device.
pub struct Capture {
    keeper: Keeper<End>,
    level_dbfs: f32,
}

/// Our end of a device.
struct End {
    ring: Consumer<f32>,
    resampler: Resampler,
    scratch: Vec<f32>,
}

impl Capture {
    /// Begins to look for the microphone of this [id or name](super::DeviceInfo); with `None`, for the system's default,
    /// whichever that is at any time. Returns at once.
    ///
    /// `period` is what the device is asked to handle at once: [`DEVICE_PERIOD`](super::DEVICE_PERIOD) suits most, 5 ms where delay counts more
    /// than processor time and stutter on a busy machine; devices may give what they like.
    pub fn start(device: Option<&str>, period: Duration) -> Self {
        let wanted = device.map(str::to_owned);
        let channels = 1;
        let shape = Shape { channels, period };
        Self {
            keeper: Keeper::start(Direction::Input, wanted, shape, open),
            level_dbfs: -200.0,
        }
    }

    /// Goes over to another microphone, as soon as it is there.
    pub fn choose(&self, device: Option<&str>) {
        self.keeper.choose(device.map(str::to_owned));
    }

    /// Appends what was captured since the last call to `out`, 48 kHz mono, and returns how many
    /// samples: none without a microphone. Call at least every 200 ms, or the oldest are kept and the newest dropped.
    pub fn read(&mut self, out: &mut Vec<f32>) -> usize {
        let before = out.len();
        let Some((end, _)) = self.keeper.end() else {
            self.level_dbfs = -200.0;
            return 0;
        };
        end.scratch.clear();
        if let Ok(chunk) = end.ring.read_chunk(end.ring.slots()) {
            let (first, second) = chunk.as_slices();
            end.scratch.extend_from_slice(first);
            end.scratch.extend_from_slice(second);
            chunk.commit_all();
        }
        end.resampler.process(&end.scratch, out);
        if out.len() > before {
            self.level_dbfs = level_dbfs(&out[before..]);
        }
        out.len() - before
    }

    /// How loud what was last read is, in dB of full scale, root mean square; -200 for silence.
    pub fn level_dbfs(&self) -> f32 {
        self.level_dbfs
    }

    /// How it is doing.
    pub fn state(&mut self) -> &DeviceState {
        self.keeper.state()
    }

    /// How it is doing, if that has changed since the last call. Of several changes the last is told.
    pub fn take_change(&mut self) -> Option<DeviceState> {
        self.keeper.take_change()
    }

    /// How old the newest samples were when the sound system handed them over, as it tells; zero without a microphone.
    pub fn latency(&mut self) -> Duration {
        let us = self
            .keeper
            .end()
            .map_or(0, |(_, health)| health.latency_us());
        Duration::from_micros(us.into())
    }

    /// Frames that were dropped because [`read`](Self::read) came too late. Wraps at 2^64.
    pub fn missed(&self) -> u64 {
        self.keeper.missed()
    }
}

fn open(device: &Device, shape: Shape, health: &Arc<Health>) -> Result<(Stream, End), DeviceError> {
    let running = system::capture(device, shape, health)?;
    let end = End {
        ring: running.ring,
        resampler: Resampler::new(running.rate_hz, SAMPLE_RATE_HZ)?,
        scratch: Vec::new(),
    };
    Ok((running.stream, end))
}
