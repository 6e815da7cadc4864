//! The room where several servers share it. Membership is the [`Roster`], one record for all of
//! them: a server [drafts](Room::draft) a change, stores it if the record is still the one that the
//! draft was made from, and [adopts](Room::adopt) what is stored.

use std::time::Duration;

use roundtable_core::{PeerId, Timestamp};

use super::{Departure, Fingerprint, Member, NodeId, Output, Presence, Room, SeatKey, full, taken};
use crate::{
    Announce, CloseReason, LeaveReason, Notification, PeerInfo, ResumeToken, Roster, RpcError, Seat,
};

/// How long a peer of another server counts as present after it has lost its seat without having
/// given it up, as when the record was lost: its server puts it back meanwhile.
const MISSING_GRACE: Duration = Duration::from_secs(6);

/// Most departures of its own peers that a room remembers until the roster has them.
const MAX_DEPARTURES: usize = 64;

/// A peer that asks for a seat.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    /// What it announced.
    pub announce: &'a Announce,
    /// The fresh resume token that it is to get.
    pub resume: &'a ResumeToken,
}

/// What a draft makes of an applicant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// It gets a seat.
    Seated,
    /// It takes its seat over from another server, which may hold messages for it.
    Moved {
        /// The server that had the peer.
        from: NodeId,
        /// The seat.
        seat: Fingerprint,
    },
    /// It does not.
    Refused(RpcError),
}

/// A change of the roster, to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The roster with the change.
    pub roster: Roster,
    /// One for each applicant, in order; they hold once the roster is stored.
    pub rulings: Vec<Ruling>,
    /// Peers of this server whose seat was given to others while the server was cut off.
    pub displaced: Vec<PeerId>,
}

impl Room {
    /// Whether a peer of this server holds a place.
    pub fn has_local(&self) -> bool {
        self.members.values().any(Member::is_local)
    }

    /// How many peers of this server hold a place.
    pub fn local_len(&self) -> usize {
        self.members.values().filter(|m| m.is_local()).count()
    }

    /// Whether a peer's socket to this server is lost and its place kept.
    pub fn is_away(&self, peer: &PeerId) -> bool {
        let member = self.members.get(peer);
        member.is_some_and(|m| matches!(m.presence, Presence::Away { .. }))
    }

    /// Whether messages wait for anyone whose socket is lost.
    pub fn holds_messages(&self) -> bool {
        let holds =
            |m: &Member| matches!(&m.presence, Presence::Away { held, .. } if !held.is_empty());
        self.members.values().any(holds)
    }

    /// How many bytes wait for those whose socket is lost.
    pub fn held_bytes(&self) -> usize {
        let held = |m: &Member| match &m.presence {
            Presence::Away { held, .. } => held.bytes(),
            Presence::Here(_) | Presence::Remote { .. } => 0,
        };
        self.members.values().map(held).sum()
    }

    /// Changes [`max_held_bytes`](crate::RoomLimits::max_held_bytes) for what comes from now on.
    pub fn set_max_held_bytes(&mut self, max: usize) {
        self.limits.max_held_bytes = max;
    }

    /// Whether this announce takes a place again that is kept by this server: no other needs to be
    /// asked.
    pub fn resumes_here(&self, announce: &Announce) -> bool {
        let member = self.members.get(&announce.peer_id);
        member.is_some_and(|m| m.is_local() && m.key.fits(announce))
    }

