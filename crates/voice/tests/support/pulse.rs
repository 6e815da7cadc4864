//! A PulseAudio of one's own, whose devices are null sinks: what is played to one is captured from its monitor.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// A private sound system. Ends when dropped.
pub struct Pulse {
    process: Child,
    folder: PathBuf,
}

impl Pulse {
    /// Starts one without devices. Where the programs are missing, says how to get them, or fails in a strict run
    /// (`cargo xtask ci --strict`).
    pub fn start(name: &str) -> Option<Self> {
        let programs = ["pulseaudio", "pactl"];
        let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        if !programs.iter().all(there) {
            let missing = "SKIP: no PulseAudio (apt-get install pulseaudio pulseaudio-utils)";
            assert!(std::env::var_os("ROUNDTABLE_STRICT").is_none(), "{missing}");
            eprintln!("{missing}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("roundtable-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let process = spawn(&folder);
        Some(Self { process, folder })
    }

    /// Ends it, for a time.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(socket(&self.folder));
    }

    /// Lets it hang: it lives on and answers nothing, until it is [woken](Self::wake).
    #[allow(dead_code)] // not of every test that has this module
    pub fn hang(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    #[allow(dead_code)]
    pub fn wake(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args([signal, &self.process.id().to_string()]).status();
        assert!(status.unwrap().success(), "kill {signal}");
    }

    /// Starts it again, without its devices.
    pub fn resume(&mut self) {
        self.process = spawn(&self.folder);
    }

    /// Where it listens.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a program must have in its environment to use it.
    pub fn environment(folder: &Path) -> [(&'static str, String); 2] {
        let server = format!("unix:{}", socket(folder).display());
        [
            ("PULSE_SERVER", server),
            ("XDG_RUNTIME_DIR", folder.display().to_string()),
        ]
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("pulse.sock")
}

/// Starts one that listens in this folder.
fn spawn(folder: &Path) -> Child {
    let protocol = "module-native-protocol-unix auth-anonymous=1 socket=";
    let mut process = Command::new("pulseaudio")
        .args([
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
        ])
        .args(["--disable-shm=yes", "--realtime=no", "--high-priority=no"])
        .arg(format!("--load={protocol}{}", socket(folder).display()))
        .env("XDG_RUNTIME_DIR", folder)
        .env("HOME", folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if socket(folder).exists() {
            return process;
        }
        sleep(Duration::from_millis(50));
    }
    let _ = process.kill();
    let _ = process.wait();
    panic!("PulseAudio does not listen");
}

/// Runs `pactl` with these words on the sound system in this folder, and returns the first line that it prints.
pub fn pactl(folder: &Path, words: &str) -> String {
    let output = Command::new("pactl")
        .args(words.split(' '))
        .envs(Pulse::environment(folder))
        .output()
        .unwrap();
    assert!(output.status.success(), "pactl {words}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Adds speakers that are their own microphone, and returns the number to unload them by. People see their name, and
/// `Monitor of NAME` for the microphone.
pub fn add_sink(folder: &Path, name: &str) -> String {
    let module = format!("load-module module-null-sink sink_name={name} rate=48000 channels=2");
    pactl(
        folder,
        &format!("{module} format=float32le sink_properties=device.description={name}"),
    )
}
