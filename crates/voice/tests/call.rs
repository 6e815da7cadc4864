//! Real speech from mouth to ear, in virtual time.
#![allow(clippy::cast_possible_truncation)] // figures

#[allow(unreachable_pub, clippy::unwrap_used)] // a module of tests
mod support;

use std::time::Duration;

use roundtable_core::{MediaCodec, MediaPacket, Timestamp, WallTime};
use roundtable_media_codec::{AudioDecoder, AudioFormat, OpusConfig, OpusDecoder};
use roundtable_voice::{
    Activation, Pulled, VoiceConfigError, VoiceOut, VoiceReceiver, VoiceReceiverConfig,
    VoiceSender, VoiceSenderConfig,
};
use support::{
    BLOCK, Heard, Network, Random, call, call_with, envelope, envelope_match, mouth_to_ear_ms,
    percentile, speech, steepest,
};

#[test]
fn every_voice_arrives_whole_and_soon_over_a_clean_link() {
    for name in ["alice", "bob", "carol"] {
        let said = speech(name);
        let heard = call(&said, &Network::clean());
        let delays = mouth_to_ear_ms(&said, &heard.samples);
        let (half, most) = (percentile(&delays, 0.5), percentile(&delays, 0.95));
        println!(
            "{name}: mouth to ear {half:.1} ms, 95 %: {most:.1} ms, {:?}",
            heard.stats
        );
        assert!(envelope_match(&said, &heard.samples) >= 0.94, "{name}");
        // Virtual time: these are properties of the algorithm, not of the machine.
        assert!(half <= 65.0 && most <= 85.0, "{name}: {half} {most}");
        assert_eq!(
            (heard.stats.lost, heard.stats.late, heard.stats.concealed),
            (0, 0, 0)
        );
        assert_eq!(heard.stats.packets, heard.sent.len() as u64);
    }
}

/// A call whose sender knows how much is lost, and repeats so many frames at most.
fn call_prepared(said: &[f32], network: &Network, redundancy: usize) -> Heard {
    let opus = OpusConfig::default().with_expected_loss(network.loss as f32);
    let sender = VoiceSenderConfig::default()
        .with_opus(opus)
        .with_redundancy(redundancy)
        .with_rtp_start(65_530, u32::MAX - 48_000);
    call_with(said, network, sender, VoiceReceiverConfig::default())
}

/// The share of speech that was made up, in percent.
fn concealed_percent(heard: &Heard) -> f64 {
    heard.stats.concealed as f64 / (2 * heard.sent.len()) as f64 * 100.0
}

/// What is lost comes with later packets: by the codec's own redundancy where only one packet of two that follow each
/// other is lost and the codec found it worth its bits, by repeated frames wherever one of three came.
#[test]
fn redundancy_makes_losses_good() {
    for (loss, redundancy, most) in [
        (0.1, 0, 1.3),
        (0.2, 0, 4.5),
        (0.1, 1, 1.3),
        (0.1, 2, 0.5),
        (0.2, 2, 1.5),
    ] {
        let (mut concealed, mut voices) = (0.0, 0.0);
        for (name, seed) in [("alice", 1), ("bob", 2), ("carol", 3), ("carol", 4)] {
            let network = Network {
                loss,
                seed,
                ..Network::clean()
            };
            let said = speech(name);
            let heard = call_prepared(&said, &network, redundancy);
            concealed += concealed_percent(&heard);
            voices += 1.0;
            assert!(
                envelope_match(&said, &heard.samples) >= 0.9,
                "{name} {loss}"
            );
        }
        let mean = concealed / voices;
        println!("{loss} {redundancy}: {mean:.2} % concealed");
        assert!(mean <= most, "{loss} {redundancy}: {mean} %");
    }
}

/// Mouth to ear over a link that delays by 1 ms, with a timer of 10 ms at either end: what the guide says of the presets.
#[test]
fn each_preset_is_as_fast_as_it_says() {
    let low_latency = (
        VoiceSenderConfig::low_latency(),
        VoiceReceiverConfig::low_latency(),
    );
    let plain = VoiceReceiverConfig::default;
    for (name, (sender, receiver), most_ms) in [
        ("default", (VoiceSenderConfig::default(), plain()), 65.0),
        ("low latency", low_latency, 40.0),
        ("music", (VoiceSenderConfig::music(), plain()), 65.0),
        (
            "low bandwidth",
            (VoiceSenderConfig::low_bandwidth(), plain()),
            125.0,
        ),
    ] {
        let said = speech("carol");
        let heard = call_with(&said, &Network::clean(), sender, receiver);
        let delays = mouth_to_ear_ms(&said, &heard.samples);
        let half = percentile(&delays, 0.5);
        let kbps = heard.stats.bytes as f32 * 8.0 / 1000.0 / (said.len() as f32 / 48_000.0);
        println!("{name}: {half:.1} ms, {kbps:.0} kbit/s, {:?}", heard.stats);
        assert!(half <= most_ms, "{name}: {half} ms");
        assert_eq!((heard.stats.lost, heard.stats.concealed), (0, 0), "{name}");
        assert!(envelope_match(&said, &heard.samples) >= 0.9, "{name}");
    }
}

