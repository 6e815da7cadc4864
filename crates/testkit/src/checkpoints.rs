//! Checkpoints in a world: who proposes them, what a disk keeps of them, and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_command_log::{
    __Broken, __break_rule, CommandLog, FrameId, Role, Stable, UnverifiedFrame,
};
use roundtable_core::{Channel, Frame, Payload, PeerId};
use roundtable_session::{Input, Session};

use crate::{Fault, Kind, Violation, World, oracle};

/// How often everything is shown to a log that replays it: branches come after the commands that name them.
const ROUNDS: usize = 8;
/// The same, branch by branch.
const BRANCH_ROUNDS: usize = 2;

impl World {
    /// Breaks those rules of the log that a fault says.
    pub(crate) fn break_rules(&self) {
        __break_rule(match self.fault {
            Some(Fault::CommitsRivals) => Some(__Broken::CommitsRivals),
            Some(Fault::TrustsSnapshots) => Some(__Broken::TrustsSnapshots),
            Some(Fault::RolesByPlainOrder) => Some(__Broken::RolesByPlainOrder),
            _ => None,
        });
    }

    /// One or several Admins propose a checkpoint.
    pub(crate) fn propose(&mut self) {
        let together = self.dice.chance(40);
        for number in self.honest() {
            let author = self.author(number);
            let log = self.session(number).and_then(Session::log);
            let admin = log.is_some_and(|log| log.role_of(author) == Role::Admin);
            if !admin {
                continue;
            }
            if self.try_input(number, Input::ProposeCheckpoint) {
                self.note(format!("p{number} proposes a checkpoint"));
                if !together {
                    return;
                }
            }
        }
    }

    /// Everyone wants to go on without those that are hostile or down.
    pub(crate) fn retire(&mut self) {
        let absent = |number: &usize| {
            let peer = &self.peers[*number];
            peer.kind == Kind::Hostile || (peer.kind == Kind::Honest && peer.gone)
        };
        let absent: Vec<_> = (0..self.peers.len()).filter(absent).collect();
        let Some(absent) = self.dice.pick(&absent) else {
            return;
        };
        let author = self.author(absent);
        self.note(format!("p{absent} is retired"));
        for number in self.honest() {
            self.try_input(number, Input::Retire { author });
        }
    }

    /// A hostile peer changes the last value of each snapshot that it sends.
    pub(crate) fn falsify(&self, sender: usize, frame: &mut Frame) {
        let Payload::Binary(piece) = &mut frame.payload else {
            return;
        };
        let hostile = self.peers[sender].kind == Kind::Hostile;
        if !hostile || frame.channel != Channel::Snapshot || piece.len() < 28 {
            return;
        }
        let number = |at: usize| {
            let bytes = piece[at..at + 8].try_into();
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let (len, offset) = (number(12), number(20));
        if offset + (piece.len() as u64 - 28) == len {
            let mut changed = piece.to_vec();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
            }
            *piece = changed.into();
        }
    }

    /// A peer says that a checkpoint is stable: it is the one that others have seen in its place. Its
    /// disk keeps what is needed to go on from there, and lets go of the rest.
    pub(crate) fn on_stable(&mut self, number: usize, stable: &Stable) -> Result<(), Violation> {
        self.note(format!("p{number} has checkpoint {}", stable.number));
        let place = usize::try_from(stable.number).unwrap_or(usize::MAX) - 1;
        let honest = self.peers[number].is_honest();
        match self.stable.get(place) {
            Some(known) if known == stable => {}
            None if place == self.stable.len() => self.stable.push(*stable),
            // Who fetches a snapshot may be the first to speak of its checkpoint.
            None => {}
            Some(_) if !honest => {}
            Some(_) => {
                let peer = self.peers[number].id.clone();
                let number = stable.number;
                return Err(Violation::Unsettled { peer, number });
            }
        }
        let peer = &mut self.peers[number];
        let log = peer.session.as_ref().and_then(Session::log);
        let Some(log) = log else { return Ok(()) };
        let own = peer.author();
        peer.store.snapshot = log.snapshot(0).map(|snapshot| snapshot.encode());
        peer.store.drop_through(log.pruned_through(own));
        // The log may have gone on to another since.
        let authors = log.checkpoint_at(stable.number).map(|c| c.authors);
        for at in authors.into_iter().flatten() {
            peer.skip(at.author, at.head.nonce);
        }
        Ok(())
    }

    /// What has become stable stays so, with the same values, and whoever joins by it is where whoever
    /// has seen everything is.
    pub(crate) fn check_checkpoints(&mut self) -> Result<(), Violation> {
        for number in self.honest() {
            let (peer, log) = self.log_of(number)?;
            let place = self.stable.len();
            if log.checkpoint().as_ref() != self.stable.last() {
                let (peer, number) = (peer.clone(), place as u64);
                return Err(Violation::Unsettled { peer, number });
            }
        }
        let honest = self.honest();
        let Some(number) = self.dice.pick(&honest) else {
            return Ok(());
        };
        let (peer, log) = self.log_of(number)?;
        self.check_joiner(peer, log, log)?;
        if !self.is_replayed(peer, log)? {
            self.excused += 1;
        }
        Ok(())
    }

