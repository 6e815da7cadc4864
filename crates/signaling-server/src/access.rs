//! Who may be where: the keys that sign grants, the rooms that grants are for, and the secrets that
//! are exchanged for grants.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use roundtable_core::{PeerId, RoomId, WallTime};
use roundtable_signaling_protocol::{
    Grant, GrantError, GrantKey, GrantKeyId, GrantVerifier, MediaSet, Role,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{broadcast, watch};

use crate::store::{DataError, Store};

const KEYS: &str = "keys.json";
const OPERATOR: &str = "operator-key.json";

/// Changes of rooms that wait to be told to other servers; who misses one tells of all rooms.
const NEWS_QUEUE: usize = 256;

/// Keys whose grants count: the one that signs, and the one before it.
const LIVE_KEYS: usize = 2;

/// Why the HTTP interface refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    /// The secret is wrong, or the room is not there: which of them is nobody's business.
    #[error("no such room, or not its secret")]
    Forbidden,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RoomRecord {
    invite: Fingerprint,
    creator: Fingerprint,
    ends_ms: u64,
    /// Whether its creator has ended it. The record stays until `ends_ms`, lest a server that was
    /// away bring the room back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

impl RoomRecord {
    fn is_live(&self, now: WallTime) -> bool {
        !self.ended && now.as_millis() < self.ends_ms
    }
}

/// A room as the servers of a cluster tell each other of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SharedRoom {
    room: String,
    #[serde(flatten)]
    record: RoomRecord,
}

/// The file of keys. The newest comes first and signs.
#[derive(Serialize, Deserialize)]
struct KeysFile {
    /// Issuer and audience of every grant.
    server: String,
    /// Secret Ed25519 seeds.
    seeds: Vec<String>,
}

impl KeysFile {
    fn keys(&self) -> Option<Vec<GrantKey>> {
        let key = |seed: &String| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(seed).ok()?;
            Some(GrantKey::from_seed(&bytes.try_into().ok()?))
        };
        let keys: Option<Vec<_>> = self.seeds.iter().map(key).collect();
        keys.filter(|keys| (1..=LIVE_KEYS).contains(&keys.len()))
    }
}

/// The keys, ready to use.
#[derive(Debug)]
struct Keys {
    signs: GrantKey,
    verifier: GrantVerifier,
}

/// What `POST /v1/rooms` answers.
#[derive(Debug, Serialize)]
pub(crate) struct NewRoom {
    room: String,
    invite: String,
    creator_token: String,
    expires_ms: u64,
}

