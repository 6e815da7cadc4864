//! A small room to test in, and a forger who signs whatever it is told.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod room;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use roundtable_command_log::{
    Action, Applied, CommandLog, Covered, FrameId, Genesis, GenesisParams, Key, Limits, MergeRule,
    Role, Schema, SharedFrame, Strategy, Update,
};
use roundtable_core::{AuthorId, WallTime};
use roundtable_wire::commands::{ActionRef, Encoder};

/// The genesis' wall time.
pub const START_MS: u64 = 1_700_000_000_000;

pub const STROKE: u16 = 1;
pub const CLAIM: u16 = 2;
pub const POINTS: u16 = 3;
pub const COUNT: u16 = 4;

pub fn at(ms: u64) -> WallTime {
    WallTime::from_millis(START_MS + ms)
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn id(seed: u8) -> AuthorId {
    AuthorId::from_bytes(key(seed).verifying_key().to_bytes())
}

pub fn schema() -> Schema {
    Schema::builder(1, 0)
        .key_type(STROKE, "stroke", Strategy::LastWriteWins)
        .key_type(CLAIM, "claim", Strategy::Reject)
        .key_type(
            POINTS,
            "points",
            Strategy::Merge(MergeRule::Append { max_len: 40 }),
        )
        .key_type(COUNT, "count", Strategy::Merge(MergeRule::Add))
        .build()
        .unwrap()
}

/// A room that author 0 creates.
pub fn genesis_with(change: impl FnOnce(&mut GenesisParams)) -> Genesis {
    let mut params = GenesisParams::new([42; 32], at(0), schema().hash());
    change(&mut params);
    Genesis::create(params, &key(0)).unwrap()
}

/// A room without a rate to speak of.
pub fn genesis() -> Genesis {
    genesis_with(|params| {
        params.limits = Limits {
            burst: 1_000_000,
            per_second: 1_000_000,
        };
    })
}

pub fn log(genesis: &Genesis, seed: u8) -> CommandLog {
    CommandLog::new(genesis.clone(), schema(), Some(key(seed))).unwrap()
}

pub fn reader(genesis: &Genesis) -> CommandLog {
    CommandLog::new(genesis.clone(), schema(), None).unwrap()
}

pub fn put(key_type: u16, name: &str, value: impl Into<Bytes>) -> Action {
    Action::put(Key::new(key_type, name.to_owned()), value)
}

pub fn stroke(value: &str) -> Action {
    put(STROKE, "s", value.to_owned())
}

/// Gives a role to author `seed` for its whole log.
pub fn set_role(seed: u8, role: Role) -> Action {
    Action::SetRole {
        target: id(seed),
        role,
        covered: Covered::NOTHING,
    }
}

pub fn give(log: &mut CommandLog, frame: &SharedFrame) {
    log.receive(at(0), frame.bytes().clone()).unwrap();
}

/// The commands that have settled.
pub fn applied(log: &mut CommandLog) -> Vec<Applied> {
    std::iter::from_fn(|| log.poll_update())
        .filter_map(|update| match update {
            Update::Applied(applied) => Some(applied),
            _ => None,
        })
        .collect()
}

pub fn value<'a>(log: &'a CommandLog, key_type: u16, name: &str) -> Option<&'a [u8]> {
    log.get(&Key::new(key_type, name.to_owned()))
}

/// Signs frames of one author, by the layout in `docs/protocols/command-log.md` and without any
/// check, following each with the next. The fields may be changed in between.
#[derive(Clone)]
pub struct Forger {
    pub key: SigningKey,
    pub genesis: [u8; 32],
    pub schema: [u8; 32],
    pub previous: [u8; 32],
    pub nonce: u64,
    pub lamport: u64,
    pub wall_ms: u64,
}

pub struct Forged {
    pub bytes: Bytes,
    pub id: FrameId,
}

impl Forger {
    pub fn new(genesis: &Genesis, seed: u8) -> Self {
        Self {
            key: key(seed),
            genesis: *genesis.hash().as_bytes(),
            schema: *schema().hash().as_bytes(),
            previous: [0; 32],
            nonce: 1,
            lamport: 1,
            wall_ms: START_MS,
        }
    }

    pub fn sign(&mut self, actions: &[ActionRef<'_>]) -> Forged {
        let count = u32::try_from(actions.len()).unwrap();
        let mut encoder = Encoder::default();
        let body = encoder.encode(actions.iter().copied()).unwrap().to_vec();
        self.sign_body(count, &body)
    }

    pub fn sign_body(&mut self, count: u32, body: &[u8]) -> Forged {
        let author = self.key.verifying_key().to_bytes();
        let fields = [
            &author[..],
            &self.previous,
            &self.nonce.to_le_bytes(),
            &count.to_le_bytes(),
            &self.lamport.to_le_bytes(),
            &self.wall_ms.to_le_bytes(),
            &self.schema,
        ]
        .concat();
        let context: &[u8] = b"roundtable/command-frame/v1\0";
        let body_hash = *blake3::hash(body).as_bytes();
        let signed = [context, &self.genesis, &fields, &body_hash].concat();
        let signature = self.key.sign(&signed).to_bytes();
        let id = *blake3::hash(&signed).as_bytes();
        self.previous = id;
        self.nonce = self.nonce.wrapping_add(count.into());
        self.lamport = self.lamport.wrapping_add(1);
        Forged {
            bytes: [&[1], &fields[..], &signature, body].concat().into(),
            id: FrameId::from_bytes(id),
        }
    }

    pub fn stroke(&mut self, value: &str) -> Forged {
        self.sign(&[ActionRef::Put {
            key_type: STROKE,
            key: b"s",
            value: value.as_bytes(),
        }])
    }
}
