//! App messages from one peer to another: numbered chunks that are kept until they are acknowledged, and sent again on the next link.
//!
//! Two halves, [`Outgoing`] and [`Incoming`], one of each at both ends. A chunk is a message on the App channel: its number (8 bytes,
//! little-endian, from 1), a byte that says what it is, and up to 16 KiB of the message. So a message of any length waits in
//! small pieces, between which everything more urgent goes first. Each chunk *costs* its length and [`CHUNK_COST`]; the receiver says
//! up to which cost it takes more. That bounds the bytes under way, and their number of chunks, too.

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use roundtable_core::{Payload, Timestamp};

/// The longest message that members exchange on App, in bytes. Guests take [60 KiB](roundtable_core::Channel::max_message_len).
pub const MAX_MESSAGE_LEN: usize = 16 * 1024 * 1024;

/// Bytes of a message in one chunk.
const CHUNK_LEN: usize = 16 * 1024;
/// What a chunk costs beside its bytes: at most 256 are in a window, and 512 under way, so that those of all peers of a room fit where they
/// wait for the application, and those to one peer where they wait for its link.
pub(crate) const CHUNK_COST: u64 = 2048;
/// What a message weighs beside its bytes while it waits.
const MESSAGE_COST: u64 = 64;
/// What may wait for a peer, with [`MESSAGE_COST`] for each message. The message that goes beyond it is still taken.
const MAX_QUEUED: u64 = 4 << 20;
/// What is under way at most, whatever the receiver would take.
const IN_FLIGHT: u64 = 1 << 20;
/// By how much the cost that a receiver takes is ahead of what has come.
pub(crate) const WINDOW: u64 = 512 << 10;
/// What has come when it is acknowledged at once, and how long less than that may wait.
const ACK_AT: u64 = WINDOW / 4;
const ACK_DELAY: Duration = Duration::from_millis(10);
/// What the application may leave unread of one peer before nothing more is taken of it.
const MAX_UNREAD: u64 = MAX_MESSAGE_LEN as u64;
/// What it may leave unread of all peers, in messages and in weight, before nothing more is taken of those of whom it has left
/// more unread than their share.
const MAX_UNREAD_OF_ALL: Unread = Unread {
    messages: 1024,
    weight: 64 << 20,
};
/// What others cannot take from a peer.
const SHARE: Unread = Unread {
    messages: 32,
    weight: 1 << 20,
};
/// Where even that ends, as whoever comes under ever new names has a share each time.
const CEILING: Unread = Unread {
    messages: 2048,
    weight: 128 << 20,
};
/// What may be unread of one who heeds no limit.
const MAX_UNREAD_OF_GUEST: Unread = Unread {
    messages: 256,
    weight: MAX_UNREAD,
};

const TEXT: u8 = 1;
const MORE: u8 = 2;

/// What no honest peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    Malformed,
    Gap,
    BeyondLimit,
    TooLong,
    NotText,
    NeverSent,
}

impl Violation {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "a malformed chunk of a message",
            Self::Gap => "a chunk of a message was left out",
            Self::BeyondLimit => "more of messages than was asked for",
            Self::TooLong => "a message that is too long",
            Self::NotText => "a text that is not UTF-8",
            Self::NeverSent => "a chunk was acknowledged that was never sent",
        }
    }
}

/// A message of the user's: cheap to clone, so that it waits for many peers and is there once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) text: bool,
    pub(crate) bytes: Bytes,
}

impl Message {
    /// `None` for media.
    pub(crate) fn new(payload: Payload) -> Option<Self> {
        let (text, bytes) = match payload {
            Payload::Text(text) => (true, text.into()),
            Payload::Binary(bytes) => (false, bytes),
            Payload::Media(_) | Payload::Clock(_) => return None,
        };
        Some(Self { text, bytes })
    }

    fn read(text: bool, bytes: Vec<u8>) -> Result<Payload, Violation> {
        if !text {
            return Ok(Payload::Binary(bytes.into()));
        }
        let text = String::from_utf8(bytes).map_err(|_| Violation::NotText)?;
        Ok(Payload::Text(text))
    }

    fn chunks(&self) -> u64 {
        self.bytes.len().div_ceil(CHUNK_LEN).max(1) as u64
    }

    /// What its first so many chunks cost.
    fn cost(&self, chunks: u64) -> u64 {
        let all = self.bytes.len() as u64;
        all.min(chunks * CHUNK_LEN as u64) + chunks * CHUNK_COST
    }

