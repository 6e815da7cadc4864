//! One WebSocket to the server, from the dial to the announce's result.

use std::{io, time::Duration};

use futures_util::{SinkExt, StreamExt};
use roundtable_signaling_protocol::{
    ClientMessage, CloseReason, Joined, MessageId, Request, ResumeToken, ServerMessage, limits,
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use url::Url;

use crate::{ClientConfig, JoinError};

/// How long one message may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server that does not answer is given before another connection to it is tried as well, and how many are.
const KNOCK_EVERY: Duration = Duration::from_millis(250);
const MAX_KNOCKS: usize = 8;

/// The id of `peer.announce`; requests count on from here.
pub(crate) const ANNOUNCE_ID: i64 = 1;

/// The connection is gone; with the close code, if the server sent one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost(pub(crate) Option<u16>);

/// What was read from the socket.
#[derive(Debug)]
pub(crate) enum Received {
    Message(ServerMessage),
    /// A ping, a pong, or something that cannot be read.
    SignOfLife,
}

#[derive(Debug)]
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn connect(url: &Url) -> Result<Self, JoinError> {
        let websocket = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(limits::MAX_MESSAGE_LEN))
            .max_frame_size(Some(limits::MAX_MESSAGE_LEN));
        match dial(url, websocket).await {
            Ok(socket) => Ok(Self(socket)),
            Err(Error::Http(response)) if response.status() == 503 => {
                Err(JoinError::Unavailable { retry_after: None })
            }
            Err(error) if is_insecure(&error) => Err(JoinError::Insecure {
                url: url.clone(),
                source: Box::new(error),
            }),
            Err(error @ Error::Io(_)) => Err(JoinError::Unreachable {
                url: url.clone(),
                source: Some(Box::new(error)),
            }),
            Err(_) => Err(JoinError::NotASignalingServer { url: url.clone() }),
        }
    }

    /// Writes one message. A server that does not take it in time counts as lost.
    pub(crate) async fn send(&mut self, message: &ClientMessage) -> Result<(), Lost> {
        self.write(Message::text(message.encode())).await
    }

    /// Asks the server for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), Lost> {
        self.write(Message::Ping(Vec::new().into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Lost> {
        match timeout(WRITE_TIMEOUT, self.0.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Lost(None)),
        }
    }

    /// Reads the next message. Cancel safe.
    pub(crate) async fn receive(&mut self) -> Result<Received, Lost> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Ok(match ServerMessage::parse(&text) {
                Ok(message) => Received::Message(message),
                Err(error) => {
                    // It may be of a later version; what depends on it times out by itself.
                    tracing::warn!(%error, "skipping a message of the signaling server");
                    Received::SignOfLife
                }
            }),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Received::SignOfLife),
            Some(Ok(Message::Close(frame))) => Err(Lost(frame.map(|frame| frame.code.into()))),
            Some(Ok(Message::Binary(_) | Message::Frame(_)) | Err(_)) | None => Err(Lost(None)),
        }
    }

    /// Closes the connection properly, waiting for the server to do the same.
    pub(crate) async fn close(mut self) {
        if self.0.close(None).await.is_ok() {
            while let Some(Ok(_)) = self.0.next().await {}
        }
    }
}

/// TLS failures come as I/O errors of this kind, too.
fn is_insecure(error: &Error) -> bool {
    match error {
        Error::Tls(_) => true,
        Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

type Dialed = Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error>;

#[cfg(not(feature = "tls"))]
async fn dial(url: &Url, websocket: WebSocketConfig) -> Dialed {
    use tokio_tungstenite::client_async_with_config;

    let stream = MaybeTlsStream::Plain(reach(url).await?);
    let dialed = client_async_with_config(url.as_str(), stream, Some(websocket));
    dialed.await.map(|(socket, _)| socket)
}

#[cfg(feature = "tls")]
async fn dial(url: &Url, websocket: WebSocketConfig) -> Dialed {
    use tokio_tungstenite::{Connector, client_async_tls_with_config};

    let connector = if url.scheme() == "wss" {
        Connector::Rustls(tls_config().map_err(|error| Error::Tls(error.into()))?)
    } else {
        Connector::Plain
    };
    let stream = reach(url).await?;
    let dialed =
        client_async_tls_with_config(url.as_str(), stream, Some(websocket), Some(connector));
    dialed.await.map(|(socket, _)| socket)
}

/// Connects to a server. While it is silent, another connection is tried beside the first every [`KNOCK_EVERY`]: if packets were lost, or
/// the network has just come back, that one is through long before TCP, whose pauses start at a second, sends again (RFC 6298 §2.1).
async fn reach(url: &Url) -> io::Result<TcpStream> {
    let host = url.host_str().unwrap_or_default();
    // As an address of IPv6 stands in a URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or_default();
    let mut knocks = JoinSet::new();
    let (mut knock, mut failure) = (0, io::ErrorKind::NotFound.into());
    loop {
        if knock < MAX_KNOCKS {
            let host = host.to_owned();
            knocks.spawn(async move { TcpStream::connect((host, port)).await });
            knock += 1;
        }
        let reached = tokio::select! {
            reached = knocks.join_next() => reached,
            () = sleep(KNOCK_EVERY), if knock < MAX_KNOCKS => continue,
        };
        match reached {
            Some(Ok(Ok(stream))) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            // A server that refuses one connection would refuse the next.
            Some(Ok(Err(error))) => (failure, knock) = (error, MAX_KNOCKS),
            // None is cancelled before this ends.
            Some(Err(_)) => {}
            None => return Err(failure),
        }
    }
}

/// Trusts whom the system trusts, and takes nothing less than TLS 1.3.
#[cfg(feature = "tls")]
pub(crate) fn tls_config() -> Result<std::sync::Arc<rustls::ClientConfig>, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config.into())
}

