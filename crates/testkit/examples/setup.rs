//! Dials over bad networks in virtual time: `cargo xtask sim --setup` runs this.
#![forbid(unsafe_code)]

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use clap::Parser;
use roundtable_core::TransportKind;
use roundtable_netem::Conditions;
use roundtable_testkit::{SIGNALING_DELAY, SetUpFailure, set_up};

/// One way, before jitter.
const DELAY: Duration = Duration::from_millis(20);
const LOSSES_PER_MILLE: [u16; 4] = [20, 50, 100, 200];
const JITTERS_MS: [u64; 3] = [0, 20, 50];
const KINDS: [(&str, TransportKind); 2] = [
    ("QUIC", TransportKind::Quic),
    ("WebRTC", TransportKind::WebRtc),
];
/// The page, in messages.
const PAGE: &str = "transport-setup.md";

/// Dials many times over networks that lose and jitter, and says how long it took.
#[derive(Debug, Parser)]
struct Args {
    /// How many dials for each line of the table.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many dials at a time; as many as there are processors if left out.
    #[arg(long)]
    jobs: Option<u16>,
    /// Print one JSON object for each line of the table on standard output.
    #[arg(long)]
    json: bool,
    /// Write the table to this page as well.
    #[arg(long)]
    page: Option<PathBuf>,
}

/// One line of the table.
#[derive(Debug, Default)]
struct Cell {
    took: Vec<Duration>,
    gave_up: Vec<u64>,
    hung: Vec<u64>,
}

impl Cell {
    fn at(&self, percent: usize) -> u128 {
        let index = (self.took.len() * percent / 100).min(self.took.len().saturating_sub(1));
        self.took.get(index).map_or(0, Duration::as_millis)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut table = String::from(
        "| link | loss | jitter | p50 | p99 | longest | gave up | hung |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut hung = 0;
    for (name, kind) in KINDS {
        for loss_per_mille in LOSSES_PER_MILLE {
            for jitter_ms in JITTERS_MS {
                let conditions = Conditions {
                    delay: DELAY,
                    jitter: Duration::from_millis(jitter_ms),
                    loss_per_mille,
                    ..Conditions::default()
                };
                let cell = dial_all(&args, kind, conditions);
                hung += cell.hung.len();
                report(&args, (name, loss_per_mille, jitter_ms), &cell, &mut table);
            }
        }
    }
    let is_complete = args.seeds >= 1000;
    if let Some(page) = args.page.as_ref().filter(|_| is_complete)
        && let Err(error) = std::fs::write(page, text(&args, &table))
    {
        eprintln!("error: cannot write {PAGE}: {error}");
        return ExitCode::FAILURE;
    }
    if hung == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("error: {hung} dials hung");
        ExitCode::FAILURE
    }
}

fn report(args: &Args, (name, loss, jitter_ms): (&str, u16, u64), cell: &Cell, table: &mut String) {
    let line = format!(
        "| {name} | {} % | {jitter_ms} ms | {} ms | {} ms | {} ms | {} | {} |",
        loss / 10,
        cell.at(50),
        cell.at(99),
        cell.at(100),
        cell.gave_up.len(),
        cell.hung.len()
    );
    if args.json {
        let object = serde_json::json!({
            "link": name, "loss_per_mille": loss, "jitter_ms": jitter_ms, "dials": args.seeds,
            "p50_ms": cell.at(50), "p99_ms": cell.at(99), "max_ms": cell.at(100),
            "gave_up_seeds": cell.gave_up, "hung_seeds": cell.hung,
        });
        println!("{object}");
    } else {
        println!("{line}");
        if !cell.gave_up.is_empty() || !cell.hung.is_empty() {
            println!(
                "    gave up: seeds {:?}; hung: {:?}",
                cell.gave_up, cell.hung
            );
        }
    }
    let _ = writeln!(table, "{line}");
}

/// All dials of one line.
fn dial_all(args: &Args, kind: TransportKind, conditions: Conditions) -> Cell {
    let next = AtomicU64::new(0);
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let threads = args.jobs.map_or_else(processors, usize::from).max(1);
    let dial = || {
        let mut cell = Cell::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= args.seeds {
                return cell;
            }
            let seed = args.seed.wrapping_add(number);
            match set_up(kind, seed, conditions) {
                Ok(took) => cell.took.push(took),
                Err(SetUpFailure::Hangs) => cell.hung.push(seed),
                Err(failure) => {
                    eprintln!("{kind:?}, seed {seed}, {conditions:?}: {failure}");
                    cell.gave_up.push(seed);
                }
            }
        }
    };
    let mut all = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(dial)).collect();
        let mut all = Cell::default();
        for cell in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            all.took.extend(cell.took);
            all.gave_up.extend(cell.gave_up);
            all.hung.extend(cell.hung);
        }
        all
    });
    all.took.sort_unstable();
    all.gave_up.sort_unstable();
    all.hung.sort_unstable();
    all
}

/// The page.
fn text(args: &Args, table: &str) -> String {
    let (seeds, delay, signaling) = (args.seeds, DELAY.as_millis(), SIGNALING_DELAY.as_millis());
    format!(
        "# Setting up links over bad networks\n\n\
         Written by `cargo xtask sim --setup`. Each line is {seeds} dials with real links in virtual time: from the \
         offer until both ends have\nthe link, over {delay} ms each way and up to the jitter more, which also puts \
         packets out of order. Signaling takes {signaling} ms each way and\nloses nothing; of a dial it takes {} ms. \
         Times are of the simulated network alone: the machine that computes them does not matter.\n\n\
         *Gave up* is a dial that ended with an error when its own deadline was over (QUIC 5 s, WebRTC 9 s); a room \
         dials again at once.\n*Hung* is one that had neither a link nor an error after 60 s; there may be none.\n\n\
         {table}",
        2 * signaling
    )
}
