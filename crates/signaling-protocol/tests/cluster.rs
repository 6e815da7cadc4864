//! A room that several servers share: the same record, changed by compare-and-set, under a virtual
//! clock.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{
    SECOND, announce, answer, answer_of, candidate, leave, left, offer, offer_of, peer, quic,
};
use proptest::prelude::*;
use roundtable_core::{RoomId, Timestamp, WallTime};
use roundtable_signaling_protocol::{
    Applicant, CloseReason, ConnectionId, ErrorCode, Joined, LeaveReason, NodeId, Notification,
    Output, Parcel, Request, ResumeToken, Room, RoomLimits, Roster, RpcError, Ruling,
};

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

/// Servers that share one room, and what each connection heard.
struct Cluster {
    now: Timestamp,
    record: Roster,
    nodes: Vec<Room>,
    gone: Vec<NodeId>,
    heard: BTreeMap<ConnectionId, Vec<Notification>>,
    closed: BTreeMap<ConnectionId, CloseReason>,
    tokens: u8,
    /// Whether servers hear of the record before they are asked for what a peer left there.
    record_first: bool,
}

impl Cluster {
    fn new(nodes: usize, max_peers: usize) -> Self {
        let limits = RoomLimits {
            max_peers,
            ..RoomLimits::default()
        };
        let room = |n| Room::on_node(RoomId::new("room").unwrap(), limits.clone(), node(n));
        Self {
            now: Timestamp::from_millis(1000),
            record: Roster::default(),
            nodes: (0..nodes).map(room).collect(),
            gone: Vec::new(),
            heard: BTreeMap::new(),
            closed: BTreeMap::new(),
            tokens: 0,
            record_first: false,
        }
    }

    /// Stores what one server wants, as it does whenever something has changed.
    fn settle(&mut self, n: usize) {
        let gone = self.gone.clone();
        self.nodes[n].adopt(self.now, &self.record);
        let draft = self.nodes[n].draft(&self.record, |node| gone.contains(node), None, []);
        for peer in &draft.displaced {
            self.nodes[n].displace(peer);
        }
        self.record = draft.roster;
        self.nodes[n].adopt(self.now, &self.record);
    }

    /// Every server hears of the record.
    fn spread(&mut self) {
        for (n, room) in self.nodes.iter_mut().enumerate() {
            if !self.gone.contains(&node(n)) {
                room.adopt(self.now, &self.record);
            }
        }
        self.flush();
    }

    fn join(
        &mut self,
        n: usize,
        connection: u64,
        name: &str,
        resume: Option<ResumeToken>,
    ) -> Result<Joined, RpcError> {
        self.tokens += 1;
        let announce = announce(name, resume);
        let token = ResumeToken::from_random([self.tokens; 16]);
        self.nodes[n].adopt(self.now, &self.record);
        let applicant = Applicant {
            announce: &announce,
            resume: &token,
        };
        let gone = self.gone.clone();
        let is_gone = |node: &NodeId| gone.contains(node);
        let mut draft = self.nodes[n].draft(&self.record, is_gone, None, [applicant]);
        for peer in &draft.displaced {
            self.nodes[n].displace(peer);
        }
        let mut taken = None;
        let handed = match draft.rulings.remove(0) {
            Ruling::Seated => None,
            Ruling::Moved { from, seat } => {
                taken = Some(seat);
                let old = (0..self.nodes.len()).find(|n| node(*n) == from).unwrap();
                let to = node(n);
                if self.record_first {
                    self.nodes[old].adopt(self.now, &draft.roster);
                }
                let old = (!gone.contains(&from)).then(|| &mut self.nodes[old]);
                old.and_then(|room| room.give_up(self.now, &announce.peer_id, seat, &to))
            }
            Ruling::Refused(error) => return Err(error),
        };
        self.record = draft.roster;
        let room = &mut self.nodes[n];
        room.adopt(self.now, &self.record);
        let connection = ConnectionId(connection);
        let peer_id = announce.peer_id.clone();
        let joined = room.let_in(
            WallTime::from_millis(1),
            connection,
            announce,
            &token,
            taken,
        );
        room.take_over(self.now, &peer_id, handed.unwrap_or_default());
        self.spread();
        Ok(joined)
    }

