//! The one place that verifies signatures: Ed25519 (RFC 8032) by the rules of ZIP 215.
//!
//! RFC 8032 leaves room for verifiers to disagree on altered signatures, and peers that disagree
//! diverge. ZIP 215 leaves none, and its single and batch verdicts are the same.

use std::fmt;

use ed25519_zebra::{Signature, VerificationKey, batch};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use roundtable_core::AuthorId;

/// Context of the hash that a batch's coefficients come from.
const COEFFICIENTS: &str = "roundtable 2026 coefficients of a batch verification v1";
/// Below this many signatures, those of a batch that failed are verified one by one.
const MIN_BATCH: usize = 8;

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
        #[cfg(feature = "__memo")]
        return crate::memo::key(author, || Self::check(author));
        #[cfg(not(feature = "__memo"))]
        Self::check(author)
    }

    fn check(author: AuthorId) -> Result<Self, KeyError> {
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
        #[cfg(feature = "__memo")]
        {
            let digest = blake3::hash(message);
            let case = crate::memo::case(&self.author, digest.as_bytes(), signature);
            let find = || vec![self.verify_anew(message, signature)];
            crate::memo::verdicts(&[case], find)[0]
        }
        #[cfg(not(feature = "__memo"))]
        self.verify_anew(message, signature)
    }

    fn verify_anew(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
        self.key
            .verify(&Signature::from_bytes(signature), message)
            .map_err(|_| SignatureError)
    }
}

/// Signatures that are verified together, in a third of the time or less.
///
/// One equation stands for all of them: their sum with coefficients that nobody can foresee. The coefficients come
/// from a hash of all keys, messages and signatures, so a batch needs no randomness and repeats to the byte.
#[derive(Default)]
pub(crate) struct Batch {
    items: Vec<batch::Item>,
    transcript: Vec<u8>,
}

impl Batch {
    /// Adds one. `digest` is a hash of the message.
    pub(crate) fn push(
        &mut self,
        key: &PublicKey,
        message: &[u8],
        digest: &[u8; 32],
        signature: &[u8; 64],
    ) {
        let author = *key.author.as_bytes();
        for part in [&author[..], digest, signature] {
            self.transcript.extend_from_slice(part);
        }
        let signature = Signature::from_bytes(signature);
        self.items.push((author.into(), signature, message).into());
    }

    /// The verdict on each, in the order in which they were added: the one that
    /// [`PublicKey::verify`] has. If they do not verify as a whole, halves are tried.
    pub(crate) fn verify(self) -> Vec<Result<(), SignatureError>> {
        #[cfg(feature = "__memo")]
        {
            let (cases, _) = self.transcript.as_chunks();
            crate::memo::verdicts(cases, || self.verify_anew())
        }
        #[cfg(not(feature = "__memo"))]
        self.verify_anew()
    }

    fn verify_anew(&self) -> Vec<Result<(), SignatureError>> {
        let mut coefficients =
            ChaCha20Rng::from_seed(blake3::derive_key(COEFFICIENTS, &self.transcript));
        let mut verdicts = Vec::with_capacity(self.items.len());
        judge(&self.items, &mut coefficients, &mut verdicts);
        verdicts
    }
}

fn judge(
    items: &[batch::Item],
    coefficients: &mut ChaCha20Rng,
    verdicts: &mut Vec<Result<(), SignatureError>>,
) {
    if items.len() < MIN_BATCH {
        let single = |item: &batch::Item| item.clone().verify_single().map_err(|_| SignatureError);
        return verdicts.extend(items.iter().map(single));
    }
    let mut all = batch::Verifier::new();
    items.iter().for_each(|item| all.queue(item.clone()));
    if all.verify(&mut *coefficients).is_ok() {
        return verdicts.extend(items.iter().map(|_| Ok(())));
    }
    let (left, right) = items.split_at(items.len() / 2);
    judge(left, coefficients, verdicts);
    judge(right, coefficients, verdicts);
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
        edwards::CompressedEdwardsY,
    };
    use sha2::{Digest, Sha512};

    use super::*;

    const MESSAGE: &[u8] = b"a message";

    /// A signature whose R is off by a point of small order: RFC 8032 lets verifiers choose.
    fn off_by(torsion: usize) -> (AuthorId, [u8; 64]) {
        both_off_by(torsion, 0)
    }

    /// The same, and so is the key.
    fn both_off_by(torsion: usize, of_key: usize) -> (AuthorId, [u8; 64]) {
        let (secret, nonce) = (Scalar::from(12_345_u64), Scalar::from(678_u64));
        let public = (ED25519_BASEPOINT_POINT * secret + EIGHT_TORSION[of_key]).compress();
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

    /// 480 signatures whose R or key is off by points of small order, some of them damaged as well: in batches of
    /// any size each has the verdict that it has by itself.
    #[test]
    fn torsion_changes_no_verdict_in_a_batch() {
        let altered: Vec<_> = (0..480_u16)
            .map(|number| {
                let (r, of_key) = (usize::from(number % 8), usize::from(number / 8 % 8));
                let (author, mut signature) = both_off_by(r, of_key);
                if number % 7 == 3 {
                    // R is off once more, and not what was signed.
                    let r = CompressedEdwardsY(signature[..32].try_into().unwrap());
                    let r = r.decompress().unwrap() + EIGHT_TORSION[1];
                    signature[..32].copy_from_slice(r.compress().as_bytes());
                }
                if number % 11 == 5 {
                    signature[40] ^= 1;
                }
                (PublicKey::new(author).unwrap(), signature)
            })
            .collect();
        let single: Vec<_> = altered
            .iter()
            .map(|(key, signature)| key.verify(MESSAGE, signature))
            .collect();
        assert!(single.iter().filter(|verdict| verdict.is_err()).count() > 50);
        for size in [1, 7, 8, 64, 480] {
            let batches = altered.chunks(size).map(|chunk| {
                let mut batch = Batch::default();
                for (key, signature) in chunk {
                    batch.push(key, MESSAGE, blake3::hash(MESSAGE).as_bytes(), signature);
                }
                batch.verify()
            });
            assert_eq!(batches.collect::<Vec<_>>().concat(), single, "{size}");
        }
    }

    /// Two forged signatures whose errors cancel out if all coefficients are equal.
    #[test]
    fn errors_that_cancel_out_are_found() {
        let (author, good) = off_by(0);
        let key = PublicKey::new(author).unwrap();
        let shifted = |by: Scalar| {
            let s = Scalar::from_canonical_bytes(good[32..].try_into().unwrap()).unwrap();
            let mut signature = good;
            signature[32..].copy_from_slice((s + by).as_bytes());
            signature
        };
        let mut batch = Batch::default();
        let digest = blake3::hash(MESSAGE);
        for signature in [shifted(Scalar::ONE), shifted(-Scalar::ONE)] {
            batch.push(&key, MESSAGE, digest.as_bytes(), &signature);
        }
        for _ in 0..62 {
            batch.push(&key, MESSAGE, digest.as_bytes(), &good);
        }
        let verdicts = batch.verify();
        assert_eq!(verdicts[..2], [Err(SignatureError); 2]);
        assert_eq!(verdicts[2..], [Ok(()); 62]);
    }

    #[test]
    fn every_point_of_small_order_is_weak() {
        for point in EIGHT_TORSION {
            let author = AuthorId::from_bytes(point.compress().to_bytes());
            assert_eq!(PublicKey::new(author).err(), Some(KeyError::Weak));
        }
    }
}
