//! The rooms of a closed server: their sessions and secrets, on disk and told among the servers of a cluster.

use std::{collections::HashMap, path::Path};

use roundtable_core::{RoomId, WallTime};
use roundtable_signaling_protocol::Role;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{Access, AccessError, Fingerprint, millis, read, secret, write};
use crate::store::{DataError, Store};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoomRecord {
    invite: Fingerprint,
    /// Missing in rooms of servers that gave none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    viewer_invite: Option<Fingerprint>,
    creator: Fingerprint,
    pub(super) ends_ms: u64,
    /// Whether its creator has ended it. The record stays until `ends_ms`, lest a server that was
    /// away bring the room back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

impl RoomRecord {
    fn is_live(&self, now: WallTime) -> bool {
        !self.ended && now.as_millis() < self.ends_ms
    }

    /// The highest role that a secret gives, if it is one of this room's.
    pub(super) fn role_of(&self, secret: &Fingerprint) -> Option<Role> {
        match secret {
            _ if *secret == self.creator => Some(Role::Admin),
            _ if *secret == self.invite => Some(Role::Editor),
            _ if Some(secret) == self.viewer_invite.as_ref() => Some(Role::Viewer),
            _ => None,
        }
    }
}

/// A room as the servers of a cluster tell each other of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SharedRoom {
    room: String,
    #[serde(flatten)]
    record: RoomRecord,
}

/// What `POST /v1/rooms` answers.
#[derive(Debug, Serialize)]
pub(crate) struct NewRoom {
    pub(super) room: String,
    pub(super) invite: String,
    pub(super) viewer_invite: String,
    creator_token: String,
    expires_ms: u64,
}

/// Reads the records of all rooms.
pub(super) fn load(store: &Store, root: &Path) -> Result<HashMap<RoomId, RoomRecord>, DataError> {
    let mut rooms = HashMap::new();
    for name in store.rooms()? {
        let file = room_file(&name);
        let damaged = || DataError::Damaged {
            path: root.join(&file),
        };
        let room = RoomId::new(&name).map_err(|_| damaged())?;
        let record = store.read(&file)?.ok_or_else(damaged)?;
        rooms.insert(room, record);
    }
    Ok(rooms)
}

impl Access {
    /// Makes a room. Blocks on the disk.
    pub(crate) fn create_room(&self, now: WallTime) -> Result<NewRoom, AccessError> {
        let store = self.change();
        self.sweep(&store, now)?;
        self.check_room_for_one(now)?;
        let new = NewRoom {
            room: secret::<12>()?,
            invite: secret::<16>()?,
            viewer_invite: secret::<16>()?,
            creator_token: secret::<16>()?,
            expires_ms: self.room_end(now),
        };
        let record = RoomRecord {
            invite: Fingerprint::of(&new.invite),
            viewer_invite: Some(Fingerprint::of(&new.viewer_invite)),
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
                viewer_invite: ours.viewer_invite.clone().or(theirs.viewer_invite),
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

    pub(super) fn is_live(&self, now: WallTime, room: &RoomId) -> bool {
        let rooms = read(&self.rooms);
        rooms.get(room).is_some_and(|record| record.is_live(now))
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

    pub(super) fn record(&self, now: WallTime, room: &RoomId) -> Result<RoomRecord, AccessError> {
        let rooms = read(&self.rooms);
        let live = rooms.get(room).filter(|record| record.is_live(now));
        live.cloned().ok_or(AccessError::Forbidden)
    }

    fn room_end(&self, now: WallTime) -> u64 {
        now.as_millis()
            .saturating_add(millis(self.limits.room_life))
    }
}

fn room_file(room: &str) -> String {
    format!("rooms/{room}.json")
}

#[cfg(test)]
mod tests {
    use roundtable_core::PeerId;
    use roundtable_signaling_protocol::{Capabilities, Capability, GrantError, Media};

    use super::{
        super::{
            Wish,
            tests::{alice, at, open, room},
        },
        *,
    };

    #[test]
    fn a_secret_gives_its_role_or_less_and_never_more() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let new = access.create_room(at(0)).unwrap();
        let ask = |secret: &str, role| {
            let wish = Wish { role, ..alice() };
            access.grant(at(0), &room(&new), secret, wish)
        };
        let (viewer, editor, admin) = (Role::Viewer, Role::Editor, Role::Admin);
        for (secret, most) in [
            (&new.viewer_invite, viewer),
            (&new.invite, editor),
            (&new.creator_token, admin),
        ] {
            assert_eq!(ask(secret, None).unwrap().role, most);
            for role in [viewer, editor, admin] {
                let granted = ask(secret, Some(role));
                if role > most {
                    let refused = granted.unwrap_err();
                    assert!(matches!(refused, AccessError::Role(role) if role == most));
                    continue;
                }
                let (grant, _) = access.verify(at(1), &granted.unwrap().token).unwrap();
                assert_eq!(grant.role, role);
            }
        }
        let guess = ask("guess", Some(admin)).unwrap_err();
        assert!(matches!(guess, AccessError::Forbidden));
        assert!(
            access
                .end_room(at(1), &room(&new), &new.viewer_invite)
                .is_err()
        );
    }

    #[test]
    fn a_grant_may_leave_out_media() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let new = access.create_room(at(0)).unwrap();
        let data = [Media::Data].into_iter().collect();
        let wish = Wish {
            can: Some(data),
            ..alice()
        };
        let granted = access.grant(at(0), &room(&new), &new.invite, wish).unwrap();
        let (grant, _) = access.verify(at(1), &granted.token).unwrap();
        assert_eq!(grant.can, data);
        let peer = PeerId::new("alice").unwrap();
        let covers = |capability| {
            let capabilities: Capabilities = [capability].into_iter().collect();
            grant.covers(&room(&new), &peer, capabilities).is_ok()
        };
        assert!(covers(Capability::Data) && !covers(Capability::Audio));
    }

    #[test]
    fn a_room_of_an_older_server_has_no_invite_for_viewers() {
        let dir = tempfile::tempdir().unwrap();
        let access = open(dir.path());
        let new = access.create_room(at(0)).unwrap();
        drop(access);
        let path = dir.path().join(room_file(&new.room));
        let text = std::fs::read(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let members = record.as_object_mut().unwrap();
        members.remove("viewer_invite").unwrap();
        std::fs::write(&path, record.to_string()).unwrap();
        let access = open(dir.path());
        let ask = |secret| access.grant(at(1), &room(&new), secret, alice());
        assert_eq!(ask(&new.invite).unwrap().role, Role::Editor);
        assert!(ask(&new.viewer_invite).is_err());
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
        assert!(!text.contains(&new.viewer_invite));
    }
}