    /// Changes a roster into what this server wants it to be: its own peers have their seats, those
    /// of servers that are `gone` do not, and applicants are let in while there are seats. Where
    /// `closed` is given, nobody enters anew and is told that; seats may still be taken over.
    pub fn draft<'a>(
        &self,
        base: &Roster,
        gone: impl Fn(&NodeId) -> bool,
        closed: Option<&RpcError>,
        applicants: impl IntoIterator<Item = Applicant<'a>>,
    ) -> Draft {
        let mut roster = base.clone();
        let applicants: Vec<_> = applicants.into_iter().collect();
        let is_resumed = |seat: &Seat| {
            let resumes = |a: &Applicant<'_>| {
                a.announce.peer_id == seat.info.peer_id && seat.key.fits(a.announce)
            };
            applicants.iter().any(resumes)
        };
        for seat in base.seats() {
            let peer = &seat.info.peer_id;
            if seat.node == self.node {
                if !self.has_seat(seat) {
                    roster.remove(peer, self.why_departed(peer, seat.seat));
                }
            } else if gone(&seat.node) && !is_resumed(seat) {
                roster.remove(peer, LeaveReason::Lost);
            }
        }
        let mut displaced = Vec::new();
        for (peer, member) in self.members.iter().filter(|(_, m)| m.is_local()) {
            let is_full = roster.len() >= self.limits.max_peers;
            match roster.seats.get_mut(peer) {
                // It is here no longer, and will soon be told so.
                Some(seat) if seat.seat == member.seat && seat.node != self.node => {}
                Some(seat) if seat.seat == member.seat => seat.key = member.key,
                None if !is_full => {
                    let seat = self.seat(&member.info, member.seat, member.key);
                    roster.seats.insert(peer.clone(), seat);
                }
                Some(_) | None => displaced.push(peer.clone()),
            }
        }
        let rule = |applicant| self.rule(&mut roster, closed, applicant);
        let rulings = applicants.into_iter().map(rule).collect();
        Draft {
            roster,
            rulings,
            displaced,
        }
    }

    fn rule(
        &self,
        roster: &mut Roster,
        closed: Option<&RpcError>,
        Applicant { announce, resume }: Applicant<'_>,
    ) -> Ruling {
        let fresh = Fingerprint::of(resume);
        let is_full = roster.len() >= self.limits.max_peers;
        match (roster.seats.get_mut(&announce.peer_id), closed) {
            (Some(seat), _) if seat.key.fits(announce) => {
                let from = std::mem::replace(&mut seat.node, self.node.clone());
                seat.key = SeatKey::new(announce, resume);
                match from == self.node {
                    true => Ruling::Seated,
                    false => Ruling::Moved {
                        from,
                        seat: seat.seat,
                    },
                }
            }
            (Some(_), _) => Ruling::Refused(taken()),
            (None, Some(why)) => Ruling::Refused(why.clone()),
            (None, None) if is_full => Ruling::Refused(full(self.limits.max_peers)),
            (None, None) => {
                let info = announce.info();
                let seat = self.seat(&info, fresh, SeatKey::first(fresh));
                roster.seats.insert(info.peer_id, seat);
                Ruling::Seated
            }
        }
    }

    fn seat(&self, info: &PeerInfo, seat: Fingerprint, key: SeatKey) -> Seat {
        Seat {
            info: info.clone(),
            seat,
            node: self.node.clone(),
            key,
        }
    }

    /// Whether the seat's peer is here.
    fn has_seat(&self, seat: &Seat) -> bool {
        let member = self.members.get(&seat.info.peer_id);
        member.is_some_and(|m| m.is_local() && m.seat == seat.seat)
    }

    /// Takes note of who is in the room according to the roster as it is stored. Applicants of this
    /// server that have a seat in it enter by [`let_in`](Self::let_in) next.
    pub fn adopt(&mut self, now: Timestamp, roster: &Roster) {
        let known: Vec<_> = self.members.keys().cloned().collect();
        for peer in known {
            match roster.seats.get(&peer) {
                Some(seat) => self.reseat(now, &peer, seat),
                None => self.unseated(now, &peer, roster),
            }
        }
        for seat in roster.seats() {
            if seat.node != self.node && !self.members.contains_key(&seat.info.peer_id) {
                self.enter_elsewhere(seat);
            }
        }
    }

    fn enter_elsewhere(&mut self, seat: &Seat) {
        self.broadcast(&Notification::PeerAnnounced(seat.info.clone()));
        let member = Member {
            info: seat.info.clone(),
            seat: seat.seat,
            key: seat.key,
            presence: remote(seat),
        };
        self.members.insert(seat.info.peer_id.clone(), member);
    }

    fn reseat(&mut self, now: Timestamp, peer: &PeerId, seat: &Seat) {
        let Some(member) = self.members.get_mut(peer) else {
            return;
        };
        if seat.seat != member.seat {
            // The name has changed hands; one of our own holds on to it until it is displaced.
            if !member.is_local() {
                self.remove(peer, LeaveReason::Lost);
                if seat.node != self.node {
                    self.enter_elsewhere(seat);
                }
            }
        } else if seat.node != self.node {
            if member.is_local() {
                // That server asks for what it left here, if it has not asked yet.
                self.move_away(now, peer, seat.seat, &seat.node);
            }
            if let Some(member) = self.members.get_mut(peer) {
                member.key = seat.key;
                member.presence = remote(seat);
            }
        } else if let Presence::Remote { .. } = member.presence {
            // It is on its way here.
            member.key = seat.key;
        }
    }

    fn unseated(&mut self, now: Timestamp, peer: &PeerId, roster: &Roster) {
        let Some(member) = self.members.get_mut(peer) else {
            return;
        };
        let departure = roster.departure(peer, member.seat);
        if let Presence::Remote { missing_until, .. } = &mut member.presence {
            match departure {
                Some(reason) => self.remove(peer, reason),
                None => _ = missing_until.get_or_insert(now + MISSING_GRACE),
            }
        }
    }

    /// Puts out a peer of this server that lost its seat while the server was cut off.
    pub fn displace(&mut self, peer: &PeerId) {
        let Some(member) = self.members.get(peer).filter(|m| m.is_local()) else {
            return;
        };
        if let Presence::Here(connection) = member.presence {
            self.outputs.push_back(Output::Close {
                connection,
                reason: CloseReason::Draining,
            });
        }
        self.remove(peer, LeaveReason::Lost);
    }

    pub(super) fn note_departure(&mut self, peer: &PeerId, seat: Fingerprint, reason: LeaveReason) {
        if self.departures.len() == MAX_DEPARTURES {
            self.departures.pop_front();
        }
        self.departures.push_back(Departure {
            peer_id: peer.clone(),
            seat,
            reason,
        });
    }

    fn why_departed(&self, peer: &PeerId, seat: Fingerprint) -> LeaveReason {
        let departure = |d: &&Departure| d.seat == seat && d.peer_id == *peer;
        let known = self.departures.iter().rev().find(departure);
        known.map_or(LeaveReason::Lost, |d| d.reason)
    }
}

fn remote(seat: &Seat) -> Presence {
    Presence::Remote {
        node: seat.node.clone(),
        missing_until: None,
    }
}
