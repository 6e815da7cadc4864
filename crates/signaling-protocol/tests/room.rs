//! The room under a virtual clock: what its peers are told, and what must hold whatever they do.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{
    SECOND, announce, answer, answer_of, candidate, id, leave, left, offer, offer_of, peer, quic,
};
use proptest::prelude::*;
use roundtable_core::{PeerId, RoomId, Timestamp, WallTime};
use roundtable_signaling_protocol::{
    CloseReason, ConnectionId, Description, ErrorCode, Joined, LeaveReason, Notification, Output,
    Reply, Request, RequestId, ResumeToken, Room, RoomLimits, RpcError,
};

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
        self.tokens += 1;
        let token = ResumeToken::from_random([self.tokens; 16]);
        self.room.announce(
            WallTime::from_millis(0),
            ConnectionId(connection),
            announce(name, resume),
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
    world.ask(1, offer_of(quic(), "bob", "quic")).unwrap();
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
    let wrong_kind = answer_of(quic(), "bob", "o");
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
    assert_eq!(world.messages(), [(1, left("bob", LeaveReason::Lost))]);
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
fn what_waits_for_a_lost_peer_is_bounded_and_whoever_sends_more_is_told() {
    let mut world = World::new(RoomLimits::default());
    let bob = world.join(2, "bob", None).unwrap();
    world.join(1, "alice", None).unwrap();
    world.join(3, "carol", None).unwrap();
    world.outputs();
    world.room.connection_lost(world.now, ConnectionId(2));
    // One peer takes no more than half of the place.
    for n in 0..32 {
        world.ask(1, offer("bob", &format!("o{n}"))).unwrap();
    }
    let one_too_many = world.ask(1, offer("bob", "one-too-many"));
    assert_eq!(one_too_many, Err(ErrorCode::Unavailable));
    // It did not happen: there is nothing to be answered, or to expire, but what waits.
    assert_eq!(
        world.ask(1, candidate("bob", "one-too-many")),
        Err(ErrorCode::OfferExpired)
    );
    for n in 0..32 {
        world.ask(3, offer("bob", &format!("c{n}"))).unwrap();
    }
    assert_eq!(
        world.ask(3, offer("bob", "one-too-many")),
        Err(ErrorCode::Unavailable)
    );
    assert_eq!(world.outputs(), []);
    assert!(world.join(4, "bob", Some(bob.resume)).unwrap().resumed);
    assert_eq!(world.messages().len(), 64);
}

#[test]
fn the_bytes_that_wait_for_a_lost_peer_are_bounded_too() {
    let mut world = World::with(&["alice", "bob"]);
    world.room.connection_lost(world.now, ConnectionId(2));
    let large = || long_sdp(30 * 1024);
    world.ask(1, offer_of(large(), "bob", "first")).unwrap();
    world.ask(1, offer_of(large(), "bob", "second")).unwrap();
    assert_eq!(
        world.ask(1, offer_of(large(), "bob", "third")),
        Err(ErrorCode::Unavailable)
    );
    world.ask(1, offer("bob", "small")).unwrap();
}

#[test]
fn the_bound_of_what_waits_can_be_lowered_for_what_is_still_to_come() {
    let mut world = World::with(&["alice", "bob"]);
    world.room.connection_lost(world.now, ConnectionId(2));
    assert_eq!(world.room.held_bytes(), 0);
    let large = || long_sdp(10 * 1024);
    world.ask(1, offer_of(large(), "bob", "first")).unwrap();
    let held = world.room.held_bytes();
    assert!((10 * 1024..11 * 1024).contains(&held), "{held}");
    world.room.set_max_held_bytes(20 * 1024);
    let refused = world.ask(1, offer_of(large(), "bob", "second"));
    assert_eq!(refused, Err(ErrorCode::Unavailable));
    assert_eq!(world.room.held_bytes(), held);
}

fn long_sdp(len: usize) -> Description {
    Description::WebRtc {
        sdp: "x".repeat(len),
    }
}

#[test]
fn a_lost_peer_hears_of_who_is_there_and_cannot_be_driven_out_by_coming_and_going() {
    let mut world = World::new(RoomLimits::default());
    world.join(1, "alice", None).unwrap();
    world.join(2, "carol", None).unwrap();
    let bob = world.join(3, "bob", None).unwrap();
    world.outputs();
    world.room.connection_lost(world.now, ConnectionId(3));
    world.ask(1, offer("bob", "of-one-who-leaves")).unwrap();
    world.ask(2, offer("bob", "stays")).unwrap();
    world.ask(1, leave()).unwrap();
    for connection in 10..100 {
        world.join(connection, "alice", None).unwrap();
        let visitor = 1000 + connection;
        world.join(visitor, "visitor", None).unwrap();
        world.ask(visitor, leave()).unwrap();
        if connection < 99 {
            world.ask(connection, leave()).unwrap();
        }
    }
    world.outputs();
    let bob = world.join(4, "bob", Some(bob.resume)).unwrap();
    assert!(bob.resumed);
    let heard: Vec<_> = world.messages().into_iter().map(|(_, m)| m).collect();
    assert!(
        matches!(&heard[..], [
            Notification::Offer { request_id, .. },
            Notification::PeerLeft { peer_id, .. },
            Notification::PeerAnnounced(info),
        ] if *request_id == id("stays") && *peer_id == peer("alice") && info.peer_id == peer("alice")),
        "{heard:?}"
    );
}

#[test]
fn a_token_counts_until_the_next_one_is_used_since_the_answer_may_be_lost() {
    let mut world = World::new(RoomLimits::default());
    let first = world.join(1, "alice", None).unwrap().resume;
    let lost = world.join(2, "alice", Some(first.clone())).unwrap().resume;
    let second = world.join(3, "alice", Some(first.clone())).unwrap();
    assert!(second.resumed);
    let taken = Some(ErrorCode::PeerIdTaken);
    let code = |joined: Result<Joined, RpcError>| joined.err().map(|error| error.code);
    assert_eq!(code(world.join(4, "alice", Some(lost))), taken);
    let third = world.join(5, "alice", Some(second.resume)).unwrap();
    assert_eq!(code(world.join(6, "alice", Some(first))), taken);
    // A token that opened nothing opens nothing later.
    world.ask(5, leave()).unwrap();
    let anew = world.join(7, "alice", Some(third.resume.clone())).unwrap();
    assert!(!anew.resumed);
    assert_eq!(code(world.join(8, "alice", Some(third.resume))), taken);
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
        _ => leave(),
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
