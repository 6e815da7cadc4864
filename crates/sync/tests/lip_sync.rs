//! Sound and picture of a peer, and of several, played in step; in virtual time.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures
#![allow(clippy::unwrap_used)]

mod sim;

use std::time::Duration;

use proptest::prelude::*;
use roundtable_core::{MediaClock, NtpTime, PeerId, Timestamp};
use roundtable_sync::{
    MediaKind::{Audio, Video},
    Pushed, RtpMeta, SyncConfig, SyncManager, SyncState, collect_aligned_frames,
};
use sim::{Dice, clock_at, jittery, percentile, step_of};

#[test]
fn lips_are_in_step_within_10_ms_for_95_percent_of_pictures() {
    for seed in 0..10 {
        let outcome = jittery(seed, |_, _| 0.0);
        assert!(outcome.locked_s.unwrap() <= 2.0, "{:?}", outcome.locked_s);
        let skews = outcome.skews_after(2.0);
        assert!(skews.len() > 1_650, "{} pictures of 1740", skews.len());
        let (p95, p99) = (percentile(&skews, 0.95), percentile(&skews, 0.99));
        assert!(
            p95 <= 10.0 && p99 <= 20.0,
            "seed {seed}: {p95} and {p99} ms"
        );
    }
}

#[test]
fn a_step_of_200_ms_in_either_path_never_parts_lips_and_voice_by_more_than_45_ms() {
    for streams in [&[Video][..], &[Audio], &[Audio, Video]] {
        for seed in 0..5 {
            let outcome = jittery(seed, step_of(streams));
            let skews = outcome.skews_after(2.0);
            let worst = skews.last().unwrap();
            assert!(*worst <= 45.0, "{streams:?}, seed {seed}: {worst} ms");
            let (p95, p99) = (percentile(&skews, 0.95), percentile(&skews, 0.99));
            assert!(
                p95 <= 10.0 && p99 <= 20.0,
                "{streams:?}: {p95} and {p99} ms"
            );
        }
    }
}

#[test]
fn after_a_step_the_picture_is_back_within_2_s() {
    for at in [20.0, 40.0] {
        let outcome = jittery(3, step_of(&[Video]));
        let soon = outcome.shown.iter().filter(|shown| shown.at_s > at);
        let back = soon.filter(|shown| shown.at_s < at + 3.0 && shown.skew_ms.abs() < 10.0);
        let times: Vec<f64> = back.map(|shown| shown.at_s).collect();
        let gap = times.windows(2).map(|pair| pair[1] - pair[0]);
        let gap = gap.fold(times[0] - at, f64::max);
        assert!(gap < 2.0, "frozen for {gap} s");
    }
}

#[test]
fn sound_waits_for_the_picture_in_steps_of_80_ms_at_most_and_comes_back() {
    let outcome = jittery(1, step_of(&[Video]));
    let ages: Vec<f64> = outcome.played.iter().map(|played| played.age_ms).collect();
    let change = ages.windows(2).map(|pair| (pair[1] - pair[0]).abs());
    assert!(change.fold(0.0, f64::max) <= 81.0);
    let mean = |from: f64, to: f64| {
        let part = outcome.played.iter();
        let part = part.filter(|played| (from..to).contains(&played.at_s));
        let ages: Vec<f64> = part.map(|played| played.age_ms).collect();
        ages.iter().sum::<f64>() / ages.len() as f64
    };
    let (before, during, after) = (mean(10.0, 20.0), mean(25.0, 40.0), mean(55.0, 60.0));
    assert!(during > before + 150.0, "{before} to {during} ms");
    assert!(
        during < before + 260.0,
        "held no longer than allowed: {during} ms"
    );
    assert!(after < before + 20.0, "{before} to {after} ms");
    assert!(outcome.manager.stats().steps >= 3);
}

#[test]
fn a_picture_that_is_out_of_reach_is_shown_late_and_sound_does_not_wait_longer_than_allowed() {
    let outcome = jittery(2, |kind, _| if kind == Video { 700.0 } else { 0.0 });
    assert!(outcome.shown.len() > 1_500, "{}", outcome.shown.len());
    assert_eq!(outcome.manager.sync_state(), SyncState::Syncing);
    let oldest = outcome.played.iter().map(|played| played.age_ms);
    assert!(oldest.fold(0.0, f64::max) < 40.0 + 120.0 + 250.0);
}

