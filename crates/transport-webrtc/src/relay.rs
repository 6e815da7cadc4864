//! One conversation with a STUN or TURN server (RFC 8489, RFC 8656): a wrapper around the core's
//! client that keeps permissions, names failures, and frames what travels over TCP.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use rtc::{
    crypto::{RTCCryptoProvider, default_provider},
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol},
    stun::message::TransactionId,
    turn::client::{Client, ClientConfig, Event},
};

use crate::{
    ServerError,
    channels::Channels,
    ice_server::Credentials,
    socket::{Datagram, MAX_DATAGRAM},
    stun::{allocate_error, relayed_addresses, transaction, with_both_families},
};

/// Permissions of one relay at most: more than a peer may name candidates.
const MAX_PERMISSIONS: usize = 128;
/// Packets that wait for one permission; more are dropped, as ICE and DTLS send theirs again.
const MAX_WAITING: usize = 8;
/// An allocation is refreshed this often. The client does not repeat a refresh that failed because
/// its nonce had gone stale, so there must be time for the next one.
const REFRESH: Duration = Duration::from_secs(60);

/// How packets reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// From one of the link's own sockets.
    Udp {
        local: SocketAddr,
        server: SocketAddr,
    },
    /// Over a TCP or TLS connection.
    Stream { id: usize, server: SocketAddr },
}

impl Path {
    pub(crate) fn server(&self) -> SocketAddr {
        match *self {
            Self::Udp { server, .. } | Self::Stream { server, .. } => server,
        }
    }

    /// The address that the client is told it has; over a stream any of the right family.
    fn local(&self) -> SocketAddr {
        match *self {
            Self::Udp { local, .. } => local,
            Self::Stream { server, .. } => unspecified(server.is_ipv4()),
        }
    }
}

/// The unspecified address of a family.
pub(crate) fn unspecified(v4: bool) -> SocketAddr {
    let ip = if v4 {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
    };
    SocketAddr::new(ip, 0)
}

/// What a conversation brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The address that the server sees us under.
    Mapped(SocketAddr),
    /// The addresses that the server relays from, at most one of each family.
    Relayed(Vec<SocketAddr>),
    /// A packet that came to the relayed address.
    Data { from: SocketAddr, payload: BytesMut },
    /// It will not serve.
    Failed(ServerError),
}

/// Whether a peer's packets pass the relay.
enum Permission {
    Asked(Vec<BytesMut>),
    Granted,
}

/// See the module.
pub(crate) struct Conversation {
    client: Client,
    crypto: Arc<dyn RTCCryptoProvider>,
    credentials: Credentials,
    path: Path,
    /// Where it relays from; the client knows the allocation by the first.
    relayed: Vec<SocketAddr>,
    /// What the last Allocate success response gave.
    offered: Vec<SocketAddr>,
    /// The last error code of an Allocate response.
    code: Option<u16>,
    permissions: HashMap<SocketAddr, Permission>,
    /// Requests for permissions that are under way.
    asked: HashMap<TransactionId, SocketAddr>,
    channels: Channels,
    /// What came over a channel: emptied after every packet.
    data: VecDeque<(SocketAddr, BytesMut)>,
}

impl Conversation {
    fn new(path: Path, credentials: Credentials) -> Result<Self, ServerError> {
        let config = ClientConfig {
            turn_serv_addr: path.server().to_string(),
            local_addr: path.local(),
            transport_protocol: match path {
                Path::Udp { .. } => TransportProtocol::UDP,
                Path::Stream { .. } => TransportProtocol::TCP,
            },
            username: credentials.username.clone(),
            password: credentials.password.clone(),
            allocation_refresh_interval_cap: Some(REFRESH),
            ..ClientConfig::default()
        };
        let crypto = default_provider().map_err(|_| ServerError::Protocol)?;
        Ok(Self {
            client: Client::new(config, crypto.clone()).map_err(|_| ServerError::Protocol)?,
            crypto,
            credentials,
            path,
            relayed: Vec::new(),
            offered: Vec::new(),
            code: None,
            permissions: HashMap::new(),
            asked: HashMap::new(),
            channels: Channels::default(),
            data: VecDeque::new(),
        })
    }

    /// Asks for our address as the server sees it.
    pub(crate) fn binding(now: Instant, path: Path) -> Result<Self, ServerError> {
        let nobody = Credentials {
            username: String::new(),
            password: String::new(),
        };
        let mut new = Self::new(path, nobody)?;
        new.client
            .send_binding_request_to(now, path.server())
            .map_err(|_| ServerError::Protocol)?;
        Ok(new)
    }

    /// Asks for relayed addresses: IPv4, and IPv6 where the server has it (RFC 8656 §7.1).
    pub(crate) fn allocate(
        now: Instant,
        path: Path,
        credentials: Credentials,
    ) -> Result<Self, ServerError> {
        let mut new = Self::new(path, credentials)?;
        new.client
            .allocate(now)
            .map_err(|_| ServerError::Protocol)?;
        Ok(new)
    }

