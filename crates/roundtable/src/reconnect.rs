//! When to try a peer again: a circuit breaker (Nygard, *Release It!*) that knows silence from refusal. Pure: it is told the time,
//! what has happened, and a random number where it needs one.
//!
//! - **Closed**: nothing is to be done; the peer is linked, or the first negotiation is under way.
//! - **Probing**: the peer fell silent. Nobody has refused anything, and the network may be back at any moment, so an attempt is
//!   made every 500 ms for a minute; one without an answer is replaced, as the pauses of TCP, QUIC and SCTP double.
//! - **Open**: an attempt was answered and failed, or a minute of probing brought nothing. No attempt before a pause is over, which
//!   doubles from 1 s to 30 s.
//! - **Half-open**: the pause is over and one attempt is under way.

use std::time::Duration;

use roundtable_core::{Timestamp, TransportKind};
use roundtable_signaling_protocol::TokenBucket;

/// How far apart probes are, and for how long they go on.
const PROBE_EVERY: Duration = Duration::from_millis(500);
const PROBE_FOR: Duration = Duration::from_secs(60);

/// Offers that are taken from one peer: so many at once, then so many a second. One that probes makes two a second; each costs
/// sockets, and perhaps relays.
const OFFERS: (u32, u32) = (8, 4);

/// First and longest pause before a peer that could not be linked is tried again. Up to a quarter less, at random.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// For how long it is remembered that a room was full. Longer than any pause and the attempt after it.
const FULL_FOR: Duration = Duration::from_secs(90);

/// How many offers are taken from one peer.
pub(crate) fn offer_pace(now: Timestamp) -> TokenBucket {
    TokenBucket::new(now, OFFERS.0, OFFERS.1)
}

/// Who of two peers tries first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// This one, which has made the last offer.
    First,
    /// The other one; this one only if nothing has come of that.
    Second,
}

impl Turn {
    pub(crate) fn of(offered_here: bool) -> Self {
        match offered_here {
            true => Self::First,
            false => Self::Second,
        }
    }

    /// By how much later this side probes, so that the two seldom cross.
    fn probe_offset(self) -> Duration {
        match self {
            Self::First => Duration::ZERO,
            Self::Second => PROBE_EVERY / 2,
        }
    }