#[test]
fn clock_drift_is_measured_for_both_streams() {
    let outcome = jittery(4, |_, _| 0.0);
    for (kind, ppm) in [(Audio, 200.0), (Video, -100.0)] {
        let estimate = outcome.manager.estimate_clock_drift(kind).unwrap();
        assert!(
            (estimate.drift.ppm - ppm).abs() < 15.0,
            "{kind:?}: {estimate:?}"
        );
    }
    let mut manager = outcome.manager;
    assert_eq!(manager.clock_drift_correction(outcome.end), 1.0);
    let later = outcome.end + Duration::from_secs(10);
    let ratio = manager.clock_drift_correction(later);
    assert!((ratio - 1.0002).abs() < 15e-6, "{ratio}");
}

fn manager(name: &str) -> SyncManager<u64, u64> {
    SyncManager::new(name.parse().unwrap(), SyncConfig::default()).unwrap()
}

fn voice(index: u64) -> RtpMeta {
    RtpMeta {
        sequence: index as u16,
        timestamp: 960_u32.wrapping_mul(index as u32),
        spurt: index == 0,
    }
}

fn picture(index: u64) -> RtpMeta {
    RtpMeta {
        sequence: index as u16,
        timestamp: 3_000_u32.wrapping_mul(index as u32),
        spurt: false,
    }
}

#[test]
fn the_state_tells_what_is_known() {
    let mut bob = manager("bob");
    let ms = Timestamp::from_millis;
    assert_eq!(bob.sync_state(), SyncState::Unsynced);
    bob.process_audio_frame(ms(10), voice(0), 0);
    assert_eq!(bob.sync_state(), SyncState::Unsynced, "no report");
    assert!(bob.update_sender_report(Audio, clock_at(0.0, 0)));
    assert_eq!(
        bob.sync_state(),
        SyncState::Synced,
        "nothing to be in step with"
    );
    bob.process_video_frame(ms(12), picture(0), 0);
    assert_eq!(bob.sync_state(), SyncState::Unsynced);
    bob.update_sender_report(Video, clock_at(0.0, 0));
    assert_eq!(bob.sync_state(), SyncState::Syncing);
    let due = (13..200)
        .map(ms)
        .find(|now| bob.pop_next_audio_frame(*now).is_some());
    let due = due.unwrap();
    assert!(bob.next_playout(due).unwrap() <= due);
    let shown = bob.pop_next_video_frame(due).unwrap();
    assert!(shown.audio_sync_offset_us.unwrap() < 1_000, "{shown:?}");
    assert_eq!(shown.capture, Some(clock_at(0.0, 0).ntp));
    assert_eq!(bob.sync_state(), SyncState::Synced);
    bob.reset();
    assert_eq!(bob.sync_state(), SyncState::Unsynced);
    assert_eq!(bob.next_playout(ms(500)), None);
}

#[test]
fn without_reports_each_stream_plays_by_itself() {
    let mut bob = manager("bob");
    let (mut heard, mut seen) = (0, 0);
    for tick in 0..1_000_u64 {
        let now = Timestamp::from_millis(10 * tick);
        if tick % 2 == 0 {
            bob.process_audio_frame(now, voice(tick / 2), tick);
        }
        if tick % 10 < 3 {
            bob.process_video_frame(now, picture(tick / 10 * 3 + tick % 10), tick);
        }
        heard += u64::from(bob.pop_next_audio_frame(now).is_some());
        seen += u64::from(bob.pop_next_video_frame(now).is_some());
    }
    assert!(heard > 490 && seen > 280, "{heard}, {seen}");
}

#[test]
fn a_sender_that_starts_anew_is_in_step_again_by_the_report_that_announced_it() {
    let mut bob = manager("bob");
    let mut state = Vec::new();
    for index in 0..100_u64 {
        let now = Timestamp::from_millis(40 + 20 * index);
        let capture_us = 20_000.0 * index as f64;
        let (sequence, base) = if index < 50 {
            (0, 0)
        } else {
            (30_000, 3_000_000_000)
        };
        let timestamp = 960 * index as u32 + base;
        if index % 50 == 0 {
            bob.update_sender_report(Audio, clock_at(capture_us, timestamp));
        }
        let meta = RtpMeta {
            sequence: sequence + index as u16,
            timestamp,
            spurt: false,
        };
        let pushed = bob.process_audio_frame(now, meta, index);
        assert_eq!(pushed == Pushed::Restarted, index == 51);
        while let Some(frame) = bob.pop_next_audio_frame(now) {
            let error = clock_at(20_000.0 * frame.payload as f64, 0).ntp.0;
            let error = frame.capture.unwrap().0.abs_diff(error) >> 22;
            state.push((frame.payload, error));
        }
    }
    assert!(
        state.iter().all(|(_, error)| *error <= 1),
        "within a millisecond"
    );
    assert!(state.iter().any(|(index, _)| *index > 90));
}

