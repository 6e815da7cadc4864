//! The channels of a relay (RFC 8656 §12), remembered beside the core's client: when the refresh of
//! one is answered 438 (Stale Nonce), the client forgets the channel that the server goes on using.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::BytesMut;
use rtc::{
    stun::message::{Getter, Message, TransactionId},
    turn::proto::{channum::ChannelNumber, peeraddr::PeerAddress},
};

/// Channels remembered, and requests under way, at most: more than a relay has permissions. When
/// full, the oldest is forgotten.
const MAX_CHANNELS: usize = 256;

/// ChannelBind request and success response (RFC 8656 §18.1).
const BIND_REQUEST: &[u8] = &[0x00, 0x09];
const BIND_SUCCESS: &[u8] = &[0x01, 0x09];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Channel {
    number: u16,
    peer: SocketAddr,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    asked: VecDeque<(TransactionId, Channel)>,
    bound: VecDeque<Channel>,
}

impl Channels {
    /// A packet of ours is about to leave. Whether it may: not a request for a second channel to a
    /// peer, which the server would refuse (RFC 8656 §12.2), and the client would repeat with every
    /// packet; without an answer it sends indications instead.
    pub(crate) fn may_leave(&mut self, packet: &[u8]) -> bool {
        let Some((id, asked)) = bind_request(packet) else {
            return true;
        };
        let bound = self.bound.iter().find(|bound| bound.peer == asked.peer);
        let is_second = bound.is_some_and(|bound| bound.number != asked.number);
        if !is_second {
            remember(&mut self.asked, (id, asked));
        }
        !is_second
    }

    /// A packet of the server's. If it is data of a channel: from whom, and the data.
    pub(crate) fn heard(&mut self, packet: &BytesMut) -> Option<(SocketAddr, BytesMut)> {
        let header = packet.first_chunk::<4>()?;
        if header.starts_with(BIND_SUCCESS) {
            self.confirm(packet);
            return None;
        }
        let [high, low, len @ ..] = *header;
        let number = u16::from_be_bytes([high, low]);
        let channel = self.bound.iter().find(|bound| bound.number == number)?;
        let len = usize::from(u16::from_be_bytes(len));
        Some((channel.peer, packet.get(4..4 + len)?.into()))
    }

    fn confirm(&mut self, packet: &[u8]) {
        let id = packet.get(8..20);
        let at = self
            .asked
            .iter()
            .position(|(asked, _)| Some(&asked.0[..]) == id);
        if let Some((_, channel)) = at.and_then(|at| self.asked.remove(at)) {
            self.bound.retain(|bound| bound.number != channel.number);
            remember(&mut self.bound, channel);
        }
    }
}

fn remember<T>(all: &mut VecDeque<T>, new: T) {
    if all.len() == MAX_CHANNELS {
        all.pop_front();
    }
    all.push_back(new);
}

fn bind_request(packet: &[u8]) -> Option<(TransactionId, Channel)> {
    if !packet.starts_with(BIND_REQUEST) {
        return None;
    }
    let mut message = Message {
        raw: packet.to_vec(),
        ..Message::default()
    };
    message.decode().ok()?;
    let (mut number, mut peer) = (ChannelNumber::default(), PeerAddress::default());
    number.get_from(&message).ok()?;
    peer.get_from(&message).ok()?;
    let channel = Channel {
        number: number.0,
        peer: SocketAddr::new(peer.ip, peer.port),
    };
    Some((message.transaction_id, channel))
}
