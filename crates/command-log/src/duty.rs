//! What an honest author owes to checkpoints: which to acknowledge, to commit, to take back.
//!
//! A checkpoint becomes stable in two rounds. An author *acknowledges* what is true of its own log, one
//! proposal at a time unless that is withdrawn; the proposer comes last, and withdraws what cannot come
//! about any more only before that. Who sees that all have acknowledged *commits*, and never commits a rival.
//! Two rounds, because only what an author has signed itself can bind it: were the proposer's last word
//! enough, one that signs both a withdrawal and that word could have two cuts become stable that contradict
//! each other.

use std::collections::BTreeSet;

use roundtable_core::{AuthorId, WallTime};

use crate::{
    Action, AppendError, AuthorAtCut, Ballot, Checkpoint, CheckpointName, CommandLog, HeadAtCut,
    ProposeError, Role,
    faults::{__Broken, is_broken},
};

impl CommandLog {
    /// The command that proposes a checkpoint of all up to a Lamport time. The cut is best chosen a few seconds
    /// back, so that all writers have seen what lies below: what they have not makes them refuse. Costs time
    /// in proportion to the log since the last checkpoint and to the state.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn checkpoint_command(&mut self, cut: u64) -> Result<Action, ProposeError> {
        self.review();
        let own = self.own_author().ok_or(ProposeError::ReadOnly)?;
        if self.role_of(own) < Role::Admin {
            return Err(ProposeError::NotAdmin);
        }
        if self.behind.is_some() {
            return Err(ProposeError::Behind);
        }
        if self.testimony.open().any(|(_, open)| open.proposer == own) {
            return Err(ProposeError::Open);
        }
        if cut <= self.line.last().cut || cut > self.lamport() {
            return Err(ProposeError::Cut {
                above: self.line.last().cut,
                through: self.lamport(),
            });
        }
        let heads = self.heads_at(cut);
        let draft = self.draft(own, cut, &heads);
        let checkpoint = draft.ok_or(ProposeError::Behind)?.checkpoint;
        let checkpoint = checkpoint.encode();
        Ok(Action::Propose { checkpoint })
    }

    /// The command by which the own author asks that checkpoints need not wait for another any more.
    /// It takes more than half of the writers of the last stable checkpoint (of two halves, the one
    /// with the room's creator), and what the other has written below the next cut and not shown is
    /// lost.
    pub fn retire_command(&self, author: AuthorId) -> Action {
        let previous = self.line.name();
        Action::Retire { author, previous }
    }

    /// What the own author should say next about checkpoints, to be [appended](Self::append) as it is;
    /// `None` if nothing. Where it changes with every frame that comes, it is cheap; a proposal that is
    /// new costs what proposing it did.
    pub fn due(&mut self, wall: WallTime) -> Option<Action> {
        let own = self.own_author()?;
        let proposals: Vec<_> = self.testimony.proposals().collect();
        if proposals.is_empty() || self.behind.is_some() {
            return None;
        }
        let rivals = is_broken(__Broken::CommitsRivals);
        if self.testimony.is_committed(own) && !rivals {
            return None;
        }
        self.review();
        let previous = self.line.name();
        let ballot = |checkpoint| Ballot {
            checkpoint,
            previous,
        };
        let done = |name: &&CheckpointName| rivals && self.testimony.has_committed(**name, own);
        // What all have acknowledged is committed whatever becomes of it or of its proposer: others may have.
        let mut pending = proposals.iter().filter(|name| !done(name));
        if let Some(name) = pending.find(|name| self.is_to_commit(own, **name)) {
            return Some(Action::Commit(ballot(*name)));
        }
        let mine = self.testimony.open();
        let mine = mine.filter(|(_, proposal)| proposal.proposer == own);
        let mine: Vec<_> = mine.map(|(name, _)| name).collect();
        if let Some(name) = mine.iter().find(|name| self.is_to_withdraw(own, **name)) {
            return Some(Action::Withdraw(ballot(*name)));
        }
        let acknowledged = |name: &CheckpointName| self.testimony.has_acknowledged(*name, own);
        let bound = |(name, _)| acknowledged(&name);
        let bound = self.binding_proposals().any(bound);
        if bound && !rivals {
            return None;
        }
        let open = self.open_proposals().map(|(name, _)| name);
        let new: Vec<_> = open.filter(|name| !acknowledged(name)).collect();
        let mut new = new.into_iter();
        let name = new.find(|name| self.is_to_acknowledge(own, *name, wall))?;
        Some(Action::Acknowledge(ballot(name)))
    }

    /// The proposals that may still come about, by name: not withdrawn, not found to be false, and an Admin's.
    fn open_proposals(&self) -> impl Iterator<Item = (CheckpointName, &Checkpoint)> {
        let open = self.testimony.open();
        open.filter(|(name, Checkpoint { proposer, .. })| {
            self.role_of(*proposer) == Role::Admin
                && self.testimony.verdict(*name, *proposer) != Some(false)
        })
    }

    /// Those that keep others from coming about: not if their proposer need not be waited for.
    pub(crate) fn binding_proposals(&self) -> impl Iterator<Item = (CheckpointName, &Checkpoint)> {
        let open = self.open_proposals();
        open.filter(|(_, open)| !self.testimony.spares(open.proposer))
    }

    /// Whether a checkpoint that may become stable names an author: one that binds, or that is to be committed whatever becomes
    /// of it, for the own author or more than half of the writers have.
    pub(crate) fn is_awaited(&self, author: AuthorId) -> bool {
        let names = |checkpoint: &Checkpoint| checkpoint.author(author).is_some();
        let own = self.own_author();
        let committed = |name: &CheckpointName| {
            own.is_some_and(|own| self.testimony.has_committed(*name, own))
                || self
                    .testimony
                    .is_majority_for(*name, &self.line, &self.genesis)
        };
        let mut committed = self.testimony.proposals().filter(committed);
        self.binding_proposals().any(|(_, open)| names(open))
            || committed.any(|name| self.testimony.proposal(name).is_some_and(names))
    }

    /// Of checkpoints, only what is due may be said: an author that breaks its promises by hand harms all.
    pub(crate) fn check_due(
        &mut self,
        wall: WallTime,
        actions: &[Action],
    ) -> Result<(), AppendError> {
        for action in actions {
            let due = match action {
                Action::Acknowledge(_) | Action::Withdraw(_) | Action::Commit(_) => {
                    self.due(wall).as_ref() == Some(action)
                }
                Action::Propose { checkpoint } => self.may_propose(checkpoint),
                Action::Retire { previous, .. } => *previous == self.line.name(),
                _ => true,
            };
            if !due {
                return Err(AppendError::NotDue);
            }
        }
        Ok(())
    }

    fn may_propose(&self, checkpoint: &[u8]) -> bool {
        let own = self.own_author();
        let open = self.testimony.open();
        let mut open = open.filter(|(_, open)| Some(open.proposer) == own);
        Checkpoint::decode(checkpoint).is_ok_and(|checkpoint| {
            checkpoint.follows(self.line.last(), self.line.name())
                && Some(checkpoint.proposer) == own
                && open.next().is_none()
        })
    }

    /// Whether all whose consent is needed have acknowledged what the own author has, too. If that has
    /// acknowledged another since, others may commit that one; unless it is seen that one of them, who
    /// has nothing more to say of others then, has committed this.
    fn is_to_commit(&self, own: AuthorId, name: CheckpointName) -> bool {
        let acknowledged = |author: &AuthorId| self.testimony.has_acknowledged(name, *author);
        let checkpoint = self.testimony.proposal(name);
        let Some(checkpoint) = checkpoint.filter(|_| acknowledged(&own)) else {
            return false;
        };
        let everyone = self.needed(checkpoint);
        let has_committed = |author: &AuthorId| {
            *author != checkpoint.proposer && self.testimony.has_committed(name, *author)
        };
        let bound = is_broken(__Broken::CommitsRivals)
            || self.testimony.acknowledged_last(name, own)
            || everyone.iter().any(has_committed);
        let concerned = everyone.contains(&own) || self.is_writer(own, checkpoint);
        concerned && bound && everyone.iter().all(acknowledged)
    }

    /// Whether an own proposal cannot come about any more, or gives way to another's.
    fn is_to_withdraw(&mut self, own: AuthorId, name: CheckpointName) -> bool {
        let Some(checkpoint) = self.testimony.proposal(name).cloned() else {
            return false;
        };
        if checkpoint.proposer != own || self.testimony.has_acknowledged(name, own) {
            return false;
        }
        let refused = self.needed(&checkpoint).into_iter().any(|writer| {
            !self.testimony.has_acknowledged(name, writer)
                && self.has_more_below(writer, &checkpoint)
        });
        if refused || !self.agrees(own, name) {
            return true;
        }
        if is_broken(__Broken::CommitsRivals) {
            return false;
        }
        let rivals = self.binding_proposals().map(|(rival, _)| rival);
        let rivals: Vec<_> = rivals.filter(|rival| *rival < name).collect();
        rivals.into_iter().any(|rival| self.agrees(own, rival))
    }

    fn is_to_acknowledge(&mut self, own: AuthorId, name: CheckpointName, wall: WallTime) -> bool {
        let Some(checkpoint) = self.testimony.proposal(name).cloned() else {
            return false;
        };
        let everyone = self.needed(&checkpoint);
        // A promise that the clock cannot keep is not made.
        let kept = self.next_lamport(wall) > checkpoint.cut;
        let mut others = everyone.iter().filter(|writer| **writer != own);
        let others = checkpoint.proposer != own
            || others.all(|writer| self.testimony.has_acknowledged(name, *writer));
        let concerned = everyone.contains(&own) || self.is_writer(own, &checkpoint);
        concerned && kept && others && self.agrees(own, name)
    }

    /// Whose acknowledgement a proposal needs: its proposer's, too, so that it knows when it may not withdraw.
    fn needed(&self, checkpoint: &Checkpoint) -> BTreeSet<AuthorId> {
        let electorate = self.line.electorate(checkpoint, &self.genesis);
        let required = electorate.concerned();
        let required = required.filter(|author| !self.testimony.spares(*author));
        required.chain([checkpoint.proposer]).collect()
    }

    fn is_writer(&self, author: AuthorId, checkpoint: &Checkpoint) -> bool {
        let electorate = self.line.electorate(checkpoint, &self.genesis);
        electorate.before.contains(&author) || electorate.after.contains(&author)
    }

    /// Whether an author is known to have written more below the cut than a proposal names.
    fn has_more_below(&self, author: AuthorId, checkpoint: &Checkpoint) -> bool {
        let named = checkpoint.author(author).map_or(0, |at| at.head.nonce);
        self.head_below(author, checkpoint.cut).nonce > named
    }

    /// Whether a proposal is true of this log.
    fn agrees(&mut self, own: AuthorId, name: CheckpointName) -> bool {
        let proposal = self.testimony.proposal(name);
        let proposal = proposal.filter(|proposal| self.role_of(proposal.proposer) == Role::Admin);
        let Some(checkpoint) = proposal.cloned() else {
            return false;
        };
        let on_trunk = |at: &AuthorAtCut| {
            let chain = self.chain(at.author);
            chain.map_or(at.head.nonce == 0, |chain| {
                let node = chain.node_at(at.head.nonce, at.head.id);
                node.is_some_and(|node| node <= chain.trunk)
            })
        };
        let own_named = checkpoint.author(own).map(|at| at.head);
        let own_named = own_named.unwrap_or_else(|| self.head_below(own, 0));
        let needed = self.needed(&checkpoint);
        let passes_over = |author: AuthorId| {
            // Whoever must consent speaks for itself; whom it need not wait for is not heard, nor who may
            // not write any more.
            !needed.contains(&author)
                && !self.testimony.spares(author)
                && self.role_of(author) >= Role::Editor
                && self.has_place(author, &checkpoint)
                && self.has_more_below(author, &checkpoint)
        };
        let sound = checkpoint.authors.iter().all(on_trunk)
            && own_named == self.head_below(own, checkpoint.cut)
            && !self.chains.iter().any(|chain| passes_over(chain.author()));
        sound && self.is_true(name, &checkpoint)
    }

    /// Whether a proposal says what its heads come to. Found out once.
    fn is_true(&mut self, name: CheckpointName, checkpoint: &Checkpoint) -> bool {
        let proposer = checkpoint.proposer;
        if let Some(verdict) = self.testimony.verdict(name, proposer) {
            return verdict;
        }
        let heads = checkpoint.authors.iter().map(|at| (at.author, at.head));
        let heads: std::collections::BTreeMap<AuthorId, HeadAtCut> = heads.collect();
        let Some(draft) = self.draft(proposer, checkpoint.cut, &heads) else {
            return false;
        };
        let verdict = draft.checkpoint == *checkpoint;
        if verdict {
            self.drafted = Some((name, draft.at_cut.state.values()));
        }
        self.testimony.judge(name, proposer, verdict);
        verdict
    }
}
