//! An author's frames in as little memory as they need.
//!
//! Of each frame a *record* is kept: all that cannot be told from its author, the room and the record before it, with numbers
//! as varints. Records stand one after the other in *segments* of at most 64 KiB, or that of one record that is
//! longer; small logs have smaller ones. What else needs to know a value points into the segment.
//!
//! A record is, in this order: first nonce, count, Lamport time, wall time since the genesis, budget left after it (varints); 0,
//! or 1 and the hash of a schema that is not the room's; id; signature; body.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use roundtable_core::AuthorId;

use crate::{
    FrameId, Genesis, Header, SchemaHash, SharedFrame, SignedFrame,
    chain::{Step, Tip},
    frame::SIGNATURE_LEN,
    layout::{Fields, put_varint, take_varint},
    outline::{Outline, outline},
    rate::Budget,
};

/// The capacity of a segment in bytes: as much as all before it have, within these bounds.
const SEGMENT_LEN: Range<usize> = 512..1 << 16;
/// The most that a record has besides its body.
const MAX_RECORD_HEADER_LEN: usize = 5 * 10 + 1 + 32 + 32 + SIGNATURE_LEN;

/// Where in an author's segments something begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyPlace {
    /// The number of the segment.
    segment: u32,
    /// The place in it.
    start: u32,
}

/// Where in an author's segments some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    at: BodyPlace,
    len: u32,
}

impl BodyPlace {
    /// Where something is that has this place in the body which begins here.
    pub(crate) const fn within(self, place: &Range<u32>) -> Extent {
        let at = Self {
            segment: self.segment,
            start: self.start + place.start,
        };
        let len = place.end - place.start;
        Extent { at, len }
    }
}

/// A run of records.
#[derive(Debug, Default)]
struct Segment {
    /// How many records there ever were before its first.
    first: usize,
    /// Where each record ends.
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Segment {
    fn record(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[index] as usize]
    }
}

/// A path from the root of an author's tree.
#[derive(Debug)]
pub(crate) struct Path {
    author: AuthorId,
    /// The room's.
    schema: SchemaHash,
    /// The wall time of the genesis.
    epoch_ms: u64,
    /// What comes before the first frame.
    root: Tip,
    /// How many frames were dropped before the root.
    dropped: usize,
    len: usize,
    segments: VecDeque<Segment>,
    /// The number of the first segment.
    first_segment: u32,
}

/// A frame of a path.
pub(crate) struct Record<'a> {
    pub(crate) header: Header,
    pub(crate) id: FrameId,
    /// Where its body is.
    pub(crate) at: BodyPlace,
    pub(crate) body: &'a [u8],
    signature: &'a [u8],
    budget: Budget,
}

impl Path {
    /// A path without frames.
    pub(crate) fn new(author: AuthorId, genesis: &Genesis) -> Self {
        Self {
            author,
            schema: genesis.params().schema,
            epoch_ms: genesis.params().wall.as_millis(),
            root: Tip::start(genesis),
            dropped: 0,
            len: 0,
            segments: VecDeque::new(),
            first_segment: 0,
        }
    }

    /// What comes before the first frame.
    pub(crate) const fn root(&self) -> Tip {
        self.root
    }

    /// How many frames it has.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// What the rules for the next frame after the first `node` frames depend on.
    pub(crate) fn tip_at(&self, node: usize) -> Tip {
        match node.checked_sub(1) {
            Some(index) if index < self.len => self.record(index).tip(),
            _ => self.root,
        }
    }

    /// How many frames end at or below `nonce`.
    pub(crate) fn through(&self, nonce: u64) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if self.last_nonce(middle) <= nonce {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The index of the frame that holds `nonce`.
    pub(crate) fn holding(&self, nonce: u64) -> Option<usize> {
        let index = self.through(nonce.checked_sub(1)?);
        (index < self.len && nonce > self.root.nonce).then_some(index)
    }

    /// The frame with this index, which is below [`len`](Self::len).
    pub(crate) fn record(&self, index: usize) -> Record<'_> {
        let (segment, bytes) = self.locate(index);
        let mut rest = bytes;
        let mut number = || take_varint(&mut rest).unwrap_or_default();
        let (first_nonce, count) = (number(), number());
        let (lamport, wall_ms, budget) = (number(), number(), number());
        let mut fields = Fields::new(rest);
        let schema = match fields.u8() {
            0 => self.schema,
            _ => SchemaHash::from_bytes(fields.take()),
        };
        let id = FrameId::from_bytes(fields.take());
        let (signature, body) = fields.rest().split_at(SIGNATURE_LEN);
        let header = Header {
            author: self.author,
            previous: match index.checked_sub(1) {
                Some(before) => self.id(before),
                None => self.root.id,
            },
            first_nonce,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            lamport,
            wall_ms: self.epoch_ms + wall_ms,
            schema,
        };
        Record {
            header,
            id,
            at: self.spot_of_body(segment, index, body.len()),
            body,
            signature,
            budget: Budget::from_parts(budget),
        }
    }

