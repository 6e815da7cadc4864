//! The UDP socket of a peer, and how links come to be on it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ed25519_dalek::SigningKey;
use futures_util::stream::{FuturesUnordered, StreamExt};
use quinn::{
    ClientConfig, Connection, ConnectionError, ServerConfig, TokioRuntime, TransportConfig,
};
use roundtable_core::{AuthorId, Channel, CloseCode};
use roundtable_transport::Closed;
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    ConfigError, QuicConfig, QuicLink, driver,
    incoming::{self, Lobby},
    socket,
    tls::{Identity, Seen},
};

/// The name that quinn wants for a server; it is neither sent nor checked.
const SERVER_NAME: &str = "roundtable";
/// TLS alert `no_application_protocol` (RFC 7301 §3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;
/// Bytes of unanswered first packets kept, for one connection and for all.
const INCOMING_BUFFER: (u64, u64) = (16 << 10, 1 << 20);

/// One UDP socket, both dialling and accepting, on which every QUIC link of a peer lives.
///
/// Cheap to clone. Dropping the last clone stops accepting; links that are up live on until they
/// are closed themselves, and the socket goes with the last of them.
#[derive(Debug, Clone)]
pub struct QuicEndpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Identity,
    config: Arc<QuicConfig>,
    transport: Arc<TransportConfig>,
    local: SocketAddr,
    lobby: Arc<Lobby>,
    /// `None` once closed.
    endpoint: Mutex<Option<quinn::Endpoint>>,
    acceptor: AbortHandle,
    /// Turns true on close. Every task of the endpoint and its links holds a receiver, so that
    /// close can wait for all of them.
    closing: watch::Sender<bool>,
}

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Called outside a tokio runtime.
    #[error("a QUIC endpoint needs a running tokio runtime")]
    NoRuntime,
    /// The address cannot be bound.
    #[error("cannot bind the UDP socket; is the address this machine's and the port free?")]
    Socket(#[source] std::io::Error),
    /// TLS refused the key.
    #[error("the author's key cannot be used for TLS")]
    Key(#[source] rustls::Error),
}

/// Why no link to a peer could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address was given, or none that this socket can reach.
    #[error("none of the peer's addresses can be reached from this socket")]
    NoAddress,
    /// The peer would be ourselves.
    #[error("this is our own key")]
    OwnKey,
    /// Somebody else answered.
    #[error("expected author {expected}, but {found} answered")]
    WrongKey {
        /// Whom we wanted.
        expected: AuthorId,
        /// Who was there.
        found: AuthorId,
    },
    /// The peer speaks another version of the link protocol.
    #[error("the peer speaks another version of the link protocol")]
    Version,
    /// The peer was reached and does not want this link.
    #[error("refused: {0}")]
    Refused(Closed),
    /// Nobody answered in time.
    #[error("no address answered before the deadline")]
    Timeout,
    /// The endpoint has been closed.
    #[error("the endpoint has been closed")]
    EndpointClosed,
}

impl ConnectError {
    /// Of several failures, the one that tells most is reported.
    fn weight(&self) -> u8 {
        match self {
            Self::NoAddress | Self::OwnKey => 0,
            Self::Timeout => 1,
            Self::WrongKey { .. } => 2,
            Self::Version => 3,
            Self::Refused(_) => 4,
            Self::EndpointClosed => 5,
        }
    }
}

/// Why no link from a peer came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The peer would be ourselves.
    #[error("this is our own key")]
    OwnKey,
    /// The author did not connect in time.
    #[error("the author did not connect before the deadline")]
    Timeout,
    /// A later call awaits the same author.
    #[error("a later call awaits the same author")]
    Superseded,
    /// The endpoint has been closed.
    #[error("the endpoint has been closed")]
    EndpointClosed,
}

