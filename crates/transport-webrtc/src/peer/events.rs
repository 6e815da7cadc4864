//! What the core reports, and the messages that it hands up.

use std::time::Instant;

use bytes::BytesMut;
use roundtable_core::{Channel, CloseCode, Delivery, Frame};
use roundtable_transport::Closed;
use rtc::{
    data_channel::RTCDataChannelId,
    peer_connection::{
        event::{RTCDataChannelEvent, RTCPeerConnectionEvent},
        message::RTCMessage,
        state::{RTCIceConnectionState, RTCPeerConnectionState},
    },
};

use super::{Event, Peer};
use crate::{close, flight::Kind, rtcp_tap::Observation};

impl Peer {
    pub(super) fn on_core_event(&mut self, now: Instant, event: RTCPeerConnectionEvent) {
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
                if self.is_open() {
                    // After a restart: what was sent meanwhile is lost.
                    self.jump(now);
                    self.note_path();
                    self.names.rest();
                    self.events.push_back(Event::Moved);
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
                self.on_channel_open(now, handle);
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(_)) => {
                // Without a word on Control: perhaps a browser whose page went away.
                let closed = Closed::new(CloseCode::LOST, "", false);
                self.events.push_back(Event::Closed(closed));
            }
            _ => {}
        }
    }

    fn on_channel_open(&mut self, now: Instant, handle: RTCDataChannelId) {
        if !self.handles.contains(&handle) {
            self.events.push_back(Event::Violation(CloseCode::PROTOCOL));
            return;
        }
        self.unopened = self.unopened.saturating_sub(1);
        if self.is_open() {
            self.flight.finish();
            self.last_heard = now;
            self.note_path();
            self.names.rest();
            self.events.push_back(Event::Opened);
            self.read_premature(now);
        }
    }

    pub(super) fn on_message(&mut self, message: RTCMessage) {
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

    pub(super) fn on_observation(&mut self, now: Instant, observation: &Observation) {
        match *observation {
            Observation::Clock { ssrc, clock } => {
                if let Some(channel) = self.media.remote_channel(ssrc) {
                    let frame = Frame::clock(channel, clock);
                    self.events.push_back(Event::Frame(frame));
                }
            }
            Observation::Loss { ssrc, fraction } => {
                if let Some(channel) = self.media.local_channel(ssrc) {
                    self.measurements.loss(now, channel, fraction);
                }
            }
            Observation::Jitter { ssrc, jitter } => {
                if let Some(channel) = self.media.remote_channel(ssrc) {
                    self.measurements.jitter(now, channel, jitter);
                }
            }
        }
    }
}

/// What a data channel message means.
pub(crate) fn data_event(channel: Channel, is_text: bool, data: BytesMut) -> Event {
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
