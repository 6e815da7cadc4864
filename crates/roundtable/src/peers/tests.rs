use std::net::Ipv4Addr;

use roundtable_signaling_client::{ClientConfig, SignalingClient};
use roundtable_signaling_server::{Server, ServerConfig};
use roundtable_transport_webrtc::WebRtcConfig;

use super::*;

#[tokio::test]
async fn nothing_is_offered_while_signaling_is_away() {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(ServerConfig::new(any).with_open(true)).unwrap();
    let url = format!("ws://{}", server.local_addr());
    tokio::spawn(server.run(std::future::pending()));
    let (alice, bob): (PeerId, PeerId) = ("alice".parse().unwrap(), "bob".parse().unwrap());
    let config = ClientConfig::new(&url, "room".parse().unwrap(), alice.clone()).unwrap();
    let (signaling, ..) = SignalingClient::join(config).await.unwrap();
    let negotiator = Negotiator::new(signaling, WebRtcConfig::default(), None);
    let mut attempts = Attempts::new(alice, TransportPreference::WebRtc, negotiator);
    attempts.present(&PeerInfo {
        peer_id: bob.clone(),
        capabilities: Capability::ALL.into_iter().collect(),
        user_data: serde_json::Value::Null,
    });
    let now = Timestamp::from_millis(0);
    attempts.signaling(false);
    attempts.offer(&bob, now);
    assert!(attempts.present[&bob].is_idle());
    attempts.signaling(true);
    attempts.offer(&bob, now);
    assert!(!attempts.present[&bob].is_idle());
}
