//! What every link must do, as tests that any [`Link`] can be held against.
//!
//! Each property is a function that takes a maker of connected pairs and panics where the link is
//! at fault; [`conformance_tests!`](crate::conformance_tests) makes a `#[tokio::test]` of each.
//!
//! ```
//! # mod tests {
//! use roundtable_transport::{MemoryLink, conformance_tests};
//!
//! async fn pair() -> (MemoryLink, MemoryLink) {
//!     MemoryLink::pair(None, None)
//! }
//!
//! conformance_tests!(pair);
//! # }
//! ```
//!
//! What a lossy network may do is allowed on unreliable channels: the suite asks for half of the
//! frames there, never for all.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used)] // these are tests

use std::{collections::HashSet, pin::pin, time::Duration};

use bytes::Bytes;
use roundtable_core::{
    Channel, Clock, CloseCode, Delivery, Frame, MediaClock, MediaCodec, MediaPacket, NtpTime,
    Payload,
};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use crate::{Closed, Link, SendError, SystemClock};

/// Makes one `#[tokio::test]` of each property in [`conformance`](crate::conformance), out of the
/// path of an `async fn() -> (impl Link, impl Link)` that makes a connected pair.
///
/// With a second path, of a `fn(&str, impl AsyncFn(Seed))`, one `#[test]` of each, which that function plays
/// under the property's name, with as many seeds and in whichever runtime it likes; pairs are then made by an
/// `async fn(Seed) -> (impl Link, impl Link)`.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests! { @all [$make] }
    };
    ($make:path, $play:path) => {
        $crate::conformance_tests! { @all [$make, $play] }
    };
    (@all $how:tt) => {
        $crate::conformance_tests! { @each $how
            every_channel_carries_both_ways
            reliable_channels_keep_order_and_lose_nothing
            unreliable_channels_deliver_at_most_once
            the_largest_message_passes_and_one_byte_more_is_refused
            payloads_are_refused_on_the_wrong_channel
            text_stays_text_and_binary_stays_binary
            media_packets_keep_their_fields_across_wraps
            clocks_arrive_as_sent
            bindings_belong_to_one_link
            a_cancelled_recv_loses_nothing
            a_cancelled_send_queues_nothing
            several_receivers_share_the_frames
            close_comes_after_everything_sent_before
            what_was_received_can_be_read_after_a_close
            closing_twice_and_from_both_ends_is_harmless
            dropping_the_link_closes_it
            a_peer_that_does_not_read_is_waited_for
            an_unreliable_flood_is_dropped_not_kept
            counters_tell_what_was_sent_and_received
            voice_packets_dont_block_command_packets
        }
    };
    (@each $how:tt $($property:ident)*) => {
        $( $crate::conformance_tests! { @one $how $property } )*
    };
    (@one [$make:path] $property:ident) => {
        #[tokio::test]
        async fn $property() {
            $crate::conformance::$property($make).await;
        }
    };
    (@one [$make:path, $play:path] $property:ident) => {
        #[test]
        fn $property() {
            $play(stringify!($property), async |seed| {
                $crate::conformance::$property(async || $make(seed).await).await;
            });
        }
    };
}

/// A step that takes this long never ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// On loopback, what has not come by now has been lost.
const SILENCE: Duration = Duration::from_millis(500);

tokio::task_local! {
    static LONGER_SILENCE: Duration;
}

/// After how long what has not come has been lost.
fn silence() -> Duration {
    LONGER_SILENCE
        .try_with(|silence| *silence)
        .unwrap_or(SILENCE)
}

/// Plays a property on a network on which only what has not come after `silence` has been lost.
pub async fn with_silence(silence: Duration, property: impl Future<Output = ()>) {
    LONGER_SILENCE.scope(silence, property).await;
}
/// More bytes than the queues of a link may hold for one channel.
const MORE_THAN_QUEUES_HOLD: usize = 64 << 20;

const RELIABLE: [Channel; 4] = [
    Channel::Control,
    Channel::Command,
    Channel::Snapshot,
    Channel::App,
];

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this never ends")
}

