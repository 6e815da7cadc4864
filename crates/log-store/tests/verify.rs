//! A kept log is held against its genesis.
#![allow(clippy::unwrap_used)] // these are tests

mod common;

use common::*;
use roundtable_command_log::{FrameError, Role};
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
