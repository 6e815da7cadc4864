//! Samples into frames of one length, each with the time of its first sample.

use std::time::Duration;

use roundtable_core::{Timestamp, WallTime};

use crate::SAMPLE_RATE_HZ;

/// A device whose times are off by more than this has lost samples.
const MAX_GAP: Duration = Duration::from_millis(60);

/// Buffers kept for use again: the longest preroll, and a few under way.
const MAX_SPARE: usize = 16;

/// One frame of speech.
#[derive(Debug, Clone)]
pub(crate) struct SpeechFrame {
    pub(crate) samples: Vec<f32>,
    /// RTP timestamp of the first sample.
    pub(crate) timestamp: u32,
    /// Wall-clock time of the first sample.
    pub(crate) wall: WallTime,
}

/// Cuts a stream into frames. Buffers that come back by [`recycle`](Self::recycle) are used again,
/// so that a running stream allocates nothing.
#[derive(Debug)]
pub(crate) struct Framer {
    len: usize,
    pending: SpeechFrame,
    spare: Vec<Vec<f32>>,
    /// When the next sample should be captured.
    expected: Option<Timestamp>,
}

impl Framer {
    pub(crate) fn new(len: usize, timestamp: u32) -> Self {
        Self {
            len,
            pending: SpeechFrame {
                samples: Vec::with_capacity(len),
                timestamp,
                wall: WallTime::from_micros(0),
            },
            spare: Vec::new(),
            expected: None,
        }
    }

    /// Samples in a frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.len
    }

    /// Makes frames of another length from the next on. Nothing is lost: what is left of the unfinished
    /// frame begins the next.
    pub(crate) fn set_len(&mut self, len: usize) {
        if len != self.len {
            self.len = len;
            self.spare.clear();
        }
    }

    /// Notes that the sample that comes next was captured at `capture`. If the device lost samples
    /// in between, RTP time jumps ahead by as much and the unfinished frame is dropped; returns whether it did.
    pub(crate) fn align(&mut self, capture: Timestamp) -> bool {
        let mut lost_some = false;
        if let Some(expected) = self.expected {
            let gap = capture.saturating_since(expected);
            if gap > MAX_GAP {
                let lost = gap.as_micros() * u128::from(SAMPLE_RATE_HZ) / 1_000_000;
                #[allow(clippy::cast_possible_truncation)] // RTP time wraps
                let lost = lost as u32;
                self.forget();
                self.pending.timestamp = self.pending.timestamp.wrapping_add(lost);
                lost_some = true;
            } else if gap.is_zero() && expected.saturating_since(capture) < MAX_GAP {
                return false; // early by a little: the device's jitter
            }
        }
        self.expected = Some(capture);
        lost_some
    }

    /// Drops the unfinished frame: the next one begins with the next sample.
    pub(crate) fn forget(&mut self) {
        #[allow(clippy::cast_possible_truncation)] // a frame has at most 2880 samples
        let skipped = self.pending.samples.len() as u32;
        self.pending.timestamp = self.pending.timestamp.wrapping_add(skipped);
        self.pending.samples.clear();
    }

    /// Takes samples off the front of `samples`, whose first one was captured at `wall`, and returns
    /// a frame once it is full. Call until it returns `None`.
    pub(crate) fn take(
        &mut self,
        samples: &mut &[f32],
        wall: &mut WallTime,
    ) -> Option<SpeechFrame> {
        if self.pending.samples.is_empty() {
            self.pending.wall = *wall;
        }
        let room = self.len.saturating_sub(self.pending.samples.len());
        let count = samples.len().min(room);
        let (head, tail) = samples.split_at(count);
        let sane = |x: &f32| {
            if x.is_finite() {
                x.clamp(-1.0, 1.0)
            } else {
                0.0
            }
        };
        self.pending.samples.extend(head.iter().map(sane));
        *samples = tail;
        let lasted = Duration::from_micros(count as u64 * 1_000_000 / u64::from(SAMPLE_RATE_HZ));
        let micros = u64::try_from(lasted.as_micros()).unwrap_or(0);
        *wall = WallTime::from_micros(wall.as_micros().saturating_add(micros));
        self.expected = self.expected.map(|expected| expected + lasted);
        if self.pending.samples.len() < self.len {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)] // a frame has at most 2880 samples
        let timestamp = self.pending.timestamp.wrapping_add(self.len as u32);
        let fresh = self.spare.pop();
        let mut rest = fresh.unwrap_or_else(|| Vec::with_capacity(self.len));
        // Only after frames have become shorter.
        rest.extend(self.pending.samples.drain(self.len..));
        let rest_us = rest.len() as u64 * 1_000_000 / u64::from(SAMPLE_RATE_HZ);
        let next = SpeechFrame {
            samples: rest,
            timestamp,
            wall: WallTime::from_micros(wall.as_micros().saturating_sub(rest_us)),
        };
        Some(std::mem::replace(&mut self.pending, next))
    }

    pub(crate) fn recycle(&mut self, frame: SpeechFrame) {
        let mut samples = frame.samples;
        samples.clear();
        if self.spare.len() < MAX_SPARE {
            self.spare.push(samples);
        }
    }
}
