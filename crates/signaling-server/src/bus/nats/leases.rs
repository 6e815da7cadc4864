//! Which servers live: each renews its lease by a message a second.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use async_nats::{Client, Message, RequestErrorKind, Subscriber, connection::State as Connection};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use roundtable_signaling_protocol::NodeId;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::NatsBus;
use crate::{clock, cluster::is_public_url};

/// How often a server renews its lease.
pub(super) const RENEWAL: Duration = Duration::from_secs(1);

/// How long a lease lasts. Two less than the ten seconds in which a dead server's peers are gone, and a
/// little more for noticing.
pub(super) const LEASE: Duration = Duration::from_secs(6);

/// Most other servers; more are not taken note of. Those that are gone make place.
const MAX_SERVERS: usize = 1000;

/// Most other servers that clients are told of, as many as they keep in mind.
const MAX_TOLD: usize = 16;

/// For how long after a proof that it was renewed this server's own lease is counted on: less than it lasts
/// for the others, so that nothing is stored by who may be gone to them.
const HELD: Duration = Duration::from_secs(5);

/// By how much the leases age at most from one proof that the bus is heard to the next.
const STRIDE: Duration = Duration::from_secs(2);

/// The leases, and the time that they are measured in: that in which the bus was heard. While this
/// server stands still, or NATS does, nobody's lease runs out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// For how long the bus has been heard, in all.
    age: Duration,
    /// When it was heard last; absent while the bus is away.
    proven: Option<Instant>,
    /// The age when the bus was last found to be there.
    up: Duration,
    /// Whether servers that were never heard of are still given time.
    are_strangers_spared: bool,
    /// With the age when each other server was last heard of; at most [`MAX_SERVERS`].
    heard: BTreeMap<NodeId, Lease>,
}

#[derive(Debug)]
struct Lease {
    renewed: Duration,
    /// Where clients reach the server, if it says so.
    url: Option<Box<str>>,
}

impl Leases {
    /// The bus is there from now on, and has heard this server. Nobody's lease runs out for what could not be heard.
    pub(super) fn begin(&mut self, now: Instant) {
        self.proven = Some(now);
        self.up = self.age;
        self.are_strangers_spared = true;
        let age = self.age;
        self.heard
            .values_mut()
            .for_each(|lease| lease.renewed = age);
    }

    /// The bus is away.
    pub(super) fn pause(&mut self) {
        self.proven = None;
    }

    /// A server has renewed its lease.
    fn renew(&mut self, node: NodeId, url: Option<&str>) {
        if self.heard.len() < MAX_SERVERS || self.heard.contains_key(&node) {
            let lease = Lease {
                renewed: self.age,
                url: url.filter(|url| is_public_url(url)).map(Into::into),
            };
            self.heard.insert(node, lease);
        }
    }

    fn renew_by(&mut self, message: &Message) {
        let Ok(text) = std::str::from_utf8(&message.payload) else {
            return;
        };
        let (name, url) = match text.split_once(' ') {
            Some((name, url)) => (name, Some(url)),
            None => (text, None),
        };
        if let Ok(node) = NodeId::new(name) {
            self.renew(node, url);
        }
    }

    /// The bus is proven to be heard. Whoever renewed its lease until now is to be taken note of next.
    pub(super) fn prove(&mut self, now: Instant) {
        if let Some(proven) = &mut self.proven {
            self.age += now.saturating_duration_since(*proven).min(STRIDE);
            *proven = now;
        }
    }

    /// Forgets the servers whose lease has run out; tells whether there may be any.
    pub(super) fn expire(&mut self) -> bool {
        let before = self.heard.len();
        self.heard
            .retain(|_, lease| self.age - lease.renewed <= LEASE);
        let were_spared = self.are_strangers_spared;
        self.are_strangers_spared &= self.age - self.up <= LEASE;
        self.heard.len() != before || were_spared != self.are_strangers_spared
    }

    /// Whether this server's own lease stands.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        let held = |proven: Instant| now.saturating_duration_since(proven) <= HELD;
        self.proven.is_some_and(held)
    }

    /// Whether a server's lease has run out.
    pub(super) fn is_gone(&self, node: &NodeId) -> bool {
        let renewed = self.heard.get(node).map_or(self.up, |lease| lease.renewed);
        self.proven.is_some() && self.age - renewed > LEASE
    }

    /// Where clients of `node` reach the other servers that live: of the first [`MAX_TOLD`] that come after it by name, all
    /// around, so that each server is told of by some.
    pub(super) fn urls(&self, node: &NodeId) -> Vec<String> {
        let after = self.heard.range((Excluded(node), Unbounded));
        let others = after.chain(self.heard.range(..node)).map(|(_, it)| it);
        others
            .filter(|lease| self.age - lease.renewed <= LEASE)
            .filter_map(|lease| Some(lease.url.as_deref()?.to_owned()))
            .take(MAX_TOLD)
            .collect()
    }

    /// Whether `node` comes before all others.
    pub(super) fn puts_first(&self, node: &NodeId) -> bool {
        let first = self.heard.keys().next();
        self.proven.is_some() && first.is_none_or(|first| node < first)
    }
}

