//! Pairs of links over loopback.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used)] // these are tests

use std::{net::Ipv4Addr, time::Duration};

use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};

pub mod coturn;

/// Long enough for anything on loopback, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Loopback only.
pub fn config() -> WebRtcConfig {
    WebRtcConfig::default().with_addresses([Ipv4Addr::LOCALHOST.into()])
}

/// Negotiates a link between two ends of this process.
pub async fn pair_with(
    offerer: &WebRtcConfig,
    answerer: &WebRtcConfig,
) -> (WebRtcLink, WebRtcLink) {
    let (offering, offer) = Connecting::offer(offerer).await.unwrap();
    let (answering, answer) = Connecting::answer(answerer, &offer).await.unwrap();
    offering.accept_answer(&answer).await.unwrap();
    tokio::try_join!(offering.opened(), answering.opened()).unwrap()
}

/// A pair with the default configuration.
pub async fn pair() -> (WebRtcLink, WebRtcLink) {
    pair_with(&config(), &config()).await
}
