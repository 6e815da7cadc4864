//! Two peers on an in-memory network under a virtual clock.

use std::{cmp::Ordering, collections::BinaryHeap};

use proptest::prelude::*;
use roundtable_core::Clock;
use roundtable_transport::SystemClock;

use super::*;

/// A packet on its way.
struct Flying {
    arrives: Instant,
    order: u64,
    to: usize,
    packet: Datagram,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap pops the greatest.
        (other.arrives, other.order).cmp(&(self.arrives, self.order))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Flying {}

struct World {
    start: Instant,
    now: Instant,
    peers: [Peer; 2],
    flying: BinaryHeap<Flying>,
    order: u64,
    random: u64,
    delay: Duration,
    jitter: Duration,
    /// Packets lost, of 1000.
    loss: u64,
    opened: [Option<Duration>; 2],
    /// What came out of each peer, and when.
    seen: [Vec<(Duration, Event)>; 2],
}

fn address(peer: usize) -> SocketAddr {
    let last = u8::try_from(peer).unwrap() + 1;
    ([10, 0, 0, last], 5000).into()
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with_role(seed, RTCDtlsRole::Server)
    }

    /// A world whose answerer takes this part in the DTLS handshake.
    fn with_role(seed: u64, answering: RTCDtlsRole) -> Self {
        Self::negotiated(seed, answering, |answer| answer)
    }

    /// A world in which something happens to the answer.
    fn negotiated(seed: u64, answering: RTCDtlsRole, edit: fn(String) -> String) -> Self {
        let start = SystemClock::instant(SystemClock.now());
        let config = WebRtcConfig::default();
        let peer = |index: usize| {
            let ssrc = u32::try_from(index).unwrap() * 2 + 1;
            let local = std::iter::once(address(index));
            let settings = settings(&config).with_answering_dtls_role(answering);
            let gathering = Gathering::new(&config, start, local.collect());
            Peer::with_settings(settings, start, gathering, [ssrc, ssrc + 1]).unwrap()
        };
        let mut peers = [peer(0), peer(1)];
        let offer = peers[0].offer(start).unwrap();
        let answer = peers[1].answer(start, &offer).unwrap();
        peers[0].accept_answer(start, &edit(answer)).unwrap();
        assert_eq!(peers[0].binding(), peers[1].binding());
        Self {
            start,
            now: start,
            peers,
            flying: BinaryHeap::new(),
            order: 0,
            random: seed,
            delay: Duration::from_millis(25),
            jitter: Duration::ZERO,
            loss: 0,
            opened: [None; 2],
            seen: [vec![], vec![]],
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn settle(&mut self, index: usize) {
        while self.peers[index].step(self.now, usize::MAX) {}
        while let Some(packet) = self.peers[index].transmits().pop_front() {
            assert_eq!(packet.local, address(index));
            let lost = self.random(1000) < self.loss || packet.remote != address(1 - index);
            let jitter = self.jitter.mul_f64(self.random(1000) as f64 / 1000.0);
            if !lost {
                self.order += 1;
                self.flying.push(Flying {
                    arrives: self.now + self.delay + jitter,
                    order: self.order,
                    to: 1 - index,
                    packet: Datagram {
                        local: packet.remote,
                        remote: packet.local,
                        payload: packet.payload,
                    },
                });
            }
        }
        while let Some(event) = self.peers[index].poll_event() {
            let at = self.now - self.start;
            match event {
                Event::Opened => self.opened[index] = Some(at),
                event => self.seen[index].push((at, event)),
            }
        }
    }

    /// Lets `time` pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle(0);
            self.settle(1);
            let timers = [0, 1].map(|index| self.peers[index].poll_timeout());
            let packet = self.flying.peek().map(|flying| flying.arrives);
            let next = timers.into_iter().flatten().chain(packet).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(flying) = self.flying.peek()
                && flying.arrives <= self.now
                && let Some(flying) = self.flying.pop()
            {
                self.peers[flying.to].handle_datagram(self.now, flying.packet);
            }
            for peer in &mut self.peers {
                if peer.poll_timeout().is_some_and(|due| due <= self.now) {
                    peer.handle_timeout(self.now);
                }
            }
        }
    }

    fn send(&mut self, from: usize, frame: Frame) {
        self.peers[from].send(self.now, frame).unwrap();
    }

    /// A world whose link is open.
    fn open(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.run(Duration::from_secs(2));
        assert!(world.opened.iter().all(Option::is_some));
        world
    }
}

