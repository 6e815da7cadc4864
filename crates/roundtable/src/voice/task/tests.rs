use bytes::Bytes;
use roundtable_core::{MediaCodec, NtpTime, WallTime};

use super::*;

fn clock() -> MediaClock {
    MediaClock {
        ntp: NtpTime::from(WallTime::from_millis(1_700_000_000_000)),
        timestamp: 960,
    }
}

fn packet(sequence: u16) -> MediaPacket {
    MediaPacket {
        sequence,
        timestamp: u32::from(sequence) * 960,
        marker: sequence == 0,
        codec: MediaCodec::Opus,
        // 20 ms of silence.
        payload: Bytes::from_static(&[0xf8, 0xff, 0xfe]),
    }
}

/// The room's end of a task that never gets to look at its queue.
fn unattended() -> VoiceTask {
    VoiceTask::start(Voice::default(), SystemClock).unwrap()
}

#[tokio::test]
async fn a_flood_of_clocks_mutes_its_peer_and_leaves_room_for_others() {
    let mut voice = unattended();
    let [mallory, alice] = ["mallory", "alice"].map(|name| name.parse::<PeerId>().unwrap());
    let now = Timestamp::from_millis(1_000);
    let told = (0..10_000).filter(|_| voice.clock(mallory.clone(), now, clock()));
    assert_eq!(told.count(), 1, "the user is told once");
    assert_eq!(voice.dropped, 0, "the queue has not run over");
    assert!(!voice.packet(alice.clone(), now, packet(0)));
    assert_eq!(voice.dropped, 0, "there is room for another's voice");

    // Who is muted is so with all that it sends.
    let capacity = voice.input.capacity();
    let later = now + Duration::from_secs(1);
    assert!(!voice.packet(mallory.clone(), later, packet(0)));
    assert!(!voice.clock(mallory.clone(), later, clock()));
    assert_eq!(voice.input.capacity(), capacity);
    assert!(voice.guards[&mallory].is_muted(later));
    assert_eq!(voice.guards[&alice].dropped(), 0);
}
