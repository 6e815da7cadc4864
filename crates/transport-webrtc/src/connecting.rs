//! A negotiation that becomes a link.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use roundtable_signaling_protocol::IceCandidate;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    ConnectError, WebRtcConfig, WebRtcLink,
    driver::{Command, Driver, Limits, Progress, now},
    error::MAX_CANDIDATES,
    interfaces, link,
    peer::Peer,
    sdp,
    shared::Shared,
    socket::Sockets,
    stream::Streams,
    tcp::Tcp,
};

/// How much later than the task a waiting handle gives up.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);
/// Candidates of ours that wait for [`Connecting::next_candidate`] at most; there are never so many.
pub(crate) const CANDIDATES: usize = 64;

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
    /// Our candidates.
    local: tokio::sync::Mutex<mpsc::Receiver<IceCandidate>>,
    open_by: Instant,
    open_timeout: std::time::Duration,
}

#[derive(Debug)]
struct Stage {
    state: State,
    /// Whether the peer's answer is awaited.
    unanswered: bool,
    /// Candidates that the peer has named so far.
    candidates: usize,
}

#[derive(Debug)]
enum State {
    /// The task runs.
    Running(Handle),
    /// The link has been handed out; late candidates may still reach it.
    Opened(mpsc::WeakUnboundedSender<Command>),
    /// Abandoned or failed.
    Over,
}

/// What the link will need of its task.
#[derive(Debug)]
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    finished: watch::Receiver<()>,
}

