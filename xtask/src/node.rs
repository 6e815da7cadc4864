//! Scripts that run on Node.js, with what they take from npm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{
    step,
    workspace::{self, Workspace},
};

/// What says which packages, beside the scripts.
const MANIFESTS: [&str; 2] = ["package.json", "package-lock.json"];

/// Copies these files of `source` into the target folder and installs what its lock names there, unless that is done.
/// Where they lie, or what is missing.
pub(crate) fn install(
    workspace: &Workspace,
    source: &Path,
    files: &[&str],
) -> Result<PathBuf, String> {
    let has = |program| workspace::succeeds(program, &["--version"]);
    if !has("node") || !has("npm") {
        return Err("no node and npm: apt-get install nodejs npm".into());
    }
    let name = source.file_name().ok_or("a folder without a name")?;
    let folder = workspace.target_dir().join("node").join(name);
    let done = folder.join("node_modules/.package-lock.json");
    let lock = |folder: &Path| fs::read(folder.join(MANIFESTS[1])).ok();
    let same_lock = lock(&folder) == lock(source);
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    for file in MANIFESTS.iter().chain(files) {
        let copied = fs::copy(source.join(file), folder.join(file));
        copied.map_err(|error| format!("{file}: {error}"))?;
    }
    if !(same_lock && done.is_file()) {
        let mut command = workspace.command("npm");
        // Its chatter must not mix with a report on stdout. What it cannot install does not lie there half.
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        command.current_dir(&folder).stdout(Stdio::null());
        step::run_shown(&mut command).map_err(|error| {
            let _ = fs::remove_dir_all(&folder);
            error.to_string()
        })?;
    }
    Ok(folder)
}
