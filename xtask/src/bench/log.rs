//! The command log's figures: per core, with commands of 32 bytes.

use super::{
    figures::{
        Area, Figure,
        From::{Ratio, Raw},
        Target::{AtLeast, AtMost, None},
    },
    programs::Program,
};

pub(super) const AREA: Area = Area {
    name: "log",
    page: "command-log.md",
    programs: &[
        Program::Ours("log"),
        Program::Ours("log_memory"),
        Program::Ours("log_store"),
        Program::Peer("peer-log"),
    ],
    figures: &[
        Figure {
            id: "accept_framed_32",
            unit: "commands/s",
            from: Raw,
            target: AtLeast(1_000_000.0),
            what: "a backlog accepted, signed in frames of 32 commands",
        },
        Figure {
            id: "accept_single_backlog",
            unit: "commands/s",
            from: Raw,
            target: AtLeast(100_000.0),
            what: "a backlog accepted, each command signed by itself",
        },
        Figure {
            id: "ratio_accept_single_zebra",
            unit: "x",
            from: Ratio("accept_single", "zebra_verify"),
            target: AtLeast(0.9),
            what: "commands accepted one at a time, beside bare `ed25519-zebra` verification",
        },
        Figure {
            id: "append_framed_32",
            unit: "commands/s",
            from: Raw,
            target: AtLeast(1_000_000.0),
            what: "own commands appended in frames of 32",
        },
        Figure {
            id: "ratio_p2panda_create",
            unit: "x",
            from: Ratio("append_single", "p2panda_create"),
            target: None,
            what: "commands appended one at a time, beside p2panda-core's create",
        },
        Figure {
            id: "ratio_p2panda_validate",
            unit: "x",
            from: Ratio("accept_single", "p2panda_validate"),
            target: None,
            what: "commands accepted one at a time, beside p2panda-core's validate",
        },
        Figure {
            id: "late_join_100k_s",
            unit: "s",
            from: Raw,
            target: AtMost(0.5),
            what: "a late joiner takes 100,000 commands in frames of 32 over a memory link",
        },
        Figure {
            id: "late_frame_ms",
            unit: "ms",
            from: Raw,
            target: AtMost(1.0),
            what: "a frame that arrives 1,000 back in a log of 100,000 over 1,000 keys",
        },
        Figure {
            id: "late_role_ms",
            unit: "ms",
            from: Raw,
            target: None,
            what: "a late role change in the same log",
        },
        Figure {
            id: "bytes_per_command",
            unit: "B",
            from: Raw,
            target: AtMost(300.0),
            what: "memory of a small command that is a frame by itself",
        },
        Figure {
            id: "bytes_per_framed_command",
            unit: "B",
            from: Raw,
            target: None,
            what: "memory of a small command in a frame of 32",
        },
        Figure {
            id: "store_append",
            unit: "commands/s",
            from: Raw,
            target: AtLeast(100_000.0),
            what: "commands made durable in frames of 32, an fsync for each batch of at most 11 ms",
        },
        Figure {
            id: "store_commit_ms",
            unit: "ms",
            from: Raw,
            target: None,
            what: "one frame made durable, fsync included",
        },
    ],
};
