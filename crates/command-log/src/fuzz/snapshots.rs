//! Snapshots: true ones that were damaged on their way, and such as hostile writers sign.

use std::sync::LazyLock;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_core::{AuthorId, WallTime};
use roundtable_wire::commands::Encoder;

use super::{NOW, ROOM};
use crate::{
    Action, AuthorAtCut, Ballot, Checkpoint, CheckpointName, CommandLog, FrameId, HeadAtCut,
    Header, Key, Role, Roles, SignedFrame, Snapshot, StateHash, prune::Values, state::State,
};

/// A log with two checkpoints, the snapshot after the first and that after both.
static AGREED: LazyLock<(CommandLog, [Bytes; 2])> = LazyLock::new(|| {
    let mut log = open(true);
    let snapshots = ["first", "second"].map(|value| {
        let puts = [0, 1].map(|key_type| Action::put(Key::new(key_type, "k"), value));
        log.append(NOW, &puts).expect("nothing is wrong with it");
        log.settle(NOW);
        let cut = log.lamport();
        let proposal = log.checkpoint_command(cut).expect("there is news");
        log.append(NOW, &[proposal]).expect("may propose");
        log.settle(NOW);
        while let Some(due) = log.due(NOW) {
            log.append(NOW, &[due]).expect("is due");
            log.settle(NOW);
        }
        log.snapshot(0).expect("the only writer agrees").encode()
    });
    (log, snapshots)
});

/// Later than most that is signed.
const LATE: WallTime = WallTime::from_micros(u64::MAX / 2);

/// Another writer.
static BOB: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[2; 32]));

fn open(writes: bool) -> CommandLog {
    let (genesis, schema, key) = &*ROOM;
    let key = writes.then(|| key.clone());
    CommandLog::new(genesis.clone(), schema.clone(), key).expect("the room's schema")
}

fn author(key: &SigningKey) -> AuthorId {
    AuthorId::from_bytes(key.verifying_key().to_bytes())
}

/// Fuzz body: as a snapshot, as changes to a true one, and as what two writers sign of a checkpoint that never was, no
/// bytes panic. Of the first two nothing is used but the true ones; the last is used if all who must have signed it, and then the log
/// goes on from it, and another by its snapshot is where it is.
pub fn __fuzz_snapshot(bytes: &[u8]) {
    read(Bytes::copy_from_slice(bytes));
    damage(bytes);
    if let Some(signed) = Claim::read(bytes) {
        signed.judge();
    }
}

/// Uses a snapshot that may be anything, in an empty log and in one that has the first checkpoint.
fn read(bytes: Bytes) {
    let Ok(snapshot) = Snapshot::decode(bytes.clone()) else {
        return;
    };
    assert_eq!(snapshot.encode(), bytes, "there is one layout");
    let (agreed, [first, _]) = &*AGREED;
    let mut ahead = open(false);
    let known = Snapshot::decode(first.clone()).and_then(|known| ahead.install(NOW, &known));
    assert_eq!(known, Ok(true));
    for mut log in [open(false), ahead] {
        let before = (log.checkpoint(), log.state_hash());
        if log.install(NOW, &snapshot) != Ok(true) {
            assert_eq!((log.checkpoint(), log.state_hash()), before);
            continue;
        }
        let number = log.checkpoint().expect("it was used").number;
        assert_eq!(log.checkpoint_at(number), agreed.checkpoint_at(number));
        if number == agreed.checkpoint().expect("agreed on two").number {
            assert_eq!(log.state_hash(), agreed.state_hash());
        }
    }
}

/// Changes a true snapshot. Of every four bytes two say where, one how, and one by what.
fn damage(edits: &[u8]) {
    let (edits, _) = edits.as_chunks();
    for good in &AGREED.1 {
        let mut bytes = good.to_vec();
        for [low, high, how, by] in edits {
            let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len().max(1);
            match how % 4 {
                0 => bytes.insert(at, *by),
                1 if at < bytes.len() => {
                    drop(bytes.drain(at..bytes.len().min(at + 1 + usize::from(*by))))
                }
                2 => bytes.truncate(at),
                _ => bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= by),
            }
        }
        read(bytes.into());
    }
}

/// A checkpoint that the creator proposes, and the values at it.
struct Claim {
    checkpoint: Checkpoint,
    values: Values,
    /// Whether the second writer commits it.
    both: bool,
}

