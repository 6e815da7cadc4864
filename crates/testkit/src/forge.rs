//! Frames made by hand, byte for byte as `docs/protocols/command-log.md` has them: what no honest author signs.

use bytes::Bytes;
use curve25519_dalek::{
    Scalar,
    constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
};
use ed25519_dalek::{Signer, SigningKey};
use roundtable_command_log::{Genesis, GenesisHash};
use roundtable_core::AuthorId;
use roundtable_wire::commands::{ActionRef, Encoder};
use sha2::{Digest, Sha512};

const CONTEXT: &[u8] = b"roundtable/command-frame/v1\0";
const FULL_FORM: u8 = 1;

/// A frame before it is signed.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) author: AuthorId,
    pub(crate) previous: [u8; 32],
    pub(crate) first_nonce: u64,
    pub(crate) count: u32,
    pub(crate) lamport: u64,
    pub(crate) wall_ms: u64,
    pub(crate) body: Vec<u8>,
}

/// A frame that a hostile author has signed.
#[derive(Debug, Clone)]
pub(crate) struct Forged {
    pub(crate) bytes: Bytes,
    id: [u8; 32],
}

/// A hostile author, and how far its log is.
#[derive(Debug)]
pub(crate) struct Forger {
    key: SigningKey,
    genesis: Genesis,
    tip: Tip,
    /// Where its log has been, on any branch.
    past: Vec<Tip>,
}

/// A frame of a hostile author, and what the next one must rise above.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tip {
    pub(crate) id: [u8; 32],
    nonce: u64,
    pub(crate) lamport: u64,
    wall_ms: u64,
}

impl Forged {
    pub(crate) const fn id(&self) -> [u8; 32] {
        self.id
    }
}

impl Forger {
    pub(crate) fn new(key: SigningKey, genesis: Genesis) -> Self {
        let wall_ms = genesis.params().wall.as_millis();
        let tip = Tip {
            id: [0; 32],
            nonce: 0,
            lamport: 0,
            wall_ms,
        };
        Self {
            key,
            genesis,
            tip,
            past: vec![tip],
        }
    }

    /// The end of its log.
    pub(crate) const fn tip(&self) -> Tip {
        self.tip
    }

    /// Where its log has been, the beginning first.
    pub(crate) fn past(&self) -> &[Tip] {
        &self.past
    }

    /// Goes on from here, whatever it has signed after it.
    pub(crate) fn go_back(&mut self, tip: Tip) {
        self.tip = tip;
    }

    pub(crate) fn genesis_wall_ms(&self) -> u64 {
        self.genesis.params().wall.as_millis()
    }

    /// The highest Lamport time that a frame of this wall time may carry.
    pub(crate) fn cap(&self, wall_ms: u64) -> u64 {
        (1 << 20) + 1024 * wall_ms.saturating_sub(self.genesis_wall_ms())
    }

    /// The next frame of the own log: `count` puts on one key, at or above these times.
    pub(crate) fn draft(&self, lamport: u64, wall_ms: u64, count: u32, value: &[u8]) -> Draft {
        let wall_ms = wall_ms.max(self.tip.wall_ms + 1);
        let put = ActionRef::Put {
            key_type: crate::NOTE,
            key: b"hostile",
            value,
        };
        let mut encoder = Encoder::default();
        let body = encoder.encode((0..count).map(|_| put)).map(<[u8]>::to_vec);
        Draft {
            author: AuthorId::from_bytes(self.key.verifying_key().to_bytes()),
            previous: self.tip.id,
            first_nonce: self.tip.nonce + 1,
            count,
            lamport: lamport.max(self.tip.lamport + 1).min(self.cap(wall_ms)),
            wall_ms,
            body: body.unwrap_or_default(),
        }
    }

    /// Goes on from this frame: from here on it is part of the own log.
    pub(crate) fn keep(&mut self, draft: &Draft, forged: &Forged) {
        self.tip = Tip {
            id: forged.id,
            nonce: draft.first_nonce + u64::from(draft.count) - 1,
            lamport: draft.lamport,
            wall_ms: draft.wall_ms,
        };
        self.past.push(self.tip);
    }

    pub(crate) fn sign(&self, draft: &Draft) -> Forged {
        self.assemble(draft, |signed| self.key.sign(signed).to_bytes())
    }

    /// Signs with an R that is off by a point of small order: RFC 8032 leaves open whether that
    /// verifies, ZIP 215 says that it does.
    pub(crate) fn sign_with_torsion(&self, draft: &Draft, torsion: usize) -> Forged {
        self.assemble(draft, |signed| {
            let nonce = Sha512::digest([self.key.as_bytes(), signed].concat());
            let nonce = Scalar::from_bytes_mod_order_wide(&nonce.into());
            let r = ED25519_BASEPOINT_POINT * nonce + EIGHT_TORSION[torsion % 8];
            let r = r.compress();
            let hash = Sha512::new()
                .chain_update(r.as_bytes())
                .chain_update(draft.author.as_bytes())
                .chain_update(signed);
            let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
            let s = nonce + k * self.key.to_scalar();
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(r.as_bytes());
            signature[32..].copy_from_slice(s.as_bytes());
            signature
        })
    }

    fn assemble(&self, draft: &Draft, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Forged {
        let fields = [
            draft.author.as_bytes().as_slice(),
            &draft.previous,
            &draft.first_nonce.to_le_bytes(),
            &draft.count.to_le_bytes(),
            &draft.lamport.to_le_bytes(),
            &draft.wall_ms.to_le_bytes(),
            self.genesis.params().schema.as_bytes(),
        ]
        .concat();
        let signed = signed_bytes(&self.genesis.hash(), &fields, &draft.body);
        let signature = sign(&signed);
        Forged {
            bytes: [&[FULL_FORM], fields.as_slice(), &signature, &draft.body]
                .concat()
                .into(),
            id: *blake3::hash(&signed).as_bytes(),
        }
    }
}

/// What the author of a frame signs.
pub(crate) fn signed_bytes(genesis: &GenesisHash, fields: &[u8], body: &[u8]) -> Vec<u8> {
    let body = blake3::hash(body);
    [CONTEXT, genesis.as_bytes(), fields, body.as_bytes()].concat()
}

/// The point of order 4 with y = 0: a weak key.
pub(crate) fn weak_key() -> AuthorId {
    AuthorId::from_bytes(EIGHT_TORSION[2].compress().to_bytes())
}
