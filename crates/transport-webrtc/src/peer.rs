//! One WebRTC peer without sockets, tasks or clock: a wrapper around the `rtc` core that is told the
//! time, speaks in frames, and mends from outside what the core gets wrong.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use roundtable_core::{Channel, ChannelBinding, CloseCode, Delivery, Frame, Payload};
use roundtable_transport::Closed;
use rtc::{
    data_channel::{RTCDataChannelId, RTCDataChannelInit},
    peer_connection::{
        RTCPeerConnection, RTCPeerConnectionBuilder,
        configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder},
        event::{RTCDataChannelEvent, RTCPeerConnectionEvent},
        message::RTCMessage,
        sdp::RTCSessionDescription,
        state::{RTCIceConnectionState, RTCPeerConnectionState},
        transport::{
            CandidateConfig, CandidateHostConfig, RTCDtlsRole, RTCIceCandidate, RTCIceCandidateInit,
        },
    },
    sansio::Protocol,
    shared::{TaggedBytesMut, TransportContext, TransportProtocol, error::Error},
};

use crate::{
    ConnectError, WebRtcConfig, close,
    flight::{Early, Flight, Kind},
    measure::Measurements,
    media::{Codecs, Media},
    rtcp_tap::{Observation, Observations},
    sdp::{self, Fingerprint},
    socket::Datagram,
};

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

/// What a peer has to say.
#[derive(Debug)]
pub(crate) enum Event {
    /// All six data channels are open.
    Opened,
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
    ice_connected: bool,
    has_keys: bool,
    early_dtls: Early,
    early_srtp: Early,
    flight: Flight,
    started: Instant,
    last_tick: Instant,
    last_heard: Instant,
    /// Something arrived since the last tick.
    kicked: bool,
    /// How far the core's clock runs ahead.
    skew: Duration,
    transmits: VecDeque<Datagram>,
    events: VecDeque<Event>,
}

fn settings(config: &WebRtcConfig) -> SettingEngineBuilder {
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
        .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
        // As DTLS client we would also send SCTP's INIT, and the core does not handle its collision
        // with the browser's.
        .with_answering_dtls_role(RTCDtlsRole::Server)
        .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(
            SctpMaxMessageSize::MAX_MESSAGE_SIZE,
        ))
        .with_srtp_replay_protection_window(REPLAY_WINDOW)
        .with_srtcp_replay_protection_window(REPLAY_WINDOW)
}

fn setup_failed(error: Error) -> ConnectError {
    tracing::debug!(%error, "set-up");
    ConnectError::Setup
}

fn sdp_refused(error: Error) -> ConnectError {
    tracing::debug!(%error, "session description");
    ConnectError::Sdp
}

fn host_candidate(local: SocketAddr) -> Result<RTCIceCandidateInit, Error> {
    let candidate = CandidateHostConfig {
        base_config: CandidateConfig {
            network: "udp".into(),
            address: local.ip().to_string(),
            port: local.port(),
            component: 1,
            ..Default::default()
        },
        ..Default::default()
    };
    RTCIceCandidate::from(&candidate.new_candidate_host()?).to_json()
}

impl Peer {
    /// A peer that offers `locals` as host candidates and sends media as `ssrcs`.
    pub(crate) fn new(
        config: &WebRtcConfig,
        now: Instant,
        locals: impl Iterator<Item = SocketAddr>,
        ssrcs: [u32; 2],
    ) -> Result<Self, ConnectError> {
        Self::with_settings(settings(config), now, locals, ssrcs)
    }

