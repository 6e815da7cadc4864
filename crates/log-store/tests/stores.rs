//! What every store does.
#![allow(clippy::unwrap_used)] // these are tests

mod common;

use common::*;
use roundtable_log_store::{Database, Identity, IdentityError, MemoryStore, Record, Store};

/// Runs a scenario against each kind of store.
fn each(scenario: impl Fn(&dyn Store)) {
    scenario(&MemoryStore::default());
    let directory = tempfile::tempdir().unwrap();
    let (database, _) = Database::open(directory.path()).unwrap();
    scenario(&database);
}

#[test]
fn what_was_committed_is_loaded_each_authors_frames_in_order() {
    each(|store| {
        let genesis = genesis(&key(1), 7);
        let mut log = log(&genesis, &key(1));
        let frames = ["a", "b", "c"].map(|text| note(&mut log, text));
        let [a, b, c] = frames.each_ref().map(|written| frame(&log, written));
        store.commit(&room(), &[begin(&genesis), c]).unwrap();
        store.commit(&room(), &[a, b.clone()]).unwrap();
        store.commit(&room(), &[b, begin(&genesis)]).unwrap();
        let contents = store.load(&room()).unwrap();
        assert_eq!(contents.genesis, Some(genesis.clone()));
        assert_eq!(contents.schema, Some(schema()));
        let expected = frames.map(|frame| frame.bytes().clone());
        assert!(contents.frames.keys().eq([&log.own_author().unwrap()]));
        assert!(contents.into_frames().eq(expected));
        assert_eq!(store.rooms().unwrap(), [room()]);
    });
}

#[test]
fn what_is_let_go_is_not_loaded_again() {
    each(|store| {
        let genesis = genesis(&key(1), 7);
        let mut log = log(&genesis, &key(1));
        let written = ["a", "b"].map(|text| note(&mut log, text));
        let [a, b] = written.each_ref().map(|written| frame(&log, written));
        let let_go = Record::LetGo {
            genesis: genesis.hash(),
            author: written[1].author(),
            first_nonce: 2,
            id: written[1].id(),
        };
        store
            .commit(&room(), &[begin(&genesis), a, b, let_go])
            .unwrap();
        let contents = store.load(&room()).unwrap();
        assert!(contents.into_frames().eq([written[0].bytes().clone()]));
    });
}

#[test]
fn of_an_author_who_is_let_go_nothing_is_loaded_again() {
    each(|store| {
        let genesis = genesis(&key(1), 7);
        let logs = [1, 2].map(|seed| {
            let mut log = log(&genesis, &key(seed));
            let written = ["a", "b"].map(|text| note(&mut log, text));
            let written = written.each_ref().map(|written| frame(&log, written));
            (log.own_author().unwrap(), written)
        });
        let [(_, stays), (author, goes)] = logs;
        let let_go = Record::LetGoAuthor {
            genesis: genesis.hash(),
            author,
        };
        let all = [&[begin(&genesis)], &stays[..], &goes, &[let_go]].concat();
        store.commit(&room(), &all).unwrap();
        let contents = store.load(&room()).unwrap();
        assert_eq!(contents.frame_count(), 2);
        assert!(!contents.frames.contains_key(&author));
    });
}

#[test]
fn a_room_that_nobody_was_in_is_empty() {
    each(|store| {
        let contents = store.load(&room()).unwrap();
        assert!(contents.genesis.is_none() && contents.frames.is_empty());
        assert!(store.rooms().unwrap().is_empty());
    });
}

#[test]
fn rooms_do_not_see_each_other() {
    each(|store| {
        let other = roundtable_core::RoomId::new("demo2").unwrap();
        for (room, id) in [(room(), 1), (other.clone(), 2)] {
            let genesis = genesis(&key(1), id);
            let mut log = log(&genesis, &key(1));
            let written = note(&mut log, "a");
            let records = [
                begin(&genesis),
                frame(&log, &written),
                section(&log, id.into(), b"s"),
            ];
            store.commit(&room, &records).unwrap();
        }
        assert_eq!(store.rooms().unwrap(), [room(), other.clone()]);
        for (room, id) in [(room(), 1), (other, 2)] {
            let contents = store.load(&room).unwrap();
            assert_eq!(contents.genesis, Some(genesis(&key(1), id)));
            assert_eq!(contents.frame_count(), 1);
            assert!(contents.sections.keys().eq([&u16::from(id)]));
        }
    });
}

