//! Hosts, routers and cables: network namespaces of our own, which vanish with the value that made them.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The lab could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum NetError {
    /// A tool did not start.
    #[error("`{command}` did not start: {source}")]
    Start {
        /// What was to run.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A tool refused.
    #[error("`{command}` failed: {said}")]
    Refused {
        /// What ran.
        command: String,
        /// What it wrote to stderr.
        said: String,
    },
}

/// A network of namespaces. Dropping it takes all of them away, with every interface in them.
#[derive(Debug)]
pub(super) struct Net {
    prefix: String,
    nodes: Vec<&'static str>,
}

impl Net {
    /// No nodes yet.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            prefix: format!("rt{}-{number}", std::process::id()),
            nodes: Vec::new(),
        }
    }

    /// The namespace of a node.
    fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// Adds a host or router with its loopback.
    pub(super) fn add(&mut self, node: &'static str) -> Result<(), NetError> {
        ip(&["netns", "add", &self.namespace(node)])?;
        self.nodes.push(node);
        self.ip(node, "link set lo up")
    }

    /// Runs `ip` in a node, with arguments that are parted by blanks.
    pub(super) fn ip(&self, node: &str, args: &str) -> Result<(), NetError> {
        let namespace = self.namespace(node);
        let args: Vec<_> = ["-n", &namespace]
            .into_iter()
            .chain(args.split_whitespace())
            .collect();
        ip(&args)
    }

    /// A command that will run in a node.
    pub(super) fn command(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node)]);
        command.arg(program);
        command
    }

    /// Lays a perfect cable between two nodes; both its ends are up.
    pub(super) fn wire(
        &self,
        (a, a_end): (&str, &str),
        (b, b_end): (&str, &str),
    ) -> Result<(), NetError> {
        let peer = self.namespace(b);
        self.ip(
            a,
            &format!("link add {a_end} type veth peer name {b_end} netns {peer}"),
        )?;
        self.up(a, a_end)?;
        self.up(b, b_end)
    }

    /// Lets a node forward what is not for it.
    pub(super) fn forwards(&self, node: &str) -> Result<(), NetError> {
        let mut command = self.command(node, "sysctl");
        command.args(["-qw", "net.ipv4.ip_forward=1"]);
        run(&mut command, None)
    }

    /// Lets a node remember whom it has met at the end of an interface, as routers of an internet do. Else the kernel would doubt it while a
    /// cable is cut, and after that look for them once a second only.
    pub(super) fn remembers(&self, node: &str, end: &str) -> Result<(), NetError> {
        let mut command = self.command(node, "sysctl");
        let name = format!("net.ipv4.neigh.{end}.base_reachable_time_ms");
        command.args(["-qw", &format!("{name}=3600000")]);
        run(&mut command, None)
    }

    /// Loads rules into a node.
    pub(super) fn nft(&self, node: &str, rules: &str) -> Result<(), NetError> {
        let mut command = self.command(node, "nft");
        command.args(["-f", "-"]);
        run(&mut command, Some(&format!("{rules}\n")))
    }

    fn up(&self, node: &str, end: &str) -> Result<(), NetError> {
        self.ip(node, &format!("link set {end} up"))
    }

    /// Lays a cable with faults between two nodes; `faults` are the arguments of the `cable` program.
    pub(super) fn cable(
        &self,
        program: &Path,
        near: (&str, &str),
        far: (&str, &str),
        faults: &[String],
    ) -> Result<Cable, NetError> {
        // Names of the first namespace, at most 15 bytes: both ends begin there.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = ["n", "f"].map(|end| format!("rt{}{end}{number}", std::process::id()));
        let mut command = Command::new(program);
        command.args(&names).args(faults);
        let cable = Cable::start(&mut command)?;
        for (name, (node, end)) in names.iter().zip([near, far]) {
            ip(&["link", "set", name, "netns", &self.namespace(node)])?;
            self.ip(node, &format!("link set {name} name {end}"))?;
            self.up(node, end)?;
        }
        Ok(cable)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in &self.nodes {
            let _ = ip(&["netns", "del", &self.namespace(node)]);
        }
    }
}

/// A cable that can be cut. It is gone when it is dropped.
#[derive(Debug)]
pub(super) struct Cable(Child);

impl Cable {
    fn start(command: &mut Command) -> Result<Self, NetError> {
        let failed = |source, command: &Command| NetError::Start {
            command: crate::workspace::shown(command),
            source,
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cable = Self(command.spawn().map_err(|error| failed(error, command))?);
        // Said once the devices are there.
        if let Some(stdout) = cable.0.stdout.take() {
            let mut ready = String::new();
            BufReader::new(stdout)
                .read_line(&mut ready)
                .map_err(|error| failed(error, command))?;
        }
        Ok(cable)
    }

    /// Tells the cable to `cut`, `cut near`, `cut far` or `mend`.
    pub(super) fn tell(&mut self, order: &str) -> io::Result<()> {
        let stdin = self.0.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{order}")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(args: &[&str]) -> Result<(), NetError> {
    let mut command = Command::new("ip");
    command.args(args);
    run(&mut command, None)
}

/// Runs a tool to its end, with something to read.
fn run(command: &mut Command, input: Option<&str>) -> Result<(), NetError> {
    let shown = crate::workspace::shown(command);
    let failed = |source| NetError::Start {
        command: shown.clone(),
        source,
    };
    command.stdin(input.map_or_else(Stdio::null, |_| Stdio::piped()));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetError::Refused {
        command: shown,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
