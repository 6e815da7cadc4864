//! The store of an author that survives: one `redb` database, in which the key and all its logs
//! live and move together.

use std::{
    fs::{self, File, OpenOptions},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use redb::{
    Builder, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use roundtable_command_log::{Genesis, GenesisHash, Schema};
use roundtable_core::{AuthorId, RoomId};

use crate::{Contents, IdentityError, Record, Store, StoreError, identity::new_key};

/// The database's file in an identity directory.
const FILE: &str = "identity.redb";
/// Under which name it is made before it has a key.
const NEW_FILE: &str = "identity.new";
/// The layout of the tables below.
const LAYOUT: u64 = 1;
/// Bytes of the database that are kept in memory: logs are read once, at the start.
const CACHE: usize = 16 << 20;

/// `key`: the seed of the author's key. `layout`: [`LAYOUT`], as 8 little-endian bytes.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The geneses of a room and their schemas, by the room's name, in the order in which they came:
/// the last one counts.
const ROOMS: TableDefinition<'_, RoomKey<'_>, Encoded<'_>> = TableDefinition::new("rooms");
/// Frames in full form, by genesis, author, first nonce and id.
const FRAMES: TableDefinition<'_, FrameKey<'_>, &[u8]> = TableDefinition::new("frames");
/// What is left of what lies below the last stable checkpoint, by genesis.
const SNAPSHOTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("snapshots");
/// What is kept beside the frames, by genesis and section.
const SECTIONS: TableDefinition<'_, (&[u8; 32], u16), &[u8]> = TableDefinition::new("sections");

type RoomKey<'a> = (&'a str, u64);
/// A genesis and its schema.
type Encoded<'a> = (&'a [u8], &'a [u8]);
type FrameKey<'a> = (&'a [u8; 32], &'a [u8; 32], u64, &'a [u8; 32]);

const LOWEST: &[u8; 32] = &[0; 32];
const HIGHEST: &[u8; 32] = &[u8::MAX; 32];

/// An author's key and logs in one file.
///
/// A commit is one transaction, synced to the disk before it returns: after a crash at any point
/// the file holds all of it or none, and everything that was committed before. One process at a
/// time has it open.
#[derive(Debug)]
pub struct Database {
    database: redb::Database,
}

impl Database {
    /// Opens the database in the directory at `path`, or makes one there with a new key. Blocks.
    ///
    /// # Errors
    /// [`IdentityError`] says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, SigningKey), IdentityError> {
        let path = path.as_ref();
        let file = path.join(FILE);
        if !file.exists() {
            create_private_dir(path).map_err(at(path))?;
            make(path)?;
        }
        Self::open_existing(path)
    }

    /// Opens the database in the directory at `path`, where there must be one. Blocks.
    ///
    /// # Errors
    /// [`IdentityError`] says what to do.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<(Self, SigningKey), IdentityError> {
        let file = path.as_ref().join(FILE);
        if !file.exists() {
            return Err(IdentityError::Missing(path.as_ref().to_owned()));
        }
        Self::sound(path.as_ref(), || builder().open(&file))
    }

    /// Opens a database of which every page is what was written.
    ///
    /// Pages that no crash leaves behind make `redb` panic in places: that is damage, too.
    fn sound(
        directory: &Path,
        open: impl FnOnce() -> Result<redb::Database, DatabaseError>,
    ) -> Result<(Self, SigningKey), IdentityError> {
        let not_opened = |error| not_opened(directory, error);
        let checked = || {
            let mut database = open().map_err(not_opened)?;
            if !database.check_integrity().map_err(not_opened)? {
                return Err(IdentityError::Damaged(directory.to_owned()));
            }
            let key = read_key(&database, directory)?;
            Ok((Self { database }, key))
        };
        catch_unwind(AssertUnwindSafe(checked))
            .unwrap_or_else(|_| Err(IdentityError::Damaged(directory.to_owned())))
    }
}

impl Store for Database {
    fn rooms(&self) -> Result<Vec<RoomId>, StoreError> {
        let names = self.room_names().map_err(failed)?;
        let rooms = names.iter().map(|name| RoomId::new(name));
        rooms
            .collect::<Result<_, _>>()
            .map_err(|_| StoreError::Damaged)
    }

    fn load(&self, room: &RoomId) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        let geneses = self.geneses(room).map_err(failed)?;
        for [genesis, schema] in &geneses {
            let genesis = Genesis::decode(genesis).map_err(|_| StoreError::Damaged)?;
            let schema = Schema::decode(schema).map_err(|_| StoreError::Damaged)?;
            contents.begin(genesis, schema);
        }
        if let Some(genesis) = &contents.genesis {
            let hash = genesis.hash();
            self.read(&hash, &mut contents).map_err(failed)?;
        }
        Ok(contents)
    }

    fn commit(&self, room: &RoomId, records: &[Record]) -> Result<(), StoreError> {
        self.write(room, records).map_err(failed)
    }

    fn blocks(&self) -> bool {
        true
    }
}

