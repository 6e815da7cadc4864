//! An author: its key, and the logs of all rooms that the key has signed in.
//!
//! The two belong together: a key that signs without knowing what it signed before forks its own
//! history. So an identity is one value, and on disk one file.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ed25519_dalek::SigningKey;
use roundtable_core::{AuthorId, RoomId};

use crate::{Contents, MemoryStore, Record, Store, StoreError};

/// Why an identity, or a room of it, could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The directory or the file in it cannot be read or written.
    #[error("cannot use the identity directory {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no identity.
    #[error("there is no identity in {}: is this the directory that was given to --identity?", .0.display())]
    Missing(PathBuf),
    /// Another process, or another handle in this one, has the identity open.
    #[error("the identity {} is in use by another process: stop it or choose another directory", .0.display())]
    Locked(PathBuf),
    /// This identity is in this room already.
    #[error("this identity is in the room {0} already: leave that first, or use another identity")]
    RoomInUse(RoomId),
    /// The file is not what was written.
    #[error("the identity in {} is damaged: restore the directory from a backup", .0.display())]
    Damaged(PathBuf),
    /// The file was written by a later version.
    #[error("the identity in {} was written by another version: update this program", .0.display())]
    Layout(PathBuf),
    /// The key or the log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no random numbers for a new key.
    #[error("the system's random number generator failed: {0}")]
    Random(getrandom::Error),
}

/// Who signs: an Ed25519 key and the logs that it has signed. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    key: SigningKey,
    store: Box<dyn Store>,
    /// Rooms whose logs are being written.
    open: Mutex<BTreeSet<RoomId>>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeSet<RoomId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    /// A new key that nobody will ever have again; its logs are kept in memory, for as long as a
    /// clone of this lives.
    ///
    /// # Errors
    /// [`IdentityError::Random`] only.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Ok(Self::with_store(new_key()?, MemoryStore::default()))
    }

    /// Opens the identity in the directory `path`, or makes one there, with a new key. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`IdentityError`] says what to do.
    #[cfg(feature = "redb")]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self, IdentityError> {
        let (store, key) = crate::Database::open(path)?;
        Ok(Self::with_store(key, store))
    }

    /// Opens the identity in the directory `path`, where there must be one. Blocks on the disk.
    ///
    /// # Errors
    /// [`IdentityError`] says what to do.
    #[cfg(feature = "redb")]
    pub fn open_existing(path: impl AsRef<std::path::Path>) -> Result<Self, IdentityError> {
        let (store, key) = crate::Database::open_existing(path)?;
        Ok(Self::with_store(key, store))
    }

    /// A key, and a store of your own that has everything which this key has ever signed: a store
    /// that was lost or set back forks the key's history.
    pub fn with_store(key: SigningKey, store: impl Store + 'static) -> Self {
        let shared = Shared {
            key,
            store: Box::new(store),
            open: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The public half of the key.
    pub fn author(&self) -> AuthorId {
        AuthorId::from_bytes(self.shared.key.verifying_key().to_bytes())
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.shared.key
    }

    /// Where the logs are kept.
    pub fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    /// Opens this author's log of `room` for writing. May block on the disk.
    ///
    /// # Errors
    /// [`IdentityError::RoomInUse`] while another [`RoomLog`] of the room lives, or what the store
    /// says.
    pub fn room(&self, room: &RoomId) -> Result<(RoomLog, Contents), IdentityError> {
        if !self.shared.open().insert(room.clone()) {
            return Err(IdentityError::RoomInUse(room.clone()));
        }
        let log = RoomLog {
            identity: self.clone(),
            room: room.clone(),
        };
        let contents = self.store().load(room)?;
        Ok((log, contents))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let author = self.author();
        f.debug_tuple("Identity").field(&author).finish()
    }
}

/// The writing end of an author's log of one room. There is one at a time.
#[derive(Debug)]
pub struct RoomLog {
    identity: Identity,
    room: RoomId,
}

impl RoomLog {
    /// Keeps records, as [`Store::commit`] says. May block on the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn commit(&self, records: &[Record]) -> Result<(), StoreError> {
        self.identity.store().commit(&self.room, records)
    }

    /// Whether [`commit`](Self::commit) waits for a disk.
    pub fn blocks(&self) -> bool {
        self.identity.store().blocks()
    }
}

impl Drop for RoomLog {
    fn drop(&mut self) {
        self.identity.shared.open().remove(&self.room);
    }
}

pub(crate) fn new_key() -> Result<SigningKey, IdentityError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(IdentityError::Random)?;
    Ok(SigningKey::from_bytes(&seed))
}
