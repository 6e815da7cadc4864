//! What makes a checkpoint stable, in a form that convinces anyone who has the one before.
//!
//! Statements count by their signatures alone, on whichever branch of an author's log they lie and whatever
//! becomes of their frames: so whoever has lost what came before comes to the same verdict as whoever has all.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use bytes::Bytes;
use roundtable_core::AuthorId;

use crate::{
    Action, Ballot, Checkpoint, CheckpointError, CheckpointName, FrameError, FrameId, Genesis,
    PublicKey, Role, SharedFrame, SignedFrame, UnverifiedFrame,
    consent::{Electorate, Votes},
    verify::Batch,
};

/// The most frames in a certificate: a commit of each of 640 writers, and what spares those who have not
/// committed. One that would take more does not come about.
pub(crate) const MAX_FRAMES: usize = 4096;
/// How many signatures are verified together: as many as a false one can cost.
const TOGETHER: usize = 64;

/// The frames that make a checkpoint stable: the proposal first, then commits, retirements and forks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    frames: Vec<SharedFrame>,
}

/// Why frames do not make a checkpoint stable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A frame is malformed, or not by its author.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// More than 4,096 frames, or none.
    #[error("{0} frames are no certificate")]
    Frames(usize),
    /// The first frame proposes no checkpoint that follows the one before.
    #[error("the first frame proposes no checkpoint that follows")]
    NoProposal,
    /// The proposal is malformed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Writers have not consented.
    #[error("{0} writers have not consented")]
    NotStable(usize),
}

/// The line of stable checkpoints.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    certificates: Vec<Certificate>,
    /// What each of them makes stable.
    names: Vec<CheckpointName>,
    last: Checkpoint,
    name: CheckpointName,
}

impl Line {
    /// Before the first checkpoint.
    pub(crate) fn new(genesis: &Genesis) -> Self {
        Self {
            certificates: Vec::new(),
            names: Vec::new(),
            last: Checkpoint::origin(genesis),
            name: CheckpointName::NONE,
        }
    }

    /// What makes each of the checkpoints stable, from the first.
    pub(crate) fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// What the stable checkpoint with this number says.
    pub(crate) fn checkpoint(&self, number: u64, genesis: &Genesis) -> Option<Checkpoint> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let (name, certificate) = (self.names.get(index)?, self.certificates.get(index)?);
        let mut proposed = proposals(certificate.frames.first()?);
        proposed.find(|checkpoint| checkpoint.name(&genesis.hash()) == *name)
    }

    /// Whether some are a majority of the last checkpoint's writers.
    pub(crate) fn is_majority(&self, some: &BTreeSet<AuthorId>, genesis: &Genesis) -> bool {
        let electorate = Electorate {
            creator: genesis.creator(),
            before: self.last.writers(genesis),
            after: BTreeSet::new(),
        };
        electorate.is_majority(some)
    }

    /// The last; that of the genesis, with number 0, if there is none.
    pub(crate) const fn last(&self) -> &Checkpoint {
        &self.last
    }

    /// The name of the last.
    pub(crate) const fn name(&self) -> CheckpointName {
        self.name
    }

    /// On whom a checkpoint depends that follows the last.
    pub(crate) fn electorate(&self, next: &Checkpoint, genesis: &Genesis) -> Electorate {
        Electorate {
            creator: genesis.creator(),
            before: self.last.writers(genesis),
            after: next.writers(genesis),
        }
    }

    /// The same without what makes the checkpoints stable.
    pub(crate) fn without_past(&self) -> Self {
        Self {
            certificates: Vec::new(),
            names: Vec::new(),
            last: self.last.clone(),
            name: self.name,
        }
    }

    /// Goes on to the next checkpoint.
    ///
    /// # Errors
    /// [`CertificateError`] if the frames do not make it stable; nothing has changed then.
    pub(crate) fn extend(
        &mut self,
        certificate: Certificate,
        genesis: &Genesis,
    ) -> Result<(), CertificateError> {
        let (checkpoint, name) = certificate.verify(self, genesis)?;
        self.certificates.push(certificate);
        self.names.push(name);
        (self.last, self.name) = (checkpoint, name);
        Ok(())
    }
}

impl Certificate {
    pub(crate) const fn new(frames: Vec<SharedFrame>) -> Self {
        Self { frames }
    }

    /// Reads the frames, in full form, and verifies their signatures.
    ///
    /// # Errors
    /// [`CertificateError`]; any bytes are safe.
    pub fn read(
        frames: impl IntoIterator<Item = Bytes>,
        genesis: &Genesis,
    ) -> Result<Self, CertificateError> {
        Self::verify_signatures(decode(frames, genesis)?, genesis)
    }

    /// The same for what may follow a line of checkpoints. What proposes nothing that does costs no verification.
    pub(crate) fn read_after(
        frames: impl IntoIterator<Item = Bytes>,
        line: &Line,
        genesis: &Genesis,
    ) -> Result<Self, CertificateError> {
        let frames = decode(frames, genesis)?;
        let mut proposed = frames.iter().take(1).flat_map(|f| proposals(&f.frame));
        if !proposed.any(|next| next.follows(line.last(), line.name())) {
            return Err(CertificateError::NoProposal);
        }
        Self::verify_signatures(frames, genesis)
    }

