//! The TCP side of ICE (RFC 6544): listens for peers, dials where peers listen, and frames packets
//! (RFC 4571). For networks that let no UDP through between peers that reach each other.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, tcp},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    IcePolicy, WebRtcConfig,
    flight::Kind,
    gather::ACTIVE_PORT,
    socket::{Datagram, MAX_DATAGRAM},
};

/// Addresses that are listened on, at most.
const MAX_LISTENERS: usize = 4;
/// Connections of one link, dialled and accepted; more are refused.
const MAX_CONNECTIONS: usize = 16;
/// Connections that are dialled in all: a peer may name any address.
const MAX_DIALS: usize = 32;
/// Packets that wait for one connection; more are dropped, as a full socket would.
const QUEUE: usize = 256;
/// How long a connection takes, and how long its first packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failure, nothing is dialled there for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Our address, by which the core knows the candidate, and the peer's.
type Ends = (SocketAddr, SocketAddr);

/// What happened.
#[derive(Debug)]
pub(crate) enum TcpEvent {
    Accepted(Ends, TcpStream),
    Packet(Datagram),
    Closed(Ends),
}

/// The listeners and connections of one link. All end when this is dropped.
pub(crate) struct Tcp {
    listening: Vec<SocketAddr>,
    listeners: Vec<AbortHandle>,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<TcpEvent>,
    sender: mpsc::Sender<TcpEvent>,
    connections: HashMap<Ends, mpsc::Sender<BytesMut>>,
    dials: usize,
}

impl Tcp {
    /// Listens on some of `addresses`, which the link's UDP sockets have, if `config` wants it. What
    /// cannot be bound is left out.
    pub(crate) fn listen(
        config: &WebRtcConfig,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let mut new = Self {
            listening: Vec::new(),
            listeners: Vec::new(),
            tasks: JoinSet::new(),
            events,
            sender,
            connections: HashMap::new(),
            dials: 0,
        };
        // Only the system's network has connections.
        let wanted = config.tcp && config.network.is_none();
        if wanted && config.ice_policy == IcePolicy::All {
            for udp in addresses.take(MAX_LISTENERS) {
                match bind(udp) {
                    Ok((listener, address)) => new.accept_on(listener, address),
                    Err(error) => tracing::debug!(%error, %udp, "no TCP listener"),
                }
            }
        }
        new
    }

    fn accept_on(&mut self, listener: TcpListener, address: SocketAddr) {
        let events = self.sender.clone();
        self.listening.push(address);
        self.listeners.push(self.tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, remote)) => {
                        let accepted = TcpEvent::Accepted((address, remote), stream);
                        if events.send(accepted).await.is_err() {
                            return;
                        }
                    }
                    // Out of file descriptors, perhaps: not at full speed.
                    Err(_) => sleep(PAUSE).await,
                }
            }
        }));
    }

    /// Where we listen.
    pub(crate) fn listening(&self) -> Vec<SocketAddr> {
        self.listening.clone()
    }

    /// Sends a packet; dials first where its local address is an active candidate's.
    pub(crate) fn send(&mut self, packet: Datagram) {
        let ends = (packet.local, packet.remote);
        let is_known = self.connections.contains_key(&ends);
        if !is_known && !self.dial(ends) {
            return;
        }
        if let Some(writer) = self.connections.get(&ends) {
            // Full, or about to be closed.
            let _ = writer.try_send(packet.payload);
        }
    }

    /// Whether a connection is on its way.
    fn dial(&mut self, ends: Ends) -> bool {
        let (local, remote) = ends;
        let is_full = self.connections.len() >= MAX_CONNECTIONS || self.dials >= MAX_DIALS;
        if local.port() != ACTIVE_PORT || !may_be_dialled(remote) || is_full {
            return false;
        }
        self.dials += 1;
        let (writer, queue) = mpsc::channel(QUEUE);
        self.connections.insert(ends, writer);
        let events = self.sender.clone();
        self.tasks.spawn(async move {
            match timeout(PATIENCE, connect(local.ip(), remote)).await {
                Ok(Ok(stream)) => carry(stream, ends, &events, queue).await,
                _ => sleep(PAUSE).await,
            }
            let _ = events.send(TcpEvent::Closed(ends)).await;
        });
        true
    }

    /// Takes up what happened; a packet is the peer's.
    pub(crate) fn on_event(&mut self, event: TcpEvent) -> Option<Datagram> {
        match event {
            TcpEvent::Packet(packet) => return Some(packet),
            TcpEvent::Closed(ends) => {
                self.connections.remove(&ends);
            }
            TcpEvent::Accepted(..) if self.connections.len() >= MAX_CONNECTIONS => {}
            TcpEvent::Accepted(ends, stream) => {
                let (writer, queue) = mpsc::channel(QUEUE);
                self.connections.insert(ends, writer);
                let events = self.sender.clone();
                self.tasks.spawn(async move {
                    carry(stream, ends, &events, queue).await;
                    let _ = events.send(TcpEvent::Closed(ends)).await;
                });
            }
        }
        while self.tasks.try_join_next().is_some() {}
        None
    }

    /// The link has found its way: ends all but the connection of that way, if it is one of these.
    pub(crate) fn keep(&mut self, way: Option<Ends>) {
        for listener in self.listeners.drain(..) {
            listener.abort();
        }
        self.listening.clear();
        self.dials = MAX_DIALS;
        self.connections.retain(|ends, _| Some(*ends) == way);
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> TcpEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// One of the events that are there already.
    pub(crate) fn try_next(&mut self) -> Option<TcpEvent> {
        self.events.try_recv().ok()
    }

    /// Lets what is queued go out before the connections end, for a moment.
    pub(crate) async fn finish(&mut self, patience: Duration) {
        self.keep(None);
        self.events.close();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(patience, all).await;
    }
}

