//! ICE restarts: new sockets and new addresses under a link that goes on.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::time::Duration;

use common::{SOON, config, coturn::Coturn, pair};
use roundtable_core::{CandidateType, Channel, CloseCode, Frame};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{ConnectError, Connecting, IcePolicy, WebRtcConfig, WebRtcLink};
use tokio::time::timeout;

fn message(number: u32) -> Frame {
    Frame::text(Channel::App, number.to_string())
}

async fn restart(alice: &WebRtcLink, a: &WebRtcConfig, bob: &WebRtcLink, b: &WebRtcConfig) {
    let (restarting, offer) = alice.restart_ice(a).await.unwrap();
    let (answering, answer) = bob.answer_restart(b, &offer).await.unwrap();
    restarting.accept_answer(&answer).await.unwrap();
    tokio::join!(
        async {
            while let Some(candidate) = restarting.next_candidate().await {
                answering.add_remote_candidate(&candidate).unwrap();
            }
        },
        async {
            while let Some(candidate) = answering.next_candidate().await {
                restarting.add_remote_candidate(&candidate).unwrap();
            }
        }
    );
}

/// Sends without a pause until told to stop; says how much it was.
async fn chatter(from: WebRtcLink, stop: tokio::sync::oneshot::Receiver<()>) -> u32 {
    let mut stop = stop;
    for number in 0.. {
        from.send(message(number)).await.unwrap();
        if timeout(Duration::from_millis(2), &mut stop).await.is_ok() {
            return number + 1;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn webrtc_connection_survives_ice_restart() {
    let (alice, bob) = pair().await;
    // Either side may begin, and again.
    for (a, b) in [(&alice, &bob), (&bob, &alice), (&alice, &bob)] {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let sender = tokio::spawn(chatter(a.clone(), stopped));
        timeout(SOON, b.recv()).await.unwrap().unwrap();
        restart(a, &config(), b, &config()).await;
        for frame in 1..50 {
            let came = timeout(SOON, b.recv()).await.unwrap();
            assert_eq!(came, Ok(message(frame)), "in order, once each");
        }
        stop.send(()).unwrap();
        let sent = sender.await.unwrap();
        for frame in 50..sent {
            let came = timeout(SOON, b.recv()).await.unwrap();
            assert_eq!(came, Ok(message(frame)), "of {sent}");
        }
    }
    assert_eq!(alice.binding(), bob.binding());
    alice.close(CloseCode::NORMAL, "bye").await;
    assert_eq!(bob.recv().await.unwrap_err().reason, "bye");
}

#[tokio::test]
async fn a_restart_moves_the_link_to_a_relay_and_back() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let url = format!("turn:127.0.0.1:{}?transport=tcp", coturn.port);
    let hidden = config()
        .with_ice_servers([coturn.server(url)])
        .with_ice_policy(IcePolicy::Relay);
    let (alice, bob) = pair().await;
    for (config_now, expected) in [
        (&hidden, CandidateType::Relay),
        (&config(), CandidateType::Host),
    ] {
        restart(&alice, config_now, &bob, config_now).await;
        for number in 0..3 {
            alice.send(message(number)).await.unwrap();
            assert_eq!(
                timeout(SOON, bob.recv()).await.unwrap(),
                Ok(message(number))
            );
        }
        for link in [&alice, &bob] {
            let local = async {
                while link.stats().path.map(|path| path.local) != Some(expected) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(SOON, local).await.unwrap();
        }
    }
}

#[tokio::test]
async fn of_two_restarts_at_once_one_gives_way() {
    let (alice, bob) = pair().await;
    let (_given_up, _) = bob.restart_ice(&config()).await.unwrap();
    let (restarting, offer) = alice.restart_ice(&config()).await.unwrap();
    let (_answering, answer) = bob.answer_restart(&config(), &offer).await.unwrap();
    restarting.accept_answer(&answer).await.unwrap();
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        from.send(message(1)).await.unwrap();
        assert_eq!(timeout(SOON, to.recv()).await.unwrap(), Ok(message(1)));
    }
}

#[tokio::test]
async fn only_the_same_peers_restart_is_answered() {
    let (alice, bob) = pair().await;
    let (carol, _dave) = pair().await;
    let (_, foreign) = carol.restart_ice(&config()).await.unwrap();
    let refused = bob.answer_restart(&config(), &foreign).await;
    assert_eq!(refused.err(), Some(ConnectError::NoRestart));
    alice.send(message(1)).await.unwrap();
    assert_eq!(bob.recv().await, Ok(message(1)), "no harm is done");

    let (restarting, offer) = alice.restart_ice(&config()).await.unwrap();
    let (_, answer) = bob.answer_restart(&config(), &offer).await.unwrap();
    let own = |sdp: &str| {
        let line = sdp.lines().find(|line| line.starts_with("a=fingerprint"));
        line.unwrap().to_owned()
    };
    let forged = answer.replace(&own(&answer), &own(&foreign));
    let refused = restarting.accept_answer(&forged).await;
    assert_eq!(refused, Err(ConnectError::OtherCertificate));
    restarting.accept_answer(&answer).await.unwrap();
    alice.send(message(2)).await.unwrap();
    assert_eq!(timeout(SOON, bob.recv()).await.unwrap(), Ok(message(2)));
}

#[tokio::test]
async fn a_restart_that_cannot_be_taken_up_leaves_the_link_where_it_was() {
    let (alice, offer) = Connecting::offer(&config()).await.unwrap();
    let (bob, answer) = Connecting::answer(&config(), &offer).await.unwrap();
    alice.accept_answer(&answer).await.unwrap();
    let (alice, bob) = tokio::try_join!(alice.opened(), bob.opened()).unwrap();
    // The right certificate and another ICE session, which is all that signaling needs to forge.
    let forged = offer.replace("a=ice-ufrag:", "a=ice-ufrag:x");
    let is_no_mid = |line: &&str| !line.starts_with("a=mid:");
    let without_mids: String = forged.split_inclusive('\n').filter(is_no_mid).collect();
    let without_password = forged.replace("a=ice-pwd:", "a=ice-pass:");
    for bad in [without_mids, without_password] {
        let refused = bob.answer_restart(&config(), &bad).await;
        assert_eq!(refused.err(), Some(ConnectError::Sdp));
        for (from, to) in [(&alice, &bob), (&bob, &alice)] {
            from.send(message(1)).await.unwrap();
            assert_eq!(timeout(SOON, to.recv()).await.unwrap(), Ok(message(1)));
        }
    }
    restart(&alice, &config(), &bob, &config()).await;
    alice.send(message(2)).await.unwrap();
    assert_eq!(timeout(SOON, bob.recv()).await.unwrap(), Ok(message(2)));
}
