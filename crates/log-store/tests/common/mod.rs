//! A room and an author to write in it.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use ed25519_dalek::SigningKey;
use roundtable_command_log::{
    Action, CommandLog, Genesis, GenesisParams, Key, Limits, Role, Schema, SharedFrame, Strategy,
};
use roundtable_core::{RoomId, WallTime};
use roundtable_log_store::Record;

pub const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

pub fn room() -> RoomId {
    RoomId::new("demo").unwrap()
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn schema() -> Schema {
    let schema = Schema::builder(1, 2).key_type(1, "note", Strategy::LastWriteWins);
    schema.build().unwrap()
}

/// A room that `creator` began, in which anyone may write, without a rate to speak of.
pub fn genesis(creator: &SigningKey, id: u8) -> Genesis {
    let params = GenesisParams {
        limits: Limits {
            burst: 1_000_000,
            per_second: 1_000_000,
        },
        default_role: Role::Editor,
        ..GenesisParams::new([id; 32], NOW, schema().hash())
    };
    Genesis::create(params, creator).unwrap()
}

pub fn log(genesis: &Genesis, key: &SigningKey) -> CommandLog {
    CommandLog::new(genesis.clone(), schema(), Some(key.clone())).unwrap()
}

pub fn note(log: &mut CommandLog, text: &str) -> SharedFrame {
    let action = Action::put(Key::new(1, "note"), text.to_owned());
    log.append(NOW, &[action]).unwrap()
}

pub fn begin(genesis: &Genesis) -> Record {
    Record::Genesis {
        genesis: genesis.clone().into(),
        schema: schema(),
    }
}

pub fn frame(log: &CommandLog, frame: &SharedFrame) -> Record {
    Record::Frame {
        genesis: log.genesis_hash(),
        frame: frame.clone(),
    }
}

pub fn section(log: &CommandLog, section: u16, content: &'static [u8]) -> Record {
    Record::Section {
        genesis: log.genesis_hash(),
        section,
        content: content.into(),
    }
}
