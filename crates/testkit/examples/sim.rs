//! Plays worlds, one for each seed: `cargo xtask sim` runs this.
#![forbid(unsafe_code)]

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use clap::Parser;
use roundtable_testkit::{Failure, Medium, Report, run_over};

/// How many failures are printed in full.
const SHOWN: usize = 3;
/// Of so many worlds and more, what holds of most is judged, too.
const MANY: usize = 10_000;
/// How long 99 of 100 worlds take at most until everyone has everything, once all are linked.
const CONVERGED: Duration = Duration::from_secs(1);
/// Of so many worlds one may be excused from the replay of everything.
const EXCUSED_ONE_IN: usize = 500;

/// Plays worlds of simulated peers, one for each seed, and says which broke a promise.
#[derive(Debug, Parser)]
struct Args {
    /// How many worlds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many worlds at a time; as many as there are processors if left out.
    #[arg(long)]
    jobs: Option<u16>,
    /// What links are made of: a model, or real ones over simulated networks.
    #[arg(long, value_enum, default_value_t = Transport::Model)]
    transport: Transport,
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Transport {
    Model,
    Quic,
    #[value(name = "webrtc")]
    WebRtc,
    Mixed,
}

impl From<Transport> for Medium {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Model => Self::Model,
            Transport::Quic => Self::Quic,
            Transport::WebRtc => Self::WebRtc,
            Transport::Mixed => Self::Mixed,
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    reports: Vec<Report>,
    failures: Vec<Failure>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let tally = play(&args);
    for failure in tally.failures.iter().take(SHOWN) {
        eprintln!("{failure}");
    }
    let summary = summary(&args, &tally);
    if args.json {
        println!("{summary}");
    } else {
        eprintln!("{summary:#}");
    }
    let broken = broken(&tally);
    broken.iter().for_each(|promise| eprintln!("{promise}"));
    if tally.failures.is_empty() && broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What must hold of many worlds together, and does not.
fn broken(tally: &Tally) -> Vec<String> {
    let worlds = tally.reports.len();
    let mut broken = Vec::new();
    if worlds < MANY {
        return broken;
    }
    let p99 = convergence(tally, 99).unwrap_or_default();
    if p99 >= CONVERGED {
        broken.push(format!(
            "p99 of convergence is {p99:?}: {CONVERGED:?} is too long"
        ));
    }
    let excused = excused(tally);
    if excused * EXCUSED_ONE_IN > worlds {
        broken.push(format!(
            "{excused} of {worlds} worlds were not replayed from the genesis on"
        ));
    }
    broken
}

/// How many worlds were not replayed as a whole.
fn excused(tally: &Tally) -> usize {
    let reports = tally.reports.iter();
    reports.filter(|report| report.excused > 0).count()
}

/// In what time so many of a hundred worlds have converged.
fn convergence(tally: &Tally, percent: usize) -> Option<Duration> {
    let times = tally.reports.iter().map(|report| report.converged_in);
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(index).copied()
}

/// Plays all worlds.
fn play(args: &Args) -> Tally {
    let next = AtomicU64::new(0);
    let (send, results) = mpsc::channel();
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let threads = args.jobs.map_or_else(processors, usize::from).max(1);
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            let send = send.clone();
            scope.spawn(|| {
                let send = send;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let seed = args.seed.wrapping_add(number);
                    if number >= args.seeds
                        || send.send(run_over(seed, args.transport.into())).is_err()
                    {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (done, result) in results.iter().enumerate() {
            let mut tally = tally
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            match result {
                Ok(report) => tally.reports.push(report),
                Err(failure) => {
                    eprintln!("seed {} fails: {}", failure.seed, failure.violation);
                    tally.failures.push(*failure);
                }
            }
            if (done + 1) % 250 == 0 {
                eprintln!("{} of {} worlds", done + 1, args.seeds);
            }
        }
    });
    tally.into_inner().unwrap_or_default()
}

fn summary(args: &Args, tally: &Tally) -> serde_json::Value {
    let at = |percent: usize| convergence(tally, percent).map(|time| time.as_millis());
    let failed: Vec<u64> = tally.failures.iter().map(|failure| failure.seed).collect();
    let sum = |of: fn(&Report) -> u64| tally.reports.iter().map(of).sum::<u64>();
    serde_json::json!({
        "first_seed": args.seed,
        "worlds": args.seeds,
        "links": {
            "quic": sum(|report| report.links[0]),
            "webrtc": sum(|report| report.links[1]),
        },
        "address_changes": sum(|report| report.moves.into()),
        "failed_seeds": failed,
        "full_worlds": tally.reports.iter().filter(|report| report.is_full()).count(),
        "small_worlds": tally.reports.iter().filter(|report| report.is_small()).count(),
        "commands": sum(|report| report.commands),
        "crashes": sum(|report| report.crashes.into()),
        "forks_shown": sum(|report| report.forks),
        "not_replayed": excused(tally),
        "backups_restored": sum(|report| report.rollbacks.into()),
        "partitions": sum(|report| report.partitions.into()),
        "convergence_ms": { "p50": at(50), "p99": at(99), "max": at(100) },
    })
}
