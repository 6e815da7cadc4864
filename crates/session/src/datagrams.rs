//! What a session sends unreliably, beside its reliable channels: repetitions of its last commands, so that a lost packet does not
//! delay them until the transport sends it again, and signs of life that are wanted at once.
//!
//! They are messages on the Replication channel that begin with [`MARK`]. Frames in them are in full form, which depends on nothing
//! that came before; what they bring early, the Command channel brings again, and the log drops.

use std::{collections::VecDeque, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use roundtable_command_log::{SignedFrame, UnverifiedFrame};
use roundtable_core::{Channel, Frame, Payload, Timestamp};
use roundtable_wire::session::Control;

use crate::{
    Session,
    arrivals::Source,
    event::{LinkId, Now},
    links::Link,
};

/// The capability of those who read such messages.
pub(crate) const SESSION_DATAGRAMS: &str = "session-datagrams";

/// How such a message begins; a byte that says what it is follows.
pub(crate) const MARK: &[u8; 4] = b"RTU1";
const COMMANDS: u8 = 0;
const CONTROL: u8 = 1;
const HEADER_LEN: usize = MARK.len() + 1;

/// How long after a command it is repeated: long enough to travel in another packet, which another loss has to hit, and much shorter
/// than any transport takes to notice a loss.
const REPEAT_AFTER: Duration = Duration::from_millis(20);
/// How often a frame is repeated, with those that follow it, as long as there is room; and not when it is older than this.
const REPEATS: u8 = 2;
const REPEAT_FOR: Duration = Duration::from_millis(100);
/// More frames than fit into a message are not kept.
const MAX_FRAMES: usize = 8;

/// Whether a frame of a link carries signed commands, which must be durable before it is sent.
pub fn carries_commands(frame: &Frame) -> bool {
    match (frame.channel, &frame.payload) {
        (Channel::Command, _) => true,
        (Channel::Replication, Payload::Binary(bytes)) => {
            bytes.strip_prefix(MARK).and_then(<[u8]>::first) == Some(&COMMANDS)
        }
        _ => false,
    }
}

/// A frame that was sent, and how often it was repeated.
#[derive(Debug)]
struct Sent {
    at: Timestamp,
    bytes: Bytes,
    repeated: u8,
}

/// The last frames that were sent to a peer.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    frames: VecDeque<Sent>,
    due: Option<Timestamp>,
}

impl Tail {
    /// A frame was sent on the Command channel.
    pub(crate) fn push(&mut self, now: Timestamp, frame: &SignedFrame) {
        let bytes = frame.bytes();
        if HEADER_LEN + 2 + bytes.len() > Channel::Replication.max_message_len() {
            // What follows it is of no use without it.
            *self = Self::default();
            return;
        }
        if self.frames.len() == MAX_FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back(Sent {
            at: now,
            bytes: bytes.clone(),
            repeated: 0,
        });
        self.due.get_or_insert(now + REPEAT_AFTER);
    }

    /// When frames are to be repeated.
    pub(crate) const fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// The repetition that is due: of the newest frames that fit, the oldest of them first.
    fn repeat(&mut self, now: Timestamp) -> Option<Frame> {
        self.due.take_if(|due| *due <= now)?;
        // The oldest are repeated no more often than those after them, so both conditions fall on the front.
        let done = |sent: &Sent| sent.repeated == REPEATS || sent.at + REPEAT_FOR < now;
        while self.frames.front().is_some_and(done) {
            self.frames.pop_front();
        }
        let mut room = Channel::Replication.max_message_len() - HEADER_LEN;
        let fits = |sent: &&Sent| {
            let left = room.checked_sub(2 + sent.bytes.len());
            room = left.unwrap_or(0);
            left.is_some()
        };
        let count = self.frames.iter().rev().take_while(fits).count();
        let mut message = header(COMMANDS);
        // What has found no room beside those after it will find even less beside more of them.
        self.frames.drain(..self.frames.len() - count);
        for Sent {
            bytes, repeated, ..
        } in &mut self.frames
        {
            *repeated += 1;
            message.put_u16_le(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
            message.put_slice(bytes);
        }
        (count > 0).then(|| Frame::binary(Channel::Replication, message.freeze()))
    }
}

fn header(kind: u8) -> BytesMut {
    let mut message = BytesMut::with_capacity(Channel::Replication.max_message_len());
    message.put_slice(MARK);
    message.put_u8(kind);
    message
}

/// The frames of a repetition; ends at the first that is cut short.
fn frames(mut rest: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_le_bytes(*rest.first_chunk()?));
        (rest.len() >= 2 + len).then(|| rest.split_to(2 + len).slice(2..))
    })
}

