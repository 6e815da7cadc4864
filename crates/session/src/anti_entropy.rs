//! Who holds what we lack, and whom to ask for it.
//!
//! Peers tell each other their heads. What a peer claims and we lack is a *gap*; each gap is asked
//! for from one peer at a time, so that a late joiner loads from all peers and nothing twice.
//! Requests are windowed: the next range is asked for when the last has arrived, which paces
//! the sender by the receiver.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ops::RangeBounds,
    time::Duration,
};

use roundtable_core::{AuthorId, Timestamp};
use roundtable_wire::session::{MAX_LIST, Range};

use crate::event::LinkId;

/// How long a request may go without progress before another peer is asked.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a linked author has to send its own frames before others are asked for them: what a
/// third peer has just received is most likely on its way to us too.
const GRACE: Duration = Duration::from_millis(300);
/// Most authors for which one link's claims are remembered; further ones wait for later heads.
const MAX_CLAIMS: usize = 4096;

/// What is lacking, and from whom it is being fetched.
#[derive(Debug, Default)]
pub(crate) struct AntiEntropy {
    /// By link: the last nonce that the peer claims to hold, of authors where we hold less.
    claims: BTreeMap<LinkId, BTreeMap<AuthorId, u64>>,
    gaps: BTreeMap<AuthorId, Gap>,
    /// By link: how many gaps are being fetched there.
    load: BTreeMap<LinkId, usize>,
    /// When to plan again; never later than it has to be.
    due: Option<Timestamp>,
}

#[derive(Debug)]
struct Gap {
    since: Timestamp,
    fetch: Option<Fetch>,
    /// Whether the linked author itself still has time to close it.
    patient: bool,
}

#[derive(Debug)]
struct Fetch {
    link: LinkId,
    first: u64,
    /// Up to where the peer has sent, once it has said so.
    through: Option<u64>,
    deadline: Timestamp,
}

/// What the planner must know of the world.
pub(crate) trait Holdings {
    /// The author's last contiguous nonce held here, 0 for none; `u64::MAX` if more is of no use.
    fn held(&self, author: &AuthorId) -> u64;
    /// Whether this link leads to the author itself.
    fn leads_to(&self, link: LinkId, author: &AuthorId) -> bool;
    /// Whether any link leads to the author itself.
    fn linked(&self, author: &AuthorId) -> bool;
}

