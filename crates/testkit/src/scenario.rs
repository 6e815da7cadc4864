//! A room's life as a seed has it: people come, write, quarrel over roles, lose links and power, and in the end
//! everyone must agree. Here is what a world is made of and what is told of it.

mod life;
mod members;
mod outages;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use roundtable_core::TransportKind;

use self::life::Life;
use crate::{Fault, Violation, World, schema};

/// Of the first seeds every other world is small, of all others one in so many: fewer peers and a shorter life, and every
/// peer verifies every signature by itself. In most full ones a signature is verified once, by whoever sees it first.
const FIRST_SEEDS: u64 = 1000;
const SMALL_ONE_IN: u64 = 50;
/// Of the full worlds, in one of so many every peer verifies by itself, too.
const FULL_VERIFIED_ONE_IN: u64 = 50;
/// Commands, partitions and crashes of a full world, and its peers.
const FULL: (u64, u32, u32, usize) = (200, 1, 1, 4);

/// What the links of a world are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Medium {
    /// A model: whole messages, each delayed and lost by itself.
    #[default]
    Model,
    /// QUIC, packet by packet.
    Quic,
    /// WebRTC, packet by packet.
    WebRtc,
    /// Some links are QUIC, some WebRTC.
    Mixed,
}

impl Medium {
    /// As the command line names it.
    const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Quic => "quic",
            Self::WebRtc => "webrtc",
            Self::Mixed => "mixed",
        }
    }

    const fn only(self) -> Option<TransportKind> {
        match self {
            Self::Quic => Some(TransportKind::Quic),
            Self::WebRtc => Some(TransportKind::WebRtc),
            Self::Model | Self::Mixed => None,
        }
    }
}

/// What a world that kept all promises has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Names the world.
    pub seed: u64,
    /// How many peers there were, of all kinds, those that came back under new keys counted again.
    pub peers: usize,
    /// Commands that honest peers have signed.
    pub commands: u64,
    /// How often a peer crashed.
    pub crashes: u32,
    /// How often the room was cut in two.
    pub partitions: u32,
    /// How often peers were shown that an author has forked its log.
    pub forks: u64,
    /// How many links over QUIC and over WebRTC came up.
    pub links: [u64; 2],
    /// How often a peer's address changed, which only real links know of.
    pub moves: u32,
    /// How often a peer came back with an older backup of its disk.
    pub rollbacks: u32,
    /// How many checkpoints have become stable.
    pub checkpoints: usize,
    /// How often the replay of everything could not be held against what peers have, for want of branches that they had let go.
    pub excused: u32,
    /// From the moment when everyone was linked again until everyone held all that anyone had held then.
    pub converged_in: Duration,
    /// Names everything that was sent: equal for equal seeds. Over real links, whose handshakes are never
    /// the same, only when and how much.
    pub digest: [u8; 32],
}

impl Report {
    /// Whether the world had enough going on at once: at least four peers, 200 commands, a partition and a crash.
    pub fn is_full(&self) -> bool {
        is_full(self.commands, self.partitions, self.crashes, self.peers)
    }

    /// Whether it was meant to.
    pub fn is_small(&self) -> bool {
        is_small(self.seed)
    }
}

fn is_full(commands: u64, partitions: u32, crashes: u32, peers: usize) -> bool {
    let enough = [
        commands >= FULL.0,
        partitions >= FULL.1,
        crashes >= FULL.2,
        peers >= FULL.3,
    ];
    enough == [true; 4]
}

fn is_small(seed: u64) -> bool {
    let one_in = if seed < FIRST_SEEDS { 2 } else { SMALL_ONE_IN };
    seed.is_multiple_of(one_in)
}

/// Whether each peer verifies every signature by itself.
fn verifies_all(seed: u64) -> bool {
    is_small(seed) || seed % FULL_VERIFIED_ONE_IN == 1
}

/// A world in which a promise was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Replays the world.
    pub seed: u64,
    /// What its links were made of.
    pub medium: Medium,
    /// What was broken.
    pub violation: Violation,
    /// The last things that happened, a line each.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "    {line}")?;
        }
        let Self {
            seed, violation, ..
        } = self;
        write!(
            f,
            "seed {seed}: {violation}\n    replay: cargo xtask sim --seed {seed} --seeds 1"
        )?;
        match self.medium {
            Medium::Model => Ok(()),
            medium => write!(f, " --transport {}", medium.name()),
        }
    }
}

impl std::error::Error for Failure {}

/// Plays the world of a seed, and holds it against everything that was promised. With a fault, the honest
/// peers break one promise on purpose.
///
/// # Errors
/// [`Failure`] names the first promise that was broken.
pub fn run(seed: u64, fault: Option<Fault>) -> Result<Report, Box<Failure>> {
    play(seed, fault, Medium::Model)
}

/// As [`run`] without a fault, over links of `medium`.
///
/// # Errors
/// [`Failure`] names the first promise that was broken.
pub fn run_over(seed: u64, medium: Medium) -> Result<Report, Box<Failure>> {
    play(seed, None, medium)
}

fn play(seed: u64, fault: Option<Fault>, medium: Medium) -> Result<Report, Box<Failure>> {
    let fail = |violation, trace| {
        let failure = Failure {
            seed,
            medium,
            violation,
            trace,
        };
        Box::new(failure)
    };
    let Ok(schema) = schema() else {
        return Err(fail(Violation::Panicked, Vec::new()));
    };
    roundtable_command_log::__remember_verdicts(!verifies_all(seed));
    let mut world = World::new(seed, schema);
    if medium != Medium::Model {
        world = match world.with_real_links(medium.only()) {
            Ok(world) => world,
            Err(_) => return Err(fail(Violation::Panicked, Vec::new())),
        };
    }
    world.fault = fault;
    world.break_rules();
    let mut life = Life::new(seed, world);
    let lived = catch_unwind(AssertUnwindSafe(|| life.live()));
    match lived.unwrap_or(Err(Violation::Panicked)) {
        Ok(report) => Ok(report),
        Err(violation) => Err(fail(violation, life.world.trace())),
    }
}
