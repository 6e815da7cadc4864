//! Which of this machine's addresses a link offers (host candidates, RFC 8445 §5.1.1.1).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{ConnectError, IcePolicy, WebRtcConfig, mdns::Names, socket::Sockets};

/// More addresses only multiply the connectivity checks.
const MAX_ADDRESSES: usize = 16;

/// Binds the sockets of one link.
pub(crate) fn bind(config: &WebRtcConfig) -> Result<Sockets, ConnectError> {
    if let Some(network) = &config.network {
        let socket = network.bind();
        return socket
            .map(Sockets::foreign)
            .map_err(|error| ConnectError::Socket(error.kind()));
    }
    let mut addresses = if config.addresses.is_empty() {
        interfaces().map_err(|error| ConnectError::Socket(error.kind()))?
    } else {
        config.addresses.clone()
    };
    addresses.truncate(MAX_ADDRESSES);
    Sockets::bind(&addresses, config.socket_buffer)
        .map_err(|error| ConnectError::Socket(error.kind()))
}

/// Names in place of the addresses of a link's sockets, if they are to be hidden.
pub(crate) fn names(
    config: &WebRtcConfig,
    sockets: &Sockets,
) -> Result<Vec<(IpAddr, String)>, ConnectError> {
    if !config.hide_addresses || config.ice_policy == IcePolicy::Relay {
        return Ok(Vec::new());
    }
    let name = |local: SocketAddr| {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| ConnectError::Setup)?;
        Ok((local.ip(), Names::name(u128::from_ne_bytes(random))))
    };
    sockets.locals().map(name).collect()
}

/// Every interface's addresses but loopback and link-local ones, and `127.0.0.1` last.
fn interfaces() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<_> = if_addrs::get_if_addrs()?
        .iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(if_addrs::Interface::ip)
        .take(MAX_ADDRESSES - 1)
        .collect();
    addresses.push(Ipv4Addr::LOCALHOST.into());
    addresses.dedup();
    Ok(addresses)
}
