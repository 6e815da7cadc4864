//! The scorecard of voice: seeded scenarios in virtual time over recorded speech, through the real sender, a simulated network
//! and the real receiver, beside buffers that do not adapt and beside `neteq`. `cargo xtask score voice` runs it.
#![forbid(unsafe_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // figures

mod aims;
mod day;
mod drift;
mod ear;
mod figures;
mod foreign;
mod listen;
mod page;
mod pesq;
mod plot;
mod rival;
mod scenario;
mod speech;
mod trace;

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use clap::Parser;

use crate::{
    figures::{Figures, Played},
    scenario::Scenario,
};

/// Figures begin after so many seconds: every listener has found its delay by then.
pub(crate) const WARM_UP_S: f64 = 10.0;

/// The name of the long runs.
const LONG: &str = "long";

/// Scores the voice.
#[derive(Debug, Parser)]
struct Args {
    /// Only this scenario, or only the long runs by the name `long`.
    #[arg(long)]
    scenario: Option<String>,
    /// How many seeds of each scenario; figures are medians and the worst. Each seed has its own phase of the listener's blocks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Instead of the scenarios, packets that somebody recorded: a table with the columns
    /// `arrival_us,seq,rtp_timestamp,payload_len`.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// One JSON object a scenario and listener on standard output.
    #[arg(long)]
    json: bool,
    /// The program that plays traces through `neteq`.
    #[arg(long)]
    neteq: Option<PathBuf>,
    /// Where traces and sound are kept.
    #[arg(long)]
    folder: PathBuf,
    /// Where the page and its pictures are written; nowhere if left out.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Leave out PESQ, which takes longer than all the rest.
    #[arg(long)]
    no_pesq: bool,
    /// How many virtual hours the long run lasts, and the two beside it that are played by clocks which are 500 ppm off last at
    /// most one each. 24 hours take two minutes; none leaves all three out.
    #[arg(long, default_value_t = 24)]
    hours: u64,
}

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The recordings could not be read.
    #[error("the recorded speech: {0}")]
    Speech(#[from] hound::Error),
    /// A configuration was refused.
    #[error(transparent)]
    Config(#[from] roundtable_voice::VoiceConfigError),
    /// The jitter buffer's was.
    #[error(transparent)]
    Jitter(#[from] roundtable_sync::JitterConfigError),
    /// No scenario has this name.
    #[error("there is no scenario {0:?}")]
    Scenario(String),
    /// A line of a trace is none.
    #[error("line {0} of the trace is not arrival_us,seq,rtp_timestamp,payload_len")]
    Trace(usize),
    /// A trace has packets that no sender of ours would send.
    #[error("the trace's packets are {0} ticks of 48 kHz apart: none of 10, 20, 40 or 60 ms")]
    TraceFrames(u64),
    /// Figures begin after the warm-up.
    #[error(
        "the trace lasts {0} s; the first {WARM_UP_S} s of it are not counted, so that it takes 11 at least"
    )]
    TraceShort(u64),
}

/// Repeatable randomness: SplitMix64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5C0E_CA4D)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform, both bounds included.
    pub(crate) fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.roll() % (high - low + 1)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    std::fs::create_dir_all(&args.folder)?;
    let long_alone = args.scenario.as_deref() == Some(LONG);
    let mut played = match &args.trace {
        Some(path) => vec![foreign::play(path)?],
        None if long_alone => Vec::new(),
        None => play_all(args)?,
    };
    if let Some(program) = args.neteq.as_ref().filter(|_| !played.is_empty()) {
        rival::play(program, &args.folder, &mut played)?;
    }
    if !args.no_pesq {
        pesq::rate(&args.folder, &mut played)?;
    }
    let mut all: Vec<Figures> = Vec::new();
    for scenario in &mut played {
        let figures = scenario.figures();
        let aims = |one| aims::of(one, &figures);
        figures
            .iter()
            .for_each(|one| one.show(args.json, &aims(one)));
        all.extend(figures);
    }
    let everything = args.scenario.is_none() && args.trace.is_none();
    let long = args.hours > 0 && (everything || long_alone);
    let (mut day, mut drifts) = (None, Vec::new());
    if long {
        day = Some(day::live(args.hours, args.json)?);
        for ppm in [500.0, -500.0] {
            drifts.push(drift::hour(args.hours.min(1), ppm, args.json)?);
        }
    }
    match &args.page {
        Some(folder) => page::write(folder, &played, &all, day.as_ref(), &drifts),
        None => Ok(()),
    }
}

/// Plays the scenarios with every seed, on all cores.
fn play_all(args: &Args) -> Result<Vec<Played>, Error> {
    let mut scenarios = scenario::all();
    if let Some(name) = &args.scenario {
        scenarios.retain(|scenario| scenario.name == name);
        if scenarios.is_empty() {
            return Err(Error::Scenario(name.clone()));
        }
    }
    let speech = speech::recorded()?;
    let (next, played) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<(), Error> {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = Played::new(scenario, args.seeds, &speech)?;
            eprintln!("    played {}", scenario.name);
            if let Ok(mut played) = played.lock() {
                played.push(one);
            }
        }
        Ok(())
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let mut played = played.into_inner().unwrap_or_default();
    let place = |name: &str| {
        scenarios
            .iter()
            .position(|scenario: &Scenario| scenario.name == name)
    };
    played.sort_by_key(|one: &Played| place(&one.name));
    Ok(played)
}
