//! ICE gathering (RFC 8445 §5.1.1) without sockets or clock: asks STUN servers for our mapped
//! addresses and TURN servers for relayed ones, and passes packets through the relays.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::BytesMut;
use roundtable_core::PathProtocol;
use roundtable_signaling_protocol::IceCandidate;
use rtc::{
    ice::{candidate::Candidate, tcp_type::TcpType},
    peer_connection::transport::{
        CandidateConfig, CandidateHostConfig, CandidateRelayConfig, CandidateServerReflexiveConfig,
        RTCIceCandidate,
    },
    shared::error::Error,
};

use crate::{
    ServerError, WebRtcConfig,
    check::ServerCheck,
    config::IcePolicy,
    error::{ServerFailure, ServerFailures},
    ice_server::{self, Server, Via},
    relay::{Conversation, Heard, Path, unspecified},
    socket::Datagram,
};

/// Of how many local addresses one STUN server is asked.
const MAX_BASES: usize = 4;

/// What an active TCP candidate has for a port (RFC 6544 §4.5): none is bound.
pub(crate) const ACTIVE_PORT: u16 = 9;

/// How a server can be reached, found out by whoever has sockets.
#[derive(Debug)]
pub(crate) enum Reach {
    /// The server's addresses, at most one of each family, each with the local address that the
    /// system would send from.
    Udp(Vec<(SocketAddr, Option<IpAddr>)>),
    /// A connection to this address.
    Stream { id: usize, server: SocketAddr },
    /// It cannot.
    Failed(ServerError),
}

/// What gathering brought.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// A candidate of ours.
    Candidate(IceCandidate),
    /// There will be no more.
    Done,
    /// A packet that came through a relay.
    Datagram(Datagram),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pending,
    Worked,
    Failed(ServerError),
}

/// A configured URL and what came of it.
struct Tracked {
    url: String,
    server: Option<Server>,
    outcome: Outcome,
    /// What it gave: our mapped address, or a relayed one.
    address: Option<SocketAddr>,
    /// Conversations that may still bring something.
    open: usize,
}

struct Contact {
    server: usize,
    conversation: Conversation,
    /// Whether its failure is the server's: not of the question for our mapped address that goes
    /// to a TURN server besides.
    counts: bool,
    pending: bool,
}

impl Contact {
    /// The connection that it uses.
    fn stream(&self) -> Option<usize> {
        match self.conversation.path() {
            Path::Stream { id, .. } => Some(id),
            Path::Udp { .. } => None,
        }
    }
}

/// See the module.
pub(crate) struct Gathering {
    bases: Vec<SocketAddr>,
    /// Where we listen for TCP.
    listening: Vec<SocketAddr>,
    policy: IcePolicy,
    tracked: Vec<Tracked>,
    contacts: Vec<Contact>,
    /// Our own addresses with what a NAT made of them, each pair once.
    mapped: Vec<(SocketAddr, SocketAddr)>,
    /// When servers that have not answered are given up.
    until: Instant,
    done: bool,
    events: VecDeque<Gathered>,
    transmits: VecDeque<Datagram>,
    stream_transmits: VecDeque<(usize, BytesMut)>,
    /// Connections that serve nothing any more.
    unused_streams: Vec<usize>,
}

impl Gathering {
    /// Gathering for a link whose sockets have the addresses `bases`.
    pub(crate) fn new(config: &WebRtcConfig, now: Instant, bases: Vec<SocketAddr>) -> Self {
        let parsed = ice_server::parse_all(&config.ice_servers);
        let tracked = parsed.into_iter().map(|(url, server)| {
            let outcome = match &server {
                Ok(_) => Outcome::Pending,
                Err(error) => Outcome::Failed(*error),
            };
            Tracked {
                url,
                server: server.ok(),
                outcome,
                address: None,
                open: 0,
            }
        });
        // A mapped address would tell what only relays are to hide.
        let wanted = |tracked: &Tracked| {
            let is_stun = tracked.server.as_ref().is_some_and(|s| s.turn.is_none());
            config.ice_policy == IcePolicy::All || !is_stun
        };
        let mut new = Self {
            bases,
            listening: Vec::new(),
            policy: config.ice_policy,
            tracked: tracked.filter(wanted).collect(),
            contacts: Vec::new(),
            mapped: Vec::new(),
            until: now + config.gathering_timeout,
            done: false,
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            stream_transmits: VecDeque::new(),
            unused_streams: Vec::new(),
        };
        new.finish();
        new
    }

