//! `cargo xtask sanitize`: the native codecs under Valgrind.
//!
//! The only code here that the compiler does not vouch for is that of the codecs' C libraries and our calls to them. A
//! sanitizer would see memory only where the libraries themselves were built with it; Valgrind sees all of it, also where one
//! is the system's: reads of what was never written, accesses outside of a block, blocks that nobody frees.

use std::process::ExitCode;

use crate::{
    setup::{self, Purpose},
    step::{self, Outcome, Step},
    workspace::Workspace,
};

/// How the tests are run: the first error fails them, and so does memory that nothing points to any more.
const RUNNER: &str = "valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite \
     --show-leak-kinds=definite --num-callers=24";

const STEP: Step = Step::own("native codecs", codecs);

/// Runs the codecs' tests under Valgrind. Takes some minutes.
pub(crate) fn run(workspace: &Workspace, strict: bool) -> ExitCode {
    step::run_all(workspace, &[STEP], strict)
}

fn codecs(workspace: &Workspace) -> Outcome {
    if let Some(advice) = setup::advice(Purpose::Sanitize) {
        return Outcome::Skipped(advice);
    }
    let Some(runner) = runner_variable() else {
        return Outcome::Skipped("rustc does not say for what it builds".into());
    };
    let mut command = workspace.cargo();
    // Optimised, as Valgrind itself is slow enough; line numbers are there all the same.
    command.args(["test", "--release", "--package", "roundtable-media-codec"]);
    command.args(["--all-features", "--lib", "--tests", "--"]);
    // One after the other: Valgrind runs one thread at a time anyway.
    command.args(["--test-threads", "1"]);
    command.env(runner, RUNNER);
    step::run_shown(&mut command).into()
}

/// The variable by which cargo is told how to run what it has built for this machine.
fn runner_variable() -> Option<String> {
    let output = std::process::Command::new("rustc")
        .arg("-vV")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "))?;
    let triple = host.to_uppercase().replace(['-', '.'], "_");
    Some(format!("CARGO_TARGET_{triple}_RUNNER"))
}