    /// A request of a peer on one server to one on another.
    fn relay(&mut self, n: usize, connection: u64, request: Request) -> Result<(), RpcError> {
        let to = request.to().unwrap().clone();
        let there = self.nodes[n].node_of(&to).cloned().unwrap();
        let there = (0..self.nodes.len()).find(|n| node(*n) == there).unwrap();
        let parcel = self.nodes[n].send_out(self.now, ConnectionId(connection), request)?;
        let packed = serde_json::to_string(&parcel).unwrap();
        let arrived = serde_json::from_str(&packed).unwrap();
        let outcome = self.nodes[there].receive(self.now, arrived);
        if outcome.is_err() {
            self.nodes[n].take_back(&parcel);
        }
        self.flush();
        outcome.map(drop)
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for room in &mut self.nodes {
            room.handle_timeout(self.now);
        }
        self.flush();
    }

    fn flush(&mut self) {
        for room in &mut self.nodes {
            while let Some(output) = room.poll_output() {
                match output {
                    Output::Send { to, message } => self.heard.entry(to).or_default().push(message),
                    Output::Close { connection, reason } => {
                        self.closed.insert(connection, reason);
                    }
                }
            }
        }
    }

    fn hears(&mut self, connection: u64) -> Vec<Notification> {
        self.heard
            .remove(&ConnectionId(connection))
            .unwrap_or_default()
    }
}

/// Alice (connection 1) on server 0, Bob (connection 2) on server 1; nothing unheard.
fn pair() -> (Cluster, Joined, Joined) {
    let mut cluster = Cluster::new(3, 10);
    let alice = cluster.join(0, 1, "alice", None).unwrap();
    let bob = cluster.join(1, 2, "bob", None).unwrap();
    assert_eq!(bob.peers[0].peer_id, peer("alice"));
    let heard = cluster.hears(1);
    assert!(
        matches!(&heard[..], [Notification::PeerAnnounced(info)] if info.peer_id == peer("bob"))
    );
    (cluster, alice, bob)
}

#[test]
fn names_and_seats_count_on_all_servers() {
    let mut cluster = Cluster::new(3, 2);
    cluster.join(0, 1, "alice", None).unwrap();
    let code = |outcome: Result<Joined, RpcError>| outcome.unwrap_err().code;
    assert_eq!(
        code(cluster.join(1, 2, "alice", None)),
        ErrorCode::PeerIdTaken
    );
    let wrong = Some(ResumeToken::from_random([99; 16]));
    assert_eq!(
        code(cluster.join(1, 3, "alice", wrong)),
        ErrorCode::PeerIdTaken
    );
    cluster.join(1, 4, "bob", None).unwrap();
    assert_eq!(code(cluster.join(2, 5, "carol", None)), ErrorCode::RoomFull);
}

#[test]
fn a_negotiation_goes_on_between_servers_and_both_keep_its_rules() {
    let (mut cluster, ..) = pair();
    cluster.relay(0, 1, offer("bob", "o")).unwrap();
    let offered = cluster.hears(2);
    assert!(matches!(&offered[..], [Notification::Offer { from, .. }] if *from == peer("alice")));
    let code = |outcome: Result<(), RpcError>| outcome.unwrap_err().code;
    assert_eq!(
        code(cluster.relay(0, 1, offer("bob", "o"))),
        ErrorCode::OfferInvalid
    );
    assert_eq!(
        code(cluster.relay(1, 2, answer("alice", "x"))),
        ErrorCode::OfferExpired
    );
    cluster.relay(1, 2, answer("alice", "o")).unwrap();
    assert_eq!(
        code(cluster.relay(1, 2, answer("alice", "o"))),
        ErrorCode::OfferExpired
    );
    assert!(matches!(
        &cluster.hears(1)[..],
        [Notification::Answer { .. }]
    ));

    // Unanswered, an offer expires for its offerer alone.
    cluster.relay(1, 2, offer("alice", "p")).unwrap();
    cluster.hears(1);
    cluster.pass(31 * SECOND);
    assert!(matches!(
        &cluster.hears(2)[..],
        [Notification::OfferExpired { .. }]
    ));
    assert!(cluster.hears(1).is_empty());
    assert_eq!(
        code(cluster.relay(0, 1, answer("bob", "p"))),
        ErrorCode::OfferExpired
    );
}

