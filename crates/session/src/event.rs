//! What goes into a session and what comes out of it.

use std::{sync::Arc, time::Duration};

use roundtable_command_log::{
    Action, AppendError, Applied, ForkProof, GenesisHash, Header, ProposeError, SignedFrame, Stable,
};
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, CloseCode, Frame, MediaClock, MediaPacket, Payload, PeerId,
    Timestamp, TransportKind, WallTime,
};

/// The time of an input, as the shell's clock tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: timers and deadlines.
    pub mono: Timestamp,
    /// Wall-clock time: what signed frames carry.
    pub wall: WallTime,
}

/// The shell's number for a link. Never used again after its [`Input::LinkDown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Which end of a link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that made the offer.
    Initiator,
    /// The end that answered it.
    Responder,
}

impl Side {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Initiator => 0,
            Self::Responder => 1,
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What the shell knows of a new link.
#[derive(Debug, Clone)]
pub struct LinkInfo {
    /// The remote peer, as signaling named it.
    pub peer: PeerId,
    /// Which end this is.
    pub side: Side,
    /// What the link is made of.
    pub kind: TransportKind,
    /// The value that only the two ends of this link share.
    pub binding: ChannelBinding,
    /// The author key that the transport has proven the remote end to hold, if it proves any.
    pub proven_author: Option<AuthorId>,
    /// Whether the peer announced the capability `session`. A peer that did not is a guest.
    pub promises_session: bool,
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// Every peer that may receive on the channel. Nobody is not an error.
    All,
    /// One peer.
    Peer(PeerId),
}

/// Something that happened to a session.
#[derive(Debug, Clone)]
pub enum Input {
    /// A link has opened.
    LinkUp {
        /// Its number.
        link: LinkId,
        /// What is known of it.
        info: LinkInfo,
    },
    /// A link has closed, by whichever side. Unknown links are ignored, so that the answer to an
    /// [`Output::Close`] needs no care.
    LinkDown {
        /// Its number.
        link: LinkId,
    },
    /// A frame has arrived.
    Received {
        /// On which link.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// The user wants these commands signed and sent, in this order and as a whole: all are
    /// accepted or none. What is submitted within one flush interval shares signed frames.
    Submit {
        /// The commands.
        actions: Vec<Action>,
    },
    /// The user sends a frame on App, AppFast, Voice, Video, Replication or Snapshot. On App, a member that is away for a
    /// moment gets it when it is back, and all get it at most once and in order: what cannot be known to have arrived comes back
    /// as [`Event::Undelivered`]. See also [`Session::broadcast`](crate::Session::broadcast).
    Send {
        /// To whom.
        to: Recipient,
        /// What.
        frame: Frame,
    },
    /// The user has read a message on App that came from this peer. Until then it counts as unread, and of a peer of whom 16 MiB
    /// are unread no more is taken; nor is it of any of whom 32 messages or 1 MiB are, as long as that comes to 1,024 messages or 64 MiB
    /// of all peers. A guest of whom 256 messages or 16 MiB are unread loses its link if it sends another.
    Read {
        /// From whom.
        peer: PeerId,
        /// How many bytes the message has.
        len: usize,
    },
    /// The user wants no link to a peer; those that there are, are closed.
    Disconnect {
        /// Whom.
        peer: PeerId,
    },
    /// The user, an Admin, wants what everyone has had the time to see to become final.
    ProposeCheckpoint,
    /// The user wants checkpoints not to wait for an author any more.
    Retire {
        /// Whom.
        author: AuthorId,
    },
    /// Signaling found nobody else in the room: a session that has no genesis may create it.
    AloneInRoom,
    /// Signaling says that the peer has left; its links are closed.
    PeerLeft {
        /// Who.
        peer: PeerId,
    },
}

/// Something a session wants done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Send a frame.
    Transmit {
        /// On which link.
        link: LinkId,
        /// What.
        frame: Frame,
    },
    /// Close a link. The session has already forgotten it.
    Close {
        /// Which.
        link: LinkId,
        /// What the peer is told.
        code: CloseCode,
        /// What people are told.
        reason: &'static str,
    },
    /// Tell the user.
    Event(Event),
}

/// Something the user of a session wants to know.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The room's genesis is known, or another one has replaced it: then the log starts anew, and
    /// own commands of the old one are submitted again.
    GenesisKnown {
        /// Its hash.
        hash: GenesisHash,
        /// Whether an invite vouches for it, or this peer founded the room for others to be
        /// invited to. Otherwise it is trusted on first use.
        verified: bool,
        /// Whether this peer created it.
        created: bool,
    },
    /// A peer has proven who it is, on this link. Comes once for each link.
    PeerReady {
        /// Who signaling says it is, confirmed by itself.
        peer: PeerId,
        /// The key that it has proven to hold.
        author: AuthorId,
        /// On which link.
        link: LinkId,
        /// What that link is made of.
        kind: TransportKind,
    },
    /// A peer without the session protocol was admitted, on this link.
    GuestAdmitted {
        /// Who signaling says it is; nothing proves it.
        peer: PeerId,
        /// On which link.
        link: LinkId,
    },
    /// The last ready or admitted link of a peer is gone.
    PeerGone {
        /// Who.
        peer: PeerId,
    },
    /// A command was applied to the state, or found not to count.
    Applied(Applied),
    /// An author has signed two frames for one place, and this is the proof. Nothing that it signed
    /// after that place counts, unless an Admin names one of the branches.
    Forked(ForkProof),
    /// An author's log has become shorter, because it forks or an Admin named another branch:
    /// commands that were applied are taken back. Others may be applied in their place.
    Retracted {
        /// Whose.
        author: AuthorId,
        /// All above this nonce.
        after: u64,
    },
    /// A checkpoint has become stable, or was fetched: nothing changes any more below it, and the log
    /// holds no frames from there. A store that follows the log can let go of them once it has the
    /// [snapshot](roundtable_command_log::CommandLog::snapshot).
    CheckpointStable(Stable),
    /// The room's state has grown too long for anyone to join: what a newcomer needs to go on from the last checkpoint is longer
    /// than [may be](crate::SessionConfig::with_max_snapshot_len). Comes after [`CheckpointStable`](Self::CheckpointStable) where
    /// that is so of our own, and once on each link on which a peer offers us such a snapshot, which is then asked of others. Shorter values in place
    /// of long ones, and another checkpoint, mend it.
    SnapshotTooLong {
        /// Who offers it; `None` if it is what we would offer ourselves.
        peer: Option<PeerId>,
        /// Its length in bytes; a peer may say anything.
        len: u64,
        /// The most that we make or fetch, in bytes.
        max: u64,
    },
    /// A frame of our own was signed. Comes before any [`Output::Transmit`] that carries it, so
    /// that the shell can make it durable first.
    OwnFrame(Arc<SignedFrame>),
    /// A submitted command that the log refuses after all, for things have changed since: a role was
    /// taken away, the room has all its writers.
    NotSigned {
        /// The command.
        action: Action,
        /// Why.
        error: AppendError,
    },
    /// So many messages for a peer may have arrived or not, and never will from here on: it left, came back as another, or was
    /// away for 10 minutes.
    Undelivered {
        /// Who.
        peer: PeerId,
        /// How many, the last that were sent to it.
        count: usize,
    },
    /// Of a peer that had too much before it ([`InputError::QueueFull`]), so much has arrived that it takes more.
    Writable {
        /// Who.
        peer: PeerId,
    },
    /// A message on Snapshot, Replication, App or AppFast.
    Message {
        /// From whom.
        peer: PeerId,
        /// On which channel.
        channel: Channel,
        /// The message, text or binary.
        payload: Payload,
    },
    /// A packet of media.
    Media {
        /// From whom.
        peer: PeerId,
        /// Voice or Video.
        channel: Channel,
        /// The packet.
        packet: MediaPacket,
    },
    /// How a peer's media time maps to its wall clock.
    MediaClock {
        /// From whom.
        peer: PeerId,
        /// Voice or Video.
        channel: Channel,
        /// The mapping.
        clock: MediaClock,
    },
    /// A frame came that the log refused.
    Misbehaved {
        /// Who sent it.
        peer: PeerId,
        /// The key that this peer has proven to hold.
        sender: AuthorId,
        /// The author, if it is proven to be at fault: it has signed a frame that breaks a rule of its log. Otherwise the
        /// sender is, and nothing is said of the author that the frame names.
        author: Option<AuthorId>,
        /// [`FrameError::code`](roundtable_command_log::FrameError::code).
        code: u8,
        /// What the frame says of itself, if that could be read; without `author` nothing proves it.
        header: Option<Box<Header>>,
    },
    /// A link was refused or given up; its [`Output::Close`] is beside this event.
    Refused {
        /// Who.
        peer: PeerId,
        /// Which link.
        link: LinkId,
        /// What the peer is told.
        code: CloseCode,
        /// Why, for people.
        reason: &'static str,
    },
}