    /// The frame with this index in full form.
    pub(crate) fn frame(&self, index: usize) -> SharedFrame {
        self.record(index).frame()
    }

    /// The bytes of a frame that is on the path.
    pub(crate) fn bytes(&self, extent: Extent) -> &[u8] {
        let Extent { at, len } = extent;
        let segment = at.segment.wrapping_sub(self.first_segment) as usize;
        let place = at.start as usize..at.start as usize + len as usize;
        let bytes = self.segments.get(segment).map(|segment| &segment.bytes);
        let bytes = bytes.and_then(|bytes| bytes.get(place));
        debug_assert!(bytes.is_some(), "what is pointed at is on the path");
        bytes.unwrap_or_default()
    }

    /// Adds a frame, and says where its body is.
    pub(crate) fn push(&mut self, frame: &SignedFrame, budget: Budget) -> BodyPlace {
        let (header, body) = (frame.header(), frame.body_bytes());
        let (schema, wall_ms) = (self.schema, header.wall_ms - self.epoch_ms);
        let segment = self.room_for(MAX_RECORD_HEADER_LEN + body.len());
        let bytes = &mut segment.bytes;
        put_varint(bytes, header.first_nonce);
        put_varint(bytes, header.count.into());
        put_varint(bytes, header.lamport);
        put_varint(bytes, wall_ms);
        put_varint(bytes, budget.parts());
        if header.schema == schema {
            bytes.push(0);
        } else {
            bytes.push(1);
            bytes.extend_from_slice(header.schema.as_bytes());
        }
        bytes.extend_from_slice(frame.id().as_bytes());
        bytes.extend_from_slice(frame.signature_bytes());
        bytes.extend_from_slice(body);
        segment.ends.push(narrow(segment.bytes.len()));
        self.len += 1;
        self.spot_of_body(self.segments.len() - 1, self.len - 1, body.len())
    }