#[test]
fn what_was_refused_there_has_not_happened_here() {
    let (mut cluster, ..) = pair();
    // Bob leaves, and server 0 has not heard of it.
    cluster.nodes[1]
        .handle(cluster.now, ConnectionId(2), leave())
        .unwrap();
    let refused = cluster.relay(0, 1, offer("bob", "o")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PeerNotFound);
    cluster.pass(31 * SECOND);
    assert!(
        cluster.hears(1).is_empty(),
        "no offer expires that was refused"
    );
}

#[test]
fn who_resumes_elsewhere_keeps_seat_messages_and_negotiations_and_nobody_notices() {
    let (mut cluster, _, bob) = pair();
    cluster
        .relay(1, 2, offer_of(quic(), "alice", "theirs"))
        .unwrap();
    cluster.hears(1);
    cluster.nodes[1].connection_lost(cluster.now, ConnectionId(2));
    cluster.relay(0, 1, offer("bob", "held")).unwrap();
    let again = cluster.join(2, 3, "bob", Some(bob.resume.clone())).unwrap();
    assert!(again.resumed);
    assert_eq!(again.peers[0].peer_id, peer("alice"));
    assert!(cluster.hears(1).is_empty(), "alice noticed");
    assert!(matches!(&cluster.hears(3)[..],
        [Notification::Offer { request_id, .. }] if request_id.as_str() == "held"));
    cluster.relay(2, 3, answer("alice", "held")).unwrap();
    cluster
        .relay(0, 1, answer_of(quic(), "bob", "theirs"))
        .unwrap();
    assert!(matches!(
        &cluster.hears(3)[..],
        [Notification::Answer { .. }]
    ));
    // The token counts until the next one is used.
    let anew = cluster.join(0, 4, "bob", Some(again.resume)).unwrap();
    assert!(anew.resumed);
    let stale = cluster.join(1, 5, "bob", Some(bob.resume)).unwrap_err();
    assert_eq!(stale.code, ErrorCode::PeerIdTaken);
}

#[test]
fn who_comes_back_to_a_server_brings_what_was_negotiated_meanwhile() {
    let (mut cluster, _, bob) = pair();
    cluster.relay(0, 1, offer("bob", "first")).unwrap();
    let there = cluster.join(2, 3, "bob", Some(bob.resume)).unwrap();
    cluster.relay(2, 3, answer("alice", "first")).unwrap();
    cluster.relay(0, 1, offer("bob", "second")).unwrap();
    let back = cluster.join(1, 4, "bob", Some(there.resume)).unwrap();
    assert!(back.resumed);
    // The server where Bob was before still knew the first offer alone, as unanswered.
    cluster.relay(1, 4, answer("alice", "second")).unwrap();
}

#[test]
fn an_answer_to_a_resume_that_got_lost_does_not_cost_the_seat() {
    let (mut cluster, _, bob) = pair();
    cluster.join(2, 3, "bob", Some(bob.resume.clone())).unwrap();
    let again = cluster.join(0, 4, "bob", Some(bob.resume)).unwrap();
    assert!(again.resumed);
    assert_eq!(cluster.nodes[0].local_len(), 2);
    assert!(!cluster.nodes[2].has_local());
}

#[test]
fn what_waits_for_a_peer_is_handed_over_also_if_the_record_comes_first() {
    let (mut cluster, _, bob) = pair();
    cluster.nodes[1].connection_lost(cluster.now, ConnectionId(2));
    cluster.relay(0, 1, offer("bob", "held")).unwrap();
    cluster.record_first = true;
    cluster.join(2, 3, "bob", Some(bob.resume)).unwrap();
    assert!(matches!(&cluster.hears(3)[..],
        [Notification::Offer { request_id, .. }] if request_id.as_str() == "held"));
    cluster.relay(2, 3, answer("alice", "held")).unwrap();
    assert!(!cluster.nodes[1].keeps_for_others());
}

