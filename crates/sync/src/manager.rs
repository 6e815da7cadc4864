//! What one peer says and shows, played together.

use std::time::Duration;

use roundtable_core::{MediaClock, NtpTime, PeerId, Timestamp};

use crate::{
    ClockDriftEstimate, JitterConfigError, JitterStats, Packet, Pushed, RateCorrection, RtpMeta,
    SyncConfig,
    line::{PlayoutLine, micros, signed, timestamp},
    stream::Stream,
};

/// Sound that was played this long ago is not heard any more, in microseconds.
const AUDIBLE_US: i64 = 200_000;
/// How long a pause keeps the line of the sound before it, in microseconds.
const LINE_HOLD_US: i64 = 5_000_000;
/// For how long after its last frame a picture is waited for, in microseconds.
const VIDEO_LIVE_US: i64 = 1_000_000;
/// Reports cannot be right that put sound and picture, or a frame and its arrival, this far apart, in
/// microseconds: a sender's clock was set, and not every stream's reports say so yet.
const IMPLAUSIBLE_US: u64 = 2_000_000;

/// A stream of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// What is heard.
    Audio,
    /// What is seen.
    Video,
}

/// How well a peer's streams are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// A stream that plays has had no sender report yet, or none plays.
    Unsynced,
    /// The streams are known to each other, and not within the dead band yet.
    Syncing,
    /// Sound and picture are within the dead band, or there is only one of them and its capture time
    /// is known.
    Synced,
}

/// A frame whose time has come.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncedFrame<T> {
    /// What was pushed.
    pub payload: T,
    /// Its RTP timestamp, wrapping.
    pub rtp_timestamp: u32,
    /// When it should begin to be heard or seen: not after the time it was popped at.
    pub playout: Timestamp,
    /// When it was captured, on the sender's wall clock; `None` before its first report.
    pub capture: Option<NtpTime>,
    /// How long it waited.
    pub buffer_delay: Duration,
    /// By how much the picture is behind the sound, in microseconds; `None` for sound, and while
    /// nothing is heard.
    pub audio_sync_offset_us: Option<i64>,
}

/// What a [`SyncManager`] has seen. Counters wrap at 2^64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SyncStats {
    /// The sound's buffer.
    pub audio: JitterStats,
    /// The picture's buffer.
    pub video: JitterStats,
    /// Times that playout was moved by a step rather than gently.
    pub steps: u64,
    /// Frames of sound that came too late, with what follows them there already.
    pub skipped_audio: u64,
    /// Pictures that came too late for their sound.
    pub skipped_video: u64,
    /// By how much the last picture was behind the sound, in milliseconds.
    pub skew_ms: Option<f32>,
}

/// Plays one peer's sound and picture in step. `A` and `V` are whatever the frames carry.
///
/// Sound leads: it moves gently, and the picture goes by it. Where the picture needs longer, sound
/// waits, up to [`SyncConfig::max_hold`]. Queues are the two jitter buffers', bounded as theirs.
#[derive(Debug)]
pub struct SyncManager<A, V> {
    peer: PeerId,
    config: SyncConfig,
    audio: Stream<A>,
    video: Stream<V>,
    /// The sender's wall clock at its first report; captures are counted from there.
    origin: Option<NtpTime>,
    line: Option<PlayoutLine>,
    heard: Option<Heard>,
    skew_us: Option<i64>,
    correction: RateCorrection,
    stats: SyncStats,
}

/// The last frame of sound that was played.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// When it began to play.
    at_us: i64,
    /// The line that it was played by, if its time of capture is known.
    line_us: Option<i64>,
}

impl<A, V> SyncManager<A, V> {
    /// For a peer that has sent nothing.
    ///
    /// # Errors
    /// [`JitterConfigError`] names the setting that is out of range.
    pub fn new(peer: PeerId, config: SyncConfig) -> Result<Self, JitterConfigError> {
        config.validate()?;
        Ok(Self {
            peer,
            audio: Stream::new(config.audio, config.drift_threshold_ppm)?,
            video: Stream::new(config.video, config.drift_threshold_ppm)?,
            origin: None,
            line: None,
            heard: None,
            skew_us: None,
            correction: RateCorrection::new(),
            stats: SyncStats::default(),
            config,
        })
    }

