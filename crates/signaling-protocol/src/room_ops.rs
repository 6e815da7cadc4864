//! Body of the fuzz target `room_ops`: two rooms get whatever a list of operations says, and a model of each, which is
//! written to be obvious rather than fast, says what must come of it: who is let in, who hears what and in which order,
//! what is refused and with which code.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use roundtable_core::{PeerId, RoomId, Timestamp, WallTime};

use crate::{
    Announce, Capabilities, Capability, CloseReason, ConnectionId, Description, ErrorCode,
    IceCandidate, Kind, LeaveReason, Notification, Output, PeerInfo, Reply, Request, RequestId,
    ResumeToken, Room, RoomLimits,
};

/// More names than a room takes.
const NAMES: u8 = 5;
const MAX_PEERS: usize = 3;
/// Few enough that lists of operations exceed them.
const MAX_HELD: usize = 6;
const MAX_HELD_BYTES: usize = 1024;
const TTL: Duration = Duration::from_secs(30);

/// A peer, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name(u8);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(u.int_in_range(0..=NAMES - 1)?))
    }
}

impl Name {
    #[allow(clippy::expect_used)] // a digit is a valid name
    fn id(self) -> PeerId {
        PeerId::new(&format!("p{}", self.0)).expect("a valid name")
    }
}

/// Which token an announce shows.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Shown {
    Nothing,
    Latest,
    /// The one before.
    Used,
    /// That of the same name in the other room.
    Foreign,
}

/// What a peer asks for.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Ask {
    Offer(bool),
    Answer(bool),
    Candidate,
    Disconnect,
    Leave,
    Ping,
    AnnounceAgain,
}

/// What happens to a room.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    Join(Name, Shown),
    /// From whom, to whom, and which of four request ids.
    Ask(Name, Name, u8, Ask),
    /// The same, over the connection that the peer had before.
    AskStale(Name, Name),
    Lose(Name),
    LoseStale(Name),
    Evict(Name),
    Expire(Name),
    Wait(u8),
}

/// A room and its model.
struct Pair {
    room: Room,
    model: Model,
}

/// Runs the operations that `data` says, each on one of two rooms.
#[allow(unreachable_pub)] // reached with the feature
pub fn __fuzz_room_ops(data: &[u8]) {
    let mut rooms = ["red", "blue"].map(Pair::new);
    let mut data = Unstructured::new(data);
    let mut now = Timestamp::ZERO;
    let mut serial = 0;
    while let (false, Ok((second, op))) = (data.is_empty(), <(bool, Op)>::arbitrary(&mut data)) {
        serial += 1;
        if let Op::Wait(seconds) = op {
            now = now + Duration::from_secs(seconds.into());
            rooms.iter_mut().for_each(|pair| pair.pass(now));
        } else {
            let foreign = rooms[usize::from(!second)].model.tokens.clone();
            rooms[usize::from(second)].apply(now, serial, op, &foreign);
        }
        rooms.iter_mut().for_each(|pair| pair.check(now));
    }
    // Whatever has come, it ends in quiet.
    now = now + TTL;
    for pair in &mut rooms {
        pair.pass(now);
        pair.check(now);
        let connected = pair
            .model
            .places
            .values()
            .all(|place| place.connection.is_some());
        assert!(connected, "who is lost is gone in time");
        assert_eq!(pair.room.poll_timeout(), None);
    }
}

impl Pair {
    #[allow(clippy::expect_used)] // both are constant
    fn new(name: &str) -> Self {
        let limits = RoomLimits {
            max_peers: MAX_PEERS,
            offer_ttl: TTL,
            resume_ttl: TTL,
            max_held_messages: MAX_HELD,
            max_held_bytes: MAX_HELD_BYTES,
        };
        let room = Room::new(RoomId::new(name).expect("a valid name"), limits);
        let model = Model::default();
        Self { room, model }
    }

    fn pass(&mut self, now: Timestamp) {
        self.room.handle_timeout(now);
        self.model.pass(now);
    }

