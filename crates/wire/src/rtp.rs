//! Media on the wire: [`MediaPacket`]s as RTP, [`MediaClock`]s as RTCP sender reports (RFC 3550),
//! both on one flow (RFC 5761), and what a receiver measures of a stream.
//!
//! Written out rather than built on a media library: the few packets that a link speaks are small
//! and fixed, their parsing must be bounded to the byte, and this crate also builds for wasm.
//!
//! [`MediaPacket`]: roundtable_core::MediaPacket
//! [`MediaClock`]: roundtable_core::MediaClock

mod packet;
mod receive;
mod red;
mod rtcp;

pub use packet::{HEADER_LEN, PayloadTypes, decode_packet, encode_packet};
pub use receive::ReceiveStatistics;
pub use red::{
    MAX_RED_BLOCK_LEN, MAX_RED_BLOCKS, MAX_RED_OFFSET, RedBlock, RedBlocks, decode_red, encode_red,
    red_len, red_primary,
};
pub use rtcp::{
    MAX_REPORTS, ReceptionReport, ReportKind, RtcpReport, SenderInfo, decode_reports,
    encode_receiver_report, encode_sender_report,
};

/// Why bytes are not the RTP or RTCP that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RtpError {
    /// The packet ends before what its own fields announce.
    #[error("the packet is cut off")]
    Truncated,
    /// The version is not 2.
    #[error("RTP version {0} is not 2")]
    Version(u8),
    /// The padding count is zero or longer than the payload (RFC 3550 §5.1).
    #[error("the padding is longer than the packet, or zero")]
    Padding,
    /// No codec is mapped to this payload type.
    #[error("payload type {0} is not mapped to a codec")]
    PayloadType(u8),
    /// More blocks of redundant audio than [`MAX_RED_BLOCKS`].
    #[error("a redundant payload holds more than {MAX_RED_BLOCKS} blocks")]
    RedBlocks,
    /// An RTCP packet's length field does not fit what it holds.
    #[error("an RTCP packet is shorter than its type allows")]
    Length,
}

/// Whether a packet that shares its flow with RTP is RTCP: its second byte is in 192..=223, values
/// that no payload type with marker bit used beside RTCP may take (RFC 5761 §4).
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

/// Feeds arbitrary bytes through everything in this module that parses; for the fuzzer.
///
/// # Panics
/// When a packet that was read does not survive being written and read again.
#[cfg(any(test, feature = "__fuzz"))]
#[doc(hidden)]
pub fn __fuzz_rtp(data: &[u8]) {
    let types = PayloadTypes::default();
    if is_rtcp(data) {
        __fuzz_rtcp(data);
    } else if let Ok((ssrc, packet)) = decode_packet(&bytes::Bytes::copy_from_slice(data), &types) {
        let mut again = bytes::BytesMut::new();
        encode_packet(&packet, ssrc, &types, &mut again);
        assert_eq!(
            decode_packet(&again.freeze(), &types),
            Ok((ssrc, packet.clone()))
        );
        fuzz_red(&packet.payload);
    }
}

/// Whatever is read of a redundant payload is written as the same bytes.
#[cfg(any(test, feature = "__fuzz"))]
fn fuzz_red(payload: &bytes::Bytes) {
    let Ok(blocks) = decode_red(payload) else {
        return;
    };
    let mut blocks: Vec<RedBlock> = blocks.collect();
    let Some(primary) = blocks.pop() else {
        panic!("a payload without a primary was read");
    };
    let mut again = bytes::BytesMut::new();
    let kind = primary.payload_type;
    assert!(encode_red(&blocks, kind, &primary.payload, &mut again));
    assert_eq!(again, payload);
}

/// Feeds arbitrary bytes to the parser of RTCP; for the fuzzer.
///
/// # Panics
/// When what was read does not survive being written and read again.
#[cfg(any(test, feature = "__fuzz"))]
#[doc(hidden)]
pub fn __fuzz_rtcp(data: &[u8]) {
    let Ok(reports) = decode_reports(data) else {
        return;
    };
    for report in reports {
        assert!(report.receptions.len() <= MAX_REPORTS);
        let mut again = bytes::BytesMut::new();
        encode_receiver_report(report.ssrc, &report.receptions, "", &mut again);
        let mut expected = vec![RtcpReport {
            kind: ReportKind::Receiver,
            ..report.clone()
        }];
        if let ReportKind::Sender(info) = report.kind {
            encode_sender_report(report.ssrc, &info, "", &mut again);
            expected.push(RtcpReport {
                receptions: Vec::new(),
                ..report
            });
        }
        assert_eq!(decode_reports(&again), Ok(expected));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use roundtable_core::{MediaClock, MediaCodec, MediaPacket, NtpTime};

    use super::*;

    /// One of every kind of packet.
    fn packets() -> Vec<BytesMut> {
        let mut all = vec![BytesMut::new(); 3];
        let info = SenderInfo {
            clock: MediaClock {
                ntp: NtpTime(1 << 40),
                timestamp: 960,
            },
            packets: 3,
            octets: 4,
        };
        encode_sender_report(7, &info, "name", &mut all[0]);
        let reception = ReceptionReport::default();
        encode_receiver_report(7, &[reception, reception], "name", &mut all[0]);
        encode_receiver_report(7, &[reception], "name", &mut all[1]);
        let older = RedBlock {
            payload_type: 111,
            offset: 960,
            payload: (&b"older"[..]).into(),
        };
        let mut payload = BytesMut::new();
        assert!(encode_red(
            &[older.clone(), older],
            111,
            b"newer",
            &mut payload
        ));
        let packet = MediaPacket {
            sequence: 1,
            timestamp: 2,
            marker: true,
            codec: MediaCodec::OpusRed,
            payload: payload.freeze(),
        };
        assert!(encode_packet(
            &packet,
            3,
            &PayloadTypes::default(),
            &mut all[2]
        ));
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn damaged_packets_are_errors_or_survive_being_written_again(
            which in 0..3_usize,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
            cuts in any::<bool>(),
        ) {
            let mut bytes = packets().swap_remove(which).to_vec();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
            __fuzz_rtp(&bytes);
            __fuzz_rtcp(&bytes);
        }
    }
}
