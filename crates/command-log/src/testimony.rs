//! What the frames of a log say about the next checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_core::AuthorId;

use crate::{
    Action, Ballot, Certificate, Checkpoint, CheckpointName, ForkProof, Genesis, Role, SharedFrame,
    certificate::{Line, MAX_FRAMES, proposals},
    consent::{Electorate, Votes},
    roles::Roles,
};

/// How many proposals of one author are looked at that it has not withdrawn.
const MAX_OPEN: usize = 4;
/// How many proposals are kept of those who are no Admins here, in all.
const MAX_STRANGE: usize = 64;

/// A proposed checkpoint.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) checkpoint: Checkpoint,
    frame: SharedFrame,
}

/// What there is to know of a room, to weigh what is said in it.
pub(crate) struct Room<'a> {
    pub(crate) line: &'a Line,
    pub(crate) genesis: &'a Genesis,
    pub(crate) roles: &'a Roles,
}

/// All that was said of checkpoints that follow the last stable one. It holds less than the frames do
/// in which it was said, and is forgotten with the next stable checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Testimony {
    proposals: BTreeMap<CheckpointName, Proposal>,
    /// Whether a proposal was not taken for want of room.
    overflowed: bool,
    acknowledged: BTreeMap<CheckpointName, BTreeSet<AuthorId>>,
    /// What each author has acknowledged last, and by which of its commands.
    last: BTreeMap<AuthorId, (u64, CheckpointName)>,
    withdrawn: BTreeSet<(CheckpointName, AuthorId)>,
    commits: BTreeMap<CheckpointName, BTreeMap<AuthorId, SharedFrame>>,
    /// Who has committed anything.
    committers: BTreeSet<AuthorId>,
    /// By whom it concerns, then by who said it; of writers of the last stable checkpoint alone.
    retirements: BTreeMap<AuthorId, BTreeMap<AuthorId, SharedFrame>>,
    forks: BTreeMap<AuthorId, ForkProof>,
    /// Whose consent is not needed: a majority has retired them, or they are proven to have forked.
    spared: BTreeSet<AuthorId>,
    /// Whether a proposal says what its heads come to, where that was found out.
    verdicts: BTreeMap<CheckpointName, bool>,
    /// Who has proposed what is not so.
    liars: BTreeSet<AuthorId>,
    /// Whether anything was said since the last look.
    news: bool,
}

impl Testimony {
    /// Hears what a verified frame says.
    pub(crate) fn note(&mut self, frame: &SharedFrame, room: &Room<'_>) {
        let (author, line) = (frame.author(), room.line);
        let mut proposes = false;
        for (action, nonce) in frame
            .actions()
            .into_iter()
            .zip(frame.header().first_nonce..)
        {
            match action {
                // Those of a frame are read together.
                Action::Propose { .. } if proposes => continue,
                Action::Propose { .. } => {
                    proposes = true;
                    self.note_proposals(frame, room);
                }
                Action::Acknowledge(Ballot {
                    checkpoint,
                    previous,
                }) if previous == line.name() => {
                    self.acknowledged
                        .entry(checkpoint)
                        .or_default()
                        .insert(author);
                    let last = self.last.entry(author).or_insert((nonce, checkpoint));
                    *last = (nonce, checkpoint).max(*last);
                }
                Action::Withdraw(Ballot {
                    checkpoint,
                    previous,
                }) if previous == line.name() => {
                    self.withdrawn.insert((checkpoint, author));
                }
                Action::Commit(Ballot {
                    checkpoint,
                    previous,
                }) if previous == line.name() => {
                    let commits = self.commits.entry(checkpoint).or_default();
                    commits.entry(author).or_insert_with(|| frame.clone());
                    self.committers.insert(author);
                }
                Action::Retire {
                    author: retired,
                    previous,
                } if previous == line.name() && line.last().is_writer(author, room.genesis) => {
                    let voters = self.retirements.entry(retired).or_default();
                    voters.entry(author).or_insert_with(|| frame.clone());
                    if line.is_majority(&voters.keys().copied().collect(), room.genesis) {
                        self.spared.insert(retired);
                    }
                }
                _ => continue,
            }
            self.news = true;
        }
    }

