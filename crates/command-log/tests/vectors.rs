//! The test vectors that another implementation can hold itself against: every byte of a genesis,
//! of three frames and of what is signed and hashed, and what travels on a link that begins with them.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use common::*;
use roundtable_command_log::{
    Action, CommandLog, FrameReader, FrameWriter, Genesis, Received, Role, SharedFrame, Snapshot,
};
use serde_json::{Value, json};

const VECTORS: &str = include_str!("vectors/command-log.json");
/// A room in which two authors agree on a checkpoint.
const CHECKPOINT: &str = include_str!("vectors/checkpoint.json");

fn hex(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The vectors as this implementation makes them from the keys and bodies in the file.
fn made(bodies: &[Vec<u8>]) -> Value {
    let genesis = genesis_with(|_| {});
    let mut alice = Forger::new(&genesis, 0);
    let mut bob = Forger::new(&genesis, 1);
    bob.lamport = 2;
    bob.wall_ms = START_MS + 40;
    let mut log = reader(&genesis);
    let mut frames = Vec::new();
    let mut writer = FrameWriter::default();
    for (n, body) in bodies.iter().enumerate() {
        let author = if n == 1 { &mut bob } else { &mut alice };
        let count = if n == 0 { 2 } else { 1 };
        let (first_nonce, lamport, wall_ms) = (author.nonce, author.lamport, author.wall_ms);
        let previous = hex(author.previous);
        let forged = author.sign_body(count, body);
        let received = log.receive(at(0), forged.bytes.clone()).unwrap();
        let Received::Accepted { frame } = received else {
            panic!("{received:?}");
        };
        assert_eq!(frame.id(), forged.id);
        frames.push(json!({
            "author": hex(author.key.verifying_key().to_bytes()),
            "previous": previous,
            "first_nonce": first_nonce,
            "count": count,
            "lamport": lamport,
            "wall_ms": wall_ms,
            "schema": hex(author.schema),
            "body": hex(body),
            "body_hash": hex(blake3::hash(body).as_bytes()),
            "signature": hex(frame.signature()),
            "id": hex(frame.id().as_bytes()),
            "full_form": hex(frame.bytes()),
            "on_a_link": hex(writer.write(&frame)),
        }));
        alice.lamport = 3;
    }
    log.settle(at(0));
    json!({
        "secret_keys": { "alice": hex(key(0).to_bytes()), "bob": hex(key(1).to_bytes()) },
        "schema_hash": hex(schema().hash().as_bytes()),
        "genesis": {
            "room": hex(genesis.params().room),
            "wall_ms": genesis.params().wall.as_millis(),
            "encoded": hex(genesis.encode()),
            "hash": hex(genesis.hash().as_bytes()),
        },
        "frames": frames,
        "state_hash": hex(log.state_hash().as_bytes()),
    })
}

#[test]
fn the_vectors_are_what_this_implementation_makes() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let frames = vectors["frames"].as_array().unwrap();
    let bodies: Vec<_> = frames.iter().map(|frame| unhex(&frame["body"])).collect();
    assert_eq!(made(&bodies), vectors);
}

#[test]
fn the_forms_on_a_link_are_read_as_the_full_forms() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let genesis = Genesis::decode(&unhex(&vectors["genesis"]["encoded"])).unwrap();
    let mut reader = FrameReader::default();
    let mut forms = Vec::new();
    for frame in vectors["frames"].as_array().unwrap() {
        let bytes = unhex(&frame["on_a_link"]);
        forms.push(bytes[0]);
        let read = reader.read(bytes.into(), &genesis.hash()).unwrap();
        assert_eq!(hex(read.bytes()), frame["full_form"]);
        assert_eq!(hex(read.id().as_bytes()), frame["id"]);
    }
    assert_eq!(forms, [3, 3, 2]);
}

