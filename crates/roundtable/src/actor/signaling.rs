//! What signaling says: who is in the room, and what they offer.

use std::time::Duration;

use roundtable_core::{Clock, CloseCode, PeerId, Timestamp};
use roundtable_session::Input;
use roundtable_signaling_client::Event as SignalingEvent;
use roundtable_signaling_protocol::{Joined, LeaveReason};

use super::Actor;
use crate::Event;

/// How long signaling is heard out when it is back, before offers are made: what has waited there comes at once. An offer of a peer
/// that crosses one of ours would be answered by us, and ours by the peer, and neither answer be waited for.
const HEARD_OUT: Duration = Duration::from_millis(50);

impl Actor {
    /// Takes the roster of a (new) announcement: the newcomer offers to everyone.
    pub(super) fn roster(&mut self, joined: &Joined, announced: Timestamp) {
        for gone in self.attempts.absent(&joined.peers) {
            self.attempts.forget(&gone);
            self.mesh.forget(&gone);
        }
        for info in &joined.peers {
            self.attempts.present(info);
            self.attempts.start_over(&info.peer_id);
            let linked = self.links.reaches(&info.peer_id);
            let sought = self.mesh.seeks(&info.peer_id);
            if sought && (!linked || self.attempts.is_probed(&info.peer_id)) {
                self.attempts.offer(&info.peer_id, announced);
            }
        }
        self.alone_if_nobody_knows_the_room();
    }

    /// Brings the roster up to date after notifications may have been lost with the old socket.
    fn present_are(&mut self, joined: &Joined, now: Timestamp) {
        for gone in self.attempts.absent(&joined.peers) {
            self.attempts.forget(&gone);
            self.mesh.forget(&gone);
        }
        for info in &joined.peers {
            self.attempts.present(info);
            if self.attempts.is_probed(&info.peer_id) {
                self.attempts.hurry(&info.peer_id, now + HEARD_OUT);
            } else if !self.links.reaches(&info.peer_id) && self.mesh.seeks(&info.peer_id) {
                self.attempts.retry_later(&info.peer_id, now, false);
            }
        }
        self.alone_if_nobody_knows_the_room();
    }

    fn alone_if_nobody_knows_the_room(&mut self) {
        if !self.attempts.anyone_promises_session() {
            self.must(Input::AloneInRoom);
        }
    }

    pub(super) fn signaling_event(&mut self, event: SignalingEvent) {
        let now = self.clock.now();
        match event {
            SignalingEvent::PeerAnnounced(info) => self.attempts.present(&info),
            SignalingEvent::PeerLeft { peer_id, reason } => {
                self.attempts.forget(&peer_id);
                self.mesh.forget(&peer_id);
                // A peer that only lost its signaling is still linked; its links will tell.
                if matches!(reason, LeaveReason::Left | LeaveReason::Expired) {
                    self.peer_left(&peer_id);
                }
                self.alone_if_nobody_knows_the_room();
            }
            SignalingEvent::Offer {
                from,
                request_id,
                body,
            } if !self.mesh.avoids(&from) => {
                self.mesh.sought_by(&from);
                let open = self.links.webrtc_to(&from).map(|(_, link)| link.clone());
                self.attempts.offered(&from, (request_id, body), open, now);
            }
            SignalingEvent::Rejoined(joined) => {
                self.attempts.signaling(true);
                self.roster(&joined, now);
                self.move_links(now);
                self.tell(Event::SignalingResumed);
            }
            SignalingEvent::Reconnecting { attempt: 1, .. } => {
                self.attempts.signaling(false);
                self.signaling_lost(now);
                self.tell(Event::SignalingLost);
            }
            SignalingEvent::Resumed(joined) => {
                self.attempts.signaling(true);
                self.present_are(&joined, now);
                self.move_links(now);
                self.tell(Event::SignalingResumed);
            }
            SignalingEvent::Ended(reason) => {
                tracing::warn!(?reason, "signaling has ended");
                self.tell(Event::SignalingEnded);
            }
            other => self.attempts.signal(other),
        }
    }

    fn peer_left(&mut self, peer: &PeerId) {
        self.must(Input::PeerLeft { peer: peer.clone() });
        self.close_all_to(peer, CloseCode::NORMAL, "left the room");
    }
}
