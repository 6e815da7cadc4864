//! `cargo xtask codegen`: Rust from the FlatBuffers schemas.
//!
//! The generated code is committed, so that nobody needs `flatc` to build; `--check` shows that it
//! still is what the schemas say.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::{
    step::{self, Outcome, Step},
    workspace::{self, RunError, Workspace},
};

/// In `ci`: is the committed code what the schemas say?
pub(crate) const CHECK: Step = Step::own("generated code", |workspace| outcome(workspace, true));

/// The `flatc` whose output is committed: the release, for builds of later sources say the same and write other white space. It
/// must match the `flatbuffers` crate.
const VERSION: &str = "flatc version 25.12.19";
const SCHEMAS: &str = "crates/wire/schemas";
const GENERATED: &str = "crates/wire/src/generated";

/// What `codegen` may be told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the committed code is not what the schemas say.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum CodegenError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Writes or checks the generated code.
pub(crate) fn run(workspace: &Workspace, args: Args) -> ExitCode {
    match outcome(workspace, args.check) {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) => {
            eprintln!("SKIP: {why}");
            // Who asked for new code and got none must notice.
            if args.check {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn outcome(workspace: &Workspace, check: bool) -> Outcome {
    let found = workspace::first_line("flatc", &["--version"]);
    if found.as_deref() != Some(VERSION) {
        let found = found.unwrap_or_else(|| "no flatc".into());
        return Outcome::Skipped(format!("needs {VERSION}, found {found}"));
    }
    let committed = workspace.root().join(GENERATED);
    let into = if check {
        workspace.target_dir().join("xtask-codegen")
    } else {
        committed.clone()
    };
    match generate(workspace, &into) {
        Err(error) => Outcome::Failed(error.to_string()),
        Ok(files) if check => compare(&files, &committed),
        Ok(_) => Outcome::Ok,
    }
}

/// Generates every schema's code into a folder and returns the files.
fn generate(workspace: &Workspace, into: &Path) -> Result<Vec<PathBuf>, CodegenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| CodegenError::File { path, source }
    };
    fs::create_dir_all(into).map_err(at(into))?;
    let schemas = workspace.root().join(SCHEMAS);
    let mut files = Vec::new();
    for entry in fs::read_dir(&schemas).map_err(at(&schemas))? {
        let schema = entry.map_err(at(&schemas))?.path();
        let (Some("fbs"), Some(stem)) = (
            schema.extension().and_then(|extension| extension.to_str()),
            schema.file_stem().and_then(|stem| stem.to_str()),
        ) else {
            continue;
        };
        let mut command = Command::new("flatc");
        command.arg("--rust").arg("-o").arg(into).arg(&schema);
        step::run_shown(&mut command)?;
        files.push(into.join(format!("{stem}_generated.rs")));
    }
    // The committed code is formatted like everything else.
    let mut format = workspace.command("rustfmt");
    format
        .args(["--edition", "2024", "--config-path"])
        .arg(workspace.root())
        .args(&files);
    step::run_shown(&mut format)?;
    Ok(files)
}

fn compare(fresh: &[PathBuf], committed: &Path) -> Outcome {
    let differing: Vec<String> = fresh
        .iter()
        .filter_map(|file| {
            let name = file.file_name()?;
            let same = fs::read(file).ok()? == fs::read(committed.join(name)).unwrap_or_default();
            (!same).then(|| name.to_string_lossy().into_owned())
        })
        .collect();
    if differing.is_empty() {
        Outcome::Ok
    } else {
        let names = differing.join(", ");
        Outcome::Failed(format!("out of date: {names}; run `cargo xtask codegen`"))
    }
}