#[test]
fn push_to_talk_sends_what_is_said_while_the_button_is_down_and_nothing_else() {
    let said = speech("bob");
    let config = VoiceSenderConfig::default().with_activation(Activation::PushToTalk);
    let mut sender = VoiceSender::new(config).unwrap();
    let mut times = Vec::new();
    for (tick, block) in (0_u64..).zip(said.chunks(BLOCK)) {
        sender.talk((100..200).contains(&tick));
        let mut out = Vec::new();
        let capture = Timestamp::from_millis(10 * tick);
        sender.push(capture, WallTime::from_millis(10 * tick), block, &mut out);
        times.extend(out.into_iter().filter_map(|event| match event {
            roundtable_voice::VoiceOut::Packet(packet) => Some(packet.timestamp),
            roundtable_voice::VoiceOut::Clock(_) => None,
        }));
    }
    // One frame of fading out follows.
    let expected: Vec<u32> = (50..=100).map(|frame| frame * 960).collect();
    assert_eq!(times, expected);
}

#[test]
fn a_receiver_takes_other_settings_in_a_call() {
    let said = speech("alice");
    let sent = call(&said, &Network::clean()).sent;
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
    let mut packets = sent.iter().peekable();
    let (mut block, mut heard, mut sound) = ([0.0; BLOCK], 0, Vec::new());
    for tick in 0..800 {
        let now = Timestamp::from_millis(10 * tick);
        while let Some((_, packet)) = packets.next_if(|(at, _)| *at <= now) {
            receiver.push(now, packet.clone());
        }
        // Back and forth, in words and between them.
        if tick >= 300 && tick.is_multiple_of(37) {
            let settings = match tick.is_multiple_of(2) {
                true => VoiceReceiverConfig::low_latency(),
                false => VoiceReceiverConfig::default(),
            };
            let before = receiver.stats(now);
            receiver.reconfigure(settings).unwrap();
            assert_eq!(receiver.stats(now).packets, before.packets, "goes on");
        }
        if tick == 500 {
            let quiet = VoiceReceiverConfig::low_latency().with_comfort_noise(false);
            receiver.reconfigure(quiet).unwrap();
        }
        heard += usize::from(receiver.pull(now, &mut block) == Pulled::Speech);
        sound.extend_from_slice(&block);
    }
    assert!(heard > 700, "{heard} of 800 blocks");
    assert!(steepest(&sound) <= 1.2 * steepest(&said), "no clicks");
    let stats = receiver.stats(Timestamp::from_millis(8_000));
    assert_eq!((stats.lost, stats.late, stats.concealed), (0, 0, 0));
    let upside_down = roundtable_sync::JitterConfig::voice()
        .with_delay(Duration::from_millis(50), Duration::from_millis(20));
    let wrong = VoiceReceiverConfig::default().with_jitter(upside_down);
    assert!(receiver.reconfigure(wrong).is_err());
}

#[test]
fn speech_survives_jitter_loss_and_overtaking() {
    for (name, seed) in [("alice", 1), ("bob", 2), ("carol", 3)] {
        let said = speech(name);
        let network = Network {
            loss: 0.05,
            delay_ms: 30.0,
            jitter_ms: 30.0,
            overtaken: 0.02,
            seed,
            ..Network::clean()
        };
        let heard = call_prepared(&said, &network, 2);
        let delays = mouth_to_ear_ms(&said, &heard.samples);
        let most = percentile(&delays, 0.95);
        assert!(
            steepest(&heard.samples) <= 1.2 * steepest(&said),
            "no clicks"
        );
        println!("{name} {seed}: 95 % {most:.1} ms, {:?}", heard.stats);
        assert!(
            envelope_match(&said, &heard.samples) >= 0.9,
            "{name} {seed}"
        );
        assert!(
            steepest(&heard.samples) <= 1.2 * steepest(&said),
            "no clicks"
        );
        assert!(most <= 160.0, "{name} {seed}: {most}");
        assert_eq!(heard.stats.lost, heard.lost as u64);
        assert!(heard.stats.recovered > 0, "redundancy is of use");
        // Concealed speech is what was lost, and at most three in a hundred frames on top.
        let lost_blocks = 2 * heard.lost as u64;
        let slack = heard.sent.len() as u64 * 2 * 3 / 100;
        assert!(heard.stats.concealed <= lost_blocks + slack);
    }
}

