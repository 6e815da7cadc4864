//! The seam between what peers say and how it travels.

use std::future::Future;

use roundtable_core::{
    AuthorId, Channel, ChannelBinding, CloseCode, Frame, LinkStats, TransportKind,
};

/// A connection to one remote peer that carries every [`Channel`].
///
/// Handles are shared by reference; the socket and all state belong to one task inside. Dropping
/// the last handle closes the link with [`CloseCode::NORMAL`].
pub trait Link: Send + Sync {
    /// What the link is made of.
    fn kind(&self) -> TransportKind;

    /// The value that both ends of this link, and no other link, share.
    fn binding(&self) -> ChannelBinding;

    /// The author key that the transport itself has proven the remote end to hold (QUIC does), or
    /// `None` where only the session's handshake can prove it.
    fn remote_author(&self) -> Option<AuthorId>;

    /// Queues a frame without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] when the channel's queue is full: on an unreliable channel the frame is
    /// then dropped and counted. Otherwise as [`send`](Self::send).
    fn try_send(&self, frame: Frame) -> Result<(), SendError>;

    /// Queues a frame; on a reliable channel waits while its queue is full, on an unreliable one
    /// never waits and drops instead. Cancel safe: a cancelled send has queued nothing.
    ///
    /// # Errors
    /// [`SendError`]; the link stays usable after all but [`SendError::Closed`].
    fn send(&self, frame: Frame) -> impl Future<Output = Result<(), SendError>> + Send;

    /// The next frame from the peer. Cancel safe. Several callers share the frames among them.
    ///
    /// # Errors
    /// [`Closed`] once the link has closed and every frame received before has been handed out.
    fn recv(&self) -> impl Future<Output = Result<Frame, Closed>> + Send;

    /// Current measurements. Does not block.
    fn stats(&self) -> LinkStats;

    /// Closes the link: what reliable channels have queued is delivered first, for at most 1 s,
    /// then the peer is told `code` and `reason` (at most 200 bytes are sent). Later calls have no
    /// effect. Returns when nothing of the link is left: no task, no socket.
    fn close(&self, code: CloseCode, reason: &str) -> impl Future<Output = ()> + Send;
}

/// Why a frame was not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is larger than its channel takes in one frame.
    #[error("a message on {} has at most {max} bytes; this one has {len}: split it", channel.name())]
    TooLarge {
        /// The channel.
        channel: Channel,
        /// The message's length in bytes.
        len: usize,
        /// The channel's limit in bytes.
        max: usize,
    },
    /// The payload does not belong on its channel.
    #[error("this kind of payload does not travel on {}", .0.name())]
    WrongChannel(Channel),
    /// The remote end did not negotiate this channel.
    #[error("the peer does not take {}", .0.name())]
    NotNegotiated(Channel),
    /// The channel's queue is full.
    #[error("the queue of {} is full: the peer or the network is slower than the sender", .0.name())]
    Full(Channel),
    /// The link has closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// How a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("link closed {}: {code} {reason}", if *.by_remote { "by the peer" } else { "here" })]
pub struct Closed {
    /// The documented code.
    pub code: CloseCode,
    /// What the closing side said; from the network, so only for people.
    pub reason: String,
    /// Whether the peer closed it. A link that was lost counts as closed here.
    pub by_remote: bool,
}

/// The longest close reason, in bytes, that links send.
pub const MAX_REASON_LEN: usize = 200;

impl Closed {
    /// A close with its reason cut to [`MAX_REASON_LEN`] bytes, at a character boundary.
    pub fn new(code: CloseCode, reason: &str, by_remote: bool) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON_LEN);
        Self {
            code,
            reason: reason[..end].to_owned(),
            by_remote,
        }
    }
}

/// Checks what every link must refuse before it queues a frame.
///
/// # Errors
/// [`SendError::WrongChannel`] or [`SendError::TooLarge`].
pub fn check_frame(frame: &Frame) -> Result<(), SendError> {
    if !frame.is_consistent() {
        return Err(SendError::WrongChannel(frame.channel));
    }
    let (len, max) = (frame.payload_len(), frame.channel.max_message_len());
    if len > max {
        return Err(SendError::TooLarge {
            channel: frame.channel,
            len,
            max,
        });
    }
    Ok(())
}