    fn with_settings(
        settings: SettingEngineBuilder,
        now: Instant,
        locals: impl Iterator<Item = SocketAddr>,
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
        for local in locals {
            host_candidate(local)
                .and_then(|candidate| pc.add_local_candidate(candidate))
                .map_err(setup_failed)?;
        }
        pc.add_local_candidate(RTCIceCandidateInit::default()) // the end of gathering
            .map_err(setup_failed)?;
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
            ice_connected: false,
            has_keys: false,
            early_dtls: Early::default(),
            early_srtp: Early::default(),
            flight: Flight::default(),
            started: now,
            last_tick: now,
            last_heard: now,
            kicked: true,
            skew: Duration::ZERO,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        })
    }

    /// Our description, to be answered.
    pub(crate) fn offer(&mut self, now: Instant) -> Result<String, ConnectError> {
        let offer = self.pc.create_offer(None).map_err(setup_failed)?;
        self.set_local(now, offer)
    }

    /// Our answer to the peer's description.
    pub(crate) fn answer(&mut self, now: Instant, offer: &str) -> Result<String, ConnectError> {
        let description = RTCSessionDescription::offer(offer.to_owned()).map_err(sdp_refused)?;
        self.set_remote(now, description, offer)?;
        let answer = self.pc.create_answer(None).map_err(sdp_refused)?;
        let answer = self.set_local(now, answer)?;
        self.negotiated(now, offer);
        Ok(answer)
    }

    /// The peer's answer to our description.
    pub(crate) fn accept_answer(&mut self, now: Instant, answer: &str) -> Result<(), ConnectError> {
        let description = RTCSessionDescription::answer(answer.to_owned()).map_err(sdp_refused)?;
        self.set_remote(now, description, answer)?;
        self.negotiated(now, answer);
        Ok(())
    }

    fn set_local(
        &mut self,
        now: Instant,
        description: RTCSessionDescription,
    ) -> Result<String, ConnectError> {
        self.pc
            .set_local_description(now, description)
            .map_err(setup_failed)?;
        let sdp = self.pc.local_description().ok_or(ConnectError::Setup)?.sdp;
        self.local_fingerprint = Some(sdp::fingerprint(&sdp)?);
        Ok(sdp)
    }

    fn set_remote(
        &mut self,
        now: Instant,
        description: RTCSessionDescription,
        sdp: &str,
    ) -> Result<(), ConnectError> {
        let fingerprint = sdp::fingerprint(sdp)?;
        self.pc
            .set_remote_description(now, description)
            .map_err(sdp_refused)?;
        self.remote_fingerprint = Some(fingerprint);
        Ok(())
    }

    fn negotiated(&mut self, now: Instant, remote_sdp: &str) {
        self.has_remote = true;
        self.media.negotiated(&mut self.pc, sdp::ssrcs(remote_sdp));
        (self.started, self.kicked) = (now, true);
        for candidate in std::mem::take(&mut self.held_candidates) {
            self.add_remote_candidate(candidate);
        }
    }

    /// Takes a candidate of the peer's; held back until its description is known. The caller limits
    /// their number and has checked the syntax.
    pub(crate) fn add_remote_candidate(&mut self, candidate: RTCIceCandidateInit) {
        if !self.has_remote {
            self.held_candidates.push(candidate);
        } else if let Err(error) = self.pc.add_remote_candidate(candidate) {
            tracing::debug!(%error, "remote candidate");
        } else {
            self.kicked = true;
        }
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

    /// When something last arrived.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    fn is_open(&self) -> bool {
        self.unopened == 0
    }

    /// Takes a packet from the network.
    pub(crate) fn handle_datagram(&mut self, now: Instant, packet: Datagram) {
        if self.is_open() && now.saturating_duration_since(self.last_heard) >= OUTAGE {
            // SCTP backs off to a minute, and gives up for good after five timeouts. Its clock is
            // ours: let the timeout be over as soon as the peer is heard again.
            self.skew += JUMP;
            self.tick(now);
        }
        self.last_heard = now;
        self.kicked = true;
        match Kind::of(&packet.payload) {
            Kind::Dtls if !self.ice_connected => self.early_dtls.hold(packet),
            Kind::Srtp if !self.has_keys => self.early_srtp.hold(packet),
            Kind::Unknown => {}
            kind => self.feed(now, kind, packet),
        }
    }

    fn feed(&mut self, now: Instant, kind: Kind, packet: Datagram) {
        match kind {
            Kind::Stun => self.measurements.stun_in(now, &packet.payload),
            Kind::Dtls if !self.is_open() => self.flight.heard(now),
            _ => {}
        }
        let message = TaggedBytesMut {
            now: now + self.skew,
            transport: TransportContext {
                local_addr: packet.local,
                peer_addr: packet.remote,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
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

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let core = self.pc.poll_timeout().map(|due| due - self.skew);
        let core = if self.is_open() {
            core.map(|due| due.max(self.last_tick + MIN_TICK))
        } else if self.kicked {
            Some(self.last_tick)
        } else {
            core.map(|due| due.max(self.last_tick + self.pace()))
        };
        [core, self.flight.due()].into_iter().flatten().min()
    }

    /// The interval of ticks while opening: quick at first, slower as hope fades, so that candidates
    /// named by a hostile peer draw little traffic (RFC 8445 §14).
    fn pace(&self) -> Duration {
        let waited = self.last_tick.saturating_duration_since(self.started);
        (waited / 10).clamp(Duration::from_millis(20), Duration::from_millis(200))
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.flight.repeat(now, &mut self.transmits);
        self.tick(now);
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
        let mut progress = false;
        while let Some(packet) = self.pc.poll_write() {
            progress = true;
            self.transmit(now, packet);
        }
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
            self.on_observation(&observation);
        }
        progress
    }

    fn transmit(&mut self, now: Instant, packet: TaggedBytesMut) {
        let packet = Datagram {
            local: packet.transport.local_addr,
            remote: packet.transport.peer_addr,
            payload: packet.message,
        };
        match Kind::of(&packet.payload) {
            Kind::Stun => self.measurements.stun_out(now, &packet.payload),
            Kind::Dtls if !self.is_open() => self.flight.sent(now, &packet),
            _ => {}
        }
        self.transmits.push_back(packet);
    }

    fn on_core_event(&mut self, now: Instant, event: RTCPeerConnectionEvent) {
        match event {
            RTCPeerConnectionEvent::OnIceConnectionStateChangeEvent(
                RTCIceConnectionState::Connected,
            ) => {
                self.ice_connected = true;
                // Now, or the ClientHello waits for the next tick.
                self.kicked = true;
                for packet in self.early_dtls.release() {
                    self.feed(now, Kind::Dtls, packet);
                }
            }
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => match state {
                RTCPeerConnectionState::Connected => {
                    self.has_keys = true;
                    for packet in self.early_srtp.release() {
                        self.feed(now, Kind::Srtp, packet);
                    }
                }
                RTCPeerConnectionState::Failed => self.events.push_back(Event::Failed),
                _ => {}
            },
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(handle)) => {
                self.on_channel_open(handle);
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(_)) => {
                // Without a word on Control: perhaps a browser whose page went away.
                let closed = Closed::new(CloseCode::LOST, "", false);
                self.events.push_back(Event::Closed(closed));
            }
            _ => {}
        }
    }

    fn on_channel_open(&mut self, handle: RTCDataChannelId) {
        if !self.handles.contains(&handle) {
            self.events.push_back(Event::Violation(CloseCode::PROTOCOL));
            return;
        }
        self.unopened = self.unopened.saturating_sub(1);
        if self.is_open() {
            self.flight.finish();
            self.events.push_back(Event::Opened);
        }
    }

    fn on_message(&mut self, message: RTCMessage) {
        let event = match message {
            RTCMessage::DataChannelMessage(handle, message) => {
                let number = self.handles.iter().position(|known| *known == handle);
                match number.and_then(|number| Channel::DATA.get(number)) {
                    Some(channel) => data_event(*channel, message.is_string, message.data),
                    None => Event::Violation(CloseCode::PROTOCOL),
                }
            }
            // Of any size that fits a datagram: browsers fill video packets to 1200 bytes.
            RTCMessage::RtpPacket(_, packet) => match self.media.receive(packet) {
                Some((channel, packet)) => Event::Frame(Frame::media(channel, packet)),
                None => return,
            },
            _ => return,
        };
        self.events.push_back(event);
    }

    fn on_observation(&mut self, observation: &Observation) {
        match *observation {
            Observation::Clock { ssrc, clock } => {
                if let Some(channel) = self.media.remote_channel(ssrc) {
                    let frame = Frame::clock(channel, clock);
                    self.events.push_back(Event::Frame(frame));
                }
            }
            Observation::Loss { ssrc, fraction } => {
                if let Some(channel) = self.media.local_channel(ssrc) {
                    self.measurements.loss(channel, fraction);
                }
            }
            Observation::Jitter { ssrc, jitter } => {
                if let Some(channel) = self.media.remote_channel(ssrc) {
                    self.measurements.jitter(channel, jitter);
                }
            }
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
    }
}

/// What a data channel message means.
fn data_event(channel: Channel, is_text: bool, data: BytesMut) -> Event {
    if data.len() > channel.max_message_len() {
        return match channel.delivery() {
            Delivery::ReliableOrdered => Event::Violation(CloseCode::TOO_LARGE),
            Delivery::UnreliableUnordered => Event::Dropped(channel),
        };
    }
    if !is_text {
        return Event::Frame(Frame::binary(channel, data.freeze()));
    }
    let violation = Event::Violation(CloseCode::PROTOCOL);
    let Ok(text) = String::from_utf8(data.into()) else {
        return violation;
    };
    match channel {
        Channel::App | Channel::AppFast => Event::Frame(Frame::text(channel, text)),
        Channel::Control => close::parse(&text).map_or(violation, Event::Closed),
        _ => violation,
    }
}

#[cfg(test)]
mod tests;