impl AntiEntropy {
    /// The peer on `link` claims to hold the author's commands up to `nonce`.
    pub(crate) fn claim(&mut self, link: LinkId, author: AuthorId, nonce: u64) {
        let claims = self.claims.entry(link).or_default();
        let full = claims.len() >= MAX_CLAIMS;
        match claims.entry(author) {
            Entry::Occupied(mut claim) => *claim.get_mut() = nonce.max(*claim.get()),
            Entry::Vacant(claim) if !full => {
                claim.insert(nonce);
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Forgets what a link's peer has claimed and was asked for.
    pub(crate) fn forget(&mut self, link: LinkId) {
        self.claims.remove(&link);
        self.load.remove(&link);
        for gap in self.gaps.values_mut() {
            gap.fetch.take_if(|fetch| fetch.link == link);
        }
    }

    /// Forgets everything: another log has begun.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The peer says what it has sent of what it was asked for. An answer that is empty throughout
    /// means that it has none of it; otherwise an empty range has only to be asked for again. Names the authors of
    /// whom it was asked for something.
    pub(crate) fn on_served(&mut self, link: LinkId, ranges: &[Range]) -> BTreeSet<AuthorId> {
        let nothing = ranges.iter().all(|range| range.last < range.first);
        let mut authors = BTreeSet::new();
        for range in ranges {
            let Some(gap) = self.gaps.get_mut(&range.author) else {
                continue;
            };
            let Some(fetch) = &mut gap.fetch else {
                continue;
            };
            if fetch.link != link || fetch.first != range.first {
                continue;
            }
            authors.insert(range.author);
            if range.last >= range.first {
                fetch.through = Some(range.last);
                continue;
            }
            gap.fetch = None;
            lighten(&mut self.load, link);
            if nothing {
                drop_claim(&mut self.claims, link, &range.author);
            }
        }
        authors
    }

    /// Whether frames of this author are asked for.
    pub(crate) fn is_fetching(&self, author: &AuthorId) -> bool {
        self.gaps.contains_key(author)
    }

    /// What to ask of whom now.
    pub(crate) fn plan(
        &mut self,
        now: Timestamp,
        world: &impl Holdings,
    ) -> BTreeMap<LinkId, Vec<Range>> {
        for (author, gap) in &mut self.gaps {
            gap.review(now, author, world.held(author), &mut self.claims);
        }
        self.find_gaps(now, world);
        self.load.clear();
        for fetch in self.gaps.values().filter_map(|gap| gap.fetch.as_ref()) {
            *self.load.entry(fetch.link).or_default() += 1;
        }
        let wants = self.assign(now, world, ..);
        self.due = self.gaps.values().filter_map(Gap::due).min();
        wants
    }

    /// What to ask next of an author of whom something has come: costs less than
    /// [`plan`](Self::plan), and suffices while one answer follows the other.
    pub(crate) fn go_on(
        &mut self,
        now: Timestamp,
        world: &impl Holdings,
        author: AuthorId,
    ) -> BTreeMap<LinkId, Vec<Range>> {
        let held = world.held(&author);
        let Some(gap) = self.gaps.get_mut(&author) else {
            return BTreeMap::new();
        };
        let before = gap.fetch.as_ref().map(|fetch| fetch.link);
        gap.review(now, &author, held, &mut self.claims);
        if gap.fetch.is_some() {
            return BTreeMap::new();
        }
        if let Some(link) = before {
            lighten(&mut self.load, link);
        }
        let claims = self.claims.values();
        let claimed = |claims: &BTreeMap<_, _>| claims.get(&author).is_some_and(|n| *n > held);
        if claims.filter(|claims| claimed(claims)).count() == 0 {
            self.gaps.remove(&author);
        }
        let wants = self.assign(now, world, author..=author);
        let due = self.gaps.get(&author).and_then(Gap::due);
        self.due = self.due.into_iter().chain(due).min();
        wants
    }

    /// Finds somebody to ask for each gap of these authors for which nobody is being asked.
    fn assign(
        &mut self,
        now: Timestamp,
        world: &impl Holdings,
        authors: impl RangeBounds<AuthorId>,
    ) -> BTreeMap<LinkId, Vec<Range>> {
        let mut wants: BTreeMap<LinkId, Vec<Range>> = BTreeMap::new();
        let load = &mut self.load;
        for (author, gap) in self.gaps.range_mut(authors) {
            if gap.fetch.is_some() {
                continue;
            }
            let held = world.held(author);
            gap.patient = now < gap.since + GRACE && world.linked(author);
            let usable = |link| !gap.patient || world.leads_to(link, author);
            let candidates = self.claims.iter().filter_map(|(link, claims)| {
                let nonce = claims.get(author)?;
                let busy = load.get(link).copied().unwrap_or(0);
                let stranger = !world.leads_to(*link, author);
                let useful = usable(*link) && busy < MAX_LIST && *nonce > held;
                useful.then_some((stranger, busy, *link, *nonce))
            });
            let Some((_, _, link, last)) = candidates.min() else {
                continue;
            };
            let first = held + 1;
            *load.entry(link).or_default() += 1;
            wants.entry(link).or_default().push(Range {
                author: *author,
                first,
                last,
            });
            gap.fetch = Some(Fetch {
                link,
                first,
                through: None,
                deadline: now + FETCH_TIMEOUT,
            });
        }
        wants
    }

    /// Brings claims and gaps in line with what is held.
    fn find_gaps(&mut self, now: Timestamp, world: &impl Holdings) {
        for claims in self.claims.values_mut() {
            claims.retain(|author, nonce| *nonce > world.held(author));
            for author in claims.keys() {
                self.gaps.entry(*author).or_insert(Gap {
                    since: now,
                    fetch: None,
                    patient: false,
                });
            }
        }
        let claims = &self.claims;
        self.gaps
            .retain(|author, _| claims.values().any(|claims| claims.contains_key(author)));
    }

    /// When [`plan`](Self::plan) has to be called again at the latest.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// Whether what is counted is what there is.
    #[cfg(any(test, feature = "__fuzz"))]
    pub(crate) fn is_consistent(&self) -> bool {
        let mut load: BTreeMap<LinkId, usize> = BTreeMap::new();
        for fetch in self.gaps.values().filter_map(|gap| gap.fetch.as_ref()) {
            *load.entry(fetch.link).or_default() += 1;
        }
        let due = self.gaps.values().filter_map(Gap::due).min();
        let counted = self.load.iter().filter(|(_, count)| **count > 0);
        counted.eq(load.iter()) && due.is_none_or(|due| self.due.is_some_and(|at| at <= due))
    }
}

impl Gap {
    /// When something has to be done about it.
    fn due(&self) -> Option<Timestamp> {
        match &self.fetch {
            Some(fetch) => Some(fetch.deadline),
            // One that found nobody to ask is looked at again when another fetch ends.
            None => self.patient.then_some(self.since + GRACE),
        }
    }

    /// Ends the fetch if it has arrived or gone stale.
    fn review(
        &mut self,
        now: Timestamp,
        author: &AuthorId,
        held: u64,
        claims: &mut BTreeMap<LinkId, BTreeMap<AuthorId, u64>>,
    ) {
        let Some(fetch) = &self.fetch else {
            return;
        };
        let arrived = fetch.through.is_some_and(|through| held >= through);
        let stale = now >= fetch.deadline;
        if stale && held < fetch.first {
            drop_claim(claims, fetch.link, author);
        }
        if arrived || stale {
            self.fetch = None;
        }
    }
}

/// A link has one gap less to fetch.
fn lighten(load: &mut BTreeMap<LinkId, usize>, link: LinkId) {
    if let Some(count) = load.get_mut(&link) {
        *count = count.saturating_sub(1);
    }
}

fn drop_claim(
    claims: &mut BTreeMap<LinkId, BTreeMap<AuthorId, u64>>,
    link: LinkId,
    author: &AuthorId,
) {
    if let Some(claims) = claims.get_mut(&link) {
        claims.remove(author);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: AuthorId = AuthorId::from_bytes([1; 32]);
    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    /// How far we have the author, and which link leads to it.
    struct Facts(u64, Option<LinkId>);

    impl Holdings for Facts {
        fn held(&self, _: &AuthorId) -> u64 {
            self.0
        }
        fn leads_to(&self, link: LinkId, _: &AuthorId) -> bool {
            self.1 == Some(link)
        }
        fn linked(&self, _: &AuthorId) -> bool {
            self.1.is_some()
        }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn range(first: u64, last: u64) -> Range {
        Range {
            author: AUTHOR,
            first,
            last,
        }
    }

    /// What is asked of whom, where at most one thing is asked.
    fn asked(sync: &mut AntiEntropy, millis: u64, facts: &Facts) -> Option<(LinkId, Range)> {
        let wants = sync.plan(at(millis), facts);
        assert!(wants.len() <= 1);
        wants.into_iter().next().map(|(id, ranges)| (id, ranges[0]))
    }

    #[test]
    fn a_gap_is_asked_for_once_and_window_by_window() {
        let mut sync = AntiEntropy::default();
        sync.claim(A, AUTHOR, 100);
        sync.claim(B, AUTHOR, 100);
        assert_eq!(
            asked(&mut sync, 0, &Facts(10, None)),
            Some((A, range(11, 100)))
        );
        assert_eq!(asked(&mut sync, 1, &Facts(10, None)), None);
        // The answer overtakes the frames that it speaks of.
        sync.on_served(A, &[range(11, 50)]);
        assert_eq!(asked(&mut sync, 2, &Facts(30, None)), None);
        assert_eq!(
            asked(&mut sync, 3, &Facts(50, None)),
            Some((A, range(51, 100)))
        );
        assert_eq!(asked(&mut sync, 4, &Facts(100, None)), None);
        assert_eq!(sync.next_timeout(), None);
    }

    #[test]
    fn a_peer_that_claims_and_does_not_deliver_is_passed_over() {
        let mut sync = AntiEntropy::default();
        sync.claim(A, AUTHOR, u64::MAX);
        sync.claim(B, AUTHOR, 20);
        let facts = Facts(10, None);
        assert_eq!(asked(&mut sync, 0, &facts), Some((A, range(11, u64::MAX))));
        assert_eq!(sync.next_timeout(), Some(at(1000)));
        assert_eq!(asked(&mut sync, 1000, &facts), Some((B, range(11, 20))));
        // One that says at once that it has nothing is passed over at once.
        sync.claim(A, AUTHOR, 20);
        sync.on_served(B, &[range(11, 10)]);
        assert_eq!(asked(&mut sync, 1001, &facts), Some((A, range(11, 20))));
    }

    #[test]
    fn a_range_left_over_by_a_full_answer_is_asked_for_again() {
        let mut sync = AntiEntropy::default();
        sync.claim(A, AUTHOR, 20);
        let facts = Facts(10, None);
        assert!(asked(&mut sync, 0, &facts).is_some());
        let other = Range {
            author: AuthorId::from_bytes([2; 32]),
            first: 1,
            last: 9,
        };
        sync.on_served(A, &[other, range(11, 10)]);
        assert_eq!(asked(&mut sync, 1, &facts), Some((A, range(11, 20))));
    }

    #[test]
    fn a_linked_author_is_asked_first_and_others_when_it_stays_silent() {
        let mut sync = AntiEntropy::default();
        sync.claim(A, AUTHOR, 20);
        let facts = Facts(10, Some(B));
        assert_eq!(asked(&mut sync, 0, &facts), None);
        assert_eq!(sync.next_timeout(), Some(at(300)));
        assert_eq!(asked(&mut sync, 300, &facts), Some((A, range(11, 20))));

        let mut sync = AntiEntropy::default();
        sync.claim(A, AUTHOR, 20);
        sync.claim(B, AUTHOR, 20);
        assert_eq!(asked(&mut sync, 0, &facts), Some((B, range(11, 20))));
    }

    #[test]
    fn what_was_asked_of_a_lost_link_is_asked_of_another() {
        let mut sync = AntiEntropy::default();
        sync.claim(A, AUTHOR, 20);
        sync.claim(B, AUTHOR, 20);
        let facts = Facts(10, None);
        assert!(asked(&mut sync, 0, &facts).is_some());
        sync.forget(A);
        assert_eq!(asked(&mut sync, 1, &facts), Some((B, range(11, 20))));
    }

    #[test]
    fn invented_authors_fill_no_more_than_their_share() {
        let mut sync = AntiEntropy::default();
        for n in 0..10_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            sync.claim(A, AuthorId::from_bytes(key), 1);
        }
        sync.claim(B, AUTHOR, 20);
        let wants = sync.plan(at(0), &Facts(0, None));
        assert_eq!(sync.gaps.len(), MAX_CLAIMS + 1);
        assert_eq!(wants[&A].len(), MAX_LIST);
        assert_eq!(wants[&B], [range(1, 20)]);
        assert_eq!(sync.next_timeout(), Some(at(1000)));
    }
}
