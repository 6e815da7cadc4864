//! A link inside one process: the same queues and rules as on a network, without one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use roundtable_core::{
    AuthorId, Channel, ChannelBinding, ChannelStats, CloseCode, Frame, LinkStats, TransportKind,
};

use crate::{Closed, FrameQueue, Link, SendError};

/// One end of a link between two peers of the same process.
///
/// What one end sends waits in a [`FrameQueue`] until the other end receives it: a channel holds at
/// most 256 frames or 512 KiB; then reliable channels push back and unreliable ones drop the new
/// frame and count it. Cheap to clone; dropping the last clone of an end closes the link.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use roundtable_core::{Channel, CloseCode, Frame};
/// use roundtable_transport::{Link, MemoryLink};
///
/// let (alice, bob) = MemoryLink::pair(None, None);
/// alice.send(Frame::text(Channel::App, "hello")).await?;
/// alice.close(CloseCode::NORMAL, "done").await;
/// assert_eq!(bob.recv().await.unwrap(), Frame::text(Channel::App, "hello"));
/// assert_eq!(bob.recv().await.unwrap_err().reason, "done");
/// # Ok::<(), roundtable_transport::SendError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryLink(Arc<End>);

#[derive(Debug)]
struct End {
    outgoing: Arc<FrameQueue>,
    incoming: Arc<FrameQueue>,
    remote_author: Option<AuthorId>,
    binding: ChannelBinding,
}

impl MemoryLink {
    /// Two linked ends, `a` and `b`. Each end's author, if given, is what the other end reports as
    /// [`Link::remote_author`], as a transport that proves keys would.
    pub fn pair(a_author: Option<AuthorId>, b_author: Option<AuthorId>) -> (Self, Self) {
        let a_to_b = Arc::new(FrameQueue::default());
        let b_to_a = Arc::new(FrameQueue::default());
        let binding = next_binding();
        let a = Self(Arc::new(End {
            outgoing: a_to_b.clone(),
            incoming: b_to_a.clone(),
            remote_author: b_author,
            binding,
        }));
        let b = Self(Arc::new(End {
            outgoing: b_to_a,
            incoming: a_to_b,
            remote_author: a_author,
            binding,
        }));
        (a, b)
    }
}

/// A value that no other memory link of this process has; there are none elsewhere to be told
/// apart from.
fn next_binding() -> ChannelBinding {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut binding = *b"roundtable/memory-link/1\0\0\0\0\0\0\0\0";
    binding[24..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    ChannelBinding::from_bytes(binding)
}

impl End {
    fn close(&self, code: CloseCode, reason: &str) {
        let closed = |by_remote| Closed::new(code, reason, by_remote);
        // The queue that `incoming` empties is ours to read: there, we closed it ourselves.
        self.incoming.close(closed(false));
        self.outgoing.close(closed(true));
    }

    /// A queue's `Closed` speaks to its reader; this turns it around for the writer.
    fn as_sender(result: Result<(), SendError>) -> Result<(), SendError> {
        result.map_err(|error| match error {
            SendError::Closed(closed) => SendError::Closed(Closed {
                by_remote: !closed.by_remote,
                ..closed
            }),
            other => other,
        })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close(CloseCode::NORMAL, "");
    }
}

impl Link for MemoryLink {
    fn kind(&self) -> TransportKind {
        TransportKind::Memory
    }

    fn binding(&self) -> ChannelBinding {
        self.0.binding
    }

    fn remote_author(&self) -> Option<AuthorId> {
        self.0.remote_author
    }

    fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        End::as_sender(self.0.outgoing.try_send(frame))
    }

    async fn send(&self, frame: Frame) -> Result<(), SendError> {
        End::as_sender(self.0.outgoing.send(frame).await)
    }

    async fn recv(&self) -> Result<Frame, Closed> {
        self.0.incoming.pop().await
    }

    fn stats(&self) -> LinkStats {
        let mut stats = LinkStats::default();
        for channel in Channel::ALL {
            let sent = self.0.outgoing.lane_stats(channel);
            let received = self.0.incoming.lane_stats(channel);
            *stats.channel_mut(channel) = ChannelStats {
                sent_frames: sent.pushed_frames,
                sent_bytes: sent.pushed_bytes,
                received_frames: received.popped_frames,
                received_bytes: received.popped_bytes,
                dropped_frames: sent.dropped_frames,
            };
        }
        stats
    }

    async fn close(&self, code: CloseCode, reason: &str) {
        self.0.close(code, reason);
    }
}
