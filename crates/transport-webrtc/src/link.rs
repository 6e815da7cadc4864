//! The handle of an open link.

use std::sync::Arc;

use roundtable_core::{
    AuthorId, ChannelBinding, CloseCode, Delivery, Frame, LinkStats, MediaCodec, Payload,
    TransportKind,
};
use roundtable_transport::{Closed, Link, SendError, check_frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{
    ConnectError, IceRestart, WebRtcConfig,
    connecting::CANDIDATES,
    driver::{Command, Restarting},
    media::{Codecs, channel_of},
    outbox::Outbound,
    sdp,
    shared::Shared,
};

/// What a queued frame takes beyond its payload, in bytes.
const FRAME_OVERHEAD: usize = 64;

/// An open WebRTC link. Clones are handles of the same link; when the last is dropped, it closes.
#[derive(Debug, Clone)]
pub struct WebRtcLink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    /// Bounded by the permits that frames carry; the task ends when all senders are gone.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) binding: ChannelBinding,
    pub(crate) codecs: Codecs,
    /// Closed when nothing of the link is left.
    pub(crate) finished: watch::Receiver<()>,
}

impl WebRtcLink {
    pub(crate) fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether the peer takes repeated voice frames (RFC 2198). If not, they are left out on the way to it.
    pub fn takes_redundant_voice(&self) -> bool {
        self.inner.codecs.has(MediaCodec::OpusRed)
    }

    /// Starts ICE anew (RFC 8445 §9) without losing anything that is under way: binds new sockets to the
    /// addresses that there are now, and asks the servers of `config` again. For when the network
    /// has changed, or the link has fallen silent. Of `config` the addresses, servers, ICE policy,
    /// gathering timeout and certificates count. The second value goes by signaling to the peer,
    /// which hands it to [`answer_restart`](Self::answer_restart). Until the answer is accepted the
    /// link carries nothing, and it is lost if that takes longer than
    /// [`WebRtcConfig::with_lost_after`].
    ///
    /// # Errors
    /// [`ConnectError::Socket`]; [`ConnectError::Abandoned`] if the link has closed.
    pub async fn restart_ice(
        &self,
        config: &WebRtcConfig,
    ) -> Result<(IceRestart, String), ConnectError> {
        self.restart(config, None).await
    }

    /// Takes up the peer's ICE restart. The second value goes back to the peer. If one of ours waits
    /// for its answer, it is given up; of two peers that begin at once, one must give way so.
    ///
    /// # Errors
    /// [`ConnectError::NoRestart`] if the offer is not for another ICE session of this very link:
    /// then it is for a new link. Otherwise what is wrong with it, or as
    /// [`restart_ice`](Self::restart_ice).
    pub async fn answer_restart(
        &self,
        config: &WebRtcConfig,
        offer: &str,
    ) -> Result<(IceRestart, String), ConnectError> {
        self.restart(config, Some(offer)).await
    }

    async fn restart(
        &self,
        config: &WebRtcConfig,
        offer: Option<&str>,
    ) -> Result<(IceRestart, String), ConnectError> {
        config.validate()?;
        let named = offer.map_or(Ok(0), sdp::check)?;
        let (candidates, local) = mpsc::channel(CANDIDATES);
        let (reply, description) = oneshot::channel();
        let restarting = Command::Restart(Restarting {
            config: Box::new(config.clone()),
            offer: offer.map(str::to_owned),
            candidates,
            reply,
        });
        // An error means that the task has ended; then there is no description either.
        let _ = self.inner.commands.send(restarting);
        let description = description.await.map_err(|_| ConnectError::Abandoned)??;
        let commands = self.inner.commands.downgrade();
        Ok((IceRestart::new(commands, local, named), description))
    }

    /// Checks what can be checked before a place in the queue is taken. Returns that place's size.
    fn check(&self, frame: &Frame) -> Result<u32, SendError> {
        check_frame(frame)?;
        let negotiated = match &frame.payload {
            Payload::Media(packet) if channel_of(packet.codec) != frame.channel => {
                return Err(SendError::WrongChannel(frame.channel));
            }
            Payload::Media(packet) => self.inner.codecs.takes(packet.codec),
            Payload::Clock(_) => self.inner.codecs.serves(frame.channel),
            _ => true,
        };
        if !negotiated {
            return Err(SendError::NotNegotiated(frame.channel));
        }
        let size = frame.payload_len() + FRAME_OVERHEAD;
        Ok(u32::try_from(size).unwrap_or(u32::MAX))
    }

    fn queue(&self, frame: Frame, permit: OwnedSemaphorePermit) -> Result<(), SendError> {
        let outbound = Command::Send(Outbound { frame, permit });
        self.inner
            .commands
            .send(outbound)
            .map_err(|_| self.closed().into())
    }

    fn closed(&self) -> Closed {
        let closed = self.inner.shared.inbox.closed();
        closed.unwrap_or_else(|| Closed::new(CloseCode::LOST, "", false))
    }
}

impl Link for WebRtcLink {
    fn kind(&self) -> TransportKind {
        TransportKind::WebRtc
    }

    fn binding(&self) -> ChannelBinding {
        self.inner.binding
    }

    fn remote_author(&self) -> Option<AuthorId> {
        None
    }

    fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        let size = self.check(&frame)?;
        let (shared, channel) = (&self.inner.shared, frame.channel);
        let permits = &shared.permits[usize::from(channel.number())];
        match permits.clone().try_acquire_many_owned(size) {
            Ok(permit) => self.queue(frame, permit),
            Err(_) if permits.is_closed() => Err(self.closed().into()),
            Err(_) => {
                if channel.delivery() == Delivery::UnreliableUnordered {
                    shared.count_dropped(channel);
                }
                Err(SendError::Full(channel))
            }
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), SendError> {
        if frame.channel.delivery() == Delivery::UnreliableUnordered {
            return match self.try_send(frame) {
                Err(SendError::Full(_)) => Ok(()),
                result => result,
            };
        }
        let size = self.check(&frame)?;
        let permits = &self.inner.shared.permits[usize::from(frame.channel.number())];
        match permits.clone().acquire_many_owned(size).await {
            Ok(permit) => self.queue(frame, permit),
            Err(_) => Err(self.closed().into()),
        }
    }

    async fn recv(&self) -> Result<Frame, Closed> {
        let shared = &self.inner.shared;
        let frame = shared.inbox.recv().await?;
        shared.count(frame.channel, |stats| {
            stats.received_frames = stats.received_frames.wrapping_add(1);
            let bytes = u64::try_from(frame.payload_len()).unwrap_or(u64::MAX);
            stats.received_bytes = stats.received_bytes.wrapping_add(bytes);
        });
        Ok(frame)
    }

    fn stats(&self) -> LinkStats {
        self.inner.shared.stats().clone()
    }

    async fn close(&self, code: CloseCode, reason: &str) {
        let command = Command::Close(Closed::new(code, reason, false));
        // An error means that the task has ended already.
        let _ = self.inner.commands.send(command);
        let mut finished = self.inner.finished.clone();
        while finished.changed().await.is_ok() {}
    }
}
