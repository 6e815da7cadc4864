//! How frames look on QUIC: stream messages and datagrams, as `docs/protocols/links.md` lays them
//! out. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use roundtable_core::{
    AuthorId, Channel, CloseCode, Delivery, Frame, MediaClock, MediaPacket, Payload,
};
use roundtable_wire::rtp::{
    HEADER_LEN as RTP_HEADER_LEN, PayloadTypes, ReceptionReport, ReportKind, RtpError, SenderInfo,
    decode_packet, decode_reports, encode_packet, encode_receiver_report, encode_sender_report,
    is_rtcp,
};

const BINARY: u8 = 0;
const TEXT: u8 = 1;

/// Bytes before each message on a stream: kind, then length as little-endian `u32`.
pub(crate) const MESSAGE_HEADER_LEN: usize = 5;

/// What a peer did that ends its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("a stream does not name one of the reliable channels")]
    StreamChannel,
    #[error("a channel has two streams")]
    DuplicateStream,
    #[error("a stream ended inside a message, or was reset or stopped")]
    BrokenStream,
    #[error("a message is of an unknown kind, or of one that its channel does not take")]
    MessageKind,
    #[error("a text message is not UTF-8")]
    Utf8,
    #[error("a datagram does not name one of the unreliable channels")]
    DatagramChannel,
    #[error("a media datagram is malformed")]
    Media,
    #[error("a message is larger than its channel allows")]
    TooLarge,
}

impl Violation {
    pub(crate) fn code(self) -> CloseCode {
        match self {
            Self::TooLarge => CloseCode::TOO_LARGE,
            _ => CloseCode::PROTOCOL,
        }
    }
}

/// The reliable channel that a stream's first byte names.
pub(crate) fn stream_channel(byte: u8) -> Result<Channel, Violation> {
    Channel::from_number(byte)
        .filter(|channel| channel.delivery() == Delivery::ReliableOrdered)
        .ok_or(Violation::StreamChannel)
}

/// A frame of a reliable channel as its stream's next message: header and payload.
pub(crate) fn encode_message(frame: Frame) -> [Bytes; 2] {
    let (kind, payload) = match frame.payload {
        Payload::Binary(bytes) => (BINARY, bytes),
        Payload::Text(text) => (TEXT, text.into()),
        // A checked frame of a reliable channel is never media.
        Payload::Media(_) | Payload::Clock(_) => (BINARY, Bytes::new()),
    };
    let mut header = BytesMut::with_capacity(MESSAGE_HEADER_LEN);
    header.put_u8(kind);
    #[allow(clippy::cast_possible_truncation)] // a checked frame has at most 72 KiB
    header.put_u32_le(payload.len() as u32);
    [header.freeze(), payload]
}

/// Reads a message's header: whether it is text, and its length, both fit for `channel`.
pub(crate) fn decode_message_header(
    channel: Channel,
    header: [u8; MESSAGE_HEADER_LEN],
) -> Result<(bool, usize), Violation> {
    let [kind, length @ ..] = header;
    let text = decode_kind(channel, kind)?;
    match usize::try_from(u32::from_le_bytes(length)) {
        Ok(length) if length <= channel.max_message_len() => Ok((text, length)),
        _ => Err(Violation::TooLarge),
    }
}

fn decode_kind(channel: Channel, kind: u8) -> Result<bool, Violation> {
    match kind {
        BINARY => Ok(false),
        TEXT if matches!(channel, Channel::App | Channel::AppFast) => Ok(true),
        _ => Err(Violation::MessageKind),
    }
}

/// A message's bytes as a frame.
pub(crate) fn decode_message(
    channel: Channel,
    text: bool,
    payload: Bytes,
) -> Result<Frame, Violation> {
    if !text {
        return Ok(Frame::binary(channel, payload));
    }
    match String::from_utf8(payload.into()) {
        Ok(text) => Ok(Frame::text(channel, text)),
        Err(_) => Err(Violation::Utf8),
    }
}

