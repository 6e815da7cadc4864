//! The accept loop: bounds in number and time what a stranger can hold open.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tower_service::Service;

use crate::{Shared, address::AddressSlot, http};

/// Pause after the operating system refused to accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long an answer may still be on its way once the server is to stop, or the connection's time is over.
const GRACE: Duration = Duration::from_secs(2);

/// How a connection begins that speaks TLS (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What a client is told that speaks HTTP to a server with a certificate.
const NOT_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n\
    this server speaks https and wss\n";

/// One of the server's `max_connections` places; travels with an upgraded connection.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    _permit: Arc<OwnedSemaphorePermit>,
    /// Absent where the peer is a trusted proxy: its clients take places of their own.
    _address: Option<Arc<AddressSlot>>,
}

/// Whom a connection comes from; a proxy's, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

/// Accepts connections for ever.
pub(crate) async fn run(listener: &TcpListener, shared: &Arc<Shared>) {
    let router = http::router(Arc::clone(shared));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&shared.slots).try_acquire_owned() else {
            shared.metrics.refused_connections.add(1);
            continue;
        };
        let trusted = &shared.config.trusted_proxies;
        let address = match trusted.iter().any(|range| range.contains(peer)) {
            true => None,
            false => match shared.addresses.take(peer) {
                Some(address) => Some(Arc::new(address)),
                None => {
                    shared.metrics.refused_addresses.add(1);
                    continue;
                }
            },
        };
        let slot = Slot {
            _permit: Arc::new(permit),
            _address: address,
        };
        let serving = serve(
            stream,
            PeerAddress(peer),
            slot,
            router.clone(),
            Arc::clone(shared),
        );
        shared.tasks.spawn(serving);
    }
}

/// Serves one connection, in TLS if the server has a certificate.
async fn serve(
    stream: TcpStream,
    peer: PeerAddress,
    slot: Slot,
    router: axum::Router,
    shared: Arc<Shared>,
) {
    // Signaling messages are small and somebody waits for each; failure costs only time.
    let _ = stream.set_nodelay(true);
    let mut byte = [0];
    let first_byte = timeout(shared.config.first_byte_timeout, stream.peek(&mut byte));
    tokio::select! {
        peeked = first_byte => if !matches!(peeked, Ok(Ok(1..))) {
            return;
        },
        () = shared.stop.cancelled() => return,
    }
    let Some(tls) = &shared.config.tls else {
        return exchange(stream, peer, slot, router, &shared).await;
    };
    let time = shared.config.header_timeout;
    if byte[0] != TLS_HANDSHAKE {
        shared.metrics.failed_handshakes.add(1);
        // Whoever does not take it will not miss it.
        let _ = timeout(time, explain(stream)).await;
        return;
    }
    let accepted = tokio::select! {
        accepted = timeout(time, tls.acceptor().accept(stream)) => accepted,
        () = shared.stop.cancelled() => return,
    };
    match accepted {
        Ok(Ok(stream)) => exchange(stream, peer, slot, router, &shared).await,
        failed => {
            shared.metrics.failed_handshakes.add(1);
            tracing::debug!(peer = %peer.0, ?failed, "no TLS handshake");
        }
    }
}

/// Tells a client that speaks plain HTTP what is spoken here.
async fn explain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(NOT_TLS).await?;
    stream.shutdown().await?;
    // Were what it sent left unread, its end would be reset before it reads ours.
    let mut request = [0; 1024];
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

/// Answers what is asked over a connection, until it ends or becomes a WebSocket.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: PeerAddress,
    slot: Slot,
    router: axum::Router,
    shared: &Shared,
) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(slot.clone());
        request.extensions_mut().insert(peer);
        let response = router.clone().call(request);
        async move { response.await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.header_timeout)
        .max_buf_size(http::MAX_HEADER_LEN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => Some(outcome),
        // Hyper waits for ever for a client that does not read.
        () = sleep(shared.config.exchange_timeout) => None,
        () = shared.stop.cancelled() => None,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}