    /// By how much longer this side pauses.
    fn patience(self) -> Duration {
        match self {
            Self::First => Duration::ZERO,
            Self::Second => Duration::from_secs(5),
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A probe; how many came before it.
    Probe(u32),
    /// One attempt after a pause.
    Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Probing {
        next: Timestamp,
        until: Timestamp,
        made: u32,
    },
    Open {
        until: Timestamp,
    },
    HalfOpen,
}

/// The way back to one peer.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Pauses since a link was open.
    pauses: u32,
    /// Pauses because a room was full, and when the last began. A link is open before that is found out.
    full: Option<(u32, Timestamp)>,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Closed,
            pauses: 0,
            full: None,
        }
    }

    /// The peer is linked and answers, or was refused for good: there is nothing to do.
    pub(crate) fn close(&mut self) {
        (self.state, self.pauses) = (State::Closed, 0);
    }

    /// The peer is silent. A probing that is under way goes on.
    pub(crate) fn silent(&mut self, now: Timestamp, turn: Turn) {
        if !self.is_probing() {
            self.state = State::Probing {
                next: now + turn.probe_offset(),
                until: now + PROBE_FOR,
                made: 0,
            };
        }
    }

    /// A link is open. Until the peer has been heard on it, it is one more attempt: it may have died while it waited to be
    /// accepted.
    pub(crate) fn opened(&mut self, now: Timestamp) {
        match &mut self.state {
            State::Probing { next, .. } => *next = now + PROBE_EVERY,
            _ => self.close(),
        }
    }

    /// Something has come back on which attempts depend: the next probe, if there is one, is made then.
    pub(crate) fn hurry(&mut self, at: Timestamp) {
        if let State::Probing { next, .. } = &mut self.state {
            *next = at;
        }
    }

    /// An attempt is made beside the probes: it is one of them.
    pub(crate) fn attempted(&mut self, now: Timestamp) {
        if let State::Probing { next, .. } = &mut self.state {
            *next = (*next).max(now + PROBE_EVERY);
        }
    }

    /// An attempt has failed without an answer. Probes go on.
    pub(crate) fn unanswered(&mut self, now: Timestamp, turn: Turn, random: u32) {
        if !self.is_probing() {
            self.refused(now, turn, random);
        }
    }

    /// An attempt was answered and has failed: the same would come of another one now.
    pub(crate) fn refused(&mut self, now: Timestamp, turn: Turn, random: u32) {
        let pause = RETRY.0.saturating_mul(1 << self.pauses.min(5)).min(RETRY.1);
        let jitter = (pause / 4).mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.pauses = self.pauses.saturating_add(1);
        self.state = State::Open {
            until: now + pause + turn.patience() - jitter,
        };
    }

    /// A link was open, and one of the two has more of them than its room takes. Such pauses double as long as they are
    /// no more than [`FULL_FOR`] apart.
    pub(crate) fn full(&mut self, now: Timestamp, turn: Turn, random: u32) {
        let last = self
            .full
            .filter(|(_, last)| now.saturating_since(*last) < FULL_FOR);
        let before = last.map_or(0, |(pauses, _)| pauses);
        self.pauses = before;
        self.refused(now, turn, random);
        self.full = Some((before.saturating_add(1), now));
    }

    pub(crate) fn is_probing(&self) -> bool {
        matches!(self.state, State::Probing { .. })
    }

    /// When [`due`](Self::due) has something.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        match self.state {
            State::Probing { next, .. } => Some(next),
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen => None,
        }
    }

    /// What is to be done now.
    pub(crate) fn due(&mut self, now: Timestamp, turn: Turn, random: u32) -> Option<Due> {
        match &mut self.state {
            State::Probing { until, .. } if *until <= now => {
                self.refused(now, turn, random);
                None
            }
            State::Probing { next, made, .. } if *next <= now => {
                *next = now + PROBE_EVERY;
                *made += 1;
                Some(Due::Probe(*made - 1))
            }
            State::Open { until } if *until <= now => {
                self.state = State::HalfOpen;
                Some(Due::Retry)
            }
            _ => None,
        }
    }
}

/// Pauses before a better way is looked for to a peer that is linked by a worse one: the first and the longest.
const LOOK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How long after a change of network.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a better way has to hold before the pauses are forgotten that it took to find it.
const HOLDS: Duration = Duration::from_secs(60);

/// Looks for a better way to a peer that is linked by a worse one: direct instead of relayed, QUIC instead of WebRTC. What works is
/// never touched for it, and each attempt that brings nothing, or nothing that holds, doubles the pause before the next.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    next: Option<Timestamp>,
    pauses: u32,
    /// Since when there has been no better way than the present one.
    best_since: Option<Timestamp>,
}

impl Upgrade {
    /// There is no better way than the present one.
    pub(crate) fn is_best(&mut self, now: Timestamp) {
        self.next = None;
        let since = *self.best_since.get_or_insert(now);
        if since + HOLDS <= now {
            self.pauses = 0;
        }
    }

    /// There might be a better one. Says which attempt is due, if one is: 0, 1, … since the network has changed. The second to try does
    /// so later; what one end cannot reach, the other may.
    pub(crate) fn might_be_better(
        &mut self,
        now: Timestamp,
        turn: Turn,
        random: u32,
    ) -> Option<u32> {
        self.best_since = None;
        let pause = LOOK.0.saturating_mul(1 << self.pauses.min(5)).min(LOOK.1);
        let jitter = (pause / 4).mul_f64(f64::from(random) / f64::from(u32::MAX));
        match self.next {
            None => {
                self.next = Some(now + pause + turn.patience() - jitter);
                None
            }
            Some(next) if next <= now => {
                let made = self.pauses;
                self.pauses = self.pauses.saturating_add(1);
                self.next = None;
                Some(made)
            }
            Some(_) => None,
        }
    }

    /// Something has changed on which it depends.
    pub(crate) fn look_again(&mut self, now: Timestamp) {
        self.next = Some(now + LOOK_AGAIN);
        self.pauses = 0;
    }
}

