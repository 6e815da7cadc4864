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
use roundtable_transport_webrtc::{IcePolicy, IceServer, WebRtcConfig, check_link, check_servers};
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
    /// What each STUN server sees of us.
    pub stun: Vec<ServerCheck>,
    /// What the NAT does, as far as the STUN servers tell.
    pub nat: NatMapping,
    /// Each way to each TURN server.
    pub turn: Vec<RelayCheck>,
}

/// One way to one TURN server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayCheck {
    /// Its URL, with the transport.
    pub url: String,
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
    let asked = check_servers(&bare.clone().with_ice_servers(stun)).await;
    let (addresses, stun, nat) = match asked {
        Ok(asked) => (asked.addresses, asked.servers, asked.nat),
        // Without a socket nothing else works; `direct` says why.
        Err(_) => (Vec::new(), Vec::new(), NatMapping::Unknown),
    };
    Ok(Diagnosis {
        signaling: took,
        addresses,
        direct,
        stun,
        nat,
        turn: check_relays(&bare, turn).await,
    })
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
    }
}
