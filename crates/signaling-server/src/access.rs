//! Who may be where: the secrets that are exchanged for grants, and the grants. The keys that sign them and the rooms that they are
//! for have modules of their own.

mod keys;
mod rooms;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use roundtable_core::{PeerId, RoomId, WallTime};
use roundtable_signaling_protocol::{Grant, GrantError, GrantKeyId, MediaSet, Role};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{broadcast, watch};

pub(crate) use rooms::SharedRoom;

use self::{keys::Keys, rooms::RoomRecord};
use crate::store::{DataError, Store};

const OPERATOR: &str = "operator-key.json";

/// Changes of rooms that wait to be told to other servers; who misses one tells of all rooms.
const NEWS_QUEUE: usize = 256;

/// Why the HTTP interface refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    /// The secret is wrong, or the room is not there: which of them is nobody's business.
    #[error("no such room, or not its secret")]
    Forbidden,
    #[error("this secret gives no higher role than {0}")]
    Role(Role),
    #[error("the server has as many rooms as it takes")]
    TooManyRooms,
    #[error(transparent)]
    Data(#[from] DataError),
}

/// A secret as it is kept: whoever reads the file learns nothing that opens a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Fingerprint(String);

impl Fingerprint {
    /// Secrets have at least 128 random bits, so that no slow hash is needed, and comparing
    /// fingerprints tells nothing about the secret by the time it takes.
    fn of(secret: &str) -> Self {
        Self(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(secret)))
    }
}

/// What an invite is exchanged for.
#[derive(Debug, Serialize)]
pub(crate) struct NewGrant {
    token: String,
    expires_ms: u64,
    role: Role,
    can: MediaSet,
}

/// What is asked for with a secret; `None` is as much as it gives.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) peer_id: PeerId,
    pub(crate) role: Option<Role>,
    pub(crate) can: Option<MediaSet>,
}

/// The bounds of grants and rooms.
#[derive(Debug, Clone)]
pub(crate) struct AccessLimits {
    pub(crate) grant_life: Duration,
    pub(crate) room_life: Duration,
    pub(crate) max_rooms: usize,
}

#[derive(Debug)]
pub(crate) struct Access {
    operator: Fingerprint,
    limits: AccessLimits,
    keys: RwLock<Keys>,
    rooms: RwLock<HashMap<RoomId, RoomRecord>>,
    /// Held while a file and then what mirrors it are changed; never by a reader.
    store: Mutex<Store>,
    /// Sent to when a key or a room that grants rely on is gone.
    revoked: watch::Sender<()>,
    /// Rooms that were made, renewed or ended here, for the other servers of a cluster.
    news: broadcast::Sender<SharedRoom>,
}

impl Access {
    /// Reads the data directory, and makes on first start what is not there.
    pub(crate) fn open(root: &Path, limits: AccessLimits) -> Result<Self, DataError> {
        let store = Store::open(root)?;
        let keys = Keys::open(&store, root)?;
        let operator = match store.read::<String>(OPERATOR)? {
            Some(operator) if operator.len() < 22 => {
                let path = root.join(OPERATOR);
                return Err(DataError::Damaged { path });
            }
            Some(operator) => operator,
            None => {
                let operator = secret::<32>()?;
                store.write(OPERATOR, &operator)?;
                operator
            }
        };
        let rooms = rooms::load(&store, root)?;
        Ok(Self {
            operator: Fingerprint::of(&operator),
            limits,
            keys: RwLock::new(keys),
            rooms: RwLock::new(rooms),
            store: Mutex::new(store),
            revoked: watch::Sender::new(()),
            news: broadcast::Sender::new(NEWS_QUEUE),
        })
    }

    pub(crate) fn is_operator(&self, key: &str) -> bool {
        Fingerprint::of(key) == self.operator
    }

    /// Told of whenever [`counts`](Self::counts) may answer no to what it answered yes to.
    /// Subscribe before you verify.
    pub(crate) fn revocations(&self) -> watch::Receiver<()> {
        self.revoked.subscribe()
    }

