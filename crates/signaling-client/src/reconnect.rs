//! When to connect, and where to: what a client does about a connection that is lost, or that is about to be. Pure: it is told the
//! time, what has happened, and a random number where it needs one.

use std::time::Duration;

use roundtable_core::Timestamp;
use roundtable_signaling_protocol::CloseReason;

use crate::{Backoff, EndReason, JoinError};

/// Shortest pause before another connection is made, or tried again, while the present one stands, whatever a server asks for.
const MOVE_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection that was replaced may take to end, and one that most likely hangs.
const LAST_WORDS: Duration = Duration::from_secs(3);
const HANGING_LAST_WORDS: Duration = Duration::from_millis(250);

/// Shortest time after which ICE servers are asked for anew, however soon a server says that they end.
const MIN_RENEWAL: Duration = Duration::from_secs(1);

/// How far apart attempts are while somebody waits for the connection, and how long each may take to open it: it is
/// replaced rather than waited for, as TCP's own pauses double (RFC 6298 §5.5).
const URGENT: Duration = Duration::from_millis(500);

/// Every so many urgent attempts one may take longer: where the server is far away.
const UNHURRIED: (u32, Duration) = (4, Duration::from_secs(2));

/// An attempt to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Which, from 1.
    pub(crate) number: u32,
    /// How long to wait before it.
    pub(crate) delay: Duration,
    /// Where.
    pub(crate) server: usize,
    /// How long it may take to open the connection, if less than usual.
    pub(crate) patience: Option<Duration>,
}

/// Why a connection is to take the place of one that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The server stops: another is to serve us.
    Draining,
    /// It may hang.
    Network,
    /// What the server has told us of ICE servers serves no longer.
    Renewal,
}

/// A connection that is to be made though there is one.
#[derive(Debug, Clone, Copy)]
struct Move {
    at: Timestamp,
    why: Why,
}

/// What a client knows of its way back. Servers are named by their numbers.
#[derive(Debug)]
pub(crate) struct Reconnect {
    backoff: Backoff,
    servers: usize,
    /// Where we are connected, or were last.
    server: usize,
    planned: Option<Move>,
    /// How often a move has failed since the last connection that was made.
    failed_moves: u32,
    /// Attempts since the connection was lost.
    attempts: u32,
    /// Why a server has refused us for good since then: the end, once all were asked.
    refused: Option<EndReason>,
    /// The server that the one which stops has named: it is tried first.
    named: Option<usize>,
    /// What the servers have asked for before the next of them.
    at_least: Duration,
}

impl Reconnect {
    /// Of a client that is connected to `server`, one of so many.
    pub(crate) fn new(backoff: Backoff, servers: usize, server: usize) -> Self {
        Self {
            backoff,
            servers,
            server,
            planned: None,
            failed_moves: 0,
            attempts: 0,
            refused: None,
            named: None,
            at_least: Duration::ZERO,
        }
    }

    /// Where we are connected, or were last.
    pub(crate) fn server(&self) -> usize {
        self.server
    }

    /// The client is in the room by a connection to `server`. What it was told of ICE servers serves for `ice_life`, and is renewed
    /// at a random moment of that life's third quarter: many may have come at once.
    pub(crate) fn connected(
        &mut self,
        now: Timestamp,
        server: usize,
        ice_life: Option<Duration>,
        random: u32,
    ) {
        self.server = server;
        self.planned = ice_life.map(|life| {
            let part = 0.5 + 0.25 * f64::from(random) / f64::from(u32::MAX);
            Move {
                at: now + life.mul_f64(part).max(MIN_RENEWAL),
                why: Why::Renewal,
            }
        });
        (self.failed_moves, self.attempts, self.named) = (0, 0, None);
        self.at_least = Duration::ZERO;
    }

    // --- while the connection stands --------------------------------------------------------------

    /// The server stops, and asks us to go elsewhere after a while.
    pub(crate) fn draining(&mut self, now: Timestamp, after: Duration) {
        self.planned = Some(Move {
            at: now + after.min(self.backoff.max).max(MOVE_PAUSE),
            why: Why::Draining,
        });
    }

    /// The server that stops has named another, which may be a new one.
    pub(crate) fn sent_to(&mut self, server: usize) {
        self.servers = self.servers.max(server + 1);
        self.named = Some(server);
    }

