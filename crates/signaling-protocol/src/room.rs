//! The room: who is in it, what is being negotiated, and who hears what. Told the time, holds no
//! socket; the server drives it, and so can a simulator.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use roundtable_core::{PeerId, RoomId, Timestamp, WallTime};

use crate::{
    Announce, CloseReason, Description, ErrorCode, Fingerprint, IceCandidate, Joined, Kind,
    LeaveReason, NodeId, Notification, PeerInfo, Reply, Request, RequestId, ResumeToken, RpcError,
    limits,
    roster::{Departure, SeatKey},
};

pub(crate) mod cluster;
pub(crate) mod hand_over;
mod held;
pub(crate) mod parcel;

use hand_over::Left;
use held::Held;

/// Names a connection to the server; never used twice by one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The bounds of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomLimits {
    /// Most peers, those that may still resume included. Default 10.
    pub max_peers: usize,
    /// How long an offer waits for its answer. Default 30 s.
    pub offer_ttl: Duration,
    /// How long a lost connection keeps its place. Default 30 s.
    pub resume_ttl: Duration,
    /// Most offers, answers and candidates held for a peer whose connection is lost, half of them from
    /// one peer; one more is refused. Default 64.
    pub max_held_messages: usize,
    /// Most bytes of them, half of them from one peer; more are refused. Default 128 KiB.
    pub max_held_bytes: usize,
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            max_peers: limits::DEFAULT_MAX_PEERS,
            offer_ttl: limits::OFFER_TTL,
            resume_ttl: limits::RESUME_TTL,
            max_held_messages: 64,
            max_held_bytes: 128 * 1024,
        }
    }
}

/// What the room wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send `message` over this connection.
    Send {
        /// Whom to.
        to: ConnectionId,
        /// What.
        message: Notification,
    },
    /// Close this connection; it is no longer part of the room.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
}

#[derive(Debug)]
enum Presence {
    Here(ConnectionId),
    /// The socket is lost; messages wait until `until`.
    Away {
        until: Timestamp,
        held: Held,
    },
    /// Connected to another server of the cluster.
    Remote {
        node: NodeId,
        /// Until when the peer counts as present though it has lost its seat unexplained.
        missing_until: Option<Timestamp>,
    },
}

#[derive(Debug)]
struct Member {
    info: PeerInfo,
    /// Tells this member from a later one of the same name.
    seat: Fingerprint,
    key: SeatKey,
    presence: Presence,
}

impl Member {
    fn is_local(&self) -> bool {
        !matches!(self.presence, Presence::Remote { .. })
    }

    /// When the peer is taken for lost.
    fn ends(&self) -> Option<Timestamp> {
        match self.presence {
            Presence::Away { until, .. } => Some(until),
            Presence::Here(_) => None,
            Presence::Remote { missing_until, .. } => missing_until,
        }
    }
}

/// Who offers, to whom, which kind.
type OfferKey = (PeerId, PeerId, Kind);

#[derive(Debug)]
struct Offer {
    request_id: RequestId,
    /// When it expires unless it is answered.
    expires: Timestamp,
    answered: bool,
}

impl Offer {
    fn is_live(&self, now: Timestamp) -> bool {
        self.answered || now < self.expires
    }
}

/// A room of peers. After each input, take [`poll_output`](Self::poll_output) until it is empty
/// and call [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says.
#[derive(Debug)]
pub struct Room {
    id: RoomId,
    limits: RoomLimits,
    node: NodeId,
    members: BTreeMap<PeerId, Member>,
    connections: BTreeMap<ConnectionId, PeerId>,
    offers: BTreeMap<OfferKey, Offer>,
    outputs: VecDeque<Output>,
    /// The latest departures of peers of this server, for the roster.
    departures: VecDeque<Departure>,
    /// What peers that moved to other servers left behind, until it is asked for.
    left_behind: VecDeque<Left>,
}

fn not_found() -> RpcError {
    RpcError::new(ErrorCode::PeerNotFound, "no such peer in this room")
}

fn taken() -> RpcError {
    let message = "this name is taken in the room: choose another";
    RpcError::new(ErrorCode::PeerIdTaken, message)
}

fn full(max_peers: usize) -> RpcError {
    RpcError::new(ErrorCode::RoomFull, "the room is full").with_max_peers(max_peers)
}

/// When to try again what could not wait for a lost peer: by then it may be back.
const CROWDED_RETRY: Duration = Duration::from_secs(1);

fn crowded() -> RpcError {
    let message = "this peer's connection is lost, and no more can wait for it: try again";
    RpcError::new(ErrorCode::Unavailable, message).with_retry_after(CROWDED_RETRY)
}

