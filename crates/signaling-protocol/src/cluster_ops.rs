//! Body of the fuzz target `cluster_ops`: three servers share a room, lose and find each other, and pass each other's
//! letters as a list of operations says. However it goes, no name is had twice, no seat is taken beyond the last, no
//! signal reaches another peer than the one it was for, and in the end all servers see the same room.

use std::{collections::BTreeMap, time::Duration};

use arbitrary::{Arbitrary, Unstructured};
use roundtable_core::{PeerId, RoomId, Timestamp, WallTime};

use crate::{
    Announce, Applicant, Capabilities, Capability, ConnectionId, Description, Draft, Fingerprint,
    HandOver, IceCandidate, NodeId, Notification, Output, Parcel, Request, RequestId, ResumeToken,
    Room, RoomLimits, Roster, Ruling,
};

const NODES: usize = 3;
const MAX_PEERS: usize = 3;

/// A server, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node(usize);

impl<'a> Arbitrary<'a> for Node {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.int_in_range(0..=NODES - 1).map(Self)
    }
}

/// A peer, by number: one more than the room takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name(usize);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.int_in_range(0..=MAX_PEERS).map(Self)
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Ask {
    Offer,
    Answer,
    Candidate,
    Disconnect,
}

/// What becomes of a letter on its way.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Post {
    Deliver,
    /// It did not arrive.
    TakeBack,
    /// The peer may have come to the sender's server.
    BringHome,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    /// With the latest token, the one before it, or none.
    Join(Node, Name, Option<bool>),
    /// The same, but what waits for the peer is not asked for: the answer is lost.
    JoinUnasked(Node, Name),
    Lose(Name),
    Leave(Name),
    Write(Name, Name, u8, Ask),
    /// The oldest letter under way.
    Carry(Post),
    /// The server stores what it wants.
    Settle(Node),
    /// The server reads the record.
    Read(Node),
    /// The server asks for a peer that it may not have.
    Take(Node, Node, Name),
    LoseRecord,
    Wait(u8),
}

/// Runs the operations that `data` says; what is left of it when they end is taken for what a server wrote.
#[allow(unreachable_pub)] // reached with the feature
pub fn __fuzz_cluster_ops(data: &[u8]) {
    records_that_anybody_wrote(data);
    let mut cluster = Cluster::new();
    let mut data = Unstructured::new(data);
    while let (false, Ok(op)) = (data.is_empty(), Op::arbitrary(&mut data)) {
        cluster.apply(op);
        cluster.check();
    }
    cluster.end();
}

/// What comes from the bus may be anything: if it can be read at all, nothing breaks.
fn records_that_anybody_wrote(data: &[u8]) {
    let mut room = empty(0);
    let now = Timestamp::ZERO;
    if let Ok(roster) = serde_json::from_slice::<Roster>(data) {
        let again = serde_json::to_string(&roster).map(|text| serde_json::from_str(&text).ok());
        assert_eq!(again.ok().flatten().as_ref(), Some(&roster));
        room.adopt(now, &roster);
        let draft = room.draft(&roster, |_| true, None, []);
        room.adopt(now, &draft.roster);
        assert_eq!(
            draft.roster.len(),
            0,
            "nobody is here, and nobody else lives"
        );
    }
    if let Ok(parcel) = serde_json::from_slice::<Parcel>(data) {
        room.take_back(&parcel);
        assert!(room.receive(now, parcel.clone()).is_err());
        assert!(room.bring_home(now, parcel).is_err());
    }
    if let Ok(handed) = serde_json::from_slice::<HandOver>(data) {
        room.take_over(now, &Name(0).id(), handed);
    }
    assert_eq!(room.poll_output(), None);
}

#[allow(clippy::expect_used)] // all are constant
fn empty(node: usize) -> Room {
    let limits = RoomLimits {
        max_peers: MAX_PEERS,
        ..RoomLimits::default()
    };
    Room::on_node(
        RoomId::new("room").expect("a name"),
        limits,
        Node(node).id(),
    )
}

