//! In which order command frames are judged, and how many that turn out to be of no use.
//!
//! To verify a signature costs far more than to send one. So each peer has a share of verifications that bring
//! nothing into the log; while it is spent, that peer's frames wait. Frames that wait are taken in turn: peer by peer,
//! and of each peer author by author. So what one author floods the room with delays another's frame by one round at
//! most.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use roundtable_command_log::UnverifiedFrame;
use roundtable_core::{AuthorId, Timestamp};

use crate::event::LinkId;

/// How long a frame waits for others, so that their signatures are verified together.
const PATIENCE: Duration = Duration::from_millis(1);
/// How many frames, and bytes of frames, are judged in one round: about 2 ms.
const ROUND_FRAMES: usize = 256;
const ROUND_BYTES: usize = 512 * 1024;
/// How many frames, and bytes of frames, of one peer wait. When there are more, a round begins, if the
/// peer may have one; else the author with the most of them loses its last.
const MAX_FRAMES: usize = 256;
const MAX_BYTES: usize = 512 * 1024;
/// A peer has 1,000 verifications a second that bring nothing, and 2,000 at once.
const UNUSED_EACH: Duration = Duration::from_millis(1);
const UNUSED_BURST: Duration = Duration::from_secs(2);
/// A peer has 1,000 frames a second judged as they come, and 64 at once; further ones wait for others.
const LIVE_EACH: Duration = Duration::from_millis(1);
const LIVE_BURST: Duration = Duration::from_millis(64);

/// A frame and the link that it came on.
pub(crate) type Arrival = (LinkId, UnverifiedFrame);

/// Frames that wait to be judged, by the key of the peer that sent them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: BTreeMap<AuthorId, Lane>,
    /// Whose turn was last.
    last: Option<AuthorId>,
}

/// One peer's frames.
#[derive(Debug, Default)]
struct Lane {
    authors: BTreeMap<AuthorId, VecDeque<Arrival>>,
    /// Whose turn was last.
    last: Option<AuthorId>,
    frames: usize,
    bytes: usize,
    /// Since when any has waited.
    since: Timestamp,
    unused: Pace,
    live: Pace,
}

/// How much of a steady allowance is spent: until when it would take to earn that again.
#[derive(Debug, Default, Clone, Copy)]
struct Pace(Timestamp);

impl Pace {
    fn spend(&mut self, now: Timestamp, cost: Duration) {
        self.0 = self.0.max(now) + cost;
    }

    /// When there is something of a burst left.
    fn ready_at(self, burst: Duration) -> Timestamp {
        let burst = u64::try_from(burst.as_micros()).unwrap_or(u64::MAX);
        Timestamp::from_micros(self.0.as_micros().saturating_sub(burst))
    }
}

/// What became of a frame that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Waits,
    /// It waits, and it is time for a round.
    Full,
    /// It, or another of the same peer, was dropped: too many came that brought nothing.
    Dropped,
}

impl Queue {
    /// Whether a peer's frame may be judged at once, as it comes: nothing of that peer waits, and it has not had more
    /// than its share of that.
    pub(crate) fn may_pass(&mut self, now: Timestamp, peer: AuthorId) -> bool {
        let lane = self.lanes.entry(peer).or_default();
        let ready = lane
            .unused
            .ready_at(UNUSED_BURST)
            .max(lane.live.ready_at(LIVE_BURST));
        let passes = lane.frames == 0 && ready <= now;
        if passes {
            lane.live.spend(now, LIVE_EACH);
        }
        passes
    }

    /// Has a frame wait.
    pub(crate) fn push(&mut self, now: Timestamp, peer: AuthorId, arrival: Arrival) -> Pushed {
        let lane = self.lanes.entry(peer).or_default();
        if lane.frames == 0 {
            lane.since = now;
        }
        lane.frames += 1;
        lane.bytes += arrival.1.bytes().len();
        lane.authors
            .entry(arrival.1.author())
            .or_default()
            .push_back(arrival);
        if lane.frames < MAX_FRAMES && lane.bytes < MAX_BYTES {
            Pushed::Waits
        } else if lane.unused.ready_at(UNUSED_BURST) <= now {
            Pushed::Full
        } else {
            lane.drop_one();
            Pushed::Dropped
        }
    }