    /// Whose frames these are.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Forgets everything but the configuration.
    pub fn reset(&mut self) {
        // The configuration was checked before.
        if let Ok(fresh) = Self::new(self.peer.clone(), self.config) {
            *self = fresh;
        }
    }

    /// Takes a frame of sound that arrived at `now`.
    pub fn process_audio_frame(&mut self, now: Timestamp, meta: RtpMeta, frame: A) -> Pushed {
        let pushed = self.audio.push(now, meta, frame);
        if pushed == Pushed::Restarted {
            (self.line, self.heard, self.skew_us) = (None, None, None);
            self.correction = RateCorrection::new();
        }
        pushed
    }

    /// Takes a whole picture that arrived at `now`, numbered by pictures rather than by packets.
    pub fn process_video_frame(&mut self, now: Timestamp, meta: RtpMeta, frame: V) -> Pushed {
        let pushed = self.video.push(now, meta, frame);
        if pushed == Pushed::Restarted {
            self.skew_us = None;
        }
        pushed
    }

    /// Learns from a sender report. Returns whether it was believed.
    pub fn update_sender_report(&mut self, kind: MediaKind, clock: MediaClock) -> bool {
        self.origin.get_or_insert(clock.ntp);
        match kind {
            MediaKind::Audio => self.audio.report(clock),
            MediaKind::Video => self.video.report(clock),
        }
    }

    /// The next frame of sound whose time has come at `now`. Frames that came more than the dead band
    /// late are skipped if what follows them is there.
    pub fn pop_next_audio_frame(&mut self, now: Timestamp) -> Option<SyncedFrame<A>> {
        self.steer(now);
        loop {
            let front = self.audio.buffer.front()?;
            let playout_us = self.audio_playout_us(now, front)?;
            if signed(now) < playout_us {
                return None;
            }
            let arrival_us = signed(front.arrival);
            let packet = self.audio.buffer.pop_at(now)?;
            let late_us = arrival_us.saturating_sub(playout_us);
            if late_us <= micros(self.config.dead_band) {
                return Some(self.hear(now, packet, playout_us));
            }
            let next = self.audio.buffer.front();
            let next = next.and_then(|next| self.audio_playout_us(now, next));
            if next.is_some_and(|playout_us| playout_us <= signed(now)) {
                self.stats.skipped_audio += 1;
                continue;
            }
            if let Some(line) = &mut self.line {
                line.stalled(late_us);
            }
            return Some(self.hear(now, packet, arrival_us));
        }
    }

    fn hear(&mut self, now: Timestamp, packet: Packet<A>, playout_us: i64) -> SyncedFrame<A> {
        let capture_us = self.capture_us(&self.audio, &packet);
        self.heard = Some(Heard {
            at_us: playout_us,
            line_us: capture_us.map(|capture| playout_us.saturating_sub(capture)),
        });
        let capture = self.audio.capture(packet.timestamp);
        synced(now, packet, playout_us, capture)
    }

    /// The next picture whose time has come at `now`. One that is more than
    /// [`SyncConfig::max_skew`] behind the sound that is heard is skipped, unless sound cannot wait
    /// for it.
    pub fn pop_next_video_frame(&mut self, now: Timestamp) -> Option<SyncedFrame<V>> {
        self.steer(now);
        loop {
            let front = self.video.buffer.front()?;
            let playout_us = self.video_playout_us(now, front)?;
            let behind_us = signed(now).saturating_sub(playout_us);
            if behind_us < 0 {
                return None;
            }
            let skew_us = self.by_sound_us(now, front).map(|_| behind_us);
            let packet = self.video.buffer.pop_at(now)?;
            let capture = self.video.capture(packet.timestamp);
            self.skew_us = skew_us.or(self.skew_us);
            let behind = skew_us.is_some_and(|us| us > micros(self.config.max_skew));
            if behind && self.is_within_reach(now) {
                self.stats.skipped_video += 1;
                continue;
            }
            let mut frame = synced(now, packet, playout_us, capture);
            frame.audio_sync_offset_us = skew_us;
            return Some(frame);
        }
    }

    /// When the next frame of either kind will be due, as far as can be told at `now`.
    pub fn next_playout(&self, now: Timestamp) -> Option<Timestamp> {
        let audio = self.audio.buffer.front();
        let video = self.video.buffer.front();
        let audio = audio.and_then(|front| self.audio_playout_us(now, front));
        let video = video.and_then(|front| self.video_playout_us(now, front));
        audio.into_iter().chain(video).min().map(timestamp)
    }

