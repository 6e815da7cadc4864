//! `cargo xtask score mouth-to-ear`: how long a sound takes through two processes and the sound system, measured from outside.

use std::{fs, io, path::Path, process::Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    setup::{self, Purpose},
    step::{self, Outcome},
    workspace::Workspace,
};

const PAGE: &str = "docs/benchmarks/media.md";
const BEGIN: &str = "<!-- mouth to ear -->";
const END: &str = "<!-- end of mouth to ear -->";
/// How many chirps are said in each case: half a second each.
const CHIRPS: &str = "60";

/// What the test keeps of each case.
#[derive(Debug, Deserialize)]
struct Case {
    transport: String,
    preset: String,
    chirps: usize,
    total_p50_ms: f64,
    total_p95_ms: f64,
    devices_ms: f64,
    beyond_p50_ms: f64,
    beyond_p95_ms: f64,
}

impl Case {
    /// What is aimed at for the 95th percentile, beyond the devices.
    fn target_ms(&self) -> f64 {
        if self.preset == "low-latency" {
            40.0
        } else {
            50.0
        }
    }

    fn met(&self) -> bool {
        self.beyond_p95_ms <= self.target_ms()
    }

    /// Chirps are no speech: the microphone is open, and nothing waits until somebody is known to speak.
    fn row(&self) -> String {
        format!(
            "| {}, {}, open mic | {:.0} / {:.0} ms | {:.0} ms | {:.0} / {:.0} ms | <= {:.0} ms | {} |\n",
            self.transport,
            self.preset,
            self.total_p50_ms,
            self.total_p95_ms,
            self.devices_ms,
            self.beyond_p50_ms,
            self.beyond_p95_ms,
            self.target_ms(),
            if self.met() { "yes" } else { "no" },
        )
    }
}

/// Runs the test that measures, in release, and shows what it kept.
pub(super) fn run(workspace: &Workspace, as_json: bool, write: bool) -> Outcome {
    let folder = workspace.target_dir().join("score");
    let kept = folder.join("mouth-to-ear.jsonl");
    // What an earlier run has left.
    let _ = fs::remove_file(&kept);
    if let Err(error) = fs::create_dir_all(&folder) {
        return Outcome::Failed(error.to_string());
    }
    let mut command = workspace.cargo();
    command.args(["test", "--release", "--package", "roundtable-cli"]);
    command.args(["--test", "mouth_to_ear", "--", "--nocapture"]);
    command.env("ROUNDTABLE_CHIRPS", CHIRPS);
    command.env("ROUNDTABLE_FIGURES", &kept);
    if as_json {
        command.stdout(Stdio::null());
    }
    if let Err(error) = step::run_shown(&mut command) {
        return Outcome::Failed(error.to_string());
    }
    match show(
        &kept,
        as_json,
        write.then(|| workspace.root().join(PAGE)).as_deref(),
    ) {
        Ok(()) => Outcome::Ok,
        Err(error) => {
            let advice = setup::advice(Purpose::Score);
            Outcome::Failed(advice.unwrap_or_else(|| format!("no figures: {error}")))
        }
    }
}

fn show(kept: &Path, as_json: bool, page: Option<&Path>) -> io::Result<()> {
    let text = fs::read_to_string(kept)?;
    let objects = text.lines().map(serde_json::from_str::<Value>);
    let mut table = String::from(
        "`cargo xtask score mouth-to-ear`:\n\n| | from mouth to ear, p50 / p95 | devices alone | beyond the devices, p50 / p95 | \
         aim for p95 | met |\n|---|---|---|---|---|---|\n",
    );
    for object in objects {
        let mut object = object?;
        let case = Case::deserialize(&object)?;
        if case.chirps == 0 {
            return Err(io::Error::other("no chirp was heard"));
        }
        object["target_ms"] = json!(case.target_ms());
        object["met"] = json!(case.met());
        if as_json {
            println!("{object}");
        }
        table += &case.row();
    }
    if !as_json {
        println!("{table}");
    }
    let Some(page) = page else { return Ok(()) };
    let written = fs::read_to_string(page)?;
    let lacks = || io::Error::other(format!("{} lacks `{BEGIN}` and `{END}`", page.display()));
    fs::write(page, between_marks(&written, &table).ok_or_else(lacks)?)
}

/// The page with another text between its marks.
fn between_marks(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_judged_by_what_lies_beyond_the_devices() {
        let case = |preset: &str, beyond_p95_ms| Case {
            transport: "quic".into(),
            preset: preset.into(),
            chirps: 60,
            total_p50_ms: 90.0,
            total_p95_ms: 95.4,
            devices_ms: 50.0,
            beyond_p50_ms: 40.0,
            beyond_p95_ms,
        };
        assert!(case("talk", 45.4).met() && !case("low-latency", 45.4).met());
        let row = "| quic, talk, open mic | 90 / 95 ms | 50 ms | 40 / 45 ms | <= 50 ms | yes |\n";
        assert_eq!(case("talk", 45.4).row(), row);
    }

    #[test]
    fn only_what_lies_between_the_marks_is_written_anew() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}\nnew\n{END}\nafter\n");
        assert_eq!(between_marks(&page, "new\n"), Some(expected));
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
