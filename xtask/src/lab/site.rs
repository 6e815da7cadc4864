//! Two homes, an internet between them, and the servers in it.
//!
//! ```text
//! h1 --lan-- r1 ==cable==+            +==cable== r2 --lan-- h2
//!                       inet (a bridge)
//!                         +---- s1: signaling, coturn
//! ```

use std::{
    fs, io,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    nat::Nat,
    net::{Cable, Net, NetError},
};
use crate::{
    clock,
    process::{Heard, Process, ProcessError},
};

/// Where the servers are.
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// An address in the internet at which nobody is.
const NOBODY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
/// What the signaling server and coturn share.
const SECRET: &str = "lab";
/// How long a process has for leaving.
const PATIENCE: Duration = Duration::from_secs(8);

/// The programs that the lab runs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) roundtable: PathBuf,
    pub(super) pulse: PathBuf,
    pub(super) cable: PathBuf,
}

/// Which servers peers are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Servers {
    /// None.
    None,
    /// A STUN server.
    Stun,
    /// A TURN server over UDP, which answers STUN as well.
    TurnUdp,
    /// A TURN server over TCP.
    TurnTcp,
    /// A TURN server over TLS.
    TurnTls,
    /// A TURN server that does not answer.
    Dead,
}

impl Servers {
    /// As the page calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stun => "stun",
            Self::TurnUdp => "turn-udp",
            Self::TurnTcp => "turn-tcp",
            Self::TurnTls => "turn-tls",
            Self::Dead => "dead",
        }
    }

    fn uri(self) -> Option<(&'static str, String)> {
        let turn = |rest: String| Some(("--turn", rest));
        match self {
            Self::None => None,
            Self::Stun => Some(("--stun", format!("stun:{SERVER}:3478"))),
            Self::TurnUdp => turn(format!("turn:{SERVER}:3478?transport=udp")),
            Self::TurnTcp => turn(format!("turn:{SERVER}:3478?transport=tcp")),
            Self::TurnTls => turn(format!("turns:{SERVER}:5349?transport=tcp")),
            Self::Dead => turn(format!("turn:{NOBODY}:3478?transport=udp")),
        }
    }
}

/// What a site is like.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The routers of the two homes.
    pub(super) nats: [Nat; 2],
    /// Which servers there are.
    pub(super) servers: Servers,
    /// The arguments of the two cables, alike.
    pub(super) faults: Vec<String>,
}

impl Plan {
    /// Two homes 40 ms apart (there and back), each 20 ms from the servers.
    pub(super) fn new(nats: [Nat; 2], servers: Servers) -> Self {
        Self {
            nats,
            servers,
            faults: vec!["--delay-ms".into(), "10".into()],
        }
    }
}

/// A home.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home {
    pub(super) host: &'static str,
    router: &'static str,
    /// The host's number in the names of interfaces and addresses.
    number: u8,
}

/// The two homes, also the names of the peers in them.
pub(super) const HOMES: [Home; 2] = [
    Home {
        host: "h1",
        router: "r1",
        number: 1,
    },
    Home {
        host: "h2",
        router: "r2",
        number: 2,
    },
];

impl Home {
    const fn address(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, last)
    }

    const fn outer(self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, self.number)
    }
}

/// The site could not be built, or a program of it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum SiteError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    #[error("the signaling server did not start; see {0}")]
    NoServer(PathBuf),
}

/// Names what an error of input or output was about.
pub(super) const fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> SiteError {
    move |source| SiteError::Io { what, source }
}

/// One line of the `pulse` example.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Line {
    /// Milliseconds since the Unix epoch.
    pub(super) at_ms: f64,
    #[serde(flatten)]
    pub(super) event: Event,
}

/// What the `pulse` example says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// It is in the room.
    Joined,
    /// A link opened.
    Connected { open_ms: f64 },
    /// A link did not come about.
    LinkFailed { reason: String },
    /// How a link runs.
    Link { path: Option<String> },
    /// A command of the other peer was applied.
    Command { number: u64 },
    /// A message of the other peer came.
    Message { number: u64 },
    /// It has ceased to count.
    Counted { numbers: u64 },
    /// Something else.
    #[serde(other)]
    Other,
}

/// Two homes and what runs in them.
#[derive(Debug)]
pub(super) struct Site {
    programs: Programs,
    plan: Plan,
    folder: PathBuf,
    pub(super) cables: [Cable; 2],
    peers: Vec<Process>,
    server: Option<Child>,
    coturn: Option<Child>,
    sender: Sender<Heard<Line>>,
    heard: Receiver<Heard<Line>>,
    // Last, so that namespaces go after what runs in them.
    net: Net,
}

