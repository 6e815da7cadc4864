//! The seam: what a store keeps, and what it promises.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use roundtable_command_log::{FrameId, Genesis, GenesisHash, Schema, SharedFrame};
use roundtable_core::{AuthorId, RoomId};

use crate::{Equivocations, Refusals, equivocations, refusals};

/// Something to keep of a room.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Record {
    /// The room's genesis, and the schema that it names, by which the log can be read without the
    /// application. Another genesis begins another log: the frames and sections of the old one go,
    /// its hash is remembered.
    Genesis {
        /// The genesis.
        genesis: Box<Genesis>,
        /// Its schema.
        schema: Schema,
    },
    /// A frame of the room's log, own or foreign. Kept once, however often it comes.
    Frame {
        /// Of which log.
        genesis: GenesisHash,
        /// The frame.
        frame: SharedFrame,
    },
    /// A foreign frame that did not count and that the log has let go: it is not kept any longer.
    LetGo {
        /// Of which log.
        genesis: GenesisHash,
        /// Its author.
        author: AuthorId,
        /// The nonce of its first command.
        first_nonce: u64,
        /// The frame.
        id: FrameId,
    },
    /// An author that the log has let go: no frame of it is kept any longer.
    LetGoAuthor {
        /// Of which log.
        genesis: GenesisHash,
        /// Who.
        author: AuthorId,
    },
    /// What a log needs to go on from a stable checkpoint. It takes the place of the one before, and of
    /// the frames below: they go.
    Checkpoint {
        /// Of which log.
        genesis: GenesisHash,
        /// A [`Snapshot`](roundtable_command_log::Snapshot) from the genesis on, encoded.
        snapshot: Bytes,
        /// By author, the last nonce that lies below.
        through: Vec<(AuthorId, u64)>,
    },
    /// Something that is kept beside the frames, and that the next record of the same section
    /// replaces.
    Section {
        /// Of which log.
        genesis: GenesisHash,
        /// What it is: 1 [`Equivocations`], 2 [`Refusals`]; those from 256 on are free for others.
        section: u16,
        /// At most 1 GiB.
        content: Bytes,
    },
}

/// What a store holds of a room.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Contents {
    /// The room's genesis; `None` for a room that the store does not know.
    pub genesis: Option<Genesis>,
    /// The schema that the genesis names.
    pub schema: Option<Schema>,
    /// The frames of that genesis in full form, above the last stable checkpoint or all, by author, each
    /// author's in order.
    pub frames: BTreeMap<AuthorId, Vec<Bytes>>,
    /// What is left of all that lies below the last stable checkpoint, if there was one.
    pub snapshot: Option<Bytes>,
    /// What is kept beside the frames, by section.
    pub sections: BTreeMap<u16, Bytes>,
    /// Geneses that were given up and are not this one, each once.
    pub superseded: Vec<GenesisHash>,
}

impl Contents {
    /// How many frames there are.
    pub fn frame_count(&self) -> usize {
        self.frames.values().map(Vec::len).sum()
    }

    /// The forks that were noted, those below checkpoints too.
    pub fn equivocations(&self) -> Equivocations {
        let kept = self.sections.get(&equivocations::SECTION);
        let kept = kept.zip(self.genesis.as_ref().map(Genesis::hash));
        kept.map_or_else(Equivocations::default, |(content, genesis)| {
            Equivocations::decode(content, &genesis)
        })
    }

    /// What was refused.
    pub fn refusals(&self) -> Refusals {
        let kept = self.sections.get(&refusals::SECTION);
        kept.map(Refusals::decode).unwrap_or_default()
    }

    /// Goes on to the next of a room's geneses.
    pub(crate) fn begin(&mut self, genesis: Genesis, schema: Schema) {
        let hash = genesis.hash();
        let before = self.genesis.replace(genesis).map(|before| before.hash());
        // To one that was given up the room may have returned.
        self.superseded
            .retain(|of| *of != hash && Some(*of) != before);
        self.superseded.extend(before.filter(|of| *of != hash));
        self.schema = Some(schema);
    }

    /// All frames, author by author, as a log takes them.
    pub fn into_frames(self) -> impl Iterator<Item = Bytes> {
        self.frames.into_values().flatten()
    }
}

/// Keeps the logs of one author, a log for each room.
///
/// Calls may block on a disk and may come from any thread. What a store gives back is trusted no
/// more than what a peer sends: the log verifies it again.
pub trait Store: fmt::Debug + Send + Sync {
    /// The rooms of which something is kept, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn rooms(&self) -> Result<Vec<RoomId>, StoreError>;

    /// Everything that is kept of a room.
    ///
    /// # Errors
    /// [`StoreError`].
    fn load(&self, room: &RoomId) -> Result<Contents, StoreError>;

    /// Keeps records, in this order. When it returns, all of them survive a crash of the process
    /// and of the machine, as far as the store outlives either; when it fails, or the crash comes
    /// first, the store holds all of them or none.
    ///
    /// # Errors
    /// [`StoreError`].
    fn commit(&self, room: &RoomId, records: &[Record]) -> Result<(), StoreError>;

    /// Whether a commit waits for a disk, so that it is better made on a thread of its own.
    fn blocks(&self) -> bool;
}

/// Why a store did not read or write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// What was read is not what was written.
    #[error("the stored log is damaged: restore the identity from a backup")]
    Damaged,
    /// The thread that was writing is gone.
    #[error("the store panicked")]
    Panicked,
    /// The disk, or what manages it, failed.
    #[error("the store failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}
