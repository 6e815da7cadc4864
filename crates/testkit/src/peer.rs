//! One simulated peer: its session, its disk, its clock, and the application on top.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_command_log::{CommandLog, Header, SignedFrame, UnverifiedFrame};
use roundtable_core::{AuthorId, Channel, Frame, Payload, PeerId, Timestamp, WallTime};
use roundtable_session::{Now, Session, carries_commands};
use roundtable_wire::session::Control;

use crate::{Fault, Violation};

/// When every world begins, in Unix microseconds.
const EPOCH: i64 = 1_700_000_000_000_000;

/// What a peer is to the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keeps the protocol.
    Honest,
    /// Has a working session and, beside it, sends whatever hurts.
    Hostile,
    /// Has no session at all.
    Guest,
}

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) key: SigningKey,
    pub(crate) kind: Kind,
    /// How far its wall clock is from the truth, in microseconds.
    pub(crate) skew_micros: i64,
    /// Which side of a partition it is on.
    pub(crate) side: bool,
    /// Whether it is of a version that leaves out of a frame what the other end knows.
    pub(crate) elides: bool,
    /// None while it is down, and for guests.
    pub(crate) session: Option<Session>,
    /// A peer that is gone for good does not return.
    pub(crate) gone: bool,
    pub(crate) due: Option<Timestamp>,
    pub(crate) store: Store,
    /// The last nonce that the application has seen of each author.
    applied: BTreeMap<AuthorId, u64>,
    /// Frames that were under way on links that broke; only a faulty peer cares.
    pub(crate) ignored: BTreeSet<Bytes>,
    pub(crate) starts: u64,
}

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) own: Vec<Bytes>,
    pub(crate) foreign: Vec<Bytes>,
    /// What is left of what lies below the last stable checkpoint.
    pub(crate) snapshot: Option<Bytes>,
    /// First nonces of the own frames.
    durable: BTreeSet<u64>,
}

impl Store {
    /// What was on the disk when it held so many own frames.
    pub(crate) fn roll_back(&mut self, own: usize) {
        // A checkpoint may have made some superfluous since they were counted.
        let kept = own.min(self.own.len());
        for frame in self.own.drain(kept..) {
            let nonce = nonce_of(&frame);
            self.durable.retain(|durable| Some(*durable) != nonce);
        }
    }

    /// Lets go of own frames that a snapshot has made superfluous.
    pub(crate) fn drop_through(&mut self, nonce: u64) {
        self.own
            .retain(|frame| nonce_of(frame).is_some_and(|first| first > nonce));
    }

    pub(crate) fn keep(&mut self, frame: &SignedFrame) {
        // One that was taken back and counts again is told of again.
        if !self.own.contains(frame.bytes()) {
            self.own.push(frame.bytes().clone());
        }
        self.durable.insert(frame.header().first_nonce);
    }
}

impl Peer {
    pub(crate) fn new(id: PeerId, key: SigningKey, kind: Kind) -> Self {
        Self {
            id,
            key,
            kind,
            skew_micros: 0,
            side: false,
            elides: true,
            session: None,
            gone: false,
            due: None,
            store: Store::default(),
            applied: BTreeMap::new(),
            ignored: BTreeSet::new(),
            starts: 0,
        }
    }

    pub(crate) fn author(&self) -> AuthorId {
        AuthorId::from_bytes(self.key.verifying_key().to_bytes())
    }

    pub(crate) fn is_honest(&self) -> bool {
        self.kind == Kind::Honest
    }

    /// Whether links may lead to it.
    pub(crate) fn is_up(&self) -> bool {
        self.session.is_some() || (self.kind == Kind::Guest && !self.gone)
    }

    pub(crate) fn clock(&self, mono: Timestamp) -> Now {
        let elapsed = i64::try_from(mono.as_micros()).unwrap_or(i64::MAX);
        let wall = u64::try_from(EPOCH + elapsed + self.skew_micros).unwrap_or_default();
        Now {
            mono,
            wall: WallTime::from_micros(wall),
        }
    }

