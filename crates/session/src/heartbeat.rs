//! Heartbeats of one link: is the other side still there, and how far away?

use std::time::Duration;

use roundtable_core::Timestamp;

/// Unanswered pings after which a link is dead.
pub(crate) const MISSED_LIMIT: u32 = 3;

/// Pings at an interval and judges by the answers.
///
/// Counts pings that were really sent, not time that passed: a process that slept through a minute
/// owes its peers an answer before it may call them dead.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    next: Timestamp,
    sequence: u64,
    /// Pings sent since the last answer.
    unanswered: u32,
    sent_at: Timestamp,
    rtt: Option<Duration>,
}

/// What a heartbeat that is due asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Send a ping with this number.
    Ping(u64),
    /// Three pings went unanswered.
    Dead,
}

impl Heartbeat {
    /// The first ping is due at once.
    pub(crate) fn new(now: Timestamp, interval: Duration) -> Self {
        Self {
            interval,
            next: now,
            sequence: 0,
            unanswered: 0,
            sent_at: now,
            rtt: None,
        }
    }

    pub(crate) fn next_timeout(&self) -> Timestamp {
        self.next
    }

    /// Smoothed round-trip time (RFC 6298 §2: 7/8 of the old, 1/8 of the new).
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Whether nothing was answered for a whole interval at least.
    pub(crate) fn is_silent(&self) -> bool {
        self.unanswered > 1
    }

    pub(crate) fn poll(&mut self, now: Timestamp) -> Option<Beat> {
        if now < self.next {
            return None;
        }
        if self.unanswered == MISSED_LIMIT {
            return Some(Beat::Dead);
        }
        self.next = now + self.interval;
        self.sequence += 1;
        self.unanswered += 1;
        self.sent_at = now;
        Some(Beat::Ping(self.sequence))
    }

    /// An answer to any ping since the last answer shows life; only one to the last measures: then
    /// this is the round trip that it took.
    pub(crate) fn on_pong(&mut self, now: Timestamp, sequence: u64) -> Option<Duration> {
        let oldest = self.sequence - u64::from(self.unanswered);
        if sequence <= oldest || sequence > self.sequence {
            return None;
        }
        self.unanswered = 0;
        if sequence != self.sequence {
            return None;
        }
        let sample = now.saturating_since(self.sent_at);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        Some(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn three_missed_answers_are_death() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        assert_eq!(heartbeat.poll(at(0)), Some(Beat::Ping(1)));
        assert_eq!(heartbeat.poll(at(999)), None);
        assert!(!heartbeat.is_silent());
        assert_eq!(heartbeat.poll(at(1000)), Some(Beat::Ping(2)));
        assert!(heartbeat.is_silent());
        assert_eq!(heartbeat.poll(at(2000)), Some(Beat::Ping(3)));
        assert_eq!(heartbeat.poll(at(3000)), Some(Beat::Dead));
    }

    #[test]
    fn any_recent_answer_keeps_a_link_alive() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        for millis in [0, 1000, 2000] {
            heartbeat.poll(at(millis));
        }
        heartbeat.on_pong(at(2500), 1);
        assert_eq!(heartbeat.poll(at(3000)), Some(Beat::Ping(4)));
        assert_eq!(heartbeat.rtt(), None);
        heartbeat.on_pong(at(3040), 4);
        assert_eq!(heartbeat.rtt(), Some(Duration::from_millis(40)));
    }

    #[test]
    fn an_old_or_invented_answer_counts_for_nothing() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        heartbeat.poll(at(0));
        heartbeat.on_pong(at(10), 1);
        for millis in [1000, 2000, 3000] {
            heartbeat.poll(at(millis));
        }
        heartbeat.on_pong(at(3500), 1);
        heartbeat.on_pong(at(3500), 5);
        heartbeat.on_pong(at(3500), u64::MAX);
        assert_eq!(heartbeat.poll(at(4000)), Some(Beat::Dead));
    }

    #[test]
    fn a_process_that_slept_does_not_blame_its_peers() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        heartbeat.poll(at(0));
        assert_eq!(heartbeat.poll(at(60_000)), Some(Beat::Ping(2)));
        heartbeat.on_pong(at(60_010), 2);
        assert_eq!(heartbeat.poll(at(61_000)), Some(Beat::Ping(3)));
    }
}
