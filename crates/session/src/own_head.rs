//! What we know of the end of our own log.
//!
//! A peer that has lost its last frames and signs others in their place forks its log. So it signs
//! nothing before somebody has shown that it holds our log to the end that we know, nobody who
//! claims to hold more of it still has time to show that, and a moment has passed in which others could
//! have spoken.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use roundtable_core::{AuthorId, Timestamp};

/// How long a peer that claims to hold more of our log has to show us another frame of it.
const PROOF: Duration = Duration::from_secs(3);
/// How long an author that returns listens to others once the first has spoken.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long all of them have together, from the first confirmation or the last frame that came: who appears
/// under ever new names delays nobody for longer.
const LISTENING: Duration = Duration::from_secs(10);
/// Most peers of whom we remember that they claimed what they could not show; of further ones we
/// learn it again.
const MAX_LIARS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct OwnHead {
    certain: bool,
    /// By a peer's key: up to which nonce it claims to hold our log, and until when it must have
    /// shown another frame.
    claims: BTreeMap<AuthorId, (u64, Timestamp)>,
    /// When a peer first showed that it holds our log to the end that we know.
    confirmed: Option<Timestamp>,
    /// Until when claims are heeded, once somebody has.
    heeded_until: Option<Timestamp>,
    /// Peers that could not show what they claimed.
    liars: BTreeSet<AuthorId>,
}

impl OwnHead {
    /// Nothing was ever signed, or nobody else is there.
    pub(crate) fn make_certain(&mut self) {
        *self = Self {
            certain: true,
            ..Self::default()
        };
    }

    pub(crate) const fn is_certain(&self) -> bool {
        self.certain
    }

    /// Whether somebody claims to hold more, and has time to show it.
    pub(crate) fn is_behind(&self) -> bool {
        !self.claims.is_empty()
    }

    /// A peer says that it holds our commands up to `nonce`, of which the last is one that we hold if
    /// it is the `same`; we hold `held`. A peer that holds less than we do knows nothing of what we
    /// may have lost.
    pub(crate) fn shown(
        &mut self,
        now: Timestamp,
        peer: AuthorId,
        nonce: u64,
        held: u64,
        same: bool,
    ) {
        if self.certain || self.liars.contains(&peer) {
            return;
        }
        if nonce > held {
            let until = self
                .heeded_until
                .map_or(now + PROOF, |until| until.min(now + PROOF));
            if until > now {
                self.claims.entry(peer).or_insert((nonce, until)).0 = nonce;
            }
            return;
        }
        self.claims.remove(&peer);
        if nonce == held && same {
            self.confirm(now);
        }
    }

    /// A frame of ours has come that we did not hold; now we hold `held`.
    pub(crate) fn grown(&mut self, now: Timestamp, held: u64) {
        let before = self.claims.len();
        self.claims.retain(|_, (nonce, _)| *nonce > held);
        if self.claims.len() < before {
            self.confirm(now);
        }
        if let Some(until) = &mut self.heeded_until {
            *until = now + LISTENING;
        }
        for (_, deadline) in self.claims.values_mut() {
            *deadline = now + PROOF;
        }
    }

    fn confirm(&mut self, now: Timestamp) {
        self.confirmed.get_or_insert(now);
        self.heeded_until.get_or_insert(now + LISTENING);
    }

    /// The last link to a peer is gone.
    pub(crate) fn gone(&mut self, peer: &AuthorId) {
        self.claims.remove(peer);
    }

    /// Does what is due; we hold `held`.
    pub(crate) fn review(&mut self, now: Timestamp, held: u64) {
        let late = self.claims.iter().filter(|(_, claim)| claim.1 <= now);
        let late: Vec<_> = late.map(|(peer, _)| *peer).collect();
        for peer in late {
            self.claims.remove(&peer);
            if self.liars.len() < MAX_LIARS {
                self.liars.insert(peer);
            }
        }
        if self.due(held).is_some_and(|due| due <= now) && self.claims.is_empty() {
            self.certain = true;
        }
    }

    /// When to call [`review`](Self::review) at the latest.
    pub(crate) fn next_timeout(&self, held: u64) -> Option<Timestamp> {
        let claims = self.claims.values().map(|(_, deadline)| *deadline).min();
        if self.certain {
            None
        } else {
            claims.or_else(|| self.due(held))
        }
    }