/// A listener on the address of a UDP socket, but not on its port: the two are told apart by that.
fn bind(udp: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let bind = || {
        let socket = match udp {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.bind(SocketAddr::new(udp.ip(), 0))?;
        let address = socket.local_addr()?;
        Ok((socket.listen(8)?, address))
    };
    let first = bind()?;
    // While the first holds the port, the second gets another.
    if first.1.port() == udp.port() {
        bind()
    } else {
        Ok(first)
    }
}

/// Whether a peer may make us connect to an address. As browsers have it: to no services of the
/// system but the web's.
fn may_be_dialled(remote: SocketAddr) -> bool {
    let is_service = remote.port() < 1024 && !matches!(remote.port(), 80 | 443);
    !is_service && !remote.ip().is_unspecified() && !remote.ip().is_multicast()
}

async fn connect(local: IpAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = match local {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.bind(SocketAddr::new(local, 0))?;
    socket.connect(remote).await
}

/// Reads and writes until either ends.
async fn carry(
    stream: TcpStream,
    ends: Ends,
    events: &mpsc::Sender<TcpEvent>,
    queue: mpsc::Receiver<BytesMut>,
) {
    // Voice does not wait for more.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    tokio::select! {
        () = read(reader, ends, events) => {}
        () = write(writer, queue) => {}
    }
}

async fn read(
    mut reader: tcp::OwnedReadHalf,
    (local, remote): Ends,
    events: &mpsc::Sender<TcpEvent>,
) {
    let mut stream = BytesMut::new();
    let mut is_first = true;
    loop {
        stream.reserve(MAX_DATAGRAM);
        let more = reader.read_buf(&mut stream);
        // Whoever connects and says nothing holds a place for a short time only.
        let more = match is_first {
            true => timeout(PATIENCE, more).await.unwrap_or(Ok(0)),
            false => more.await,
        };
        if !matches!(more, Ok(1..)) {
            return;
        }
        loop {
            let payload = match cut(&mut stream) {
                Ok(Some(payload)) => payload,
                Ok(None) => break,
                Err(TooLong) => return,
            };
            if is_first && Kind::of(&payload) != Kind::Stun {
                return;
            }
            is_first = false;
            let packet = Datagram {
                local,
                remote,
                payload,
            };
            if events.send(TcpEvent::Packet(packet)).await.is_err() {
                return;
            }
        }
    }
}

async fn write(mut writer: tcp::OwnedWriteHalf, mut queue: mpsc::Receiver<BytesMut>) {
    let mut framed = BytesMut::new();
    while let Some(packet) = queue.recv().await {
        frame(&mut framed, &packet);
        while framed.len() < 16 << 10
            && let Ok(packet) = queue.try_recv()
        {
            frame(&mut framed, &packet);
        }
        if writer.write_all(&framed).await.is_err() {
            return;
        }
        framed.clear();
    }
    let _ = writer.shutdown().await;
}

/// A packet that is longer than what a socket of ours would take.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// Takes the next packet out of what a stream brought (RFC 4571 §2); `None` while it is not complete.
fn cut(stream: &mut BytesMut) -> Result<Option<BytesMut>, TooLong> {
    let Some(len) = stream.first_chunk().map(|len| u16::from_be_bytes(*len)) else {
        return Ok(None);
    };
    let len = usize::from(len);
    if len > MAX_DATAGRAM {
        return Err(TooLong);
    }
    if stream.len() < 2 + len {
        return Ok(None);
    }
    stream.advance(2);
    Ok(Some(stream.split_to(len)))
}

fn frame(stream: &mut BytesMut, packet: &[u8]) {
    // Longer ones are never made.
    if let Ok(len) = u16::try_from(packet.len()) {
        stream.extend_from_slice(&len.to_be_bytes());
        stream.extend_from_slice(packet);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn packets_are_cut_at_their_length_however_the_stream_comes() {
        let mut whole = BytesMut::new();
        for packet in [&b"one"[..], b"", b"three"] {
            frame(&mut whole, packet);
        }
        let (mut stream, mut came) = (BytesMut::new(), Vec::new());
        for byte in whole {
            stream.extend_from_slice(&[byte]);
            came.extend(cut(&mut stream).unwrap());
        }
        assert_eq!(came, [&b"one"[..], b"", b"three"]);
        assert_eq!(cut(&mut BytesMut::from(&[8, 1][..])), Err(TooLong));
    }

    #[test]
    fn a_peer_cannot_make_us_knock_at_the_doors_of_system_services() {
        for (address, may) in [
            ("192.0.2.1:22", false),
            ("192.0.2.1:443", true),
            ("192.0.2.1:50000", true),
            ("0.0.0.0:50000", false),
            ("[ff02::1]:50000", false),
        ] {
            assert_eq!(may_be_dialled(address.parse().unwrap()), may, "{address}");
        }
    }

    fn loopback() -> Tcp {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1);
        Tcp::listen(&WebRtcConfig::default(), std::iter::once(address))
    }

    async fn packet(tcp: &mut Tcp) -> Datagram {
        let packet = async {
            loop {
                let event = tcp.next().await;
                if let Some(packet) = tcp.on_event(event) {
                    return packet;
                }
            }
        };
        timeout(SOON, packet).await.unwrap()
    }

    #[tokio::test]
    async fn a_packet_dials_and_is_answered_on_the_same_connection() {
        let (mut alice, mut bob) = (loopback(), loopback());
        let active = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ACTIVE_PORT);
        let passive = bob.listening()[0];
        let datagram = |local, remote, payload: &[u8]| Datagram {
            local,
            remote,
            payload: BytesMut::from(payload),
        };
        alice.send(datagram(active, passive, &[0, 1, 2]));
        let came = packet(&mut bob).await;
        assert_eq!((came.local, &came.payload[..]), (passive, &[0, 1, 2][..]));
        bob.send(datagram(passive, came.remote, &[1, 1]));
        let back = packet(&mut alice).await;
        assert_eq!((back.local, back.remote), (active, passive));
        assert_eq!(back.payload[..], [1, 1]);
        // When the link has found another way, nothing of this is left.
        alice.keep(None);
        assert!(alice.connections.is_empty());
        assert!(alice.listening().is_empty());
    }

    #[tokio::test]
    async fn strangers_are_few_and_must_speak_stun() {
        let mut bob = loopback();
        let at = bob.listening()[0];
        let mut strangers = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 4 {
            strangers.push(TcpStream::connect(at).await.unwrap());
            let event = timeout(SOON, bob.next()).await.unwrap();
            bob.on_event(event);
        }
        assert_eq!(bob.connections.len(), MAX_CONNECTIONS);
        strangers[0].write_all(b"\0\x05GET /").await.unwrap();
        let closed = timeout(SOON, bob.next()).await.unwrap();
        assert!(matches!(closed, TcpEvent::Closed(_)), "{closed:?}");
        bob.on_event(closed);
        assert_eq!(bob.connections.len(), MAX_CONNECTIONS - 1);
    }
}
