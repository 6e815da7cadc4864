//! STUN and TURN: links through a real coturn, and servers that are of no use.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use common::{
    SOON, config,
    coturn::{Coturn, PASSWORD, USER, with_credentials},
};
use roundtable_core::{CandidateType, Channel, CloseCode, Frame, PathProtocol};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{
    ConnectError, Connecting, IcePolicy, IceServer, NatMapping, ServerError, WebRtcConfig,
    WebRtcLink, check_link, check_servers,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    time::timeout,
};

/// Hands everything that one end finds to the other, as signaling does.
async fn trickle(from: &Connecting, to: &Connecting) {
    while let Some(candidate) = from.next_candidate().await {
        to.add_remote_candidate(&candidate).unwrap();
    }
    std::future::pending().await
}

async fn connect(
    alice: &WebRtcConfig,
    bob: &WebRtcConfig,
) -> Result<(WebRtcLink, WebRtcLink), ConnectError> {
    let (alice, offer) = Connecting::offer(alice).await?;
    let (bob, answer) = Connecting::answer(bob, &offer).await?;
    alice.accept_answer(&answer).await?;
    let (a, b) = (alice.clone(), bob.clone());
    tokio::select! {
        opened = async { tokio::try_join!(alice.opened(), bob.opened()) } => opened,
        () = trickle(&a, &b) => unreachable!(),
        () = trickle(&b, &a) => unreachable!(),
    }
}

fn relayed(server: IceServer, coturn: &Coturn) -> WebRtcConfig {
    config()
        .with_ice_servers([server])
        .with_ice_policy(IcePolicy::Relay)
        .with_trusted_certificates([coturn.certificate.clone()])
}

async fn carries_both_ways(a: &WebRtcLink, b: &WebRtcLink) {
    for (from, to) in [(a, b), (b, a)] {
        for size in [5, 60_000] {
            let frame = Frame::binary(Channel::App, vec![7; size]);
            from.send(frame.clone()).await.unwrap();
            assert_eq!(timeout(SOON, to.recv()).await.unwrap(), Ok(frame));
        }
    }
}

async fn through_relays_only(protocol: PathProtocol, url: impl Fn(&Coturn) -> String) {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let config = relayed(coturn.server(url(&coturn)), &coturn);
    let (offering, offer) = Connecting::offer(&config).await.unwrap();
    assert!(!offer.contains("a=candidate:"), "{offer}");
    drop(offering);
    let (a, b) = connect(&config, &config).await.unwrap();
    carries_both_ways(&a, &b).await;
    for link in [&a, &b] {
        let path = link.stats().path.unwrap();
        assert_eq!(
            (path.local, path.protocol),
            (CandidateType::Relay, protocol)
        );
    }
    a.close(CloseCode::NORMAL, "bye").await;
    assert_eq!(b.recv().await.unwrap_err().reason, "bye");
}

#[tokio::test]
async fn two_peers_talk_through_turn_over_udp_alone() {
    through_relays_only(PathProtocol::Udp, |coturn| {
        format!("turn:127.0.0.1:{}", coturn.port)
    })
    .await;
}

#[tokio::test]
async fn two_peers_talk_through_turn_over_tcp_alone() {
    through_relays_only(PathProtocol::Tcp, |coturn| {
        format!("turn:localhost:{}?transport=tcp", coturn.port)
    })
    .await;
}

#[tokio::test]
async fn two_peers_talk_through_turn_over_tls_alone() {
    through_relays_only(PathProtocol::Tls, |coturn| {
        format!("turns:localhost:{}", coturn.tls_port)
    })
    .await;
}

/// A coturn that is reached by, and relays over, IPv6 as well.
fn dual_stack() -> Option<Coturn> {
    if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("SKIP: no IPv6 on loopback (sysctl net.ipv6.conf.lo.disable_ipv6=0)");
        return None;
    }
    Coturn::start(&["listening-ip=::1", "relay-ip=::1"])
}

