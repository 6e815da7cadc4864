//! A store lets go of what a checkpoint has made superfluous, and what is left still verifies.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use common::*;
use roundtable_command_log::{CommandLog, Genesis};
use roundtable_log_store::{Database, MemoryStore, Record, Store, VerifyError};

/// The author of a room, alone in it, makes all so far final.
fn agree(log: &mut CommandLog) -> Vec<Record> {
    let proposal = log.checkpoint_command(log.lamport()).unwrap();
    let mut records = Vec::new();
    let mut next = Some(proposal);
    while let Some(action) = next {
        let said = log.append(NOW, &[action]).unwrap();
        records.push(frame(log, &said));
        log.settle(NOW);
        next = log.due(NOW);
    }
    records
}

fn checkpoint(log: &CommandLog) -> Record {
    let authors = &log.checkpoint_contents().unwrap().authors;
    Record::Checkpoint {
        genesis: log.genesis_hash(),
        snapshot: log.snapshot(0).unwrap().encode(),
        through: authors
            .iter()
            .map(|at| (at.author, at.head.nonce))
            .collect(),
    }
}

fn each(test: impl Fn(&dyn Store, Genesis)) {
    let genesis = genesis(&key(1), 1);
    test(&MemoryStore::default(), genesis.clone());
    let directory = tempfile::tempdir().unwrap();
    let (database, _) = Database::open(directory.path()).unwrap();
    test(&database, genesis);
}

#[test]
fn frames_below_a_checkpoint_go_and_the_rest_verifies() {
    each(|store, genesis| {
        let mut log = log(&genesis, &key(1));
        let mut records = vec![begin(&genesis)];
        for text in ["one", "two", "three"] {
            let written = note(&mut log, text);
            records.push(frame(&log, &written));
        }
        records.extend(agree(&mut log));
        store.commit(&room(), &records).unwrap();
        assert_eq!(store.load(&room()).unwrap().frame_count(), 6);
        store.commit(&room(), &[checkpoint(&log)]).unwrap();
        let after = note(&mut log, "four");
        let after = frame(&log, &after);
        store.commit(&room(), &[after]).unwrap();

        let contents = store.load(&room()).unwrap();
        assert_eq!(
            contents.frame_count(),
            4,
            "proposal, acknowledgement, commit, note"
        );
        let verified = contents.verify(NOW).unwrap();
        log.settle(NOW);
        assert!(verified.is_sound() && verified.waiting == 0);
        assert_eq!(verified.log.state_hash(), log.state_hash());
        assert_eq!(verified.log.checkpoint(), log.checkpoint());
    });
}

#[test]
fn a_checkpoint_that_was_tampered_with_is_told() {
    each(|store, genesis| {
        let mut log = log(&genesis, &key(1));
        let written = note(&mut log, "one");
        let mut records = vec![begin(&genesis), frame(&log, &written)];
        records.extend(agree(&mut log));
        let Record::Checkpoint {
            genesis,
            snapshot,
            through,
        } = checkpoint(&log)
        else {
            unreachable!();
        };
        let mut bytes = snapshot.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let snapshot = bytes.into();
        records.push(Record::Checkpoint {
            genesis,
            snapshot,
            through,
        });
        store.commit(&room(), &records).unwrap();
        let refused = store.load(&room()).unwrap().verify(NOW);
        assert!(matches!(refused, Err(VerifyError::Snapshot(_))));
    });
}

#[test]
fn another_genesis_leaves_no_checkpoint_behind() {
    each(|store, first| {
        let mut log = log(&first, &key(1));
        let written = note(&mut log, "one");
        let mut records = vec![begin(&first), frame(&log, &written)];
        records.extend(agree(&mut log));
        records.push(checkpoint(&log));
        store.commit(&room(), &records).unwrap();
        store
            .commit(&room(), &[begin(&genesis(&key(1), 2))])
            .unwrap();
        assert_eq!(store.load(&room()).unwrap().snapshot, None);
    });
}
