//! Checks of what connections depend on, each thing by itself.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use roundtable_core::{Channel, CloseCode, Frame, LinkPath};
use roundtable_transport::Link;

use crate::{
    ConnectError, Connecting, ServerError, WebRtcConfig,
    driver::now,
    gather::Gathering,
    interfaces,
    socket::Sockets,
    stream::{StreamEvent, Streams},
};

/// How long servers may take to hear that their relays are free again.
const RELEASE: Duration = Duration::from_millis(100);

/// What came of one STUN or TURN server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCheck {
    /// Its URL, as configured.
    pub url: String,
    /// What it gave: our address as a STUN server sees it, or one that a TURN server relays from.
    pub result: Result<SocketAddr, ServerError>,
}

/// What the NAT in front of this machine does with outgoing packets (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NatMapping {
    /// Our own address is seen: there is none.
    None,
    /// No two servers saw different addresses: two such sides can meet directly.
    Consistent,
    /// Each server sees another address (a symmetric NAT): only relays reach most others.
    Varying,
    /// No server said.
    Unknown,
}

/// What [`check_servers`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServersCheck {
    /// This machine's addresses that are offered to others.
    pub addresses: Vec<IpAddr>,
    /// Each URL of [`WebRtcConfig::with_ice_servers`].
    pub servers: Vec<ServerCheck>,
    /// What the NAT does, as far as the servers tell.
    pub nat: NatMapping,
}

/// Asks every STUN and TURN server, as a link would.
///
/// # Errors
/// [`ConnectError::Config`] or [`ConnectError::Socket`].
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
pub async fn check_servers(config: &WebRtcConfig) -> Result<ServersCheck, ConnectError> {
    config.validate()?;
    let mut sockets = interfaces::bind(config)?;
    let bases: Vec<_> = sockets.locals().collect();
    let mut gathering = Gathering::new(config, now(), bases.clone());
    let mut streams = Streams::new(config.trusted.clone());
    for (index, server) in gathering.servers().collect::<Vec<_>>() {
        streams.reach(index, server);
    }
    while !gathering.is_done() {
        send(&mut gathering, &mut sockets, &mut streams).await;
        let due = gathering.poll_timeout().unwrap_or_else(now);
        tokio::select! {
            _ = sockets.readable() => {
                sockets.receive(|packet| drop(gathering.handle_datagram(now(), packet)));
            }
            event = streams.next() => match event {
                StreamEvent::Reached(index, reach) => gathering.reached(now(), index, reach),
                StreamEvent::Message(id, message) => gathering.handle_stream(now(), id, message),
                StreamEvent::Closed(id) => gathering.stream_closed(now(), id),
            },
            () = tokio::time::sleep_until(due.into()) => gathering.handle_timeout(now()),
        }
    }
    let servers = gathering.checks();
    let nat = mapping(&bases, gathering.mapped());
    gathering.close(now());
    send(&mut gathering, &mut sockets, &mut streams).await;
    streams.finish(RELEASE).await;
    let addresses = bases.iter().map(SocketAddr::ip).collect();
    Ok(ServersCheck {
        addresses,
        servers,
        nat,
    })
}

async fn send(gathering: &mut Gathering, sockets: &mut Sockets, streams: &mut Streams) {
    let mut packets: VecDeque<_> = gathering.transmits().drain(..).collect();
    sockets.send(&mut packets).await;
    for (id, message) in gathering.stream_transmits().drain(..) {
        streams.send(id, message);
    }
    for id in gathering.unused_streams().drain(..) {
        streams.close(id);
    }
}

fn mapping(bases: &[SocketAddr], mapped: &[(SocketAddr, SocketAddr)]) -> NatMapping {
    let differs = |(local, seen): &(SocketAddr, SocketAddr)| {
        let mut others = mapped.iter();
        others.any(|(from, other)| from == local && other != seen)
    };
    match mapped {
        [] => NatMapping::Unknown,
        _ if mapped.iter().any(differs) => NatMapping::Varying,
        _ if mapped.iter().all(|(_, seen)| bases.contains(seen)) => NatMapping::None,
        _ => NatMapping::Consistent,
    }
}

