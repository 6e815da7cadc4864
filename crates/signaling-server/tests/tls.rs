//! A server with a certificate: who speaks TLS is served, whatever becomes of the files.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{TestServer, any_port, soon};
use futures_util::{SinkExt, StreamExt};
use roundtable_signaling_server::{TlsConfig, TlsError};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::Message;

/// A certificate for `localhost` that signs itself, written as `cert.pem` and `key.pem`.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.into()
}

/// A server with a certificate, and the directory that it is read from.
fn server() -> (
    TestServer,
    TlsConfig,
    tempfile::TempDir,
    CertificateDer<'static>,
) {
    let dir = tempfile::tempdir().unwrap();
    let cert = certificate(dir.path());
    let tls = TlsConfig::open(dir.path().join("cert.pem"), dir.path().join("key.pem")).unwrap();
    let tls = tls.with_poll_interval(Duration::from_millis(50));
    (
        TestServer::start(any_port().with_tls(tls.clone())),
        tls,
        dir,
        cert,
    )
}

/// A connection whose other end shows just this certificate.
async fn connect(
    server: &TestServer,
    cert: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
}

async fn get(server: &TestServer, cert: &CertificateDer<'static>, path: &str) -> String {
    let mut stream = connect(server, cert).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon(stream.read_to_string(&mut response)).await.unwrap();
    response
}

async fn metric(server: &TestServer, cert: &CertificateDer<'static>, name: &str) -> u64 {
    let metrics = get(server, cert, "/metrics").await;
    let name = format!("roundtable_signaling_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value
        .unwrap_or_else(|| panic!("no {name}in {metrics}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_peer_joins_over_tls_and_the_page_is_there() {
    let (server, _, _dir, cert) = server();
    assert!(get(&server, &cert, "/").await.starts_with("HTTP/1.1 200"));
    let stream = connect(&server, &cert).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://localhost/v1/ws", stream)
        .await
        .unwrap();
    let announce = r#"{"jsonrpc":"2.0","id":1,"method":"peer.announce","params":{"protocol":1,"room":"r","peer_id":"alice","capabilities":["data"]}}"#;
    socket.send(Message::text(announce)).await.unwrap();
    let answer = soon(socket.next())
        .await
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap();
    assert!(answer.contains("\"peer_id\":\"alice\""), "{answer}");
    let ends = metric(&server, &cert, "tls_certificate_expires_seconds").await;
    assert!(ends > 1_800_000_000, "{ends}");
}

#[tokio::test]
async fn a_changed_certificate_comes_into_use_and_a_broken_one_does_not() {
    let (server, _, dir, first) = server();
    let mut before = connect(&server, &first).await.unwrap();

    let second = certificate(dir.path());
    soon(async { while connect(&server, &second).await.is_err() {} }).await;
    assert!(
        connect(&server, &first).await.is_err(),
        "the first is no longer shown"
    );
    assert_eq!(metric(&server, &second, "tls_reload_failing").await, 0);

    std::fs::write(dir.path().join("cert.pem"), "no certificate").unwrap();
    soon(async { while metric(&server, &second, "tls_reload_failing").await == 0 {} }).await;
    assert!(metric(&server, &second, "tls_failed_reloads_total").await >= 1);

    let third = certificate(dir.path());
    soon(async { while connect(&server, &third).await.is_err() {} }).await;
    assert_eq!(metric(&server, &third, "tls_reload_failing").await, 0);

    // Who was connected all along is still served.
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    before.write_all(request).await.unwrap();
    let mut response = String::new();
    soon(before.read_to_string(&mut response)).await.unwrap();
    assert!(response.ends_with("ok\n"), "{response}");
}

#[tokio::test]
async fn a_certificate_is_reloaded_on_demand_or_the_reason_given_why_not() {
    let (server, tls, dir, first) = server();
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Io { path, .. }) if path.ends_with("key.pem")));
    std::fs::write(dir.path().join("key.pem"), "no key").unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Key { .. })));
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    std::fs::copy(other.path().join("key.pem"), dir.path().join("key.pem")).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Pair { .. })));
    assert!(connect(&server, &first).await.is_ok());
    std::fs::copy(other.path().join("cert.pem"), dir.path().join("cert.pem")).unwrap();
    tls.reload().unwrap();
    assert!(connect(&server, &first).await.is_err());
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_closed_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let cert = certificate(dir.path());
    let tls = TlsConfig::open(dir.path().join("cert.pem"), dir.path().join("key.pem")).unwrap();
    let (patience, short) = (Duration::from_secs(10), Duration::from_millis(300));
    let server = TestServer::start(any_port().with_tls(tls).with_http_timeouts(patience, short));
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&[22, 3, 1]).await.unwrap();
        stalled.push(stream);
    }
    assert!(get(&server, &cert, "/healthz").await.ends_with("ok\n"));
    for stream in &mut stalled {
        let mut rest = Vec::new();
        // Closed or reset: both end it.
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    assert_eq!(metric(&server, &cert, "failed_handshakes_total").await, 50);
}

#[tokio::test]
async fn who_speaks_plain_http_is_told_what_is_spoken_here() {
    let (server, _, _dir, _) = server();
    let response = server.get("/").await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    assert!(response.ends_with("https and wss\n"), "{response}");
}
