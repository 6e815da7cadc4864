//! Whose consent makes a checkpoint stable: a function of what has been signed, and one that what
//! comes later can never take back.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_core::AuthorId;

/// What has been signed about one proposal.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    /// Who has committed it.
    pub(crate) commits: BTreeSet<AuthorId>,
    /// Whom others want to go on without, and who wants that.
    pub(crate) retirements: BTreeMap<AuthorId, BTreeSet<AuthorId>>,
    /// Who is proven to have signed twice for one place since the checkpoint before.
    pub(crate) forked: BTreeSet<AuthorId>,
}

/// The writers on whom a checkpoint depends.
#[derive(Debug)]
pub(crate) struct Electorate {
    pub(crate) creator: AuthorId,
    /// Those of the stable checkpoint before: they alone retire, and more than half of them must
    /// commit.
    pub(crate) before: BTreeSet<AuthorId>,
    /// Those of the proposal itself.
    pub(crate) after: BTreeSet<AuthorId>,
}

impl Electorate {
    /// Whether these are more than half of the writers before. Where a half stands against the other,
    /// the one with the creator is more; so any two that are have a writer in common.
    pub(crate) fn is_majority(&self, some: &BTreeSet<AuthorId>) -> bool {
        let present = some.intersection(&self.before).count();
        let with_creator = some.contains(&self.creator) && self.before.contains(&self.creator);
        4 * present + 2 * usize::from(with_creator) > 2 * self.before.len() + 1
    }

    /// As many of these as are a majority, the creator first; all writers among them if they are none.
    pub(crate) fn majority_of(&self, some: &BTreeSet<AuthorId>) -> BTreeSet<AuthorId> {
        let creator = some.get(&self.creator);
        let candidates = creator.into_iter().chain(some);
        let mut enough = BTreeSet::new();
        for author in candidates.filter(|author| self.before.contains(author)) {
            if self.is_majority(&enough) {
                break;
            }
            enough.insert(*author);
        }
        enough
    }

    /// All whom the checkpoint concerns.
    pub(crate) fn concerned(&self) -> impl Iterator<Item = AuthorId> {
        self.before.union(&self.after).copied()
    }

    /// Those without whom the checkpoint cannot become stable.
    pub(crate) fn required(&self, votes: &Votes) -> BTreeSet<AuthorId> {
        let retired = |author: &AuthorId| {
            let voters = votes.retirements.get(author);
            voters.is_some_and(|voters| self.is_majority(voters))
        };
        self.concerned()
            .filter(|author| !votes.forked.contains(author) && !retired(author))
            .collect()
    }

    /// Whether the checkpoint is stable.
    pub(crate) fn is_stable(&self, votes: &Votes) -> bool {
        self.required(votes).is_subset(&votes.commits) && self.is_majority(&votes.commits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn author(number: u8) -> AuthorId {
        AuthorId::from_bytes([number; 32])
    }

    fn some(bits: u8) -> BTreeSet<AuthorId> {
        let members = (0..8).filter(|n| bits & (1 << n) != 0);
        members.map(author).collect()
    }

    fn electorate(writers: u8) -> Electorate {
        Electorate {
            creator: author(0),
            before: (0..writers).map(author).collect(),
            after: BTreeSet::new(),
        }
    }

    #[test]
    fn any_two_majorities_have_a_writer_in_common() {
        for writers in 1..=6 {
            let electorate = electorate(writers);
            for (left, right) in (0..=u8::MAX).flat_map(|l| (0..=u8::MAX).map(move |r| (l, r))) {
                let (left, right) = (some(left), some(right));
                if electorate.is_majority(&left) && electorate.is_majority(&right) {
                    let mut common = left.intersection(&right);
                    assert!(common.any(|author| electorate.before.contains(author)));
                }
            }
        }
    }

    #[test]
    fn no_more_voters_are_kept_than_make_a_majority() {
        let electorate = electorate(5);
        let strangers_too = some(0b1111_1111);
        let enough = electorate.majority_of(&strangers_too);
        assert!(electorate.is_majority(&enough));
        assert_eq!(enough, some(0b111));
        assert_eq!(electorate.majority_of(&some(0b1110_0110)), some(0b110));
    }

    #[test]
    fn the_creator_of_a_pair_can_go_on_alone_and_the_other_cannot() {
        let electorate = electorate(2);
        assert!(electorate.is_majority(&some(0b01)));
        assert!(!electorate.is_majority(&some(0b10)));
    }

    proptest! {
        /// Nothing that is signed later takes a checkpoint's stability back.
        #[test]
        fn more_votes_never_unsettle(
            writers in 1..7_u8, commits: u8, retired in prop::collection::btree_map(0..7_u8, any::<u8>(), 0..5),
            forked: u8, more: u8, again in 0..7_u8, voters: u8, forks: u8,
        ) {
            let electorate = electorate(writers);
            let retirements = retired.iter().map(|(target, voters)| (author(*target), some(*voters)));
            let mut votes = Votes {
                commits: some(commits),
                retirements: retirements.collect(),
                forked: some(forked),
            };
            if electorate.is_stable(&votes) {
                votes.commits.extend(some(more));
                votes.retirements.entry(author(again)).or_default().extend(some(voters));
                votes.forked.extend(some(forks));
                prop_assert!(electorate.is_stable(&votes));
            }
        }

        /// Two proposals over the same checkpoint that are both stable were committed by one writer.
        #[test]
        fn two_that_are_stable_share_a_writer_who_committed_both(
            writers in 1..7_u8, left: u8, right: u8,
            retired in prop::collection::btree_map(0..7_u8, any::<u8>(), 0..5), forked: u8,
        ) {
            let electorate = electorate(writers);
            let votes = |commits: u8| Votes {
                commits: some(commits),
                retirements: retired.iter().map(|(target, voters)| (author(*target), some(*voters))).collect(),
                forked: some(forked),
            };
            if electorate.is_stable(&votes(left)) && electorate.is_stable(&votes(right)) {
                prop_assert!(left & right & ((1 << writers) - 1) != 0);
            }
        }
    }
}
