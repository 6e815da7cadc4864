//! What the server counts, shown as Prometheus text (exposition format 0.0.4).

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use roundtable_signaling_protocol::{ErrorCode, Request};

/// A number that tasks add to. Reading it is no synchronisation.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts one while it lives.
#[derive(Debug)]
pub(crate) struct Gauged<'a>(&'a Count);

impl<'a> Gauged<'a> {
    pub(crate) fn new(count: &'a Count) -> Self {
        count.add(1);
        Self(count)
    }
}

impl Drop for Gauged<'_> {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

const METHODS: [&str; 7] = [
    "peer.announce",
    "peer.offer",
    "peer.answer",
    "peer.ice_candidate",
    "peer.disconnect",
    "session.refresh",
    "ping",
];

/// The server's numbers.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Count,
    pub(crate) refused_connections: Count,
    pub(crate) refused_addresses: Count,
    pub(crate) rate_closes: Count,
    pub(crate) grants: Count,
    pub(crate) refused_grants: Count,
    pub(crate) expirations: Count,
    pub(crate) rooms: Count,
    pub(crate) peers: Count,
    pub(crate) sent_messages: Count,
    pub(crate) evictions: Count,
    received: [Count; METHODS.len()],
    errors: [Count; ErrorCode::ALL.len()],
}

impl Metrics {
    pub(crate) fn count_request(&self, request: &Request) {
        let method = request.method();
        if let Some(index) = METHODS.iter().position(|known| *known == method) {
            self.received[index].add(1);
        }
    }

    pub(crate) fn count_error(&self, code: ErrorCode) {
        if let Some(index) = ErrorCode::ALL.iter().position(|known| *known == code) {
            self.errors[index].add(1);
        }
    }

    /// Every metric as Prometheus text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(4096);
        let mut single = |kind, name, help, count: &Count| {
            family(&mut text, kind, name, help);
            // Writing to a string does not fail.
            let _ = writeln!(text, "roundtable_signaling_{name} {}", count.get());
        };
        single(
            "gauge",
            "connections",
            "Open WebSockets.",
            &self.connections,
        );
        single("gauge", "rooms", "Rooms with a peer in them.", &self.rooms);
        single("gauge", "peers", "Peers that hold a place.", &self.peers);
        let help = "TCP connections closed because the server was full.";
        let refused = &self.refused_connections;
        single("counter", "refused_connections_total", help, refused);
        let help = "Connections refused because their address held too many.";
        let refused = &self.refused_addresses;
        single("counter", "refused_addresses_total", help, refused);
        let help = "Clients closed because they sent too many messages.";
        single("counter", "rate_closes_total", help, &self.rate_closes);
        let help = "Grants given for an invite or a creator's token.";
        single("counter", "grants_total", help, &self.grants);
        let help = "Requests for a grant with a wrong secret or room.";
        single(
            "counter",
            "refused_grants_total",
            help,
            &self.refused_grants,
        );
        let help = "Clients closed because their grant ended or was revoked.";
        single("counter", "expirations_total", help, &self.expirations);
        let help = "Messages written to clients.";
        single("counter", "sent_messages_total", help, &self.sent_messages);
        let help = "Clients thrown out because they did not read.";
        single("counter", "evictions_total", help, &self.evictions);

        let name = "received_messages_total";
        family(
            &mut text,
            "counter",
            name,
            "Requests and notifications from clients.",
        );
        for (method, count) in METHODS.iter().zip(&self.received) {
            let count = count.get();
            let _ = writeln!(
                text,
                "roundtable_signaling_{name}{{method=\"{method}\"}} {count}"
            );
        }
        family(
            &mut text,
            "counter",
            "errors_total",
            "Errors that clients were told.",
        );
        for (code, count) in ErrorCode::ALL.iter().zip(&self.errors) {
            let (code, count) = (code.name(), count.get());
            let _ = writeln!(
                text,
                "roundtable_signaling_errors_total{{code=\"{code}\"}} {count}"
            );
        }
        text
    }
}

fn family(text: &mut String, kind: &str, name: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP roundtable_signaling_{name} {help}");
    let _ = writeln!(text, "# TYPE roundtable_signaling_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_and_error_is_counted_under_its_name() {
        let metrics = Metrics::default();
        metrics.count_request(&Request::Ping);
        metrics.count_error(ErrorCode::RoomFull);
        let text = metrics.render();
        for line in [
            "roundtable_signaling_received_messages_total{method=\"ping\"} 1",
            "roundtable_signaling_errors_total{code=\"RoomFull\"} 1",
            "# TYPE roundtable_signaling_connections gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