#[test]
fn a_listener_whose_timer_is_unsteady_hears_everything_as_soon() {
    let said = speech("carol");
    let network = Network {
        jitter_ms: 5.0,
        pull_jitter_ms: 9.0,
        ..Network::clean()
    };
    let heard = call(&said, &network);
    let delays = mouth_to_ear_ms(&said, &heard.samples);
    let most = percentile(&delays, 0.95);
    println!("95 % {most:.1} ms, {:?}", heard.stats);
    assert!(most <= 90.0, "{most}");
    assert!(envelope_match(&said, &heard.samples) >= 0.94);
    assert_eq!(heard.stats.lost, 0);
    assert!(heard.stats.concealed <= 4, "of 880");
}

#[test]
fn the_delay_comes_back_down_after_a_spike() {
    let said = speech("carol");
    let network = Network {
        outage_ms: Some((2_000, 2_300)),
        ..Network::clean()
    };
    let heard = call(&said, &network);
    assert!(
        steepest(&heard.samples) <= 1.2 * steepest(&said),
        "no clicks"
    );
    let before = heard.delays[190];
    let worst = heard.delays.iter().copied().fold(0.0, f32::max);
    let after = heard.delays[530];
    println!("{before} ms, {worst} ms, three seconds later {after} ms");
    assert!(worst > 150.0, "what came late was played, not thrown away");
    assert!(after <= before + 10.0);
}

/// A spurt begins with frames from before the sender was sure, and so behind. Where a word begins with a sound in which nothing can
/// be cut out unheard, that takes longer.
#[test]
fn a_listener_catches_up_with_the_beginning_of_most_spurts_within_half_a_second() {
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    for name in ["alice", "bob", "carol"] {
        let speech = speech(name);
        let mut said = Vec::new();
        for word in speech.chunks(72_000) {
            said.extend_from_slice(word);
            said.resize(said.len() + 48_000, 0.0);
        }
        let heard = call(&said, &Network::clean());
        let mut spurts = 0;
        for tick in 1..heard.pulled.len() - 50 {
            let speaks = |tick: usize| heard.pulled[tick] != Pulled::Silence;
            // Those that last for so long.
            if speaks(tick - 1) || !(tick..tick + 50).all(speaks) {
                continue;
            }
            spurts += 1;
            let course: Vec<f32> = (0..50)
                .step_by(10)
                .map(|i| heard.delays[tick + i])
                .collect();
            let end = heard.delays[tick + 49];
            println!("{name}: {course:?}, {end} ms at last");
            begins.push(course[0]);
            ends.push(end);
        }
        assert!(spurts >= 3, "{name}: {spurts}");
    }
    let told = begins.iter().any(|ms| *ms >= 55.0);
    assert!(told, "the delay of a spurt's first frame: {begins:?}");
    ends.sort_by(f32::total_cmp);
    let half = percentile(&ends, 0.5);
    assert!(half <= 30.0, "{half} ms behind after half a second");
}

/// Where a loud vowel ends abruptly, a decoder that missed a frame rings ten times as loud as the voice.
#[test]
fn two_lost_packets_make_no_pop() {
    let said = &speech("bob")[..43_200];
    let sent = call(said, &Network::clean()).sent;
    for lost in 10..30 {
        let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
        let mut packets = sent.iter().enumerate().peekable();
        let (mut heard, mut block) = (Vec::new(), [0.0; BLOCK]);
        for tick in 0..200 {
            let now = Timestamp::from_millis(10 * tick);
            while let Some((index, (_, packet))) = packets.next_if(|(_, (at, _))| *at <= now) {
                if index != lost && index != lost + 1 {
                    receiver.push(now, packet.clone());
                }
            }
            receiver.pull(now, &mut block);
            heard.extend_from_slice(&block);
        }
        let loudest = |samples| envelope(samples).into_iter().fold(0.0, f32::max);
        let rise = loudest(&heard) / loudest(said);
        assert!(
            rise < 2.0,
            "without packets {lost} and next: {rise} times as loud as ever"
        );
    }
}