async fn recv(link: &impl Link) -> Frame {
    in_time(link.recv()).await.expect("the link closed early")
}

async fn ended(link: &impl Link) -> Closed {
    let end = in_time(link.recv()).await;
    end.expect_err("a frame that nobody sent")
}

/// A message that names its number and is `len` bytes long.
fn numbered(channel: Channel, number: usize, len: usize) -> Frame {
    let mut message = vec![0xa5; len.max(4)];
    message[..4].copy_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
    Frame::binary(channel, message)
}

fn number_of(frame: &Frame) -> usize {
    let Payload::Binary(message) = &frame.payload else {
        panic!("not a numbered message: {frame:?}");
    };
    let number = u32::from_be_bytes(message[..4].try_into().unwrap());
    usize::try_from(number).unwrap()
}

fn media(channel: Channel, sequence: u16, timestamp: u32) -> MediaPacket {
    MediaPacket {
        sequence,
        timestamp,
        marker: sequence.is_multiple_of(3),
        codec: match channel {
            Channel::Voice => MediaCodec::Opus,
            _ => MediaCodec::Vp8,
        },
        payload: Bytes::from(vec![
            sequence.to_be_bytes()[1];
            1 + usize::from(sequence % 200)
        ]),
    }
}

/// Some frame that belongs on `channel`.
fn sample(channel: Channel) -> Frame {
    match channel {
        Channel::Voice | Channel::Video => Frame::media(channel, media(channel, 7, 960)),
        _ => numbered(channel, 7, 100),
    }
}

/// Sends `frame` until it arrives: once suffices on a reliable channel.
async fn carry(from: &impl Link, to: &impl Link, frame: &Frame) {
    let again = match frame.channel.delivery() {
        Delivery::ReliableOrdered => PATIENCE,
        Delivery::UnreliableUnordered => Duration::from_millis(100),
    };
    let mut copies = 0;
    let received = async {
        loop {
            from.send(frame.clone()).await.expect("send");
            copies += 1;
            if let Ok(received) = timeout(again, to.recv()).await {
                return received.expect("the link closed early");
            }
        }
    };
    assert_eq!(in_time(received).await, *frame);
    if copies > 1 {
        drain(to).await; // a late copy must not be taken for a later frame
    }
}

/// What arrives until nothing more does.
async fn drain(link: &impl Link) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Ok(frame) = timeout(silence(), link.recv()).await {
        frames.push(frame.expect("the link closed early"));
    }
    frames
}

/// Every channel carries a frame, in both directions.
pub async fn every_channel_carries_both_ways<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    for channel in Channel::ALL {
        carry(&a, &b, &sample(channel)).await;
        carry(&b, &a, &sample(channel)).await;
    }
}

/// What several tasks send at once on reliable channels arrives in the order of each, complete.
pub async fn reliable_channels_keep_order_and_lose_nothing<L: Link>(
    make: impl AsyncFn() -> (L, L),
) {
    const FRAMES: usize = 300;
    let (a, b) = make().await;
    let send = async |channel| {
        for number in 0..FRAMES {
            let frame = numbered(channel, number, number * 13 % 5000);
            a.send(frame).await.expect("send");
        }
    };
    let receive = async {
        let mut next = [0; RELIABLE.len()];
        for _ in 0..FRAMES * RELIABLE.len() {
            let frame = recv(&b).await;
            let lane = RELIABLE.iter().position(|c| *c == frame.channel).unwrap();
            assert_eq!(number_of(&frame), next[lane], "{:?}", frame.channel);
            next[lane] += 1;
        }
    };
    let [control, command, snapshot, app] = RELIABLE.map(send);
    tokio::join!(control, command, snapshot, app, receive);
}

