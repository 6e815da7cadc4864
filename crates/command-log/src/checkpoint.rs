//! A checkpoint: a cut through all authors' logs, and what the log comes to there.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use roundtable_core::AuthorId;

use crate::{
    CheckpointName, FrameId, Genesis, GenesisHash, Role, StateHash, chain::Tip, layout::Fields,
    rate::Budget,
};

const CONTEXT: &[u8] = b"roundtable/checkpoint/v1\0";
const FORM: u8 = 1;
const FIXED_LEN: usize = 1 + 8 + 32 + 32 + 8 + 32 + 2;
const ENTRY_LEN: usize = 32 + 8 + 32 + 8 + 8 + 8 + 1 + 4;
/// What stands for the role of an author that nobody gave one.
const NO_ROLE: u8 = 255;

/// The most authors that a checkpoint names: as many as fit one command.
pub const MAX_CHECKPOINT_AUTHORS: usize = 640;

/// A cut through the authors' logs. What lies at or below it and is named never changes again once
/// the checkpoint is *stable*; what lies there and is not named never counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its place in the line of stable checkpoints, from 1.
    pub number: u64,
    /// The stable checkpoint before, [`CheckpointName::NONE`] for the first.
    pub previous: CheckpointName,
    /// The Admin that proposes it.
    pub proposer: AuthorId,
    /// The highest Lamport time that lies below it.
    pub cut: u64,
    /// What the frames that it names come to, roles included.
    pub state: StateHash,
    /// The authors, sorted.
    pub authors: Vec<AuthorAtCut>,
}

/// An author's part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorAtCut {
    /// The author.
    pub author: AuthorId,
    /// The end of its log at the cut.
    pub head: HeadAtCut,
    /// The role that an Admin gave it, and the rank of that; `None` if nobody did, and for the
    /// creator.
    pub role: Option<(Role, u32)>,
}

/// The end of an author's log at a cut, and all that the rules for its next frame depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadAtCut {
    /// The last nonce, 0 if the author had written nothing.
    pub nonce: u64,
    /// The last frame, [`FrameId::NONE`] if there is none.
    pub id: FrameId,
    /// Its Lamport time.
    pub lamport: u64,
    /// Its wall time, in Unix ms; that of the genesis if there is none.
    pub wall_ms: u64,
    /// What is left of the author's budget, in thousandths of a token.
    pub budget: u64,
}

/// Why bytes are no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not the length of a checkpoint.
    #[error("{0} bytes are no checkpoint")]
    Length(usize),
    /// A layout of a later version.
    #[error("form {0} of a checkpoint is not known to this version")]
    Form(u8),
    /// A role that this version does not know.
    #[error("the checkpoint has an unknown role")]
    UnknownRole,
    /// Its fields contradict each other.
    #[error("the checkpoint's fields contradict each other")]
    Inconsistent,
}

impl HeadAtCut {
    pub(crate) fn of(tip: &Tip) -> Self {
        Self {
            nonce: tip.nonce,
            id: tip.id,
            lamport: tip.lamport,
            wall_ms: tip.wall_ms,
            budget: tip.budget.parts(),
        }
    }

    pub(crate) fn tip(&self) -> Tip {
        Tip {
            nonce: self.nonce,
            id: self.id,
            lamport: self.lamport,
            wall_ms: self.wall_ms,
            budget: Budget::from_parts(self.budget),
        }
    }
}

