//! The socket of one link for multicast DNS, on this machine's own interfaces only.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::mdns::{GROUP, PORT};

/// Routers forward nothing that is sent to the group, but anybody may send us something directly, and by the answer find out
/// who we are (RFC 6762 §5.5, §11). Linux lets a socket have the group alone and still sends from
/// an address of ours; on other systems the source is looked at.
const HAS_GROUP_ALONE: bool = cfg!(any(target_os = "android", target_os = "linux"));
const BOUND_TO: Ipv4Addr = if HAS_GROUP_ALONE {
    GROUP
} else {
    Ipv4Addr::UNSPECIFIED
};

/// The largest packet that is looked at (RFC 6762 §17).
const MAX_PACKET: usize = 9000;
/// Packets read before anything else is looked at.
const READ_BATCH: usize = 16;

pub(crate) struct Multicast {
    socket: UdpSocket,
    interfaces: Vec<Ipv4Addr>,
    /// Their networks.
    networks: Vec<Network>,
}

/// An address of ours and the mask of its network.
type Network = (Ipv4Addr, Ipv4Addr);

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
        socket.bind(&SocketAddr::from((BOUND_TO, PORT)).into())?;
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
            networks: networks(&interfaces),
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

    /// Hands a batch of what has arrived from this link to `take`.
    pub(crate) fn receive(&self, mut take: impl FnMut(SocketAddr, &[u8])) {
        let mut buffer = [0; MAX_PACKET];
        for _ in 0..READ_BATCH {
            match self.socket.try_recv_from(&mut buffer) {
                // What was sent to the group comes from the link, whatever its source.
                Ok((len, from)) if HAS_GROUP_ALONE || is_on_link(&self.networks, from.ip()) => {
                    take(from, &buffer[..len]);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// The networks that interfaces are in; alone in one where the system does not tell.
fn networks(interfaces: &[Ipv4Addr]) -> Vec<Network> {
    let known = if_addrs::get_if_addrs().unwrap_or_default();
    let known = known
        .into_iter()
        .filter_map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) => Some((v4.ip, v4.netmask)),
            if_addrs::IfAddr::V6(_) => None,
        });
    let known: Vec<Network> = known.collect();
    let network = |ip: &Ipv4Addr| {
        let found = known.iter().find(|(address, _)| address == ip);
        found.copied().unwrap_or((*ip, Ipv4Addr::BROADCAST))
    };
    interfaces.iter().map(network).collect()
}

/// Whether a source is in one of our networks, or has an address that no router forwards (RFC 3927 §7).
fn is_on_link(networks: &[Network], source: IpAddr) -> bool {
    let IpAddr::V4(source) = source else {
        return false;
    };
    let is_in = |(ip, mask): &Network| ip & mask == source & mask;
    source.is_link_local() || networks.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_source_is_on_the_link_if_it_is_in_a_network_of_ours() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let networks = [
            (ip("192.0.2.7"), ip("255.255.255.0")),
            (ip("10.1.0.1"), Ipv4Addr::BROADCAST),
        ];
        for (source, is) in [
            ("192.0.2.200", true),
            ("192.0.3.7", false),
            ("10.1.0.1", true),
            ("10.1.0.2", false),
            ("169.254.3.4", true),
            ("2001:db8::1", false),
        ] {
            let found = is_on_link(&networks, source.parse().unwrap());
            assert_eq!(found, is, "{source}");
        }
    }

    /// All that arrives until the group's own `last` does; `None` where there is no multicast.
    #[cfg(unix)]
    async fn until(multicast: &Multicast, last: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut came: Vec<Vec<u8>> = Vec::new();
        let receiving = async {
            while came.last().is_none_or(|packet| packet != last) {
                multicast.readable().await.unwrap();
                // Others on this machine may speak, too.
                multicast.receive(|_, packet| {
                    if packet.starts_with(b"test-") {
                        came.push(packet.to_vec());
                    }
                });
            }
        };
        let all = timeout(Duration::from_secs(5), receiving).await.is_ok();
        all.then_some(came)
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_is_sent_to_this_machine_alone_is_not_heard() {
        let Ok(multicast) = Multicast::join([Ipv4Addr::LOCALHOST.into()].into_iter()) else {
            return eprintln!("SKIP: no multicast");
        };
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ours = (Ipv4Addr::LOCALHOST, PORT);
        stranger.send_to(b"test-alone", ours).await.unwrap();
        multicast.send(b"test-group");
        match until(&multicast, b"test-group").await {
            Some(came) => assert_eq!(came, [b"test-group"]),
            None => eprintln!("SKIP: no multicast on loopback"),
        }
    }
}
