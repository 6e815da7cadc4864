//! Runs the programs that print raw figures.

use std::process::{Command, Stdio};

use serde::Deserialize;

use super::figures::{Area, Round};
use crate::{
    node,
    workspace::{self, Workspace},
};

/// What prints raw figures.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program {
    /// A program of `benches/src/bin`.
    Ours(&'static str),
    /// A package of the workspace `benches/peers`, which measures another system.
    Peer(&'static str),
    /// A test of a package, which prints figures among other things.
    Test {
        package: &'static str,
        test: &'static str,
    },
    /// A script of a folder of `benches/peers` that runs on Node.js, with what it takes from npm.
    Node {
        folder: &'static str,
        script: &'static str,
        /// What it prints.
        ids: &'static [&'static str],
    },
}

/// Why an area could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum MeasureError {
    /// It did not start.
    #[error("{program}: {error}")]
    Start {
        program: &'static str,
        error: std::io::Error,
    },
    /// What runs it is missing.
    #[error("{program}: {why}")]
    Missing { program: &'static str, why: String },
    /// It ended with an error, which it has printed.
    #[error("{0} failed")]
    Failed(&'static str),
    /// It printed something else.
    #[error("{program} printed no figure but: {line}")]
    Line { program: &'static str, line: String },
}

#[derive(Deserialize)]
struct Raw {
    id: String,
    value: f64,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours(name)
            | Self::Peer(name)
            | Self::Test { test: name, .. }
            | Self::Node { folder: name, .. } => name,
        }
    }

    /// What runs it, or what is missing.
    fn command(self, workspace: &Workspace) -> Result<Command, String> {
        let mut command = workspace.cargo();
        match self {
            Self::Ours(_) | Self::Peer(_) => command.args(["run", "--quiet", "--release"]),
            Self::Test { .. } => command.args(["test", "--quiet", "--release"]),
            Self::Node { .. } => &mut command,
        };
        match self {
            Self::Ours(name) => command.args(["--package", "roundtable-benches", "--bin", name]),
            Self::Peer(name) => command
                .args([
                    "--manifest-path",
                    "benches/peers/Cargo.toml",
                    "--package",
                    name,
                ])
                .env("CARGO_TARGET_DIR", workspace.target_dir().join("peers")),
            Self::Test { package, test } => command
                .args(["--package", package, "--test", test])
                .args(["--", "--nocapture", "--test-threads", "1"]),
            Self::Node { folder, script, .. } => {
                let source = workspace.root().join("benches/peers").join(folder);
                let installed = node::install(workspace, &source, &[script])?;
                command = workspace.command("node");
                command.current_dir(installed).arg(script)
            }
        };
        Ok(command)
    }

    /// Runs it and takes in what it prints; its stderr is shown.
    fn run(
        self,
        workspace: &Workspace,
        quick: bool,
        round: &mut Round,
    ) -> Result<(), MeasureError> {
        let program = self.name();
        let is_test = matches!(self, Self::Test { .. });
        let mut command = match (self.command(workspace), self) {
            (Ok(command), _) => command,
            (Err(why), Self::Node { ids, .. }) => {
                eprintln!("    SKIP: {program}: {why}");
                let missing = ids.iter().map(|id| ((*id).to_owned(), Err(why.clone())));
                round.extend(missing);
                return Ok(());
            }
            (Err(why), _) => return Err(MeasureError::Missing { program, why }),
        };
        if quick {
            match self {
                Self::Ours(_) | Self::Peer(_) => command.args(["--", "--quick"]),
                Self::Node { .. } => command.arg("--quick"),
                Self::Test { .. } => &mut command,
            };
        }
        eprintln!("    $ {}", workspace::shown(&command));
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| MeasureError::Start { program, error })?;
        if !output.status.success() {
            return Err(MeasureError::Failed(program));
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(raw) = serde_json::from_str::<Raw>(if is_test { figure(line) } else { line })
            else {
                if is_test {
                    continue;
                }
                let line = line.into();
                return Err(MeasureError::Line { program, line });
            };
            round.insert(raw.id, Ok(raw.value));
        }
        Ok(())
    }
}

/// A line without the dots with which the test harness, when it is quiet, tells its progress.
fn figure(line: &str) -> &str {
    line.trim_start_matches(['.', ' '])
}

/// Runs all programs of an area `runs` times; `quick` asks them for what is soon measured.
pub(super) fn rounds(
    workspace: &Workspace,
    area: &Area,
    runs: u8,
    quick: bool,
) -> Result<Vec<Round>, MeasureError> {
    let mut rounds = Vec::with_capacity(runs.into());
    for number in 1..=runs {
        eprintln!("==> {} [{number}/{runs}]", area.name);
        let mut round = Round::new();
        for program in area.programs {
            program.run(workspace, quick, &mut round)?;
        }
        rounds.push(round);
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_behind_the_dots_of_a_quiet_test_harness() {
        let line = r#"..{"id":"presence_gone_ms","value":5958}"#;
        let raw: Raw = serde_json::from_str(figure(line)).unwrap();
        assert_eq!(raw.id, "presence_gone_ms");
    }
}
