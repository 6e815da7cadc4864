//! Finds out how servers are reached, and holds the TCP and TLS connections to TURN servers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::BytesMut;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket, lookup_host},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    ServerError,
    gather::Reach,
    ice_server::{Server, Via},
    lanes::{self, lanes},
    relay::{Cutter, unspecified},
};

/// Messages that have been read and wait; then reading pauses.
const READ_QUEUE: usize = 256;
/// A connection takes this long at most; gathering may give up sooner.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an address of a server is tried alone before the next is tried as well (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one server that are tried.
const MAX_ADDRESSES: usize = 8;

/// What happened.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    Reached(usize, Reach),
    Message(usize, BytesMut),
    Closed(usize),
}

/// The connections of one link, numbered as their servers. All end when this is dropped.
pub(crate) struct Streams {
    tasks: JoinSet<()>,
    events: mpsc::Receiver<StreamEvent>,
    sender: mpsc::Sender<StreamEvent>,
    writers: Vec<Option<lanes::Sender>>,
    trusted: Arc<Vec<Vec<u8>>>,
}

impl Streams {
    /// Connections that trust `trusted` (DER) beside the system's roots.
    pub(crate) fn new(trusted: Vec<Vec<u8>>) -> Self {
        let (sender, events) = mpsc::channel(READ_QUEUE);
        Self {
            tasks: JoinSet::new(),
            events,
            sender,
            writers: Vec::new(),
            trusted: Arc::new(trusted),
        }
    }

    /// Starts to find out how `server` is reached; the answer comes as an event.
    pub(crate) fn reach(&mut self, index: usize, server: Server) {
        let events = self.sender.clone();
        if server.via == Via::Udp {
            self.tasks.spawn(async move {
                let reach = addresses(&server).await;
                // An error means that the link has ended.
                let _ = events.send(StreamEvent::Reached(index, reach)).await;
            });
            return;
        }
        let (writer, queue) = lanes();
        if self.writers.len() <= index {
            self.writers.resize(index + 1, None);
        }
        self.writers[index] = Some(writer);
        let trusted = self.trusted.clone();
        self.tasks.spawn(async move {
            let connected = timeout(CONNECT, connect(&server, &trusted)).await;
            let (mut io, address) = match connected.unwrap_or(Err(ServerError::NoAnswer)) {
                Ok(connected) => connected,
                Err(error) => {
                    let failed = StreamEvent::Reached(index, Reach::Failed(error));
                    let _ = events.send(failed).await;
                    return;
                }
            };
            let reached = Reach::Stream {
                id: index,
                server: address,
            };
            if events
                .send(StreamEvent::Reached(index, reached))
                .await
                .is_ok()
            {
                carry(&mut io, index, &events, queue).await;
                let _ = events.send(StreamEvent::Closed(index)).await;
            }
        });
    }

    /// Queues a message for a connection.
    pub(crate) fn send(&self, id: usize, message: BytesMut) {
        if let Some(Some(writer)) = self.writers.get(id)
            && !writer.send_relayed(message)
        {
            tracing::trace!(id, "a message to the TURN server is dropped");
        }
    }

