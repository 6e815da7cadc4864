//! The room where several servers share it. Membership is the [`Roster`], one record for all of
//! them: a server [drafts](Room::draft) a change, stores it if the record is still the one that the
//! draft was made from, and [adopts](Room::adopt) what is stored. Signals to a peer of another server
//! are carried out [here](Room::send_out) and [there](Room::receive): both keep the pair's
//! negotiation.

use std::{collections::VecDeque, time::Duration};

use roundtable_core::{PeerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Departure, Fingerprint, Kind, Member, NodeId, Offer, Output, Presence, Room, fits, full, taken,
};
use crate::{
    Announce, ClientMessage, CloseReason, ConnectionId, LeaveReason, Notification, PeerInfo, Reply,
    Request, RequestId, ResumeToken, Roster, RpcError, Seat, ServerMessage, text,
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

/// A signal on its way to a peer of another server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PackedParcel", into = "PackedParcel")]
pub struct Parcel {
    /// Who sends it.
    pub from: PeerId,
    /// Whom to.
    pub to: PeerId,
    /// What.
    pub request: Request,
}

#[derive(Serialize, Deserialize)]
struct PackedParcel {
    #[serde(with = "text")]
    from: PeerId,
    /// The request as the client might have sent it.
    message: String,
}

/// A parcel without a request to a peer.
#[derive(Debug, thiserror::Error)]
#[error("not a parcel")]
struct NotAParcel;

impl TryFrom<PackedParcel> for Parcel {
    type Error = NotAParcel;

    fn try_from(packed: PackedParcel) -> Result<Self, NotAParcel> {
        let message = ClientMessage::parse(&packed.message).map_err(|_| NotAParcel)?;
        let to = message.request.to().cloned().ok_or(NotAParcel)?;
        Ok(Self {
            from: packed.from,
            to,
            request: message.request,
        })
    }
}

impl From<Parcel> for PackedParcel {
    fn from(parcel: Parcel) -> Self {
        Self {
            from: parcel.from,
            message: ClientMessage::notification(parcel.request).encode(),
        }
    }
}

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

// --- membership -----------------------------------------------------------------------------------

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

    /// Whether this announce takes a place again that is kept by this server: no other needs to be
    /// asked.
    pub fn resumes_here(&self, announce: &Announce) -> bool {
        let member = self.members.get(&announce.peer_id);
        member.is_some_and(|m| m.is_local() && fits(announce, m.resume))
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
                a.announce.peer_id == seat.info.peer_id && fits(a.announce, seat.resume)
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
                Some(seat) if seat.seat == member.seat => seat.resume = member.resume,
                None if !is_full => {
                    let seat = self.seat(&member.info, member.seat, member.resume);
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
            (Some(seat), _) if fits(announce, seat.resume) => {
                let from = std::mem::replace(&mut seat.node, self.node.clone());
                seat.resume = fresh;
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
                let seat = self.seat(&info, fresh, fresh);
                roster.seats.insert(info.peer_id, seat);
                Ruling::Seated
            }
        }
    }

    fn seat(&self, info: &PeerInfo, seat: Fingerprint, resume: Fingerprint) -> Seat {
        Seat {
            info: info.clone(),
            seat,
            node: self.node.clone(),
            resume,
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
            resume: seat.resume,
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
                // It was asked for before, unless that server could not wait for us.
                self.give_up(now, peer, seat.seat, &seat.node);
            }
            if let Some(member) = self.members.get_mut(peer) {
                member.resume = seat.resume;
                member.presence = remote(seat);
            }
        } else if let Presence::Remote { .. } = member.presence {
            // It is on its way here.
            member.resume = seat.resume;
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

// --- signals between servers ----------------------------------------------------------------------

impl Room {
    /// The server that a peer is connected to, if it is another one.
    pub fn node_of(&self, peer: &PeerId) -> Option<&NodeId> {
        match &self.members.get(peer)?.presence {
            Presence::Remote { node, .. } => Some(node),
            Presence::Here(_) | Presence::Away { .. } => None,
        }
    }

    /// Does this server's part of a request that concerns a peer of another one. The parcel is for
    /// that server to [`receive`](Self::receive); the answer to the request is what it says.
    ///
    /// # Errors
    /// What the peer is to be told.
    pub fn send_out(
        &mut self,
        now: Timestamp,
        connection: ConnectionId,
        request: Request,
    ) -> Result<Parcel, RpcError> {
        let from = self.sender(connection)?;
        let to = request.to().cloned().ok_or_else(super::not_found)?;
        self.carry_out(now, from.clone(), request.clone())?;
        Ok(Parcel { from, to, request })
    }

    /// Undoes [`send_out`](Self::send_out) as far as that matters, for a parcel that did not arrive
    /// or was refused: the offer was not made, the answer may be given again.
    pub fn take_back(&mut self, parcel: &Parcel) {
        let Parcel { from, to, request } = parcel;
        match request {
            Request::Offer {
                request_id, body, ..
            } => {
                let key = (from.clone(), to.clone(), body.kind());
                let offer = self.offers.get(&key);
                if offer.is_some_and(|o| o.request_id == *request_id && !o.answered) {
                    self.offers.remove(&key);
                }
            }
            Request::Answer {
                request_id, body, ..
            } => {
                let key = (to.clone(), from.clone(), body.kind());
                let offer = self.offers.get_mut(&key);
                if let Some(offer) = offer.filter(|o| o.request_id == *request_id) {
                    offer.answered = false;
                }
            }
            _ => {}
        }
    }

    /// Carries out what a peer of another server asks of one of this server.
    ///
    /// # Errors
    /// What the sender is to be told.
    pub fn receive(&mut self, now: Timestamp, parcel: Parcel) -> Result<Reply, RpcError> {
        let Parcel { from, to, request } = parcel;
        debug_assert_eq!(request.to(), Some(&to));
        let is_remote = |peer| self.members.get(peer).map(|m| !m.is_local());
        if is_remote(&from) != Some(true) || is_remote(&to) != Some(false) {
            return Err(super::not_found());
        }
        self.carry_out(now, from, request)
    }

    /// Hands a peer over that has taken its seat again on `node`: gives what waits for it, and its
    /// negotiations. `None` if this server does not have it.
    pub fn give_up(
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
                VecDeque::new()
            }
            Presence::Remote { .. } => VecDeque::new(),
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
            held: held.iter().map(Notification::encode).collect(),
        })
    }

    /// Takes over what another server had for a peer that has just entered here: goes on with its
    /// negotiations, and sends it what waited.
    pub fn take_over(&mut self, now: Timestamp, peer: &PeerId, handed: HandOver) {
        for offer in handed.offers {
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