/// By which offer a better way is looked for, if there may be one: by the first attempt, the second, and so on. Always by a new link:
/// a relayed link that is moved carries nothing until its new way is found, and is lost if there is none.
pub(crate) fn better_way(quic: bool, relayed: bool, made: u32) -> Option<TransportKind> {
    match (quic, relayed) {
        (true, true) if made % 2 == 1 => Some(TransportKind::WebRtc),
        (true, _) => Some(TransportKind::Quic),
        (false, true) => Some(TransportKind::WebRtc),
        (false, false) => None,
    }
}

/// An open WebRTC link to a peer that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fallen {
    /// A whole heartbeat went by without an answer: it is not only that somebody who was sending steadily has stopped.
    pub(crate) unanswered: bool,
    /// It is being moved already, and that is offered again by itself.
    pub(crate) moving: bool,
}

/// What a probe does by signaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signaled {
    /// Moves the silent link.
    Move,
    /// Offers a new one.
    Offer,
    Nothing,
}

impl Signaled {
    /// A link that is moved gives up the way it had, on which the peer may be back any moment. So that takes more than half a second
    /// of silence, and signaling to bring about another.
    pub(crate) fn of(link: Option<Fallen>, turn: Turn, signaling: bool) -> Self {
        match link {
            None => Self::Offer,
            Some(link) if link.unanswered && !link.moving && signaling && turn == Turn::First => {
                Self::Move
            }
            Some(_) => Self::Nothing,
        }
    }
}

/// How old an unanswered offer is of which the peer would have heard before it made one itself.
const COLLISION: Duration = Duration::from_millis(150);

/// An offer of ours that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// How long it has waited.
    pub(crate) age: Duration,
    /// It is for a new link, not for moving one.
    pub(crate) is_new: bool,
}

/// What becomes of a peer's offer that comes while one of ours to it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// It is not taken: the peer will answer ours.
    Refuse,
    /// It is taken, and ours goes on. Nobody knows here whether ours was lost, or the peer gives way to it this moment.
    Both,
    /// It takes the place of ours.
    GiveWay,
}

