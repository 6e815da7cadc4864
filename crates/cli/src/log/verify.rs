//! `roundtable log verify`.

use std::io::{self, Write};

use serde_json::json;

use super::{Kept, checkpoint, pruned, short};

pub(super) fn print(kept: &Kept, json: bool, out: &mut impl Write) -> io::Result<()> {
    let (room, verified) = (&kept.room, &kept.verified);
    let log = &verified.log;
    let (frames, authors) = (log.frame_count(), log.heads().len());
    let commands: u64 = log.heads().iter().map(|head| head.nonce).sum();
    let (waiting, aside) = (verified.waiting, verified.set_aside());
    let hash = log.state_hash().to_string();
    if json {
        let refused: Vec<_> = verified
            .refused
            .iter()
            .map(|refused| {
                json!({ "author": refused.author.to_string(), "position": refused.position,
                    "code": refused.error.code(), "reason": refused.error.to_string() })
            })
            .collect();
        let line = json!({
            "room": room.as_str(),
            "genesis": log.genesis_hash().to_string(),
            "sound": verified.is_sound(),
            "authors": authors,
            "frames": frames,
            "commands": commands,
            "checkpoint": checkpoint(log),
            "commands_below_checkpoint": pruned(log),
            "waiting_frames": waiting,
            "frames_set_aside": aside,
            "superseded_geneses": kept.contents.superseded.len(),
            "forks": log.forks().len(),
            "refused": refused,
            "state_hash": hash,
        });
        return writeln!(out, "{line}");
    }
    let verdict = match verified.refused.len() {
        0 => "all verified".to_owned(),
        refused => format!("{refused} MORE REFUSED"),
    };
    writeln!(
        out,
        "room {room}: {commands} commands in {frames} frames of {authors} authors, {verdict}"
    )?;
    writeln!(out, "  state {hash}")?;
    settled(kept, out)?;
    if waiting > 0 {
        writeln!(
            out,
            "  {waiting} frames wait for others that are not kept here"
        )?;
    }
    if aside > 0 {
        writeln!(
            out,
            "  {aside} frames are proofs of forks, or beyond them, and do not count"
        )?;
    }
    for refused in &verified.refused {
        let (author, position) = (short(refused.author), refused.position);
        writeln!(
            out,
            "  frame {position} of {author} was refused: {}",
            refused.error
        )?;
    }
    Ok(())
}

/// What the last checkpoint stands for.
fn settled(kept: &Kept, out: &mut impl Write) -> io::Result<()> {
    let log = &kept.verified.log;
    let Some(stable) = log.checkpoint() else {
        return Ok(());
    };
    let (number, below) = (stable.number, pruned(log));
    writeln!(
        out,
        "  checkpoint {number}, verified from the genesis on, stands for {below} of the commands"
    )
}
