//! One WebRTC peer without sockets, tasks or clock: a wrapper around the `rtc` core that is told the
//! time, speaks in frames, and mends from outside what the core gets wrong.

use std::{
    collections::{HashSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use roundtable_core::{
    CandidateType, Channel, ChannelBinding, CloseCode, Delivery, Frame, LinkPath, PathProtocol,
    Payload,
};
use roundtable_signaling_protocol::IceCandidate;
use roundtable_transport::Closed;
use rtc::{
    data_channel::{RTCDataChannelId, RTCDataChannelInit},
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder},
        transport::{RTCDtlsRole, RTCIceCandidate, RTCIceCandidateInit, RTCIceCandidateType},
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol, error::Error},
};

use crate::{
    ConnectError, IcePolicy, ServerFailures, WebRtcConfig, close,
    flight::{Early, Flight, Kind},
    gather::{Gathering, Reach},
    ice_server::Server,
    mdns::Names,
    measure::Measurements,
    media::{Codecs, Media},
    premature::Premature,
    rtcp_tap::Observations,
    sdp::{self, Fingerprint},
    socket::Datagram,
    stun,
};

mod events;
mod negotiate;
mod restart;

#[cfg(any(test, feature = "__fuzz"))]
pub(crate) use events::data_event;
#[cfg(test)]
mod tests;

use negotiate::setup_failed;

/// The interval of ICE checks that the core is set to; the real pace is [`Peer::pace`]'s.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);
/// Checks of one candidate pair before it is given up.
const MAX_CHECKS: u16 = 2000;
/// The core may name deadlines in the past; it is not asked more often than this.
const MIN_TICK: Duration = Duration::from_millis(1);
/// Silence that counts as an outage.
const OUTAGE: Duration = Duration::from_secs(1);
/// How far the core's clock is moved after an outage: SCTP's longest retransmission timeout.
const JUMP: Duration = Duration::from_secs(60);
/// Packets that the replay windows of SRTP and SRTCP remember; also drops what NACK repairs twice.
const REPLAY_WINDOW: usize = 1024;

/// The largest message of any channel: a frame of Command.
const MAX_MESSAGE: u32 = 72 << 10;
const _: () = assert!(MAX_MESSAGE as usize == Channel::Command.max_message_len());

/// Addresses that the peer's checks may come from until ICE is restarted. The core keeps each as a candidate, pairs it with all
/// of ours, and checks them; one peer can send from any number of ports.
const MAX_SOURCES: usize = 64;

/// How long better candidates than mapped and relayed ones may take, from the first check on.
const MAPPED_WAIT: Duration = Duration::from_millis(150);
const RELAY_WAIT: Duration = Duration::from_millis(400);
/// How long UDP is tried alone, from the descriptions on.
const TCP_WAIT: Duration = Duration::from_millis(500);

/// What a peer has to say.
#[derive(Debug)]
pub(crate) enum Event {
    /// A candidate of ours for the peer; an empty one says that it was the last.
    LocalCandidate(IceCandidate),
    /// Relays are all that may be used, and there are none.
    NoRelay,
    /// All six data channels are open.
    Opened,
    /// ICE has found a way again, after a restart.
    Moved,
    /// A frame arrived.
    Frame(Frame),
    /// The peer closed the link.
    Closed(Closed),
    /// The peer broke the link protocol.
    Violation(CloseCode),
    /// A message was malformed; nothing was handed up.
    Dropped(Channel),
    /// The set-up cannot succeed any more.
    Failed,
}

