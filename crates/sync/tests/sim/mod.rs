//! Seeded senders and networks in virtual time.
#![allow(dead_code)] // each test uses a part
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use roundtable_core::{MediaClock, NtpTime, Timestamp, WallTime};
use roundtable_sync::{
    ClockDriftEstimate, ClockDriftEstimator, MediaKind, RtpMeta, SyncConfig, SyncManager, SyncState,
};

/// SplitMix64.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in [-1, 1).
    pub(crate) fn around(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }
}

/// What a sender's clock that is off by `ppm` makes of so many seconds of voice in packets of 20 ms,
/// each held up by ±20 ms.
pub(crate) fn drift_after(seed: u64, ppm: f64, seconds: u32) -> ClockDriftEstimate {
    let mut dice = Dice(seed);
    let mut estimator = ClockDriftEstimator::new(48_000, 100.0);
    let begin = dice.roll() as u32;
    for packet in 0..seconds * 50 {
        let media_us = f64::from(packet) * 20_000.0;
        let arrival = 1e6 + media_us / (1.0 + ppm * 1e-6) + 20_000.0 * (1.0 + dice.around());
        let timestamp = begin.wrapping_add(packet * 960);
        estimator.add_observation(timestamp, Timestamp::from_micros(arrival as u64));
    }
    estimator.estimate_drift().unwrap()
}

/// How drift estimates over many seeds turned out.
#[derive(Debug)]
pub(crate) struct DriftScore {
    /// 95 % of the errors are smaller than this, in ppm.
    pub p95_ppm: f64,
    /// The greatest error, in ppm.
    pub worst_ppm: f64,
    /// Share of the intervals that hold the truth.
    pub covered: f64,
}

pub(crate) fn drift_score(seeds: std::ops::Range<u64>, seconds: u32) -> DriftScore {
    let count = seeds.end - seeds.start;
    let mut covered = 0_u32;
    let mut errors: Vec<f64> = seeds
        .map(|seed| {
            let truth = Dice(seed ^ 0xD1F7).around() * 500.0;
            let drift = drift_after(seed, truth, seconds).drift;
            covered += u32::from((drift.low..=drift.high).contains(&truth));
            (drift.ppm - truth).abs()
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    DriftScore {
        p95_ppm: errors[errors.len() * 95 / 100],
        worst_ppm: errors[errors.len() - 1],
        covered: f64::from(covered) / count as f64,
    }
}

/// One sender and the network to us. Delays are of `kind`, by the time of capture in seconds.
pub(crate) struct Scene<D> {
    pub seed: u64,
    pub seconds: u64,
    pub audio_ppm: f64,
    pub video_ppm: f64,
    pub delay_ms: D,
}

/// A picture that was shown while sound was heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub at_s: f64,
    /// How far the picture was behind the sound, by the true times of capture.
    pub skew_ms: f64,
}

/// A frame of sound that was played: when, and how long after its capture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Played {
    pub at_s: f64,
    pub age_ms: f64,
}

/// What a scene came to.
pub(crate) struct Outcome {
    pub manager: SyncManager<u64, u64>,
    pub shown: Vec<Shown>,
    pub played: Vec<Played>,
    /// When the state became [`SyncState::Synced`] for the first time.
    pub locked_s: Option<f64>,
    pub end: Timestamp,
}

impl Outcome {
    /// Magnitudes of the skews after so many seconds, ascending, in milliseconds.
    pub(crate) fn skews_after(&self, seconds: f64) -> Vec<f64> {
        let late = self.shown.iter().filter(|shown| shown.at_s >= seconds);
        let mut skews: Vec<f64> = late.map(|shown| shown.skew_ms.abs()).collect();
        skews.sort_by(f64::total_cmp);
        skews
    }
}

enum Arrival {
    Frame(MediaKind, RtpMeta, u64),
    Report(MediaKind, MediaClock),
}

/// The sender's wall clock begins here, and the local clock at 0 when the scene does.
const WALL_US: u64 = 1_700_000_000_000_000;

pub(crate) fn clock_at(capture_us: f64, timestamp: u32) -> MediaClock {
    MediaClock {
        ntp: NtpTime::from(WallTime::from_micros(WALL_US + capture_us as u64)),
        timestamp,
    }
}

