//! A room on this machine: the signaling server and the peers, each a process of its own.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::{
    clock,
    demo::{browser, event::Line, state::State},
    process::{Ended, Heard, Process, ProcessError},
};

/// The room's name.
pub(crate) const NAME: &str = "demo";
/// How the signaling server is called among the processes.
pub(crate) const SERVER: &str = "server";
/// How long anything that should be immediate may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A native peer of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Native {
    /// Its name, also that of its recording under `crates/roundtable/assets`.
    pub(crate) name: &'static str,
    /// Whether it links to other natives over QUIC, rather than over WebRTC only.
    pub(crate) quic: bool,
    /// Whether it speaks and writes, rather than only listening.
    pub(crate) active: bool,
}

/// The three who are there from the start.
pub(crate) const NATIVES: [Native; 3] = [
    Native::active("alice", true),
    Native::active("bob", true),
    Native::active("carol", false),
];

/// Who comes late and only listens.
pub(crate) const LATE: Native = Native {
    name: "dave",
    quic: true,
    active: false,
};

impl Native {
    const fn active(name: &'static str, quic: bool) -> Self {
        Self {
            name,
            quic,
            active: true,
        }
    }

    /// The transport over which this peer and another should be linked.
    pub(crate) const fn transport_to(self, other: Self) -> &'static str {
        if self.quic && other.quic {
            "quic"
        } else {
            "webrtc"
        }
    }
}

/// What a room needs.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The `roundtable` program.
    pub(crate) program: PathBuf,
    /// The folder with the speakers' recordings.
    pub(crate) assets: PathBuf,
    /// Where the signaling server listens.
    pub(crate) address: SocketAddr,
    /// Where logs and recordings go; nobody else's.
    pub(crate) folder: PathBuf,
    /// Set when the user wants to stop.
    pub(crate) stop: Arc<AtomicBool>,
}

/// The room did not come about, or fell apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RoomError {
    /// A process did not start.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The folder for logs cannot be made.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A process ended although nobody asked it to.
    #[error("{name} ended: {last_words}")]
    Ended {
        /// Which process.
        name: String,
        /// The end of what it wrote to stderr.
        last_words: String,
    },
    /// The user wants to stop.
    #[error("stopped")]
    Stopped,
    /// Something that was waited for did not happen.
    #[error("gave up waiting until {what}")]
    Patience {
        /// What did not happen.
        what: &'static str,
    },
}

/// A room that is open. Dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Room {
    setting: Setting,
    sender: Sender<Heard<Line>>,
    heard: Receiver<Heard<Line>>,
    processes: Vec<Process>,
    /// What the peers have said.
    pub(crate) state: State,
}

impl Room {
    /// Starts the signaling server and waits until it answers.
    pub(crate) fn open(setting: Setting) -> Result<Self, RoomError> {
        fs::create_dir_all(&setting.folder).map_err(|source| RoomError::Folder {
            path: setting.folder.clone(),
            source,
        })?;
        let (sender, heard) = mpsc::channel();
        let mut room = Self {
            setting,
            sender,
            heard,
            processes: Vec::new(),
            state: State::default(),
        };
        let listen = room.setting.address.to_string();
        room.start(SERVER, &["serve", "--listen", &listen, "--open"])?;
        room.wait_until("the server answers", PATIENCE, |room| {
            is_healthy(room.setting.address)
        })?;
        Ok(room)
    }

    /// The page for browsers.
    pub(crate) fn page(&self, name: &str) -> String {
        format!("http://{}/?room={NAME}&name={name}", self.setting.address)
    }

    /// Starts a native peer, with more arguments if there are any.
    pub(crate) fn join(&mut self, native: Native, more: &[&str]) -> Result<(), RoomError> {
        let server = format!("ws://{}", self.setting.address);
        let words = self.setting.assets.join(format!("{}.wav", native.name));
        let words = words.to_string_lossy().into_owned();
        let transport = if native.quic { "auto" } else { "webrtc" };
        let mut args = vec!["join", "--json", "--guests", "--server", &server];
        args.extend(["--room", NAME, "--name", native.name]);
        args.extend(["--transport", transport]);
        if native.active {
            args.extend(["--say", &words, "--loop", "--submit-rate", "30"]);
        }
        args.extend(more);
        self.start(native.name, &args)
    }

    fn start(&mut self, name: &str, args: &[&str]) -> Result<(), RoomError> {
        let mut command = Command::new(&self.setting.program);
        command.args(args);
        self.add(name, &mut command)
    }

    /// Starts any other process that belongs to the room.
    pub(crate) fn add(&mut self, name: &str, command: &mut Command) -> Result<(), RoomError> {
        let (logs, heard) = (&self.setting.folder, self.sender.clone());
        let process = Process::start(name, command, logs, heard)?;
        self.processes.push(process);
        Ok(())
    }

