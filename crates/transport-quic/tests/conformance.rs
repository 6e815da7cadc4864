//! QUIC links are held against what every link must do.

#![allow(clippy::unwrap_used)] // helpers of tests

use ed25519_dalek::SigningKey;
use roundtable_transport::conformance_tests;
use roundtable_transport_quic::{QuicConfig, QuicEndpoint, QuicLink};

/// A link over loopback; the endpoints' handles go at once, as links must outlive those.
async fn pair() -> (QuicLink, QuicLink) {
    let bind = |seed| {
        let config = QuicConfig::default().with_bind("127.0.0.1:0".parse().unwrap());
        QuicEndpoint::bind(config, &SigningKey::from_bytes(&[seed; 32])).unwrap()
    };
    let (alice, bob) = (bind(1), bind(2));
    let addresses = bob.local_candidates();
    let (dialled, accepted) = tokio::join!(
        alice.connect(&addresses, bob.author()),
        bob.accept_from(alice.author()),
    );
    (dialled.unwrap(), accepted.unwrap())
}

conformance_tests!(pair);