impl<D: FnMut(MediaKind, f64, &mut Dice) -> f64> Scene<D> {
    fn arrivals(&mut self) -> Vec<(u64, Arrival)> {
        let mut dice = Dice(self.seed);
        let mut arrivals = Vec::new();
        for (kind, rate, period_us, ppm) in [
            (MediaKind::Audio, 48_000.0, 20_000.0, self.audio_ppm),
            (MediaKind::Video, 90_000.0, 33_333.0, self.video_ppm),
        ] {
            let begin = dice.roll() as u32;
            let frames = (self.seconds as f64 * 1e6 / period_us) as u64;
            let mut reported = f64::NEG_INFINITY;
            for index in 0..frames {
                let capture_us = index as f64 * period_us;
                let media_s = capture_us / 1e6 * (1.0 + ppm * 1e-6);
                let timestamp = begin.wrapping_add((media_s * rate) as u64 as u32);
                let delay_ms = (self.delay_ms)(kind, capture_us / 1e6, &mut dice);
                let arrival = (capture_us + delay_ms * 1000.0) as u64;
                if capture_us - reported >= 5e6 {
                    // Stamped to a millisecond or so, as by a busy machine.
                    let stamp = clock_at(capture_us + 1_000.0 * (1.0 + dice.around()), timestamp);
                    arrivals.push((arrival, Arrival::Report(kind, stamp)));
                    reported = capture_us;
                }
                let meta = RtpMeta {
                    sequence: index as u16,
                    timestamp,
                    spurt: index == 0,
                };
                arrivals.push((arrival, Arrival::Frame(kind, meta, capture_us as u64)));
            }
        }
        arrivals.sort_by_key(|(at, _)| *at);
        arrivals
    }

    /// Plays the scene through, asking for frames every 5 ms.
    pub(crate) fn play(mut self) -> Outcome {
        let peer = "bob".parse().unwrap();
        let mut arrivals = self.arrivals().into_iter().peekable();
        let mut outcome = Outcome {
            manager: SyncManager::new(peer, SyncConfig::default()).unwrap(),
            shown: Vec::new(),
            played: Vec::new(),
            locked_s: None,
            end: Timestamp::ZERO,
        };
        let mut heard: Option<(f64, f64)> = None;
        for tick in 0..self.seconds * 200 {
            let now = Timestamp::from_millis(5 * tick);
            let now_us = now.as_micros() as f64;
            let manager = &mut outcome.manager;
            while let Some((at, arrival)) = arrivals.next_if(|(at, _)| *at <= now.as_micros()) {
                let at = Timestamp::from_micros(at);
                match arrival {
                    Arrival::Report(kind, clock) => {
                        manager.update_sender_report(kind, clock);
                    }
                    Arrival::Frame(MediaKind::Audio, meta, capture) => {
                        manager.process_audio_frame(at, meta, capture);
                    }
                    Arrival::Frame(MediaKind::Video, meta, capture) => {
                        manager.process_video_frame(at, meta, capture);
                    }
                }
            }
            while let Some(frame) = manager.pop_next_audio_frame(now) {
                let playout = frame.playout.as_micros() as f64;
                heard = Some((frame.payload as f64, playout));
                let age_ms = (playout - frame.payload as f64) / 1e3;
                let at_s = now_us / 1e6;
                outcome.played.push(Played { at_s, age_ms });
            }
            while let Some(frame) = manager.pop_next_video_frame(now) {
                // Between two frames of sound, it goes on; after 40 ms without the next, there is none.
                if let Some((capture, playout)) = heard
                    && now_us - playout <= 40_000.0
                {
                    let position = capture + now_us - playout;
                    let skew_ms = (position - frame.payload as f64) / 1e3;
                    let at_s = now_us / 1e6;
                    outcome.shown.push(Shown { at_s, skew_ms });
                }
            }
            if manager.sync_state() == SyncState::Synced {
                outcome.locked_s.get_or_insert(now_us / 1e6);
            }
            outcome.end = now + Duration::from_millis(5);
        }
        outcome
    }
}

/// The element that this share of the sorted values lies below.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// A picture that takes 30 ms longer than the sound, both with jitter, and clocks that are off.
pub(crate) fn jittery(seed: u64, step_ms: impl Fn(MediaKind, f64) -> f64) -> Outcome {
    let delay_ms = |kind: MediaKind, at: f64, dice: &mut Dice| {
        let (least, jitter) = if kind == MediaKind::Audio {
            (40.0, 30.0)
        } else {
            (70.0, 40.0)
        };
        least + jitter * dice.unit() + step_ms(kind, at)
    };
    let scene = Scene {
        seed,
        seconds: 60,
        audio_ppm: 200.0,
        video_ppm: -100.0,
        delay_ms,
    };
    scene.play()
}

/// The path of one stream, or of both, takes 200 ms longer from 20 to 40 s.
pub(crate) fn step_of(streams: &[MediaKind]) -> impl Fn(MediaKind, f64) -> f64 {
    move |kind, at| {
        let stepped = streams.contains(&kind) && (20.0..40.0).contains(&at);
        if stepped { 200.0 } else { 0.0 }
    }
}