    /// Moves the line of playout to where it should be.
    fn steer(&mut self, now: Timestamp) {
        let quiet_us = self.heard.map_or(0, |heard| signed(now) - heard.at_us);
        if quiet_us > LINE_HOLD_US {
            (self.line, self.heard) = (None, None);
        }
        let Some(wanted_us) = self.wanted_us(now) else {
            return;
        };
        // What nobody hears may jump: before the first sound, and between two spurts.
        let front = self.audio.buffer.front();
        let spurt = self.heard.is_none() || front.is_some_and(|front| front.spurt);
        let begins = spurt && !self.is_audible(now);
        let near = |line: &PlayoutLine| line.offset_us().abs_diff(wanted_us) <= IMPLAUSIBLE_US;
        match &mut self.line {
            Some(line) if near(line) && !begins => {
                let stepped = line.follow(now, wanted_us, &self.config);
                self.stats.steps += u64::from(stepped);
            }
            _ => self.line = Some(PlayoutLine::new(now, wanted_us)),
        }
    }

    /// Where the line should be: where sound needs it, or further out where the picture does and sound
    /// can wait.
    fn wanted_us(&self, now: Timestamp) -> Option<i64> {
        let origin = self.origin?;
        let audio = self.audio.own_line_us(now, origin)?;
        let live = self.video.is_live(now, VIDEO_LIVE_US);
        let video = self.video.own_line_us(now, origin);
        let video = video.filter(|video| live && video.abs_diff(audio) <= IMPLAUSIBLE_US);
        let longest = audio.saturating_add(micros(self.config.max_hold));
        Some(video.map_or(audio, |video| video.clamp(audio, longest)))
    }

    /// Whether sound can wait for pictures as late as the last ones.
    fn is_within_reach(&self, now: Timestamp) -> bool {
        let lines = self.origin.and_then(|origin| {
            let sound = self.audio.own_line_us(now, origin)?;
            Some((sound, self.video.arrival_line_us(origin)?))
        });
        let reach = micros(self.config.max_hold + self.config.max_skew);
        lines.is_some_and(|(sound, picture)| picture.saturating_sub(sound) <= reach)
    }

    fn is_audible(&self, now: Timestamp) -> bool {
        self.heard
            .is_some_and(|heard| signed(now).saturating_sub(heard.at_us) <= AUDIBLE_US)
    }

    fn audio_playout_us(&self, now: Timestamp, packet: &Packet<A>) -> Option<i64> {
        let natural = self.audio.natural_us(now, packet.timestamp)?;
        let by_line = self.line_us(self.capture_us(&self.audio, packet));
        Some(plausible(by_line, natural).unwrap_or(natural))
    }

    fn video_playout_us(&self, now: Timestamp, packet: &Packet<V>) -> Option<i64> {
        let natural = self.video.natural_us(now, packet.timestamp)?;
        if let Some(by_sound) = self.by_sound_us(now, packet) {
            return Some(by_sound);
        }
        // In a pause the line of the sound before it holds.
        let by_line = self.line_us(self.capture_us(&self.video, packet));
        let by_line = by_line.filter(|_| self.heard.is_some());
        Some(plausible(by_line, natural).unwrap_or(natural))
    }

    /// When the picture should be seen by the sound that is heard at `now`, if there is any and
    /// reports relate them.
    fn by_sound_us(&self, now: Timestamp, packet: &Packet<V>) -> Option<i64> {
        let line_us = self.heard.filter(|_| self.is_audible(now))?.line_us?;
        let capture_us = self.capture_us(&self.video, packet)?;
        let natural = self.video.natural_us(now, packet.timestamp)?;
        plausible(Some(capture_us.saturating_add(line_us)), natural)
    }

    fn capture_us<T>(&self, stream: &Stream<T>, packet: &Packet<T>) -> Option<i64> {
        stream.capture_us(packet.timestamp, self.origin?)
    }

    fn line_us(&self, capture_us: Option<i64>) -> Option<i64> {
        Some(capture_us?.saturating_add(self.line.as_ref()?.offset_us()))
    }