#[test]
fn an_hour_of_silence_between_two_words_leaves_them_in_step() {
    let mut bob = manager("bob");
    let mut skews = Vec::new();
    for word in 0..3_u64 {
        // Both clocks lose 100 ppm on ours: 360 ms an hour.
        let begin_us = word * 3_600_000_000;
        let local = |us: u64| Timestamp::from_micros(us + us / 10_000 + 50_000);
        for step in 0..2_000_u64 {
            let us = begin_us + step * 1_000;
            let now = local(us);
            let ticks = |khz: u64| (us / 1_000 * khz) as u32;
            if step == 0 {
                bob.update_sender_report(Audio, clock_at(us as f64, ticks(48)));
                bob.update_sender_report(Video, clock_at(us as f64, ticks(90)));
            }
            if step % 20 == 0 {
                let meta = RtpMeta {
                    sequence: (word * 100 + step / 20) as u16,
                    timestamp: ticks(48),
                    spurt: step == 0,
                };
                bob.process_audio_frame(now, meta, us);
            }
            if step % 40 == 0 {
                let meta = RtpMeta {
                    sequence: (word * 50 + step / 40) as u16,
                    timestamp: ticks(90),
                    spurt: false,
                };
                bob.process_video_frame(now, meta, us);
            }
            bob.pop_next_audio_frame(now);
            let shown = bob.pop_next_video_frame(now);
            skews.extend(shown.and_then(|frame| frame.audio_sync_offset_us));
        }
    }
    assert!(skews.len() > 130, "{}", skews.len());
    assert!(skews.iter().all(|us| us.abs() <= 2_000), "{skews:?}");
}

#[test]
fn a_senders_clock_that_is_set_by_an_hour_stops_neither_stream() {
    for by_us in [3_600e6, -3_600e6] {
        let mut bob = manager("bob");
        let (mut heard, mut seen) = (0, 0);
        for tick in 0..6_000_u64 {
            let now = Timestamp::from_millis(10 * tick + 50);
            let set_us = if tick >= 2_000 { by_us } else { 0.0 };
            let wall_us = 4e9 + 10_000.0 * tick as f64 + set_us;
            if tick % 500 == 0 {
                bob.update_sender_report(Audio, clock_at(wall_us, 480 * tick as u32));
            }
            if tick % 500 == 248 || tick == 0 {
                bob.update_sender_report(Video, clock_at(wall_us, 900 * tick as u32));
            }
            if tick % 2 == 0 {
                bob.process_audio_frame(now, voice(tick / 2), tick);
            }
            if tick % 4 == 0 {
                let mut meta = picture(tick / 4);
                meta.timestamp = 900 * tick as u32;
                bob.process_video_frame(now, meta, tick);
            }
            heard += u64::from(bob.pop_next_audio_frame(now).is_some());
            seen += u64::from(bob.pop_next_video_frame(now).is_some());
        }
        assert!(heard > 2_970 && seen > 1_480, "{by_us}: {heard}, {seen}");
        assert_eq!(bob.sync_state(), SyncState::Synced);
        assert!(bob.stats().skew_ms.unwrap().abs() <= 10.0);
    }
}

#[test]
fn frames_of_several_peers_are_collected_within_100_ms_of_each_other() {
    // Their networks hold the voices up by up to 10, 60, 110 and 160 ms, and their clocks disagree.
    let mut peers: Vec<_> = ["a", "b", "c", "d"].map(manager).into();
    let mut dice = Dice(11);
    let mut waiting: Vec<(u64, usize, u64)> = Vec::new();
    for index in 0..1_500_u64 {
        for peer in 0..4 {
            let jitter = 10_000 + 50_000 * peer as u64;
            waiting.push((index * 20_000 + dice.roll() % jitter, peer, index));
        }
    }
    waiting.sort_unstable();
    let mut waiting = waiting.into_iter().peekable();
    let mut heard = [0_u32; 4];
    for tick in 0..3_000_u64 {
        let now = Timestamp::from_millis(10 * tick);
        while let Some((at, peer, index)) = waiting.next_if(|(at, ..)| *at <= now.as_micros()) {
            let meta = voice(index);
            let capture_us = index as f64 * 20_000.0 + 3_600e6 * peer as f64;
            peers[peer].update_sender_report(Audio, clock_at(capture_us, meta.timestamp));
            peers[peer].process_audio_frame(Timestamp::from_micros(at), meta, index);
        }
        let frames = collect_aligned_frames(now, &mut peers);
        let captured = frames.iter().map(|(_, frame)| frame.payload * 20);
        if let (Some(first), Some(last)) = (captured.clone().min(), captured.max()) {
            assert!(last - first <= 120, "{first} to {last} ms");
        }
        for (peer, _) in frames {
            heard[usize::from(peer.as_str().as_bytes()[0] - b'a')] += 1;
        }
    }
    assert!(heard.iter().all(|count| *count > 1_350), "{heard:?}");
}