#[test]
fn a_link_opens_in_seven_round_trips() {
    let world = World::open(1);
    for opened in world.opened {
        // Half a round trip of ICE's is spent waiting for the next tick.
        assert!(
            opened < Some(Duration::from_millis(50 * 7 + 20)),
            "{opened:?}"
        );
    }
}

#[test]
fn on_a_short_way_nothing_is_waited_for() {
    let mut world = World::new(1);
    world.delay = Duration::from_micros(20);
    world.run(Duration::from_secs(1));
    for opened in world.opened {
        assert!(
            opened.is_some_and(|at| at <= world.delay * 2 * 7),
            "{opened:?}"
        );
    }
}

#[test]
fn packets_that_overtake_each_other_do_not_delay_the_opening() {
    for seed in 0..20 {
        // A browser that answers is the client, and its ClientHello may overtake its last STUN.
        let mut world = World::with_role(seed, RTCDtlsRole::Client);
        world.jitter = Duration::from_millis(20);
        world.run(Duration::from_millis(520));
        assert!(world.opened.iter().all(Option::is_some), "seed {seed}");
    }
}

#[test]
fn every_link_opens_though_packets_are_lost() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.loss = 50;
        world.run(Duration::from_secs(8));
        assert!(world.opened.iter().all(Option::is_some), "seed {seed}");
    }
}

#[test]
fn webrtc_data_channel_survives_temporary_ice_disconnection() {
    for seconds in [2, 4, 20] {
        let mut world = World::open(seconds);
        world.send(0, Frame::binary(Channel::Command, &b"before"[..]));
        world.run(Duration::from_secs(1));
        world.loss = 1000;
        world.send(0, Frame::binary(Channel::Command, &b"during"[..]));
        world.run(Duration::from_secs(seconds));
        world.loss = 0;
        let over = world.now - world.start;
        world.run(Duration::from_secs(5));
        let (at, _) = world.seen[1].last().expect("both messages");
        assert_eq!(world.seen[1].len(), 2);
        // The next keep-alive comes within 400 ms, then one round trip.
        let late = *at - over;
        assert!(late < Duration::from_millis(600), "{seconds} s: {late:?}");
    }
}