/// The outgoing media stream of one channel.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    ssrc: u32,
    packets: u32,
    octets: u32,
}

/// Writes frames of unreliable channels as datagrams, and keeps what sender reports tell.
#[derive(Debug)]
pub(crate) struct DatagramEncoder {
    voice: Stream,
    video: Stream,
    cname: String,
}

impl DatagramEncoder {
    /// Our own author ties the two streams together.
    pub(crate) fn new(author: AuthorId, [voice, video]: [u32; 2]) -> Self {
        let stream = |ssrc| Stream {
            ssrc,
            ..Stream::default()
        };
        Self {
            voice: stream(voice),
            video: stream(video),
            cname: author.to_string(),
        }
    }

    /// Reports in the name of our voice.
    pub(crate) fn reporter(&self) -> Reporter {
        Reporter {
            ssrc: self.voice.ssrc,
            cname: self.cname.clone(),
        }
    }

    /// The datagram for `frame`, or `None` for a codec that has no payload type.
    pub(crate) fn encode(&mut self, frame: &Frame) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(1 + RTP_HEADER_LEN + frame.payload_len());
        out.put_u8(frame.channel.number());
        match &frame.payload {
            Payload::Binary(bytes) => {
                if frame.channel == Channel::AppFast {
                    out.put_u8(BINARY);
                }
                out.put_slice(bytes);
            }
            Payload::Text(text) => {
                out.put_u8(TEXT);
                out.put_slice(text.as_bytes());
            }
            Payload::Media(packet) => {
                let stream = self.stream(frame.channel);
                if !encode_packet(packet, stream.ssrc, &PayloadTypes::default(), &mut out) {
                    return None;
                }
                stream.packets = stream.packets.wrapping_add(1);
                #[allow(clippy::cast_possible_truncation)] // a checked packet has at most 1100
                let octets = packet.payload.len() as u32;
                stream.octets = stream.octets.wrapping_add(octets);
            }
            Payload::Clock(clock) => {
                let Stream {
                    ssrc,
                    packets,
                    octets,
                } = *self.stream(frame.channel);
                let info = SenderInfo {
                    clock: *clock,
                    packets,
                    octets,
                };
                encode_sender_report(ssrc, &info, &self.cname, &mut out);
            }
        }
        Some(out.freeze())
    }

    fn stream(&mut self, channel: Channel) -> &mut Stream {
        match channel {
            Channel::Video => &mut self.video,
            _ => &mut self.voice,
        }
    }
}

/// What a datagram holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Datagram {
    /// A message of Replication or AppFast.
    Message(Frame),
    /// A media packet of the stream with this SSRC.
    Media(Channel, u32, MediaPacket),
    /// What a sender report says of the stream with this SSRC.
    Clock(Channel, u32, MediaClock),
    /// Media of a codec that is unknown here.
    UnknownCodec(Channel),
    /// The share of our stream on this channel that the peer missed since its last report, in 1/256;
    /// `None` if it says nothing of that.
    Report(Channel, Option<u8>),
}

/// Writes receiver reports about the peer's streams.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    ssrc: u32,
    cname: String,
}

impl Reporter {
    /// The datagram that tells the peer how its stream on `channel` arrives.
    pub(crate) fn encode(&self, channel: Channel, report: ReceptionReport) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(channel.number());
        encode_receiver_report(self.ssrc, &[report], &self.cname, &mut out);
        out.freeze()
    }
}

