//! How links come up, and what they refuse.

#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::time::Duration;

use common::{SOON, config};
use roundtable_core::{Channel, Frame};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{
    ConfigError, ConnectError, Connecting, IceCandidate, MAX_CANDIDATES, WebRtcConfig,
};
use tokio::time::timeout;

/// Takes the candidates out of a description.
fn strip(sdp: &str) -> (String, Vec<IceCandidate>) {
    let (candidates, rest): (Vec<&str>, Vec<&str>) = sdp
        .split_inclusive("\r\n")
        .partition(|line| line.starts_with("a=candidate:"));
    let candidates = candidates.iter().map(|line| IceCandidate {
        candidate: line.trim_end().trim_start_matches("a=").to_owned(),
        ..IceCandidate::default()
    });
    (rest.concat(), candidates.collect())
}

fn candidate(text: &str) -> IceCandidate {
    IceCandidate {
        candidate: text.to_owned(),
        ..IceCandidate::default()
    }
}

async fn offer() -> (Connecting, String) {
    Connecting::offer(&config()).await.unwrap()
}

async fn refused(sdp: &str) -> ConnectError {
    Connecting::answer(&config(), sdp).await.err().unwrap()
}

#[tokio::test]
async fn candidates_may_trickle_before_and_after_the_answer() {
    let (offering, offer) = offer().await;
    let (offer, offered) = strip(&offer);
    let (answering, answer) = Connecting::answer(&config(), &offer).await.unwrap();
    let (answer, answered) = strip(&answer);
    for early in &answered {
        offering.add_remote_candidate(early).unwrap();
    }
    offering.accept_answer(&answer).await.unwrap();
    let opening = tokio::spawn(answering.clone().opened());
    tokio::task::yield_now().await;
    for late in &offered {
        answering.add_remote_candidate(late).unwrap();
    }
    answering.add_remote_candidate(&candidate("")).unwrap();
    let a = timeout(SOON, offering.opened()).await.unwrap().unwrap();
    let b = timeout(SOON, opening).await.unwrap().unwrap().unwrap();
    a.send(Frame::text(Channel::App, "hi")).await.unwrap();
    assert_eq!(b.recv().await.unwrap(), Frame::text(Channel::App, "hi"));
    // Candidates that come after the link are harmless.
    answering.add_remote_candidate(&offered[0]).unwrap();
}

#[tokio::test]
async fn one_side_that_hides_its_addresses_is_found_by_its_checks() {
    let (offering, offer) = offer().await;
    let (hidden, _) = strip(&offer);
    let (answering, answer) = Connecting::answer(&config(), &hidden).await.unwrap();
    let local =
        "candidate:1 1 udp 2113937151 0b5f8c1e-8e0e-4f0c-9f57-0e6a5f2f9a55.local 50000 typ host";
    answering.add_remote_candidate(&candidate(local)).unwrap();
    offering.accept_answer(&answer).await.unwrap();
    let opening = async { tokio::try_join!(offering.opened(), answering.opened()) };
    timeout(SOON, opening).await.unwrap().unwrap();
}

#[tokio::test]
async fn all_interfaces_are_offered_by_default() {
    let everything = WebRtcConfig::default();
    let (offering, offer) = Connecting::offer(&everything).await.unwrap();
    assert!(offer.contains("127.0.0.1"), "{offer}");
    let (answering, answer) = Connecting::answer(&everything, &offer).await.unwrap();
    offering.accept_answer(&answer).await.unwrap();
    let opening = async { tokio::try_join!(offering.opened(), answering.opened()) };
    timeout(SOON, opening).await.unwrap().unwrap();
}

#[tokio::test]
async fn ipv6_works_where_the_machine_has_it() {
    let v6 = WebRtcConfig::default().with_addresses(["::1".parse().unwrap()]);
    let (offering, offer) = match Connecting::offer(&v6).await {
        Err(ConnectError::Socket(kind)) => {
            eprintln!("SKIP: no IPv6 here ({kind})");
            return;
        }
        other => other.unwrap(),
    };
    let (answering, answer) = Connecting::answer(&v6, &offer).await.unwrap();
    offering.accept_answer(&answer).await.unwrap();
    let opening = async { tokio::try_join!(offering.opened(), answering.opened()) };
    timeout(SOON, opening).await.unwrap().unwrap();
}

#[tokio::test]
async fn descriptions_that_are_bombs_or_forged_are_refused() {
    let (_offering, good) = offer().await;
    let large = good.clone() + &"a=x\r\n".repeat(10_000);
    assert_eq!(
        refused(&large).await,
        ConnectError::SdpTooLarge(large.len())
    );
    let many = good.clone() + &"a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n".repeat(65);
    assert_eq!(refused(&many).await, ConnectError::TooManyCandidates);
    let other = format!("a=fingerprint:sha-256 {}\r\n", ["00"; 32].join(":"));
    assert_eq!(
        refused(&(good.clone() + &other)).await,
        ConnectError::Fingerprints(2)
    );
    assert_eq!(refused("").await, ConnectError::Fingerprints(0));
    assert_eq!(refused(&other).await, ConnectError::Sdp);
}

