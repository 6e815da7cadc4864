//! STUN and TURN servers, as their URLs name them (RFC 7064, RFC 7065).

use std::fmt;

use roundtable_signaling_protocol::IceServer;

use crate::ServerError;

/// URLs that are used at most; more are ignored, as each costs an allocation or a check.
pub(crate) const MAX_SERVERS: usize = 16;
/// The longest URL and host name, in bytes.
const MAX_URL_LEN: usize = 512;
/// The longest username (RFC 8489 §14.3) and credential, in bytes.
const MAX_CREDENTIAL_LEN: usize = 508;

/// How a server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
    Tls,
}

/// A long-term credential (RFC 8489 §9.2).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// One way to one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) via: Via,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// For TURN; a STUN server needs none.
    pub(crate) turn: Option<Credentials>,
}

/// Every URL of `servers`, up to the limit, with what it means.
pub(crate) fn parse_all(servers: &[IceServer]) -> Vec<(String, Result<Server, ServerError>)> {
    let urls = servers
        .iter()
        .flat_map(|server| server.urls.iter().map(move |url| (url, server)));
    urls.take(MAX_SERVERS)
        .map(|(url, server)| {
            let shown = url.chars().take(MAX_URL_LEN).collect();
            (shown, parse(url, server))
        })
        .collect()
}

fn parse(url: &str, server: &IceServer) -> Result<Server, ServerError> {
    if url.len() > MAX_URL_LEN {
        return Err(ServerError::Url);
    }
    let (scheme, rest) = url.split_once(':').ok_or(ServerError::Url)?;
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    let scheme = scheme.to_ascii_lowercase();
    let (is_turn, is_secure) = match scheme.as_str() {
        "stun" => (false, false),
        "stuns" => (false, true),
        "turn" => (true, false),
        "turns" => (true, true),
        _ => return Err(ServerError::Url),
    };
    let via = match (query, is_secure) {
        (None, true) | (Some("transport=tcp"), true) => Via::Tls,
        (None, false) | (Some("transport=udp"), false) => Via::Udp,
        (Some("transport=tcp"), false) => Via::Tcp,
        (Some("transport=udp"), true) => return Err(ServerError::Unsupported),
        _ => return Err(ServerError::Url),
    };
    // What a STUN server sees over TCP is a mapping that no UDP packet will have.
    if !is_turn && via != Via::Udp {
        return Err(ServerError::Unsupported);
    }
    let (host, port) = host_and_port(address, if is_secure { 5349 } else { 3478 })?;
    Ok(Server {
        via,
        host,
        port,
        turn: is_turn.then(|| credentials(server)).transpose()?,
    })
}

fn credentials(server: &IceServer) -> Result<Credentials, ServerError> {
    match (&server.username, &server.credential) {
        (Some(username), Some(password))
            if username.len() <= MAX_CREDENTIAL_LEN && password.len() <= MAX_CREDENTIAL_LEN =>
        {
            Ok(Credentials {
                username: username.clone(),
                password: password.clone(),
            })
        }
        _ => Err(ServerError::NoCredentials),
    }
}

/// Takes `host`, `host:port`, `[v6]` and `[v6]:port` apart.
fn host_and_port(address: &str, default: u16) -> Result<(String, u16), ServerError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(ServerError::Url)?;
            let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
            let port = match after.strip_prefix(':') {
                None if after.is_empty() => None,
                None => return Err(ServerError::Url),
                Some(port) => Some(port),
            };
            (is_v6.then_some(host), port)
        }
        None => match address.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(address), None),
        },
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let host = host
        .filter(|host| !host.is_empty() && host.chars().all(is_name))
        .ok_or(ServerError::Url)?;
    let port = match port {
        None => default,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(ServerError::Url),
            Ok(port) => port,
        },
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> Result<Server, ServerError> {
        let server = IceServer {
            urls: vec![url.into()],
            username: Some("u".into()),
            credential: Some("p".into()),
        };
        parse_all(&[server]).remove(0).1
    }

    fn way(url: &str) -> Option<(Via, String, u16, bool)> {
        let server = one(url).ok()?;
        Some((server.via, server.host, server.port, server.turn.is_some()))
    }

    #[test]
    fn urls_name_the_way_to_the_server() {
        for (url, via, host, port, turn) in [
            ("stun:a.example", Via::Udp, "a.example", 3478, false),
            ("STUN:1.2.3.4:99", Via::Udp, "1.2.3.4", 99, false),
            ("turn:a:1?transport=udp", Via::Udp, "a", 1, true),
            ("turn:[::1]?transport=tcp", Via::Tcp, "::1", 3478, true),
            ("turns:[::1]:443", Via::Tls, "::1", 443, true),
            ("turns:a?transport=tcp", Via::Tls, "a", 5349, true),
        ] {
            assert_eq!(way(url), Some((via, host.to_owned(), port, turn)), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_server_is_named_as_such() {
        for url in [
            "",
            "stun",
            "stun:",
            "stun:a:0",
            "stun:a:65536",
            "http://a",
            "turn:u@a",
            "turn://a",
            "turn:[::1",
            "turn:[a]",
            "turn:[::1]x",
            "turn:a?transport=sctp",
            "turn:a:1:2",
            "turn:::1",
        ] {
            assert_eq!(one(url), Err(ServerError::Url), "{url}");
        }
        assert_eq!(
            one(&format!("stun:{}", "a".repeat(600))),
            Err(ServerError::Url)
        );
        for url in ["turns:a?transport=udp", "stuns:a", "stun:a?transport=tcp"] {
            assert_eq!(one(url), Err(ServerError::Unsupported), "{url}");
        }
    }

    #[test]
    fn turn_needs_credentials_and_their_number_is_bounded() {
        let bare = IceServer {
            urls: vec!["turn:a".into(); 100],
            username: None,
            credential: None,
        };
        let parsed = parse_all(&[bare]);
        assert_eq!(parsed.len(), MAX_SERVERS);
        assert!(
            parsed
                .iter()
                .all(|(_, server)| *server == Err(ServerError::NoCredentials))
        );
    }
}
