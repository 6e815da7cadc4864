//! `cargo xtask ci`: everything that must hold before a change is merged.

use std::process::ExitCode;

use crate::{
    bench, codegen, demo, docs, fuzz, layers, lint, setup, sim,
    step::{self, Outcome, Step},
    test,
    workspace::{self, Workspace},
};

/// What `ci` may be told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Leave out what takes long: fuzzing, the demo and the bench.
    #[arg(long)]
    quick: bool,
    /// Fail when a step was skipped.
    #[arg(long)]
    strict: bool,
}

const PACKAGES: Step = Step::own("system packages", |_| {
    setup::advice(setup::Purpose::Ci).map_or(Outcome::Ok, Outcome::Failed)
});

const DENY: Step = Step::own("dependencies", |workspace| {
    if !workspace::succeeds("cargo-deny", &["--version"]) {
        return Outcome::Skipped("no cargo-deny: run `cargo install --locked cargo-deny`".into());
    }
    let mut command = workspace.cargo();
    // Offline: advisories need a database from the network, and what they say changes by the day.
    command.args(["deny", "--offline", "check", "bans", "licenses", "sources"]);
    step::run_shown(&mut command).into()
});

/// Runs every step and prints the table.
pub(crate) fn run(workspace: &Workspace, args: Args) -> ExitCode {
    let long: &[Step] = if args.quick {
        &[]
    } else {
        &[fuzz::FUZZ, demo::CHECK, bench::SIGNALING]
    };
    let steps: Vec<Step> = [PACKAGES]
        .into_iter()
        .chain(lint::STEPS)
        .chain([layers::STEP, codegen::CHECK])
        .chain(test::STEPS)
        .chain([sim::STEP, docs::STEP, DENY, fuzz::REPLAY])
        .chain(long.iter().copied())
        .collect();
    step::run_all(workspace, &steps, args.strict)
}
