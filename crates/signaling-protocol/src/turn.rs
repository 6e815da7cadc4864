//! TURN REST credentials: a user name that says when it expires, and a password that proves that
//! whoever made it shares a secret with the TURN server
//! (draft-uberti-behave-turn-rest-00, as coturn's `use-auth-secret` checks it).

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use roundtable_core::{PeerId, WallTime};
use sha1::Sha1;

/// The secret that is shared with a TURN server. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnSecret(Box<str>);

/// What a peer shows to the TURN server.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnCredentials {
    /// `EXPIRY:USER`, the expiry in seconds since the Unix epoch.
    pub username: String,
    /// Base64 of HMAC-SHA1 over the user name.
    pub password: String,
}

impl TurnSecret {
    /// A secret as the TURN server's configuration has it; `None` for an empty one, which would let
    /// anyone in.
    pub fn new(secret: &str) -> Option<Self> {
        (!secret.is_empty()).then(|| Self(secret.into()))
    }

    /// Credentials of `user` that serve until `expires`, to the second below. Allocations that stand
    /// by then live on until they are to be refreshed.
    #[allow(clippy::missing_panics_doc)] // HMAC takes keys of every length
    pub fn credentials(&self, user: &PeerId, expires: WallTime) -> TurnCredentials {
        let username = format!("{}:{user}", expires.as_millis() / 1000);
        let mac = Hmac::<Sha1>::new_from_slice(self.0.as_bytes());
        let mut mac = mac.expect("HMAC takes keys of every length");
        mac.update(username.as_bytes());
        let password = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        TurnCredentials { username, password }
    }
}

impl fmt::Debug for TurnSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnSecret(..)")
    }
}

impl fmt::Debug for TurnCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnCredentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_that_openssl_computes() {
        let secret = TurnSecret::new("north").unwrap();
        let alice = PeerId::new("alice").unwrap();
        let expires = WallTime::from_millis(1_800_000_000_999);
        let credentials = secret.credentials(&alice, expires);
        assert_eq!(credentials.username, "1800000000:alice");
        // printf 1800000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(credentials.password, "sIm7pn/teO7y3AyXGeXl/xAQR6Q=");
        assert!(!format!("{secret:?}{credentials:?}").contains("north"));
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert_eq!(TurnSecret::new(""), None);
    }
}
