//! A kept log is held against its genesis.
#![allow(clippy::unwrap_used)] // these are tests

mod common;

use common::*;
use roundtable_command_log::{CommandLog, FrameError, Role, SharedFrame};
use roundtable_log_store::{Contents, MemoryStore, Store, VerifyError};

/// Two authors' frames: the creator's grant, and three notes of each.
fn contents() -> Contents {
    let genesis = genesis(&key(1), 1);
    let (mut alice, mut bob) = (log(&genesis, &key(1)), log(&genesis, &key(2)));
    let store = MemoryStore::default();
    store.commit(&room(), &[begin(&genesis)]).unwrap();
    let grant = alice.role_command(bob.own_author().unwrap(), Role::Editor);
    let grant = alice.append(NOW, &[grant]).unwrap();
    bob.receive(NOW, grant.bytes().clone()).unwrap();
    store.commit(&room(), &[frame(&alice, &grant)]).unwrap();
    for log in [&mut alice, &mut bob] {
        for text in ["a", "b", "c"] {
            let written = note(log, text);
            store.commit(&room(), &[frame(log, &written)]).unwrap();
        }
    }
    store.load(&room()).unwrap()
}

fn authors() -> [roundtable_core::AuthorId; 2] {
    let id = |seed| key(seed).verifying_key().to_bytes();
    [1, 2].map(|seed| roundtable_core::AuthorId::from_bytes(id(seed)))
}

#[test]
fn a_log_as_it_was_kept_is_sound() {
    let verified = contents().verify(NOW).unwrap();
    assert!(verified.is_sound());
    assert_eq!((verified.waiting, verified.set_aside()), (0, 0));
    assert_eq!(verified.log.frames().count(), 7);
    assert_eq!(verified.frames_of(authors()[1]).count(), 3);
}

#[test]
fn a_frame_that_was_changed_is_named_and_those_after_it_wait() {
    let mut contents = contents();
    let [_, bob] = authors();
    let frames = contents.frames.get_mut(&bob).unwrap();
    let mut changed = frames[1].to_vec();
    *changed.last_mut().unwrap() ^= 1;
    frames[1] = changed.into();
    let verified = contents.verify(NOW).unwrap();
    assert!(!verified.is_sound());
    let [refused] = &verified.refused[..] else {
        panic!("{:?}", verified.refused);
    };
    assert_eq!((refused.author, refused.position), (bob, 2));
    let named = matches!(
        refused.error,
        FrameError::Signature(_) | FrameError::Body(_)
    );
    assert!(named, "{:?}", refused.error);
    assert_eq!(verified.waiting, 1);
}

#[test]
fn a_lost_frame_leaves_the_rest_waiting_not_refused() {
    let mut contents = contents();
    let [_, bob] = authors();
    contents.frames.get_mut(&bob).unwrap().remove(0);
    let verified = contents.verify(NOW).unwrap();
    assert!(verified.is_sound());
    assert_eq!(verified.waiting, 2);
}

#[test]
fn a_room_without_a_genesis_cannot_be_verified() {
    let verified = Contents::default().verify(NOW);
    assert!(matches!(verified, Err(VerifyError::NoGenesis)));
}

/// An Admin has restored an author that signed twice; frames are kept by author, and the Admin's may come last.
#[test]
fn what_an_admin_restored_counts_whoever_comes_first() {
    let author = |seed| roundtable_core::AuthorId::from_bytes(key(seed).verifying_key().to_bytes());
    for (admin, forked) in [(1, 2), (2, 1)] {
        let genesis = genesis(&key(admin), 1);
        let (mut alice, mut bob) = (log(&genesis, &key(admin)), log(&genesis, &key(forked)));
        let give = |log: &mut CommandLog, frame: &SharedFrame| {
            log.receive(NOW, frame.bytes().clone()).unwrap();
        };
        let grant = alice.role_command(author(forked), Role::Editor);
        let grant = alice.append(NOW, &[grant]).unwrap();
        let mut copy = log(&genesis, &key(forked));
        for log in [&mut bob, &mut copy] {
            give(log, &grant);
        }
        let branch = ["a", "b", "c"].map(|text| note(&mut bob, text));
        for frame in branch.iter().chain([&note(&mut copy, "not a")]) {
            give(&mut alice, frame);
        }
        let restore = alice.restore_command(author(forked), Role::Editor).unwrap();
        alice.append(NOW, &[restore]).unwrap();
        alice.settle(NOW);

        let store = MemoryStore::default();
        store.commit(&room(), &[begin(&genesis)]).unwrap();
        for kept in alice.kept() {
            store.commit(&room(), &[frame(&alice, &kept)]).unwrap();
        }
        let verified = store.load(&room()).unwrap().verify(NOW).unwrap();
        assert!(verified.is_sound());
        assert_eq!((verified.waiting, verified.set_aside()), (0, 1));
        assert_eq!(verified.frames_of(author(forked)).count(), 3);
        assert_eq!(verified.log.state_hash(), alice.state_hash());
    }
}