impl QuicEndpoint {
    /// Binds the socket and starts accepting, as the author of `key`.
    ///
    /// # Errors
    /// [`BindError`] says what to mend.
    pub fn bind(config: QuicConfig, key: &SigningKey) -> Result<Self, BindError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let transport = Arc::new(config.transport()?);
        let identity = Identity::new(key).map_err(BindError::Key)?;
        let tls = identity.server().map_err(BindError::Key)?;
        let mut server = ServerConfig::with_crypto(Arc::new(tls));
        server
            .transport_config(transport.clone())
            .incoming_buffer_size(INCOMING_BUFFER.0)
            .incoming_buffer_size_total(INCOMING_BUFFER.1);
        let socket = socket::bind(&config).map_err(BindError::Socket)?;
        let local = socket.local_addr().map_err(BindError::Socket)?;
        let mut settings = quinn::EndpointConfig::default();
        settings.rng_seed(config.network.as_ref().map(|network| network.seed()));
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            settings,
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(BindError::Socket)?;

        let config = Arc::new(config);
        let lobby = Arc::new(Lobby::new(identity.author));
        let closing = watch::Sender::new(false);
        let acceptor = runtime.spawn(incoming::run(
            endpoint.clone(),
            lobby.clone(),
            config.clone(),
            closing.subscribe(),
        ));
        Ok(Self(Arc::new(Inner {
            identity,
            config,
            transport,
            local,
            lobby,
            endpoint: Mutex::new(Some(endpoint)),
            acceptor: acceptor.abort_handle(),
            closing,
        })))
    }

    /// The author whose key this endpoint shows.
    pub fn author(&self) -> AuthorId {
        self.0.identity.author
    }

    /// The socket's address as bound, the port filled in.
    pub fn local_address(&self) -> SocketAddr {
        self.0.local
    }

    /// Addresses under which peers may reach this endpoint: those of the interfaces, loopback
    /// last, at most 16. Reads the list of interfaces anew each time.
    pub fn local_candidates(&self) -> Vec<SocketAddr> {
        socket::candidates(self.0.local)
    }

    /// Opens a link to `remote`, who must [`accept_from`](Self::accept_from) us: tries the first 16
    /// addresses at once and keeps the first at which that author has proven its key. Ends within
    /// the handshake deadline. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError`]; of several addresses' failures the most telling.
    pub async fn connect(
        &self,
        addresses: &[SocketAddr],
        remote: AuthorId,
    ) -> Result<QuicLink, ConnectError> {
        if remote == self.author() {
            return Err(ConnectError::OwnKey);
        }
        let endpoint = self.endpoint().ok_or(ConnectError::EndpointClosed)?;
        let (client, seen) = self.client(remote)?;
        let mut attempts: FuturesUnordered<_> = addresses
            .iter()
            .take(socket::MAX_CANDIDATES)
            .map(|address| self.attempt(&endpoint, *address, client.clone()))
            .collect();
        let mut failure = ConnectError::NoAddress;
        let race = async {
            while let Some(attempt) = attempts.next().await {
                match attempt.map_err(|error| explain(error, &seen, remote)) {
                    Ok(connection) => return self.confirm(connection, remote).await,
                    Err(worse) if worse.weight() > failure.weight() => failure = worse,
                    Err(_) => {}
                }
            }
            Err(failure.clone())
        };
        match tokio::time::timeout(self.0.config.handshake_deadline, race).await {
            Ok(outcome) => outcome,
            Err(_) if failure.weight() > ConnectError::Timeout.weight() => Err(failure),
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    /// Waits for a link that `remote` opens to us; one that came in shortly before counts too (see
    /// [`QuicConfig::with_hold`]). A later call for the same author supersedes an earlier one.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept_from(&self, remote: AuthorId) -> Result<QuicLink, AcceptError> {
        if remote == self.author() {
            return Err(AcceptError::OwnKey);
        }
        let mut closing = self.0.closing.subscribe();
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => Err(AcceptError::EndpointClosed),
            outcome = tokio::time::timeout(self.0.config.accept_deadline, self.accept(remote)) => {
                outcome.unwrap_or(Err(AcceptError::Timeout))
            }
        }
    }

    /// Ends accepting and every link at once, without flushing them: close those first. Returns
    /// when no task and no socket is left.
    pub async fn close(&self) {
        self.0.closing.send_replace(true);
        self.0.acceptor.abort();
        let endpoint = self.lock().take();
        if let Some(endpoint) = endpoint {
            endpoint.close(driver::code(CloseCode::NORMAL), b"");
            endpoint.wait_idle().await;
        }
        self.0.closing.closed().await;
    }

    async fn attempt(
        &self,
        endpoint: &quinn::Endpoint,
        address: SocketAddr,
        client: ClientConfig,
    ) -> Result<Connection, Option<ConnectionError>> {
        let connecting = endpoint.connect_with(client, address, SERVER_NAME);
        connecting.map_err(|_| None)?.await.map_err(Some)
    }

    /// Opens the control stream, which tells the peer that this connection is the one, and waits
    /// for the peer's, which says that we are welcome.
    async fn confirm(
        &self,
        connection: Connection,
        remote: AuthorId,
    ) -> Result<QuicLink, ConnectError> {
        let outgoing = driver::open_stream(&connection, Channel::Control).await;
        let mut incoming = connection.accept_uni().await.map_err(refused)?;
        let outgoing = outgoing.map_err(refused)?;
        match driver::read_channel(&mut incoming).await {
            Ok(Some(Channel::Control)) => {}
            Ok(None) => return Err(refused(connection.closed().await)),
            Ok(Some(_)) | Err(_) => {
                let code = CloseCode::PROTOCOL;
                let reason = "the first stream must be control";
                connection.close(driver::code(code), reason.as_bytes());
                return Err(ConnectError::Refused(Closed::new(code, reason, false)));
            }
        }
        self.link(connection, (outgoing, incoming), remote)
            .map_err(|_| ConnectError::EndpointClosed)
    }

    async fn accept(&self, remote: AuthorId) -> Result<QuicLink, AcceptError> {
        loop {
            let mut expectation = self.0.lobby.expect(remote);
            let arrival = expectation.arrival().await.ok_or(AcceptError::Superseded)?;
            // A connection that died while it was held is not the one; await the next.
            let connection = arrival.connection;
            let Ok(control) = driver::open_stream(&connection, Channel::Control).await else {
                continue;
            };
            if let Ok(link) = self.link(connection, (control, arrival.control), remote) {
                return Ok(link);
            }
        }
    }

    fn link(
        &self,
        connection: Connection,
        control: (quinn::SendStream, quinn::RecvStream),
        remote: AuthorId,
    ) -> Result<QuicLink, quinn::crypto::ExportKeyingMaterialError> {
        tracing::debug!(?remote, address = %connection.remote_address(), "QUIC link is up");
        let closing = self.0.closing.subscribe();
        QuicLink::start(connection, control, self.author(), remote, closing)
    }

    fn client(&self, remote: AuthorId) -> Result<(ClientConfig, Seen), ConnectError> {
        // The same key and provider have served for `bind`, so this cannot fail any more.
        let tls = self.0.identity.client(remote);
        let (tls, seen) = tls.map_err(|_| ConnectError::EndpointClosed)?;
        let mut client = ClientConfig::new(Arc::new(tls));
        client.transport_config(self.0.transport.clone());
        Ok((client, seen))
    }

    fn endpoint(&self) -> Option<quinn::Endpoint> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<quinn::Endpoint>> {
        // Nothing panics while it holds the lock.
        self.0
            .endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.acceptor.abort();
        let endpoint = self.endpoint.get_mut();
        if let Some(endpoint) = endpoint.unwrap_or_else(PoisonError::into_inner) {
            endpoint.set_server_config(None);
        }
    }
}

/// What a failed attempt at one address means.
fn explain(error: Option<ConnectionError>, seen: &Seen, expected: AuthorId) -> ConnectError {
    let alert = quinn::TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    match (error, seen.wrong_key()) {
        (None, _) => ConnectError::NoAddress,
        (Some(ConnectionError::TransportError(_)), Some(found)) => {
            ConnectError::WrongKey { expected, found }
        }
        (Some(ConnectionError::TransportError(error)), None) if error.code == alert => {
            ConnectError::Version
        }
        (Some(ConnectionError::ConnectionClosed(close)), _) if close.error_code == alert => {
            ConnectError::Version
        }
        (Some(error), _) => refused(error),
    }
}

/// What the end of a connection to the right peer means before there is a link.
fn refused(error: ConnectionError) -> ConnectError {
    match error {
        ConnectionError::TimedOut | ConnectionError::Reset => ConnectError::Timeout,
        ConnectionError::LocallyClosed => ConnectError::EndpointClosed,
        error => ConnectError::Refused(driver::why(error)),
    }
}