impl Site {
    /// Builds the homes and starts the servers. Logs and certificates go to `folder`.
    pub(super) fn build(
        programs: &Programs,
        plan: Plan,
        folder: PathBuf,
    ) -> Result<Self, SiteError> {
        fs::create_dir_all(&folder).map_err(io_error("the folder for logs"))?;
        let mut net = Net::new();
        for node in ["inet", "s1", "h1", "r1", "h2", "r2"] {
            net.add(node)?;
        }
        net.ip("inet", "link add br0 type bridge")?;
        net.ip("inet", "link set br0 up")?;
        net.wire(("inet", "s1"), ("s1", "eth0"))?;
        net.ip("inet", "link set s1 master br0")?;
        net.remembers("s1", "eth0")?;
        net.ip("s1", &format!("addr add {SERVER}/24 dev eth0"))?;
        // What goes to nobody vanishes there, as on the internet.
        net.ip("s1", "route add default dev eth0")?;
        let [one, other] = [0, 1].map(|index| home(&net, programs, &plan, index));
        let cables = [one?, other?];
        ways(&net, &plan)?;
        let (sender, heard) = mpsc::channel();
        let mut site = Self {
            programs: programs.clone(),
            plan,
            folder,
            cables,
            peers: Vec::new(),
            server: None,
            coturn: None,
            sender,
            heard,
            net,
        };
        site.start_coturn()?;
        site.start_server()?;
        Ok(site)
    }

    /// A command in a node, quiet but for a log.
    fn quiet(
        &self,
        node: &str,
        program: impl AsRef<std::ffi::OsStr>,
        log: &str,
    ) -> Result<Command, SiteError> {
        let file = fs::File::create(self.folder.join(log)).map_err(io_error("a log"))?;
        let mut command = self.net.command(node, program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(file);
        Ok(command)
    }

    fn start_coturn(&mut self) -> Result<(), SiteError> {
        let (cert, key) = (self.folder.join("cert.pem"), self.folder.join("key.pem"));
        if self.plan.servers == Servers::TurnTls {
            certificate(&cert, &key, &self.trusted())?;
        }
        let mut command = self.quiet("s1", "turnserver", "coturn.log")?;
        command.args(["-n", "--no-cli", "--log-file", "stdout"]);
        command.args(["-r", "lab", "--use-auth-secret"]);
        command.arg(format!("--static-auth-secret={SECRET}"));
        command.args(["-L", &SERVER.to_string(), "-E", &SERVER.to_string()]);
        command.arg("--pidfile").arg(self.folder.join("coturn.pid"));
        command.arg("--userdb").arg(self.folder.join("coturn.db"));
        if self.plan.servers == Servers::TurnTls {
            command.arg("--cert").arg(&cert).arg("--pkey").arg(&key);
        } else {
            command.args(["--no-tls", "--no-dtls"]);
        }
        self.coturn = Some(command.spawn().map_err(io_error("coturn did not start"))?);
        Ok(())
    }

    /// Starts the signaling server, again if it was killed; returns when it listens.
    pub(super) fn start_server(&mut self) -> Result<(), SiteError> {
        let secret = self.folder.join("secret");
        fs::write(&secret, SECRET).map_err(io_error("the secret's file"))?;
        let program = self.programs.roundtable.clone();
        let mut command = self.quiet("s1", program, "server.log")?;
        command.args(["serve", "--open", "--i-know", "--listen"]);
        command.arg(format!("{SERVER}:8080"));
        if let Some((flag, uri)) = self.plan.servers.uri() {
            command.args([flag, &uri]);
            if flag == "--turn" {
                command.arg("--turn-secret-file").arg(&secret);
            }
        }
        let mut server = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io_error("the signaling server did not start"))?;
        let mut line = String::new();
        if let Some(stdout) = server.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        self.server = Some(server);
        if line.contains("listening on") {
            Ok(())
        } else {
            Err(SiteError::NoServer(self.folder.join("server.log")))
        }
    }

    /// Kills the signaling server without a word.
    pub(super) fn kill_server(&mut self) {
        end(&mut self.server);
    }

    fn trusted(&self) -> PathBuf {
        self.folder.join("cert.der")
    }

    /// Starts a peer in a home.
    pub(super) fn start_peer(
        &mut self,
        home: Home,
        transport: &str,
        more: &[&str],
    ) -> Result<(), SiteError> {
        let mut command = self.net.command(home.host, &self.programs.pulse);
        command.args(["--server", &format!("ws://{SERVER}:8080")]);
        command.args(["--room", "lab", "--name", home.host]);
        command.args(["--transport", transport]).args(more);
        if self.plan.servers == Servers::TurnTls {
            command.arg("--trust").arg(self.trusted());
        }
        let sender = self.sender.clone();
        let peer = Process::start(home.host, &mut command, &self.folder, sender)?;
        self.peers.push(peer);
        Ok(())
    }

