//! Proof of a fork that outlives the frames.

use roundtable_core::AuthorId;

use crate::{
    ForkProof, FrameError, FrameId, GenesisHash, Header, PublicKey, SignedFrame,
    frame::{FIELDS_LEN, SIGNATURE_LEN, signed_bytes},
    layout::Fields,
};

const SEAL_LEN: usize = FIELDS_LEN + SIGNATURE_LEN + 32;

/// That an author has signed two frames for one place, without what they said: all that a [`ForkProof`] proves, in
/// 440 bytes. For whoever remembers forks longer than frames.
///
/// One of these has valid signatures, whether it was made from a proof that a log gave out or [decoded](Self::decode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivocation {
    seals: [Seal; 2],
}

/// What is left of a frame without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seal {
    header: Header,
    id: FrameId,
    signature: [u8; SIGNATURE_LEN],
    /// The hash of the body.
    body: [u8; 32],
}

impl Equivocation {
    /// The bytes that it takes.
    pub const LEN: usize = 2 * SEAL_LEN;

    /// Reads one, and verifies both signatures.
    ///
    /// # Errors
    /// [`FrameError`] for what one of the frames lacks, [`FrameError::NoFork`] if they are in order; any bytes are safe.
    pub fn decode(bytes: &[u8; Self::LEN], genesis: &GenesisHash) -> Result<Self, FrameError> {
        let mut fields = Fields::new(bytes);
        let seals = [
            Seal::read(&mut fields, genesis),
            Seal::read(&mut fields, genesis),
        ];
        let [left, right] = &seals;
        let place = |seal: &Seal| (seal.header.author, seal.place());
        if place(left) != place(right) || left.id == right.id {
            return Err(FrameError::NoFork);
        }
        let key = PublicKey::new(left.header.author)?;
        for seal in &seals {
            seal.header.check_nonces()?;
            seal.verify(genesis, &key)?;
        }
        Ok(Self { seals })
    }

    /// How a store keeps it: for both frames, the signed fields that travel, the signature, and the hash of the body.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (seal, bytes) in self.seals.iter().zip(bytes.chunks_exact_mut(SEAL_LEN)) {
            let (fields, rest) = bytes.split_at_mut(FIELDS_LEN);
            let (signature, body) = rest.split_at_mut(SIGNATURE_LEN);
            fields.copy_from_slice(&seal.header.fields());
            signature.copy_from_slice(&seal.signature);
            body.copy_from_slice(&seal.body);
        }
        bytes
    }

    /// Who has signed twice.
    pub const fn author(&self) -> AuthorId {
        self.seals[0].header.author
    }

    /// The frame that both follow, [`FrameId::NONE`] if they claim to be the author's first.
    pub const fn parent(&self) -> FrameId {
        self.seals[0].header.previous
    }

    /// The nonce with which that frame ends, 0 if there is none.
    pub const fn after(&self) -> u64 {
        self.seals[0].header.first_nonce - 1
    }

    /// What names the two frames, and what their headers say.
    pub fn frames(&self) -> [(FrameId, &Header); 2] {
        self.seals.each_ref().map(|seal| (seal.id, &seal.header))
    }
}

impl From<&ForkProof> for Equivocation {
    fn from(proof: &ForkProof) -> Self {
        let seals = proof.frames().map(|frame| Seal::of(frame));
        Self { seals }
    }
}

impl Seal {
    fn of(frame: &SignedFrame) -> Self {
        Self {
            header: *frame.header(),
            id: frame.id(),
            signature: frame.signature(),
            body: *blake3::hash(frame.body_bytes()).as_bytes(),
        }
    }

    fn read(fields: &mut Fields<'_>, genesis: &GenesisHash) -> Self {
        let header = Header::read(fields);
        let (signature, body) = (fields.take(), fields.take());
        let signed = signed_bytes(genesis, &header.fields(), &blake3::Hash::from_bytes(body));
        Self {
            header,
            id: blake3::hash(&signed).into(),
            signature,
            body,
        }
    }

    fn place(&self) -> (FrameId, u64) {
        (self.header.previous, self.header.first_nonce)
    }

    fn verify(&self, genesis: &GenesisHash, key: &PublicKey) -> Result<(), FrameError> {
        let body = blake3::Hash::from_bytes(self.body);
        let signed = signed_bytes(genesis, &self.header.fields(), &body);
        Ok(key.verify(&signed, &self.signature)?)
    }
}
