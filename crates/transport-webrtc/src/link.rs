//! The handle of an open link.

use std::sync::Arc;

use roundtable_core::{
    AuthorId, ChannelBinding, CloseCode, Delivery, Frame, LinkStats, MediaCodec, Payload,
    TransportKind,
};
use roundtable_transport::{Closed, Link, SendError, check_frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::{
    driver::Command,
    media::{Codecs, channel_of},
    outbox::Outbound,
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
