#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // test signals

use proptest::prelude::*;

use super::*;

const FRAME: usize = 960;

/// Something like a vowel: harmonics of 140 Hz that swell and fade, at a third of full scale.
fn vowel(frames: usize) -> Vec<f32> {
    (0..frames * FRAME)
        .map(|i| {
            let t = i as f32 / 48_000.0;
            let swell = 0.6 + 0.4 * (t * 9.0).sin();
            let harmonics = (1..12).map(|k| {
                let k = k as f32;
                (t * 140.0 * k * std::f32::consts::TAU).sin() / (1.0 + (k - 4.0).abs())
            });
            0.12 * swell * harmonics.sum::<f32>()
        })
        .collect()
}

fn encode(encoder: &mut OpusEncoder, samples: &[f32]) -> Vec<Vec<u8>> {
    let mut packet = [0; MAX_PACKET_LEN];
    samples
        .chunks_exact(encoder.frame_len())
        .map(|frame| {
            let len = encoder.encode(frame, &mut packet).unwrap();
            packet[..len].to_vec()
        })
        .collect()
}

/// Signal to noise in dB where the codec's delay is undone. For a lossy codec that is a lower bound
/// of quality, not a measure of it: it shapes the noise to where nobody hears it.
fn snr_db(original: &[f32], decoded: &[f32]) -> f32 {
    (0..480)
        .map(|delay| {
            let noise: f32 = original
                .iter()
                .zip(&decoded[delay..])
                .map(|(a, b)| (a - b).powi(2))
                .sum();
            let signal: f32 = original[..decoded.len() - delay]
                .iter()
                .map(|a| a * a)
                .sum();
            10.0 * (signal / noise.max(1e-12)).log10()
        })
        .fold(f32::MIN, f32::max)
}

/// Samples by which the codec delays at 48 kHz: 6.5 ms.
const CODEC_DELAY: usize = 312;

/// Log-spectral distance in dB, the codec's delay undone: the difference of levels in bands of 200 Hz up to 8 kHz, root mean
/// square over the bands and mean over windows of 20 ms. Below -60 dB of full scale nothing is compared. Unlike the ratio of
/// signal to noise it does not mind phase, which a codec may change as it likes: nobody hears that. PESQ judges better, but of
/// recorded speech only; the voice's scorecard takes it.
fn log_spectral_distance_db(original: &[f32], decoded: &[f32]) -> f32 {
    let decoded = &decoded[CODEC_DELAY..];
    let windows = original
        .chunks_exact(FRAME)
        .zip(decoded.chunks_exact(FRAME));
    let distances: Vec<f32> = windows
        .map(|(original, decoded)| {
            let squares = (1..40).map(|band| {
                let hz = band as f32 * 200.0;
                let level = |x: &[f32]| band_level(x, hz).max(1e-3);
                (20.0 * (level(original) / level(decoded)).log10()).powi(2)
            });
            (squares.sum::<f32>() / 39.0).sqrt()
        })
        .collect();
    distances.iter().sum::<f32>() / distances.len() as f32
}

/// The level of a band around `hz`, under a Hann window.
fn band_level(samples: &[f32], hz: f32) -> f32 {
    let step = std::f32::consts::TAU / 48_000.0;
    let (mut re, mut im) = (0.0, 0.0);
    for (i, x) in samples.iter().enumerate() {
        let hann = (i as f32 * std::f32::consts::PI / samples.len() as f32)
            .sin()
            .powi(2);
        let (sin, cos) = (i as f32 * hz * step).sin_cos();
        re += x * hann * cos;
        im += x * hann * sin;
    }
    4.0 * (re * re + im * im).sqrt() / samples.len() as f32
}

fn level(samples: &[f32]) -> f32 {
    (samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32).sqrt()
}