    /// A frame of this peer was verified and did not get into the log.
    pub(crate) fn unused(&mut self, now: Timestamp, peer: AuthorId) {
        let lane = self.lanes.entry(peer).or_default();
        lane.unused.spend(now, UNUSED_EACH);
    }

    /// Whether a peer's frames wait because its share of what brings nothing is spent.
    pub(crate) fn is_spent(&self, now: Timestamp, peer: AuthorId) -> bool {
        let lane = self.lanes.get(&peer);
        lane.is_some_and(|lane| lane.unused.ready_at(UNUSED_BURST) > now)
    }

    /// How many frames wait.
    pub(crate) fn len(&self) -> usize {
        self.lanes.values().map(|lane| lane.frames).sum()
    }

    /// When the next round is due; `None` while nothing waits.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let waiting = self.lanes.values().filter(|lane| lane.frames > 0);
        let due = |lane: &Lane| (lane.since + PATIENCE).max(lane.unused.ready_at(UNUSED_BURST));
        waiting.map(due).min()
    }

    /// Takes one round: in turn a frame of each peer that may have one, until there is enough or nothing left.
    pub(crate) fn round(&mut self, now: Timestamp) -> Vec<Arrival> {
        let mut round = Vec::new();
        let mut bytes = 0;
        while round.len() < ROUND_FRAMES && bytes < ROUND_BYTES {
            let may = |lane: &Lane| lane.frames > 0 && lane.unused.ready_at(UNUSED_BURST) <= now;
            let Some(peer) = next_after(&self.lanes, self.last, may) else {
                break;
            };
            self.last = Some(peer);
            let arrival = self.lanes.get_mut(&peer).and_then(Lane::take);
            let Some(arrival) = arrival else { break };
            bytes += arrival.1.bytes().len();
            round.push(arrival);
        }
        // One that has nothing here and has spent nothing is like one that never came.
        self.lanes
            .retain(|_, lane| lane.frames > 0 || lane.unused.0 > now || lane.live.0 > now);
        for lane in self.lanes.values_mut() {
            lane.since = lane.since.max(now);
        }
        round
    }

    /// Forgets all frames: another log has begun.
    pub(crate) fn clear(&mut self) {
        self.lanes.clear();
    }
}

impl Lane {
    /// Takes a frame of the next author.
    fn take(&mut self) -> Option<Arrival> {
        let author = next_after(&self.authors, self.last, |_| true)?;
        self.last = Some(author);
        let queue = self.authors.get_mut(&author)?;
        let arrival = queue.pop_front()?;
        self.took(author, &arrival);
        Some(arrival)
    }

    /// Drops the last frame of the author with the most of them.
    fn drop_one(&mut self) {
        let most = self.authors.iter_mut().max_by_key(|(_, queue)| queue.len());
        let Some((author, queue)) = most else { return };
        let author = *author;
        if let Some(arrival) = queue.pop_back() {
            self.took(author, &arrival);
        }
    }

    fn took(&mut self, author: AuthorId, (_, frame): &Arrival) {
        self.frames -= 1;
        self.bytes -= frame.bytes().len();
        if self.authors.get(&author).is_some_and(VecDeque::is_empty) {
            self.authors.remove(&author);
        }
    }
}

