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

#[cfg(test)]
mod tests {
    use curve25519_dalek::{
        Scalar,
        constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
    };
    use ed25519_zebra::batch;
    use sha2::{Digest, Sha512};

    use super::*;

    const MESSAGE: &[u8] = b"a message";

    /// A signature whose R is off by a point of small order: RFC 8032 lets verifiers choose.
    fn off_by(torsion: usize) -> (AuthorId, [u8; 64]) {
        let (secret, nonce) = (Scalar::from(12_345_u64), Scalar::from(678_u64));
        let public = (ED25519_BASEPOINT_POINT * secret).compress();
        let r = (ED25519_BASEPOINT_POINT * nonce + EIGHT_TORSION[torsion]).compress();
        let hash = Sha512::new()
            .chain_update(r.as_bytes())
            .chain_update(public.as_bytes())
            .chain_update(MESSAGE);
        let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let s = nonce + k * secret;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(r.as_bytes());
        signature[32..].copy_from_slice(s.as_bytes());
        (AuthorId::from_bytes(public.to_bytes()), signature)
    }

    #[test]
    fn torsion_changes_no_verdict() {
        for torsion in 0..8 {
            let (author, signature) = off_by(torsion);
            let key = PublicKey::new(author).unwrap();
            assert_eq!(key.verify(MESSAGE, &signature), Ok(()));
            let item = (
                (*author.as_bytes()).into(),
                Signature::from_bytes(&signature),
                MESSAGE,
            );
            assert!(batch::Item::from(item).verify_single().is_ok());

            let strict = ed25519_dalek::VerifyingKey::from_bytes(author.as_bytes()).unwrap();
            let signature = ed25519_dalek::Signature::from_bytes(&signature);
            let rfc = strict.verify_strict(MESSAGE, &signature);
            assert_eq!(rfc.is_ok(), torsion == 0, "which is why one rule is chosen");
        }
    }

    #[test]
    fn every_point_of_small_order_is_weak() {
        for point in EIGHT_TORSION {
            let author = AuthorId::from_bytes(point.compress().to_bytes());
            assert_eq!(PublicKey::new(author).err(), Some(KeyError::Weak));
        }
    }
}
