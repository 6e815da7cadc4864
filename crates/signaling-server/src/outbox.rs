//! The queue between a room and one of its connections, bounded in messages and in bytes. What waited for a
//! peer while its connection was lost has bounds of its own, and is not counted. The budget of all queues counts both, and
//! the message that is being written.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use roundtable_signaling_protocol::CloseReason;
use tokio::sync::{Notify, mpsc};

use crate::budget::{Budget, Charge};

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

#[derive(Debug)]
struct Shared {
    budget: Arc<Budget>,
    /// What this queue has of the budget.
    charged: AtomicUsize,
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
    fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            charged: AtomicUsize::default(),
            waited: AtomicUsize::default(),
            queued_messages: AtomicUsize::default(),
            queued_bytes: AtomicUsize::default(),
            close: OnceLock::new(),
            closed: Notify::new(),
            finish: OnceLock::new(),
        }
    }

    fn charge(&self, text: &str) {
        self.budget.take(text.len());
        self.charged.fetch_add(text.len(), Relaxed);
    }

    /// A message has left the queue; it is charged to whoever has it now.
    fn taken(&self, text: &str) {
        self.charged.fetch_sub(text.len(), Relaxed);
        if self.waited.load(Relaxed) > 0 {
            self.waited.fetch_sub(1, Relaxed);
        } else {
            self.queued_messages.fetch_sub(1, Relaxed);
            self.queued_bytes.fetch_sub(text.len(), Relaxed);
        }
    }
}

impl Drop for Shared {
    /// Both ends are gone, and what was queued with them.
    fn drop(&mut self) {
        self.budget.give_back(self.charged.load(Relaxed));
    }
}

/// The connection's end.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::UnboundedReceiver<String>,
    shared: Arc<Shared>,
    /// The message that was received last, and may still be on its way.
    writing: Charge,
}

/// A queue of at most `max_messages` and `max_bytes`, and of less when little of the budget is left.
pub(crate) fn channel(
    max_messages: usize,
    max_bytes: usize,
    budget: &Arc<Budget>,
) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(Arc::clone(budget)));
    let outbox = Outbox {
        queue: sender,
        shared: Arc::clone(&shared),
        max_messages,
        max_bytes,
    };
    let inbox = Inbox {
        queue: receiver,
        shared,
        writing: Charge::new(Arc::clone(budget)),
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
            || queued_bytes.load(Relaxed) + text.len()
                > self.shared.budget.share_of(self.max_bytes);
        if is_full {
            return Err(Full);
        }
        self.shared.charge(&text);
        queued_messages.fetch_add(1, Relaxed);
        queued_bytes.fetch_add(text.len(), Relaxed);
        // The connection may be gone.
        let _ = self.queue.send(text);
        Ok(())
    }

    /// Queues what has waited for a peer that is back, which the room has bounded: before anything else.
    pub(crate) fn send_waited(&self, text: String) {
        self.shared.waited.fetch_add(1, Relaxed);
        self.shared.charge(&text);
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
    /// The next delivery; the one before it has been written. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Delivery {
        self.writing.replace(0);
        let text = self.queue.recv().await;
        if let Some(reason) = self.shared.close.get() {
            return Delivery::Close(*reason);
        }
        match text {
            Some(text) => {
                self.shared.taken(&text);
                self.writing.replace(text.len());
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

    fn channel(max_messages: usize, max_bytes: usize) -> (Outbox, Inbox) {
        super::channel(max_messages, max_bytes, &Arc::new(Budget::new(1 << 20)))
    }

    #[tokio::test]
    async fn the_longest_queues_are_full_first_when_little_is_left_for_all() {
        let budget = Arc::new(Budget::new(4000));
        let queue = || super::channel(1000, 1000, &budget);
        let slow: Vec<_> = (0..10).map(|_| queue()).collect();
        let mut full = 0;
        for _ in 0..100 {
            full = slow
                .iter()
                .filter(|(o, _)| o.send("0123456789".into()) == Err(Full))
                .count();
            if full == slow.len() {
                break;
            }
        }
        assert_eq!(full, slow.len());
        assert!(budget.used() < 4000, "{}", budget.used());
        // Who reads is served all the same.
        let (outbox, mut inbox) = queue();
        for _ in 0..100 {
            outbox.send("0123456789".into()).unwrap();
            assert!(matches!(inbox.recv().await, Delivery::Text(_)));
        }
        // Evicted ones give back what they had.
        drop((slow, outbox, inbox));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_message_is_charged_until_it_is_written_and_what_waited_is_too() {
        let budget = Arc::new(Budget::new(1000));
        let (outbox, mut inbox) = super::channel(10, 100, &budget);
        outbox.send_waited("waited".into());
        outbox.send("sent".into()).unwrap();
        assert_eq!(budget.used(), 10);
        for (left, text) in [(10, "waited"), (4, "sent")] {
            assert_eq!(inbox.recv().await, Delivery::Text(text.into()));
            assert_eq!(budget.used(), left);
        }
        outbox.send("late".into()).unwrap();
        drop(inbox);
        outbox.send("to nobody".into()).unwrap();
        drop(outbox);
        assert_eq!(budget.used(), 0);
    }

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
