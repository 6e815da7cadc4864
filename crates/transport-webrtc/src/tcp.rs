//! The TCP side of ICE (RFC 6544): listens for peers, dials where peers listen, and frames packets
//! (RFC 4571). For networks that let no UDP through between peers that reach each other.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::{Duration, Instant},
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
    driver::now,
    gather::ACTIVE_PORT,
    lanes::{self, lanes},
    socket::{Datagram, MAX_DATAGRAM},
    stun::transaction,
};

/// Addresses that are listened on, at most.
const MAX_LISTENERS: usize = 4;
/// Connections of one link at a time that it has dialled; no more are then. Apart from those that are accepted, so that
/// dials which lead nowhere do not take the place of the one that comes.
const MAX_DIALLED: usize = 16;
/// Connections of one link at a time that it has accepted; for another, one that we have not answered has to go.
const MAX_ACCEPTED: usize = 16;
/// Connections that are dialled within [`DIALS_IN`]: a peer may name any address, and restart ICE at any time.
const MAX_DIALS: usize = 32;
const DIALS_IN: Duration = Duration::from_secs(60);
/// What has happened and waits to be looked at; then reading pauses.
const QUEUE: usize = 256;
/// Bytes that are written at once. What comes after them may be overtaken.
const BATCH: usize = 8 << 10;
/// How long a connection takes, and how long its whole first packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a connection that we dialled has failed or ended, nothing is dialled there for so long.
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

struct Connection {
    writer: lanes::Sender,
    task: AbortHandle,
    /// Later ones have higher numbers.
    number: u64,
    is_dialled: bool,
    /// We have sent something there. Of those accepted, that is what the core does on an authentic check only.
    is_answered: bool,
}

