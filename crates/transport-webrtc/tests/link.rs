//! What a WebRTC link promises beyond the conformance suite, over real sockets on loopback.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::time::Duration;

use common::{SOON, config, pair, pair_with};
use roundtable_core::{Channel, CloseCode, Frame, MediaClock, MediaCodec, MediaPacket, NtpTime};
use roundtable_transport::{Closed, Link, SendError};
use roundtable_transport_webrtc::{Connecting, WebRtcLink};
use tokio::time::timeout;

async fn next(link: &WebRtcLink) -> Frame {
    timeout(SOON, link.recv()).await.expect("in time").unwrap()
}

async fn end(link: &WebRtcLink) -> Closed {
    loop {
        if let Err(closed) = timeout(SOON, link.recv()).await.expect("in time") {
            return closed;
        }
    }
}

fn packet(codec: MediaCodec, sequence: u16) -> MediaPacket {
    MediaPacket {
        sequence,
        timestamp: u32::from(sequence) * 960,
        marker: sequence.is_multiple_of(2),
        codec,
        payload: vec![7; 80].into(),
    }
}

fn closed(code: CloseCode, reason: &str, by_remote: bool) -> Closed {
    Closed::new(code, reason, by_remote)
}

#[tokio::test]
async fn text_stays_text_and_binary_stays_binary_even_when_empty() {
    let (a, b) = pair().await;
    for channel in [Channel::App, Channel::AppFast] {
        for frame in [
            Frame::text(channel, "héllo"),
            Frame::text(channel, ""),
            Frame::binary(channel, &b"hello"[..]),
            Frame::binary(channel, &b""[..]),
        ] {
            a.send(frame.clone()).await.unwrap();
            assert_eq!(next(&b).await, frame);
        }
    }
}

#[tokio::test]
async fn the_largest_commands_arrive_whole_and_in_order() {
    let (a, b) = pair().await;
    let sender = tokio::spawn(async move {
        for i in 0..100_u8 {
            let frame = Frame::binary(Channel::Command, vec![i; 72 * 1024]);
            a.send(frame).await.unwrap();
        }
        a
    });
    for i in 0..100 {
        let frame = next(&b).await;
        assert_eq!(frame, Frame::binary(Channel::Command, vec![i; 72 * 1024]));
    }
    let stats = sender.await.unwrap().stats();
    assert_eq!(stats.channel(Channel::Command).sent_frames, 100);
    assert_eq!(
        b.stats().channel(Channel::Command).received_bytes,
        100 * 72 * 1024
    );
}

