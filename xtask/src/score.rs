//! `cargo xtask score`: how well voices are heard, on simulated networks and through a sound system.

mod mouth_to_ear;

use std::{path::PathBuf, process::ExitCode};

use crate::{
    setup::{self, Purpose},
    step::{self, Outcome},
    workspace::Workspace,
};

/// What `score` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What is scored.
    #[arg(value_enum)]
    subject: Subject,
    /// Only this scenario of the voice, or `long` for the long runs alone; nothing is written then.
    #[arg(long)]
    scenario: Option<String>,
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Packets that somebody recorded instead of the scenarios: a table with the columns
    /// `arrival_us,seq,rtp_timestamp,payload_len`.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Print JSON objects rather than a table.
    #[arg(long)]
    json: bool,
    /// How many virtual hours the voice's long run lasts; none leaves it out.
    #[arg(long, default_value_t = 24)]
    hours: u64,
    /// Leave `neteq` out: it listens in real time.
    #[arg(long)]
    no_peers: bool,
    /// Leave out PESQ, which takes longer than the rest.
    #[arg(long)]
    no_pesq: bool,
    /// Write no page.
    #[arg(long)]
    no_write: bool,
    /// Fail where something is missing that would be left out: PESQ, PulseAudio.
    #[arg(long)]
    strict: bool,
}

/// What can be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// Delay, concealment and quality of a voice.
    Voice,
    /// How well clocks are told apart, and sound and pictures kept in step.
    Sync,
    /// How long a sound takes from one process' microphone to the other's speakers, through a sound system of its own.
    MouthToEar,
}

/// Runs the scorecard in release.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let missing = setup::advice(Purpose::Score).filter(|_| args.strict);
    let outcome = match args.subject {
        _ if missing.is_some() => Outcome::Failed(missing.unwrap_or_default()),
        Subject::MouthToEar => mouth_to_ear::run(workspace, args.json, !args.no_write),
        Subject::Voice => voice(workspace, args),
        Subject::Sync => {
            let mut command = workspace.cargo();
            command.args([
                "run",
                "--quiet",
                "--release",
                "--package",
                "roundtable-sync",
            ]);
            command.args(["--example", "score"]);
            step::run_shown(&mut command).into()
        }
    };
    match outcome {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) | Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn voice(workspace: &Workspace, args: &Args) -> Outcome {
    let peers = workspace.target_dir().join("peers");
    let mut command = workspace.cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "roundtable-benches",
    ]);
    command.args(["--bin", "score_voice", "--", "--folder"]);
    command.arg(workspace.target_dir().join("score"));
    command.args(["--seeds", &args.seeds.to_string()]);
    command.args(["--hours", &args.hours.to_string()]);
    if let Some(scenario) = &args.scenario {
        command.args(["--scenario", scenario]);
    }
    if let Some(trace) = &args.trace {
        command.arg("--trace").arg(trace);
    }
    command.args(args.json.then_some("--json"));
    command.args(args.no_pesq.then_some("--no-pesq"));
    if !args.no_write && args.scenario.is_none() && args.trace.is_none() {
        command
            .arg("--page")
            .arg(workspace.root().join("docs/benchmarks"));
    }
    if !args.no_peers {
        let mut build = workspace.cargo();
        build.args(["build", "--quiet", "--release", "--package", "peer-neteq"]);
        build.args(["--manifest-path", "benches/peers/Cargo.toml"]);
        build.env("CARGO_TARGET_DIR", &peers);
        if let Err(error) = step::run_shown(&mut build) {
            return Outcome::Failed(error.to_string());
        }
        command.arg("--neteq").arg(peers.join("release/peer-neteq"));
    }
    step::run_shown(&mut command).into()
}
