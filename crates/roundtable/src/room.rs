//! The handle on a room.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_core::Stream;
use roundtable_command_log::{Action, Entry, GenesisHash, Head, Key, Role, Stable, StateHash};
use roundtable_core::{AuthorId, LinkStats, Payload, PeerId, TransportKind};
use roundtable_session::MessageStats;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    ConnectError, ConnectionQuality, Event, Invite, MessageError, RoomBuilder, SubmitError,
    actor::Request,
    mesh::MeshRequest,
    telling::{Listener, Teller},
    voice::VoiceHandle,
};

/// A peer that is linked.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// The key that it has proven to hold; `None` for a guest and during the handshake.
    pub author: Option<AuthorId>,
    /// Whether it was admitted as a guest.
    pub guest: bool,
    /// Its links, the one that is sent on first.
    pub links: Vec<(TransportKind, LinkStats)>,
    /// Messages that were exchanged with it, in both directions, since it came.
    pub messages: MessageStats,
}

/// What became of a broadcast.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Broadcast {
    /// For whom it was taken: it goes to them, unless they leave before ([`Event::Undelivered`]).
    pub queued: Vec<PeerId>,
    /// Who does not get it, and why.
    pub failed: Vec<(PeerId, MessageError)>,
}

impl Broadcast {
    /// How many peers there were.
    pub fn total(&self) -> usize {
        self.queued.len() + self.failed.len()
    }
}

/// The room in numbers.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The genesis, once known.
    pub genesis: Option<GenesisHash>,
    /// Equal on two peers exactly when their states are; `None` before the genesis is known.
    pub state_hash: Option<StateHash>,
    /// Commands in the log.
    pub commands: u64,
    /// Signed frames in the log.
    pub frames: usize,
    /// Who is linked.
    pub peers: Vec<PeerStatus>,
}

/// A room that was joined. Cheap to clone; the room is left when the last clone is dropped, or in
/// good order with [`leave`](Self::leave).
#[derive(Debug, Clone)]
pub struct Room {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) author: AuthorId,
    pub(crate) peer: PeerId,
    pub(crate) invite: Invite,
    pub(crate) events: Teller,
    /// Holds what happened before the first call of [`Room::events`].
    pub(crate) first_events: Mutex<Option<Listener>>,
    pub(crate) voice: Option<VoiceHandle>,
    pub(crate) task: Mutex<Option<JoinHandle<()>>>,
}

impl Room {
    /// Prepares to join `room` on the signaling server at `server` (`ws://…`, `wss://…`) under
    /// the name `peer`. Nothing happens before [`RoomBuilder::join`].
    pub fn builder(server: &str, room: &str, peer: &str) -> RoomBuilder {
        RoomBuilder::new(server, room, peer)
    }

    /// Signs commands and sends them to everyone, in this order and as a whole: all are taken, or
    /// none. Returns when they are queued; they are applied here and elsewhere a few milliseconds
    /// later, and come back as [`Event::Applied`].
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn submit(
        &self,
        actions: impl IntoIterator<Item = Action>,
    ) -> Result<(), SubmitError> {
        let actions = actions.into_iter().collect();
        self.ask(|reply| Request::Submit(actions, reply))
            .await
            .unwrap_or(Err(SubmitError::Left))
    }

    /// Takes back the last of this author's puts that stands, for everyone; what others wrote
    /// stays, and shows again where the put had covered it. `false` if there is none. Reaches 4,096
    /// puts back, those of earlier runs of the same identity included.
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn undo(&self) -> Result<bool, SubmitError> {
        self.ask(Request::Undo)
            .await
            .unwrap_or(Err(SubmitError::Left))
    }

    /// Lets the put count again that [`undo`](Self::undo) took back last. `false` if there is none:
    /// a new put ends the way forth.
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn redo(&self) -> Result<bool, SubmitError> {
        self.ask(Request::Redo)
            .await
            .unwrap_or(Err(SubmitError::Left))
    }

    /// Gives an author a role for all that it writes beyond what this peer has of it. Counts if this
    /// peer is an Admin, and of lower rank than who gave the author its present role.
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn set_role(&self, author: AuthorId, role: Role) -> Result<(), SubmitError> {
        self.ask(|reply| Request::SetRole(author, role, reply))
            .await
            .unwrap_or(Err(SubmitError::Left))
            .map(drop)
    }

    /// Lets an author go on, in this role, whose log has ended because two copies of its identity
    /// signed for one place ([`Event::Forked`]): of the two branches the one counts from now on that
    /// this peer had followed. `false` if the author's log has not ended so. As with
    /// [`set_role`](Self::set_role), the rank of this peer decides whether it counts.
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn restore(&self, author: AuthorId, role: Role) -> Result<bool, SubmitError> {
        self.ask(|reply| Request::Restore(author, role, reply))
            .await
            .unwrap_or(Err(SubmitError::Left))
    }

