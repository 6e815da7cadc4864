//! Where the workspace is, and how its tools are called.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// Why the workspace could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FindError {
    /// The manifest that this program was built from is gone.
    #[error("run this as `cargo xtask` inside a clone of the repository")]
    NotInWorkspace,
}

/// The workspace that holds this tool.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace of the running `cargo xtask`.
    pub(crate) fn find() -> Result<Self, FindError> {
        // Cargo sets the variable when it runs a binary; the constant serves a binary run by hand.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().ok_or(FindError::NotInWorkspace)?;
        if root.join("Cargo.toml").is_file() {
            Ok(Self { root: root.into() })
        } else {
            Err(FindError::NotInWorkspace)
        }
    }

    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_dir(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(
            || self.root.join("target"),
            |target| self.root.join(target), // an absolute path replaces the root
        )
    }

    /// A command that runs in the root of the workspace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// The cargo that runs this tool, to be run in the root of the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut command = self.command(&cargo);
        // What cargo set for this package must not reach the build scripts of others: they would
        // see it as changed, and be built again.
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&*name);
            }
        }
        command
    }
}

/// Whether `program` starts at all with these arguments and says that all is well.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where a program lies, as some want to know it exactly.
pub(crate) fn located(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The first line that `program` prints, or `None` if it is missing or fails.
pub(crate) fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// A command's words as one would type them.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_stem()
        .unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Why a command that was started did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RunError {
    /// It could not be started.
    #[error("`{program}` did not start: {source}")]
    Start {
        /// What was to run.
        program: String,
        /// Why it did not.
        source: io::Error,
    },
    /// It ended badly.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// What ran.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// Runs a command to its end, its output shown as it comes.
pub(crate) fn run(command: &mut Command) -> Result<(), RunError> {
    let status = command.status().map_err(|source| RunError::Start {
        program: shown(command),
        source,
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(RunError::Failed {
            command: shown(command),
            status,
        })
    }
}
