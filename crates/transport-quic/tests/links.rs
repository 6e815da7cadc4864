//! QUIC links between real endpoints over loopback.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::time::Duration;

use ed25519_dalek::SigningKey;
use roundtable_core::{Channel, CloseCode, Frame, Payload};
use roundtable_transport::Link;
use roundtable_transport_quic::{AcceptError, ConnectError, QuicConfig, QuicEndpoint, QuicLink};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const MALLORY: u8 = 3;

fn config() -> QuicConfig {
    QuicConfig::default().with_bind("127.0.0.1:0".parse().unwrap())
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn endpoint(config: QuicConfig, seed: u8) -> QuicEndpoint {
    QuicEndpoint::bind(config, &key(seed)).unwrap()
}

async fn link(from: &QuicEndpoint, to: &QuicEndpoint) -> (QuicLink, QuicLink) {
    let addresses = to.local_candidates();
    let (dialled, accepted) = tokio::join!(
        from.connect(&addresses, to.author()),
        to.accept_from(from.author()),
    );
    (dialled.unwrap(), accepted.unwrap())
}

#[tokio::test]
async fn both_ends_know_whom_they_talk_to() {
    let (alice, bob) = (endpoint(config(), ALICE), endpoint(config(), BOB));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    assert_eq!(to_bob.remote_author(), Some(bob.author()));
    assert_eq!(to_alice.remote_author(), Some(alice.author()));
    assert_eq!(
        alice.author().as_bytes(),
        key(ALICE).verifying_key().as_bytes()
    );
}

#[tokio::test]
async fn somebody_elses_key_at_the_address_is_refused_and_named() {
    let (alice, mallory) = (endpoint(config(), ALICE), endpoint(config(), MALLORY));
    let bob = endpoint(config(), BOB).author();
    let outcome = alice.connect(&mallory.local_candidates(), bob).await;
    let expected = ConnectError::WrongKey {
        expected: bob,
        found: mallory.author(),
    };
    assert_eq!(outcome.unwrap_err(), expected);
}

#[tokio::test]
async fn the_right_peer_is_found_among_wrong_and_dead_addresses() {
    let (alice, bob) = (endpoint(config(), ALICE), endpoint(config(), BOB));
    let mallory = endpoint(config(), MALLORY);
    let mut addresses = mallory.local_candidates();
    addresses.push("127.0.0.1:9".parse().unwrap());
    addresses.extend(alice.local_candidates());
    addresses.extend(bob.local_candidates());
    let (dialled, accepted) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    assert_eq!(dialled.unwrap().remote_author(), Some(bob.author()));
    assert_eq!(accepted.unwrap().remote_author(), Some(alice.author()));
}

#[tokio::test]
async fn an_author_whom_nobody_awaits_is_refused() {
    let hold = Duration::from_millis(100);
    let (alice, bob) = (
        endpoint(config(), ALICE),
        endpoint(config().with_hold(hold), BOB),
    );
    let outcome = alice.connect(&bob.local_candidates(), bob.author()).await;
    let Err(ConnectError::Refused(closed)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(closed.code, CloseCode::IDENTITY_MISMATCH);
    assert!(closed.by_remote);
}

#[tokio::test]
async fn a_connection_that_comes_before_its_accept_is_held() {
    let (alice, bob) = (endpoint(config(), ALICE), endpoint(config(), BOB));
    let addresses = bob.local_candidates();
    let (dialled, accepted) = tokio::join!(alice.connect(&addresses, bob.author()), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bob.accept_from(alice.author()).await
    });
    dialled.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn awaiting_one_author_lets_no_other_in() {
    let hold = Duration::from_millis(100);
    let accept = Duration::from_millis(400);
    let bob = endpoint(config().with_hold(hold).with_accept_deadline(accept), BOB);
    let (alice, mallory) = (endpoint(config(), ALICE), endpoint(config(), MALLORY));
    let addresses = bob.local_candidates();
    let (dialled, accepted) = tokio::join!(
        mallory.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    assert!(matches!(dialled, Err(ConnectError::Refused(_))));
    assert_eq!(accepted.unwrap_err(), AcceptError::Timeout);
}

#[tokio::test]
async fn a_later_accept_for_the_same_author_takes_over() {
    let (alice, bob) = (endpoint(config(), ALICE), endpoint(config(), BOB));
    let addresses = bob.local_candidates();
    let (first, second, dialled) = tokio::join!(
        bob.accept_from(alice.author()),
        bob.accept_from(alice.author()),
        alice.connect(&addresses, bob.author()),
    );
    assert_eq!(first.unwrap_err(), AcceptError::Superseded);
    second.unwrap();
    dialled.unwrap();
}

#[tokio::test]
async fn our_own_key_is_never_a_peer() {
    let alice = endpoint(config(), ALICE);
    let same = endpoint(config(), ALICE);
    let dialled = alice.connect(&same.local_candidates(), same.author()).await;
    assert_eq!(dialled.unwrap_err(), ConnectError::OwnKey);
    let accepted = alice.accept_from(alice.author()).await;
    assert_eq!(accepted.unwrap_err(), AcceptError::OwnKey);
}

#[tokio::test]
async fn an_address_where_nobody_is_runs_into_the_deadline() {
    let deadline = Duration::from_millis(300);
    let alice = endpoint(config().with_handshake_deadline(deadline), ALICE);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap()];
    let bob = endpoint(config(), BOB).author();
    let outcome = alice.connect(&addresses, bob).await;
    assert_eq!(outcome.unwrap_err(), ConnectError::Timeout);
    let outcome = alice.connect(&[], bob).await;
    assert_eq!(outcome.unwrap_err(), ConnectError::NoAddress);
}

#[tokio::test]
async fn a_dual_stack_endpoint_and_an_ipv4_one_find_each_other() {
    let alice = endpoint(QuicConfig::default(), ALICE);
    let bob = endpoint(config(), BOB);
    let (to_bob, to_alice) = link(&alice, &bob).await;
    to_bob.send(Frame::text(Channel::App, "hi")).await.unwrap();
    assert_eq!(
        to_alice.recv().await.unwrap(),
        Frame::text(Channel::App, "hi")
    );
    let (to_alice, _to_bob) = link(&bob, &alice).await;
    assert_eq!(to_alice.remote_author(), Some(alice.author()));
}

/// With the default settings. Of two timers of one runtime the earlier fires first, however busy the machine is.
#[tokio::test]
async fn quic_handshake_timeout_returns_error_within_5_seconds() {
    let alice = endpoint(config(), ALICE);
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [nobody.local_addr().unwrap()];
    let bob = endpoint(config(), BOB).author();
    let five_seconds = async { tokio::time::sleep(Duration::from_secs(5)).await };
    tokio::select! {
        biased;
        dialled = alice.connect(&addresses, bob) => {
            assert_eq!(dialled.unwrap_err(), ConnectError::Timeout);
        }
        () = five_seconds => panic!("still dialling"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_concurrent_sends_dont_corrupt_stream_state() {
    const CHANNELS: [Channel; 4] = [
        Channel::Control,
        Channel::Command,
        Channel::Snapshot,
        Channel::App,
    ];
    const SENDERS: u8 = 4;
    const EACH: u8 = 50;
    let (alice, bob) = (endpoint(config(), ALICE), endpoint(config(), BOB));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    let mut senders = tokio::task::JoinSet::new();
    for channel in CHANNELS {
        for sender in 0..SENDERS {
            let link = to_bob.clone();
            senders.spawn(async move {
                for number in 0..EACH {
                    // Of every size, and recognisable to the last byte.
                    let len = 2 + usize::from(number) * 1000;
                    let mut bytes = vec![sender ^ number; len];
                    (bytes[0], bytes[1]) = (sender, number);
                    link.send(Frame::binary(channel, bytes)).await.unwrap();
                }
            });
        }
    }
    let mut next = [[0_u8; SENDERS as usize]; 8];
    for _ in 0..CHANNELS.len() * usize::from(SENDERS) * usize::from(EACH) {
        let frame = to_alice.recv().await.unwrap();
        let Payload::Binary(bytes) = frame.payload else {
            panic!("binary became something else");
        };
        let (sender, number) = (bytes[0], bytes[1]);
        let expected = &mut next[usize::from(frame.channel.number())][usize::from(sender)];
        assert_eq!(number, *expected, "{:?} of sender {sender}", frame.channel);
        *expected += 1;
        assert_eq!(bytes.len(), 2 + usize::from(number) * 1000);
        assert!(bytes[2..].iter().all(|byte| *byte == sender ^ number));
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
}

#[tokio::test]
async fn a_link_counts_its_packets() {
    let (alice, bob) = (endpoint(config(), ALICE), endpoint(config(), BOB));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    let before = to_alice.stats();
    for _ in 0..20 {
        let frame = Frame::binary(Channel::App, vec![0; 10_000]);
        to_bob.send(frame).await.unwrap();
        to_alice.recv().await.unwrap();
    }
    let packets = to_alice.stats().packets.since(&before.packets);
    assert!(packets.received_bytes > 200_000, "{packets:?}");
    assert!(packets.received >= 20, "{packets:?}");
    let (sent, bandwidth) = (to_bob.stats().packets, to_bob.stats().bandwidth);
    assert!(sent.sent_bytes > 200_000, "{sent:?}");
    assert!(bandwidth.is_some());
    to_bob.close(CloseCode::NORMAL, "").await;
    assert!(
        to_bob.stats().packets.sent >= sent.sent,
        "kept after the end"
    );
}