impl NatsBus {
    /// Renews this server's lease and takes note of the others', for as long as it is polled. It waits for
    /// nothing else, lest this server be taken for dead, or take others for dead, because it is busy.
    pub(super) async fn keep_leases(&self, client: &Client, mut leases: Subscriber) {
        let mut ticks = interval_at(clock::deadline(Duration::ZERO), RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => if !self.renew_lease(client).await {
                    continue;
                },
                Some(message) = leases.next() => {
                    self.state().leases.renew_by(&message);
                    continue;
                }
            }
            let mut heard = Vec::new();
            // What came before the proof is here by now.
            while let Some(Some(message)) = leases.next().now_or_never() {
                heard.push(message);
            }
            let mut state = self.state();
            state.leases.prove(clock::deadline(Duration::ZERO));
            heard.iter().for_each(|m| state.leases.renew_by(m));
        }
    }

    /// Renews this server's lease; tells whether NATS is proven to have heard it: it answers that nobody
    /// listens where nobody does.
    pub(super) async fn renew_lease(&self, client: &Client) -> bool {
        if client.connection_state() != Connection::Connected {
            return false;
        }
        let lease = self.lease.clone();
        // A lost connection is noticed elsewhere.
        let _ = client.publish(self.names.leases(), lease).await;
        let asked = client.request(self.names.nobody(), Bytes::new());
        match timeout(RENEWAL, asked).await {
            Ok(Err(error)) => error.kind() == RequestErrorKind::NoResponders,
            Ok(Ok(_)) | Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// Seconds in which the bus is heard and these servers renew their leases.
    fn pass(leases: &mut Leases, now: &mut Instant, seconds: u32, live: &[&str]) {
        for _ in 0..seconds {
            *now += SECOND;
            leases.prove(*now);
            live.iter().for_each(|name| leases.renew(id(name), None));
        }
    }

    fn begun() -> (Leases, Instant) {
        let (mut leases, now) = (Leases::default(), clock::deadline(Duration::ZERO));
        assert!(
            !leases.is_gone(&id("a")),
            "nobody is, while the bus is away"
        );
        leases.begin(now);
        (leases, now)
    }

    #[test]
    fn who_is_silent_for_six_seconds_is_gone_and_who_renews_is_not() {
        let (mut leases, mut now) = begun();
        pass(&mut leases, &mut now, 10, &["a", "b"]);
        leases.expire();
        pass(&mut leases, &mut now, 6, &["a"]);
        assert!(!leases.is_gone(&id("b")) && !leases.expire());
        pass(&mut leases, &mut now, 1, &["a"]);
        assert!(leases.is_gone(&id("b")) && leases.expire());
        assert!(!leases.is_gone(&id("a")));
        assert!(!leases.expire(), "told once");
    }

    #[test]
    fn a_server_that_was_never_heard_of_is_given_the_same_time() {
        let (mut leases, mut now) = begun();
        pass(&mut leases, &mut now, 6, &[]);
        assert!(!leases.is_gone(&id("a")) && !leases.expire());
        pass(&mut leases, &mut now, 1, &[]);
        assert!(leases.is_gone(&id("a")) && leases.expire());
        assert!(!leases.expire(), "told once");
    }

    #[test]
    fn who_stood_still_takes_nobody_for_gone_when_it_wakes() {
        let (mut leases, mut now) = begun();
        pass(&mut leases, &mut now, 3, &["a"]);
        // Half a minute later the leases that came meanwhile are not read yet.
        now += 30 * SECOND;
        leases.prove(now);
        assert!(!leases.is_gone(&id("a")) && !leases.expire());
        pass(&mut leases, &mut now, 3, &["a"]);
        assert!(!leases.is_gone(&id("a")));
    }

    #[test]
    fn who_stood_still_counts_on_nothing_until_it_has_renewed_its_own_lease() {
        let (mut leases, mut now) = begun();
        pass(&mut leases, &mut now, 3, &[]);
        now += 5 * SECOND;
        assert!(leases.is_held(now));
        now += SECOND;
        assert!(!leases.is_held(now));
        leases.prove(now);
        assert!(leases.is_held(now));
        leases.pause();
        assert!(!leases.is_held(now));
    }

    #[test]
    fn time_in_which_the_bus_was_away_or_silent_counts_against_nobody() {
        let (mut leases, mut now) = begun();
        pass(&mut leases, &mut now, 3, &["a"]);
        leases.pause();
        now += 60 * SECOND;
        leases.prove(now);
        leases.begin(now);
        pass(&mut leases, &mut now, 6, &[]);
        assert!(!leases.is_gone(&id("a")));
        pass(&mut leases, &mut now, 1, &[]);
        assert!(leases.is_gone(&id("a")));
    }

    #[test]
    fn servers_that_live_are_named_by_their_urls_if_these_are_any() {
        let (mut leases, mut now) = begun();
        leases.renew(id("a"), Some("wss://a.example.org"));
        leases.renew(id("b"), None);
        for (n, url) in ["https://c", "wss://", "wss://c d", "ws://c;script-src *"]
            .iter()
            .enumerate()
        {
            leases.renew(id(&format!("c{n}")), Some(url));
        }
        assert_eq!(leases.urls(&id("me")), ["wss://a.example.org"]);
        assert_eq!(leases.urls(&id("a")), [""; 0], "none but itself");
        pass(&mut leases, &mut now, 7, &[]);
        assert_eq!(leases.urls(&id("me")), [""; 0]);
    }

    #[test]
    fn of_many_servers_each_names_the_sixteen_that_come_next() {
        let (mut leases, _) = begun();
        let url = |n: u32| format!("wss://{n}.example.org");
        (10..50).for_each(|n| leases.renew(id(&n.to_string()), Some(&url(n))));
        let expected: Vec<_> = (46..50).chain(10..22).map(url).collect();
        assert_eq!(leases.urls(&id("45")), expected);
    }

    #[test]
    fn the_first_by_name_of_those_that_live_is_one() {
        let (mut leases, mut now) = begun();
        pass(&mut leases, &mut now, 1, &["b"]);
        assert!(leases.puts_first(&id("a")) && !leases.puts_first(&id("c")));
        pass(&mut leases, &mut now, 7, &[]);
        leases.expire();
        assert!(leases.puts_first(&id("c")));
    }
}