#[test]
fn what_nobody_asks_for_is_kept_for_a_while_and_for_one_server_alone() {
    let (mut cluster, _, bob) = pair();
    cluster.nodes[1].connection_lost(cluster.now, ConnectionId(2));
    cluster.relay(0, 1, offer("bob", "held")).unwrap();
    let seat = cluster
        .record
        .seats()
        .find(|s| s.info.peer_id == peer("bob"));
    let seat = seat.unwrap().seat;
    let gone = std::mem::replace(&mut cluster.gone, vec![node(1)]);
    // Server 2 cannot ask, and server 1 hears of it later.
    cluster.join(2, 3, "bob", Some(bob.resume)).unwrap();
    cluster.gone = gone;
    cluster.spread();
    assert!(cluster.nodes[1].keeps_for_others());
    let (now, bob) = (cluster.now, peer("bob"));
    assert_eq!(cluster.nodes[1].give_up(now, &bob, seat, &node(0)), None);
    assert_eq!(
        cluster.nodes[1].poll_timeout(),
        Some(cluster.now + 5 * SECOND)
    );
    cluster.pass(5 * SECOND);
    assert!(!cluster.nodes[1].keeps_for_others());
    let now = cluster.now;
    assert_eq!(cluster.nodes[1].give_up(now, &bob, seat, &node(2)), None);
}

#[test]
fn who_asks_again_because_the_answer_was_lost_is_told_the_same() {
    let (mut cluster, _, bob) = pair();
    cluster.nodes[1].connection_lost(cluster.now, ConnectionId(2));
    cluster.relay(0, 1, offer("bob", "held")).unwrap();
    let seat = cluster
        .record
        .seats()
        .find(|s| s.info.peer_id == peer("bob"));
    let (seat, name) = (seat.unwrap().seat, peer("bob"));
    let now = cluster.now;
    let first = cluster.nodes[1].give_up(now, &name, seat, &node(2));
    assert!(first.is_some() && !cluster.nodes[1].keeps_for_others());
    let again = cluster.nodes[1].give_up(now + 4 * SECOND, &name, seat, &node(2));
    assert_eq!(again, first);
    let late = cluster.nodes[1].give_up(now + 5 * SECOND, &name, seat, &node(2));
    assert_eq!(late, None);
    // With it the peer enters the other server, and comes back: then another thing is left.
    let back = cluster.join(2, 3, "bob", Some(bob.resume)).unwrap();
    let back = cluster.join(1, 4, "bob", Some(back.resume)).unwrap();
    cluster.join(2, 5, "bob", Some(back.resume)).unwrap();
    let now = cluster.now;
    let new = cluster.nodes[1].give_up(now, &name, seat, &node(2));
    assert!(new.is_some() && new != first);
}

/// Alice's parcel to Bob on another server, not yet there.
fn posted(cluster: &mut Cluster, request: Request) -> Parcel {
    cluster.nodes[0]
        .send_out(cluster.now, ConnectionId(1), request)
        .unwrap()
}

#[test]
fn who_comes_by_a_name_later_gets_none_of_its_predecessors_letters() {
    let (mut cluster, ..) = pair();
    let parcel = posted(&mut cluster, offer("bob", "o"));
    cluster.nodes[1]
        .handle(cluster.now, ConnectionId(2), leave())
        .unwrap();
    cluster.settle(1);
    cluster.join(1, 3, "bob", None).unwrap();
    assert_eq!(cluster.nodes[0].node_for(&parcel), None, "no way to him");
    assert!(cluster.nodes[0].node_of(&peer("bob")).is_some());
    let refused = cluster.nodes[1].receive(cluster.now, parcel).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PeerNotFound);
    cluster.flush();
    assert!(cluster.hears(3).is_empty());
}

#[test]
fn nothing_is_taken_from_who_has_left_though_another_has_its_name() {
    let (mut cluster, ..) = pair();
    let parcel = posted(&mut cluster, offer("bob", "o"));
    cluster.nodes[0]
        .handle(cluster.now, ConnectionId(1), leave())
        .unwrap();
    cluster.settle(0);
    cluster.join(0, 3, "alice", None).unwrap();
    let refused = cluster.nodes[1].receive(cluster.now, parcel).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PeerNotFound);
}

