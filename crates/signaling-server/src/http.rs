//! The HTTP side: the upgrade, the probes, the metrics and the page.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

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
    let queued = u64::try_from(shared.budget.used()).unwrap_or(u64::MAX);
    let help = "Bytes that wait for clients.";
    text.single("gauge", "queued_bytes", help, queued);
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
        return (
            StatusCode::FORBIDDEN,
            "this origin may not connect: the server's operator may name it with --allow-origin\n",
        )
            .into_response();
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

/// Whether the page may connect that a request comes from, if it comes from one: also from those under the public URLs
/// of the cluster's servers.
pub(crate) fn may_connect(headers: &HeaderMap, shared: &Shared) -> bool {
    let cluster = || -> Vec<_> {
        let others = shared.bus.elsewhere();
        let urls = others.iter().map(String::as_str);
        urls.chain(shared.config.public_url())
            .map(origin_of)
            .collect()
    };
    let is_local = shared.config.listen.ip().is_loopback();
    origin_is_allowed(headers, is_local, &shared.config.allowed_origins)
        || origin_is_allowed(headers, is_local, &cluster())
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
///
/// `is_local`: the server listens on a loopback address. Whoever owns a name can have it stand for that address (DNS
/// rebinding), and then his page's `Origin` and `Host` agree; so only a host that needs no DNS is such a server's own.
fn origin_is_allowed(headers: &HeaderMap, is_local: bool, allowed: &[String]) -> bool {
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
    let own = authority.is_some_and(|a| host.is_some_and(|host| a.eq_ignore_ascii_case(host)))
        && (!is_local || host.is_some_and(needs_no_dns));
    own || allowed.iter().any(|a| a.eq_ignore_ascii_case(origin))
}

/// Whether a `Host` is `localhost` or an address, with or without a port.
fn needs_no_dns(host: &str) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let v6 = name.strip_prefix('[').and_then(|v6| v6.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: Option<&str>, host: &str) -> bool {
        let answers = [false, true].map(|is_local| allowed_by(is_local, origin, host));
        assert!(answers[0] || !answers[1]);
        answers[0]
    }

    fn allowed_by(is_local: bool, origin: Option<&str>, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        origin_is_allowed(&headers, is_local, &["https://friend.example".into()])
    }

    #[test]
    fn a_name_that_somebody_points_at_this_machine_is_no_local_servers_own() {
        for host in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
        ] {
            let origin = format!("http://{host}");
            assert!(allowed_by(true, Some(&origin), host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "[::1].evil.example",
            "::1",
            "",
        ] {
            let origin = format!("http://{host}");
            assert!(!allowed_by(true, Some(&origin), host), "{host}");
        }
        // Named, behind a proxy, say.
        assert!(allowed_by(
            true,
            Some("https://friend.example"),
            "friend.example"
        ));
        assert!(allowed_by(true, None, "evil.example"));
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
