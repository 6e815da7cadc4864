//! RTP data packets (RFC 3550 §5).

use bytes::{BufMut, Bytes, BytesMut};
use roundtable_core::{MediaCodec, MediaPacket};

use super::RtpError;

/// Bytes of the RTP header that [`encode_packet`] writes: fixed part only, no sources, no
/// extension.
pub const HEADER_LEN: usize = 12;

const VERSION: u8 = 2;
const MARKER: u8 = 0x80;

/// Which payload type (RFC 3550 §5.1, 0 to 127) stands for which codec.
///
/// The default is Opus 111, redundant Opus 63, VP8 96, VP9 98, H.264 102: the numbers that browsers offer, and the
/// ones that links without SDP use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadTypes {
    /// Opus.
    pub opus: u8,
    /// Redundant Opus (RFC 2198).
    pub red: u8,
    /// VP8.
    pub vp8: u8,
    /// VP9.
    pub vp9: u8,
    /// H.264.
    pub h264: u8,
}

impl Default for PayloadTypes {
    fn default() -> Self {
        Self {
            opus: 111,
            red: 63,
            vp8: 96,
            vp9: 98,
            h264: 102,
        }
    }
}

impl PayloadTypes {
    /// The payload type of `codec`, or `None` for a codec that RTP has no mapping for here.
    pub const fn number(&self, codec: MediaCodec) -> Option<u8> {
        match codec {
            MediaCodec::Opus => Some(self.opus),
            MediaCodec::OpusRed => Some(self.red),
            MediaCodec::Vp8 => Some(self.vp8),
            MediaCodec::Vp9 => Some(self.vp9),
            MediaCodec::H264 => Some(self.h264),
            _ => None,
        }
    }

    /// The codec of `payload_type`, or `None` for one that is not mapped.
    pub fn codec(&self, payload_type: u8) -> Option<MediaCodec> {
        [
            (self.opus, MediaCodec::Opus),
            (self.red, MediaCodec::OpusRed),
            (self.vp8, MediaCodec::Vp8),
            (self.vp9, MediaCodec::Vp9),
            (self.h264, MediaCodec::H264),
        ]
        .into_iter()
        .find_map(|(number, codec)| (number == payload_type).then_some(codec))
    }
}

/// Appends `packet` to `out` as one RTP packet of the stream `ssrc`: [`HEADER_LEN`] bytes, then the
/// payload.
///
/// Returns whether it did; a codec without a payload type is not written.
pub fn encode_packet(
    packet: &MediaPacket,
    ssrc: u32,
    types: &PayloadTypes,
    out: &mut BytesMut,
) -> bool {
    let Some(payload_type) = types.number(packet.codec) else {
        return false;
    };
    out.reserve(HEADER_LEN + packet.payload.len());
    out.put_u8(VERSION << 6);
    out.put_u8(payload_type & 0x7f | if packet.marker { MARKER } else { 0 });
    out.put_u16(packet.sequence);
    out.put_u32(packet.timestamp);
    out.put_u32(ssrc);
    out.put_slice(&packet.payload);
    true
}

