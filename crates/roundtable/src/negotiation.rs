//! How one link to one peer comes about: offers and answers through signaling, one task for each.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use roundtable_core::{AuthorId, PeerId, TransportKind};
use roundtable_session::Side;
use roundtable_signaling_client::{RequestError, SignalingClient};
use roundtable_signaling_protocol::{AnswerBody, IceCandidate, OfferBody, RequestId};
use roundtable_transport_quic::QuicEndpoint;
use roundtable_transport_webrtc::{ConnectError, Connecting, IceRestart, WebRtcConfig, WebRtcLink};
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

impl NegotiationError {
    /// Whether the peer was reached and would have none of it, so that the same would come of another attempt.
    pub(crate) fn is_refusal(&self) -> bool {
        use roundtable_transport_quic::ConnectError as Quic;
        let quic = |error: &Quic| {
            matches!(
                error,
                Quic::WrongKey { .. } | Quic::Version | Quic::Refused(_)
            )
        };
        match self {
            Self::WrongKind => true,
            Self::QuicConnect(error) => quic(error),
            _ => false,
        }
    }

    /// Whether the peer did not dial within the time that it is waited for.
    pub(crate) fn is_out_of_time(&self) -> bool {
        use roundtable_transport_quic::AcceptError::Timeout;
        matches!(self, Self::QuicAccept(Timeout))
    }

    /// Whether signaling was not there to pass on what the peers had to say.
    pub(crate) fn is_of_signaling(&self) -> bool {
        use RequestError::{ConnectionLost, Timeout};
        matches!(self, Self::Signaling(ConnectionLost | Timeout))
    }
}

/// What every negotiation of a room shares.
#[derive(Debug, Clone)]
pub(crate) struct Negotiator {
    pub(crate) signaling: SignalingClient,
    /// As the application wants it.
    pub(crate) webrtc: WebRtcConfig,
    pub(crate) quic: Option<QuicEndpoint>,
    /// Whether the peer has answered our offer: then it is not replaced, and another may follow.
    pub(crate) answered: Arc<AtomicBool>,
}

/// How long a silent peer is dialled before that dial is replaced.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a link's move is offered, and how long each offer waits for its answer. Where both ends
/// move, signaling may lose what it had for a connection that is no more; and a silent link is given
/// up in 3 s.
const RESTARTS: u32 = 4;
const RESTART_PATIENCE: Duration = Duration::from_millis(700);
/// How long late candidates of an ICE restart are waited for.
const LATE_CANDIDATES: Duration = Duration::from_secs(5);

/// What a negotiation is about.
#[derive(Debug)]
pub(crate) enum Role {
    /// Offer a link of this kind.
    Offer(TransportKind),
    /// Dial a peer that was linked over QUIC before, without signaling.
    Dial(Contact),
    /// Let that peer dial us.
    Await(AuthorId),
    /// Move this open link to the network that there is now.
    Restart(WebRtcLink),
    /// Answer this offer, which may be to move this open link.
    Answer {
        request: RequestId,
        body: OfferBody,
        open: Option<WebRtcLink>,
    },
}

/// Who a QUIC peer is, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) author: AuthorId,
    /// As it has named them, and before them where its packets came from.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What a negotiation brought.
#[derive(Debug)]
pub(crate) enum Negotiated {
    Link(CommandTransport),
    /// An open link goes on by other addresses.
    Moved,
}

/// Over what an offer is.
pub(crate) const fn kind(offer: &OfferBody) -> TransportKind {
    match offer {
        OfferBody::Quic { .. } => TransportKind::Quic,
        OfferBody::WebRtc { .. } => TransportKind::WebRtc,
    }
}

impl Role {
    pub(crate) fn kind(&self) -> TransportKind {
        match self {
            Self::Offer(kind) => *kind,
            Self::Restart(_) => TransportKind::WebRtc,
            Self::Dial(_) | Self::Await(_) => TransportKind::Quic,
            Self::Answer { body, .. } => kind(body),
        }
    }

    pub(crate) fn side(&self) -> Side {
        match self {
            Self::Offer(_) | Self::Restart(_) | Self::Dial(_) => Side::Initiator,
            Self::Answer { .. } | Self::Await(_) => Side::Responder,
        }
    }
}

