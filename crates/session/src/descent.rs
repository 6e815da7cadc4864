//! Where two peers' logs of one author part.
//!
//! When a peer names another frame for a place than the one that we hold there, the author has
//! signed twice, at that place or below. We ask the peer for its frame halfway down, and so on by
//! halves, until we know the last frame that both hold. What follows it on either side is the proof:
//! we send ours and ask for the peer's. If a role command names a frame of the peer's branch, we
//! ask for all of it up to there.

use std::{collections::BTreeMap, time::Duration};

use roundtable_core::{AuthorId, Timestamp};
use roundtable_wire::session::Range;

use crate::event::LinkId;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most descents with one peer at a time; others begin when the peer's next heads come.
const MAX_DESCENTS: usize = 16;

/// The descents under way, at most one for each link and author.
#[derive(Debug, Default)]
pub(crate) struct Descents(BTreeMap<(LinkId, AuthorId), Descent>);

#[derive(Debug)]
struct Descent {
    /// Both hold the same up to this nonce.
    same: u64,
    /// At this nonce they do not, or we hold nothing.
    differs: u64,
    /// What was asked last.
    asked: Asked,
    deadline: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// For the peer's frame at this nonce.
    Probe(u64),
    /// For the frames from this nonce on.
    Frames { first: u64, last: u64 },
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask which frame the peer has at this nonce.
    Probe(u64),
    /// This is the last nonce that both hold.
    Found(u64),
    /// Ask for the next frames of the peer's branch.
    Want(Range),
}

impl Descents {
    /// Starts to look for where we part from a peer: somewhere above `same`, where the last stable checkpoint or the
    /// beginning is, up to `differs`.
    pub(crate) fn begin(
        &mut self,
        now: Timestamp,
        link: LinkId,
        author: AuthorId,
        same: u64,
        differs: u64,
    ) -> Option<Next> {
        self.0.retain(|_, descent| descent.deadline > now);
        let of_link = self.0.keys().filter(|(other, _)| *other == link).count();
        if of_link >= MAX_DESCENTS || self.0.contains_key(&(link, author)) || differs <= same {
            return None;
        }
        let descent = Descent {
            same,
            differs,
            asked: Asked::Probe(same),
            deadline: now + TIMEOUT,
        };
        self.0.insert((link, author), descent);
        self.halve(now, link, author)
    }

    /// The peer has told its frame at `nonce`. We hold there the frame with the nonces `ours`, if
    /// any, and it is the `same` or not.
    pub(crate) fn on_probed(
        &mut self,
        now: Timestamp,
        link: LinkId,
        author: AuthorId,
        nonce: u64,
        ours: Option<(u64, u64)>,
        same: bool,
    ) -> Option<Next> {
        let descent = self.0.get_mut(&(link, author))?;
        if descent.asked != Asked::Probe(nonce) {
            return None;
        }
        match ours {
            Some((_, last)) if same => descent.same = last.min(descent.differs - 1),
            Some((first, _)) => descent.differs = first.max(descent.same + 1),
            None => descent.differs = nonce,
        }
        self.halve(now, link, author)
    }

    fn halve(&mut self, now: Timestamp, link: LinkId, author: AuthorId) -> Option<Next> {
        let descent = self.0.get_mut(&(link, author))?;
        descent.deadline = now + TIMEOUT;
        let between = descent.differs - descent.same;
        if between <= 1 {
            return Some(Next::Found(descent.same));
        }
        let middle = descent.same + between / 2;
        descent.asked = Asked::Probe(middle);
        Some(Next::Probe(middle))
    }

    /// Asks for the peer's branch after a nonce that both hold: its first frame, and all up to `last`
    /// if that is further.
    pub(crate) fn fetch(
        &mut self,
        now: Timestamp,
        link: LinkId,
        author: AuthorId,
        same: u64,
        last: u64,
    ) -> Option<Next> {
        let descent = self.0.get_mut(&(link, author))?;
        let first = same.checked_add(1)?;
        let last = last.max(first);
        descent.asked = Asked::Frames { first, last };
        descent.deadline = now + TIMEOUT;
        Some(Next::Want(Range {
            author,
            first,
            last,
        }))
    }

