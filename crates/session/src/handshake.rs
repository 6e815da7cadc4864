//! The handshake of one link: two hellos, then two signatures over both.
//!
//! ```text
//! signed = "roundtable/handshake/v1\0" ‖ side (0 initiator, 1 responder)
//!        ‖ BLAKE3(initiator's hello) ‖ BLAKE3(responder's hello) ‖ channel binding
//! ```
//! The side keeps a signature from being reflected, the fresh nonces in the hellos keep it from
//! being replayed, and the binding keeps it from being relayed over another link.

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use roundtable_command_log::PublicKey;
use roundtable_core::{ChannelBinding, CloseCode};
use roundtable_wire::session::{Control, Hello};

use crate::event::{LinkInfo, Side};

/// The version of the session protocol. Another major version is refused.
pub const PROTOCOL_VERSION: (u16, u16) = (1, 0);
/// The capability of a peer that reads elided command frames.
pub(crate) const ELIDED_FRAMES: &str = "elided-frames";
/// Length of a hello's nonce in bytes.
pub(crate) const NONCE_LEN: usize = 32;
const CONTEXT: &[u8] = b"roundtable/handshake/v1\0";

/// Why a peer is turned away: what it is told, and what people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: CloseCode,
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(crate) const fn new(code: CloseCode, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

/// One link's handshake, from the own hello to the other side's proof.
pub(crate) struct Handshake {
    side: Side,
    binding: ChannelBinding,
    own: Hello,
    own_hash: blake3::Hash,
    theirs: Option<Claim>,
}

/// What the other side says of itself, not proven yet.
struct Claim {
    hello: Hello,
    hash: blake3::Hash,
    key: PublicKey,
}

impl Handshake {
    /// Starts with our own hello; returns the message to send.
    pub(crate) fn start(info: &LinkInfo, own: Hello) -> (Self, Bytes) {
        let message = Control::Hello(own.clone()).encode();
        let handshake = Self {
            side: info.side,
            binding: info.binding,
            own_hash: blake3::hash(&message),
            own,
            theirs: None,
        };
        (handshake, message)
    }

    /// Takes the other side's hello, whose bytes are `encoded`; returns our proof.
    pub(crate) fn on_hello(
        &mut self,
        info: &LinkInfo,
        key: &SigningKey,
        hello: Hello,
        encoded: &[u8],
    ) -> Result<Control, Refusal> {
        if self.theirs.is_some() {
            let reason = "a second hello";
            return Err(Refusal::new(CloseCode::HANDSHAKE_INVALID, reason));
        }
        check_hello(info, &self.own, &hello)?;
        let Ok(public_key) = PublicKey::new(hello.author) else {
            let reason = "a malformed or weak key";
            return Err(Refusal::new(CloseCode::HANDSHAKE_SIGNATURE, reason));
        };
        let hash = blake3::hash(encoded);
        let signed = self.transcript(self.side, &hash);
        self.theirs = Some(Claim {
            hello,
            hash,
            key: public_key,
        });
        Ok(Control::Proof(key.sign(&signed).to_bytes()))
    }

    /// Takes the other side's proof; returns its hello, which is true from here on.
    pub(crate) fn on_proof(&self, signature: &[u8; 64]) -> Result<&Hello, Refusal> {
        let Some(Claim { hello, hash, key }) = &self.theirs else {
            let reason = "a proof before the hello";
            return Err(Refusal::new(CloseCode::HANDSHAKE_INVALID, reason));
        };
        let signed = self.transcript(self.side.other(), hash);
        if key.verify(&signed, signature).is_err() {
            let reason = "the signature does not verify";
            return Err(Refusal::new(CloseCode::HANDSHAKE_SIGNATURE, reason));
        }
        Ok(hello)
    }

    /// What our hello said of our genesis: its encoding, and whether we would give it up.
    pub(crate) fn shown_position(&self) -> (Option<Bytes>, bool) {
        (self.own.genesis.clone(), self.own.may_adopt)
    }

    /// What `signer` signs.
    fn transcript(&self, signer: Side, their_hash: &blake3::Hash) -> Vec<u8> {
        let (initiator, responder) = match self.side {
            Side::Initiator => (&self.own_hash, their_hash),
            Side::Responder => (their_hash, &self.own_hash),
        };
        [
            CONTEXT,
            &[signer.byte()],
            initiator.as_bytes(),
            responder.as_bytes(),
            self.binding.as_bytes(),
        ]
        .concat()
    }
}

/// Everything that can be told of a hello before its proof.
fn check_hello(info: &LinkInfo, own: &Hello, hello: &Hello) -> Result<(), Refusal> {
    let refuse = |code, reason| Err(Refusal::new(code, reason));
    if hello.protocol_major != own.protocol_major {
        return refuse(CloseCode::VERSION_MISMATCH, "another major version");
    }
    if hello.nonce.len() != NONCE_LEN {
        return refuse(CloseCode::HANDSHAKE_INVALID, "the nonce has not 32 bytes");
    }
    if hello.author == own.author || hello.nonce == own.nonce {
        return refuse(CloseCode::HANDSHAKE_REFLECTED, "our own key or nonce");
    }
    if hello.peer_id != info.peer {
        return refuse(CloseCode::IDENTITY_MISMATCH, "not the peer of signaling");
    }
    if hello.room != own.room {
        return refuse(CloseCode::IDENTITY_MISMATCH, "another room");
    }
    if info
        .proven_author
        .is_some_and(|proven| proven != hello.author)
    {
        return refuse(CloseCode::IDENTITY_MISMATCH, "not the key of the transport");
    }
    if hello.schema_hash != own.schema_hash {
        return refuse(CloseCode::SCHEMA_MISMATCH, "another command schema");
    }
    Ok(())
}
