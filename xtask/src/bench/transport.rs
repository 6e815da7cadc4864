//! The links' figures: WebRTC and QUIC over loopback, beside what else speaks them.

use super::{
    figures::{
        Area, Figure,
        From::{Ratio, RatioToLeast, Raw},
        Target::{self, AtLeast, AtMost, QuietAtMost},
    },
    programs::Program,
};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

pub(super) const AREA: Area = Area {
    name: "transport",
    page: "transport.md",
    programs: &[
        Program::Ours("transport"),
        Program::Ours("transport_memory"),
        Program::Peer("transport-str0m"),
        Program::Peer("transport-shell"),
        Program::Peer("transport-quinn"),
        Program::Node {
            folder: "transport-libwebrtc",
            script: "duel.cjs",
            ids: &[
                "libwebrtc_throughput",
                "libwebrtc_rtt_p50_us",
                "libwebrtc_rtt_p99_us",
                "libwebrtc_open_p50_ms",
                "libwebrtc_open_p95_ms",
            ],
        },
    ],
    figures: &[
        Figure {
            id: "ratio_throughput_str0m",
            unit: "x",
            from: Ratio("webrtc_throughput", "str0m_throughput"),
            target: AtLeast(2.0),
            what: "reliable throughput over WebRTC, beside str0m",
        },
        Figure {
            id: "ratio_throughput_shell",
            unit: "x",
            from: Ratio("webrtc_throughput", "shell_throughput"),
            target: AtLeast(1.2),
            what: "the same, beside the `webrtc` shell over the same core",
        },
        Figure {
            id: "ratio_throughput_libwebrtc",
            unit: "x",
            from: Ratio("webrtc_throughput", "libwebrtc_throughput"),
            target: AtLeast(2.0),
            what: "the same, beside libwebrtc in Node.js",
        },
        Figure {
            id: "ratio_quic_raw_quinn",
            unit: "x",
            from: Ratio("quic_throughput", "quinn_throughput"),
            target: AtLeast(0.9),
            what: "reliable throughput over QUIC, beside bare quinn",
        },
        Figure {
            id: "ratio_rtt_best_peer",
            unit: "x",
            from: RatioToLeast(
                "webrtc_rtt_p50_us",
                &[
                    "str0m_rtt_p50_us",
                    "shell_rtt_p50_us",
                    "libwebrtc_rtt_p50_us",
                ],
            ),
            target: AtMost(1.2),
            what: "64 bytes there and back over WebRTC, beside the quickest of the three",
        },
        Figure {
            id: "open_p95_ms",
            unit: "ms",
            from: Raw,
            target: QuietAtMost(10.0),
            what: "WebRTC, from the offer until both ends are open, 95th percentile",
        },
        Figure {
            id: "mesh10_s",
            unit: "s",
            from: Raw,
            target: QuietAtMost(2.0),
            what: "ten peers join a room at once, until each has admitted the nine others over WebRTC",
        },
        Figure {
            id: "idle_bytes_per_webrtc_conn",
            unit: "B",
            from: Raw,
            target: AtMost(256.0 * KIB),
            what: "memory of an end of a WebRTC link that has carried nothing",
        },
        Figure {
            id: "voice_bytes_per_peer",
            unit: "B",
            from: Raw,
            target: AtMost(8.0 * MIB),
            what: "memory of a peer in a room of ten that all speak",
        },
        Figure {
            id: "churn_1000_growth_bytes",
            unit: "B",
            from: Raw,
            target: AtMost(MIB),
            what: "what a room and its signaling server grow by when a peer comes and goes 1,000 times",
        },
        Figure {
            id: "flood_bytes",
            unit: "B",
            from: Raw,
            target: AtMost(16.0 * MIB),
            what: "memory of both ends of a WebRTC link, one of which floods an unreliable channel that the other never reads",
        },
        peer(
            "used_bytes_per_webrtc_conn",
            "B",
            "memory of an end of a WebRTC link that is idle after 1 MiB each way",
        ),
        peer(
            "voice_resident_bytes_per_peer",
            "B",
            "what the process of those ten grows by, for each",
        ),
        peer("quic_flood_bytes", "B", "the same flood over a QUIC link"),
        peer(
            "webrtc_throughput",
            "MB/s",
            "16 KiB messages, reliable and ordered: our WebRTC links",
        ),
        peer("str0m_throughput", "MB/s", "str0m"),
        peer("shell_throughput", "MB/s", "the `webrtc` shell"),
        peer("libwebrtc_throughput", "MB/s", "libwebrtc in Node.js"),
        peer("quic_throughput", "MB/s", "our QUIC links"),
        peer("quinn_throughput", "MB/s", "bare quinn"),
        peer(
            "webrtc_rtt_p50_us",
            "µs",
            "64 bytes there and back, median: our WebRTC links",
        ),
        peer("webrtc_rtt_p99_us", "µs", "the same, 99th percentile"),
        peer("str0m_rtt_p50_us", "µs", "str0m, median"),
        peer("shell_rtt_p50_us", "µs", "the `webrtc` shell, median"),
        peer("libwebrtc_rtt_p50_us", "µs", "libwebrtc in Node.js, median"),
        peer("quic_rtt_p50_us", "µs", "our QUIC links, median"),
        peer("quinn_rtt_p50_us", "µs", "bare quinn, median"),
        peer(
            "open_p50_ms",
            "ms",
            "from the offer until both ends are open, median: our WebRTC links",
        ),
        peer("str0m_open_p95_ms", "ms", "str0m, 95th percentile"),
        peer(
            "shell_open_p95_ms",
            "ms",
            "the `webrtc` shell, 95th percentile",
        ),
        peer(
            "libwebrtc_open_p95_ms",
            "ms",
            "libwebrtc in Node.js, 95th percentile",
        ),
        peer(
            "quic_open_p95_ms",
            "ms",
            "our QUIC links, from the dial on, 95th percentile",
        ),
        peer("quinn_open_p95_ms", "ms", "bare quinn, 95th percentile"),
    ],
};

/// What is reported for comparison.
const fn peer(id: &'static str, unit: &'static str, what: &'static str) -> Figure {
    Figure {
        id,
        unit,
        from: Raw,
        target: Target::None,
        what,
    }
}
