//! `roundtable log audit`: who did what and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use roundtable::{Action, AuthorId, Entry, Role, WallTime, kept::CommandLog};
use serde_json::{Value, json};

use super::{Kept, bytes, checkpoint, command, incidents, pruned, short, time::utc};

/// What one author did, in numbers.
#[derive(Debug)]
struct Deeds {
    commands: u64,
    counted: u64,
    undone: u64,
    first: WallTime,
    last: WallTime,
}

pub(super) fn print(kept: &Kept, json: bool, out: &mut impl Write) -> io::Result<()> {
    let log = &kept.verified.log;
    let genesis = log.genesis();
    let begun = genesis.params().wall;
    if json {
        let fields = json!({ "room": kept.room.as_str(), "genesis": log.genesis_hash().to_string(),
            "creator": genesis.creator().to_string(), "unix_ms": begun.as_millis() });
        event(out, "room", fields)?;
    } else {
        let (room, creator) = (&kept.room, short(genesis.creator()));
        writeln!(out, "room {room}, begun {} by {creator}", utc(begun))?;
    }
    settled(kept, json, out)?;
    let mut deeds = BTreeMap::new();
    for entry in log.entries_since(&[]) {
        count(&mut deeds, &entry);
        if json {
            event(out, "command", command(&kept.room, log.schema(), &entry))?;
        } else {
            let Entry { wall, nonce, .. } = entry;
            let (author, words) = (short(entry.author), words(log, &entry));
            writeln!(out, "{}  {author} #{nonce}  {words}", utc(wall))?;
        }
    }
    authors(kept, &deeds, json, out)?;
    incidents::equivocations(kept, json, out)?;
    incidents::refusals(&kept.contents.refusals(), json, out)?;
    for refused in &kept.verified.refused {
        let (author, position, error) = (refused.author, refused.position, &refused.error);
        if json {
            let fields = json!({ "author": author.to_string(), "position": position,
                "code": error.code(), "reason": error.to_string() });
            event(out, "rejected", fields)?;
        } else {
            let author = short(author);
            writeln!(out, "rejected: frame {position} of {author}: {error}")?;
        }
    }
    Ok(())
}

/// What the last checkpoint stands for, and whose consent made it final.
fn settled(kept: &Kept, json: bool, out: &mut impl Write) -> io::Result<()> {
    let log = &kept.verified.log;
    let (Some(stable), Some(last)) = (log.checkpoint(), log.checkpoint_contents()) else {
        return Ok(());
    };
    let below = pruned(log);
    let signers = log.certificates().last().map(|last| last.frames());
    let signers: BTreeSet<_> = signers.into_iter().flatten().map(|f| f.author()).collect();
    if json {
        let signers: Vec<_> = signers.iter().map(ToString::to_string).collect();
        let fields = json!({ "checkpoint": checkpoint(log), "commands": below,
            "proposer": last.proposer.to_string(), "signed_by": signers });
        return event(out, "checkpoint", fields);
    }
    let signers: Vec<_> = signers.into_iter().map(short).collect();
    writeln!(
        out,
        "checkpoint {}: {below} commands below it are final, says who signed it: {}",
        stable.number,
        signers.join(", ")
    )
}

fn count(deeds: &mut BTreeMap<AuthorId, Deeds>, entry: &Entry) {
    let deeds = deeds.entry(entry.author).or_insert(Deeds {
        commands: 0,
        counted: 0,
        undone: 0,
        first: entry.wall,
        last: entry.wall,
    });
    deeds.commands += 1;
    deeds.counted += u64::from(entry.counted);
    deeds.undone += u64::from(entry.undone);
    deeds.last = deeds.last.max(entry.wall);
}

/// What a command does, in words.
fn words(log: &CommandLog, entry: &Entry) -> String {
    let does = match &entry.action {
        Action::Put { key, value } => {
            let name = log.schema().key_type(key.key_type);
            let name = name.map_or_else(|| key.key_type.to_string(), |found| found.name.clone());
            format!("puts {name} {} = {}", shown(&key.bytes), shown(value))
        }
        Action::SetRole { target, role, .. } => {
            let article = if *role == Role::Viewer { "a" } else { "an" };
            format!("makes {} {article} {role:?}", short(*target))
        }
        Action::Propose { .. } => "proposes a checkpoint".to_owned(),
        Action::Acknowledge(_) => "acknowledges a checkpoint".to_owned(),
        Action::Withdraw(_) => "withdraws a checkpoint".to_owned(),
        Action::Commit(_) => "commits a checkpoint".to_owned(),
        Action::Retire { author, .. } => format!("goes on without {}", short(*author)),
        Action::Undo { target } => format!("takes back #{target}"),
        Action::Redo { target } => format!("lets #{target} count again"),
        _ => "does what a later version knows".to_owned(),
    };
    let note = match (entry.counted, entry.undone) {
        (false, _) => " (did not count)",
        (true, true) => " (taken back)",
        (true, false) => "",
    };
    does + note
}

/// Bytes on a line: text in quotes, or hexadecimal, cut where it gets long.
fn shown(content: &[u8]) -> String {
    const LONG: usize = 64;
    let value = bytes(content);
    let text = match (value["text"].as_str(), value["hex"].as_str()) {
        (Some(text), _) => format!("{text:?}"),
        (_, hex) => hex.unwrap_or_default().to_owned(),
    };
    match text.char_indices().nth(LONG) {
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], content.len()),
        None => text,
    }
}

/// Everyone who wrote, with the role that they have now.
fn authors(
    kept: &Kept,
    deeds: &BTreeMap<AuthorId, Deeds>,
    json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let log = &kept.verified.log;
    for (author, deeds) in deeds {
        let Deeds {
            commands,
            counted,
            undone,
            first,
            last,
        } = deeds;
        let (role, frames) = (
            log.role_of(*author),
            kept.verified.frames_of(*author).count(),
        );
        if json {
            let fields = json!({ "author": author.to_string(), "role": format!("{role:?}"),
                "frames": frames, "commands": commands, "counted": counted, "undone": undone,
                "first_unix_ms": first.as_millis(), "last_unix_ms": last.as_millis() });
            event(out, "author", fields)?;
        } else {
            let (author, first, last) = (short(*author), utc(*first), utc(*last));
            writeln!(
                out,
                "{author}: {role:?}, {commands} commands in {frames} frames ({counted} counted, {undone} taken back), {first} to {last}"
            )?;
        }
    }
    Ok(())
}

pub(super) fn event(out: &mut impl Write, name: &str, fields: Value) -> io::Result<()> {
    let mut object = json!({ "event": name });
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    writeln!(out, "{object}")
}