    /// What a token grants, and the key it is signed with.
    pub(crate) fn verify(
        &self,
        now: WallTime,
        token: &str,
    ) -> Result<(Grant, GrantKeyId), GrantError> {
        let verified = read(&self.keys).verifier.verify(now, token)?;
        match self.is_live(now, &verified.0.room) {
            true => Ok(verified),
            false => Err(GrantError::WrongRoom),
        }
    }

    /// Whether a grant that was verified once is still backed by its key and its room.
    pub(crate) fn counts(&self, now: WallTime, grant: &Grant, key: &GrantKeyId) -> bool {
        read(&self.keys).verifier.knows(key) && self.is_live(now, &grant.room)
    }

    /// Exchanges a room's secret for a grant: the invite makes an editor, the viewers' invite a viewer, the creator's
    /// token an admin, and less for who asks for less. No grant outlives its room's session.
    pub(crate) fn grant(
        &self,
        now: WallTime,
        room: &RoomId,
        secret: &str,
        wish: Wish,
    ) -> Result<NewGrant, AccessError> {
        let secret = Fingerprint::of(secret);
        let record = self.record(now, room)?;
        let most = record.role_of(&secret).ok_or(AccessError::Forbidden)?;
        let role = wish.role.unwrap_or(most);
        if role > most {
            return Err(AccessError::Role(most));
        }
        // Every secret of a room gives all of them.
        let can = wish.can.unwrap_or(MediaSet::ALL);
        let life = now
            .as_millis()
            .saturating_add(millis(self.limits.grant_life));
        // Whole seconds, as in the token.
        let expires_ms = life.min(record.ends_ms) / 1000 * 1000;
        let grant = Grant {
            peer_id: wish.peer_id,
            room: room.clone(),
            role,
            can,
            expires: WallTime::from_millis(expires_ms),
        };
        let token = read(&self.keys).sign(&grant);
        Ok(NewGrant {
            token,
            expires_ms,
            role,
            can,
        })
    }

    /// Makes a new key that signs from now on; the one before it still counts, older ones no longer.
    /// Blocks on the disk.
    pub(crate) fn rotate(&self) -> Result<GrantKeyId, AccessError> {
        let store = self.change();
        let fresh = Keys::rotated(&store)?;
        let id = fresh.id().clone();
        *write(&self.keys) = fresh;
        self.revoked.send_replace(());
        Ok(id)
    }

    /// Reads the file of keys again, which somebody has changed: the first signs from now on, both count,
    /// and those that are not in it any longer do not. Blocks on the disk.
    pub(crate) fn reload_keys(&self) -> Result<GrantKeyId, DataError> {
        let store = self.change();
        let fresh = read(&self.keys).reread(&store)?;
        let id = fresh.id().clone();
        *write(&self.keys) = fresh;
        self.revoked.send_replace(());
        Ok(id)
    }

    fn change(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `N` random bytes as text that may stand in a URL.
fn secret<const N: usize>() -> Result<String, DataError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| DataError::NoRandomness)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use roundtable_signaling_protocol::limits;

    use super::{rooms::NewRoom, *};

    pub(super) fn at(s: u64) -> WallTime {
        WallTime::from_millis(s * 1000)
    }

    pub(super) fn open(root: &Path) -> Access {
        let limits = AccessLimits {
            grant_life: limits::MAX_GRANT_LIFE,
            room_life: limits::ROOM_LIFE,
            max_rooms: 2,
        };
        Access::open(root, limits).unwrap()
    }

    pub(super) fn room(new: &NewRoom) -> RoomId {
        RoomId::new(&new.room).unwrap()
    }

    /// As much as a secret gives, for alice.
    pub(super) fn alice() -> Wish {
        Wish {
            peer_id: PeerId::new("alice").unwrap(),
            role: None,
            can: None,
        }
    }

