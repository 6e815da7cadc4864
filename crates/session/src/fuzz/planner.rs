//! Body of the fuzz target `anti_entropy`: peers claim, deliver and fall silent as a list of operations says, and what
//! is asked of whom stays within bounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use roundtable_core::{AuthorId, Timestamp};
use roundtable_wire::session::{MAX_LIST, Range};

use crate::{
    LinkId,
    anti_entropy::{AntiEntropy, Holdings},
};

const MAX_OPS: usize = 500;

/// One of a few links, and one of a few authors. The author with a link's number is at its end.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Place(u8, u8);

impl Place {
    fn link(self) -> LinkId {
        LinkId(u64::from(self.0 % 4))
    }

    fn author(self) -> AuthorId {
        AuthorId::from_bytes([self.1 % 6; 32])
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    /// A peer says how far it has an author.
    Claim(Place, u16),
    /// A peer says that it has sent an answer up to here.
    Served(Place, u16, u16),
    /// Frames of an author arrive.
    Arrive(Place, u8),
    Wait(u16),
    LinkLost(Place),
    LogChanged,
}

/// What is held of each author, and what peers are linked.
#[derive(Debug, Default)]
struct Facts {
    held: BTreeMap<AuthorId, u64>,
    lost: BTreeSet<LinkId>,
}

impl Holdings for Facts {
    fn held(&self, author: &AuthorId) -> u64 {
        self.held.get(author).copied().unwrap_or(0)
    }

    fn leads_to(&self, link: LinkId, author: &AuthorId) -> bool {
        u64::from(author.as_bytes()[0]) == link.0 && !self.lost.contains(&link)
    }

    fn linked(&self, author: &AuthorId) -> bool {
        self.leads_to(LinkId(author.as_bytes()[0].into()), author)
    }
}

/// Plays a list of operations: nothing is asked for that is held, nothing of two peers at a time, nothing of a lost
/// link, and there is always a next moment at which a silent peer is given up.
#[allow(unreachable_pub)] // reached with the feature
pub fn __fuzz_anti_entropy(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let (mut sync, mut facts, mut now) = (AntiEntropy::default(), Facts::default(), 0_u64);
    for _ in 0..MAX_OPS {
        let Ok(op) = Op::arbitrary(&mut input) else {
            break;
        };
        match op {
            Op::Claim(place, nonce) if !facts.lost.contains(&place.link()) => {
                sync.claim(place.link(), place.author(), nonce.into());
            }
            Op::Claim(..) => {}
            Op::Served(place, first, last) => {
                let (first, last) = (first.into(), last.into());
                let author = place.author();
                sync.on_served(
                    place.link(),
                    &[Range {
                        author,
                        first,
                        last,
                    }],
                );
            }
            Op::Arrive(place, count) => {
                *facts.held.entry(place.author()).or_default() += u64::from(count);
                sync.go_on(Timestamp::from_millis(now), &facts, place.author());
                assert!(sync.is_consistent());
            }
            Op::Wait(ms) => now += u64::from(ms),
            Op::LinkLost(place) => {
                facts.lost.insert(place.link());
                sync.forget(place.link());
            }
            Op::LogChanged => {
                sync.clear();
                facts.held.clear();
            }
        }
        if input.is_empty() {
            break;
        }
        check_plan(&mut sync, &facts, Timestamp::from_millis(now));
    }
    // Nobody answers any more: in the end nothing is asked for.
    for _ in 0..100 {
        let Some(due) = sync.next_timeout() else {
            return;
        };
        let at = due + Duration::from_millis(1);
        check_plan(&mut sync, &facts, at);
    }
    panic!("what nobody delivers is asked for without end");
}

fn check_plan(sync: &mut AntiEntropy, facts: &Facts, now: Timestamp) {
    let mut asked = BTreeSet::new();
    for (link, ranges) in sync.plan(now, facts) {
        assert!(!facts.lost.contains(&link), "asked of a link that is lost");
        assert!(!ranges.is_empty() && ranges.len() <= MAX_LIST);
        for range in ranges {
            assert_eq!(range.first, facts.held(&range.author) + 1);
            assert!(range.last >= range.first);
            assert!(asked.insert(range.author), "asked of two at a time");
        }
    }
    assert!(sync.is_consistent());
    // Planning again at once asks for nothing more.
    assert!(sync.plan(now, facts).is_empty());
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn whatever_peers_claim_requests_stay_within_bounds(data in vec(any::<u8>(), 0..2000)) {
            __fuzz_anti_entropy(&data);
        }
    }
}