/// The relayed addresses that an end finds.
async fn relays(config: &WebRtcConfig) -> Vec<IpAddr> {
    let (connecting, _) = Connecting::offer(config).await.unwrap();
    let mut found = Vec::new();
    while let Some(candidate) = timeout(SOON, connecting.next_candidate()).await.unwrap() {
        if candidate.candidate.contains(" typ relay ") {
            let address = candidate.candidate.split(' ').nth(4).unwrap();
            found.push(address.parse().unwrap());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_turn_server_gives_relays_of_both_families_however_it_is_reached() {
    let Some(coturn) = dual_stack() else {
        return;
    };
    let both = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    for url in [
        format!("turn:[::1]:{}", coturn.port),
        format!("turn:127.0.0.1:{}", coturn.port),
        format!("turn:[::1]:{}?transport=tcp", coturn.port),
    ] {
        let config = relayed(coturn.server(url.clone()), &coturn).with_addresses(both);
        assert_eq!(relays(&config).await, both, "{url}");
    }
}

#[tokio::test]
async fn a_server_that_has_ipv4_alone_still_relays_that() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let url = format!("turn:127.0.0.1:{}", coturn.port);
    let config = relayed(coturn.server(url), &coturn);
    assert_eq!(relays(&config).await, [Ipv4Addr::LOCALHOST]);
}

#[tokio::test]
async fn a_relay_over_ipv6_reaches_a_peer_that_has_nothing_else() {
    let Some(coturn) = dual_stack() else {
        return;
    };
    let only_v6 = config().with_addresses([Ipv6Addr::LOCALHOST.into()]);
    for url in [
        format!("turn:[::1]:{}", coturn.port),
        format!("turn:127.0.0.1:{}?transport=tcp", coturn.port),
    ] {
        let hidden = relayed(coturn.server(url), &coturn);
        let hidden = hidden.with_addresses([Ipv6Addr::LOCALHOST.into()]);
        let (a, b) = connect(&hidden, &only_v6).await.unwrap();
        carries_both_ways(&a, &b).await;
        assert_eq!(
            a.stats().path.map(|path| path.local),
            Some(CandidateType::Relay)
        );
    }
}

#[tokio::test]
async fn one_end_behind_a_relay_reaches_one_that_is_not() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let url = format!("turn:127.0.0.1:{}", coturn.port);
    let hidden = relayed(coturn.server(url), &coturn);
    let (a, b) = connect(&hidden, &config()).await.unwrap();
    carries_both_ways(&a, &b).await;
    assert_eq!(
        a.stats().path.map(|path| (path.local, path.remote)),
        Some((CandidateType::Relay, CandidateType::Host))
    );
}

#[tokio::test]
async fn a_direct_way_is_preferred_to_a_relay() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let url = format!("turn:127.0.0.1:{}", coturn.port);
    let config = config().with_ice_servers([coturn.server(url)]);
    let (a, _b) = connect(&config, &config).await.unwrap();
    assert_eq!(
        a.stats().path.map(|path| (path.local, path.remote)),
        Some((CandidateType::Host, CandidateType::Host))
    );
}

#[tokio::test]
async fn candidates_trickle_and_end() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let server = IceServer {
        urls: vec![
            format!("stun:127.0.0.1:{}", coturn.port),
            format!("turn:127.0.0.1:{}", coturn.port),
            format!("turn:127.0.0.1:{}?transport=tcp", coturn.port),
        ],
        username: Some(USER.into()),
        credential: Some(PASSWORD.into()),
    };
    let config = config().with_ice_servers([server]);
    let (connecting, offer) = Connecting::offer(&config).await.unwrap();
    assert!(offer.contains(" typ host"), "{offer}");
    assert!(!offer.contains("end-of-candidates"), "{offer}");
    let mut all = Vec::new();
    while let Some(candidate) = timeout(SOON, connecting.next_candidate()).await.unwrap() {
        all.push(candidate);
    }
    let end = all.pop().unwrap();
    assert!(end.is_end());
    // The mapped address is the host's own, so only the relays are news.
    assert_eq!(all.len(), 2, "{all:?}");
    for candidate in all {
        let text = candidate.candidate;
        assert!(text.contains(" typ relay raddr 0.0.0.0 rport 0"), "{text}");
        assert_eq!(candidate.sdp_m_line_index, Some(0));
    }
}

#[tokio::test]
async fn without_servers_the_description_is_complete() {
    let (connecting, offer) = Connecting::offer(&config()).await.unwrap();
    assert!(offer.contains("a=end-of-candidates"), "{offer}");
    let end = timeout(SOON, connecting.next_candidate()).await.unwrap();
    assert_eq!(end, None);
}

/// Why no relay came of one server that is there.
async fn failure(server: IceServer) -> ServerError {
    failure_within(server, Duration::from_secs(5)).await
}