impl Session {
    /// Repeats commands, where that is due.
    pub(crate) fn repeat_commands(&mut self, now: Now) {
        let due = |link: &Link| link.member().is_some_and(|m| m.tail.due().is_some());
        for id in self.links.ids(due) {
            let member = self.links.member_mut(id);
            if let Some(frame) = member.and_then(|m| m.tail.repeat(now.mono)) {
                self.outbox.transmit(id, frame);
            }
        }
    }

    /// Asks at once for a sign of life: as fast as can be, and reliably.
    pub(crate) fn ask(&mut self, id: LinkId, sequence: u64) {
        let ping = Control::Ping { sequence };
        self.urgently(id, &ping);
        self.outbox.control(id, &ping);
    }

    fn urgently(&mut self, id: LinkId, control: &Control) {
        let member = self.links.get(id).and_then(Link::member);
        if member.is_some_and(|member| member.takes_datagrams) {
            let mut message = header(CONTROL);
            message.put_slice(&control.encode());
            let frame = Frame::binary(Channel::Replication, message.freeze());
            self.outbox.transmit(id, frame);
        }
    }

    /// Takes such a message, without its mark, from a peer that has proven its key. What cannot be used is passed over: a
    /// lost message would be no worse.
    pub(crate) fn on_datagram(&mut self, now: Now, id: LinkId, message: &Bytes) {
        match message.first() {
            Some(&COMMANDS) => {
                for bytes in frames(message.slice(1..)) {
                    self.on_repeated(now, id, bytes);
                }
            }
            Some(&CONTROL) => match Control::decode(&message[1..]) {
                Ok(Control::Ping { sequence }) => {
                    let wall_ms = now.wall.as_millis();
                    self.urgently(id, &Control::Pong { sequence, wall_ms });
                }
                Ok(Control::Pong { sequence, .. }) => {
                    if let Some(member) = self.links.member_mut(id) {
                        member.heartbeat.on_pong(now.mono, sequence);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A frame that may have overtaken its first sending. Used if it is the peer's own and the very next: then it is what that
    /// would have been.
    fn on_repeated(&mut self, now: Now, id: LinkId, bytes: Bytes) {
        let (Some(room), Some(member)) = (&mut self.room, self.links.member_mut(id)) else {
            return;
        };
        if !member.aligned {
            return;
        }
        let peer = member.author;
        let Ok(frame) = UnverifiedFrame::decode(bytes, &room.hash) else {
            return;
        };
        let held = room.log.head(peer).map_or(0, |head| head.nonce);
        let is_next =
            frame.author() == peer && frame.header().first_nonce.checked_sub(1) == Some(held);
        let asked_for = self.anti_entropy.is_fetching(&peer);
        if !is_next || asked_for || !self.arrivals.may_pass(now.mono, peer) {
            return;
        }
        let source = Source::of(id, &frame);
        let received = room.log.receive_frame(now.wall, frame.shown_by(peer));
        if received.is_err() {
            // It may be of a log that the peer has given up: what it signs for the present one comes reliably.
            self.counters.unused();
            return self.arrivals.unused(now.mono, peer);
        }
        self.counters.repetition_used();
        self.on_judged(now, source, received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_short_ends_with_its_last_whole_frame() {
        let message = Bytes::from_static(&[1, 0, 7, 2, 0, 8, 9, 5, 0, 1]);
        let read: Vec<_> = frames(message).collect();
        assert_eq!(read, [&[7_u8][..], &[8, 9]]);
        assert_eq!(frames(Bytes::from_static(&[1])).count(), 0);
    }

    #[test]
    fn only_what_carries_commands_waits_for_the_disk() {
        let on = |channel, bytes: &'static [u8]| carries_commands(&Frame::binary(channel, bytes));
        assert!(on(Channel::Command, b""));
        assert!(on(Channel::Replication, b"RTU1\0"));
        assert!(!on(Channel::Replication, b"RTU1\x01"));
        assert!(!on(Channel::Replication, b"RTU1"));
        assert!(!on(Channel::App, b"RTU1\0"));
    }
}
