//! What honest peers tell each other beside the log: everything that was sent is received once and in order, by a peer that lives
//! as long as its sender, or the sender is told that it may be missing.

use std::collections::BTreeMap;

use bytes::Bytes;
use roundtable_core::{Channel, Frame, Payload, PeerId};
use roundtable_session::{Input, Recipient};

use crate::{Fault, Violation, World};

/// Who says it, in which of its lives, and to whom.
type Line = (usize, u64, usize);

/// What became of the messages from one peer to another.
#[derive(Debug, Default, Clone, Copy)]
struct Said {
    sent: u64,
    received: u64,
    /// The last that came.
    last: u64,
    /// How many the sender was told may be missing.
    undelivered: u64,
}

/// All messages of a world.
#[derive(Debug, Default)]
pub(crate) struct Talk(BTreeMap<Line, Said>);

impl World {
    /// Has a peer send another a message of about so many bytes, if it can.
    pub(crate) fn say(&mut self, from: usize, to: usize, len: usize) -> bool {
        let line = (from, self.peers[from].starts, to);
        let number = self.talk.0.get(&line).map_or(1, |said| said.sent + 1);
        let peer = self.peers[to].id.clone();
        let payload = Payload::Binary(write(line, number, len));
        let channel = Channel::App;
        let frame = Frame { channel, payload };
        let to = Recipient::Peer(peer);
        // Its session may have much to say at once, of which the sending is the first.
        self.talk.0.entry(line).or_default().sent += 1;
        let sent = self.try_input(from, Input::Send { to, frame });
        if !sent && let Some(said) = self.talk.0.get_mut(&line) {
            said.sent -= 1;
        }
        sent
    }

    /// A message has come to the application of an honest peer.
    pub(crate) fn hear(&mut self, reader: usize, payload: &Payload) -> Result<(), Violation> {
        // Others may say anything.
        let Some((line, number)) = read(payload).filter(|(line, _)| line.2 == reader) else {
            return Ok(());
        };
        let Some(said) = self.talk.0.get_mut(&line) else {
            return Ok(());
        };
        if self.fault == Some(Fault::LosesMessages) && number.is_multiple_of(5) {
            return Ok(());
        }
        let last = std::mem::replace(&mut said.last, number);
        said.received += 1;
        if last < number && number <= said.sent {
            return Ok(());
        }
        let reader = self.peers[reader].id.clone();
        let sender = self.peers[line.0].id.clone();
        Err(Violation::MessageOutOfTurn {
            reader,
            sender,
            last,
            number,
        })
    }

    /// The application reads what comes at once.
    pub(crate) fn on_message(
        &mut self,
        number: usize,
        peer: PeerId,
        payload: &Payload,
    ) -> Result<(), Violation> {
        let len = match payload {
            Payload::Binary(bytes) => bytes.len(),
            Payload::Text(text) => text.len(),
            Payload::Media(_) | Payload::Clock(_) => 0,
        };
        let honest = self.both_honest(number, &peer);
        // Cannot fail. What follows is drained with the rest.
        let _ = self.input(number, Input::Read { peer, len });
        if honest {
            return self.hear(number, payload);
        }
        Ok(())
    }

    /// A peer is told that messages of its may not have arrived.
    pub(crate) fn undelivered(&mut self, sender: usize, peer: &PeerId, count: usize) {
        let to = self.peers.iter().position(|other| other.id == *peer);
        let line = to.map(|to| (sender, self.peers[sender].starts, to));
        if let Some(said) = line.and_then(|line| self.talk.0.get_mut(&line)) {
            said.undelivered += count as u64;
        }
    }

    /// Nothing is missing of which its sender, if it still lives, was not told.
    pub(crate) fn check_messages(&self) -> Result<(), Violation> {
        for ((from, life, to), said) in &self.talk.0 {
            let sender = &self.peers[*from];
            let live = sender.session.is_some() && sender.starts == *life;
            let reader = &self.peers[*to];
            let missing = said.sent.saturating_sub(said.received + said.undelivered);
            if live && reader.session.is_some() && missing > 0 {
                return Err(Violation::MessagesLost {
                    sender: sender.id.clone(),
                    reader: reader.id.clone(),
                    missing,
                });
            }
        }
        Ok(())
    }
}

fn write((from, life, to): Line, number: u64, len: usize) -> Bytes {
    let numbers = [from as u64, life, to as u64, number];
    let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.resize(bytes.len() + len, 0);
    bytes.into()
}

fn read(payload: &Payload) -> Option<(Line, u64)> {
    let Payload::Binary(bytes) = payload else {
        return None;
    };
    let number = |index: usize| {
        let bytes = bytes.get(8 * index..8 * index + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let peer = |index| usize::try_from(number(index)?).ok();
    Some(((peer(0)?, number(1)?, peer(2)?), number(3)?))
}
