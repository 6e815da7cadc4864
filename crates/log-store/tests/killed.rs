//! A process that is killed while it writes, again and again.
#![allow(clippy::unwrap_used)] // these are tests

mod common;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use common::*;
use roundtable_log_store::Identity;

/// Names the directory to the process that is to be killed: this test, run again.
const WRITE_IN: &str = "ROUNDTABLE_TEST_WRITE_IN";

/// Writes for ever, and says after each commit up to which nonce the log is kept.
fn write_in(directory: &Path) {
    let identity = Identity::open(directory).unwrap();
    let (store, contents) = identity.room(&room()).unwrap();
    let genesis = match contents.genesis.clone() {
        Some(genesis) => genesis,
        None => genesis(identity.key(), 1),
    };
    store.commit(&[begin(&genesis)]).unwrap();
    let mut log = log(&genesis, identity.key());
    log.restore(NOW, contents.into_frames());
    loop {
        let frames = ["a", "b", "c"].map(|text| note(&mut log, text));
        let records = frames.each_ref().map(|written| frame(&log, written));
        store.commit(&records).unwrap();
        println!("kept {}", log.own_head().unwrap().nonce);
    }
}

#[test]
fn a_killed_process_finds_everything_that_it_was_told_is_kept() {
    const NAME: &str = "a_killed_process_finds_everything_that_it_was_told_is_kept";
    if let Some(directory) = std::env::var_os(WRITE_IN) {
        write_in(Path::new(&directory));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut kept = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(WRITE_IN, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let nonces = lines.filter_map(|line| line.unwrap().strip_prefix("kept ")?.parse().ok());
        // Killed in the middle of whatever comes after some commit.
        let mut nonces = nonces.skip(5 + 7 * round);
        kept = nonces.next().unwrap();
        child.kill().unwrap();
        // What it still said before it died counts as well.
        kept = nonces.last().unwrap_or(kept);
        child.wait().unwrap();
    }
    let identity = Identity::open_existing(directory.path()).unwrap();
    let (_, contents) = identity.room(&room()).unwrap();
    let genesis = contents.genesis.clone().unwrap();
    let mut log = log(&genesis, identity.key());
    let frames = contents.frame_count();
    assert_eq!(log.restore(NOW, contents.into_frames()), frames);
    assert!(log.own_head().unwrap().nonce >= kept);
}
