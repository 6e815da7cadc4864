//! A room's beginning: who created it, when, and by which rules its log is judged.

use ed25519_dalek::{Signer, SigningKey};
use roundtable_core::{AuthorId, WallTime};

use crate::{GenesisHash, KeyError, PublicKey, Role, SchemaHash, SignatureError, layout::Fields};

const CONTEXT: &[u8] = b"roundtable/genesis/v1\0";
/// The first byte of an encoded genesis.
const FORM: u8 = 1;
/// The signed fields without the context.
const FIELDS_LEN: usize = 32 + 8 + 32 + 1 + 1 + 2 + 4 + 4 + 2 + 32;
const ENCODED_LEN: usize = 1 + FIELDS_LEN + 64;

/// The most writers that a genesis may allow.
const MAX_WRITERS: u16 = 256;

/// The rules of merging that this version implements.
pub const MERGE_VERSION: u16 = 1;

/// How fast an author may write: a bucket of `burst` tokens, refilled at `per_second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a full bucket, at least 1; default 100. A command costs one token and one more for
    /// each full KiB of payload, so the largest costs 65.
    pub burst: u32,
    /// Tokens a second, at least 1; default 10.
    pub per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            burst: 100,
            per_second: 10,
        }
    }
}

/// What a creator decides about a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenesisParams {
    /// 32 fresh random bytes: two rooms never share them.
    pub room: [u8; 32],
    /// When the room begins; no frame may be older. Kept to the millisecond.
    pub wall: WallTime,
    /// The role of authors that nobody gave one: Viewer (the default) or Editor.
    pub default_role: Role,
    /// How fast an author may write.
    pub limits: Limits,
    /// Whether peers without the session handshake may take part in media and application
    /// messages. Default: no.
    pub guests_allowed: bool,
    /// The most authors that may hold more than the default role at a time, 1 to 256; default 64. All
    /// of them find a place in a checkpoint, beside others.
    pub max_writers: u16,
    /// The room's schema.
    pub schema: SchemaHash,
}

impl GenesisParams {
    /// A room with the default rules.
    pub fn new(room: [u8; 32], wall: WallTime, schema: SchemaHash) -> Self {
        Self {
            room,
            wall,
            default_role: Role::Viewer,
            limits: Limits::default(),
            guests_allowed: false,
            max_writers: 64,
            schema,
        }
    }

    fn check(&self) -> Result<(), GenesisError> {
        if self.default_role == Role::Admin {
            return Err(GenesisError::DefaultRole);
        }
        if self.limits.burst == 0 || self.limits.per_second == 0 {
            return Err(GenesisError::Limits);
        }
        if !(1..=MAX_WRITERS).contains(&self.max_writers) {
            return Err(GenesisError::MaxWriters(self.max_writers));
        }
        Ok(())
    }
}

/// Why a genesis was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// Not the length of an encoded genesis.
    #[error("a genesis has {ENCODED_LEN} bytes; this one has {0}")]
    Length(usize),
    /// An encoding of a later version.
    #[error("form {0} of a genesis is not known to this version")]
    Form(u8),
    /// A role or flag that this version does not know.
    #[error("the genesis has an unknown role or flag")]
    UnknownValue,
    /// Everyone would be an Admin.
    #[error("the default role is Viewer or Editor")]
    DefaultRole,
    /// A burst or rate of zero.
    #[error("burst and rate are at least 1")]
    Limits,
    /// Not 1 to 256 writers.
    #[error("a room has 1 to {MAX_WRITERS} writers, not {0}")]
    MaxWriters(u16),
    /// The creator's key is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The creator did not sign this.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// A room's beginning, signed by its creator. One that exists has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    params: GenesisParams,
    merge_version: u16,
    creator: AuthorId,
    signature: [u8; 64],
    hash: GenesisHash,
}

impl Genesis {
    /// Signs a new room's genesis.
    ///
    /// # Errors
    /// [`GenesisError`] when a rule is out of range.
    pub fn create(params: GenesisParams, key: &SigningKey) -> Result<Self, GenesisError> {
        params.check()?;
        let params = GenesisParams {
            wall: WallTime::from_millis(params.wall.as_millis()),
            ..params
        };
        let creator = AuthorId::from_bytes(key.verifying_key().to_bytes());
        let signed = signed_bytes(&params, MERGE_VERSION, creator);
        Ok(Self {
            params,
            merge_version: MERGE_VERSION,
            creator,
            signature: key.sign(&signed).to_bytes(),
            hash: blake3::hash(&signed).into(),
        })
    }

