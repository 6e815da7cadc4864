//! Frames that do not count now and are kept because one that comes after them may: verified, bounded, in a tree.

use std::collections::{BTreeMap, HashMap};

use roundtable_core::AuthorId;

use crate::{FrameId, SharedFrame, chain::Step};

/// How many bytes of one author's frames are kept aside. They are sought only where an Admin has named one.
const MAX_BYTES: usize = 16 << 20;

/// One author's frames beside its path and the proofs of its forks, by id.
///
/// When they are too many, whoever has shown most of them loses those that came last: a peer that shows one branch
/// after another never drives out what another one shows, up to its equal share.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    frames: HashMap<FrameId, Stray>,
    /// By who has shown them: how many bytes, and the frames in the order in which they came.
    shares: BTreeMap<Option<AuthorId>, Share>,
    bytes: usize,
    arrived: u64,
}

#[derive(Debug)]
struct Stray {
    step: Step,
    source: Option<AuthorId>,
    arrived: u64,
}

#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    arrivals: BTreeMap<u64, FrameId>,
}

impl Aside {
    pub(crate) fn contains(&self, id: FrameId) -> bool {
        self.frames.contains_key(&id)
    }

    pub(crate) fn get(&self, id: FrameId) -> Option<&Step> {
        self.frames.get(&id).map(|stray| &stray.step)
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &SharedFrame> {
        self.frames.values().map(|stray| &stray.step.frame)
    }

    /// Keeps a frame that `source` has shown, if it is not too much.
    pub(crate) fn keep(&mut self, step: Step, source: Option<AuthorId>) {
        let (id, len) = (step.frame.id(), step.frame.bytes().len());
        self.arrived += 1;
        let arrived = self.arrived;
        let stray = Stray {
            step,
            source,
            arrived,
        };
        if self.frames.insert(id, stray).is_some() {
            return;
        }
        let share = self.shares.entry(source).or_default();
        share.bytes += len;
        share.arrivals.insert(arrived, id);
        self.bytes += len;
        while self.bytes > MAX_BYTES {
            let heaviest = self.shares.values().max_by_key(|share| share.bytes);
            let last = heaviest.and_then(|share| share.arrivals.last_key_value());
            match last.map(|(_, id)| *id) {
                Some(last) => self.remove(last),
                None => return,
            };
        }
    }

    pub(crate) fn remove(&mut self, id: FrameId) -> Option<Step> {
        let stray = self.frames.remove(&id)?;
        let len = stray.step.frame.bytes().len();
        self.bytes -= len;
        if let Some(share) = self.shares.get_mut(&stray.source) {
            share.bytes -= len;
            share.arrivals.remove(&stray.arrived);
            if share.arrivals.is_empty() {
                self.shares.remove(&stray.source);
            }
        }
        Some(stray.step)
    }

    /// The frames up to the one with this id, from the first of which the one before is not here.
    pub(crate) fn line_to(&self, id: FrameId) -> Vec<&Step> {
        let down = |step: &&Step| self.get(step.frame.header().previous);
        let mut line: Vec<_> = std::iter::successors(self.get(id), down).collect();
        line.reverse();
        line
    }
}
