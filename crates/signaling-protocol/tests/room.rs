//! The room under a virtual clock: what its peers are told, and what must hold whatever they do.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use roundtable_core::{PeerId, RoomId, Timestamp, WallTime};
use roundtable_signaling_protocol::{
    Announce, Capabilities, Capability, CloseReason, ConnectionId, Description, ErrorCode,
    IceCandidate, Joined, LeaveReason, Notification, Output, Reply, Request, RequestId,
    ResumeToken, Room, RoomLimits, RpcError,
};

const SECOND: Duration = Duration::from_secs(1);

fn peer(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

fn id(text: &str) -> RequestId {
    RequestId::new(text).unwrap()
}

fn sdp() -> Description {
    Description::WebRtc { sdp: "v=0".into() }
}

fn quic() -> Description {
    Description::Quic {
        author_key: "ab".repeat(32).parse().unwrap(),
        addresses: Vec::new(),
    }
}

fn offer(to: &str, request_id: &str) -> Request {
    Request::Offer {
        to: peer(to),
        request_id: id(request_id),
        body: sdp(),
    }
}

fn answer(to: &str, request_id: &str) -> Request {
    Request::Answer {
        to: peer(to),
        request_id: id(request_id),
        body: sdp(),
    }
}

fn candidate(to: &str, request_id: &str) -> Request {
    Request::Candidate {
        to: peer(to),
        request_id: id(request_id),
        candidate: IceCandidate::default(),
    }
}

/// A room, its clock, and a different token for each announce.
struct World {
    room: Room,
    now: Timestamp,
    tokens: u8,
}

impl World {
    fn new(limits: RoomLimits) -> Self {
        Self {
            room: Room::new(RoomId::new("room").unwrap(), limits),
            now: Timestamp::ZERO,
            tokens: 0,
        }
    }

    /// With these members, on connections 1, 2, …; what they heard of one another is forgotten.
    fn with(names: &[&str]) -> Self {
        let mut world = Self::new(RoomLimits::default());
        for (connection, name) in (1..).zip(names) {
            world.join(connection, name, None).unwrap();
        }
        world.outputs();
        world
    }

    fn join(
        &mut self,
        connection: u64,
        name: &str,
        resume: Option<ResumeToken>,
    ) -> Result<Joined, RpcError> {
        let announce = Announce {
            protocol: 1,
            room: RoomId::new("room").unwrap(),
            peer_id: peer(name),
            capabilities: Capabilities::from([Capability::Data]),
            token: None,
            resume,
            user_data: serde_json::Value::Null,
        };
        self.tokens += 1;
        let token = ResumeToken::from_random([self.tokens; 16]);
        self.room.announce(
            WallTime::from_millis(0),
            ConnectionId(connection),
            announce,
            token,
        )
    }

    fn ask(&mut self, connection: u64, request: Request) -> Result<Reply, ErrorCode> {
        let outcome = self
            .room
            .handle(self.now, ConnectionId(connection), request);
        outcome.map_err(|error| error.code)
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.room.handle_timeout(self.now);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.room.poll_output()).collect()
    }

    fn messages(&mut self) -> Vec<(u64, Notification)> {
        let outputs = self.outputs().into_iter();
        let sent = outputs.filter_map(|output| match output {
            Output::Send { to, message } => Some((to.0, message)),
            Output::Close { .. } => None,
        });
        sent.collect()
    }
}

#[test]
fn an_offer_expires_after_thirty_seconds_and_not_before() {
    let mut world = World::with(&["alice", "bob"]);
    world.ask(2, offer("alice", "o")).unwrap();
    world.outputs();
    world.pass(30 * SECOND - Duration::from_micros(1));
    assert_eq!(world.outputs(), []);
    assert_eq!(
        world.room.poll_timeout(),
        Some(Timestamp::from_millis(30_000))
    );
    world.pass(Duration::from_micros(1));
    let (to, request_id) = (peer("alice"), id("o"));
    assert_eq!(
        world.messages(),
        [(2, Notification::OfferExpired { to, request_id })]
    );
    assert_eq!(
        world.ask(1, answer("bob", "o")),
        Err(ErrorCode::OfferExpired)
    );
    assert_eq!(
        world.ask(1, candidate("bob", "o")),
        Err(ErrorCode::OfferExpired)
    );
    assert_eq!(world.room.poll_timeout(), None);
}

#[test]
fn an_answer_is_refused_once_time_is_up_even_before_the_room_looked_at_the_clock() {
    let mut world = World::with(&["alice", "bob"]);
    world.ask(2, offer("alice", "o")).unwrap();
    world.now = world.now + 30 * SECOND;
    assert_eq!(
        world.ask(1, answer("bob", "o")),
        Err(ErrorCode::OfferExpired)
    );
}