/// Reads one datagram.
pub(crate) fn decode_datagram(datagram: &Bytes) -> Result<Datagram, Violation> {
    let channel = datagram
        .first()
        .and_then(|number| Channel::from_number(*number))
        .filter(|channel| channel.delivery() == Delivery::UnreliableUnordered)
        .ok_or(Violation::DatagramChannel)?;
    let body = datagram.slice(1..);
    let decoded = if channel.is_media() {
        decode_media(channel, &body)?
    } else {
        let (text, payload) = match (channel, body.split_first()) {
            (Channel::AppFast, None) => return Err(Violation::MessageKind),
            (Channel::AppFast, Some((kind, _))) => (decode_kind(channel, *kind)?, body.slice(1..)),
            _ => (false, body),
        };
        Datagram::Message(decode_message(channel, text, payload)?)
    };
    let len = match &decoded {
        Datagram::Message(frame) => frame.payload_len(),
        Datagram::Media(_, _, packet) => packet.payload.len(),
        Datagram::Clock(..) | Datagram::UnknownCodec(_) | Datagram::Report(..) => 0,
    };
    if len > channel.max_message_len() {
        return Err(Violation::TooLarge);
    }
    Ok(decoded)
}

fn decode_media(channel: Channel, body: &Bytes) -> Result<Datagram, Violation> {
    if !is_rtcp(body) {
        return match decode_packet(body, &PayloadTypes::default()) {
            Ok((ssrc, packet)) => Ok(Datagram::Media(channel, ssrc, packet)),
            Err(RtpError::PayloadType(_)) => Ok(Datagram::UnknownCodec(channel)),
            Err(_) => Err(Violation::Media),
        };
    }
    let reports = decode_reports(body).map_err(|_| Violation::Media)?;
    let clock = reports.iter().find_map(|report| match report.kind {
        ReportKind::Sender(info) => Some((report.ssrc, info.clock)),
        ReportKind::Receiver => None,
    });
    Ok(match clock {
        Some((ssrc, clock)) => Datagram::Clock(channel, ssrc, clock),
        None => {
            let about_us = reports.first().and_then(|report| report.receptions.first());
            Datagram::Report(channel, about_us.map(|report| report.fraction_lost))
        }
    })
}

/// Feeds arbitrary bytes through everything that parses what a peer sends; for the fuzzer.
///
/// # Panics
/// When a datagram that was read does not survive being written and read again.
#[cfg(any(test, feature = "__fuzz"))]
#[doc(hidden)]
pub fn __fuzz_quic(data: &[u8]) {
    let Some((channel, rest)) = data.split_first() else {
        return;
    };
    if let (Ok(channel), Some((header, payload))) = (
        stream_channel(*channel),
        rest.split_first_chunk::<MESSAGE_HEADER_LEN>(),
    ) && let Ok((text, length)) = decode_message_header(channel, *header)
        && let Some(payload) = payload.get(..length)
        && let Ok(frame) = decode_message(channel, text, Bytes::copy_from_slice(payload))
    {
        let [again, body] = encode_message(frame);
        assert_eq!((&again[..], &body[..]), (&header[..], payload));
    }
    let frame = match decode_datagram(&Bytes::copy_from_slice(data)) {
        Ok(Datagram::Message(frame)) => frame,
        Ok(Datagram::Media(channel, _, packet)) => Frame::media(channel, packet),
        Ok(Datagram::Clock(channel, _, clock)) => Frame::clock(channel, clock),
        Ok(Datagram::UnknownCodec(_) | Datagram::Report(..)) | Err(_) => return,
    };
    let mut encoder = DatagramEncoder::new(AuthorId::from_bytes([0; 32]), [1, 2]);
    let datagram = encoder.encode(&frame).map(|bytes| decode_datagram(&bytes));
    let again = match datagram {
        Some(Ok(Datagram::Message(frame))) => frame,
        Some(Ok(Datagram::Media(channel, _, packet))) => Frame::media(channel, packet),
        Some(Ok(Datagram::Clock(channel, _, clock))) => Frame::clock(channel, clock),
        other => panic!("{frame:?} became {other:?}"),
    };
    assert_eq!(again, frame);
}