impl Claim {
    /// A byte for who commits, one for the cut, one for how many authors; of each author its key, nonce, Lamport time, role and
    /// rank, a byte each, then wall time and budget; the rest is values, each a type, and the lengths of key and value.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (genesis, schema, _) = &*ROOM;
        let [both, cut, count, rest @ ..] = bytes else {
            return None;
        };
        let (mut authors, mut rest) = (Vec::new(), rest);
        for _ in 0..count % 8 {
            let (at, more) = rest.split_first_chunk()?;
            authors.push(read_author(*at));
            rest = more;
        }
        authors.sort_by_key(|at| at.author);
        let mut values = Values::new();
        while let [key_type, key, value, more @ ..] = rest {
            let (key, more) = more.split_at(usize::from(*key).min(more.len()));
            let (value, more) = more.split_at(usize::from(*value).min(more.len()));
            let key = Key::new(u16::from(*key_type), key.to_vec());
            values.insert(key, value.to_vec().into());
            rest = more;
        }
        let mut checkpoint = Checkpoint {
            number: 1,
            previous: CheckpointName::NONE,
            proposer: genesis.creator(),
            cut: u64::from(*cut),
            state: StateHash::from_bytes([0; 32]),
            authors,
        };
        let roles = Roles::after(&checkpoint, genesis);
        checkpoint.state = State::after(&values, schema).hash(&genesis.hash(), &roles);
        let both = both % 2 == 1;
        Some(Self {
            checkpoint,
            values,
            both,
        })
    }

    /// Has it signed, and holds what a log makes of that against what it should.
    fn judge(self) {
        let (genesis, _, key) = &*ROOM;
        let encoded = self.checkpoint.encode();
        let sound = Checkpoint::decode(&encoded) == Ok(self.checkpoint.clone());
        let ballot = Ballot {
            checkpoint: self.checkpoint.name(&genesis.hash()),
            previous: CheckpointName::NONE,
        };
        let propose = Action::Propose {
            checkpoint: encoded,
        };
        let commit = Action::Commit(ballot);
        let mut frames = vec![sign(key, &[propose, commit.clone()])];
        if self.both {
            frames.push(sign(&BOB, &[commit]));
        }
        let snapshot = Snapshot {
            after: 0,
            certificates: vec![frames],
            values: self.values,
        };
        let mut writers = self.checkpoint.writers(genesis).into_iter();
        let signed = |who| who == author(key) || (self.both && who == author(&BOB));
        let stable = sound && self.checkpoint.cut > 0 && writers.all(signed);
        let mut log = open(true);
        let used = log.install(NOW, &snapshot);
        assert_eq!(used == Ok(true), stable, "{used:?}");
        if stable {
            go_on(log);
        }
    }
}

/// The log goes on, and another that takes its snapshot and then its frames is where it is.
fn go_on(mut log: CommandLog) {
    let snapshot = log.snapshot(0).expect("it was used");
    assert_eq!(log.snapshot_len(0), Some(snapshot.encode().len() as u64));
    let actions = [
        Action::put(Key::new(1, "k"), "on it goes"),
        log.role_command(author(&BOB), Role::Admin),
    ];
    for action in actions {
        // Its budget, its nonces or its clock may be at their ends.
        let _ = log.append(NOW, &[action]);
    }
    log.settle(NOW);
    if log
        .kept()
        .any(|frame| frame.header().wall_ms > LATE.as_millis())
    {
        // The author was there already, and others wait until they are.
        return;
    }
    let mut other = open(false);
    assert_eq!(other.install(LATE, &snapshot), Ok(true));
    for frame in log.kept() {
        let received = other.receive(LATE, frame.bytes().clone());
        assert!(received.is_ok(), "{received:?}");
    }
    other.settle(LATE);
    assert_eq!(other.heads(), log.heads());
    assert_eq!(other.state_hash(), log.state_hash());
}

fn read_author(bytes: [u8; 21]) -> AuthorAtCut {
    let (genesis, _, key) = &*ROOM;
    let [who, nonce, lamport, role, rank, rest @ ..] = bytes;
    let author = match who {
        0 => author(key),
        1 => author(&BOB),
        // Most of them are no keys.
        _ => AuthorId::from_bytes([who; 32]),
    };
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| rest[at + n]));
    let id = match nonce {
        0 => FrameId::NONE,
        _ => FrameId::from_bytes([nonce; 32]),
    };
    let role = Role::from_number(role).filter(|_| author != genesis.creator());
    AuthorAtCut {
        author,
        head: HeadAtCut {
            nonce: nonce.into(),
            id,
            lamport: lamport.into(),
            wall_ms: number(0),
            budget: number(8),
        },
        role: role.map(|role| (role, rank.into())),
    }
}

/// Statements count by their frames' signatures alone.
fn sign(key: &SigningKey, actions: &[Action]) -> Bytes {
    let (genesis, schema, _) = &*ROOM;
    let header = Header {
        author: author(key),
        previous: FrameId::NONE,
        first_nonce: 1,
        count: u32::try_from(actions.len()).unwrap_or(u32::MAX),
        lamport: 1,
        wall_ms: NOW.as_millis(),
        schema: schema.hash(),
    };
    let mut encoder = Encoder::default();
    let body = encoder.encode(actions.iter().map(Action::as_wire));
    let body = body.expect("fits a frame");
    let frame = SignedFrame::sign(&genesis.hash(), header, body, key);
    frame.bytes().clone()
}
