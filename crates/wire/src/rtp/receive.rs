//! What a receiver measures of one RTP stream (RFC 3550 appendix A).

use std::time::Duration;

use roundtable_core::{MediaClock, MediaCodec, MediaPacket, Timestamp, Unwrapper};

use super::ReceptionReport;

/// Jumps of the RTP clock against the arrival clock beyond this are new talk spurts of a sloppy
/// sender or a restarted clock, not jitter.
const MAX_TRANSIT_STEP: Duration = Duration::from_secs(5);

/// Loss and interarrival jitter of one stream, and the report about it. Told the time; of constant
/// size.
#[derive(Debug, Clone)]
pub struct ReceiveStatistics {
    ssrc: u32,
    clock_rate_hz: u32,
    sequences: Unwrapper,
    timestamps: Unwrapper,
    first: Option<i64>,
    highest: i64,
    received: i64,
    expected_before: i64,
    received_before: i64,
    /// Arrival less RTP time of the last packet, in ticks.
    transit: Option<i64>,
    /// Jitter in 1/16 tick, as appendix A.8 keeps it.
    jitter_x16: i64,
    last_report: Option<(u32, Timestamp)>,
}

impl ReceiveStatistics {
    /// Statistics of the stream `ssrc`, whose RTP timestamps tick as `codec` does.
    pub fn new(ssrc: u32, codec: MediaCodec) -> Self {
        Self {
            ssrc,
            clock_rate_hz: codec.clock_rate_hz(),
            sequences: Unwrapper::new(),
            timestamps: Unwrapper::new(),
            first: None,
            highest: 0,
            received: 0,
            expected_before: 0,
            received_before: 0,
            transit: None,
            jitter_x16: 0,
            last_report: None,
        }
    }

    /// The stream's SSRC.
    pub const fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Takes note of a packet that arrived at `now`.
    pub fn packet(&mut self, now: Timestamp, packet: &MediaPacket) {
        let sequence = self.sequences.unwrap_u16(packet.sequence);
        let first = *self.first.get_or_insert(sequence);
        self.first = Some(first.min(sequence));
        self.highest = if self.received == 0 {
            sequence
        } else {
            self.highest.max(sequence)
        };
        self.received += 1;
        self.update_jitter(now, packet.timestamp);
    }

    /// Takes note of a sender report that arrived at `now`.
    pub fn sender_report(&mut self, now: Timestamp, clock: &MediaClock) {
        self.last_report = Some((clock.ntp.middle(), now));
    }

    /// Appendix A.8.
    fn update_jitter(&mut self, now: Timestamp, timestamp: u32) {
        let arrival = self.ticks(now.as_micros());
        let transit = arrival - self.timestamps.unwrap_u32(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let step = (transit - before).abs();
            if step <= self.ticks(MAX_TRANSIT_STEP.as_micros().try_into().unwrap_or(u64::MAX)) {
                self.jitter_x16 += step - ((self.jitter_x16 + 8) >> 4);
            }
        }
    }

    fn ticks(&self, micros: u64) -> i64 {
        let ticks = u128::from(micros) * u128::from(self.clock_rate_hz) / 1_000_000;
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }

    /// Interarrival jitter (RFC 3550 §6.4.1) so far.
    pub fn jitter(&self) -> Duration {
        let ticks = u64::try_from(self.jitter_x16 >> 4).unwrap_or(0);
        Duration::from_micros(ticks * 1_000_000 / u64::from(self.clock_rate_hz))
    }

    /// Packets received, duplicates included.
    pub fn received(&self) -> u64 {
        u64::try_from(self.received).unwrap_or(0)
    }

    /// Packets lost so far, less duplicates; negative if there were more of those (appendix A.3).
    pub fn lost(&self) -> i64 {
        self.expected() - self.received
    }

    fn expected(&self) -> i64 {
        self.first.map_or(0, |first| self.highest - first + 1)
    }

