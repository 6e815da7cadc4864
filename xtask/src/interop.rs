//! `cargo xtask interop`: our WebRTC links with other implementations, each in both roles of the negotiation.
//!
//! Our end is `benches/src/bin/interop`, which starts the foreign peer and tells it what to do; the foreign peers are in
//! `xtask/interop`, and for the `webrtc` shell in `benches/peers/interop-shell`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    process::{Command, ExitCode, Stdio},
};

use serde::Deserialize;
use serde_json::json;

use crate::{
    node, page,
    setup::{self, Purpose},
    step,
    workspace::{self, Workspace},
};

/// What `interop` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Only with this peer (chromium, wrtc, aiortc, shell); the page is not written then.
    #[arg(long)]
    peer: Option<String>,
    /// Print one JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Fail where a peer is missing, too.
    #[arg(long)]
    strict: bool,
    /// Print the table without writing it to `docs/protocols/interop.md`.
    #[arg(long)]
    no_write: bool,
}

/// Another implementation.
#[derive(Debug)]
struct Peer {
    /// As `--peer` knows it.
    name: &'static str,
    /// The words that start it, or what is missing.
    prepare: fn(&Workspace) -> Result<Vec<String>, String>,
    /// What it cannot do, whoever it talks to.
    lacks: &'static [&'static str],
}

const PEERS: [Peer; 4] = [
    Peer {
        name: "chromium",
        prepare: chromium,
        lacks: &[],
    },
    Peer {
        name: "wrtc",
        prepare: wrtc,
        lacks: &[],
    },
    Peer {
        name: "aiortc",
        prepare: aiortc,
        lacks: &["ICE restart"],
    },
    Peer {
        name: "shell",
        prepare: shell,
        lacks: &[],
    },
];

/// Who makes the first offer, as our end knows it.
const ROLES: [&str; 2] = ["offer", "answer"];
/// What is tried, in this order.
const CASES: [&str; 9] = [
    "open",
    "text",
    "binary",
    "60 KB",
    "5 MB",
    "Opus out",
    "Opus in",
    "ICE restart",
    "close",
];
/// What runs on Node.js, beside its manifests.
const SCRIPTS: [&str; 4] = ["peer.mjs", "stdio.mjs", "chromium.mjs", "wrtc.mjs"];
const MARK: &str = "results";

fn script(workspace: &Workspace, name: &str) -> Result<Vec<String>, String> {
    let source = workspace.root().join("xtask/interop");
    let folder = node::install(workspace, &source, &SCRIPTS)?;
    Ok(words(["node", &folder.join(name).to_string_lossy()]))
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn chromium(workspace: &Workspace) -> Result<Vec<String>, String> {
    if let Some(advice) = setup::advice(Purpose::Browser) {
        return Err(advice);
    }
    let chromium = setup::chromium().and_then(workspace::located);
    let chromium = chromium.ok_or("no Chromium: run `cargo xtask setup --for interop`")?;
    let mut words = script(workspace, "chromium.mjs")?;
    words.push(chromium.to_string_lossy().into_owned());
    Ok(words)
}

fn wrtc(workspace: &Workspace) -> Result<Vec<String>, String> {
    script(workspace, "wrtc.mjs")
}

fn aiortc(workspace: &Workspace) -> Result<Vec<String>, String> {
    if !setup::has_aiortc() {
        return Err("no aiortc: run `cargo xtask setup --for interop`".into());
    }
    let script = workspace.root().join("xtask/interop/aiortc_peer.py");
    Ok(words(["python3", &script.to_string_lossy()]))
}

fn shell(workspace: &Workspace) -> Result<Vec<String>, String> {
    let target = workspace.target_dir().join("peers");
    let mut command = workspace.cargo();
    command
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "interop-shell",
        ])
        .args(["--manifest-path", "benches/peers/Cargo.toml"])
        .env("CARGO_TARGET_DIR", &target);
    step::run_shown(&mut command).map_err(|error| error.to_string())?;
    Ok(words([&target
        .join("release/interop-shell")
        .to_string_lossy()]))
}

/// A line of our end.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Version {
        version: String,
    },
    Case {
        case: String,
        ok: bool,
        detail: String,
    },
}

/// What came of one peer in one role.
#[derive(Debug, Default)]
struct Row {
    peer: &'static str,
    role: &'static str,
    version: String,
    cases: BTreeMap<String, (bool, String)>,
    lacks: &'static [&'static str],
    skipped: Option<String>,
}

impl Row {
    fn take(&mut self, line: Line) {
        match line {
            Line::Version { version } => self.version = version,
            Line::Case { case, ok, detail } => {
                self.cases.insert(case, (ok, detail));
            }
        }
    }

