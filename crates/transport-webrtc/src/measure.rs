//! Round-trip time, loss and jitter of one link.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use roundtable_core::{Channel, LinkPath, LinkStats, MediaCodec, PacketStats};

/// STUN Binding request and success response (RFC 8489 §5).
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
/// Checks whose answers are awaited: those of all candidate pairs during a restart, and more than a
/// round trip holds afterwards. When full, the oldest is forgotten.
const MAX_CHECKS: usize = 256;

/// What a link has measured.
///
/// The round-trip time is that of ICE's keep-alive checks, matched by transaction id: so it is known
/// on every link, with media or without.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    /// Checks that are under way, the oldest first.
    checks: VecDeque<([u8; 12], Instant)>,
    rtt: Option<Duration>,
    /// Share lost as reported by the peer, in 1/256, of voice and video, and when.
    lost: [Option<(Instant, u8)>; 2],
    jitter: Option<(Instant, Duration)>,
    path: Option<LinkPath>,
    packets: PacketStats,
}

fn transaction(packet: &[u8], kind: [u8; 2]) -> Option<[u8; 12]> {
    let header = packet.first_chunk::<20>()?;
    (header[..2] == kind).then(|| std::array::from_fn(|i| header[8 + i]))
}

impl Measurements {
    /// A packet of this many bytes goes out.
    pub(crate) fn sent(&mut self, len: usize) {
        let PacketStats {
            sent, sent_bytes, ..
        } = &mut self.packets;
        *sent = sent.wrapping_add(1);
        *sent_bytes = sent_bytes.wrapping_add(u64::try_from(len).unwrap_or(u64::MAX));
    }

    /// A packet of this many bytes came in.
    pub(crate) fn received(&mut self, len: usize) {
        let PacketStats {
            received,
            received_bytes,
            ..
        } = &mut self.packets;
        *received = received.wrapping_add(1);
        *received_bytes = received_bytes.wrapping_add(u64::try_from(len).unwrap_or(u64::MAX));
    }

    /// A STUN packet goes out. Whether it answers a check of the peer's.
    pub(crate) fn stun_out(&mut self, now: Instant, packet: &[u8]) -> bool {
        if let Some(id) = transaction(packet, BINDING_REQUEST) {
            if self.checks.len() == MAX_CHECKS {
                self.checks.pop_front();
            }
            self.checks.push_back((id, now));
        }
        transaction(packet, BINDING_SUCCESS).is_some()
    }

    /// A STUN packet came in. Whether it answers our check.
    pub(crate) fn stun_in(&mut self, now: Instant, packet: &[u8]) -> bool {
        if let Some(id) = transaction(packet, BINDING_SUCCESS)
            && let Some(at) = self.checks.iter().rposition(|(check, _)| *check == id)
            && let Some((_, sent)) = self.checks.remove(at)
        {
            let sample = now.saturating_duration_since(sent);
            // Smoothed as in RFC 6298 §2.
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            return true;
        }
        false
    }

    /// The link runs by these candidates.
    pub(crate) fn path(&mut self, path: LinkPath) {
        self.path = Some(path);
    }

    /// The peer reported how our stream on `channel` arrives.
    pub(crate) fn loss(&mut self, now: Instant, channel: Channel, fraction: u8) {
        self.lost[usize::from(channel == Channel::Video)] = Some((now, fraction));
    }

    /// We report this jitter, in timestamp units, for the peer's stream on `channel`.
    pub(crate) fn jitter(&mut self, now: Instant, channel: Channel, units: u32) {
        let codec = match channel {
            Channel::Voice => MediaCodec::Opus,
            _ => MediaCodec::Vp8,
        };
        let seconds = f64::from(units) / f64::from(codec.clock_rate_hz());
        self.jitter = Some((now, Duration::from_secs_f64(seconds)));
    }

    /// Writes the measurements into `stats`, but for what media that has ended has shown.
    pub(crate) fn fill(&self, now: Instant, stats: &mut LinkStats) {
        stats.rtt = self.rtt;
        let counts = |at: Instant| now.saturating_duration_since(at) <= LinkStats::COUNTS_FOR;
        let [voice, video] = self.lost.map(|lost| {
            let lost = lost.filter(|(at, _)| counts(*at));
            lost.map(|(_, fraction)| f32::from(fraction) / 256.0)
        });
        stats.loss = voice.unwrap_or(0.0).max(video.unwrap_or(0.0));
        stats.voice_loss = voice;
        stats.jitter = self.jitter.filter(|(at, _)| counts(*at)).map(|(_, j)| j);
        stats.path = self.path;
        stats.packets = self.packets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roundtable_core::Clock;
    use roundtable_transport::SystemClock;

    fn stun(kind: [u8; 2], id: u8) -> Vec<u8> {
        [&kind[..], &[0, 0, 0x21, 0x12, 0xa4, 0x42], &[id; 12]].concat()
    }

    #[test]
    fn only_the_answer_to_our_own_check_counts() {
        let start = SystemClock::instant(SystemClock.now());
        let ms = |ms| start + Duration::from_millis(ms);
        let mut measured = Measurements::default();
        measured.stun_out(ms(0), &stun(BINDING_REQUEST, 7));
        measured.stun_in(ms(5), &stun(BINDING_SUCCESS, 8));
        measured.stun_in(ms(6), &[0x01, 0x01, 0]);
        assert_eq!(measured.rtt, None);
        measured.stun_in(ms(30), &stun(BINDING_SUCCESS, 7));
        assert_eq!(measured.rtt, Some(Duration::from_millis(30)));
    }

    #[test]
    fn answers_that_take_longer_than_the_pause_between_checks_are_recognised() {
        let start = SystemClock::instant(SystemClock.now());
        let ms = |ms| start + Duration::from_millis(ms);
        let mut measured = Measurements::default();
        for check in 0..5 {
            measured.stun_out(ms(400 * u64::from(check)), &stun(BINDING_REQUEST, check));
        }
        assert!(measured.stun_in(ms(1700), &stun(BINDING_SUCCESS, 1)));
        assert_eq!(measured.rtt, Some(Duration::from_millis(1300)));
        assert!(!measured.stun_in(ms(1700), &stun(BINDING_SUCCESS, 1)));
        for _ in 0..2 * MAX_CHECKS {
            measured.stun_out(ms(2000), &stun(BINDING_REQUEST, 9));
        }
        assert_eq!(measured.checks.len(), MAX_CHECKS);
    }

    #[test]
    fn reports_become_seconds_and_shares() {
        let start = SystemClock::instant(SystemClock.now());
        let mut measured = Measurements::default();
        measured.loss(start, Channel::Voice, 64);
        measured.jitter(start, Channel::Voice, 480);
        let mut stats = LinkStats::default();
        measured.fill(start + LinkStats::COUNTS_FOR, &mut stats);
        assert_eq!(stats.jitter, Some(Duration::from_millis(10)));
        assert!((stats.loss - 0.25).abs() < f32::EPSILON);
        let late = start + LinkStats::COUNTS_FOR + Duration::from_millis(1);
        measured.fill(late, &mut stats);
        assert_eq!((stats.jitter, stats.voice_loss), (None, None));
        assert!(stats.loss < f32::EPSILON);
    }
}