impl Crossing {
    /// The peer with the smaller name gives way (perfect negotiation). The other one never gives up its own for it: if both did, each
    /// would wait for the link that it has answered for.
    pub(crate) fn of(ours: Option<Waiting>, is_smaller: bool, is_probing: bool) -> Self {
        match ours {
            Some(ours) if !is_smaller => match (is_probing && ours.age > COLLISION, ours.is_new) {
                (false, _) => Self::Refuse,
                (true, true) => Self::Both,
                // The peer has no such link any more, or it would have answered.
                (true, false) => Self::GiveWay,
            },
            _ => Self::GiveWay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_offers_that_cross_one_is_kept_however_long_they_were_under_way() {
        for age in [0, 100, 200, 3000].map(Duration::from_millis) {
            for is_probing in [false, true] {
                let ours = Some(Waiting { age, is_new: true });
                assert_eq!(Crossing::of(ours, true, is_probing), Crossing::GiveWay);
                let other = Crossing::of(ours, false, is_probing);
                let expected = match is_probing && age > COLLISION {
                    true => Crossing::Both,
                    false => Crossing::Refuse,
                };
                assert_eq!(other, expected);
            }
        }
        assert_eq!(Crossing::of(None, false, true), Crossing::GiveWay);
        let age = Duration::from_secs(1);
        let moving = Some(Waiting { age, is_new: false });
        assert_eq!(Crossing::of(moving, false, true), Crossing::GiveWay);
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// What was done in the first `millis`, and when.
    fn run(breaker: &mut Breaker, turn: Turn, millis: u64) -> Vec<(u64, Due)> {
        let times = (0..millis).step_by(50);
        times
            .filter_map(|time| Some((time, breaker.due(at(time), turn, 0)?)))
            .collect()
    }

    #[test]
    fn a_silent_peer_is_probed_every_half_second_for_a_minute_and_then_after_pauses() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::First);
        let done = run(&mut breaker, Turn::First, 62_000);
        let probes: Vec<_> = (0..120)
            .map(|n| (u64::from(n) * 500, Due::Probe(n)))
            .collect();
        assert_eq!(done[..120], probes);
        assert_eq!(done[120..], [(61_000, Due::Retry)]);
        assert_eq!(breaker.next_timeout(), None, "half-open");
    }

    #[test]
    fn silence_that_goes_on_is_one_silence() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::First);
        assert_eq!(breaker.due(at(0), Turn::First, 0), Some(Due::Probe(0)));
        breaker.silent(at(100), Turn::First);
        breaker.unanswered(at(100), Turn::First, 0);
        assert_eq!(breaker.next_timeout(), Some(at(500)));
    }

    #[test]
    fn two_peers_probe_each_other_in_turns() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::Second);
        let done = run(&mut breaker, Turn::Second, 1000);
        assert_eq!(done, [(250, Due::Probe(0)), (750, Due::Probe(1))]);
    }

    #[test]
    fn refusals_open_the_circuit_for_pauses_that_double_until_a_link_is_open() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::First);
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            breaker.refused(now, Turn::First, 0);
            let until = breaker.next_timeout().unwrap();
            pauses.push(until.saturating_since(now).as_secs());
            assert_eq!(breaker.due(until, Turn::First, 0), Some(Due::Retry));
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        breaker.close();
        breaker.unanswered(at(0), Turn::First, u32::MAX);
        assert_eq!(breaker.next_timeout(), Some(at(750)), "jitter");
    }

    #[test]
    fn a_room_that_is_full_is_tried_ever_more_seldom_though_each_time_a_link_is_open() {
        let mut breaker = Breaker::new();
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            breaker.opened(now);
            breaker.close();
            breaker.full(now, Turn::First, 0);
            let until = breaker.next_timeout().unwrap();
            pauses.push(until.saturating_since(now).as_secs());
            assert_eq!(breaker.due(until, Turn::First, 0), Some(Due::Retry));
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        // It has had a place for a while since.
        now = now + FULL_FOR;
        breaker.close();
        breaker.full(now, Turn::First, 0);
        assert_eq!(breaker.next_timeout(), Some(now + RETRY.0));
    }

    #[test]
    fn the_one_who_did_not_offer_leaves_the_other_time() {
        let mut breaker = Breaker::new();
        breaker.unanswered(at(0), Turn::Second, 0);
        assert_eq!(breaker.next_timeout(), Some(at(6000)));
    }

    #[test]
    fn a_link_on_which_nothing_is_heard_ends_no_probing() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::First);
        breaker.due(at(0), Turn::First, 0);
        breaker.opened(at(300));
        assert_eq!(breaker.due(at(500), Turn::First, 0), None);
        assert_eq!(breaker.due(at(800), Turn::First, 0), Some(Due::Probe(1)));
        breaker.refused(at(800), Turn::First, 0);
        breaker.opened(at(900));
        assert_eq!(breaker.next_timeout(), None);
    }

    #[test]
    fn what_is_offered_beside_the_probes_is_not_replaced_by_the_next_of_them() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::First);
        assert_eq!(breaker.due(at(0), Turn::First, 0), Some(Due::Probe(0)));
        breaker.attempted(at(490));
        assert_eq!(breaker.next_timeout(), Some(at(990)));
        assert_eq!(breaker.due(at(500), Turn::First, 0), None);
        assert_eq!(breaker.due(at(990), Turn::First, 0), Some(Due::Probe(1)));
    }

    #[test]
    fn what_comes_back_is_used_at_once() {
        let mut breaker = Breaker::new();
        breaker.silent(at(0), Turn::First);
        breaker.due(at(0), Turn::First, 0);
        breaker.hurry(at(60));
        assert_eq!(breaker.due(at(60), Turn::First, 0), Some(Due::Probe(1)));
        breaker.close();
        breaker.hurry(at(60));
        assert_eq!(breaker.next_timeout(), None);
    }

    #[test]
    fn all_offers_of_a_peer_that_probes_are_taken_and_few_of_one_that_floods() {
        use roundtable_signaling_protocol::Spent;
        let mut pace = offer_pace(at(0));
        let probes = u64::try_from(PROBE_FOR.as_millis()).unwrap();
        let mut times = (0..probes).step_by(500);
        assert!(times.all(|time| pace.spend(at(time)) == Spent::Granted));

        let mut pace = offer_pace(at(0));
        let flood = (0..10_000).filter(|time| pace.spend(at(*time)) == Spent::Granted);
        assert!(flood.count() < 12);
        // It is heard again when it has been quiet for a while.
        assert_eq!(pace.spend(at(15_000)), Spent::Granted);
    }

    /// When a better way is looked for within the first `seconds`, if none is found.
    fn looked_for(upgrade: &mut Upgrade, turn: Turn, seconds: u64) -> Vec<u64> {
        let times = 0..seconds;
        let due = |second: &u64| {
            let made = upgrade.might_be_better(at(second * 1000), turn, 0);
            made.is_some()
        };
        times.filter(due).collect()
    }

    #[test]
    fn a_better_way_is_looked_for_ever_more_seldom() {
        let looked = looked_for(&mut Upgrade::default(), Turn::First, 24 * 3600);
        // Each pause is noticed to begin a second later.
        assert_eq!(looked[..6], [10, 31, 72, 153, 314, 615]);
        assert!(looked.len() < 300, "in a day: {}", looked.len());
        let looked = looked_for(&mut Upgrade::default(), Turn::Second, 60);
        assert_eq!(looked, [15, 41]);
    }

    #[test]
    fn after_a_change_of_network_a_better_way_is_looked_for_at_once() {
        let mut upgrade = Upgrade::default();
        looked_for(&mut upgrade, Turn::First, 3600);
        let now = at(3_600_000);
        upgrade.look_again(now);
        assert_eq!(upgrade.might_be_better(now, Turn::First, 0), None);
        let soon = now + LOOK_AGAIN;
        assert_eq!(upgrade.might_be_better(soon, Turn::First, 0), Some(0));
        upgrade.is_best(soon);
        assert_eq!(upgrade.might_be_better(soon, Turn::First, 0), None);
    }

    #[test]
    fn a_better_way_that_does_not_hold_is_not_looked_for_again_at_once() {
        let mut upgrade = Upgrade::default();
        let mut looked = Vec::new();
        // Whatever is found lasts for `lasts` seconds.
        let mut run = |lasts, seconds: std::ops::Range<u64>| {
            let mut until = 0;
            for second in seconds {
                if second < until {
                    upgrade.is_best(at(second * 1000));
                } else if let Some(made) =
                    upgrade.might_be_better(at(second * 1000), Turn::First, 0)
                {
                    looked.push((second, made));
                    until = second + lasts;
                }
            }
        };
        run(20, 0..300);
        run(62, 1000..1200);
        let expected = [(10, 0), (50, 1), (110, 2), (210, 3), (1000, 4), (1072, 0)];
        assert_eq!(looked[..6], expected);
    }

    #[test]
    fn a_better_way_is_looked_for_by_new_links_alone() {
        let ways = |quic, relayed| [0, 1, 2].map(|made| better_way(quic, relayed, made));
        let (quic, webrtc) = (Some(TransportKind::Quic), Some(TransportKind::WebRtc));
        assert_eq!(ways(false, false), [None; 3]);
        assert_eq!(ways(true, false), [quic; 3]);
        assert_eq!(ways(false, true), [webrtc; 3]);
        assert_eq!(ways(true, true), [quic, webrtc, quic]);
    }

    #[test]
    fn a_silent_link_is_moved_only_when_a_heartbeat_is_missed_and_signaling_is_there() {
        let link = |unanswered, moving| Some(Fallen { unanswered, moving });
        let signaled = |link, signaling| Signaled::of(link, Turn::First, signaling);
        assert_eq!(signaled(link(false, false), true), Signaled::Nothing);
        assert_eq!(signaled(link(true, false), true), Signaled::Move);
        assert_eq!(signaled(link(true, false), false), Signaled::Nothing);
        assert_eq!(signaled(link(true, true), true), Signaled::Nothing);
        let second = Signaled::of(link(true, false), Turn::Second, true);
        assert_eq!(second, Signaled::Nothing);
        assert_eq!(signaled(None, false), Signaled::Offer);
    }
}
