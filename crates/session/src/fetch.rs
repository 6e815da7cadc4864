//! Snapshots on their way: the pieces in which they travel, and what has come of one.
//!
//! A piece is a message on the Snapshot channel: `RTK1`, the number of the checkpoint, the length of the whole and
//! the place of the piece in it (8 bytes each, little-endian), then the piece.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use roundtable_core::Timestamp;

use crate::event::LinkId;

/// How a piece of a snapshot begins. What users send on the Snapshot channel may not begin like this.
pub(crate) const PIECE: &[u8; 4] = b"RTK1";
/// How many bytes of a snapshot one piece carries.
pub(crate) const PIECE_LEN: usize = 60 * 1024;
/// How many pieces answer one request.
pub(crate) const PIECES: usize = 4;
/// The longest snapshot that anyone makes or fetches. Nobody joins a room whose state is longer: each who is asked for it, and
/// each who asks, tells its user, and `session_oversized_snapshots` counts it.
pub(crate) const MAX_LEN: u64 = 256 << 20;
/// How long a peer has for each piece before another is asked: who sends less than 60 KiB/s is passed over.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one peer has for a snapshot while others might bring it sooner. Doubles each time that all were asked
/// in vain, so that who is slow comes to an end, too.
const TURN: Duration = Duration::from_secs(30);
/// How often that doubles at most.
const MAX_ROUNDS: u32 = 10;

/// A snapshot that is on its way.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) link: LinkId,
    /// How many checkpoints we had when it began.
    pub(crate) after: u64,
    /// Which checkpoint's it is. Only a later one makes it begin anew.
    number: Option<u64>,
    pub(crate) bytes: BytesMut,
    /// How long the whole may be.
    max_len: u64,
    /// Up to where was asked.
    asked: usize,
    /// Until when the next piece must have come.
    pub(crate) deadline: Timestamp,
    /// Until when all must have come, whatever is sent.
    until: Timestamp,
}

/// What is to be done about a piece.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing: it was not asked for, or more is on the way.
    Wait,
    /// To ask for what begins there.
    Ask(u64),
    /// The snapshot is complete.
    Use,
    /// The peer does not send what was asked for.
    PassOver,
    /// The snapshot is longer than is fetched.
    TooLong(u64),
}

impl Fetch {
    /// Of what makes the checkpoints after so many stable, at most `max_len` bytes, from a link. `rounds`: how often all have been
    /// asked.
    pub(crate) fn new(now: Timestamp, link: LinkId, after: u64, rounds: u32, max_len: u64) -> Self {
        Self {
            link,
            after,
            number: None,
            bytes: BytesMut::new(),
            max_len,
            asked: PIECES * PIECE_LEN,
            deadline: now + PATIENCE,
            until: now + TURN * (1 << rounds.min(MAX_ROUNDS)),
        }
    }

    /// Takes in a piece. All but the last must have full length, or who sends next to nothing at a time would be
    /// waited for.
    pub(crate) fn take(&mut self, now: Timestamp, piece: &Piece) -> Next {
        if self.number.is_none_or(|known| piece.number > known) {
            // The peer has gone on to another checkpoint: from the start again.
            self.number = Some(piece.number);
            self.bytes.clear();
            self.asked = PIECES * PIECE_LEN;
            if piece.offset > 0 {
                return Next::Ask(0);
            }
        }
        if piece.number <= self.after {
            return Next::PassOver;
        }
        if self.number != Some(piece.number) || piece.offset != self.bytes.len() as u64 {
            return Next::Wait;
        }
        let left = piece.len.saturating_sub(piece.offset);
        // Who makes none that is so long sends how long it would be, and nothing of it.
        if piece.len > self.max_len || (left > 0 && piece.bytes.is_empty()) {
            return Next::TooLong(piece.len);
        }
        if piece.bytes.len() as u64 != left.min(PIECE_LEN as u64) {
            return Next::PassOver;
        }
        self.bytes.extend_from_slice(&piece.bytes);
        self.deadline = (now + PATIENCE).min(self.until);
        let have = self.bytes.len();
        if have as u64 == piece.len {
            return Next::Use;
        }
        if have < self.asked {
            return Next::Wait;
        }
        self.asked = have + PIECES * PIECE_LEN;
        Next::Ask(have as u64)
    }
}

/// A piece of a snapshot, as it travels.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) number: u64,
    /// The length of the whole.
    pub(crate) len: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

impl Piece {
    /// Reads a message that begins with [`PIECE`]; `None` if it is too short.
    pub(crate) fn read(mut message: Bytes) -> Option<Self> {
        message.try_get_u32().ok()?;
        Some(Self {
            number: message.try_get_u64_le().ok()?,
            len: message.try_get_u64_le().ok()?,
            offset: message.try_get_u64_le().ok()?,
            bytes: message,
        })
    }

    /// How it travels.
    pub(crate) fn message(&self) -> Bytes {
        let mut message = BytesMut::with_capacity(28 + self.bytes.len());
        message.put_slice(PIECE);
        message.put_u64_le(self.number);
        message.put_u64_le(self.len);
        message.put_u64_le(self.offset);
        message.put_slice(&self.bytes);
        message.freeze()
    }
}
