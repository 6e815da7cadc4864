//! How QUIC links and endpoints end, and that nothing stays behind.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ed25519_dalek::SigningKey;
use roundtable_core::{Channel, CloseCode, Frame};
use roundtable_transport::{Closed, Link, SendError};
use roundtable_transport_quic::{AcceptError, ConnectError, QuicConfig, QuicEndpoint, QuicLink};
use tokio::net::UdpSocket;

fn config() -> QuicConfig {
    QuicConfig::default().with_bind("127.0.0.1:0".parse().unwrap())
}

/// Notices a dead peer after half a second.
fn hasty() -> QuicConfig {
    config()
        .with_idle_timeout(Duration::from_millis(500))
        .with_keep_alive(Duration::from_millis(100))
}

fn endpoint(config: QuicConfig, seed: u8) -> QuicEndpoint {
    QuicEndpoint::bind(config, &SigningKey::from_bytes(&[seed; 32])).unwrap()
}

async fn link_at(
    from: &QuicEndpoint,
    to: &QuicEndpoint,
    address: SocketAddr,
) -> (QuicLink, QuicLink) {
    let addresses = [address];
    let (dialled, accepted) = tokio::join!(
        from.connect(&addresses, to.author()),
        to.accept_from(from.author()),
    );
    (dialled.unwrap(), accepted.unwrap())
}

async fn link(from: &QuicEndpoint, to: &QuicEndpoint) -> (QuicLink, QuicLink) {
    link_at(from, to, to.local_address()).await
}

/// Waits until the link knows that it has ended, whatever is still to be read from it.
async fn until_it_ended(link: &QuicLink) {
    let probe = || Frame::binary(Channel::Replication, vec![1]);
    while !matches!(link.try_send(probe()), Err(SendError::Closed(_))) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

async fn settles_at(tasks: usize) -> bool {
    for _ in 0..200 {
        if alive_tasks() == tasks {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn two_hundred_links_leave_no_task_behind() {
    let before = alive_tasks();
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    for round in 0..200 {
        let (to_bob, to_alice) = link(&alice, &bob).await;
        to_bob.send(Frame::text(Channel::App, "hi")).await.unwrap();
        match round % 3 {
            0 => to_alice.close(CloseCode::NORMAL, "").await,
            1 => drop(to_bob),
            _ => {
                let both = (CloseCode::REPLACED, CloseCode::NORMAL);
                tokio::join!(to_bob.close(both.0, ""), to_alice.close(both.1, ""));
            }
        }
    }
    alice.close().await;
    bob.close().await;
    assert!(settles_at(before).await, "{} tasks are left", alive_tasks());
}

#[tokio::test]
async fn a_closed_endpoint_frees_its_port_while_handles_to_its_links_remain() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    let port = alice.local_address();
    alice.close().await;
    alice.close().await;
    let free = async {
        // The tasks are gone; the socket goes with the last of what they held.
        while std::net::UdpSocket::bind(port).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let free = tokio::time::timeout(Duration::from_secs(2), free).await;
    free.expect("the socket is still open");

    let closed = |by_remote| Err(Closed::new(CloseCode::NORMAL, "", by_remote));
    assert_eq!(to_bob.recv().await, closed(false));
    assert_eq!(to_alice.recv().await, closed(true));
    let dialled = alice.connect(&[bob.local_address()], bob.author()).await;
    assert_eq!(dialled.unwrap_err(), ConnectError::EndpointClosed);
    let accepted = alice.accept_from(bob.author()).await;
    assert_eq!(accepted.unwrap_err(), AcceptError::EndpointClosed);
}

#[tokio::test]
async fn closing_an_endpoint_ends_what_it_was_waiting_for() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2).author());
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap()];
    let (dialled, accepted, ()) = tokio::join!(
        alice.connect(&addresses, bob),
        alice.accept_from(bob),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            alice.close().await;
        },
    );
    assert_eq!(dialled.unwrap_err(), ConnectError::EndpointClosed);
    assert_eq!(accepted.unwrap_err(), AcceptError::EndpointClosed);
}

#[tokio::test]
async fn an_endpoint_closes_though_a_user_neither_reads_nor_lets_go() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    while to_bob
        .try_send(Frame::binary(Channel::Snapshot, vec![0; 60_000]))
        .is_ok()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    to_bob.close(CloseCode::NORMAL, "enough").await;
    until_it_ended(&to_alice).await;
    let closed = tokio::time::timeout(Duration::from_secs(5), bob.close()).await;
    closed.expect("close waits for a user who never reads");
    drop(to_alice);
}

#[tokio::test]
async fn a_late_reader_gets_more_than_the_queue_holds_before_the_close() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    let frame = |number| Frame::binary(Channel::Snapshot, vec![number; 70_000]);
    for number in 0..14 {
        to_bob.send(frame(number)).await.unwrap();
    }
    to_bob.close(CloseCode::REPLACED, "moved").await;
    until_it_ended(&to_alice).await;
    for number in 0..14 {
        assert_eq!(to_alice.recv().await, Ok(frame(number)));
    }
    let end = Closed::new(CloseCode::REPLACED, "moved", true);
    assert_eq!(to_alice.recv().await, Err(end));
}