    fn apply(&mut self, now: Timestamp, serial: u64, op: Op, foreign: &Tokens) {
        match op {
            Op::Join(name, shown) => self.join(serial, name, shown, foreign),
            Op::Ask(from, to, id, ask) => {
                if let Some(connection) = self.model.connection(from) {
                    let request = request(&self.model.announce(from, None), to, id, ask);
                    let outcome = self.room.handle(now, connection, request);
                    let outcome = outcome.map_err(|error| error.code);
                    assert_eq!(
                        outcome,
                        self.model.ask(now, from, to, id % 4, ask),
                        "{op:?}"
                    );
                }
            }
            Op::AskStale(from, to) => {
                if let Some(stale) = self.model.stale.get(&from) {
                    let request = request(&self.model.announce(from, None), to, 0, Ask::Candidate);
                    let outcome = self.room.handle(now, *stale, request);
                    let code = outcome.map_err(|error| error.code);
                    assert_eq!(code, Err(ErrorCode::NotAnnounced));
                }
            }
            Op::Lose(name) => {
                if let Some(connection) = self.model.connection(name) {
                    self.room.connection_lost(now, connection);
                    self.model.lose(now, name);
                }
            }
            Op::LoseStale(name) => {
                if let Some(stale) = self.model.stale.get(&name) {
                    self.room.connection_lost(now, *stale);
                }
            }
            Op::Evict(name) => {
                if let Some(connection) = self.model.connection(name) {
                    self.room.evict(connection);
                    self.model.remove(name, LeaveReason::Evicted);
                    let reason = CloseReason::SlowConsumer;
                    self.model
                        .outputs
                        .push(Output::Close { connection, reason });
                }
            }
            Op::Expire(name) => {
                if let Some(connection) = self.model.connection(name) {
                    self.room.expire(connection);
                    self.model.remove(name, LeaveReason::Expired);
                }
            }
            Op::Wait(_) => {}
        }
    }

    fn join(&mut self, serial: u64, name: Name, shown: Shown, foreign: &Tokens) {
        let token = |tokens: &Tokens, which: usize| tokens.get(&name)?.get(which).cloned();
        let shown = match shown {
            Shown::Nothing => None,
            Shown::Latest => token(&self.model.tokens, 0),
            Shown::Used => token(&self.model.tokens, 1),
            Shown::Foreign => token(foreign, 0),
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&serial.to_le_bytes());
        let fresh = ResumeToken::from_random(bytes);
        let connection = ConnectionId(serial);
        let announce = self.model.announce(name, shown.clone());
        let wall = WallTime::from_millis(0);
        let outcome = self
            .room
            .announce(wall, connection, announce, fresh.clone());
        let expected = self.model.join(connection, name, shown.as_ref(), &fresh);
        match (outcome, expected) {
            (Ok(joined), Ok(resumed)) => {
                assert_eq!((joined.resumed, joined.resume), (resumed, fresh));
                let others = self.model.places.keys().filter(|other| **other != name);
                let others: Vec<_> = others.map(|other| other.id()).collect();
                let listed: Vec<_> = joined.peers.into_iter().map(|peer| peer.peer_id).collect();
                assert_eq!(listed, others);
            }
            (Err(error), Err(code)) => assert_eq!(error.code, code),
            (outcome, expected) => panic!("{outcome:?} where {expected:?} was due"),
        }
    }

    fn check(&mut self, now: Timestamp) {
        let outputs: Vec<_> = std::iter::from_fn(|| self.room.poll_output()).collect();
        assert_eq!(outputs, std::mem::take(&mut self.model.outputs));
        assert!(self.room.len() <= MAX_PEERS);
        let there: Vec<_> = self.room.peers().map(|peer| peer.peer_id.clone()).collect();
        let expected: Vec<_> = self.model.places.keys().map(|name| name.id()).collect();
        assert_eq!(there, expected);
        let in_time = self.room.poll_timeout().is_none_or(|due| due > now);
        assert!(in_time, "what was due is done");
    }
}