#[test]
fn strangers_do_not_keep_a_link_alive_whose_peer_is_gone() {
    let mut world = World::open(21);
    world.loss = 1000;
    world.run(Duration::from_millis(100));
    let (heard, skew) = (world.peers[0].last_heard(), world.peers[0].skew);
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let response = [&[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let record = [&[23, 254, 253][..], &[0; 40]].concat();
    let media = [&[128, 111][..], &[0; 40]].concat();
    for _ in 0..30 {
        for packet in [&request, &response, &record, &media] {
            for local in [address(0), ([10, 0, 0, 9], 5000).into()] {
                let packet = Datagram {
                    local,
                    remote: ([198, 51, 100, 1], 6000).into(),
                    payload: packet[..].into(),
                };
                world.peers[0].handle_datagram(world.now, packet);
            }
        }
        // Nor do forged checks in the name of the peer.
        for packet in [&request, &response] {
            let packet = Datagram {
                local: address(0),
                remote: address(1),
                payload: packet[..].into(),
            };
            world.peers[0].handle_datagram(world.now, packet);
        }
        world.run(Duration::from_millis(200));
    }
    assert_eq!(world.peers[0].last_heard(), heard);
    assert_eq!(world.peers[0].skew, skew, "the core's clock has not moved");
}

#[test]
fn a_peer_that_checks_from_everywhere_is_answered_at_few_places() {
    let mut world = World::open(22);
    let mut check = None;
    while check.is_none() {
        world.run(Duration::from_millis(1));
        let mut flying = world.flying.iter();
        let is_check =
            |flying: &&Flying| flying.to == 0 && flying.packet.payload.starts_with(&[0, 1]);
        check = flying.find(is_check).map(|it| it.packet.payload.clone());
    }
    let check = check.unwrap();
    let mut answered = 0;
    for port in 0..3 * u16::try_from(MAX_SOURCES).unwrap() {
        let remote: SocketAddr = ([10, 0, 0, 2], 10_000 + port).into();
        let packet = Datagram {
            local: address(0),
            remote,
            payload: check.clone(),
        };
        let peer = &mut world.peers[0];
        peer.handle_datagram(world.now, packet);
        while peer.step(world.now, usize::MAX) {}
        let is_answer =
            |sent: &Datagram| sent.remote == remote && sent.payload.starts_with(&[1, 1]);
        answered += usize::from(peer.transmits().drain(..).any(|sent| is_answer(&sent)));
    }
    // One place is the peer's own, which is still heard.
    assert_eq!(answered, MAX_SOURCES - 1);
    let heard = world.peers[0].last_heard();
    world.run(Duration::from_secs(2));
    assert!(world.peers[0].last_heard() > heard);
}

#[test]
fn a_link_that_only_uses_relays_asks_for_no_names() {
    let start = SystemClock::instant(SystemClock.now());
    let relays = WebRtcConfig::default().with_ice_policy(IcePolicy::Relay);
    let named = |config: &WebRtcConfig| {
        let mut peer = Peer::new(config, start, std::iter::once(address(0)), [1, 2]).unwrap();
        let mut other = Peer::new(&relays, start, std::iter::empty(), [3, 4]).unwrap();
        let offer = peer.offer(start).unwrap();
        let answer = other.answer(start, &offer).unwrap();
        let name = "candidate:1 1 udp 1 somebody.local 5000 typ host";
        let answer = format!("{answer}a={name}\r\n");
        peer.accept_answer(start, &answer).unwrap();
        peer.add_remote_candidate(RTCIceCandidateInit {
            candidate: name.replace("somebody", "another"),
            ..Default::default()
        });
        peer.handle_timeout(start);
        peer.multicasts().is_some()
    };
    assert!(named(&WebRtcConfig::default()));
    assert!(!named(&relays));
}

#[test]
fn an_idle_link_hears_its_peer_however_long_the_way() {
    let mut world = World::open(22);
    world.delay = Duration::from_millis(700);
    for _ in 0..20 {
        world.run(Duration::from_secs(1));
        for peer in &world.peers {
            let silence = world.now - peer.last_heard();
            assert!(silence < Duration::from_millis(1200), "{silence:?}");
        }
    }
}

#[test]
fn the_round_trip_is_that_of_the_network() {
    let world = World::open(3);
    let mut stats = roundtable_core::LinkStats::default();
    world.peers[0].measurements().fill(world.now, &mut stats);
    let rtt = stats.rtt.expect("measured while opening");
    assert!(rtt >= Duration::from_millis(50), "{rtt:?}");
    assert!(rtt < Duration::from_millis(60), "{rtt:?}");
}

#[test]
fn a_peer_that_breaks_the_protocol_is_found_out() {
    let too_large = vec![0; Channel::Control.max_message_len() + 1];
    for (frame, code) in [
        (Frame::text(Channel::Command, "x"), CloseCode::PROTOCOL),
        (Frame::text(Channel::Control, "{}"), CloseCode::PROTOCOL),
        (
            Frame::binary(Channel::Control, too_large),
            CloseCode::TOO_LARGE,
        ),
    ] {
        let mut world = World::open(4);
        world.send(0, frame);
        world.run(Duration::from_secs(1));
        let [(_, Event::Violation(seen))] = world.seen[1].as_slice() else {
            panic!("{:?}", world.seen[1]);
        };
        assert_eq!(*seen, code);
    }
}

#[test]
fn an_oversized_unreliable_message_is_only_dropped() {
    let mut world = World::open(5);
    world.send(0, Frame::binary(Channel::AppFast, vec![0; 1101]));
    world.run(Duration::from_secs(1));
    let [(_, Event::Dropped(Channel::AppFast))] = world.seen[1].as_slice() else {
        panic!("{:?}", world.seen[1]);
    };
}

#[test]
fn the_reason_of_a_close_arrives_and_an_end_without_one_is_a_loss() {
    let mut world = World::open(6);
    let closed = Closed::new(CloseCode::REPLACED, "moved", true);
    let now = world.now;
    world.peers[0].say_goodbye(now, &closed);
    world.run(Duration::from_secs(1));
    world.peers[1].close(world.now);
    world.run(Duration::from_secs(1));
    let [(_, Event::Closed(seen)), ..] = world.seen[1].as_slice() else {
        panic!("{:?}", world.seen[1]);
    };
    assert_eq!(*seen, closed);
    let Some((_, Event::Closed(seen))) = world.seen[0].first() else {
        panic!("{:?}", world.seen[0]);
    };
    assert_eq!(*seen, Closed::new(CloseCode::LOST, "", false));
}

#[test]
fn the_larger_video_packets_of_browsers_are_taken() {
    let mut world = World::open(9);
    let packet = roundtable_core::MediaPacket {
        sequence: 1,
        timestamp: 0,
        marker: true,
        codec: roundtable_core::MediaCodec::Vp8,
        payload: vec![1; 1190].into(),
    };
    let frame = Frame::media(Channel::Video, packet);
    world.send(0, frame.clone());
    world.run(Duration::from_secs(1));
    let [(_, Event::Frame(seen))] = world.seen[1].as_slice() else {
        panic!("{:?}", world.seen[1]);
    };
    assert_eq!(*seen, frame);
}

#[test]
fn a_loss_that_the_peer_reports_is_shown() {
    let mut world = World::open(7);
    world.loss = 200;
    for sequence in 0..200 {
        let packet = roundtable_core::MediaPacket {
            sequence,
            timestamp: u32::from(sequence) * 960,
            marker: false,
            codec: roundtable_core::MediaCodec::Opus,
            payload: vec![1; 60].into(),
        };
        world.send(0, Frame::media(Channel::Voice, packet));
        world.run(Duration::from_millis(20));
    }
    let mut stats = roundtable_core::LinkStats::default();
    world.peers[0].measurements().fill(world.now, &mut stats);
    assert!((0.05..0.4).contains(&stats.loss), "{}", stats.loss);
    let received = world.seen[1].len();
    assert!((120..200).contains(&received), "{received}");
}

/// A packet of voice that repeats the one before.
fn redundant_packet() -> roundtable_core::MediaPacket {
    let older = roundtable_wire::rtp::RedBlock {
        payload_type: 111,
        offset: 960,
        payload: (&b"older"[..]).into(),
    };
    let mut payload = bytes::BytesMut::new();
    assert!(roundtable_wire::rtp::encode_red(
        &[older],
        111,
        b"newer",
        &mut payload
    ));
    roundtable_core::MediaPacket {
        sequence: 7,
        timestamp: 960,
        marker: false,
        codec: roundtable_core::MediaCodec::OpusRed,
        payload: payload.freeze(),
    }
}

#[test]
fn redundant_voice_is_negotiated_and_arrives_as_it_was_sent() {
    let mut world = World::open(8);
    let frame = Frame::media(Channel::Voice, redundant_packet());
    world.send(0, frame.clone());
    world.run(Duration::from_secs(1));
    let [(_, Event::Frame(seen))] = world.seen[1].as_slice() else {
        panic!("{:?}", world.seen[1]);
    };
    assert_eq!(*seen, frame);
}

#[test]
fn a_peer_that_takes_no_redundancy_hears_the_voice_without_it() {
    let without_red = |answer: String| {
        let lines = answer.split_inclusive("\r\n");
        let kept = lines.filter(|line| !line.contains(":63 "));
        let audio = |line: &str| line.replace("SAVPF 111 63", "SAVPF 111");
        kept.map(audio).collect()
    };
    let mut world = World::negotiated(9, RTCDtlsRole::Server, without_red);
    world.run(Duration::from_secs(2));
    assert!(world.opened.iter().all(Option::is_some));
    world.send(0, Frame::media(Channel::Voice, redundant_packet()));
    world.run(Duration::from_secs(1));
    let [(_, Event::Frame(seen))] = world.seen[1].as_slice() else {
        panic!("{:?}", world.seen[1]);
    };
    let expected = roundtable_core::MediaPacket {
        codec: roundtable_core::MediaCodec::Opus,
        payload: (&b"newer"[..]).into(),
        ..redundant_packet()
    };
    assert_eq!(*seen, Frame::media(Channel::Voice, expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_from_anywhere_never_panic(
        packets in prop::collection::vec(
            (prop::sample::select(vec![0_u8, 1, 20, 22, 23, 64, 128, 144, 200]),
             prop::collection::vec(any::<u8>(), 0..200)),
            1..20,
        ),
        open in any::<bool>(),
    ) {
        let mut world = if open { World::open(8) } else { World::new(8) };
        for (first, mut rest) in packets {
            rest.insert(0, first);
            let packet = Datagram {
                local: address(0),
                remote: address(1),
                payload: rest[..].into(),
            };
            world.peers[0].handle_datagram(world.now, packet);
        }
        world.run(Duration::from_millis(100));
    }
}
