//! `cargo xtask fuzz`: the fuzz targets, and the replay of what they once found interesting.

use std::{
    fs,
    process::{Command, ExitCode},
};

use crate::{
    setup::{self, Purpose},
    step::{self, Outcome, Step},
    workspace::{self, Workspace},
};

const MANIFEST: &str = "fuzz/Cargo.toml";

/// In `ci`: every committed input through its target, without a fuzzer.
pub(crate) const REPLAY: Step = Step::own("fuzz corpora", replay);

/// In `ci`: half a minute of each target.
pub(crate) const FUZZ: Step = Step::own("fuzzing", |workspace| fuzz(workspace, None, 30));

/// What `fuzz` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// One target; all of them if left out.
    #[arg(long)]
    target: Option<String>,
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Only replay the committed corpora; needs no fuzzer.
    #[arg(long)]
    replay: bool,
}

/// Fuzzes or replays.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let outcome = if args.replay {
        replay(workspace)
    } else {
        fuzz(workspace, args.target.as_deref(), args.seconds)
    };
    match outcome {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) => {
            eprintln!("SKIP: {why}");
            ExitCode::SUCCESS
        }
        Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn replay(workspace: &Workspace) -> Outcome {
    let mut command = workspace.cargo();
    command.args(["test", "--manifest-path", MANIFEST]);
    // The same folder as the other tests, so that the libraries below are built once.
    command.arg("--target-dir").arg(workspace.target_dir());
    step::run_shown(&mut command).into()
}

fn fuzz(workspace: &Workspace, only: Option<&str>, seconds: u32) -> Outcome {
    let Some(toolchain) = Toolchain::find() else {
        let how = "`rustup toolchain install nightly`, or any compiler with the sanitizer runtimes";
        return Outcome::Skipped(format!("no toolchain that can instrument code: {how}"));
    };
    if let Some(advice) = setup::advice(Purpose::Fuzz) {
        return Outcome::Skipped(advice);
    }
    let targets = targets(workspace);
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|name| only.is_none_or(|only| only == *name))
        .collect();
    if chosen.is_empty() {
        return Outcome::Failed(format!("no such target; there are: {}", targets.join(", ")));
    }
    let mut failed = Vec::new();
    for target in chosen {
        let mut command = toolchain.cargo(workspace);
        command.args(["fuzz", "run", target, "--target-dir"]);
        command.arg(workspace.target_dir().join("fuzz"));
        command.arg(workspace.target_dir().join("corpus").join(target));
        command.arg(workspace.root().join("fuzz/corpus").join(target));
        command.arg("--");
        command.arg(format!("-max_total_time={seconds}"));
        command.args(["-rss_limit_mb=2048", "-timeout=10", "-verbosity=1"]);
        // New inputs go to the first folder, which libFuzzer wants to exist.
        let _ = fs::create_dir_all(workspace.target_dir().join("corpus").join(target));
        if let Err(error) = step::run_shown(&mut command) {
            eprintln!("    {error}");
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        Outcome::Ok
    } else {
        let names = failed.join(", ");
        Outcome::Failed(format!("{names}: the input is under fuzz/artifacts"))
    }
}

/// The names of the targets, which are the files under `fuzz/fuzz_targets`.
fn targets(workspace: &Workspace) -> Vec<String> {
    let folder = workspace.root().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// A compiler that can be told to instrument code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    /// The nightly, by way of rustup.
    Nightly,
    /// The stable compiler, told that it may use what is unstable.
    Stable,
}

impl Toolchain {
    fn find() -> Option<Self> {
        if workspace::succeeds("rustup", &["run", "nightly", "rustc", "--version"]) {
            return Some(Self::Nightly);
        }
        let sysroot = workspace::first_line("rustc", &["--print", "target-libdir"])?;
        let has_runtime = fs::read_dir(sysroot)
            .ok()?
            .flatten()
            .any(|file| file.file_name().to_string_lossy().contains("rt.asan"));
        has_runtime.then_some(Self::Stable)
    }

    fn cargo(self, workspace: &Workspace) -> Command {
        match self {
            Self::Nightly => {
                let mut command = workspace.command("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Stable => {
                let mut command = workspace.cargo();
                command.env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}