    /// This machine is on another network: the connection may hang.
    pub(crate) fn network_changed(&mut self, now: Timestamp) {
        let drains = self.planned.filter(|planned| planned.why == Why::Draining);
        let why = drains.map_or(Why::Network, |drains| drains.why);
        self.planned = Some(Move { at: now, why });
    }

    /// How long a connection that was replaced may take to end: what it was sent comes first, unless it most likely hangs.
    pub(crate) fn last_words(&self) -> Duration {
        match self.planned {
            Some(Move {
                why: Why::Network, ..
            }) => HANGING_LAST_WORDS,
            _ => LAST_WORDS,
        }
    }

    /// Whether the server has asked us to go elsewhere.
    pub(crate) fn is_asked_to_go(&self) -> bool {
        self.planned
            .is_some_and(|planned| planned.why == Why::Draining)
    }

    /// When [`begin_move`](Self::begin_move) is due.
    pub(crate) fn move_at(&self) -> Option<Timestamp> {
        self.planned.map(|planned| planned.at)
    }

    /// Where to make another connection now.
    pub(crate) fn begin_move(&mut self) -> usize {
        if let Some(named) = self.named.take() {
            return named;
        }
        let further = match self.planned {
            Some(Move {
                why: Why::Draining, ..
            }) => 1,
            _ => 0,
        };
        (self.server + further + self.failed_moves as usize) % self.servers
    }

    /// That connection was not made: it is tried again, at the next server.
    pub(crate) fn move_failed(&mut self, now: Timestamp, random: u32) {
        self.failed_moves = self.failed_moves.saturating_add(1);
        let pause = self.delay(self.failed_moves, random).max(MOVE_PAUSE);
        if let Some(planned) = &mut self.planned {
            planned.at = now + pause;
        }
    }

    // --- once it is lost --------------------------------------------------------------------------

    /// The connection is lost, with this close code if there was one. Where grants can be had again, a bad one is no end.
    ///
    /// # Errors
    /// Why there is no point in coming back.
    pub(crate) fn lost(
        &mut self,
        now: Timestamp,
        code: Option<u16>,
        has_grants: bool,
    ) -> Result<(), EndReason> {
        match code.and_then(CloseReason::from_code) {
            // After a move whose end is not known it may have been that.
            Some(CloseReason::Replaced) if self.failed_moves == 0 => Err(EndReason::Replaced),
            Some(CloseReason::Unauthorized) if !has_grants => Err(EndReason::Unauthorized),
            _ => {
                let asked = self.planned.take().filter(|p| p.why == Why::Draining);
                self.at_least = asked.map_or(Duration::ZERO, |p| p.at.saturating_since(now));
                (self.attempts, self.refused) = (0, None);
                Ok(())
            }
        }
    }

    /// The next attempt, `took` after the last began. An urgent one comes soon, and is soon replaced.
    pub(crate) fn next_attempt(&mut self, urgent: bool, took: Duration, random: u32) -> Attempt {
        self.attempts = self.attempts.saturating_add(1);
        let next = (self.server + self.attempts as usize) % self.servers;
        let usual = self.delay(self.attempts, random);
        let (delay, patience) = match urgent {
            true => {
                let pause = usual.min(URGENT.saturating_sub(took));
                let patience = match self.attempts.is_multiple_of(UNHURRIED.0) {
                    true => UNHURRIED.1,
                    false => URGENT,
                };
                (pause, Some(patience))
            }
            false => (usual, None),
        };
        Attempt {
            number: self.attempts,
            delay: self.at_least + delay,
            server: self.named.take().unwrap_or(next),
            patience,
        }
    }

