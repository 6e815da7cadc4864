#![allow(clippy::unwrap_used)] // in helpers of tests, too

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use roundtable_command_log::{
    Action, Covered, GenesisParams, Key, Role, Schema, Snapshot, Strategy, Unrestored,
};
use roundtable_core::{Channel, RoomId, WallTime};
use roundtable_log_store::{Contents, Culprit, MemoryStore, Store};
use roundtable_session::{GenesisSource, Now, SessionConfig};

use super::*;
use crate::Identity;

const NOW: Now = Now {
    mono: Timestamp::ZERO,
    wall: WallTime::from_millis(1_700_000_000_000),
};

fn schema() -> Schema {
    let schema = Schema::builder(1, 0).key_type(0, "note", Strategy::LastWriteWins);
    schema.build().unwrap()
}

fn genesis(identity: &Identity) -> Genesis {
    let params = GenesisParams::new([1; 32], NOW.wall, schema().hash());
    Genesis::create(params, identity.key()).unwrap()
}

/// One in which anyone may write.
fn open_genesis(identity: &Identity) -> Genesis {
    let mut params = GenesisParams::new([3; 32], NOW.wall, schema().hash());
    params.default_role = Role::Editor;
    Genesis::create(params, identity.key()).unwrap()
}

fn log(genesis: &Genesis, identity: &Identity) -> CommandLog {
    CommandLog::new(genesis.clone(), schema(), Some(identity.key().clone())).unwrap()
}

fn note(log: &mut CommandLog) -> SharedFrame {
    let action = Action::put(Key::new(0, "note"), "text");
    log.append(NOW.wall, &[action]).unwrap()
}

fn durable(identity: &Identity) -> Durable {
    let room = "r".parse().unwrap();
    let (log, _) = identity.room(&room).unwrap();
    let source = GenesisSource::Known(genesis(identity));
    let peer = "alice".parse().unwrap();
    let config = SessionConfig::new(
        peer,
        room,
        identity.key().clone(),
        schema(),
        source,
        [7; 32],
    );
    let session = Session::new(config, NOW).unwrap();
    let mut durable = Durable::new(log, &session, Noted::default(), Vec::new());
    durable.genesis = None; // nothing of it is in the store yet
    durable.genesis(&self::log(&genesis(identity), identity));
    durable
}

fn command(byte: u8) -> Frame {
    Frame::binary(Channel::Command, vec![byte])
}

#[tokio::test]
async fn a_frame_waits_for_the_own_records_before_it_and_for_none_after() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::open(directory.path()).unwrap();
    let mut durable = durable(&identity);
    while durable.is_pending() {
        let result = durable.next().await;
        durable.synced(result).for_each(drop);
    }
    let link = LinkId(1);
    assert!(
        durable.hold(link, command(0)).is_some(),
        "nothing to wait for"
    );

    let mut log = log(&genesis(&identity), &identity);
    durable.own_frame(&note(&mut log), Some(&log));
    assert!(durable.hold(link, command(1)).is_none());
    let message = Frame::text(Channel::App, "not held");
    assert!(durable.hold(link, message).is_some());
    let mut sent = Vec::new();
    // Somebody goes on writing: there is always a record under way.
    for byte in 2..10 {
        durable.own_frame(&note(&mut log), Some(&log));
        assert!(durable.hold(link, command(byte)).is_none());
        let result = durable.next().await;
        sent.extend(durable.synced(result).map(|(_, frame)| frame));
        assert!(!sent.is_empty(), "held back though its record is on disk");
    }
    while durable.is_pending() {
        let result = durable.next().await;
        sent.extend(durable.synced(result).map(|(_, frame)| frame));
    }
    assert_eq!(sent, (1..10).map(command).collect::<Vec<_>>());
    durable.close().await;
}

