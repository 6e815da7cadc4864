//! The real page in a real browser: Chromium without a screen, driven by Node.js.

use std::{path::PathBuf, process::Command, time::Duration};

use crate::{
    demo::{
        event::{Inbound, Seen},
        room::Native,
        speech::{self, Sound},
        state::State,
        verdict::Report,
    },
    node,
    setup::{self, Purpose},
    workspace::{self, Workspace},
};

/// How the browser is called in the room.
pub(crate) const NAME: &str = "browser";
/// How long a browser may take to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Least correlation of a recording of the browser with what it was given to say. The browser cleans
/// and levels what it takes for a microphone, so less is asked than of a native peer; the words of
/// someone else stay below 0.6.
const MIN_CORRELATION: f64 = 0.7;

/// A browser that can be driven.
#[derive(Debug, Clone)]
pub(crate) struct Browser {
    workspace: Workspace,
    folder: PathBuf,
    chromium: PathBuf,
}

/// Makes the browser ready, or says why it cannot be.
pub(crate) fn prepare(workspace: &Workspace) -> Result<Browser, String> {
    if let Some(advice) = setup::advice(Purpose::Browser) {
        return Err(advice);
    }
    let chromium = setup::chromium()
        .and_then(workspace::located)
        .ok_or("no Chromium")?;
    let source = workspace.root().join("xtask/browser");
    let folder = node::install(workspace, &source, &["drive.mjs"])?;
    Ok(Browser {
        workspace: workspace.clone(),
        folder,
        chromium,
    })
}

impl Browser {
    /// What opens the page, and speaks and listens until it is interrupted.
    pub(crate) fn command(&self, page: &str) -> Command {
        let mut command = self.workspace.command("node");
        command.current_dir(&self.folder).arg("drive.mjs").arg(page);
        command.arg(self.words()).arg(&self.chromium);
        command
    }

    /// The file that the browser takes for a microphone.
    fn words(&self) -> PathBuf {
        self.workspace.root().join("xtask/browser/speech.wav")
    }

    /// Judges whether voice flowed both ways between the browser and every speaker.
    pub(crate) fn judge(&self, report: &mut Report, state: &State, speakers: &[Native]) {
        let Some(seen) = state.peer(NAME).and_then(|browser| browser.seen.as_ref()) else {
            return report.fail("browser: did not say what it saw");
        };
        judge_page(report, seen, speakers.len());
        let words = match Sound::read(&self.words(), 0) {
            Ok(words) => words,
            Err(error) => return report.fail(error.to_string()),
        };
        let mut heard = Vec::new();
        for native in speakers {
            match recognise(state, native.name, &words) {
                Ok(correlation) if correlation >= MIN_CORRELATION => heard.push(correlation),
                Ok(correlation) => report.fail(format!(
                    "browser as heard by {}: correlation is {correlation:.3}",
                    native.name
                )),
                Err(why) => report.fail(format!("browser as heard by {}: {why}", native.name)),
            }
        }
        report.browser = Some(serde_json::json!({ "page": seen, "correlations": heard }));
    }
}

/// Judges what the page heard.
fn judge_page(report: &mut Report, seen: &Seen, speakers: usize) {
    let audible = |inbound: &&Inbound| inbound.energy > 0.0;
    let audible = seen.inbound.iter().filter(audible).count();
    if audible < speakers {
        report.fail(format!("browser: hears {audible} of {speakers} speakers"));
    }
    for error in &seen.errors {
        report.fail(format!("browser: {error}"));
    }
}

/// The correlation of one peer's recording of the browser with its words, or why there is none.
fn recognise(state: &State, listener: &str, words: &Sound) -> Result<f64, String> {
    let peer = state.peer(listener);
    let remote = peer.and_then(|peer| peer.remotes.get(NAME));
    let (path, since) = remote
        .and_then(|remote| remote.recording.as_ref())
        .ok_or("there is no recording")?;
    let recording = Sound::read(path, *since).map_err(|error| error.to_string())?;
    speech::compare_undated(&recording, words).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(energies: &[f64], errors: &[&str]) -> Vec<String> {
        let stream = |&energy: &f64| Inbound {
            packets: 500,
            lost: 0,
            energy,
        };
        let seen = Seen {
            inbound: energies.iter().map(stream).collect(),
            packets_sent: 1500,
            errors: errors.iter().map(|&error| error.into()).collect(),
        };
        let mut report = Report::default();
        judge_page(&mut report, &seen, 3);
        report.failures
    }

    #[test]
    fn a_page_that_hears_every_speaker_passes_though_a_listener_is_silent() {
        assert_eq!(failures(&[0.2, 0.1, 0.3, 0.0], &[]), [""; 0]);
    }

    #[test]
    fn a_speaker_who_is_not_heard_and_an_error_on_the_page_fail() {
        assert_eq!(
            failures(&[0.2, 0.0, 0.3], &[]),
            ["browser: hears 2 of 3 speakers"]
        );
        assert_eq!(
            failures(&[0.2, 0.1, 0.3], &["x is undefined"]),
            ["browser: x is undefined"]
        );
    }
}
