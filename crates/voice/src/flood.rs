//! Against peers that send far more than a voice.

use std::time::Duration;

use roundtable_core::Timestamp;

/// Packets a second that anyone may send all the time: the shortest that Opus makes (2.5 ms) and some more.
const RATE: u64 = 500;
/// Packets that may come at once: half a second of those, after the network held them up.
const BURST: u64 = 250;
/// How long a peer that sends more is not heard, from the last such packet on.
const MUTE: Duration = Duration::from_secs(5);
const PACKET_US: u64 = 1_000_000 / RATE;

/// Lets through what one voice can be, and mutes a peer that sends more (a token bucket). Told the
/// time; of constant size.
#[derive(Debug, Clone)]
pub struct FloodGuard {
    /// When the bucket is full again.
    full_at: Timestamp,
    muted_until: Option<Timestamp>,
    dropped: u64,
}

impl Default for FloodGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl FloodGuard {
    /// A guard that has seen nothing.
    pub const fn new() -> Self {
        Self {
            full_at: Timestamp::ZERO,
            muted_until: None,
            dropped: 0,
        }
    }

    /// Whether a packet that arrived at `now` may pass. One that exceeds 500 a second, beyond a burst of
    /// 250, mutes the peer for 5 s.
    pub fn admit(&mut self, now: Timestamp) -> bool {
        let full_at = self.full_at.max(now) + Duration::from_micros(PACKET_US);
        let flooded = full_at.saturating_since(now) > Duration::from_micros(BURST * PACKET_US);
        if flooded {
            self.muted_until = Some(now + MUTE);
        } else {
            self.full_at = full_at;
        }
        let passes = !self.is_muted(now);
        self.dropped = self.dropped.wrapping_add(u64::from(!passes));
        passes
    }

    /// Whether the peer is muted at `now`.
    pub fn is_muted(&self, now: Timestamp) -> bool {
        self.muted_until.is_some_and(|until| now < until)
    }

    /// Packets that did not pass. Wraps at 2^64.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the packets that come in these seconds, `rate` in each, pass.
    fn passed(guard: &mut FloodGuard, seconds: std::ops::Range<u64>, rate: u64) -> u64 {
        let times = (0..rate * (seconds.end - seconds.start))
            .map(|i| Timestamp::from_micros(seconds.start * 1_000_000 + i * 1_000_000 / rate));
        times.map(|now| u64::from(guard.admit(now))).sum()
    }

    #[test]
    fn a_voice_passes_and_so_does_what_the_network_held_up() {
        let mut guard = FloodGuard::new();
        assert_eq!(passed(&mut guard, 0..10, 400), 4_000);
        let late = Timestamp::from_millis(11_000);
        assert_eq!((0..250).filter(|_| guard.admit(late)).count(), 250);
        assert_eq!(guard.dropped(), 0);
    }

    #[test]
    fn a_flood_is_muted_and_forgiven_five_seconds_after_it_ends() {
        let mut guard = FloodGuard::new();
        let heard = passed(&mut guard, 0..3, 10_000);
        assert!(heard <= 300, "{heard}");
        assert_eq!(guard.dropped(), 30_000 - heard);
        assert_eq!(passed(&mut guard, 4..7, 50), 0, "still muted");
        assert_eq!(passed(&mut guard, 9..12, 50), 150);
    }
}