fn expired() -> RpcError {
    let message = "request_id is unknown, answered or expired";
    RpcError::new(ErrorCode::OfferExpired, message)
}

impl Room {
    /// An empty room of a server that is alone.
    #[allow(clippy::missing_panics_doc)] // the name is a constant
    pub fn new(id: RoomId, limits: RoomLimits) -> Self {
        let node = NodeId::new("alone").expect("the name follows the grammar");
        Self::on_node(id, limits, node)
    }

    /// An empty room of the server `node` of a cluster.
    pub fn on_node(id: RoomId, limits: RoomLimits, node: NodeId) -> Self {
        Self {
            id,
            limits,
            node,
            members: BTreeMap::new(),
            connections: BTreeMap::new(),
            offers: BTreeMap::new(),
            outputs: VecDeque::new(),
            departures: VecDeque::new(),
            left_behind: VecDeque::new(),
        }
    }

    /// How many peers hold a place, connected or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody holds a place.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Everyone who holds a place, by name.
    pub fn peers(&self) -> impl Iterator<Item = &PeerInfo> {
        self.members.values().map(|member| &member.info)
    }

    /// Lets a peer in, or back in if `announce.resume` fits. `resume` is the fresh token that it
    /// gets. The result's `ice_servers`, `ice_ttl_ms`,
    /// `grant_expires_ms` and `servers` are the caller's to fill in.
    ///
    /// The caller sends the result before it takes outputs.
    ///
    /// # Errors
    /// `PeerIdTaken` or `RoomFull`.
    pub fn announce(
        &mut self,
        wall: WallTime,
        connection: ConnectionId,
        announce: Announce,
        resume: ResumeToken,
    ) -> Result<Joined, RpcError> {
        match self.members.get(&announce.peer_id) {
            Some(member) if member.key.fits(&announce) => {}
            Some(_) => return Err(taken()),
            None if self.members.len() >= self.limits.max_peers => {
                return Err(full(self.limits.max_peers));
            }
            None => {}
        }
        Ok(self.let_in(wall, connection, announce, &resume, None))
    }

    /// Lets a peer in that has the right to: [`announce`](Self::announce) has checked it, or the
    /// roster that was [adopted](Self::adopt) gives it a seat; `seat` is the one that it takes over from
    /// another server.
    ///
    /// The caller sends the result before it takes outputs.
    pub fn let_in(
        &mut self,
        wall: WallTime,
        connection: ConnectionId,
        announce: Announce,
        resume: &ResumeToken,
        seat: Option<Fingerprint>,
    ) -> Joined {
        let peer_id = announce.peer_id.clone();
        let is_known = self.members.contains_key(&peer_id);
        let resumed = is_known || seat.is_some();
        if is_known {
            self.take_place(connection, &announce, resume);
        } else {
            self.enter(connection, announce, resume, seat);
        }
        let others = self.peers().filter(|info| info.peer_id != peer_id);
        Joined {
            room: self.id.clone(),
            resumed,
            server_time_ms: wall.as_millis(),
            resume: resume.clone(),
            resume_ttl_ms: u64::try_from(self.limits.resume_ttl.as_millis()).unwrap_or(u64::MAX),
            ice_servers: Vec::new(),
            ice_ttl_ms: None,
            grant_expires_ms: None,
            peers: others.cloned().collect(),
            max_peers: self.limits.max_peers,
            servers: Vec::new(),
            peer_id,
        }
    }

    fn enter(
        &mut self,
        connection: ConnectionId,
        announce: Announce,
        resume: &ResumeToken,
        seat: Option<Fingerprint>,
    ) {
        let info = announce.info();
        self.broadcast(&Notification::PeerAnnounced(info.clone()));
        self.connections
            .insert(connection, announce.peer_id.clone());
        let fresh = Fingerprint::of(resume);
        let key = match seat {
            Some(_) => SeatKey::new(&announce, resume),
            None => SeatKey::first(fresh),
        };
        let member = Member {
            info,
            seat: seat.unwrap_or(fresh),
            key,
            presence: Presence::Here(connection),
        };
        self.members.insert(announce.peer_id, member);
    }

    fn take_place(&mut self, connection: ConnectionId, announce: &Announce, resume: &ResumeToken) {
        let peer = &announce.peer_id;
        let Some(member) = self.members.get_mut(peer) else {
            return;
        };
        member.key = SeatKey::new(announce, resume);
        match std::mem::replace(&mut member.presence, Presence::Here(connection)) {
            Presence::Here(old) => {
                self.connections.remove(&old);
                self.outputs.push_back(Output::Close {
                    connection: old,
                    reason: CloseReason::Replaced,
                });
            }
            Presence::Away { held, .. } => {
                let held = held.into_messages().map(|message| Output::Send {
                    to: connection,
                    message,
                });
                self.outputs.extend(held);
            }
            Presence::Remote { .. } => {}
        }
        self.connections.insert(connection, peer.clone());
    }