    /// Ends a connection when what is queued has been written.
    pub(crate) fn close(&mut self, id: usize) {
        if let Some(writer) = self.writers.get_mut(id) {
            *writer = None;
        }
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> StreamEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// One of the events that are there already.
    pub(crate) fn try_next(&mut self) -> Option<StreamEvent> {
        self.events.try_recv().ok()
    }

    /// Lets what is queued go out before the connections end, for a moment.
    pub(crate) async fn finish(&mut self, patience: Duration) {
        self.writers.clear();
        self.events.close();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(patience, all).await;
    }
}

/// The server's addresses, the first of each family.
async fn addresses(server: &Server) -> Reach {
    let Ok(found) = resolve(server).await else {
        return Reach::Failed(ServerError::Name);
    };
    let mut first: Vec<(SocketAddr, Option<IpAddr>)> = Vec::new();
    for address in found {
        if !first
            .iter()
            .any(|(at, _)| at.is_ipv4() == address.is_ipv4())
        {
            first.push((address, source_for(address).await));
        }
    }
    Reach::Udp(first)
}

async fn resolve(server: &Server) -> Result<Vec<SocketAddr>, ServerError> {
    let found = timeout(CONNECT, lookup_host((server.host.as_str(), server.port))).await;
    match found {
        Ok(Ok(found)) => Ok(found.collect()),
        _ => Err(ServerError::Name),
    }
}

/// The local address that the system would send from: connecting a UDP socket sends nothing.
async fn source_for(server: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(unspecified(server.is_ipv4())).await.ok()?;
    socket.connect(server).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Resolves a server and connects to it.
async fn connect(
    server: &Server,
    trusted: &Arc<Vec<Vec<u8>>>,
) -> Result<(Box<dyn Io>, SocketAddr), ServerError> {
    let addresses = resolve(server).await?;
    let tls = match server.via {
        Via::Tls => Some(Tls::new(&server.host, trusted.clone()).await?),
        _ => None,
    };
    race(addresses, tls).await
}

/// Connects to the address that is through first; a silent one only delays the others
/// (RFC 8305 §5).
async fn race(
    addresses: Vec<SocketAddr>,
    tls: Option<Tls>,
) -> Result<(Box<dyn Io>, SocketAddr), ServerError> {
    let mut attempts = JoinSet::new();
    let mut rest = addresses.into_iter().take(MAX_ADDRESSES);
    let mut failure = ServerError::Name;
    loop {
        let next = rest.next();
        let is_last = next.is_none();
        if let Some(address) = next {
            attempts.spawn(connect_to(address, tls.clone()));
        }
        let finished = tokio::select! {
            finished = attempts.join_next() => finished,
            () = sleep(HEAD_START), if !is_last => continue,
        };
        match finished {
            Some(Ok(Ok(connected))) => return Ok(connected),
            Some(Ok(Err(error))) => failure = error,
            // An attempt is never cancelled before this ends.
            Some(Err(_)) => {}
            None if is_last => return Err(failure),
            None => {}
        }
    }
}

async fn connect_to(
    address: SocketAddr,
    tls: Option<Tls>,
) -> Result<(Box<dyn Io>, SocketAddr), ServerError> {
    let tcp = TcpStream::connect(address).await;
    let tcp = tcp.map_err(|error| ServerError::Connect(error.kind()))?;
    lanes::prepare(&tcp);
    let Some(tls) = tls else {
        return Ok((Box::new(tcp), address));
    };
    let connected = tls.connector.connect(tls.name, tcp).await;
    let io = connected.map_err(|error| {
        tracing::debug!(%error, %address, "TLS");
        ServerError::Tls
    })?;
    Ok((Box::new(io), address))
}

/// How a server is to prove who it is.
#[derive(Clone)]
struct Tls {
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Tls {
    async fn new(host: &str, trusted: Arc<Vec<Vec<u8>>>) -> Result<Self, ServerError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ServerError::Url)?;
        // Reading the system's roots takes the disk's time.
        let config = tokio::task::spawn_blocking(move || tls_config(&trusted)).await;
        let config = config.ok().flatten().ok_or(ServerError::Tls)?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { name, connector })
    }
}

/// The system's roots, read once by this process: a peer that makes us connect often must not make
/// us read hundreds of files each time. Read again only while there are none.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return roots.clone();
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Arc::new(roots),
        false => ROOTS.get_or_init(|| Arc::new(roots)).clone(),
    }
}

fn tls_config(trusted: &[Vec<u8>]) -> Option<ClientConfig> {
    let mut roots = system_roots();
    if !trusted.is_empty() {
        let trusted = trusted.iter().map(|der| der.as_slice().into());
        Arc::make_mut(&mut roots).add_parsable_certificates(trusted);
    }
    let provider = rustls::crypto::ring::default_provider();
    // coturn may be built with a TLS library that has nothing later than 1.2.
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .ok()?;
    Some(config.with_root_certificates(roots).with_no_client_auth())
}

/// Reads and writes until either ends.
async fn carry(
    io: &mut Box<dyn Io>,
    id: usize,
    events: &mpsc::Sender<StreamEvent>,
    mut queue: lanes::Receiver,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let read = async {
        let mut buffer = BytesMut::with_capacity(16 << 10);
        let mut cutter = Cutter::default();
        while matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
            while let Ok(message) = cutter.cut(&mut buffer).transpose().ok_or(()) {
                let Ok(message) = message else {
                    return;
                };
                if events
                    .send(StreamEvent::Message(id, message))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    };
    let write = async {
        while let Some(message) = queue.recv().await {
            let written = writer.write_all(&message).await;
            if written.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        // Nothing more to say.
        let _ = writer.shutdown().await;
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn an_address_that_swallows_everything_does_not_hide_the_next() {
        // A listener whose queue is full drops whoever knocks.
        let full = TcpSocket::new_v4().unwrap();
        full.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let full = full.listen(1).unwrap();
        let silent = full.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(queued) = timeout(HEAD_START, TcpStream::connect(silent)).await {
            queue.push(queued.unwrap());
        }
        let good = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let good = good.local_addr().map(|address| (good, address)).unwrap();
        let (_, address) = timeout(CONNECT, race(vec![silent, good.1], None))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(address, good.1);
    }

    #[tokio::test]
    async fn when_no_address_takes_the_connection_the_reason_is_told() {
        let mut closed = Vec::new();
        for _ in 0..3 {
            let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            closed.push(gone.local_addr().unwrap());
        }
        let refused = ServerError::Connect(std::io::ErrorKind::ConnectionRefused);
        let failure = |result: Result<(Box<dyn Io>, SocketAddr), _>| result.err();
        assert_eq!(failure(race(closed, None).await), Some(refused));
        assert_eq!(failure(race(vec![], None).await), Some(ServerError::Name));
    }

    #[test]
    fn the_roots_of_the_system_are_read_once() {
        let first = system_roots();
        assert!(first.is_empty() || Arc::ptr_eq(&first, &system_roots()));
    }
}