    /// The link also listens for TCP at these addresses.
    pub(crate) fn listen(&mut self, at: Vec<SocketAddr>) {
        self.listening = at;
    }

    /// Whether nothing but relays may be used.
    pub(crate) fn is_relay_only(&self) -> bool {
        self.policy == IcePolicy::Relay
    }

    /// Whether packets with this address of ours travel over TCP.
    pub(crate) fn is_tcp(&self, local: SocketAddr) -> bool {
        let is_active = local.port() == ACTIVE_PORT;
        let mut all = self.listening.iter();
        all.any(|at| *at == local || (is_active && at.ip() == local.ip()))
    }

    /// By what packets with this address of ours leave this machine.
    pub(crate) fn protocol(&self, local: SocketAddr) -> PathProtocol {
        let mut contacts = self.contacts.iter();
        let relay = contacts.find(|contact| contact.conversation.relayed().contains(&local));
        let server = relay.and_then(|relay| self.tracked[relay.server].server.as_ref());
        match server.map(|server| server.via) {
            Some(Via::Tls) => PathProtocol::Tls,
            Some(Via::Tcp) => PathProtocol::Tcp,
            None if self.is_tcp(local) => PathProtocol::Tcp,
            Some(Via::Udp) | None => PathProtocol::Udp,
        }
    }