impl Database {
    fn room_names(&self) -> Result<Vec<String>, redb::Error> {
        let table = self.database.begin_read()?.open_table(ROOMS)?;
        let mut names: Vec<String> = Vec::new();
        for entry in table.iter()? {
            let (key, _) = entry?;
            let (name, _) = key.value();
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// A room's encoded geneses and schemas, the one that counts last.
    fn geneses(&self, room: &RoomId) -> Result<Vec<[Vec<u8>; 2]>, redb::Error> {
        let table = self.database.begin_read()?.open_table(ROOMS)?;
        let mut geneses = Vec::new();
        for entry in table.range((room.as_str(), 0)..=(room.as_str(), u64::MAX))? {
            let (_, value) = entry?;
            let (genesis, schema) = value.value();
            geneses.push([genesis.to_vec(), schema.to_vec()]);
        }
        Ok(geneses)
    }

    fn read(&self, genesis: &GenesisHash, contents: &mut Contents) -> Result<(), redb::Error> {
        let genesis = genesis.as_bytes();
        let transaction = self.database.begin_read()?;
        let frames = transaction.open_table(FRAMES)?;
        for entry in frames.range(all_frames(genesis))? {
            let (key, value) = entry?;
            let (_, author, ..) = key.value();
            let frames = contents.frames.entry(AuthorId::from_bytes(*author));
            let frame = Bytes::copy_from_slice(value.value());
            frames.or_default().push(frame);
        }
        let snapshot = transaction.open_table(SNAPSHOTS)?.get(genesis)?;
        contents.snapshot = snapshot.map(|value| Bytes::copy_from_slice(value.value()));
        let sections = transaction.open_table(SECTIONS)?;
        for entry in sections.range((genesis, 0)..=(genesis, u16::MAX))? {
            let (key, value) = entry?;
            let content = Bytes::copy_from_slice(value.value());
            contents.sections.insert(key.value().1, content);
        }
        Ok(())
    }

    fn write(&self, room: &RoomId, records: &[Record]) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        for record in records {
            if let Record::Genesis { genesis, schema } = record {
                begin(&transaction, room, genesis, schema)?;
            }
        }
        let current = last_genesis(&transaction.open_table(ROOMS)?, room)?;
        let current = current.and_then(|(_, encoded)| Genesis::decode(&encoded).ok());
        let current = current.map(|genesis| genesis.hash());
        {
            let mut frames = transaction.open_table(FRAMES)?;
            let mut snapshots = transaction.open_table(SNAPSHOTS)?;
            let mut sections = transaction.open_table(SECTIONS)?;
            for record in records {
                match record {
                    Record::Frame { genesis, frame } if current == Some(*genesis) => {
                        let header = frame.header();
                        let (author, id) = (header.author, frame.id());
                        let (genesis, id) = (genesis.as_bytes(), id.as_bytes());
                        let key = (genesis, author.as_bytes(), header.first_nonce, id);
                        frames.insert(key, &frame.bytes()[..])?;
                    }
                    Record::Checkpoint {
                        genesis,
                        snapshot,
                        through,
                    } if current == Some(*genesis) => {
                        let genesis = genesis.as_bytes();
                        snapshots.insert(genesis, &snapshot[..])?;
                        for (author, last) in through {
                            let below = frames_through(genesis, author.as_bytes(), *last);
                            frames.retain_in(below, |_, _| false)?;
                        }
                    }
                    Record::LetGo {
                        genesis,
                        author,
                        first_nonce,
                        id,
                    } if current == Some(*genesis) => {
                        let (author, id) = (author.as_bytes(), id.as_bytes());
                        frames.remove((genesis.as_bytes(), author, *first_nonce, id))?;
                    }
                    Record::LetGoAuthor { genesis, author } if current == Some(*genesis) => {
                        let all = frames_through(genesis.as_bytes(), author.as_bytes(), u64::MAX);
                        frames.retain_in(all, |_, _| false)?;
                    }
                    Record::Section {
                        genesis,
                        section,
                        content,
                    } if current == Some(*genesis) => {
                        sections.insert((genesis.as_bytes(), *section), &content[..])?;
                    }
                    // Begun above, or of a log that was given up.
                    _ => {}
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Begins a room's log, and ends the one before it.
fn begin(
    transaction: &WriteTransaction,
    room: &RoomId,
    genesis: &Genesis,
    schema: &Schema,
) -> Result<(), redb::Error> {
    let mut rooms = transaction.open_table(ROOMS)?;
    let encoded = genesis.encode();
    let number = match last_genesis(&rooms, room)? {
        Some((_, last)) if last == encoded => return Ok(()),
        Some((number, last)) => {
            if let Ok(old) = Genesis::decode(&last) {
                end(transaction, &old.hash())?;
            }
            number + 1
        }
        None => 0,
    };
    let key = (room.as_str(), number);
    rooms.insert(key, (&encoded[..], &schema.encode()[..]))?;
    Ok(())
}

/// The number and the encoding of the genesis of a room that counts.
fn last_genesis(
    rooms: &impl ReadableTable<RoomKey<'static>, Encoded<'static>>,
    room: &RoomId,
) -> Result<Option<(u64, Vec<u8>)>, redb::Error> {
    let all = (room.as_str(), 0)..=(room.as_str(), u64::MAX);
    let Some(entry) = rooms.range(all)?.next_back() else {
        return Ok(None);
    };
    let (key, value) = entry?;
    Ok(Some((key.value().1, value.value().0.to_vec())))
}

/// Removes what belongs to a genesis that was given up.
fn end(transaction: &WriteTransaction, genesis: &GenesisHash) -> Result<(), redb::Error> {
    let genesis = genesis.as_bytes();
    let mut frames = transaction.open_table(FRAMES)?;
    frames.retain_in(all_frames(genesis), |_, _| false)?;
    transaction.open_table(SNAPSHOTS)?.remove(genesis)?;
    let mut sections = transaction.open_table(SECTIONS)?;
    sections.retain_in((genesis, 0)..=(genesis, u16::MAX), |_, _| false)?;
    Ok(())
}

fn all_frames(genesis: &[u8; 32]) -> std::ops::RangeInclusive<FrameKey<'_>> {
    (genesis, LOWEST, 0, LOWEST)..=(genesis, HIGHEST, u64::MAX, HIGHEST)
}

/// An author's frames that begin at or below a nonce.
fn frames_through<'a>(
    genesis: &'a [u8; 32],
    author: &'a [u8; 32],
    last: u64,
) -> std::ops::RangeInclusive<FrameKey<'a>> {
    (genesis, author, 0, LOWEST)..=(genesis, author, last, HIGHEST)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// Makes the database with a new key. It has its name only once it is whole: a crash in between
/// leaves no identity, not half of one.
fn make(directory: &Path) -> Result<(), IdentityError> {
    let new = directory.join(NEW_FILE);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let file = options.open(&new).map_err(at(&new))?;
    let database = builder()
        .create_file(file)
        .map_err(|error| not_opened(directory, error))?;
    let key = new_key()?;
    initialise(&database, &key).map_err(failed)?;
    drop(database);
    fs::rename(&new, directory.join(FILE)).map_err(at(&new))?;
    sync_directory(directory)
}

fn initialise(database: &redb::Database, key: &SigningKey) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("layout", &LAYOUT.to_le_bytes()[..])?;
        meta.insert("key", &key.to_bytes()[..])?;
        transaction.open_table(ROOMS)?;
        transaction.open_table(FRAMES)?;
        transaction.open_table(SNAPSHOTS)?;
        transaction.open_table(SECTIONS)?;
    }
    transaction.commit()?;
    Ok(())
}

fn read_key(database: &redb::Database, directory: &Path) -> Result<SigningKey, IdentityError> {
    let meta = |name| -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = database.begin_read()?.open_table(META)?;
        Ok(meta.get(name)?.map(|value| value.value().to_vec()))
    };
    if meta("layout").map_err(failed)?.as_deref() != Some(&LAYOUT.to_le_bytes()) {
        return Err(IdentityError::Layout(directory.to_owned()));
    }
    let seed = meta("key").map_err(failed)?.unwrap_or_default();
    let seed: [u8; 32] = seed.try_into().map_err(|_| StoreError::Damaged)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn not_opened(directory: &Path, error: DatabaseError) -> IdentityError {
    let path = directory.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => IdentityError::Locked(path),
        DatabaseError::Storage(redb::StorageError::Io(source)) => {
            // What is no database at all is reported as invalid data; one whose pages point
            // beyond its end, as an end that came too soon.
            match source.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    IdentityError::Damaged(path)
                }
                _ => IdentityError::Io { path, source },
            }
        }
        DatabaseError::Storage(redb::StorageError::Corrupted(_)) | DatabaseError::RepairAborted => {
            IdentityError::Damaged(path)
        }
        DatabaseError::UpgradeRequired(_) => IdentityError::Layout(path),
        error => StoreError::Failed(Box::new(error)).into(),
    }
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(_) => StoreError::Damaged,
        error => StoreError::Failed(Box::new(error)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path: PathBuf = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), IdentityError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(at(path))
}

/// Directories cannot be synced here; the file system sees to it.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(unix)]
fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(test)]
mod crash_tests;