#[tokio::test]
async fn what_others_wrote_is_kept_and_holds_nothing_back() {
    let directory = tempfile::tempdir().unwrap();
    let alice = Identity::open(directory.path()).unwrap();
    let bob = Identity::ephemeral().unwrap();
    let mut durable = durable(&alice);
    while durable.is_pending() {
        let result = durable.next().await;
        durable.synced(result).for_each(drop);
    }
    let mut log = log(&genesis(&alice), &alice);
    let grant = log.role_command(bob.author(), Role::Editor);
    let grant = log.append(NOW.wall, &[grant]).unwrap();
    let mut bobs = self::log(&genesis(&alice), &bob);
    bobs.receive(NOW.wall, grant.bytes().clone()).unwrap();
    bobs.settle(NOW.wall);
    let frames = [note(&mut bobs), note(&mut bobs)];
    for frame in &frames {
        log.receive(NOW.wall, frame.bytes().clone()).unwrap();
        assert!(durable.keep(NOW.mono, Some(&log)));
        assert!(durable.hold(LinkId(1), command(1)).is_some());
    }
    while durable.is_pending() {
        let result = durable.next().await;
        durable.synced(result).for_each(drop);
    }
    durable.close().await;
    let (_, stored) = alice.room(&"r".parse().unwrap()).unwrap();
    let stored = stored.frames[&bob.author()].iter();
    assert!(stored.eq(frames.iter().map(|frame| frame.bytes())));
}

/// Bob's log is written by two copies of him, and alice names a branch that is shorter than the
/// one that was kept.
#[test]
fn a_shorter_branch_than_the_one_before_is_kept_too() {
    let (alice, bob) = (
        Identity::ephemeral().unwrap(),
        Identity::ephemeral().unwrap(),
    );
    let (genesis, mut durable) = (genesis(&alice), durable(&alice));
    let mut log = log(&genesis, &alice);
    let write = |log: &mut CommandLog, action| log.append(NOW.wall, &[action]).unwrap();
    let give = |log: &mut CommandLog, frames: &[SharedFrame]| {
        for frame in frames {
            log.receive(NOW.wall, frame.bytes().clone()).unwrap();
        }
        log.settle(NOW.wall);
    };
    let grant = log.role_command(bob.author(), Role::Editor);
    let grant = write(&mut log, grant);
    durable.own_frame(&grant, Some(&log));
    let [long, short] = [("long", 3), ("short", 2)].map(|(text, count)| {
        let mut copy = self::log(&genesis, &bob);
        give(&mut copy, std::slice::from_ref(&grant));
        let note = || Action::put(Key::new(0, "note"), text);
        let frames: Vec<_> = (0..count).map(|_| write(&mut copy, note())).collect();
        frames
    });
    give(&mut log, &long);
    assert!(durable.keep(NOW.mono, Some(&log)));

    let covered = Covered {
        nonce: 2,
        id: short[1].id(),
    };
    let names = Action::SetRole {
        target: bob.author(),
        role: Role::Editor,
        covered,
    };
    durable.own_frame(&write(&mut log, names), Some(&log));
    give(&mut log, &short[..1]);
    give(&mut log, &short[1..]);
    assert_eq!(log.head(bob.author()).unwrap().id, short[1].id());
    assert!(durable.keep(NOW.mono, Some(&log)));

    let stored = alice.store().load(&"r".parse().unwrap()).unwrap();
    let mut again = self::log(&genesis, &alice);
    again.restore(NOW.wall, stored.into_frames());
    again.settle(NOW.wall);
    assert_eq!(again.heads(), log.heads());
    assert_eq!(again.state_hash(), log.state_hash());
}

/// Bob forks his log wherever he can. The log keeps some of the proofs, and the store no more than those.
#[test]
fn what_the_log_lets_go_of_goes_from_the_store() {
    let (alice, bob) = (
        Identity::ephemeral().unwrap(),
        Identity::ephemeral().unwrap(),
    );
    let (genesis, mut durable) = (genesis(&alice), durable(&alice));
    let mut log = log(&genesis, &alice);
    let grant = log.role_command(bob.author(), Role::Editor);
    let grant = log.append(NOW.wall, &[grant]).unwrap();
    durable.own_frame(&grant, Some(&log));
    let copy = |frames: &[SharedFrame]| {
        let mut copy = self::log(&genesis, &bob);
        let all = [std::slice::from_ref(&grant), frames].concat();
        copy.restore(NOW.wall, all.iter().map(|frame| frame.bytes().clone()));
        copy
    };
    let mut author = copy(&[]);
    let (mut frames, mut rivals) = (Vec::new(), Vec::new());
    let later = WallTime::from_millis(NOW.wall.as_millis() + 60_000);
    for _ in 0..24 {
        let large = Action::put(Key::new(0, "note"), vec![0; 60 * 1024]);
        rivals.push(copy(&frames).append(later, &[large]).unwrap());
        frames.push(note(&mut author));
    }
    for frame in frames.iter().chain(rivals.iter().rev()) {
        log.receive(NOW.wall, frame.bytes().clone()).unwrap();
        log.settle(NOW.wall);
        assert!(durable.keep(NOW.mono, Some(&log)));
    }
    let kept = log.kept().count();
    assert!(kept < 48, "not all is kept");
    let stored = alice.store().load(&"r".parse().unwrap()).unwrap();
    assert_eq!(stored.frame_count(), kept);
}

