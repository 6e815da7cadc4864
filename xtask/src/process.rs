//! Processes that say what happens, one JSON object a line: started, listened to, and ended by their own id.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::Sender,
    thread,
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::{clock, workspace};

/// A process could not be started or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ProcessError {
    /// It did not start, or its log could not be made.
    #[error("{name} did not start: {source}")]
    Start {
        /// Which process.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// What a process said.
#[derive(Debug)]
pub(crate) struct Heard<L> {
    /// Which process.
    pub(crate) name: String,
    /// What, or `None` once its output has ended.
    pub(crate) line: Option<L>,
}

/// A process that runs. Dropping it kills it: nothing outlives this tool, whatever goes wrong.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Which process.
    pub(crate) name: String,
    /// Its exit status, or `None` if it had to be killed.
    pub(crate) status: Option<ExitStatus>,
    /// What it wrote to stderr.
    pub(crate) log: String,
}

impl Process {
    /// Starts a process whose stdout carries events, which go to `heard`, and whose stderr goes to
    /// a file in `logs`. Lines that are no event are left out.
    pub(crate) fn start<L: DeserializeOwned + Send + 'static>(
        name: &str,
        command: &mut Command,
        logs: &Path,
        heard: Sender<Heard<L>>,
    ) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Start {
            name: name.into(),
            source,
        };
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).map_err(failed)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        in_its_own_group(command);
        let mut child = command.spawn().map_err(failed)?;
        if let Some(stdout) = child.stdout.take() {
            let name = name.to_owned();
            // Ends with the pipe, so with the process.
            thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                let events = lines
                    .filter_map(|line| serde_json::from_str(&line).ok())
                    .map(Some);
                for line in events.chain([None]) {
                    let name = name.clone();
                    if heard.send(Heard { name, line }).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            name: name.into(),
            child,
            log,
        })
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended already.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Sends it a signal; does nothing where there are none.
    pub(crate) fn signal(&self, signal: &str) {
        if cfg!(unix) {
            let id = self.child.id().to_string();
            workspace::succeeds("kill", &["-s", signal, &id]);
        }
    }

    /// Asks it to leave, as Ctrl-C does.
    pub(crate) fn interrupt(&mut self) {
        if cfg!(unix) {
            self.signal("INT");
        } else {
            let _ = self.child.kill();
        }
    }

    /// Processor time it has used so far, where the system tells.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        cpu_time(&fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?)
    }

    /// Waits until it has ended, and kills it if that takes longer than `patience`.
    pub(crate) fn wait(mut self, patience: Duration) -> Ended {
        let deadline = clock::now() + patience;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if clock::now() < deadline => thread::sleep(Duration::from_millis(20)),
                _ => break None,
            }
        };
        Ended {
            name: self.name.clone(),
            status,
            log: fs::read_to_string(&self.log).unwrap_or_default(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Ctrl-C in a terminal reaches a whole process group; the demo's processes hear it from this one.
#[cfg(unix)]
fn in_its_own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(not(unix))]
fn in_its_own_group(_: &mut Command) {}

/// User and system time in a line of `/proc/ID/stat`, see proc(5).
fn cpu_time(stat: &str) -> Option<Duration> {
    /// What the kernel counts in, on every Linux: hundredths of a second.
    const TICK: Duration = Duration::from_millis(10);
    // The program's name, in brackets, may itself hold blanks and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.saturating_add(system))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn shell(name: &str, script: &str, heard: Sender<Heard<serde_json::Value>>) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(name, &mut command, &std::env::temp_dir(), heard).unwrap()
    }

    #[test]
    fn what_a_process_says_is_heard_until_its_output_ends() {
        let (sender, heard) = mpsc::channel();
        let script = r#"echo '{"event":"applied","at_ms":1,"total":3}'; echo noise >&2"#;
        let process = shell("xtask-test-says", script, sender);
        let line = heard.recv().unwrap().line.unwrap();
        assert_eq!(line["total"], 3);
        assert_eq!(heard.recv().unwrap().line, None);
        let ended = process.wait(Duration::from_secs(10));
        assert!(ended.status.unwrap().success());
        assert_eq!(ended.log, "noise\n");
    }

    #[test]
    fn an_interrupted_process_ends_by_the_signal_and_not_by_being_killed() {
        let (sender, heard) = mpsc::channel();
        // A shell could not heed the signal where this runs in the background, and the signal is ignored from the start.
        let script = r#"exec perl -e '$| = 1; $SIG{INT} = sub { exit 7 }; print qq({"event":"joined","at_ms":1}\n); sleep 1 while 1'"#;
        let mut process = shell("xtask-test-leaves", script, sender);
        heard.recv().unwrap();
        process.interrupt();
        let status = process.wait(Duration::from_secs(10)).status.unwrap();
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn a_process_that_does_not_leave_is_killed_and_reported() {
        let (sender, _heard) = mpsc::channel();
        let process = shell("xtask-test-stays", "exec sleep 60", sender);
        assert!(process.wait(Duration::from_millis(50)).status.is_none());
    }

    #[test]
    fn processor_time_is_read_past_a_strange_name() {
        let stat = "42 (a) b) S 1 1 1 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 9 0";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time("nonsense"), None);
    }
}