/// Reads one RTP packet: its SSRC and what it carries. Contributing sources, a header extension
/// and padding are skipped. The payload shares `bytes`.
///
/// # Errors
/// [`RtpError`] says what is malformed; no input panics.
pub fn decode_packet(bytes: &Bytes, types: &PayloadTypes) -> Result<(u32, MediaPacket), RtpError> {
    let (header, _) = bytes
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(RtpError::Truncated)?;
    let [flags, kind, s0, s1, t0, t1, t2, t3, ssrc @ ..] = *header;
    if flags >> 6 != VERSION {
        return Err(RtpError::Version(flags >> 6));
    }
    let sources = usize::from(flags & 0x0f);
    let mut start = HEADER_LEN + 4 * sources;
    if flags & 0x10 != 0 {
        let word = bytes.get(start..start + 4).ok_or(RtpError::Truncated)?;
        start += 4 + 4 * usize::from(u16::from_be_bytes([word[2], word[3]]));
    }
    let mut end = bytes.len();
    if start > end {
        return Err(RtpError::Truncated);
    }
    if flags & 0x20 != 0 {
        let padding = usize::from(bytes[end - 1]);
        if padding == 0 || padding > end - start {
            return Err(RtpError::Padding);
        }
        end -= padding;
    }
    let payload_type = kind & !MARKER;
    let packet = MediaPacket {
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        marker: kind & MARKER != 0,
        codec: types
            .codec(payload_type)
            .ok_or(RtpError::PayloadType(payload_type))?,
        payload: bytes.slice(start..end),
    };
    Ok((u32::from_be_bytes(ssrc), packet))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc_shared::marshal::{Marshal, Unmarshal};

    use super::*;

    fn any_packet() -> impl Strategy<Value = MediaPacket> {
        let codec = prop::sample::select(vec![
            MediaCodec::Opus,
            MediaCodec::OpusRed,
            MediaCodec::Vp8,
            MediaCodec::Vp9,
            MediaCodec::H264,
        ]);
        let payload = prop::collection::vec(any::<u8>(), 0..1101);
        (any::<u16>(), any::<u32>(), any::<bool>(), codec, payload).prop_map(
            |(sequence, timestamp, marker, codec, payload)| MediaPacket {
                sequence,
                timestamp,
                marker,
                codec,
                payload: payload.into(),
            },
        )
    }

    fn encoded(packet: &MediaPacket, ssrc: u32) -> Bytes {
        let mut out = BytesMut::new();
        assert!(encode_packet(
            packet,
            ssrc,
            &PayloadTypes::default(),
            &mut out
        ));
        out.freeze()
    }

    proptest! {
        #[test]
        fn packets_round_trip(packet in any_packet(), ssrc in any::<u32>()) {
            let bytes = encoded(&packet, ssrc);
            prop_assert!(!super::super::is_rtcp(&bytes));
            let decoded = decode_packet(&bytes, &PayloadTypes::default());
            prop_assert_eq!(decoded, Ok((ssrc, packet)));
        }

        #[test]
        fn another_implementation_reads_what_we_write(packet in any_packet(), ssrc in any::<u32>()) {
            let mut bytes = encoded(&packet, ssrc);
            let theirs = rtc_rtp::Packet::unmarshal(&mut bytes).unwrap();
            prop_assert_eq!(theirs.header.sequence_number, packet.sequence);
            prop_assert_eq!(theirs.header.timestamp, packet.timestamp);
            prop_assert_eq!(theirs.header.marker, packet.marker);
            prop_assert_eq!(theirs.header.ssrc, ssrc);
            prop_assert_eq!(theirs.payload, packet.payload);
        }

        #[test]
        fn sources_and_extensions_of_others_are_skipped(
            packet in any_packet(),
            csrc in prop::collection::vec(any::<u32>(), 0..16),
            extension in prop::collection::vec(any::<u8>(), 1..16),
        ) {
            let types = PayloadTypes::default();
            let mut header = rtc_rtp::Header {
                version: 2,
                marker: packet.marker,
                payload_type: types.number(packet.codec).unwrap(),
                sequence_number: packet.sequence,
                timestamp: packet.timestamp,
                ssrc: 7,
                csrc,
                ..Default::default()
            };
            header.set_extension(3, extension.into()).unwrap();
            let theirs = rtc_rtp::Packet { header, payload: packet.payload.clone() };
            let bytes = theirs.marshal().unwrap().freeze();
            prop_assert_eq!(decode_packet(&bytes, &types), Ok((7, packet)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_packet(&bytes.into(), &PayloadTypes::default());
        }
    }

    #[test]
    fn padding_is_cut_off_and_a_lie_about_it_is_refused() {
        let packet = |tail: &[u8]| {
            let mut bytes = vec![0xa0, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
            bytes.extend(tail);
            decode_packet(&bytes.into(), &PayloadTypes::default()).map(|(_, p)| p.payload)
        };
        assert_eq!(packet(&[9, 9, 0, 2]).unwrap(), [9, 9][..]);
        assert_eq!(packet(&[9, 0]), Err(RtpError::Padding));
        assert_eq!(packet(&[9, 3]), Err(RtpError::Padding));
        // Without any payload the padding count would be read out of the header.
        assert_eq!(packet(&[]), Err(RtpError::Padding));
    }

    #[test]
    fn an_extension_is_skipped_by_its_length_whatever_is_in_it() {
        // A one-byte extension (RFC 8285) whose id 15 means "stop", with a word left after it.
        let header = [0x90, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let extension = [0xbe, 0xde, 0, 2, 0xf0, 1, 2, 3, 4, 5, 6, 7];
        let bytes = Bytes::from([&header[..], &extension, b"speech"].concat());
        let (_, packet) = decode_packet(&bytes, &PayloadTypes::default()).unwrap();
        assert_eq!(packet.payload, "speech");
    }

    #[test]
    fn unknown_payload_types_and_versions_are_named() {
        let mut bytes = encoded(
            &MediaPacket {
                sequence: 0,
                timestamp: 0,
                marker: true,
                codec: MediaCodec::Opus,
                payload: Bytes::new(),
            },
            1,
        )
        .to_vec();
        bytes[1] = 0x80 | 5;
        let decoded = decode_packet(&bytes.clone().into(), &PayloadTypes::default());
        assert_eq!(decoded, Err(RtpError::PayloadType(5)));
        bytes[0] = 0x40;
        let decoded = decode_packet(&bytes.into(), &PayloadTypes::default());
        assert_eq!(decoded, Err(RtpError::Version(1)));
    }
}