/// Keys cost nothing, and 1,025 of them have written something. The log keeps those 1,024 that are lowest.
#[test]
fn of_whom_the_log_has_no_room_for_any_more_nothing_stays_in_the_store() {
    let alice = Identity::ephemeral().unwrap();
    let (genesis, mut durable) = (open_genesis(&alice), durable(&alice));
    let mut log = log(&genesis, &alice);
    durable.genesis(&log);
    let mut strangers: Vec<_> = (0..1025).map(|_| Identity::ephemeral().unwrap()).collect();
    strangers.sort_by_key(Identity::author);
    let highest = strangers[1024].author();
    let room = "r".parse().unwrap();
    let stored = || alice.store().load(&room).unwrap().frames;
    for stranger in strangers.iter().rev() {
        let frame = note(&mut self::log(&genesis, stranger));
        log.receive(NOW.wall, frame.bytes().clone()).unwrap();
        if stranger.author() == strangers[1].author() {
            assert!(durable.keep(NOW.mono, Some(&log)));
            assert!(stored().contains_key(&highest));
        }
    }
    log.settle(NOW.wall);
    assert!(durable.keep(NOW.mono, Some(&log)));
    let stored = stored();
    assert_eq!(stored.len(), 1024);
    assert!(!stored.contains_key(&highest));
}

#[test]
fn of_whom_there_was_no_room_when_the_process_died_nothing_stays_either() {
    let alice = Identity::ephemeral().unwrap();
    let genesis = open_genesis(&alice);
    let mut strangers: Vec<_> = (0..1025).map(|_| Identity::ephemeral().unwrap()).collect();
    strangers.sort_by_key(Identity::author);
    let mut frames = strangers.iter().map(|it| note(&mut log(&genesis, it)));
    let lower: Vec<_> = frames.by_ref().take(1024).collect();
    let highest = frames.next().unwrap();
    let room: RoomId = "r".parse().unwrap();
    let stored = || alice.store().load(&room).unwrap().frames;
    {
        let (mut durable, mut log) = (durable(&alice), log(&genesis, &alice));
        durable.genesis(&log);
        log.receive(NOW.wall, highest.bytes().clone()).unwrap();
        assert!(durable.keep(NOW.mono, Some(&log)));
    }
    assert!(stored().contains_key(&highest.author()));
    let config = SessionConfig::new(
        "alice".parse().unwrap(),
        room.clone(),
        alice.key().clone(),
        schema(),
        GenesisSource::Known(genesis.clone()),
        [7; 32],
    );
    let mut session = Session::new(config, NOW).unwrap();
    session.restore(NOW, lower.iter().map(|frame| frame.bytes().clone()));
    let (log, contents) = alice.room(&room).unwrap();
    let authors = contents.frames.into_keys().collect();
    let mut durable = Durable::new(log, &session, Noted::default(), authors);
    assert!(durable.keep(NOW.mono, session.log()));
    assert!(!stored().contains_key(&highest.author()));
}

/// A store that loses all that comes after so many commits, as in a crash.
#[derive(Debug)]
struct Crashing {
    store: Arc<MemoryStore>,
    left: AtomicUsize,
}

impl Store for Crashing {
    fn rooms(&self) -> Result<Vec<RoomId>, StoreError> {
        self.store.rooms()
    }

    fn load(&self, room: &RoomId) -> Result<Contents, StoreError> {
        self.store.load(room)
    }

    fn commit(&self, room: &RoomId, records: &[Record]) -> Result<(), StoreError> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Relaxed, Relaxed, one_less) {
            Ok(_) => self.store.commit(room, records),
            Err(_) => Ok(()),
        }
    }

    fn blocks(&self) -> bool {
        false
    }
}

