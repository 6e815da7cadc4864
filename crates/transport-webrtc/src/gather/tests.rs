//! Gathering from TURN servers that are played here, byte for byte.

use std::time::Duration;

use roundtable_core::Clock;
use roundtable_signaling_protocol::IceServer;
use roundtable_transport::SystemClock;

use super::*;

const HOST: &str = "10.0.0.1:5000";
const SERVER: &str = "192.0.2.1:3478";
const RELAYED: &str = "192.0.2.1:49152";
const PEER: &str = "203.0.113.9:7000";

const ALLOCATE_ERROR: [u8; 2] = [0x01, 0x13];
const ALLOCATE_SUCCESS: [u8; 2] = [0x01, 0x03];
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn now() -> Instant {
    SystemClock::instant(SystemClock.now())
}

/// Gathering from so many TURN servers over TCP, whose connections stand and are numbered from 0.
fn over_streams(now: Instant, count: usize) -> Gathering {
    let url = |server| format!("turn:server{server}.example?transport=tcp");
    let server = IceServer {
        urls: (0..count).map(url).collect(),
        username: Some("u".into()),
        credential: Some("p".into()),
    };
    let config = WebRtcConfig::default().with_ice_servers([server]);
    let mut gathering = Gathering::new(&config, now, vec![at(HOST)]);
    for id in 0..count {
        let server = at(SERVER);
        gathering.reached(now, id, Reach::Stream { id, server });
    }
    gathering
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap();
    let mut bytes = [&kind.to_be_bytes(), &len.to_be_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// XOR-RELAYED-ADDRESS and XOR-PEER-ADDRESS (RFC 8489 §14.2).
fn xor_address(address: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = address.ip() else {
        unreachable!("the tests use IPv4")
    };
    let port = (address.port() ^ 0x2112).to_be_bytes();
    let ip: Vec<u8> = ip.octets().iter().zip(COOKIE).map(|(a, b)| a ^ b).collect();
    [&[0, 1], &port[..], &ip].concat()
}

fn message(kind: [u8; 2], id: &[u8], attributes: &[Vec<u8>]) -> BytesMut {
    let body = attributes.concat();
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    BytesMut::from(&[&kind[..], &len, &COOKIE, id, &body].concat()[..])
}

/// The transaction of the last request over a connection.
fn asked(gathering: &mut Gathering, stream: usize) -> Vec<u8> {
    let mut requests = gathering.stream_transmits().drain(..);
    let (_, request) = requests.rfind(|(id, _)| *id == stream).unwrap();
    request[8..20].to_vec()
}

/// Challenges and then grants the request of a connection (RFC 8656 §7.3).
fn grant(gathering: &mut Gathering, now: Instant, stream: usize, relayed: SocketAddr) {
    let challenge = [
        attribute(0x0009, &[0, 0, 4, 1]),
        attribute(0x0014, b"realm"),
        attribute(0x0015, b"nonce"),
    ];
    let id = asked(gathering, stream);
    gathering.handle_stream(now, stream, message(ALLOCATE_ERROR, &id, &challenge));
    let granted = [
        attribute(0x0016, &xor_address(relayed)),
        attribute(0x000d, &600_u32.to_be_bytes()),
    ];
    let id = asked(gathering, stream);
    gathering.handle_stream(now, stream, message(ALLOCATE_SUCCESS, &id, &granted));
}

/// The candidates that gathering has brought since.
fn candidates(gathering: &mut Gathering) -> Vec<String> {
    let events = std::iter::from_fn(|| gathering.poll_event());
    let candidate = |event| match event {
        Gathered::Candidate(candidate) => Some(candidate.candidate),
        _ => None,
    };
    events.filter_map(candidate).collect()
}

#[test]
fn a_relayed_address_is_offered() {
    let now = now();
    let mut gathering = over_streams(now, 1);
    grant(&mut gathering, now, 0, at(RELAYED));
    let [candidate] = &candidates(&mut gathering)[..] else {
        panic!("one candidate");
    };
    assert!(
        candidate.contains("192.0.2.1 49152 typ relay"),
        "{candidate}"
    );
    assert_eq!(gathering.checks()[0].result, Ok(at(RELAYED)));
}

#[test]
fn a_server_cannot_claim_an_address_that_is_ours_or_none() {
    for claimed in [HOST, "0.0.0.0:5000", "192.0.2.1:0"] {
        let now = now();
        let mut gathering = over_streams(now, 1);
        grant(&mut gathering, now, 0, at(claimed));
        assert_eq!(candidates(&mut gathering), [""; 0], "{claimed}");
        let failure = gathering.failures().0[0].error;
        assert_eq!(failure, ServerError::Protocol, "{claimed}");
        // What we send from our own address does not go to the server.
        let packet = Datagram {
            local: at(HOST),
            remote: at(PEER),
            payload: BytesMut::from(&b"x"[..]),
        };
        assert!(gathering.relay(now, packet).is_err(), "{claimed}");
    }
}

#[test]
fn a_server_cannot_claim_the_relayed_address_of_another() {
    let now = now();
    let mut gathering = over_streams(now, 2);
    let requests: Vec<_> = gathering.stream_transmits().drain(..).collect();
    for (id, request) in requests {
        gathering.stream_transmits().push_back((id, request));
        grant(&mut gathering, now, id, at(RELAYED));
    }
    assert_eq!(candidates(&mut gathering).len(), 1);
    let failures = gathering.failures().0;
    assert_eq!(failures.len(), 1);
    assert!(failures[0].url.contains("server1"), "{failures:?}");
    assert_eq!(failures[0].error, ServerError::Protocol);
}

#[test]
fn a_datagram_of_any_size_leaves_the_relay_working() {
    let now = now();
    let mut gathering = over_streams(now, 1);
    grant(&mut gathering, now, 0, at(RELAYED));
    candidates(&mut gathering);
    let mut came = |size: usize| {
        let data = [
            attribute(0x0012, &xor_address(at(PEER))),
            attribute(0x0013, &vec![7; size]),
        ];
        gathering.handle_stream(now, 0, message(DATA_INDICATION, &[1; 12], &data));
        match gathering.poll_event() {
            Some(Gathered::Datagram(packet)) => Some(packet.payload.len()),
            _ => None,
        }
    };
    assert_eq!(came(1200), Some(1200));
    assert_eq!(came(4100), None);
    assert_eq!(came(60_000), None);
    assert_eq!(came(1200), Some(1200));
}

#[test]
fn connections_that_serve_no_more_are_named_once() {
    let start = now();
    let mut gathering = over_streams(start, 3);
    let requests: Vec<_> = gathering.stream_transmits().drain(..).collect();
    let mut unused = Vec::new();
    for (id, request) in requests {
        gathering.stream_transmits().push_back((id, request));
        match id {
            0 => grant(&mut gathering, start, 0, at(RELAYED)),
            1 => grant(&mut gathering, start, 1, at(HOST)),
            _ => {}
        }
        unused.append(gathering.unused_streams());
    }
    assert_eq!(unused, [1], "the one that was refused");

    gathering.handle_timeout(start + WebRtcConfig::default().gathering_timeout);
    assert!(gathering.is_done());
    unused = gathering.unused_streams().drain(..).collect();
    assert_eq!(unused, [2], "the one that has not answered");

    // A connection that comes too late is of no use either.
    let late = Reach::Stream {
        id: 2,
        server: at(SERVER),
    };
    gathering.reached(start + Duration::from_secs(9), 2, late);
    unused = gathering.unused_streams().drain(..).collect();
    assert_eq!(unused, [2]);
}

/// Answers what was asked last, which must be a request of this kind, with success or an error.
fn answer(gathering: &mut Gathering, now: Instant, request: [u8; 2], error: &[Vec<u8>]) {
    let mut requests = gathering.stream_transmits().drain(..);
    let (_, asked) = requests
        .rfind(|(_, packet)| packet[..2] == request)
        .unwrap();
    drop(requests);
    let class = if error.is_empty() { 0x00 } else { 0x10 };
    let kind = [0x01, request[1] | class];
    gathering.handle_stream(now, 0, message(kind, &asked[8..20], error));
}

#[test]
fn a_relay_hears_its_peer_after_a_channels_refresh_met_a_stale_nonce() {
    const CREATE_PERMISSION: [u8; 2] = [0x00, 0x08];
    const CHANNEL_BIND: [u8; 2] = [0x00, 0x09];
    let start = now();
    let mut gathering = over_streams(start, 1);
    grant(&mut gathering, start, 0, at(RELAYED));
    candidates(&mut gathering);
    let send = |gathering: &mut Gathering, now| {
        let packet = Datagram {
            local: at(RELAYED),
            remote: at(PEER),
            payload: BytesMut::from(&b"hello"[..]),
        };
        gathering.relay(now, packet).unwrap();
    };
    send(&mut gathering, start);
    answer(&mut gathering, start, CREATE_PERMISSION, &[]);
    answer(&mut gathering, start, CHANNEL_BIND, &[]);
    let data = BytesMut::from(&[0x40, 0, 0, 3, b'h', b'e', b'y', 0][..]);
    let hears = |gathering: &mut Gathering, now| {
        gathering.handle_stream(now, 0, data.clone());
        let Some(Gathered::Datagram(packet)) = gathering.poll_event() else {
            panic!("the relay is deaf");
        };
        assert_eq!(
            (packet.remote, &packet.payload[..]),
            (at(PEER), &b"hey"[..])
        );
    };
    hears(&mut gathering, start);

    let later = start + Duration::from_secs(301);
    send(&mut gathering, later);
    let stale = [
        attribute(0x0009, &[0, 0, 4, 38]),
        attribute(0x0015, b"fresh"),
    ];
    answer(&mut gathering, later, CHANNEL_BIND, &stale);
    hears(&mut gathering, later);

    // Its own packets still go out, and no second channel is asked for with each of them.
    send(&mut gathering, later);
    let sent: Vec<_> = gathering.stream_transmits().drain(..).collect();
    let [(0, indication)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(indication[..2], [0x00, 0x16], "a Send indication");
}
