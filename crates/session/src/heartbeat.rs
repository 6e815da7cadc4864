//! Heartbeats of one link: is the other side still there, and how far away?
//!
//! Pings at an interval find out about any link, idle or not, and only they call it dead. Where the peer has been sending
//! steadily, its silence is told much earlier: it is asked at once, several times, and if nothing at all comes back the
//! link counts as silent half a second after the last that was heard.

use std::time::Duration;

use roundtable_core::Timestamp;

/// Unanswered pings after which a link is dead.
pub(crate) const MISSED_LIMIT: u32 = 3;

/// The longest gap in what a steady peer sends; after a longer one it is asked. More than what 200 ms of jitter, or the
/// loss of ten packets of voice in a row, do to a stream.
const STEADY_GAP: Duration = Duration::from_millis(250);
/// For how long there has to be no such gap for the peer to count as steady.
const STEADY_FOR: Duration = Duration::from_secs(1);
/// How often it is asked, and how far apart: a speaker who pauses stops just as suddenly as one who is cut off, and some of
/// the questions and answers may be lost.
const ASKS: u32 = 5;
const ASK_EVERY: Duration = Duration::from_millis(50);

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
    /// When the last ping was sent; `None` if it was sent again, so that its answer measures nothing (Karn's algorithm,
    /// RFC 6298 §3).
    sent_at: Option<Timestamp>,
    rtt: Option<Duration>,
    /// Since when pings are answered, without a silence in between.
    answering_since: Option<Timestamp>,
    /// When anything was last heard, and since when without a long gap.
    heard: Timestamp,
    steady_since: Timestamp,
    quiet: Quiet,
}

/// What is made of it that a steady peer is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quiet {
    /// It is heard, or was never steady.
    No,
    /// It has been asked so often since some time, and is asked, or judged, next at another.
    Asked {
        times: u32,
        since: Timestamp,
        next: Timestamp,
    },
    /// Nothing came back.
    Silent,
}

