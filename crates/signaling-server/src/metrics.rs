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

    pub(crate) fn get(&self) -> u64 {
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
    pub(crate) failed_handshakes: Count,
    pub(crate) rate_closes: Count,
    pub(crate) grants: Count,
    pub(crate) refused_grants: Count,
    pub(crate) expirations: Count,
    pub(crate) rooms: Count,
    pub(crate) peers: Count,
    pub(crate) sent_messages: Count,
    pub(crate) evictions: Count,
    /// Whether the bus can be reached: 1 or 0.
    pub(crate) bus_up: Count,
    pub(crate) bus_conflicts: Count,
    pub(crate) route_failures: Count,
    pub(crate) unavailable: Count,
    /// Rooms that have something for another server. Not shown: it matters only while the server stops.
    pub(crate) owing_rooms: Count,
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

    /// Every metric of this struct.
    pub(crate) fn render(&self, text: &mut Text) {
        let gauges = [
            ("connections", "Open WebSockets.", &self.connections),
            ("rooms", "Rooms with a peer in them.", &self.rooms),
            ("peers", "Peers that hold a place.", &self.peers),
            (
                "bus_up",
                "Whether the cluster's common store can be reached.",
                &self.bus_up,
            ),
        ];
        for (name, help, count) in gauges {
            text.single("gauge", name, help, count.get());
        }
        for (name, help, count) in [
            (
                "refused_connections_total",
                "TCP connections closed because the server was full.",
                &self.refused_connections,
            ),
            (
                "refused_addresses_total",
                "Connections refused because their address held too many.",
                &self.refused_addresses,
            ),
            (
                "failed_handshakes_total",
                "TCP connections that did not get through the TLS handshake.",
                &self.failed_handshakes,
            ),
            (
                "rate_closes_total",
                "Clients closed because they sent too many messages.",
                &self.rate_closes,
            ),
            (
                "grants_total",
                "Grants given for an invite or a creator's token.",
                &self.grants,
            ),
            (
                "refused_grants_total",
                "Requests for a grant with a wrong secret or room.",
                &self.refused_grants,
            ),
            (
                "expirations_total",
                "Clients closed because their grant ended or was revoked.",
                &self.expirations,
            ),
            (
                "sent_messages_total",
                "Messages written to clients.",
                &self.sent_messages,
            ),
            (
                "evictions_total",
                "Clients thrown out because they did not read.",
                &self.evictions,
            ),
        ] {
            text.single("counter", name, help, count.get());
        }
        self.render_cluster(text);
        self.render_kinds(text);
    }

    fn render_kinds(&self, text: &mut Text) {
        let help = "Requests and notifications from clients.";
        let methods = METHODS.iter().zip(&self.received);
        let received = methods.map(|(method, count)| (format!("method=\"{method}\""), count.get()));
        text.labelled("counter", "received_messages_total", help, received);
        let help = "Errors that clients were told.";
        let codes = ErrorCode::ALL.iter().zip(&self.errors);
        let errors = codes.map(|(code, count)| (format!("code=\"{}\"", code.name()), count.get()));
        text.labelled("counter", "errors_total", help, errors);
    }

    fn render_cluster(&self, text: &mut Text) {
        for (name, help, count) in [
            (
                "bus_conflicts_total",
                "Changes of a room's record that another server was quicker with.",
                &self.bus_conflicts,
            ),
            (
                "route_failures_total",
                "Signals to another server that did not arrive.",
                &self.route_failures,
            ),
            (
                "unavailable_total",
                "Announces refused because the cluster could not admit anybody.",
                &self.unavailable,
            ),
        ] {
            text.single("counter", name, help, count.get());
        }
    }
}

/// Prometheus text in the making.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    /// A metric with one value.
    pub(crate) fn single(&mut self, kind: &str, name: &str, help: &str, value: u64) {
        self.family(kind, name, help);
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "roundtable_signaling_{name} {value}");
    }

    /// A gauge of the process, whose name is no signaling server's own.
    pub(crate) fn process(&mut self, name: &str, help: &str, value: u64) {
        let _ = writeln!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"
        );
    }

    /// A metric with a value for each set of labels, such as `method="ping"`.
    pub(crate) fn labelled(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (String, u64)>,
    ) {
        self.family(kind, name, help);
        for (labels, value) in values {
            let _ = writeln!(self.0, "roundtable_signaling_{name}{{{labels}}} {value}");
        }
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    fn family(&mut self, kind: &str, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP roundtable_signaling_{name} {help}");
        let _ = writeln!(self.0, "# TYPE roundtable_signaling_{name} {kind}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_and_error_is_counted_under_its_name() {
        let metrics = Metrics::default();
        metrics.count_request(&Request::Ping);
        metrics.count_error(ErrorCode::RoomFull);
        let mut text = Text::default();
        metrics.render(&mut text);
        let text = text.finish();
        for line in [
            "roundtable_signaling_received_messages_total{method=\"ping\"} 1",
            "roundtable_signaling_errors_total{code=\"RoomFull\"} 1",
            "# TYPE roundtable_signaling_connections gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
