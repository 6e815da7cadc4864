//! The queue between a room and one of its connections, bounded in messages and in bytes. What waited for a
//! peer while its connection was lost has bounds of its own, and is not counted.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use roundtable_signaling_protocol::CloseReason;
use tokio::sync::{Notify, mpsc};

/// The client does not keep up with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The room's end. Dropping it lets the connection send what is queued and then close.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Bounded by what is counted in `shared`.
    queue: mpsc::UnboundedSender<String>,
    shared: Arc<Shared>,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Shared {
    /// The first of the queue, which are not counted below.
    waited: AtomicUsize,
    queued_messages: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// Why the connection closes at once.
    close: OnceLock<CloseReason>,
    /// Told when `close` is set, for a connection that is stuck writing and does not look at the queue.
    closed: Notify,
    /// Why the connection closes once the queue is empty; otherwise the peer has left.
    finish: OnceLock<CloseReason>,
}

impl Shared {
    /// A message has left the queue.
    fn taken(&self, text: &str) {
        if self.waited.load(Relaxed) > 0 {
            self.waited.fetch_sub(1, Relaxed);
        } else {
            self.queued_messages.fetch_sub(1, Relaxed);
            self.queued_bytes.fetch_sub(text.len(), Relaxed);
        }
    }
}

/// The connection's end.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<String>,
    shared: Arc<Shared>,
}

/// A queue of at most `max_messages` and `max_bytes`.
pub(crate) fn channel(max_messages: usize, max_bytes: usize) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let outbox = Outbox {
        queue: sender,
        shared: Arc::clone(&shared),
        max_messages,
        max_bytes,
    };
    let inbox = Inbox {
        queue: receiver,
        shared,
    };
    (outbox, inbox)
}

impl Outbox {
    /// Queues a message without waiting. To a connection that is gone it goes nowhere: the room
    /// hears of that by itself.
    pub(crate) fn send(&self, text: String) -> Result<(), Full> {
        let Shared {
            queued_messages,
            queued_bytes,
            ..
        } = &*self.shared;
        let is_full = queued_messages.load(Relaxed) >= self.max_messages
            || queued_bytes.load(Relaxed) + text.len() > self.max_bytes;
        if is_full {
            return Err(Full);
        }
        queued_messages.fetch_add(1, Relaxed);
        queued_bytes.fetch_add(text.len(), Relaxed);
        // The connection may be gone.
        let _ = self.queue.send(text);
        Ok(())
    }

    /// Queues what has waited for a peer that is back, which the room has bounded: before anything else.
    pub(crate) fn send_waited(&self, text: String) {
        self.shared.waited.fetch_add(1, Relaxed);
        // The connection may be gone.
        let _ = self.queue.send(text);
    }

    /// Closes the connection at once, whatever is queued.
    pub(crate) fn close(self, reason: CloseReason) {
        // It is the first: closing takes the outbox, and with it the queue's end.
        let _ = self.shared.close.set(reason);
        self.shared.closed.notify_one();
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
        let text = self.queue.recv().await;
        if let Some(reason) = self.shared.close.get() {
            return Delivery::Close(*reason);
        }
        match text {
            Some(text) => {
                self.shared.taken(&text);
                Delivery::Text(text)
            }
            None => {
                let finish = self.shared.finish.get().copied();
                Delivery::Finished(finish.unwrap_or(CloseReason::Left))
            }
        }
    }

    /// Completes when the connection is to close at once, else never. Cancel safe.
    pub(crate) async fn closed(&self) -> CloseReason {
        loop {
            if let Some(reason) = self.shared.close.get() {
                return *reason;
            }
            self.shared.closed.notified().await;
        }
    }
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
    async fn what_has_waited_takes_no_place_of_what_comes() {
        let (outbox, mut inbox) = channel(1, 1);
        outbox.send_waited("waited".into());
        outbox.send_waited("longer".into());
        assert_eq!(outbox.send("1".into()), Ok(()));
        assert_eq!(outbox.send("2".into()), Err(Full));
        for text in ["waited", "longer", "1"] {
            assert_eq!(inbox.recv().await, Delivery::Text(text.into()));
        }
        assert_eq!(outbox.send("2".into()), Ok(()));
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
        assert_eq!(inbox.closed().await, CloseReason::Replaced);
        let close = Delivery::Close(CloseReason::Replaced);
        assert_eq!(inbox.recv().await, close);
    }
}
