//! Addresses that are hidden behind `.local` names, looked up over real multicast on loopback.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, UdpSocket},
};

use common::{SOON, config};
use roundtable_core::{Channel, Frame};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{Connecting, WebRtcConfig};
use tokio::time::timeout;

/// Whether multicast comes back on loopback.
fn has_multicast() -> bool {
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let to = (GROUP, socket.local_addr().unwrap().port());
    let chosen = socket2::SockRef::from(&socket).set_multicast_if_v4(&Ipv4Addr::LOCALHOST);
    let joined = chosen.and_then(|()| socket.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST));
    let _ = socket.set_read_timeout(Some(std::time::Duration::from_secs(1)));
    let came =
        joined.is_ok() && socket.send_to(b"x", to).is_ok() && socket.recv_from(&mut [0]).is_ok();
    let missing = "SKIP: no multicast on loopback (it is off in this system or container)";
    assert!(
        came || std::env::var_os("ROUNDTABLE_STRICT").is_none(),
        "{missing}"
    );
    if !came {
        eprintln!("{missing}");
    }
    came
}

/// The foundations of a description's candidates.
fn foundations(sdp: &str) -> HashSet<&str> {
    let candidates = sdp
        .lines()
        .filter_map(|line| line.strip_prefix("a=candidate:"));
    candidates.filter_map(|it| it.split(' ').next()).collect()
}

#[tokio::test]
async fn nothing_shows_that_two_links_hide_the_same_address() {
    let (_one, first) = Connecting::offer(&hidden()).await.unwrap();
    let (_other, second) = Connecting::offer(&hidden()).await.unwrap();
    let (first, second) = (foundations(&first), foundations(&second));
    assert!(!first.is_empty() && !second.is_empty());
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
}

fn hidden() -> WebRtcConfig {
    config().with_hidden_addresses(true)
}

#[tokio::test]
async fn two_peers_that_hide_their_addresses_find_each_other_by_name() {
    if !has_multicast() {
        return;
    }
    let (alice, offer) = Connecting::offer(&hidden()).await.unwrap();
    let (bob, answer) = Connecting::answer(&hidden(), &offer).await.unwrap();
    for sdp in [&offer, &answer] {
        let candidates = sdp.lines().filter(|line| line.starts_with("a=candidate:"));
        for candidate in candidates {
            assert!(candidate.contains(".local "), "{candidate}");
            assert!(!candidate.contains("127.0.0.1"), "{candidate}");
        }
        assert!(sdp.contains(".local "), "{sdp}");
    }
    alice.accept_answer(&answer).await.unwrap();
    let (a, b) = tokio::try_join!(alice.opened(), bob.opened()).unwrap();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let frame = Frame::text(Channel::App, "hello");
        from.send(frame.clone()).await.unwrap();
        assert_eq!(timeout(SOON, to.recv()).await.unwrap(), Ok(frame));
    }
}

#[tokio::test]
async fn a_restart_with_hidden_addresses_finds_its_way_by_new_names() {
    if !has_multicast() {
        return;
    }
    let (a, b) = common::pair_with(&hidden(), &hidden()).await;
    let (restarting, offer) = a.restart_ice(&hidden()).await.unwrap();
    assert!(
        offer.contains(".local ") && !offer.contains(" 127.0.0.1 "),
        "{offer}"
    );
    let (_answering, answer) = b.answer_restart(&hidden(), &offer).await.unwrap();
    restarting.accept_answer(&answer).await.unwrap();
    let frame = Frame::text(Channel::App, "still here");
    a.send(frame.clone()).await.unwrap();
    assert_eq!(timeout(SOON, b.recv()).await.unwrap(), Ok(frame));
}
