//! Who may do what, as a pure function of all role commands.
//!
//! Role commands are ranked: the creator has rank 0, and a role command has one rank more than its
//! author had when it wrote it. For each nonce of a target the lowest rank rules, then the last in
//! order. So no Admin can be unseated by those whom it appointed, whatever order commands arrive
//! in, and ranks can be evaluated one after the other: each depends on lower ones alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use roundtable_core::AuthorId;

use crate::{
    AuthorAtCut, Checkpoint, Covered, Genesis, Order, Role,
    faults::{__Broken, is_broken},
};

/// A role command.
#[derive(Debug, Clone, Copy)]
struct RoleCommand {
    order: Order,
    target: AuthorId,
    role: Role,
    covered: Covered,
}

/// A role command that counts. Sorted by who rules: lowest rank, then last in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ruling {
    rank: u32,
    order: Reverse<Order>,
    role: Role,
    covered: Covered,
}

type Rulings = BTreeMap<AuthorId, BTreeSet<Ruling>>;

/// An author whose role changed, for all nonces after this one.
pub(crate) type Change = (AuthorId, u64);

/// All role commands and what follows from them.
#[derive(Debug)]
pub(crate) struct Roles {
    creator: AuthorId,
    default: Role,
    /// How many authors may have a higher role than the default at a time.
    max_writers: usize,
    /// By author, in the order of its log.
    commands: BTreeMap<AuthorId, Vec<RoleCommand>>,
    /// What rules since the last stable checkpoint: earlier than all commands.
    base: Rulings,
    rulings: Rulings,
    /// Whose frames are here without a place: what they write counts nowhere.
    outside: BTreeSet<AuthorId>,
    stale: bool,
}

impl Roles {
    pub(crate) fn new(genesis: &Genesis) -> Self {
        Self {
            creator: genesis.creator(),
            default: genesis.params().default_role,
            max_writers: usize::from(genesis.params().max_writers),
            commands: BTreeMap::new(),
            base: BTreeMap::new(),
            rulings: BTreeMap::new(),
            outside: BTreeSet::new(),
            stale: false,
        }
    }

    /// The roles at a checkpoint: for each author one ruling, of the rank that it had, on all that it
    /// writes from there on.
    pub(crate) fn after(checkpoint: &Checkpoint, genesis: &Genesis) -> Self {
        let mut roles = Self::new(genesis);
        for AuthorAtCut { author, head, role } in &checkpoint.authors {
            let Some((role, rank)) = *role else { continue };
            let order = Order {
                lamport: 0,
                author: *author,
                nonce: 0,
            };
            let covered = Covered {
                nonce: head.nonce,
                id: head.id,
            };
            let order = Reverse(order);
            let ruling = Ruling {
                rank,
                order,
                role,
                covered,
            };
            roles.base.insert(*author, BTreeSet::from([ruling]));
        }
        roles.rulings = roles.base.clone();
        roles
    }

    /// The authors that role commands name which count.
    pub(crate) fn ruled_authors(&self) -> impl Iterator<Item = AuthorId> {
        let ruled = self.rulings.keys().copied();
        ruled.filter(|author| *author != self.creator)
    }

    /// The role that an author was given, and the rank of that.
    pub(crate) fn standing(&self, author: AuthorId) -> Option<(Role, u32)> {
        let (role, rank) = self.ruled(&self.rulings, author, u64::MAX, u64::MAX);
        let rank = rank.filter(|_| author != self.creator);
        rank.map(|rank| (role, rank))
    }

    /// Adds a role command, the next of its author's.
    pub(crate) fn push(&mut self, order: Order, target: AuthorId, role: Role, covered: Covered) {
        let command = RoleCommand {
            order,
            target,
            role,
            covered,
        };
        self.commands.entry(order.author).or_default().push(command);
        // Only an Admin's command changes anything now; another's is found when a grant to its
        // author is evaluated.
        self.stale |= self.may_rule(order.author);
    }

    /// Takes back an author's role commands with nonces above `after`.
    pub(crate) fn retract(&mut self, author: AuthorId, after: u64) {
        if let Some(commands) = self.commands.get_mut(&author) {
            let kept = commands.partition_point(|command| command.order.nonce <= after);
            self.stale |= kept < commands.len();
            commands.truncate(kept);
        }
    }

