//! The one place that verifies signatures: Ed25519 (RFC 8032) by the rules of ZIP 215.
//!
//! RFC 8032 leaves room for verifiers to disagree on altered signatures, and peers that disagree
//! diverge. ZIP 215 leaves none, and its single and batch verdicts are the same.

use std::fmt;

use ed25519_zebra::{Signature, VerificationKey};
use roundtable_core::AuthorId;

/// Why bytes are not a usable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// They encode no point of the curve.
    #[error("the public key is malformed")]
    Malformed,
    /// The point has a small order, so signatures by it verify for almost any message.
    #[error("the public key is weak")]
    Weak,
}

/// The signature is not by this key over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct SignatureError;

/// A public key that has been checked, ready to verify many signatures.
#[derive(Clone, Copy)]
pub struct PublicKey {
    author: AuthorId,
    key: VerificationKey,
}

impl PublicKey {
    /// Checks an author's key.
    ///
    /// # Errors
    /// [`KeyError`] if it is malformed or weak.
    pub fn new(author: AuthorId) -> Result<Self, KeyError> {
        let key = VerificationKey::try_from(*author.as_bytes()).map_err(|_| KeyError::Malformed)?;
        let weak = ed25519_dalek::VerifyingKey::from_bytes(author.as_bytes())
            .map_or(true, |key| key.is_weak());
        if weak {
            return Err(KeyError::Weak);
        }
        Ok(Self { author, key })
    }

    /// Whose key it is.
    pub const fn author(&self) -> AuthorId {
        self.author
    }

    /// Verifies one signature. The message must start with a context string of its own purpose.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
        self.key
            .verify(&Signature::from_bytes(signature), message)
            .map_err(|_| SignatureError)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.author)
    }
}