    /// A cell of the table.
    fn cell(&self, case: &str) -> &'static str {
        match self.cases.get(case) {
            _ if self.lacks.contains(&case) => "–",
            Some((true, _)) => "yes",
            Some((false, _)) => "NO",
            None => "",
        }
    }

    /// Whether everything was tried that it can do, and nothing failed.
    fn is_whole(&self) -> bool {
        let tried = |case: &&str| self.lacks.contains(case) || self.cases.contains_key(*case);
        self.skipped.is_some()
            || (CASES.iter().all(tried) && self.cases.values().all(|(ok, _)| *ok))
    }

    fn json(&self) -> serde_json::Value {
        let cases: serde_json::Map<_, _> = self
            .cases
            .iter()
            .map(|(case, (ok, detail))| (case.clone(), json!({ "ok": ok, "detail": detail })))
            .collect();
        json!({
            "peer": self.peer, "we": self.role, "version": self.version,
            "cases": cases, "lacks": self.lacks, "skipped": self.skipped, "ok": self.is_whole(),
        })
    }
}

/// The rows as Markdown.
fn table(rows: &[Row]) -> String {
    let mut table = format!("| peer | we | {} |\n", CASES.join(" | "));
    let _ = writeln!(table, "|---|---|{}", "---|".repeat(CASES.len()));
    for row in rows {
        let (name, role) = (&row.version, row.role);
        if let Some(why) = &row.skipped {
            let _ = writeln!(table, "| {} | {role} | not tried: {why} |", row.peer);
            continue;
        }
        let cells = CASES.map(|case| row.cell(case)).join(" | ");
        let name = if name.is_empty() { row.peer } else { name };
        let _ = writeln!(table, "| {name} | {role} | {cells} |");
    }
    table
}

/// Runs our end with one foreign peer.
fn meet(workspace: &Workspace, peer: &Peer, role: &str, words: &[String], row: &mut Row) {
    let mut command: Command = workspace.cargo();
    command
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "roundtable-benches",
        ])
        .args(["--bin", "interop", "--"]);
    for case in peer.lacks {
        command.args(["--without", case]);
    }
    command.arg(role).args(words);
    eprintln!("    $ {}", workspace::shown(&command));
    let failed = |why: String| ("start".to_owned(), (false, why));
    match command.stderr(Stdio::inherit()).output() {
        Err(error) => row.cases.extend([failed(error.to_string())]),
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                match serde_json::from_str(line) {
                    Ok(line) => row.take(line),
                    Err(_) => row.cases.extend([failed(format!("printed {line}"))]),
                }
            }
            if !output.status.success() {
                row.cases.extend([failed(output.status.to_string())]);
            }
        }
    }
}

/// Tries every peer in both roles.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let wanted = |peer: &&Peer| args.peer.as_deref().is_none_or(|name| name == peer.name);
    let peers: Vec<&Peer> = PEERS.iter().filter(wanted).collect();
    if peers.is_empty() {
        let names: Vec<_> = PEERS.iter().map(|peer| peer.name).collect();
        eprintln!("error: no such peer; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let mut rows = Vec::new();
    for peer in peers {
        eprintln!("==> {}", peer.name);
        let prepared = (peer.prepare)(workspace);
        for role in ROLES {
            let mut row = Row {
                peer: peer.name,
                role,
                lacks: peer.lacks,
                ..Row::default()
            };
            match &prepared {
                Ok(words) => meet(workspace, peer, role, words, &mut row),
                Err(why) => row.skipped = Some(why.clone()),
            }
            report(&row);
            rows.push(row);
        }
    }
    if args.json {
        for row in &rows {
            println!("{}", row.json());
        }
    } else {
        println!("{}", table(&rows));
    }
    if !args.no_write && args.peer.is_none() {
        let path = workspace.root().join("docs/protocols/interop.md");
        let written = fs::read_to_string(&path)
            .and_then(|text| page::write(&path, &text, MARK, &table(&rows)));
        if let Err(error) = written {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    let missing = args.strict && rows.iter().any(|row| row.skipped.is_some());
    if missing || !rows.iter().all(Row::is_whole) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// On stderr, what a table has no room for.
fn report(row: &Row) {
    if let Some(why) = &row.skipped {
        eprintln!("    SKIP: {why}");
    }
    for (case, (ok, detail)) in &row.cases {
        let verdict = if *ok { "ok" } else { "FAILED" };
        eprintln!("    we {}: {case}: {verdict}: {detail}", row.role);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(failing: Option<&str>) -> Row {
        let mut row = Row {
            peer: "aiortc",
            role: "offer",
            version: "aiortc 1".into(),
            lacks: &["ICE restart"],
            ..Row::default()
        };
        for case in CASES.into_iter().filter(|case| *case != "ICE restart") {
            let ok = failing != Some(case);
            let line = json!({ "case": case, "ok": ok, "detail": "" }).to_string();
            row.take(serde_json::from_str(&line).unwrap());
        }
        row
    }

    #[test]
    fn what_a_peer_lacks_is_no_failure() {
        let row = row(None);
        assert!(row.is_whole());
        assert!(table(&[row]).contains("| yes | – | yes |"));
    }

    #[test]
    fn a_case_that_fails_or_was_never_reached_is_one() {
        assert!(!row(Some("5 MB")).is_whole());
        let mut short = row(None);
        short.cases.remove("close");
        assert!(!short.is_whole());
    }

    #[test]
    fn a_missing_peer_says_why() {
        let row = Row {
            peer: "wrtc",
            skipped: Some("no node".into()),
            ..Row::default()
        };
        assert!(row.is_whole());
        assert!(table(&[row]).contains("not tried: no node"));
    }
}