#[test]
fn opus_codec_round_trip_preserves_audio_quality() {
    let original = vowel(100);
    let mut distances = Vec::new();
    for kbps in [16, 32, 128] {
        let config = OpusConfig::default()
            .with_bitrate(Bitrate::from_kbps(kbps))
            .with_expected_loss(0.0);
        let mut encoder = OpusEncoder::new(&config).unwrap();
        let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
        let mut decoded = vec![0.0; original.len()];
        let mut bytes = 0;
        for (packet, out) in encode(&mut encoder, &original)
            .iter()
            .zip(decoded.chunks_exact_mut(FRAME))
        {
            assert_eq!(decoder.decode(packet, out), Ok(FRAME));
            bytes += packet.len();
        }
        let spent = bytes as f32 * 8.0 / 2.0 / 1000.0;
        assert!(spent < kbps as f32 * 1.35, "{spent} kbit/s for {kbps}");
        distances.push(log_spectral_distance_db(
            &original[9_600..],
            &decoded[9_600..],
        ));
    }
    println!("{distances:?} dB");
    assert!(distances[1] < 1.0, "{distances:?} dB");
    assert!(
        distances[2] < 0.7 * distances[0],
        "more bits must be better: {distances:?} dB"
    );
    // What the distance is worth: half the level is 6 dB off in those bands in which the vowel has something.
    let half: Vec<f32> = [0.0; CODEC_DELAY]
        .into_iter()
        .chain(original.iter().map(|x| x / 2.0))
        .collect();
    let off = log_spectral_distance_db(&original, &half[..original.len()]);
    assert!(off > 2.0 && off < 6.1, "{off} dB");
}

#[test]
fn opus_decoder_handles_packet_loss_with_plc() {
    let original = vowel(60);
    // Who expects loss predicts less from frame to frame, so that a decoder finds its way again.
    let config = OpusConfig::default().with_expected_loss(0.05);
    let mut encoder = OpusEncoder::new(&config).unwrap();
    let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
    let packets = encode(&mut encoder, &original);
    let mut out = [0.0; FRAME];
    let mut levels = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        if (8..16).contains(&index) {
            assert_eq!(decoder.conceal(&mut out), Ok(FRAME));
        } else {
            assert_eq!(decoder.decode(packet, &mut out), Ok(FRAME));
        }
        levels.push(level(&out));
    }
    assert!(levels[8] > 0.4 * levels[7], "one lost frame is no hole");
    assert!(levels[15] < 0.5 * levels[7], "what is made up fades");
    assert!(levels[18] > 0.3 * levels[7], "and speech comes back");
}

#[test]
fn redundancy_is_nearer_to_the_truth_than_concealment() {
    let original = vowel(80);
    let config = OpusConfig::default().with_expected_loss(0.2);
    let packets = encode(&mut OpusEncoder::new(&config).unwrap(), &original);
    let play = |recover: bool| {
        let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
        let mut out = vec![0.0; original.len()];
        let mut recovered = 0;
        for (index, out) in out.chunks_exact_mut(FRAME).enumerate() {
            let next = packets
                .get(index + 1)
                .filter(|next| decoder.last_in(next) == LastFrame::Carried);
            match next.filter(|_| recover) {
                _ if index % 8 != 7 => decoder.decode(&packets[index], out).unwrap(),
                Some(next) => {
                    recovered += 1;
                    decoder.recover(next, out).unwrap()
                }
                None => decoder.conceal(out).unwrap(),
            };
        }
        (snr_db(&original[9_600..], &out[9_600..]), recovered)
    };
    let ((concealed, _), (recovered, count)) = (play(false), play(true));
    assert!(count >= 5, "{count} of 10 losses were covered");
    assert!(
        recovered > concealed + 1.0,
        "{recovered} against {concealed} dB"
    );
}

#[test]
fn redundancy_is_only_there_when_loss_is_expected() {
    let original = vowel(50);
    let decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
    let mut encoder = OpusEncoder::new(&OpusConfig::default().with_expected_loss(0.0)).unwrap();
    let carries = |packets: Vec<Vec<u8>>| {
        packets
            .iter()
            .filter(|p| decoder.last_in(p) == LastFrame::Carried)
            .count()
    };
    assert_eq!(carries(encode(&mut encoder, &original)), 0);
    encoder.set_expected_loss(0.2);
    assert!(carries(encode(&mut encoder, &original)) > 20);
}

#[test]
fn every_rate_and_duration_round_trips() {
    for sample_rate_hz in [8_000, 12_000, 16_000, 24_000, 48_000] {
        for (channels, ms) in [(1, 10), (2, 20), (1, 40), (2, 60)] {
            let format = AudioFormat {
                sample_rate_hz,
                channels,
            };
            let config = OpusConfig::default()
                .with_format(format)
                .with_frame_duration(Duration::from_millis(ms));
            let mut encoder = OpusEncoder::new(&config).unwrap();
            let mut decoder = OpusDecoder::new(format).unwrap();
            let frame = vec![0.1; encoder.frame_len() * usize::from(channels)];
            let mut packet = [0; MAX_PACKET_LEN];
            let len = encoder.encode(&frame, &mut packet).unwrap();
            assert_eq!(decoder.packet_len(&packet[..len]), Ok(encoder.frame_len()));
            let mut out = vec![0.0; frame.len()];
            assert_eq!(
                decoder.decode(&packet[..len], &mut out),
                Ok(encoder.frame_len())
            );
        }
    }
}

