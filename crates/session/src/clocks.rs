//! How far our clock is from those of the peers: frames carry wall times, and one that is far ahead
//! of a peer's clock waits there.

use std::{collections::BTreeMap, time::Duration};

use roundtable_core::{PeerId, WallTime};

use crate::{Session, event::InputError, links::Links};

/// How far our clock may be from the median of the linked members' before we sign nothing.
const MAX_OFF_MS: u64 = 5 * 60 * 1000;

/// How far our clock is ahead of a peer's, which showed `peer_ms` half a round trip ago; `None` if it
/// did not say.
pub(crate) fn ahead_ms(wall: WallTime, peer_ms: u64, round_trip: Duration) -> Option<i64> {
    let half = u64::try_from(round_trip.as_millis() / 2).ok()?;
    let peer_ms = peer_ms.checked_add(half).filter(|_| peer_ms > 0)?;
    let ours = i64::try_from(wall.as_millis()).ok()?;
    Some(ours.saturating_sub(i64::try_from(peer_ms).unwrap_or(i64::MAX)))
}

/// The median of what linked members say, each counted once; of two in the middle, the one that is
/// closer to our clock. `None` while none has said anything.
fn median_ahead_ms(links: &Links) -> Option<i64> {
    let mut by_peer: BTreeMap<&PeerId, i64> = BTreeMap::new();
    for (_, link) in links.iter() {
        let ahead = link.member().and_then(|member| member.ahead_ms);
        by_peer.extend(ahead.map(|ahead| (&link.info.peer, ahead)));
    }
    let mut all: Vec<i64> = by_peer.into_values().collect();
    all.sort_unstable();
    let upper = *all.get(all.len() / 2)?;
    let lower = all[(all.len() - 1) / 2];
    let closer = lower.unsigned_abs() <= upper.unsigned_abs();
    Some(if closer { lower } else { upper })
}

impl Session {
    /// Whether our clock is close enough to the peers' to sign by it.
    pub(crate) fn check_clock(&self) -> Result<(), InputError> {
        match median_ahead_ms(&self.links) {
            Some(ahead) if ahead.unsigned_abs() > MAX_OFF_MS => Err(InputError::ClockOff {
                ahead: ahead > 0,
                by: Duration::from_millis(ahead.unsigned_abs()),
            }),
            _ => Ok(()),
        }
    }

    /// How far our clock is ahead of the peers', in milliseconds; 0 while none has said.
    pub(crate) fn clock_ahead_ms(&self) -> i64 {
        median_ahead_ms(&self.links).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_round_trip_is_allowed_for() {
        let wall = WallTime::from_millis(10_000);
        let ahead = |peer_ms, rtt| ahead_ms(wall, peer_ms, Duration::from_millis(rtt));
        assert_eq!(ahead(9_900, 200), Some(0));
        assert_eq!(ahead(12_000, 0), Some(-2_000));
        assert_eq!(ahead(7_000, 1_000), Some(2_500));
    }

    #[test]
    fn nonsense_is_no_clock() {
        let wall = WallTime::from_millis(10_000);
        assert_eq!(ahead_ms(wall, 0, Duration::ZERO), None);
        assert_eq!(ahead_ms(wall, u64::MAX, Duration::from_secs(1)), None);
        assert_eq!(
            ahead_ms(wall, u64::MAX, Duration::ZERO),
            Some(10_000 - i64::MAX)
        );
    }
}
