//! RTCP sender and receiver reports (RFC 3550 §6).

use bytes::{BufMut, BytesMut};
use roundtable_core::{MediaClock, NtpTime};

use super::RtpError;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const CNAME: u8 = 1;

/// Bytes of the common header: flags, type, length in words less one.
const HEADER_LEN: usize = 4;
const RECEPTION_LEN: usize = 24;

/// The most reception reports in one report packet: its count field has five bits.
pub const MAX_REPORTS: usize = 31;

/// What a sender report tells of its stream (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderInfo {
    /// Which wall-clock time the RTP timestamp stands for.
    pub clock: MediaClock,
    /// RTP packets sent so far, wrapping.
    pub packets: u32,
    /// Payload bytes sent so far, wrapping.
    pub octets: u32,
}

/// What a receiver tells about one stream it hears (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceptionReport {
    /// The stream.
    pub ssrc: u32,
    /// Share of packets lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the start, less duplicates; 24 bits, signed.
    pub cumulative_lost: i32,
    /// Highest sequence number received, the wraps counted in the upper 16 bits.
    pub highest_sequence: u32,
    /// Interarrival jitter in ticks of the media clock.
    pub jitter: u32,
    /// The middle 32 bits of the last sender report's NTP time, 0 if there was none.
    pub last_sender_report: u32,
    /// Time since that report arrived, in 1/65536 s.
    pub delay_since_last: u32,
}

/// Whether a report comes from a sender or only from a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// A sender report, with what it says of its own stream.
    Sender(SenderInfo),
    /// A receiver report.
    Receiver,
}

/// One sender or receiver report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtcpReport {
    /// Who reports.
    pub ssrc: u32,
    /// Sender or receiver report.
    pub kind: ReportKind,
    /// What it hears of others, at most [`MAX_REPORTS`].
    pub receptions: Vec<ReceptionReport>,
}

/// Appends a compound packet (RFC 3550 §6.1) to `out`: a sender report of the stream `ssrc` and
/// its source description.
///
/// `cname` ties the streams of one sender together (RFC 3550 §6.5.1) and must be the same in all
/// of them; at most 255 bytes of it are written.
pub fn encode_sender_report(ssrc: u32, info: &SenderInfo, cname: &str, out: &mut BytesMut) {
    put_header(out, 0, SENDER_REPORT, 6);
    out.put_u32(ssrc);
    out.put_u64(info.clock.ntp.0);
    out.put_u32(info.clock.timestamp);
    out.put_u32(info.packets);
    out.put_u32(info.octets);
    put_source_description(ssrc, cname, out);
}

/// Appends a compound packet to `out`: a receiver report (RFC 3550 §6.4.2) from `ssrc` about the
/// first [`MAX_REPORTS`] of `receptions`, and its source description.
pub fn encode_receiver_report(
    ssrc: u32,
    receptions: &[ReceptionReport],
    cname: &str,
    out: &mut BytesMut,
) {
    let receptions = &receptions[..receptions.len().min(MAX_REPORTS)];
    #[allow(clippy::cast_possible_truncation)] // at most MAX_REPORTS
    let count = receptions.len() as u8;
    put_header(out, count, RECEIVER_REPORT, 1 + 6 * u16::from(count));
    out.put_u32(ssrc);
    for reception in receptions {
        out.put_u32(reception.ssrc);
        out.put_u8(reception.fraction_lost);
        let lost = reception.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff);
        out.put_slice(&lost.to_be_bytes()[1..]);
        out.put_u32(reception.highest_sequence);
        out.put_u32(reception.jitter);
        out.put_u32(reception.last_sender_report);
        out.put_u32(reception.delay_since_last);
    }
    put_source_description(ssrc, cname, out);
}

fn put_header(out: &mut BytesMut, count: u8, kind: u8, words_after: u16) {
    out.put_u8(0x80 | count);
    out.put_u8(kind);
    out.put_u16(words_after);
}