#[test]
fn the_vectors_are_accepted_and_mean_what_they_say() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let genesis = Genesis::decode(&unhex(&vectors["genesis"]["encoded"])).unwrap();
    let mut log = CommandLog::new(genesis, schema(), None).unwrap();
    for frame in vectors["frames"].as_array().unwrap().iter().rev() {
        log.receive(at(0), unhex(&frame["full_form"]).into())
            .unwrap();
    }
    log.settle(at(0));
    assert_eq!(hex(log.state_hash().as_bytes()), vectors["state_hash"]);
    assert_eq!(log.role_of(id(1)), Role::Editor);
    assert_eq!(value(&log, STROKE, "s"), Some(&b"blue"[..]));
    assert_eq!(value(&log, POINTS, "p"), Some(&b"\x01\x02"[..]));
}

/// Bob wants to go on without Alice, to no avail; then both agree on a checkpoint of what came before.
fn agreed() -> (Vec<SharedFrame>, CommandLog) {
    let genesis = genesis_with(|_| {});
    let mut logs = [log(&genesis, 0), log(&genesis, 1)];
    let mut frames = Vec::new();
    let mut say = |logs: &mut [CommandLog; 2], who: usize, action: Action| {
        let frame = logs[who]
            .append(at(frames.len() as u64), &[action])
            .unwrap();
        for log in logs.iter_mut() {
            give(log, &frame);
            log.settle(at(0));
        }
        frames.push(frame);
    };
    say(&mut logs, 0, set_role(1, Role::Editor));
    say(&mut logs, 1, stroke("red"));
    say(&mut logs, 1, put(POINTS, "p", [1, 2].to_vec()));
    let retire = logs[1].retire_command(id(0));
    say(&mut logs, 1, retire);
    let proposal = logs[0].checkpoint_command(3).unwrap();
    say(&mut logs, 0, proposal);
    while let Some((who, due)) = (0..2).find_map(|who| Some((who, logs[who].due(at(0))?))) {
        say(&mut logs, who, due);
    }
    let [alice, _] = logs;
    (frames, alice)
}

fn told(frames: &[SharedFrame], log: &CommandLog) -> Value {
    let frames: Vec<_> = frames.iter().map(|frame| hex(frame.bytes())).collect();
    let stable = log.checkpoint().unwrap();
    let authors = &log.checkpoint_contents().unwrap().authors;
    let heads = authors.iter().map(|at| {
        json!({
            "author": hex(at.author.as_bytes()),
            "nonce": at.head.nonce,
            "id": hex(at.head.id.as_bytes()),
            "budget": at.head.budget,
            "role": at.role.map(|(role, _)| role.number()),
            "rank": at.role.map(|(_, rank)| rank),
        })
    });
    json!({
        "genesis": hex(log.genesis().encode()),
        "frames": frames,
        "checkpoint": hex(log.checkpoint_contents().unwrap().encode()),
        "name": hex(stable.name.as_bytes()),
        "cut": stable.cut,
        "heads": heads.collect::<Vec<_>>(),
        "state_hash_at_the_cut": hex(log.checkpoint_contents().unwrap().state.as_bytes()),
        "snapshot": hex(log.snapshot(0).unwrap().encode()),
    })
}

#[test]
fn the_checkpoint_of_the_vectors_is_what_this_implementation_agrees_on() {
    let (frames, log) = agreed();
    let told = told(&frames, &log);
    let vectors: Value = serde_json::from_str(CHECKPOINT).unwrap();
    assert_eq!(told, vectors);
}

#[test]
fn the_checkpoint_of_the_vectors_is_stable_for_whoever_reads_its_frames_or_its_snapshot() {
    let vectors: Value = serde_json::from_str(CHECKPOINT).unwrap();
    let genesis = Genesis::decode(&unhex(&vectors["genesis"])).unwrap();
    let mut by_frames = reader(&genesis);
    for frame in vectors["frames"].as_array().unwrap().iter().rev() {
        by_frames.receive(at(0), unhex(frame).into()).unwrap();
    }
    by_frames.settle(at(0));
    let mut by_snapshot = reader(&genesis);
    let snapshot = Snapshot::decode(unhex(&vectors["snapshot"]).into()).unwrap();
    by_snapshot.install(at(0), &snapshot).unwrap();
    for log in [&by_frames, &by_snapshot] {
        let stable = log.checkpoint().unwrap();
        assert_eq!(hex(stable.name.as_bytes()), vectors["name"]);
        assert_eq!(value(log, STROKE, "s"), Some(&b"red"[..]));
    }
}
