//! What a room tells its user.

use std::{path::PathBuf, time::Duration};

use roundtable_command_log::{Action, AppendError, Applied, ForkProof, GenesisHash, Stable};
use roundtable_core::{AuthorId, Channel, CloseCode, Payload, PeerId, TransportKind, WallTime};

use crate::ConnectionQuality;

/// Something that happened in a room.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Whether commands of this peer are taken has changed. They are not before the room is known
    /// and this peer is an Editor in it, which in an open room an Admin's client sees to.
    MayEdit(bool),
    /// The room's founding document is known.
    RoomKnown {
        /// What an invite link carries in its fragment.
        genesis: GenesisHash,
        /// Whether an invite vouches for it; otherwise it is trusted on first use.
        verified: bool,
        /// Whether this peer created it.
        created: bool,
    },
    /// A peer can be talked to over this transport. Comes once for each link.
    Connected {
        /// Who.
        peer: PeerId,
        /// Over what.
        transport: TransportKind,
        /// The key that it has proven to hold; `None` for a guest.
        author: Option<AuthorId>,
        /// From the start of the negotiation until the transport was open.
        opened_after: Duration,
        /// From the start of the negotiation until the peer was admitted.
        ready_after: Duration,
    },
    /// The last link to a peer is gone.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// Why, as the link tells it.
        code: CloseCode,
    },
    /// The connection to a peer has become better or worse, by a level, and has stayed so for three seconds; or the
    /// peer has fallen silent, or is heard again.
    QualityChanged {
        /// Who.
        peer: PeerId,
        /// How the connection is now, and why it is not better.
        quality: ConnectionQuality,
    },
    /// One way to reach a peer failed that is not linked otherwise. Another is tried, or the same again later.
    LinkFailed {
        /// Who.
        peer: PeerId,
        /// Over what.
        transport: TransportKind,
        /// What happened, for people.
        reason: String,
    },
    /// A peer was refused, or gave itself up.
    Refused {
        /// Who.
        peer: PeerId,
        /// What it was told.
        code: CloseCode,
        /// Why, for people.
        reason: &'static str,
    },
    /// A command of ours was taken, and could not be signed after all. It is lost: submit it again
    /// if it still makes sense.
    NotSigned {
        /// The command.
        action: Action,
        /// Why, for people.
        reason: AppendError,
    },
    /// A member sent a frame that the log refused. After eight that no honest peer sends its link is closed.
    Misbehaved {
        /// Who sent it.
        peer: PeerId,
        /// The author, if it is proven to be at fault: it has signed a frame that breaks a rule of its log. Otherwise the
        /// sender is, and nothing is said of the author that the frame names.
        author: Option<AuthorId>,
        /// The frame error's code, as `docs/protocols/command-log.md` lists them.
        code: u8,
    },
    /// A command was applied to the shared state, or found not to count.
    Applied(Applied),
    /// An author has signed two frames for one place, and this is the proof: two copies of one
    /// identity are in use, or somebody cheats. Nothing that it signed after that place counts, unless
    /// an Admin names one of the branches.
    Forked(ForkProof),
    /// Commands that were applied are taken back, because their author's log forks. The state has
    /// followed; what is applied in their place comes as [`Event::Applied`].
    Retracted {
        /// Whose.
        author: AuthorId,
        /// All above this nonce.
        after: u64,
    },
    /// A checkpoint has become stable, or was fetched by this peer: nothing changes any more below it, on
    /// any peer, and the log holds no commands from there. Values that this peer had not known are in the
    /// state; they come as no [`Event::Applied`].
    CheckpointStable(Stable),
    /// The room's state has grown too long for anyone to join: what a newcomer needs to go on from the last checkpoint is longer than
    /// the 256 MiB that peers make and fetch. Comes after [`Event::CheckpointStable`] where that is so of our own, and once on each link
    /// on which a peer offers us such a snapshot. Shorter values in place of long ones, and another checkpoint, mend it.
    SnapshotTooLong {
        /// Who offers it; `None` if it is what we would offer ourselves.
        peer: Option<PeerId>,
        /// Its length in bytes; a peer may say anything.
        len: u64,
        /// The most that we make or fetch, in bytes.
        max: u64,
    },
    /// So many messages for a peer, the last that were sent to it, may have arrived or not, and never will from here on: it left, or
    /// its program was started again, or it was away for 10 minutes.
    Undelivered {
        /// Who.
        peer: PeerId,
        /// How many.
        count: usize,
    },
    /// A message from a peer.
    Message {
        /// From whom.
        peer: PeerId,
        /// [`Channel::App`] or [`Channel::AppFast`].
        channel: Channel,
        /// [`Payload::Text`] or [`Payload::Binary`].
        payload: Payload,
    },
    /// A peer began to speak, or has been silent for half a second.
    Speaking {
        /// Who.
        peer: PeerId,
        /// Whether it speaks now.
        speaking: bool,
    },
    /// A peer sends far more packets than a voice has. None of them is heard until 5 s after the last that
    /// is too many.
    VoiceFlood {
        /// Who.
        peer: PeerId,
    },
    /// The microphone or the speakers came, went or changed. Voice goes on without.
    #[cfg(feature = "device")]
    Device {
        /// Which.
        direction: crate::voice::Direction,
        /// How it is doing now.
        state: crate::voice::DeviceState,
    },
    /// This peer's own voice began to be captured.
    CaptureStarted {
        /// When, on this machine's wall clock.
        at: WallTime,
    },
    /// A recording began.
    RecordingStarted {
        /// Of whom; `None` is the mix of everyone.
        peer: Option<PeerId>,
        /// When the recording's first sample was played, on this machine's wall clock.
        at: WallTime,
        /// The file.
        path: PathBuf,
    },
    /// Signaling is away. Links to peers stay up; newcomers cannot be reached until it is back.
    SignalingLost,
    /// Signaling is back.
    SignalingResumed,
    /// Signaling has ended for good: the session expired, or another process took the name.
    SignalingEnded,
    /// The reader of these events was too slow and missed this many, of those that come in masses unless it reads hardly anything
    /// ([`Room::events`](crate::Room::events)). Commands are not lost: the state has them.
    Lagged(u64),
}