/// Why an input was not taken. The session is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A link with this number exists.
    #[error("link {} exists already", .0.0)]
    LinkExists(LinkId),
    /// No genesis yet, or not yet certain of the own last command.
    #[error("not ready to sign: wait until a peer is linked or the room is found empty")]
    NotReady,
    /// No invite vouches for the genesis, and it has not been shared for long enough to be sure that no other
    /// takes its place. Nothing is said of checkpoints until then.
    #[error(
        "this room may still turn out to be another: try again once a peer has been linked for 2 s"
    )]
    Unsettled,
    /// Our clock is more than 5 minutes from the median of the linked members': frames signed by it
    /// would wait at peers, or find no budget later.
    #[error(
        "this machine's clock is {} s {} those of its peers: set it",
        by.as_secs(), if *ahead { "ahead of" } else { "behind" }
    )]
    ClockOff {
        /// Whether it is ahead.
        ahead: bool,
        /// By how much.
        by: Duration,
    },
    /// Commands come faster than the room's limits allow.
    #[error("more commands than the room allows: try again in {} ms", retry_after.as_millis())]
    RateLimited {
        /// When the queue will have room again.
        retry_after: Duration,
    },
    /// The log would not take such a command: the own role is too low, the schema has no such key
    /// type, a limit is passed.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// No checkpoint can be proposed now.
    #[error(transparent)]
    NoCheckpoint(#[from] ProposeError),
    /// This channel is not for the user to send on.
    #[error("{} is not for messages of the user", .0.name())]
    WrongChannel(Channel),
    /// The message is larger than its channel takes, or than its recipient does.
    #[error("a message on {} has at most {max} bytes; this one has {len}", channel.name())]
    TooLarge {
        /// The channel.
        channel: Channel,
        /// The message's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// More than 4 MiB wait for this peer already.
    #[error("too much waits for {0} already: wait for Event::Writable, then send again")]
    QueueFull(PeerId),
    /// No ready link to this peer, or it is a guest and the channel is for members.
    #[error("{0} cannot be reached on this channel")]
    Unreachable(PeerId),
}

/// Of each peer, whether a message was taken for it.
pub type Taken = Vec<(PeerId, Result<(), InputError>)>;

/// How far a peer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Linked, not yet proven or admitted.
    Handshaking,
    /// Has proven to hold this key.
    Member(AuthorId),
    /// Admitted without proof: media, App and AppFast only.
    Guest,
}

