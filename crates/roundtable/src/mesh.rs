//! Whom this peer is linked with by its user's wish, and the messages that they exchange.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use roundtable_core::{Channel, Clock, CloseCode, Frame, Payload, PeerId};
use roundtable_session::{Input, InputError, Recipient};
use roundtable_transport::SystemClock;
use tokio::sync::{mpsc, oneshot};

use crate::{Broadcast, ConnectError, Event, MessageError, actor::Actor, telling::Unread};

/// Senders that may wait for one peer; further ones are refused.
const MAX_WAITING: usize = 1024;
/// How long a room that is left waits for peers to acknowledge what was sent to them.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Peers that the user wants no link to. One more, and the first is forgotten.
const MAX_AVOIDED: usize = 1024;

/// What the handle asks about peers and messages.
#[derive(Debug)]
pub(crate) enum MeshRequest {
    Send(PeerId, Payload, Sent),
    Broadcast(Payload, oneshot::Sender<Result<Broadcast, MessageError>>),
    BroadcastFast(Payload, Sent),
    Connect(PeerId, oneshot::Sender<Result<(), ConnectError>>),
    Disconnect(PeerId, oneshot::Sender<Result<(), ConnectError>>),
}

type Sent = oneshot::Sender<Result<(), MessageError>>;

/// The part of a room's task that is about this.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// Messages whose senders wait until their peer takes more.
    waiting: HashMap<PeerId, VecDeque<(Payload, Sent)>>,
    /// Peers that the user wants no link to, also when they are not in the room: else they had but to come back.
    avoided: VecDeque<PeerId>,
    /// Peers that want no link to us, until they offer one.
    avoiding: HashSet<PeerId>,
    /// Holds no more than there are unread messages, which the session bounds.
    unread: mpsc::UnboundedSender<(PeerId, usize)>,
    read: mpsc::UnboundedReceiver<(PeerId, usize)>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let (unread, read) = mpsc::unbounded_channel();
        Self {
            waiting: HashMap::new(),
            avoided: VecDeque::new(),
            avoiding: HashSet::new(),
            unread,
            read,
        }
    }

    /// The next message that was read, by its peer and length. Cancel safe.
    pub(crate) async fn next_read(&mut self) -> Option<(PeerId, usize)> {
        self.read.recv().await
    }

    /// Whether the user wants no link to a peer.
    pub(crate) fn avoids(&self, peer: &PeerId) -> bool {
        self.avoided.contains(peer)
    }

    /// Whether a link to a peer is to be offered when there is none.
    pub(crate) fn seeks(&self, peer: &PeerId) -> bool {
        !self.avoided.contains(peer) && !self.avoiding.contains(peer)
    }

    /// A peer disconnected on purpose.
    pub(crate) fn avoided_by(&mut self, peer: &PeerId) {
        self.avoiding.insert(peer.clone());
    }

    /// It offers a link again, or is to be asked for one.
    pub(crate) fn sought_by(&mut self, peer: &PeerId) {
        self.avoiding.remove(peer);
    }

    /// The user wants no link to a peer.
    fn avoid(&mut self, peer: &PeerId) {
        self.stop_avoiding(peer);
        if self.avoided.len() == MAX_AVOIDED {
            self.avoided.pop_front();
        }
        self.avoided.push_back(peer.clone());
    }

    /// The user would have a link to a peer again.
    fn stop_avoiding(&mut self, peer: &PeerId) {
        self.avoided.retain(|avoided| avoided != peer);
    }

    /// Forgets what a peer wanted that is not in the room. What the user wants of it stays.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.avoiding.remove(peer);
    }
}

impl Actor {
    pub(crate) fn mesh_request(&mut self, request: MeshRequest) {
        // A user who no longer waits for an answer needs none.
        match request {
            MeshRequest::Send(peer, payload, reply) => self.send_in_turn(peer, payload, reply),
            MeshRequest::Broadcast(payload, reply) => {
                let _ = reply.send(self.broadcast(payload));
            }
            MeshRequest::BroadcastFast(payload, reply) => {
                let channel = Channel::AppFast;
                let frame = Frame { channel, payload };
                let sent = self.input(Input::Send {
                    to: Recipient::All,
                    frame,
                });
                let _ = reply.send(sent.map_err(MessageError::from));
            }
            MeshRequest::Connect(peer, reply) => {
                let _ = reply.send(self.connect(&peer));
            }
            MeshRequest::Disconnect(peer, reply) => {
                let _ = reply.send(self.disconnect(&peer));
            }
        }
    }

    /// Sends a message, after those that wait for the same peer.
    fn send_in_turn(&mut self, peer: PeerId, payload: Payload, reply: Sent) {
        if reply.is_closed() {
            // The sender gave up before its turn came, and may send the same again.
            return;
        }
        let max = roundtable_session::MAX_MESSAGE_LEN;
        let len = payload_len(&payload);
        let channel = Channel::App;
        if len > max {
            let _ = reply.send(Err(MessageError::TooLarge { channel, len, max }));
        } else if self.session.is_writable(&peer) && !self.mesh.waiting.contains_key(&peer) {
            let _ = reply.send(self.send(peer, payload));
        } else {
            let waiting = self.mesh.waiting.entry(peer.clone()).or_default();
            // Whoever has given up makes room.
            waiting.retain(|(_, reply)| !reply.is_closed());
            if waiting.len() < MAX_WAITING {
                waiting.push_back((payload, reply));
            } else {
                let _ = reply.send(Err(MessageError::QueueFull(peer)));
            }
        }
    }

