use bytes::Bytes;
use roundtable_core::{MediaCodec, MediaPacket};
use roundtable_voice::{Activation, VoiceSenderConfig};
use tokio::sync::oneshot;

use super::*;
use crate::voice::Clip;

/// A desk at which a tone is spoken, and what it tells the room.
fn desk(voice: Voice) -> (Desk, mpsc::Receiver<FromVoice>) {
    let (to_room, from_desk) = mpsc::channel(4_096);
    let mut desk = Desk::new(voice, SystemClock, None, to_room).unwrap();
    desk.begin();
    (desk, from_desk)
}

fn speaking() -> Voice {
    let tone = (0_u16..48_000).map(|i| 0.2 * (f32::from(i) * 0.05).sin());
    let always = VoiceSenderConfig::default().with_activation(Activation::Always);
    Voice::default()
        .say(Clip {
            samples: tone.collect(),
            looped: true,
        })
        .sender(always)
}

fn peer(name: &str) -> PeerId {
    name.parse().unwrap()
}

fn report(name: &str, loss: f32, takes_redundancy: bool) -> ListenerReport {
    ListenerReport {
        peer: peer(name),
        loss: Some(loss),
        rtt: Some(Duration::from_millis(30)),
        takes_redundancy,
        flooded: 0,
        muted_for_flood: false,
    }
}

fn listeners<const N: usize>(reports: [ListenerReport; N]) -> ToVoice {
    ToVoice::Listeners(Listeners {
        reports: reports.into(),
        dropped: 0,
    })
}

/// What is sent in the next so many milliseconds.
fn sent(desk: &mut Desk, room: &mut mpsc::Receiver<FromVoice>, ms: u64) -> Vec<MediaPacket> {
    while room.try_recv().is_ok() {}
    let captured = desk.started + BLOCK_TIME * u32::try_from(desk.captured).unwrap();
    for later in (5..=ms).step_by(5) {
        desk.capture(captured + Duration::from_millis(later));
    }
    let mut packets = Vec::new();
    while let Ok(message) = room.try_recv() {
        if let FromVoice::Frame(frame) = message
            && let roundtable_core::Payload::Media(packet) = frame.payload
        {
            packets.push(packet);
        }
    }
    packets
}

#[test]
fn the_worst_listeners_loss_decides_how_packets_are_protected() {
    let (mut desk, mut room) = desk(speaking());
    let all = |packets: &[MediaPacket], codec| packets.iter().all(|packet| packet.codec == codec);
    assert!(all(&sent(&mut desk, &mut room, 200), MediaCodec::Opus));
    for _ in 0..8 {
        let both = [report("bob", 0.0, true), report("carol", 0.15, true)];
        desk.receive(listeners(both));
    }
    let stats = desk.sender.stats();
    assert_eq!((stats.redundancy, stats.fec), (2, false), "{stats:?}");
    let packets = sent(&mut desk, &mut room, 200);
    assert!(all(&packets, MediaCodec::OpusRed), "{packets:?}");

    // One whose browser takes no repeated frames.
    let both = [report("bob", 0.05, false), report("carol", 0.15, true)];
    desk.receive(listeners(both));
    let stats = desk.sender.stats();
    assert_eq!((stats.redundancy, stats.fec), (2, true));

    // Carol leaves.
    for _ in 0..30 {
        desk.receive(listeners([report("bob", 0.0, true)]));
    }
    assert!(all(&sent(&mut desk, &mut room, 200), MediaCodec::Opus));
}

/// Packets of a desk that speaks, as another hears them.
fn hear(listener: &mut Desk, name: &str, packets: &[MediaPacket]) -> f32 {
    for packet in packets {
        let now = listener.started + BLOCK_TIME * u32::try_from(listener.played).unwrap();
        listener.receive(ToVoice::Packet {
            peer: peer(name),
            arrived: now,
            packet: packet.clone(),
        });
        // A frame of 20 ms.
        for _ in 0..4 {
            listener.play_block(now);
            listener.played += 1;
        }
    }
    listener.mix_dbfs
}