    /// The peer says what it has sent.
    pub(crate) fn on_served(
        &mut self,
        now: Timestamp,
        link: LinkId,
        served: &Range,
    ) -> Option<Next> {
        let descent = self.0.get(&(link, served.author))?;
        let Asked::Frames { first, last } = descent.asked else {
            return None;
        };
        if served.first != first {
            return None;
        }
        if served.last < first || served.last >= last {
            self.0.remove(&(link, served.author));
            return None;
        }
        self.fetch(now, link, served.author, served.last, last)
    }

    /// Forgets a link.
    pub(crate) fn forget(&mut self, link: LinkId) {
        self.0.retain(|(other, _), _| *other != link);
    }

    /// Forgets everything: another log has begun.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: AuthorId = AuthorId::from_bytes([1; 32]);
    const LINK: LinkId = LinkId(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// The frame with this nonce in a log of frames of `count` commands each.
    fn frame(nonce: u64, count: u64) -> (u64, u64) {
        let before = (nonce - 1) / count * count;
        (before + 1, before + count)
    }

    /// How many questions it takes to find that two logs of 999 commands part after `parting`.
    fn questions(parting: u64, count: u64) -> u32 {
        let mut descents = Descents::default();
        let mut next = descents.begin(at(0), LINK, AUTHOR, 0, 1000);
        for questions in 0.. {
            match next {
                Some(Next::Probe(nonce)) => {
                    let ours = frame(nonce, count);
                    let same = ours.1 <= parting;
                    next = descents.on_probed(at(0), LINK, AUTHOR, nonce, Some(ours), same);
                }
                Some(Next::Found(found)) => {
                    assert_eq!(found, parting);
                    return questions;
                }
                other => panic!("{other:?}"),
            }
        }
        unreachable!()
    }

    #[test]
    fn halving_finds_the_last_frame_that_both_hold() {
        for count in [1, 3, 37] {
            for frames in [0, 1, 2, 5, 26] {
                assert!(questions(frames * count, count) <= 11);
            }
        }
    }

    /// What lies below a stable checkpoint is the same for all, and nobody can say any more which frames it was.
    #[test]
    fn below_a_checkpoint_nothing_is_asked() {
        let mut descents = Descents::default();
        let next = descents.begin(at(0), LINK, AUTHOR, 40, 41);
        assert_eq!(next, Some(Next::Found(40)));
        assert_eq!(descents.begin(at(0), LinkId(2), AUTHOR, 40, 40), None);
    }

    #[test]
    fn a_branch_is_fetched_piece_by_piece() {
        let mut descents = Descents::default();
        assert!(descents.begin(at(0), LINK, AUTHOR, 0, 1).is_some());
        let range = |first, last| Range {
            author: AUTHOR,
            first,
            last,
        };
        let want = descents.fetch(at(0), LINK, AUTHOR, 0, 90);
        assert_eq!(want, Some(Next::Want(range(1, 90))));
        let more = descents.on_served(at(1), LINK, &range(1, 40));
        assert_eq!(more, Some(Next::Want(range(41, 90))));
        assert_eq!(descents.on_served(at(2), LINK, &range(41, 90)), None);
        assert!(descents.0.is_empty());
    }

    #[test]
    fn a_peer_that_makes_up_differences_holds_up_no_more_than_its_share() {
        let mut descents = Descents::default();
        let invented = |n: u8| AuthorId::from_bytes([n; 32]);
        let begun = (0..100).filter(|n| {
            let next = descents.begin(at(0), LINK, invented(*n), 0, 9);
            next.is_some()
        });
        assert_eq!(begun.count(), MAX_DESCENTS);
        assert!(descents.begin(at(0), LinkId(2), AUTHOR, 0, 9).is_some());
        assert!(
            descents.begin(at(2000), LINK, AUTHOR, 0, 9).is_some(),
            "stale"
        );
    }
}