#[test]
fn silence_and_noise_cost_no_packets() {
    let mut random = Random(7);
    // White noise at -40 dB of full scale: uniform in ±a has a root mean square of a/√3.
    let amplitude = 0.01 * 3.0_f64.sqrt();
    let noise: Vec<f32> = (0..10 * 48_000)
        .map(|_| ((random.unit() * 2.0 - 1.0) * amplitude) as f32)
        .collect();
    for quiet in [vec![0.0; 5 * 48_000], noise] {
        let heard = call(&quiet, &Network::clean());
        assert_eq!((heard.sent.len(), heard.clocks), (0, 0));
        assert!(heard.pulled.iter().all(|pulled| *pulled == Pulled::Silence));
        assert!(heard.samples.iter().all(|sample| *sample == 0.0));
    }
}

#[test]
fn rtp_time_goes_on_through_silence_and_a_spurt_begins_with_the_marker() {
    let word = &speech("alice")[14_400..62_400];
    let mut said = word.to_vec();
    said.extend(vec![0.0; 2 * 48_000]);
    said.extend_from_slice(word);
    let heard = call(&said, &Network::clean());
    let packets: Vec<&MediaPacket> = heard.sent.iter().map(|(_, packet)| packet).collect();
    let spurts: Vec<usize> = (0..packets.len()).filter(|i| packets[*i].marker).collect();
    assert_eq!(spurts.first(), Some(&0));
    let second = *spurts.last().unwrap();
    for pair in packets.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        assert!(pair[1].marker || pair[1].timestamp == pair[0].timestamp.wrapping_add(960));
    }
    let apart = packets[second].timestamp.wrapping_sub(packets[0].timestamp);
    assert!(
        apart.abs_diff(3 * 48_000) <= 2 * 960,
        "three seconds apart: {apart}"
    );
    assert_eq!(
        heard.clocks, 1,
        "at the start, then every five seconds of speech"
    );
    assert_eq!(heard.stats.concealed, 0, "a pause is no loss");
    let likeness = envelope_match(&said, &heard.samples);
    assert!(likeness >= 0.93, "{likeness}");
}

#[test]
fn the_senders_clock_is_reported_as_often_as_was_asked_for() {
    let said = &speech("alice")[..5 * 48_000];
    for (interval_ms, reports) in [(5_000, 2), (500, 12)] {
        let sender = VoiceSenderConfig::default()
            .with_activation(Activation::Always)
            .with_report_interval(Duration::from_millis(interval_ms));
        let listener = VoiceReceiverConfig::default();
        // Five seconds and the second of silence after them, which is sent as well.
        let heard = call_with(said, &Network::clean(), sender, listener);
        assert_eq!(heard.clocks, reports, "every {interval_ms} ms");
    }
    let never = VoiceSenderConfig::default().with_report_interval(Duration::ZERO);
    assert_eq!(never.validate(), Err(VoiceConfigError::ReportInterval));
}

#[test]
fn the_pause_of_a_sender_without_markers_is_no_loss_and_ends_softly() {
    let word = &speech("alice")[14_400..62_400];
    let mut said = word.to_vec();
    said.extend(vec![0.0; 2 * 48_000]);
    said.extend_from_slice(word);
    let sent = call(&said, &Network::clean()).sent;
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
    let (mut heard, mut block) = (Vec::new(), [0.0; BLOCK]);
    let mut packets = sent.into_iter().peekable();
    let mut now = Timestamp::ZERO;
    for tick in 0..600 {
        now = Timestamp::from_millis(10 * tick);
        while let Some((arrival, mut packet)) = packets.next_if(|(at, _)| *at <= now) {
            packet.marker = false;
            receiver.push(arrival, packet);
        }
        receiver.pull(now, &mut block);
        heard.extend_from_slice(&block);
    }
    let stats = receiver.stats(now);
    assert_eq!((stats.lost, stats.late, stats.concealed), (0, 0, 0));
    assert!(!stats.active);
    assert!(steepest(&heard) <= 1.2 * steepest(&said));
    assert!(envelope_match(&said, &heard) >= 0.9);
}

