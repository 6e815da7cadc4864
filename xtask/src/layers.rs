//! `cargo xtask layers`: who may use whom, held against what cargo knows.

use std::{fmt, process::Stdio};

use serde::Deserialize;

use crate::{
    step::{Outcome, Step},
    workspace::Workspace,
};

pub(crate) const STEP: Step = Step::own("layers", check);

/// What a crate of the workspace may depend on, besides `core` and `wire`, which all may use.
/// Crates are named by their package, without `roundtable-`.
#[derive(Debug, Clone, Copy)]
enum Uses {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

use Uses::{AllBut, Only};

/// The table. Dev-dependencies are exempt.
const TABLE: &[(&str, Uses)] = &[
    ("core", Only(&[])),
    ("wire", Only(&[])),
    ("command-log", Only(&[])),
    ("log-store", Only(&["command-log"])),
    ("replication", Only(&[])),
    ("sync", Only(&[])),
    ("netem", Only(&[])),
    ("signaling-protocol", Only(&[])),
    ("media-codec", Only(&[])),
    ("transport", Only(&[])),
    ("telemetry", Only(&[])),
    ("voice", Only(&["media-codec", "sync"])),
    ("pipeline", Only(&["media-codec", "sync"])),
    ("session", Only(&["command-log", "replication"])),
    ("transport-quic", Only(&["transport"])),
    (
        "transport-webrtc",
        Only(&["transport", "signaling-protocol"]),
    ),
    ("signaling-client", Only(&["signaling-protocol"])),
    ("signaling-server", Only(&["signaling-protocol"])),
    (
        "roundtable",
        AllBut(&["cli", "testkit", "signaling-server"]),
    ),
    ("cli", Only(&["roundtable", "signaling-server"])),
    (
        "testkit",
        Only(&[
            "command-log",
            "session",
            "netem",
            "transport",
            "transport-quic",
            "transport-webrtc",
            "signaling-protocol",
        ]),
    ),
    ("benches", AllBut(&[])),
    ("xtask", Only(&[])),
];

const FOR_ALL: [&str; 2] = ["core", "wire"];

/// Crates that are told the time and hold no socket, so that they run anywhere.
const PURE: [&str; 9] = [
    "core",
    "wire",
    "signaling-protocol",
    "command-log",
    "replication",
    "sync",
    "session",
    "pipeline",
    "netem",
];

/// What a pure crate may not depend on.
const IMPURE: [&str; 8] = [
    "tokio",
    "tokio-tungstenite",
    "quinn",
    "quinn-udp",
    "socket2",
    "axum",
    "hyper",
    "cpal",
];

/// What `cargo metadata` says, as far as it is of interest.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// A rule that does not hold.
#[derive(Debug, PartialEq, Eq)]
enum Violation {
    Unknown { krate: String },
    Arrow { from: String, to: String },
    Impure { krate: String, dependency: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { krate } => write!(
                f,
                "{krate} is not in the table: add it to xtask/src/layers.rs and docs/ARCHITECTURE.md"
            ),
            Self::Arrow { from, to } => write!(f, "{from} may not use {to}"),
            Self::Impure { krate, dependency } => {
                write!(f, "{krate} is a pure crate and may not use {dependency}")
            }
        }
    }
}

fn check(workspace: &Workspace) -> Outcome {
    let output = workspace
        .cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output();
    let metadata: Metadata = match output.map(|output| serde_json::from_slice(&output.stdout)) {
        Ok(Ok(metadata)) => metadata,
        Ok(Err(error)) => return Outcome::Failed(format!("cargo metadata: {error}")),
        Err(error) => return Outcome::Failed(format!("cargo metadata: {error}")),
    };
    let violations = violations(&metadata);
    for violation in &violations {
        eprintln!("    {violation}");
    }
    if violations.is_empty() {
        Outcome::Ok
    } else {
        Outcome::Failed(format!("{} found", violations.len()))
    }
}