/// A frame of an unreliable channel comes at most once, and on an idle network it does come.
pub async fn unreliable_channels_deliver_at_most_once<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const FRAMES: usize = 200;
    let (a, b) = make().await;
    for channel in [Channel::Replication, Channel::AppFast] {
        let send = async {
            for number in 0..FRAMES {
                a.send(numbered(channel, number, 900)).await.expect("send");
                if number % 10 == 9 {
                    sleep(Duration::from_millis(2)).await;
                }
            }
        };
        let (received, ()) = tokio::join!(drain(&b), send);
        let numbers: HashSet<usize> = received.iter().map(number_of).collect();
        assert_eq!(numbers.len(), received.len(), "a frame came twice");
        assert!(numbers.len() >= FRAMES / 2, "only {} came", numbers.len());
    }
}

/// Each channel takes a message of its limit (72 KiB of commands, 1100 bytes of a datagram) and
/// refuses a longer one without harm.
pub async fn the_largest_message_passes_and_one_byte_more_is_refused<L: Link>(
    make: impl AsyncFn() -> (L, L),
) {
    let (a, b) = make().await;
    for channel in Channel::ALL {
        let max = channel.max_message_len();
        let sized = |len| match channel.is_media() {
            false => numbered(channel, 1, len),
            true => Frame::media(
                channel,
                MediaPacket {
                    payload: Bytes::from(vec![1; len]),
                    ..media(channel, 1, 1)
                },
            ),
        };
        let len = max + 1;
        let refused = Err(SendError::TooLarge { channel, len, max });
        assert_eq!(a.try_send(sized(len)), refused);
        assert_eq!(in_time(a.send(sized(len))).await, refused);
        carry(&a, &b, &sized(max)).await;
    }
}

/// Media stays off the data channels, messages off the media channels, text off all but App's.
pub async fn payloads_are_refused_on_the_wrong_channel<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    for channel in Channel::ALL {
        let misplaced = if channel.is_media() {
            vec![Frame::binary(channel, vec![1]), Frame::text(channel, "x")]
        } else {
            let packet = Frame::media(channel, media(Channel::Voice, 1, 1));
            let text = Frame::text(channel, "x");
            match channel {
                Channel::App | Channel::AppFast => vec![packet],
                _ => vec![packet, text],
            }
        };
        for frame in misplaced {
            let refused = Err(SendError::WrongChannel(channel));
            assert_eq!(a.try_send(frame.clone()), refused);
            assert_eq!(in_time(a.send(frame)).await, refused);
        }
    }
    carry(&a, &b, &sample(Channel::App)).await;
}

/// The receiver can tell text from binary, also where both are empty.
pub async fn text_stays_text_and_binary_stays_binary<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    for channel in [Channel::App, Channel::AppFast] {
        carry(&a, &b, &Frame::text(channel, "grüße, 世界")).await;
        carry(&a, &b, &Frame::binary(channel, &b"plain ascii"[..])).await;
        carry(&a, &b, &Frame::binary(channel, vec![0xff, 0, 0xfe])).await;
        carry(&a, &b, &Frame::text(channel, "")).await;
        carry(&a, &b, &Frame::binary(channel, Bytes::new())).await;
    }
}

/// Sequence, timestamp, marker, codec and payload of media arrive as they were, also where the
/// counters wrap.
pub async fn media_packets_keep_their_fields_across_wraps<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const PACKETS: u16 = 40;
    let (a, b) = make().await;
    for channel in [Channel::Voice, Channel::Video] {
        let packet = |index: u16| {
            let sequence = (u16::MAX - 10).wrapping_add(index);
            let timestamp = (u32::MAX - 9600).wrapping_add(u32::from(index) * 960);
            media(channel, sequence, timestamp)
        };
        let send = async {
            for index in 0..PACKETS {
                let frame = Frame::media(channel, packet(index));
                a.send(frame).await.expect("send");
                sleep(Duration::from_millis(2)).await;
            }
        };
        let (received, ()) = tokio::join!(drain(&b), send);
        let sent: Vec<Frame> = (0..PACKETS)
            .map(|i| Frame::media(channel, packet(i)))
            .collect();
        let places: Vec<usize> = received
            .iter()
            .map(|frame| sent.iter().position(|s| s == frame).expect("altered"))
            .collect();
        let distinct: HashSet<&usize> = places.iter().collect();
        assert_eq!(distinct.len(), places.len(), "a packet came twice");
        assert!(places.len() >= sent.len() / 2, "only {} came", places.len());
    }
}

