//! What clients of each server say.

use std::fmt::Write as _;

/// Peers in each of our rooms; the other servers have no rooms.
pub(crate) const ROOM: usize = 10;

/// Bytes of a relayed description.
const BODY: usize = 2048;
/// What the time of sending follows, in the description.
const MARK: &str = "sent-at=";
/// Digits of that time.
const DIGITS: usize = 16;

/// A server's language. Clients are numbers; every ten of them in turn are a group, and write to one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Ours, with notifications: nobody hears that his offer was passed on, as with the others.
    Roundtable,
    /// Ours, with requests: each is answered.
    RoundtableAnswered,
    /// PeerJS.
    PeerJs,
    /// The bare relay over `ws`.
    Relay,
}

impl Dialect {
    /// What the upgrade asks for.
    pub(crate) fn target(self, client: usize) -> String {
        match self {
            Self::Roundtable | Self::RoundtableAnswered => "/v1/ws".into(),
            Self::PeerJs => format!("/peerjs?key=peerjs&id=p{client}&token=t{client}"),
            Self::Relay => format!("/?id=p{client}"),
        }
    }

    /// What a client says first, if anything.
    pub(crate) fn greeting(self, client: usize) -> Option<String> {
        match self {
            Self::Roundtable | Self::RoundtableAnswered => {
                Some(announce(&room_of(client), client, None))
            }
            Self::PeerJs | Self::Relay => None,
        }
    }

    /// Whether this tells a client that it is in; the bare relay says nothing.
    pub(crate) fn admits(self, text: &str) -> bool {
        match self {
            Self::Roundtable | Self::RoundtableAnswered => text.contains("\"resume\""),
            Self::PeerJs => text.contains("\"OPEN\""),
            Self::Relay => true,
        }
    }

    /// Whether a newcomer waits to be told that it is in.
    pub(crate) const fn tells(self) -> bool {
        !matches!(self, Self::Relay)
    }

    /// The `number`-th offer of `from` to the next client of its group.
    pub(crate) fn offer(self, from: usize, number: usize, sent_at: u64) -> String {
        let to = next_of(from);
        // As JSON has it: the end of a line takes four bytes.
        let mut sdp = format!(r"v=0\r\ns={MARK}{sent_at:0DIGITS$}\r\n");
        while sdp.len() < BODY {
            let port = sdp.len();
            let line = r"a=candidate:1 1 udp 2122260223 192.0.2.1";
            let _ = write!(sdp, r"{line} {port} typ host\r\n");
        }
        let params = format!(r#"{{"to":"p{to}","request_id":"{from}-{number}","sdp":"{sdp}"}}"#);
        match self {
            Self::Roundtable => {
                format!(r#"{{"jsonrpc":"2.0","method":"peer.offer","params":{params}}}"#)
            }
            Self::RoundtableAnswered => format!(
                r#"{{"jsonrpc":"2.0","id":{number},"method":"peer.offer","params":{params}}}"#
            ),
            Self::PeerJs => {
                format!(r#"{{"type":"OFFER","dst":"p{to}","payload":{params}}}"#)
            }
            Self::Relay => params,
        }
    }
}

/// Whom a client writes to.
pub(crate) const fn next_of(client: usize) -> usize {
    client / ROOM * ROOM + (client + 1) % ROOM
}

/// The room that a client is in.
pub(crate) fn room_of(client: usize) -> String {
    format!("room-{}", client / ROOM)
}

/// The announce of a client.
pub(crate) fn announce(room: &str, client: usize, token: Option<&str>) -> String {
    let token = token.map_or(String::new(), |token| format!(r#","token":"{token}""#));
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"peer.announce","params":{{"protocol":1,"room":"{room}","peer_id":"p{client}","capabilities":["data","audio"]{token}}}}}"#
    )
}

/// When an offer was sent, if this is one.
pub(crate) fn sent_at(text: &str) -> Option<u64> {
    let at = text.find(MARK)? + MARK.len();
    text.get(at..at + DIGITS)?.parse().ok()
}
