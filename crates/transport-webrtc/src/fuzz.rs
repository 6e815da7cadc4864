//! What a fuzzer drives: everything that comes from the peer or a server before DTLS has told who it is.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use roundtable_core::Channel;
use roundtable_signaling_protocol::{IceCandidate, IceServer};

use crate::{
    IcePolicy, MAX_CANDIDATES, WebRtcConfig, close,
    driver::now,
    gather::{Gathering, Reach},
    peer::{Event, Peer, data_event},
    relay::Cutter,
    sdp,
    socket::Datagram,
};

const HOST: &str = "10.0.0.1:5000";
const SERVER: &str = "192.0.2.1:3478";

/// A session description, candidates and packets of a peer; the first byte says what the rest is.
///
/// # Panics
/// When a bound is not kept.
#[doc(hidden)]
pub fn __fuzz_sdp_and_candidates(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => offer(&text),
        1 => answer(&text),
        2 => servers(&text),
        _ => packets(rest),
    }
}

/// A message of a data channel: a byte for the channel and whether it is text, then the message.
///
/// # Panics
/// When a frame is handed up that a link would not send, or a goodbye does not survive being said again.
#[doc(hidden)]
pub fn __fuzz_channel_message(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    let Some(channel) = Channel::DATA.get(usize::from(kind & 7)) else {
        return;
    };
    match data_event(*channel, kind & 8 != 0, BytesMut::from(message)) {
        Event::Frame(frame) => {
            assert_eq!(frame.channel, *channel);
            assert_eq!(frame.payload_len(), message.len());
            assert_eq!(roundtable_transport::check_frame(&frame), Ok(()));
        }
        Event::Closed(closed) => {
            assert_eq!(*channel, Channel::Control);
            assert_eq!(close::parse(&close::to_json(&closed)), Some(closed));
        }
        Event::Dropped(_) => assert!(message.len() > channel.max_message_len()),
        Event::Violation(_) => assert!(kind & 8 != 0 || message.len() > channel.max_message_len()),
        other => panic!("a message became {other:?}"),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a constant")
}

fn peer() -> Option<Peer> {
    let config = WebRtcConfig::default();
    Peer::new(&config, now(), std::iter::once(address(HOST)), [1, 2]).ok()
}

/// An offer, and behind an empty line a candidate on each line.
fn offer(text: &str) {
    let (offer, candidates) = text.split_once("\n\n").unwrap_or((text, ""));
    let Ok(named) = sdp::check(offer) else {
        return;
    };
    assert!(named <= MAX_CANDIDATES, "more candidates than are allowed");
    let Some(mut peer) = peer() else {
        return;
    };
    let answered = peer.answer(now(), offer).is_ok();
    for candidate in candidates.lines().take(MAX_CANDIDATES) {
        let candidate = IceCandidate {
            candidate: candidate.to_owned(),
            ..Default::default()
        };
        if let Ok(Some(candidate)) = sdp::candidate(&candidate) {
            peer.add_remote_candidate(candidate);
        }
    }
    if answered {
        run(&mut peer);
    }
}

fn answer(text: &str) {
    let Some(mut peer) = peer().filter(|_| sdp::check(text).is_ok()) else {
        return;
    };
    if peer.offer(now()).is_ok() && peer.accept_answer(now(), text).is_ok() {
        run(&mut peer);
    }
}

/// Drives a peer for a while; nobody answers it.
fn run(peer: &mut Peer) {
    let start = now();
    for step in 0..20 {
        let now = start + Duration::from_millis(50 * step);
        peer.handle_timeout(now);
        while peer.step(now, usize::MAX) {}
        assert!(peer.transmits().len() <= 20 * (MAX_CANDIDATES + 1));
    }
}

/// URLs of servers, one on each line.
fn servers(text: &str) {
    let server = IceServer {
        urls: text.lines().map(str::to_owned).collect(),
        username: Some("u".into()),
        credential: Some("p".into()),
    };
    for (_, server) in crate::ice_server::parse_all(&[server]) {
        assert!(server.is_err() || server.is_ok_and(|server| server.port != 0));
    }
}

/// What a TURN server says, over UDP and over a stream.
fn packets(data: &[u8]) {
    let server = IceServer {
        urls: vec![
            "turn:192.0.2.1".into(),
            "turn:192.0.2.1?transport=tcp".into(),
        ],
        username: Some("u".into()),
        credential: Some("p".into()),
    };
    let config = WebRtcConfig::default()
        .with_ice_servers([server])
        .with_ice_policy(IcePolicy::Relay);
    let mut gathering = Gathering::new(&config, now(), vec![address(HOST)]);
    gathering.reached(now(), 0, Reach::Udp(vec![(address(SERVER), None)]));
    let stream = Reach::Stream {
        id: 1,
        server: address(SERVER),
    };
    gathering.reached(now(), 1, stream);
    let mut stream = BytesMut::from(data);
    let mut cutter = Cutter::default();
    while let Ok(Some(message)) = cutter.cut(&mut stream) {
        let packet = Datagram {
            local: address(HOST),
            remote: address(SERVER),
            payload: echo(&mut gathering, &message),
        };
        drop(gathering.handle_datagram(now(), packet));
        gathering.handle_stream(now(), 1, message);
        while gathering.poll_event().is_some() {}
    }
    gathering.handle_timeout(now() + Duration::from_secs(6));
    gathering.close(now());
}

/// The message as an answer to what was asked last: with its transaction id.
fn echo(gathering: &mut Gathering, message: &BytesMut) -> BytesMut {
    let mut answer = message.clone();
    if let Some(asked) = gathering.transmits().drain(..).next_back()
        && let (Some(id), Some(place)) = (asked.payload.get(8..20), answer.get_mut(8..20))
    {
        place.copy_from_slice(id);
    }
    answer
}

/// A description that passes, for the corpus.
#[cfg(test)]
fn sample() -> Result<String, crate::ConnectError> {
    peer().ok_or(crate::ConnectError::Setup)?.offer(now())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sample_passes_every_way() {
        let sample = sample().unwrap();
        let candidates = "candidate:1 1 udp 1 10.0.0.2 9 typ host\ncandidate:x";
        __fuzz_sdp_and_candidates(format!("\0{sample}\n\n{candidates}").as_bytes());
        __fuzz_sdp_and_candidates(format!("\u{1}{sample}").as_bytes());
        __fuzz_sdp_and_candidates(b"\x02turn:a\nstun:[::1]:9");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_change_to_a_description_makes_us_panic(
            kind in 0_u8..2, at in any::<prop::sample::Index>(), length in 0_usize..20, new in ".{0,12}",
        ) {
            let sample = sample().unwrap();
            let at = at.index(sample.len());
            let end = (at + length).min(sample.len());
            let changed = [&sample[..at], &new, &sample[end..]].concat();
            __fuzz_sdp_and_candidates(&[&[kind], changed.as_bytes()].concat());
        }

        #[test]
        fn no_packets_of_a_server_make_us_panic(
            kind in prop::sample::select(vec![[1, 0x13], [1, 3], [1, 1], [0, 0x17], [1, 0x18]]),
            attributes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            let mut body = Vec::new();
            for (name, value) in attributes {
                // Those that matter are among the first.
                body.extend_from_slice(&(name % 0x30).to_be_bytes());
                body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(&value);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            let cookie = [0x21, 0x12, 0xa4, 0x42];
            let message = [&kind[..], &length, &cookie, &[7; 12], &body].concat();
            __fuzz_sdp_and_candidates(&[&[3], &message[..], &message].concat());
        }
    }
}