fn put_source_description(ssrc: u32, cname: &str, out: &mut BytesMut) {
    let cname = &cname.as_bytes()[..cname.len().min(255)];
    // SSRC, item type and length, the name, and 1 to 4 zero bytes that end the chunk.
    let chunk = 4 + 2 + cname.len() + 1;
    let padded = chunk.next_multiple_of(4);
    #[allow(clippy::cast_possible_truncation)] // at most 264 bytes, and 255 of name
    let (words, name_len) = ((padded / 4) as u16, cname.len() as u8);
    put_header(out, 1, SOURCE_DESCRIPTION, words);
    out.put_u32(ssrc);
    out.put_u8(CNAME);
    out.put_u8(name_len);
    out.put_slice(cname);
    out.put_bytes(0, 1 + padded - chunk);
}

/// Reads the sender and receiver reports of a compound packet, or of a single one (RFC 5506).
/// Packets of other types are skipped, and so are profile-specific extensions.
///
/// # Errors
/// [`RtpError`] says what is malformed; no input panics.
pub fn decode_reports(mut bytes: &[u8]) -> Result<Vec<RtcpReport>, RtpError> {
    let mut reports = Vec::new();
    while !bytes.is_empty() {
        let (&[flags, kind, l0, l1], _) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(RtpError::Truncated)?;
        if flags >> 6 != 2 {
            return Err(RtpError::Version(flags >> 6));
        }
        let len = HEADER_LEN + 4 * usize::from(u16::from_be_bytes([l0, l1]));
        let (packet, rest) = bytes.split_at_checked(len).ok_or(RtpError::Truncated)?;
        if matches!(kind, SENDER_REPORT | RECEIVER_REPORT) {
            let count = usize::from(flags & 0x1f);
            reports.push(decode_report(kind, count, &packet[HEADER_LEN..])?);
        }
        bytes = rest;
    }
    Ok(reports)
}

fn decode_report(kind: u8, count: usize, mut body: &[u8]) -> Result<RtcpReport, RtpError> {
    let ssrc = take_u32(&mut body)?;
    let kind = if kind == SENDER_REPORT {
        let (seconds, fraction) = (take_u32(&mut body)?, take_u32(&mut body)?);
        ReportKind::Sender(SenderInfo {
            clock: MediaClock {
                ntp: NtpTime(u64::from(seconds) << 32 | u64::from(fraction)),
                timestamp: take_u32(&mut body)?,
            },
            packets: take_u32(&mut body)?,
            octets: take_u32(&mut body)?,
        })
    } else {
        ReportKind::Receiver
    };
    let blocks = body.get(..count * RECEPTION_LEN).ok_or(RtpError::Length)?;
    let receptions = blocks
        .chunks_exact(RECEPTION_LEN)
        .map(decode_reception)
        .collect::<Result<_, _>>()?;
    Ok(RtcpReport {
        ssrc,
        kind,
        receptions,
    })
}

