//! Once a second: how good the connection to each peer is, and whether it could be better.

use std::collections::HashMap;

use roundtable_core::{
    Channel, ChannelStats, LinkStats, MetricsVisitor, Observe, PacketStats, PeerId, Timestamp,
    TransportKind,
};
use roundtable_session::{PeerView, Side, Standing};
use roundtable_transport::Link;

use super::Actor;
use crate::{
    CommandTransport, Event,
    peers::Linked,
    quality::{ConnectionQuality, History, QualityReason, SAMPLE_EVERY, Shown},
};

const KINDS: [TransportKind; 3] = [
    TransportKind::Memory,
    TransportKind::Quic,
    TransportKind::WebRtc,
];

/// What was seen of connections.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    next: Timestamp,
    connections: HashMap<PeerId, History>,
    /// What links have counted that are gone, by kind.
    gone: HashMap<TransportKind, Counted>,
}

/// Counters of all links of a kind.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    packets: PacketStats,
    channels: [ChannelStats; 8],
}

impl Counted {
    fn add(&mut self, stats: &LinkStats) {
        self.packets = self.packets.plus(&stats.packets);
        for (sum, channel) in self.channels.iter_mut().zip(&stats.channels) {
            *sum = sum.plus(channel);
        }
    }
}

impl Watch {
    /// When to look again.
    pub(super) const fn next(&self) -> Timestamp {
        self.next
    }

    /// A link is gone, with these counters.
    pub(super) fn link_gone(&mut self, kind: TransportKind, stats: &LinkStats) {
        self.gone.entry(kind).or_default().add(stats);
    }

    pub(super) fn quality(&self, peer: &PeerId) -> Option<ConnectionQuality> {
        self.connections.get(peer)?.now().cloned()
    }

    /// The last minute, the oldest second first.
    pub(super) fn history(&self, peer: &PeerId) -> Vec<ConnectionQuality> {
        let history = self.connections.get(peer);
        history.map_or_else(Vec::new, |history| history.all().cloned().collect())
    }
}

impl Actor {
    /// Looks at every connection, if it is time.
    pub(super) fn watch(&mut self, now: Timestamp) {
        if now < self.watch.next {
            return;
        }
        self.watch.next = now + SAMPLE_EVERY;
        let views: Vec<_> = self.session.peers().collect();
        let views = views.iter().filter(|v| v.standing != Standing::Handshaking);
        let views: HashMap<_, _> = views.map(|view| (&view.peer, view)).collect();
        self.watch
            .connections
            .retain(|peer, _| views.contains_key(peer));
        for (peer, view) in views {
            let Some(shown) = self.shown(view) else {
                continue;
            };
            let history = self.watch.connections.entry(peer.clone()).or_default();
            let changed = history.sample(now, shown);
            if let Some(quality) = history.now().filter(|_| changed).cloned() {
                tracing::debug!(%peer, score = quality.score, level = quality.level.name(), "quality");
                let peer = peer.clone();
                self.tell(Event::QualityChanged { peer, quality });
            }
            self.look_for_better(view, now);
        }
    }

    /// The link that is sent on.
    fn shown(&self, view: &PeerView) -> Option<Shown> {
        let link = view.links.first()?;
        let mut stats = self.links.get(link.link)?.transport.stats();
        stats.rtt = link.rtt.or(stats.rtt);
        Some(Shown {
            link: link.link.0,
            transport: link.kind,
            silent: self.session.is_silent(link.link),
            stats,
        })
    }

    fn look_for_better(&mut self, view: &PeerView, now: Timestamp) {
        let Some(first) = view.links.first().and_then(|l| self.links.get(l.link)) else {
            return;
        };
        let linked = Linked {
            by_quic: self.answers(&view.peer, |l| l.kind() == TransportKind::Quic),
            relayed: is_relayed(&first.transport),
            offered_here: first.offered_here,
        };
        self.attempts.review(&view.peer, linked, now);
    }