    #[test]
    fn keys_rooms_and_the_operator_survive_a_restart_and_two_rotations_retire_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let operator = access.change().read::<String>(OPERATOR).unwrap().unwrap();
        let new = access.create_room(at(0)).unwrap();
        let issue = |access: &Access| {
            access
                .grant(at(0), &room(&new), &new.invite, alice())
                .unwrap()
        };
        let first = issue(&access);
        access.rotate().unwrap();
        let second = issue(&access);
        drop(access);
        let access = open(dir.path());
        assert!(access.is_operator(&operator) && !access.is_operator("guess"));
        for grant in [&first, &second] {
            assert!(access.verify(at(1), &grant.token).is_ok());
        }
        access.rotate().unwrap();
        assert_eq!(
            access.verify(at(1), &first.token),
            Err(GrantError::UnknownKey)
        );
        assert!(access.verify(at(1), &second.token).is_ok());
    }

    #[test]
    fn keys_are_changed_on_running_servers_without_a_moment_in_which_one_refuses_the_others_grants()
    {
        type Step<'a> = &'a dyn Fn(&mut Vec<String>);
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let one = open(dirs[0].path());
        let path = |n: usize| dirs[n].path().join(keys::FILE);
        drop(open(dirs[1].path()));
        std::fs::copy(path(0), path(1)).unwrap();
        let two = open(dirs[1].path());
        let new = one.create_room(at(0)).unwrap();
        two.learn(at(0), one.shared_rooms().remove(0)).unwrap();
        let servers = [&one, &two];
        let grants_count = || {
            for issuer in servers {
                let secret = &new.invite;
                let grant = issuer.grant(at(0), &room(&new), secret, alice()).unwrap();
                for server in servers {
                    server.verify(at(1), &grant.token).unwrap();
                }
            }
        };
        let change = |n: usize, change: Step<'_>| {
            let store = servers[n].change();
            let mut file = store
                .read::<serde_json::Value>(keys::FILE)
                .unwrap()
                .unwrap();
            let mut seeds = serde_json::from_value(file["seeds"].take()).unwrap();
            change(&mut seeds);
            file["seeds"] = seeds.into();
            store.write(keys::FILE, &file).unwrap();
            drop(store);
            servers[n].reload_keys().unwrap()
        };
        let before = one.grant(at(0), &room(&new), &new.invite, alice()).unwrap();
        let fresh = secret::<32>().unwrap();
        // Known to all, signing for nobody; then signing; then the old one is taken out.
        let steps: [Step<'_>; 3] = [
            &|seeds| seeds.push(fresh.clone()),
            &|seeds| seeds.reverse(),
            &|seeds| seeds.truncate(1),
        ];
        let mut ids = Vec::new();
        for step in steps {
            for n in [0, 1] {
                ids.push(change(n, step));
                grants_count();
            }
        }
        assert!(ids[1] != ids[2] && ids[2] == ids[5]);
        let old = one.verify(at(1), &before.token);
        assert_eq!(old, Err(GrantError::UnknownKey));
    }

    #[test]
    fn keys_that_cannot_be_used_leave_the_ones_before_them() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let new = access.create_room(at(0)).unwrap();
        let grant = || {
            access
                .grant(at(0), &room(&new), &new.invite, alice())
                .unwrap()
        };
        let before = grant();
        let path = dir.path().join(keys::FILE);
        let file = std::fs::read_to_string(&path).unwrap();
        for wrong in ["", "{}", r#"{"server":"other","seeds":[]}"#] {
            std::fs::write(&path, wrong).unwrap();
            access.reload_keys().unwrap_err();
        }
        let other = file.replacen("roundtable-", "other-", 1);
        std::fs::write(&path, other).unwrap();
        let error = access.reload_keys().unwrap_err();
        assert!(matches!(error, DataError::OtherServer { .. }), "{error}");
        for token in [before.token, grant().token] {
            access.verify(at(1), &token).unwrap();
        }
    }
}