/// See the module.
pub(crate) struct Peer {
    pc: RTCPeerConnection,
    /// The core's handles of the data channels, by channel number.
    handles: [RTCDataChannelId; 6],
    unopened: usize,
    media: Media,
    observations: Observations,
    measurements: Measurements,
    local_fingerprint: Option<Fingerprint>,
    remote_fingerprint: Option<Fingerprint>,
    /// Candidates that came before the remote description.
    held_candidates: Vec<RTCIceCandidateInit>,
    has_remote: bool,
    /// An ICE restart of ours waits for its answer.
    has_offered: bool,
    remote_ufrag: Option<String>,
    is_dtls_client: bool,
    ice_connected: bool,
    has_keys: bool,
    early_stun: Early,
    early_dtls: Early,
    early_srtp: Early,
    premature: Premature,
    gathering: Gathering,
    flight: Flight,
    started: Instant,
    last_tick: Instant,
    last_heard: Instant,
    /// Where the peer sends from, by the selected candidate pair.
    remote: Option<SocketAddr>,
    /// Our and the peer's address, if the link runs over TCP.
    tcp_way: Option<(SocketAddr, SocketAddr)>,
    names: Names,
    /// Where authentic checks have come from, for as long as the core keeps that.
    sources: HashSet<SocketAddr>,
    /// Something arrived since the last tick.
    kicked: bool,
    /// How far the core's clock runs ahead.
    skew: Duration,
    transmits: VecDeque<Datagram>,
    tcp_transmits: VecDeque<Datagram>,
    events: VecDeque<Event>,
}

fn settings(config: &WebRtcConfig) -> SettingEngineBuilder {
    let relay_wait = match config.ice_policy {
        IcePolicy::All => RELAY_WAIT,
        IcePolicy::Relay => Duration::ZERO,
    };
    SettingEngineBuilder::new()
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(MAX_CHECKS))
        // Silence is judged by the driver; the core's own clock may jump.
        .with_ice_timeouts(
            Some(Duration::ZERO),
            Some(Duration::ZERO),
            Some(config.keep_alive),
        )
        // Else the controlling side sits on a peer-reflexive pair (browsers hide their
        // addresses behind `.local` names) for 1 s.
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_srflx_acceptance_min_wait(Some(MAPPED_WAIT))
        .with_relay_acceptance_min_wait(Some(relay_wait))
        .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
        // The sockets of before are closed.
        .with_discard_local_candidates_during_ice_restart(true)
        // As DTLS client we would also send SCTP's INIT, and the core does not handle its collision
        // with the browser's.
        .with_answering_dtls_role(RTCDtlsRole::Server)
        // The core keeps a buffer of this size for each link: 256 KiB, if left to itself.
        .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(MAX_MESSAGE))
        .with_srtp_replay_protection_window(REPLAY_WINDOW)
        .with_srtcp_replay_protection_window(REPLAY_WINDOW)
}

fn candidate_type(of: RTCIceCandidateType) -> Option<CandidateType> {
    match of {
        RTCIceCandidateType::Host => Some(CandidateType::Host),
        RTCIceCandidateType::Srflx => Some(CandidateType::ServerReflexive),
        RTCIceCandidateType::Prflx => Some(CandidateType::PeerReflexive),
        RTCIceCandidateType::Relay => Some(CandidateType::Relay),
        _ => None,
    }
}

impl Peer {
    /// A peer whose sockets have the addresses `locals`, and which sends media as `ssrcs`.
    pub(crate) fn new(
        config: &WebRtcConfig,
        now: Instant,
        locals: impl Iterator<Item = SocketAddr>,
        ssrcs: [u32; 2],
    ) -> Result<Self, ConnectError> {
        let gathering = Gathering::new(config, now, locals.collect());
        Self::with_settings(settings(config), now, gathering, ssrcs)
    }

