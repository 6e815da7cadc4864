//! An ICE restart of an open link, as its users see it.

use std::sync::atomic::{AtomicUsize, Ordering};

use roundtable_signaling_protocol::IceCandidate;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{ConnectError, driver::Command, error::MAX_CANDIDATES, sdp};

/// The negotiation of an ICE restart. Its handle holds nothing open: when it is dropped, what has
/// been negotiated stays.
#[derive(Debug)]
pub struct IceRestart {
    commands: mpsc::WeakUnboundedSender<Command>,
    local: Mutex<mpsc::Receiver<IceCandidate>>,
    /// Candidates that the peer has named so far.
    named: AtomicUsize,
}

impl IceRestart {
    pub(crate) fn new(
        commands: mpsc::WeakUnboundedSender<Command>,
        local: mpsc::Receiver<IceCandidate>,
        named: usize,
    ) -> Self {
        Self {
            commands,
            local: Mutex::new(local),
            named: AtomicUsize::new(named),
        }
    }

    /// Takes the peer's answer to our restart; ICE runs from now on.
    ///
    /// # Errors
    /// What is wrong with the answer, after which the restart may be begun again;
    /// [`ConnectError::Abandoned`] if the link has closed.
    pub async fn accept_answer(&self, answer: &str) -> Result<(), ConnectError> {
        self.count(sdp::check(answer)?)?;
        let (reply, result) = oneshot::channel();
        self.send(Command::Answer(answer.to_owned(), reply));
        result.await.unwrap_or(Err(ConnectError::Abandoned))
    }

    /// Takes a trickled candidate of the peer's (RFC 8838), before the answer as well as after.
    ///
    /// # Errors
    /// [`ConnectError::CandidateTooLarge`], [`ConnectError::Candidate`] or
    /// [`ConnectError::TooManyCandidates`]; the restart goes on.
    pub fn add_remote_candidate(&self, candidate: &IceCandidate) -> Result<(), ConnectError> {
        if let Some(candidate) = sdp::candidate(candidate)? {
            self.count(1)?;
            self.send(Command::Candidate(candidate));
        }
        Ok(())
    }

    /// Our next candidate for the peer, as
    /// [`Connecting::next_candidate`](crate::Connecting::next_candidate). Cancel safe.
    pub async fn next_candidate(&self) -> Option<IceCandidate> {
        self.local.lock().await.recv().await
    }

    fn count(&self, more: usize) -> Result<(), ConnectError> {
        let before = self.named.fetch_add(more, Ordering::Relaxed);
        if before + more > MAX_CANDIDATES {
            self.named.store(MAX_CANDIDATES, Ordering::Relaxed);
            return Err(ConnectError::TooManyCandidates);
        }
        Ok(())
    }

    fn send(&self, command: Command) {
        if let Some(commands) = self.commands.upgrade() {
            // An error means that the task has ended.
            let _ = commands.send(command);
        }
    }
}