    /// Waits until a process has said that it is in the room.
    pub(crate) fn wait_joined(&mut self, name: &str, patience: Duration) -> Result<(), RoomError> {
        self.wait_until("a peer has joined", patience, |room| {
            room.state.peer(name).is_some_and(|peer| peer.joined)
        })
    }

    /// Sends a signal to the process of this name.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        let named = |process: &&Process| process.name() == name;
        self.processes
            .iter()
            .filter(named)
            .for_each(|process| process.signal(signal));
    }

    /// Listens for a while, and fails if a process has ended meanwhile.
    pub(crate) fn listen(&mut self, time: Duration) -> Result<(), RoomError> {
        self.hear_for(time);
        if self.setting.stop.load(Ordering::Relaxed) {
            return Err(RoomError::Stopped);
        }
        for process in &mut self.processes {
            if process.has_ended() {
                let name = process.name().to_owned();
                let last_words = last_lines(&self.setting.folder.join(format!("{name}.log")));
                return Err(RoomError::Ended { name, last_words });
            }
        }
        Ok(())
    }

    /// Listens until something is so.
    pub(crate) fn wait_until(
        &mut self,
        what: &'static str,
        patience: Duration,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<(), RoomError> {
        let deadline = clock::now() + patience;
        while !is_so(self) {
            if clock::now() > deadline {
                return Err(RoomError::Patience { what });
            }
            self.listen(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn hear_for(&mut self, time: Duration) {
        let deadline = clock::now() + time;
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            match self.heard.recv_timeout(left) {
                Ok(heard) => self.state.hear(heard),
                Err(RecvTimeoutError::Timeout) => break,
                // The room itself holds a sender, so this cannot be; but it must not spin.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(left),
            }
        }
    }

    /// Processor time of all processes so far, where the system tells.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        self.processes.iter().map(Process::cpu_time).sum()
    }

    /// Asks everyone to leave, and hears what they say to the end. The natives go first and
    /// together, so that none of them records how another fell silent; the server goes last.
    pub(crate) fn close(mut self) -> (State, Vec<Ended>) {
        let mut ended = Vec::new();
        for turn in [Turn::Native, Turn::Browser, Turn::Server] {
            let is_next = |process: &mut Process| Turn::of(process.name()) == turn;
            let mut leaving: Vec<Process> = self.processes.extract_if(.., is_next).collect();
            leaving.iter_mut().for_each(Process::interrupt);
            ended.extend(leaving.into_iter().map(|process| process.wait(PATIENCE)));
        }
        // Their output ends with them; what is still under way arrives at once.
        let all_silent = |state: &State| {
            let silent = |ended: &Ended| state.peer(&ended.name).is_some_and(|peer| peer.silent);
            ended.iter().all(silent)
        };
        let deadline = clock::now() + PATIENCE;
        while !all_silent(&self.state) && clock::now() < deadline {
            self.hear_for(Duration::from_millis(20));
        }
        (std::mem::take(&mut self.state), ended)
    }
}

/// When a process leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Native,
    Browser,
    Server,
}

impl Turn {
    fn of(name: &str) -> Self {
        match name {
            SERVER => Self::Server,
            browser::NAME => Self::Browser,
            _ => Self::Native,
        }
    }
}

/// Whether the server at this address says that it is well.
fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let request =
            format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask().is_ok_and(|answer| answer.ends_with(" 200"))
}

/// The last lines of a log, on one line.
fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" | ");
    if last.is_empty() {
        "it said nothing".into()
    } else {
        last
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_the_pair_that_both_take_quic_uses_it() {
        let [alice, bob, carol] = NATIVES;
        assert_eq!(alice.transport_to(bob), "quic");
        assert_eq!(bob.transport_to(LATE), "quic");
        assert_eq!(alice.transport_to(carol), "webrtc");
        assert_eq!(carol.transport_to(LATE), "webrtc");
    }

    #[test]
    fn a_server_is_healthy_only_if_it_says_so() {
        let answering = |answer: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let healthy = is_healthy(address);
            server.join().unwrap();
            healthy
        };
        assert!(answering("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!answering("HTTP/1.1 503 Service Unavailable\r\n\r\n"));
        assert!(!is_healthy(SocketAddr::from(([127, 0, 0, 1], 1))));
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_ends_at_once_is_reported_with_its_last_words() {
        let setting = Setting {
            // It knows neither `serve` nor `--listen`, and says so.
            program: "ls".into(),
            assets: PathBuf::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            folder: std::env::temp_dir().join("xtask-test-room"),
            stop: Arc::default(),
        };
        let error = Room::open(setting).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("server ended: ls: "), "{said}");
    }
}
