//! What to play next: one pure decision, and the clock that it is made by.

use std::time::Duration;

use roundtable_core::Timestamp;

/// Delay beyond the target and a block that is not worth a cut, in microseconds: the pace sees to it.
const SLACK_ABOVE_US: i64 = 1_500;
/// Delay short of the target that is not worth a repetition, in microseconds.
const SLACK_BELOW_US: i64 = 2_500;
/// By how much playing may be faster or slower to move within a block: a twelfth of a semitone.
const MAX_PACE: f64 = 0.005;
/// How much of that it gets for each microsecond that it is away: half a second's way is left to the end.
const PACE_PER_US: f64 = 1.0 / 500_000.0;
/// Frames should begin so long after their block does, in microseconds, give or take as much.
const AIM_US: i64 = 100;
/// A block more is aimed at where less than this is to spare, in microseconds: the target lets a few packets come late.
const SPARE_US: i64 = 300;
/// A block less is not aimed at for less than this, in microseconds: the target moves, too.
const MARGIN_US: i64 = 1_000;
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
    /// By how much the oldest waiting packet, needed now, is behind the fastest packet.
    pub delay_us: i64,
    /// How far behind it should be at least.
    pub target_us: i64,
    /// How long the blocks are that are played at once.
    pub block_us: i64,
    /// How much of the present block is there already: what is decoded now is heard after it.
    pub ready_us: i64,
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
    if excess_us > state.block_us + SLACK_ABOVE_US {
        Decision::Accelerate
    } else if early_us > SLACK_BELOW_US {
        Decision::Expand
    } else {
        Decision::Play
    }
}

/// How many times as fast as nominal to play, within 0.5 % of 1, where the sender's clock is `drift_ppm` fast by ours. Beyond
/// some 3,000 ppm it cannot keep up, and [`decide`] does the rest.
///
/// A block is made at once, so what a frame needs must be there when the block begins in which the frame does. A
/// frame that begins in the midst of one waits longer than it need, as does one that could be a block earlier.
/// So frames are moved towards the beginning of the first block by whose time they surely have come. A clock that is
/// slow brings that block nearer all the time; then the next one is aimed at early enough.
pub fn pace(state: &PlayoutState, drift_ppm: f64) -> f64 {
    let spare_us = state.delay_us - state.target_us;
    #[allow(clippy::cast_possible_truncation)] // less than a second
    let lost_on_the_way_us =
        (state.block_us as f64 * -drift_ppm.clamp(-1e3, 0.0) / 1e6 / MAX_PACE) as i64;
    let away_us = if spare_us < SPARE_US + lost_on_the_way_us {
        state.ready_us - state.block_us - 2 * AIM_US
    } else if spare_us > state.block_us + lost_on_the_way_us + MARGIN_US {
        state.ready_us + state.block_us
    } else {
        state.ready_us - AIM_US
    };
    if away_us.abs() <= AIM_US {
        return 1.0;
    }
    1.0 + (away_us as f64 * PACE_PER_US).clamp(-MAX_PACE, MAX_PACE)
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
