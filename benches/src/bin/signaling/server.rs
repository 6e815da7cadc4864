//! The server under test: a process of its own, on a core of its own, and what it costs.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::dialect::Dialect;

/// Ticks of `/proc/PID/stat` in a second, on every Linux that we know.
const TICKS: f64 = 100.0;
/// The core of the server; the clients have the other.
const CORE: &str = "0";

/// A running server, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
}

impl Server {
    /// Ours, with these arguments after `serve`.
    pub(crate) fn ours(dialect: Dialect, args: &[&str]) -> io::Result<Self> {
        let mut command = pinned(&our_binary()?);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args);
        Self::start(command, dialect)
    }

    /// Ours, open to all, in valgrind's callgrind, which writes to `counts` what it has counted when the server [ends](Self::end).
    pub(crate) fn counted(counts: &Path) -> io::Result<Self> {
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--collect-systime=usec", "--quiet"])
            .arg(format!("--callgrind-out-file={}", counts.display()))
            .arg(our_binary()?)
            .args(["serve", "--open", "--listen", "127.0.0.1:0"])
            // As many threads as it has where it is measured: one.
            .env("TOKIO_WORKER_THREADS", "1");
        Self::start(command, Dialect::Roundtable)
    }

    /// One of the servers that node runs.
    pub(crate) fn node(dialect: Dialect, folder: &Path, script: &str) -> io::Result<Self> {
        let mut command = pinned(Path::new("node"));
        command.arg(folder.join(script)).current_dir(folder);
        Self::start(command, dialect)
    }

    /// Starts it and reads from its first line where it listens.
    fn start(mut command: Command, dialect: Dialect) -> io::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line
            .split("//")
            .nth(1)
            .and_then(|rest| rest.trim_end().trim_end_matches('/').parse().ok());
        let Some(address) = address else {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other(format!(
                "it does not say where it listens: {line:?}"
            )));
        };
        Ok(Self {
            child,
            address,
            dialect,
        })
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        let stat = fs::read_to_string(self.proc("stat"))?;
        // The name, which may have blanks in it, ends with the last parenthesis; user and system time are the
        // 14th and 15th field.
        let fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let ticks: f64 = fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        Ok(ticks / TICKS)
    }

    /// Bytes of memory that are its alone.
    pub(crate) fn memory(&self) -> io::Result<f64> {
        let rollup = fs::read_to_string(self.proc("smaps_rollup"))?;
        let kilobytes = |line: &str| -> Option<f64> {
            let rest = line
                .strip_prefix("Private_Dirty:")
                .or_else(|| line.strip_prefix("Private_Clean:"))?;
            rest.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Ok(rollup.lines().filter_map(kilobytes).sum::<f64>() * 1024.0)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        match self.child.wait()?.success() {
            true => Ok(()),
            false => Err(io::Error::other("it ended with an error")),
        }
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.id()).into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program beside this one: `main` has built both.
fn our_binary() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("roundtable"))
}

/// A command that runs on the server's core, where there is a way to say so.
fn pinned(program: &Path) -> Command {
    if !has_taskset() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", CORE]).arg(program);
    command
}

/// Moves this program to the cores that are not the server's.
pub(crate) fn leave_its_core() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 || !has_taskset() {
        eprintln!("clients and server share their cores: figures will be worse than they are");
        return;
    }
    let rest = format!("1-{}", cores - 1);
    let own = std::process::id().to_string();
    let _ = Command::new("taskset")
        .args(["-a", "-c", "-p", &rest, &own])
        .stdout(Stdio::null())
        .status();
}

fn has_taskset() -> bool {
    let asked = Command::new("taskset")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}
