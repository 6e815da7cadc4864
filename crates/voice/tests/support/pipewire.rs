//! A PipeWire of one's own, whose devices are null sinks, and in which nothing stands in for PulseAudio.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// A private sound system. Ends when dropped.
pub struct PipeWire {
    processes: Vec<Child>,
    folder: PathBuf,
}

impl PipeWire {
    /// Starts one without devices. Where the programs are missing, says how to get them, or fails in a strict run
    /// (`cargo xtask ci --strict`).
    pub fn start(name: &str) -> Option<Self> {
        let programs = ["pipewire", "wireplumber", "pw-cli"];
        let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        if !programs.iter().all(there) {
            let missing = "SKIP: no PipeWire (apt-get install pipewire pipewire-bin wireplumber)";
            assert!(std::env::var_os("ROUNDTABLE_STRICT").is_none(), "{missing}");
            eprintln!("{missing}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("roundtable-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut system = Self {
            processes: Vec::new(),
            folder,
        };
        system.resume();
        Some(system)
    }

    /// Ends it, for a time.
    pub fn stop(&mut self) {
        for mut process in self.processes.drain(..).rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_file(socket(&self.folder));
    }

    /// Starts it again, without its devices.
    pub fn resume(&mut self) {
        self.spawn("pipewire", &[]);
        for _ in 0..200 {
            if socket(&self.folder).exists() {
                // It links who plays to what is played on. Any more of it would look for this machine's own devices.
                let policy = match Path::new("/usr/share/wireplumber/policy.conf").exists() {
                    true => ["-c", "policy.conf"],
                    false => ["-p", "policy"], // from version 0.5 on
                };
                return self.spawn("wireplumber", &policy);
            }
            sleep(Duration::from_millis(50));
        }
        panic!("PipeWire does not listen");
    }

    fn spawn(&mut self, program: &str, args: &[&str]) {
        let process = Command::new(program)
            .args(args)
            .envs(Self::environment(&self.folder))
            .env("HOME", &self.folder)
            .stderr(Stdio::null())
            .spawn();
        self.processes.push(process.unwrap());
    }

    /// Where it listens.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a program must have in its environment to use it, and no other sound system.
    pub fn environment(folder: &Path) -> [(&'static str, String); 4] {
        let folder = folder.display();
        let nowhere = format!("{folder}/nobody");
        [
            ("XDG_RUNTIME_DIR", folder.to_string()),
            ("PIPEWIRE_RUNTIME_DIR", folder.to_string()),
            ("PULSE_SERVER", format!("unix:{nowhere}")),
            ("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={nowhere}")),
        ]
    }
}

impl Drop for PipeWire {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("pipewire-0")
}

/// Adds speakers of this name that are their own microphone.
pub fn add_node(folder: &Path, name: &str) {
    let properties = format!(
        "{{ factory.name=support.null-audio-sink node.name={name} node.description={name} \
         media.class=Audio/Sink object.linger=true audio.position=[FL FR] }}"
    );
    pw_cli(folder, &["create-node", "adapter", &properties]);
}

/// Takes them away.
pub fn remove_node(folder: &Path, name: &str) {
    pw_cli(folder, &["destroy", name]);
}

fn pw_cli(folder: &Path, args: &[&str]) {
    let output = Command::new("pw-cli")
        .args(args)
        .envs(PipeWire::environment(folder))
        .output()
        .unwrap();
    assert!(output.status.success(), "pw-cli {args:?}: {output:?}");
}
