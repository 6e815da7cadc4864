//! How one link to one peer comes about: offers and answers through signaling, one task for each.

use std::time::Duration;

use roundtable_core::{PeerId, TransportKind};
use roundtable_session::Side;
use roundtable_signaling_client::{RequestError, SignalingClient};
use roundtable_signaling_protocol::{AnswerBody, IceCandidate, OfferBody, RequestId};
use roundtable_transport_quic::QuicEndpoint;
use roundtable_transport_webrtc::{Connecting, WebRtcConfig};
use tokio::sync::mpsc;

use crate::CommandTransport;

/// Signals that may wait for a negotiation: more are dropped, as nobody sends so many.
pub(crate) const SIGNAL_QUEUE: usize = 128;

/// How long an offer may stay unanswered here; the server forgets it after 30 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What signaling says about a running negotiation.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    Answer {
        request: RequestId,
        body: AnswerBody,
    },
    Candidate {
        request: RequestId,
        candidate: IceCandidate,
    },
    Ended {
        request: Option<RequestId>,
    },
}

/// Why a negotiation brought no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NegotiationError {
    #[error("signaling: {0}")]
    Signaling(#[from] RequestError),
    #[error(transparent)]
    WebRtc(#[from] roundtable_transport_webrtc::ConnectError),
    #[error(transparent)]
    QuicConnect(#[from] roundtable_transport_quic::ConnectError),
    #[error(transparent)]
    QuicAccept(#[from] roundtable_transport_quic::AcceptError),
    #[error("the offer was not answered")]
    NotAnswered,
    #[error("the peer answered with another kind of transport")]
    WrongKind,
}

/// What every negotiation of a room shares.
#[derive(Debug, Clone)]
pub(crate) struct Negotiator {
    pub(crate) signaling: SignalingClient,
    pub(crate) webrtc: WebRtcConfig,
    pub(crate) quic: Option<QuicEndpoint>,
}

/// What a negotiation is about.
#[derive(Debug)]
pub(crate) enum Role {
    /// Offer a link of this kind.
    Offer(TransportKind),
    /// Answer this offer.
    Answer { request: RequestId, body: OfferBody },
}

impl Role {
    pub(crate) fn kind(&self) -> TransportKind {
        match self {
            Self::Offer(kind) => *kind,
            Self::Answer {
                body: OfferBody::Quic { .. },
                ..
            } => TransportKind::Quic,
            Self::Answer {
                body: OfferBody::WebRtc { .. },
                ..
            } => TransportKind::WebRtc,
        }
    }

    pub(crate) fn side(&self) -> Side {
        match self {
            Self::Offer(_) => Side::Initiator,
            Self::Answer { .. } => Side::Responder,
        }
    }
}

impl Negotiator {
    /// Runs one negotiation to its end. Cancel safe: dropping it leaves nothing behind.
    pub(crate) async fn run(
        self,
        peer: PeerId,
        role: Role,
        mut signals: mpsc::Receiver<Signal>,
    ) -> Result<CommandTransport, NegotiationError> {
        match role {
            Role::Offer(TransportKind::Quic) => self.offer_quic(&peer, &mut signals).await,
            Role::Offer(_) => self.offer_webrtc(&peer, &mut signals).await,
            Role::Answer {
                request,
                body: OfferBody::WebRtc { sdp },
            } => self.answer_webrtc(&peer, request, &sdp, &mut signals).await,
            Role::Answer {
                request,
                body: OfferBody::Quic { author_key, .. },
            } => {
                let endpoint = self.quic.as_ref().ok_or(NegotiationError::WrongKind)?;
                let body = AnswerBody::Quic {
                    author_key: endpoint.author(),
                    addresses: endpoint.local_candidates(),
                };
                self.signaling.answer(&peer, &request, body).await?;
                Ok(CommandTransport::Quic(
                    endpoint.accept_from(author_key).await?,
                ))
            }
        }
    }

    async fn offer_quic(
        &self,
        peer: &PeerId,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<CommandTransport, NegotiationError> {
        let endpoint = self.quic.as_ref().ok_or(NegotiationError::WrongKind)?;
        let body = OfferBody::Quic {
            author_key: endpoint.author(),
            addresses: endpoint.local_candidates(),
        };
        let request = self.signaling.offer(peer, body).await?;
        let answer = answer_to(&request, signals, drop).await?;
        let AnswerBody::Quic {
            author_key,
            addresses,
        } = answer
        else {
            return Err(NegotiationError::WrongKind);
        };
        Ok(CommandTransport::Quic(
            endpoint.connect(&addresses, author_key).await?,
        ))
    }

    async fn offer_webrtc(
        &self,
        peer: &PeerId,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<CommandTransport, NegotiationError> {
        let (connecting, sdp) = Connecting::offer(&self.webrtc).await?;
        let request = self
            .signaling
            .offer(peer, OfferBody::WebRtc { sdp })
            .await?;
        // A candidate that cannot be used is no reason to give up: another may connect.
        let early = |candidate: IceCandidate| drop(connecting.add_remote_candidate(&candidate));
        let AnswerBody::WebRtc { sdp } = answer_to(&request, signals, early).await? else {
            return Err(NegotiationError::WrongKind);
        };
        connecting.accept_answer(&sdp)?;
        open_webrtc(connecting, &request, signals).await
    }

    async fn answer_webrtc(
        &self,
        peer: &PeerId,
        request: RequestId,
        offer: &str,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<CommandTransport, NegotiationError> {
        let (connecting, sdp) = Connecting::answer(&self.webrtc, offer).await?;
        self.signaling
            .answer(peer, &request, AnswerBody::WebRtc { sdp })
            .await?;
        open_webrtc(connecting, &request, signals).await
    }
}

/// Waits for the answer to `request`, handing over candidates that come before it.
async fn answer_to(
    request: &RequestId,
    signals: &mut mpsc::Receiver<Signal>,
    mut candidate: impl FnMut(IceCandidate),
) -> Result<AnswerBody, NegotiationError> {
    let answered = async {
        while let Some(signal) = signals.recv().await {
            match signal {
                Signal::Answer { request: of, body } if of == *request => return Some(body),
                Signal::Candidate {
                    request: of,
                    candidate: c,
                } if of == *request => candidate(c),
                Signal::Ended { request: Some(of) } if of != *request => {}
                Signal::Ended { .. } => return None,
                Signal::Answer { .. } | Signal::Candidate { .. } => {}
            }
        }
        None
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
        Ok(Some(body)) => Ok(body),
        Ok(None) | Err(_) => Err(NegotiationError::NotAnswered),
    }
}

/// Waits until the link is open, adding trickled candidates meanwhile.
async fn open_webrtc(
    connecting: Connecting,
    request: &RequestId,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<CommandTransport, NegotiationError> {
    let mut opened = std::pin::pin!(connecting.clone().opened());
    let mut listening = true;
    loop {
        tokio::select! {
            link = &mut opened => return Ok(CommandTransport::WebRtc(link?)),
            signal = signals.recv(), if listening => match signal {
                Some(Signal::Candidate { request: of, candidate }) if of == *request => {
                    if let Err(error) = connecting.add_remote_candidate(&candidate) {
                        tracing::debug!(%error, "a remote candidate is not used");
                    }
                }
                Some(Signal::Ended { request: None }) => {
                    return Err(NegotiationError::NotAnswered);
                }
                Some(_) => {}
                None => listening = false,
            },
        }
    }
}