    /// What role commands say of the branches of an author's log, the first to be heeded first.
    pub(crate) fn pins(&self, author: AuthorId) -> Vec<Covered> {
        let rulings = self.rulings.get(&author).filter(|_| author != self.creator);
        let rank = self.rank_of_rulings(author);
        let rulings = rulings.into_iter().flatten();
        let lowest = rulings.take_while(|ruling| ruling.rank == rank);
        lowest.map(|ruling| ruling.covered).collect()
    }

    /// The lowest rank of the role commands on an author that count.
    pub(crate) fn rank_of_rulings(&self, author: AuthorId) -> u32 {
        if author == self.creator {
            return 0;
        }
        let rulings = self.rulings.get(&author);
        let lowest = rulings.and_then(BTreeSet::first);
        lowest.map_or(u32::MAX, |ruling| ruling.rank)
    }

    fn may_rule(&self, author: AuthorId) -> bool {
        let admin = |rulings: &BTreeSet<Ruling>| rulings.iter().any(|r| r.role == Role::Admin);
        author == self.creator || self.rulings.get(&author).is_some_and(admin)
    }

    /// The role in which an author wrote a command.
    pub(crate) fn at(&self, author: AuthorId, nonce: u64, lamport: u64) -> Role {
        if self.is_outside(author) {
            return Role::Viewer;
        }
        self.ruled(&self.rulings, author, nonce, lamport).0
    }

    /// Says who has no place, and of whom that is news.
    pub(crate) fn set_outside(&mut self, outside: BTreeSet<AuthorId>) -> Vec<AuthorId> {
        let before = std::mem::replace(&mut self.outside, outside);
        before
            .symmetric_difference(&self.outside)
            .copied()
            .collect()
    }

    /// Whether what an author writes counts nowhere, for want of a place.
    pub(crate) fn is_outside(&self, author: AuthorId) -> bool {
        self.outside.contains(&author) && !self.names(author)
    }

    /// Whether a put counts.
    pub(crate) fn permits_put(&self, order: &Order) -> bool {
        self.at(order.author, order.nonce, order.lamport) >= Role::Editor
    }

    /// The role in which an author would write now.
    pub(crate) fn now(&self, author: AuthorId) -> Role {
        self.at(author, u64::MAX, u64::MAX)
    }

    /// Whether a role command by an Admin counts: one that found no place for another writer does not.
    pub(crate) fn counts(&self, order: &Order, target: AuthorId) -> bool {
        let rulings = self.rulings.get(&target).into_iter().flatten();
        rulings.into_iter().any(|ruling| ruling.order.0 == *order)
    }

    /// Whether a role command that counts names this author.
    pub(crate) fn names(&self, author: AuthorId) -> bool {
        self.rulings.contains_key(&author)
    }

    /// The authors whose role now is not the default, in order.
    pub(crate) fn current(&self) -> impl Iterator<Item = (AuthorId, Role)> {
        let ruled = self.rulings.keys().copied().filter(|a| *a != self.creator);
        let all: BTreeSet<_> = ruled.chain([self.creator]).collect();
        all.into_iter()
            .map(|author| (author, self.now(author)))
            .filter(|(_, role)| *role != self.default)
    }

    /// Evaluates what has come in, and names those whose role changed.
    pub(crate) fn refresh(&mut self) -> Vec<Change> {
        if !std::mem::take(&mut self.stale) {
            return Vec::new();
        }
        let rulings = if is_broken(__Broken::RolesByPlainOrder) {
            self.evaluate_plainly()
        } else {
            self.evaluate()
        };
        let old = std::mem::replace(&mut self.rulings, rulings);
        let none = BTreeSet::new();
        let targets: BTreeSet<_> = old.keys().chain(self.rulings.keys()).collect();
        let changed = targets.into_iter().filter_map(|target| {
            let old = old.get(target).unwrap_or(&none);
            let new = self.rulings.get(target).unwrap_or(&none);
            let from = old.symmetric_difference(new).map(|r| r.covered.nonce);
            Some((*target, from.min()?))
        });
        changed.collect()
    }

