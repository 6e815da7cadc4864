//! The room that the command log is measured in: no rate limit, commands of 32 bytes of payload over
//! 1,000 keys.
#![allow(clippy::missing_panics_doc, clippy::unwrap_used)] // a bench may fail loudly

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_command_log::{
    Action, CommandLog, Genesis, GenesisParams, Key, Limits, MergeRule, Role, Schema, SharedFrame,
    Strategy,
};
use roundtable_core::{AuthorId, WallTime};

/// When the room began; everything is signed in this millisecond.
pub const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
/// How many keys the commands are spread over.
pub const KEYS: usize = 1000;
/// A key type whose last command counts.
pub const STROKE: u16 = 1;
/// A key type whose commands are joined, the costliest to fold.
pub const TRAIL: u16 = 2;

/// The key of the author with this number; number 0 is the room's creator.
pub fn signing_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number + 1; 32])
}

/// The name of the author with this number.
pub fn author(number: u8) -> AuthorId {
    AuthorId::from_bytes(signing_key(number).verifying_key().to_bytes())
}

/// The room's schema.
pub fn schema() -> Schema {
    let trail = MergeRule::Append { max_len: 65_536 };
    Schema::builder(1, 0)
        .key_type(STROKE, "stroke", Strategy::LastWriteWins)
        .key_type(TRAIL, "trail", Strategy::Merge(trail))
        .build()
        .unwrap()
}

/// A room in which everyone may write without limit.
pub fn genesis() -> Genesis {
    let mut params = GenesisParams::new([9; 32], NOW, schema().hash());
    params.default_role = Role::Editor;
    params.limits = Limits {
        burst: u32::MAX,
        per_second: u32::MAX,
    };
    Genesis::create(params, &signing_key(0)).unwrap()
}

/// An empty log that writes as the author with this number.
pub fn log(number: u8) -> CommandLog {
    CommandLog::new(genesis(), schema(), Some(signing_key(number))).unwrap()
}

/// An empty log that only reads.
pub fn reader() -> CommandLog {
    CommandLog::new(genesis(), schema(), None).unwrap()
}

/// The command with this number: 8 bytes of key, 24 of value.
pub fn command(key_type: u16, number: usize) -> Action {
    let key = Key::new(key_type, format!("key-{:04}", number % KEYS));
    Action::put(key, format!("{number:024}"))
}

/// So many commands, in groups of `size`.
pub fn batches(key_type: u16, count: usize, size: usize) -> Vec<Vec<Action>> {
    let command = |number| command(key_type, number);
    let batch = |first| (first..count.min(first + size)).map(command).collect();
    (0..count).step_by(size).map(batch).collect()
}

/// Appends each group as one frame.
pub fn append_all(log: &mut CommandLog, batches: &[Vec<Action>]) -> Vec<SharedFrame> {
    let frames = batches.iter().map(|actions| log.append(NOW, actions));
    frames.map(Result::unwrap).collect()
}

/// Frames as they come from a link, each in memory of its own.
pub fn copies(frames: &[SharedFrame]) -> Vec<Bytes> {
    let copy = |frame: &SharedFrame| Bytes::copy_from_slice(frame.bytes());
    frames.iter().map(copy).collect()
}

/// Commands of `authors` authors as their frames come to a reader, taking turns: `count` commands in all, in
/// frames of `size`.
pub fn backlog(key_type: u16, count: usize, size: usize, authors: u8) -> Vec<Bytes> {
    let batches = batches(key_type, count, size);
    let share = batches.len().div_ceil(authors.into());
    let of_each = batches.chunks(share).zip(0_u8..);
    let of_each: Vec<_> = of_each
        .map(|(batches, number)| copies(&append_all(&mut log(number), batches)))
        .collect();
    let turns = (0..share).flat_map(|turn| of_each.iter().filter_map(move |own| own.get(turn)));
    turns.cloned().collect()
}