    /// The servers whose [`Reach`] is to be found out, with the number to report it under.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (usize, Server)> {
        let servers = self.tracked.iter().enumerate();
        servers.filter_map(|(index, tracked)| Some((index, tracked.server.clone()?)))
    }

    /// Our host candidates, unless they are to be hidden.
    pub(crate) fn hosts(&self) -> Vec<IceCandidate> {
        match self.policy {
            IcePolicy::All => {
                let udp = self.bases.iter().copied().filter_map(host);
                udp.chain(self.tcp_hosts()).collect()
            }
            IcePolicy::Relay => Vec::new(),
        }
    }

    /// Of each address that listens the passive candidate and behind it the active one: the core takes
    /// the first that fits a packet, and an active one fits every port.
    fn tcp_hosts(&self) -> impl Iterator<Item = IceCandidate> {
        let places = self.listening.iter().zip(0_u32..);
        places.flat_map(|(at, place)| {
            let active = SocketAddr::new(at.ip(), ACTIVE_PORT);
            let passive = tcp_host(*at, TcpType::Passive, place);
            passive
                .into_iter()
                .chain(tcp_host(active, TcpType::Active, place))
        })
    }

    /// Whether all servers have answered or been given up.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing but relays may be used, and there are none.
    pub(crate) fn is_relay_missing(&self) -> bool {
        let is_relay = |contact: &Contact| !contact.conversation.relayed().is_empty();
        self.is_relay_only() && !self.contacts.iter().any(is_relay)
    }

    /// The servers that were of no use so far.
    pub(crate) fn failures(&self) -> ServerFailures {
        let failures = self.tracked.iter().filter_map(|tracked| {
            let error = match tracked.outcome {
                Outcome::Failed(error) => error,
                Outcome::Pending => ServerError::NoAnswer,
                Outcome::Worked => return None,
            };
            Some(ServerFailure {
                url: tracked.url.clone(),
                error,
            })
        });
        ServerFailures(failures.collect())
    }

    /// What each server gave, or why it gave nothing.
    pub(crate) fn checks(&self) -> Vec<ServerCheck> {
        let check = |tracked: &Tracked| ServerCheck {
            url: tracked.url.clone(),
            result: match (tracked.outcome, tracked.address) {
                (Outcome::Failed(error), _) => Err(error),
                (_, Some(address)) => Ok(address),
                (_, None) => Err(ServerError::NoAnswer),
            },
        };
        self.tracked.iter().map(check).collect()
    }

    /// Our own addresses with what a NAT made of them.
    pub(crate) fn mapped(&self) -> &[(SocketAddr, SocketAddr)] {
        &self.mapped
    }

    /// Learns how to reach a server.
    pub(crate) fn reached(&mut self, now: Instant, index: usize, reach: Reach) {
        let pending = |tracked: &&Tracked| tracked.outcome == Outcome::Pending;
        let Some(tracked) = self.tracked.get(index).filter(pending) else {
            if let Reach::Stream { id, .. } = reach {
                self.unused_streams.push(id);
            }
            return;
        };
        let Some(server) = tracked.server.clone() else {
            return;
        };
        match reach {
            Reach::Failed(error) => self.tracked[index].outcome = Outcome::Failed(error),
            Reach::Stream { id, server: at } => {
                self.allocate(now, index, Path::Stream { id, server: at }, server);
            }
            Reach::Udp(addresses) => {
                for (at, source) in addresses {
                    self.ask_over_udp(now, index, &server, (at, source));
                }
                if self.tracked[index].open == 0 && self.tracked[index].outcome == Outcome::Pending
                {
                    self.tracked[index].outcome = Outcome::Failed(ServerError::Family);
                }
            }
        }
        self.drain(now);
    }

    fn ask_over_udp(
        &mut self,
        now: Instant,
        index: usize,
        server: &Server,
        (at, source): (SocketAddr, Option<IpAddr>),
    ) {
        let fits = |base: &&SocketAddr| {
            base.is_ipv4() == at.is_ipv4() && base.ip().is_loopback() == at.ip().is_loopback()
        };
        let mut bases: Vec<_> = self.bases.iter().filter(fits).copied().collect();
        // First the one that the system would send from.
        bases.sort_by_key(|base| Some(base.ip()) != source);
        bases.truncate(MAX_BASES);
        if let (Some(_), Some(local)) = (&server.turn, bases.first()) {
            let path = Path::Udp {
                local: *local,
                server: at,
            };
            self.allocate(now, index, path, server.clone());
        }
        if self.is_relay_only() {
            return;
        }
        for local in bases {
            let path = Path::Udp { local, server: at };
            let counts = server.turn.is_none();
            self.start(index, counts, Conversation::binding(now, path));
        }
    }

    fn allocate(&mut self, now: Instant, index: usize, path: Path, server: Server) {
        if let Some(credentials) = server.turn {
            let conversation = Conversation::allocate(now, path, credentials);
            self.start(index, true, conversation);
        }
    }

    fn start(
        &mut self,
        server: usize,
        counts: bool,
        conversation: Result<Conversation, ServerError>,
    ) {
        match conversation {
            Ok(conversation) => {
                self.tracked[server].open += 1;
                self.contacts.push(Contact {
                    server,
                    conversation,
                    counts,
                    pending: true,
                });
            }
            Err(error) if counts => self.tracked[server].outcome = Outcome::Failed(error),
            Err(_) => {}
        }
    }

    /// Takes a packet, if it comes from a server.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        packet: Datagram,
    ) -> Result<(), Datagram> {
        let from = Path::Udp {
            local: packet.local,
            server: packet.remote,
        };
        let mut talking = self
            .contacts
            .iter_mut()
            .map(|contact| &mut contact.conversation)
            .filter(|conversation| conversation.path() == from);
        // A question for our address and a relay may share the way; an answer belongs to whoever
        // asked, and what is no answer comes through the relay.
        let is_answer = matches!(packet.payload.first(), Some(1));
        let conversation = talking.find(|conversation| match is_answer {
            true => conversation.awaits(&packet.payload),
            false => !conversation.relayed().is_empty(),
        });
        let Some(conversation) = conversation else {
            return Err(packet);
        };
        conversation.handle_packet(now, packet.payload);
        self.drain(now);
        Ok(())
    }

    /// Takes a message that came over a connection.
    pub(crate) fn handle_stream(&mut self, now: Instant, id: usize, message: BytesMut) {
        if let Some(conversation) = self.on_stream(id) {
            conversation.handle_packet(now, message);
            self.drain(now);
        }
    }

    /// A connection has ended.
    pub(crate) fn stream_closed(&mut self, now: Instant, id: usize) {
        let is_it = |contact: &Contact| contact.stream() == Some(id);
        if let Some(at) = self.contacts.iter().position(is_it) {
            self.fail(at, ServerError::Protocol);
            self.drain(now);
        }
    }

    fn on_stream(&mut self, id: usize) -> Option<&mut Conversation> {
        let mut all = self.contacts.iter_mut();
        all.find(|contact| contact.stream() == Some(id))
            .map(|contact| &mut contact.conversation)
    }

    /// Sends a packet from the relayed address that it names as its own, if it is one.
    pub(crate) fn relay(&mut self, now: Instant, packet: Datagram) -> Result<(), Datagram> {
        let mut all = self.contacts.iter_mut().map(|c| &mut c.conversation);
        let relay = all.find(|conversation| conversation.relayed().contains(&packet.local));
        let Some(relay) = relay else {
            return Err(packet);
        };
        relay.send(now, packet.remote, packet.payload);
        self.drain(now);
        Ok(())
    }

    /// Moves on what the conversations brought.
    fn drain(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(contact) = self.contacts.get_mut(at) {
            let heard = contact.conversation.poll(now);
            while let Some(packet) = contact.conversation.poll_transmit() {
                match contact.conversation.datagram(packet) {
                    Ok(datagram) => self.transmits.push_back(datagram),
                    Err(message) => self.stream_transmits.push_back(message),
                }
            }
            match heard {
                Some(heard) => self.on_heard(at, heard),
                None => at += 1,
            }
        }
        self.finish();
    }

    fn on_heard(&mut self, at: usize, heard: Heard) {
        let contact = &mut self.contacts[at];
        let path = contact.conversation.path();
        match heard {
            Heard::Data { from, payload } => {
                if let Some(local) = contact.conversation.relayed_for(from) {
                    self.events.push_back(Gathered::Datagram(Datagram {
                        local,
                        remote: from,
                        payload,
                    }));
                }
            }
            Heard::Failed(error) => self.fail(at, error),
            Heard::Mapped(mapped) => {
                let (server, counts) = (contact.server, contact.counts);
                self.contacts.remove(at);
                if counts {
                    self.tracked[server].address.get_or_insert(mapped);
                }
                self.settle(server, counts.then_some(Outcome::Worked));
                self.offer_mapped(path, mapped);
            }
            Heard::Relayed(relayed) if !relayed.iter().all(|it| self.is_credible(at, *it)) => {
                self.fail(at, ServerError::Protocol);
            }
            Heard::Relayed(relayed) => {
                let contact = &mut self.contacts[at];
                contact.pending = false;
                let server = contact.server;
                let tracked = &mut self.tracked[server];
                tracked.address = tracked.address.or(relayed.first().copied());
                let via = tracked
                    .server
                    .as_ref()
                    .map_or(Via::Udp, |server| server.via);
                self.settle(server, Some(Outcome::Worked));
                for relayed in relayed {
                    self.offer(relay(relayed, via));
                }
            }
        }
    }

    /// Whether an address can be one that a server relays from. Were it ours or another server's, all
    /// that leaves from there would go to this server.
    fn is_credible(&self, at: usize, relayed: SocketAddr) -> bool {
        let mut others = self.contacts.iter().enumerate();
        let is_taken = others.any(|(other, contact)| {
            other != at && contact.conversation.relayed().contains(&relayed)
        });
        let is_address = relayed.port() != 0 && !relayed.ip().is_unspecified();
        is_address && !is_taken && !self.bases.contains(&relayed)
    }

    fn offer_mapped(&mut self, path: Path, mapped: SocketAddr) {
        let Path::Udp { local, .. } = path else {
            return;
        };
        let is_offered = self.mapped.iter().any(|(_, known)| *known == mapped);
        if !self.mapped.contains(&(local, mapped)) {
            self.mapped.push((local, mapped));
        }
        // Without a NAT it is the host candidate again (RFC 8445 §5.1.3).
        let is_host = self.bases.contains(&mapped);
        if !is_host && !is_offered && mapped.port() != 0 && !mapped.ip().is_unspecified() {
            self.offer(server_reflexive(mapped, local));
        }
    }

    fn offer(&mut self, candidate: Option<IceCandidate>) {
        if !self.done {
            self.events.extend(candidate.map(Gathered::Candidate));
        }
    }

    /// Ends a conversation that brings nothing more.
    fn fail(&mut self, at: usize, error: ServerError) {
        let contact = self.contacts.remove(at);
        self.unused_streams.extend(contact.stream());
        if contact.pending {
            let outcome = contact.counts.then_some(Outcome::Failed(error));
            self.settle(contact.server, outcome);
        } else {
            tracing::debug!(server = %self.tracked[contact.server].url, %error, "relay lost");
        }
    }

    /// One conversation fewer may bring something. What worked once has worked.
    fn settle(&mut self, server: usize, outcome: Option<Outcome>) {
        let tracked = &mut self.tracked[server];
        tracked.open = tracked.open.saturating_sub(1);
        match outcome {
            Some(Outcome::Worked) => tracked.outcome = Outcome::Worked,
            Some(failed) if tracked.open == 0 && tracked.outcome == Outcome::Pending => {
                tracked.outcome = failed;
            }
            _ => {}
        }
    }

    fn finish(&mut self) {
        let pending = |tracked: &Tracked| tracked.open > 0 || tracked.outcome == Outcome::Pending;
        if !self.done && !self.tracked.iter().any(pending) {
            self.done = true;
            self.events.push_back(Gathered::Done);
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Gathered> {
        self.events.pop_front()
    }

    /// What is to be sent from the link's sockets.
    pub(crate) fn transmits(&mut self) -> &mut VecDeque<Datagram> {
        &mut self.transmits
    }

    /// What is to be sent over connections.
    pub(crate) fn stream_transmits(&mut self) -> &mut VecDeque<(usize, BytesMut)> {
        &mut self.stream_transmits
    }

    /// Connections that can be closed, as they serve nothing any more.
    pub(crate) fn unused_streams(&mut self) -> &mut Vec<usize> {
        &mut self.unused_streams
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let contacts = self.contacts.iter_mut();
        let due = contacts.filter_map(|contact| contact.conversation.poll_timeout());
        due.chain((!self.done).then_some(self.until)).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for contact in &mut self.contacts {
            contact.conversation.handle_timeout(now);
        }
        self.drain(now);
        if !self.done && now >= self.until {
            self.give_up();
        }
    }

    /// Those who have not answered will not be waited for.
    fn give_up(&mut self) {
        for given_up in self.contacts.extract_if(.., |contact| contact.pending) {
            self.unused_streams.extend(given_up.stream());
        }
        for tracked in &mut self.tracked {
            tracked.open = 0;
            if tracked.outcome == Outcome::Pending {
                tracked.outcome = Outcome::Failed(ServerError::NoAnswer);
            }
        }
        self.finish();
    }

    /// Gives all relayed addresses back; what says so is left to be sent.
    pub(crate) fn close(&mut self, now: Instant) {
        for contact in &mut self.contacts {
            contact.conversation.close(now);
        }
        self.drain(now);
    }
}

fn base(address: SocketAddr, priority: u32) -> CandidateConfig {
    CandidateConfig {
        network: "udp".into(),
        address: address.ip().to_string(),
        port: address.port(),
        component: 1,
        priority,
        ..Default::default()
    }
}

fn host(local: SocketAddr) -> Option<IceCandidate> {
    let config = CandidateHostConfig {
        base_config: base(local, 0),
        ..Default::default()
    };
    to_signal(config.new_candidate_host())
}

/// Below what goes by UDP without a relay: where a packet is lost, TCP holds up all behind it. So the
/// type preference is lower than that of mapped addresses (RFC 6544 §4.2).
fn tcp_host(local: SocketAddr, tcp_type: TcpType, place: u32) -> Option<IceCandidate> {
    const TYPE_PREFERENCE: u32 = 90;
    let direction = if tcp_type == TcpType::Active { 6 } else { 4 };
    let local_preference = (direction << 13) + 8191 - place;
    let priority = (TYPE_PREFERENCE << 24) + (local_preference << 8) + 255;
    let config = CandidateHostConfig {
        base_config: CandidateConfig {
            network: "tcp".into(),
            ..base(local, priority)
        },
        tcp_type,
    };
    to_signal(config.new_candidate_host())
}

fn server_reflexive(mapped: SocketAddr, local: SocketAddr) -> Option<IceCandidate> {
    let config = CandidateServerReflexiveConfig {
        base_config: base(mapped, 0),
        rel_addr: local.ip().to_string(),
        rel_port: local.port(),
        url: None,
    };
    to_signal(config.new_candidate_server_reflexive())
}

/// Relays over UDP before those over TCP, where a lost packet holds up all behind it, and TLS. The
/// related address says nothing: who asks for relays only does not want it known.
fn relay(relayed: SocketAddr, via: Via) -> Option<IceCandidate> {
    let local_preference: u32 = match via {
        Via::Udp => 65_535,
        Via::Tcp => 40_000,
        Via::Tls => 20_000,
    };
    // RFC 8445 §5.1.2.1 with type preference 0.
    let priority = (local_preference << 8) + 255;
    let related = unspecified(relayed.is_ipv4());
    let config = CandidateRelayConfig {
        base_config: base(relayed, priority),
        rel_addr: related.ip().to_string(),
        rel_port: related.port(),
        url: None,
    };
    to_signal(config.new_candidate_relay())
}

fn to_signal(candidate: Result<Candidate, Error>) -> Option<IceCandidate> {
    let init = RTCIceCandidate::from(&candidate.ok()?).to_json().ok()?;
    Some(IceCandidate {
        candidate: init.candidate,
        // The first media section; all are bundled (RFC 8843).
        sdp_mid: Some("0".into()),
        sdp_m_line_index: Some(0),
        username_fragment: None,
    })
}

#[cfg(test)]
mod tests;
