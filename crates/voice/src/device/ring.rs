//! What runs on the sound system's own thread, under its deadline: moves samples, counts, and neither locks, allocates
//! nor logs.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use cpal::{FromSample, Sample};
use rtrb::{Consumer, Producer, RingBuffer};

/// What a ring holds: the other side may be late by so much.
const RING_MS: u32 = 200;

/// What the callbacks tell.
#[derive(Debug, Default)]
pub(crate) struct Health {
    lost: AtomicBool,
    /// Calls so far; wraps.
    calls: AtomicU32,
    /// Frames that found no room, or were not there in time.
    missed: AtomicU64,
    /// What waits inside the sound system, in microseconds.
    latency_us: AtomicU32,
}

impl Health {
    pub(crate) fn lose(&self) {
        self.lost.store(true, Release);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Acquire)
    }

    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    pub(crate) fn latency_us(&self) -> u32 {
        self.latency_us.load(Relaxed)
    }

    pub(crate) fn add_missed(&self, frames: u64) {
        self.missed.fetch_add(frames, Relaxed);
    }

    fn note(&self, missed: usize, latency: std::time::Duration) {
        self.calls.fetch_add(1, Relaxed);
        if missed > 0 {
            self.missed.fetch_add(missed as u64, Relaxed);
        }
        let us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.latency_us.store(us, Relaxed);
    }
}

fn ring(rate_hz: u32, channels: usize) -> (Producer<f32>, Consumer<f32>) {
    RingBuffer::new((rate_hz / 1000 * RING_MS) as usize * channels)
}

/// The device's end of a microphone: mixes its channels down into a ring.
pub(crate) struct Tap {
    ring: Producer<f32>,
    channels: usize,
    health: Arc<Health>,
}

impl Tap {
    /// For a device of so many interleaved channels, and the end to read at.
    pub(crate) fn new(rate_hz: u32, channels: u16, health: Arc<Health>) -> (Self, Consumer<f32>) {
        let (producer, consumer) = ring(rate_hz, 1);
        let tap = Self {
            ring: producer,
            channels: usize::from(channels.max(1)),
            health,
        };
        (tap, consumer)
    }

    /// Takes what was captured. What finds no room is dropped and counted.
    pub(crate) fn take<T: Copy>(&mut self, data: &[T], latency: std::time::Duration)
    where
        f32: FromSample<T>,
    {
        let frames = data.len() / self.channels;
        let room = frames.min(self.ring.slots());
        let scale = 1.0 / self.channels as f32;
        let mono = data.chunks_exact(self.channels).map(|frame| {
            let sum: f32 = frame.iter().map(|x| f32::from_sample_(*x)).sum();
            sum * scale
        });
        if let Ok(chunk) = self.ring.write_chunk_uninit(room) {
            chunk.fill_from_iter(mono);
        }
        self.health.note(frames - room, latency);
    }
}

/// The device's end of speakers: plays a ring, and silence when it is empty.
pub(crate) struct Feed {
    ring: Consumer<f32>,
    /// Channels in the ring, 1 or 2, and of the device.
    channels: usize,
    device_channels: usize,
    health: Arc<Health>,
}

impl Feed {
    /// For a device of so many interleaved channels, from a ring of one or two, and the end to write at.
    pub(crate) fn new(
        rate_hz: u32,
        channels: usize,
        device_channels: u16,
        health: Arc<Health>,
    ) -> (Self, Producer<f32>) {
        let (producer, consumer) = ring(rate_hz, channels);
        let feed = Self {
            ring: consumer,
            channels,
            device_channels: usize::from(device_channels.max(1)),
            health,
        };
        (feed, producer)
    }

    /// Fills a buffer of the device: one channel goes to all of its channels, two go to the first two, or as their mean to
    /// its only one.
    pub(crate) fn fill<T: Sample + FromSample<f32>>(
        &mut self,
        data: &mut [T],
        latency: std::time::Duration,
    ) {
        let frames = data.len() / self.device_channels;
        let ready = frames.min(self.ring.slots() / self.channels);
        let (playing, silent) = data.split_at_mut(ready * self.device_channels);
        if let Ok(chunk) = self.ring.read_chunk(ready * self.channels) {
            let (first, second) = chunk.as_slices();
            let mut samples = first.iter().chain(second).copied();
            for frame in playing.chunks_exact_mut(self.device_channels) {
                let left = samples.next().unwrap_or_default();
                if self.channels == 1 {
                    frame.fill(T::from_sample(left));
                    continue;
                }
                let right = samples.next().unwrap_or_default();
                match frame {
                    [only] => *only = T::from_sample((left + right) / 2.0),
                    [l, r, others @ ..] => {
                        *l = T::from_sample(left);
                        *r = T::from_sample(right);
                        others.fill(T::EQUILIBRIUM);
                    }
                    [] => {}
                }
            }
            chunk.commit_all();
        }
        silent.fill(T::EQUILIBRIUM);
        self.health.note(frames - ready, latency);
    }
}
