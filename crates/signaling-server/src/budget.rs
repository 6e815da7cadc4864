//! How many bytes may wait for clients in all: each queue has a bound of its own, but a server may have thousands.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The bytes that wait for all clients, and their bound.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        let used = AtomicUsize::new(0);
        Self { max, used }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    /// How much a queue that is made for `most` bytes takes now: all of it until three quarters of the budget are used,
    /// then less and less. So the longest queues are over it first, and who reads what it is sent is not put out
    /// because of those who do not. With a budget of at least four times `most`, what fits a queue fits the budget.
    pub(crate) fn share_of(&self, most: usize) -> usize {
        let left = self.max.saturating_sub(self.used());
        let share = most.saturating_mul(4).saturating_mul(left) / self.max.max(1);
        share.min(most)
    }
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Nothing so far.
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Changes how much it is.
    pub(crate) fn set(&mut self, bytes: usize) {
        self.budget.take(bytes);
        self.budget.give_back(self.bytes);
        self.bytes = bytes;
    }

    /// Takes over what has been taken already.
    pub(crate) fn replace(&mut self, taken: usize) {
        self.budget.give_back(self.bytes);
        self.bytes = taken;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_get_all_until_little_is_left_and_never_more_than_that() {
        let budget = Budget::new(1000);
        budget.take(750);
        assert_eq!(budget.share_of(100), 100);
        budget.take(125);
        assert_eq!(budget.share_of(100), 50);
        // However many there are, and though each takes all it can have.
        for _ in 0..10_000 {
            budget.take(budget.share_of(250));
        }
        assert_eq!(budget.used(), 1000);
        assert_eq!(budget.share_of(100), 0);
        budget.give_back(1000);
        assert_eq!(budget.share_of(100), 100);
    }

    #[test]
    fn what_is_charged_is_given_back() {
        let budget = Arc::new(Budget::new(1000));
        let mut charge = Charge::new(Arc::clone(&budget));
        charge.set(10);
        charge.set(4);
        assert_eq!(budget.used(), 4);
        budget.take(7);
        charge.replace(7);
        assert_eq!(budget.used(), 7);
        drop(charge);
        assert_eq!(budget.used(), 0);
    }
}
