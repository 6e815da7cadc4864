//! `roundtable log`: what an identity has kept of its rooms, verified and told.

mod audit;
mod export;
mod incidents;
mod time;
mod verify;

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use roundtable::{
    Action, AuthorId, Entry, Identity, RoomId, Schema, WallTime,
    kept::{Ballot, CommandLog, Contents, Verification},
};
use serde_json::{Value, json};

use crate::{
    args::{KeptLog, Log},
    clock::unix_us,
    error::CliError,
};

/// A room and what was kept of it, held against its genesis.
struct Kept {
    room: RoomId,
    contents: Contents,
    verified: Verification,
}

/// Does what was asked with each room. A reader of stdout that goes away ends it without a complaint.
pub(crate) fn run(log: &Log) -> Result<ExitCode, CliError> {
    let (Log::Verify(args) | Log::Export(args) | Log::Audit(args)) = log;
    let rooms = open(args)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    for kept in &rooms {
        written = written.and_then(|()| match log {
            Log::Verify(_) => verify::print(kept, args.json, &mut out),
            Log::Export(_) => export::print(kept, &mut out),
            Log::Audit(_) => audit::print(kept, args.json, &mut out),
        });
    }
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let sound = rooms.iter().all(|kept| kept.verified.is_sound());
    let failed = matches!(log, Log::Verify(_)) && !sound;
    Ok(ExitCode::from(u8::from(failed)))
}

fn open(args: &KeptLog) -> Result<Vec<Kept>, CliError> {
    let identity = Identity::open_existing(&args.directory)?;
    let store = identity.store();
    let mut rooms = store.rooms().map_err(roundtable::IdentityError::from)?;
    if let Some(wanted) = &args.room {
        let names = || rooms.iter().map(RoomId::as_str).collect::<Vec<_>>();
        if !names().contains(&wanted.as_str()) {
            return Err(CliError::NoSuchRoom {
                directory: args.directory.clone(),
                room: wanted.clone(),
                kept: names().join(", "),
            });
        }
        rooms.retain(|room| room.as_str() == wanted);
    }
    let now = WallTime::from_micros(unix_us());
    let open = |room: RoomId| {
        let contents = store.load(&room).map_err(roundtable::IdentityError::from)?;
        match contents.verify(now) {
            Ok(verified) => Ok(Kept {
                room,
                contents,
                verified,
            }),
            Err(source) => Err(CliError::Verify { room, source }),
        }
    };
    rooms.into_iter().map(open).collect()
}

/// An author for people: the beginning of its key.
fn short(author: AuthorId) -> String {
    format!("{author:?}")
}

/// Bytes that are text as text, others in hexadecimal.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => json!({ "text": text }),
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

/// What is said of a checkpoint.
fn about(kind: &str, ballot: &Ballot) -> Value {
    json!({ "kind": kind, "checkpoint": ballot.checkpoint.to_string() })
}

/// The last stable checkpoint, below which there are no commands to tell of.
fn checkpoint(log: &CommandLog) -> Option<Value> {
    let stable = log.checkpoint()?;
    Some(json!({
        "number": stable.number,
        "name": stable.name.to_string(),
        "cut": stable.cut,
    }))
}

/// How many commands lie below it.
fn pruned(log: &CommandLog) -> u64 {
    let authors = log.checkpoint_contents().map(|last| &last.authors);
    let heads = authors.into_iter().flatten().map(|at| at.head.nonce);
    heads.sum()
}

/// A command as export and audit have it.
fn command(room: &RoomId, schema: &Schema, entry: &Entry) -> Value {
    let mut object = json!({
        "room": room.as_str(),
        "author": entry.author.to_string(),
        "nonce": entry.nonce,
        "lamport": entry.lamport,
        "unix_ms": entry.wall.as_millis(),
        "frame": entry.frame.to_string(),
        "counted": entry.counted,
        "undone": entry.undone,
    });
    let does = match &entry.action {
        Action::Put { key, value } => json!({
            "kind": "put",
            "key_type": key.key_type,
            "key_type_name": schema.key_type(key.key_type).map(|found| &found.name),
            "key": bytes(&key.bytes),
            "value": bytes(value),
        }),
        Action::SetRole {
            target,
            role,
            covered,
        } => json!({
            "kind": "role",
            "target": target.to_string(),
            "role": format!("{role:?}"),
            "covered_nonce": covered.nonce,
            "covered_frame": covered.id.to_string(),
        }),
        Action::Propose { .. } => json!({ "kind": "propose" }),
        Action::Acknowledge(ballot) => about("acknowledge", ballot),
        Action::Withdraw(ballot) => about("withdraw", ballot),
        Action::Commit(ballot) => about("commit", ballot),
        Action::Retire { author, previous } => json!({
            "kind": "retire",
            "target": author.to_string(),
            "previous": previous.to_string(),
        }),
        Action::Undo { target } => json!({ "kind": "undo", "target_nonce": target }),
        Action::Redo { target } => json!({ "kind": "redo", "target_nonce": target }),
        _ => json!({ "kind": "unknown" }),
    };
    if let (Some(object), Value::Object(does)) = (object.as_object_mut(), does) {
        object.extend(does);
    }
    object
}