    /// The application starts anew, with whatever is applied from here on.
    pub(crate) fn forget_applied(&mut self) {
        self.applied.clear();
    }

    /// The application sees a command.
    pub(crate) fn apply(&mut self, author: AuthorId, nonce: u64) -> Result<(), Violation> {
        let last = self.applied.entry(author).or_default();
        let expected = *last + 1;
        *last = nonce;
        if nonce == expected {
            return Ok(());
        }
        Err(Violation::AppliedOutOfTurn {
            reader: self.id.clone(),
            author,
            expected,
            nonce,
        })
    }

    /// The application takes an author's commands up to here as a whole.
    pub(crate) fn skip(&mut self, author: AuthorId, through: u64) {
        let last = self.applied.entry(author).or_default();
        *last = through.max(*last);
    }

    /// The application takes commands back.
    pub(crate) fn retract(&mut self, author: AuthorId, after: u64) {
        let last = self.applied.entry(author).or_default();
        *last = after.min(*last);
    }

    /// An own frame must be on disk before it is sent.
    pub(crate) fn check_sent(&self, header: &Header) -> Result<(), Violation> {
        let nonce = header.first_nonce;
        if header.author != self.author() || self.store.durable.contains(&nonce) {
            return Ok(());
        }
        let peer = self.id.clone();
        Err(Violation::SentBeforeDurable { peer, nonce })
    }

    /// What a faulty peer does before its session sees a frame, and the command frame in it; says whether the
    /// session does.
    pub(crate) fn takes(
        &mut self,
        fault: Option<Fault>,
        frame: &Frame,
        command: Option<&UnverifiedFrame>,
    ) -> Result<bool, Violation> {
        let (Some(fault), Payload::Binary(bytes)) = (fault, &frame.payload) else {
            return Ok(true);
        };
        if frame.channel == Channel::Replication && carries_commands(frame) {
            // Repetitions would hide what it does to the commands; losing them is no fault.
            return Ok(false);
        }
        match fault {
            Fault::NeverComparesHeads | Fault::NeverDescends | Fault::NeverSpreadsProofs
                if frame.channel == Channel::Control =>
            {
                let ignored = match Control::decode(bytes) {
                    Ok(Control::Heads(_)) => Fault::NeverComparesHeads,
                    Ok(Control::Probed(_)) => Fault::NeverDescends,
                    Ok(Control::Forks(_)) => Fault::NeverSpreadsProofs,
                    _ => return Ok(true),
                };
                Ok(fault != ignored)
            }
            Fault::DropsTailAtFailover => {
                Ok(command.is_none_or(|command| !self.ignored.contains(command.bytes())))
            }
            Fault::LamportWindowFromHighestSeen | Fault::DalekBatchRule => {
                Ok(command.is_none_or(|command| !self.misjudges(fault, command)))
            }
            Fault::AppliesDuplicates => {
                let place = command.map(|command| (command.author(), command.header().first_nonce));
                let place = place.filter(|(author, nonce)| {
                    self.applied.get(author).is_some_and(|last| last >= nonce)
                });
                if let Some((author, nonce)) = place {
                    self.apply(author, nonce)?;
                }
                Ok(true)
            }
            _ => Ok(true),
        }
    }
}

/// Whether a frame in full form lies below the last stable checkpoint of a log.
pub(crate) fn is_pruned(log: &CommandLog, bytes: &Bytes) -> bool {
    let author = bytes.get(1..33).and_then(|author| author.try_into().ok());
    let through = author.map_or(0, |author| log.pruned_through(AuthorId::from_bytes(author)));
    nonce_of(bytes).is_some_and(|first| first <= through)
}

/// The first nonce of a frame in full form.
fn nonce_of(bytes: &Bytes) -> Option<u64> {
    let nonce = bytes.get(65..73)?.try_into().ok()?;
    Some(u64::from_le_bytes(nonce))
}