/// Enters the room by any of the servers; gives the number of the one that let us in. If none does, the
/// refusal that tells most counts.
pub(crate) async fn join_any(
    config: &ClientConfig,
    first: usize,
) -> Result<(Socket, Joined, usize), JoinError> {
    let servers = config.urls().len();
    let mut refused: Option<JoinError> = None;
    for server in (0..servers).map(|n| (first + n) % servers) {
        match join(config, server, None, None).await {
            Ok((socket, joined)) => return Ok((socket, joined, server)),
            Err(error) if !error.is_of_the_server() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "trying the next server");
                let tells_more = |known: &JoinError| error.weight() > known.weight();
                if refused.as_ref().is_none_or(tells_more) {
                    refused = Some(error);
                }
            }
        }
    }
    // There is at least one.
    Err(refused.unwrap_or(JoinError::Timeout))
}

/// Connects to a server, by its number, within `patience` if that is less than the config's, and announces, with `resume`
/// to take an earlier place again.
pub(crate) async fn join(
    config: &ClientConfig,
    server: usize,
    resume: Option<ResumeToken>,
    patience: Option<Duration>,
) -> Result<(Socket, Joined), JoinError> {
    let dial_timeout = config.dial_timeout().min(patience.unwrap_or(Duration::MAX));
    let url = &config.urls()[server];
    let dialing = async {
        let token = config.token(server).await?;
        Ok((token, Socket::connect(url).await?))
    };
    let joining = async {
        let dialed = timeout(dial_timeout, dialing).await;
        let (token, mut socket) = dialed.map_err(|_| JoinError::Timeout)??;
        let announce = Request::Announce(Box::new(config.announce(token, resume)));
        let announce = ClientMessage::request(MessageId::Number(ANNOUNCE_ID), announce);
        let lost = |Lost(code)| lost_while_joining(url, code);
        socket.send(&announce).await.map_err(lost)?;
        let message = loop {
            match socket.receive().await.map_err(lost)? {
                Received::Message(message) => break message,
                Received::SignOfLife => {}
            }
        };
        let stranger = || JoinError::NotASignalingServer { url: url.clone() };
        match message {
            ServerMessage::Result { result, .. } => {
                let joined = ServerMessage::joined(&result).map_err(|_| stranger())?;
                if joined.peer_id != config.peer_id || joined.room != config.room {
                    return Err(stranger());
                }
                Ok((socket, joined))
            }
            ServerMessage::Error { error, .. } => Err(JoinError::refused(error)),
            _ => Err(stranger()),
        }
    };
    let joined = timeout(config.join_timeout, joining).await;
    joined.map_err(|_| JoinError::Timeout)?
}

fn lost_while_joining(url: &Url, code: Option<u16>) -> JoinError {
    match code.and_then(CloseReason::from_code) {
        Some(CloseReason::Unauthorized) => JoinError::Unauthorized,
        Some(CloseReason::Draining | CloseReason::RateLimited) => {
            JoinError::Unavailable { retry_after: None }
        }
        Some(_) => JoinError::NotASignalingServer { url: url.clone() },
        None => JoinError::Unreachable {
            url: url.clone(),
            source: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_back_is_reached_before_tcp_would_send_again() {
        // A listener whose queue is full drops whoever knocks, as a network that is away does.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(queued) = timeout(KNOCK_EVERY, TcpStream::connect(address)).await {
            queue.push(queued.unwrap());
        }
        let url = Url::parse(&format!("ws://{address}")).unwrap();
        let back = async {
            sleep(KNOCK_EVERY / 2).await;
            for _ in &queue {
                listener.accept().await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = TcpStream::connect(address) => panic!("knocking once was as good"),
            reached = reach(&url) => assert_eq!(reached.unwrap().peer_addr().unwrap(), address),
            () = back => {}
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_not_asked_again() {
        let gone = TcpSocket::new_v4().unwrap();
        gone.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let url = format!("ws://{}", gone.local_addr().unwrap());
        let refused = reach(&Url::parse(&url).unwrap()).await;
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
