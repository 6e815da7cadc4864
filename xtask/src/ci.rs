//! `cargo xtask ci`: everything that must hold before a change is merged.

use std::process::ExitCode;

use crate::{
    docs, layers, lint,
    step::{self, Step},
    test,
    workspace::Workspace,
};

/// What `ci` may be told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Fail when a step was skipped.
    #[arg(long)]
    strict: bool,
}

/// Runs every step and prints the table.
pub(crate) fn run(workspace: &Workspace, args: Args) -> ExitCode {
    let steps: Vec<Step> = lint::STEPS
        .into_iter()
        .chain([layers::STEP])
        .chain(test::STEPS)
        .chain([docs::STEP])
        .collect();
    step::run_all(workspace, &steps, args.strict)
}