impl Checkpoint {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; any bytes are safe.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let entries = bytes.len().checked_sub(FIXED_LEN);
        let entries = entries.filter(|len| len % ENTRY_LEN == 0);
        let entries = entries.ok_or(CheckpointError::Length(bytes.len()))? / ENTRY_LEN;
        let mut fields = Fields::new(bytes);
        let form = fields.u8();
        if form != FORM {
            return Err(CheckpointError::Form(form));
        }
        let mut checkpoint = Self {
            number: fields.u64(),
            previous: CheckpointName::from_bytes(fields.take()),
            proposer: AuthorId::from_bytes(fields.take()),
            cut: fields.u64(),
            state: StateHash::from_bytes(fields.take()),
            authors: Vec::with_capacity(entries),
        };
        if usize::from(fields.u16()) != entries {
            return Err(CheckpointError::Length(bytes.len()));
        }
        for _ in 0..entries {
            checkpoint.authors.push(read_author(&mut fields)?);
        }
        if checkpoint.is_consistent() {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::Inconsistent)
        }
    }

    /// The layout that [`decode`](Self::decode) reads. At most 64 KiB.
    pub fn encode(&self) -> Bytes {
        let authors = u16::try_from(self.authors.len()).unwrap_or(u16::MAX);
        let mut bytes = BytesMut::with_capacity(FIXED_LEN + self.authors.len() * ENTRY_LEN);
        bytes.put_u8(FORM);
        bytes.put_u64_le(self.number);
        bytes.put_slice(self.previous.as_bytes());
        bytes.put_slice(self.proposer.as_bytes());
        bytes.put_u64_le(self.cut);
        bytes.put_slice(self.state.as_bytes());
        bytes.put_u16_le(authors);
        for AuthorAtCut { author, head, role } in &self.authors {
            bytes.put_slice(author.as_bytes());
            bytes.put_u64_le(head.nonce);
            bytes.put_slice(head.id.as_bytes());
            bytes.put_u64_le(head.lamport);
            bytes.put_u64_le(head.wall_ms);
            bytes.put_u64_le(head.budget);
            bytes.put_u8(role.map_or(NO_ROLE, |(role, _)| role.number()));
            bytes.put_u32_le(role.map_or(0, |(_, rank)| rank));
        }
        bytes.freeze()
    }

    /// Names the checkpoint: the hash of its layout and the room's genesis.
    pub fn name(&self, genesis: &GenesisHash) -> CheckpointName {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTEXT);
        hasher.update(genesis.as_bytes());
        hasher.update(&self.encode());
        hasher.finalize().into()
    }

    /// What it says of an author.
    pub fn author(&self, author: AuthorId) -> Option<&AuthorAtCut> {
        let found = self.authors.binary_search_by_key(&author, |at| at.author);
        found.ok().map(|index| &self.authors[index])
    }

    /// The role in which an author writes after the cut.
    pub fn role_of(&self, author: AuthorId, genesis: &Genesis) -> Role {
        if author == genesis.creator() {
            return Role::Admin;
        }
        let role = self.author(author).and_then(|at| at.role);
        role.map_or(genesis.params().default_role, |(role, _)| role)
    }

    /// Those who have to consent to what comes next: whoever has written and may change the state,
    /// and the creator.
    pub fn writers(&self, genesis: &Genesis) -> BTreeSet<AuthorId> {
        let named = self.authors.iter().map(|at| at.author);
        let writers = named.filter(|author| self.is_writer(*author, genesis));
        writers.chain([genesis.creator()]).collect()
    }

    /// Whether an author is one of them.
    pub(crate) fn is_writer(&self, author: AuthorId, genesis: &Genesis) -> bool {
        let written = self.author(author).is_some_and(|at| at.head.nonce > 0);
        author == genesis.creator() || (written && self.role_of(author, genesis) >= Role::Editor)
    }

    /// Whether it may follow a stable checkpoint: above its cut, its immediate successor, and taking no
    /// author back.
    pub(crate) fn follows(&self, before: &Self, name: CheckpointName) -> bool {
        let goes_on = |at: &AuthorAtCut| {
            let here = self.author(at.author).map(|at| at.head);
            here.is_some_and(|head| head.nonce > at.head.nonce || head == at.head)
        };
        self.previous == name
            && Some(self.number) == before.number.checked_add(1)
            && self.cut > before.cut
            && before.authors.iter().all(goes_on)
    }

    fn is_consistent(&self) -> bool {
        let sorted = self.authors.is_sorted_by(|a, b| a.author < b.author);
        let first = self.number == 1;
        sorted
            && self.authors.len() <= MAX_CHECKPOINT_AUTHORS
            && self.number >= 1
            && first == (self.previous == CheckpointName::NONE)
            && self.authors.iter().all(|at| at.head.fits(self.cut))
    }
}

impl HeadAtCut {
    fn fits(&self, cut: u64) -> bool {
        let nothing = self.nonce == 0;
        self.lamport <= cut
            && nothing == (self.id == FrameId::NONE)
            && nothing == (self.lamport == 0)
    }
}

fn read_author(fields: &mut Fields<'_>) -> Result<AuthorAtCut, CheckpointError> {
    let author = AuthorId::from_bytes(fields.take());
    let head = HeadAtCut {
        nonce: fields.u64(),
        id: FrameId::from_bytes(fields.take()),
        lamport: fields.u64(),
        wall_ms: fields.u64(),
        budget: fields.u64(),
    };
    let role = match (fields.u8(), fields.u32()) {
        (NO_ROLE, 0) => None,
        (role, rank) => {
            let role = Role::from_number(role).ok_or(CheckpointError::UnknownRole)?;
            if rank == 0 {
                return Err(CheckpointError::Inconsistent);
            }
            Some((role, rank))
        }
    };
    Ok(AuthorAtCut { author, head, role })
}
