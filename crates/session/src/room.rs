//! The room's genesis as far as it is known, and the log that it begins.

use bytes::Bytes;
use roundtable_command_log::{CommandLog, Genesis, GenesisHash};
use roundtable_core::Timestamp;

/// A room that has begun.
pub(crate) struct Room {
    pub(crate) log: CommandLog,
    pub(crate) hash: GenesisHash,
    /// The genesis as it travels.
    pub(crate) encoded: Bytes,
    /// Whether an invite vouches for it, or it was founded here for others to be invited to.
    pub(crate) verified: bool,
    /// Whether we stand by it. Otherwise another genesis may take its place.
    pub(crate) firm: bool,
    /// Since when we have shared it with anyone.
    pub(crate) shared_since: Option<Timestamp>,
    /// When the state last moved on, and when it has to again.
    pub(crate) last_settle: Timestamp,
    pub(crate) settle_due: Option<Timestamp>,
}

/// What two peers' geneses mean for them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// One and the same.
    Same,
    /// At least one side has none; nothing to decide, or the other side will take ours.
    Open,
    /// We take theirs.
    Adopt,
    /// They should take ours: wait for it.
    Await,
    /// Neither may take the other's.
    Clash,
}

/// One side's genesis, and whether that side would give it up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) hash: GenesisHash,
    pub(crate) may_adopt: bool,
}

/// Decides between two geneses. Both sides come to matching verdicts from the same positions.
///
/// `invited` is the hash that our invite vouches for, while we have no genesis.
pub(crate) fn compare(
    ours: Option<Position>,
    theirs: Option<Position>,
    invited: Option<GenesisHash>,
) -> Verdict {
    match (ours, theirs) {
        (_, None) => Verdict::Open,
        (None, Some(theirs)) if invited.is_none_or(|hash| hash == theirs.hash) => Verdict::Adopt,
        (None, Some(_)) => Verdict::Clash,
        (Some(ours), Some(theirs)) if ours.hash == theirs.hash => Verdict::Same,
        (Some(ours), Some(theirs)) => match (ours.may_adopt, theirs.may_adopt) {
            (true, true) if theirs.hash < ours.hash => Verdict::Adopt,
            (true, false) => Verdict::Adopt,
            (_, true) => Verdict::Await,
            (false, false) => Verdict::Clash,
        },
    }
}

impl Room {
    pub(crate) fn genesis(&self) -> &Genesis {
        self.log.genesis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(hash: u8, may_adopt: bool) -> Position {
        Position {
            hash: GenesisHash::from_bytes([hash; 32]),
            may_adopt,
        }
    }

    #[test]
    fn the_two_sides_never_both_yield_nor_both_wait() {
        for (mine, yours) in [(false, false), (false, true), (true, false), (true, true)] {
            let (a, b) = (Some(position(1, mine)), Some(position(2, yours)));
            let verdicts = (compare(a, b, None), compare(b, a, None));
            let expected = match (mine, yours) {
                (false, false) => (Verdict::Clash, Verdict::Clash),
                (true, false) => (Verdict::Adopt, Verdict::Await),
                (_, true) => (Verdict::Await, Verdict::Adopt),
            };
            assert_eq!(verdicts, expected, "{mine} {yours}");
        }
    }

    #[test]
    fn an_invite_takes_no_other_genesis() {
        let theirs = position(1, true);
        let other = GenesisHash::from_bytes([9; 32]);
        assert_eq!(compare(None, Some(theirs), None), Verdict::Adopt);
        assert_eq!(
            compare(None, Some(theirs), Some(theirs.hash)),
            Verdict::Adopt
        );
        assert_eq!(compare(None, Some(theirs), Some(other)), Verdict::Clash);
        assert_eq!(compare(None, None, Some(other)), Verdict::Open);
    }
}
