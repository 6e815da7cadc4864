//! Who has signed twice for one place, kept for longer than the frames that prove it.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use roundtable_command_log::{Equivocation, ForkProof, GenesisHash};
use roundtable_core::AuthorId;

use crate::Record;

/// The section that they are kept in.
pub(crate) const SECTION: u16 = 1;
/// The first byte of it.
const LAYOUT: u8 = 1;
/// How many are kept of one author, the first that were noted.
const MAX_OF_ONE: usize = 4;
/// How many are kept. After that an author of whom none is kept takes the place of the last of whoever has most.
const MAX: usize = 256;

/// Forks of the authors of one room, at most 4 of an author and 256 in all: what is left of them when a checkpoint has
/// taken the place of the frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Equivocations {
    by_author: BTreeMap<AuthorId, Vec<Equivocation>>,
}

impl Equivocations {
    /// Notes a proof that a log gave out; says whether that is news.
    pub fn note(&mut self, proof: &ForkProof) -> bool {
        self.add(proof.into())
    }

    /// All, by author, each author's as they were noted.
    pub fn iter(&self) -> impl Iterator<Item = &Equivocation> {
        self.by_author.values().flatten()
    }

    /// What a store keeps of them.
    pub fn record(&self, genesis: GenesisHash) -> Record {
        let mut content = BytesMut::with_capacity(1 + self.len() * Equivocation::LEN);
        content.put_u8(LAYOUT);
        for one in self.iter() {
            content.put_slice(&one.encode());
        }
        Record::Section {
            genesis,
            section: SECTION,
            content: content.freeze(),
        }
    }

    /// Those of which the signatures verify.
    pub(crate) fn decode(content: &Bytes, genesis: &GenesisHash) -> Self {
        let mut all = Self::default();
        let content = content.strip_prefix(&[LAYOUT]).unwrap_or_default();
        let (read, _) = content.as_chunks::<{ Equivocation::LEN }>();
        for bytes in read.iter().take(MAX) {
            if let Ok(one) = Equivocation::decode(bytes, genesis) {
                all.add(one);
            }
        }
        all
    }

    fn len(&self) -> usize {
        self.by_author.values().map(Vec::len).sum()
    }

    fn add(&mut self, new: Equivocation) -> bool {
        let of = self.by_author.get(&new.author());
        let of = of.map_or(&[][..], Vec::as_slice);
        let place = |one: &Equivocation| (one.parent(), one.after());
        if of.len() >= MAX_OF_ONE || of.iter().any(|one| place(one) == place(&new)) {
            return false;
        }
        let begun = !of.is_empty();
        if self.len() >= MAX && (begun || !self.make_room()) {
            return false;
        }
        self.by_author.entry(new.author()).or_default().push(new);
        true
    }

    /// Drops the last of whoever has most, but nobody's only one.
    fn make_room(&mut self) -> bool {
        let most = self.by_author.values_mut().max_by_key(|of| of.len());
        let most = most.filter(|of| of.len() > 1);
        most.and_then(Vec::pop).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in helpers of tests, too

    use ed25519_dalek::SigningKey;
    use roundtable_command_log::{
        Action, CommandLog, Genesis, GenesisParams, Key, Role, Schema, Strategy,
    };
    use roundtable_core::WallTime;

    use super::*;

    const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

    fn schema() -> Schema {
        let schema = Schema::builder(1, 0).key_type(0, "note", Strategy::LastWriteWins);
        schema.build().unwrap()
    }

    fn genesis() -> Genesis {
        let mut params = GenesisParams::new([1; 32], NOW, schema().hash());
        params.default_role = Role::Editor;
        Genesis::create(params, &key(0)).unwrap()
    }

    fn key(number: u16) -> SigningKey {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&number.to_le_bytes());
        SigningKey::from_bytes(&seed)
    }

    /// Proof that somebody has signed twice after so many commands.
    fn forks(number: u16, after: usize) -> Vec<Equivocation> {
        let write = |log: &mut CommandLog, text: &'static str| {
            let action = Action::put(Key::new(0, "note"), text);
            log.append(NOW, &[action]).unwrap()
        };
        let new = || CommandLog::new(genesis(), schema(), Some(key(number))).unwrap();
        let mut log = new();
        let forks = (0..after).map(|_| {
            let mut copy = new();
            copy.restore(NOW, log.frames().map(|frame| frame.bytes().clone()));
            let rival = write(&mut copy, "rival");
            let frame = write(&mut log, "note");
            let mut reader = CommandLog::new(genesis(), schema(), None).unwrap();
            reader.restore(NOW, log.frames().map(|frame| frame.bytes().clone()));
            reader.receive(NOW, rival.bytes().clone()).unwrap();
            reader.receive(NOW, frame.bytes().clone()).unwrap();
            Equivocation::from(&reader.forks()[0])
        });
        forks.collect()
    }

    #[test]
    fn a_place_is_noted_once_and_one_author_takes_little_room() {
        let mut all = Equivocations::default();
        for fork in forks(1, 6) {
            assert_eq!(all.add(fork), fork.after() < 4, "{fork:?}");
            assert!(!all.add(fork), "news once");
        }
        assert_eq!(all.iter().count(), MAX_OF_ONE);
    }

    #[test]
    fn many_authors_do_not_keep_out_another_until_each_has_one() {
        let mut all = Equivocations::default();
        for number in 0..100 {
            forks(number, 3).into_iter().for_each(|fork| {
                all.add(fork);
            });
        }
        assert_eq!(all.iter().count(), MAX);
        assert_eq!(all.by_author.len(), 100);
        let Record::Section { content, .. } = all.record(genesis().hash()) else {
            panic!("a section");
        };
        assert_eq!(Equivocations::decode(&content, &genesis().hash()), all);
        let elsewhere = GenesisHash::from_bytes([9; 32]);
        let elsewhere = Equivocations::decode(&content, &elsewhere);
        assert_eq!(elsewhere.iter().count(), 0, "no signature verifies there");
    }
}