async fn failure_within(server: IceServer, patience: Duration) -> ServerError {
    let config = config()
        .with_ice_servers([server])
        .with_ice_policy(IcePolicy::Relay)
        .with_gathering_timeout(patience);
    let (connecting, _) = Connecting::offer(&config).await.unwrap();
    match timeout(SOON, connecting.opened()).await.unwrap() {
        Err(ConnectError::NoRelay(failures)) => failures.0[0].error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_credentials_are_named_as_such() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    for transport in ["udp", "tcp"] {
        let url = format!("turn:127.0.0.1:{}?transport={transport}", coturn.port);
        let wrong = with_credentials(url, "thunder");
        assert_eq!(failure(wrong).await, ServerError::Unauthorized);
    }
}

#[tokio::test]
async fn a_server_without_relays_to_spare_is_named_as_such() {
    let Some(coturn) = Coturn::start(&["user-quota=1"]) else {
        return;
    };
    let url = format!("turn:127.0.0.1:{}", coturn.port);
    let config = relayed(coturn.server(url.clone()), &coturn);
    let (first, _) = Connecting::offer(&config).await.unwrap();
    assert!(
        timeout(SOON, first.next_candidate())
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(failure(coturn.server(url)).await, ServerError::Quota(486));
}

#[tokio::test]
async fn an_unknown_certificate_is_named_as_such() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let url = format!("turns:localhost:{}", coturn.tls_port);
    assert_eq!(failure(coturn.server(url)).await, ServerError::Tls);
}

#[tokio::test]
async fn webrtc_ice_gathering_timeout_returns_error() {
    let silent_udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let silent_tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let udp = silent_udp.local_addr().unwrap().port();
    let tcp = silent_tcp.local_addr().unwrap().port();
    for (url, expected) in [
        (format!("turn:127.0.0.1:{udp}"), ServerError::NoAnswer),
        (
            format!("turn:127.0.0.1:{tcp}?transport=tcp"),
            ServerError::NoAnswer,
        ),
        (format!("turns:127.0.0.1:{tcp}"), ServerError::NoAnswer),
    ] {
        let server = with_credentials(url.clone(), PASSWORD);
        let failed = failure_within(server, Duration::from_millis(300)).await;
        assert_eq!(failed, expected, "{url}");
    }
}

#[tokio::test]
async fn servers_of_no_use_are_named_as_what_they_are() {
    let closed = {
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let refused = std::io::ErrorKind::ConnectionRefused;
    for (url, expected) in [
        (
            format!("turn:127.0.0.1:{closed}?transport=tcp"),
            ServerError::Connect(refused),
        ),
        ("turn:[::1]".to_owned(), ServerError::Family),
        ("turn:nowhere.invalid".to_owned(), ServerError::Name),
        ("http://127.0.0.1".to_owned(), ServerError::Url),
    ] {
        let server = with_credentials(url.clone(), PASSWORD);
        assert_eq!(failure(server).await, expected, "{url}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_refused() {
    let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!(
        "turn:127.0.0.1:{}?transport=tcp",
        http.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        let (mut socket, _) = http.accept().await.unwrap();
        let page = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut socket, page)
            .await
            .unwrap();
    });
    let server = with_credentials(url, PASSWORD);
    assert_eq!(failure(server).await, ServerError::Protocol);
}

#[tokio::test]
async fn webrtc_connection_fails_gracefully_if_all_servers_unreachable() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("stun:127.0.0.1:{}", silent.local_addr().unwrap().port());
    let dead = IceServer {
        urls: vec![url.clone()],
        username: None,
        credential: None,
    };
    let short = config()
        .with_ice_servers([dead])
        .with_open_timeout(Duration::from_millis(500));
    let (connecting, _) = Connecting::offer(&short).await.unwrap();
    match connecting.opened().await {
        Err(ConnectError::Unreachable { servers, .. }) => {
            assert_eq!(servers.0[0].url, url);
            assert_eq!(servers.0[0].error, ServerError::NoAnswer);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_check_tells_of_each_server_by_itself() {
    let Some(coturn) = Coturn::start(&[]) else {
        return;
    };
    let port = coturn.port;
    let udp = format!("turn:127.0.0.1:{port}");
    let good = IceServer {
        urls: vec![
            format!("stun:127.0.0.1:{port}"),
            udp.clone(),
            format!("{udp}?transport=tcp"),
            format!("turns:localhost:{}", coturn.tls_port),
        ],
        username: Some(USER.into()),
        credential: Some(PASSWORD.into()),
    };
    let unknown = with_credentials("turn:nowhere.invalid".into(), PASSWORD);
    let config = config()
        .with_ice_servers([good, unknown])
        .with_trusted_certificates([coturn.certificate.clone()]);
    let check = check_servers(&config).await.unwrap();
    let results: Vec<_> = check.servers.iter().map(|server| server.result).collect();
    assert!(results[..4].iter().all(Result::is_ok), "{results:?}");
    assert_eq!(results[4], Err(ServerError::Name));
    assert_eq!(check.nat, NatMapping::None);
    assert_eq!(check.addresses, [Ipv4Addr::LOCALHOST]);

    let through = check_link(&relayed(coturn.server(udp), &coturn))
        .await
        .unwrap();
    assert_eq!(
        through.path.map(|path| path.local),
        Some(CandidateType::Relay)
    );
}
