//! The command as a process.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)] // for tests alone, each using a part

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

pub fn roundtable(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roundtable"));
    command.args(line.split_whitespace());
    command
}

/// Whether a program is there that a test needs. Where it is not, says how to get it, or fails in a
/// strict run (`cargo xtask ci --strict`).
pub fn has_tool(program: &str, package: &str) -> bool {
    let runs = Command::new(program).arg("--version").output().is_ok();
    let missing = format!("SKIP: no {program} (apt-get install {package})");
    let strict = std::env::var_os("ROUNDTABLE_STRICT").is_some();
    assert!(runs || !strict, "{missing}");
    if !runs {
        eprintln!("{missing}");
    }
    runs
}

/// A server process on a port of its own; ends with the test.
pub struct Serve {
    pub process: Child,
    pub address: String,
}

impl Serve {
    pub fn start() -> Self {
        Self::with("--open")
    }

    pub fn with(rest: &str) -> Self {
        Self::with_env(rest, &[])
    }

    pub fn with_env(rest: &str, environment: &[(&str, &Path)]) -> Self {
        Self::at(0, rest, environment)
    }

    pub fn at(port: u16, rest: &str, environment: &[(&str, &Path)]) -> Self {
        let mut process = roundtable(&format!("serve --listen 127.0.0.1:{port} {rest}"))
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let (_, address) = line.trim().split_once("://").unwrap();
        let address = address.trim_end_matches('/').to_owned();
        Self { process, address }
    }

    pub fn join(&self, rest: &str) -> Output {
        let line = format!("join --server ws://{} --room r {rest}", self.address);
        roundtable(&line).output().unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command ended with code 2 and one line on stderr that has `hint` in it.
pub fn refused(output: &Output, hint: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
    assert!(error.contains(hint), "{error:?} does not say {hint:?}");
    assert!(!error.contains("panicked"), "{error}");
}