    /// The role of a command and the rank of who ruled it, `None` for the default.
    ///
    /// A ruling reaches back to commands that its author had not seen only to take away: what is
    /// not above its Lamport time it can lower, not raise.
    fn ruled(
        &self,
        rulings: &Rulings,
        author: AuthorId,
        nonce: u64,
        lamport: u64,
    ) -> (Role, Option<u32>) {
        if author == self.creator {
            return (Role::Admin, Some(0));
        }
        let mut ceiling = Role::Admin;
        let rulings = rulings.get(&author).into_iter().flatten();
        for ruling in rulings.filter(|ruling| ruling.covered.nonce < nonce) {
            ceiling = ceiling.min(ruling.role);
            if ruling.order.0.lamport < lamport {
                return (ceiling, Some(ruling.rank));
            }
        }
        (ceiling.min(self.default), None)
    }

    /// Who is an Admin by a ruling of this rank since the last stable checkpoint.
    fn based_admins(&self, rank: u32) -> impl Iterator<Item = AuthorId> {
        let all = self.base.iter();
        let admins = all.filter(move |(_, rulings)| {
            let mut rulings = rulings.iter();
            rulings.any(|ruling| ruling.rank == rank && ruling.role == Role::Admin)
        });
        admins.map(|(author, _)| *author)
    }

    /// Whoever had a place at the last stable checkpoint, and so was there before all others.
    fn based_writers(&self) -> BTreeSet<AuthorId> {
        let based = self.base.keys().copied();
        let role = |author| self.ruled(&self.base, author, u64::MAX, u64::MAX).0;
        let writers = based.filter(|author| role(*author) > self.default);
        writers.chain([self.creator]).collect()
    }

    /// All role commands that count, rank by rank from the creator's, and within a rank in order: whoever
    /// comes first gets a place.
    fn evaluate(&self) -> Rulings {
        let mut rulings = self.base.clone();
        let based = self.base.values().flatten();
        let highest = based.map(|ruling| ruling.rank).max().unwrap_or(0);
        let mut admins = BTreeSet::from([self.creator]);
        let mut writers = self.based_writers();
        for rank in 1_u32.. {
            let by_rank = (Role::Admin, Some(rank - 1));
            let commands = admins.iter().filter_map(|admin| self.commands.get(admin));
            let mut of_rank: Vec<_> = commands
                .flatten()
                .filter(|RoleCommand { order, .. }| {
                    self.ruled(&rulings, order.author, order.nonce, order.lamport) == by_rank
                })
                .collect();
            if of_rank.is_empty() && rank > highest {
                break;
            }
            of_rank.sort_unstable_by_key(|command| command.order);
            admins.clear();
            admins.extend(self.based_admins(rank));
            for command in of_rank {
                let counts = self.rule(&mut rulings, &mut writers, rank, command);
                if counts && command.role == Role::Admin {
                    admins.insert(command.target);
                }
            }
            admins.remove(&self.creator);
        }
        rulings
    }

    /// What a simulator's broken peers make of role commands.
    fn evaluate_plainly(&self) -> Rulings {
        let mut rulings = self.base.clone();
        let mut commands: Vec<_> = self.commands.values().flatten().collect();
        commands.sort_unstable_by_key(|command| command.order);
        let mut writers = self.based_writers();
        for command in commands {
            let Order {
                author,
                nonce,
                lamport,
            } = command.order;
            if self.ruled(&rulings, author, nonce, lamport).0 == Role::Admin {
                self.rule(&mut rulings, &mut writers, 1, command);
            }
        }
        rulings
    }

    /// Lets a role command count, unless it would make another writer of somebody and there is no place. Says
    /// whether it does.
    fn rule(
        &self,
        rulings: &mut Rulings,
        writers: &mut BTreeSet<AuthorId>,
        rank: u32,
        command: &RoleCommand,
    ) -> bool {
        let target = command.target;
        let ruling = Ruling {
            rank,
            order: Reverse(command.order),
            role: command.role,
            covered: command.covered,
        };
        rulings.entry(target).or_default().insert(ruling);
        let (role, _) = self.ruled(rulings, target, u64::MAX, u64::MAX);
        if role <= self.default {
            writers.remove(&target);
        } else if !writers.contains(&target) {
            if writers.len() >= self.max_writers {
                if let Entry::Occupied(mut of_target) = rulings.entry(target) {
                    of_target.get_mut().remove(&ruling);
                    // Whom nothing is ruled of is a stranger, whatever was tried.
                    if of_target.get().is_empty() {
                        of_target.remove();
                    }
                }
                return false;
            }
            writers.insert(target);
        }
        true
    }
}
