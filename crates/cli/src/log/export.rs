//! `roundtable log export`.

use std::io::{self, Write};

use super::{Kept, command};

pub(super) fn print(kept: &Kept, out: &mut impl Write) -> io::Result<()> {
    let log = &kept.verified.log;
    for entry in log.entries_since(&[]) {
        writeln!(out, "{}", command(&kept.room, log.schema(), &entry))?;
    }
    Ok(())
}
