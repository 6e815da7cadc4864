//! What waits to be sent: one queue for each channel, bounded by permits that the senders hold.

use std::{collections::VecDeque, time::Instant};

use roundtable_core::{Channel, Delivery, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::peer::Peer;

/// A frame with its place in the channel's buffer, free again when both are dropped.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) frame: Frame,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// The channels by [`Channel::priority`], highest first.
const BY_PRIORITY: [Channel; 8] = [
    Channel::Control,
    Channel::Voice,
    Channel::Command,
    Channel::Replication,
    Channel::AppFast,
    Channel::Video,
    Channel::App,
    Channel::Snapshot,
];

/// What became of a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// Handed to the core: so many payload bytes.
    Sent(Channel, usize),
    /// Refused by the core, or too late on an unreliable channel.
    Dropped(Channel),
}

/// The queues, by channel number.
#[derive(Debug)]
pub(crate) struct Outbox {
    queues: [VecDeque<Outbound>; 8],
    in_flight: usize,
}

impl Outbox {
    /// Queues that keep at most `in_flight` bytes of each channel in the core.
    pub(crate) fn new(in_flight: usize) -> Self {
        Self {
            queues: Default::default(),
            in_flight,
        }
    }

    pub(crate) fn push(&mut self, outbound: Outbound) {
        self.queues[usize::from(outbound.frame.channel.number())].push_back(outbound);
    }

    /// Hands over what the core takes now. A reliable channel waits while too much of it is under
    /// way; an unreliable one drops instead, as late news is no news.
    pub(crate) fn pump(&mut self, peer: &mut Peer, now: Instant, mut told: impl FnMut(Fate)) {
        for channel in BY_PRIORITY {
            let queue = &mut self.queues[usize::from(channel.number())];
            let reliable = channel.delivery() == Delivery::ReliableOrdered;
            while !queue.is_empty() {
                let full = !channel.is_media() && peer.outstanding(channel) >= self.in_flight;
                if full && reliable {
                    break;
                }
                let Some(Outbound { frame, permit }) = queue.pop_front() else {
                    break;
                };
                let len = frame.payload_len();
                let sent = !full && send(peer, now, frame);
                drop(permit);
                told(if sent {
                    Fate::Sent(channel, len)
                } else {
                    Fate::Dropped(channel)
                });
            }
        }
    }

    /// Whether everything on reliable channels has been handed over and acknowledged.
    pub(crate) fn is_flushed(&self, peer: &mut Peer) -> bool {
        Channel::DATA
            .into_iter()
            .filter(|channel| channel.delivery() == Delivery::ReliableOrdered)
            .all(|channel| {
                self.queues[usize::from(channel.number())].is_empty()
                    && peer.outstanding(channel) == 0
            })
    }
}

fn send(peer: &mut Peer, now: Instant, frame: Frame) -> bool {
    let channel = frame.channel;
    let sent = peer.send(now, frame);
    if let Err(error) = &sent {
        tracing::debug!(channel = channel.name(), %error, "frame refused");
    }
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_priorities() {
        assert!(BY_PRIORITY.is_sorted_by_key(|channel| std::cmp::Reverse(channel.priority())));
    }
}