/// What [`check_link`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkCheck {
    /// By which kinds of address the two ends met.
    pub path: Option<LinkPath>,
    /// From the start until a message had come through.
    pub took: Duration,
}

/// Makes a link between two ends in this process and sends a message over it: whether packets leave
/// and come back on the ways that `config` allows. With [`IcePolicy::Relay`](crate::IcePolicy) it goes
/// through the TURN server and back.
///
/// # Errors
/// Why there was no link.
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
pub async fn check_link(config: &WebRtcConfig) -> Result<LinkCheck, ConnectError> {
    check(config, |_| true).await
}

/// As [`check_link`], with nothing but TCP between the two ends (RFC 6544).
///
/// # Errors
/// Why there was no link.
///
/// # Panics
/// Outside of a tokio runtime with I/O and time enabled.
pub async fn check_link_over_tcp(config: &WebRtcConfig) -> Result<LinkCheck, ConnectError> {
    // The third word of a candidate is its transport (RFC 8839 §5.1).
    let is_tcp = |candidate: &str| {
        let transport = candidate.split(' ').nth(2);
        transport.is_some_and(|transport| transport.eq_ignore_ascii_case("tcp"))
    };
    check(config, is_tcp).await
}

/// Makes a link by those candidates that `passes` lets the other end know.
async fn check(
    config: &WebRtcConfig,
    passes: impl Fn(&str) -> bool,
) -> Result<LinkCheck, ConnectError> {
    let start = now();
    let (alice, offer) = Connecting::offer(config).await?;
    let (bob, answer) = Connecting::answer(config, &filtered(&offer, &passes)).await?;
    alice.accept_answer(&filtered(&answer, &passes)).await?;
    let opened = async { tokio::try_join!(alice.clone().opened(), bob.clone().opened()) };
    let (a, b) = tokio::select! {
        opened = opened => opened?,
        () = pass_on(&alice, &bob, &passes) => return Err(ConnectError::Abandoned),
        () = pass_on(&bob, &alice, &passes) => return Err(ConnectError::Abandoned),
    };
    let sent = a.send(Frame::text(Channel::App, "check")).await;
    let came = b.recv().await;
    let check = LinkCheck {
        path: a.stats().path,
        took: now().saturating_duration_since(start),
    };
    a.close(CloseCode::NORMAL, "").await;
    match (sent, came) {
        (Ok(()), Ok(_)) => Ok(check),
        _ => Err(ConnectError::Abandoned),
    }
}

/// A description with some of its candidates.
fn filtered(sdp: &str, passes: impl Fn(&str) -> bool) -> String {
    let stays = |line: &&str| !line.starts_with("a=candidate:") || passes(line);
    sdp.split_inclusive("\r\n").filter(stays).collect()
}

/// Does what signaling does; never ends.
async fn pass_on(from: &Connecting, to: &Connecting, passes: impl Fn(&str) -> bool) {
    while let Some(candidate) = from.next_candidate().await {
        // The empty one says that it was the last.
        if candidate.candidate.is_empty() || passes(&candidate.candidate) {
            // What cannot be used does no harm.
            let _ = to.add_remote_candidate(&candidate);
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_servers_see_tells_what_the_nat_does() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let bases = [at("10.0.0.1:5000"), at("10.0.0.2:5000")];
        let [one, two] = [at("192.0.2.1:7000"), at("192.0.2.1:7001")];
        let verdict = |mapped: &[(SocketAddr, SocketAddr)]| mapping(&bases, mapped);
        assert_eq!(verdict(&[]), NatMapping::Unknown);
        assert_eq!(verdict(&[(bases[0], bases[0])]), NatMapping::None);
        assert_eq!(verdict(&[(bases[0], one)]), NatMapping::Consistent);
        assert_eq!(
            verdict(&[(bases[0], one), (bases[1], two)]),
            NatMapping::Consistent
        );
        assert_eq!(
            verdict(&[(bases[0], one), (bases[0], two)]),
            NatMapping::Varying
        );
    }
}
