//! The 32-byte BLAKE3 hashes that name things.

use std::fmt;

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the hash.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(hash.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

hash! {
    /// Names a frame: the hash of what its author signed, without the signature.
    FrameId
}
hash! {
    /// Names a room's genesis: the hash of what its creator signed, without the signature.
    GenesisHash
}
hash! {
    /// Names a schema.
    SchemaHash
}
hash! {
    /// Names a state: two logs of one genesis have equal state hashes iff they hold the same keys,
    /// values and roles.
    StateHash
}
hash! {
    /// Names a checkpoint.
    CheckpointName
}

impl CheckpointName {
    /// What the first checkpoint names as the one before: all zeros.
    pub const NONE: Self = Self([0; 32]);
}

impl FrameId {
    /// What the first frame of a log names as its previous frame: all zeros.
    pub const NONE: Self = Self([0; 32]);
}
