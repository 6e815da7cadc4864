//! What the network and the talker do: the scenarios of the scorecard.

use std::time::Duration;

use roundtable_netem::{BurstLoss, Conditions};
use roundtable_voice::Activation;

/// A talker, and the network to the listener.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// For the page.
    pub(crate) what: &'static str,
    pub(crate) seconds: u64,
    pub(crate) conditions: Conditions,
    /// Times at which nothing gets through for a while.
    pub(crate) stalls: Stalls,
    /// How much faster than nominal the talker's sound card runs, in parts per million.
    pub(crate) ppm: f64,
    pub(crate) activation: Activation,
    /// The first sequence number and timestamp.
    pub(crate) rtp_start: (u16, u32),
    /// Frames that each packet may repeat; with none, the codec's own redundancy serves.
    pub(crate) redundancy: usize,
    /// After so many seconds somebody else talks: a new sender, with numbers of its own.
    pub(crate) new_talker_s: Option<u64>,
}

/// When the network stalls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stalls {
    Never,
    /// Once: from so many seconds on, for so many milliseconds.
    Once {
        at_s: u64,
        for_ms: u64,
    },
    /// Again and again, for a time between these bounds, after a pause between those, in milliseconds.
    Often {
        pause_ms: (u64, u64),
        for_ms: (u64, u64),
    },
}

impl Scenario {
    /// A minute of talk over a network that takes 40 ms.
    fn over(name: &'static str, what: &'static str, jitter_ms: u64) -> Self {
        Self {
            name,
            what,
            seconds: 60,
            conditions: Conditions {
                delay: Duration::from_millis(40),
                jitter: Duration::from_millis(jitter_ms),
                max_queue: Duration::from_secs(1),
                in_order: true,
                ..Conditions::default()
            },
            stalls: Stalls::Never,
            ppm: 0.0,
            activation: Activation::Always,
            rtp_start: (1_000, 480_000),
            redundancy: 2,
            new_talker_s: None,
        }
    }

    fn losing(name: &'static str, what: &'static str, per_mille: u16) -> Self {
        let mut this = Self::over(name, what, 5);
        this.conditions.loss_per_mille = per_mille;
        this
    }

    fn bursts(name: &'static str, what: &'static str, per_mille: u16) -> Self {
        let mut this = Self::over(name, what, 5);
        this.conditions.bursts = Some(BurstLoss::gilbert(per_mille, 2));
        this
    }

    fn drifting(name: &'static str, what: &'static str, ppm: f64) -> Self {
        Self {
            seconds: 120,
            ppm,
            ..Self::over(name, what, 10)
        }
    }

    fn stalling(name: &'static str, what: &'static str, stalls: Stalls) -> Self {
        Self {
            stalls,
            ..Self::over(name, what, 5)
        }
    }

    /// Whether the delay should come back to where it was, and from when on, in seconds.
    pub(crate) fn recovers_from_s(&self) -> Option<f64> {
        match self.stalls {
            Stalls::Once { at_s, for_ms } => Some(at_s as f64 + for_ms as f64 / 1000.0),
            _ => None,
        }
    }
}

/// All scenarios, as they are shown.
pub(crate) fn all() -> Vec<Scenario> {
    let spike = Stalls::Once {
        at_s: 20,
        for_ms: 300,
    };
    let wifi = Stalls::Often {
        pause_ms: (300, 2_500),
        for_ms: (20, 120),
    };
    let mut reordering = Scenario::over("reordering", "0 to 40 ms of jitter that overtakes", 40);
    reordering.conditions.in_order = false;
    vec![
        Scenario::over("clean", "nothing happens", 0),
        Scenario::over("jitter_10", "0 to 10 ms of jitter", 10),
        Scenario::over("jitter_20", "0 to 20 ms of jitter", 20),
        Scenario::over("jitter_50", "0 to 50 ms of jitter", 50),
        Scenario::stalling("wifi", "20 to 120 ms without air, every 1.4 s", wifi),
        Scenario::bursts("burst_loss_5", "5 % lost, two in a row (Gilbert)", 50),
        Scenario::bursts("burst_loss_10", "10 % lost, two in a row", 100),
        Scenario::bursts("burst_loss_20", "20 % lost, two in a row", 200),
        Scenario::losing("loss_10", "10 % lost at random", 100),
        Scenario::losing("loss_20", "20 % lost at random", 200),
        Scenario {
            redundancy: 0,
            ..Scenario::losing("loss_10_fec", "the same with in-band FEC alone", 100)
        },
        Scenario {
            redundancy: 0,
            ..Scenario::losing("loss_20_fec", "the same with in-band FEC alone", 200)
        },
        Scenario::stalling("spike", "300 ms without a packet, once", spike),
        reordering,
        Scenario::drifting(
            "drift_+100",
            "a sound card 100 ppm fast, 10 ms of jitter",
            100.0,
        ),
        Scenario::drifting("drift_-100", "one 100 ppm slow", -100.0),
        Scenario::drifting("drift_+500", "one 500 ppm fast", 500.0),
        Scenario::drifting("drift_-500", "one 500 ppm slow", -500.0),
        Scenario {
            activation: Activation::Voice,
            ..Scenario::over("dtx", "nothing is sent in pauses, 20 ms of jitter", 20)
        },
        Scenario {
            rtp_start: (65_000, u32::MAX - 960_000),
            ..Scenario::over("wraps", "both numbers wrap, 10 ms of jitter", 10)
        },
        Scenario {
            new_talker_s: Some(15),
            ..Scenario::over("talkers", "somebody else talks every 15 s", 10)
        },
    ]
}
