//! Echo, noise and faint voices, before and after processing.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)] // helpers of tests

#[allow(unreachable_pub, dead_code)] // a module of tests
mod support;

use roundtable_core::{Timestamp, WallTime};
use roundtable_media_codec::{AudioDecoder, AudioFormat, OpusDecoder};
use roundtable_voice::{
    Activation, NoiseReduction, ProcessingConfig, VoiceOut, VoiceSender, VoiceSenderConfig,
};
use support::{BLOCK, Random, envelope_match, speech};

/// What a listener hears of `captured`, while the speakers play `played`.
fn processed(captured: &[f32], played: &[f32], processing: Option<ProcessingConfig>) -> Vec<f32> {
    let config = VoiceSenderConfig::default()
        .with_activation(Activation::Always)
        .with_processing(processing);
    let mut sender = VoiceSender::new(config).unwrap();
    let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
    let (mut out, mut heard, mut frame) = (Vec::new(), Vec::new(), [0.0; 5760]);
    for (tick, block) in (0..).zip(captured.chunks_exact(BLOCK)) {
        if let Some(played) = played.chunks_exact(BLOCK).nth(tick as usize) {
            sender.hear_far_end(played);
        }
        let capture = Timestamp::from_millis(10 * tick);
        sender.push(capture, WallTime::from_millis(10 * tick), block, &mut out);
        for out in out.drain(..) {
            if let VoiceOut::Packet(packet) = out {
                let len = decoder.decode(&packet.payload, &mut frame).unwrap();
                heard.extend_from_slice(&frame[..len]);
            }
        }
    }
    heard
}

fn level_db(samples: &[f32]) -> f32 {
    let energy: f32 = samples.iter().map(|x| x * x).sum();
    10.0 * (energy / samples.len() as f32).max(1e-12).log10()
}

/// A room: what is played comes back after 30 ms, and some more from the walls.
fn echo(played: &[f32]) -> Vec<f32> {
    let paths = [(1_440, 0.3), (1_900, -0.15), (2_700, 0.1), (4_100, 0.05)];
    let heard = |i: usize| {
        paths.map(|(delay, gain)| i.checked_sub(delay).map_or(0.0, |i| played[i] * gain))
    };
    (0..played.len()).map(|i| heard(i).iter().sum()).collect()
}

#[test]
fn an_echo_is_cancelled_and_the_voice_over_it_is_kept() {
    let far = speech("alice");
    let only_echo = ProcessingConfig::default()
        .with_noise_reduction(NoiseReduction::Off)
        .with_gain_control(false);
    let room = echo(&far);
    let before = processed(&room, &far, None);
    let after = processed(&room, &far, Some(only_echo));
    let settled = 4 * 48_000..8 * 48_000;
    let gain = level_db(&before[settled.clone()]) - level_db(&after[settled]);
    println!("echo: {gain:.1} dB less");
    assert!(gain > 20.0, "{gain} dB");

    // Who speaks while the room echoes, once the echo is known.
    let mut near = vec![0.0; 4 * 48_000];
    near.extend_from_slice(&speech("bob")[..4 * 48_000]);
    let both: Vec<f32> = room.iter().zip(&near).map(|(a, b)| a + b).collect();
    let after = processed(&both, &far, Some(only_echo));
    let spoken = 4 * 48_000..after.len();
    let alike = envelope_match(&near[spoken.clone()], &after[spoken.clone()]);
    let kept = level_db(&after[spoken.clone()]) - level_db(&near[spoken]);
    println!("double talk: {alike:.2} like the voice alone, {kept:.1} dB");
    // A canceller that hears both at once takes some of the voice with the echo: less than half of it.
    assert!(alike > 0.8 && kept.abs() < 6.0, "{alike} {kept} dB");
}

#[test]
fn noise_goes_and_the_voice_stays() {
    let voice = speech("carol");
    let mut random = Random(5);
    let mut hiss = || ((random.unit() * 2.0 - 1.0) * 0.01) as f32;
    // Two seconds of noise alone, to learn it by.
    let mut noisy: Vec<f32> = (0..96_000).map(|_| hiss()).collect();
    noisy.extend(voice.iter().map(|x| x + hiss()));
    let only_noise = ProcessingConfig::default()
        .with_echo_cancellation(false)
        .with_noise_reduction(NoiseReduction::High)
        .with_gain_control(false);
    let (before, after) = (
        processed(&noisy, &[], None),
        processed(&noisy, &[], Some(only_noise)),
    );
    let pause = 48_000..90_000;
    let gain = level_db(&before[pause.clone()]) - level_db(&after[pause]);
    println!("noise: {gain:.1} dB less");
    assert!(gain > 10.0, "{gain} dB");
    let alike = envelope_match(&voice, &after[96_000..]);
    assert!(alike > 0.9, "{alike}");
}

#[test]
fn a_faint_voice_is_raised() {
    let faint: Vec<f32> = speech("alice").iter().map(|x| x * 0.05).collect();
    let only_gain = ProcessingConfig::default()
        .with_echo_cancellation(false)
        .with_noise_reduction(NoiseReduction::Off);
    let (before, after) = (
        processed(&faint, &[], None),
        processed(&faint, &[], Some(only_gain)),
    );
    let settled = 5 * 48_000..8 * 48_000;
    let gain = level_db(&after[settled.clone()]) - level_db(&before[settled]);
    println!("a faint voice: {gain:.1} dB more");
    assert!(gain > 8.0, "{gain} dB");
    assert!(after.iter().all(|x| x.abs() <= 1.05));
}