impl Node {
    #[allow(clippy::expect_used)] // a digit is a valid name
    fn id(self) -> NodeId {
        NodeId::new(&format!("n{}", self.0)).expect("a valid name")
    }
}

impl Name {
    #[allow(clippy::expect_used)] // a digit is a valid name
    fn id(self) -> PeerId {
        PeerId::new(&format!("p{}", self.0)).expect("a valid name")
    }
}

/// Where a peer was let in last, and what it may show to come back.
struct Ticket {
    node: Node,
    connection: ConnectionId,
    latest: ResumeToken,
    previous: Option<ResumeToken>,
}

struct Cluster {
    now: Timestamp,
    serial: u64,
    record: Roster,
    rooms: Vec<Room>,
    tickets: BTreeMap<Name, Ticket>,
    /// Under way, and from which server.
    letters: Vec<(Node, Parcel)>,
    /// Whose each connection is: no other peer's signals may go there.
    owners: BTreeMap<ConnectionId, PeerId>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            now: Timestamp::ZERO,
            serial: 0,
            record: Roster::default(),
            rooms: (0..NODES).map(empty).collect(),
            tickets: BTreeMap::new(),
            letters: Vec::new(),
            owners: BTreeMap::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Join(node, name, which) => {
                let ticket = self.tickets.get(&name);
                let shown = which.zip(ticket).and_then(|(latest, ticket)| match latest {
                    true => Some(ticket.latest.clone()),
                    false => ticket.previous.clone(),
                });
                self.join(node, name, shown, true);
            }
            Op::JoinUnasked(node, name) => {
                let shown = self.tickets.get(&name).map(|ticket| ticket.latest.clone());
                self.join(node, name, shown, false);
            }
            Op::Lose(name) => {
                if let Some(Ticket {
                    node, connection, ..
                }) = self.tickets.get(&name)
                {
                    self.rooms[node.0].connection_lost(self.now, *connection);
                }
            }
            Op::Leave(name) => {
                let leave = Request::Disconnect {
                    to: None,
                    reason: String::new(),
                };
                if let Some(Ticket {
                    node, connection, ..
                }) = self.tickets.get(&name)
                {
                    // It may be there no more.
                    let _ = self.rooms[node.0].handle(self.now, *connection, leave);
                }
            }
            Op::Write(from, to, id, ask) => self.write(from, to, id, ask),
            Op::Carry(post) => self.carry(post),
            Op::Settle(node) => self.settle(node),
            Op::Read(node) => self.rooms[node.0].adopt(self.now, &self.record),
            Op::Take(from, to, name) => {
                let seat = self.seat(&name.id());
                if let Some(seat) = seat.filter(|_| from != to) {
                    // A letter that nobody should have written: the peer is then looked for in vain.
                    self.rooms[from.0].give_up(self.now, &name.id(), seat, &to.id());
                }
            }
            Op::LoseRecord => self.record = Roster::default(),
            Op::Wait(seconds) => {
                self.now = self.now + Duration::from_secs(seconds.into());
                for room in &mut self.rooms {
                    room.handle_timeout(self.now);
                }
            }
        }
    }

    fn seat(&self, peer: &PeerId) -> Option<Fingerprint> {
        let mut seats = self.record.seats();
        seats.find(|s| s.info.peer_id == *peer).map(|s| s.seat)
    }

    /// Stores a draft, as if nobody had come between.
    fn store(&mut self, node: Node, applicants: &[Applicant<'_>]) -> Vec<Ruling> {
        let room = &mut self.rooms[node.0];
        room.adopt(self.now, &self.record);
        let gone = |_: &NodeId| false;
        let applicants = applicants.iter().copied();
        let Draft {
            roster,
            rulings,
            displaced,
        } = room.draft(&self.record, gone, None, applicants);
        displaced.iter().for_each(|peer| room.displace(peer));
        self.record = roster;
        room.adopt(self.now, &self.record);
        rulings
    }

    fn settle(&mut self, node: Node) {
        self.store(node, &[]);
    }

    fn join(&mut self, node: Node, name: Name, shown: Option<ResumeToken>, asks: bool) {
        self.serial += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.serial.to_le_bytes());
        let (fresh, connection) = (ResumeToken::from_random(bytes), ConnectionId(self.serial));
        let announce = announce(name, shown.clone());
        let applicant = Applicant {
            announce: &announce,
            resume: &fresh,
        };
        let mut taken = None;
        let handed = match self.store(node, &[applicant]).pop() {
            Some(Ruling::Seated) => None,
            Some(Ruling::Moved { from, seat }) => {
                taken = Some(seat);
                let old = self
                    .rooms
                    .iter_mut()
                    .zip(0..)
                    .find(|(_, n)| Node(*n).id() == from);
                let handed = old.filter(|_| asks).and_then(|(room, _)| {
                    room.give_up(self.now, &announce.peer_id, seat, &node.id())
                });
                Some(handed.unwrap_or_default())
            }
            Some(Ruling::Refused(_)) | None => return,
        };
        let room = &mut self.rooms[node.0];
        self.owners.insert(connection, announce.peer_id.clone());
        let joined = room.let_in(
            WallTime::from_millis(0),
            connection,
            announce,
            &fresh,
            taken,
        );
        if let Some(handed) = handed {
            assert!(joined.resumed);
            room.take_over(self.now, &joined.peer_id, handed);
        }
        let ticket = Ticket {
            node,
            connection,
            latest: fresh,
            previous: shown,
        };
        self.tickets.insert(name, ticket);
    }

    fn write(&mut self, from: Name, to: Name, id: u8, ask: Ask) {
        let Some(Ticket {
            node, connection, ..
        }) = self.tickets.get(&from)
        else {
            return;
        };
        let (node, connection) = (*node, *connection);
        let request = request(&to.id(), id % 3, ask);
        let room = &mut self.rooms[node.0];
        if room.node_of(&to.id()).is_none() {
            // Refused or not: the other checks tell.
            let _ = room.handle(self.now, connection, request);
        } else if let Ok(parcel) = room.send_out(self.now, connection, request) {
            self.letters.push((node, parcel));
        }
    }

    fn carry(&mut self, post: Post) {
        if self.letters.is_empty() {
            return;
        }
        let (node, parcel) = self.letters.remove(0);
        let there = self.rooms[node.0].node_for(&parcel).cloned();
        match post {
            Post::TakeBack => self.rooms[node.0].take_back(&parcel),
            Post::BringHome => {
                // It is there, or it is not.
                let _ = self.rooms[node.0].bring_home(self.now, parcel);
            }
            Post::Deliver => {
                let Some(n) = (0..NODES).find(|n| Some(Node(*n).id()) == there) else {
                    return self.rooms[node.0].take_back(&parcel);
                };
                if self.rooms[n].receive(self.now, parcel.clone()).is_err() {
                    self.rooms[node.0].take_back(&parcel);
                }
            }
        }
    }

    fn check(&mut self) {
        assert!(self.record.len() <= MAX_PEERS);
        for room in &mut self.rooms {
            while let Some(output) = room.poll_output() {
                let Output::Send { to, message } = output else {
                    continue;
                };
                let owner = self.owners.get(&to);
                assert!(owner.is_some(), "only who was let in hears");
                assert_ne!(sender(&message), owner, "nobody hears of itself");
            }
        }
        let local: usize = self.rooms.iter().map(Room::local_len).sum();
        // A server that has not read the record may still have who has moved on.
        assert!(local <= MAX_PEERS * NODES);
    }

    /// All servers read and store until nothing changes: they agree.
    fn end(&mut self) {
        for _ in 0..2 {
            (0..NODES).for_each(|n| self.settle(Node(n)));
        }
        // Whoever was only missed by now is gone.
        self.now = self.now + Duration::from_secs(60);
        for n in 0..NODES {
            self.rooms[n].handle_timeout(self.now);
        }
        for _ in 0..2 {
            (0..NODES).for_each(|n| self.settle(Node(n)));
        }
        for room in &mut self.rooms {
            room.adopt(self.now, &self.record);
        }
        self.check();
        let seats: Vec<_> = self
            .record
            .seats()
            .map(|s| s.info.peer_id.clone())
            .collect();
        for room in &self.rooms {
            let seen: Vec<_> = room.peers().map(|info| info.peer_id.clone()).collect();
            assert_eq!(seen, seats);
            assert!(!room.keeps_for_others());
        }
        let local: usize = self.rooms.iter().map(Room::local_len).sum();
        assert_eq!(local, seats.len(), "each peer is at one place");
    }
}

