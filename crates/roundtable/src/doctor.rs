//! What stands between this machine and its peers, each thing checked by itself; see
//! [`RoomBuilder::diagnose`](crate::RoomBuilder::diagnose).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use roundtable_core::Clock;
use roundtable_signaling_client::{ClientConfig, SignalingClient};
use roundtable_transport::SystemClock;
pub use roundtable_transport_webrtc::{
    ConnectError, LinkCheck, NatMapping, ServerCheck, ServerError,
};
use roundtable_transport_webrtc::{
    IcePolicy, IceServer, WebRtcConfig, check_link, check_link_over_tcp, check_servers,
};
use tokio::task::JoinSet;

use crate::JoinError;

/// TURN URLs that are looked at; a link uses no more either.
const MAX_RELAYS: usize = 16;

/// What was found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Diagnosis {
    /// How long the signaling server took to let us in.
    pub signaling: Duration,
    /// This machine's addresses that are offered to others.
    pub addresses: Vec<IpAddr>,
    /// A link from this machine to itself, without any server.
    pub direct: Result<LinkCheck, ConnectError>,
    /// The same over TCP alone (RFC 6544); `None` where that is turned off.
    pub tcp: Option<Result<LinkCheck, ConnectError>>,
    /// The same over IPv6 alone; `None` where this machine has no such address that others could reach.
    pub ipv6: Option<Result<LinkCheck, ConnectError>>,
    /// What each STUN server sees of us.
    pub stun: Vec<ServerCheck>,
    /// What the NAT does, as far as the STUN servers tell.
    pub nat: NatMapping,
    /// Each way to each TURN server.
    pub turn: Vec<RelayCheck>,
}

/// How a TURN server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayTransport {
    /// `turn:HOST?transport=udp`.
    Udp,
    /// `turn:HOST?transport=tcp`.
    Tcp,
    /// `turns:HOST`.
    Tls,
}

impl RelayTransport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Tls];

    fn of(url: &str) -> Self {
        let url = url.to_ascii_lowercase();
        match (url.starts_with("turns:"), url.ends_with("?transport=tcp")) {
            (true, _) => Self::Tls,
            (false, true) => Self::Tcp,
            (false, false) => Self::Udp,
        }
    }
}

/// One way to one TURN server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayCheck {
    /// Its URL, with the transport.
    pub url: String,
    /// How it is reached.
    pub transport: RelayTransport,
    /// The address that it gave to relay from.
    pub relay: Result<SocketAddr, ServerError>,
    /// A link through it and back; `None` if it gave no relay.
    pub link: Option<Result<LinkCheck, ConnectError>>,
}

/// Enters the room for the list of servers, leaves, and checks.
pub(crate) async fn diagnose(
    signaling: ClientConfig,
    webrtc: WebRtcConfig,
) -> Result<Diagnosis, JoinError> {
    let start = SystemClock.now();
    let (client, joined, _events) = SignalingClient::join(signaling).await?;
    let took = SystemClock.now().saturating_since(start);
    client.leave().await;
    let webrtc = webrtc.with_more_ice_servers(joined.ice_servers);
    let (stun, turn) = ways(webrtc.ice_servers());

    let bare = webrtc.with_ice_servers([]);
    let direct = check_link(&bare).await;
    let tcp = match bare.has_tcp() {
        true => Some(check_link_over_tcp(&bare).await),
        false => None,
    };
    let asked = check_servers(&bare.clone().with_ice_servers(stun)).await;
    let (addresses, stun, nat) = match asked {
        Ok(asked) => (asked.addresses, asked.servers, asked.nat),
        // Without a socket nothing else works; `direct` says why.
        Err(_) => (Vec::new(), Vec::new(), NatMapping::Unknown),
    };
    let v6: Vec<_> = addresses.iter().copied().filter(is_global_v6).collect();
    let ipv6 = match v6.is_empty() {
        true => None,
        false => Some(check_link(&bare.clone().with_addresses(v6)).await),
    };
    Ok(Diagnosis {
        signaling: took,
        addresses,
        direct,
        tcp,
        ipv6,
        stun,
        nat,
        turn: check_relays(&bare, turn).await,
    })
}

/// Whether others than this machine and its link could reach an address of IPv6.
fn is_global_v6(address: &IpAddr) -> bool {
    match address {
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    }
}

/// STUN servers, and each way to each TURN server; UDP and TCP where the URL leaves it open.
fn ways(servers: &[IceServer]) -> (Vec<IceServer>, Vec<IceServer>) {
    let (mut stun, mut turn) = (Vec::new(), Vec::new());
    for server in servers {
        for url in &server.urls {
            let one = |url: String| IceServer {
                urls: vec![url],
                ..server.clone()
            };
            if url.to_ascii_lowercase().starts_with("stun") {
                stun.push(one(url.clone()));
            } else if url.contains('?') || url.to_ascii_lowercase().starts_with("turns:") {
                turn.push(one(url.clone()));
            } else {
                turn.push(one(format!("{url}?transport=udp")));
                turn.push(one(format!("{url}?transport=tcp")));
            }
        }
    }
    turn.truncate(MAX_RELAYS);
    (stun, turn)
}

async fn check_relays(bare: &WebRtcConfig, servers: Vec<IceServer>) -> Vec<RelayCheck> {
    let mut checks = JoinSet::new();
    for (index, server) in servers.into_iter().enumerate() {
        let alone = bare.clone().with_ice_policy(IcePolicy::Relay);
        let alone = alone.with_ice_servers([server]);
        checks.spawn(async move { (index, check_relay(&alone).await) });
    }
    let mut found: Vec<(usize, RelayCheck)> = Vec::new();
    while let Some(check) = checks.join_next().await {
        if let Ok((index, Some(check))) = check {
            found.push((index, check));
        }
    }
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, check)| check).collect()
}

async fn check_relay(alone: &WebRtcConfig) -> Option<RelayCheck> {
    let asked = check_servers(alone).await.ok()?;
    let ServerCheck { url, result } = asked.servers.into_iter().next()?;
    let link = match result {
        Ok(_) => Some(check_link(alone).await),
        Err(_) => None,
    };
    Some(RelayCheck {
        transport: RelayTransport::of(&url),
        url,
        relay: result,
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_a_server_is_checked_by_itself() {
        let server = IceServer {
            urls: ["stun:a", "turn:a", "turn:b?transport=tcp", "turns:a"]
                .map(String::from)
                .into(),
            username: Some("u".into()),
            credential: Some("p".into()),
        };
        let (stun, turn) = ways(&[server]);
        let urls = |servers: &[IceServer]| -> Vec<String> {
            servers.iter().flat_map(|one| one.urls.clone()).collect()
        };
        assert_eq!(urls(&stun), ["stun:a"]);
        assert_eq!(
            urls(&turn),
            [
                "turn:a?transport=udp",
                "turn:a?transport=tcp",
                "turn:b?transport=tcp",
                "turns:a"
            ]
        );
        assert!(turn.iter().all(|one| one.credential.is_some()));
        let transports: Vec<_> = urls(&turn)
            .iter()
            .map(|url| RelayTransport::of(url))
            .collect();
        use RelayTransport::{Tcp, Tls, Udp};
        assert_eq!(transports, [Udp, Tcp, Tcp, Tls]);
    }
}
