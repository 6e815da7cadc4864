//! `cargo xtask bench`: the criterion benches.

use std::process::ExitCode;

use crate::{
    step::{self, Outcome},
    workspace::Workspace,
};

/// What `bench` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// One bench by its file name under `benches/benches`, without `.rs`; all of them if left out.
    name: Option<String>,
    /// What follows `--` goes to criterion, such as `--quick` or a filter.
    #[arg(last = true)]
    criterion: Vec<String>,
}

/// Runs the benches in release.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let mut command = workspace.cargo();
    command.args(["bench", "--package", "roundtable-benches"]);
    match &args.name {
        Some(name) => command.args(["--bench", name]),
        None => command.arg("--benches"),
    };
    command.arg("--").args(&args.criterion);
    match Outcome::from(step::run_shown(&mut command)) {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) | Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
