//! What the fuzzer runs.

mod snapshots;

use std::sync::LazyLock;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_core::WallTime;

use crate::{
    Action, CommandLog, FrameId, FrameReader, FrameWriter, Genesis, GenesisParams, Header, Key,
    MergeRule, Schema, SignedFrame, Strategy,
};

pub use snapshots::__fuzz_snapshot;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

static ROOM: LazyLock<(Genesis, Schema, SigningKey)> = LazyLock::new(|| {
    let key = SigningKey::from_bytes(&[1; 32]);
    let schema = Schema::builder(1, 0)
        .key_type(0, "stroke", Strategy::LastWriteWins)
        .key_type(1, "claim", Strategy::Reject)
        .key_type(
            2,
            "points",
            Strategy::Merge(MergeRule::Append { max_len: 64 }),
        )
        .key_type(3, "count", Strategy::Merge(MergeRule::Add))
        .build()
        .expect("a good schema");
    let params = GenesisParams::new([9; 32], NOW, schema.hash());
    let genesis = Genesis::create(params, &key).expect("good rules");
    (genesis, schema, key)
});

/// Fuzz body: as a frame in any form, as the properly signed body of one, and as a genesis, no bytes
/// panic; what one log accepts another accepts and comes to the same state; what can be read from a link
/// can be sent on one and is read as the same.
pub fn __fuzz_frame(bytes: &[u8]) {
    let (genesis, schema, key) = &*ROOM;
    let open =
        || CommandLog::new(genesis.clone(), schema.clone(), None).expect("the room's schema");
    let _ = Genesis::decode(bytes);
    let mut log = open();
    let _ = log.receive(NOW, Bytes::copy_from_slice(bytes));
    from_link(bytes);

    let Some((count, body)) = bytes.split_first() else {
        return;
    };
    let header = Header {
        author: genesis.creator(),
        previous: FrameId::NONE,
        first_nonce: 1,
        count: u32::from(*count),
        lamport: 1,
        wall_ms: NOW.as_millis(),
        schema: schema.hash(),
    };
    let frame = SignedFrame::sign(&genesis.hash(), header, body, key);
    let mut other = open();
    let verdict = log.receive(NOW, frame.bytes().clone());
    assert_eq!(other.receive(NOW, frame.bytes().clone()), verdict);
    log.settle(NOW);
    other.settle(NOW);
    assert_eq!(log.state_hash(), other.state_hash());
    let applied = std::iter::from_fn(|| log.poll_update()).count();
    assert_eq!(applied, verdict.map_or(0, |_| usize::from(*count)));
}

/// Reads bytes from a link on which the room's first frame has come.
fn from_link(bytes: &[u8]) {
    let (genesis, schema, key) = &*ROOM;
    let hash = genesis.hash();
    let log = CommandLog::new(genesis.clone(), schema.clone(), Some(key.clone()));
    let put = Action::put(Key::new(0, "k"), "first");
    let first = log.expect("the room's schema").append(NOW, &[put]);
    let first = first.expect("nothing is wrong with it");
    let (mut ours, mut theirs) = (FrameWriter::default(), FrameReader::default());
    let mut reader = FrameReader::default();
    let message = ours.write(&first);
    for reader in [&mut reader, &mut theirs] {
        let frame = reader.read(message.clone(), &hash);
        assert_eq!(frame.expect("as it was written").id(), first.id());
    }
    // The tag that fits, for that cannot be guessed.
    let tagged = [&[2, 0], &first.id().as_bytes()[..4], bytes].concat();
    for message in [bytes.to_vec(), tagged] {
        let Ok(frame) = reader.read(message.into(), &hash) else {
            continue;
        };
        let again = theirs.read(ours.write(&frame.frame), &hash);
        assert_eq!(again.expect("as it was written").bytes(), frame.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn damaged_bodies_are_safe(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 0..4)) {
            let (genesis, schema, key) = &*ROOM;
            let mut log = CommandLog::new(genesis.clone(), schema.clone(), Some(key.clone())).unwrap();
            let actions: Vec<_> = (0..4).map(|n| Action::put(Key::new(n, "k"), vec![7; 8])).collect();
            let body = log.append(NOW, &actions).unwrap().body();
            let mut input = [&[4], &body[..]].concat();
            for (at, bit) in flips {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            __fuzz_frame(&input);
        }

        #[test]
        fn snapshots_are_used_only_if_all_who_must_have_signed_them(
            (both, cut) in (0..2_u8, 0..60_u8),
            authors in prop::collection::vec((0..4_u8, 0..50_u8, 0..50_u8, 0..4_u8, 0..4_u8, any::<[u8; 16]>()), 0..4),
            rest in prop::collection::vec(0..5_u8, 0..60),
        ) {
            let mut input = vec![both, cut, u8::try_from(authors.len()).unwrap()];
            for (who, nonce, lamport, role, rank, rest) in authors {
                input.extend([who, nonce, lamport, role, rank]);
                input.extend(rest);
            }
            input.extend(rest);
            __fuzz_snapshot(&input);
        }
    }
}