/// The listeners and connections of one link. All end when this is dropped.
pub(crate) struct Tcp {
    listening: Vec<SocketAddr>,
    listeners: Vec<AbortHandle>,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<TcpEvent>,
    sender: mpsc::Sender<TcpEvent>,
    connections: HashMap<Ends, Connection>,
    /// How many connections there have been.
    count: u64,
    /// When the last ones were dialled.
    dials: VecDeque<Instant>,
    /// The link has found its way: none is dialled or accepted any more.
    is_settled: bool,
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
            count: 0,
            dials: VecDeque::new(),
            is_settled: false,
        };
        // Only the system's network has connections.
        let wanted = config.tcp && config.network.is_none();
        if wanted && config.ice_policy == IcePolicy::All {
            for udp in places(addresses) {
                match bind(udp) {
                    Ok((listener, address)) => new.accept_on(listener, address),
                    Err(error) => tracing::debug!(%error, %udp, "no TCP listener"),
                }
            }
        }
        new
    }

    /// Takes the place of another, whose dials count on.
    pub(crate) fn succeed(&mut self, before: &Self) {
        self.dials.clone_from(&before.dials);
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
        if let Some(connection) = self.connections.get_mut(&ends) {
            connection.is_answered = true;
            // Full, or about to be closed.
            let _ = connection.writer.send(packet.payload);
        }
    }

    /// Whether a connection is on its way.
    fn dial(&mut self, ends: Ends) -> bool {
        let (local, remote) = ends;
        let is_allowed = local.port() == ACTIVE_PORT && may_be_dialled(local.ip(), remote);
        let dialled = self.connections.values().filter(|it| it.is_dialled);
        if !is_allowed || self.is_settled || dialled.count() >= MAX_DIALLED || !self.count_dial() {
            return false;
        }
        let (writer, queue) = lanes();
        let events = self.sender.clone();
        let task = self.tasks.spawn(async move {
            if let Ok(Ok(stream)) = timeout(PATIENCE, connect(local.ip(), remote)).await {
                carry(stream, ends, &events, queue).await;
            }
            // Whoever refuses, or hangs up, would do so again; unless we are to end ourselves.
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = events.closed() => {}
            }
            let _ = events.send(TcpEvent::Closed(ends)).await;
        });
        self.insert(ends, writer, task, true);
        true
    }

    /// Whether there may be one dial more, which is counted.
    fn count_dial(&mut self) -> bool {
        let now = now();
        let is_over = |at: &mut Instant| now.saturating_duration_since(*at) >= DIALS_IN;
        while self.dials.pop_front_if(is_over).is_some() {}
        let may = self.dials.len() < MAX_DIALS;
        if may {
            self.dials.push_back(now);
        }
        may
    }

    fn accept(&mut self, ends: Ends, stream: TcpStream) {
        if self.is_settled || !self.make_room() {
            return;
        }
        let (writer, queue) = lanes();
        let events = self.sender.clone();
        let task = self.tasks.spawn(async move {
            carry(stream, ends, &events, queue).await;
            let _ = events.send(TcpEvent::Closed(ends)).await;
        });
        self.insert(ends, writer, task, false);
    }

    /// Whether one more can be accepted. Strangers that fill all places lose them to later ones.
    fn make_room(&mut self) -> bool {
        let accepted = || self.connections.iter().filter(|(_, it)| !it.is_dialled);
        if accepted().count() < MAX_ACCEPTED {
            return true;
        }
        let oldest = accepted()
            .filter(|(_, it)| !it.is_answered)
            .min_by_key(|(_, it)| it.number)
            .map(|(ends, _)| *ends);
        let removed = oldest.and_then(|ends| self.connections.remove(&ends));
        removed.is_some_and(|it| {
            it.task.abort();
            true
        })
    }

    fn insert(&mut self, ends: Ends, writer: lanes::Sender, task: AbortHandle, is_dialled: bool) {
        self.count += 1;
        let connection = Connection {
            writer,
            task,
            number: self.count,
            is_dialled,
            is_answered: false,
        };
        self.connections.insert(ends, connection);
    }

    /// Takes up what happened; a packet is the peer's.
    pub(crate) fn on_event(&mut self, event: TcpEvent) -> Option<Datagram> {
        match event {
            TcpEvent::Packet(packet) => return Some(packet),
            TcpEvent::Closed(ends) => {
                self.connections.remove(&ends);
            }
            TcpEvent::Accepted(ends, stream) => self.accept(ends, stream),
        }
        while self.tasks.try_join_next().is_some() {}
        None
    }

    /// The link has found its way: ends all but the connection of that way, if it is one of these.
    pub(crate) fn keep(&mut self, way: Option<Ends>) {
        self.settle();
        self.connections.retain(|ends, connection| {
            let is_kept = Some(*ends) == way;
            if !is_kept {
                // It may hang where the other end reads nothing.
                connection.task.abort();
            }
            is_kept
        });
    }

    fn settle(&mut self) {
        for listener in self.listeners.drain(..) {
            listener.abort();
        }
        self.listening.clear();
        self.is_settled = true;
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
        self.settle();
        self.connections.clear();
        self.events.close();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(patience, all).await;
    }
}