    fn verify_signatures(
        frames: Vec<UnverifiedFrame>,
        genesis: &Genesis,
    ) -> Result<Self, CertificateError> {
        let mut keys = BTreeMap::new();
        for frames in frames.chunks(TOGETHER) {
            let mut batch = Batch::default();
            for frame in frames {
                let key = match keys.entry(frame.author()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        new.insert(PublicKey::new(frame.author()).map_err(FrameError::from)?)
                    }
                };
                frame.queue(&genesis.hash(), key, &mut batch);
            }
            let verdicts: Result<Vec<()>, _> = batch.verify().into_iter().collect();
            verdicts.map_err(FrameError::from)?;
        }
        let frames = frames.into_iter().map(|frame| Arc::new(frame.frame));
        Ok(Self::new(frames.collect()))
    }

    /// The frames, the proposal first.
    pub fn frames(&self) -> &[SharedFrame] {
        &self.frames
    }

    /// The checkpoint that this makes stable after a line of others, and its name. The signatures have
    /// been verified.
    fn verify(
        &self,
        line: &Line,
        genesis: &Genesis,
    ) -> Result<(Checkpoint, CheckpointName), CertificateError> {
        if !(1..=MAX_FRAMES).contains(&self.frames.len()) {
            return Err(CertificateError::Frames(self.frames.len()));
        }
        let (mut votes, mut commits) = self.votes(line);
        let mut missing = None;
        // A frame may propose several: which one is meant is told by what was committed.
        for next in proposals(&self.frames[0]) {
            let sound = next.follows(line.last(), line.name())
                && next.is_by_an_admin(self.frames[0].author(), genesis);
            if !sound {
                continue;
            }
            let name = next.name(&genesis.hash());
            votes.commits = commits.remove(&name).unwrap_or_default();
            let electorate = line.electorate(&next, genesis);
            if electorate.is_stable(&votes) {
                return Ok((next, name));
            }
            let required = electorate.required(&votes);
            let lacking = required.difference(&votes.commits).count();
            missing = Some(missing.map_or(lacking, |least: usize| least.min(lacking)));
        }
        Err(missing.map_or(CertificateError::NoProposal, CertificateError::NotStable))
    }

    /// What the frames say about any that follows the last of a line, and who has committed which.
    fn votes(&self, line: &Line) -> (Votes, BTreeMap<CheckpointName, BTreeSet<AuthorId>>) {
        let mut votes = Votes::default();
        let mut commits: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut places: BTreeMap<_, BTreeSet<FrameId>> = BTreeMap::new();
        for frame in &self.frames {
            let (author, header) = (frame.author(), frame.header());
            for action in frame.actions() {
                match action {
                    Action::Commit(Ballot {
                        checkpoint,
                        previous,
                    }) if previous == line.name() => {
                        commits.entry(checkpoint).or_default().insert(author);
                    }
                    Action::Retire {
                        author: retired,
                        previous,
                    } if previous == line.name() => {
                        votes.retirements.entry(retired).or_default().insert(author);
                    }
                    _ => {}
                }
            }
            let settled = line.last().author(author).map_or(0, |at| at.head.nonce);
            if header.first_nonce > settled {
                let place = (author, header.previous, header.first_nonce);
                places.entry(place).or_default().insert(frame.id());
            }
        }
        let twice = places.into_iter().filter(|(_, ids)| ids.len() > 1);
        votes.forked = twice.map(|((author, ..), _)| author).collect();
        (votes, commits)
    }
}

/// Reads frames in full form, no more than a certificate has.
fn decode(
    frames: impl IntoIterator<Item = Bytes>,
    genesis: &Genesis,
) -> Result<Vec<UnverifiedFrame>, CertificateError> {
    let mut read = Vec::new();
    for bytes in frames {
        if read.len() == MAX_FRAMES {
            return Err(CertificateError::Frames(MAX_FRAMES + 1));
        }
        read.push(UnverifiedFrame::decode(bytes, &genesis.hash())?);
    }
    Ok(read)
}

/// The checkpoints that a frame proposes.
pub(crate) fn proposals(frame: &SignedFrame) -> impl Iterator<Item = Checkpoint> + use<> {
    frame
        .actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Propose { checkpoint } => Checkpoint::decode(&checkpoint).ok(),
            _ => None,
        })
}

impl Checkpoint {
    /// What a room begins with: nothing below the cut.
    fn origin(genesis: &Genesis) -> Self {
        Self {
            number: 0,
            previous: CheckpointName::NONE,
            proposer: genesis.creator(),
            cut: 0,
            state: crate::StateHash::from_bytes([0; 32]),
            authors: Vec::new(),
        }
    }

    /// Whether it was proposed by whom it says, and that is an Admin after the cut.
    pub(crate) fn is_by_an_admin(&self, author: AuthorId, genesis: &Genesis) -> bool {
        self.proposer == author && self.role_of(author, genesis) == Role::Admin
    }
}
