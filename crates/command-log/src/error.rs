//! Why frames are refused, here and by others.

use std::time::Duration;

use roundtable_wire::commands::{BodyError, EncodeError};

use crate::{KeyError, Role, SignatureError};

/// Why a frame was not taken. It is as if it had never been signed: its author's log goes on
/// without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Shorter than a header or longer than 72 KiB.
    #[error("{0} bytes are no frame")]
    Length(usize),
    /// A form that this version does not know.
    #[error("form {0} of a frame is not known to this version")]
    Form(u8),
    /// No command, a first nonce of 0, or nonces beyond 2^64.
    #[error("the frame's commands are not numbered from 1 without overflow")]
    Nonces,
    /// The author's key is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The author did not sign this.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The body is malformed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The header names another number of commands than the body holds.
    #[error("the header says {header} commands, the body holds {body}")]
    Count {
        /// Commands by the header.
        header: u32,
        /// Commands in the body.
        body: usize,
    },
    /// The author has signed this, and breaks a rule of its chain by it.
    #[error(transparent)]
    Rule(#[from] RuleBreach),
    /// What was shown as a fork is none.
    #[error("these frames do not prove a fork")]
    NoFork,
    /// The author has no role, and 1,024 others without one have lower keys. Nobody's fault: whoever passed the frame on may
    /// not have known all of them.
    #[error("no room for another author")]
    TooManyAuthors,
}

impl FrameError {
    /// The code that peers and metrics use, 1 to 20, as in `docs/protocols/command-log.md`.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Length(_) => 1,
            Self::Form(_) => 2,
            Self::Nonces => 3,
            Self::Key(KeyError::Malformed) => 4,
            Self::Key(KeyError::Weak) => 5,
            Self::Signature(_) => 6,
            Self::Body(_) => 7,
            Self::Count { .. } => 8,
            Self::Rule(RuleBreach::LamportNotRising) => 9,
            Self::Rule(RuleBreach::LamportTooHigh) => 10,
            Self::Rule(RuleBreach::WallFalling) => 11,
            Self::Rule(RuleBreach::WallBeforeGenesis) => 12,
            Self::Rule(RuleBreach::OverBudget) => 13,
            Self::NoFork => 14,
            Self::TooManyAuthors => 15,
        }
    }

    /// A short name of the code.
    pub const fn name(&self) -> &'static str {
        NAMES[self.code() as usize]
    }

    /// The short name of a [code](Self::code), `None` if this version does not know it.
    pub fn name_of(code: u8) -> Option<&'static str> {
        let known = (1..NAMES.len()).contains(&usize::from(code));
        known.then(|| NAMES[usize::from(code)])
    }
}

/// Names by code.
pub(crate) const NAMES: [&str; 16] = [
    "ok",
    "length",
    "form",
    "nonces",
    "key-malformed",
    "key-weak",
    "signature",
    "body",
    "count",
    "lamport-not-rising",
    "lamport-too-high",
    "wall-falling",
    "wall-before-genesis",
    "over-budget",
    "no-fork",
    "too-many-authors",
];

/// Which rule of its chain a frame breaks. A function of the chain and the genesis alone, so all
/// peers agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleBreach {
    /// Not above the Lamport time of the previous frame.
    #[error("the Lamport time does not rise")]
    LamportNotRising,
    /// Above 2^20 + 1024 for each millisecond since the genesis.
    #[error("the Lamport time is further ahead than the signed wall time allows")]
    LamportTooHigh,
    /// Before the wall time of the previous frame.
    #[error("the wall time falls")]
    WallFalling,
    /// Before the genesis.
    #[error("the wall time is before the genesis")]
    WallBeforeGenesis,
    /// More than the author's bucket held.
    #[error("the author is over its budget")]
    OverBudget,
}

/// Why commands were not appended to the own log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log was opened without a signing key.
    #[error("this log is read-only: it has no signing key")]
    ReadOnly,
    /// Another copy of this identity has signed in its place, so what this one signs counts no more.
    #[error(
        "another copy of this identity has signed too, so its log has ended: take a new key, or ask an Admin to name the branch that counts"
    )]
    Forked,
    /// Own frames are known to exist that this log lacks: to sign now would fork it.
    #[error("frames of this author are missing here: wait until peers have sent them")]
    OwnFramesMissing,
    /// The author's budget is spent.
    #[error("too many commands: try again in {} ms", retry_after.as_millis())]
    RateLimited {
        /// When the budget suffices.
        retry_after: Duration,
    },
    /// The commands together cost more than a full bucket: send them in several frames.
    #[error("these commands cost more than the room's burst allows at once: split them")]
    OverBurst,
    /// The author's role does not let such a command count.
    #[error("this needs the role {needed:?}; yours is {held:?}")]
    NotPermitted {
        /// The role that the command needs.
        needed: Role,
        /// The role that the author holds.
        held: Role,
    },
    /// A role is given to a key that cannot be used.
    #[error("nobody can sign with the key that is given a role: {0}")]
    UnusableKey(#[from] KeyError),
    /// The schema has no such key type.
    #[error("the schema has no key type {0}")]
    UnknownKeyType(u16),
    /// The value has no form that the key type's strategy can use.
    #[error("a value of {len} bytes does not fit the merge rule of key type {key_type}")]
    BadValue {
        /// The key's type.
        key_type: u16,
        /// The value's length in bytes.
        len: usize,
    },
    /// The author has no such put, or it has been taken back already, or not yet.
    #[error("there is no command {0} of yours to take back, or to let count again")]
    NothingToReverse(u64),
    /// As many authors as the genesis allows hold a role already: revoke one first.
    #[error("the room has its {0} writers already")]
    TooManyWriters(u16),
    /// The Lamport clock is at its bound; it moves on with wall time.
    #[error(
        "the log's clock is at its bound: try again in a moment, or check this machine's clock"
    )]
    ClockExhausted,
    /// The log has used all nonces.
    #[error("this author has used all its nonces: take a new key")]
    NoncesExhausted,
    /// What is said about checkpoints is not what [`due`](crate::CommandLog::due) or
    /// [`checkpoint_command`](crate::CommandLog::checkpoint_command) came up with.
    #[error("of checkpoints, only what is due is said")]
    NotDue,
    /// A limit of the frame format.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Why no checkpoint was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The log was opened without a signing key.
    #[error("this log is read-only: it has no signing key")]
    ReadOnly,
    /// Only Admins propose.
    #[error("only an Admin proposes checkpoints")]
    NotAdmin,
    /// An own proposal waits for others: retire whoever stays away.
    #[error("a checkpoint of yours waits for other writers: retire those who stay away")]
    Open,
    /// A checkpoint is stable below which this log lacks something.
    #[error("this log lacks something below a stable checkpoint: wait until peers have sent it")]
    Behind,
    /// Not above the last stable checkpoint's cut, or above all that is known.
    #[error("a cut lies above {above}, and not above {through}")]
    Cut {
        /// The last stable cut.
        above: u64,
        /// The highest Lamport time known.
        through: u64,
    },
}

/// Why a log cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The room has another schema.
    #[error("the room's schema differs from this application's: use the version that created it")]
    SchemaMismatch,
    /// The room needs rules that this version does not implement.
    #[error("the room needs merge version {0}: update this program")]
    MergeVersion(u16),
    /// The own key is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
}