#[test]
fn volumes_of_the_user_and_of_the_room_multiply_and_places_are_heard() {
    let (mut speaker, mut room) = desk(speaking());
    let packets = sent(&mut speaker, &mut room, 5000);
    let (mut listener, _room) = desk(Voice::default().spatial(SpatialConfig::default()));
    let mut pieces = packets.chunks(25);
    let mut next = |desk: &mut Desk| hear(desk, "bob", pieces.next().unwrap());
    next(&mut listener);
    let plain = next(&mut listener);

    listener.control(Control::Volume(peer("bob"), 0.5));
    let half = next(&mut listener) - plain;
    assert!((half + 6.0).abs() < 0.5, "{half} dB");
    let ordered = RoomVolumes {
        own: None,
        peers: [(peer("bob"), 0.5)].into(),
    };
    listener.receive(ToVoice::RoomVolumes(ordered));
    let quarter = next(&mut listener) - plain;
    assert!((quarter + 12.0).abs() < 0.5, "{quarter} dB");
    listener.receive(ToVoice::RoomVolumes(RoomVolumes::default()));
    listener.control(Control::Volume(peer("bob"), 1.0));

    let aside = Position {
        x: 2.0,
        ..Position::default()
    };
    listener.control(Control::Place(peer("bob"), Some(aside)));
    next(&mut listener);
    let ear = |desk: &Desk, ear: usize| {
        let samples: Vec<f32> = desk.mix.iter().skip(ear).step_by(2).copied().collect();
        level_dbfs(&samples)
    };
    assert!(ear(&listener, 1) > ear(&listener, 0) + 12.0, "on the right");
    let turned = Listener {
        yaw: std::f32::consts::PI,
        ..Listener::default()
    };
    listener.control(Control::Listener(turned));
    next(&mut listener);
    assert!(ear(&listener, 0) > ear(&listener, 1) + 12.0, "on the left");
    listener.control(Control::Place(peer("bob"), None));
    let back = next(&mut listener) - plain;
    assert!(back.abs() < 0.5, "{back} dB");
}

#[test]
fn the_room_mutes_a_peer_and_the_user_cannot_undo_it() {
    let (mut desk, mut room) = desk(speaking());
    assert!(!sent(&mut desk, &mut room, 100).is_empty());
    let ordered = RoomVolumes {
        own: Some(0.0),
        ..RoomVolumes::default()
    };
    desk.receive(ToVoice::RoomVolumes(ordered));
    desk.control(Control::Mute(false));
    assert!(sent(&mut desk, &mut room, 100).is_empty());
    desk.receive(ToVoice::RoomVolumes(RoomVolumes::default()));
    assert!(!sent(&mut desk, &mut room, 100).is_empty());
}

#[test]
fn diagnostics_show_who_was_heard_and_where_the_time_went() {
    let (mut speaker, mut room) = desk(speaking());
    let packets = sent(&mut speaker, &mut room, 1000);
    let (mut listener, _room) = desk(Voice::default());
    hear(&mut listener, "bob", &packets);
    listener.receive(listeners([report("bob", 0.0, true)]));
    let now = listener.started + Duration::from_secs(1);
    let seen = listener.diagnose(now, Duration::from_secs(1));
    let [bob] = seen.speakers.as_slice() else {
        panic!("{seen:?}");
    };
    assert_eq!(
        (bob.peer.as_str(), bob.stats.packets),
        ("bob", packets.len() as u64)
    );
    assert!(
        (20.0..60.0).contains(&(f64::from(bob.bitrate.bps()) / 1000.0)),
        "{bob:?}"
    );
    assert!(bob.stats.level_dbfs > -30.0);
    let latency = bob.latency;
    assert_eq!((latency.frame_ms, latency.network_ms), (20.0, 15.0));
    assert!((50.0..150.0).contains(&latency.total_ms()), "{latency:?}");
    let sent = speaker.diagnose(now, Duration::from_secs(1));
    assert_eq!(sent.sender.packets, packets.len() as u64);
    assert!(sent.sent_bitrate.bps() > 20_000);
}

#[tokio::test]
async fn voice_session_survives_codec_reinitialization() {
    let (mut speaker, mut room) = desk(speaking());
    let (mut listener, _room) = desk(Voice::default());
    let always = VoiceSenderConfig::default().with_activation(Activation::Always);
    let before = hear(&mut listener, "bob", &sent(&mut speaker, &mut room, 1000));
    for config in [
        VoiceSenderConfig::music(),
        VoiceSenderConfig::low_latency().with_activation(Activation::Always),
        VoiceSenderConfig::low_bandwidth().with_activation(Activation::Always),
        always,
    ] {
        let (reply, answer) = oneshot::channel();
        speaker.control(Control::Sender(Box::new(config), reply));
        answer.await.unwrap().unwrap();
        let packets = sent(&mut speaker, &mut room, 1200);
        // Frames have other lengths now: each is heard for as long as it lasts.
        for pair in packets.windows(2) {
            let ticks = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
            hear_for(&mut listener, &pair[0], ticks / 240);
        }
        hear_for(&mut listener, &packets[packets.len() - 1], 4);
        let after = listener.mix_dbfs - before;
        assert!(after.abs() < 3.0, "{after} dB");
    }
    let stats = listener.speakers[&peer("bob")]
        .receiver
        .stats(listener.started);
    assert_eq!((stats.lost, stats.malformed), (0, 0));
    // Ten times 10 ms in five seconds: where frames get longer, the next one comes that much later.
    assert!(stats.concealed <= 10, "{stats:?}");

    let (reply, answer) = oneshot::channel();
    let wrong = VoiceSenderConfig::default().with_preroll(99);
    speaker.control(Control::Sender(Box::new(wrong), reply));
    assert!(answer.await.unwrap().is_err());
    assert!(!sent(&mut speaker, &mut room, 100).is_empty());
}