    fn send(&mut self, peer: PeerId, payload: Payload) -> Result<(), MessageError> {
        let channel = Channel::App;
        let frame = Frame { channel, payload };
        let to = Recipient::Peer(peer);
        Ok(self.input(Input::Send { to, frame })?)
    }

    /// Sends what has waited for a peer, as far as it takes more; if it has left, the senders are told.
    pub(crate) fn send_waiting(&mut self, peer: &PeerId) {
        let Some(mut waiting) = self.mesh.waiting.remove(peer) else {
            return;
        };
        while self.session.is_writable(peer)
            && let Some((payload, reply)) = waiting.pop_front()
        {
            // A sender that gave up has sent nothing.
            if !reply.is_closed() {
                let _ = reply.send(self.send(peer.clone(), payload));
            }
        }
        if !waiting.is_empty() {
            self.mesh.waiting.insert(peer.clone(), waiting);
        }
    }

    fn broadcast(&mut self, payload: Payload) -> Result<Broadcast, MessageError> {
        let mut broadcast = Broadcast::default();
        for (peer, sent) in self.session.broadcast(payload)? {
            match sent {
                Ok(()) => broadcast.queued.push(peer),
                Err(error) => broadcast.failed.push((peer, error.into())),
            }
        }
        Ok(broadcast)
    }

    /// Tells the user of a message, and the session when it has been read.
    pub(crate) fn tell_message(&self, peer: PeerId, channel: Channel, payload: Payload) {
        let unread = (channel == Channel::App).then(|| Unread {
            peer: peer.clone(),
            len: payload_len(&payload),
            read: self.mesh.unread.clone(),
        });
        let event = Event::Message {
            peer,
            channel,
            payload,
        };
        self.events.tell(event, unread);
    }

    fn connect(&mut self, peer: &PeerId) -> Result<(), ConnectError> {
        // Also for when it comes back.
        self.mesh.stop_avoiding(peer);
        if !self.attempts.is_present(peer) {
            return Err(ConnectError::NotPresent(peer.clone()));
        }
        self.mesh.sought_by(peer);
        if !self.links.reaches(peer) {
            self.attempts.connect(peer, self.clock.now());
        }
        Ok(())
    }

    fn disconnect(&mut self, peer: &PeerId) -> Result<(), ConnectError> {
        let known = self.attempts.is_present(peer) || self.links.reaches(peer);
        if !known {
            return Err(ConnectError::NotPresent(peer.clone()));
        }
        self.mesh.avoid(peer);
        self.attempts.leave_alone(peer);
        self.must(Input::Disconnect { peer: peer.clone() });
        self.close_all_to(peer, CloseCode::DISCONNECTED, "disconnected by the user");
        self.send_waiting(peer);
        Ok(())
    }

    /// Gives peers a moment to acknowledge what was sent to them last.
    pub(crate) async fn say_last_words(&mut self) {
        let until = self.clock.now() + LAST_WORDS;
        self.carry_out();
        while self.session.peers().any(|peer| peer.messages.waiting > 0) {
            let now = self.clock.now();
            if now >= until {
                return;
            }
            let next = self.session.next_timeout().map_or(until, |t| t.min(until));
            let timer = tokio::time::sleep_until(SystemClock::instant(next).into());
            tokio::select! {
                Some(message) = self.inbox.recv() => self.on_link(message),
                synced = self.durable.next() => self.synced(synced),
                Some((peer, len)) = self.mesh.next_read() => self.must(Input::Read { peer, len }),
                () = timer => self.timeout(),
            }
            self.carry_out();
        }
    }
}

fn payload_len(payload: &Payload) -> usize {
    match payload {
        Payload::Text(text) => text.len(),
        Payload::Binary(bytes) => bytes.len(),
        Payload::Media(_) | Payload::Clock(_) => 0,
    }
}

impl From<InputError> for MessageError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::TooLarge { channel, len, max } => Self::TooLarge { channel, len, max },
            InputError::Unreachable(peer) => Self::NotConnected(peer),
            InputError::QueueFull(peer) => Self::QueueFull(peer),
            InputError::WrongChannel(_) => Self::NotAMessage,
            _ => Self::Left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: usize) -> PeerId {
        format!("p{number}").parse().unwrap()
    }

    #[test]
    fn who_was_disconnected_does_not_come_back_by_leaving_the_room() {
        let mut mesh = Mesh::new();
        mesh.avoid(&peer(1));
        mesh.avoided_by(&peer(2));
        for number in [1, 2] {
            assert!(!mesh.seeks(&peer(number)));
            mesh.forget(&peer(number));
        }
        assert!(mesh.avoids(&peer(1)) && !mesh.seeks(&peer(1)));
        assert!(mesh.seeks(&peer(2)), "that was its own wish");
        mesh.stop_avoiding(&peer(1));
        assert!(mesh.seeks(&peer(1)));
    }

    #[test]
    fn those_avoided_are_bounded() {
        let mut mesh = Mesh::new();
        (0..=MAX_AVOIDED).for_each(|number| mesh.avoid(&peer(number)));
        assert!(!mesh.avoids(&peer(0)) && mesh.avoids(&peer(1)));
        mesh.avoid(&peer(1));
        assert!(mesh.avoids(&peer(2)), "once each");
    }
}
