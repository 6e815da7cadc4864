//! Frames whose turn has not come: verified, bounded, unapplied.

use std::collections::BTreeMap;

use crate::{SharedFrame, SignedFrame};

/// How many frames of one author wait.
const MAX_FRAMES: usize = 256;

/// One author's frames beyond a gap or ahead of time, by first nonce.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    frames: BTreeMap<u64, SharedFrame>,
    bytes: usize,
}

impl Waiting {
    /// Whether a frame that begins at `nonce` would be held, if only in the place of another one.
    pub(crate) fn has_room_for(&self, nonce: u64) -> bool {
        let last = self.frames.last_key_value();
        let closer = last.is_some_and(|(last, _)| nonce < *last);
        !self.frames.contains_key(&nonce) && (self.frames.len() < MAX_FRAMES || closer)
    }

    /// Holds a frame; the first to claim a nonce keeps it. When 256 wait, those closest to the gap
    /// stay. Returns whether this one is held, and nothing had to go for it.
    pub(crate) fn hold(&mut self, frame: SharedFrame) -> bool {
        let nonce = frame.header().first_nonce;
        if self.frames.contains_key(&nonce) {
            return false;
        }
        self.bytes += frame.bytes().len();
        self.frames.insert(nonce, frame);
        if self.frames.len() <= MAX_FRAMES {
            return true;
        }
        self.drop_last();
        false
    }

    /// Lets go of the frame that is furthest from the gap.
    pub(crate) fn drop_last(&mut self) {
        if let Some((_, last)) = self.frames.pop_last() {
            self.bytes -= last.bytes().len();
        }
    }

    /// Whether this very frame is held.
    pub(crate) fn holds(&self, frame: &SignedFrame) -> bool {
        self.at(frame.header().first_nonce)
            .is_some_and(|held| held.id() == frame.id())
    }

    /// The frame that begins at `nonce`.
    pub(crate) fn at(&self, nonce: u64) -> Option<&SharedFrame> {
        self.frames.get(&nonce)
    }

    /// The nonce at which the first frame begins.
    pub(crate) fn first(&self) -> Option<u64> {
        self.frames.keys().next().copied()
    }

    /// The nonce at which the last frame begins.
    pub(crate) fn last(&self) -> Option<u64> {
        self.frames.keys().next_back().copied()
    }

    /// Lets go of all frames that begin at or below `nonce`.
    pub(crate) fn drop_through(&mut self, nonce: u64) {
        while let Some(first) = self.frames.first_entry()
            && *first.key() <= nonce
        {
            self.bytes -= first.remove().bytes().len();
        }
    }

    /// How many frames are held.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// How many bytes they have.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}
