//! Whatever comes, playing goes on.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use roundtable_core::{MediaCodec, Timestamp, WallTime};

use super::*;
use crate::{Activation, VoiceOut, VoiceSender, VoiceSenderConfig};

/// Ticks of one packet: 20 ms.
const FRAME: u32 = 960;

/// One packet of speech.
fn packet() -> MediaPacket {
    let config = VoiceSenderConfig::default().with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config).unwrap();
    let mut out = Vec::new();
    let (begin, wall) = (Timestamp::ZERO, WallTime::from_millis(0));
    sender.push(begin, wall, &[0.1; FRAME as usize], &mut out);
    let packet = out.into_iter().find_map(|event| match event {
        VoiceOut::Packet(packet) => Some(packet),
        VoiceOut::Clock(_) => None,
    });
    packet.unwrap()
}

/// What a step of playing changes, one of it at least.
fn progress(receiver: &VoiceReceiver) -> (bool, i64, usize, usize) {
    let player = &receiver.player;
    let ready = receiver.ready.len();
    (player.playing, player.position, player.held, ready)
}

/// Pulls half a second, and holds that no step leaves everything as it was.
fn pull_on(receiver: &mut VoiceReceiver, from_ms: u64) {
    let mut block = [0.0; PIECE];
    for ms in (from_ms..from_ms + 500).step_by(10) {
        let now = Timestamp::from_millis(ms);
        while receiver.ready.len() < PIECE {
            let before = progress(receiver);
            receiver.produce(now, PIECE - receiver.ready.len());
            assert_ne!(progress(receiver), before, "stands still");
        }
        receiver.pull(now, &mut block);
    }
}

/// Two packets, so many numbers and so many ticks beyond the first one's end apart.
fn play_hole(numbers: u16, ticks: u32) {
    let first = packet();
    let mut second = first.clone();
    second.marker = false;
    second.sequence = first.sequence.wrapping_add(numbers);
    second.timestamp = first.timestamp.wrapping_add(FRAME + ticks);
    let mut receiver = VoiceReceiver::new(VoiceReceiverConfig::default()).unwrap();
    let marked = MediaPacket {
        marker: true,
        codec: MediaCodec::Opus,
        ..first
    };
    receiver.push(Timestamp::ZERO, marked);
    receiver.push(Timestamp::from_millis(1), second);
    pull_on(&mut receiver, 1);
    assert!(!receiver.player.playing, "both were played");
}

#[test]
fn a_hole_of_a_few_ticks_is_filled_and_playing_goes_on() {
    for ticks in (0..6).chain(FRAME - 2..FRAME + 6) {
        play_hole(2, ticks);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_hole_stops_playing(numbers in 1_u16..50, ticks in 0_u32..40_000) {
        play_hole(numbers, ticks);
    }
}

#[test]
fn ticks_that_were_told_in_microseconds_are_as_many_again() {
    for ticks in 0..100_000 {
        assert_eq!(samples_in_us(ticks_us(ticks)) as i64, ticks);
    }
}