    /// Carries out a request of a peer in the room. The caller sends the result, if the request
    /// wants one, before it takes outputs.
    ///
    /// # Errors
    /// What the peer is to be told. `NotAnnounced` if the connection is not in the room;
    /// `InvalidRequest` for what a room does not do: a second announce, `session.refresh`, `ping`.
    pub fn handle(
        &mut self,
        now: Timestamp,
        connection: ConnectionId,
        request: Request,
    ) -> Result<Reply, RpcError> {
        let from = self.sender(connection)?;
        self.carry_out(now, from, request)
    }

    fn sender(&self, connection: ConnectionId) -> Result<PeerId, RpcError> {
        let unknown = || RpcError::new(ErrorCode::NotAnnounced, "peer.announce comes first");
        self.connections
            .get(&connection)
            .cloned()
            .ok_or_else(unknown)
    }

    fn carry_out(
        &mut self,
        now: Timestamp,
        from: PeerId,
        request: Request,
    ) -> Result<Reply, RpcError> {
        match request {
            Request::Offer {
                to,
                request_id,
                body,
            } => self.offer(now, from, to, request_id, body),
            Request::Answer {
                to,
                request_id,
                body,
            } => self.answer(now, from, to, request_id, body),
            Request::Candidate {
                to,
                request_id,
                candidate,
            } => self.candidate(now, from, to, request_id, candidate),
            Request::Disconnect {
                to: Some(to),
                reason,
            } => self.disconnect(from, &to, reason),
            Request::Disconnect { to: None, .. } => {
                self.remove(&from, LeaveReason::Left);
                Ok(Reply::Left)
            }
            Request::Announce(_) | Request::Ping => {
                let message = "this connection is in a room already";
                Err(RpcError::new(ErrorCode::InvalidRequest, message))
            }
            Request::Refresh { .. } => {
                let message = "this server is open: there is no grant to renew";
                Err(RpcError::new(ErrorCode::InvalidRequest, message))
            }
        }
    }

