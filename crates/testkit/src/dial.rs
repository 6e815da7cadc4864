//! How two machines of a duct come to have a link, as the room's shells do it.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use roundtable_core::{AuthorId, ChannelBinding, CloseCode, Frame, LinkStats, TransportKind};
use roundtable_transport::{Closed, Link, NetworkHandle, SendError};
use roundtable_transport_quic::{
    AcceptError, BindError, ConnectError as QuicError, QuicConfig, QuicEndpoint, QuicLink,
};
use roundtable_transport_webrtc::{
    ConnectError as WebRtcError, Connecting, WebRtcConfig, WebRtcLink,
};
use tokio::{sync::oneshot, time::sleep};

/// How long signaling takes one way. It neither loses nor reorders.
pub const SIGNALING_DELAY: Duration = Duration::from_millis(20);

/// A link of either kind.
#[derive(Debug)]
pub enum WireLink {
    /// Over QUIC.
    Quic(QuicLink),
    /// Over WebRTC.
    WebRtc(WebRtcLink),
}

/// Why an end got no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The end that dials over QUIC.
    #[error("QUIC: {0}")]
    Connect(#[from] QuicError),
    /// The end that is dialled over QUIC.
    #[error("QUIC: {0}")]
    Accept(#[from] AcceptError),
    /// Either end of WebRTC.
    #[error("WebRTC: {0}")]
    WebRtc(#[from] WebRtcError),
    /// The other end gave up before its description was sent.
    #[error("the other end gave up")]
    Abandoned,
}

/// The two halves of a dial, each the life of one end until it has its link: the offerer's and the
/// answerer's. They meet over signaling alone, so each may fail without the other.
pub fn dial(
    kind: TransportKind,
    networks: [NetworkHandle; 2],
    keys: [SigningKey; 2],
) -> (
    impl Future<Output = Result<WireLink, DialError>> + Send,
    impl Future<Output = Result<WireLink, DialError>> + Send,
) {
    let (offer, offered) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    let [own, other] = keys;
    let authors = [&own, &other].map(author);
    let [near, far] = networks;
    let is_quic = kind == TransportKind::Quic;
    let offerer = async move {
        if !is_quic {
            return offer_webrtc(near, offer, answered).await;
        }
        let endpoint = QuicEndpoint::bind(QuicConfig::default().with_network(near), &own)?;
        let _ = offer.send(String::new());
        let address: String = answered.await.map_err(|_| DialError::Abandoned)?;
        sleep(SIGNALING_DELAY).await;
        let addresses: Vec<_> = address.parse().into_iter().collect();
        let link = endpoint.connect(&addresses, authors[1]).await?;
        Ok(WireLink::Quic(link))
    };
    let answerer = async move {
        let offer: String = offered.await.map_err(|_| DialError::Abandoned)?;
        sleep(SIGNALING_DELAY).await;
        if !is_quic {
            return answer_webrtc(far, &offer, answer).await;
        }
        let endpoint = QuicEndpoint::bind(QuicConfig::default().with_network(far), &other)?;
        let _ = answer.send(endpoint.local_address().to_string());
        let link = endpoint.accept_from(authors[0]).await?;
        Ok(WireLink::Quic(link))
    };
    (offerer, answerer)
}

async fn offer_webrtc(
    network: NetworkHandle,
    offer: oneshot::Sender<String>,
    answered: oneshot::Receiver<String>,
) -> Result<WireLink, DialError> {
    let config = WebRtcConfig::default().with_network(network);
    let (connecting, sdp) = Connecting::offer(&config).await?;
    let _ = offer.send(sdp);
    let answer = answered.await.map_err(|_| DialError::Abandoned)?;
    sleep(SIGNALING_DELAY).await;
    connecting.accept_answer(&answer).await?;
    Ok(WireLink::WebRtc(connecting.opened().await?))
}

async fn answer_webrtc(
    network: NetworkHandle,
    offer: &str,
    answer: oneshot::Sender<String>,
) -> Result<WireLink, DialError> {
    let config = WebRtcConfig::default().with_network(network);
    let (connecting, sdp) = Connecting::answer(&config, offer).await?;
    let _ = answer.send(sdp);
    Ok(WireLink::WebRtc(connecting.opened().await?))
}

fn author(key: &SigningKey) -> AuthorId {
    AuthorId::from_bytes(key.verifying_key().to_bytes())
}

/// Does the same with the link of either kind.
macro_rules! either {
    ($self:ident, $link:ident => $what:expr) => {
        match $self {
            WireLink::Quic($link) => $what,
            WireLink::WebRtc($link) => $what,
        }
    };
}

impl Link for WireLink {
    fn kind(&self) -> TransportKind {
        either!(self, link => link.kind())
    }

    fn binding(&self) -> ChannelBinding {
        either!(self, link => link.binding())
    }

    fn remote_author(&self) -> Option<AuthorId> {
        either!(self, link => link.remote_author())
    }

    fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        either!(self, link => link.try_send(frame))
    }

    async fn send(&self, frame: Frame) -> Result<(), SendError> {
        either!(self, link => link.send(frame).await)
    }

    async fn recv(&self) -> Result<Frame, Closed> {
        either!(self, link => link.recv().await)
    }

    fn stats(&self) -> LinkStats {
        either!(self, link => link.stats())
    }

    async fn close(&self, code: CloseCode, reason: &str) {
        either!(self, link => link.close(code, reason).await);
    }
}