    /// Whoever joins by the checkpoint that a giver has, and takes what a log keeps, is where that log is.
    fn check_joiner(
        &self,
        peer: &PeerId,
        giver: &CommandLog,
        log: &CommandLog,
    ) -> Result<(), Violation> {
        let cut = || Violation::Cut(peer.clone());
        let mut joiner = self.reader(log).ok_or_else(cut)?;
        if let Some(snapshot) = giver.snapshot(0) {
            __break_rule(None);
            let installed = joiner.install(oracle::AFTER_ALL, &snapshot);
            self.break_rules();
            installed.map_err(|_| cut())?;
        }
        joiner.restore(oracle::AFTER_ALL, log.kept().map(|f| f.bytes().clone()));
        joiner.settle(oracle::AFTER_ALL);
        if same(&joiner, log) {
            Ok(())
        } else {
            Err(Violation::Replayed(peer.clone()))
        }
    }

    /// Whoever replays what was sent from the genesis on is where a log is, or comes to the same checkpoint
    /// and from there, with what is kept, to where the log is. `false` if it misses branches that were let go
    /// before an Admin named them: these are still not found here at times.
    fn is_replayed(&self, peer: &PeerId, log: &CommandLog) -> Result<bool, Violation> {
        let replayed = || Violation::Replayed(peer.clone());
        let mut replayer = self.reader(log).ok_or_else(replayed)?;
        // Of what was sent, what somebody keeps, and what led there: a branch that reached nobody is no part of it.
        let by_id: BTreeMap<_, _> = self.archive.iter().map(|f| (f.id(), f)).collect();
        let mut ends: Vec<FrameId> = log.kept().map(|frame| frame.id()).collect();
        let line = (1..=self.stable.len() as u64).filter_map(|number| log.checkpoint_at(number));
        ends.extend(line.flat_map(|at| at.authors).map(|at| at.head.id));
        let mut led = BTreeSet::new();
        for end in ends {
            let mut next = Some(end);
            while let Some(id) = next.filter(|id| led.insert(*id)) {
                next = by_id.get(&id).map(|frame| frame.header().previous);
            }
        }
        let reached = |frame: &&UnverifiedFrame| led.contains(&frame.id());
        // What came in a form that only its receiver could read is found with those who kept it.
        let others = self.honest_logs().flat_map(CommandLog::kept);
        let others: Vec<_> = others.map(|frame| frame.bytes().clone()).collect();
        for _ in 0..ROUNDS {
            // What was refused by those who were there is refused here.
            for frame in self.archive.iter().filter(reached) {
                let _ = replayer.receive_frame(oracle::AFTER_ALL, frame.clone());
                replayer.settle(oracle::AFTER_ALL);
            }
            for frame in &others {
                let _ = replayer.receive(oracle::AFTER_ALL, frame.clone());
            }
            replayer.settle(oracle::AFTER_ALL);
            if same(&replayer, log) {
                return Ok(true);
            }
        }
        // A branch that was let go before an Admin named it is sent again by peers, as a whole.
        let forked = |frame: &&UnverifiedFrame| self.branches.contains(&frame.author());
        let ends: Vec<_> = self.archive.iter().filter(forked).collect();
        for _ in 0..BRANCH_ROUNDS {
            for end in &ends {
                let below = |frame: &&UnverifiedFrame| by_id.get(&frame.header().previous).copied();
                let mut branch: Vec<_> = std::iter::successors(Some(*end), below).collect();
                branch.reverse();
                for frame in branch {
                    let _ = replayer.receive_frame(oracle::AFTER_ALL, frame.clone());
                }
                replayer.settle(oracle::AFTER_ALL);
            }
            for frame in self.archive.iter().filter(reached) {
                let _ = replayer.receive_frame(oracle::AFTER_ALL, frame.clone());
            }
            replayer.settle(oracle::AFTER_ALL);
            if same(&replayer, log) {
                return Ok(true);
            }
        }
        if replayer.checkpoint() == log.checkpoint() {
            // By now it may hold what those who were there let go while it did not count, and no honest
            // peer has any more: it is judged without.
            return self.check_joiner(peer, &replayer, log).map(|()| true);
        }
        if ends.is_empty() {
            return Err(replayed());
        }
        Ok(false)
    }

    fn reader(&self, of: &CommandLog) -> Option<CommandLog> {
        CommandLog::new(of.genesis().clone(), self.schema.clone(), None).ok()
    }
}

/// Whether two logs are at one place, and have one verdict on what comes next.
fn same(one: &CommandLog, other: &CommandLog) -> bool {
    let budgets = |log: &CommandLog| {
        let heads = log.heads().into_iter();
        heads
            .map(|head| log.budget_of(head.author))
            .collect::<Vec<_>>()
    };
    one.checkpoint() == other.checkpoint()
        && one.heads() == other.heads()
        && one.state_hash() == other.state_hash()
        && one.roles().eq(other.roles())
        && budgets(one) == budgets(other)
}
