//! Servers that run on node, installed from the registry into the target folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What is copied beside the installed packages.
const FILES: [&str; 4] = [
    "package.json",
    "package-lock.json",
    "peerjs.cjs",
    "relay.cjs",
];

/// The folder with the servers; `None`, after saying so, where they cannot be had.
pub(crate) fn install() -> io::Result<Option<PathBuf>> {
    if !succeeds(Command::new("npm").arg("--version"))
        || !succeeds(Command::new("node").arg("--version"))
    {
        eprintln!(
            "SKIP: PeerJS and ws are not measured: no node and npm (apt-get install nodejs npm)"
        );
        return Ok(None);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/signaling");
    let folder = std::env::current_exe()?.with_file_name("signaling-peers");
    fs::create_dir_all(&folder)?;
    let lock = |folder: &Path| fs::read(folder.join("package-lock.json")).ok();
    let is_installed = lock(&folder) == lock(&source) && folder.join("node_modules").exists();
    for file in FILES {
        fs::copy(source.join(file), folder.join(file))?;
    }
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    if !is_installed && !succeeds(Command::new("npm").args(install).current_dir(&folder)) {
        // What is half there would pass for whole next time.
        fs::remove_dir_all(&folder)?;
        eprintln!(
            "SKIP: PeerJS and ws are not measured: `npm ci` failed in {}",
            source.display()
        );
        return Ok(None);
    }
    Ok(Some(folder))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
