//! Signals to peers of other servers: carried out [here](Room::send_out) and [there](Room::receive), since
//! both servers keep the pair's negotiation.

use roundtable_core::{PeerId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Fingerprint, NodeId, Presence, Room, not_found};
use crate::{ClientMessage, ConnectionId, Reply, Request, RpcError, text};

/// A signal on its way to a peer of another server. It is between two seats: who comes by the name of
/// either later has no part in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PackedParcel", into = "PackedParcel")]
pub struct Parcel {
    /// Who sends it.
    pub from: PeerId,
    from_seat: Fingerprint,
    /// Whom to.
    pub to: PeerId,
    to_seat: Fingerprint,
    request: Request,
}

#[derive(Serialize, Deserialize)]
struct PackedParcel {
    #[serde(with = "text")]
    from: PeerId,
    from_seat: Fingerprint,
    to_seat: Fingerprint,
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
            from_seat: packed.from_seat,
            to,
            to_seat: packed.to_seat,
            request: message.request,
        })
    }
}

impl From<Parcel> for PackedParcel {
    fn from(parcel: Parcel) -> Self {
        Self {
            from: parcel.from,
            from_seat: parcel.from_seat,
            to_seat: parcel.to_seat,
            message: ClientMessage::notification(parcel.request).encode(),
        }
    }
}

impl Parcel {
    /// How many bytes its request takes as JSON.
    pub fn bytes(&self) -> usize {
        ClientMessage::notification(self.request.clone())
            .encode()
            .len()
    }
}

impl Room {
    /// The server that a peer is connected to, if it is another one.
    pub fn node_of(&self, peer: &PeerId) -> Option<&NodeId> {
        match &self.members.get(peer)?.presence {
            Presence::Remote { node, .. } => Some(node),
            Presence::Here(_) | Presence::Away { .. } => None,
        }
    }

    /// The server that has the peer that a parcel is for, if it is another one.
    pub fn node_for(&self, parcel: &Parcel) -> Option<&NodeId> {
        let node = self.node_of(&parcel.to);
        node.filter(|_| self.sits_at(&parcel.to, parcel.to_seat))
    }

    fn sits_at(&self, peer: &PeerId, seat: Fingerprint) -> bool {
        self.members.get(peer).is_some_and(|m| m.seat == seat)
    }

    /// Whether both ends of a parcel are the peers in the room that they were when it was sent.
    fn is_between_members(&self, parcel: &Parcel) -> bool {
        self.sits_at(&parcel.from, parcel.from_seat) && self.sits_at(&parcel.to, parcel.to_seat)
    }

    /// A request to another peer as a parcel, with nothing done.
    ///
    /// # Errors
    /// What the peer is to be told.
    pub fn parcel(&self, connection: ConnectionId, request: Request) -> Result<Parcel, RpcError> {
        let from = self.sender(connection)?;
        let to = request.to().cloned().ok_or_else(not_found)?;
        let seat = |peer| self.members.get(peer).map(|m| m.seat).ok_or_else(not_found);
        Ok(Parcel {
            from_seat: seat(&from)?,
            to_seat: seat(&to)?,
            from,
            to,
            request,
        })
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
        let parcel = self.parcel(connection, request)?;
        self.carry_out(now, parcel.from.clone(), parcel.request.clone())?;
        Ok(parcel)
    }

    /// Undoes [`send_out`](Self::send_out) as far as that matters, for a parcel that did not arrive
    /// or was refused: the offer was not made, the answer may be given again.
    pub fn take_back(&mut self, parcel: &Parcel) {
        if !self.is_between_members(parcel) {
            // Their negotiations went with them.
            return;
        }
        let Parcel { from, to, .. } = parcel;
        match &parcel.request {
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
        let sender = self.members.get(&parcel.from);
        if sender.is_some_and(super::Member::is_local) {
            // It has come here since, and with it what its server did of this.
            return self.bring_home(now, parcel);
        }
        let target = self.members.get(&parcel.to);
        let is_here = target.is_some_and(super::Member::is_local);
        if !is_here || !self.is_between_members(&parcel) {
            return Err(not_found());
        }
        self.carry_out(now, parcel.from, parcel.request)
    }

    /// Carries out a parcel whose peer has come to this server while it waited to be sent, or whose sender
    /// has come here while it was under way.
    ///
    /// # Errors
    /// What the sender is to be told; `PeerNotFound` if the peer is not here.
    pub fn bring_home(&mut self, now: Timestamp, parcel: Parcel) -> Result<Reply, RpcError> {
        self.take_back(&parcel);
        let target = self.members.get(&parcel.to);
        let is_here = target.is_some_and(super::Member::is_local);
        if !is_here || !self.is_between_members(&parcel) {
            return Err(not_found());
        }
        self.carry_out(now, parcel.from, parcel.request)
    }
}