#[test]
fn another_genesis_begins_another_log_and_the_old_one_is_remembered() {
    each(|store| {
        let (old, new) = (genesis(&key(1), 1), genesis(&key(1), 2));
        let (mut old_log, mut new_log) = (log(&old, &key(1)), log(&new, &key(1)));
        let over = note(&mut old_log, "over");
        let late = note(&mut old_log, "late");
        let counts = note(&mut new_log, "counts");
        let first = [
            begin(&old),
            frame(&old_log, &over),
            section(&old_log, 1, b"old"),
        ];
        store.commit(&room(), &first).unwrap();
        // What still comes for the old log is not kept.
        let second = [
            begin(&new),
            frame(&old_log, &late),
            frame(&new_log, &counts),
        ];
        store.commit(&room(), &second).unwrap();
        let contents = store.load(&room()).unwrap();
        assert_eq!(contents.superseded, [old.hash()]);
        assert_eq!(contents.genesis, Some(new));
        assert!(contents.sections.is_empty());
        assert!(contents.into_frames().eq([counts.bytes().clone()]));
    });
}

#[test]
fn a_genesis_to_which_the_room_has_returned_is_not_among_those_that_were_given_up() {
    each(|store| {
        let [one, two, three] = [1, 2, 3].map(|id| genesis(&key(1), id));
        for genesis in [&one, &two, &three, &two, &one] {
            store.commit(&room(), &[begin(genesis)]).unwrap();
        }
        let contents = store.load(&room()).unwrap();
        assert_eq!(contents.superseded, [three.hash(), two.hash()]);
        assert_eq!(contents.genesis, Some(one));
    });
}

#[test]
fn a_section_holds_what_was_written_last() {
    each(|store| {
        let genesis = genesis(&key(1), 1);
        let log = log(&genesis, &key(1));
        let [one, two] = [b"one", b"two"].map(|content| section(&log, 3, content));
        store.commit(&room(), &[begin(&genesis), one]).unwrap();
        store.commit(&room(), &[two]).unwrap();
        let sections = store.load(&room()).unwrap().sections;
        assert_eq!(sections[&3], b"two"[..]);
    });
}

#[test]
fn both_branches_of_a_fork_are_kept() {
    each(|store| {
        let genesis = genesis(&key(1), 1);
        let (mut left, mut right) = (log(&genesis, &key(1)), log(&genesis, &key(1)));
        let [a, b] = [note(&mut left, "left"), note(&mut right, "right")];
        let records = [begin(&genesis), frame(&left, &a), frame(&left, &b)];
        store.commit(&room(), &records).unwrap();
        assert_eq!(store.load(&room()).unwrap().frame_count(), 2);
    });
}

#[test]
fn an_identity_keeps_key_and_log_together() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::open(directory.path()).unwrap();
    let author = identity.author();
    let genesis = genesis(identity.key(), 1);
    let mut writer = log(&genesis, identity.key());
    let written = note(&mut writer, "kept");
    let (kept, _) = identity.room(&room()).unwrap();
    kept.commit(&[begin(&genesis), frame(&writer, &written)])
        .unwrap();
    drop((kept, identity));

    let identity = Identity::open_existing(directory.path()).unwrap();
    assert_eq!(identity.author(), author);
    let (_, contents) = identity.room(&room()).unwrap();
    let mut again = log(&genesis, identity.key());
    assert_eq!(again.restore(NOW, contents.into_frames()), 1);
    assert_eq!(again.own_head(), writer.own_head());
}

#[test]
fn an_identity_in_memory_lasts_as_long_as_its_clones() {
    let identity = Identity::ephemeral().unwrap();
    let (kept, _) = identity.room(&room()).unwrap();
    kept.commit(&[begin(&genesis(identity.key(), 1))]).unwrap();
    drop(kept);
    let (_, contents) = identity.clone().room(&room()).unwrap();
    assert!(contents.genesis.is_some());
}

#[test]
fn a_second_process_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Identity::open(directory.path()).unwrap();
    for second in [Identity::open, Identity::open_existing] {
        assert!(matches!(
            second(directory.path()),
            Err(IdentityError::Locked(_))
        ));
    }
}

#[test]
fn a_room_is_written_by_one_at_a_time() {
    let identity = Identity::ephemeral().unwrap();
    let first = identity.room(&room()).unwrap();
    let second = identity.clone().room(&room());
    assert!(matches!(second, Err(IdentityError::RoomInUse(_))));
    drop(first);
    assert!(identity.room(&room()).is_ok());
}

#[test]
fn a_directory_without_an_identity_is_not_made_one_by_looking() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Identity::open_existing(directory.path());
    assert!(matches!(opened, Err(IdentityError::Missing(_))));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_identity_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"short", &[7; 100_000]] {
        std::fs::write(directory.path().join("identity.redb"), content).unwrap();
        let opened = Identity::open(directory.path());
        assert!(
            matches!(opened, Err(IdentityError::Damaged(_))),
            "{opened:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_the_key() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("alice");
    Identity::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o77, 0);
    let file = std::fs::metadata(path.join("identity.redb")).unwrap();
    assert_eq!(file.mode() & 0o77, 0);
}