#[tokio::test]
async fn a_channel_refuses_what_does_not_belong_on_it() {
    let (a, _b) = pair().await;
    let large = Frame::binary(Channel::AppFast, vec![0; 1101]);
    let refused = a.try_send(large).unwrap_err();
    assert!(matches!(refused, SendError::TooLarge { max: 1100, .. }));
    let text = Frame::text(Channel::Control, r#"{"close":{"code":0}}"#);
    let refused = a.send(text).await.unwrap_err();
    assert_eq!(refused, SendError::WrongChannel(Channel::Control));
    let video = Frame::media(Channel::Voice, packet(MediaCodec::Vp8, 0));
    let refused = a.send(video).await.unwrap_err();
    assert_eq!(refused, SendError::WrongChannel(Channel::Voice));
}

#[tokio::test]
async fn media_travels_both_ways_with_its_clock() {
    let (a, b) = pair().await;
    // One stream changes its codec on the way, and its sequence numbers wrap.
    for (channel, codec, start) in [
        (Channel::Voice, MediaCodec::Opus, u16::MAX - 1),
        (Channel::Video, MediaCodec::Vp8, u16::MAX - 5),
        (Channel::Video, MediaCodec::Vp9, u16::MAX - 1),
        (Channel::Video, MediaCodec::H264, 2),
    ] {
        for (from, to) in [(&a, &b), (&b, &a)] {
            for i in 0..4 {
                let frame = Frame::media(channel, packet(codec, start.wrapping_add(i)));
                from.send(frame.clone()).await.unwrap();
                assert_eq!(next(to).await, frame);
            }
            let clock = MediaClock {
                ntp: NtpTime(0xe123_4567_89ab_cdef),
                timestamp: 123_456,
            };
            from.send(Frame::clock(channel, clock)).await.unwrap();
            assert_eq!(next(to).await, Frame::clock(channel, clock));
        }
    }
}

#[tokio::test]
async fn a_clock_may_come_before_the_first_packet() {
    let (a, b) = pair().await;
    let clock = MediaClock {
        ntp: NtpTime(1 << 40),
        timestamp: 9,
    };
    for channel in [Channel::Video, Channel::Voice] {
        a.send(Frame::clock(channel, clock)).await.unwrap();
        assert_eq!(next(&b).await, Frame::clock(channel, clock));
    }
}

#[tokio::test]
async fn round_trip_and_jitter_are_measured() {
    let (a, b) = pair().await;
    let mut sequence = 0;
    let measured = async {
        loop {
            sequence += 1;
            let frame = Frame::media(Channel::Voice, packet(MediaCodec::Opus, sequence));
            a.send(frame).await.unwrap();
            next(&b).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if a.stats().rtt.is_some() && b.stats().jitter.is_some() {
                break;
            }
        }
    };
    timeout(SOON, measured).await.expect("in time");
    assert!(a.stats().rtt.unwrap() < Duration::from_secs(1));
    assert_eq!(a.stats().loss.to_bits(), 0);
}

#[tokio::test]
async fn the_peer_learns_why_after_everything_that_was_sent_before() {
    let (a, b) = pair().await;
    for i in 0..200_u8 {
        let frame = Frame::binary(Channel::Snapshot, vec![i; 4096]);
        a.send(frame).await.unwrap();
    }
    let closing = a.close(CloseCode::REPLACED, "moved to QUIC");
    let reading = async {
        for i in 0..200 {
            assert_eq!(
                next(&b).await,
                Frame::binary(Channel::Snapshot, vec![i; 4096])
            );
        }
        end(&b).await
    };
    let ((), seen) = tokio::join!(closing, reading);
    assert_eq!(seen, closed(CloseCode::REPLACED, "moved to QUIC", true));
    let own = closed(CloseCode::REPLACED, "moved to QUIC", false);
    assert_eq!(end(&a).await, own.clone());
    let frame = Frame::binary(Channel::App, &b"late"[..]);
    assert_eq!(a.send(frame.clone()).await, Err(own.clone().into()));
    assert_eq!(a.try_send(frame), Err(own.into()));
    a.close(CloseCode::NORMAL, "again").await;
    b.close(CloseCode::NORMAL, "").await;
}

#[tokio::test]
async fn dropping_the_last_handle_closes() {
    let (a, b) = pair().await;
    let other = a.clone();
    drop(a);
    let frame = Frame::text(Channel::App, "still here");
    other.send(frame.clone()).await.unwrap();
    assert_eq!(next(&b).await, frame);
    drop(other);
    assert_eq!(end(&b).await, closed(CloseCode::NORMAL, "", true));
}

#[tokio::test]
async fn closing_leaves_no_task_behind() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let (a, b) = pair().await;
    assert_eq!(tasks(), before + 2);
    a.close(CloseCode::NORMAL, "").await;
    b.close(CloseCode::NORMAL, "").await;
    tokio::task::yield_now().await;
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn a_peer_that_vanishes_is_lost() {
    let config = config().with_lost_after(Duration::from_secs(1));
    let (offering, offer) = roundtable_transport_webrtc::Connecting::offer(&config)
        .await
        .unwrap();
    // The other end lives in a runtime of its own, which is torn down without a word.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let answering = elsewhere.spawn(async move {
        roundtable_transport_webrtc::Connecting::answer(&common::config(), &offer).await
    });
    let (answering, answer) = answering.await.unwrap().unwrap();
    offering.accept_answer(&answer).await.unwrap();
    let remote = elsewhere.spawn(answering.opened());
    let link = offering.opened().await.unwrap();
    let remote = remote.await.unwrap().unwrap();
    elsewhere.shutdown_background();
    assert_eq!(end(&link).await, closed(CloseCode::LOST, "", false));
    // The handle of the end that vanished is not left waiting either.
    assert_eq!(end(&remote).await.code, CloseCode::LOST);
    remote.close(CloseCode::NORMAL, "").await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    let small = config()
        .with_send_buffer(100 << 10)
        .with_in_flight(100 << 10)
        .with_receive_buffer(100 << 10);
    let (a, b) = pair_with(&small, &small).await;
    let mut sent = 0_u32;
    let frame = |i: u32| {
        let mut message = vec![0; 32 * 1024];
        message[..4].copy_from_slice(&i.to_be_bytes());
        Frame::binary(Channel::App, message)
    };
    // Until nothing goes in for a while: everything between the two ends is full.
    while let Ok(result) = timeout(Duration::from_millis(300), a.send(frame(sent))).await {
        result.unwrap();
        sent += 1;
        assert!(sent < 10_000, "nothing holds the sender back");
    }
    assert_eq!(a.try_send(frame(0)), Err(SendError::Full(Channel::App)));
    // A channel that is full does not keep others from sending, though their reader is the same.
    let urgent = Frame::binary(Channel::Control, &b"urgent"[..]);
    a.try_send(urgent.clone()).unwrap();
    let mut received = 0;
    let mut urgent_seen = false;
    while received < sent || !urgent_seen {
        let next = next(&b).await;
        if next == urgent {
            urgent_seen = true;
        } else {
            assert_eq!(next, frame(received));
            received += 1;
        }
    }
}

