//! What waits for a peer whose connection is lost.
//!
//! Signals are bounded: one that finds no place is refused, and its sender is told. News of who came and who
//! left is never refused, and needs no bound: what is no longer true is taken out again, so that each peer that
//! was in the room, or is, is named once or twice.

use std::collections::VecDeque;

use roundtable_core::PeerId;

use super::RoomLimits;
use crate::{LeaveReason, Notification};

/// Messages that wait, in their order.
#[derive(Debug, Default)]
pub(super) struct Held(VecDeque<Waiting>);

#[derive(Debug)]
struct Waiting {
    message: Notification,
    /// As it will be sent.
    bytes: usize,
}

impl From<Notification> for Waiting {
    fn from(message: Notification) -> Self {
        let bytes = message.encode().len();
        Self { message, bytes }
    }
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|waiting| waiting.bytes).sum()
    }

    /// Whether one more signal may wait: there is place in all, and its sender has not taken half of it.
    pub(super) fn takes(&self, signal: &Notification, limits: &RoomLimits) -> bool {
        if !is_signal(signal) {
            return true;
        }
        let (mut all, mut own) = (Taken::default(), Taken::default());
        let waiting = self
            .0
            .iter()
            .map(|waiting| (&waiting.message, waiting.bytes));
        let waiting = waiting.chain([(signal, signal.encode().len())]);
        for (message, bytes) in waiting.filter(|(message, _)| is_signal(message)) {
            all.add(bytes);
            if about(message) == about(signal) {
                own.add(bytes);
            }
        }
        let (messages, bytes) = (limits.max_held_messages, limits.max_held_bytes);
        all.is_within(messages, bytes) && own.is_within(messages.div_ceil(2), bytes.div_ceil(2))
    }

    /// Lets a message wait, which [`takes`](Self::takes) has been asked about.
    pub(super) fn push(&mut self, message: Notification) {
        match &message {
            Notification::PeerLeft { peer_id, reason } => {
                let (peer, reason) = (peer_id.clone(), *reason);
                self.left(peer, reason);
            }
            Notification::Disconnected { peer_id, .. } => {
                // What it sent before is of negotiations that are over.
                let is_over = |m: &Notification| is_signal(m) && about(m) == Some(peer_id);
                let is_bygone = |m: &Notification| matches!(m, Notification::Disconnected { peer_id: p, .. } if p == peer_id);
                self.0
                    .retain(|w| !is_over(&w.message) && !is_bygone(&w.message));
                self.0.push_back(message.into());
            }
            _ => self.0.push_back(message.into()),
        }
    }

    fn left(&mut self, peer: PeerId, reason: LeaveReason) {
        let mut news = self.0.iter().filter_map(|waiting| match &waiting.message {
            Notification::PeerAnnounced(info) if info.peer_id == peer => Some(true),
            Notification::PeerLeft { peer_id, .. } if *peer_id == peer => Some(false),
            _ => None,
        });
        // Somebody who came after the connection was lost has never been there for the peer.
        let was_unknown = news.next() == Some(true);
        self.0
            .retain(|waiting| about(&waiting.message) != Some(&peer));
        if !was_unknown {
            let peer_id = peer;
            let left = Notification::PeerLeft { peer_id, reason };
            self.0.push_back(left.into());
        }
    }

    /// All of it, for the peer that is back.
    pub(super) fn into_messages(self) -> impl Iterator<Item = Notification> {
        self.0.into_iter().map(|waiting| waiting.message)
    }
}

/// How much waits.
#[derive(Default)]
struct Taken {
    messages: usize,
    bytes: usize,
}

impl Taken {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn is_within(&self, messages: usize, bytes: usize) -> bool {
        self.messages <= messages && self.bytes <= bytes
    }
}

/// Whether a peer sends it as often as it likes.
fn is_signal(message: &Notification) -> bool {
    matches!(
        message,
        Notification::Offer { .. } | Notification::Answer { .. } | Notification::Candidate { .. }
    )
}

/// The peer that a message is from, or about.
fn about(message: &Notification) -> Option<&PeerId> {
    match message {
        Notification::PeerAnnounced(info) => Some(&info.peer_id),
        Notification::PeerLeft { peer_id, .. } | Notification::Disconnected { peer_id, .. } => {
            Some(peer_id)
        }
        Notification::Offer { from, .. }
        | Notification::Answer { from, .. }
        | Notification::Candidate { from, .. } => Some(from),
        Notification::OfferExpired { to, .. } => Some(to),
        _ => None,
    }
}