/// A media clock arrives with the NTP time and RTP timestamp that were sent.
pub async fn clocks_arrive_as_sent<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    for channel in [Channel::Voice, Channel::Video] {
        // Reports describe a stream, so there has to be one.
        carry(&a, &b, &sample(channel)).await;
        let clock = MediaClock {
            ntp: NtpTime(0xe9d5_1234_8000_0001),
            timestamp: u32::MAX - 1,
        };
        carry(&a, &b, &Frame::clock(channel, clock)).await;
    }
}

/// Both ends have the same binding, and two links never do.
pub async fn bindings_belong_to_one_link<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    let (c, d) = make().await;
    assert_eq!(a.binding(), b.binding());
    assert_eq!(c.binding(), d.binding());
    assert_ne!(a.binding(), c.binding());
}

/// A `recv` that is dropped before it is ready takes no frame with it.
pub async fn a_cancelled_recv_loses_nothing<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const FRAMES: usize = 300;
    let (a, b) = make().await;
    let send = async {
        for number in 0..FRAMES {
            a.send(numbered(Channel::App, number, 40))
                .await
                .expect("send");
            if number % 7 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let receive = async {
        let (mut next, mut cancelled) = (0, 0_u32);
        while next < FRAMES {
            let pause = async {
                yield_now().await;
                cancelled += 1;
                if cancelled.is_multiple_of(16) {
                    // Virtual time passes only while everyone waits.
                    sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased; // so that it repeats in virtual time
                frame = b.recv() => {
                    assert_eq!(number_of(&frame.expect("the link closed early")), next);
                    next += 1;
                }
                () = pause => {}
            }
        }
    };
    in_time(async { tokio::join!(send, receive) }).await;
}

/// A `send` that is dropped while it waits has sent nothing.
pub async fn a_cancelled_send_queues_nothing<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    let mut sent = Vec::new();
    let mut cancelled = 0;
    for number in 0.. {
        let frame = numbered(Channel::Command, number, 16 << 10);
        match timeout(Duration::from_millis(2), a.send(frame)).await {
            Ok(result) => {
                result.expect("send");
                sent.push(number);
                cancelled = 0;
            }
            Err(_) => cancelled += 1,
        }
        assert!(sent.len() << 14 < MORE_THAN_QUEUES_HOLD, "send never waits");
        if cancelled == 20 {
            break;
        }
    }
    const LAST: usize = u32::MAX as usize;
    sent.push(LAST);
    let finish = async { in_time(a.send(numbered(Channel::Command, LAST, 4))).await };
    let receive = async {
        let mut received = Vec::new();
        while received.last() != Some(&LAST) {
            received.push(number_of(&recv(&b).await));
        }
        received
    };
    let (finished, received) = tokio::join!(finish, receive);
    finished.expect("send");
    assert_eq!(received, sent);
}

/// Two receivers get every frame once between them.
pub async fn several_receivers_share_the_frames<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const FRAMES: usize = 100;
    let (a, b) = make().await;
    for number in 0..FRAMES {
        in_time(a.send(numbered(Channel::App, number, 10)))
            .await
            .expect("send");
    }
    in_time(a.close(CloseCode::NORMAL, "")).await;
    let receive = async || {
        let mut numbers = Vec::new();
        while let Ok(frame) = in_time(b.recv()).await {
            numbers.push(number_of(&frame));
            yield_now().await;
        }
        numbers
    };
    let (mut all, other) = tokio::join!(receive(), receive());
    all.extend(other);
    all.sort_unstable();
    assert_eq!(all, (0..FRAMES).collect::<Vec<_>>());
}

