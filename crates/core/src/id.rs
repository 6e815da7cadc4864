//! Who and where: peers, authors, rooms, and the value that binds a handshake to its link.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The name is empty or longer than 64 characters.
    #[error("a name has 1 to 64 characters; this one has {0}")]
    Length(usize),
    /// The name has a character other than `A-Z a-z 0-9 _ -`.
    #[error("a name consists of A-Z, a-z, 0-9, _ and -; {0:?} is not among them")]
    Character(char),
    /// Not 64 hexadecimal digits.
    #[error("a key is 64 hexadecimal digits")]
    Hex,
}

fn check_name(name: &str) -> Result<(), IdError> {
    if name.is_empty() || name.len() > 64 {
        return Err(IdError::Length(name.chars().count()));
    }
    let bad = |c: &char| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-');
    match name.chars().find(bad) {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `name` against `^[A-Za-z0-9_-]{1,64}$`.
            ///
            /// # Errors
            /// [`IdError`] says which rule is broken.
            pub fn new(name: &str) -> Result<Self, IdError> {
                check_name(name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(name: &str) -> Result<Self, IdError> {
                Self::new(name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a peer in a room, unique there while it is present. Cheap to clone.
    PeerId
}
name! {
    /// The name of a room on a signaling server. Cheap to clone.
    RoomId
}

/// An author of commands: the 32 bytes of an Ed25519 public key (RFC 8032).
///
/// Holding one proves nothing; the handshake does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorId([u8; 32]);

impl AuthorId {
    /// Wraps the compressed public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The compressed public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for AuthorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for AuthorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl FromStr for AuthorId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(IdError::Hex);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| IdError::Hex)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| IdError::Hex)?;
        }
        Ok(Self(key))
    }
}

/// 32 bytes that both ends of one link share and no other link has: the handshake signs it, so a
/// signature cannot be replayed over another link.
///
/// QUIC: TLS exporter (RFC 8446 §7.5). WebRTC: hash over both DTLS fingerprints, sorted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// Wraps the shared value.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The shared value.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_signaling_grammar() {
        assert!(PeerId::new("Alice_7-b").is_ok());
        assert_eq!(PeerId::new(""), Err(IdError::Length(0)));
        assert_eq!(RoomId::new(&"x".repeat(65)), Err(IdError::Length(65)));
        assert_eq!(RoomId::new("a b"), Err(IdError::Character(' ')));
        assert_eq!(RoomId::new("é"), Err(IdError::Character('é')));
    }

    #[test]
    fn author_ids_round_trip_as_hex() {
        let id = AuthorId::from_bytes(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("zz".parse::<AuthorId>(), Err(IdError::Hex));
        assert_eq!("é".repeat(32).parse::<AuthorId>(), Err(IdError::Hex));
    }
}
