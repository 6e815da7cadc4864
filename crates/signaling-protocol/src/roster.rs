//! What the servers of a cluster share of a room: who has a seat, and on which server. Each room's
//! roster is one record, changed by compare-and-set.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use roundtable_core::{IdError, PeerId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Announce, LeaveReason, PeerInfo, ResumeToken, text};

/// Most departures that a roster remembers; older ones are forgotten first.
const MAX_DEPARTURES: usize = 64;

/// Names a server of a cluster. Made anew at each start, so that a server that comes back is not
/// taken for the one that held the seats.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(#[serde(with = "text")] NodeName);

/// Node ids share the grammar of peer ids.
type NodeName = PeerId;

impl NodeId {
    /// Checks `text` against `^[A-Za-z0-9_-]{1,64}$`.
    ///
    /// # Errors
    /// [`IdError`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, IdError> {
        NodeName::new(text).map(Self)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first 128 bits of a resume token's SHA-256: whoever reads it cannot resume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of a token.
    pub fn of(token: &ResumeToken) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(token.as_bytes());
        Self(std::array::from_fn(|i| digest[i]))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let number = u128::from_str_radix(&text, 16).map_err(D::Error::custom)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// What takes a seat over: the latest resume token, or the one that was shown for it, since the answer
/// that brought the latest may have been lost. Whoever shows the latest ends the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatKey {
    #[serde(rename = "resume")]
    latest: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Fingerprint>,
}

impl SeatKey {
    /// The key of who gets `resume` for this announce.
    pub(crate) fn new(announce: &Announce, resume: &ResumeToken) -> Self {
        Self {
            latest: Fingerprint::of(resume),
            previous: announce.resume.as_ref().map(Fingerprint::of),
        }
    }

    /// The key of a seat that nobody has taken over yet.
    pub(crate) fn first(resume: Fingerprint) -> Self {
        Self {
            latest: resume,
            previous: None,
        }
    }

    /// Whether the announce shows a token that takes the seat over.
    pub(crate) fn fits(&self, announce: &Announce) -> bool {
        let shown = announce.resume.as_ref().map(Fingerprint::of);
        shown.is_some_and(|shown| shown == self.latest || Some(shown) == self.previous)
    }
}

/// A peer's place in the room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seat {
    /// Who.
    #[serde(flatten)]
    pub info: PeerInfo,
    /// Tells this seat from a later one of the same name: the fingerprint of its first resume token.
    pub seat: Fingerprint,
    /// The server that the peer is connected to, or was last.
    pub node: NodeId,
    /// What takes the seat over.
    #[serde(flatten)]
    pub key: SeatKey,
}

/// A seat that was given up, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departure {
    #[serde(with = "text")]
    pub(crate) peer_id: PeerId,
    pub(crate) seat: Fingerprint,
    pub(crate) reason: LeaveReason,
}

/// Who has a seat in a room, on all servers of a cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Record", into = "Record")]
pub struct Roster {
    pub(crate) seats: BTreeMap<PeerId, Seat>,
    /// Lets a server tell a seat that was given up from one whose record was lost.
    pub(crate) departures: VecDeque<Departure>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    seats: Vec<Seat>,
    #[serde(default)]
    departures: VecDeque<Departure>,
}

impl From<Record> for Roster {
    fn from(Record { seats, departures }: Record) -> Self {
        let seats = seats.into_iter();
        Self {
            seats: seats.map(|s| (s.info.peer_id.clone(), s)).collect(),
            departures,
        }
    }
}

impl From<Roster> for Record {
    fn from(Roster { seats, departures }: Roster) -> Self {
        Self {
            seats: seats.into_values().collect(),
            departures,
        }
    }
}

impl Roster {
    /// How many seats are taken.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether no seat is taken.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Every seat, by the peer's name.
    pub fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.values()
    }

    pub(crate) fn remove(&mut self, peer: &PeerId, reason: LeaveReason) {
        if let Some(seat) = self.seats.remove(peer) {
            self.departures.push_back(Departure {
                peer_id: peer.clone(),
                seat: seat.seat,
                reason,
            });
            if self.departures.len() > MAX_DEPARTURES {
                self.departures.pop_front();
            }
        }
    }

    /// Why a seat was given up, if it was and that is not long ago.
    pub(crate) fn departure(&self, peer: &PeerId, seat: Fingerprint) -> Option<LeaveReason> {
        let departure = |d: &&Departure| d.seat == seat && d.peer_id == *peer;
        self.departures.iter().find(departure).map(|d| d.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_survives_its_record_and_forgets_the_oldest_departures() {
        let mut roster = Roster::default();
        let token = |n: u8| ResumeToken::from_random([n; 16]);
        for n in 0..100 {
            let peer_id = PeerId::new(&format!("p{n}")).unwrap();
            let fingerprint = Fingerprint::of(&token(n));
            let seat = Seat {
                info: PeerInfo {
                    peer_id: peer_id.clone(),
                    capabilities: crate::Capabilities::default(),
                    user_data: serde_json::json!({ "name": n }),
                },
                seat: fingerprint,
                node: NodeId::new("n1").unwrap(),
                key: SeatKey {
                    latest: fingerprint,
                    previous: (n % 3 == 0).then_some(fingerprint),
                },
            };
            roster.seats.insert(peer_id.clone(), seat);
            if n % 2 == 0 {
                roster.remove(&peer_id, LeaveReason::Left);
            }
        }
        for n in 100..200_u8 {
            let peer_id = PeerId::new(&format!("p{}", n - 99)).unwrap();
            roster.remove(&peer_id, LeaveReason::Lost);
        }
        assert_eq!(roster.departures.len(), MAX_DEPARTURES);
        let (last, first) = (PeerId::new("p99").unwrap(), PeerId::new("p0").unwrap());
        let why = |peer, n| roster.departure(peer, Fingerprint::of(&token(n)));
        assert_eq!(why(&last, 99), Some(LeaveReason::Lost));
        assert_eq!((why(&last, 98), why(&first, 0)), (None, None));
        let record = serde_json::to_string(&roster).unwrap();
        assert_eq!(serde_json::from_str::<Roster>(&record).unwrap(), roster);
    }
}
