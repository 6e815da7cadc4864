//! What goes with a peer that takes its seat again on another server: what waits for it, and its
//! negotiations. The server that has the peer now asks for it, or hears of it by the roster; whichever
//! comes first, what there is to be handed over is kept for a while. An answer may come too late for who
//! asked, so the same question gets the same answer again.

use std::time::Duration;

use roundtable_core::{PeerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Fingerprint, Held, Kind, NodeId, Offer, Output, Presence, Room};
use crate::{CloseReason, RequestId, ServerMessage, text};

/// How long what a peer left behind is kept for the server that has it now, which asks at once if it
/// asks at all, and once more if it hears nothing.
const KEPT: Duration = Duration::from_secs(5);

/// What the server that had a peer tells the one that has it now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The notifications that wait for the peer, as JSON text, in their order.
    held: Vec<String>,
    /// The peer's live negotiations.
    offers: Vec<HandedOffer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct HandedOffer {
    #[serde(with = "text")]
    from: PeerId,
    #[serde(with = "text")]
    to: PeerId,
    kind: Kind,
    request_id: RequestId,
    left_ms: u64,
    answered: bool,
}

/// What is to be handed over.
#[derive(Debug)]
pub(super) struct Left {
    peer: PeerId,
    seat: Fingerprint,
    node: NodeId,
    pub(super) until: Timestamp,
    /// Whether it was asked for: then its answer may have been lost, but most often was not.
    asked: bool,
    handed: HandOver,
}

impl Room {
    /// Whether something is kept for another server that has not asked for it yet.
    pub fn keeps_for_others(&self) -> bool {
        self.left_behind.iter().any(|left| !left.asked)
    }

    /// Whether something is kept for another server to ask for, be it again.
    pub fn may_be_asked(&self) -> bool {
        !self.left_behind.is_empty()
    }

    /// Hands a peer over that has taken its seat again on `node`: gives what waits for it, and its
    /// negotiations; the same if asked again within five seconds. `None` if this server does not have it, and kept
    /// nothing for that server.
    pub fn give_up(
        &mut self,
        now: Timestamp,
        peer: &PeerId,
        seat: Fingerprint,
        node: &NodeId,
    ) -> Option<HandOver> {
        self.move_away(now, peer, seat, node);
        let is_it = |left: &&mut Left| {
            left.peer == *peer && left.seat == seat && left.node == *node && now < left.until
        };
        let kept = self.left_behind.iter_mut().find(is_it)?;
        kept.asked = true;
        Some(kept.handed.clone())
    }

    /// The peer has its seat on `node` now, if it had it here.
    pub(super) fn move_away(
        &mut self,
        now: Timestamp,
        peer: &PeerId,
        seat: Fingerprint,
        node: &NodeId,
    ) {
        let Some(handed) = self.let_go(now, peer, seat, node) else {
            return;
        };
        // What it left when it went before came back with it.
        self.left_behind.retain(|left| left.peer != *peer);
        // No more than a room has peers; the oldest goes first.
        if self.left_behind.len() >= self.limits.max_peers {
            self.left_behind.pop_front();
        }
        self.left_behind.push_back(Left {
            peer: peer.clone(),
            seat,
            node: node.clone(),
            until: now + KEPT,
            asked: false,
            handed,
        });
    }

    pub(super) fn forget_left_behind(&mut self, now: Timestamp) {
        self.left_behind.retain(|left| now < left.until);
    }

    fn let_go(
        &mut self,
        now: Timestamp,
        peer: &PeerId,
        seat: Fingerprint,
        node: &NodeId,
    ) -> Option<HandOver> {
        let member = self.members.get_mut(peer)?;
        if !member.is_local() || member.seat != seat {
            return None;
        }
        let moved = Presence::Remote {
            node: node.clone(),
            missing_until: None,
        };
        let held = match std::mem::replace(&mut member.presence, moved) {
            Presence::Away { held, .. } => held,
            Presence::Here(connection) => {
                self.connections.remove(&connection);
                self.outputs.push_back(Output::Close {
                    connection,
                    reason: CloseReason::Replaced,
                });
                Held::default()
            }
            Presence::Remote { .. } => Held::default(),
        };
        let concerned = self.offers.iter();
        let concerned = concerned
            .filter(|((from, to, _), offer)| (from == peer || to == peer) && offer.is_live(now));
        let handed = concerned.map(|((from, to, kind), offer)| HandedOffer {
            from: from.clone(),
            to: to.clone(),
            kind: *kind,
            request_id: offer.request_id.clone(),
            left_ms: u64::try_from(offer.expires.saturating_since(now).as_millis())
                .unwrap_or(u64::MAX),
            answered: offer.answered,
        });
        Some(HandOver {
            offers: handed.collect(),
            held: held.into_messages().map(|m| m.encode()).collect(),
        })
    }

    /// Takes over what another server had for a peer that has just entered here: goes on with its
    /// negotiations, and sends it what waited.
    pub fn take_over(&mut self, now: Timestamp, peer: &PeerId, handed: HandOver) {
        for offer in handed.offers {
            let is_the_peers = offer.from == *peer || offer.to == *peer;
            if !is_the_peers || offer.from == offer.to {
                continue;
            }
            let other = if offer.from == *peer {
                &offer.to
            } else {
                &offer.from
            };
            if !self.members.contains_key(other) {
                continue;
            }
            let left = Duration::from_millis(offer.left_ms).min(self.limits.offer_ttl);
            let key = (offer.from, offer.to, offer.kind);
            // What is here is from before the peer went there: the one who hands over knows better.
            let offer = Offer {
                request_id: offer.request_id,
                expires: now + left,
                answered: offer.answered,
            };
            self.offers.insert(key, offer);
        }
        for text in handed.held {
            // What another version of the server wrote may not be readable here.
            if let Ok(ServerMessage::Notification(message)) = ServerMessage::parse(&text) {
                self.send(peer, message);
            }
        }
    }
}