    /// The connection broke: its peer keeps its place for `resume_ttl`.
    pub fn connection_lost(&mut self, now: Timestamp, connection: ConnectionId) {
        let Some(peer) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&peer) {
            member.presence = Presence::Away {
                until: now + self.limits.resume_ttl,
                held: Held::default(),
            };
        }
    }

    /// Throws out the peer of a connection that does not keep up.
    pub fn evict(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.connections.get(&connection).cloned() {
            self.remove(&peer, LeaveReason::Evicted);
            self.outputs.push_back(Output::Close {
                connection,
                reason: CloseReason::SlowConsumer,
            });
        }
    }

    /// Removes the peer of a connection whose grant has ended: its place is not kept. The caller
    /// closes the connection, with [`CloseReason::Unauthorized`].
    pub fn expire(&mut self, connection: ConnectionId) {
        if let Some(peer) = self.connections.get(&connection).cloned() {
            self.remove(&peer, LeaveReason::Expired);
        }
    }

    /// Lets time pass: offers and places of lost peers expire.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.forget_left_behind(now);
        let over = self.offers.extract_if(.., |_, offer| !offer.is_live(now));
        for ((from, to, _), Offer { request_id, .. }) in over.collect::<Vec<_>>() {
            self.send(&from, Notification::OfferExpired { to, request_id });
        }
        let is_gone = |member: &Member| member.ends().is_some_and(|ends| ends <= now);
        let gone = self.members.iter().filter(|(_, member)| is_gone(member));
        for peer in gone.map(|(peer, _)| peer.clone()).collect::<Vec<_>>() {
            self.remove(&peer, LeaveReason::Lost);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, if ever.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let unanswered = self.offers.values().filter(|offer| !offer.answered);
        let offers = unanswered.map(|offer| offer.expires);
        let places = self.members.values().filter_map(Member::ends);
        let left_behind = self.left_behind.iter().map(|left| left.until);
        offers.chain(places).chain(left_behind).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn offer(
        &mut self,
        now: Timestamp,
        from: PeerId,
        to: PeerId,
        request_id: RequestId,
        body: Description,
    ) -> Result<Reply, RpcError> {
        if from == to || !self.members.contains_key(&to) {
            return Err(not_found());
        }
        if self.find(now, &from, &to, &request_id).is_some() {
            let message = "request_id was used before: make a new one for each offer";
            return Err(RpcError::new(ErrorCode::OfferInvalid, message));
        }
        let kind = body.kind();
        let message = Notification::Offer {
            from: from.clone(),
            request_id: request_id.clone(),
            body,
        };
        self.check_place(&to, &message)?;
        // The pair's earlier negotiation is over; an offer that crosses this one is not.
        let reverse = (to.clone(), from.clone(), kind);
        if self.offers.get(&reverse).is_some_and(|o| o.answered) {
            self.offers.remove(&reverse);
        }
        let offer = Offer {
            request_id,
            expires: now + self.limits.offer_ttl,
            answered: false,
        };
        self.offers.insert((from, to.clone(), kind), offer);
        self.send(&to, message);
        Ok(Reply::Forwarded)
    }

    fn answer(
        &mut self,
        now: Timestamp,
        from: PeerId,
        to: PeerId,
        request_id: RequestId,
        body: Description,
    ) -> Result<Reply, RpcError> {
        if !self.members.contains_key(&to) {
            return Err(not_found());
        }
        let key = (to.clone(), from.clone(), body.kind());
        let waiting = self.offers.get(&key).is_some_and(|offer| {
            offer.request_id == request_id && !offer.answered && offer.is_live(now)
        });
        if !waiting {
            return Err(expired());
        }
        let message = Notification::Answer {
            from: from.clone(),
            request_id,
            body,
        };
        self.check_place(&to, &message)?;
        // An offer of ours that crossed theirs was rolled back: it expires silently.
        self.offers.remove(&(from, to.clone(), key.2));
        if let Some(offer) = self.offers.get_mut(&key) {
            offer.answered = true;
        }
        self.send(&to, message);
        Ok(Reply::Forwarded)
    }

    fn candidate(
        &mut self,
        now: Timestamp,
        from: PeerId,
        to: PeerId,
        request_id: RequestId,
        candidate: IceCandidate,
    ) -> Result<Reply, RpcError> {
        if !self.members.contains_key(&to) {
            return Err(not_found());
        }
        let known = self
            .find(now, &from, &to, &request_id)
            .or_else(|| self.find(now, &to, &from, &request_id));
        known.ok_or_else(expired)?;
        let message = Notification::Candidate {
            from,
            request_id,
            candidate,
        };
        self.check_place(&to, &message)?;
        self.send(&to, message);
        Ok(Reply::Forwarded)
    }

    fn disconnect(&mut self, from: PeerId, to: &PeerId, reason: String) -> Result<Reply, RpcError> {
        if from == *to || !self.members.contains_key(to) {
            return Err(not_found());
        }
        self.offers.retain(|(offerer, target, _), _| {
            !((*offerer == from && target == to) || (offerer == to && *target == from))
        });
        let peer_id = from;
        self.send(to, Notification::Disconnected { peer_id, reason });
        Ok(Reply::Forwarded)
    }

    /// The live offer of this id from `from` to `to`, answered or not.
    fn find(&self, now: Timestamp, from: &PeerId, to: &PeerId, id: &RequestId) -> Option<&Offer> {
        [Kind::WebRtc, Kind::Quic].into_iter().find_map(|kind| {
            let offer = self.offers.get(&(from.clone(), to.clone(), kind))?;
            (offer.is_live(now) && offer.request_id == *id).then_some(offer)
        })
    }

    fn remove(&mut self, peer: &PeerId, reason: LeaveReason) {
        let Some(member) = self.members.remove(peer) else {
            return;
        };
        if let Presence::Here(connection) = member.presence {
            self.connections.remove(&connection);
        }
        if member.is_local() {
            self.note_departure(peer, member.seat, reason);
        }
        self.offers
            .retain(|(from, to, _), _| from != peer && to != peer);
        let peer_id = peer.clone();
        self.broadcast(&Notification::PeerLeft { peer_id, reason });
    }

    fn broadcast(&mut self, message: &Notification) {
        let everyone: Vec<_> = self.members.keys().cloned().collect();
        for peer in everyone {
            self.send(&peer, message.clone());
        }
    }

    /// Whether a signal can be sent, or wait for its target.
    fn check_place(&self, to: &PeerId, signal: &Notification) -> Result<(), RpcError> {
        match self.members.get(to).map(|member| &member.presence) {
            Some(Presence::Away { held, .. }) if !held.takes(signal, &self.limits) => {
                Err(crowded())
            }
            _ => Ok(()),
        }
    }

    fn send(&mut self, peer: &PeerId, message: Notification) {
        let Some(member) = self.members.get_mut(peer) else {
            return;
        };
        match &mut member.presence {
            Presence::Here(connection) => {
                let to = *connection;
                self.outputs.push_back(Output::Send { to, message });
            }
            Presence::Away { held, .. } => held.push(message),
            // Its own server does what this one does, and tells it.
            Presence::Remote { .. } => {}
        }
    }
}