#[test]
fn the_bit_rate_changes_in_the_midst_of_a_stream() {
    let original = vowel(100);
    let mut encoder = OpusEncoder::new(&OpusConfig::default()).unwrap();
    let bytes = |packets: Vec<Vec<u8>>| packets.iter().map(Vec::len).sum::<usize>();
    let before = bytes(encode(&mut encoder, &original));
    encoder.set_bitrate(Bitrate::from_kbps(96)).unwrap();
    assert!(bytes(encode(&mut encoder, &original)) > before * 2);
    let refused = Bitrate::from_kbps(600);
    assert_eq!(
        encoder.set_bitrate(refused),
        Err(CodecConfigError::Bitrate(refused))
    );
}

#[test]
fn bad_settings_and_bad_lengths_are_named() {
    let bad = |config: OpusConfig| OpusEncoder::new(&config).err();
    let config = OpusConfig::default;
    let format = |sample_rate_hz, channels| AudioFormat {
        sample_rate_hz,
        channels,
    };
    assert_eq!(
        bad(config().with_format(format(44_100, 1))),
        Some(CodecConfigError::SampleRate(44_100))
    );
    assert_eq!(
        bad(config().with_format(format(48_000, 6))),
        Some(CodecConfigError::Channels(6))
    );
    assert_eq!(
        bad(config().with_complexity(11)),
        Some(CodecConfigError::Complexity(11))
    );
    assert_eq!(
        bad(config().with_expected_loss(f32::NAN)),
        Some(CodecConfigError::ExpectedLoss)
    );
    let odd = Duration::from_millis(15);
    assert_eq!(
        bad(config().with_frame_duration(odd)),
        Some(CodecConfigError::FrameDuration(odd))
    );

    let mut encoder = OpusEncoder::new(&config()).unwrap();
    let wrong = EncodeError::Length {
        expected: 960,
        actual: 959,
    };
    assert_eq!(encoder.encode(&[0.0; 959], &mut [0; 100]), Err(wrong));
    assert_eq!(
        encoder.encode(&vowel(1), &mut []),
        Err(EncodeError::BufferTooSmall)
    );
    let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
    assert_eq!(
        decoder.decode(&[], &mut [0.0; 960]),
        Err(DecodeError::Empty)
    );
    assert_eq!(
        decoder.decode(&[0xff, 0xff, 0xff], &mut [0.0; 960]),
        Err(DecodeError::Malformed)
    );
    assert_eq!(
        decoder.conceal(&mut [0.0; 961]),
        Err(DecodeError::Length(961))
    );
    assert_eq!(decoder.conceal(&mut []), Err(DecodeError::Length(0)));
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(data in prop::collection::vec(any::<u8>(), 0..3_000)) {
        __fuzz_opus_decode(&data);
    }

    #[test]
    fn a_true_packet_with_flipped_bytes_is_decoded_or_refused(
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8),
    ) {
        let mut packets = encode(&mut OpusEncoder::new(&OpusConfig::default()).unwrap(), &vowel(5));
        let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
        let mut out = [0.0; 48 * MAX_OPUS_FRAME_MS];
        for packet in &mut packets {
            for (place, value) in &flips {
                let place = place % packet.len();
                packet[place] ^= value;
            }
            let _ = decoder.last_in(packet);
            if let Ok(len) = decoder.decode(packet, &mut out) {
                prop_assert!(out[..len].iter().all(|sample| sample.is_finite()));
            }
        }
    }
}

/// How loud the quietest 5 ms are: a hole shows, wherever it begins.
fn quietest(samples: &[f32]) -> f32 {
    let windows = samples.chunks_exact(240).map(level);
    windows.fold(f32::MAX, f32::min)
}