/// Feeds arbitrary bytes as one stream, from its first byte to its end or until it breaks the protocol; for the
/// fuzzer.
///
/// # Panics
/// When the frames that were read do not make the same stream again, or a link would not send them.
#[cfg(any(test, feature = "__fuzz"))]
#[doc(hidden)]
pub fn __fuzz_stream(data: &[u8]) {
    let Some((number, mut rest)) = data.split_first() else {
        return;
    };
    let Ok(channel) = stream_channel(*number) else {
        return;
    };
    assert_eq!(channel.number(), *number);
    while let Some((header, payload)) = rest.split_first_chunk::<MESSAGE_HEADER_LEN>() {
        let Ok((text, length)) = decode_message_header(channel, *header) else {
            return;
        };
        assert!(length <= channel.max_message_len(), "more than is kept");
        let Some((payload, behind)) = payload.split_at_checked(length) else {
            return;
        };
        let Ok(frame) = decode_message(channel, text, Bytes::copy_from_slice(payload)) else {
            assert!(text, "only text can be malformed");
            return;
        };
        assert_eq!(roundtable_transport::check_frame(&frame), Ok(()));
        let [again, body] = encode_message(frame);
        assert_eq!((&again[..], &body[..]), (&header[..], payload));
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roundtable_core::MediaCodec;

    use super::*;

    fn encoder() -> DatagramEncoder {
        DatagramEncoder::new(AuthorId::from_bytes([7; 32]), [11, 22])
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_make_us_panic(
            channel in 0_u8..9, kind in 0_u8..3, data in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            __fuzz_quic(&[&[channel, kind], &data[..]].concat());
            __fuzz_quic(&[&[channel, kind, 2, 0, 0, 0], &data[..]].concat());
            __fuzz_quic(&[&[channel, 0x80, 111], &data[..]].concat());
            __fuzz_quic(&[&[channel, 0x80, 200, 0, 6], &data[..]].concat());
            __fuzz_stream(&[&[channel, 1, 2, 0, 0, 0, b'h', b'i', 0, 9], &data[..]].concat());
        }

        #[test]
        fn app_messages_look_as_documented(text in ".{0,40}", bytes in any::<Vec<u8>>()) {
            let [header, payload] = encode_message(Frame::text(Channel::App, text.clone()));
            let length = u32::try_from(text.len()).unwrap().to_le_bytes();
            prop_assert_eq!(&header[..], [&[1], &length[..]].concat());
            prop_assert_eq!(&payload[..], text.as_bytes());

            let datagram = encoder().encode(&Frame::binary(Channel::AppFast, bytes.clone()));
            prop_assert_eq!(&datagram.unwrap()[..], [&[5, 0], &bytes[..]].concat());
            let datagram = encoder().encode(&Frame::binary(Channel::Replication, bytes.clone()));
            prop_assert_eq!(&datagram.unwrap()[..], [&[3], &bytes[..]].concat());
        }
    }

    #[test]
    fn sender_reports_count_what_was_sent_on_their_own_channel() {
        let mut encoder = encoder();
        let packet = MediaPacket {
            sequence: 1,
            timestamp: 2,
            marker: false,
            codec: MediaCodec::Opus,
            payload: Bytes::from_static(&[1, 2, 3]),
        };
        for channel in [Channel::Voice, Channel::Voice, Channel::Video] {
            encoder.encode(&Frame::media(channel, packet.clone()));
        }
        let clock = MediaClock {
            ntp: roundtable_core::NtpTime(5),
            timestamp: 6,
        };
        for (channel, ssrc, packets) in [(Channel::Voice, 11, 2), (Channel::Video, 22, 1)] {
            let datagram = encoder.encode(&Frame::clock(channel, clock)).unwrap();
            assert_eq!(datagram[0], channel.number());
            let reports = decode_reports(&datagram[1..]).unwrap();
            assert_eq!(reports[0].ssrc, ssrc);
            let expected = SenderInfo {
                clock,
                packets,
                octets: 3 * packets,
            };
            assert_eq!(reports[0].kind, ReportKind::Sender(expected));
        }
    }
}