    /// Takes off the frames from `index` on.
    pub(crate) fn split_off(&mut self, index: usize) -> Vec<Step> {
        let step = |record: Record<'_>| Step {
            frame: record.frame(),
            budget: record.budget,
        };
        let gone = (index..self.len)
            .map(|index| step(self.record(index)))
            .collect();
        self.len = self.len.min(index);
        let left = self.dropped + self.len;
        while self.segments.back().is_some_and(|last| last.first >= left) {
            self.segments.pop_back();
        }
        if let Some(last) = self.segments.back_mut() {
            last.ends.truncate(left - last.first);
            let end = last.ends.last().copied().unwrap_or_default();
            last.bytes.truncate(end as usize);
        }
        gone
    }

    /// Lets go of the first `count` frames: the root is after them from now on, and what pointed into them must be
    /// gone. Memory is given back a segment at a time.
    pub(crate) fn drop_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.root = self.tip_at(count);
        self.len -= count;
        self.dropped += count;
        while self
            .segments
            .get(1)
            .is_some_and(|next| next.first <= self.dropped)
            || (self.len == 0 && !self.segments.is_empty())
        {
            self.segments.pop_front();
            self.first_segment = self.first_segment.wrapping_add(1);
        }
    }

    /// Begins anew after another frame; what pointed into it must be gone.
    pub(crate) fn restart(&mut self, root: Tip) {
        self.drop_front(self.len);
        self.root = root;
    }

    /// The segment for the next record, which has at most this length.
    fn room_for(&mut self, len: usize) -> &mut Segment {
        let fits = |segment: &Segment| segment.bytes.capacity() - segment.bytes.len() >= len;
        if !self.segments.back().is_some_and(fits) {
            if let Some(full) = self.segments.back_mut() {
                full.bytes.shrink_to_fit();
                full.ends.shrink_to_fit();
            }
            let before: usize = self.segments.iter().map(|s| s.bytes.len()).sum();
            let usual = before.clamp(SEGMENT_LEN.start, SEGMENT_LEN.end);
            self.segments.push_back(Segment {
                first: self.dropped + self.len,
                ends: Vec::new(),
                bytes: Vec::with_capacity(len.max(usual)),
            });
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// The place of a record's segment, and the record.
    fn locate(&self, index: usize) -> (usize, &[u8]) {
        let index = self.dropped + index;
        let place = self.segments.partition_point(|s| s.first <= index) - 1;
        let segment = &self.segments[place];
        (place, segment.record(index - segment.first))
    }

    fn spot_of_body(&self, place: usize, index: usize, len: usize) -> BodyPlace {
        let segment = &self.segments[place];
        let end = segment.ends[self.dropped + index - segment.first];
        BodyPlace {
            segment: self.first_segment.wrapping_add(narrow(place)),
            start: end - narrow(len),
        }
    }

    fn last_nonce(&self, index: usize) -> u64 {
        let (_, mut bytes) = self.locate(index);
        let mut number = || take_varint(&mut bytes).unwrap_or_default();
        number() + (number() - 1)
    }

    fn id(&self, index: usize) -> FrameId {
        let (_, mut bytes) = self.locate(index);
        for _ in 0..5 {
            take_varint(&mut bytes);
        }
        let mut fields = Fields::new(bytes);
        if fields.u8() != 0 {
            fields.take::<32>();
        }
        FrameId::from_bytes(fields.take())
    }
}

impl Record<'_> {
    /// The end of a log with this frame in it.
    pub(crate) fn tip(&self) -> Tip {
        Tip {
            nonce: self.header.last_nonce(),
            id: self.id,
            lamport: self.header.lamport,
            wall_ms: self.header.wall_ms,
            budget: self.budget,
        }
    }

    /// The frame in full form.
    pub(crate) fn frame(&self) -> SharedFrame {
        let frame = SignedFrame::assemble(self.header, self.id, self.signature, self.body);
        Arc::new(frame)
    }

    /// What its commands do, by nonce.
    pub(crate) fn outlines(&self) -> impl Iterator<Item = (u64, Outline)> + use<> {
        // A frame on a path has a good body.
        let outlines = outline(self.body).unwrap_or_default();
        (self.header.first_nonce..).zip(outlines)
    }
}

