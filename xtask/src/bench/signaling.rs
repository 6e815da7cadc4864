//! The signaling server's figures: the real binary on one core, its clients on another.

use super::{
    figures::{
        Area, Figure,
        From::{Ratio, Raw},
        Target::{AtLeast, AtMost, None, QuietAtMost},
    },
    programs::Program,
};

pub(super) const AREA: Area = Area {
    name: "signaling",
    page: "signaling.md",
    programs: &[Program::Ours("signaling")],
    figures: &[
        Figure {
            id: "idle_bytes_per_conn",
            unit: "B",
            from: Raw,
            target: AtMost(16_000.0),
            what: "memory of an announced connection that is idle",
        },
        Figure {
            id: "peerjs_idle_bytes_per_conn",
            unit: "B",
            from: Raw,
            target: None,
            what: "the same of PeerJS",
        },
        Figure {
            id: "relay_idle_bytes_per_conn",
            unit: "B",
            from: Raw,
            target: None,
            what: "the same of the bare relay",
        },
        Figure {
            id: "cpu_us_per_message",
            unit: "µs",
            from: Raw,
            target: AtMost(20.0),
            what: "processor time of a relayed offer of 2 KB, at 10,000 a second",
        },
        Figure {
            id: "cpu_us_per_answered_message",
            unit: "µs",
            from: Raw,
            target: None,
            what: "the same, where the sender asks whether it was passed on",
        },
        Figure {
            id: "ratio_cpu_peerjs",
            unit: "x",
            from: Ratio("cpu_us_per_message", "peerjs_cpu_us_per_message"),
            target: AtMost(1.0),
            what: "processor time of a message, beside PeerJS",
        },
        Figure {
            id: "ratio_cpu_relay",
            unit: "x",
            from: Ratio("cpu_us_per_message", "relay_cpu_us_per_message"),
            target: None,
            what: "processor time of a message, beside the bare relay",
        },
        Figure {
            id: "relay_p50_ms",
            unit: "ms",
            from: Raw,
            target: None,
            what: "from sender to receiver, at 10,000 messages a second, median",
        },
        Figure {
            id: "relay_p99_ms",
            unit: "ms",
            from: Raw,
            target: QuietAtMost(2.0),
            what: "the same, 99th percentile",
        },
        Figure {
            id: "peerjs_relay_p99_ms",
            unit: "ms",
            from: Raw,
            target: None,
            what: "the same, PeerJS",
        },
        Figure {
            id: "storm_10k_s",
            unit: "s",
            from: Raw,
            target: QuietAtMost(3.0),
            what: "10,000 peers with grants join 1,000 rooms at once, until the last is in",
        },
        Figure {
            id: "storm_failed",
            unit: "peers",
            from: Raw,
            target: AtMost(0.0),
            what: "of these, how many did not get in",
        },
        Figure {
            id: "rooms_1000x10_ok",
            unit: "",
            from: Raw,
            target: AtLeast(1.0),
            what: "in each of the 1,000 rooms each of the ten gets the offer that is for it (1: yes)",
        },
    ],
};
