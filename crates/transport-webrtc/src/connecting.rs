//! A negotiation that becomes a link.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use roundtable_signaling_protocol::IceCandidate;
use rtc::{ice::candidate::unmarshal_candidate, peer_connection::transport::RTCIceCandidateInit};
use tokio::sync::{mpsc, watch};

use crate::{
    ConnectError, WebRtcConfig, WebRtcLink,
    driver::{Command, Driver, Limits, Progress, now},
    error::{MAX_CANDIDATE_LEN, MAX_CANDIDATES},
    gather, link,
    peer::Peer,
    sdp,
    shared::Shared,
    socket::Sockets,
};

/// One negotiation, which becomes one link. Clones are handles of the same negotiation, so that one
/// can feed it what signaling brings while another waits in [`opened`](Self::opened).
///
/// Dropping all of them before the link is open abandons it and frees its sockets.
#[derive(Debug, Clone)]
pub struct Connecting {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stage: Mutex<Stage>,
    progress: watch::Receiver<Progress>,
    open_by: Instant,
    open_timeout: std::time::Duration,
}

#[derive(Debug)]
struct Stage {
    state: State,
    /// Candidates that the peer has named so far.
    candidates: usize,
}

enum State {
    /// We have offered; nothing runs yet, packets wait in the sockets.
    Offered(Box<Setup>),
    /// The task runs.
    Running(Box<link::Inner>),
    /// The link has been handed out; late candidates may still reach it.
    Opened(mpsc::WeakUnboundedSender<Command>),
    /// Abandoned or failed.
    Over,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Offered(_) => "Offered",
            Self::Running(_) => "Running",
            Self::Opened(_) => "Opened",
            Self::Over => "Over",
        })
    }
}

/// What the task will need.
struct Setup {
    peer: Peer,
    sockets: Sockets,
    shared: Arc<Shared>,
    limits: Limits,
    in_flight: usize,
    progress: watch::Sender<Progress>,
}

impl Setup {
    /// Binds the sockets. The second value follows the negotiation's progress.
    fn new(config: &WebRtcConfig) -> Result<(Self, watch::Receiver<Progress>), ConnectError> {
        config.validate()?;
        let sockets = gather::bind(config)?;
        let start = now();
        let ssrcs = random_ssrcs()?;
        let peer = Peer::new(config, start, sockets.locals(), ssrcs)?;
        let (progress, follow) = watch::channel(Progress::Opening);
        let setup = Self {
            peer,
            sockets,
            shared: Arc::new(Shared::new(config)),
            limits: Limits {
                open_by: start + config.open_timeout,
                open_timeout: config.open_timeout,
                lost_after: config.lost_after,
            },
            in_flight: config.in_flight,
            progress,
        };
        Ok((setup, follow))
    }

    /// Starts the link's task; both descriptions are in place.
    fn spawn(self) -> Result<link::Inner, ConnectError> {
        let binding = self.peer.binding().ok_or(ConnectError::Setup)?;
        let codecs = self.peer.codecs().clone();
        let (commands, receiver) = mpsc::unbounded_channel();
        let (alive, finished) = watch::channel(());
        let driver = Driver::new(
            (self.peer, self.sockets),
            self.in_flight,
            self.shared.clone(),
            self.limits,
            receiver,
            self.progress,
        );
        tokio::spawn(async move {
            driver.run().await;
            drop(alive);
        });
        Ok(link::Inner {
            commands,
            shared: self.shared,
            binding,
            codecs,
            finished,
        })
    }
}

/// Two distinct random SSRCs (RFC 3550 §8.1).
fn random_ssrcs() -> Result<[u32; 2], ConnectError> {
    let random = getrandom::u64().map_err(|_| ConnectError::Setup)?;
    let [a, b, c, d, e, f, g, h] = random.to_ne_bytes();
    // The last bit tells them apart.
    Ok([
        u32::from_ne_bytes([a, b, c, d]) | 1,
        u32::from_ne_bytes([e, f, g, h]) & !1,
    ])
}

impl Connecting {
    /// Starts a negotiation. The second value is the description to send to the peer; all
    /// candidates are in it.
    ///
    /// # Errors
    /// [`ConnectError::Config`], [`ConnectError::Socket`] or [`ConnectError::Setup`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    #[allow(clippy::unused_async)] // gathering will wait for STUN servers
    pub async fn offer(config: &WebRtcConfig) -> Result<(Self, String), ConnectError> {
        let (mut setup, progress) = Setup::new(config)?;
        let sdp = setup.peer.offer(now())?;
        let limits = setup.limits;
        let state = State::Offered(Box::new(setup));
        Ok((Self::new(state, 0, progress, limits), sdp))
    }

    /// Takes up a negotiation that the peer started with `offer`. The second value is the description
    /// to send back; the link opens from now on.
    ///
    /// # Errors
    /// As [`offer`](Self::offer), and all that may be wrong with the peer's description.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    #[allow(clippy::unused_async)] // gathering will wait for STUN servers
    pub async fn answer(
        config: &WebRtcConfig,
        offer: &str,
    ) -> Result<(Self, String), ConnectError> {
        let candidates = sdp::check(offer)?;
        let (mut setup, progress) = Setup::new(config)?;
        let sdp = setup.peer.answer(now(), offer)?;
        let limits = setup.limits;
        let state = State::Running(Box::new(setup.spawn()?));
        Ok((Self::new(state, candidates, progress, limits), sdp))
    }

