//! What a voice costs: codec, jitter buffer, mixer, and the whole way; and what it costs commands on the same link.

use super::{
    figures::{
        Area, Figure,
        From::Raw,
        Target::{AtMost, QuietAtMost},
    },
    programs::Program,
};

pub(super) const AREA: Area = Area {
    name: "media",
    page: "media.md",
    programs: &[
        Program::Ours("media"),
        Program::Ours("commands_beside_voice"),
    ],
    figures: &[
        Figure {
            id: "opus_roundtrip_ms",
            unit: "ms",
            from: Raw,
            target: AtMost(0.5),
            what: "20 ms of speech encoded and decoded by Opus",
        },
        Figure {
            id: "jitter_insert_pop_ns",
            unit: "ns",
            from: Raw,
            target: AtMost(200.0),
            what: "a packet into the jitter buffer and one out, 50 waiting",
        },
        Figure {
            id: "mix_20_ms",
            unit: "ms",
            from: Raw,
            target: AtMost(0.3),
            what: "20 voices mixed, 20 ms of each",
        },
        Figure {
            id: "voice_cpu_percent_per_speaker",
            unit: "%",
            from: Raw,
            target: AtMost(1.5),
            what: "of a core, for one voice from the microphone to the ear, with voice activity",
        },
        Figure {
            id: "allocs_per_frame",
            unit: "",
            from: Raw,
            target: AtMost(0.0),
            what: "allocations for a frame that is received, decoded and mixed",
        },
        Figure {
            id: "allocs_per_frame_sent",
            unit: "",
            from: Raw,
            target: AtMost(0.0),
            what: "allocations for a frame that is encoded and sent: memory for packets is used again",
        },
        Figure {
            id: "command_p99_beside_voice_ms",
            unit: "ms",
            from: Raw,
            target: QuietAtMost(50.0),
            what: "a command of 600 bytes beside 1,000 voice packets a second on the same WebRTC link, 99th percentile",
        },
        Figure {
            id: "quic_command_p99_beside_voice_ms",
            unit: "ms",
            from: Raw,
            target: QuietAtMost(50.0),
            what: "the same over QUIC",
        },
    ],
};