    /// Reads and verifies an encoded genesis.
    ///
    /// # Errors
    /// [`GenesisError`]; any bytes are safe.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisError> {
        if bytes.len() != ENCODED_LEN {
            return Err(GenesisError::Length(bytes.len()));
        }
        let mut fields = Fields::new(bytes);
        let form = fields.u8();
        if form != FORM {
            return Err(GenesisError::Form(form));
        }
        let room = fields.take();
        let wall = WallTime::from_millis(fields.u64());
        let creator = AuthorId::from_bytes(fields.take());
        let default_role = Role::from_number(fields.u8()).ok_or(GenesisError::UnknownValue)?;
        let guests_allowed = match fields.u8() {
            flags @ 0..=1 => flags == 1,
            _ => return Err(GenesisError::UnknownValue),
        };
        let max_writers = fields.u16();
        let limits = Limits {
            burst: fields.u32(),
            per_second: fields.u32(),
        };
        let merge_version = fields.u16();
        let schema = SchemaHash::from_bytes(fields.take());
        let signature = fields.take();
        let params = GenesisParams {
            room,
            wall,
            default_role,
            limits,
            guests_allowed,
            max_writers,
            schema,
        };
        params.check()?;
        let signed = [CONTEXT, &bytes[1..=FIELDS_LEN]].concat();
        PublicKey::new(creator)?.verify(&signed, &signature)?;
        Ok(Self {
            params,
            merge_version,
            creator,
            signature,
            hash: blake3::hash(&signed).into(),
        })
    }

    /// The encoding that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let signed = signed_bytes(&self.params, self.merge_version, self.creator);
        [&[FORM], &signed[CONTEXT.len()..], &self.signature].concat()
    }

    /// Names this genesis.
    pub const fn hash(&self) -> GenesisHash {
        self.hash
    }

    /// Who signed it: an Admin whom nobody can revoke.
    pub const fn creator(&self) -> AuthorId {
        self.creator
    }

    /// What the creator decided.
    pub const fn params(&self) -> &GenesisParams {
        &self.params
    }

    /// The rules of merging that all peers must implement.
    pub const fn merge_version(&self) -> u16 {
        self.merge_version
    }

    /// The milliseconds from the genesis to `wall_ms`, `None` before it.
    pub(crate) fn elapsed_ms(&self, wall_ms: u64) -> Option<u64> {
        wall_ms.checked_sub(self.params.wall.as_millis())
    }
}

fn signed_bytes(params: &GenesisParams, merge_version: u16, creator: AuthorId) -> Vec<u8> {
    [
        CONTEXT,
        &params.room,
        &params.wall.as_millis().to_le_bytes(),
        creator.as_bytes(),
        &[params.default_role.number()],
        &[u8::from(params.guests_allowed)],
        &params.max_writers.to_le_bytes(),
        &params.limits.burst.to_le_bytes(),
        &params.limits.per_second.to_le_bytes(),
        &merge_version.to_le_bytes(),
        params.schema.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn genesis() -> Genesis {
        let schema = SchemaHash::from_bytes([3; 32]);
        let params = GenesisParams::new([7; 32], WallTime::from_micros(5_000_999), schema);
        Genesis::create(params, &SigningKey::from_bytes(&[1; 32])).unwrap()
    }

    #[test]
    fn a_genesis_reads_back_as_it_was_created() {
        let genesis = genesis();
        assert_eq!(genesis.params().wall, WallTime::from_millis(5000));
        assert_eq!(Genesis::decode(&genesis.encode()), Ok(genesis));
    }

    #[test]
    fn rules_out_of_range_are_refused() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let with = |change: fn(&mut GenesisParams)| {
            let mut params = genesis().params().clone();
            change(&mut params);
            Genesis::create(params, &key).err()
        };
        assert_eq!(
            with(|p| p.default_role = Role::Admin),
            Some(GenesisError::DefaultRole)
        );
        assert_eq!(
            with(|p| p.limits.per_second = 0),
            Some(GenesisError::Limits)
        );
        assert_eq!(
            with(|p| p.max_writers = 0),
            Some(GenesisError::MaxWriters(0))
        );
        assert_eq!(
            with(|p| p.max_writers = 257),
            Some(GenesisError::MaxWriters(257))
        );
    }

    proptest! {
        #[test]
        fn a_changed_genesis_never_verifies(at in 0..ENCODED_LEN, bit in 0..8_u8) {
            let mut bytes = genesis().encode();
            bytes[at] ^= 1 << bit;
            prop_assert!(Genesis::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Genesis::decode(&bytes).is_err());
        }
    }
}