/// What a heartbeat that is due asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Send a ping with this number.
    Ping(u64),
    /// Send it again, as fast as can be: the peer has stopped sending.
    Ask(u64),
    /// The peer has stopped sending and does not answer.
    Silent,
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
            sent_at: None,
            rtt: None,
            answering_since: None,
            heard: now,
            steady_since: now,
            quiet: Quiet::No,
        }
    }

    pub(crate) fn next_timeout(&self) -> Timestamp {
        self.next_question().map_or(self.next, |q| q.min(self.next))
    }

    /// Smoothed round-trip time (RFC 6298 §2: 7/8 of the old, 1/8 of the new).
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Whether nothing was answered for a whole interval at least, or a peer that sent steadily has stopped and does not
    /// answer.
    pub(crate) fn is_silent(&self) -> bool {
        self.misses_answers() || self.quiet == Quiet::Silent
    }

    /// Whether nothing was answered for a whole interval at least.
    pub(crate) fn misses_answers(&self) -> bool {
        self.unanswered > 1
    }

    /// Since when pings are answered, without a silence in between; `None` while silent, and until the first answer after it.
    pub(crate) fn answering_since(&self) -> Option<Timestamp> {
        self.answering_since
    }

    pub(crate) fn poll(&mut self, now: Timestamp) -> Option<Beat> {
        if now >= self.next {
            if self.unanswered == MISSED_LIMIT {
                return Some(Beat::Dead);
            }
            self.next = now + self.interval;
            self.sequence += 1;
            self.unanswered += 1;
            self.sent_at = Some(now);
            if self.misses_answers() {
                self.answering_since = None;
            }
            return Some(Beat::Ping(self.sequence));
        }
        self.next_question()
            .filter(|due| *due <= now)
            .map(|_| self.ask(now))
    }

    /// Anything has come from the peer.
    pub(crate) fn on_heard(&mut self, now: Timestamp) {
        if now.saturating_since(self.heard) > STEADY_GAP {
            self.steady_since = now;
        }
        self.heard = now;
        self.quiet = Quiet::No;
    }

    /// When a peer that was steady is asked, or judged.
    fn next_question(&self) -> Option<Timestamp> {
        let steady = self.heard.saturating_since(self.steady_since) >= STEADY_FOR;
        match self.quiet {
            Quiet::No => steady.then(|| self.heard + STEADY_GAP),
            Quiet::Asked { next, .. } => Some(next),
            Quiet::Silent => None,
        }
    }

    fn ask(&mut self, now: Timestamp) -> Beat {
        let (times, since) = match self.quiet {
            Quiet::Asked { times, since, .. } => (times, since),
            _ => (0, now),
        };
        if times == ASKS {
            self.quiet = Quiet::Silent;
            self.answering_since = None;
            return Beat::Silent;
        }
        let times = times + 1;
        // The last question has time to be answered, too, if the peer is far away.
        let patience = self.rtt.map_or(Duration::ZERO, |rtt| rtt * 2);
        let next = match times {
            ASKS => (now + ASK_EVERY).max(since + patience),
            _ => now + ASK_EVERY,
        };
        self.quiet = Quiet::Asked { times, since, next };
        self.sent_at = None;
        Beat::Ask(self.sequence)
    }

    /// An answer to any ping since the last answer shows life; only one to the last measures: then
    /// this is the round trip that it took.
    pub(crate) fn on_pong(&mut self, now: Timestamp, sequence: u64) -> Option<Duration> {
        let oldest = self.sequence - u64::from(self.unanswered);
        if sequence <= oldest || sequence > self.sequence {
            return None;
        }
        self.unanswered = 0;
        self.answering_since.get_or_insert(now);
        if sequence != self.sequence {
            return None;
        }
        let sample = now.saturating_since(self.sent_at?);
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

    /// What a link does whose peer's packets arrive at these milliseconds, and every 20 ms before: when it first asks, and when
    /// it falls silent.
    fn watch(heartbeat: &mut Heartbeat, arrivals: &[u64], until: u64) -> (Vec<u64>, Option<u64>) {
        let (mut asked, mut silent) = (Vec::new(), None);
        let mut arrivals = arrivals.iter().copied().peekable();
        for millis in 0..until {
            while arrivals.next_if(|arrival| *arrival <= millis).is_some() {
                heartbeat.on_heard(at(millis));
            }
            match heartbeat.poll(at(millis)) {
                Some(Beat::Ping(sequence)) if silent.is_none() && asked.is_empty() => {
                    heartbeat.on_pong(at(millis), sequence);
                }
                Some(Beat::Ask(_)) => asked.push(millis),
                Some(Beat::Silent) => silent = silent.or(Some(millis)),
                _ => {}
            }
        }
        (asked, silent)
    }

    #[test]
    fn a_steady_peer_that_stops_is_silent_half_a_second_later() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        let voice: Vec<_> = (0..100).map(|n| n * 20).collect();
        let (asked, silent) = watch(&mut heartbeat, &voice, 3000);
        assert_eq!(asked, [2230, 2280, 2330, 2380, 2430]);
        assert_eq!(silent, Some(2480), "500 ms after the last packet");
        assert!(heartbeat.is_silent());
        heartbeat.on_heard(at(3000));
        assert!(!heartbeat.is_silent(), "whatever is heard shows life");
    }

    #[test]
    fn the_silence_of_a_steady_peer_comes_before_an_answer_is_missed() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        let voice: Vec<_> = (0..100).map(|n| n * 20).collect();
        let (_, silent) = watch(&mut heartbeat, &voice, 2900);
        assert_eq!(silent, Some(2480));
        assert!(heartbeat.is_silent() && !heartbeat.misses_answers());
        assert_eq!(heartbeat.poll(at(3000)), Some(Beat::Ping(4)));
        assert!(!heartbeat.misses_answers());
        assert_eq!(heartbeat.poll(at(4000)), Some(Beat::Ping(5)));
        assert!(heartbeat.misses_answers());
    }

    #[test]
    fn who_was_silent_answers_anew() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        assert_eq!(heartbeat.answering_since(), None);
        heartbeat.poll(at(0));
        heartbeat.on_pong(at(40), 1);
        heartbeat.poll(at(1000));
        heartbeat.on_pong(at(1040), 2);
        heartbeat.poll(at(2000));
        assert_eq!(heartbeat.answering_since(), Some(at(40)));
        heartbeat.poll(at(3000));
        assert!(heartbeat.is_silent());
        assert_eq!(heartbeat.answering_since(), None);
        heartbeat.on_pong(at(3040), 4);
        assert_eq!(heartbeat.answering_since(), Some(at(3040)));

        // A steady peer that stops, and is heard again before an answer is missed.
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        let voice: Vec<_> = (0..100).map(|n| n * 20).collect();
        watch(&mut heartbeat, &voice, 2400);
        assert_eq!(heartbeat.answering_since(), Some(at(0)));
        watch(&mut heartbeat, &[], 2900);
        heartbeat.on_heard(at(2900));
        assert!(!heartbeat.is_silent());
        assert_eq!(heartbeat.answering_since(), None);
    }

    #[test]
    fn a_peer_that_is_seldom_heard_is_left_to_its_heartbeats() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        let pongs: Vec<_> = (0..10).map(|n| n * 1000).collect();
        let (asked, silent) = watch(&mut heartbeat, &pongs, 20_000);
        assert_eq!((asked, silent), (Vec::new(), None));
    }

    #[test]
    fn a_speaker_who_pauses_answers_and_is_not_silent() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        let mut heard: Vec<_> = (0..100).map(|n| n * 20).collect();
        // Of five questions only the third is answered, 60 ms later.
        heard.push(2330 + 60);
        let (asked, silent) = watch(&mut heartbeat, &heard, 10_000);
        assert_eq!(asked, [2230, 2280, 2330, 2380]);
        assert_eq!(silent, None);
    }

    #[test]
    fn a_far_peer_has_two_round_trips_to_answer() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        heartbeat.poll(at(0));
        heartbeat.on_pong(at(400), 1);
        let voice: Vec<_> = (20..100).map(|n| n * 20).collect();
        let (asked, silent) = watch(&mut heartbeat, &voice, 4000);
        assert_eq!(asked.first(), Some(&2230));
        assert!(silent.unwrap() > 2230 + 600, "{silent:?}");
    }

    #[test]
    fn a_process_that_slept_asks_before_it_calls_a_steady_peer_silent() {
        let mut heartbeat = Heartbeat::new(at(0), SECOND);
        let voice: Vec<_> = (0..100).map(|n| n * 20).collect();
        watch(&mut heartbeat, &voice, 1990);
        assert_eq!(heartbeat.poll(at(60_000)), Some(Beat::Ping(3)));
        assert_eq!(heartbeat.poll(at(60_000)), Some(Beat::Ask(3)));
        assert!(!heartbeat.is_silent());
        heartbeat.on_heard(at(60_020));
        assert_eq!(heartbeat.next_timeout(), at(61_000));
    }

    #[test]
    fn neither_loss_nor_jitter_looks_like_silence() {
        use roundtable_netem::{Conditions, Flow, Netem};
        let networks = [(200, 0), (0, 200), (200, 200)];
        for (seed, (loss_per_mille, jitter)) in (0..8).flat_map(|seed| networks.map(|n| (seed, n)))
        {
            let conditions = Conditions {
                delay: Duration::from_millis(20),
                jitter: Duration::from_millis(jitter),
                loss_per_mille,
                ..Conditions::default()
            };
            let (mut there, mut back) =
                (Netem::new(seed, conditions), Netem::new(!seed, conditions));
            let mut heartbeat = Heartbeat::new(at(0), SECOND);
            // Ten minutes of voice, to which pings and their answers are added, on the same network.
            for millis in 0..600_000 {
                if millis % 20 == 0 {
                    back.send(at(millis), Flow::Datagram, 100, None);
                }
                while let Some((flow, ping)) = there.poll(at(millis)) {
                    back.send(at(millis), flow, 20, Some(ping));
                }
                while let Some(answer) = back.poll(at(millis)) {
                    heartbeat.on_heard(at(millis));
                    answer.map(|ping| heartbeat.on_pong(at(millis), ping));
                }
                match heartbeat.poll(at(millis)) {
                    Some(Beat::Ping(ping)) => {
                        let flow = Flow::Stream(0);
                        there.send(at(millis), flow, 20, (flow, ping));
                    }
                    Some(Beat::Ask(ping)) => {
                        let flow = Flow::Datagram;
                        there.send(at(millis), flow, 20, (flow, ping));
                    }
                    Some(beat @ (Beat::Silent | Beat::Dead)) => {
                        panic!("{beat:?} after {millis} ms; seed {seed}, {conditions:?}")
                    }
                    None => {}
                }
            }
        }
    }
}
