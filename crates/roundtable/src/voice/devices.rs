//! The machine's microphone and speakers, as far as there are any.

use std::time::Duration;

use roundtable_core::Timestamp;
use roundtable_voice::{Capture, DeviceState, Direction, Playback};

use super::desk::BLOCK_TIME;

/// So much more than what the speakers take at once is kept queued for them, as blocks come no more often: less stutters, more
/// adds delay.
const SPARE: Duration = BLOCK_TIME;
/// What it grows to where the speakers run dry, on machines that are too busy to be in time.
const MOST_QUEUED: Duration = Duration::from_millis(60);
/// By how much it grows each time.
const MORE: Duration = Duration::from_millis(5);
/// By how much it shrinks, a second at a time.
const LESS: Duration = Duration::from_millis(1);
/// Speakers that have wanted nothing for so long hang: what is queued for them lasts a fraction of it.
const HUNG: Duration = Duration::from_secs(1);
/// Blocks played without running dry after which it does: about a second.
const CALM_BLOCKS: u32 = 200;

/// Devices that are kept open. One that is missing or gets lost is done without until it is back.
#[derive(Default)]
pub(super) struct Devices {
    microphone: Option<Capture>,
    speakers: Option<Speakers>,
}

struct Speakers {
    playback: Playback,
    /// What is kept queued, and the least of it.
    queued: Duration,
    least: Duration,
    missed: u64,
    calm: u32,
    appetite: Appetite,
}

/// Whether speakers still ask for sound: those of a sound system that hangs do not, and are yet open.
#[derive(Debug, Clone, Copy, Default)]
struct Appetite {
    /// When they last did.
    last: Option<Timestamp>,
}

impl Appetite {
    fn is_lost(&mut self, now: Timestamp, wants: bool) -> bool {
        if wants {
            self.last = Some(now);
        }
        let last = *self.last.get_or_insert(now);
        now.saturating_since(last) > HUNG
    }
}

impl Devices {
    /// Begins to look for what is wanted: `input` and `output` are the chosen devices, `channels` those of the mix,
    /// `period` what devices are asked to handle at once.
    pub(super) fn start(
        microphone: Option<Option<&str>>,
        speakers: Option<Option<&str>>,
        channels: usize,
        period: Duration,
    ) -> Self {
        let least = period + SPARE;
        Self {
            microphone: microphone.map(|input| Capture::start(input, period)),
            speakers: speakers.map(|output| Speakers {
                playback: Playback::start(output, channels, period),
                queued: least,
                least,
                missed: 0,
                calm: 0,
                appetite: Appetite::default(),
            }),
        }
    }

    /// Whether there is anything to keep open.
    pub(super) fn are_wanted(&self) -> bool {
        self.microphone.is_some() || self.speakers.is_some()
    }

    /// Goes over to another device. One that was not in use from the start is not taken into use.
    pub(super) fn choose(&self, direction: Direction, device: Option<&str>) {
        match (direction, &self.microphone, &self.speakers) {
            (Direction::Input, Some(microphone), _) => microphone.choose(device),
            (Direction::Output, _, Some(speakers)) => speakers.playback.choose(device),
            _ => {}
        }
    }

    /// What has become of a device since the last call.
    pub(super) fn take_change(&mut self) -> Option<(Direction, DeviceState)> {
        let microphone = self.microphone.as_mut().and_then(Capture::take_change);
        if let Some(state) = microphone {
            return Some((Direction::Input, state));
        }
        let state = self.speakers.as_mut()?.playback.take_change()?;
        Some((Direction::Output, state))
    }

    /// Appends what the microphone has heard since the last call, and returns how old the newest of it is.
    pub(super) fn read(&mut self, out: &mut Vec<f32>) -> Duration {
        let Some(microphone) = &mut self.microphone else {
            return Duration::ZERO;
        };
        microphone.read(out);
        microphone.latency()
    }

    /// Whether the speakers want a block now; `None` without speakers, or where they have long wanted none.
    pub(super) fn want(&mut self, now: Timestamp) -> Option<bool> {
        let speakers = self.speakers.as_mut()?;
        let wants = speakers.playback.queued()? < speakers.queued;
        (!speakers.appetite.is_lost(now, wants)).then_some(wants)
    }

    pub(super) fn write(&mut self, samples: &[f32]) {
        if let Some(speakers) = &mut self.speakers {
            speakers.playback.write(samples);
            speakers.adapt();
        }
    }

    /// How long a sample waits from the mixer to the ear, as far as is known; `None` without speakers.
    pub(super) fn playout(&mut self) -> Option<Duration> {
        let playback = &mut self.speakers.as_mut()?.playback;
        Some(playback.queued()? + playback.latency())
    }

    /// How long a sample waits from the mouth to [`read`](Self::read), as far as is known.
    pub(super) fn capture(&mut self) -> Duration {
        self.microphone
            .as_mut()
            .map_or(Duration::ZERO, Capture::latency)
    }
}

impl Speakers {
    /// Queues more where the speakers run dry, and slowly less again where they do not.
    fn adapt(&mut self) {
        let missed = self.playback.missed();
        self.calm = if missed == self.missed {
            self.calm + 1
        } else {
            0
        };
        // What is missed before anything was written, when a device starts, says nothing.
        if self.calm == 0 && self.missed > 0 {
            self.queued = (self.queued + MORE).min(MOST_QUEUED);
        }
        self.missed = missed;
        if self.calm >= CALM_BLOCKS {
            self.calm = 0;
            let less = self.queued.saturating_sub(LESS);
            self.queued = less.max(self.least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speakers_that_have_wanted_nothing_for_a_second_hang_until_they_do() {
        let at = Timestamp::from_millis;
        let mut appetite = Appetite::default();
        assert!(
            !appetite.is_lost(at(5_000), false),
            "they have just been opened"
        );
        for ms in (5_000..8_000).step_by(10) {
            assert!(!appetite.is_lost(at(ms), ms % 20 == 0));
        }
        assert!(!appetite.is_lost(at(8_980), false));
        assert!(appetite.is_lost(at(8_981), false));
        assert!(appetite.is_lost(at(60_000), false));
        assert!(!appetite.is_lost(at(60_002), true), "they go on");
    }
}