#[tokio::test]
async fn a_link_opens_beside_fingerprints_of_other_hash_functions() {
    let more = format!("a=fingerprint:sha-512 {}\r\na=setup:", ["00"; 64].join(":"));
    let with_more = |sdp: &str| sdp.replace("a=setup:", &more);
    let (offering, offer) = offer().await;
    let (answering, answer) = Connecting::answer(&config(), &with_more(&offer))
        .await
        .unwrap();
    offering.accept_answer(&with_more(&answer)).await.unwrap();
    let opening = async { tokio::try_join!(offering.opened(), answering.opened()) };
    timeout(SOON, opening).await.unwrap().unwrap();
}

#[tokio::test]
async fn candidates_are_checked_and_counted() {
    let (offering, _) = offer().await;
    let long = candidate(&"x".repeat(1025));
    assert_eq!(
        offering.add_remote_candidate(&long),
        Err(ConnectError::CandidateTooLarge(1025))
    );
    for bad in ["nonsense", "candidate:1 1 udp x 127.0.0.1 9 typ host"] {
        let result = offering.add_remote_candidate(&candidate(bad));
        assert_eq!(result, Err(ConnectError::Candidate), "{bad}");
    }
    for port in 1..=MAX_CANDIDATES {
        let good = format!("candidate:1 1 udp 1 127.0.0.1 {port} typ host");
        offering.add_remote_candidate(&candidate(&good)).unwrap();
    }
    let one_more = candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host");
    assert_eq!(
        offering.add_remote_candidate(&one_more),
        Err(ConnectError::TooManyCandidates)
    );
}

#[tokio::test]
async fn a_negotiation_takes_one_answer() {
    let (offering, offer) = offer().await;
    let (answering, answer) = Connecting::answer(&config(), &offer).await.unwrap();
    offering.accept_answer(&answer).await.unwrap();
    let again = offering.accept_answer(&answer).await;
    assert_eq!(again, Err(ConnectError::AlreadyAnswered));
    let to_the_answerer = answering.accept_answer(&answer).await;
    assert_eq!(to_the_answerer, Err(ConnectError::AlreadyAnswered));
}

#[tokio::test]
async fn a_certificate_that_does_not_match_opens_nothing() {
    let short = config().with_open_timeout(Duration::from_secs(1));
    let (offering, offer) = Connecting::offer(&short).await.unwrap();
    let (answering, answer) = Connecting::answer(&short, &offer).await.unwrap();
    let forged: String = answer
        .split_inclusive("\r\n")
        .map(|line| match line.split_once("sha-256 ") {
            Some((start, _)) => format!("{start}sha-256 {}\r\n", ["AB"; 32].join(":")),
            None => line.to_owned(),
        })
        .collect();
    offering.accept_answer(&forged).await.unwrap();
    let (offerer, answerer) = tokio::join!(offering.opened(), answering.opened());
    assert!(offerer.is_err());
    assert!(answerer.is_err());
}

#[tokio::test]
async fn without_an_answer_it_times_out_and_without_a_waiter_it_is_abandoned() {
    let short = config().with_open_timeout(Duration::from_millis(100));
    let (offering, _) = Connecting::offer(&short).await.unwrap();
    let waited = offering.clone().opened().await;
    assert_eq!(
        waited.err(),
        Some(ConnectError::Timeout(Duration::from_millis(100)))
    );
    assert_eq!(
        offering.accept_answer("").await,
        Err(ConnectError::Abandoned)
    );

    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let (_offering, offer) = offer().await;
    let before = tasks();
    let (answering, _) = Connecting::answer(&config(), &offer).await.unwrap();
    assert!(tasks() > before);
    drop(timeout(Duration::from_millis(20), answering.clone().opened()).await);
    while tasks() > before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        answering.opened().await.err(),
        Some(ConnectError::Abandoned)
    );
}

#[tokio::test]
async fn a_configuration_out_of_range_is_named() {
    let never = config().with_open_timeout(Duration::ZERO);
    assert_eq!(
        Connecting::offer(&never).await.err(),
        Some(ConnectError::Config(ConfigError::OpenTimeout))
    );
}

#[tokio::test]
async fn webrtc_signaling_failure_returns_error_within_deadline() {
    let patience = Duration::from_millis(300);
    let (alice, offer) = {
        let config = config().with_open_timeout(patience);
        Connecting::offer(&config).await.unwrap()
    };
    // The answer is made, and lost with the signaling server.
    let (bob, answer) = Connecting::answer(&config().with_open_timeout(patience), &offer)
        .await
        .unwrap();
    for end in [alice.clone(), bob] {
        let failed = timeout(SOON, end.opened()).await.expect("it does not hang");
        assert_eq!(failed.err(), Some(ConnectError::Timeout(patience)));
    }
    // When signaling comes back, it is too late for this negotiation.
    assert!(alice.accept_answer(&answer).await.is_err());
}