    /// Proposes that all which everyone has had the time to see, up to about three seconds ago, become final: a
    /// *checkpoint*. Peers whose client sees nothing wrong with it consent by themselves; once all have who may
    /// write and ever did, [`Event::CheckpointStable`] comes, logs let go of what lies below, and whoever
    /// joins takes it as a whole. Needs the role of an Admin. While another writer is away it waits:
    /// [`retire`](Self::retire).
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn propose_checkpoint(&self) -> Result<(), SubmitError> {
        self.ask(Request::ProposeCheckpoint)
            .await
            .unwrap_or(Err(SubmitError::Left))
    }

    /// Asks that the next checkpoint need not wait for an author. Counts when more than half of the writers
    /// of the last checkpoint ask for it (of two halves, the one with the room's creator). What the
    /// author has written below the next checkpoint, and not shown by then, never counts.
    ///
    /// # Errors
    /// [`SubmitError`] says whether and when to try again.
    pub async fn retire(&self, author: AuthorId) -> Result<(), SubmitError> {
        self.ask(|reply| Request::Retire(author, reply))
            .await
            .unwrap_or(Err(SubmitError::Left))
    }

    /// The last stable checkpoint; `None` if there is none, or the room was left.
    pub async fn checkpoint(&self) -> Option<Stable> {
        self.ask(Request::Checkpoint).await.flatten()
    }

    /// What happens in the room. The first call gets everything since the room was joined; later
    /// calls get what happens from then on, all in the order in which it happened.
    ///
    /// A reader that is more than 4,096 events behind of those that come in masses gets [`Event::Lagged`] and goes on with the newer
    /// ones: commands that were applied, messages of [`broadcast_fast`](Self::broadcast_fast), who speaks, how good connections are, attempts that
    /// failed, and peers that misbehave. All others are kept apart for it, 2,048 of them: whoever reads now and then misses no message of
    /// [`send`](Self::send), no [`Event::Undelivered`] and no link that came or went.
    pub fn events(&self) -> impl Stream<Item = Event> + Send + Unpin + use<> {
        let first = self
            .shared
            .first_events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        first.unwrap_or_else(|| self.shared.events.listen())
    }

    /// Sends a message to one peer, text or bytes, at most [`MAX_MESSAGE_LEN`](crate::MAX_MESSAGE_LEN) (16 MiB); to a guest 60 KiB.
    ///
    /// A member gets it once and in order, over whatever links there are and will be, for as long as both processes are in the room;
    /// where that cannot be known, [`Event::Undelivered`] says so. A member that is away for a moment gets it when it is back. Large
    /// messages hold up neither commands nor voice. A guest gets it if its link holds until then.
    ///
    /// Waits while more than 4 MiB wait for the peer; of several that wait, the first is taken first. A call that is dropped has sent
    /// all of the message or nothing; while it waits because of this, nothing. An application that does not read its
    /// [`events`](Self::events) holds up in turn those who send to it, once 16 MiB of a peer's messages are unread, or
    /// 1,024 messages or 64 MiB of all peers'; there a peer of whom less than 32 messages and 1 MiB are unread goes on.
    ///
    /// # Errors
    /// [`MessageError`]. Nothing is sent of a message that is too large.
    pub async fn send(&self, peer: &PeerId, message: Payload) -> Result<(), MessageError> {
        let peer = peer.clone();
        self.ask_mesh(|reply| MeshRequest::Send(peer, message, reply))
            .await
            .unwrap_or(Err(MessageError::Left))
    }

