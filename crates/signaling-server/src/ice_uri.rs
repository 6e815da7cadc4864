//! The URIs of STUN and TURN servers (RFC 7064, RFC 7065).

use std::str::FromStr;

/// What a URI's server is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Stun,
    Turn,
}

/// How a STUN or TURN server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl Carrier {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Where a STUN or TURN server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IceUri {
    pub(crate) service: Service,
    /// A name or an address; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    secure: bool,
    /// As named by `?transport=`.
    transport: Option<Carrier>,
}

/// The text is no such URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAnIceUri;

impl IceUri {
    /// Every way in which clients come that can be checked: over UDP and TCP, where the URI leaves it open. DTLS, which
    /// browsers do not use, is not among them.
    pub(crate) fn carriers(&self) -> &'static [Carrier] {
        match (self.secure, self.transport, self.service) {
            (true, Some(Carrier::Udp), _) => &[],
            (true, ..) => &[Carrier::Tls],
            (false, Some(Carrier::Tcp), _) => &[Carrier::Tcp],
            (false, None, Service::Turn) => &[Carrier::Udp, Carrier::Tcp],
            (false, ..) => &[Carrier::Udp],
        }
    }
}

impl FromStr for IceUri {
    type Err = NotAnIceUri;

    fn from_str(text: &str) -> Result<Self, NotAnIceUri> {
        let (scheme, rest) = text.split_once(':').ok_or(NotAnIceUri)?;
        let (service, secure) = match scheme {
            "stun" => (Service::Stun, false),
            "stuns" => (Service::Stun, true),
            "turn" => (Service::Turn, false),
            "turns" => (Service::Turn, true),
            _ => return Err(NotAnIceUri),
        };
        let (authority, transport) = match rest.split_once('?') {
            None => (rest, None),
            Some((authority, "transport=udp")) if service == Service::Turn => {
                (authority, Some(Carrier::Udp))
            }
            Some((authority, "transport=tcp")) if service == Service::Turn => {
                (authority, Some(Carrier::Tcp))
            }
            Some(_) => return Err(NotAnIceUri),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']').ok_or(NotAnIceUri)?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| NotAnIceUri)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(NotAnIceUri),
                }
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(NotAnIceUri);
        }
        let default = if secure { 5349 } else { 3478 };
        let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| NotAnIceUri))?;
        match port {
            0 => Err(NotAnIceUri),
            _ => Ok(Self {
                service,
                host: host.to_owned(),
                port,
                secure,
                transport,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Service, String, u16, &'static [Carrier]) {
        let uri: IceUri = text.parse().unwrap();
        (uri.service, uri.host.clone(), uri.port, uri.carriers())
    }

    #[test]
    fn a_uri_says_who_is_asked_for_what_and_how() {
        use Carrier::{Tcp, Tls, Udp};
        use Service::{Stun, Turn};
        for (text, service, host, port, carriers) in [
            ("stun:s.example", Stun, "s.example", 3478, &[Udp] as &[_]),
            ("turn:t.example", Turn, "t.example", 3478, &[Udp, Tcp]),
            (
                "turn:t.example:80?transport=tcp",
                Turn,
                "t.example",
                80,
                &[Tcp],
            ),
            ("turn:[::1]:9?transport=udp", Turn, "::1", 9, &[Udp]),
            ("turns:t.example", Turn, "t.example", 5349, &[Tls]),
            (
                "turns:t.example:443?transport=tcp",
                Turn,
                "t.example",
                443,
                &[Tls],
            ),
        ] {
            assert_eq!(
                parsed(text),
                (service, host.to_owned(), port, carriers),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in [
            "",
            "turn",
            "turn:",
            "turn://h",
            "http://h",
            "turn:h:",
            "turn:h:0",
            "turn:h:65536",
            "turn:h:80:80",
            "turn:a b",
            "turn:[::1",
            "turn:[::1]x",
            "turn:[h]",
            "turn:h?transport=sctp",
            "stun:h?transport=udp",
        ] {
            assert_eq!(text.parse::<IceUri>(), Err(NotAnIceUri), "{text}");
        }
    }
}
