//! What must never be seen in a world.

use roundtable_core::{AuthorId, Channel, CloseCode, PeerId};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A command was applied twice, or before the one ahead of it.
    #[error("{reader} applied command {nonce} of {author:?} when {expected} was next")]
    AppliedOutOfTurn {
        /// Who applied it.
        reader: PeerId,
        /// Who wrote it.
        author: AuthorId,
        /// The nonce that was to come.
        expected: u64,
        /// The nonce that came.
        nonce: u64,
    },
    /// A frame left its author before it was on disk.
    #[error("{peer} sent its frame from nonce {nonce} before it was durable")]
    SentBeforeDurable {
        /// Who.
        peer: PeerId,
        /// The frame's first nonce.
        nonce: u64,
    },
    /// An honest peer was reported for a frame.
    #[error("{judge} blamed the honest {peer} for a frame: code {code}")]
    Blamed {
        /// Who reported it.
        judge: PeerId,
        /// Who was reported.
        peer: PeerId,
        /// The frame error's code.
        code: u8,
    },
    /// An honest peer's link was refused for what it did.
    #[error("{judge} barred the honest {peer}: {code}")]
    Barred {
        /// Who closed the link.
        judge: PeerId,
        /// Who was turned away.
        peer: PeerId,
        /// What it was told.
        code: CloseCode,
    },
    /// An honest peer's frames have to wait, as if it had sent too many that bring nothing.
    #[error("{judge} slows down the honest {peer}")]
    Throttled {
        /// Who lets them wait.
        judge: PeerId,
        /// Whose frames.
        peer: PeerId,
    },
    /// An honest peer signed two frames for one place.
    #[error("the honest {0} has forked its own log")]
    Forked(PeerId),
    /// Logs that hold the same disagree on who has forked.
    #[error("{0} and {1} know of different forks")]
    Forks(PeerId, PeerId),
    /// A guest was sent what is for members.
    #[error("{sender} sent the guest {guest} a message on {}", channel.name())]
    GuestServed {
        /// Who sent it.
        sender: PeerId,
        /// To whom.
        guest: PeerId,
        /// On which channel.
        channel: Channel,
    },
    /// A session wants to be woken at a time that has passed, for ever.
    #[error("{0} spins")]
    Spins(PeerId),
    /// A session did not start, or would not take its own frames back.
    #[error("{0} did not come back with what it had stored")]
    NotRestored(PeerId),
    /// A peer has no genesis, or another one.
    #[error("{0} is in another room")]
    AnotherRoom(PeerId),
    /// After quiescence a peer lacks frames, or has others.
    #[error("the heads of {0} and {1} differ")]
    Heads(PeerId, PeerId),
    /// Equal frames, unequal state.
    #[error("the states of {0} and {1} differ")]
    State(PeerId, PeerId),
    /// Equal frames, unequal roles.
    #[error("the roles of {0} are not what its frames say")]
    Roles(PeerId),
    /// A value is not what the frames say.
    #[error("the values of {0} are not what its frames say")]
    Values(PeerId),
    /// A log that gets the same frames in another order comes to another end.
    #[error("the frames of {0}, shuffled, come to another end")]
    Shuffled(PeerId),
    /// A stable checkpoint was taken back, or another has taken its place.
    #[error("checkpoint {number} of {peer} is not the one that was stable")]
    Unsettled {
        /// Who shows it.
        peer: PeerId,
        /// The checkpoint's number.
        number: u64,
    },
    /// The state at a cut is not what was committed.
    #[error("what {0} has at its checkpoint is not what was committed")]
    Cut(PeerId),
    /// A log that gets everything from the genesis on differs from one that has joined by a snapshot.
    #[error("{0} is not where a log is that has seen everything from the genesis on")]
    Replayed(PeerId),
    /// A message came twice, or before the one ahead of it.
    #[error("{reader} received message {number} of {sender} after {last}")]
    MessageOutOfTurn {
        /// Who received it.
        reader: PeerId,
        /// Who sent it.
        sender: PeerId,
        /// The number of the one before.
        last: u64,
        /// Its number.
        number: u64,
    },
    /// Messages did not arrive, and their sender was not told.
    #[error("{missing} messages from {sender} to {reader} are missing")]
    MessagesLost {
        /// Who sent them.
        sender: PeerId,
        /// Who did not receive them.
        reader: PeerId,
        /// How many.
        missing: u64,
    },
    /// Peers did not come to rest in time.
    #[error("no convergence within {0} s after the last link was up")]
    NoConvergence(u64),
    /// The product panicked.
    #[error("a peer panicked")]
    Panicked,
}