#[test]
fn an_answered_offer_serves_the_candidates_of_both_until_the_next_of_its_kind() {
    let mut world = World::with(&["alice", "bob"]);
    world.ask(2, offer("alice", "first")).unwrap();
    world.ask(2, candidate("alice", "first")).unwrap();
    world.ask(1, answer("bob", "first")).unwrap();
    world.pass(3600 * SECOND);
    world.ask(1, candidate("bob", "first")).unwrap();
    world.ask(2, candidate("alice", "first")).unwrap();
    let quic_offer = Request::Offer {
        to: peer("bob"),
        request_id: id("quic"),
        body: quic(),
    };
    world.ask(1, quic_offer).unwrap();
    world.ask(1, candidate("bob", "first")).unwrap();
    world.ask(1, offer("bob", "second")).unwrap();
    assert_eq!(
        world.ask(1, candidate("bob", "first")),
        Err(ErrorCode::OfferExpired)
    );
    world.ask(2, candidate("alice", "second")).unwrap();
}

#[test]
fn when_offers_cross_the_one_not_answered_expires_silently() {
    let mut world = World::with(&["alice", "bob"]);
    world.ask(1, offer("bob", "polite")).unwrap();
    world.ask(2, offer("alice", "impolite")).unwrap();
    world.ask(1, answer("bob", "impolite")).unwrap();
    world.outputs();
    assert_eq!(
        world.ask(2, answer("alice", "polite")),
        Err(ErrorCode::OfferExpired)
    );
    world.pass(60 * SECOND);
    assert_eq!(world.outputs(), []);
}

#[test]
fn an_answer_of_another_kind_or_with_a_used_id_is_refused() {
    let mut world = World::with(&["alice", "bob"]);
    world.ask(2, offer("alice", "o")).unwrap();
    let wrong_kind = Request::Answer {
        to: peer("bob"),
        request_id: id("o"),
        body: quic(),
    };
    assert_eq!(world.ask(1, wrong_kind), Err(ErrorCode::OfferExpired));
    assert_eq!(
        world.ask(2, offer("alice", "o")),
        Err(ErrorCode::OfferInvalid)
    );
    assert_eq!(
        world.ask(2, offer("bob", "x")),
        Err(ErrorCode::PeerNotFound),
        "itself"
    );
}

#[test]
fn disconnecting_ends_every_negotiation_of_the_pair_and_of_no_other() {
    let mut world = World::with(&["alice", "bob", "carol"]);
    world.ask(2, offer("alice", "ab")).unwrap();
    world.ask(3, offer("alice", "ac")).unwrap();
    world.outputs();
    let goodbye = Request::Disconnect {
        to: Some(peer("bob")),
        reason: "bye".into(),
    };
    assert_eq!(world.ask(1, goodbye), Ok(Reply::Forwarded));
    let (peer_id, reason) = (peer("alice"), "bye".into());
    assert_eq!(
        world.messages(),
        [(2, Notification::Disconnected { peer_id, reason })]
    );
    assert_eq!(
        world.ask(1, answer("bob", "ab")),
        Err(ErrorCode::OfferExpired)
    );
    assert_eq!(world.ask(1, answer("carol", "ac")), Ok(Reply::Forwarded));
}

#[test]
fn a_lost_connection_keeps_its_place_for_thirty_seconds() {
    let mut world = World::with(&["alice", "bob"]);
    world.room.connection_lost(world.now, ConnectionId(2));
    world.pass(30 * SECOND - Duration::from_micros(1));
    assert_eq!(world.outputs(), []);
    assert_eq!(
        world.join(3, "bob", None).unwrap_err().code,
        ErrorCode::PeerIdTaken
    );
    world.pass(Duration::from_micros(1));
    let (peer_id, reason) = (peer("bob"), LeaveReason::Lost);
    assert_eq!(
        world.messages(),
        [(1, Notification::PeerLeft { peer_id, reason })]
    );
    assert!(!world.join(3, "bob", None).unwrap().resumed);
}

#[test]
fn the_news_that_an_old_connection_broke_does_not_hurt_the_new_one() {
    let mut world = World::new(RoomLimits::default());
    let first = world.join(1, "alice", None).unwrap();
    let second = world.join(2, "alice", Some(first.resume)).unwrap();
    assert!(second.resumed);
    let replaced = Output::Close {
        connection: ConnectionId(1),
        reason: CloseReason::Replaced,
    };
    assert_eq!(world.outputs(), [replaced]);
    world.room.connection_lost(world.now, ConnectionId(1));
    world.pass(60 * SECOND);
    assert_eq!(world.room.len(), 1);
    let unknown = world.ask(1, offer("bob", "o"));
    assert_eq!(unknown, Err(ErrorCode::NotAnnounced));
}

#[test]
fn what_waits_for_a_lost_peer_is_bounded() {
    let mut world = World::with(&["alice", "bob"]);
    world.room.connection_lost(world.now, ConnectionId(2));
    for n in 0..64 {
        world.ask(1, offer("bob", &format!("o{n}"))).unwrap();
    }
    assert_eq!(world.outputs(), []);
    world.ask(1, offer("bob", "one-too-many")).unwrap();
    let (peer_id, reason) = (peer("bob"), LeaveReason::Evicted);
    assert_eq!(
        world.messages(),
        [(1, Notification::PeerLeft { peer_id, reason })]
    );
}

