//! An author's directory: the key, and the log of every room that the key has signed in.
//!
//! An author is its key *and* its log: a key that signs without knowing what it signed before
//! forks its own history. So the two live in one directory, one process holds it at a time, and an
//! own frame is on disk before it is sent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_core::{AuthorId, RoomId};

/// Bytes before each record: length (u32), kind (u8), the first 3 bytes of BLAKE3(length ‖ kind), the
/// first 8 bytes of BLAKE3(content).
const RECORD_HEADER: usize = 4 + 1 + 3 + 8;

/// Why an identity could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The directory or a file in it cannot be read or written.
    #[error("cannot use the identity directory {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the identity open.
    #[error("the identity {} is in use by another process: stop it or choose another directory", .0.display())]
    Locked(PathBuf),
    /// The key file is not 32 bytes, or holds a weak key.
    #[error("{} is not a key: restore it from a backup, or start with a new directory", .0.display())]
    BadKey(PathBuf),
    /// The key is there but its log is gone: signing on would fork the author's history.
    #[error(
        "the key in {} has lost its log (rooms/): restore the whole directory from a backup, or start with a new one",
        .0.display()
    )]
    LogLost(PathBuf),
    /// A record of the log, other than a torn last one, does not match its checksum.
    #[error("{} is damaged at byte {offset}: restore the directory from a backup", path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Where the damaged record starts.
        offset: u64,
    },
    /// The task that writes the log failed.
    #[error("the log can no longer be written: join again")]
    StoreFailed,
    /// The system gave no random numbers for a new key.
    #[error("the system's random number generator failed: {0}")]
    Random(getrandom::Error),
}

/// Who signs: an Ed25519 key, kept in a directory or made for this run only.
#[derive(Debug, Clone)]
pub struct Identity {
    key: SigningKey,
    directory: Option<Arc<Directory>>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Held for as long as the identity lives: the lock goes with the file.
    _lock: File,
}

