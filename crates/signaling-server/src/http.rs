//! The HTTP side: the upgrade, the probes, the metrics and the page.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{State, WebSocketUpgrade},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use roundtable_signaling_protocol::limits;

use crate::{
    Shared,
    accept::{PeerAddress, Slot},
    address, api, connection,
    metrics::Text,
    page, process,
};

/// Largest request header in bytes (hyper takes no less).
pub(crate) const MAX_HEADER_LEN: usize = 8192;

/// A WebSocket's buffer in bytes. With the library's default of 128 KiB an idle connection costs
/// seventeen times as much.
const BUFFER_LEN: usize = 4096;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(limits::WEBSOCKET_PATH, get(upgrade))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(api::router())
        .merge(page::router())
        .with_state(shared)
}

/// Whether clients are to be sent here, and how the servers are that they are told of.
async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let health = &shared.health;
    let refusal = if shared.stop.is_cancelled() {
        Some("draining")
    } else if shared.bus.admits().is_err() {
        Some("NATS away or settling")
    } else if !health.is_ready() {
        Some("a STUN or TURN server fails")
    } else {
        None
    };
    let status = refusal.map_or(StatusCode::OK, |_| StatusCode::SERVICE_UNAVAILABLE);
    (status, format!("{}\n{health}", refusal.unwrap_or("ready")))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = Text::default();
    shared.metrics.render(&mut text);
    shared.health.render(&mut text);
    if let Some(tls) = &shared.config.tls {
        tls.render(&mut text);
    }
    let render = move || {
        process::render(&mut text);
        text.finish()
    };
    let content_type = (header::CONTENT_TYPE, "text/plain; version=0.0.4");
    match tokio::task::spawn_blocking(render).await {
        Ok(text) => ([content_type], text).into_response(),
        // The runtime ends.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(slot): Extension<Slot>,
    Extension(PeerAddress(peer)): Extension<PeerAddress>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !may_connect(&headers, &shared) {
        return (StatusCode::FORBIDDEN, "this origin may not connect\n").into_response();
    }
    let client = address::client_address(peer, &headers, &shared.config.trusted_proxies);
    // Who comes by a trusted proxy has taken no place of its own yet.
    let forwarded = match client == peer.to_canonical() {
        true => None,
        false => match shared.addresses.take(client) {
            Some(place) => Some(place),
            None => {
                shared.metrics.refused_addresses.add(1);
                let message = "too many connections from your address\n";
                return (StatusCode::TOO_MANY_REQUESTS, message).into_response();
            }
        },
    };
    let running = shared.tasks.token();
    upgrade
        .read_buffer_size(BUFFER_LEN)
        .write_buffer_size(0)
        .max_message_size(limits::MAX_MESSAGE_LEN)
        .max_frame_size(limits::MAX_MESSAGE_LEN)
        .on_upgrade(move |socket| async move {
            connection::run(socket, slot, shared).await;
            drop((running, forwarded));
        })
}

/// Whether the page may connect that a request comes from, if it comes from one: also from those of the cluster's
/// other servers.
pub(crate) fn may_connect(headers: &HeaderMap, shared: &Shared) -> bool {
    let cluster = || -> Vec<_> {
        let urls = shared.bus.elsewhere();
        urls.iter().map(|url| origin_of(url)).collect()
    };
    origin_is_allowed(headers, &shared.config.allowed_origins)
        || origin_is_allowed(headers, &cluster())
}

/// The origin of the page of the server whose WebSocket has this URL.
pub(crate) fn origin_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let scheme = if scheme == "wss" { "https" } else { "http" };
    format!("{scheme}://{host}")
}

/// Whether a page of this origin (RFC 6454) may connect: none at all, the server's own, or one on
/// the list. Browsers let any page open a WebSocket to anywhere; only this check stops it.
fn origin_is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let own = authority.is_some_and(|a| host.is_some_and(|host| a.eq_ignore_ascii_case(host)));
    own || allowed.iter().any(|a| a.eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: Option<&str>, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        origin_is_allowed(&headers, &["https://friend.example".into()])
    }

    #[test]
    fn a_servers_page_has_its_sockets_host_and_port() {
        assert_eq!(
            origin_of("wss://a.example:8443/v1/ws"),
            "https://a.example:8443"
        );
        assert_eq!(origin_of("ws://127.0.0.1:80"), "http://127.0.0.1:80");
    }

    #[test]
    fn only_no_origin_our_own_and_friends_may_connect() {
        assert!(allowed(None, "here:8080"));
        assert!(allowed(Some("http://here:8080"), "here:8080"));
        assert!(allowed(Some("https://friend.example"), "here:8080"));
        assert!(!allowed(Some("http://here"), "here:8080"));
        assert!(!allowed(Some("https://here.evil.example"), "here"));
        assert!(!allowed(Some("https://evil.example"), "here:8080"));
        assert!(!allowed(Some("null"), "here:8080"));
    }
}