    /// Who has signed nothing has nothing to lose and need not wait.
    fn due(&self, held: u64) -> Option<Timestamp> {
        let patience = if held == 0 { Duration::ZERO } else { PATIENCE };
        self.confirmed.map(|since| since + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: AuthorId = AuthorId::from_bytes([1; 32]);
    const EVE: AuthorId = AuthorId::from_bytes([2; 32]);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// Whether all is certain at this time.
    fn certain(own: &mut OwnHead, millis: u64, held: u64) -> bool {
        own.review(at(millis), held);
        own.is_certain()
    }

    #[test]
    fn who_returns_waits_for_a_moment_after_the_first_confirmation() {
        let mut own = OwnHead::default();
        own.shown(at(0), BOB, 10, 10, true);
        assert_eq!(own.next_timeout(10), Some(at(1000)));
        assert!(!certain(&mut own, 999, 10));
        assert!(certain(&mut own, 1000, 10));
        assert_eq!(own.next_timeout(10), None);
    }

    #[test]
    fn who_is_new_writes_at_once() {
        let mut own = OwnHead::default();
        own.shown(at(0), BOB, 0, 0, true);
        assert!(certain(&mut own, 0, 0));
    }

    #[test]
    fn a_peer_that_holds_more_is_waited_for_while_it_shows_more() {
        let mut own = OwnHead::default();
        own.shown(at(0), EVE, 10, 10, true);
        own.shown(at(100), BOB, 30, 10, false);
        assert!(!certain(&mut own, 2900, 10));
        own.grown(at(2900), 20);
        assert!(!certain(&mut own, 5800, 20));
        own.grown(at(5800), 30);
        assert!(certain(&mut own, 5800, 30));
    }

    #[test]
    fn a_member_that_lies_about_our_head_stops_us_once_and_briefly() {
        let mut own = OwnHead::default();
        for tick in 0..10 {
            own.shown(at(tick * 200), EVE, u64::MAX, 0, false);
            own.shown(at(tick * 200), BOB, 0, 0, true);
            assert!(!certain(&mut own, tick * 200, 0));
        }
        assert!(certain(&mut own, 3000, 0));

        let mut own = OwnHead::default();
        own.shown(at(0), EVE, 7, 0, false);
        own.review(at(3000), 0);
        own.shown(at(3001), EVE, 8, 0, false);
        assert!(!own.is_behind());
        own.shown(at(3002), BOB, 0, 0, true);
        assert!(certain(&mut own, 3002, 0));
    }

    /// Each under a name of its own, as soon as the one before it is passed over.
    #[test]
    fn ever_new_members_that_lie_stop_us_for_no_more_than_ten_seconds() {
        let mut own = OwnHead::default();
        own.shown(at(0), BOB, 10, 10, true);
        let mut name = 0_u32;
        let signs_at = (0..20_000).step_by(100).find(|millis| {
            name += 1;
            let mut key = [9; 32];
            key[..4].copy_from_slice(&name.to_le_bytes());
            own.shown(at(*millis), AuthorId::from_bytes(key), 99, 10, false);
            certain(&mut own, *millis, 10)
        });
        assert_eq!(signs_at, Some(10_000));
    }

    /// What comes shows that there is more, so that others are heard out again.
    #[test]
    fn while_our_log_comes_back_everyone_is_heard() {
        let mut own = OwnHead::default();
        own.shown(at(0), EVE, 10, 10, true);
        own.shown(at(500), BOB, 30, 10, false);
        for second in 1..10_u64 {
            own.grown(at(second * 2000), 10 + second);
            own.shown(at(second * 2000), BOB, 30, 10 + second, false);
        }
        assert!(own.is_behind());
        assert!(!certain(&mut own, 18_500, 19));
    }

    #[test]
    fn who_shows_less_or_something_else_confirms_nothing() {
        let mut own = OwnHead::default();
        own.shown(at(0), BOB, 9, 10, true);
        own.shown(at(0), EVE, 10, 10, false);
        assert!(!certain(&mut own, 100_000, 10));
    }
}