#[test]
fn nothing_said_while_muted_is_sent() {
    let said = speech("bob");
    let mut sender = VoiceSender::new(VoiceSenderConfig::default()).unwrap();
    let mut out = Vec::new();
    for (tick, block) in said.chunks(BLOCK).enumerate() {
        let muted = (200..400).contains(&tick);
        sender.mute(muted);
        out.clear();
        let capture = Timestamp::from_millis(10 * tick as u64);
        sender.push(capture, WallTime::from_millis(0), block, &mut out);
        assert!(
            !muted || (out.is_empty() && !sender.speaking()),
            "tick {tick}"
        );
        for event in &out {
            // 4 s to 4.1 s: the preroll must not reach back into what was said while muted.
            let roundtable_voice::VoiceOut::Packet(packet) = event else {
                continue;
            };
            assert!(!(96_000..192_000 - 960).contains(&packet.timestamp));
        }
    }
}

/// The codec's own silence takes no packets and no numbers, and is a pause to the listener.
#[test]
fn what_the_codec_leaves_out_is_not_sent_and_not_missed() {
    let word = &speech("alice")[14_400..62_400];
    let mut said = word.to_vec();
    said.extend(vec![0.0; 3 * 48_000]);
    said.extend_from_slice(word);
    let sender = VoiceSenderConfig::default()
        .with_opus(OpusConfig::default().with_dtx(true))
        .with_activation(Activation::Always);
    let network = Network {
        jitter_ms: 5.0,
        ..Network::clean()
    };
    let heard = call_with(&said, &network, sender, VoiceReceiverConfig::default());
    let sent: Vec<&MediaPacket> = heard.sent.iter().map(|(_, packet)| packet).collect();
    println!("{} packets of {} frames", sent.len(), said.len() / 960);
    assert!(sent.iter().all(|packet| packet.payload.len() > 2));
    assert!(sent.len() < 160, "{} packets for two seconds", sent.len());
    for pair in sent.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        let follows = pair[1].timestamp == pair[0].timestamp.wrapping_add(960);
        assert!(follows || pair[1].marker, "what follows a pause is marked");
    }
    assert_eq!((heard.stats.lost, heard.stats.concealed), (0, 0));
    assert!(envelope_match(&said, &heard.samples) >= 0.93);
}

/// The packets of what a sender gave.
fn packets(out: &[VoiceOut]) -> impl Iterator<Item = &MediaPacket> {
    out.iter().filter_map(|event| match event {
        VoiceOut::Packet(packet) => Some(packet),
        VoiceOut::Clock(_) => None,
    })
}

/// The beginning of a frame that ends after unmuting was captured before.
#[test]
fn what_was_said_while_muted_is_not_in_the_first_packet_after() {
    for (from, until) in [(100, 151), (101, 150), (101, 151), (150, 151)] {
        let config = VoiceSenderConfig::default().with_activation(Activation::Always);
        let mut sender = VoiceSender::new(config).unwrap();
        let mut out = Vec::new();
        for tick in 0..200 {
            let muted = (from..until).contains(&tick);
            sender.mute(muted);
            let secret = if muted { 0.5 } else { 0.0 };
            let block: Vec<f32> = (0..BLOCK)
                .map(|i| secret * (i as f32 / 9.0).sin())
                .collect();
            let capture = Timestamp::from_millis(10 * tick);
            sender.push(capture, WallTime::from_millis(0), &block, &mut out);
        }
        let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
        let mut heard = [0.0; 960];
        for packet in packets(&out) {
            decoder.decode(&packet.payload, &mut heard).unwrap();
            let loudest = heard.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            assert!(loudest < 1e-3, "muted {from}..{until}: {loudest}");
        }
        let unmuted = until as u32 * BLOCK as u32;
        let after = packets(&out).find(|packet| packet.timestamp >= unmuted);
        assert!(after.is_some_and(|packet| packet.marker), "and a new spurt");
    }
}

/// What was captured before the hole waits as the beginning of a word that comes after it.
#[test]
fn a_spurt_after_a_hole_in_the_capture_begins_after_the_hole() {
    let word = &speech("alice")[14_400..62_400];
    for hole_ms in [200, 10_000] {
        let mut sender = VoiceSender::new(VoiceSenderConfig::default()).unwrap();
        let wall = WallTime::from_millis(0);
        let mut before = Vec::new();
        sender.push(Timestamp::ZERO, wall, word, &mut before);
        // Heard, but no voice: the next spurt would begin with it.
        let hum: Vec<f32> = (0..48_000)
            .map(|i| 0.01 * (i as f32 / 150.0).sin())
            .collect();
        sender.push(Timestamp::from_millis(1_000), wall, &hum, &mut before);
        assert!(!sender.speaking());
        let mut after = Vec::new();
        let resumed = Timestamp::from_millis(2_000 + hole_ms);
        sender.push(resumed, wall, word, &mut after);
        let first = packets(&after).next().unwrap();
        assert!(first.marker);
        let resumed = 48 * (2_000 + hole_ms as u32);
        assert!(first.timestamp >= resumed, "{hole_ms}: {}", first.timestamp);
        // In the midst of a word, too, the listener is told that something else begins.
        let again = Timestamp::from_millis(3_000 + 2 * hole_ms);
        assert!(sender.speaking());
        after.clear();
        sender.push(again, wall, word, &mut after);
        assert!(packets(&after).next().unwrap().marker);
    }
}

