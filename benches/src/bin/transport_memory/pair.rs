//! Two ends of one link, over loopback.

use std::net::Ipv4Addr;

use ed25519_dalek::SigningKey;
use roundtable_transport_quic::{QuicConfig, QuicEndpoint, QuicLink};
use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};

pub(crate) async fn webrtc() -> (WebRtcLink, WebRtcLink) {
    let config = WebRtcConfig::default().with_addresses([Ipv4Addr::LOCALHOST.into()]);
    let (alice, offer) = Connecting::offer(&config).await.unwrap();
    let (bob, answer) = Connecting::answer(&config, &offer).await.unwrap();
    alice.accept_answer(&answer).await.unwrap();
    let (alice, bob) = tokio::join!(alice.opened(), bob.opened());
    (alice.unwrap(), bob.unwrap())
}

pub(crate) async fn quic() -> (QuicLink, QuicLink) {
    let bind = |seed| {
        let config = QuicConfig::default().with_bind((Ipv4Addr::LOCALHOST, 0).into());
        QuicEndpoint::bind(config, &SigningKey::from_bytes(&[seed; 32])).unwrap()
    };
    let (alice, bob) = (bind(1), bind(2));
    let addresses = [bob.local_address()];
    let (alice, bob) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    (alice.unwrap(), bob.unwrap())
}