    /// What it takes of [`MAX_QUEUED`].
    fn weight(&self) -> u64 {
        weight(self.bytes.len())
    }
}

/// What a message of so many bytes weighs while it waits.
fn weight(len: usize) -> u64 {
    len as u64 + MESSAGE_COST
}

/// What the application has not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) messages: u64,
    pub(crate) weight: u64,
}

impl Unread {
    /// The application was handed a message of so many bytes.
    pub(crate) fn add(&mut self, len: usize) {
        self.messages = self.messages.saturating_add(1);
        self.weight = self.weight.saturating_add(weight(len));
    }

    /// The application has read a message of so many bytes.
    pub(crate) fn read(&mut self, len: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.weight = self.weight.saturating_sub(weight(len));
    }

    const fn is_below(self, bound: Self) -> bool {
        self.messages < bound.messages && self.weight < bound.weight
    }
}

#[derive(Debug)]
struct Queued {
    message: Message,
    /// The number of its first chunk.
    first: u64,
    /// What all chunks before that cost.
    before: u64,
}

impl Queued {
    fn last(&self) -> u64 {
        self.first + self.message.chunks() - 1
    }

    fn cost_through(&self, number: u64) -> u64 {
        self.before + self.message.cost(number + 1 - self.first)
    }

    fn chunk(&self, number: u64) -> Bytes {
        let Message { text, bytes } = &self.message;
        let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        let from = index.saturating_mul(CHUNK_LEN).min(bytes.len());
        let to = from.saturating_add(CHUNK_LEN).min(bytes.len());
        let kind = (TEXT * u8::from(*text)) | (MORE * u8::from(to < bytes.len()));
        let mut chunk = BytesMut::with_capacity(9 + to - from);
        chunk.put_u64_le(number);
        chunk.put_u8(kind);
        chunk.put_slice(&bytes[from..to]);
        chunk.freeze()
    }
}

/// What is on its way to a peer.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Messages of which something is not acknowledged.
    queue: VecDeque<Queued>,
    weight: u64,
    /// The last chunk there is, and what all cost.
    last: u64,
    cost: u64,
    acknowledged: u64,
    acknowledged_cost: u64,
    /// The last that was sent on the present link, and on any.
    sent: u64,
    highest: u64,
    limit: u64,
}

impl Outgoing {
    /// Takes a message, unless too much waits already.
    pub(crate) fn push(&mut self, message: Message) -> bool {
        if self.is_full() {
            return false;
        }
        let queued = Queued {
            first: self.last + 1,
            before: self.cost,
            message,
        };
        self.weight += queued.message.weight();
        self.last = queued.last();
        self.cost = queued.cost_through(self.last);
        self.queue.push_back(queued);
        true
    }

    pub(crate) fn is_full(&self) -> bool {
        self.weight >= MAX_QUEUED
    }

    /// Messages that are not acknowledged, and their weight.
    pub(crate) fn waiting(&self) -> (usize, u64) {
        (self.queue.len(), self.weight)
    }

    /// Begins on another link with the first that is not acknowledged.
    pub(crate) fn rewind(&mut self) {
        self.sent = self.acknowledged;
    }

    /// The next chunk to be sent, if the receiver takes it.
    pub(crate) fn next_chunk(&mut self) -> Option<Bytes> {
        let number = self.sent + 1;
        let chunk = self.sendable(number)?.chunk(number);
        self.sent = number;
        self.highest = self.highest.max(number);
        Some(chunk)
    }

    /// Whether there is a chunk that the receiver takes.
    pub(crate) fn has_chunk(&self) -> bool {
        self.sendable(self.sent + 1).is_some()
    }

    /// The message with a chunk, if the receiver takes that.
    fn sendable(&self, number: u64) -> Option<&Queued> {
        let queued = self.holding(number)?;
        let most = self.acknowledged_cost.saturating_add(IN_FLIGHT);
        (queued.cost_through(number) <= self.limit.min(most)).then_some(queued)
    }

    fn holding(&self, number: u64) -> Option<&Queued> {
        let after = self.queue.partition_point(|queued| queued.first <= number);
        let queued = self.queue.get(after.checked_sub(1)?)?;
        (number <= queued.last()).then_some(queued)
    }