fn request(announce: &Announce, to: Name, id: u8, ask: Ask) -> Request {
    let (to, request_id) = (to.id(), request_id(id % 4));
    match ask {
        Ask::Offer(quic) => Request::Offer {
            to,
            request_id,
            body: description(quic),
        },
        Ask::Answer(quic) => Request::Answer {
            to,
            request_id,
            body: description(quic),
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
        Ask::Leave => Request::Disconnect {
            to: None,
            reason: String::new(),
        },
        Ask::Ping => Request::Ping,
        Ask::AnnounceAgain => Request::Announce(Box::new(announce.clone())),
    }
}

fn request_id(id: u8) -> RequestId {
    RequestId::from_random([id; 16])
}

#[allow(clippy::expect_used)] // it is constant
fn description(quic: bool) -> Description {
    match quic {
        true => Description::Quic {
            author_key: "ab".repeat(32).parse().expect("64 digits"),
            addresses: Vec::new(),
        },
        false => Description::WebRtc { sdp: "v=0".into() },
    }
}

/// The two latest tokens of each name, the newest first.
type Tokens = BTreeMap<Name, Vec<ResumeToken>>;

/// What a room must be like.
#[derive(Default)]
struct Model {
    places: BTreeMap<Name, Place>,
    /// By offerer, target and kind.
    offers: BTreeMap<(Name, Name, Kind), Offer>,
    tokens: Tokens,
    /// Connections that were in the room.
    stale: BTreeMap<Name, ConnectionId>,
    outputs: Vec<Output>,
}

struct Place {
    /// `None` while the socket is lost.
    connection: Option<ConnectionId>,
    /// The token that was shown for the latest, which counts until the latest is used.
    shown: Option<ResumeToken>,
    until: Timestamp,
    held: Vec<Notification>,
}

struct Offer {
    id: u8,
    expires: Timestamp,
    answered: bool,
}

impl Model {
    fn connection(&self, name: Name) -> Option<ConnectionId> {
        self.places.get(&name)?.connection
    }

    #[allow(clippy::expect_used)] // it is constant
    fn announce(&self, name: Name, resume: Option<ResumeToken>) -> Announce {
        Announce {
            protocol: 1,
            room: RoomId::new("red").expect("a valid name"),
            peer_id: name.id(),
            capabilities: Capabilities::from([Capability::Data]),
            token: None,
            resume,
            user_data: serde_json::Value::Null,
        }
    }

    /// Whether a place is taken again, or why there is none.
    fn join(
        &mut self,
        connection: ConnectionId,
        name: Name,
        shown: Option<&ResumeToken>,
        fresh: &ResumeToken,
    ) -> Result<bool, ErrorCode> {
        let latest = self.tokens.get(&name).and_then(|tokens| tokens.first());
        let before = self.places.get(&name).and_then(|p| p.shown.as_ref());
        let fits = shown.is_some() && (shown == latest || shown == before);
        let is_full = self.places.len() == MAX_PEERS;
        let resumed = match self.places.get_mut(&name) {
            Some(_) if !fits => return Err(ErrorCode::PeerIdTaken),
            Some(place) => {
                place.shown = shown.cloned();
                if let Some(old) = place.connection.replace(connection) {
                    let reason = CloseReason::Replaced;
                    self.outputs.push(Output::Close {
                        connection: old,
                        reason,
                    });
                    self.stale.insert(name, old);
                }
                let held = std::mem::take(&mut place.held);
                let held = held.into_iter().map(|message| Output::Send {
                    to: connection,
                    message,
                });
                self.outputs.extend(held);
                true
            }
            None if is_full => return Err(ErrorCode::RoomFull),
            None => {
                let info = PeerInfo {
                    peer_id: name.id(),
                    capabilities: Capabilities::from([Capability::Data]),
                    user_data: serde_json::Value::Null,
                };
                self.tell_all(&Notification::PeerAnnounced(info));
                let until = Timestamp::ZERO;
                let place = Place {
                    connection: Some(connection),
                    shown: None,
                    until,
                    held: Vec::new(),
                };
                self.places.insert(name, place);
                false
            }
        };
        let tokens = self.tokens.entry(name).or_default();
        tokens.insert(0, fresh.clone());
        tokens.truncate(2);
        Ok(resumed)
    }

    fn ask(
        &mut self,
        now: Timestamp,
        from: Name,
        to: Name,
        id: u8,
        ask: Ask,
    ) -> Result<Reply, ErrorCode> {
        let is_there = self.places.contains_key(&to);
        let (sender, request_id) = (from.id(), request_id(id));
        let message = Self::message(sender, request_id, ask);
        match ask {
            Ask::Ping | Ask::AnnounceAgain => return Err(ErrorCode::InvalidRequest),
            Ask::Leave => {
                self.remove(from, LeaveReason::Left);
                return Ok(Reply::Left);
            }
            _ if !is_there => return Err(ErrorCode::PeerNotFound),
            Ask::Offer(_) | Ask::Disconnect if from == to => return Err(ErrorCode::PeerNotFound),
            Ask::Offer(quic) => {
                if self.serves(now, from, to, id) {
                    return Err(ErrorCode::OfferInvalid);
                }
                self.check_place(to, &message)?;
                self.note_offer(now, from, to, id, description(quic).kind());
            }
            Ask::Answer(quic) => {
                let kind = description(quic).kind();
                let offer = self.offers.get(&(to, from, kind));
                let waits =
                    |offer: &Offer| offer.id == id && !offer.answered && now < offer.expires;
                if !offer.is_some_and(waits) {
                    return Err(ErrorCode::OfferExpired);
                }
                self.check_place(to, &message)?;
                let offer = self.offers.get_mut(&(to, from, kind));
                offer.into_iter().for_each(|offer| offer.answered = true);
                self.offers.remove(&(from, to, kind));
            }
            Ask::Candidate => {
                if !self.serves(now, from, to, id) && !self.serves(now, to, from, id) {
                    return Err(ErrorCode::OfferExpired);
                }
                self.check_place(to, &message)?;
            }
            Ask::Disconnect => {
                let pair = BTreeSet::from([from, to]);
                self.offers
                    .retain(|(a, b, _), _| BTreeSet::from([*a, *b]) != pair);
            }
        }
        self.tell(to, message);
        Ok(Reply::Forwarded)
    }

    /// What a request makes its target hear; nothing matters for those that have none.
    fn message(from: PeerId, request_id: RequestId, ask: Ask) -> Notification {
        match ask {
            Ask::Offer(quic) => Notification::Offer {
                from,
                request_id,
                body: description(quic),
            },
            Ask::Answer(quic) => Notification::Answer {
                from,
                request_id,
                body: description(quic),
            },
            Ask::Candidate => Notification::Candidate {
                from,
                request_id,
                candidate: IceCandidate::default(),
            },
            Ask::Disconnect | Ask::Leave | Ask::Ping | Ask::AnnounceAgain => {
                Notification::Disconnected {
                    peer_id: from,
                    reason: String::new(),
                }
            }
        }
    }

    /// An offer begins the pair's next negotiation of its kind, unless one that crosses it still waits.
    fn note_offer(&mut self, now: Timestamp, from: Name, to: Name, id: u8, kind: Kind) {
        let reverse = self.offers.get(&(to, from, kind));
        if reverse.is_some_and(|offer| offer.answered) {
            self.offers.remove(&(to, from, kind));
        }
        let offer = Offer {
            id,
            expires: now + TTL,
            answered: false,
        };
        self.offers.insert((from, to, kind), offer);
    }

    /// Whether an offer of this id, answered or still to be, goes from one to the other.
    fn serves(&self, now: Timestamp, from: Name, to: Name, id: u8) -> bool {
        let mut offers = self
            .offers
            .iter()
            .filter(|((a, b, _), _)| (*a, *b) == (from, to));
        offers.any(|(_, offer)| offer.id == id && (offer.answered || now < offer.expires))
    }

    fn lose(&mut self, now: Timestamp, name: Name) {
        if let Some(place) = self.places.get_mut(&name) {
            self.stale
                .extend(place.connection.take().map(|old| (name, old)));
            place.until = now + TTL;
        }
    }

    fn pass(&mut self, now: Timestamp) {
        let over = |offer: &Offer| !offer.answered && offer.expires <= now;
        let over: Vec<_> = self.offers.extract_if(.., |_, offer| over(offer)).collect();
        for ((from, to, _), offer) in over {
            let (to, request_id) = (to.id(), request_id(offer.id));
            self.tell(from, Notification::OfferExpired { to, request_id });
        }
        let is_gone = |place: &Place| place.connection.is_none() && place.until <= now;
        let gone: Vec<_> = self
            .places
            .iter()
            .filter(|(_, place)| is_gone(place))
            .map(|(name, _)| *name)
            .collect();
        for name in gone {
            self.remove(name, LeaveReason::Lost);
        }
    }

    fn remove(&mut self, name: Name, reason: LeaveReason) {
        let Some(place) = self.places.remove(&name) else {
            return;
        };
        self.stale.extend(place.connection.map(|old| (name, old)));
        self.offers
            .retain(|(from, to, _), _| *from != name && *to != name);
        let peer_id = name.id();
        self.tell_all(&Notification::PeerLeft { peer_id, reason });
    }

    fn tell_all(&mut self, message: &Notification) {
        let everyone: Vec<_> = self.places.keys().copied().collect();
        for name in everyone {
            self.tell(name, message.clone());
        }
    }

    fn tell(&mut self, name: Name, message: Notification) {
        let Some(place) = self.places.get_mut(&name) else {
            return;
        };
        if let Some(to) = place.connection {
            self.outputs.push(Output::Send { to, message });
            return;
        }
        let held = &mut place.held;
        match &message {
            Notification::Disconnected { .. } => {
                // It ends what the sender sent before.
                let who = sender(&message);
                held.retain(|m| !(is_signal(m) || is_goodbye(m)) || sender(m) != who);
            }
            Notification::PeerLeft { peer_id, .. } => {
                // Nothing of it matters any more; who was never seen has not left.
                let first = held.iter().find_map(|m| news_of(m, peer_id));
                held.retain(|m| sender(m) != Some(peer_id));
                if first == Some(true) {
                    return;
                }
            }
            _ => {}
        }
        held.push(message);
    }

    /// No more than so much waits for a lost peer, and half of it from one other.
    fn check_place(&self, to: Name, signal: &Notification) -> Result<(), ErrorCode> {
        let Some(place) = self.places.get(&to).filter(|p| p.connection.is_none()) else {
            return Ok(());
        };
        let mut signals: Vec<_> = place.held.iter().filter(|m| is_signal(m)).collect();
        signals.push(signal);
        let own = signals.iter().filter(|m| sender(m) == sender(signal));
        let own: Vec<_> = own.copied().collect();
        let bytes = |all: &[&Notification]| all.iter().map(|m| m.encode().len()).sum::<usize>();
        let fits = signals.len() <= MAX_HELD
            && bytes(&signals) <= MAX_HELD_BYTES
            && own.len() <= MAX_HELD / 2
            && bytes(&own) <= MAX_HELD_BYTES / 2;
        fits.then_some(()).ok_or(ErrorCode::Unavailable)
    }
}

/// Whether a message is one that a peer may send as often as it likes.
fn is_signal(message: &Notification) -> bool {
    use Notification::{Answer, Candidate, Offer};
    matches!(message, Offer { .. } | Answer { .. } | Candidate { .. })
}

fn is_goodbye(message: &Notification) -> bool {
    matches!(message, Notification::Disconnected { .. })
}

/// Whether a message says that the peer came, or that it left.
fn news_of(message: &Notification, peer: &PeerId) -> Option<bool> {
    match message {
        Notification::PeerAnnounced(info) => (info.peer_id == *peer).then_some(true),
        Notification::PeerLeft { peer_id, .. } => (peer_id == peer).then_some(false),
        _ => None,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::__fuzz_room_ops;

    proptest! {
        #[test]
        fn a_room_does_what_its_model_says(data in prop::collection::vec(any::<u8>(), 0..2000)) {
            __fuzz_room_ops(&data);
        }
    }
}