/// On which addresses of the UDP sockets to listen. Not on loopback where there are others, so that no peer elsewhere
/// makes us dial what listens there; and on the families in turn, as TCP over IPv6 often works where a NAT stops IPv4.
fn places(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (loopback, others): (Vec<_>, Vec<_>) = addresses.partition(|at| at.ip().is_loopback());
    let all = if others.is_empty() { loopback } else { others };
    let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
    let in_turn = (0..v4.len().max(v6.len())).flat_map(|at| [v4.get(at), v6.get(at)]);
    in_turn.flatten().take(MAX_LISTENERS).copied().collect()
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
/// system but the web's. To loopback only from there, where only links listen that have no other address; and to no
/// IPv4 address that is written as an IPv6 one.
fn may_be_dialled(local: IpAddr, remote: SocketAddr) -> bool {
    let ip = remote.ip();
    let is_service = remote.port() < 1024 && !matches!(remote.port(), 80 | 443);
    let is_host = !ip.is_unspecified() && !ip.is_multicast() && ip == ip.to_canonical();
    !is_service && is_host && ip.is_loopback() == local.is_loopback()
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
    queue: lanes::Receiver,
) {
    lanes::prepare(&stream);
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
    let mut patience = pin!(sleep(PATIENCE));
    loop {
        stream.reserve(MAX_DATAGRAM);
        // Whoever connects and says nothing, or that slowly, holds a place for a short time only.
        let more = tokio::select! {
            more = reader.read_buf(&mut stream) => more,
            () = &mut patience, if is_first => Ok(0),
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
            if is_first && !is_stun(&payload) {
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

/// Whether a packet begins as STUN messages do (RFC 8489 §5).
fn is_stun(packet: &[u8]) -> bool {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    transaction(packet).is_some() && packet[4..8] == COOKIE
}

async fn write(mut writer: tcp::OwnedWriteHalf, mut queue: lanes::Receiver) {
    let mut framed = BytesMut::new();
    while let Some(packet) = queue.recv().await {
        frame(&mut framed, &packet);
        while framed.len() < BATCH
            && let Some(packet) = queue.try_recv()
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
        for (local, remote, may) in [
            ("10.0.0.1", "192.0.2.1:22", false),
            ("10.0.0.1", "192.0.2.1:443", true),
            ("10.0.0.1", "192.0.2.1:50000", true),
            ("10.0.0.1", "0.0.0.0:50000", false),
            ("10.0.0.1", "127.0.0.1:50000", false),
            ("127.0.0.1", "192.0.2.1:50000", false),
            ("127.0.0.1", "127.0.0.1:50000", true),
            ("2001:db8::1", "[2001:db8::2]:50000", true),
            ("2001:db8::1", "[ff02::1]:50000", false),
            ("2001:db8::1", "[::1]:50000", false),
            ("2001:db8::1", "[::ffff:127.0.0.1]:50000", false),
        ] {
            let (from, to) = (local.parse().unwrap(), remote.parse().unwrap());
            assert_eq!(may_be_dialled(from, to), may, "{local} to {remote}");
        }
    }

    #[test]
    fn both_families_are_listened_on_and_loopback_only_where_there_is_nothing_else() {
        let at = |text: &&str| text.parse::<SocketAddr>().unwrap();
        let ours = [
            "10.0.0.1:5",
            "10.0.0.2:5",
            "10.0.0.3:5",
            "127.0.0.1:5",
            "[2001:db8::1]:6",
        ];
        let wanted = ["10.0.0.1:5", "[2001:db8::1]:6", "10.0.0.2:5", "10.0.0.3:5"];
        let found = places(ours.iter().map(at));
        assert_eq!(found, wanted.iter().map(at).collect::<Vec<_>>());
        let alone = ["127.0.0.1:5"];
        assert_eq!(places(alone.iter().map(at)), [at(&alone[0])]);
    }

    /// The header of a STUN message.
    fn stun(kind: u8) -> Vec<u8> {
        [&[kind, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()
    }

    fn datagram(local: SocketAddr, remote: SocketAddr, payload: &[u8]) -> Datagram {
        Datagram {
            local,
            remote,
            payload: BytesMut::from(payload),
        }
    }

    fn active() -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ACTIVE_PORT)
    }

    async fn event(tcp: &mut Tcp) -> TcpEvent {
        timeout(SOON, tcp.next()).await.unwrap()
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
        let passive = bob.listening()[0];
        alice.send(datagram(active(), passive, &stun(0)));
        let came = packet(&mut bob).await;
        assert_eq!((came.local, &came.payload[..]), (passive, &stun(0)[..]));
        bob.send(datagram(passive, came.remote, &stun(1)));
        let back = packet(&mut alice).await;
        assert_eq!((back.local, back.remote), (active(), passive));
        assert_eq!(back.payload[..], stun(1));
        // When the link has found another way, nothing of this is left.
        alice.keep(None);
        assert!(alice.connections.is_empty());
        assert!(alice.listening().is_empty());
    }

    #[tokio::test]
    async fn whoever_hangs_up_is_not_dialled_again_at_once() {
        let mut alice = loopback();
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = server.local_addr().unwrap();
        let start = now();
        alice.send(datagram(active(), at, &stun(0)));
        drop(timeout(SOON, server.accept()).await.unwrap().unwrap());
        let closed = event(&mut alice).await;
        assert!(matches!(closed, TcpEvent::Closed(_)), "{closed:?}");
        assert!(now() >= start + PAUSE);
        assert_eq!(alice.dials.len(), 1);
    }

    #[tokio::test]
    async fn dials_are_counted_over_restarts() {
        let (mut alice, mut again) = (loopback(), loopback());
        let at = loopback().listening()[0];
        alice.dials = vec![now(); MAX_DIALS].into();
        again.succeed(&alice);
        again.send(datagram(active(), at, &stun(0)));
        assert!(again.connections.is_empty());
        // One of them was longer ago.
        again.dials[0] = now() - DIALS_IN;
        again.send(datagram(active(), at, &stun(0)));
        assert_eq!(again.connections.len(), 1);
        assert_eq!(again.dials.len(), MAX_DIALS);
    }

    #[tokio::test]
    async fn what_was_accepted_before_the_link_found_its_way_is_dropped_behind_it() {
        let mut bob = loopback();
        let _stranger = TcpStream::connect(bob.listening()[0]).await.unwrap();
        let accepted = event(&mut bob).await;
        bob.keep(None);
        bob.on_event(accepted);
        assert!(bob.connections.is_empty());
    }

    #[tokio::test]
    async fn dials_that_lead_nowhere_leave_room_for_the_one_that_comes() {
        let (mut alice, other) = (loopback(), loopback());
        for _ in 0..MAX_DIALLED {
            let ends = (active(), other.listening()[0]);
            let task = alice.tasks.spawn(std::future::pending());
            let port = 40_000 + u16::try_from(alice.connections.len()).unwrap();
            let ends = (ends.0, SocketAddr::new(ends.1.ip(), port));
            alice.insert(ends, lanes().0, task, true);
        }
        alice.send(datagram(active(), other.listening()[0], &stun(0)));
        assert_eq!(alice.connections.len(), MAX_DIALLED, "no more are dialled");
        let _comes = TcpStream::connect(alice.listening()[0]).await.unwrap();
        let accepted = event(&mut alice).await;
        alice.on_event(accepted);
        assert_eq!(alice.connections.len(), MAX_DIALLED + 1);
    }

    #[tokio::test]
    async fn strangers_are_few_and_must_speak_stun() {
        let mut bob = loopback();
        let at = bob.listening()[0];
        let mut peer = TcpStream::connect(at).await.unwrap();
        let mut check = BytesMut::new();
        frame(&mut check, &stun(0));
        peer.write_all(&check).await.unwrap();
        let came = packet(&mut bob).await;
        bob.send(datagram(came.local, came.remote, &stun(1)));
        let mut strangers = Vec::new();
        for _ in 0..MAX_ACCEPTED + 4 {
            strangers.push(TcpStream::connect(at).await.unwrap());
            let accepted = event(&mut bob).await;
            bob.on_event(accepted);
        }
        assert_eq!(bob.connections.len(), MAX_ACCEPTED);
        // Whom we have answered keeps its place.
        assert!(bob.connections.contains_key(&(came.local, came.remote)));
        let last = strangers.last_mut().unwrap();
        last.write_all(b"\0\x05GET /").await.unwrap();
        let closed = event(&mut bob).await;
        assert!(matches!(closed, TcpEvent::Closed(_)), "{closed:?}");
        bob.on_event(closed);
        assert_eq!(bob.connections.len(), MAX_ACCEPTED - 1);
    }

    #[test]
    fn two_bytes_are_no_stun() {
        assert!(is_stun(&stun(0)));
        for other in [
            &[0][..],
            &[0; 20],
            &stun(0)[..19],
            &stun(9),
            b"GET / HTTP/1.1 and more",
        ] {
            assert!(!is_stun(other), "{other:?}");
        }
    }
}