/// What a peer of the property test does.
#[derive(Debug, Clone)]
enum Act {
    Join,
    Resume,
    Ask(Request),
    Lose,
    Evict,
    Wait(u64),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn act() -> impl Strategy<Value = Act> {
    let name = prop::sample::select(&NAMES[..]);
    let request_id = prop::sample::select(&["1", "2", "3"][..]);
    let asked = (0..5_u8, name, request_id).prop_map(|(what, to, request_id)| match what {
        0 => offer(to, request_id),
        1 => answer(to, request_id),
        2 => candidate(to, request_id),
        3 => Request::Disconnect {
            to: Some(peer(to)),
            reason: String::new(),
        },
        _ => Request::Disconnect {
            to: None,
            reason: String::new(),
        },
    });
    prop_oneof![
        3 => Just(Act::Join),
        2 => Just(Act::Resume),
        8 => asked.prop_map(Act::Ask),
        1 => Just(Act::Lose),
        1 => Just(Act::Evict),
        2 => (1..40_u64).prop_map(Act::Wait),
    ]
}

proptest! {
    /// Whatever peers do in whatever order: places are bounded, each connection hears only what is
    /// for its peer and only while it is in the room, answers match offers one to one, and
    /// everybody's picture of who is there is right.
    #[test]
    fn the_room_keeps_its_promises(acts in prop::collection::vec((0..4_usize, act()), 1..120)) {
        let limits = RoomLimits { max_peers: 3, ..RoomLimits::default() };
        let mut world = World::new(limits);
        let mut next_connection = 0;
        let mut connection_of: BTreeMap<usize, u64> = BTreeMap::new();
        let mut token_of: BTreeMap<usize, ResumeToken> = BTreeMap::new();
        // What each peer believes about who is in the room, and offers that wait for an answer.
        let mut roster: BTreeMap<usize, BTreeSet<PeerId>> = BTreeMap::new();
        let mut offers: BTreeSet<(PeerId, PeerId, RequestId)> = BTreeSet::new();
        for (who, act) in acts {
            let mut from = None;
            match act {
                Act::Join | Act::Resume => {
                    let token = match act {
                        Act::Resume => token_of.get(&who).cloned(),
                        _ => None,
                    };
                    next_connection += 1;
                    if let Ok(joined) = world.join(next_connection, NAMES[who], token) {
                        connection_of.insert(who, next_connection);
                        token_of.insert(who, joined.resume);
                        if !joined.resumed {
                            // A resumed peer hears what it missed: what it knew stays good.
                            let others = joined.peers.into_iter().map(|info| info.peer_id);
                            roster.insert(who, others.collect());
                        }
                    }
                }
                Act::Ask(request) => if let Some(&connection) = connection_of.get(&who) {
                    from = Some(NAMES[who]);
                    let leaves = matches!(request, Request::Disconnect { to: None, .. });
                    let outcome = world.ask(connection, request);
                    if leaves && outcome.is_ok() {
                        connection_of.remove(&who);
                    }
                },
                Act::Lose => if let Some(connection) = connection_of.remove(&who) {
                    world.room.connection_lost(world.now, ConnectionId(connection));
                },
                Act::Evict => if let Some(connection) = connection_of.remove(&who) {
                    world.room.evict(ConnectionId(connection));
                },
                Act::Wait(seconds) => world.pass(Duration::from_secs(seconds)),
            }
            prop_assert!(world.room.len() <= 3);
            for output in world.outputs() {
                let Output::Send { to, message } = output else { continue };
                let target = connection_of.iter().find(|(_, connection)| **connection == to.0);
                let (target, _) = target.expect("only connections in the room are sent to");
                let seen = roster.get_mut(target).expect("joined before it hears");
                let target = peer(NAMES[*target]);
                match message {
                    Notification::PeerAnnounced(info) => {
                        prop_assert!(seen.insert(info.peer_id), "announced once");
                    }
                    Notification::PeerLeft { peer_id, .. } => {
                        prop_assert!(seen.remove(&peer_id), "left once");
                    }
                    Notification::Offer { from: offerer, request_id, .. } => {
                        prop_assert_ne!(&offerer, &target);
                        offers.insert((offerer, target, request_id));
                    }
                    Notification::Answer { from: answerer, request_id, .. } => {
                        let offer = (target, answerer, request_id);
                        prop_assert!(offers.remove(&offer), "answers an offer that was relayed, once");
                    }
                    Notification::Candidate { from: sender, .. } if from.is_some() => {
                        prop_assert_eq!(Some(sender.as_str()), from);
                    }
                    _ => {}
                }
            }
            let there: BTreeSet<_> = world.room.peers().map(|info| info.peer_id.clone()).collect();
            for who in connection_of.keys() {
                let mut seen = roster[who].clone();
                seen.insert(peer(NAMES[*who]));
                prop_assert_eq!(&seen, &there, "{} sees who is there", NAMES[*who]);
            }
        }
        world.pass(3600 * SECOND);
        prop_assert_eq!(world.room.len(), connection_of.len());
        prop_assert_eq!(world.room.poll_timeout(), None, "nothing is left to expire");
    }
}