fn decode_reception(mut block: &[u8]) -> Result<ReceptionReport, RtpError> {
    let ssrc = take_u32(&mut block)?;
    let [fraction_lost, lost @ ..] = take_u32(&mut block)?.to_be_bytes();
    Ok(ReceptionReport {
        ssrc,
        fraction_lost,
        // Shifting down again extends the sign of the 24 bits.
        cumulative_lost: i32::from_be_bytes([lost[0], lost[1], lost[2], 0]) >> 8,
        highest_sequence: take_u32(&mut block)?,
        jitter: take_u32(&mut block)?,
        last_sender_report: take_u32(&mut block)?,
        delay_since_last: take_u32(&mut block)?,
    })
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32, RtpError> {
    let (word, rest) = bytes.split_first_chunk().ok_or(RtpError::Length)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc_rtcp::{
        receiver_report::ReceiverReport, sender_report::SenderReport,
        source_description::SourceDescription,
    };

    use super::*;

    prop_compose! {
        fn any_info()(ntp in any::<u64>(), timestamp in any::<u32>(), packets in any::<u32>(),
            octets in any::<u32>()) -> SenderInfo {
            SenderInfo { clock: MediaClock { ntp: NtpTime(ntp), timestamp }, packets, octets }
        }
    }

    prop_compose! {
        fn any_reception()(ssrc in any::<u32>(), fraction_lost in any::<u8>(),
            cumulative_lost in -0x80_0000..=0x7f_ffff_i32, highest_sequence in any::<u32>(),
            jitter in any::<u32>(), last_sender_report in any::<u32>(),
            delay_since_last in any::<u32>()) -> ReceptionReport {
            ReceptionReport { ssrc, fraction_lost, cumulative_lost, highest_sequence, jitter,
                last_sender_report, delay_since_last }
        }
    }

    proptest! {
        #[test]
        fn sender_reports_round_trip(ssrc in any::<u32>(), info in any_info(), cname in ".{0,80}") {
            let mut bytes = BytesMut::new();
            encode_sender_report(ssrc, &info, &cname, &mut bytes);
            prop_assert!(super::super::is_rtcp(&bytes));
            let expected = RtcpReport { ssrc, kind: ReportKind::Sender(info), receptions: vec![] };
            prop_assert_eq!(decode_reports(&bytes), Ok(vec![expected]));
        }

        #[test]
        fn receiver_reports_round_trip(
            ssrc in any::<u32>(), receptions in prop::collection::vec(any_reception(), 0..=31),
        ) {
            let mut bytes = BytesMut::new();
            encode_receiver_report(ssrc, &receptions, "me", &mut bytes);
            let expected = RtcpReport { ssrc, kind: ReportKind::Receiver, receptions };
            prop_assert_eq!(decode_reports(&bytes), Ok(vec![expected]));
        }

        #[test]
        fn another_implementation_reads_what_we_write(
            info in any_info(), cname in "[a-z]{1,70}", reception in any_reception(),
        ) {
            let mut bytes = BytesMut::new();
            encode_sender_report(9, &info, &cname, &mut bytes);
            encode_receiver_report(9, &[reception], &cname, &mut bytes);
            let theirs = rtc_rtcp::packet::unmarshal(&mut bytes.freeze()).unwrap();
            let sender = theirs[0].as_any().downcast_ref::<SenderReport>().unwrap();
            prop_assert_eq!(sender.ntp_time, info.clock.ntp.0);
            prop_assert_eq!(sender.rtp_time, info.clock.timestamp);
            prop_assert_eq!((sender.packet_count, sender.octet_count), (info.packets, info.octets));
            let named = theirs[1].as_any().downcast_ref::<SourceDescription>().unwrap();
            prop_assert_eq!(&named.chunks[0].items[0].text[..], cname.as_bytes());
            let receiver = theirs[2].as_any().downcast_ref::<ReceiverReport>().unwrap();
            prop_assert_eq!(receiver.reports[0].jitter, reception.jitter);
            prop_assert_eq!(receiver.reports[0].last_sequence_number, reception.highest_sequence);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = decode_reports(&bytes);
        }
    }

    #[test]
    fn a_count_beyond_the_packet_is_refused() {
        let mut bytes = BytesMut::new();
        encode_receiver_report(1, &[ReceptionReport::default()], "x", &mut bytes);
        bytes[0] = 0x80 | 2;
        assert_eq!(decode_reports(&bytes), Err(RtpError::Length));
        assert_eq!(decode_reports(&bytes[..10]), Err(RtpError::Truncated));
    }

    #[test]
    fn other_rtcp_is_skipped() {
        let goodbye = [0x81, 203, 0, 1, 0, 0, 0, 9];
        assert_eq!(decode_reports(&goodbye), Ok(vec![]));
    }
}
