//! Real links in virtual time: the suite that every link passes, on networks that are anything but loopback,
//! and setting up.
#![allow(clippy::unwrap_used)] // a test may fail

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use ed25519_dalek::SigningKey;
use roundtable_core::{Channel, Frame, TransportKind};
use roundtable_netem::Conditions;
use roundtable_testkit::{DialError, Duct, WireLink, dial, in_virtual_time, set_up};
use roundtable_transport::{Link, conformance::with_silence};
use roundtable_transport_webrtc::{Connecting, WebRtcConfig};

/// A seed, and what it makes a link of. The duct lives as long as the test.
#[derive(Clone, Copy)]
struct Seed {
    number: u64,
    kind: TransportKind,
    conditions: Conditions,
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Loses, delays, doubles, and puts out of order.
fn rough() -> Conditions {
    Conditions {
        loss_per_mille: 20,
        ..jumbled()
    }
}

/// Does all of that but lose.
fn jumbled() -> Conditions {
    Conditions {
        delay: millis(10),
        jitter: millis(20),
        duplicate_per_mille: 20,
        reorder_per_mille: 20,
        ..Conditions::default()
    }
}

/// A link over a duct of its own, which ends with the runtime.
async fn pair(seed: Seed) -> (WireLink, WireLink) {
    let duct = Duct::new(seed.number, seed.conditions);
    let keys = [1, 2].map(|key| SigningKey::from_bytes(&[key; 32]));
    let (offerer, answerer) = dial(seed.kind, [duct.end(0), duct.end(1)], keys);
    let links = tokio::try_join!(offerer, answerer).unwrap();
    duct.detach();
    links
}

/// Plays a property with a few seeds, and names the one that fails.
fn play(name: &str, kind: TransportKind, conditions: Conditions, property: impl AsyncFn(Seed)) {
    // How a link ends is told in one packet that may be lost, so on a network that loses, the other end may
    // notice by itself; and what is not through in the second that a close waits is given up, which makes it matter
    // that reordering looks like loss to QUIC. All else holds everywhere.
    let conditions = match name {
        _ if !name.contains("clos") => conditions,
        _ => Conditions {
            loss_per_mille: 0,
            in_order: true,
            ..conditions
        },
    };
    for number in 0..2 {
        let seed = Seed {
            number,
            kind,
            conditions,
        };
        // SCTP and QUIC send again after a second or more.
        let property = with_silence(Duration::from_secs(5), property(seed));
        let played = catch_unwind(AssertUnwindSafe(|| in_virtual_time(property).unwrap()));
        if let Err(panic) = played {
            eprintln!("{name} fails with seed {number} over {kind:?}, {conditions:?}");
            resume_unwind(panic);
        }
    }
}

mod quic_on_a_rough_network {
    use super::*;

    fn play(name: &str, property: impl AsyncFn(Seed)) {
        super::play(name, TransportKind::Quic, rough(), property);
    }

    roundtable_transport::conformance_tests!(pair, play);
}

mod webrtc_on_a_rough_network {
    use super::*;

    fn play(name: &str, property: impl AsyncFn(Seed)) {
        super::play(name, TransportKind::WebRtc, rough(), property);
    }

