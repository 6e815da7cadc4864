//! What clients notice when a server of a cluster, or its NATS, goes away. The tests of the command take these figures as they go
//! along: three servers, NATS and the clients are processes and sockets of this machine.

use super::{
    figures::{Area, Figure, From::Raw, Target::AtMost},
    programs::Program,
};

pub(super) const AREA: Area = Area {
    name: "cluster",
    page: "cluster.md",
    programs: &[Program::Test {
        package: "roundtable-cli",
        test: "cluster",
    }],
    figures: &[
        Figure {
            id: "killed_back_p99_ms",
            unit: "ms",
            from: Raw,
            target: AtMost(3000.0),
            what: "from the SIGKILL of one server of three until 99 of 100 of its clients are back on the others, of 300 in 60 rooms",
        },
        Figure {
            id: "presence_gone_ms",
            unit: "ms",
            from: Raw,
            target: AtMost(10_000.0),
            what: "from the SIGKILL until the others hear that a client has left that does not come back",
        },
        Figure {
            id: "nats_back_converged_ms",
            unit: "ms",
            from: Raw,
            target: AtMost(5000.0),
            what: "from the start of a NATS that has forgotten everything until signals cross servers and newcomers find everybody",
        },
        Figure {
            id: "drain_2000_offers_lost",
            unit: "",
            from: Raw,
            target: AtMost(0.0),
            what: "offers that were passed on and did not arrive, while a server with 2,000 clients drains",
        },
        Figure {
            id: "drain_2000_answers_lost",
            unit: "",
            from: Raw,
            target: AtMost(0.0),
            what: "answers likewise",
        },
        Figure {
            id: "drain_2000_candidates_lost",
            unit: "",
            from: Raw,
            target: AtMost(0.0),
            what: "candidates likewise",
        },
    ],
};
