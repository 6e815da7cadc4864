//! The browser client: static files compiled in, behind a policy that lets nothing else in, and lets it go to
//! nobody but the servers of its cluster.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{Shared, http::origin_of};

const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("../web/index.html")),
    ("/style.css", CSS, include_str!("../web/style.css")),
    ("/app.js", JS, include_str!("../web/app.js")),
    ("/signaling.js", JS, include_str!("../web/signaling.js")),
    ("/peer.js", JS, include_str!("../web/peer.js")),
    ("/levels.js", JS, include_str!("../web/levels.js")),
    ("/view.js", JS, include_str!("../web/view.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// Everything from this server and nothing from elsewhere; no inline script or style.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'; connect-src 'self'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (
        HeaderName::from_static("permissions-policy"),
        "microphone=(self), camera=(), geolocation=()",
    ),
];

pub(crate) fn router() -> Router<Arc<Shared>> {
    let add = |router: Router<Arc<Shared>>, (path, content_type, body)| {
        let answer = move |State(shared): State<Arc<Shared>>| async move {
            file(content_type, body, &shared.bus.elsewhere())
        };
        router.route(path, get(answer))
    };
    FILES.into_iter().fold(Router::new(), add)
}

/// A file, whose page may go to these other servers, too.
fn file(content_type: &'static str, body: &'static str, servers: &[String]) -> Response {
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    let headers = HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value)));
    response.headers_mut().extend(headers);
    let mut policy = CONTENT_SECURITY_POLICY.to_owned();
    for url in servers {
        // A WebSocket to it, and its grants.
        policy = format!("{policy} {} {}", socket_of(url), origin_of(url));
    }
    if let Ok(policy) = policy.parse() {
        let policies = header::CONTENT_SECURITY_POLICY;
        response.headers_mut().insert(policies, policy);
    }
    response
}

/// Scheme, host and port of a WebSocket's URL.
fn socket_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    format!("{scheme}://{}", rest.split('/').next().unwrap_or_default())
}
