//! A frame: one author's next commands, chained to its previous frame and signed.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use ed25519_dalek::{Signer, SigningKey};
use roundtable_core::{AuthorId, WallTime};
use roundtable_wire::limits::MAX_FRAME_LEN;

use crate::{
    Action, FrameError, FrameId, GenesisHash, Order, PublicKey, SchemaHash, SignatureError,
    layout::Fields, outline::outline, verify::Batch,
};

const CONTEXT: &[u8] = b"roundtable/command-frame/v1\0";
/// The first byte of a frame in full form.
pub(crate) const FULL_FORM: u8 = 1;
/// The signed fields that travel: all but the genesis hash, which the link knows, and the body's
/// hash, which the receiver computes.
pub(crate) const FIELDS_LEN: usize = 32 + 32 + 8 + 4 + 8 + 8 + 32;
const SIGNED_LEN: usize = CONTEXT.len() + 32 + FIELDS_LEN + 32;

pub(crate) const SIGNATURE_LEN: usize = 64;

/// How many bytes a frame in full form has before its body.
pub const FULL_HEADER_LEN: usize = 1 + FIELDS_LEN + SIGNATURE_LEN;

/// What a frame's author signs, beside the genesis and the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who wrote it.
    pub author: AuthorId,
    /// The author's previous frame, [`FrameId::NONE`] for its first.
    pub previous: FrameId,
    /// The number of its first command; an author's commands are numbered from 1 without gaps.
    pub first_nonce: u64,
    /// How many commands it holds, at least 1.
    pub count: u32,
    /// The Lamport time of all its commands.
    pub lamport: u64,
    /// When it was signed, as its author believed, in Unix milliseconds.
    pub wall_ms: u64,
    /// The schema that its commands speak.
    pub schema: SchemaHash,
}

impl Header {
    /// The number of its last command.
    pub const fn last_nonce(&self) -> u64 {
        self.first_nonce + (self.count as u64 - 1)
    }

    /// When it was signed, as its author believed.
    pub const fn wall(&self) -> WallTime {
        WallTime::from_millis(self.wall_ms)
    }

    /// Where its command with this nonce stands among all.
    pub(crate) const fn order(&self, nonce: u64) -> Order {
        Order {
            lamport: self.lamport,
            author: self.author,
            nonce,
        }
    }

    /// Whether its commands are numbered from 1 without overflow.
    pub(crate) fn check_nonces(&self) -> Result<(), FrameError> {
        let numbered = self.count >= 1 && self.first_nonce >= 1;
        let last = self.first_nonce.checked_add(u64::from(self.count));
        let last = last.filter(|_| numbered);
        last.map(drop).ok_or(FrameError::Nonces)
    }

    pub(crate) fn fields(&self) -> [u8; FIELDS_LEN] {
        let mut fields = [0; FIELDS_LEN];
        let mut rest = &mut fields[..];
        rest.put_slice(self.author.as_bytes());
        rest.put_slice(self.previous.as_bytes());
        rest.put_u64_le(self.first_nonce);
        rest.put_u32_le(self.count);
        rest.put_u64_le(self.lamport);
        rest.put_u64_le(self.wall_ms);
        rest.put_slice(self.schema.as_bytes());
        fields
    }

    pub(crate) fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            author: AuthorId::from_bytes(fields.take()),
            previous: FrameId::from_bytes(fields.take()),
            first_nonce: fields.u64(),
            count: fields.u32(),
            lamport: fields.u64(),
            wall_ms: fields.u64(),
            schema: SchemaHash::from_bytes(fields.take()),
        }
    }
}

/// What an author signs: the context, the genesis, the header's fields, the body's hash.
pub(crate) fn signed_bytes(
    genesis: &GenesisHash,
    fields: &[u8],
    body: &blake3::Hash,
) -> [u8; SIGNED_LEN] {
    let mut signed = [0; SIGNED_LEN];
    let mut rest = &mut signed[..];
    rest.put_slice(CONTEXT);
    rest.put_slice(genesis.as_bytes());
    rest.put_slice(fields);
    rest.put_slice(body.as_bytes());
    signed
}

/// A frame in full form. Whether its signature verifies is for a log to say: one that a log hands
/// out does.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedFrame {
    header: Header,
    id: FrameId,
    bytes: Bytes,
}

impl SignedFrame {
    /// Signs a frame. The caller has checked every rule.
    pub(crate) fn sign(
        genesis: &GenesisHash,
        header: Header,
        body: &[u8],
        key: &SigningKey,
    ) -> Self {
        let signed = signed_bytes(genesis, &header.fields(), &blake3::hash(body));
        let id = blake3::hash(&signed).into();
        Self::assemble(header, id, &key.sign(&signed).to_bytes(), body)
    }

    /// A frame from its parts, as they were when it was taken apart.
    pub(crate) fn assemble(header: Header, id: FrameId, signature: &[u8], body: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(FULL_HEADER_LEN + body.len());
        bytes.put_u8(FULL_FORM);
        bytes.put_slice(&header.fields());
        bytes.put_slice(signature);
        bytes.put_slice(body);
        let bytes = bytes.freeze();
        Self { header, id, bytes }
    }

