//! The eight channels that every link carries, and the frames on them.

use bytes::Bytes;

use crate::{MediaClock, MediaPacket};

/// How a channel delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Every message once, in the order sent.
    ReliableOrdered,
    /// Each message at most once, in any order, never sent again after a loss.
    UnreliableUnordered,
}

/// A channel of a link. The discriminant is the channel's number on the wire.
///
/// A new kind of message is a new channel or a new wire table, never a new method on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Handshake, heartbeats, anti-entropy.
    Control = 0,
    /// Signed command frames.
    Command = 1,
    /// State snapshots.
    Snapshot = 2,
    /// Deltas of replicated state.
    Replication = 3,
    /// The application's own reliable messages, text or binary.
    App = 4,
    /// The application's own unreliable messages, text or binary.
    AppFast = 5,
    /// Speech, as RTP.
    Voice = 6,
    /// Video, as RTP.
    Video = 7,
}

impl Channel {
    /// All channels, by number.
    pub const ALL: [Self; 8] = [
        Self::Control,
        Self::Command,
        Self::Snapshot,
        Self::Replication,
        Self::App,
        Self::AppFast,
        Self::Voice,
        Self::Video,
    ];

    /// The channels that carry data messages (all but Voice and Video), by number.
    pub const DATA: [Self; 6] = [
        Self::Control,
        Self::Command,
        Self::Snapshot,
        Self::Replication,
        Self::App,
        Self::AppFast,
    ];

    /// The channel with this number, or `None` for a number above 7.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The channel's number on the wire, 0 to 7.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// How this channel delivers.
    pub const fn delivery(self) -> Delivery {
        match self {
            Self::Control | Self::Command | Self::Snapshot | Self::App => Delivery::ReliableOrdered,
            Self::Replication | Self::AppFast | Self::Voice | Self::Video => {
                Delivery::UnreliableUnordered
            }
        }
    }

    /// Who goes first when a link is short of bandwidth: higher first.
    pub const fn priority(self) -> u8 {
        match self {
            Self::Control => 7,
            Self::Voice => 6,
            Self::Command => 5,
            Self::Replication => 4,
            Self::AppFast => 3,
            Self::Video => 2,
            Self::App => 1,
            Self::Snapshot => 0,
        }
    }

    /// Whether this channel carries [`MediaPacket`]s rather than messages.
    pub const fn is_media(self) -> bool {
        matches!(self, Self::Voice | Self::Video)
    }

    /// The largest message, in bytes, that every link takes on this channel in one frame.
    ///
    /// Unreliable channels fit one datagram; a Command frame holds one 64 KiB command with room
    /// for its header.
    pub const fn max_message_len(self) -> usize {
        match self {
            Self::Command | Self::Snapshot => 72 * 1024,
            Self::Control | Self::App => 60 * 1024,
            Self::Replication | Self::AppFast | Self::Voice | Self::Video => 1100,
        }
    }

    /// A short lower-case name, as used for labels and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Command => "command",
            Self::Snapshot => "snapshot",
            Self::Replication => "replication",
            Self::App => "app",
            Self::AppFast => "app-fast",
            Self::Voice => "voice",
            Self::Video => "video",
        }
    }
}

/// What a [`Frame`] carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A binary message. Any channel but Voice and Video.
    Binary(Bytes),
    /// A text message. App and AppFast only.
    Text(String),
    /// One RTP packet of media. Voice and Video only.
    Media(MediaPacket),
    /// Which capture time an RTP timestamp stands for; travels as an RTCP sender report
    /// (RFC 3550 §6.4.1). Voice and Video only.
    Clock(MediaClock),
}

/// One message on one channel: the unit that a link sends and receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The channel.
    pub channel: Channel,
    /// The message.
    pub payload: Payload,
}

impl Frame {
    /// A binary message.
    pub fn binary(channel: Channel, message: impl Into<Bytes>) -> Self {
        Self {
            channel,
            payload: Payload::Binary(message.into()),
        }
    }

    /// A text message.
    pub fn text(channel: Channel, message: impl Into<String>) -> Self {
        Self {
            channel,
            payload: Payload::Text(message.into()),
        }
    }

    /// A media packet.
    pub fn media(channel: Channel, packet: MediaPacket) -> Self {
        Self {
            channel,
            payload: Payload::Media(packet),
        }
    }

    /// A media clock, to be sent as a sender report.
    pub fn clock(channel: Channel, clock: MediaClock) -> Self {
        Self {
            channel,
            payload: Payload::Clock(clock),
        }
    }

    /// The payload's length in bytes, without any header; 0 for a clock.
    pub fn payload_len(&self) -> usize {
        match &self.payload {
            Payload::Binary(bytes) => bytes.len(),
            Payload::Text(text) => text.len(),
            Payload::Media(packet) => packet.payload.len(),
            Payload::Clock(_) => 0,
        }
    }

    /// Whether this payload may travel on this channel.
    pub fn is_consistent(&self) -> bool {
        match self.payload {
            Payload::Binary(_) => !self.channel.is_media(),
            Payload::Text(_) => matches!(self.channel, Channel::App | Channel::AppFast),
            Payload::Media(_) | Payload::Clock(_) => self.channel.is_media(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_numbers_round_trip() {
        for channel in Channel::ALL {
            assert_eq!(Channel::from_number(channel.number()), Some(channel));
        }
        assert_eq!(Channel::from_number(8), None);
    }

    #[test]
    fn payloads_keep_to_their_channels() {
        assert!(Frame::text(Channel::App, "hi").is_consistent());
        assert!(!Frame::text(Channel::Command, "hi").is_consistent());
        assert!(!Frame::binary(Channel::Voice, vec![1]).is_consistent());
    }
}