    /// The receiver has all up to `through`, and takes chunks up to the cost `limit`.
    pub(crate) fn acknowledge(&mut self, through: u64, limit: u64) -> Result<(), Violation> {
        if through > self.highest {
            return Err(Violation::NeverSent);
        }
        self.limit = self.limit.max(limit);
        if through <= self.acknowledged {
            return Ok(());
        }
        if let Some(queued) = self.holding(through) {
            self.acknowledged_cost = queued.cost_through(through);
        }
        self.acknowledged = through;
        self.sent = self.sent.max(through);
        while let Some(front) = self.queue.front().filter(|front| front.last() <= through) {
            self.weight -= front.message.weight();
            self.queue.pop_front();
        }
        Ok(())
    }
}

/// What came of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It had come before.
    Again,
    Part,
    Whole(Payload),
}

/// What has come from a peer.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    through: u64,
    cost: u64,
    /// The limit that the peer was told, and the cost up to which it was acknowledged.
    limit: u64,
    told: u64,
    due: Option<Timestamp>,
    partial: Option<(bool, Vec<u8>)>,
    unread: Unread,
}

impl Incoming {
    /// Takes a chunk. Memory grows with what has come, not with what is announced.
    pub(crate) fn take(&mut self, now: Timestamp, mut chunk: Bytes) -> Result<Taken, Violation> {
        let number = chunk.try_get_u64_le().map_err(|_| Violation::Malformed)?;
        let kind = chunk.try_get_u8().map_err(|_| Violation::Malformed)?;
        if number == 0 || kind & !(TEXT | MORE) != 0 {
            return Err(Violation::Malformed);
        }
        if number <= self.through {
            self.due.get_or_insert(now + ACK_DELAY);
            return Ok(Taken::Again);
        }
        if number != self.through + 1 {
            return Err(Violation::Gap);
        }
        let cost = self.cost + chunk.len() as u64 + CHUNK_COST;
        if cost > self.limit {
            return Err(Violation::BeyondLimit);
        }
        let taken = self.join(kind & TEXT != 0, kind & MORE != 0, chunk)?;
        (self.through, self.cost) = (number, cost);
        let due = now + ACK_DELAY;
        let due = if cost - self.told >= ACK_AT { now } else { due };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
        Ok(taken)
    }

    fn join(&mut self, text: bool, more: bool, chunk: Bytes) -> Result<Taken, Violation> {
        let payload = match self.partial.take() {
            None if !more && !text => Payload::Binary(chunk),
            partial => {
                let (began_as_text, mut bytes) = partial.unwrap_or((text, Vec::new()));
                if began_as_text != text {
                    return Err(Violation::Malformed);
                }
                if bytes.len() + chunk.len() > MAX_MESSAGE_LEN {
                    return Err(Violation::TooLong);
                }
                bytes.extend_from_slice(&chunk);
                if more {
                    self.partial = Some((text, bytes));
                    return Ok(Taken::Part);
                }
                Message::read(text, bytes)?
            }
        };
        Ok(Taken::Whole(payload))
    }

    /// What the application has not read of this peer's.
    pub(crate) fn unread(&mut self) -> &mut Unread {
        &mut self.unread
    }

    /// Whether one who heeds no limit has sent far more than was read, with so much unread `of_all` peers.
    pub(crate) fn is_flooded(&self, of_all: Unread) -> bool {
        !self.unread.is_below(MAX_UNREAD_OF_GUEST) || !of_all.is_below(CEILING)
    }

    /// Bytes of a message that has not come whole.
    pub(crate) fn partial(&self) -> usize {
        self.partial.as_ref().map_or(0, |(_, bytes)| bytes.len())
    }

    /// Whether more is taken, with so much unread `of_all` peers.
    fn takes_more(&self, of_all: Unread) -> bool {
        let share = self.unread.is_below(SHARE) && of_all.is_below(CEILING);
        self.unread.weight < MAX_UNREAD && (share || of_all.is_below(MAX_UNREAD_OF_ALL))
    }

    /// If too little more was taken so far, the peer is told what is taken now.
    pub(crate) fn look_again(&mut self, now: Timestamp) {
        if self.limit < self.cost + WINDOW / 2 {
            self.due = Some(now);
        }
    }

    /// When the peer is to be told what has come.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// What the peer is told: up to where all has come, and up to which cost more is taken, with so much unread `of_all` peers.
    pub(crate) fn acknowledgement(&mut self, of_all: Unread) -> (u64, u64) {
        self.due = None;
        self.told = self.cost;
        if self.takes_more(of_all) {
            self.limit = self.limit.max(self.cost + WINDOW);
        }
        (self.through, self.limit)
    }

    /// It is told on the next link.
    pub(crate) fn put_off(&mut self) {
        self.due = None;
    }

    /// Forgets all but what the application has not read.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self {
            unread: self.unread,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests;