/// The other peer that a message is from or about.
fn sender(message: &Notification) -> Option<&PeerId> {
    match message {
        Notification::PeerAnnounced(info) => Some(&info.peer_id),
        Notification::PeerLeft { peer_id: peer, .. }
        | Notification::Disconnected { peer_id: peer, .. }
        | Notification::Offer { from: peer, .. }
        | Notification::Answer { from: peer, .. }
        | Notification::Candidate { from: peer, .. }
        | Notification::OfferExpired { to: peer, .. } => Some(peer),
        _ => None,
    }
}

fn announce(name: Name, resume: Option<ResumeToken>) -> Announce {
    #[allow(clippy::expect_used)] // it is constant
    let room = RoomId::new("room").expect("a valid name");
    Announce {
        protocol: 1,
        room,
        peer_id: name.id(),
        capabilities: Capabilities::from([Capability::Data]),
        token: None,
        resume,
        user_data: serde_json::Value::Null,
    }
}

fn request(to: &PeerId, id: u8, ask: Ask) -> Request {
    let (to, request_id) = (to.clone(), RequestId::from_random([id; 16]));
    let body = || Description::WebRtc { sdp: "v=0".into() };
    match ask {
        Ask::Offer => Request::Offer {
            to,
            request_id,
            body: body(),
        },
        Ask::Answer => Request::Answer {
            to,
            request_id,
            body: body(),
        },
        Ask::Candidate => Request::Candidate {
            to,
            request_id,
            candidate: IceCandidate::default(),
        },
        Ask::Disconnect => Request::Disconnect {
            to: Some(to),
            reason: String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::__fuzz_cluster_ops;

    proptest! {
        #[test]
        fn servers_agree_however_it_goes(data in prop::collection::vec(any::<u8>(), 0..1200)) {
            __fuzz_cluster_ops(&data);
        }
    }

    #[test]
    fn records_that_nobody_should_have_written_break_nothing() {
        for text in [
            r#"{"seats":[{"peer_id":"a","capabilities":["data"],"seat":"1","node":"n0","resume":"1"}]}"#,
            r#"{"seats":[{"peer_id":"a","capabilities":["data"],"seat":"1","node":"n1","resume":"1","previous":"2"},
                {"peer_id":"a","capabilities":["data"],"seat":"2","node":"n0","resume":"1"}],"departures":[]}"#,
            r#"{"from":"a","from_seat":"0","to_seat":"0","message":"{\"jsonrpc\":\"2.0\",\"method\":\"peer.disconnect\",\"params\":{\"to\":\"b\"}}"}"#,
            r#"{"held":["{}","nonsense"],"offers":[{"from":"p0","to":"p0","kind":"webrtc","request_id":"x","left_ms":18446744073709551615,"answered":false}]}"#,
        ] {
            __fuzz_cluster_ops(text.as_bytes());
        }
    }
}