    fn note_proposals(&mut self, frame: &SharedFrame, room: &Room<'_>) {
        let author = frame.author();
        let strange = |author| room.roles.now(author) < Role::Admin;
        for (name, checkpoint) in sound_proposals(frame, room.line, room.genesis) {
            let open = self.open().filter(|(_, open)| open.proposer == author);
            let all = self
                .proposals
                .values()
                .map(|known| known.checkpoint.proposer);
            let full = open.count() >= MAX_OPEN
                || (strange(author) && all.filter(|other| strange(*other)).count() >= MAX_STRANGE);
            if full {
                self.overflowed |= !self.proposals.contains_key(&name);
                continue;
            }
            let frame = frame.clone();
            let proposal = Proposal { checkpoint, frame };
            self.proposals.entry(name).or_insert(proposal);
        }
    }

    /// What a majority has committed of the proposals that were not taken for want of room.
    pub(crate) fn missed(&self, line: &Line, genesis: &Genesis) -> BTreeSet<CheckpointName> {
        if !self.overflowed {
            return BTreeSet::new();
        }
        let unknown = self.commits.iter();
        let unknown = unknown.filter(|(name, _)| !self.proposals.contains_key(name));
        unknown
            .filter(|(_, by)| line.is_majority(&by.keys().copied().collect(), genesis))
            .map(|(name, _)| *name)
            .collect()
    }

    /// Takes those of a frame's proposals that were missed.
    pub(crate) fn note_missed(
        &mut self,
        frame: &SharedFrame,
        missed: &BTreeSet<CheckpointName>,
        line: &Line,
        genesis: &Genesis,
    ) {
        for (name, checkpoint) in sound_proposals(frame, line, genesis) {
            if missed.contains(&name) {
                let frame = frame.clone();
                let proposal = Proposal { checkpoint, frame };
                self.proposals.entry(name).or_insert(proposal);
            }
        }
    }

    /// Hears that an author has signed twice for one place.
    pub(crate) fn note_fork(&mut self, proof: ForkProof, line: &Line) {
        let settled = line.last().author(proof.author());
        if proof.after() >= settled.map_or(0, |at| at.head.nonce) {
            self.spared.insert(proof.author());
            self.forks.entry(proof.author()).or_insert(proof);
            self.news = true;
        }
    }

    /// Whether anything was said since the last time.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What was signed that decides about a proposal.
    pub(crate) fn votes(&self, name: CheckpointName) -> Votes {
        let commits = self.commits.get(&name).into_iter().flatten();
        let retirements = self.retirements.iter();
        Votes {
            commits: commits.map(|(author, _)| *author).collect(),
            retirements: retirements
                .map(|(author, voters)| (*author, voters.keys().copied().collect()))
                .collect(),
            forked: self.forks.keys().copied().collect(),
        }
    }

    /// A proposal that is stable, by what makes it so.
    pub(crate) fn find_stable(&self, line: &Line, genesis: &Genesis) -> Option<Certificate> {
        let stable = self.proposals.iter().filter(|(name, proposal)| {
            // Without a commit there is nothing to weigh.
            let electorate = line.electorate(&proposal.checkpoint, genesis);
            self.commits.contains_key(name) && electorate.is_stable(&self.votes(**name))
        });
        let mut found = stable.map(|(name, proposal)| {
            let electorate = line.electorate(&proposal.checkpoint, genesis);
            self.certificate(*name, proposal, &electorate)
        });
        found.find(|certificate| certificate.frames().len() <= MAX_FRAMES)
    }

    /// The frames that decide: of retirements and forks only those that spare a consent, and of those
    /// as many as it takes.
    fn certificate(
        &self,
        name: CheckpointName,
        proposal: &Proposal,
        electorate: &Electorate,
    ) -> Certificate {
        let empty = BTreeMap::new();
        let commits = self.commits.get(&name).unwrap_or(&empty);
        let mut frames = vec![&proposal.frame];
        for writer in electorate.concerned() {
            if let Some(commit) = commits.get(&writer) {
                frames.push(commit);
            } else if let Some(proof) = self.forks.get(&writer) {
                frames.extend(proof.frames());
            } else if let Some(voters) = self.retirements.get(&writer) {
                let enough = electorate.majority_of(&voters.keys().copied().collect());
                let enough = voters.iter().filter(|(voter, _)| enough.contains(voter));
                frames.extend(enough.map(|(_, frame)| frame));
            }
        }
        let mut known = BTreeSet::new();
        frames.retain(|frame| known.insert(frame.id()));
        Certificate::new(frames.into_iter().cloned().collect())
    }

