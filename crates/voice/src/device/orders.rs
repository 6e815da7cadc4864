//! Which device is wanted: the last word counts.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

type Wanted = Arc<Mutex<Option<String>>>;

/// Where orders are given. Dropping it ends the other side.
pub(super) struct Orders {
    wanted: Wanted,
    wake: SyncSender<()>,
}

/// Where orders are heeded.
pub(super) struct Inbox {
    wanted: Wanted,
    woken: Receiver<()>,
}

/// Both sides, with what is wanted at first.
pub(super) fn orders(wanted: Option<String>) -> (Orders, Inbox) {
    let wanted = Arc::new(Mutex::new(wanted));
    // One wake-up is enough for any number of orders.
    let (wake, woken) = sync_channel(1);
    let inbox = Inbox {
        wanted: wanted.clone(),
        woken,
    };
    (Orders { wanted, wake }, inbox)
}

impl Orders {
    /// Wants another device; waits for nothing. What was wanted before is forgotten, be it heeded or not.
    pub(super) fn give(&self, wanted: Option<String>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
        // Full where a wake-up is under way, which comes after this.
        let _ = self.wake.try_send(());
    }
}

impl Inbox {
    /// What is wanted now.
    pub(super) fn wanted(&self) -> Option<String> {
        let wanted = self.wanted.lock();
        wanted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an order for so long.
    ///
    /// # Errors
    /// As [`Receiver::recv_timeout`]: disconnected where nobody is left to give orders.
    pub(super) fn wait(&self, most: Duration) -> Result<(), RecvTimeoutError> {
        self.woken.recv_timeout(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_orders_that_came_while_nobody_listened_the_last_counts() {
        let (orders, inbox) = orders(None);
        for n in 0..100 {
            orders.give(Some(format!("device {n}")));
        }
        assert_eq!(inbox.wait(Duration::ZERO), Ok(()));
        assert_eq!(inbox.wanted().as_deref(), Some("device 99"));
        assert_eq!(inbox.wait(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        orders.give(None);
        assert_eq!(inbox.wait(Duration::ZERO), Ok(()));
        assert_eq!(inbox.wanted(), None);
        drop(orders);
        let over = Err(RecvTimeoutError::Disconnected);
        assert_eq!(inbox.wait(Duration::ZERO), over);
    }
}
