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
    /// The fragment is not the room's hash.
    #[error("the invite is damaged: what follows #genesis= must be 64 hexadecimal digits")]
    Genesis,
}

/// A server, a room on it, and the hash of the room's genesis.
///
/// The hash travels in the link's fragment, which browsers and clients never send to the server:
/// so the server cannot pass off another room as this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The server's page, `http` or `https`.
    server: Url,
    room: RoomId,
    genesis: Option<GenesisHash>,
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
        }
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
        match self.genesis {
            Some(genesis) => write!(f, "#genesis={genesis}"),
            None => Ok(()),
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
        let genesis = match server.fragment() {
            None | Some("") => None,
            Some(fragment) => {
                let hex = fragment
                    .strip_prefix("genesis=")
                    .ok_or(InviteError::Genesis)?;
                // A genesis hash and an author have the same form: 64 hexadecimal digits.
                let bytes = hex.parse::<AuthorId>().map_err(|_| InviteError::Genesis)?;
                Some(GenesisHash::from_bytes(*bytes.as_bytes()))
            }
        };
        server.set_query(None);
        server.set_fragment(None);
        Ok(Self {
            server,
            room,
            genesis,
        })
    }
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
    fn damaged_invites_are_refused() {
        for (link, error) in [
            ("demo", InviteError::Url),
            ("ftp://h/?room=demo", InviteError::Url),
            ("http://h/", InviteError::Room),
            ("http://h/?room=a%20b", InviteError::Room),
            ("http://h/?room=demo#genesis=12", InviteError::Genesis),
            ("http://h/?room=demo#x", InviteError::Genesis),
        ] {
            assert_eq!(link.parse::<Invite>(), Err(error), "{link}");
        }
    }
}