    fn with_settings(
        settings: SettingEngineBuilder,
        now: Instant,
        gathering: Gathering,
        ssrcs: [u32; 2],
    ) -> Result<Self, ConnectError> {
        let observations = Observations::default();
        let (media, registry) = crate::media::engine(observations.clone()).map_err(setup_failed)?;
        let mut pc = RTCPeerConnectionBuilder::new()
            .with_media_engine(media)
            .with_interceptor_registry(registry)
            .with_setting_engine(settings.build())
            .build(now)
            .map_err(setup_failed)?;
        let media = Media::add_to(&mut pc, ssrcs).map_err(setup_failed)?;
        let mut handles = [0; 6];
        for (handle, channel) in handles.iter_mut().zip(Channel::DATA) {
            let reliable = channel.delivery() == Delivery::ReliableOrdered;
            let init = RTCDataChannelInit {
                ordered: reliable,
                max_retransmits: (!reliable).then_some(0),
                negotiated: Some(channel.number().into()),
                ..Default::default()
            };
            let created = pc.create_data_channel(channel.name(), Some(init));
            *handle = created.map_err(setup_failed)?.id();
        }
        let mut names = Names::default();
        // Relays hide our addresses; a question by multicast would show them.
        names.mute(gathering.is_relay_only());
        Ok(Self {
            pc,
            handles,
            unopened: handles.len(),
            media,
            observations,
            measurements: Measurements::default(),
            local_fingerprint: None,
            remote_fingerprint: None,
            held_candidates: Vec::new(),
            has_remote: false,
            has_offered: false,
            remote_ufrag: None,
            is_dtls_client: false,
            ice_connected: false,
            has_keys: false,
            early_stun: Early::default(),
            early_dtls: Early::default(),
            early_srtp: Early::default(),
            premature: Premature::default(),
            gathering,
            flight: Flight::default(),
            started: now,
            last_tick: now,
            last_heard: now,
            remote: None,
            tcp_way: None,
            names,
            sources: HashSet::new(),
            kicked: true,
            skew: Duration::ZERO,
            transmits: VecDeque::new(),
            tcp_transmits: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// The link also listens for TCP at these addresses. Before the description is made.
    pub(crate) fn listen(&mut self, at: Vec<SocketAddr>) {
        self.gathering.listen(at);
    }

    /// Shows these names in place of our addresses. Before the description is made.
    pub(crate) fn hide(&mut self, names: Vec<(IpAddr, String)>) {
        self.names.hide(names);
    }

    /// Takes a packet of multicast DNS.
    pub(crate) fn handle_multicast(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        for candidate in self.names.handle_packet(now, from, packet) {
            self.add_remote_candidate(RTCIceCandidateInit {
                candidate,
                ..Default::default()
            });
        }
    }

    /// Packets for multicast DNS; `None` when nothing is asked or answered.
    pub(crate) fn multicasts(&mut self) -> Option<&mut Vec<Vec<u8>>> {
        self.names.is_listening().then(|| self.names.transmits())
    }

    /// The servers to be reached; see [`reached`](Self::reached).
    pub(crate) fn servers(&self) -> impl Iterator<Item = (usize, Server)> {
        self.gathering.servers()
    }

    /// Learns how to reach a server.
    pub(crate) fn reached(&mut self, now: Instant, index: usize, reach: Reach) {
        self.gathering.reached(now, index, reach);
        self.absorb(now);
    }

    /// Whether all our candidates are known.
    pub(crate) fn has_gathered(&self) -> bool {
        self.gathering.is_done()
    }

    /// The STUN and TURN servers that were of no use.
    pub(crate) fn failures(&self) -> ServerFailures {
        self.gathering.failures()
    }

    /// Takes a message that came over the connection to a TURN server.
    pub(crate) fn handle_stream(&mut self, now: Instant, id: usize, message: BytesMut) {
        self.gathering.handle_stream(now, id, message);
        self.absorb(now);
    }

    /// A connection to a TURN server has ended.
    pub(crate) fn stream_closed(&mut self, now: Instant, id: usize) {
        self.gathering.stream_closed(now, id);
        self.absorb(now);
    }

    /// The value that both ends share. `None` before both descriptions are known.
    pub(crate) fn binding(&self) -> Option<ChannelBinding> {
        Some(sdp::binding(
            self.local_fingerprint?,
            self.remote_fingerprint?,
        ))
    }

    /// The codecs that were negotiated.
    pub(crate) fn codecs(&self) -> &Codecs {
        self.media.codecs()
    }

    /// What the link knows about itself.
    pub(crate) fn measurements(&self) -> &Measurements {
        &self.measurements
    }

    /// When the peer was last heard: see [`heard`](Self::heard).
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    fn is_open(&self) -> bool {
        self.unopened == 0
    }

    /// Takes a packet from the network.
    pub(crate) fn handle_datagram(&mut self, now: Instant, packet: Datagram) {
        match self.gathering.handle_datagram(now, packet) {
            Ok(()) => self.absorb(now),
            Err(packet) => self.receive(now, packet),
        }
    }

    /// Takes a packet of the peer's, or of whoever else found the address.
    fn receive(&mut self, now: Instant, packet: Datagram) {
        self.kicked = true;
        let kind = Kind::of(&packet.payload);
        if matches!(kind, Kind::Dtls | Kind::Srtp) && self.remote == Some(packet.remote) {
            self.heard(now);
        }
        match kind {
            Kind::Stun
                if self.sources.len() >= MAX_SOURCES
                    && stun::is_request(&packet.payload)
                    && !self.sources.contains(&packet.remote) => {}
            // The answerer's checks overtake its answer.
            Kind::Stun if !self.has_remote => self.early_stun.hold(packet),
            Kind::Dtls if !self.ice_connected => self.early_dtls.hold(packet),
            Kind::Srtp if !self.has_keys => self.early_srtp.hold(packet),
            Kind::Unknown => {}
            Kind::Dtls if self.is_dtls_client && !self.is_open() => {
                if let Err(packet) = self.premature.hold(now, packet) {
                    self.feed(now, kind, packet);
                }
            }
            kind => self.feed(now, kind, packet),
        }
    }

    /// The peer is there. What says so: its answer to a check of ours, which names the transaction; a
    /// check of its own, which the core answers if it is authentic (RFC 8445 §7.3); and data from the
    /// address of the selected candidate pair, which the core authenticates without telling us the
    /// outcome. So nobody off the path keeps a link alive whose peer is gone.
    fn heard(&mut self, now: Instant) {
        let silence = now.saturating_duration_since(self.last_heard);
        self.last_heard = now;
        if self.is_open() && self.ice_connected && silence >= OUTAGE {
            self.jump(now);
        }
    }

    /// SCTP backs off to a minute, and gives up for good after five timeouts. Its clock is ours: lets
    /// the timeout be over as soon as the peer is heard again.
    fn jump(&mut self, now: Instant) {
        self.skew += JUMP;
        self.tick(now);
    }

    /// ICE has learned something that it can go on with. The core leaves [`CHECK_INTERVAL`] between its checks all
    /// the same, which on a short way is longer than all of them take, and then waits for the next tick. Its clock is ours.
    pub(super) fn check_at_once(&mut self) {
        if !self.ice_connected {
            self.skew += CHECK_INTERVAL;
            self.kicked = true;
        }
    }

    fn feed(&mut self, now: Instant, kind: Kind, packet: Datagram) {
        self.measurements.received(packet.payload.len());
        match kind {
            Kind::Stun if self.measurements.stun_in(now, &packet.payload) => {
                self.heard(now);
                self.check_at_once();
                self.note_path();
            }
            Kind::Dtls if !self.is_open() => self.flight.heard(now),
            _ => {}
        }
        let message = TaggedBytesMut {
            now: now + self.skew,
            transport: TransportContext {
                local_addr: packet.local,
                peer_addr: packet.remote,
                ecn: None,
                transport_protocol: match self.gathering.is_tcp(packet.local) {
                    true => TransportProtocol::TCP,
                    false => TransportProtocol::UDP,
                },
            },
            message: packet.payload,
        };
        if let Err(error) = self.pc.handle_read(message) {
            tracing::trace!(%error, "packet refused");
        }
        // The core drops data that it reads before it has handled its own event that the
        // association is up, so that event must not wait until a batch of packets is through.
        while !self.is_open()
            && let Some(event) = self.pc.poll_event()
        {
            self.on_core_event(now, event);
        }
    }

    /// Looks up by which candidates the link runs.
    fn note_path(&mut self) {
        let transport = self.pc.sctp();
        let pair = transport.and_then(|sctp| {
            sctp.transport()
                .ice_transport()
                .get_selected_candidate_pair()
        });
        let Some(pair) = pair else {
            return;
        };
        // Not an address only if the core has resolved a name by itself, which it is told not to.
        let address = |of: &RTCIceCandidate| {
            let ip = of.address.parse().ok();
            ip.map(|ip| SocketAddr::new(ip, of.port))
        };
        self.remote = address(pair.remote());
        let local = address(pair.local());
        let tcp = local.filter(|local| self.gathering.is_tcp(*local));
        self.tcp_way = tcp.zip(self.remote);
        let protocol = local.map_or(PathProtocol::Udp, |local| self.gathering.protocol(local));
        if let Some(local) = candidate_type(pair.local().typ)
            && let Some(remote) = candidate_type(pair.remote().typ)
        {
            self.measurements.path(LinkPath {
                local,
                remote,
                protocol,
            });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let core = self.pc.poll_timeout().map(|due| due - self.skew);
        let core = if self.is_open() && self.ice_connected {
            core.map(|due| due.max(self.last_tick + MIN_TICK))
        } else if self.kicked {
            Some(self.last_tick)
        } else {
            core.map(|due| due.max(self.last_tick + self.pace()))
        };
        let gathering = self.gathering.poll_timeout();
        let all = [
            core,
            self.flight.due(),
            gathering,
            self.premature.due(),
            self.names.poll_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    /// The interval of ticks while opening: quick at first, slower as hope fades, so that candidates
    /// named by a hostile peer draw little traffic (RFC 8445 §14).
    fn pace(&self) -> Duration {
        let waited = self.last_tick.saturating_duration_since(self.started);
        (waited / 10).clamp(Duration::from_millis(20), Duration::from_millis(200))
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let mut again = VecDeque::new();
        self.flight.repeat(now, &mut again);
        for packet in again {
            self.route(now, packet);
        }
        if self.premature.due().is_some_and(|due| due <= now) {
            self.read_premature(now);
        }
        if self.gathering.poll_timeout().is_some_and(|due| due <= now) {
            self.gathering.handle_timeout(now);
            self.absorb(now);
        }
        if self.names.poll_timeout().is_some_and(|due| due <= now) {
            self.names.handle_timeout(now);
        }
        self.tick(now);
    }

    fn read_premature(&mut self, now: Instant) {
        for packet in self.premature.release() {
            self.feed(now, Kind::Dtls, packet);
        }
    }

    fn tick(&mut self, now: Instant) {
        (self.last_tick, self.kicked) = (now, false);
        if let Err(error) = self.pc.handle_timeout(now + self.skew) {
            tracing::debug!(%error, "timeout");
            self.events.push_back(Event::Failed);
        }
    }

    /// One round of work: moves what the core has ready to [`transmits`](Self::transmits) and
    /// [`poll_event`](Self::poll_event), at most `room` data messages among it. Whether there was
    /// anything; call it until not, as one answer may cause another.
    pub(crate) fn step(&mut self, now: Instant, room: usize) -> bool {
        let wrote = self.write(now);
        self.read(now, room) || wrote
    }

    /// The half of a [`step`](Self::step) that leads to the network. The core joins what it has to say until then.
    pub(crate) fn write(&mut self, now: Instant) -> bool {
        let mut progress = false;
        while let Some(packet) = self.pc.poll_write() {
            progress = true;
            self.transmit(now, packet);
        }
        self.transmits.extend(self.gathering.transmits().drain(..));
        progress
    }

    /// The half that leads from it.
    pub(crate) fn read(&mut self, now: Instant, room: usize) -> bool {
        let mut progress = false;
        while let Some(event) = self.pc.poll_event() {
            progress = true;
            self.on_core_event(now, event);
        }
        for _ in 0..room {
            let Some(message) = self.pc.poll_read() else {
                break;
            };
            progress = true;
            self.on_message(message.message);
        }
        while let Some(message) = self.pc.poll_media_read() {
            progress = true;
            self.on_message(message.message);
        }
        for observation in self.observations.take() {
            progress = true;
            self.on_observation(now, &observation);
        }
        progress
    }

    fn transmit(&mut self, now: Instant, packet: TaggedBytesMut) {
        let packet = Datagram {
            local: packet.transport.local_addr,
            remote: packet.transport.peer_addr,
            payload: packet.message,
        };
        if !self.is_open() {
            self.premature.sent(&packet.payload);
        }
        self.measurements.sent(packet.payload.len());
        match Kind::of(&packet.payload) {
            // Authentic checks alone are answered so.
            Kind::Stun if self.measurements.stun_out(now, &packet.payload) => {
                self.sources.insert(packet.remote);
                self.heard(now);
            }
            Kind::Dtls if !self.is_open() => self.flight.sent(now, &packet),
            _ => {}
        }
        self.route(now, packet);
    }

    /// Sends a packet: through a relay, if it comes from a relayed address; over TCP, if it comes from an
    /// address that is for that and UDP has had its time.
    fn route(&mut self, now: Instant, packet: Datagram) {
        if self.gathering.is_tcp(packet.local) {
            if self.tcp_way.is_some() || now >= self.started + TCP_WAIT {
                self.tcp_transmits.push_back(packet);
            }
            return;
        }
        if let Err(packet) = self.gathering.relay(now, packet) {
            self.transmits.push_back(packet);
        }
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be sent.
    pub(crate) fn transmits(&mut self) -> &mut VecDeque<Datagram> {
        &mut self.transmits
    }

    /// What is to be sent over TCP to peers.
    pub(crate) fn tcp_transmits(&mut self) -> &mut VecDeque<Datagram> {
        &mut self.tcp_transmits
    }

    /// Our and the peer's address, if the link runs over TCP.
    pub(crate) fn tcp_way(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.tcp_way
    }

    /// What is to be sent over connections to TURN servers.
    pub(crate) fn stream_transmits(&mut self) -> &mut VecDeque<(usize, BytesMut)> {
        self.gathering.stream_transmits()
    }

    /// Connections to TURN servers that can be closed.
    pub(crate) fn unused_streams(&mut self) -> &mut Vec<usize> {
        self.gathering.unused_streams()
    }

    /// Hands a frame to the core. The caller has checked it and looked at
    /// [`outstanding`](Self::outstanding).
    pub(crate) fn send(&mut self, now: Instant, frame: Frame) -> Result<(), Error> {
        let (now, channel) = (now + self.skew, frame.channel);
        match frame.payload {
            Payload::Media(packet) => self.media.send(&mut self.pc, now, channel, packet),
            Payload::Clock(clock) => self.media.send_clock(&mut self.pc, now, channel, clock),
            Payload::Binary(bytes) => {
                let bytes = bytes.try_into_mut();
                let bytes = bytes.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                self.data_channel(channel)?.send(now, bytes)
            }
            Payload::Text(text) => self.data_channel(channel)?.send_text(now, text),
        }
    }

    fn data_channel(
        &mut self,
        channel: Channel,
    ) -> Result<rtc::data_channel::RTCDataChannel<'_>, Error> {
        let handle = self.handles.get(usize::from(channel.number()));
        handle
            .and_then(|handle| self.pc.data_channel(*handle))
            .ok_or(Error::ErrDataChannelClosed)
    }

    /// Bytes of `channel` that the core holds: not sent, or not acknowledged.
    pub(crate) fn outstanding(&mut self, channel: Channel) -> usize {
        self.data_channel(channel)
            .map_or(0, |data| data.outstanding_bytes())
    }

    /// Says why the link closes, behind everything else on Control.
    pub(crate) fn say_goodbye(&mut self, now: Instant, closed: &Closed) {
        let frame = Frame::text(Channel::Control, close::to_json(closed));
        if let Err(error) = self.send(now, frame) {
            tracing::trace!(%error, "goodbye");
        }
    }

    /// Tears the connection down; what remains to be sent is in [`transmits`](Self::transmits).
    pub(crate) fn close(&mut self, now: Instant) {
        if let Err(error) = self.pc.close() {
            tracing::debug!(%error, "close");
        }
        while let Some(packet) = self.pc.poll_write() {
            self.transmit(now, packet);
        }
        self.release(now);
    }

    /// Gives relayed addresses back; what says so is left to be sent.
    pub(crate) fn release(&mut self, now: Instant) {
        self.gathering.close(now);
        self.transmits.extend(self.gathering.transmits().drain(..));
    }
}
