//! The queue between a room and one of its connections, bounded in messages and in bytes.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use roundtable_signaling_protocol::CloseReason;
use tokio::sync::{mpsc, oneshot};

/// The client does not keep up with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The room's end. Dropping it lets the connection send what is queued and then close.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<String>,
    close: oneshot::Sender<CloseReason>,
    shared: Arc<Shared>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queued_bytes: AtomicUsize,
    /// Why the connection closes once the queue is empty; otherwise the peer has left.
    finish: OnceLock<CloseReason>,
}

/// The connection's end.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::Receiver<String>,
    close: Option<oneshot::Receiver<CloseReason>>,
    shared: Arc<Shared>,
}

/// A queue of at most `max_messages` and `max_bytes`.
pub(crate) fn channel(max_messages: usize, max_bytes: usize) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(max_messages);
    let (close, closed) = oneshot::channel();
    let shared = Arc::new(Shared::default());
    let outbox = Outbox {
        queue: sender,
        close,
        shared: Arc::clone(&shared),
        max_bytes,
    };
    let inbox = Inbox {
        queue: receiver,
        close: Some(closed),
        shared,
    };
    (outbox, inbox)
}

impl Outbox {
    /// Queues a message without waiting. To a connection that is gone it goes nowhere: the room
    /// hears of that by itself.
    pub(crate) fn send(&self, text: String) -> Result<(), Full> {
        let len = text.len();
        let queued_bytes = &self.shared.queued_bytes;
        if queued_bytes.load(Relaxed) + len > self.max_bytes {
            return Err(Full);
        }
        queued_bytes.fetch_add(len, Relaxed);
        match self.queue.try_send(text) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Full),
        }
    }

    /// Closes the connection at once, whatever is queued.
    pub(crate) fn close(self, reason: CloseReason) {
        // The connection may be gone already.
        let _ = self.close.send(reason);
    }

    /// Closes the connection for this reason once what is queued is sent.
    pub(crate) fn finish(self, reason: CloseReason) {
        // It is the first: finishing takes the outbox.
        let _ = self.shared.finish.set(reason);
    }
}

/// What an [`Inbox`] brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Send this to the client.
    Text(String),
    /// Nothing more will come: close in good order.
    Finished(CloseReason),
    /// Close at once.
    Close(CloseReason),
}

impl Inbox {
    /// The next delivery. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Delivery {
        tokio::select! {
            biased;
            reason = closed(&mut self.close) => Delivery::Close(reason),
            text = self.queue.recv() => match text {
                Some(text) => {
                    self.shared.queued_bytes.fetch_sub(text.len(), Relaxed);
                    Delivery::Text(text)
                }
                None => {
                    let finish = self.shared.finish.get().copied();
                    Delivery::Finished(finish.unwrap_or(CloseReason::Left))
                }
            }
        }
    }

    /// Completes when the connection is to close at once, else never. Cancel safe.
    pub(crate) async fn closed(&mut self) -> CloseReason {
        closed(&mut self.close).await
    }
}

async fn closed(close: &mut Option<oneshot::Receiver<CloseReason>>) -> CloseReason {
    if let Some(receiver) = close {
        let reason = receiver.await;
        *close = None;
        if let Ok(reason) = reason {
            return reason;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_bounds_hold_and_reading_makes_room() {
        let (outbox, mut inbox) = channel(2, 10);
        assert_eq!(outbox.send("12345678901".into()), Err(Full));
        assert_eq!(outbox.send("1234567890".into()), Ok(()));
        assert_eq!(outbox.send("1".into()), Err(Full));
        assert!(matches!(inbox.recv().await, Delivery::Text(_)));
        assert_eq!(outbox.send("1".into()), Ok(()));
        assert_eq!(outbox.send("2".into()), Ok(()));
        assert_eq!(outbox.send("3".into()), Err(Full));
    }

    #[tokio::test]
    async fn a_dropped_outbox_is_drained_first_and_a_closed_one_is_not() {
        let (outbox, mut inbox) = channel(2, 10);
        outbox.send("last".into()).unwrap();
        drop(outbox);
        assert_eq!(inbox.recv().await, Delivery::Text("last".into()));
        assert_eq!(inbox.recv().await, Delivery::Finished(CloseReason::Left));

        let (outbox, mut inbox) = channel(2, 10);
        outbox.send("last".into()).unwrap();
        outbox.finish(CloseReason::Replaced);
        assert_eq!(inbox.recv().await, Delivery::Text("last".into()));
        let finished = Delivery::Finished(CloseReason::Replaced);
        assert_eq!(inbox.recv().await, finished);

        let (outbox, mut inbox) = channel(2, 10);
        outbox.send("skipped".into()).unwrap();
        outbox.close(CloseReason::Replaced);
        let close = Delivery::Close(CloseReason::Replaced);
        assert_eq!(inbox.recv().await, close);
    }
}