fn hear_for(listener: &mut Desk, packet: &MediaPacket, blocks: u32) {
    let now = listener.started + BLOCK_TIME * u32::try_from(listener.played).unwrap();
    listener.receive(ToVoice::Packet {
        peer: peer("bob"),
        arrived: now,
        packet: packet.clone(),
    });
    for block in 0..blocks {
        listener.play_block(now + BLOCK_TIME * block);
        listener.played += 1;
    }
}

#[test]
fn what_is_no_voice_is_counted_and_not_heard() {
    let (mut listener, _room) = desk(Voice::default());
    let junk = MediaPacket {
        sequence: 1,
        timestamp: 0,
        marker: true,
        codec: MediaCodec::OpusRed,
        payload: Bytes::from_static(b"\xff\xff\xff\xff"),
    };
    assert!(hear(&mut listener, "bob", &[junk]) < -150.0);
    let stats = listener.speakers[&peer("bob")]
        .receiver
        .stats(listener.started);
    assert_eq!((stats.malformed, stats.packets), (1, 1));
}

#[test]
fn a_clock_alone_makes_no_speaker() {
    let (mut listener, _room) = desk(Voice::default());
    listener.receive(ToVoice::Clock {
        peer: peer("mallory"),
        arrived: listener.started,
        clock: roundtable_core::MediaClock {
            ntp: roundtable_core::NtpTime::from(listener.wall),
            timestamp: 0,
        },
    });
    assert!(listener.speakers.is_empty());
}

#[test]
fn a_room_that_is_behind_is_told_later_who_speaks() {
    let (mut speaker, mut room) = desk(speaking());
    let packets = sent(&mut speaker, &mut room, 400);
    let (to_room, mut from_desk) = mpsc::channel(1);
    let mut listener = Desk::new(Voice::default(), SystemClock, None, to_room).unwrap();
    listener.begin();
    let full = FromVoice::Second;
    listener.to_room.try_send(full).unwrap();
    let (before, after) = packets.split_at(packets.len() / 2);
    hear(&mut listener, "bob", before);
    assert!(matches!(from_desk.try_recv(), Ok(FromVoice::Second)));
    hear(&mut listener, "bob", after);
    let told = from_desk.try_recv();
    let speaks = |event: &Event| matches!(event, Event::Speaking { speaking: true, .. });
    assert!(
        matches!(&told, Ok(FromVoice::Event(event)) if speaks(event)),
        "{told:?}"
    );
}

#[test]
fn a_pause_between_words_is_no_end_of_speaking() {
    let (mut speaker, mut room) = desk(speaking());
    let packets = sent(&mut speaker, &mut room, 1400);
    // 300 ms are missing, as if nothing was said for so long.
    let (before, after) = (&packets[..20], &packets[35..]);
    let (mut listener, mut told) = desk(Voice::default());
    for (packets, blocks) in [(before, 60), (after, 300)] {
        hear(&mut listener, "bob", packets);
        for _ in 0..blocks {
            listener.play_block(
                listener.started + BLOCK_TIME * u32::try_from(listener.played).unwrap(),
            );
            listener.played += 1;
        }
    }
    let mut states = Vec::new();
    while let Ok(message) = told.try_recv() {
        if let FromVoice::Event(Event::Speaking { speaking, .. }) = message {
            states.push(speaking);
        }
    }
    assert_eq!(states, [true, false]);
}

#[test]
fn after_the_process_was_held_up_a_clip_goes_on_from_now() {
    let (mut desk, mut room) = desk(speaking());
    assert!(!sent(&mut desk, &mut room, 100).is_empty());
    // A minute in which nothing ran.
    desk.capture(desk.started + Duration::from_secs(60));
    let waiting = room.len();
    assert!(waiting <= 1, "{waiting} packets at once");
    let packets = sent(&mut desk, &mut room, 100);
    assert!(
        (4..=6).contains(&packets.len()),
        "{} packets",
        packets.len()
    );
}