    fn new(
        state: State,
        candidates: usize,
        progress: watch::Receiver<Progress>,
        limits: Limits,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                stage: Mutex::new(Stage { state, candidates }),
                progress,
                open_by: limits.open_by,
                open_timeout: limits.open_timeout,
            }),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.inner
            .stage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the peer's answer to our offer; the link opens from now on. After an error the
    /// negotiation is over.
    ///
    /// # Errors
    /// [`ConnectError::AlreadyAnswered`] unless this negotiation waits for an answer; otherwise what
    /// is wrong with it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn accept_answer(&self, answer: &str) -> Result<(), ConnectError> {
        let mut stage = self.stage();
        let mut setup = match std::mem::replace(&mut stage.state, State::Over) {
            State::Offered(setup) => setup,
            State::Over => return Err(ConnectError::Abandoned),
            other => {
                stage.state = other;
                return Err(ConnectError::AlreadyAnswered);
            }
        };
        stage.candidates += sdp::check(answer)?;
        if stage.candidates > MAX_CANDIDATES {
            return Err(ConnectError::TooManyCandidates);
        }
        setup.peer.accept_answer(now(), answer)?;
        stage.state = State::Running(Box::new(setup.spawn()?));
        Ok(())
    }

    /// Takes a trickled candidate of the peer's (RFC 8838), at any time; before the answer it is
    /// held. The end of candidates and `.local` names change nothing: the peer's own checks reveal
    /// its address.
    ///
    /// # Errors
    /// [`ConnectError::CandidateTooLarge`], [`ConnectError::Candidate`] or
    /// [`ConnectError::TooManyCandidates`]; the negotiation goes on.
    pub fn add_remote_candidate(&self, candidate: &IceCandidate) -> Result<(), ConnectError> {
        if candidate.is_end() {
            return Ok(());
        }
        let text = candidate.candidate.as_str();
        if text.len() > MAX_CANDIDATE_LEN {
            return Err(ConnectError::CandidateTooLarge(text.len()));
        }
        let value = text.strip_prefix("candidate:").unwrap_or(text);
        unmarshal_candidate(value).map_err(|_| ConnectError::Candidate)?;
        let candidate = RTCIceCandidateInit {
            candidate: text.to_owned(),
            ..Default::default()
        };
        let mut stage = self.stage();
        stage.candidates += 1;
        if stage.candidates > MAX_CANDIDATES {
            stage.candidates = MAX_CANDIDATES;
            return Err(ConnectError::TooManyCandidates);
        }
        let command = match &mut stage.state {
            State::Offered(setup) => {
                setup.peer.add_remote_candidate(candidate);
                return Ok(());
            }
            State::Running(inner) => Some(inner.commands.clone()),
            State::Opened(commands) => commands.upgrade(),
            State::Over => None,
        };
        if let Some(commands) = command {
            // An error means that the task has ended.
            let _ = commands.send(Command::Candidate(candidate));
        }
        Ok(())
    }

    /// Waits until the link is open: certificates checked, all channels usable. When this future is
    /// dropped, the negotiation is abandoned, whatever other handles there are.
    ///
    /// # Errors
    /// [`ConnectError::Timeout`] when the time of [`WebRtcConfig::with_open_timeout`] is over,
    /// [`ConnectError::Handshake`], or [`ConnectError::Abandoned`] when another handle has
    /// abandoned it or taken the link.
    pub async fn opened(self) -> Result<WebRtcLink, ConnectError> {
        let mut guard = AbandonOnDrop(Some(&self));
        let mut progress = self.inner.progress.clone();
        let wait = progress.wait_for(|progress| *progress != Progress::Opening);
        let open_by = tokio::time::Instant::from_std(self.inner.open_by);
        match tokio::time::timeout_at(open_by, wait).await {
            Err(_) => return Err(ConnectError::Timeout(self.inner.open_timeout)),
            Ok(Err(_)) => return Err(ConnectError::Abandoned),
            Ok(Ok(progress)) => {
                if let Progress::Failed(error) = &*progress {
                    return Err(error.clone());
                }
            }
        }
        guard.0 = None;
        let mut stage = self.stage();
        match std::mem::replace(&mut stage.state, State::Over) {
            State::Running(inner) => {
                stage.state = State::Opened(inner.commands.downgrade());
                Ok(WebRtcLink::new(*inner))
            }
            other => {
                stage.state = other;
                Err(ConnectError::Abandoned)
            }
        }
    }
}

/// Abandons a negotiation when dropped, unless emptied before.
struct AbandonOnDrop<'a>(Option<&'a Connecting>);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        let Some(mut stage) = self.0.map(Connecting::stage) else {
            return;
        };
        if !matches!(stage.state, State::Opened(_)) {
            // Without its sender the task ends.
            stage.state = State::Over;
        }
    }
}
