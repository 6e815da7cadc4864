//! The buffer, the estimate and the decision together, in virtual time.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures

use std::time::Duration;

use proptest::prelude::*;
use roundtable_core::{MediaClock, NtpTime, Timestamp, WallTime};

use crate::*;

const FRAME: u32 = 960;

fn meta(index: u64) -> RtpMeta {
    RtpMeta {
        sequence: 65_000_u64.wrapping_add(index) as u16,
        timestamp: (u64::from(u32::MAX) - 48_000 + index * u64::from(FRAME)) as u32,
        spurt: false,
    }
}

fn voice() -> JitterBuffer<u64> {
    JitterBuffer::new(JitterConfig::voice()).unwrap()
}

/// Deterministic jitter in 0 to `max` ms.
fn jitter(index: u64, max: u64) -> u64 {
    (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % (max + 1)
}

#[test]
fn jitter_buffer_adapts_latency_to_network_jitter() {
    let mut buffer = voice();
    let mut run = |range: std::ops::Range<u64>, jitter_ms: u64| {
        for index in range {
            let now = Timestamp::from_millis(50 + index * 20 + jitter(index, jitter_ms));
            buffer.push(now, meta(index), index);
            while buffer.pop_due(now).is_some() {}
        }
        buffer.target().as_millis()
    };
    let calm = run(0..500, 0);
    let rough = run(500..1500, 60);
    let calm_again = run(1500..3500, 0);
    assert_eq!(calm, 5, "the lower bound");
    assert!((50..=70).contains(&rough), "{rough} ms for 60 ms of jitter");
    assert_eq!(calm_again, 5, "what has passed is forgotten");
}

#[test]
fn a_single_spike_does_not_raise_the_delay_but_a_pattern_of_them_does() {
    let mut buffer = voice();
    let mut targets = Vec::new();
    for index in 0..3_000_u64 {
        // A spike of 100 ms: at 10 s alone, from 30 s on every 4 s.
        let spike = index == 500 || (index >= 1_500 && index % 200 < 1);
        let now = Timestamp::from_millis(20 * index + if spike { 100 } else { 0 });
        buffer.push(now, meta(index), index);
        while buffer.pop_due(now).is_some() {}
        targets.push(buffer.target().as_millis());
    }
    assert_eq!(targets[1_400], 5);
    // 40 ms of four seconds would be made up at 60 ms: one in a hundred.
    assert!((60..=100).contains(&targets[2_900]), "{}", targets[2_900]);
}

/// Pushes packets of 20 ms that take so many milliseconds, and returns the transit up to which the
/// buffer waits after each.
fn waits(transits_ms: impl Iterator<Item = u64>) -> Vec<i64> {
    let mut buffer = voice();
    let arrivals = (0..).zip(transits_ms);
    let mut arrivals: Vec<(u64, u64)> = arrivals.map(|(i, ms)| (20 * i + ms, i)).collect();
    arrivals.sort_unstable();
    let wait = |(at_ms, index): (u64, u64)| {
        let now = Timestamp::from_millis(at_ms);
        buffer.push(now, meta(index), index);
        let newest = buffer.back().unwrap().timestamp;
        let delay_us = buffer.delay_us(now, newest).unwrap();
        let target_us = buffer.target().as_micros() as i64;
        while buffer.pop_due(now).is_some() {}
        at_ms as i64 - 20 * index as i64 + (target_us - delay_us) / 1000
    };
    arrivals.into_iter().map(wait).collect()
}

#[test]
fn a_path_that_has_become_longer_is_not_counted_twice() {
    let path = |index: u64| if index < 500 { 50 } else { 110 };
    let waits = waits((0..2_000).map(|index| path(index) + jitter(index, 10)));
    assert!(waits[450..500].iter().all(|wait| (57..=63).contains(wait)));
    // From the second packet on, for as long as the old path is remembered and after.
    let longest = waits[502..].iter().max().unwrap();
    assert!(*longest <= 110 + 10 + 20, "waits for {longest} ms");
    let shortest = waits[510..].iter().min().unwrap();
    assert!(*shortest >= 110, "waits for {shortest} ms only");
}

#[test]
fn a_path_that_has_become_shorter_is_followed_within_five_seconds() {
    let path = |index: u64| if index < 500 { 110 } else { 50 };
    let waits = waits((0..1_500).map(|index| path(index) + jitter(index, 10)));
    assert!(waits[750..].iter().all(|wait| (57..=63).contains(wait)));
}

#[test]
fn redundancy_is_waited_for_where_packets_are_lost_and_only_there() {
    let target = |lost_of_ten: u64, repeated: u16| {
        let mut buffer = voice();
        for index in (0..3_000_u64).filter(|index| index % 10 >= lost_of_ten) {
            let now = Timestamp::from_millis(20 * index);
            buffer.push(now, meta(index), index);
            for back in 1..=repeated {
                buffer.repeats(now, meta(index), back, 960 * u32::from(back));
            }
            while buffer.pop_due(now).is_some() {}
        }
        buffer.target().as_millis()
    };
    assert_eq!(target(0, 2), 5, "nothing is lost");
    assert_eq!(target(1, 0), 5, "nothing to wait for");
    assert!((20..=25).contains(&target(1, 2)), "a packet later");
    assert!((40..=45).contains(&target(2, 2)), "two packets later");
    assert!(
        (20..=25).contains(&target(2, 1)),
        "the other one never comes"
    );
}

#[test]
fn a_packet_that_is_repeated_twice_counts_once_and_not_across_a_pause() {
    let mut buffer = voice();
    let ms = Timestamp::from_millis;
    let spurt = RtpMeta {
        spurt: true,
        ..meta(0)
    };
    buffer.push(ms(0), spurt, 0);
    buffer.repeats(ms(0), spurt, 1, 960);
    for index in [3, 4, 5] {
        buffer.push(ms(20 * index), meta(index), index);
        buffer.repeats(ms(20 * index), meta(index), 2, 1_920);
        buffer.repeats(ms(20 * index), meta(index), 2, 1_920);
    }
    assert_eq!(buffer.stats().repeated, 2, "the first and the second");
}

#[test]
fn the_figures_tell_how_many_wait_and_how_far_behind_they_are_played() {
    let mut buffer = voice();
    assert_eq!(buffer.stats().current_frames, 0);
    for index in 0..40 {
        buffer.push(Timestamp::from_millis(20 * index), meta(index), index);
    }
    assert_eq!(buffer.stats().current_frames, 40);
    for index in 0..20 {
        buffer.pop_at(Timestamp::from_millis(20 * index + 30));
    }
    let stats = buffer.stats();
    assert_eq!(stats.current_frames, 20);
    assert_eq!(
        (stats.current_delay_ms, stats.average_delay_ms),
        (30.0, 30.0)
    );
    for index in 20..36 {
        buffer.pop_at(Timestamp::from_millis(20 * index + 60));
    }
    let stats = buffer.stats();
    assert_eq!(stats.current_delay_ms, 60.0);
    assert!((45.0..55.0).contains(&stats.average_delay_ms), "{stats:?}");
}

#[test]
fn the_counters_tell_how_full_it_was_and_what_share_is_lost() {
    let mut buffer = voice();
    for index in (0..10).filter(|index| *index != 4 && *index != 5) {
        buffer.push(Timestamp::from_millis(20 * index), meta(index), index);
    }
    buffer.push(Timestamp::from_millis(200), meta(9), 9);
    while buffer.pop().is_some() {}
    let stats = buffer.stats();
    assert_eq!((stats.peak, stats.lost, stats.duplicates), (8, 2, 1));
    assert!((stats.loss - 0.2).abs() < 1e-6, "{}", stats.loss);
}

#[test]
fn the_delay_of_a_pattern_of_spikes_decays_when_they_end() {
    let mut buffer = voice();
    let mut targets = Vec::new();
    for index in 0..2_300_u64 {
        let spike = index % 100 == 99 && index < 1_000;
        let now = Timestamp::from_millis(20 * index + if spike { 110 } else { 0 });
        buffer.push(now, meta(index), index);
        while buffer.pop_due(now).is_some() {}
        targets.push(buffer.target().as_millis());
    }
    assert!(targets[999] > 60, "{} ms while they last", targets[999]);
    assert!(targets[1_999] <= 20, "{} ms after 20 s", targets[1_999]);
    assert_eq!(targets[2_299], 5, "after 26 s");
}

#[test]
fn packets_come_out_in_order_across_both_wraps_whatever_their_order() {
    let mut buffer = voice();
    // Sequence numbers wrap after 536 packets, timestamps after 50.
    for begin in [520, 30] {
        let order = (0..40_u64).map(|index| begin + (index ^ 3));
        for index in order.clone() {
            let now = Timestamp::from_millis(20_000 + 20 * begin + index);
            assert_eq!(buffer.push(now, meta(index), index), Pushed::Queued);
        }
        let out: Vec<u64> = std::iter::from_fn(|| buffer.pop().map(|p| p.payload)).collect();
        assert_eq!(out, (begin..begin + 40).collect::<Vec<_>>());
        buffer = voice();
    }
}

#[test]
fn duplicates_and_late_packets_are_told_apart() {
    let mut buffer = voice();
    let now = Timestamp::from_millis(500);
    buffer.push(now, meta(0), 0);
    buffer.push(now, meta(2), 2);
    assert_eq!(buffer.push(now, meta(2), 2), Pushed::Duplicate);
    assert_eq!(buffer.stats().lost, 1);
    buffer.pop();
    assert_eq!(
        buffer.push(now, meta(0), 0),
        Pushed::Duplicate,
        "though it was played"
    );
    buffer.pop();
    assert_eq!(buffer.push(now, meta(1), 1), Pushed::Late);
    let stats = buffer.stats();
    assert_eq!(
        (stats.lost, stats.late, stats.duplicates, stats.packets),
        (0, 1, 2, 5)
    );
}

#[test]
fn what_is_skipped_is_late() {
    let mut buffer = voice();
    let now = Timestamp::from_millis(500);
    (0..4).for_each(|index| {
        buffer.push(now, meta(index), index);
    });
    let second = buffer.front().unwrap().timestamp + i64::from(FRAME);
    buffer.advance(second + 1);
    assert_eq!(buffer.front().map(|packet| packet.payload), Some(2));
    assert_eq!(buffer.stats().late, 2);
}

#[test]
fn a_flood_is_held_within_the_bounds_and_the_oldest_go() {
    let config = JitterConfig::voice().with_capacity(8, Duration::from_millis(400));
    let mut buffer = JitterBuffer::new(config).unwrap();
    let now = Timestamp::from_millis(1);
    let last = (0..1_000)
        .map(|index| buffer.push(now, meta(index), index))
        .last();
    assert_eq!(last, Some(Pushed::Displaced));
    assert_eq!(buffer.len(), 8);
    assert_eq!(buffer.front().map(|packet| packet.payload), Some(992));
}

/// Found by fuzzing: such a packet let the span grow beyond its bound once its neighbours were gone.
#[test]
fn a_packet_whose_time_contradicts_its_number_is_not_taken_in() {
    let mut buffer = voice();
    let at = |ms: u64| Timestamp::from_millis(10_000 + ms);
    for index in [0, 1, 3] {
        buffer.push(at(20 * index), meta(index), index);
    }
    let lying = |index: u64, time: u64| RtpMeta {
        timestamp: meta(time).timestamp,
        ..meta(index)
    };
    assert_eq!(buffer.push(at(60), lying(4, 0), 4), Pushed::Stray);
    assert_eq!(buffer.push(at(60), lying(2, 5), 2), Pushed::Stray);
    assert_eq!(buffer.push(at(60), meta(5), 5), Pushed::Queued);
    let times = std::iter::from_fn(|| buffer.pop()).map(|packet| packet.payload);
    assert_eq!(times.collect::<Vec<_>>(), [0, 1, 3, 5]);
}

#[test]
fn a_sender_that_starts_anew_is_followed_and_a_stray_packet_is_not() {
    let mut buffer = voice();
    let at = |ms: u64| Timestamp::from_millis(10_000 + ms);
    (0..10).for_each(|index| {
        buffer.push(at(20 * index), meta(index), index);
    });
    let other = |index: u64| RtpMeta {
        sequence: 20_000 + index as u16,
        timestamp: 77 + FRAME * index as u32,
        spurt: index == 0,
    };
    assert_eq!(buffer.push(at(200), other(0), 100), Pushed::Stray);
    assert_eq!(buffer.push(at(201), meta(10), 10), Pushed::Queued);
    assert_eq!(buffer.push(at(220), other(1), 101), Pushed::Stray);
    assert_eq!(buffer.push(at(240), other(2), 102), Pushed::Restarted);
    assert_eq!(buffer.pop().map(|packet| packet.payload), Some(102));
    assert!(buffer.is_empty());
}

#[test]
fn one_packet_from_the_far_future_does_not_stop_the_stream() {
    let mut buffer = voice();
    let mut heard = 0;
    for index in 0..200_u64 {
        let now = Timestamp::from_millis(20 * index);
        let mut meta = meta(index);
        if index == 100 {
            meta.timestamp = meta.timestamp.wrapping_add(1 << 30);
        }
        buffer.push(now, meta, index);
        heard += u32::from(buffer.pop_due(now).is_some());
    }
    assert!(heard >= 190, "{heard}");
}

#[test]
fn a_pause_of_an_hour_is_no_loss() {
    let mut buffer = voice();
    buffer.push(Timestamp::from_millis(0), meta(0), 0);
    buffer.pop();
    let hour = 3_600_u32;
    let later = RtpMeta {
        sequence: meta(1).sequence,
        timestamp: meta(1).timestamp.wrapping_add(hour * 48_000),
        spurt: true,
    };
    // The clocks have drifted apart by 100 ppm meanwhile: 360 ms.
    let now = Timestamp::from_millis(u64::from(hour) * 1_000 + 20 + 360);
    assert_eq!(buffer.push(now, later, 1), Pushed::Queued);
    assert_eq!(buffer.stats().lost, 0);
    assert!(buffer.pop_due(now + Duration::from_millis(130)).is_some());
}

#[test]
fn a_clock_that_runs_fast_or_slow_does_not_pile_up_delay() {
    for ppm in [-500_i64, 500] {
        let mut buffer = voice();
        for index in 0..50_000_u64 {
            let us = 1_000_000 + index as i64 * 20_000 + index as i64 * 20_000 * ppm / 1_000_000;
            let now = Timestamp::from_micros(us as u64);
            buffer.push(now, meta(index), index);
            while buffer.pop_due(now + Duration::from_millis(20)).is_some() {}
        }
        assert!(buffer.len() <= 1, "{ppm} ppm: {}", buffer.len());
        assert_eq!(buffer.stats().late + buffer.stats().displaced, 0);
    }
}

#[test]
fn drift_that_is_known_does_not_pass_for_jitter() {
    let target_us = |ppm: f64, told: f64| {
        let mut buffer = voice();
        buffer.set_drift(told);
        for index in 0..3_000_u64 {
            let sent_us = index as f64 * 20_000.0 / (1.0 + ppm / 1e6);
            let now =
                Timestamp::from_micros(1_000_000 + sent_us as u64 + 1_000 * jitter(index, 10));
            buffer.push(now, meta(index), index);
            while buffer.pop_due(now).is_some() {}
        }
        buffer.target().as_micros() as i64
    };
    let steady = target_us(0.0, 0.0);
    for ppm in [500.0, -500.0] {
        let told = target_us(ppm, ppm);
        assert!(
            (told - steady).abs() <= 500,
            "{ppm}: {told} beside {steady}"
        );
    }
    assert!(target_us(500.0, 0.0) > steady + 1_000, "it matters");
}

#[test]
fn a_bad_configuration_is_refused() {
    let ms = Duration::from_millis;
    let voice = JitterConfig::voice();
    let refused = [
        (voice.with_delay(ms(50), ms(40)), JitterConfigError::Delay),
        (
            voice.with_late_share(f32::NAN),
            JitterConfigError::LateShare,
        ),
        (voice.with_capacity(0, ms(500)), JitterConfigError::Capacity),
        (voice.with_capacity(9, ms(100)), JitterConfigError::Capacity),
    ];
    for (config, error) in refused {
        assert_eq!(JitterBuffer::<()>::new(config).err(), Some(error));
    }
}

#[test]
fn decisions_follow_the_delay() {
    let playing = PlayoutState {
        playing: true,
        gap_us: Some(0),
        delay_us: 40_000,
        target_us: 40_000,
        level_us: 60_000,
        block_us: 10_000,
        ..PlayoutState::default()
    };
    let with = |change: &dyn Fn(&mut PlayoutState)| {
        let mut state = playing;
        change(&mut state);
        decide(&state)
    };
    assert_eq!(decide(&playing), Decision::Play);
    assert_eq!(with(&|s| s.target_us = 20_000), Decision::Accelerate);
    assert_eq!(
        with(&|s| s.target_us = 30_000),
        Decision::Play,
        "a block is no excess"
    );
    assert_eq!(
        with(&|s| (s.target_us, s.level_us) = (20_000, 20_000)),
        Decision::Play
    );
    assert_eq!(with(&|s| s.target_us = 60_000), Decision::Expand);
    assert_eq!(
        with(&|s| s.gap_us = Some(20_000)),
        Decision::Conceal(20_000)
    );
    assert_eq!(
        with(&|s| (s.gap_us, s.held_us) = (Some(20_000), 20_000)),
        Decision::Play
    );
    assert_eq!(
        with(&|s| (s.gap_us, s.pause) = (Some(20_000), true)),
        Decision::Stop
    );
    assert_eq!(with(&|s| s.gap_us = None), Decision::Hold);
    assert_eq!(
        with(&|s| (s.gap_us, s.held_us) = (None, 60_000)),
        Decision::Stop
    );
    assert_eq!(with(&|s| s.playing = false), Decision::Start);
    let early = with(&|s| (s.playing, s.target_us) = (false, 45_000));
    assert_eq!(early, Decision::Silence(5_000));
}

#[test]
fn the_pace_moves_frames_to_the_beginning_of_the_first_block_that_is_safe() {
    let at = |delay_us: i64, ready_us: i64| PlayoutState {
        delay_us,
        ready_us,
        target_us: 20_000,
        block_us: 10_000,
        ..PlayoutState::default()
    };
    assert_eq!(pace(&at(25_000, 100), 0.0), 1.0, "it is there");
    assert_eq!(
        pace(&at(25_000, 5_000), 0.0),
        1.005,
        "in the midst of a block"
    );
    let near = pace(&at(25_000, 600), 0.0);
    assert!(
        (1.0005..1.0015).contains(&near),
        "gently at the end: {near}"
    );
    assert_eq!(pace(&at(32_000, 0), 0.0), 1.005, "a block too late");
    assert_eq!(
        pace(&at(30_500, 100), 0.0),
        1.0,
        "not for half a millisecond"
    );
    assert_eq!(pace(&at(19_900, 0), 0.0), 0.995, "too early to be sure");
    assert_eq!(pace(&at(21_000, 0), -500.0), 0.995, "soon too early");
    assert_eq!(pace(&at(21_000, 100), 500.0), 1.0);
}

#[test]
fn late_pulls_do_not_shift_the_clock_and_a_stop_does() {
    let block = Duration::from_millis(10);
    let mut clock = PullClock::new();
    let ms = Timestamp::from_millis;
    clock.tick(ms(100), block);
    let late = clock.tick(ms(118), block);
    assert!(
        late < ms(111),
        "8 ms late, and counted as at most one: {late:?}"
    );
    assert_eq!(clock.tick(ms(120), block), ms(120));
    assert_eq!(clock.tick(ms(1_000), block), ms(1_000));
}

fn report(seconds: f64, ticks: i64) -> MediaClock {
    MediaClock {
        ntp: NtpTime::from(WallTime::from_micros((1e15 + seconds * 1e6) as u64)),
        timestamp: ticks as u32,
    }
}

#[test]
fn sender_time_maps_both_ways_across_the_wrap() {
    let mut clock = SenderClock::new(48_000);
    let near_wrap = i64::from(u32::MAX) - 4_800;
    assert_eq!(clock.ntp_of(0), None);
    assert!(clock.update(report(0.0, near_wrap)));
    let second_later = (near_wrap + 48_000) as u32;
    let ntp = clock.ntp_of(second_later).unwrap();
    let expected = report(1.0, 0).ntp;
    assert!(ntp.0.abs_diff(expected.0) < 1 << 16, "within 16 µs");
    assert!(clock.timestamp_of(ntp).unwrap().abs_diff(second_later) <= 1);
}

#[test]
fn wild_reports_are_ignored_until_the_clock_really_was_set() {
    let mut clock = SenderClock::new(48_000);
    assert!(clock.update(report(0.0, 0)));
    assert!(clock.update(report(5.0, 240_010)));
    assert!(!clock.update(report(2.0, 480_000)), "backwards");
    assert!(clock.update(report(10.0, 480_000)));
    for (seconds, ticks, believed) in [
        (3_015.0, 720_000, false),
        (3_020.0, 960_000, false),
        (3_025.0, 1_200_000, true),
    ] {
        assert_eq!(clock.update(report(seconds, ticks)), believed);
    }
}

#[test]
fn wild_reports_that_contradict_each_other_never_set_the_clock() {
    let mut clock = SenderClock::new(48_000);
    assert!(clock.update(report(0.0, 0)));
    for index in 1..50_i64 {
        let wild = 1_000.0 * f64::from(index as i32 * 7 % 13);
        assert!(!clock.update(report(wild + 40.0, 240_000 * index)));
    }
    assert!(clock.update(report(250.0, 12_000_000)));
}

#[test]
fn a_report_after_an_hour_of_silence_is_believed_though_the_clocks_have_parted() {
    let mut clock = SenderClock::new(48_000);
    assert!(clock.update(report(0.0, 0)));
    // 500 ppm of 3600 s are 1.8 s.
    assert!(clock.update(report(3_601.8, 3_600 * 48_000)));
    let ntp = clock.ntp_of(3_601 * 48_000).unwrap();
    assert!(ntp.0.abs_diff(report(3_602.8, 0).ntp.0) < 1 << 16);
}

#[test]
fn the_sync_of_a_sender_that_starts_anew_waits_for_its_own_report() {
    let mut clock = SenderClock::new(90_000);
    assert!(clock.update(report(0.0, 1_000)));
    clock.restart();
    assert_eq!(
        clock.ntp_of(1_000),
        None,
        "the old stream's line is forgotten"
    );
    assert!(clock.update(report(1.0, 2_000_000_000)));
    assert!(
        !clock.update(report(2.0, 77)),
        "of the next stream, ahead of its packets"
    );
    clock.restart();
    let ntp = clock.ntp_of(77 + 90_000).unwrap();
    assert!(ntp.0.abs_diff(report(3.0, 0).ntp.0) < 1 << 16);
}

proptest! {
    #[test]
    fn timestamps_map_to_the_wall_and_back_whatever_wraps(
        start in any::<u32>(),
        wall_s in 0.0..4e9_f64,
        steps in prop::collection::vec(1..20_000_000_u32, 1..60),
        offset in -1_000_000_000..1_000_000_000_i64,
    ) {
        let mut clock = SenderClock::new(48_000);
        let mut ticks = i64::from(start);
        let at = |ticks: i64| {
            let us = wall_s * 1e6 + (ticks - i64::from(start)) as f64 / 0.048;
            let ntp = NtpTime::from(WallTime::from_micros(us as u64));
            MediaClock { ntp, timestamp: ticks as u32 }
        };
        for step in steps {
            prop_assert!(clock.update(at(ticks)), "an honest report is believed");
            ticks += i64::from(step);
        }
        let last = ticks + offset;
        prop_assume!(last >= i64::from(start));
        let asked = last as u32;
        let ntp = clock.ntp_of(asked).unwrap();
        prop_assert!(ntp.0.wrapping_sub(at(last).ntp.0).cast_signed().abs() < 1 << 17, "30 µs");
        let back = clock.timestamp_of(ntp).unwrap();
        prop_assert!(back.wrapping_sub(asked).cast_signed().abs() <= 1);
    }

    #[test]
    fn any_order_and_any_loss_come_out_ascending_and_bounded(
        order in prop::collection::vec((0..200_u64, 0..3_u8, 0..40_u64), 1..400),
    ) {
        let config = JitterConfig::voice().with_capacity(32, Duration::from_millis(800));
        let mut buffer = JitterBuffer::new(config).unwrap();
        let mut now = Timestamp::from_millis(3_000);
        let mut last = i64::MIN;
        for (index, pops, wait) in order {
            now = now + Duration::from_millis(wait);
            if buffer.push(now, meta(index), index) == Pushed::Restarted {
                last = i64::MIN;
            }
            prop_assert!(buffer.len() <= 32 && buffer.span() <= Duration::from_millis(800));
            for _ in 0..pops {
                if let Some(packet) = buffer.pop_due(now) {
                    prop_assert!(packet.sequence > last);
                    last = packet.sequence;
                }
            }
        }
        let stats = buffer.stats();
        prop_assert!(stats.late + stats.duplicates + stats.displaced <= stats.packets);
    }

    /// Frames of 20 ms of a sender whose clock is off, played in blocks of 10 ms at the pace that is asked for.
    #[test]
    fn whatever_the_clocks_frames_wait_for_the_target_and_a_block_at_most(
        ppm in -1_000.0..1_000.0_f64, start_ms in 20.0..120.0_f64, phase_ms in 0.0..10.0_f64, target_ms in 5.0..60.0_f64,
    ) {
        let (mut play_ms, mut rate) = (start_ms.max(target_ms), 1.0_f64);
        for frame in 0..6_000_u32 {
            let sent_ms = f64::from(frame) * 20.0 / (1.0 + ppm / 1e6);
            let ready_ms = (play_ms - phase_ms).rem_euclid(10.0);
            let delay_ms = play_ms - ready_ms - sent_ms;
            let state = PlayoutState {
                delay_us: (delay_ms * 1e3) as i64,
                ready_us: (ready_ms * 1e3) as i64,
                target_us: (target_ms * 1e3) as i64,
                block_us: 10_000,
                ..PlayoutState::default()
            };
            let wanted = pace(&state, ppm);
            prop_assert!((0.995..=1.005).contains(&wanted));
            rate += (wanted - rate).clamp(-0.0005, 0.0005);
            if frame > 3_000 {
                prop_assert!(delay_ms > target_ms - 1.0, "needed {delay_ms} ms after it was sent, at the {frame}th");
                let waited_ms = play_ms - sent_ms;
                // A slow clock's next block is aimed at as long before as it takes to get there.
                let ahead_ms = 10.0 * (-ppm).max(0.0) / 5_000.0;
                prop_assert!(
                    waited_ms < target_ms + 10.0 + 2.0 * ahead_ms + 3.0,
                    "waits for {waited_ms} ms, at the {frame}th"
                );
            }
            play_ms += 20.0 / rate;
        }
    }

    #[test]
    fn wild_figures_ask_for_no_wild_pace(
        delay_us in any::<i32>(), ready_us in any::<i32>(), target_us in any::<i32>(), block_us in any::<i32>(), ppm in any::<f64>(),
    ) {
        let [delay_us, ready_us, target_us, block_us] = [delay_us, ready_us, target_us, block_us].map(i64::from);
        let state = PlayoutState { delay_us, ready_us, target_us, block_us, ..PlayoutState::default() };
        prop_assert!((0.995..=1.005).contains(&pace(&state, ppm)));
    }

    #[test]
    fn no_operations_break_the_bounds(data in prop::collection::vec(any::<u8>(), 0..2_000)) {
        __fuzz_jitter_ops(&data);
    }

    #[test]
    fn the_target_keeps_to_its_bounds(arrivals in prop::collection::vec(0..5_000_000_u64, 1..300)) {
        let mut buffer = voice();
        for (index, arrival) in arrivals.into_iter().enumerate() {
            let now = Timestamp::from_micros(10_000_000 + arrival);
            buffer.push(now, meta(index as u64), 0);
            let target = buffer.target().as_millis();
            prop_assert!((5..=120).contains(&target));
        }
    }
}
