//! The data directory: the server's secrets and its rooms, as small JSON files that only its user
//! can read, each replaced whole. One process holds it at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error(
        "cannot use {path}: {source}; --data must name a directory that the server may write to"
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others may read a secret.
    #[error("others may read {path}: run `chmod 600` on it, and consider its secret as known")]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
    /// A file is not what the server wrote.
    #[error("{path} is damaged: restore it, or remove it to have a new one made")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// Keys of a server that has another name for itself.
    #[error("{path} is of another server: its `server` must stay as it is while the server runs")]
    OtherServer {
        /// Which file.
        path: PathBuf,
    },
    /// Another server runs on it.
    #[error("{path} is in use by another server: give each its own --data directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No keys can be made.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// A data directory that is ours while this lives.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    _lock: File,
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    |source| DataError::Io { path, source }
}

impl Store {
    /// Takes the directory, which is made if there is none.
    pub(crate) fn open(root: &Path) -> Result<Self, DataError> {
        make_private_dir(root)?;
        make_private_dir(&root.join("rooms"))?;
        let path = root.join("lock");
        let lock = private_file(&path).map_err(refused(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataError::InUse {
                path: root.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(refused(&path)(error)),
        }
    }

    /// Where a file is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What a file holds, if it is there.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, DataError> {
        let path = self.root.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(&path)(error)),
        };
        if is_exposed(&path).map_err(refused(&path))? {
            return Err(DataError::Exposed { path });
        }
        let value = serde_json::from_slice(&text);
        value.map(Some).map_err(|_| DataError::Damaged { path })
    }

    /// Replaces a file: after a crash it holds the old or the new, never a part.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<(), DataError> {
        let path = self.root.join(name);
        let fresh = path.with_extension("new");
        let write = || {
            let mut file = private_file(&fresh)?;
            file.set_len(0)?;
            serde_json::to_writer(&mut file, value)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().map_err(refused(&path))
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DataError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&path)(error)),
            _ => Ok(()),
        }
    }

    /// The names of the rooms that have a file.
    pub(crate) fn rooms(&self) -> Result<Vec<String>, DataError> {
        let path = self.root.join("rooms");
        let list = || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                let name = entry?.file_name();
                let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
                names.extend(name.map(str::to_owned));
            }
            Ok(names)
        };
        list().map_err(refused(&path))
    }
}

#[cfg(unix)]
fn make_private_dir(path: &Path) -> Result<(), DataError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(refused(path))
}

#[cfg(not(unix))]
fn make_private_dir(path: &Path) -> Result<(), DataError> {
    fs::create_dir_all(path).map_err(refused(path))
}

/// Opens a file for writing, made readable for its owner alone.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Whether others than the owner may read the file.
#[cfg(unix)]
fn is_exposed(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_exposed(_: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_the_next_holder_and_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let store = Store::open(&root).unwrap();
        assert_eq!(store.read::<u32>("n.json").unwrap(), None);
        store.write("n.json", &123_456).unwrap();
        store.write("n.json", &7).unwrap();
        assert!(matches!(Store::open(&root), Err(DataError::InUse { .. })));
        drop(store);
        let store = Store::open(&root).unwrap();
        assert_eq!(store.read("n.json").unwrap(), Some(7));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = root.join("n.json");
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&root)), (0o600, 0o700));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let exposed = store.read::<u32>("n.json").unwrap_err();
            assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
        }
    }

    #[test]
    fn a_damaged_file_and_a_place_that_is_none_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write("n.json", &"text").unwrap();
        let damaged = store.read::<u32>("n.json").unwrap_err();
        assert!(matches!(damaged, DataError::Damaged { .. }), "{damaged}");
        store.remove("n.json").unwrap();
        store.remove("n.json").unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Store::open(&file), Err(DataError::Io { .. })));
    }
}