#[test]
fn a_parcel_whose_peer_has_come_here_meanwhile_is_delivered_here() {
    let (mut cluster, _, bob) = pair();
    let offered = posted(&mut cluster, offer("bob", "o"));
    let candidate = posted(&mut cluster, candidate("bob", "o"));
    cluster.join(0, 3, "bob", Some(bob.resume)).unwrap();
    let now = cluster.now;
    cluster.nodes[0].bring_home(now, offered).unwrap();
    cluster.nodes[0].bring_home(now, candidate).unwrap();
    cluster.flush();
    assert!(matches!(
        &cluster.hears(3)[..],
        [Notification::Offer { .. }, Notification::Candidate { .. }]
    ));
    let reply = cluster.nodes[0].handle(now, ConnectionId(3), answer("alice", "o"));
    assert!(reply.is_ok());
}

#[test]
fn an_old_socket_is_closed_when_its_peer_resumes_elsewhere() {
    let (mut cluster, _, bob) = pair();
    cluster.join(2, 3, "bob", Some(bob.resume)).unwrap();
    assert_eq!(
        cluster.closed.get(&ConnectionId(2)),
        Some(&CloseReason::Replaced)
    );
    assert!(!cluster.nodes[1].has_local());
}

#[test]
fn the_peers_of_a_dead_server_are_lost_unless_they_have_resumed() {
    let (mut cluster, _, bob) = pair();
    cluster.join(1, 3, "carol", None).unwrap();
    cluster.hears(1);
    cluster.gone.push(node(1));
    cluster.join(2, 4, "bob", Some(bob.resume)).unwrap();
    cluster.settle(0);
    cluster.spread();
    assert_eq!(cluster.hears(1), [left("carol", LeaveReason::Lost)]);
    let names: Vec<_> = cluster.nodes[0]
        .peers()
        .map(|p| p.peer_id.as_str())
        .collect();
    assert_eq!(names, ["alice", "bob"]);
}

#[test]
fn a_lost_record_is_put_together_again_and_nobody_leaves() {
    let (mut cluster, ..) = pair();
    cluster.record = Roster::default();
    cluster.spread();
    for n in [1, 0] {
        cluster.settle(n);
        cluster.pass(SECOND);
        cluster.spread();
    }
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.record.len(), 2);
    assert!(cluster.hears(1).is_empty() && cluster.hears(2).is_empty());

    // Who does not come back is lost after a while.
    cluster.record = Roster::default();
    cluster.spread();
    cluster.settle(0);
    cluster.spread();
    cluster.pass(5 * SECOND);
    assert!(cluster.hears(1).is_empty());
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.hears(1), [left("bob", LeaveReason::Lost)]);
}

#[test]
fn who_lost_its_seat_to_another_while_its_server_was_cut_off_is_put_out() {
    let (mut cluster, ..) = pair();
    cluster.record = Roster::default();
    cluster.join(2, 3, "alice", None).unwrap();
    cluster.settle(0);
    cluster.spread();
    assert_eq!(
        cluster.closed.get(&ConnectionId(1)),
        Some(&CloseReason::Draining)
    );
    let holder = cluster
        .record
        .seats()
        .find(|seat| seat.info.peer_id == peer("alice"));
    assert_eq!(holder.unwrap().node, node(2));
}

#[test]
fn who_takes_its_seat_over_where_another_of_its_name_is_put_out_keeps_it() {
    let (mut cluster, _, bob) = pair();
    // Server 1 is cut off, the record lost, and another Bob comes to server 2.
    cluster.record = Roster::default();
    let second = cluster.join(2, 3, "bob", None).unwrap();
    assert_ne!(bob.resume, second.resume);
    let moved = cluster.join(1, 4, "bob", Some(second.resume)).unwrap();
    assert!(moved.resumed);
    assert_eq!(
        cluster.closed.get(&ConnectionId(2)),
        Some(&CloseReason::Draining)
    );
    cluster.settle(1);
    cluster.spread();
    assert_eq!(cluster.closed.get(&ConnectionId(4)), None);
}

