//! `cargo xtask sim`: worlds of simulated peers, one for each seed; with `--setup`, how long links take to come up.

use std::process::ExitCode;

use crate::{
    step::{self, Outcome, Step},
    workspace::Workspace,
};

/// In `ci`: some worlds, in the profile in which everything else has been built already.
pub(crate) const STEP: Step = Step::cargo(
    "simulator",
    &[
        "run",
        "--package",
        "roundtable-testkit",
        "--example",
        "sim",
        "--",
        "--seeds",
        "1000",
    ],
);

/// What `sim` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How many worlds to play.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed; a failing world prints its own.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What links are made of: `model`, `quic`, `webrtc` or `mixed`, the last three being real links over
    /// simulated networks.
    #[arg(long, default_value = "model")]
    transport: String,
    /// Measure instead how long links take to come up over bad networks, `--seeds` of each, and write
    /// docs/benchmarks/transport-setup.md.
    #[arg(long)]
    setup: bool,
    /// How many worlds to play at a time; as many as there are processors if left out.
    #[arg(long)]
    jobs: Option<u16>,
    /// Print what was seen as one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Plays the worlds in release.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let mut command = workspace.cargo();
    command.args(["run", "--release", "--package", "roundtable-testkit"]);
    if args.setup {
        command.args(["--example", "setup", "--"]);
        let page = workspace.root().join("docs/benchmarks/transport-setup.md");
        command.arg("--page").arg(page);
    } else {
        command.args(["--example", "sim", "--"]);
        command.args(["--transport", &args.transport]);
    }
    command.args(["--seeds", &args.seeds.to_string()]);
    command.args(["--seed", &args.seed.to_string()]);
    if let Some(jobs) = args.jobs {
        command.args(["--jobs", &jobs.to_string()]);
    }
    command.args(args.json.then_some("--json"));
    match Outcome::from(step::run_shown(&mut command)) {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) | Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