    pub(crate) fn path(&self) -> Path {
        self.path
    }

    /// The relayed addresses, once there are any.
    pub(crate) fn relayed(&self) -> &[SocketAddr] {
        &self.relayed
    }

    /// The relayed address of a peer's family.
    pub(crate) fn relayed_for(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let mut all = self.relayed.iter().copied();
        all.find(|relayed| relayed.is_ipv4() == peer.is_ipv4())
    }

    /// The address by which the client knows the allocation.
    fn key(&self) -> Option<SocketAddr> {
        self.relayed.first().copied()
    }

    /// Whether an answer with this transaction id is for us.
    pub(crate) fn awaits(&self, packet: &[u8]) -> bool {
        transaction(packet).is_some_and(|id| self.client.has_transaction(&id))
    }

    /// Takes what the server sent.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: BytesMut) {
        if let Some(code) = allocate_error(&packet) {
            self.code = Some(code);
        }
        if self.relayed.is_empty() && self.awaits(&packet) {
            self.offered = relayed_addresses(&packet);
        }
        if let Some(data) = self.channels.heard(&packet) {
            self.data.push_back(data);
            return;
        }
        let message = TaggedBytesMut {
            now,
            transport: TransportContext {
                local_addr: self.path.local(),
                peer_addr: self.path.server(),
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            },
            message: packet,
        };
        if let Err(error) = self.client.handle_read(message) {
            tracing::trace!(%error, server = %self.path.server(), "refused");
        }
    }

    /// Sends `payload` to `to` from the relayed address, as soon as the server permits it.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, payload: BytesMut) {
        // A relay refuses the addresses of a family that it has none of.
        let (Some(relayed), Some(_)) = (self.key(), self.relayed_for(to)) else {
            return;
        };
        let full = self.permissions.len() >= MAX_PERMISSIONS;
        match self.permissions.get_mut(&to) {
            Some(Permission::Granted) => self.relay(now, relayed, to, &payload),
            Some(Permission::Asked(waiting)) => {
                if waiting.len() < MAX_WAITING {
                    waiting.push(payload);
                }
            }
            None if full => {}
            None => self.ask(now, relayed, to, payload),
        }
    }

    fn ask(&mut self, now: Instant, relayed: SocketAddr, to: SocketAddr, first: BytesMut) {
        let asked = self.client.relay(relayed);
        let asked = asked.and_then(|mut relay| relay.create_permission(now, to));
        match asked {
            Ok(Some(id)) => {
                self.asked.insert(id, to);
                self.permissions.insert(to, Permission::Asked(vec![first]));
            }
            Ok(None) => {
                self.permissions.insert(to, Permission::Granted);
                self.relay(now, relayed, to, &first);
            }
            Err(error) => tracing::trace!(%error, "permission"),
        }
    }

    fn relay(&mut self, now: Instant, relayed: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let relay = self.client.relay(relayed);
        if let Err(error) = relay.and_then(|mut relay| relay.send_to(now, payload, to)) {
            tracing::trace!(%error, %to, "relay");
        }
    }

    /// What came of the packets so far.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Heard> {
        while let Some((from, payload)) = self.data.pop_front() {
            if let Some(data) = data(from, payload) {
                return Some(data);
            }
        }
        while let Some(event) = self.client.poll_event() {
            let heard = self.on_event(now, event);
            if heard.is_some() {
                return heard;
            }
        }
        None
    }

    fn on_event(&mut self, now: Instant, event: Event) -> Option<Heard> {
        match event {
            Event::BindingResponse(_, mapped) => Some(Heard::Mapped(mapped)),
            Event::BindingError(..) => Some(Heard::Failed(ServerError::Protocol)),
            Event::AllocateResponse(_, relayed) => {
                let others = std::mem::take(&mut self.offered).into_iter();
                self.relayed = vec![relayed];
                self.relayed
                    .extend(others.filter(|other| other.is_ipv4() != relayed.is_ipv4()));
                Some(Heard::Relayed(self.relayed.clone()))
            }
            Event::AllocateError(..) => Some(Heard::Failed(match self.code {
                Some(401) => ServerError::Unauthorized,
                Some(code @ (486 | 508)) => ServerError::Quota(code),
                Some(code) => ServerError::Refused(code),
                None => ServerError::Protocol,
            })),
            Event::CreatePermissionResponse(id, peer) => {
                self.asked.remove(&id);
                self.granted(now, peer);
                None
            }
            Event::CreatePermissionError(id, _) => {
                self.forget(&id);
                None
            }
            Event::TransactionTimeout(id) if self.forget(&id) || !self.relayed.is_empty() => None,
            Event::TransactionTimeout(_) => Some(Heard::Failed(ServerError::NoAnswer)),
            Event::DataIndicationOrChannelData(_, from, payload) => data(from, payload),
            _ => None,
        }
    }

    fn granted(&mut self, now: Instant, peer: SocketAddr) {
        let before = self.permissions.insert(peer, Permission::Granted);
        if let (Some(Permission::Asked(waiting)), Some(relayed)) = (before, self.key()) {
            for payload in waiting {
                self.relay(now, relayed, peer, &payload);
            }
        }
    }

    /// A request for a permission failed: the next packet asks again. Whether it was one.
    fn forget(&mut self, id: &TransactionId) -> bool {
        let peer = self.asked.remove(id);
        peer.is_some_and(|peer| self.permissions.remove(&peer).is_some())
    }

    /// The next packet for the server.
    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        let mut packets = std::iter::from_fn(|| self.client.poll_write());
        let packet = packets.find(|packet| self.channels.may_leave(&packet.message));
        let crypto = self.crypto.crypto();
        packet.map(|packet| with_both_families(packet.message, &self.credentials, crypto))
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.client.handle_timeout(now) {
            tracing::trace!(%error, "TURN timeout");
        }
    }

    /// Gives the relayed addresses back.
    pub(crate) fn close(&mut self, now: Instant) {
        let key = self.key();
        self.relayed.clear();
        if let Some(relayed) = key
            && let Ok(mut relay) = self.client.relay(relayed)
        {
            // An allocation that is not given back ends by itself.
            let _ = relay.close(now);
        }
    }

    /// This packet of ours, with its way to the server.
    pub(crate) fn datagram(&self, payload: BytesMut) -> Result<Datagram, (usize, BytesMut)> {
        match self.path {
            Path::Udp { local, server } => Ok(Datagram {
                local,
                remote: server,
                payload,
            }),
            Path::Stream { id, .. } => Err((id, payload)),
        }
    }
}