    /// Whether a link that has just opened is given up again: it was offered here, leads over a TURN server, and the peer answers
    /// on another.
    pub(super) fn is_surplus(&self, peer: &PeerId, link: &CommandTransport, side: Side) -> bool {
        side == Side::Initiator
            && is_relayed(link)
            && !self.attempts.is_probed(peer)
            && self.answers(peer, |_| true)
    }

    /// Links and connections in numbers.
    pub(super) fn link_metrics(&self) -> LinkMetrics {
        let counted = KINDS.map(|kind| {
            let mut counted = self.watch.gone.get(&kind).copied().unwrap_or_default();
            let links = self.links.iter().map(|(_, link)| &link.transport);
            for link in links.filter(|link| link.kind() == kind) {
                counted.add(&link.stats());
            }
            (kind, counted)
        });
        let connections = self.watch.connections.iter();
        let connections =
            connections.filter_map(|(peer, h)| Some((peer.clone(), h.now()?.clone())));
        let mut connections: Vec<_> = connections.collect();
        connections.sort_by(|(a, _), (b, _)| a.cmp(b));
        LinkMetrics {
            counted,
            connections,
        }
    }
}

fn is_relayed(link: &CommandTransport) -> bool {
    link.stats().path.is_some_and(|path| path.is_relayed())
}

/// What links show to a scraper. Counters are of all links since the room was joined, by kind and channel; gauges of each peer's
/// present connection.
#[derive(Debug)]
pub(crate) struct LinkMetrics {
    counted: [(TransportKind, Counted); 3],
    connections: Vec<(PeerId, ConnectionQuality)>,
}

impl Observe for LinkMetrics {
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        for (kind, counted) in self.counted.iter().filter(|(_, c)| c.is_used()) {
            let transport = [("transport", kind.name())];
            let packets = &counted.packets;
            visitor.counter("transport_sent_packets", &transport, packets.sent);
            visitor.counter("transport_sent_bytes", &transport, packets.sent_bytes);
            visitor.counter("transport_received_packets", &transport, packets.received);
            visitor.counter(
                "transport_received_bytes",
                &transport,
                packets.received_bytes,
            );
            visitor.counter("transport_lost_packets", &transport, packets.lost);
            for channel in Channel::ALL {
                let stats = &counted.channels[usize::from(channel.number())];
                let labels = [transport[0], ("channel", channel.name())];
                visitor.counter("channel_sent_frames", &labels, stats.sent_frames);
                visitor.counter("channel_sent_bytes", &labels, stats.sent_bytes);
                visitor.counter("channel_received_frames", &labels, stats.received_frames);
                visitor.counter("channel_received_bytes", &labels, stats.received_bytes);
                visitor.counter("channel_dropped_frames", &labels, stats.dropped_frames);
            }
        }
        for (peer, quality) in &self.connections {
            let labels = [
                ("peer", peer.as_str()),
                ("transport", quality.transport.name()),
            ];
            visitor.gauge("connection_quality", &labels, quality.score.into());
            visitor.gauge("connection_loss_ratio", &labels, quality.loss.into());
            let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
            if let Some(rtt) = quality.rtt {
                visitor.gauge("connection_rtt_ms", &labels, ms(rtt));
            }
            if let Some(jitter) = quality.jitter {
                visitor.gauge("connection_jitter_ms", &labels, ms(jitter));
            }
            if let Some(bandwidth) = quality.bandwidth {
                visitor.gauge("connection_bandwidth_bps", &labels, bandwidth.bps().into());
            }
            let relayed = quality.reasons.contains(&QualityReason::Relayed);
            visitor.gauge("connection_relayed", &labels, f64::from(u8::from(relayed)));
        }
    }
}

impl Counted {
    fn is_used(&self) -> bool {
        let used = |stats: &ChannelStats| stats.sent_frames != 0 || stats.received_frames != 0;
        self.packets.sent != 0 || self.channels.iter().any(used)
    }
}
