//! A bound to what may be under way at once.

use std::{any::Any, sync::Arc, time::Instant};

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// CUBIC (RFC 9438) with a window of at most so many bytes. On a path without loss CUBIC's own grows for ever, and all of it may lie
/// unread at a peer that is slower: datagrams have no flow control.
#[derive(Debug)]
pub(crate) struct BoundedCubic {
    pub(crate) most: u64,
}

impl ControllerFactory for BoundedCubic {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(CubicConfig::default()).build(now, current_mtu);
        Box::new(Bounded {
            inner,
            most: self.most,
        })
    }
}

struct Bounded {
    inner: Box<dyn Controller>,
    most: u64,
}

impl Bounded {
    /// Whether the window is as large as it may be. Then it must not grow unseen: it could not shrink by a loss.
    fn is_full(&self) -> bool {
        self.inner.window() >= self.most
    }
}

impl Controller for Bounded {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let app_limited = app_limited || self.is_full();
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let app_limited = app_limited || self.is_full();
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(self.most)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            most: self.most,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grows by a thousand with each round trip that fills it, and halves by a loss.
    #[derive(Clone)]
    struct Growing(u64);

    impl Controller for Growing {
        fn on_end_acks(&mut self, _: Instant, _: u64, app_limited: bool, _: Option<u64>) {
            if !app_limited {
                self.0 += 1000;
            }
        }

        fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {
            self.0 /= 2;
        }

        fn on_mtu_update(&mut self, _: u16) {}

        fn window(&self) -> u64 {
            self.0
        }

        fn clone_box(&self) -> Box<dyn Controller> {
            Box::new(self.clone())
        }

        fn initial_window(&self) -> u64 {
            1000
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    #[test]
    fn a_window_grows_to_the_bound_and_shrinks_from_there_by_the_first_loss() {
        #[allow(clippy::disallowed_methods)] // any time will do
        let now = Instant::now();
        let mut bounded = Bounded {
            inner: Box::new(Growing(1000)),
            most: 4500,
        };
        for _ in 0..100 {
            bounded.on_end_acks(now, 0, false, None);
        }
        assert_eq!(bounded.window(), 4500);
        bounded.on_congestion_event(now, now, false, 1);
        assert_eq!(bounded.window(), 2500, "and not still 4500, as of 101,000");
        assert_eq!(bounded.clone_box().window(), 2500);
    }
}