    /// [`send`](Self::send)s a value as JSON text.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn send_json<T: Serialize>(
        &self,
        peer: &PeerId,
        value: &T,
    ) -> Result<(), MessageError> {
        let json = serde_json::to_string(value).map_err(|_| MessageError::NotJson)?;
        self.send(peer, Payload::Text(json)).await
    }

    /// Sends a message to everyone, as [`send`](Self::send) does, but without waiting: who has too much before it does not get it, and
    /// is among [`Broadcast::failed`].
    ///
    /// # Errors
    /// [`MessageError`] if nobody gets it, whoever is there; that nobody is there is none.
    pub async fn broadcast(&self, message: Payload) -> Result<Broadcast, MessageError> {
        self.ask_mesh(|reply| MeshRequest::Broadcast(message, reply))
            .await
            .unwrap_or(Err(MessageError::Left))
    }

    /// [`broadcast`](Self::broadcast)s a value as JSON text.
    ///
    /// # Errors
    /// [`MessageError`].
    pub async fn broadcast_json<T: Serialize>(&self, value: &T) -> Result<Broadcast, MessageError> {
        let json = serde_json::to_string(value).map_err(|_| MessageError::NotJson)?;
        self.broadcast(Payload::Text(json)).await
    }

    /// Sends a message to everyone at once or never: no order, no repetition after a loss, at most
    /// 1100 bytes. For what the next message makes obsolete, such as pointers.
    ///
    /// # Errors
    /// [`MessageError`]; that nobody is there is none.
    pub async fn broadcast_fast(&self, message: Payload) -> Result<(), MessageError> {
        self.ask_mesh(|reply| MeshRequest::BroadcastFast(message, reply))
            .await
            .unwrap_or(Err(MessageError::Left))
    }

    /// Links with a peer again after [`disconnect_peer`](Self::disconnect_peer), by either side, and tries at once to link with one that
    /// could not be reached. Peers that come into the room are linked without being asked for. Returns when the attempt has begun:
    /// [`Event::Connected`] or [`Event::LinkFailed`] says what came of it. A peer that has disconnected from this one takes no offer.
    /// One that is not in the room is linked again when it comes.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_peer(&self, peer: &PeerId) -> Result<(), ConnectError> {
        let peer = peer.clone();
        self.ask_mesh(|reply| MeshRequest::Connect(peer, reply))
            .await
            .unwrap_or(Err(ConnectError::Left))
    }

    /// Closes all links with a peer, and makes and takes no others until [`connect_peer`](Self::connect_peer), also when it leaves the room and
    /// comes back (of the last 1,024 peers that were disconnected).
    /// It is told so ([`CloseCode::DISCONNECTED`](crate::CloseCode::DISCONNECTED)), and offers none until this peer does. Its commands still
    /// arrive, by way of others. What it had not acknowledged of messages comes back as [`Event::Undelivered`].
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn disconnect_peer(&self, peer: &PeerId) -> Result<(), ConnectError> {
        let peer = peer.clone();
        self.ask_mesh(|reply| MeshRequest::Disconnect(peer, reply))
            .await
            .unwrap_or(Err(ConnectError::Left))
    }

    async fn ask_mesh<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> MeshRequest,
    ) -> Option<T> {
        self.ask(|reply| Request::Mesh(request(reply))).await
    }

    /// The value of `key` in the shared state; `None` if it has none, or the room was left.
    pub async fn get(&self, key: Key) -> Option<Bytes> {
        self.ask(|reply| Request::Get(key, reply)).await.flatten()
    }

    /// All keys of a type with their values, sorted by key; empty if the room was left.
    pub async fn entries(&self, key_type: u16) -> Vec<(Key, Bytes)> {
        self.ask(|reply| Request::Entries(key_type, reply))
            .await
            .unwrap_or_default()
    }

    /// The commands of the log beyond `heads` in the order that counts, and the heads to go on from
    /// the next time; with no heads, the whole history. Whoever missed events
    /// ([`Event::Lagged`]) catches up with it. Both are as they were if the room was left.
    pub async fn entries_since(&self, heads: Vec<Head>) -> (Vec<Entry>, Vec<Head>) {
        let asked = heads.clone();
        self.ask(|reply| Request::EntriesSince(asked, reply))
            .await
            .unwrap_or((Vec::new(), heads))
    }

    /// Who is linked, how well, and what was exchanged with each; empty if the room was left.
    #[doc(alias = "list_peers")]
    pub async fn peers(&self) -> Vec<PeerStatus> {
        self.ask(Request::Peers).await.unwrap_or_default()
    }

    /// How good the connection to a peer was in the last second, and why it was not better; `None` while it is not linked.
    /// [`Event::QualityChanged`] tells when its level changes.
    pub async fn quality(&self, peer: &PeerId) -> Option<ConnectionQuality> {
        let peer = peer.clone();
        self.ask(|reply| Request::Quality(peer, reply)).await?
    }

    /// The same for each second of the last minute at most, the oldest first; empty while it is not linked.
    pub async fn quality_history(&self, peer: &PeerId) -> Vec<ConnectionQuality> {
        let peer = peer.clone();
        self.ask(|reply| Request::QualityHistory(peer, reply))
            .await
            .unwrap_or_default()
    }

    /// The room in numbers; `None` if it was left.
    pub async fn summary(&self) -> Option<Summary> {
        self.ask(Request::Summary).await
    }

    /// This peer's author key.
    pub fn author(&self) -> AuthorId {
        self.shared.author
    }

    /// This peer's name.
    pub fn peer(&self) -> &PeerId {
        &self.shared.peer
    }

    /// The session's, the log's, the links' and the voice's metrics as Prometheus text (exposition format 0.0.4); empty when
    /// the room was left. For a scraper of your own: nothing listens here.
    pub async fn metrics(&self) -> String {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Metrics(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Says that this machine is on another network now, as when it changes from one wireless network to
    /// the next, or gets its cable back. A room notices by itself within half a second, unless it was told not to
    /// ([`RoomBuilder::watch_network`]). Links go on by the new addresses, and nothing that was sent is lost;
    /// without this they are given up when they have been silent for too long, and made anew.
    pub async fn network_changed(&self) {
        // A room that was left has no links.
        let _ = self.requests.send(Request::NetworkChanged).await;
    }

    /// The controls of voice; `None` if the room was joined without.
    pub fn voice(&self) -> Option<&VoiceHandle> {
        self.shared.voice.as_ref()
    }

    /// A link that brings others here. Carries the genesis hash once that is known.
    pub async fn invite(&self) -> Invite {
        let genesis = self.summary().await.and_then(|summary| summary.genesis);
        self.shared.invite.clone().with_genesis(genesis)
    }

    /// Leaves, for all clones of this handle: what was submitted is sent, recordings are closed,
    /// peers are told. Returns when nothing of the room is left, neither task nor socket.
    pub async fn leave(self) {
        // A room that was left already needs no telling.
        let _ = self.requests.send(Request::Leave).await;
        let task = self
            .shared
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}