/// What an invite is exchanged for.
#[derive(Debug, Serialize)]
pub(crate) struct NewGrant {
    token: String,
    expires_ms: u64,
    role: Role,
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
    server: String,
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
        let file = match store.read::<KeysFile>(KEYS)? {
            Some(file) => file,
            None => {
                let server = format!("roundtable-{}", secret::<16>()?);
                let seeds = vec![secret::<32>()?];
                let file = KeysFile { server, seeds };
                store.write(KEYS, &file)?;
                file
            }
        };
        let damaged = |name: &str| DataError::Damaged {
            path: root.join(name),
        };
        let keys = keys(&file).ok_or_else(|| damaged(KEYS))?;
        let operator = match store.read::<String>(OPERATOR)? {
            Some(operator) if operator.len() < 22 => return Err(damaged(OPERATOR)),
            Some(operator) => operator,
            None => {
                let operator = secret::<32>()?;
                store.write(OPERATOR, &operator)?;
                operator
            }
        };
        let mut rooms = HashMap::new();
        for name in store.rooms()? {
            let file = room_file(&name);
            let room = RoomId::new(&name).map_err(|_| damaged(&file))?;
            let record = store.read(&file)?.ok_or_else(|| damaged(&file))?;
            rooms.insert(room, record);
        }
        Ok(Self {
            server: file.server,
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

    fn is_live(&self, now: WallTime, room: &RoomId) -> bool {
        let rooms = read(&self.rooms);
        rooms.get(room).is_some_and(|record| record.is_live(now))
    }

    /// Makes a room. Blocks on the disk.
    pub(crate) fn create_room(&self, now: WallTime) -> Result<NewRoom, AccessError> {
        let store = self.change();
        self.sweep(&store, now)?;
        self.check_room_for_one(now)?;
        let new = NewRoom {
            room: secret::<12>()?,
            invite: secret::<16>()?,
            creator_token: secret::<16>()?,
            expires_ms: self.room_end(now),
        };
        let record = RoomRecord {
            invite: Fingerprint::of(&new.invite),
            creator: Fingerprint::of(&new.creator_token),
            ends_ms: new.expires_ms,
            ended: false,
        };
        let room = RoomId::new(&new.room).map_err(|_| AccessError::Forbidden)?;
        self.keep(&store, room, record)?;
        Ok(new)
    }

    fn check_room_for_one(&self, now: WallTime) -> Result<(), AccessError> {
        let rooms = read(&self.rooms);
        let live = rooms.values().filter(|record| record.is_live(now)).count();
        match live >= self.limits.max_rooms {
            true => Err(AccessError::TooManyRooms),
            false => Ok(()),
        }
    }

    /// Writes a room's record, and tells of it.
    fn keep(&self, store: &Store, room: RoomId, record: RoomRecord) -> Result<(), DataError> {
        store.write(&room_file(room.as_str()), &record)?;
        let shared = SharedRoom {
            room: room.to_string(),
            record: record.clone(),
        };
        write(&self.rooms).insert(room, record);
        // A server that is alone has nobody to tell.
        let _ = self.news.send(shared);
        Ok(())
    }

    /// Exchanges a room's secret for a grant: the invite makes an editor, the creator's token an
    /// admin. No grant outlives its room's session.
    pub(crate) fn grant(
        &self,
        now: WallTime,
        room: &RoomId,
        secret: &str,
        peer_id: PeerId,
    ) -> Result<NewGrant, AccessError> {
        let secret = Fingerprint::of(secret);
        let record = self.record(now, room)?;
        let role = match () {
            () if secret == record.creator => Role::Admin,
            () if secret == record.invite => Role::Editor,
            () => return Err(AccessError::Forbidden),
        };
        let life = now
            .as_millis()
            .saturating_add(millis(self.limits.grant_life));
        // Whole seconds, as in the token.
        let expires_ms = life.min(record.ends_ms) / 1000 * 1000;
        let grant = Grant {
            peer_id,
            room: room.clone(),
            role,
            can: MediaSet::ALL,
            expires: WallTime::from_millis(expires_ms),
        };
        let token = read(&self.keys)
            .signs
            .sign(&self.server, &self.server, &grant);
        Ok(NewGrant {
            token,
            expires_ms,
            role,
        })
    }

    /// Lets a room's session last for another while from now; tells when it will end. Blocks on the
    /// disk.
    pub(crate) fn renew_room(
        &self,
        now: WallTime,
        room: &RoomId,
        creator_token: &str,
    ) -> Result<u64, AccessError> {
        let store = self.change();
        let mut record = self.owned(now, room, creator_token)?;
        record.ends_ms = self.room_end(now);
        let ends_ms = record.ends_ms;
        self.keep(&store, room.clone(), record)?;
        Ok(ends_ms)
    }

    /// Ends a room's session; its peers are disconnected. Blocks on the disk.
    pub(crate) fn end_room(
        &self,
        now: WallTime,
        room: &RoomId,
        creator_token: &str,
    ) -> Result<(), AccessError> {
        let store = self.change();
        let mut record = self.owned(now, room, creator_token)?;
        record.ended = true;
        self.keep(&store, room.clone(), record)?;
        self.revoked.send_replace(());
        Ok(())
    }

    /// Told of every room that is made, renewed or ended here.
    pub(crate) fn news(&self) -> broadcast::Receiver<SharedRoom> {
        self.news.subscribe()
    }

    /// Every room, for other servers.
    pub(crate) fn shared_rooms(&self) -> Vec<SharedRoom> {
        let rooms = read(&self.rooms);
        let share = |(room, record): (&RoomId, &RoomRecord)| SharedRoom {
            room: room.to_string(),
            record: record.clone(),
        };
        rooms.iter().map(share).collect()
    }

    /// Takes note of a room that another server tells of. What has ended stays so, and of two ends
    /// the later counts: so the order in which servers hear does not matter. Blocks on the disk.
    pub(crate) fn learn(&self, now: WallTime, shared: SharedRoom) -> Result<(), AccessError> {
        let store = self.change();
        let theirs = shared.record;
        let room = RoomId::new(&shared.room).map_err(|_| AccessError::Forbidden)?;
        let ours = read(&self.rooms).get(&room).cloned();
        let merged = match &ours {
            _ if theirs.ends_ms <= now.as_millis() => return Ok(()),
            Some(ours) => RoomRecord {
                ends_ms: ours.ends_ms.max(theirs.ends_ms),
                ended: ours.ended || theirs.ended,
                ..ours.clone()
            },
            None => {
                self.sweep(&store, now)?;
                self.check_room_for_one(now)?;
                theirs
            }
        };
        if ours.as_ref() == Some(&merged) {
            return Ok(());
        }
        store.write(&room_file(room.as_str()), &merged)?;
        let is_over = merged.ended;
        write(&self.rooms).insert(room, merged);
        if is_over {
            self.revoked.send_replace(());
        }
        Ok(())
    }

    /// Makes a new key that signs from now on; the one before it still counts, older ones no longer.
    /// Blocks on the disk.
    pub(crate) fn rotate(&self) -> Result<GrantKeyId, AccessError> {
        let store = self.change();
        let damaged = || DataError::Damaged { path: KEYS.into() };
        let mut file = store.read::<KeysFile>(KEYS)?.ok_or_else(damaged)?;
        file.seeds.insert(0, secret::<32>()?);
        file.seeds.truncate(LIVE_KEYS);
        let fresh = keys(&file).ok_or_else(damaged)?;
        store.write(KEYS, &file)?;
        let id = fresh.signs.id().clone();
        *write(&self.keys) = fresh;
        self.revoked.send_replace(());
        Ok(id)
    }

    /// Forgets rooms whose session has ended.
    fn sweep(&self, store: &Store, now: WallTime) -> Result<(), DataError> {
        let over = |record: &RoomRecord| record.ends_ms <= now.as_millis();
        let over: Vec<_> = {
            let rooms = read(&self.rooms);
            let over = rooms.iter().filter(|(_, record)| over(record));
            over.map(|(room, _)| room.clone()).collect()
        };
        for room in over {
            store.remove(&room_file(room.as_str()))?;
            write(&self.rooms).remove(&room);
        }
        Ok(())
    }

    fn owned(&self, now: WallTime, room: &RoomId, token: &str) -> Result<RoomRecord, AccessError> {
        let record = self.record(now, room)?;
        match Fingerprint::of(token) == record.creator {
            true => Ok(record),
            false => Err(AccessError::Forbidden),
        }
    }

    fn record(&self, now: WallTime, room: &RoomId) -> Result<RoomRecord, AccessError> {
        let rooms = read(&self.rooms);
        let live = rooms.get(room).filter(|record| record.is_live(now));
        live.cloned().ok_or(AccessError::Forbidden)
    }

    fn room_end(&self, now: WallTime) -> u64 {
        now.as_millis()
            .saturating_add(millis(self.limits.room_life))
    }

    fn change(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(file: &KeysFile) -> Option<Keys> {
    let keys = file.keys()?;
    let public = keys.iter().map(GrantKey::public);
    let verifier = GrantVerifier::new(&file.server, &file.server, public);
    let signs = keys.into_iter().next()?;
    Some(Keys { signs, verifier })
}

fn room_file(room: &str) -> String {
    format!("rooms/{room}.json")
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

    use super::*;

    fn at(s: u64) -> WallTime {
        WallTime::from_millis(s * 1000)
    }

    fn open(root: &Path) -> Access {
        let limits = AccessLimits {
            grant_life: limits::MAX_GRANT_LIFE,
            room_life: limits::ROOM_LIFE,
            max_rooms: 2,
        };
        Access::open(root, limits).unwrap()
    }

    fn room(new: &NewRoom) -> RoomId {
        RoomId::new(&new.room).unwrap()
    }

    fn alice() -> PeerId {
        PeerId::new("alice").unwrap()
    }

    #[test]
    fn servers_that_tell_each_other_agree_on_rooms_whatever_they_hear_first() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = dirs.each_ref().map(|dir| open(dir.path()));
        let mut news = one.news();
        let new = one.create_room(at(0)).unwrap();
        let (id, creator) = (room(&new), &*new.creator_token);
        let made = news.try_recv().unwrap();
        assert!(two.grant(at(1), &id, &new.invite, alice()).is_err());
        two.learn(at(1), made.clone()).unwrap();
        two.grant(at(1), &id, &new.invite, alice()).unwrap();
        // Ended at one server while renewed at the other: it has ended.
        two.renew_room(at(100), &id, creator).unwrap();
        one.end_room(at(100), &id, creator).unwrap();
        let renewed = two.shared_rooms().remove(0);
        one.learn(at(101), renewed).unwrap();
        assert!(one.renew_room(at(101), &id, creator).is_err());
        let mut revoked = two.revocations();
        let ended = news.try_recv().unwrap();
        two.learn(at(101), ended).unwrap();
        assert!(revoked.has_changed().unwrap());
        revoked.mark_unchanged();
        two.learn(at(102), made).unwrap();
        assert!(two.grant(at(102), &id, &new.invite, alice()).is_err());
        // It takes no one's place, and is forgotten in the end.
        drop(two);
        let two = open(dirs[1].path());
        for _ in 0..2 {
            two.create_room(at(103)).unwrap();
        }
        two.create_room(at(4000)).unwrap();
        assert_eq!(two.shared_rooms().len(), 1);
    }

    #[test]
    fn a_session_ends_after_an_hour_unless_it_is_renewed_and_no_grant_outlives_it() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let new = access.create_room(at(0)).unwrap();
        let (id, invite, creator) = (room(&new), &*new.invite, &*new.creator_token);
        let early = access.grant(at(0), &id, invite, alice()).unwrap();
        assert_eq!((early.expires_ms, early.role), (600_000, Role::Editor));
        let late = access.grant(at(3500), &id, invite, alice()).unwrap();
        assert_eq!(late.expires_ms, 3_600_000);
        assert!(
            access.renew_room(at(3500), &id, invite).is_err(),
            "not by a guest"
        );
        assert_eq!(
            access.renew_room(at(3500), &id, creator).unwrap(),
            7_100_000
        );
        let later = access.grant(at(3600), &id, creator, alice()).unwrap();
        assert_eq!((later.expires_ms, later.role), (4_200_000, Role::Admin));
        assert!(access.verify(at(3601), &later.token).is_ok());
        assert!(access.grant(at(7100), &id, invite, alice()).is_err());
        assert!(
            access.renew_room(at(7100), &id, creator).is_err(),
            "it is over"
        );
    }

    #[test]
    fn the_creator_ends_a_session_and_its_grants_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let new = access.create_room(at(0)).unwrap();
        let grant = access
            .grant(at(0), &room(&new), &new.invite, alice())
            .unwrap();
        let mut revocations = access.revocations();
        assert!(access.end_room(at(1), &room(&new), &new.invite).is_err());
        assert!(access.verify(at(1), &grant.token).is_ok());
        access
            .end_room(at(1), &room(&new), &new.creator_token)
            .unwrap();
        assert!(revocations.has_changed().unwrap());
        revocations.mark_unchanged();
        assert_eq!(
            access.verify(at(1), &grant.token),
            Err(GrantError::WrongRoom)
        );
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
    fn rooms_are_bounded_and_ended_ones_make_place() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        access.create_room(at(0)).unwrap();
        access.create_room(at(0)).unwrap();
        let refused = access.create_room(at(3599)).unwrap_err();
        assert!(matches!(refused, AccessError::TooManyRooms));
        access.create_room(at(3600)).unwrap();
        assert_eq!(access.change().rooms().unwrap().len(), 1);
    }

    #[test]
    fn no_file_holds_what_opens_a_room() {
        let dir = tempfile::tempdir().unwrap();
        let new = open(dir.path()).create_room(at(0)).unwrap();
        let file = dir.path().join(room_file(&new.room));
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains(&new.invite) && !text.contains(&new.creator_token));
    }
}