    /// Verifies the author's signature.
    pub(crate) fn verify(
        &self,
        genesis: &GenesisHash,
        key: &PublicKey,
    ) -> Result<(), SignatureError> {
        let body = blake3::hash(self.body_bytes());
        key.verify(&self.signed(genesis, &body), &self.signature())
    }

    /// What its author is said to have signed, if its body has this hash.
    fn signed(&self, genesis: &GenesisHash, body: &blake3::Hash) -> [u8; SIGNED_LEN] {
        signed_bytes(genesis, &self.bytes[1..=FIELDS_LEN], body)
    }

    /// What its author signed.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Names the frame.
    pub const fn id(&self) -> FrameId {
        self.id
    }

    /// Who wrote it.
    pub const fn author(&self) -> AuthorId {
        self.header.author
    }

    /// The full form, as it travels on a link's Command channel.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The Ed25519 signature.
    pub fn signature(&self) -> [u8; 64] {
        Fields::new(self.signature_bytes()).take()
    }

    pub(crate) fn signature_bytes(&self) -> &[u8] {
        &self.bytes[1 + FIELDS_LEN..FULL_HEADER_LEN]
    }

    /// The commands as they were signed.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(FULL_HEADER_LEN..)
    }

    pub(crate) fn body_bytes(&self) -> &[u8] {
        &self.bytes[FULL_HEADER_LEN..]
    }

    /// The commands, which share the frame's memory. Empty if the body is malformed, which that of
    /// a frame from a log never is.
    pub fn actions(&self) -> Vec<Action> {
        let body = self.body();
        let outlines = outline(&body).unwrap_or_default().into_iter();
        outlines.map(|outline| outline.action(&body)).collect()
    }
}

/// A frame that has come from somewhere: well-formed, and otherwise without a verdict.
#[derive(Clone)]
pub struct UnverifiedFrame {
    pub(crate) frame: SignedFrame,
    /// The hash of its body.
    body: blake3::Hash,
    /// Whether it came in elided form.
    pub(crate) elided: bool,
    /// Who has shown it.
    pub(crate) source: Option<AuthorId>,
}

impl UnverifiedFrame {
    /// Reads a frame in full form and checks what needs neither its log nor cryptography.
    ///
    /// # Errors
    /// [`FrameError`]; any bytes are safe.
    pub fn decode(bytes: Bytes, genesis: &GenesisHash) -> Result<Self, FrameError> {
        if bytes.len() < FULL_HEADER_LEN || bytes.len() > MAX_FRAME_LEN {
            return Err(FrameError::Length(bytes.len()));
        }
        if bytes[0] != FULL_FORM {
            return Err(FrameError::Form(bytes[0]));
        }
        let header = Header::read(&mut Fields::new(&bytes[1..]));
        header.check_nonces()?;
        let body = blake3::hash(&bytes[FULL_HEADER_LEN..]);
        let signed = signed_bytes(genesis, &bytes[1..=FIELDS_LEN], &body);
        let id = blake3::hash(&signed).into();
        let frame = SignedFrame { header, id, bytes };
        Ok(Self {
            frame,
            body,
            elided: false,
            source: None,
        })
    }

    /// What its author is said to have signed.
    pub const fn header(&self) -> &Header {
        &self.frame.header
    }

    /// Names the frame.
    pub const fn id(&self) -> FrameId {
        self.frame.id
    }

    /// Who is said to have written it.
    pub const fn author(&self) -> AuthorId {
        self.frame.header.author
    }

    /// The full form.
    pub const fn bytes(&self) -> &Bytes {
        &self.frame.bytes
    }

    /// Names who has shown the frame. What is kept of frames that do not count is shared out among those who have
    /// shown them; all of which nothing is said count as one.
    #[must_use]
    pub const fn shown_by(mut self, peer: AuthorId) -> Self {
        self.source = Some(peer);
        self
    }

    /// Whether it came in elided form, so that its full form depends on what this end remembered.
    pub const fn is_elided(&self) -> bool {
        self.elided
    }

    /// Verifies the author's signature.
    pub(crate) fn verify(
        &self,
        genesis: &GenesisHash,
        key: &PublicKey,
    ) -> Result<(), SignatureError> {
        let signed = self.frame.signed(genesis, &self.body);
        key.verify(&signed, &self.frame.signature())
    }

    /// Adds the signature to those that are verified together.
    pub(crate) fn queue(&self, genesis: &GenesisHash, key: &PublicKey, batch: &mut Batch) {
        let signed = self.frame.signed(genesis, &self.body);
        let (id, signature) = (self.frame.id, self.frame.signature());
        batch.push(key, &signed, id.as_bytes(), &signature);
    }
}

impl fmt::Debug for UnverifiedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unverified{:?}", self.frame)
    }
}

impl fmt::Debug for SignedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header {
            author,
            first_nonce,
            lamport,
            ..
        } = self.header;
        let (last, id) = (self.header.last_nonce(), self.id);
        write!(
            f,
            "Frame({author:?} {first_nonce}..={last} at {lamport}, {id:?})"
        )
    }
}

/// A shared frame: links send it and stores keep it, and nobody copies it.
pub type SharedFrame = Arc<SignedFrame>;