/// Numbers and times that have nothing to do with those before, without a pause between.
#[test]
fn a_sender_that_starts_anew_in_the_midst_of_a_word_makes_no_click() {
    let said = speech("alice");
    let sent = call(&said, &Network::clean()).sent;
    for restart in [60, 83, 110, 137, 160] {
        let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
        let mut packets = sent.iter().enumerate().peekable();
        let (mut heard, mut block) = (Vec::new(), [0.0; BLOCK]);
        for tick in 0..500 {
            let now = Timestamp::from_millis(10 * tick);
            while let Some((index, (_, packet))) = packets.next_if(|(_, (at, _))| *at <= now) {
                let mut packet = packet.clone();
                if index >= restart {
                    packet.sequence = packet.sequence.wrapping_add(20_000);
                    packet.timestamp = packet.timestamp.wrapping_add(1 << 30);
                }
                receiver.push(now, packet);
            }
            receiver.pull(now, &mut block);
            heard.extend_from_slice(&block);
        }
        let steps = (steepest(&heard), steepest(&said));
        assert!(steps.0 <= 1.2 * steps.1, "{restart}: {steps:?}");
    }
}

#[test]
fn samples_that_the_device_lost_move_rtp_time() {
    let word = &speech("alice")[14_400..62_400];
    let mut sender = VoiceSender::new(VoiceSenderConfig::default()).unwrap();
    let mut out = Vec::new();
    let wall = WallTime::from_millis(0);
    sender.push(Timestamp::ZERO, wall, word, &mut out);
    sender.push(Timestamp::from_millis(1_500), wall, word, &mut out);
    let ends = |event: &roundtable_voice::VoiceOut| match event {
        roundtable_voice::VoiceOut::Packet(packet) => Some(packet.timestamp),
        roundtable_voice::VoiceOut::Clock(_) => None,
    };
    let times: Vec<u32> = out.iter().filter_map(ends).collect();
    assert!(!times.iter().any(|time| (48_000..72_000).contains(time)));
    assert!(times.contains(&72_000) && times.iter().any(|time| *time < 48_000));
}

#[test]
fn hostile_packets_neither_panic_nor_make_noise_nor_stop_the_stream() {
    let said = speech("alice");
    let heard = call(&said, &Network::clean());
    let mut random = Random(3);
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
    let mut block = [0.0; BLOCK];
    let mut now = Timestamp::ZERO;
    for _ in 0..3_000 {
        let len = random.next() as usize % 80;
        let payload: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let packet = MediaPacket {
            sequence: random.next() as u16,
            timestamp: random.next() as u32,
            marker: random.next().is_multiple_of(2),
            codec: match random.next() % 10 {
                0 => MediaCodec::Vp8,
                1..4 => MediaCodec::OpusRed,
                _ => MediaCodec::Opus,
            },
            payload: payload.into(),
        };
        receiver.push(now, packet);
        receiver.pull(now, &mut block);
        assert!(block.iter().all(|sample| sample.is_finite()));
        now = now + Duration::from_millis(10);
    }
    // The true sender, at last.
    let begin = now;
    let mut pulled = Vec::new();
    let mut sent = heard.sent.iter().peekable();
    for tick in 0..1_000 {
        now = begin + Duration::from_millis(10 * tick);
        while let Some((_, packet)) =
            sent.next_if(|(at, _)| begin + at.saturating_since(Timestamp::ZERO) <= now)
        {
            receiver.push(now, packet.clone());
        }
        pulled.push(receiver.pull(now, &mut block));
    }
    let speech = pulled
        .iter()
        .filter(|pulled| **pulled == Pulled::Speech)
        .count();
    assert!(speech > 800, "{speech} of {} blocks", 2 * heard.sent.len());
}