impl Identity {
    /// A new key that nobody will ever have again.
    ///
    /// # Errors
    /// [`IdentityError::Random`] only.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Ok(Self {
            key: new_key()?,
            directory: None,
        })
    }

    /// Opens the identity in `path`, or makes one there. Blocks on the disk.
    ///
    /// # Errors
    /// [`IdentityError`] says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref().to_owned();
        create_private_dir(&path).map_err(at(&path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(IdentityError::Locked(path)),
            Err(fs::TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
        let key = load_or_create(&path)?;
        Ok(Self {
            key,
            directory: Some(Arc::new(Directory { path, _lock: lock })),
        })
    }

    /// The public half of the key.
    pub fn author(&self) -> AuthorId {
        AuthorId::from_bytes(self.key.verifying_key().to_bytes())
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Opens this author's log of `room`; `None` for an identity without a directory.
    pub(crate) fn room_log(
        &self,
        room: &RoomId,
    ) -> Result<Option<(RoomLog, Recovered)>, IdentityError> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let path = directory.path.join("rooms").join(format!("{room}.log"));
        RoomLog::open(path, directory.clone()).map(Some)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError + '_ {
    move |source| IdentityError::Io {
        path: path.to_owned(),
        source,
    }
}

fn new_key() -> Result<SigningKey, IdentityError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(IdentityError::Random)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn load_or_create(path: &Path) -> Result<SigningKey, IdentityError> {
    let key_path = path.join("key");
    let rooms = path.join("rooms");
    match fs::read(&key_path) {
        Ok(bytes) => {
            let seed: [u8; 32] = bytes
                .try_into()
                .map_err(|_| IdentityError::BadKey(key_path.clone()))?;
            if !rooms.is_dir() {
                return Err(IdentityError::LogLost(path.to_owned()));
            }
            Ok(SigningKey::from_bytes(&seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The log's directory first: a crash in between leaves no key without a log.
            create_private_dir(&rooms).map_err(at(&rooms))?;
            let key = new_key()?;
            let temporary = path.join("key.new");
            write_private(&temporary, &key.to_bytes()).map_err(at(&temporary))?;
            fs::rename(&temporary, &key_path).map_err(at(&key_path))?;
            sync_directory(path)?;
            Ok(key)
        }
        Err(source) => Err(IdentityError::Io {
            path: key_path,
            source,
        }),
    }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), IdentityError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(at(path))
}

/// Directories cannot be synced here; the file system sees to it.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(unix)]
fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(not(unix))]
fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What a room's log held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The room's signed genesis.
    pub genesis: Option<Bytes>,
    /// Own frames of that genesis, in the order in which they were signed.
    pub frames: Vec<Bytes>,
    /// Geneses that were given up for it.
    pub superseded: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Record {
    Genesis = 0,
    Frame = 1,
}

/// One room's append-only log on disk.
#[derive(Debug)]
pub(crate) struct RoomLog {
    file: File,
    path: PathBuf,
    _directory: Arc<Directory>,
}

impl RoomLog {
    fn open(path: PathBuf, directory: Arc<Directory>) -> Result<(Self, Recovered), IdentityError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        // The directory is locked against other processes, this against another room of our own.
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(IdentityError::Locked(path)),
            Err(fs::TryLockError::Error(source)) => return Err(at(&path)(source)),
        }
        // A new file is in its directory for good only once that is on disk, too.
        sync_directory(&directory.path.join("rooms"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at(&path))?;
        let (recovered, sound) =
            recover(&Bytes::from(bytes)).map_err(|offset| IdentityError::Damaged {
                path: path.clone(),
                offset,
            })?;
        // A torn last record was never sent: durability comes first.
        file.set_len(sound).map_err(at(&path))?;
        file.seek(SeekFrom::Start(sound)).map_err(at(&path))?;
        Ok((
            Self {
                file,
                path,
                _directory: directory,
            },
            recovered,
        ))
    }

    /// Appends records and returns once they are on disk. Blocks.
    pub(crate) fn append(&mut self, records: &[(Record, Bytes)]) -> Result<(), IdentityError> {
        let mut buffer = Vec::new();
        for (kind, content) in records {
            let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
            buffer.extend_from_slice(&header(length, *kind as u8, content));
            buffer.extend_from_slice(content);
        }
        let written = self
            .file
            .write_all(&buffer)
            .and_then(|()| self.file.sync_data());
        written.map_err(at(&self.path))
    }
}

fn header(length: u32, kind: u8, content: &[u8]) -> [u8; RECORD_HEADER] {
    let mut header = [0; RECORD_HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind;
    let own = blake3::hash(&header[..5]);
    header[5..8].copy_from_slice(&own.as_bytes()[..3]);
    header[8..].copy_from_slice(&blake3::hash(content).as_bytes()[..8]);
    header
}

/// Reads records up to the first torn one. `Err` is the offset of a record that is broken though
/// it was written whole; `Ok` carries the length of the sound part.
fn recover(bytes: &Bytes) -> Result<(Recovered, u64), u64> {
    let mut recovered = Recovered::default();
    let mut offset = 0;
    while let Some(found) = bytes.get(offset..offset + RECORD_HEADER) {
        let damaged = Err(offset as u64);
        let length = u32::from_le_bytes([found[0], found[1], found[2], found[3]]);
        if found[5..8] != header(length, found[4], &[])[5..8] {
            return damaged;
        }
        let start = offset + RECORD_HEADER;
        let end = start.saturating_add(length as usize);
        if end > bytes.len() {
            break;
        }
        let content = bytes.slice(start..end);
        if found != header(length, found[4], &content) {
            // The end of the file may have been written before what is in front of it.
            if end == bytes.len() {
                break;
            }
            return damaged;
        }
        match found[4] {
            0 if recovered.genesis.as_ref() == Some(&content) => {}
            // Another genesis begins another log: what was signed in the old one is over.
            0 => {
                recovered.superseded.extend(recovered.genesis.take());
                recovered.genesis = Some(content);
                recovered.frames.clear();
            }
            1 => recovered.frames.push(content),
            _ => return damaged,
        }
        offset = end;
    }
    Ok((recovered, offset as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("roundtable-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn room() -> RoomId {
        RoomId::new("demo").unwrap()
    }

    #[test]
    fn an_identity_keeps_its_key_and_log() {
        let dir = scratch("keep");
        let author = {
            let identity = Identity::open(&dir).unwrap();
            let (mut log, recovered) = identity.room_log(&room()).unwrap().unwrap();
            assert!(recovered.genesis.is_none() && recovered.frames.is_empty());
            log.append(&[
                (Record::Genesis, Bytes::from_static(b"genesis")),
                (Record::Frame, Bytes::from_static(b"one")),
            ])
            .unwrap();
            log.append(&[(Record::Frame, Bytes::from_static(b"two"))])
                .unwrap();
            identity.author()
        };
        let identity = Identity::open(&dir).unwrap();
        assert_eq!(identity.author(), author);
        let (_, recovered) = identity.room_log(&room()).unwrap().unwrap();
        assert_eq!(recovered.genesis.as_deref(), Some(&b"genesis"[..]));
        assert_eq!(recovered.frames, [&b"one"[..], b"two"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let dir = scratch("lock");
        let _first = Identity::open(&dir).unwrap();
        assert!(matches!(
            Identity::open(&dir),
            Err(IdentityError::Locked(_))
        ));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_room_is_written_by_one_at_a_time() {
        let dir = scratch("twice");
        let identity = Identity::open(&dir).unwrap();
        let first = identity.room_log(&room()).unwrap();
        let second = identity.clone().room_log(&room());
        assert!(matches!(second, Err(IdentityError::Locked(_))));
        drop(first);
        assert!(identity.room_log(&room()).is_ok());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn another_genesis_begins_another_log_and_the_old_one_is_remembered() {
        let dir = scratch("superseded");
        let identity = Identity::open(&dir).unwrap();
        let (mut log, _) = identity.room_log(&room()).unwrap().unwrap();
        let record = |kind, content: &'static [u8]| (kind, Bytes::from_static(content));
        log.append(&[
            record(Record::Genesis, b"old"),
            record(Record::Frame, b"over"),
            record(Record::Genesis, b"new"),
            record(Record::Frame, b"counts"),
        ])
        .unwrap();
        drop(log);
        let (_, recovered) = identity.room_log(&room()).unwrap().unwrap();
        assert_eq!(recovered.superseded, [&b"old"[..]]);
        assert_eq!(recovered.genesis.as_deref(), Some(&b"new"[..]));
        assert_eq!(recovered.frames, [&b"counts"[..]]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_key_without_its_log_may_not_join() {
        let dir = scratch("lost");
        drop(Identity::open(&dir).unwrap());
        fs::remove_dir_all(dir.join("rooms")).unwrap();
        assert!(matches!(
            Identity::open(&dir),
            Err(IdentityError::LogLost(_))
        ));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_crash_at_any_byte_loses_only_the_record_being_written() {
        let dir = scratch("torn");
        let identity = Identity::open(&dir).unwrap();
        let path = dir.join("rooms/demo.log");
        let (mut log, _) = identity.room_log(&room()).unwrap().unwrap();
        log.append(&[(Record::Frame, Bytes::from_static(b"kept"))])
            .unwrap();
        let kept = fs::metadata(&path).unwrap().len();
        log.append(&[(Record::Frame, Bytes::from_static(b"torn"))])
            .unwrap();
        drop(log);
        let whole = fs::read(&path).unwrap();
        for cut in usize::try_from(kept).unwrap()..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (_, recovered) = identity.room_log(&room()).unwrap().unwrap();
            assert_eq!(recovered.frames, [&b"kept"[..]]);
            assert_eq!(fs::metadata(&path).unwrap().len(), kept);
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn damage_before_the_end_is_reported_and_nothing_is_cut() {
        let dir = scratch("damage");
        let identity = Identity::open(&dir).unwrap();
        let path = dir.join("rooms/demo.log");
        let (mut log, _) = identity.room_log(&room()).unwrap().unwrap();
        for content in [&b"one"[..], b"two"] {
            log.append(&[(Record::Frame, Bytes::from_static(content))])
                .unwrap();
        }
        drop(log);
        // A length, a checksum, the content: whatever is damaged.
        for at in [1, 6, 9, RECORD_HEADER] {
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let error = identity.room_log(&room()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { offset: 0, .. }));
            assert_eq!(fs::read(&path).unwrap(), bytes);
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
