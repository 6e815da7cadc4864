//! The UDP sockets of one link: large buffers, segmentation offload, and the local address of every
//! packet.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use roundtable_transport::DatagramSocket;
use socket2::{Domain, Protocol, Type};
use tokio::{io::Interest, net::UdpSocket, time::timeout};

/// Datagrams read from a socket before anything else is looked at.
const READ_BATCH: usize = 64;
/// The largest datagram that a link accepts.
pub(crate) const MAX_DATAGRAM: usize = 2048;
/// The kernel takes at most this much in one offloaded send.
const MAX_GSO_BYTES: usize = 65_000;

/// How long a full send buffer is waited for. A device that takes nothing any more must not hold up the other sockets, nor
/// the deadlines and the restart by which a link leaves it.
const STUCK: Duration = Duration::from_millis(200);

thread_local! {
    /// What a read is put into until it is taken apart: 128 KiB with segmentation offload, which no link need
    /// hold while it is idle.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// What joined packets are put into until they are sent.
    static JOINED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One UDP packet, to or from the network.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) payload: BytesMut,
}

/// A socket for the candidates of one address family.
struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    port: u16,
    /// The candidates' addresses; the socket itself is bound to the only one or the wildcard.
    addresses: Vec<IpAddr>,
    /// Whether the last read brought something, so that more may wait.
    has_backlog: bool,
}

/// The sockets of one link: at most one for each address family.
pub(crate) struct Sockets {
    sockets: Vec<Socket>,
    /// In place of those, a socket of another network than the system's.
    foreign: Option<Arc<dyn DatagramSocket>>,
    /// The most that one read may bring.
    max_read: usize,
}

