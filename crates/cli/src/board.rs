//! The shared board that `roundtable join` draws on: strokes with attributes and points, and claims.

use roundtable::{Action, Key, MergeRule, Schema, Strategy};

/// A stroke's colour and width: the last writer wins.
pub(crate) const STROKE: u16 = 1;
/// A stroke's points, four bytes each: everyone's are kept, in the log's order.
pub(crate) const POINTS: u16 = 2;
/// Who holds a tile of the board: the first claim wins.
pub(crate) const CLAIM: u16 = 3;

/// Strokes that everyone draws at.
const SHARED_STROKES: u64 = 16;
/// Tiles that can be claimed.
const TILES: u64 = 64;

/// The board's key types, the same at every peer.
pub(crate) fn schema() -> Schema {
    Schema::builder(1, 0)
        .key_type(STROKE, "stroke", Strategy::LastWriteWins)
        .key_type(
            POINTS,
            "points",
            Strategy::Merge(MergeRule::Append { max_len: 4096 }),
        )
        .key_type(CLAIM, "claim", Strategy::Reject)
        .build()
        .expect("three distinct types with short names")
}

/// What a command does, in a word.
pub(crate) fn kind(action: &Action) -> &'static str {
    match action {
        Action::Put { key, .. } => match key.key_type {
            STROKE => "stroke",
            POINTS => "points",
            CLAIM => "claim",
            _ => "unknown",
        },
        Action::SetRole { .. } => "role",
        Action::Undo { .. } => "undo",
        Action::Redo { .. } => "redo",
        _ => "unknown",
    }
}

/// An untiring draughtsman: each call gives the next command. All peers draw at the same strokes
/// and fight for the same tiles, so that every strategy has conflicts to resolve.
#[derive(Debug)]
pub(crate) struct Pen {
    name: String,
    drawn: u64,
}

impl Pen {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            drawn: 0,
        }
    }

    /// Sets a stroke's colour, adds eight points to it, claims a tile, and goes on to the next.
    pub(crate) fn next(&mut self) -> Action {
        let (round, step) = (self.drawn / 10, self.drawn % 10);
        self.drawn += 1;
        let stroke = (round % SHARED_STROKES).to_string();
        match step {
            0 => {
                let colour = format!("#{:06x} {}px", round.wrapping_mul(0x9e_3779) & 0xff_ffff, 2);
                Action::put(Key::new(STROKE, stroke), colour)
            }
            9 => {
                let tile = (round % TILES).to_string();
                Action::put(Key::new(CLAIM, tile), self.name.clone())
            }
            step => {
                let [.., x1, x0] = (round * 37 + step * 11).to_be_bytes();
                let [.., y1, y0] = (round * 17 + step * step).to_be_bytes();
                Action::put(Key::new(POINTS, stroke), vec![x1, x0, y1, y0])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pen_uses_every_kind_of_command() {
        let mut pen = Pen::new("alice");
        let kinds: Vec<_> = (0..10).map(|_| kind(&pen.next())).collect();
        assert_eq!(kinds[0], "stroke");
        assert!(kinds[1..9].iter().all(|kind| *kind == "points"));
        assert_eq!(kinds[9], "claim");
    }
}
