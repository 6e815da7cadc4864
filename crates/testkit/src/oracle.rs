//! What must hold of a world at rest.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_command_log::{CommandLog, FrameId, Head, SharedFrame, Stable, StateHash};
use roundtable_core::{AuthorId, PeerId, WallTime};
use roundtable_session::Session;

use crate::{Violation, World, model};

/// Later than any frame of any world.
pub(crate) const AFTER_ALL: WallTime = WallTime::from_millis(2_000_000_000_000);
/// How often frames are handed to a log whose places for waiting frames may be full.
const ROUNDS: usize = 100;

/// What one peer holds and shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    checkpoint: Option<Stable>,
    heads: Vec<Head>,
    forks: Vec<(AuthorId, FrameId)>,
    state: StateHash,
}

/// Whose logs fork, and after which frames.
fn forks(log: &CommandLog) -> Vec<(AuthorId, FrameId)> {
    let forks = log.forks().into_iter();
    forks.map(|fork| (fork.author(), fork.parent())).collect()
}

/// By author, the last nonce.
pub(crate) type Frontier = BTreeMap<AuthorId, u64>;

impl World {
    /// All that any honest peer holds that is up, of honest authors: what others have signed may have
    /// to be given up.
    pub(crate) fn frontier(&self) -> Frontier {
        let mut frontier = Frontier::new();
        let honest = |author| {
            let mut peers = self.peers.iter().filter(|peer| peer.is_honest());
            peers.any(|peer| peer.author() == author)
        };
        for log in self.honest_logs() {
            for head in log.heads().into_iter().filter(|head| honest(head.author)) {
                let last = frontier.entry(head.author).or_default();
                *last = head.nonce.max(*last);
            }
        }
        frontier
    }

    /// Whether every honest peer holds that.
    pub(crate) fn holds_everywhere(&self, frontier: &Frontier) -> bool {
        let held = |log: &CommandLog| {
            frontier
                .iter()
                .all(|(author, nonce)| log.head(*author).is_some_and(|head| head.nonce >= *nonce))
        };
        self.honest().len() == self.honest_logs().count() && self.honest_logs().all(held)
    }

    /// What all honest peers hold and show, if it is the same.
    pub(crate) fn at_rest(&self) -> Option<Rest> {
        if self.honest().len() != self.honest_logs().count() {
            return None;
        }
        let mut logs = self.honest_logs().map(|log| Rest {
            checkpoint: log.checkpoint(),
            heads: log.heads(),
            forks: forks(log),
            state: log.state_hash(),
        });
        let first = logs.next()?;
        logs.all(|log| log == first).then_some(first)
    }

    pub(crate) fn honest_logs(&self) -> impl Iterator<Item = &CommandLog> {
        let honest = self.peers.iter().filter(|peer| peer.is_honest());
        honest.filter_map(|peer| peer.session.as_ref()?.log())
    }

    /// Holds a world at rest against everything that was promised.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn check(&mut self) -> Result<(), Violation> {
        self.verdict()?;
        let honest = self.honest();
        let Some(first) = honest.first().copied() else {
            return Ok(());
        };
        for number in &honest {
            self.compare(first, *number)?;
        }
        self.check_messages()?;
        self.check_checkpoints()?;
        self.check_meaning(first)?;
        let reader = self.dice.pick(&honest).unwrap_or(first);
        self.check_shuffled(reader)
    }

    pub(crate) fn log_of(&self, number: usize) -> Result<(&PeerId, &CommandLog), Violation> {
        let peer = &self.peers[number];
        let log = peer.session.as_ref().and_then(Session::log);
        let log = log.ok_or_else(|| Violation::AnotherRoom(peer.id.clone()))?;
        Ok((&peer.id, log))
    }

    /// Two peers hold the same and mean the same by it. Heads name whole logs: ids are chained.
    fn compare(&self, first: usize, other: usize) -> Result<(), Violation> {
        let ((a, left), (b, right)) = (self.log_of(first)?, self.log_of(other)?);
        if left.genesis_hash() != right.genesis_hash() {
            return Err(Violation::AnotherRoom(b.clone()));
        }
        if left.heads() != right.heads() {
            return Err(Violation::Heads(a.clone(), b.clone()));
        }
        if forks(left) != forks(right) {
            return Err(Violation::Forks(a.clone(), b.clone()));
        }
        if !left.roles().eq(right.roles()) {
            return Err(Violation::Roles(b.clone()));
        }
        if left.state_hash() != right.state_hash() {
            return Err(Violation::State(a.clone(), b.clone()));
        }
        Ok(())
    }

    /// A peer's roles and values are what the protocol's text makes of its frames.
    fn check_meaning(&self, number: usize) -> Result<(), Violation> {
        let (peer, log) = self.log_of(number)?;
        let base = model::Base::of(log);
        let model = model::Model::of(log.genesis(), &self.schema, &base, log.frames());
        if !model.roles.into_iter().eq(log.roles()) {
            return Err(Violation::Roles(peer.clone()));
        }
        let keys = self.schema.key_types().flat_map(|(id, _)| log.entries(id));
        let values: BTreeMap<_, _> = keys
            .map(|(key, value)| (key.clone(), value.to_vec()))
            .collect();
        if model.values != values {
            return Err(Violation::Values(peer.clone()));
        }
        Ok(())
    }

    /// A log that gets all that any peer holds, in any order and then branch by branch as peers serve
    /// it, comes to where a peer is.
    fn check_shuffled(&mut self, number: usize) -> Result<(), Violation> {
        let kept = self.honest_logs().flat_map(CommandLog::kept);
        let by_id: BTreeMap<FrameId, SharedFrame> = kept.map(|frame| (frame.id(), frame)).collect();
        let mut frames: Vec<&SharedFrame> = by_id.values().collect();
        self.dice.shuffle(&mut frames);
        let (peer, log) = self.log_of(number)?;
        let failed = || Violation::Shuffled(peer.clone());
        let mut fresh = CommandLog::new(log.genesis().clone(), self.schema.clone(), None)
            .map_err(|_| failed())?;
        if let Some(snapshot) = log.snapshot(0) {
            fresh.install(AFTER_ALL, &snapshot).map_err(|_| failed())?;
        }
        let counts = |frame: &SharedFrame| {
            let ours = log.header_with(frame.author(), frame.header().last_nonce());
            ours.is_some_and(|(_, id)| id == frame.id())
        };
        let aside = frames.iter().filter(|frame| !counts(frame));
        let forked: BTreeSet<AuthorId> = aside.map(|frame| frame.author()).collect();
        let mut feed = |frames: &[&SharedFrame]| {
            for frame in frames {
                let received = fresh.receive(AFTER_ALL, frame.bytes().clone());
                received.map_err(|_| failed())?;
            }
            fresh.settle(AFTER_ALL);
            let same = fresh.heads() == log.heads() && forks(&fresh) == forks(log);
            Ok(same && fresh.state_hash() == log.state_hash())
        };
        for _ in 0..ROUNDS {
            if feed(&frames)? {
                return Ok(());
            }
            for last in frames
                .iter()
                .filter(|frame| forked.contains(&frame.author()))
            {
                let below = |frame: &&SharedFrame| by_id.get(&frame.header().previous);
                let mut branch: Vec<_> = std::iter::successors(Some(*last), below).collect();
                branch.reverse();
                feed(&branch)?;
            }
        }
        Err(failed())
    }
}