/// No segment is as long as 4 GiB, and no log has as many.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use roundtable_core::WallTime;

    use super::*;
    use crate::{
        Action, CommandLog, GenesisParams, Key, Limits, Schema, Strategy, UnverifiedFrame,
        chain::Chain, outline,
    };

    const WALL: WallTime = WallTime::from_millis(1_700_000_000_000);

    /// Frames with values of many lengths, every third of a schema that is not the room's.
    fn frames(count: u64) -> (Genesis, Vec<SharedFrame>) {
        let key = SigningKey::from_bytes(&[1; 32]);
        let build = |minor| {
            let schema = Schema::builder(1, minor);
            let schema = schema.key_type(1, "note", Strategy::LastWriteWins);
            schema.build().unwrap()
        };
        let (schema, other) = (build(0), build(1));
        let mut params = GenesisParams::new([9; 32], WALL, schema.hash());
        params.limits = Limits {
            burst: 1_000_000,
            per_second: 1_000,
        };
        let genesis = Genesis::create(params, &key).unwrap();
        let mut log = CommandLog::new(genesis.clone(), schema, Some(key.clone())).unwrap();
        let mut previous = FrameId::NONE;
        let frames = (1..=count).map(|number| {
            let len = usize::try_from(number * number * 37 % 3000).unwrap();
            let wall = WallTime::from_millis(WALL.as_millis() + number * 5);
            let put = Action::put(Key::new(1, format!("key {number}")), vec![7; len]);
            let frame = log.append(wall, &[put]).unwrap();
            let mut header = *frame.header();
            header.previous = previous;
            if number % 3 == 0 {
                header.schema = other.hash();
            }
            let frame = SignedFrame::sign(&genesis.hash(), header, frame.body_bytes(), &key);
            previous = frame.id();
            Arc::new(frame)
        });
        let frames = frames.collect();
        (genesis, frames)
    }

    fn path(genesis: &Genesis, frames: &[SharedFrame]) -> (Path, Vec<Extent>) {
        let mut path = Path::new(genesis.creator(), genesis);
        let values = (0_u64..).zip(frames).map(|(budget, frame)| {
            let body = path.push(frame, Budget::from_parts(budget << 20));
            match &outline::outline(frame.body_bytes()).unwrap()[..] {
                [Outline::Put { value, .. }] => body.within(value),
                other => panic!("{other:?}"),
            }
        });
        let values = values.collect();
        (path, values)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (genesis, frames) = frames(400);
        let (path, values) = path(&genesis, &frames);
        assert!(path.segments.len() > 8, "many segments are tried");
        for ((index, frame), value) in (0..).zip(&frames).zip(values) {
            assert_eq!(path.frame(index), *frame);
            let read = UnverifiedFrame::decode(path.frame(index).bytes().clone(), &genesis.hash());
            assert_eq!(read.unwrap().id(), frame.id());
            let budget = Budget::from_parts((index as u64) << 20);
            assert_eq!(path.tip_at(index + 1).budget, budget);
            let Action::Put { value: put, .. } = &frame.actions()[0] else {
                panic!("{frame:?}");
            };
            assert_eq!(path.bytes(value), put);
            let nonce = frame.header().first_nonce;
            assert_eq!(path.holding(nonce), Some(index));
        }
        assert_eq!((path.holding(0), path.holding(401)), (None, None));
    }

    #[test]
    fn a_path_goes_on_from_where_it_was_cut_off() {
        let (genesis, frames) = frames(300);
        for cut in [0, 1, 5, 150, 299, 300] {
            let (mut path, values) = path(&genesis, &frames);
            let gone = path.split_off(cut);
            assert_eq!((path.len(), gone.len()), (cut, 300 - cut));
            let gone: Vec<_> = gone.into_iter().map(|step| step.frame).collect();
            assert_eq!(gone, frames[cut..]);
            for frame in &gone {
                path.push(frame, Budget::from_parts(0));
            }
            let all = (0..300).map(|index| path.frame(index));
            assert_eq!(all.collect::<Vec<_>>(), frames);
            for value in &values[..cut] {
                assert!(path.bytes(*value).iter().all(|byte| *byte == 7));
            }
        }
    }

    #[test]
    fn what_is_dropped_gives_its_memory_back_and_the_rest_stays_where_it_is() {
        let (genesis, frames) = frames(300);
        let (mut path, values) = path(&genesis, &frames);
        let segments = path.segments.len();
        let (before, after) = (path.tip_at(200), path.tip_at(300));
        path.drop_front(150);
        path.drop_front(50);
        assert!(path.segments.len() < segments);
        assert_eq!((path.len(), path.root()), (100, before));
        assert_eq!(path.holding(200), None);
        for (index, frame) in frames[200..].iter().enumerate() {
            assert_eq!(path.frame(index), *frame);
            assert_eq!(path.holding(frame.header().first_nonce), Some(index));
        }
        for (value, frame) in values[200..].iter().zip(&frames[200..]) {
            let Action::Put { value: put, .. } = &frame.actions()[0] else {
                panic!("{frame:?}");
            };
            assert_eq!(path.bytes(*value), put);
        }
        path.drop_front(100);
        assert_eq!((path.root(), path.segments.len()), (after, 0));
        let again = &frames[299];
        path.push(again, Budget::from_parts(0));
        assert_eq!(path.record(0).body, again.body_bytes());
    }

    /// A chain goes on after frames were dropped, and knows the forks that are left.
    #[test]
    fn a_chain_without_its_beginning_goes_on() {
        let (genesis, frames) = frames(20);
        let mut chain = Chain::new(genesis.creator(), &genesis).unwrap();
        for frame in &frames[..10] {
            let judged = chain.tip.judge(frame, &genesis).unwrap();
            chain.push(frame, judged.tip);
        }
        let tip = chain.tip;
        for node in [2, 7] {
            chain.add_rival(node, Arc::clone(&frames[node]), &tip);
        }
        chain.drop_below(5);
        assert_eq!((chain.trunk, chain.tip), (5, tip));
        assert!(chain.fork_at(2).is_some(), "that at node 7");
        assert_eq!(chain.forks.rivals.len(), 1);
        for frame in &frames[10..] {
            let judged = chain.tip.judge(frame, &genesis).unwrap();
            chain.push(frame, judged.tip);
        }
        let left: Vec<_> = chain
            .records_after(0)
            .map(|record| record.frame())
            .collect();
        assert_eq!(left, frames[5..]);
    }
}