/// The peer sees code and reason of a close once it has received everything sent before.
pub async fn close_comes_after_everything_sent_before<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const FRAMES: usize = 50;
    let (a, b) = make().await;
    let code = CloseCode(1234);
    let send = async {
        for number in 0..FRAMES {
            for channel in RELIABLE {
                a.send(numbered(channel, number, 1000)).await.expect("send");
            }
        }
        a.close(code, "so long").await;
    };
    let receive = async {
        let mut frames = 0;
        loop {
            match in_time(b.recv()).await {
                Ok(_) => frames += 1,
                Err(closed) => return (frames, closed),
            }
        }
    };
    let ((), (frames, closed)) = in_time(async { tokio::join!(send, receive) }).await;
    assert_eq!(frames, FRAMES * RELIABLE.len());
    let expected = |by_remote| Closed::new(code, "so long", by_remote);
    assert_eq!(closed, expected(true));
    assert_eq!(ended(&b).await, expected(true), "the end stays the end");
    assert_eq!(ended(&a).await, expected(false));
    for channel in Channel::ALL {
        let late = Err(SendError::Closed(expected(true)));
        assert_eq!(in_time(b.send(sample(channel))).await, late);
        let late = Err(SendError::Closed(expected(false)));
        assert_eq!(a.try_send(sample(channel)), late);
    }
}

/// Frames that had arrived when this end closed can still be read, then comes the end.
pub async fn what_was_received_can_be_read_after_a_close<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    for number in 0..10 {
        in_time(a.send(numbered(Channel::App, number, 100)))
            .await
            .expect("send");
    }
    assert_eq!(number_of(&recv(&b).await), 0);
    sleep(silence()).await; // the rest has come by now
    in_time(b.close(CloseCode::REPLACED, "")).await;
    for number in 1..10 {
        assert_eq!(number_of(&recv(&b).await), number);
    }
    let expected = Closed::new(CloseCode::REPLACED, "", false);
    assert_eq!(ended(&b).await, expected);
}

/// The first close counts; closing again, or at both ends at once, does no harm. A reason that is
/// too long is cut, not refused.
pub async fn closing_twice_and_from_both_ends_is_harmless<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    in_time(a.close(CloseCode(1001), &"é".repeat(300))).await;
    in_time(a.close(CloseCode(1002), "second")).await;
    let closed = ended(&b).await;
    assert_eq!(closed.code, CloseCode(1001));
    assert_eq!(closed.reason, "é".repeat(crate::MAX_REASON_LEN / 2));
    in_time(b.close(CloseCode(1003), "third")).await;
    assert_eq!(ended(&b).await, closed);

    let (a, b) = make().await;
    let both = async { tokio::join!(a.close(CloseCode(1), "a"), b.close(CloseCode(2), "b")) };
    in_time(both).await;
    ended(&a).await;
    ended(&b).await;
}

/// Letting go of a link closes it as if by the user.
pub async fn dropping_the_link_closes_it<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    in_time(a.send(sample(Channel::App))).await.expect("send");
    drop(a);
    assert_eq!(recv(&b).await, sample(Channel::App));
    assert_eq!(ended(&b).await, Closed::new(CloseCode::NORMAL, "", true));
}

