//! What the servers of a cluster share: each room's roster, and a way to each other. In memory for a
//! server that is alone, NATS for several.

pub(crate) mod memory;
#[cfg(feature = "nats")]
pub(crate) mod nats;

use std::{fmt::Debug, pin::Pin, sync::Arc, time::Duration};

use roundtable_core::RoomId;
use roundtable_signaling_protocol::{
    ErrorCode, Fingerprint, HandOver, NodeId, Parcel, Roster, RpcError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::access::SharedRoom;

/// Events waiting to be handed on. When it is full, the bus waits.
pub(crate) const EVENT_QUEUE: usize = 1024;

/// A future of the bus.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Numbers the versions of a room's record: each is higher than the one before it. 0 is no record.
pub(crate) type Revision = u64;

/// A room's roster as it is stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) roster: Arc<Roster>,
}

/// The bus cannot be reached; whether a change was stored is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the servers' common store cannot be reached")]
pub(crate) struct Unreachable;

/// What storing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    At(Revision),
    /// The record had changed meanwhile; nothing is stored.
    Conflict,
}

/// Why a letter has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    /// The server is gone, or does not have the peer: it has not arrived.
    #[error("no way to that server")]
    Dead,
    /// It may have arrived.
    #[error("that server did not answer")]
    Silent,
}

/// What one server asks of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Letter {
    /// A signal for a peer there.
    Signal {
        /// The record that the sender knows: who knows an older one looks first.
        revision: Revision,
        /// Whether it was sent on by a server that no longer has the peer.
        forwarded: bool,
        parcel: Parcel,
    },
    /// The peer has taken its seat on `to`: what is there for it?
    Take {
        peer: String,
        seat: Fingerprint,
        to: NodeId,
    },
}

/// What the other server answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Refused(RpcError),
    Handed(HandOver),
    /// The peer is not there, or not for long: ask again.
    Elsewhere,
}

/// What a server tells all others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// Rooms that were made, renewed or ended.
    Rooms(Vec<SharedRoom>),
    /// It has been away: which rooms are there?
    WhichRooms,
}

/// What the bus tells a server.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// A room's record is this new.
    Changed { room: RoomId, revision: Revision },
    /// Another server asks. Without an answer it hears [`RouteError::Silent`].
    Asked {
        room: RoomId,
        letter: Letter,
        answer: oneshot::Sender<Answer>,
    },
    /// Another server tells all.
    Noticed(Notice),
    /// Any record may have changed, or be gone.
    Reset,
    /// A server may be gone.
    Gone,
}

/// How the servers of a cluster share rooms. Relay between peers of one server never comes here;
/// every change of membership does.
pub(crate) trait Bus: Debug + Send + Sync {
    /// This server's name.
    fn node(&self) -> &NodeId;

    /// Whether others may be there.
    fn is_shared(&self) -> bool;

    /// Whether newcomers can be admitted now; else after how long to ask again.
    fn admits(&self) -> Result<(), Duration>;

    /// Whether a server's lease has run out. Its peers are then lost.
    fn is_gone(&self, node: &NodeId) -> bool;

    /// The public URLs of the other servers that live, as far as they have any.
    fn elsewhere(&self) -> Vec<String>;

    /// Whether it falls to this server to look after the rooms that nobody is in.
    fn leads(&self) -> bool;

    /// A room's record.
    fn load<'a>(&'a self, room: &'a RoomId) -> Pending<'a, Result<Record, Unreachable>>;

    /// Stores a roster if the record is still that of `expected`. An empty one removes the record.
    fn store<'a>(
        &'a self,
        room: &'a RoomId,
        expected: Revision,
        roster: &'a Arc<Roster>,
    ) -> Pending<'a, Result<Stored, Unreachable>>;

    /// Asks another server, which has 2 s to answer. Letters may overtake each other.
    fn ask<'a>(
        &'a self,
        node: &'a NodeId,
        room: &'a RoomId,
        letter: Letter,
    ) -> Pending<'a, Result<Answer, RouteError>>;

    /// Tells all other servers. Who is away does not hear it.
    fn tell_all(&self, notice: Notice) -> Pending<'_, ()>;

    /// Every room that has a record.
    fn rooms(&self) -> Pending<'_, Result<Vec<RoomId>, Unreachable>>;
}

/// What a peer is told while the bus cannot do what it asks for.
pub(crate) fn unavailable(retry_after: Duration) -> RpcError {
    let message = "the server's cluster cannot do this now: try again";
    RpcError::new(ErrorCode::Unavailable, message).with_retry_after(retry_after)
}

/// A name for a server of this run.
pub(crate) fn random_node() -> Result<NodeId, getrandom::Error> {
    let name = format!("{:016x}", getrandom::u64()?);
    Ok(NodeId::new(&name).expect("hexadecimal digits are a name"))
}
