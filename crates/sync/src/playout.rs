//! What to play next: one pure decision, and the clock that it is made by.

use std::time::Duration;

use roundtable_core::Timestamp;

/// Delay beyond the target that is not worth a change, in microseconds.
const SLACK_ABOVE_US: i64 = 9_000;
/// Delay short of the target that is not worth a change, in microseconds.
const SLACK_BELOW_US: i64 = 1_000;
/// For how long to make up speech when nothing comes, in microseconds. After that, silence.
const MAX_HOLD_US: i64 = 60_000;
/// A hole longer than this is not filled but skipped, in microseconds.
const MAX_HOLE_US: i64 = 400_000;

/// What the player knows when the next sample is due. All times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlayoutState {
    /// Whether a talk spurt is being played.
    pub playing: bool,
    /// The media time from the next sample to play to the oldest packet that waits: 0 if it is the
    /// one that follows, more if something is missing between, `None` if nothing waits.
    pub gap_us: Option<i64>,
    /// Whether the gap is a pause of the speaker rather than a loss: the packet's number follows
    /// the last one's.
    pub pause: bool,
    /// By how much the oldest waiting packet, played now, would be behind the fastest packet.
    pub delay_us: i64,
    /// How far behind it should be.
    pub target_us: i64,
    /// How much made-up speech was played since the last packet for which none was skipped.
    pub held_us: i64,
    /// Media time that waits.
    pub level_us: i64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Play silence for so many microseconds, or less.
    Silence(i64),
    /// Begin with the oldest packet.
    Start,
    /// Play the oldest packet as it is.
    Play,
    /// Play the oldest packet a little shortened: the delay is longer than it need be.
    Accelerate,
    /// Play the oldest packet a little lengthened: the delay is shorter than it should be.
    Expand,
    /// Make up what is missing and skip it: so many microseconds, or less.
    Conceal(i64),
    /// Make up a little, in the hope that what is missing still comes.
    Hold,
    /// End the talk spurt.
    Stop,
}

/// Decides what to play.
pub fn decide(state: &PlayoutState) -> Decision {
    let Some(gap_us) = state.gap_us else {
        return match state.playing {
            false => Decision::Silence(i64::MAX),
            true if state.held_us < MAX_HOLD_US => Decision::Hold,
            true => Decision::Stop,
        };
    };
    let early_us = state.target_us - state.delay_us;
    if !state.playing {
        return if early_us > 0 {
            Decision::Silence(early_us)
        } else {
            Decision::Start
        };
    }
    let missing_us = gap_us - state.held_us;
    if missing_us > 0 {
        return if state.pause || missing_us > MAX_HOLE_US {
            Decision::Stop
        } else {
            Decision::Conceal(missing_us)
        };
    }
    let excess_us = (-early_us).min(state.level_us - state.target_us);
    if excess_us > SLACK_ABOVE_US {
        Decision::Accelerate
    } else if early_us > SLACK_BELOW_US {
        Decision::Expand
    } else {
        Decision::Play
    }
}

/// The steady clock behind unsteady calls: someone who pulls a block every 10 ms is sometimes late,
/// and then catches up, but the sound card is not.
#[derive(Debug, Clone, Default)]
pub struct PullClock {
    next: Option<Timestamp>,
}

impl PullClock {
    /// A clock that starts with its first tick.
    pub const fn new() -> Self {
        Self { next: None }
    }

    /// When the block that is pulled at `now` begins to play. Follows early calls at once, late ones
    /// slowly, and starts anew after 100 ms.
    pub fn tick(&mut self, now: Timestamp, block: Duration) -> Timestamp {
        let begin = match self.next {
            Some(next) if now <= next => now,
            Some(next) if now.saturating_since(next) <= Duration::from_millis(100) => {
                next + now.saturating_since(next) / 64
            }
            _ => now,
        };
        self.next = Some(begin + block);
        begin
    }
}
