//! Exchanges a room's invite for a grant, over HTTP beside the WebSocket (`docs/protocols/signaling.md`).

use std::{io, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_protocol::limits;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use url::Url;

/// The longest answer that is read, in bytes; a grant has at most 2 KiB.
const MAX_ANSWER_LEN: usize = 8 * 1024;

/// Why an invite was not exchanged.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("the server cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the server took too long")]
    Slow,
    #[error("what the server answers is no grant")]
    Garbled,
    #[error(
        "the invite is not, or no longer, good for this room: ask whoever invited you for a new one"
    )]
    Forbidden,
    #[error("the server is open: join without the invite's secret")]
    Open,
    #[error("the server refused with HTTP status {0}")]
    Refused(u16),
}

impl ExchangeError {
    /// Whether a server has looked at the invite and refused it.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::Forbidden | Self::Open)
    }
}

/// A grant of the first server that gives one, each of which may take `patience`.
pub(crate) async fn exchange(
    urls: Vec<Url>,
    room: RoomId,
    peer_id: PeerId,
    invite: String,
    patience: Duration,
) -> Result<String, crate::TokenError> {
    let mut failed = ExchangeError::Garbled;
    for url in &urls {
        let asked = timeout(patience, ask(url, &room, &peer_id, &invite)).await;
        match asked.unwrap_or(Err(ExchangeError::Slow)) {
            Ok(grant) => return Ok(grant),
            Err(error) => {
                tracing::debug!(%error, %url, "no grant for the invite");
                // What a server says of the invite tells more than that another is silent.
                if !failed.is_an_answer() {
                    failed = error;
                }
            }
        }
    }
    Err(failed.into())
}

/// Where a server exchanges invites whose WebSocket is at `url`.
fn endpoint(url: &Url, room: &RoomId) -> String {
    let prefix = url.path().strip_suffix(limits::WEBSOCKET_PATH);
    format!("{}/v1/rooms/{room}/grants", prefix.unwrap_or_default())
}

async fn ask(
    url: &Url,
    room: &RoomId,
    peer_id: &PeerId,
    invite: &str,
) -> Result<String, ExchangeError> {
    let body = json!({ "peer_id": peer_id.as_str(), "invite": invite });
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::post(endpoint(url, room))
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|_| ExchangeError::Garbled)?;
    let unreachable = ExchangeError::Unreachable;
    let port = url.port_or_known_default().ok_or(ExchangeError::Garbled)?;
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((name, port))
        .await
        .map_err(unreachable)?;
    if url.scheme() == "wss" {
        #[cfg(feature = "tls")]
        return send(secured(name, stream).await.map_err(unreachable)?, request).await;
        #[cfg(not(feature = "tls"))]
        return Err(unreachable(io::ErrorKind::Unsupported.into()));
    }
    send(stream, request).await
}

#[cfg(feature = "tls")]
async fn secured(
    name: &str,
    stream: TcpStream,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    let config = crate::socket::tls_config().map_err(io::Error::other)?;
    let name = rustls::pki_types::ServerName::try_from(name.to_owned());
    let name = name.map_err(io::Error::other)?;
    tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<String, ExchangeError> {
    let broken = |error: hyper::Error| ExchangeError::Unreachable(io::Error::other(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_LEN)
            .collect()
            .await;
        Ok((status, body.map_err(|_| ExchangeError::Garbled)?.to_bytes()))
    };
    let (status, body) = tokio::select! {
        answered = answered => answered?,
        // It ends by itself only when there will be no answer.
        _ = connection => return Err(ExchangeError::Garbled),
    };
    match status {
        StatusCode::CREATED => {}
        StatusCode::FORBIDDEN => return Err(ExchangeError::Forbidden),
        StatusCode::NOT_FOUND => return Err(ExchangeError::Open),
        status => return Err(ExchangeError::Refused(status.as_u16())),
    }
    let answer: Value = serde_json::from_slice(&body).map_err(|_| ExchangeError::Garbled)?;
    let token = answer["token"].as_str().ok_or(ExchangeError::Garbled)?;
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invites_are_exchanged_beside_the_websocket() {
        let room = RoomId::new("r").unwrap();
        for (url, path) in [
            ("ws://h/v1/ws", "/v1/rooms/r/grants"),
            ("ws://h/behind/v1/ws", "/behind/v1/rooms/r/grants"),
            ("ws://h/elsewhere", "/v1/rooms/r/grants"),
        ] {
            assert_eq!(endpoint(&Url::parse(url).unwrap(), &room), path);
        }
    }
}