/// A linked peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Who.
    pub peer: PeerId,
    /// How far it has come.
    pub standing: Standing,
    /// Its links, the one that is sent on first.
    pub links: Vec<LinkView>,
    /// What was exchanged with it on App and AppFast.
    pub messages: MessageStats,
}

/// Messages that were exchanged with a peer on App and AppFast, since it came; counters wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageStats {
    /// How many were taken for it.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// How many came from it.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Of those that were taken, how many it has not acknowledged. Always none for guests, who acknowledge nothing.
    pub waiting: usize,
    /// The bytes of these, and 64 for each.
    pub waiting_bytes: u64,
}

impl MessageStats {
    pub(crate) fn count_sent(&mut self, len: usize) {
        self.sent = self.sent.wrapping_add(1);
        self.sent_bytes = self.sent_bytes.wrapping_add(len as u64);
    }

    pub(crate) fn count_received(&mut self, len: usize) {
        self.received = self.received.wrapping_add(1);
        self.received_bytes = self.received_bytes.wrapping_add(len as u64);
    }
}

/// A link of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkView {
    /// Its number.
    pub link: LinkId,
    /// What it is made of.
    pub kind: TransportKind,
    /// Round-trip time of the session's heartbeats, smoothed; `None` before the first, and for
    /// guests.
    pub rtt: Option<Duration>,
}