    /// What a peer says next, and which; `None` if nobody says anything until then.
    pub(super) fn hear(&mut self, until: Instant) -> Option<(String, Line)> {
        loop {
            let left = until.saturating_duration_since(clock::now());
            let heard = self.heard.recv_timeout(left).ok()?;
            if let Some(line) = heard.line {
                return Some((heard.name, line));
            }
        }
    }

    /// Gives a home's host another address.
    pub(super) fn move_host(&self, home: Home, from: u8, to: u8) -> Result<(), NetError> {
        let [from, to] = [from, to].map(|last| home.address(last));
        let gateway = home.address(1);
        // The way to the gateway goes with the address, and comes back with the new one.
        for step in [
            format!("addr del {from}/24 dev eth0"),
            format!("addr add {to}/24 dev eth0"),
            format!("route replace default via {gateway}"),
        ] {
            self.net.ip(home.host, &step)?;
        }
        Ok(())
    }

    /// Has both routers translate otherwise from now on. Flows that they know go on as they were.
    pub(super) fn change_routers(&self, nat: Nat) -> Result<(), NetError> {
        for home in HOMES {
            let rules = nat.rules(home.outer(), home.address(2)).unwrap_or_default();
            self.net
                .nft(home.router, &format!("flush ruleset\n{rules}"))?;
        }
        Ok(())
    }

    /// Asks all peers to leave, once they have listened to the end.
    pub(super) fn interrupt(&mut self) {
        self.peers.iter_mut().for_each(Process::interrupt);
    }

    /// Waits until all peers have left.
    pub(super) fn leave(&mut self) {
        self.interrupt();
        for peer in self.peers.drain(..) {
            peer.wait(PATIENCE);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.peers.clear();
        end(&mut self.server);
        end(&mut self.coturn);
    }
}

fn end(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// A host behind its router, and the router's cable to the internet.
fn home(net: &Net, programs: &Programs, plan: &Plan, index: usize) -> Result<Cable, SiteError> {
    let (home, nat) = (HOMES[index], plan.nats[index]);
    let (host, router, outer) = (home.host, home.router, home.outer());
    let seed = ["--seed".to_owned(), home.number.to_string()];
    let faults = [plan.faults.as_slice(), &seed].concat();
    let cable = net.cable(&programs.cable, (router, "wan"), ("inet", router), &faults)?;
    net.remembers(router, "wan")?;
    net.ip("inet", &format!("link set {router} master br0"))?;
    net.ip(router, &format!("addr add {outer}/24 dev wan"))?;
    net.wire((router, "lan"), (host, "eth0"))?;
    let gateway = home.address(1);
    net.ip(router, &format!("addr add {gateway}/24 dev lan"))?;
    net.ip(host, &format!("addr add {}/24 dev eth0", home.address(2)))?;
    net.ip(host, &format!("route add default via {gateway}"))?;
    net.forwards(router)?;
    if let Some(rules) = nat.rules(outer, home.address(2)) {
        net.nft(router, &rules)?;
    }
    Ok(cable)
}

/// Where a home's router translates nothing, the others must know the way to it.
fn ways(net: &Net, plan: &Plan) -> Result<(), NetError> {
    for (home, nat) in HOMES.into_iter().zip(plan.nats) {
        let way = format!("route add {}/24 via {}", home.address(0), home.outer());
        for node in ["s1", "r1", "r2"] {
            if nat == Nat::None && node != home.router {
                net.ip(node, &way)?;
            }
        }
    }
    Ok(())
}

/// A certificate for the TURN server's address, as PEM and as DER.
fn certificate(cert: &Path, key: &Path, der: &Path) -> Result<(), SiteError> {
    let run = |command: &mut Command| {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        let status = quiet.status().map_err(io_error("openssl did not start"))?;
        let failed = || io::Error::other("it made no certificate");
        status
            .success()
            .then_some(())
            .ok_or_else(failed)
            .map_err(io_error("openssl"))
    };
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
    make.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=lab"]);
    make.args(["-addext", &format!("subjectAltName=IP:{SERVER}")]);
    make.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    make.arg("-keyout").arg(key).arg("-out").arg(cert);
    run(&mut make)?;
    let mut convert = Command::new("openssl");
    convert.args(["x509", "-outform", "der"]);
    convert.arg("-in").arg(cert).arg("-out").arg(der);
    run(&mut convert)
}
