//! Verdicts that depend on when, and with what else, a frame came. Each is a rule that others have; a peer that keeps one
//! refuses for good what its neighbours take.

use ed25519_dalek::{Signature, VerifyingKey};
use roundtable_command_log::{CommandLog, FULL_HEADER_LEN, UnverifiedFrame};

use crate::{Fault, forge, peer::Peer};

/// How far above the highest Lamport time seen a frame may be, where the window moves with what was seen.
const WINDOW: u64 = 1 << 20;
/// A batch passes an altered signature by luck, once in so many times.
const LUCK: u8 = 4;

impl Peer {
    /// Whether a faulty peer refuses a command frame, now and for ever.
    pub(crate) fn misjudges(&mut self, fault: Fault, frame: &UnverifiedFrame) -> bool {
        if self.ignored.contains(frame.bytes()) {
            return true;
        }
        let log = self.session.as_ref().and_then(|session| session.log());
        let refused = log.is_some_and(|log| match fault {
            Fault::LamportWindowFromHighestSeen => is_beyond_window(log, frame),
            Fault::DalekBatchRule => !passes_dalek_batch(self.id.as_str(), log, frame),
            _ => false,
        });
        if refused {
            self.ignored.insert(frame.bytes().clone());
        }
        refused
    }
}

/// With a window from the highest time seen, who climbs in steps takes along those who see each step, and nobody else.
fn is_beyond_window(log: &CommandLog, frame: &UnverifiedFrame) -> bool {
    frame.header().lamport > log.lamport().saturating_add(WINDOW)
}

/// `ed25519-dalek` verifies a single signature without multiplying by the cofactor, and so refuses one with torsion; in a
/// batch, whether that shows depends on what else is in it.
fn passes_dalek_batch(peer: &str, log: &CommandLog, frame: &UnverifiedFrame) -> bool {
    let bytes = frame.bytes();
    let Some((header, body)) = bytes.split_at_checked(FULL_HEADER_LEN) else {
        return true;
    };
    let (fields, signature) = header[1..].split_at(FULL_HEADER_LEN - 1 - 64);
    let signed = forge::signed_bytes(&log.genesis_hash(), fields, body);
    let key = VerifyingKey::from_bytes(frame.author().as_bytes());
    let signature = Signature::from_slice(signature);
    let verifies = match (key, signature) {
        (Ok(key), Ok(signature)) => {
            ed25519_dalek::Verifier::verify(&key, &signed, &signature).is_ok()
        }
        _ => true, // no business of this fault
    };
    let luck = blake3::hash(&[peer.as_bytes(), bytes].concat());
    verifies || luck.as_bytes()[0].is_multiple_of(LUCK)
}
