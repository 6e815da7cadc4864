//! `roundtable log export`.

use std::io::{self, Write};

use serde_json::json;

use super::{Kept, bytes, checkpoint, command};

pub(super) fn print(kept: &Kept, out: &mut impl Write) -> io::Result<()> {
    let log = &kept.verified.log;
    if let Some(stable) = checkpoint(log) {
        let room = kept.room.as_str();
        writeln!(
            out,
            "{}",
            json!({ "room": room, "kind": "checkpoint", "checkpoint": stable })
        )?;
        let snapshot = log.snapshot(0);
        for (key, value) in snapshot.iter().flat_map(|snapshot| snapshot.values()) {
            let name = log.schema().key_type(key.key_type);
            let line = json!({
                "room": room,
                "kind": "value",
                "key_type": key.key_type,
                "key_type_name": name.map(|found| &found.name),
                "key": bytes(&key.bytes),
                "value": bytes(value),
            });
            writeln!(out, "{line}")?;
        }
    }
    for entry in log.entries_since(&[]) {
        writeln!(out, "{}", command(&kept.room, log.schema(), &entry))?;
    }
    Ok(())
}
