//! The UDP socket: how it is bound, and under which addresses others may find it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use roundtable_transport::DatagramSocket;
use socket2::{Domain, Protocol, Socket, Type};

use crate::QuicConfig;

/// Addresses offered to a peer at most; the limit of the signaling protocol.
pub(crate) const MAX_CANDIDATES: usize = 16;

/// The socket that `config` asks for.
pub(crate) fn bind(config: &QuicConfig) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    match &config.network {
        Some(network) => Ok(Arc::new(Foreign(network.bind()?))),
        None => TokioRuntime.wrap_udp_socket(system(config)?),
    }
}

/// A socket of another network than the system's, as quinn wants it.
#[derive(Debug)]
struct Foreign(Arc<dyn DatagramSocket>);

impl AsyncUdpSocket for Foreign {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.0.send(transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else {
            return Poll::Ready(Ok(0));
        };
        loop {
            let Some((from, payload)) = self.0.try_recv() else {
                ready!(self.0.poll_readable(cx));
                continue;
            };
            // A datagram that is longer than any that QUIC sends is cut, as the system would.
            let len = payload.len().min(buffer.len());
            buffer[..len].copy_from_slice(&payload[..len]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, len, len);
            return Poll::Ready(Ok(1));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_address())
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn system(config: &QuicConfig) -> io::Result<UdpSocket> {
    if let Some(address) = config.bind {
        return open(address, config.socket_buffer);
    }
    let any_v6 = (Ipv6Addr::UNSPECIFIED, 0).into();
    let any_v4 = (Ipv4Addr::UNSPECIFIED, 0).into();
    open(any_v6, config.socket_buffer).or_else(|_| open(any_v4, config.socket_buffer))
}

fn open(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // The system may grant less; then bursts lose packets, which QUIC mends.
    for result in [
        socket.set_recv_buffer_size(buffer),
        socket.set_send_buffer_size(buffer),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, buffer, "socket buffer not set");
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Under which addresses a socket bound to `local` may be reached: `local` itself, or each
/// interface's if it is bound to all of them, loopback last.
pub(crate) fn candidates(local: SocketAddr) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the network interfaces");
        Vec::new()
    });
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        // A link-local address means nothing without the interface's number.
        IpAddr::V6(ip) => local.is_ipv6() && !ip.is_unicast_link_local(),
    };
    let mut found: Vec<IpAddr> = interfaces
        .iter()
        .map(if_addrs::Interface::ip)
        .filter(reachable)
        .collect();
    found.sort_by_key(IpAddr::is_loopback);
    found.dedup();
    if found.len() > MAX_CANDIDATES {
        // Keep one loopback address for peers on this machine.
        let last = found.len() - 1;
        found.swap(MAX_CANDIDATES - 1, last);
        found.truncate(MAX_CANDIDATES);
    }
    found
        .into_iter()
        .map(|ip| SocketAddr::new(ip, local.port()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_on_all_interfaces_is_found_on_loopback_too() {
        let found = candidates((Ipv4Addr::UNSPECIFIED, 4242).into());
        assert!(found.contains(&(Ipv4Addr::LOCALHOST, 4242).into()));
        assert!(found.len() <= MAX_CANDIDATES);
        assert!(found.iter().all(SocketAddr::is_ipv4));
    }

    #[test]
    fn a_socket_on_one_address_is_found_there_alone() {
        let bound = (Ipv4Addr::LOCALHOST, 4242).into();
        assert_eq!(candidates(bound), [bound]);
    }
}