#[tokio::test]
async fn media_that_nobody_takes_loses_its_oldest() {
    let few = config().with_media_queue(10);
    let (a, b) = pair_with(&few, &few).await;
    for sequence in 0..50 {
        let frame = Frame::media(Channel::Voice, packet(MediaCodec::Opus, sequence));
        a.send(frame).await.unwrap();
    }
    let last = Frame::binary(Channel::Control, &b"last"[..]);
    a.send(last.clone()).await.unwrap();
    while b.stats().channel(Channel::Voice).dropped_frames < 40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for sequence in 40..50 {
        let frame = Frame::media(Channel::Voice, packet(MediaCodec::Opus, sequence));
        assert_eq!(next(&b).await, frame);
    }
    assert_eq!(next(&b).await, last);
}

/// Either end may be open a moment before the other, and speaks at once: the core loses what comes
/// in the same breath as the end of its own SCTP handshake, unless its events are read in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_the_moment_a_link_opens_is_heard() {
    for _ in 0..20 {
        let (offering, offer) = Connecting::offer(&config()).await.unwrap();
        let (answering, answer) = Connecting::answer(&config(), &offer).await.unwrap();
        offering.accept_answer(&answer).await.unwrap();
        let greet = |connecting: Connecting| async move {
            let link = connecting.opened().await.unwrap();
            let hello = Frame::binary(Channel::Control, &b"hello"[..]);
            link.send(hello.clone()).await.unwrap();
            assert_eq!(next(&link).await, hello);
            link
        };
        let (a, b) = tokio::join!(
            tokio::spawn(greet(offering)),
            tokio::spawn(greet(answering))
        );
        drop((a.unwrap(), b.unwrap()));
    }
}

#[tokio::test]
async fn webrtc_peer_connection_establishes_successfully() {
    let (alice, offer) = Connecting::offer(&config()).await.unwrap();
    let (bob, answer) = Connecting::answer(&config(), &offer).await.unwrap();
    alice.accept_answer(&answer).await.unwrap();
    let (a, b) = tokio::try_join!(alice.opened(), bob.opened()).unwrap();
    assert_eq!(a.binding(), b.binding(), "both know whom they talk to");
    for link in [&a, &b] {
        let path = async {
            while link.stats().path.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, path).await.expect("a way is selected");
    }
}

#[tokio::test]
async fn webrtc_data_channel_transfers_command_packets() {
    let (a, b) = pair().await;
    // Both ways at once: every one, whole, once and in order.
    let packet = |number: u16| {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.resize(usize::from(number) * 7 % 4000 + 2, 0xa5);
        Frame::binary(Channel::Command, bytes)
    };
    let send = async |link: &WebRtcLink| {
        for number in 0..500 {
            link.send(packet(number)).await.unwrap();
        }
    };
    let check = async |link: &WebRtcLink| {
        for number in 0..500 {
            assert_eq!(next(link).await, packet(number));
        }
    };
    tokio::join!(send(&a), send(&b), check(&a), check(&b));
    assert_eq!(a.stats().channel(Channel::Command).received_frames, 500);
}

#[tokio::test]
async fn a_link_that_is_filled_tells_how_much_it_carries() {
    let (a, b) = pair().await;
    assert_eq!(a.stats().bandwidth, None, "nothing was sent yet");
    let reader = tokio::spawn(async move { while b.recv().await.is_ok() {} });
    let filling = async {
        while a.stats().bandwidth.is_none() {
            let frame = Frame::binary(Channel::App, vec![7; 60_000]);
            a.send(frame).await.unwrap();
        }
    };
    timeout(SOON, filling).await.unwrap();
    a.close(CloseCode::NORMAL, "").await;
    reader.await.unwrap();
}
