//! `cargo xtask bench`: an area's figures beside their targets and the peers', or the criterion benches.
//!
//! An area is a table: which programs print its raw figures, what is made of them, and what is aimed at. Ours live in
//! `benches/src/bin` or are tests, those that measure other systems in `benches/peers`, a workspace of its own; each prints one JSON object a
//! line, `{"id","value","unit"}`. All programs of an area run one after the other, several times, and a ratio is taken within
//! each round, so that it compares what ran on the same machine in the same minutes.

mod cluster;
mod figures;
mod log;
mod media;
mod programs;
mod signaling;
mod transport;

use std::process::ExitCode;

use crate::{
    step::{self, Outcome, Step},
    workspace::{self, Workspace},
};

use figures::Area;

/// Every area; one file each.
const AREAS: [&Area; 5] = [
    &cluster::AREA,
    &log::AREA,
    &media::AREA,
    &signaling::AREA,
    &transport::AREA,
];

/// What `bench` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// An area (cluster, log, media, signaling, transport), whose figures are printed as JSON lines beside their targets, or a criterion bench by its
    /// file name under `benches/benches`, without `.rs`; all criterion benches if left out.
    name: Option<String>,
    /// How often an area's programs run; the figures are medians. Three times if left out, and once with --quick.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    runs: Option<u8>,
    /// Print an area's figures without writing them to its page under `docs/benchmarks`.
    #[arg(long)]
    no_write: bool,
    /// Fail where a figure misses its target, as a gate; not for those that only a quiet machine meets.
    #[arg(long)]
    gate: bool,
    /// With --gate: the factor by which a figure may miss.
    #[arg(long, default_value_t = 1.0, requires = "gate")]
    slack: f64,
    /// Take only what takes a few seconds, where an area's programs know what that is; the page is not written.
    #[arg(long)]
    quick: bool,
    /// What follows `--` goes to criterion, such as `--quick` or a filter.
    #[arg(last = true)]
    criterion: Vec<String>,
}

/// In `ci`: what a connection and a message cost the signaling server, counted so that a busy machine counts the same.
pub(crate) const SIGNALING: Step = Step::own("signaling's costs", |workspace| {
    if !workspace::succeeds("valgrind", &["--version"]) {
        return Outcome::Skipped("no valgrind: apt-get install valgrind".into());
    }
    let args = Args {
        name: None,
        runs: None,
        no_write: true,
        gate: true,
        slack: 1.0,
        quick: true,
        criterion: Vec::new(),
    };
    measure(workspace, &signaling::AREA, &args)
});

/// Runs an area's programs, or the criterion benches, in release.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let area = AREAS
        .into_iter()
        .find(|area| args.name.as_deref() == Some(area.name));
    let outcome = match area {
        Some(area) => measure(workspace, area, args),
        None => criterion(workspace, args),
    };
    match outcome {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) | Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(workspace: &Workspace, area: &Area, args: &Args) -> Outcome {
    let runs = args.runs.unwrap_or(if args.quick { 1 } else { 3 });
    let rounds = match programs::rounds(workspace, area, runs, args.quick) {
        Ok(rounds) => rounds,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let results = area.results(&rounds);
    for result in &results {
        println!("{}", result.json());
    }
    if !(args.no_write || args.quick)
        && let Err(error) = area.write(workspace, &results)
    {
        return Outcome::Failed(error.to_string());
    }
    if args.gate && results.iter().any(|result| result.missed(args.slack)) {
        return Outcome::Failed("a figure misses its target".into());
    }
    Outcome::Ok
}

fn criterion(workspace: &Workspace, args: &Args) -> Outcome {
    let mut command = workspace.cargo();
    command.args(["bench", "--package", "roundtable-benches"]);
    match &args.name {
        Some(name) => command.args(["--bench", name]),
        None => command.arg("--benches"),
    };
    command.arg("--").args(&args.criterion);
    step::run_shown(&mut command).into()
}