fn violations(metadata: &Metadata) -> Vec<Violation> {
    metadata.packages.iter().flat_map(of_package).collect()
}

fn of_package(package: &Package) -> Vec<Violation> {
    let from = short(&package.name);
    let Some(uses) = uses_of(from) else {
        let krate = package.name.clone();
        return vec![Violation::Unknown { krate }];
    };
    let shipped = |dependency: &&Dependency| dependency.kind.as_deref() != Some("dev");
    package
        .dependencies
        .iter()
        .filter(shipped)
        .filter_map(|dependency| {
            let to = short(&dependency.name);
            if dependency.path.is_some() {
                (!allowed(uses, to)).then(|| Violation::Arrow {
                    from: from.into(),
                    to: to.into(),
                })
            } else {
                (PURE.contains(&from) && IMPURE.contains(&to)).then(|| Violation::Impure {
                    krate: from.into(),
                    dependency: to.into(),
                })
            }
        })
        .collect()
}

fn short(package: &str) -> &str {
    package.strip_prefix("roundtable-").unwrap_or(package)
}

fn uses_of(krate: &str) -> Option<Uses> {
    let (_, uses) = TABLE.iter().find(|(name, _)| *name == krate)?;
    Some(*uses)
}

fn allowed(uses: Uses, to: &str) -> bool {
    FOR_ALL.contains(&to)
        || match uses {
            Only(names) => names.contains(&to),
            AllBut(names) => uses_of(to).is_some() && !names.contains(&to),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace_with(from: &str, to: &str, kind: Option<&str>, ours: bool) -> Metadata {
        Metadata {
            packages: vec![Package {
                name: from.into(),
                dependencies: vec![Dependency {
                    name: to.into(),
                    kind: kind.map(Into::into),
                    path: ours.then(|| "somewhere".into()),
                }],
            }],
        }
    }

    #[test]
    fn an_arrow_in_the_table_passes() {
        let metadata = workspace_with("roundtable-session", "roundtable-command-log", None, true);
        assert_eq!(violations(&metadata), []);
    }

    #[test]
    fn an_arrow_between_leaves_is_found() {
        let metadata = workspace_with("roundtable-voice", "roundtable-session", None, true);
        assert_eq!(violations(&metadata).len(), 1);
        assert_eq!(
            violations(&metadata)[0].to_string(),
            "voice may not use session"
        );
    }

    #[test]
    fn a_build_dependency_counts_and_a_dev_dependency_does_not() {
        let (from, to) = ("roundtable-voice", "roundtable-session");
        assert_eq!(
            violations(&workspace_with(from, to, Some("build"), true)).len(),
            1
        );
        assert_eq!(violations(&workspace_with(from, to, Some("dev"), true)), []);
    }

    #[test]
    fn the_facade_may_use_all_but_what_stands_above_it() {
        let uses = |to| violations(&workspace_with("roundtable", to, None, true)).is_empty();
        assert!(uses("roundtable-voice"));
        assert!(!uses("roundtable-cli"));
        assert!(!uses("roundtable-testkit"));
        assert!(!uses("roundtable-signaling-server"));
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_is_an_error() {
        let metadata = workspace_with("roundtable-novelty", "serde", None, false);
        let krate = "roundtable-novelty".into();
        assert_eq!(violations(&metadata), [Violation::Unknown { krate }]);
    }

    #[test]
    fn a_pure_crate_may_not_hold_sockets() {
        let metadata = workspace_with("roundtable-session", "tokio", None, false);
        assert_eq!(violations(&metadata).len(), 1);
        let shell = workspace_with("roundtable-transport", "tokio", None, false);
        assert_eq!(violations(&shell), []);
    }

    #[test]
    fn a_namesake_from_a_registry_is_not_ours() {
        let metadata = workspace_with("roundtable-voice", "session", None, false);
        assert_eq!(violations(&metadata), []);
    }
}
