//! The store of an author that lasts as long as the process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use roundtable_command_log::{FrameId, Genesis, GenesisHash, Schema};
use roundtable_core::{AuthorId, RoomId};

use crate::{Contents, Record, Store, StoreError};

/// Keeps logs in memory: a room can be left and joined again, and nothing is left after the
/// process. Frames share their bytes with the log that they come from.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rooms: Mutex<BTreeMap<RoomId, Room>>,
}

#[derive(Debug, Default)]
struct Room {
    /// The last one counts.
    geneses: Vec<(Genesis, Schema)>,
    frames: BTreeMap<(AuthorId, u64, FrameId), Bytes>,
    snapshot: Option<Bytes>,
    sections: BTreeMap<u16, Bytes>,
}

impl Room {
    fn genesis(&self) -> Option<GenesisHash> {
        self.geneses.last().map(|(genesis, _)| genesis.hash())
    }

    fn keep(&mut self, record: &Record) {
        match record {
            Record::Genesis { genesis, .. } if self.genesis() == Some(genesis.hash()) => {}
            Record::Genesis { genesis, schema } => {
                self.geneses.push((Genesis::clone(genesis), schema.clone()));
                self.frames.clear();
                self.snapshot = None;
                self.sections.clear();
            }
            Record::Frame { genesis, frame } if self.genesis() == Some(*genesis) => {
                let header = frame.header();
                let place = (header.author, header.first_nonce, frame.id());
                self.frames.insert(place, frame.bytes().clone());
            }
            Record::Checkpoint {
                genesis,
                snapshot,
                through,
            } if self.genesis() == Some(*genesis) => {
                self.snapshot = Some(snapshot.clone());
                let through: BTreeMap<_, _> = through.iter().copied().collect();
                self.frames.retain(|(author, first_nonce, _), _| {
                    through.get(author).is_none_or(|last| first_nonce > last)
                });
            }
            Record::LetGo {
                genesis,
                author,
                first_nonce,
                id,
            } if self.genesis() == Some(*genesis) => {
                self.frames.remove(&(*author, *first_nonce, *id));
            }
            Record::LetGoAuthor { genesis, author } if self.genesis() == Some(*genesis) => {
                self.frames.retain(|(of, ..), _| of != author);
            }
            Record::Section {
                genesis,
                section,
                content,
            } if self.genesis() == Some(*genesis) => {
                self.sections.insert(*section, content.clone());
            }
            // Of a log that was given up.
            Record::Frame { .. }
            | Record::LetGo { .. }
            | Record::LetGoAuthor { .. }
            | Record::Checkpoint { .. }
            | Record::Section { .. } => {}
        }
    }
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RoomId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn rooms(&self) -> Result<Vec<RoomId>, StoreError> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn load(&self, room: &RoomId) -> Result<Contents, StoreError> {
        let rooms = self.lock();
        let Some(room) = rooms.get(room) else {
            return Ok(Contents::default());
        };
        let mut frames: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((author, ..), frame) in &room.frames {
            frames.entry(*author).or_default().push(frame.clone());
        }
        let mut contents = Contents {
            frames,
            snapshot: room.snapshot.clone(),
            sections: room.sections.clone(),
            ..Contents::default()
        };
        for (genesis, schema) in room.geneses.clone() {
            contents.begin(genesis, schema);
        }
        Ok(contents)
    }

    fn commit(&self, room: &RoomId, records: &[Record]) -> Result<(), StoreError> {
        let mut rooms = self.lock();
        let room = rooms.entry(room.clone()).or_default();
        records.iter().for_each(|record| room.keep(record));
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}
