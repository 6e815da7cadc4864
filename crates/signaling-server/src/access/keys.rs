//! The keys that sign grants: the one that signs now, and the one before it.

use std::path::Path;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use roundtable_signaling_protocol::{Grant, GrantKey, GrantKeyId, GrantVerifier};
use serde::{Deserialize, Serialize};

use super::secret;
use crate::store::{DataError, Store};

pub(super) const FILE: &str = "keys.json";

/// Keys whose grants count: the one that signs, and the one before it.
const LIVE_KEYS: usize = 2;

/// As it is on disk.
#[derive(Serialize, Deserialize)]
struct KeysFile {
    /// Issuer and audience of every grant.
    server: String,
    /// Secret Ed25519 seeds. The newest comes first and signs.
    seeds: Vec<String>,
}

/// The keys, ready to use.
#[derive(Debug)]
pub(super) struct Keys {
    server: String,
    signs: GrantKey,
    pub(super) verifier: GrantVerifier,
}

impl Keys {
    /// Reads the keys, and makes on first start what is not there.
    pub(super) fn open(store: &Store, root: &Path) -> Result<Self, DataError> {
        let file = match store.read::<KeysFile>(FILE)? {
            Some(file) => file,
            None => {
                let server = format!("roundtable-{}", secret::<16>()?);
                let seeds = vec![secret::<32>()?];
                let file = KeysFile { server, seeds };
                store.write(FILE, &file)?;
                file
            }
        };
        let path = root.join(FILE);
        Self::new(&file).ok_or(DataError::Damaged { path })
    }

    /// With a new key that signs; the one before it still counts, older ones no longer. Blocks on the disk.
    pub(super) fn rotated(store: &Store) -> Result<Self, DataError> {
        let damaged = || DataError::Damaged { path: FILE.into() };
        let mut file = store.read::<KeysFile>(FILE)?.ok_or_else(damaged)?;
        file.seeds.insert(0, secret::<32>()?);
        file.seeds.truncate(LIVE_KEYS);
        let keys = Self::new(&file).ok_or_else(damaged)?;
        store.write(FILE, &file)?;
        Ok(keys)
    }

    /// As they are in the file now, which somebody has changed. Blocks on the disk.
    pub(super) fn reread(&self, store: &Store) -> Result<Self, DataError> {
        let path = || store.path(FILE);
        let damaged = || DataError::Damaged { path: path() };
        let file = store.read::<KeysFile>(FILE)?.ok_or_else(damaged)?;
        // Every grant names the server: with another name nobody's would count.
        match file.server == self.server {
            true => Self::new(&file).ok_or_else(damaged),
            false => Err(DataError::OtherServer { path: path() }),
        }
    }

    /// `None` if the file is damaged.
    fn new(file: &KeysFile) -> Option<Self> {
        let key = |seed: &String| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(seed).ok()?;
            Some(GrantKey::from_seed(&bytes.try_into().ok()?))
        };
        let keys: Vec<_> = file.seeds.iter().map(key).collect::<Option<_>>()?;
        if keys.len() > LIVE_KEYS {
            return None;
        }
        let public = keys.iter().map(GrantKey::public);
        let verifier = GrantVerifier::new(&file.server, &file.server, public);
        Some(Self {
            signs: keys.into_iter().next()?,
            server: file.server.clone(),
            verifier,
        })
    }

    pub(super) fn sign(&self, grant: &Grant) -> String {
        self.signs.sign(&self.server, &self.server, grant)
    }

    /// The name of the key that signs.
    pub(super) fn id(&self) -> &GrantKeyId {
        self.signs.id()
    }
}
