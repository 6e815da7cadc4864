//! `roundtable log`, on what real rooms have left behind.

#![allow(clippy::unwrap_used)] // these are tests

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use roundtable_command_log::{
    Action, CommandLog, Genesis, GenesisParams, Key, Role, Schema, SharedFrame, Strategy,
};
use roundtable_core::{RoomId, WallTime};
use roundtable_log_store::{
    Claims, Contents, Culprit, Equivocations, Identity, Record, Refusal, Refusals,
};
use serde_json::Value;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

fn log(what: &str, directory: &Path, rest: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roundtable"));
    command.args(["log", what]).arg(directory);
    command.args(rest.split_whitespace()).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

fn objects(output: &Output) -> Vec<Value> {
    let lines = lines(output);
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn refused(output: &Output, hint: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
    assert!(error.contains(hint), "{error:?} does not say {hint:?}");
}

fn schema() -> Schema {
    let schema = Schema::builder(1, 0).key_type(1, "note", Strategy::LastWriteWins);
    schema.build().unwrap()
}

/// An identity on disk that has begun a room, and the log to write in it.
struct Author {
    identity: Identity,
    room: RoomId,
    log: CommandLog,
}

impl Author {
    fn new(directory: &Path) -> Self {
        let identity = Identity::open(directory).unwrap();
        let params = GenesisParams::new([1; 32], NOW, schema().hash());
        let genesis = Genesis::create(params, identity.key()).unwrap();
        let room = RoomId::new("plans").unwrap();
        let (kept, _) = identity.room(&room).unwrap();
        let begun = Record::Genesis {
            genesis: genesis.clone().into(),
            schema: schema(),
        };
        kept.commit(&[begun]).unwrap();
        drop(kept);
        let key = identity.key().clone();
        let log = CommandLog::new(genesis, schema(), Some(key)).unwrap();
        Self {
            identity,
            room,
            log,
        }
    }

    fn keep(&self, frame: SharedFrame) {
        let (kept, _) = self.identity.room(&self.room).unwrap();
        let genesis = self.log.genesis_hash();
        kept.commit(&[Record::Frame { genesis, frame }]).unwrap();
    }

    fn write(&mut self, action: Action) -> u64 {
        let frame = self.log.append(NOW, &[action]).unwrap();
        let nonce = frame.header().last_nonce();
        self.keep(frame);
        self.log.settle(NOW);
        nonce
    }
}

fn note(text: &str) -> Action {
    Action::put(Key::new(1, "title"), text.to_owned())
}

#[test]
fn a_room_that_was_joined_is_verified_exported_and_audited() {
    let directory = tempfile::tempdir().unwrap();
    let mut serve = serve();
    let mut join = Command::new(env!("CARGO_BIN_EXE_roundtable"));
    let server = format!("ws://{}", serve.address);
    join.args([
        "join", "--server", &server, "--room", "r", "--name", "alice",
    ]);
    join.args(["--duration", "0.5", "--submit-rate", "50", "--json"]);
    let joined = join
        .arg("--identity")
        .arg(directory.path())
        .output()
        .unwrap();
    serve.process.kill().unwrap();
    serve.process.wait().unwrap();
    let summary = objects(&joined).pop().unwrap();

    let verified = log("verify", directory.path(), "--json");
    assert!(verified.status.success(), "{verified:?}");
    let verified = &objects(&verified)[0];
    for same in ["commands", "frames", "state_hash"] {
        assert_eq!(verified[same], summary[same], "{same}");
    }
    assert_eq!(
        (&verified["room"], &verified["sound"]),
        (&"r".into(), &true.into())
    );

    let exported = objects(&log("export", directory.path(), ""));
    assert_eq!(Value::from(exported.len()), summary["commands"]);
    assert_eq!(exported[0]["kind"], "put");
    assert_eq!(exported[0]["key_type_name"], "stroke");

    let audit = lines(&log("audit", directory.path(), ""));
    assert!(audit[0].starts_with("room r, begun "), "{}", audit[0]);
    assert_eq!(
        audit.len(),
        exported.len() + 2,
        "a line each, and the author's"
    );
    assert!(audit.last().unwrap().contains(": Admin, "), "{audit:?}");
}

struct Serve {
    process: Child,
    address: String,
}

fn serve() -> Serve {
    let mut process = Command::new(env!("CARGO_BIN_EXE_roundtable"))
        .args(["serve", "--listen", "127.0.0.1:0", "--open"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = process.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    let address = address.trim_end_matches('/').to_owned();
    Serve { process, address }
}

#[test]
fn what_a_checkpoint_has_made_superfluous_is_verified_told_and_exported() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::new(directory.path());
    author.write(note("one"));
    author.write(note("two"));
    let proposal = author.log.checkpoint_command(author.log.lamport());
    author.write(proposal.unwrap());
    while let Some(due) = author.log.due(NOW) {
        author.write(due);
    }
    let last = author.log.checkpoint_contents().unwrap();
    let checkpoint = Record::Checkpoint {
        genesis: author.log.genesis_hash(),
        snapshot: author.log.snapshot(0).unwrap().encode(),
        through: last
            .authors
            .iter()
            .map(|at| (at.author, at.head.nonce))
            .collect(),
    };
    let (kept, _) = author.identity.room(&author.room).unwrap();
    kept.commit(&[checkpoint]).unwrap();
    drop(kept);
    author.write(note("three"));
    let state = author.log.state_hash().to_string();
    drop(author);

    let verified = log("verify", directory.path(), "--json");
    assert!(verified.status.success(), "{verified:?}");
    let verified = &objects(&verified)[0];
    assert_eq!(verified["checkpoint"]["number"], 1);
    assert_eq!(verified["commands"], 6);
    assert_eq!(verified["commands_below_checkpoint"], 2);
    assert_eq!(verified["frames"], 4);
    assert_eq!(verified["state_hash"], state);

    let exported = objects(&log("export", directory.path(), ""));
    let kinds: Vec<_> = exported
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    let expected = [
        "checkpoint",
        "value",
        "propose",
        "acknowledge",
        "commit",
        "put",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(exported[1]["value"]["text"], "two");

    let audit = lines(&log("audit", directory.path(), ""));
    assert!(
        audit[1].starts_with("checkpoint 1: 2 commands below it are final"),
        "{audit:?}"
    );
}

#[test]
fn an_audit_says_who_did_what_and_what_came_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::new(directory.path());
    author.write(note("one"));
    let two = author.write(note("two"));
    author.write(Action::Undo { target: two });
    let friend = "0102030405060708091011121314151617181920212223242526272829303132";
    let friend = friend.parse().unwrap();
    let grant = author.log.role_command(friend, Role::Editor);
    author.write(grant);
    // Signed twice after the grant, by a copy of the identity.
    let mut copy = CommandLog::new(
        author.log.genesis().clone(),
        schema(),
        Some(author.identity.key().clone()),
    )
    .unwrap();
    copy.restore(NOW, author.log.frames().map(|f| f.bytes().clone()));
    author.write(note("left"));
    author.keep(copy.append(NOW, &[note("right")]).unwrap());
    let me = format!("{:?}", author.identity.author());
    drop(author);

    let audit = lines(&log("audit", directory.path(), ""));
    let expected = [
        format!("room plans, begun 2023-11-14T22:13:20.000Z by {me}"),
        format!("2023-11-14T22:13:20.000Z  {me} #1  puts note \"title\" = \"one\""),
        format!("2023-11-14T22:13:20.000Z  {me} #2  puts note \"title\" = \"two\" (taken back)"),
        format!("2023-11-14T22:13:20.000Z  {me} #3  takes back #2"),
        format!("2023-11-14T22:13:20.000Z  {me} #4  makes 01020304 an Editor"),
    ];
    assert_eq!(audit[..5], expected);
    assert!(
        audit[5].contains("4 commands in 4 frames (4 counted, 1 taken back)"),
        "{audit:?}"
    );
    assert!(audit[6].starts_with(&format!("equivocation: {me} signed two frames after #4")));
    assert_eq!(audit.len(), 7);

    let events = objects(&log("audit", directory.path(), "--json"));
    let names: Vec<_> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    let command = ["command"; 4];
    assert_eq!(
        names,
        [&["room"], &command[..], &["author", "equivocation"]].concat()
    );
    assert_eq!(events[4]["role"], "Editor");

    let verified = log("verify", directory.path(), "--json");
    assert!(verified.status.success(), "a proven fork is no damage");
    let verified = &objects(&verified)[0];
    assert_eq!(
        (&verified["forks"], &verified["frames_set_aside"]),
        (&1.into(), &2.into())
    );
}

/// Nothing is left of the frames: a checkpoint has taken their place, or they were never kept.
#[test]
fn an_audit_tells_of_forks_below_checkpoints_and_of_what_was_refused() {
    let directory = tempfile::tempdir().unwrap();
    let author = Author::new(directory.path());
    let (me, genesis) = (author.identity.author(), author.log.genesis().clone());
    let frames = ["left", "right"].map(|text| {
        let key = author.identity.key().clone();
        let mut copy = CommandLog::new(genesis.clone(), schema(), Some(key)).unwrap();
        copy.append(NOW, &[note(text)]).unwrap()
    });
    let mut reader = CommandLog::new(genesis.clone(), schema(), None).unwrap();
    for frame in &frames {
        reader.receive(NOW, frame.bytes().clone()).unwrap();
    }
    let (mut equivocations, mut refusals) = (Equivocations::default(), Refusals::default());
    assert!(equivocations.note(&reader.forks()[0]));
    for culprit in [Culprit::Author(me), Culprit::Sender(me)] {
        let breach = matches!(culprit, Culprit::Author(_));
        refusals.note(Refusal {
            at: NOW,
            culprit,
            code: if breach { 13 } else { 6 },
            claims: breach.then(|| Claims::from(frames[0].header())),
        });
    }
    let records = [
        equivocations.record(genesis.hash()),
        refusals.record(genesis.hash()),
    ];
    let (kept, _) = author.identity.room(&author.room).unwrap();
    kept.commit(&records).unwrap();
    let stored: Contents = author.identity.store().load(&author.room).unwrap();
    assert_eq!(stored.frame_count(), 0);
    drop((kept, author));

    let audit = lines(&log("audit", directory.path(), ""));
    let (at, short) = ("2023-11-14T22:13:20.000Z", format!("{me:?}"));
    let [left, right] = frames.each_ref().map(|frame| frame.id());
    let expected = [
        format!("equivocation: {short} signed two frames after #0: {left} and {right}"),
        format!("refused: 1 frames signed by {short}: over-budget (code 13), {at} to {at}"),
        format!("refused: 1 frames sent by {short}: signature (code 6), {at} to {at}"),
        format!("{at}  refused, signed by {short}: over-budget (code 13), it says {short} #1"),
        format!("{at}  refused, sent by {short}: signature (code 6)"),
    ];
    assert_eq!(audit[1..], expected);

    let events = objects(&log("audit", directory.path(), "--json"));
    let me = Value::from(me.to_string());
    assert_eq!(events[1]["author"], me);
    assert_eq!(events[2]["author"], me);
    assert_eq!(
        (&events[3]["sender"], &events[3]["count"]),
        (&me, &1.into())
    );
    assert_eq!(events[4]["claims"]["nonce"], 1);
    assert_eq!(events[5]["claims"], Value::Null);
}

#[test]
fn a_frame_that_does_not_verify_is_named_and_the_command_fails() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::new(directory.path());
    author.write(note("kept"));
    // Signed for another room, and put into this one.
    let params = GenesisParams::new([2; 32], NOW, schema().hash());
    let elsewhere = Genesis::create(params, author.identity.key()).unwrap();
    let key = author.identity.key().clone();
    let mut elsewhere = CommandLog::new(elsewhere, schema(), Some(key)).unwrap();
    author.keep(elsewhere.append(NOW, &[note("smuggled")]).unwrap());
    drop(author);

    let verified = log("verify", directory.path(), "");
    assert_eq!(verified.status.code(), Some(1));
    let text = lines(&verified).join("\n");
    assert!(
        text.contains("1 MORE REFUSED") && text.contains("signature"),
        "{text}"
    );
    let audit = lines(&log("audit", directory.path(), ""));
    assert!(
        audit.last().unwrap().starts_with("rejected: frame "),
        "{audit:?}"
    );
}

#[test]
fn bytes_that_are_no_text_are_exported_in_hexadecimal() {
    let directory = tempfile::tempdir().unwrap();
    let mut author = Author::new(directory.path());
    author.write(Action::put(Key::new(1, vec![0, 255]), "a\u{7}b"));
    drop(author);
    let exported = &objects(&log("export", directory.path(), "--room plans"))[0];
    assert_eq!(exported["key"], serde_json::json!({ "hex": "00ff" }));
    assert_eq!(exported["value"], serde_json::json!({ "hex": "610762" }));
}

#[test]
fn what_cannot_be_looked_into_says_why() {
    let directory = tempfile::tempdir().unwrap();
    refused(&log("verify", directory.path(), ""), "there is no identity");
    let author = Author::new(directory.path());
    refused(
        &log("verify", directory.path(), ""),
        "in use by another process",
    );
    drop(author);
    let other = log("export", directory.path(), "--room nowhere");
    refused(&other, "has kept no room nowhere; it has kept: plans");
    std::fs::write(directory.path().join("identity.redb"), [7; 10_000]).unwrap();
    refused(&log("audit", directory.path(), ""), "damaged");
}