#[test]
fn quic_transport_notices_a_killed_peer_within_the_idle_timeout() {
    let peer = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let here = tokio::runtime::Runtime::new().unwrap();
    let bob = peer.block_on(async { endpoint(hasty(), 2) });
    let alice = here.block_on(async { endpoint(hasty(), 1) });
    let addresses = [bob.local_address()];
    let (bob_id, alice_id) = (bob.author(), alice.author());
    let accepting = peer.spawn(async move { (bob.accept_from(alice_id).await.unwrap(), bob) });
    let to_bob = here.block_on(alice.connect(&addresses, bob_id)).unwrap();
    let _to_alice = peer.block_on(accepting).unwrap();
    // As if by SIGKILL: its tasks stop where they are and say no goodbye.
    peer.shutdown_background();
    let end =
        here.block_on(async { tokio::time::timeout(Duration::from_secs(5), to_bob.recv()).await });
    let closed = end.expect("nobody noticed").unwrap_err();
    assert_eq!((closed.code, closed.by_remote), (CloseCode::LOST, false));
    here.block_on(alice.close());
}

/// Carries datagrams between whoever sends to it and `server` until it is cut.
struct Relay {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn to(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        let task = tokio::spawn(async move {
            let mut client = None;
            let mut packet = [0; 2048];
            loop {
                let (len, from) = socket.recv_from(&mut packet).await.unwrap();
                let to = if from == server { client } else { Some(server) };
                if from != server {
                    client = Some(from);
                }
                if let (Some(to), false) = (to, is_cut.load(Ordering::Relaxed)) {
                    socket.send_to(&packet[..len], to).await.unwrap();
                }
            }
        });
        Self { address, cut, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn quic_transport_recovers_from_temporary_network_partition() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    let relay = Relay::to(bob.local_address()).await;
    let (to_bob, to_alice) = link_at(&alice, &bob, relay.address).await;
    relay.cut.store(true, Ordering::Relaxed);
    for number in 0..20 {
        let frame = Frame::binary(Channel::Command, vec![number]);
        to_bob.send(frame).await.unwrap();
    }
    let silence = Duration::from_millis(700);
    let nothing = tokio::time::timeout(silence, to_alice.recv()).await;
    assert!(nothing.is_err(), "the partition leaks: {nothing:?}");
    relay.cut.store(false, Ordering::Relaxed);
    for number in 0..20 {
        let frame = Frame::binary(Channel::Command, vec![number]);
        assert_eq!(to_alice.recv().await, Ok(frame));
    }
}

#[tokio::test]
async fn a_lasting_partition_loses_the_link_at_both_ends() {
    let (alice, bob) = (endpoint(hasty(), 1), endpoint(hasty(), 2));
    let relay = Relay::to(bob.local_address()).await;
    let (to_bob, to_alice) = link_at(&alice, &bob, relay.address).await;
    relay.cut.store(true, Ordering::Relaxed);
    for link in [to_bob, to_alice] {
        let closed = link.recv().await.unwrap_err();
        assert_eq!((closed.code, closed.by_remote), (CloseCode::LOST, false));
        link.close(CloseCode::NORMAL, "").await;
    }
}

#[tokio::test]
async fn a_measured_link_knows_its_round_trip() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    let stats = to_bob.stats();
    assert!(stats.rtt.is_some_and(|rtt| rtt > Duration::ZERO));
    assert!((0.0..=1.0).contains(&stats.loss));
    assert_eq!(stats.jitter, None, "nothing has been heard");
    to_alice.close(CloseCode::NORMAL, "").await;
    to_bob.recv().await.unwrap_err();
    assert!(to_bob.stats().rtt.is_some(), "the last figures remain");
}

#[tokio::test]
async fn a_peer_is_told_how_much_of_its_voice_arrives() {
    let (alice, bob) = (endpoint(config(), 1), endpoint(config(), 2));
    let (to_bob, to_alice) = link(&alice, &bob).await;
    assert_eq!(to_bob.stats().voice_loss, None);
    // Every fourth number is missing, as if its packet were lost.
    for sequence in (0..10_000_u16).filter(|sequence| sequence % 4 != 3) {
        let packet = roundtable_core::MediaPacket {
            sequence,
            timestamp: u32::from(sequence) * 960,
            marker: false,
            codec: roundtable_core::MediaCodec::OpusRed,
            payload: vec![1; 60].into(),
        };
        to_bob
            .send(Frame::media(Channel::Voice, packet))
            .await
            .unwrap();
        to_alice.recv().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        if to_bob.stats().voice_loss.is_some() {
            break;
        }
    }
    let loss = to_bob.stats().voice_loss;
    assert!(
        loss.is_some_and(|loss| (0.2..0.3).contains(&loss)),
        "{loss:?}"
    );
}