/// Alice gives up a genesis in whose log she has signed, and returns to it. Her machine dies at any point.
#[test]
fn a_genesis_to_which_we_return_is_never_stored_without_what_we_signed_there() {
    let key = Identity::ephemeral().unwrap().key().clone();
    let room: RoomId = "r".parse().unwrap();
    for left in 0..6 {
        let store = Arc::new(MemoryStore::default());
        let crashing = Crashing {
            store: Arc::clone(&store),
            left: left.into(),
        };
        let alice = Identity::with_store(key.clone(), crashing);
        let mut durable = durable(&alice);
        let mut first = log(&genesis(&alice), &alice);
        for _ in 0..2 {
            durable.own_frame(&note(&mut first), Some(&first));
        }
        let params = GenesisParams::new([2; 32], NOW.wall, schema().hash());
        let other = Genesis::create(params, alice.key()).unwrap();
        durable.genesis(&log(&other, &alice));
        durable.genesis(&first);
        for frame in first.frames() {
            durable.own_frame(&frame, Some(&first));
        }
        let stored = store.load(&room).unwrap();
        let returned = left > 4;
        assert_eq!(stored.superseded.len(), usize::from(left > 3));
        if returned {
            assert_eq!(stored.genesis.as_ref(), Some(first.genesis()));
            assert_eq!(stored.frame_count(), 2, "after {left} commits");
        }
    }
}

/// Bob's log forks, and mallory is refused. When alice is there again she still knows.
#[test]
fn what_was_noted_is_kept_refusals_no_more_often_than_every_ten_seconds() {
    let (alice, bob) = (
        Identity::ephemeral().unwrap(),
        Identity::ephemeral().unwrap(),
    );
    let (genesis, mut durable) = (open_genesis(&alice), durable(&alice));
    let mut log = log(&genesis, &alice);
    durable.genesis(&log);
    let later = WallTime::from_millis(NOW.wall.as_millis() + 1);
    for wall in [NOW.wall, later] {
        let action = Action::put(Key::new(0, "note"), "text");
        let frame = self::log(&genesis, &bob).append(wall, &[action]).unwrap();
        log.receive(NOW.wall, frame.bytes().clone()).unwrap();
    }
    durable.forked(&log.forks()[0]);
    let refusal = Refusal {
        at: NOW.wall,
        culprit: Culprit::Sender(bob.author()),
        code: 6,
        claims: None,
    };
    let stored = || alice.store().load(&"r".parse().unwrap()).unwrap();
    let at = |secs| NOW.mono + Duration::from_secs(secs);
    for (now, counted) in [(0, 1), (1, 1), (9, 1), (10, 4), (11, 4)] {
        durable.refused(refusal);
        durable.keep(at(now), None);
        let stored = stored().refusals();
        let count = stored.tallies().map(|(.., tally)| tally.count);
        assert_eq!(count.sum::<u64>(), counted, "after {now} s");
    }
    durable.hasten();
    durable.keep(at(11), None);
    assert_eq!(stored().refusals().last().count(), 5);
    assert_eq!(stored().equivocations().iter().count(), 1);
}

/// Alice starts from an old backup, and peers bring her a checkpoint far above it and what she has written since.
/// Then her machine dies.
#[test]
fn an_own_frame_is_never_stored_without_the_checkpoint_that_it_follows() {
    let alice = Identity::ephemeral().unwrap();
    let (genesis, mut durable) = (genesis(&alice), durable(&alice));
    let mut log = log(&genesis, &alice);
    let mut before = self::log(&genesis, &alice);
    for _ in 0..3 {
        let frame = note(&mut log);
        durable.own_frame(&frame, Some(&log));
        before.restore(NOW.wall, [frame.bytes().clone()]);
    }
    // What she had done since the backup was made, and her peers know.
    before.settle(NOW.wall);
    note(&mut before);
    before.settle(NOW.wall);
    let proposal = before.checkpoint_command(before.lamport()).unwrap();
    let mut next = Some(proposal);
    while let Some(action) = next {
        before.append(NOW.wall, &[action]).unwrap();
        before.settle(NOW.wall);
        next = before.due(NOW.wall);
    }
    let snapshot = before.snapshot(0).unwrap();
    assert!(log.install(NOW.wall, &snapshot).unwrap());
    for frame in before.kept() {
        log.receive(NOW.wall, frame.bytes().clone()).unwrap();
    }
    log.settle(NOW.wall);
    for frame in before.frames_after(alice.author(), 0, usize::MAX) {
        durable.own_frame(&frame, Some(&log));
    }

    let stored = alice.store().load(&"r".parse().unwrap()).unwrap();
    let mut again = self::log(&genesis, &alice);
    let kept = Snapshot::decode(stored.snapshot.clone().unwrap()).unwrap();
    again.install(NOW.wall, &kept).unwrap();
    let own = stored.frames[&alice.author()].clone();
    again.restore(NOW.wall, stored.into_frames());
    assert_eq!(again.unrestored(own), Unrestored::default());
    assert_eq!(again.heads(), log.heads());
}
