//! The link that brings someone into a room.

use std::{fmt, str::FromStr};

use roundtable_command_log::GenesisHash;
use roundtable_core::{AuthorId, RoomId};
use url::Url;

/// Why a link is not an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Not an `http://` or `https://` URL.
    #[error("an invite is a link such as http://host:8080/?room=demo#genesis=…")]
    Url,
    /// The link names no room, or one with an illegal name.
    #[error("the invite names no room: it needs ?room=NAME")]
    Room,
    /// The fragment is not the room's hash, or a secret.
    #[error(
        "the invite is damaged: after the # come genesis=, with 64 hexadecimal digits, and invite=, with a secret, or one of them"
    )]
    Genesis,
}

/// A server, a room on it, and the hash of the room's genesis.
///
/// The hash travels in the link's fragment, which browsers and clients never send to the server:
/// so the server cannot pass off another room as this one. Where the server is closed, the secret that it exchanges
/// for a grant is there, too. `Debug` does not show it; `Display` is the link, with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The server's page, `http` or `https`.
    server: Url,
    room: RoomId,
    genesis: Option<GenesisHash>,
    secret: Option<Secret>,
}

/// What a closed server exchanges for a grant.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Invite {
    /// An invite to `room` on the signaling server at `signaling` (`ws://` or `wss://`).
    pub(crate) fn new(signaling: &Url, room: RoomId, genesis: Option<GenesisHash>) -> Self {
        let mut server = signaling.clone();
        let scheme = if signaling.scheme() == "wss" {
            "https"
        } else {
            "http"
        };
        // `ws` and `http` are both special schemes, between which `set_scheme` always works.
        let _ = server.set_scheme(scheme);
        server.set_path("/");
        server.set_query(None);
        server.set_fragment(None);
        Self {
            server,
            room,
            genesis,
            secret: None,
        }
    }

    /// The same invite, with the secret for a closed server.
    pub(crate) fn with_secret(self, secret: Option<&str>) -> Self {
        let secret = secret.map(|secret| Secret(secret.to_owned()));
        Self { secret, ..self }
    }

    /// The same invite, with the genesis hash set.
    pub(crate) fn with_genesis(self, genesis: Option<GenesisHash>) -> Self {
        Self { genesis, ..self }
    }

    /// The room.
    pub fn room(&self) -> &RoomId {
        &self.room
    }

    /// The hash of the room's genesis, if the link carries it.
    pub fn genesis(&self) -> Option<GenesisHash> {
        self.genesis
    }

    /// What a closed server exchanges for a grant, if the link carries it.
    pub fn secret(&self) -> Option<&str> {
        self.secret.as_ref().map(|secret| secret.0.as_str())
    }

    /// The signaling server, `ws://` or `wss://`.
    pub fn signaling_url(&self) -> String {
        let mut url = self.server.clone();
        let scheme = if self.server.scheme() == "https" {
            "wss"
        } else {
            "ws"
        };
        let _ = url.set_scheme(scheme);
        url.set_path("/v1/ws");
        url.to_string()
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?room={}", self.server, self.room)?;
        let genesis = self.genesis.map(|genesis| format!("genesis={genesis}"));
        let secret = self.secret().map(|secret| format!("invite={secret}"));
        let parts: Vec<_> = genesis.into_iter().chain(secret).collect();
        match parts.is_empty() {
            true => Ok(()),
            false => write!(f, "#{}", parts.join("&")),
        }
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(link: &str) -> Result<Self, InviteError> {
        let mut server = Url::parse(link).map_err(|_| InviteError::Url)?;
        if !matches!(server.scheme(), "http" | "https") || server.host().is_none() {
            return Err(InviteError::Url);
        }
        let room = server.query_pairs().find(|(name, _)| name == "room");
        let room = room
            .and_then(|(_, room)| room.parse().ok())
            .ok_or(InviteError::Room)?;
        let (mut genesis, mut secret) = (None, None);
        let fragment = server.fragment().unwrap_or_default();
        for part in fragment.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("genesis", hex)) => {
                    // A genesis hash and an author have the same form: 64 hexadecimal digits.
                    let bytes = hex.parse::<AuthorId>().map_err(|_| InviteError::Genesis)?;
                    genesis = Some(GenesisHash::from_bytes(*bytes.as_bytes()));
                }
                Some(("invite", text)) if is_secret(text) => secret = Some(Secret(text.to_owned())),
                _ => return Err(InviteError::Genesis),
            }
        }
        server.set_query(None);
        server.set_fragment(None);
        Ok(Self {
            server,
            room,
            genesis,
            secret,
        })
    }
}

/// Whether a server can have made this: URL-safe Base64.
fn is_secret(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=128).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invites_round_trip_as_links() {
        let hex = "ab".repeat(32);
        let link = format!("http://127.0.0.1:8080/?room=demo#genesis={hex}");
        let invite: Invite = link.parse().unwrap();
        assert_eq!(invite.to_string(), link);
        assert_eq!(invite.signaling_url(), "ws://127.0.0.1:8080/v1/ws");
        let again = Invite::new(
            &Url::parse(&invite.signaling_url()).unwrap(),
            invite.room().clone(),
            invite.genesis(),
        );
        assert_eq!(again, invite);
    }

    #[test]
    fn an_invite_to_a_closed_server_carries_a_secret_that_only_the_link_shows() {
        let hex = "ab".repeat(32);
        for link in [
            format!("https://h/?room=demo#genesis={hex}&invite=s3cret-_"),
            "https://h/?room=demo#invite=s3cret-_".to_owned(),
        ] {
            let invite: Invite = link.parse().unwrap();
            assert_eq!(invite.secret(), Some("s3cret-_"));
            assert_eq!(invite.to_string(), link);
            assert!(!invite.signaling_url().contains("s3cret"));
            assert!(!format!("{invite:?}").contains("s3cret"));
        }
    }

    #[test]
    fn damaged_invites_are_refused() {
        for (link, error) in [
            ("demo", InviteError::Url),
            ("ftp://h/?room=demo", InviteError::Url),
            ("http://h/", InviteError::Room),
            ("http://h/?room=a%20b", InviteError::Room),
            ("http://h/?room=demo#genesis=12", InviteError::Genesis),
            ("http://h/?room=demo#x", InviteError::Genesis),
            ("http://h/?room=demo#invite=", InviteError::Genesis),
            ("http://h/?room=demo#invite=a b", InviteError::Genesis),
        ] {
            assert_eq!(link.parse::<Invite>(), Err(error), "{link}");
        }
    }
}