impl Negotiator {
    pub(crate) fn new(
        signaling: SignalingClient,
        webrtc: WebRtcConfig,
        quic: Option<QuicEndpoint>,
    ) -> Self {
        Self {
            signaling,
            webrtc,
            quic,
            answered: Arc::default(),
        }
    }

    /// Runs one negotiation to its end. Cancel safe: dropping it leaves nothing behind.
    pub(crate) async fn run(
        self,
        peer: PeerId,
        role: Role,
        mut signals: mpsc::Receiver<Signal>,
    ) -> Result<Negotiated, NegotiationError> {
        let transport = match role {
            Role::Offer(TransportKind::Quic) => self.offer_quic(&peer, &mut signals).await,
            Role::Offer(_) => self.offer_webrtc(&peer, &mut signals).await,
            Role::Dial(contact) => self.dial(&contact).await,
            Role::Await(author) => self.await_dial(author).await,
            Role::Restart(link) => return self.offer_restart(&peer, &link, &mut signals).await,
            Role::Answer {
                request,
                body: OfferBody::WebRtc { sdp },
                open,
            } => {
                if let Some(link) = open
                    && let Some((restart, answer)) = self.restarted_by(&link, &sdp).await?
                {
                    let answered = (&request, answer);
                    return self
                        .answer_restart(&peer, answered, restart, &sdp, &mut signals)
                        .await;
                }
                self.answer_webrtc(&peer, request, &sdp, &mut signals).await
            }
            Role::Answer {
                request,
                body: OfferBody::Quic { author_key, .. },
                ..
            } => self.answer_quic(&peer, &request, author_key).await,
        };
        transport.map(Negotiated::Link)
    }