#[test]
fn any_setting_changes_in_a_call_without_a_hole() {
    let steady = |i: usize| {
        let t = i as f32 / 48_000.0 * std::f32::consts::TAU;
        0.2 * (t * 220.0).sin() + 0.1 * (t * 660.0).sin()
    };
    let original: Vec<f32> = (0..48_000).map(steady).collect();
    let base = OpusConfig::default();
    let stereo = AudioFormat {
        channels: 2,
        ..AudioFormat::VOICE
    };
    let changes = [
        base.clone().with_bitrate(Bitrate::from_kbps(96)),
        base.clone().with_complexity(2).with_vbr(false),
        base.clone().with_expected_loss(0.2),
        base.clone().with_frame_duration(Duration::from_millis(60)),
        OpusConfig::low_latency(),
        OpusConfig::music(),
        base.clone().with_format(stereo),
    ];
    for changed in changes {
        let mut encoder = OpusEncoder::new(&base).unwrap();
        let mut decoder = OpusDecoder::new(AudioFormat::VOICE).unwrap();
        let (mut heard, mut packet, mut out) = (Vec::new(), [0; 1100], [0.0; 5760]);
        let mut at = 0;
        while at + 2880 <= original.len() {
            if at == 24_000 {
                let wide = changed.format.channels == 2;
                let recent: Vec<f32> = original[at - 4_800..at]
                    .iter()
                    .flat_map(|x| std::iter::repeat_n(*x, 1 + usize::from(wide)))
                    .collect();
                encoder.reconfigure(&changed, &recent).unwrap();
                assert_eq!(encoder.config(), &changed);
            }
            let frame = &original[at..at + encoder.frame_len()];
            let channels = usize::from(encoder.format().channels);
            let frame: Vec<f32> = frame
                .iter()
                .flat_map(|x| std::iter::repeat_n(*x, channels))
                .collect();
            let len = encoder.encode(&frame, &mut packet).unwrap();
            let decoded = decoder.decode(&packet[..len], &mut out).unwrap();
            assert_eq!(decoded, encoder.frame_len());
            heard.extend_from_slice(&out[..decoded]);
            at += decoded;
        }
        let around = &heard[22_000..28_000];
        let before = quietest(&heard[14_000..22_000]);
        assert!(
            quietest(around) > 0.5 * before,
            "{changed:?}: {} of {before}",
            quietest(around)
        );
        let steepest = |x: &[f32]| {
            let steps = x.windows(2).map(|pair| (pair[1] - pair[0]).abs());
            steps.fold(0.0, f32::max)
        };
        assert!(
            steepest(around) < 1.6 * steepest(&heard[14_000..22_000]),
            "{changed:?}: a click of {} where {} is usual",
            steepest(around),
            steepest(&heard[14_000..22_000])
        );
    }
    let mut encoder = OpusEncoder::new(&base).unwrap();
    let refused = encoder.reconfigure(&base.clone().with_complexity(11), &[]);
    assert_eq!(refused, Err(CodecConfigError::Complexity(11)));
    assert_eq!(encoder.config(), &base);
}

/// RFC 6716 §3.1: 2.5 to 60 ms in a frame, up to 48 frames and 120 ms in a packet.
#[test]
fn packets_of_every_legal_length_are_decoded() {
    for rate_hz in [8_000, 12_000, 16_000, 24_000, 48_000] {
        for tenths in [25, 50, 100, 200, 400, 600, 800, 1000, 1200] {
            let samples = 48_000 * tenths / 10_000;
            let mut encoder = Encoder::new(48_000, Channels::Stereo, Application::Audio).unwrap();
            let frame = vec![0.1; samples * 2];
            let mut packet = [0; 4000];
            let len = encoder.encode_float(&frame, &mut packet).unwrap();
            let format = AudioFormat {
                sample_rate_hz: rate_hz,
                channels: 1,
            };
            let mut decoder = OpusDecoder::new(format).unwrap();
            let mut out = [0.0; 5760];
            let expected = samples * rate_hz as usize / 48_000;
            assert_eq!(decoder.packet_len(&packet[..len]), Ok(expected));
            assert_eq!(decoder.decode(&packet[..len], &mut out), Ok(expected));
        }
    }
}

#[test]
fn opus_encoder_encodes_silence_efficiently() {
    let config = OpusConfig::default().with_dtx(true);
    let mut encoder = OpusEncoder::new(&config).unwrap();
    let packets = encode(&mut encoder, &vec![0.0; 100 * FRAME]);
    // Packets of two bytes or less need not be sent; after half a second nearly all are such.
    let sent = packets[25..].iter().filter(|packet| packet.len() > 2);
    assert!(sent.count() <= 5);
    let spent: usize = packets[25..].iter().map(Vec::len).sum();
    assert!(spent < 400, "{spent} bytes for a second and a half");
    let voice = encode(&mut encoder, &vowel(20));
    assert!(
        voice[5..].iter().all(|packet| packet.len() > 20),
        "and speech comes back"
    );
}