    roundtable_transport::conformance_tests!(pair, play);
}

/// What is sent when is the same each time; keys and signatures are not.
fn traffic(kind: TransportKind, seed: u64) -> (u64, [u8; 32]) {
    let talk = async {
        let duct = Duct::new(seed, rough());
        let keys = [1, 2].map(|key| SigningKey::from_bytes(&[key; 32]));
        let (offerer, answerer) = dial(kind, [duct.end(0), duct.end(1)], keys);
        let (a, b) = tokio::try_join!(offerer, answerer).unwrap();
        let send = async {
            for number in 0..200 {
                let channel = [Channel::Command, Channel::AppFast][number % 2];
                a.send(Frame::binary(channel, vec![7; number * 5]))
                    .await
                    .unwrap();
                tokio::time::sleep(millis(16)).await;
            }
        };
        let receive = async {
            let mut commands = 0;
            while commands < 100 {
                let frame = b.recv().await.unwrap();
                commands += usize::from(frame.channel == Channel::Command);
            }
        };
        tokio::join!(send, receive);
        duct.sent()
    };
    in_virtual_time(talk).unwrap()
}

#[test]
fn one_seed_is_one_course_of_packets_over_quic() {
    let first = traffic(TransportKind::Quic, 7);
    for _ in 0..3 {
        assert_eq!(traffic(TransportKind::Quic, 7), first);
    }
    assert_ne!(traffic(TransportKind::Quic, 8), first);
}

#[test]
fn one_seed_is_one_course_of_packets_over_webrtc() {
    let first = traffic(TransportKind::WebRtc, 7);
    for _ in 0..3 {
        assert_eq!(traffic(TransportKind::WebRtc, 7), first);
    }
    assert_ne!(traffic(TransportKind::WebRtc, 8), first);
}

/// Whichever datagram of a set-up is lost, the link comes up, and soon: also where the library below would wait
/// for ever (docs/upstream/rtc-dtls-timer-lost.md).
#[test]
fn no_single_lost_datagram_keeps_a_link_from_coming_up() {
    for kind in [TransportKind::Quic, TransportKind::WebRtc] {
        for number in 1..=40 {
            let dialled = async {
                let calm = Conditions {
                    delay: millis(10),
                    ..Conditions::default()
                };
                let duct = Duct::new(number, calm);
                duct.lose([number]);
                let keys = [1, 2].map(|key| SigningKey::from_bytes(&[key; 32]));
                let (offerer, answerer) = dial(kind, [duct.end(0), duct.end(1)], keys);
                let both = async { tokio::try_join!(offerer, answerer) };
                let links = tokio::time::timeout(Duration::from_secs(3), both).await;
                links.map(|links| assert!(links.is_ok(), "{kind:?}, datagram {number}: {links:?}"))
            };
            let in_time = in_virtual_time(dialled).unwrap();
            assert!(in_time.is_ok(), "{kind:?} without datagram {number} hangs");
        }
    }
}

/// One end: as soon as it has the link it says two things, and waits for the first that the other says.
async fn speak_and_listen(
    dialling: impl Future<Output = Result<WireLink, DialError>>,
    seed: u64,
) -> WireLink {
    let hello = Frame::binary(Channel::Control, vec![7; 300]);
    let link = dialling.await.unwrap();
    link.send(hello.clone()).await.unwrap();
    let proof = Frame::binary(Channel::Control, vec![8; 3]);
    link.send(proof).await.unwrap();
    let received = tokio::time::timeout(Duration::from_secs(15), link.recv()).await;
    assert_eq!(received, Ok(Ok(hello)), "{:?}, seed {seed}", link.kind());
    link
}

/// Whoever has the link first speaks at once; what it says may overtake what tells the other that the link is up, or
/// that may be lost.
#[test]
fn what_is_said_the_moment_a_link_opens_is_heard_whatever_overtakes_it() {
    for kind in [TransportKind::Quic, TransportKind::WebRtc] {
        for seed in 0..40 {
            let spoken = async {
                let duct = Duct::new(seed, rough());
                let keys = [1, 2].map(|key| SigningKey::from_bytes(&[key; 32]));
                let (offerer, answerer) = dial(kind, [duct.end(0), duct.end(1)], keys);
                tokio::join!(
                    speak_and_listen(offerer, seed),
                    speak_and_listen(answerer, seed)
                );
            };
            in_virtual_time(spoken).unwrap();
        }
    }
}

/// After the longest outage that a link may be told to bear, what waited comes through within moments, though the
/// library below has given up sending it again (docs/upstream/rtc-sctp-t3-gives-up.md).
#[test]
fn a_webrtc_link_carries_on_after_half_a_minute_of_silence() {
    let outage = async {
        let calm = Conditions {
            delay: millis(20),
            ..Conditions::default()
        };
        let duct = Duct::new(1, calm);
        let config = |end| {
            WebRtcConfig::default()
                .with_network(duct.end(end))
                .with_lost_after(Duration::from_secs(30))
        };
        let (near, offer) = Connecting::offer(&config(0)).await.unwrap();
        let (far, answer) = Connecting::answer(&config(1), &offer).await.unwrap();
        near.accept_answer(&answer).await.unwrap();
        let (near, far) = tokio::try_join!(near.opened(), far.opened()).unwrap();
        for length in [2, 7, 15, 28] {
            duct.cut();
            let message = Frame::binary(Channel::Command, vec![1; length]);
            near.send(message.clone()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(u64::try_from(length).unwrap())).await;
            duct.mend();
            let received = tokio::time::timeout(Duration::from_secs(2), far.recv()).await;
            assert_eq!(received, Ok(Ok(message)), "after {length} s");
            // Between outages both hear each other again.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    in_virtual_time(outage).unwrap();
}

/// `cargo xtask sim --setup` does it a thousand times for each cell of its table.
#[test]
fn no_set_up_hangs_at_any_loss() {
    for kind in [TransportKind::Quic, TransportKind::WebRtc] {
        for loss_per_mille in [20, 50, 100, 200] {
            for seed in 0..20 {
                let conditions = Conditions {
                    delay: millis(20),
                    jitter: millis(seed % 6 * 10),
                    loss_per_mille,
                    ..Conditions::default()
                };
                let outcome = set_up(kind, seed, conditions);
                let gave_up = |failure: &_| {
                    matches!(failure, roundtable_testkit::SetUpFailure::GaveUp(_))
                        && loss_per_mille == 200
                };
                match outcome {
                    Ok(_) => {}
                    // One attempt of a thousand may not make it; the room makes another.
                    Err(failure) if gave_up(&failure) => {
                        eprintln!("{kind:?}, seed {seed}, {loss_per_mille} per mille: {failure}");
                    }
                    Err(failure) => {
                        panic!("{kind:?}, seed {seed}, {conditions:?}: {failure}");
                    }
                }
            }
        }
    }
}
