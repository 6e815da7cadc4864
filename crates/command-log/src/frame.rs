//! A frame: one author's next commands, chained to its previous frame and signed.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use ed25519_dalek::{Signer, SigningKey};
use roundtable_core::{AuthorId, WallTime};
use roundtable_wire::{
    commands::{Body, BodyError},
    limits::MAX_FRAME_LEN,
};

use crate::{
    Action, FrameError, FrameId, GenesisHash, Key, Order, PublicKey, SchemaHash, SignatureError,
    layout::Fields,
};

const CONTEXT: &[u8] = b"roundtable/command-frame/v1\0";
/// The first byte of a frame in full form.
const FULL_FORM: u8 = 1;
/// The signed fields that travel: all but the genesis hash, which the link knows, and the body's
/// hash, which the receiver computes.
const FIELDS_LEN: usize = 32 + 32 + 8 + 4 + 8 + 8 + 32;
const SIGNED_LEN: usize = CONTEXT.len() + 32 + FIELDS_LEN + 32;

/// How many bytes a frame in full form has before its body.
pub const FULL_HEADER_LEN: usize = 1 + FIELDS_LEN + 64;

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

    fn fields(&self) -> [u8; FIELDS_LEN] {
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

    fn read(fields: &mut Fields<'_>) -> Self {
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
fn signed_bytes(genesis: &GenesisHash, fields: &[u8], body: &[u8]) -> [u8; SIGNED_LEN] {
    let mut signed = [0; SIGNED_LEN];
    let mut rest = &mut signed[..];
    rest.put_slice(CONTEXT);
    rest.put_slice(genesis.as_bytes());
    rest.put_slice(fields);
    rest.put_slice(blake3::hash(body).as_bytes());
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
        let fields = header.fields();
        let signed = signed_bytes(genesis, &fields, body);
        let mut bytes = BytesMut::with_capacity(FULL_HEADER_LEN + body.len());
        bytes.put_u8(FULL_FORM);
        bytes.put_slice(&fields);
        bytes.put_slice(&key.sign(&signed).to_bytes());
        bytes.put_slice(body);
        Self {
            header,
            id: blake3::hash(&signed).into(),
            bytes: bytes.freeze(),
        }
    }

    /// Reads a frame in full form and checks what needs neither its log nor cryptography.
    pub(crate) fn decode(bytes: Bytes, genesis: &GenesisHash) -> Result<Self, FrameError> {
        if bytes.len() < FULL_HEADER_LEN || bytes.len() > MAX_FRAME_LEN {
            return Err(FrameError::Length(bytes.len()));
        }
        if bytes[0] != FULL_FORM {
            return Err(FrameError::Form(bytes[0]));
        }
        let header = Header::read(&mut Fields::new(&bytes[1..]));
        let numbered = header.count >= 1 && header.first_nonce >= 1;
        let last = header.first_nonce.checked_add(u64::from(header.count));
        if !numbered || last.is_none() {
            return Err(FrameError::Nonces);
        }
        let (fields, body) = (&bytes[1..=FIELDS_LEN], &bytes[FULL_HEADER_LEN..]);
        Ok(Self {
            header,
            id: blake3::hash(&signed_bytes(genesis, fields, body)).into(),
            bytes,
        })
    }

    /// The header of bytes that may be a frame, unchecked.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Header> {
        let fields = bytes.get(1..=FIELDS_LEN)?;
        Some(Header::read(&mut Fields::new(fields)))
    }

    /// Verifies the author's signature.
    pub(crate) fn verify(
        &self,
        genesis: &GenesisHash,
        key: &PublicKey,
    ) -> Result<(), SignatureError> {
        let signed = signed_bytes(
            genesis,
            &self.bytes[1..=FIELDS_LEN],
            &self.bytes[FULL_HEADER_LEN..],
        );
        key.verify(&signed, &self.signature())
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
        Fields::new(&self.bytes[1 + FIELDS_LEN..]).take()
    }

    /// The commands as they were signed.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(FULL_HEADER_LEN..)
    }

    /// The commands, which share the frame's memory. Empty if the body is malformed, which that of
    /// a frame from a log never is.
    pub fn actions(&self) -> Vec<Action> {
        self.decode_actions().unwrap_or_default()
    }

    /// The puts among its commands.
    pub(crate) fn puts(&self) -> impl Iterator<Item = (Order, Key, Bytes)> {
        let numbered = self.actions().into_iter().zip(self.header.first_nonce..);
        numbered.filter_map(|(action, nonce)| match action {
            Action::Put { key, value } => Some((self.header.order(nonce), key, value)),
            _ => None,
        })
    }

    /// Verifies the body and reads the commands.
    pub(crate) fn decode_actions(&self) -> Result<Vec<Action>, BodyError> {
        let bytes = self.body();
        let body = Body::verify(&bytes)?;
        let own = |action| Action::from_wire(action, &bytes);
        Ok(body.actions().map(own).collect())
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

/// A shared frame: the log keeps it, links send it, nobody copies it.
pub type SharedFrame = Arc<SignedFrame>;