/// The key of the next wanted entry after the last one, round and round.
fn next_after<T>(
    map: &BTreeMap<AuthorId, T>,
    last: Option<AuthorId>,
    wanted: impl Fn(&T) -> bool,
) -> Option<AuthorId> {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    let mut entries = map.range((from, Bound::Unbounded)).chain(map.iter());
    entries
        .find(|(_, value)| wanted(value))
        .map(|(key, _)| *key)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use roundtable_command_log::{
        Action, CommandLog, Genesis, GenesisParams, Key, Role, Schema, Strategy,
    };
    use roundtable_core::WallTime;

    use super::*;

    const LINK: LinkId = LinkId(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn peer(number: u8) -> AuthorId {
        AuthorId::from_bytes([number; 32])
    }

    /// So many frames of one author.
    fn frames(author: u8, count: usize) -> Vec<Arrival> {
        let schema = Schema::builder(1, 0).key_type(1, "note", Strategy::LastWriteWins);
        let schema = schema.build().unwrap();
        let wall = WallTime::from_millis(1_700_000_000_000);
        let mut params = GenesisParams::new([1; 32], wall, schema.hash());
        (params.default_role, params.limits.burst) = (Role::Editor, 10_000);
        let genesis = Genesis::create(params, &SigningKey::from_bytes(&[9; 32])).unwrap();
        let key = SigningKey::from_bytes(&[author; 32]);
        let mut log = CommandLog::new(genesis.clone(), schema, Some(key)).unwrap();
        let sign = |_| {
            let frame = log
                .append(wall, &[Action::put(Key::new(1, "k"), "v")])
                .unwrap();
            let read = UnverifiedFrame::decode(frame.bytes().clone(), &genesis.hash());
            (LINK, read.unwrap())
        };
        (0..count).map(sign).collect()
    }

    fn authors(round: &[Arrival]) -> Vec<AuthorId> {
        round.iter().map(|(_, frame)| frame.author()).collect()
    }

    #[test]
    fn peers_and_their_authors_take_turns() {
        let mut queue = Queue::default();
        let (flood, quiet, other) = (frames(1, 200), frames(2, 2), frames(3, 1));
        for frame in flood.iter().chain(&quiet) {
            assert_eq!(queue.push(at(0), peer(1), frame.clone()), Pushed::Waits);
        }
        queue.push(at(0), peer(2), other[0].clone());
        assert_eq!(queue.due(), Some(at(1)));
        let round = queue.round(at(1));
        let first = authors(&round[..5]);
        for frame in quiet.iter().chain(&other) {
            assert!(first.contains(&frame.1.author()), "behind the flood");
        }
        assert_eq!(round.len(), 203);
        let in_order = round
            .iter()
            .filter(|(_, frame)| frame.author() == flood[0].1.author());
        let nonces: Vec<_> = in_order
            .map(|(_, frame)| frame.header().first_nonce)
            .collect();
        assert!(nonces.is_sorted(), "each author's in order");
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn a_flood_fills_one_round_and_no_more() {
        let mut queue = Queue::default();
        let flood = frames(1, MAX_FRAMES);
        let pushed = flood
            .into_iter()
            .map(|frame| queue.push(at(0), peer(1), frame));
        assert_eq!(pushed.last(), Some(Pushed::Full));
        assert_eq!(queue.round(at(0)).len(), ROUND_FRAMES);
    }

    /// What one peer sends for nothing does not slow down another one.
    #[test]
    fn verifications_that_bring_nothing_are_paced() {
        let mut queue = Queue::default();
        for _ in 0..2000 {
            queue.unused(at(0), peer(1));
        }
        assert!(queue.may_pass(at(0), peer(1)), "at once there are so many");
        queue.unused(at(0), peer(1));
        assert!(!queue.may_pass(at(0), peer(1)));
        assert!(queue.may_pass(at(0), peer(2)));

        for frame in frames(1, 10) {
            queue.push(at(0), peer(1), frame);
        }
        assert!(queue.round(at(0)).is_empty());
        assert_eq!(queue.due(), Some(at(1)));
        assert_eq!(queue.round(at(1)).len(), 10, "and then so many a second");
    }

    #[test]
    fn what_a_peer_floods_is_dropped_before_what_it_passes_on() {
        let mut queue = Queue::default();
        for _ in 0..3000 {
            queue.unused(at(0), peer(1));
        }
        let (flood, passed_on) = (frames(1, 300), frames(2, 3));
        for frame in &passed_on {
            queue.push(at(0), peer(1), frame.clone());
        }
        let pushed = flood
            .into_iter()
            .map(|frame| queue.push(at(0), peer(1), frame));
        assert_eq!(pushed.last(), Some(Pushed::Dropped));
        let round = authors(&queue.round(at(5000)));
        assert_eq!(round.len(), MAX_FRAMES - 1);
        let kept = round
            .iter()
            .filter(|author| **author == passed_on[0].1.author());
        assert_eq!(kept.count(), 3);
    }

    #[test]
    fn many_frames_at_once_wait_for_each_other() {
        let mut queue = Queue::default();
        let passed = (0..100).filter(|_| queue.may_pass(at(0), peer(1)));
        assert_eq!(passed.count(), 65);
        assert!(queue.may_pass(at(1), peer(1)));
    }

    #[test]
    fn a_peer_that_has_nothing_here_is_forgotten() {
        let mut queue = Queue::default();
        assert!(queue.may_pass(at(0), peer(1)));
        queue.round(at(5));
        assert!(queue.lanes.is_empty());
    }
}
