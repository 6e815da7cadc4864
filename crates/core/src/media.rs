//! Media as links carry it: RTP packets without the parts that belong to a link.

use bytes::Bytes;

use crate::WallTime;

/// Seconds between the NTP epoch (1900) and the Unix epoch (1970), RFC 5905 §6.
const NTP_UNIX_OFFSET_S: u64 = 2_208_988_800;

/// A codec that a media packet's payload is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MediaCodec {
    /// Opus (RFC 6716, RTP payload RFC 7587), clock 48 kHz whatever the coded bandwidth.
    Opus,
    /// Opus frames of which each packet repeats the ones before (RFC 2198), clock 48 kHz. The blocks' own
    /// payload type is 111; a link to a peer that does not take it sends the last block alone, as
    /// [`Opus`](Self::Opus).
    OpusRed,
    /// VP8 (RFC 7741), clock 90 kHz.
    Vp8,
    /// VP9 (RFC 9628), clock 90 kHz.
    Vp9,
    /// H.264 (RFC 6184), clock 90 kHz.
    H264,
}

impl MediaCodec {
    /// Ticks of the RTP timestamp a second.
    pub const fn clock_rate_hz(self) -> u32 {
        match self {
            Self::Opus | Self::OpusRed => 48_000,
            Self::Vp8 | Self::Vp9 | Self::H264 => 90_000,
        }
    }
}

/// One packet of media. The link adds SSRC, payload type and header extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaPacket {
    /// RTP sequence number (RFC 3550 §5.1), one more for each packet of the stream, wrapping.
    pub sequence: u16,
    /// RTP timestamp of the payload's first sample, in ticks of the codec's clock, wrapping.
    pub timestamp: u32,
    /// RTP marker: the first packet of a talk spurt, or the last of a video frame.
    pub marker: bool,
    /// The codec of `payload`.
    pub codec: MediaCodec,
    /// The codec's bytes, at most 1100.
    pub payload: Bytes,
}

/// A point on the line that maps RTP timestamps to the sender's wall clock, built from *capture*
/// time, so that streams of one sender can be aligned (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaClock {
    /// When the sample of `timestamp` was captured, on the sender's wall clock.
    pub ntp: NtpTime,
    /// The RTP timestamp of that sample.
    pub timestamp: u32,
}

/// A 64-bit NTP timestamp (RFC 5905 §6): seconds since 1900 in the upper half, fraction in the
/// lower. Wraps in 2036.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The middle 32 bits, as reports echo them (RFC 3550 §6.4.1 LSR): 1/65536 s.
    pub const fn middle(self) -> u32 {
        #[allow(clippy::cast_possible_truncation)] // keeping the middle bits is the point
        {
            (self.0 >> 16) as u32
        }
    }
}

impl From<WallTime> for NtpTime {
    fn from(wall: WallTime) -> Self {
        let micros = u128::from(wall.as_micros());
        let seconds = (micros / 1_000_000) + u128::from(NTP_UNIX_OFFSET_S);
        let fraction = ((micros % 1_000_000) << 32) / 1_000_000;
        #[allow(clippy::cast_possible_truncation)] // NTP wraps by definition
        Self(((seconds << 32) | fraction) as u64)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    #[test]
    fn ntp_of_the_unix_epoch_is_the_well_known_offset() {
        let ntp = NtpTime::from(WallTime::from_micros(500_000));
        assert_eq!(ntp.0 >> 32, NTP_UNIX_OFFSET_S);
        assert_eq!(ntp.0 & 0xffff_ffff, 1 << 31);
        assert_eq!(ntp.middle(), ((NTP_UNIX_OFFSET_S as u32) << 16) | 0x8000);
    }
}