    /// The proposals that nobody has taken back, by name.
    pub(crate) fn open(&self) -> impl Iterator<Item = (CheckpointName, &Checkpoint)> {
        let all = self.proposals.iter();
        let all = all.map(|(name, proposal)| (*name, &proposal.checkpoint));
        all.filter(|(name, checkpoint)| !self.withdrawn.contains(&(*name, checkpoint.proposer)))
    }

    /// A proposal.
    pub(crate) fn proposal(&self, name: CheckpointName) -> Option<&Checkpoint> {
        Some(&self.proposals.get(&name)?.checkpoint)
    }

    /// All proposals that are known, withdrawn or not, by name.
    pub(crate) fn proposals(&self) -> impl Iterator<Item = CheckpointName> {
        self.proposals.keys().copied()
    }

    /// Whether a proposal says what its heads come to, if that was found out. Whoever has lied once is not
    /// believed again: to find out costs a replay.
    pub(crate) fn verdict(&self, name: CheckpointName, proposer: AuthorId) -> Option<bool> {
        let lied = self.liars.contains(&proposer).then_some(false);
        self.verdicts.get(&name).copied().or(lied)
    }

    /// Remembers whether a proposal says what its heads come to.
    pub(crate) fn judge(&mut self, name: CheckpointName, proposer: AuthorId, verdict: bool) {
        self.verdicts.insert(name, verdict);
        if !verdict {
            self.liars.insert(proposer);
        }
    }

    /// Whether checkpoints need not wait for an author: a majority has retired it, or it is proven to have
    /// forked.
    pub(crate) fn spares(&self, author: AuthorId) -> bool {
        self.spared.contains(&author)
    }

    /// Whether a proposal is what an author has acknowledged last.
    pub(crate) fn acknowledged_last(&self, name: CheckpointName, author: AuthorId) -> bool {
        let last = self.last.get(&author);
        last.is_some_and(|(_, last)| *last == name)
    }

    /// Whether an author has acknowledged a proposal.
    pub(crate) fn has_acknowledged(&self, name: CheckpointName, author: AuthorId) -> bool {
        let all = self.acknowledged.get(&name);
        all.is_some_and(|all| all.contains(&author))
    }

    /// Whether an author has committed a proposal.
    pub(crate) fn has_committed(&self, name: CheckpointName, author: AuthorId) -> bool {
        let commits = self.commits.get(&name);
        commits.is_some_and(|commits| commits.contains_key(&author))
    }

    /// Whether more than half of the writers of the last stable checkpoint have committed a proposal.
    pub(crate) fn is_majority_for(
        &self,
        name: CheckpointName,
        line: &Line,
        genesis: &Genesis,
    ) -> bool {
        let commits = self.commits.get(&name);
        commits.is_some_and(|by| line.is_majority(&by.keys().copied().collect(), genesis))
    }

    /// Whether an author has committed anything, known or not.
    pub(crate) fn is_committed(&self, author: AuthorId) -> bool {
        self.committers.contains(&author)
    }
}

/// Those of a frame's proposals that may follow the last of a line, and their names.
fn sound_proposals(
    frame: &SharedFrame,
    line: &Line,
    genesis: &Genesis,
) -> impl Iterator<Item = (CheckpointName, Checkpoint)> {
    let author = frame.author();
    let sound = move |checkpoint: &Checkpoint| {
        checkpoint.follows(line.last(), line.name()) && checkpoint.is_by_an_admin(author, genesis)
    };
    let sound = proposals(frame).filter(sound);
    sound.map(|checkpoint| (checkpoint.name(&genesis.hash()), checkpoint))
}