/// Frames for a peer that does not read stay bounded in number; nothing of them is lost, and once
/// the peer reads, they flow again.
pub async fn a_peer_that_does_not_read_is_waited_for<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const LEN: usize = 16 << 10;
    let (a, b) = make().await;
    let (mut sent, mut refused) = (0, 0);
    while refused < 20 {
        match a.try_send(numbered(Channel::Snapshot, sent, LEN)) {
            Ok(()) => {
                sent += 1;
                refused = 0;
                assert!(sent * LEN < MORE_THAN_QUEUES_HOLD, "nothing stops a sender");
            }
            Err(SendError::Full(Channel::Snapshot)) => {
                refused += 1;
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let more = sent..sent + 100;
    let send = async {
        for number in more.clone() {
            in_time(a.send(numbered(Channel::Snapshot, number, LEN)))
                .await
                .expect("send");
        }
    };
    let receive = async {
        for number in 0..more.end {
            assert_eq!(number_of(&recv(&b).await), number);
        }
    };
    tokio::join!(send, receive);
}

/// Sending on an unreliable channel never waits; what is too much is dropped and counted, and the
/// link stays whole.
pub async fn an_unreliable_flood_is_dropped_not_kept<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const FRAMES: usize = 20_000;
    let (a, b) = make().await;
    for number in 0..FRAMES {
        let mut send = pin!(a.send(numbered(Channel::AppFast, number, 1000)));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(send.as_mut().poll(cx)));
        let polled = polled.await;
        assert!(polled.is_ready(), "an unreliable send waited");
        if number % 1000 == 0 {
            yield_now().await;
        }
    }
    let accounted = async {
        loop {
            let stats = a.stats();
            let counters = stats.channel(Channel::AppFast);
            if counters.sent_frames + counters.dropped_frames == FRAMES as u64 {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(accounted).await;
    sleep(silence()).await;
    let kept = drain(&b).await.len();
    assert!(kept < FRAMES / 2, "{kept} of {FRAMES} frames were kept");
    carry(&a, &b, &sample(Channel::App)).await;
}

/// The counters of both ends agree with what was sent and received.
pub async fn counters_tell_what_was_sent_and_received<L: Link>(make: impl AsyncFn() -> (L, L)) {
    let (a, b) = make().await;
    for number in 0..10 {
        in_time(a.send(numbered(Channel::Command, number, 100)))
            .await
            .expect("send");
    }
    for _ in 0..10 {
        recv(&b).await;
    }
    let (sent, received) = (a.stats(), b.stats());
    let (sent, received) = (
        sent.channel(Channel::Command),
        received.channel(Channel::Command),
    );
    assert_eq!((sent.sent_frames, sent.sent_bytes), (10, 1000));
    assert_eq!((sent.received_frames, sent.dropped_frames), (0, 0));
    assert_eq!(
        (received.received_frames, received.received_bytes),
        (10, 1000)
    );
    assert_eq!((received.sent_frames, received.dropped_frames), (0, 0));
}

/// Beside 1,000 voice packets a second, as many as twenty speakers make, no command is lost, late for ever or
/// out of order, and voice goes on. Prints how long commands took.
pub async fn voice_packets_dont_block_command_packets<L: Link>(make: impl AsyncFn() -> (L, L)) {
    const VOICES: u16 = 1_000;
    const EVERY: u16 = 10;
    let (alice, bob) = make().await;
    let begin = SystemClock.now();
    let sending = async {
        let mut sent_at = Vec::new();
        for number in 0..VOICES {
            let due = begin + Duration::from_millis(number.into());
            sleep(due.saturating_since(SystemClock.now())).await;
            let packet = media(Channel::Voice, number, u32::from(number) * 48);
            alice
                .send(Frame::media(Channel::Voice, packet))
                .await
                .unwrap();
            if number % EVERY == 0 {
                sent_at.push(SystemClock.now());
                let command = numbered(Channel::Command, (number / EVERY).into(), 600);
                alice.send(command).await.unwrap();
            }
        }
        sent_at
    };
    let receiving = async {
        let (mut commands, mut voices) = (Vec::new(), 0_u32);
        while commands.len() < usize::from(VOICES / EVERY) {
            let frame = recv(&bob).await;
            match frame.channel {
                Channel::Command => commands.push((number_of(&frame), SystemClock.now())),
                _ => voices += 1,
            }
        }
        (commands, voices)
    };
    let both = async { tokio::join!(sending, receiving) };
    let (sent_at, (commands, voices)) = in_time(both).await;
    let mut late = Vec::new();
    for (expected, ((number, arrived), sent)) in commands.iter().zip(&sent_at).enumerate() {
        assert_eq!(*number, expected, "commands keep their order");
        late.push(arrived.saturating_since(*sent));
    }
    late.sort();
    println!(
        "command p50 {:?}, p99 {:?}",
        late[late.len() / 2],
        late[late.len() * 99 / 100]
    );
    assert!(voices >= u32::from(VOICES) / 2, "{voices} voice packets");
}