/// Binds the sockets.
fn set_up(config: &WebRtcConfig) -> Result<(Peer, Sockets, Tcp, Instant), ConnectError> {
    config.validate()?;
    let sockets = interfaces::bind(config)?;
    let tcp = Tcp::listen(config, sockets.locals());
    let start = now();
    let mut peer = Peer::new(config, start, sockets.locals(), random_ssrcs()?)?;
    peer.listen(tcp.listening());
    peer.hide(interfaces::names(config, &sockets)?);
    Ok((peer, sockets, tcp, start))
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
    /// Starts a negotiation. The second value is the description to send to the peer. Our host
    /// candidates are in it; those that STUN and TURN servers bring follow by
    /// [`next_candidate`](Self::next_candidate).
    ///
    /// # Errors
    /// [`ConnectError::Config`], [`ConnectError::Socket`] or [`ConnectError::Setup`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    #[allow(clippy::unused_async)] // so that set-up may come to wait
    pub async fn offer(config: &WebRtcConfig) -> Result<(Self, String), ConnectError> {
        let (mut peer, sockets, tcp, start) = set_up(config)?;
        let sdp = peer.offer(start)?;
        let network = (sockets, tcp);
        Ok((Self::start(config, peer, network, (start, None)), sdp))
    }

    /// Takes up a negotiation that the peer started with `offer`. The second value is the description
    /// to send back; the link opens from now on.
    ///
    /// # Errors
    /// As [`offer`](Self::offer), and all that may be wrong with the peer's description.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    #[allow(clippy::unused_async)] // so that set-up may come to wait
    pub async fn answer(
        config: &WebRtcConfig,
        offer: &str,
    ) -> Result<(Self, String), ConnectError> {
        let candidates = sdp::check(offer)?;
        let (mut peer, sockets, tcp, start) = set_up(config)?;
        let sdp = peer.answer(start, offer)?;
        let started = (start, Some(candidates));
        Ok((Self::start(config, peer, (sockets, tcp), started), sdp))
    }

    /// Starts the link's task. With an offer of the peer's comes the number of its candidates.
    fn start(
        config: &WebRtcConfig,
        peer: Peer,
        (sockets, tcp): (Sockets, Tcp),
        (start, candidates): (Instant, Option<usize>),
    ) -> Self {
        let shared = Arc::new(Shared::new(config));
        let limits = Limits {
            open_by: start + config.open_timeout,
            open_timeout: config.open_timeout,
            lost_after: config.lost_after,
        };
        let (commands, receiver) = mpsc::unbounded_channel();
        let (report, progress) = watch::channel(Progress::Opening);
        let (trickle, local) = mpsc::channel(CANDIDATES);
        let (alive, finished) = watch::channel(());
        let driver = Driver::new(
            (peer, sockets, tcp, Streams::new(config.trusted.clone())),
            config.in_flight,
            shared.clone(),
            limits,
            receiver,
            (report, trickle),
        );
        tokio::spawn(async move {
            driver.run().await;
            drop(alive);
        });
        let handle = Handle {
            commands,
            shared,
            finished,
        };
        Self {
            inner: Arc::new(Inner {
                stage: Mutex::new(Stage {
                    state: State::Running(handle),
                    unanswered: candidates.is_none(),
                    candidates: candidates.unwrap_or(0),
                }),
                progress,
                local: tokio::sync::Mutex::new(local),
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
    pub async fn accept_answer(&self, answer: &str) -> Result<(), ConnectError> {
        let (reply, result) = oneshot::channel();
        self.hand_over(answer, reply)?;
        match result.await {
            Ok(result) => result,
            // The task has ended before.
            Err(_) => Err(match &*self.inner.progress.borrow() {
                Progress::Failed(error) => error.clone(),
                _ => ConnectError::Abandoned,
            }),
        }
    }

    /// Hands the answer to the task.
    fn hand_over(
        &self,
        answer: &str,
        reply: oneshot::Sender<Result<(), ConnectError>>,
    ) -> Result<(), ConnectError> {
        let mut stage = self.stage();
        let commands = match &stage.state {
            State::Over => return Err(ConnectError::Abandoned),
            State::Running(handle) if stage.unanswered => handle.commands.clone(),
            State::Running(_) | State::Opened(_) => return Err(ConnectError::AlreadyAnswered),
        };
        stage.unanswered = false;
        let candidates = sdp::check(answer).and_then(|more| {
            let all = stage.candidates + more;
            (all <= MAX_CANDIDATES)
                .then_some(all)
                .ok_or(ConnectError::TooManyCandidates)
        });
        match candidates {
            Ok(all) => stage.candidates = all,
            Err(error) => {
                stage.state = State::Over;
                return Err(error);
            }
        }
        // If the task has ended, the reply is dropped.
        let _ = commands.send(Command::Answer(answer.to_owned(), reply));
        Ok(())
    }

    /// Our next candidate for the peer (RFC 8838), to be sent by signaling behind our description.
    /// The last is empty ([`IceCandidate::is_end`]); then `None`, as where no servers are
    /// configured. Cancel safe.
    pub async fn next_candidate(&self) -> Option<IceCandidate> {
        self.inner.local.lock().await.recv().await
    }

    /// Takes a trickled candidate of the peer's (RFC 8838), at any time; before the answer it is
    /// held. A `.local` name is looked up by multicast DNS; where nobody knows it, the peer's own checks
    /// reveal its address.
    ///
    /// # Errors
    /// [`ConnectError::CandidateTooLarge`], [`ConnectError::Candidate`] or
    /// [`ConnectError::TooManyCandidates`]; the negotiation goes on.
    pub fn add_remote_candidate(&self, candidate: &IceCandidate) -> Result<(), ConnectError> {
        let Some(candidate) = sdp::candidate(candidate)? else {
            return Ok(());
        };
        let mut stage = self.stage();
        stage.candidates += 1;
        if stage.candidates > MAX_CANDIDATES {
            stage.candidates = MAX_CANDIDATES;
            return Err(ConnectError::TooManyCandidates);
        }
        let command = match &stage.state {
            State::Running(handle) => Some(handle.commands.clone()),
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
    /// [`ConnectError::Timeout`] or [`ConnectError::Unreachable`] when the time of
    /// [`WebRtcConfig::with_open_timeout`] is over, [`ConnectError::NoRelay`],
    /// [`ConnectError::Handshake`], or [`ConnectError::Abandoned`] when another handle has
    /// abandoned it or taken the link.
    pub async fn opened(self) -> Result<WebRtcLink, ConnectError> {
        let mut guard = AbandonOnDrop(Some(&self));
        let mut progress = self.inner.progress.clone();
        let wait = progress.wait_for(|progress| !matches!(progress, Progress::Opening));
        // The task keeps the time; this is for one that has no time to do so.
        let open_by = tokio::time::Instant::from_std(self.inner.open_by + GRACE);
        let (binding, codecs) = match tokio::time::timeout_at(open_by, wait).await {
            Err(_) => return Err(ConnectError::Timeout(self.inner.open_timeout)),
            Ok(Err(_)) => return Err(ConnectError::Abandoned),
            Ok(Ok(progress)) => match &*progress {
                Progress::Open(binding, codecs) => (*binding, codecs.clone()),
                Progress::Failed(error) => return Err(error.clone()),
                Progress::Opening => return Err(ConnectError::Abandoned),
            },
        };
        guard.0 = None;
        let mut stage = self.stage();
        match std::mem::replace(&mut stage.state, State::Over) {
            State::Running(handle) => {
                stage.state = State::Opened(handle.commands.downgrade());
                Ok(WebRtcLink::new(link::Inner {
                    commands: handle.commands,
                    shared: handle.shared,
                    binding,
                    codecs,
                    finished: handle.finished,
                }))
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