#[test]
fn what_is_under_way_arrives_though_its_sender_overtakes_it() {
    let (mut cluster, alice, bob) = pair();
    let offered = posted(&mut cluster, offer("bob", "o"));
    // Alice comes to Bob's server before her offer does.
    let there = cluster.join(1, 3, "alice", Some(alice.resume)).unwrap();
    let now = cluster.now;
    cluster.nodes[1].receive(now, offered).unwrap();
    cluster.flush();
    assert!(matches!(
        &cluster.hears(2)[..],
        [Notification::Offer { .. }]
    ));
    // And so does an answer.
    cluster.join(0, 4, "alice", Some(there.resume)).unwrap();
    let answered = cluster.nodes[1]
        .send_out(now, ConnectionId(2), answer("alice", "o"))
        .unwrap();
    cluster.join(0, 5, "bob", Some(bob.resume)).unwrap();
    cluster.nodes[0].receive(now, answered).unwrap();
    cluster.flush();
    assert!(matches!(
        &cluster.hears(4)[..],
        [Notification::Answer { .. }]
    ));
}

#[derive(Debug, Clone)]
enum Op {
    Join {
        node: usize,
        name: usize,
        resume: bool,
    },
    Lose {
        name: usize,
    },
    Leave {
        name: usize,
    },
    Settle {
        node: usize,
    },
    Pass {
        seconds: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (node, name) = (0..3_usize, 0..5_usize);
    prop_oneof![
        4 => (node.clone(), name.clone(), any::<bool>())
            .prop_map(|(node, name, resume)| Op::Join { node, name, resume }),
        2 => name.clone().prop_map(|name| Op::Lose { name }),
        1 => name.prop_map(|name| Op::Leave { name }),
        2 => node.prop_map(|node| Op::Settle { node }),
        1 => (0..20_u64).prop_map(|seconds| Op::Pass { seconds }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: never more seats than there are, never one name on two
    /// servers, and in the end all servers see the same room.
    #[test]
    fn servers_agree_whatever_happens(ops in proptest::collection::vec(op(), 1..60)) {
        let mut cluster = Cluster::new(3, 3);
        let mut last: BTreeMap<usize, (usize, u64, ResumeToken)> = BTreeMap::new();
        for (connection, op) in (1..).zip(ops) {
            match op {
                Op::Join { node, name, resume } => {
                    let token = last.get(&name).filter(|_| resume).map(|(.., t)| t.clone());
                    if let Ok(joined) = cluster.join(node, connection, &format!("p{name}"), token) {
                        last.insert(name, (node, connection, joined.resume));
                    }
                }
                Op::Lose { name } => if let Some((node, connection, _)) = last.get(&name) {
                    cluster.nodes[*node].connection_lost(cluster.now, ConnectionId(*connection));
                },
                Op::Leave { name } => if let Some((node, connection, _)) = last.get(&name) {
                    let _ = cluster.nodes[*node].handle(cluster.now, ConnectionId(*connection), leave());
                },
                Op::Settle { node } => cluster.settle(node),
                Op::Pass { seconds } => cluster.pass(Duration::from_secs(seconds)),
            }
            prop_assert!(cluster.record.len() <= 3);
            let local: usize = cluster.nodes.iter().map(Room::local_len).sum();
            let names: usize = cluster.nodes.iter().flat_map(Room::peers)
                .map(|info| info.peer_id.clone())
                .collect::<std::collections::BTreeSet<_>>().len();
            prop_assert!(local <= names, "a peer is at two places");
        }
        for _ in 0..2 {
            for n in 0..3 {
                cluster.settle(n);
            }
        }
        cluster.spread();
        for room in &cluster.nodes {
            let seen: Vec<_> = room.peers().map(|info| info.peer_id.clone()).collect();
            let seats: Vec<_> = cluster.record.seats().map(|s| s.info.peer_id.clone()).collect();
            prop_assert_eq!(seen, seats);
        }
    }
}