    /// It failed. What one server refuses, another may grant: all are asked.
    ///
    /// # Errors
    /// Why there is no point in going on.
    pub(crate) fn attempt_failed(&mut self, error: &JoinError) -> Result<(), EndReason> {
        // Another server may not ask for patience.
        let is_round_over = (self.attempts as usize).is_multiple_of(self.servers);
        self.at_least = match is_round_over {
            true => error.retry_after().unwrap_or_default(),
            false => Duration::ZERO,
        };
        self.refused = self.refused.or(error.ends());
        match self.refused.filter(|_| is_round_over) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// How long to wait before an attempt, the first of which is 1: each server is tried before the pause grows.
    fn delay(&self, attempt: u32, random: u32) -> Duration {
        let servers = u32::try_from(self.servers).unwrap_or(u32::MAX);
        let round = 1 + attempt.saturating_sub(1) / servers;
        self.backoff.delay(round, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_millis(s * 1000)
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn connected(servers: usize) -> Reconnect {
        let mut reconnect = Reconnect::new(Backoff::default(), servers, 0);
        reconnect.connected(at(0), 0, None, ALL);
        reconnect
    }

    fn unavailable(retry_after: Duration) -> JoinError {
        JoinError::Unavailable {
            retry_after: Some(retry_after),
        }
    }

    #[test]
    fn each_server_is_tried_before_the_pause_grows_and_a_connection_starts_over() {
        let mut reconnect = connected(2);
        for _ in 0..2 {
            reconnect.lost(at(1), None, false).unwrap();
            let mut tried = Vec::new();
            for _ in 0..5 {
                let Attempt { server, delay, .. } =
                    reconnect.next_attempt(false, Duration::ZERO, ALL);
                tried.push((server, delay.as_millis()));
                reconnect.attempt_failed(&JoinError::Timeout).unwrap();
            }
            assert_eq!(tried, [(1, 250), (0, 250), (1, 1000), (0, 1000), (1, 2000)]);
            reconnect.connected(at(2), 0, None, ALL);
        }
    }

    #[test]
    fn while_somebody_waits_attempts_come_every_half_second_and_most_are_soon_replaced() {
        let mut reconnect = connected(1);
        reconnect.lost(at(1), None, false).unwrap();
        let mut attempts = Vec::new();
        for took in [0, 500, 100, 500, 500] {
            let took = Duration::from_millis(took);
            let Attempt {
                delay, patience, ..
            } = reconnect.next_attempt(true, took, ALL);
            attempts.push((delay.as_millis(), patience));
            reconnect.attempt_failed(&JoinError::Timeout).unwrap();
        }
        let soon = Some(URGENT);
        let expected = [
            (250, soon),
            (0, soon),
            (400, soon),
            (0, Some(UNHURRIED.1)),
            (0, soon),
        ];
        assert_eq!(attempts, expected);
        // A server that asks for patience gets it all the same.
        reconnect.attempt_failed(&unavailable(seconds(7))).unwrap();
        let next = reconnect.next_attempt(true, URGENT, ALL);
        assert_eq!(next.delay, seconds(7));
    }

    #[test]
    fn a_server_that_asks_for_patience_gets_it_once_all_were_asked() {
        let mut reconnect = connected(2);
        reconnect.lost(at(1), None, false).unwrap();
        let mut delays = Vec::new();
        for _ in 0..4 {
            delays.push(reconnect.next_attempt(false, Duration::ZERO, 0).delay);
            let error = unavailable(seconds(7));
            reconnect.attempt_failed(&error).unwrap();
        }
        let none = Duration::ZERO;
        assert_eq!(delays, [none, none, seconds(7), none]);
    }

    #[test]
    fn a_draining_server_is_left_for_the_next_when_it_says_and_moves_that_fail_lead_further() {
        let mut reconnect = connected(3);
        reconnect.draining(at(1), seconds(4));
        assert_eq!(reconnect.move_at(), Some(at(5)));
        assert_eq!(reconnect.begin_move(), 1);
        reconnect.move_failed(at(5), 0);
        let soon = at(5) + MOVE_PAUSE;
        assert_eq!(
            (reconnect.move_at(), reconnect.begin_move()),
            (Some(soon), 2)
        );
        reconnect.connected(at(6), 2, None, ALL);
        assert_eq!((reconnect.server(), reconnect.move_at()), (2, None));
    }

    #[test]
    fn the_server_that_a_draining_one_names_is_tried_first_and_then_the_others() {
        let mut reconnect = connected(2);
        reconnect.sent_to(2);
        reconnect.draining(at(1), seconds(4));
        assert_eq!(reconnect.begin_move(), 2);
        reconnect.move_failed(at(5), 0);
        assert_eq!(reconnect.begin_move(), 2, "one and one further");
        reconnect.sent_to(1);
        reconnect.lost(at(6), None, false).unwrap();
        let tried: Vec<_> = (0..3)
            .map(|_| reconnect.next_attempt(false, Duration::ZERO, 0).server)
            .collect();
        assert_eq!(tried, [1, 2, 0]);
    }

    #[test]
    fn a_draining_server_that_is_gone_early_is_given_the_time_it_asked_for() {
        let mut reconnect = connected(1);
        reconnect.draining(at(1), seconds(4));
        reconnect
            .lost(at(2), Some(CloseReason::Draining.code()), false)
            .unwrap();
        assert_eq!(
            reconnect.next_attempt(false, Duration::ZERO, 0).delay,
            seconds(3)
        );
        // However long it asks for, it gets no more than the longest pause.
        let mut reconnect = connected(1);
        reconnect.draining(at(0), seconds(3600));
        assert_eq!(reconnect.move_at(), Some(at(30)));
    }

    #[test]
    fn another_network_and_stale_credentials_want_a_new_connection_to_the_same_server() {
        let mut reconnect = connected(2);
        reconnect.connected(at(0), 1, Some(seconds(3600)), 0);
        assert_eq!(reconnect.move_at(), Some(at(1800)));
        reconnect.connected(at(0), 1, Some(seconds(3600)), ALL);
        assert_eq!(reconnect.move_at(), Some(at(2700)));
        reconnect.network_changed(at(10));
        assert_eq!(
            (reconnect.move_at(), reconnect.begin_move()),
            (Some(at(10)), 1)
        );
        // Not so where it is about to stop.
        reconnect.draining(at(11), seconds(1));
        reconnect.network_changed(at(11));
        assert_eq!(
            (reconnect.move_at(), reconnect.begin_move()),
            (Some(at(11)), 0)
        );
    }

    #[test]
    fn credentials_that_would_have_served_for_long_delay_no_way_back() {
        let mut reconnect = connected(1);
        reconnect.connected(at(0), 0, Some(seconds(3600)), ALL);
        reconnect.lost(at(1), None, false).unwrap();
        assert_eq!(
            reconnect.next_attempt(false, Duration::ZERO, 0).delay,
            Duration::ZERO
        );
        assert_eq!(reconnect.move_at(), None);
    }

    #[test]
    fn no_server_makes_a_client_come_again_and_again_at_once() {
        let mut reconnect = connected(1);
        reconnect.draining(at(1), Duration::ZERO);
        assert_eq!(reconnect.move_at(), Some(at(1) + MOVE_PAUSE));
        reconnect.connected(at(2), 0, Some(Duration::ZERO), ALL);
        assert_eq!(reconnect.move_at(), Some(at(3)));
        // Nor does one that promises too much do harm.
        reconnect.connected(at(2), 0, Some(Duration::from_millis(u64::MAX)), ALL);
        assert!(reconnect.move_at() > Some(at(1_000_000_000)));
    }

    #[test]
    fn who_was_replaced_ends_unless_it_may_have_been_by_its_own_move() {
        let replaced = Some(CloseReason::Replaced.code());
        let mut reconnect = connected(1);
        let ended = reconnect.lost(at(1), replaced, true);
        assert_eq!(ended, Err(EndReason::Replaced));
        reconnect.network_changed(at(1));
        reconnect.move_failed(at(1), 0);
        assert_eq!(reconnect.lost(at(2), replaced, true), Ok(()));
    }

    #[test]
    fn a_server_that_refuses_ends_nothing_before_all_were_asked() {
        let mut reconnect = connected(3);
        reconnect.lost(at(1), None, false).unwrap();
        let errors = [
            JoinError::Unauthorized,
            JoinError::Timeout,
            unavailable(seconds(1)),
        ];
        let outcomes = errors.map(|error| {
            reconnect.next_attempt(false, Duration::ZERO, 0);
            reconnect.attempt_failed(&error)
        });
        assert_eq!(outcomes, [Ok(()), Ok(()), Err(EndReason::Unauthorized)]);
    }

    #[test]
    fn a_bad_grant_is_the_end_only_of_who_has_no_other() {
        let unauthorized = Some(CloseReason::Unauthorized.code());
        let ended = connected(1).lost(at(1), unauthorized, false);
        assert_eq!(ended, Err(EndReason::Unauthorized));
        let mut reconnect = connected(1);
        assert_eq!(reconnect.lost(at(1), unauthorized, true), Ok(()));
        let refused = reconnect.attempt_failed(&JoinError::Unauthorized);
        assert_eq!(refused, Err(EndReason::Unauthorized));
    }
}