/// A relayed packet, unless it is larger than what a socket of ours would take.
fn data(from: SocketAddr, payload: BytesMut) -> Option<Heard> {
    let fits = payload.len() <= MAX_DATAGRAM;
    fits.then_some(Heard::Data { from, payload })
}

/// Cuts a server's messages out of what a stream brings (RFC 8656 §12.5: STUN messages and padded
/// ChannelData, one behind the other).
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    /// A STUN message has come. Before, there are no channels; and the letters of other protocols
    /// look like ChannelData.
    began: bool,
}

impl Cutter {
    /// The next message. `None` while it is not complete: its two bytes of length bound it to
    /// 64 KiB, and anybody may send a relayed address a datagram of that size.
    ///
    /// # Errors
    /// [`ServerError::Protocol`] for what is neither.
    pub(crate) fn cut(&mut self, stream: &mut BytesMut) -> Result<Option<BytesMut>, ServerError> {
        let Some(&[kind, _, high, low]) = stream.first_chunk() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let len = match kind {
            // STUN is padded (RFC 8489 §5).
            0..=3 if len.is_multiple_of(4) => 20 + len,
            64..=79 if self.began => 4 + len.next_multiple_of(4),
            _ => return Err(ServerError::Protocol),
        };
        self.began = true;
        Ok((stream.remaining() >= len).then(|| stream.split_to(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_their_length_however_the_stream_comes() {
        let stun = [&[0, 1, 0, 4][..], &[9; 16], &[1, 2, 3, 4]].concat();
        let data = [0x40, 0, 0, 3, 5, 6, 7, 0];
        let all = [&stun[..], &data, &stun].concat();
        let mut stream = BytesMut::new();
        let (mut cutter, mut cut) = (Cutter::default(), Vec::new());
        for byte in all {
            stream.extend_from_slice(&[byte]);
            cut.extend(cutter.cut(&mut stream).unwrap());
        }
        assert_eq!(cut, [&stun[..], &data, &stun]);
        assert!(stream.is_empty());
    }

    #[test]
    fn the_largest_messages_are_cut_too() {
        let indication = [&[0, 0x17, 0xff, 0xfc][..], &[7; 16 + 65_532]].concat();
        let data = [&[0x40, 0, 0xff, 0xff][..], &[7; 65_536]].concat();
        let mut stream = BytesMut::from(&[&indication[..], &data].concat()[..]);
        let mut cutter = Cutter::default();
        assert_eq!(cutter.cut(&mut stream).unwrap().unwrap(), indication);
        assert_eq!(cutter.cut(&mut stream).unwrap().unwrap(), data);
        assert!(stream.is_empty());
    }

    #[test]
    fn a_stream_of_something_else_is_refused() {
        for bad in [
            &b"HTTP/1.1 400"[..],
            &[0, 1, 0xff, 0xff],
            &[0x40, 0, 0, 3],
            &[0xff; 4],
        ] {
            let cut = Cutter::default().cut(&mut BytesMut::from(bad));
            assert_eq!(cut, Err(ServerError::Protocol));
        }
    }
}