#[test]
fn a_peer_that_stands_still_does_not_hold_the_others_up() {
    let mut peers: Vec<_> = ["a", "b"].map(manager).into();
    let mut heard = 0;
    for index in 0..500_u64 {
        let now = Timestamp::from_millis(20 * index);
        peers[0].process_audio_frame(now, voice(index), index);
        if index < 100 {
            peers[1].process_audio_frame(now, voice(index), index);
        }
        let frames = collect_aligned_frames(now, &mut peers);
        let a: PeerId = "a".parse().unwrap();
        heard += u32::from(frames.iter().any(|(peer, _)| *peer == a));
    }
    assert!(heard > 480, "{heard}");
}

#[test]
fn peers_clocks_are_compared_through_ours() {
    let mut here = manager("here");
    let mut there = manager("there");
    for index in 0..50_u64 {
        let now = Timestamp::from_millis(20 * index + 30);
        let capture_us = 20_000.0 * index as f64;
        let timestamp = voice(index).timestamp;
        here.update_sender_report(Audio, clock_at(capture_us, timestamp));
        there.update_sender_report(Audio, clock_at(capture_us + 7_250_000.0, timestamp));
        here.process_audio_frame(now, voice(index), 0);
        there.process_audio_frame(now, voice(index), 0);
    }
    let now = Timestamp::from_millis(1_100);
    let offset = here.align_with_peer(now, &there).unwrap();
    assert!((offset.offset_us - 7_250_000).abs() <= 20, "{offset:?}");
    assert!(offset.is_stable);
    let back = there.align_with_peer(now, &here).unwrap();
    assert!((back.offset_us + 7_250_000).abs() <= 20, "{back:?}");
    assert_eq!(here.align_with_peer(now, &manager("new")), None);
}

#[test]
fn a_bad_configuration_is_refused() {
    let ms = Duration::from_millis;
    let good = SyncConfig::default();
    assert_eq!(good.validate(), Ok(()));
    for bad in [
        good.with_max_step(ms(0)),
        good.with_max_hold(ms(1_001)),
        good.with_drift_threshold_ppm(f64::NAN),
        good.with_video(good.video.with_late_share(2.0)),
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_frames_are_played_in_order_and_none_before_its_time(
        ops in prop::collection::vec((0..6_u8, any::<u16>(), any::<u32>(), 0..60_u64), 1..400),
    ) {
        let mut bob = manager("bob");
        let mut now = Timestamp::ZERO;
        let mut popped = 0;
        let mut pushed = 0;
        for (op, small, wide, wait) in ops {
            now = now + Duration::from_millis(wait);
            // Half of it nearly plausible, half of it anything.
            let near = RtpMeta {
                sequence: small % 64,
                timestamp: u32::from(small % 64) * 960,
                spurt: wide.is_multiple_of(7),
            };
            let wild = RtpMeta { sequence: small, timestamp: wide, spurt: false };
            let meta = if wide.is_multiple_of(2) { near } else { wild };
            match op {
                0 | 1 => {
                    pushed += 1;
                    bob.process_audio_frame(now, meta, 0);
                }
                2 => {
                    pushed += 1;
                    bob.process_video_frame(now, meta, 0);
                }
                3 => {
                    let ntp = NtpTime(u64::from(wide) << 33 | u64::from(small));
                    let kind = if small % 2 == 0 { Audio } else { Video };
                    bob.update_sender_report(kind, MediaClock { ntp, timestamp: meta.timestamp });
                }
                4 => {
                    while let Some(frame) = bob.pop_next_audio_frame(now) {
                        prop_assert!(frame.playout <= now);
                        popped += 1;
                    }
                }
                _ => {
                    while let Some(frame) = bob.pop_next_video_frame(now) {
                        prop_assert!(frame.playout <= now);
                        popped += 1;
                    }
                }
            }
            prop_assert!(popped <= pushed);
            bob.next_playout(now);
            bob.sync_state();
        }
    }
}
