//! Steps: what a command does, as data, with a table at the end.

use std::{
    io::Write as _,
    process::{Command, ExitCode},
    time::Duration,
};

use crate::{
    clock,
    workspace::{self, RunError, Workspace},
};

/// One thing to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) action: Action,
}

/// What a step does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// Runs cargo with these arguments and variables.
    Cargo {
        /// The arguments.
        args: &'static [&'static str],
        /// The environment variables that are added.
        env: &'static [(&'static str, &'static str)],
    },
    /// Something of our own.
    Own(fn(&Workspace) -> Outcome),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Ok,
    /// It could not run here, and this is why and what would help.
    Skipped(String),
    /// It ran and found something wrong.
    Failed(String),
}

impl From<Result<(), RunError>> for Outcome {
    fn from(result: Result<(), RunError>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

impl Step {
    /// A step that runs cargo.
    pub(crate) const fn cargo(name: &'static str, args: &'static [&'static str]) -> Self {
        let action = Action::Cargo { args, env: &[] };
        Self { name, action }
    }

    /// A step of our own.
    pub(crate) const fn own(name: &'static str, action: fn(&Workspace) -> Outcome) -> Self {
        let action = Action::Own(action);
        Self { name, action }
    }

    fn run(&self, workspace: &Workspace, strict: bool) -> Outcome {
        match self.action {
            Action::Own(action) => action(workspace),
            Action::Cargo { args, env } => {
                let mut command = workspace.cargo();
                command.args(args).envs(env.iter().copied());
                if strict {
                    // A test that lacks a tool fails, then, where it would be left out.
                    command.env("ROUNDTABLE_STRICT", "1");
                }
                run_shown(&mut command).into()
            }
        }
    }
}

/// Says what runs, then runs it.
pub(crate) fn run_shown(command: &mut Command) -> Result<(), RunError> {
    eprintln!("    $ {}", workspace::shown(command));
    workspace::run(command)
}

/// What became of one step.
#[derive(Debug)]
struct Row {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs every step, also after one has failed, and prints a table of them when there are several.
///
/// Fails if a step failed or, with `strict`, was skipped.
pub(crate) fn run_all(workspace: &Workspace, steps: &[Step], strict: bool) -> ExitCode {
    let mut rows = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        eprintln!("==> [{}/{}] {}", index + 1, steps.len(), step.name);
        let start = clock::now();
        let outcome = step.run(workspace, strict);
        let took = clock::now().duration_since(start);
        match &outcome {
            Outcome::Ok => {}
            Outcome::Skipped(why) => eprintln!("    SKIP: {why}"),
            Outcome::Failed(why) => eprintln!("    FAILED: {why}"),
        }
        rows.push(Row {
            name: step.name,
            outcome,
            took,
        });
    }
    if rows.len() > 1 {
        eprint!("\n{}", table(&rows));
    }
    let _ = std::io::stderr().flush();
    if passed(&rows, strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn passed(rows: &[Row], strict: bool) -> bool {
    rows.iter().all(|row| match row.outcome {
        Outcome::Ok => true,
        Outcome::Skipped(_) => !strict,
        Outcome::Failed(_) => false,
    })
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|row| {
            let (word, why) = match &row.outcome {
                Outcome::Ok => ("ok", ""),
                Outcome::Skipped(why) => ("SKIP", why.as_str()),
                Outcome::Failed(why) => ("FAILED", why.as_str()),
            };
            let seconds = row.took.as_secs_f32();
            let line = format!("{:width$}  {word:6} {seconds:7.1} s  {why}", row.name);
            format!("{}\n", line.trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Outcome) -> Row {
        Row {
            name: "step",
            outcome,
            took: Duration::from_millis(1500),
        }
    }

    #[test]
    fn a_skipped_step_fails_only_a_strict_run() {
        let rows = [row(Outcome::Ok), row(Outcome::Skipped("no tool".into()))];
        assert!(passed(&rows, false));
        assert!(!passed(&rows, true));
    }

    #[test]
    fn one_failed_step_fails_the_run() {
        let rows = [row(Outcome::Failed("broken".into())), row(Outcome::Ok)];
        assert!(!passed(&rows, false));
    }

    #[test]
    fn the_table_says_what_was_skipped_and_why() {
        let shown = table(&[row(Outcome::Ok), row(Outcome::Skipped("no tool".into()))]);
        assert_eq!(
            shown,
            "step  ok         1.5 s\nstep  SKIP       1.5 s  no tool\n"
        );
    }
}
