//! Links over TCP, where no UDP gets through (RFC 6544).

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::time::Duration;

use common::{SOON, config};
use roundtable_core::{CandidateType, Channel, CloseCode, Frame, PathProtocol};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};
use tokio::time::timeout;

/// A description as it works where no UDP gets through: nobody learns an address to send any to.
fn without_udp(sdp: &str) -> String {
    without(sdp, " udp ")
}

fn without_tcp(sdp: &str) -> String {
    without(sdp, " tcp ")
}

fn without(sdp: &str, transport: &str) -> String {
    let is_it = |line: &&str| line.starts_with("a=candidate:") && line.contains(transport);
    let lines = sdp.split_inclusive("\r\n");
    lines.filter(|line| !is_it(line)).collect()
}

async fn over_tcp(
    alice: &WebRtcConfig,
    bob: &WebRtcConfig,
) -> Result<(WebRtcLink, WebRtcLink), roundtable_transport_webrtc::ConnectError> {
    let (alice, offer) = Connecting::offer(alice).await?;
    let (bob, answer) = Connecting::answer(bob, &without_udp(&offer)).await?;
    alice.accept_answer(&without_udp(&answer)).await?;
    tokio::try_join!(alice.opened(), bob.opened())
}

async fn carries_everything(a: &WebRtcLink, b: &WebRtcLink) {
    for (from, to) in [(a, b), (b, a)] {
        for size in [5, 60_000] {
            let frame = Frame::binary(Channel::App, vec![7; size]);
            from.send(frame.clone()).await.unwrap();
            assert_eq!(timeout(SOON, to.recv()).await.unwrap(), Ok(frame));
        }
    }
}

#[tokio::test]
async fn where_no_udp_gets_through_peers_meet_over_tcp() {
    let (a, b) = over_tcp(&config(), &config()).await.unwrap();
    carries_everything(&a, &b).await;
    for link in [&a, &b] {
        let path = link.stats().path.unwrap();
        assert_eq!(
            (path.local, path.protocol),
            (CandidateType::Host, PathProtocol::Tcp)
        );
        let direct = [CandidateType::Host, CandidateType::PeerReflexive];
        assert!(direct.contains(&path.remote), "{path}");
    }
    a.close(CloseCode::NORMAL, "bye").await;
    assert_eq!(b.recv().await.unwrap_err().reason, "bye");
}

#[tokio::test]
async fn several_megabytes_pass_over_tcp_in_order() {
    const COUNT: u32 = 100;
    let (a, b) = over_tcp(&config(), &config()).await.unwrap();
    let sender = tokio::spawn(async move {
        for number in 0..COUNT {
            let mut payload = vec![0; 60_000];
            payload[..4].copy_from_slice(&number.to_be_bytes());
            a.send(Frame::binary(Channel::App, payload)).await.unwrap();
        }
        a
    });
    for number in 0..COUNT {
        let frame = timeout(SOON, b.recv()).await.unwrap().unwrap();
        let payload = match frame.payload {
            roundtable_core::Payload::Binary(payload) => payload,
            other => panic!("{other:?}"),
        };
        assert_eq!(payload[..4], number.to_be_bytes());
    }
    drop(sender.await.unwrap());
}

#[tokio::test]
async fn a_restart_moves_a_link_from_tcp_to_udp() {
    let (a, b) = over_tcp(&config(), &config()).await.unwrap();
    // Nobody learns where TCP could be dialled, so what is carried afterwards goes over UDP.
    let (restarting, offer) = a.restart_ice(&config()).await.unwrap();
    let (_answering, answer) = b
        .answer_restart(&config(), &without_tcp(&offer))
        .await
        .unwrap();
    restarting
        .accept_answer(&without_tcp(&answer))
        .await
        .unwrap();
    carries_everything(&a, &b).await;
}

#[tokio::test]
async fn whoever_wants_no_tcp_names_none_of_its_candidates() {
    let none = config()
        .with_tcp(false)
        .with_open_timeout(Duration::from_secs(1));
    let (_, with) = Connecting::offer(&config()).await.unwrap();
    let (_, without) = Connecting::offer(&none).await.unwrap();
    for kind in [" tcptype passive", " tcptype active"] {
        assert!(with.contains(kind), "{with}");
        assert!(!without.contains(kind), "{without}");
    }
    assert!(over_tcp(&none, &config()).await.is_err());
}

#[tokio::test]
async fn it_is_enough_that_one_end_can_be_connected_to() {
    let (alice, offer) = Connecting::offer(&config()).await.unwrap();
    let (bob, answer) = Connecting::answer(&config(), &without_udp(&offer))
        .await
        .unwrap();
    // Bob is behind a firewall that lets nobody in.
    let no_passive: String = without_udp(&answer)
        .split_inclusive("\r\n")
        .filter(|line| !line.contains("tcptype passive"))
        .collect();
    alice.accept_answer(&no_passive).await.unwrap();
    let (a, b) = tokio::try_join!(alice.opened(), bob.opened()).unwrap();
    carries_everything(&a, &b).await;
}