    /// How well the streams that play are aligned.
    pub fn sync_state(&self) -> SyncState {
        let mapped = |reports: bool, active: bool| reports || !active;
        let audio = self.audio.is_active();
        let video = self.video.is_active();
        if !(audio || video)
            || !mapped(self.audio.drift.ntp_of(0).is_some(), audio)
            || !mapped(self.video.drift.ntp_of(0).is_some(), video)
        {
            return SyncState::Unsynced;
        }
        let within = |us: i64| us.abs() <= micros(self.config.dead_band);
        if audio && video && !self.skew_us.is_some_and(within) {
            return SyncState::Syncing;
        }
        SyncState::Synced
    }

    /// What is known about the sender's clock behind a stream; `None` before 320 frames.
    pub fn estimate_clock_drift(&self, kind: MediaKind) -> Option<ClockDriftEstimate> {
        match kind {
            MediaKind::Audio => self.audio.drift.estimate_drift(),
            MediaKind::Video => self.video.drift.estimate_drift(),
        }
    }

    /// How many times as fast as nominal sound should be played at `now`, so that the sender's clock
    /// and ours do not part: within [0.99, 1.01], changing by 50 ppm a second.
    pub fn clock_drift_correction(&mut self, now: Timestamp) -> f64 {
        let estimate = self.audio.drift.estimate_drift();
        self.correction.update(now, estimate.as_ref())
    }

    /// How far `other`'s wall clock is ahead of this peer's; `None` before both have sent sound and a
    /// report of it.
    pub fn align_with_peer<B, W>(
        &self,
        now: Timestamp,
        other: &SyncManager<B, W>,
    ) -> Option<TimestampOffset> {
        let (origin, others) = (self.origin?, other.origin?);
        let ours = self.audio.fastest_us(now, origin)?;
        let theirs = other.audio.fastest_us(now, others)?;
        let apart = crate::clock::ntp_difference_us(others, origin);
        Some(TimestampOffset {
            offset_us: apart.saturating_add(ours).saturating_sub(theirs),
            is_stable: [self.sync_state(), other.sync_state()] == [SyncState::Synced; 2],
        })
    }

    /// The counters.
    pub fn stats(&self) -> SyncStats {
        SyncStats {
            audio: self.audio.buffer.stats(),
            video: self.video.buffer.stats(),
            #[allow(clippy::cast_possible_truncation)] // a figure to look at
            skew_ms: self.skew_us.map(|us| us as f32 / 1000.0),
            ..self.stats
        }
    }

    /// When the frame of sound that is due at `now` was captured, as if it had come the fastest way.
    pub(crate) fn due_instant_us(&mut self, now: Timestamp) -> Option<Due> {
        self.steer(now);
        let front = self.audio.buffer.front()?;
        let playout_us = self.audio_playout_us(now, front)?;
        let instant_us = self.audio.instant_us(now, front)?;
        let waited_us = signed(now).saturating_sub(playout_us);
        (waited_us >= 0).then_some(Due {
            instant_us,
            waited_us,
        })
    }

    pub(crate) fn skip_audio(&mut self) {
        if self.audio.buffer.pop().is_some() {
            self.stats.skipped_audio += 1;
        }
    }

    pub(crate) fn max_hold_us(&self) -> i64 {
        micros(self.config.max_hold)
    }
}

/// A frame of sound that is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub(crate) instant_us: i64,
    /// For how long it has been due.
    pub(crate) waited_us: i64,
}

/// By how much two peers' wall clocks differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The other clock minus this one, in microseconds. Wrong by the difference of the two paths' least
    /// delays, which no receiver can see: at most half the longer round trip.
    pub offset_us: i64,
    /// Whether both peers are [`SyncState::Synced`].
    pub is_stable: bool,
}

/// A time of playout by the line, if it is near the stream's own.
fn plausible(by_line: Option<i64>, natural: i64) -> Option<i64> {
    by_line.filter(|by_line| by_line.abs_diff(natural) <= IMPLAUSIBLE_US)
}

fn synced<T>(
    now: Timestamp,
    packet: Packet<T>,
    playout_us: i64,
    capture: Option<NtpTime>,
) -> SyncedFrame<T> {
    SyncedFrame {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // RTP time wraps
        rtp_timestamp: packet.timestamp as u32,
        playout: timestamp(playout_us.min(signed(now))),
        buffer_delay: now.saturating_since(packet.arrival),
        payload: packet.payload,
        audio_sync_offset_us: None,
        capture,
    }
}