    /// The report to send at `now`; its fraction covers the time since the last call.
    pub fn report(&mut self, now: Timestamp) -> ReceptionReport {
        let expected = self.expected() - self.expected_before;
        let received = self.received - self.received_before;
        self.expected_before = self.expected();
        self.received_before = self.received;
        let lost = (expected - received).max(0);
        let fraction = if expected > 0 {
            (lost << 8) / expected
        } else {
            0
        };
        let since = |at| now.saturating_since(at).as_micros() * 65_536 / 1_000_000;
        let bits = |value: i64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        ReceptionReport {
            ssrc: self.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            cumulative_lost: i32::try_from(self.lost().clamp(-0x80_0000, 0x7f_ffff)).unwrap_or(0),
            highest_sequence: bits(self.highest),
            jitter: bits(self.jitter_x16 >> 4),
            last_sender_report: self.last_report.map_or(0, |(middle, _)| middle),
            delay_since_last: self
                .last_report
                .map_or(0, |(_, at)| u32::try_from(since(at)).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use roundtable_core::NtpTime;

    use super::*;

    const FRAME_TICKS: u32 = 960;

    fn packet(index: u32) -> MediaPacket {
        MediaPacket {
            sequence: 65_530_u16.wrapping_add(u16::try_from(index).unwrap()),
            timestamp: (u32::MAX - 5000).wrapping_add(index * FRAME_TICKS),
            marker: false,
            codec: MediaCodec::Opus,
            payload: Bytes::new(),
        }
    }

    fn statistics() -> ReceiveStatistics {
        ReceiveStatistics::new(7, MediaCodec::Opus)
    }

    #[test]
    fn a_punctual_stream_across_both_wraps_shows_neither_loss_nor_jitter() {
        let mut stats = statistics();
        for index in 0..100 {
            stats.packet(
                Timestamp::from_millis(20 * u64::from(index)),
                &packet(index),
            );
        }
        assert_eq!((stats.lost(), stats.received()), (0, 100));
        assert_eq!(stats.jitter(), Duration::ZERO);
        let report = stats.report(Timestamp::from_millis(2000));
        assert_eq!(report.fraction_lost, 0);
        assert_eq!(report.highest_sequence, 65_530 + 99);
    }

    #[test]
    fn the_fraction_covers_the_time_since_the_last_report() {
        let mut stats = statistics();
        for index in (0..101).filter(|i| i % 4 != 1) {
            stats.packet(
                Timestamp::from_millis(20 * u64::from(index)),
                &packet(index),
            );
        }
        let report = stats.report(Timestamp::ZERO);
        assert_eq!((report.cumulative_lost, report.fraction_lost), (25, 63));
        for index in 101..201 {
            stats.packet(
                Timestamp::from_millis(20 * u64::from(index)),
                &packet(index),
            );
        }
        let report = stats.report(Timestamp::ZERO);
        assert_eq!((report.cumulative_lost, report.fraction_lost), (25, 0));
    }

    #[test]
    fn reordering_is_no_loss_and_duplicates_make_up_for_some() {
        let mut stats = statistics();
        for index in [1, 0, 3, 2, 3] {
            stats.packet(Timestamp::ZERO, &packet(index));
        }
        assert_eq!(stats.lost(), -1);
        assert_eq!(stats.report(Timestamp::ZERO).fraction_lost, 0);
    }

    #[test]
    fn alternating_delay_converges_to_its_step() {
        let mut stats = statistics();
        for index in 0..400 {
            let late = if index % 2 == 0 { 0 } else { 8 };
            stats.packet(
                Timestamp::from_millis(20 * u64::from(index) + late),
                &packet(index),
            );
        }
        let millis = stats.jitter().as_secs_f64() * 1000.0;
        assert!((millis - 8.0).abs() < 0.1, "{millis} ms");
    }

    #[test]
    fn a_restarted_media_clock_is_not_taken_for_jitter() {
        let mut stats = statistics();
        stats.packet(Timestamp::ZERO, &packet(0));
        let mut restarted = packet(1);
        restarted.timestamp = restarted.timestamp.wrapping_add(48_000 * 3600);
        stats.packet(Timestamp::from_millis(20), &restarted);
        assert_eq!(stats.jitter(), Duration::ZERO);
    }

    #[test]
    fn the_last_sender_report_is_echoed_with_its_age() {
        let mut stats = statistics();
        let clock = MediaClock {
            ntp: NtpTime(0x0123_4567_89ab_cdef),
            timestamp: 0,
        };
        stats.sender_report(Timestamp::from_millis(1000), &clock);
        let report = stats.report(Timestamp::from_millis(1500));
        assert_eq!(report.last_sender_report, 0x4567_89ab);
        assert_eq!(report.delay_since_last, 32_768);
    }
}