    async fn dial(&self, contact: &Contact) -> Result<CommandTransport, NegotiationError> {
        let endpoint = self.quic.as_ref().ok_or(NegotiationError::WrongKind)?;
        let dialled = endpoint.connect(&contact.addresses, contact.author);
        // The peer may hold it for longer, and would then take up what has died meanwhile.
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, dialled).await;
        let link = dialled.map_err(|_| NegotiationError::NotAnswered)??;
        Ok(CommandTransport::Quic(link))
    }

    async fn await_dial(&self, author: AuthorId) -> Result<CommandTransport, NegotiationError> {
        let endpoint = self.quic.as_ref().ok_or(NegotiationError::WrongKind)?;
        Ok(CommandTransport::Quic(endpoint.accept_from(author).await?))
    }

    async fn answer_quic(
        &self,
        peer: &PeerId,
        request: &RequestId,
        author_key: AuthorId,
    ) -> Result<CommandTransport, NegotiationError> {
        let endpoint = self.quic.as_ref().ok_or(NegotiationError::WrongKind)?;
        let body = AnswerBody::Quic {
            author_key: endpoint.author(),
            addresses: endpoint.local_candidates(),
        };
        self.signaling.answer(peer, request, body).await?;
        Ok(CommandTransport::Quic(
            endpoint.accept_from(author_key).await?,
        ))
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
        self.answered.store(true, Ordering::Relaxed);
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

    /// The application's servers first, then those of signaling.
    fn webrtc(&self) -> WebRtcConfig {
        let webrtc = self.webrtc.clone();
        // With credentials that signaling renews.
        webrtc.with_more_ice_servers(self.signaling.ice_servers().borrow().iter().cloned())
    }

    async fn offer_webrtc(
        &self,
        peer: &PeerId,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<CommandTransport, NegotiationError> {
        let (connecting, sdp) = Connecting::offer(&self.webrtc()).await?;
        let request = self
            .signaling
            .offer(peer, OfferBody::WebRtc { sdp })
            .await?;
        let answered = async {
            // A candidate that cannot be used is no reason to give up: another may connect.
            let early = |candidate: IceCandidate| drop(connecting.add_remote_candidate(&candidate));
            let AnswerBody::WebRtc { sdp } = answer_to(&request, signals, early).await? else {
                return Err(NegotiationError::WrongKind);
            };
            self.answered.store(true, Ordering::Relaxed);
            connecting.accept_answer(&sdp).await?;
            open_webrtc(connecting.clone(), &request, signals).await
        };
        tokio::select! {
            result = answered => result,
            never = self.trickle(peer, &request, &connecting) => match never {},
        }
    }

    async fn answer_webrtc(
        &self,
        peer: &PeerId,
        request: RequestId,
        offer: &str,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<CommandTransport, NegotiationError> {
        let (connecting, sdp) = Connecting::answer(&self.webrtc(), offer).await?;
        self.signaling
            .answer(peer, &request, AnswerBody::WebRtc { sdp })
            .await?;
        tokio::select! {
            result = open_webrtc(connecting.clone(), &request, signals) => result,
            never = self.trickle(peer, &request, &connecting) => match never {},
        }
    }

    async fn offer_restart(
        &self,
        peer: &PeerId,
        link: &WebRtcLink,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<Negotiated, NegotiationError> {
        for _ in 0..RESTARTS {
            // Each time anew: the peer may have taken up the one before, its answer lost.
            let (restart, sdp) = link.restart_ice(&self.webrtc()).await?;
            let request = self
                .signaling
                .offer(peer, OfferBody::WebRtc { sdp })
                .await?;
            let early = |candidate: IceCandidate| drop(restart.add_remote_candidate(&candidate));
            let answer = answer_to(&request, signals, early);
            let Ok(answer) = tokio::time::timeout(RESTART_PATIENCE, answer).await else {
                continue;
            };
            let AnswerBody::WebRtc { sdp } = answer? else {
                return Err(NegotiationError::WrongKind);
            };
            restart.accept_answer(&sdp).await?;
            self.answered.store(true, Ordering::Relaxed);
            self.finish_restart(peer, &request, (&restart, &sdp), signals)
                .await;
            return Ok(Negotiated::Moved);
        }
        Err(NegotiationError::NotAnswered)
    }

    /// What to answer if `offer` is to move `link`; `None` if it is for a new one.
    async fn restarted_by(
        &self,
        link: &WebRtcLink,
        offer: &str,
    ) -> Result<Option<(IceRestart, String)>, NegotiationError> {
        match link.answer_restart(&self.webrtc(), offer).await {
            Ok(answered) => Ok(Some(answered)),
            Err(ConnectError::NoRestart | ConnectError::Abandoned) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn answer_restart(
        &self,
        peer: &PeerId,
        (request, sdp): (&RequestId, String),
        restart: IceRestart,
        offer: &str,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<Negotiated, NegotiationError> {
        self.signaling
            .answer(peer, request, AnswerBody::WebRtc { sdp })
            .await?;
        self.finish_restart(peer, request, (&restart, offer), signals)
            .await;
        Ok(Negotiated::Moved)
    }

    /// Passes candidates on until both sides have named all.
    async fn finish_restart(
        &self,
        peer: &PeerId,
        request: &RequestId,
        (restart, theirs): (&IceRestart, &str),
        signals: &mut mpsc::Receiver<Signal>,
    ) {
        let ours = async {
            while let Some(candidate) = restart.next_candidate().await {
                if let Err(error) = self.signaling.candidate(peer, request, candidate).await {
                    tracing::debug!(%error, "a candidate of ours is not passed on");
                }
            }
        };
        let theirs = async {
            let mut complete = theirs.contains("a=end-of-candidates");
            while !complete && let Some(signal) = signals.recv().await {
                if let Signal::Candidate {
                    request: of,
                    candidate,
                } = signal
                    && of == *request
                {
                    complete = candidate.is_end();
                    if let Err(error) = restart.add_remote_candidate(&candidate) {
                        tracing::debug!(%error, "a remote candidate is not used");
                    }
                }
            }
        };
        let both = async { tokio::join!(ours, theirs) };
        // A peer that does not say that it has named all may have done so.
        let _ = tokio::time::timeout(LATE_CANDIDATES, both).await;
    }

    /// Tells the peer our candidates as they are found.
    async fn trickle(
        &self,
        peer: &PeerId,
        request: &RequestId,
        connecting: &Connecting,
    ) -> Infallible {
        while let Some(candidate) = connecting.next_candidate().await {
            // Another may get through.
            if let Err(error) = self.signaling.candidate(peer, request, candidate).await {
                tracing::debug!(%error, "a candidate of ours is not passed on");
            }
        }
        std::future::pending().await
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
