//! The socket of one link for multicast DNS, on this machine's own interfaces only.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::mdns::{GROUP, PORT};

/// The largest packet that is looked at (RFC 6762 §17).
const MAX_PACKET: usize = 9000;
/// Packets read before anything else is looked at.
const READ_BATCH: usize = 16;

pub(crate) struct Multicast {
    socket: UdpSocket,
    interfaces: Vec<Ipv4Addr>,
}

impl Multicast {
    /// Joins the group on the interfaces that have `addresses`. The port is shared with whoever else on
    /// this machine speaks multicast DNS.
    pub(crate) fn join(addresses: impl Iterator<Item = IpAddr>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_loop_v4(true)?;
        // RFC 6762 §11.
        socket.set_multicast_ttl_v4(255)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        let mut interfaces = Vec::new();
        let mut failure = io::ErrorKind::AddrNotAvailable.into();
        for address in addresses {
            let IpAddr::V4(address) = address else {
                continue;
            };
            match socket.join_multicast_v4(&GROUP, &address) {
                Ok(()) => interfaces.push(address),
                // Two addresses may be of one interface, which is in the group then.
                Err(error) => failure = error,
            }
        }
        if interfaces.is_empty() {
            return Err(failure);
        }
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            interfaces,
        })
    }

    /// Sends a packet to the group on every interface. What the system refuses counts as lost.
    pub(crate) fn send(&self, packet: &[u8]) {
        for interface in &self.interfaces {
            // Not by way of the runtime, to which a new socket is not writable before it has waited.
            let socket = SockRef::from(&self.socket);
            let chosen = socket.set_multicast_if_v4(interface);
            let to = SocketAddr::from((GROUP, PORT)).into();
            let sent = chosen.and_then(|()| socket.send_to(packet, &to));
            if let Err(error) = sent {
                tracing::debug!(%error, %interface, "multicast DNS");
            }
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Hands a batch of what has arrived to `take`.
    pub(crate) fn receive(&self, mut take: impl FnMut(SocketAddr, &[u8])) {
        let mut buffer = [0; MAX_PACKET];
        for _ in 0..READ_BATCH {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((len, from)) => take(from, &buffer[..len]),
                Err(_) => return,
            }
        }
    }
}