impl Sockets {
    /// Binds what serves `addresses`. A family that cannot be bound is left out.
    pub(crate) fn bind(addresses: &[IpAddr], buffer: usize) -> io::Result<Self> {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            addresses.iter().partition(|address| address.is_ipv4());
        let families = [
            (v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        ];
        let mut failure = io::ErrorKind::AddrNotAvailable.into();
        let mut sockets = Vec::new();
        for (addresses, wildcard) in families {
            if addresses.is_empty() {
                continue;
            }
            match Socket::bind(addresses, wildcard, buffer) {
                Ok(socket) => sockets.push(socket),
                Err(error) => failure = error,
            }
        }
        if sockets.is_empty() {
            return Err(failure);
        }
        let segments = sockets.iter().map(|s| s.state.gro_segments()).max();
        Ok(Self {
            sockets,
            foreign: None,
            max_read: MAX_DATAGRAM * segments.unwrap_or(1),
        })
    }

    /// A socket of another network than the system's.
    pub(crate) fn foreign(socket: Arc<dyn DatagramSocket>) -> Self {
        Self {
            sockets: Vec::new(),
            foreign: Some(socket),
            max_read: 0,
        }
    }

    /// Whether this is a socket of another network than the system's.
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// The addresses that can be offered as host candidates.
    pub(crate) fn locals(&self) -> impl Iterator<Item = SocketAddr> {
        let foreign = self.foreign.iter().map(|socket| socket.local_address());
        let system = self.sockets.iter().flat_map(|socket| {
            let port = socket.port;
            socket
                .addresses
                .iter()
                .map(move |address| SocketAddr::new(*address, port))
        });
        system.chain(foreign)
    }

    /// Waits until a socket may have something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if let Some(foreign) = &self.foreign {
            std::future::poll_fn(|cx| foreign.poll_readable(cx)).await;
            return Ok(());
        }
        match self.sockets.as_slice() {
            [one] => one.io.readable().await,
            [one, two, ..] => tokio::select! {
                ready = one.io.readable() => ready,
                ready = two.io.readable() => ready,
            },
            [] => std::future::pending().await,
        }
    }

    /// Hands a batch of what has arrived to `take`.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Datagram)) {
        if let Some(foreign) = &self.foreign {
            let local = foreign.local_address();
            let arrived = std::iter::from_fn(|| foreign.try_recv()).take(READ_BATCH);
            arrived.for_each(|(remote, payload)| {
                take(Datagram {
                    local,
                    remote,
                    payload: payload.into(),
                });
            });
            return;
        }
        READ.with_borrow_mut(|read| {
            if read.len() < self.max_read {
                read.resize(self.max_read, 0);
            }
            self.receive_into(read, take);
        });
    }

    fn receive_into(&mut self, read: &mut [u8], mut take: impl FnMut(Datagram)) {
        for socket in &mut self.sockets {
            let has_backlog = std::mem::take(&mut socket.has_backlog);
            for _ in 0..READ_BATCH {
                let mut meta = [RecvMeta::default()];
                let mut buffer = [IoSliceMut::new(read)];
                let result = socket.io.try_io(Interest::READABLE, || {
                    socket
                        .state
                        .recv((&socket.io).into(), &mut buffer, &mut meta)
                });
                match result {
                    Ok(_) => {
                        socket.split(&meta[0], read, &mut take);
                        socket.has_backlog = true;
                        // What comes after a pause is mostly all there is: it is answered before more is asked for.
                        if !has_backlog && meta[0].len <= MAX_DATAGRAM {
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an earlier packet; candidates that lead nowhere cause many.
                    Err(error) => tracing::trace!(%error, "receive"),
                }
            }
        }
    }

    /// Sends everything, joining runs of equal size, and a shorter one behind them, into one system call. Waits while the kernel's
    /// buffer is full, for a moment; what it does not take then, or refuses, counts as lost on the way.
    pub(crate) async fn send(&mut self, queue: &mut VecDeque<Datagram>) {
        if let Some(foreign) = &self.foreign {
            for packet in queue.drain(..) {
                foreign.send(packet.remote, &packet.payload);
            }
            return;
        }
        let sockets = &self.sockets;
        let mut joined = JOINED.take();
        let mut stuck = None;
        while let Some(first) = queue.pop_front() {
            let Some(socket) = sockets
                .iter()
                .find(|socket| socket.serves(first.local.ip()))
                .filter(|socket| stuck != Some(socket.port))
            else {
                continue;
            };
            let segment = first.payload.len();
            let limit = socket.state.max_gso_segments();
            joined.clear();
            let mut segments = 1;
            while segments < limit
                && let Some(next) = queue.pop_front_if(|next| {
                    next.payload.len() <= segment
                        && (next.local, next.remote) == (first.local, first.remote)
                        && joined.len().max(segment) + next.payload.len() <= MAX_GSO_BYTES
                })
            {
                if segments == 1 {
                    joined.extend_from_slice(&first.payload);
                }
                joined.extend_from_slice(&next.payload);
                segments += 1;
                // Only the last may be shorter: the end of a message.
                if next.payload.len() < segment {
                    break;
                }
            }
            let transmit = Transmit {
                destination: first.remote,
                ecn: None,
                contents: if segments == 1 {
                    &first.payload
                } else {
                    &joined
                },
                segment_size: (segments > 1).then_some(segment),
                src_ip: (socket.addresses.len() > 1).then_some(first.local.ip()),
            };
            let sent = socket.io.async_io(Interest::WRITABLE, || {
                socket.state.try_send((&socket.io).into(), &transmit)
            });
            match timeout(STUCK, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::trace!(%error, remote = %first.remote, "send"),
                Err(_) => {
                    tracing::debug!(remote = %first.remote, "send buffer stays full");
                    stuck = Some(socket.port);
                }
            }
        }
        JOINED.set(joined);
    }
}

impl Socket {
    fn bind(addresses: Vec<IpAddr>, wildcard: IpAddr, buffer: usize) -> io::Result<Self> {
        let address = match addresses.as_slice() {
            [one] => *one,
            _ => wildcard,
        };
        let address = SocketAddr::new(address, 0);
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        // The system caps these by itself; a smaller buffer is no reason to fail.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
        socket.bind(&address.into())?;
        let io = UdpSocket::from_std(socket.into())?;
        Ok(Self {
            state: UdpSocketState::new((&io).into())?,
            port: io.local_addr()?.port(),
            io,
            addresses,
            has_backlog: false,
        })
    }

    fn serves(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Takes a read apart into its datagrams; drops what came to an address that was not offered.
    fn split(&self, meta: &RecvMeta, read: &[u8], take: &mut impl FnMut(Datagram)) {
        let address = match (self.addresses.as_slice(), meta.dst_ip) {
            ([one], _) => *one,
            (_, Some(address)) if self.serves(address) => address,
            ([first, ..], None) => *first,
            _ => return,
        };
        for payload in read[..meta.len].chunks(meta.stride.max(1)) {
            take(Datagram {
                local: SocketAddr::new(address, self.port),
                remote: meta.addr,
                payload: BytesMut::from(payload),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends packets of these lengths over loopback; the lengths as they arrive.
    async fn sent_and_received(lengths: &[usize]) -> Vec<usize> {
        let localhost = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let bind = || Sockets::bind(&localhost, 1 << 20).unwrap();
        let (mut from, mut to) = (bind(), bind());
        let local = from.locals().next().unwrap();
        let remote = to.locals().next().unwrap();
        let mut queue = lengths
            .iter()
            .map(|len| Datagram {
                local,
                remote,
                payload: BytesMut::from(&vec![7; *len][..]),
            })
            .collect();
        from.send(&mut queue).await;
        let mut received = Vec::new();
        while received.len() < lengths.len() {
            to.readable().await.unwrap();
            to.receive(|packet| received.push(packet.payload.len()));
        }
        received
    }

    #[tokio::test]
    async fn packets_that_share_a_system_call_arrive_each_by_itself() {
        // Two messages, each of which ends in a shorter packet, and one that is longer than those before it.
        let lengths = [1200, 1200, 300, 1200, 1200, 1200, 300, 300, 1200];
        assert_eq!(sent_and_received(&lengths).await, lengths);
    }

    #[tokio::test]
    async fn more_than_one_system_call_takes_arrives_whole() {
        let lengths = [1200; 150];
        assert_eq!(sent_and_received(&lengths).await, lengths);
    }
}
