//! `cargo xtask setup`: what the machine must have, what it lacks, and how to get it.

use std::{fmt::Write as _, process::ExitCode};

use crate::{
    step,
    workspace::{self, RunError, Workspace},
};

/// What the machine is to be made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// Build and run the demo.
    Demo,
    /// Drive the browser page as well.
    Browser,
    /// Run every check of `cargo xtask ci`.
    Ci,
    /// Run the fuzz targets.
    Fuzz,
    /// Score voices: how good they are, and how long they take through a sound system.
    Score,
    /// Run the native codecs under Valgrind.
    Sanitize,
    /// Run the network lab.
    Lab,
    /// Link with other WebRTC implementations.
    Interop,
}

/// What `setup` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Only print the commands that would install what is missing.
    #[arg(long)]
    no_install: bool,
    /// What the machine is to be made ready for; may be given several times.
    #[arg(long = "for", value_enum, default_values_t = [Purpose::Demo])]
    purposes: Vec<Purpose>,
}

/// Something that must be there, and where it comes from.
#[derive(Debug)]
struct Tool {
    name: &'static str,
    why: &'static str,
    present: fn() -> bool,
    apt: &'static [&'static str],
    brew: &'static [&'static str],
    crates: &'static [&'static str],
    pip: &'static [&'static str],
    purposes: &'static [Purpose],
}

const TOOLS: [Tool; 19] = [
    Tool {
        name: "C compiler",
        why: "builds Opus and the cryptography",
        present: || workspace::succeeds("cc", &["--version"]),
        apt: &["gcc", "libc6-dev"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[
            Purpose::Demo,
            Purpose::Ci,
            Purpose::Fuzz,
            Purpose::Score,
            Purpose::Sanitize,
        ],
    },
    Tool {
        name: "C++ compiler",
        why: "builds libFuzzer",
        present: || workspace::succeeds("c++", &["--version"]),
        apt: &["g++"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Fuzz],
    },
    Tool {
        name: "cmake",
        why: "builds Opus",
        present: || workspace::succeeds("cmake", &["--version"]),
        apt: &["cmake", "make"],
        brew: &["cmake"],
        crates: &[],
        pip: &[],
        purposes: &[
            Purpose::Demo,
            Purpose::Ci,
            Purpose::Fuzz,
            Purpose::Score,
            Purpose::Sanitize,
        ],
    },
    Tool {
        name: "ALSA headers",
        why: "let the program use microphone and speakers",
        present: || {
            cfg!(not(target_os = "linux"))
                || workspace::succeeds("pkg-config", &["--exists", "alsa"])
        },
        apt: &["pkg-config", "libasound2-dev"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Demo, Purpose::Ci, Purpose::Score],
    },
    Tool {
        name: "PipeWire's headers",
        why: "let PipeWire be talked to directly, which is part of all features",
        present: || {
            cfg!(not(target_os = "linux"))
                || (workspace::succeeds("pkg-config", &["--exists", "libpipewire-0.3"])
                    && has_libclang())
        },
        apt: &["pkg-config", "libpipewire-0.3-dev", "libclang-dev"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Ci],
    },
    Tool {
        name: "PipeWire",
        why: "is another sound system of tests",
        present: || {
            cfg!(not(target_os = "linux"))
                || ["pipewire", "wireplumber", "pw-cli"]
                    .iter()
                    .all(|program| workspace::succeeds(program, &["--version"]))
        },
        apt: &["pipewire", "pipewire-bin", "wireplumber"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Ci],
    },
    Tool {
        name: "Chromium",
        why: "opens the browser page without a screen",
        present: || chromium().is_some(),
        apt: &["chromium"],
        brew: &["chromium"],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Browser, Purpose::Interop],
    },
    Tool {
        name: "Node.js",
        why: "drives Chromium",
        present: || workspace::succeeds("node", &["--version"]),
        apt: &["nodejs"],
        brew: &["node"],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Browser, Purpose::Interop],
    },
    Tool {
        name: "npm",
        why: "installs the driver's one package",
        present: || workspace::succeeds("npm", &["--version"]),
        apt: &["npm"],
        brew: &["node"],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Browser, Purpose::Interop],
    },
    Tool {
        name: "coturn",
        why: "stands beside the signaling server in its tests",
        present: || workspace::succeeds("turnserver", &["--version"]),
        apt: &["coturn"],
        brew: &["coturn"],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Ci, Purpose::Lab],
    },
    Tool {
        name: "ip",
        why: "makes the lab's hosts",
        present: || workspace::succeeds("ip", &["-Version"]),
        apt: &["iproute2"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Lab],
    },
    Tool {
        name: "nft",
        why: "makes the lab's address translation",
        present: || workspace::succeeds("nft", &["--version"]),
        apt: &["nftables"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Lab],
    },
    Tool {
        name: "openssl",
        why: "makes the certificate of the lab's TURN server",
        present: || workspace::succeeds("openssl", &["version"]),
        apt: &["openssl"],
        brew: &["openssl"],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Lab],
    },
    Tool {
        name: "NATS server",
        why: "joins several signaling servers in their tests",
        present: || workspace::succeeds("nats-server", &["--version"]),
        apt: &["nats-server"],
        brew: &["nats-server"],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Ci],
    },
    Tool {
        name: "Valgrind",
        why: "counts what a message costs the signaling server, and watches the memory of native codecs",
        present: || {
            cfg!(not(target_os = "linux")) || workspace::succeeds("valgrind", &["--version"])
        },
        apt: &["valgrind"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Ci, Purpose::Sanitize],
    },
    Tool {
        name: "PulseAudio",
        why: "is the sound system of tests and scores",
        present: || {
            cfg!(not(target_os = "linux"))
                || ["pulseaudio", "pactl", "pacat"]
                    .iter()
                    .all(|program| workspace::succeeds(program, &["--version"]))
        },
        apt: &["pulseaudio", "pulseaudio-utils"],
        brew: &[],
        crates: &[],
        pip: &[],
        purposes: &[Purpose::Ci, Purpose::Score],
    },
    Tool {
        name: "PESQ",
        why: "rates voices as people would",
        present: || workspace::succeeds("python3", &["-c", "import numpy, pesq"]),
        apt: &["python3-pip", "python3-dev", "gcc", "libc6-dev"],
        brew: &["python"],
        crates: &[],
        pip: &["numpy", "pesq"],
        purposes: &[Purpose::Score],
    },
    Tool {
        name: "aiortc",
        why: "is one of the peers that links are tried with",
        present: has_aiortc,
        apt: &["python3-pip"],
        brew: &["python"],
        crates: &[],
        pip: &["aiortc", "numpy"],
        purposes: &[Purpose::Interop],
    },
    Tool {
        name: "cargo-fuzz",
        why: "runs the fuzz targets",
        present: || workspace::succeeds("cargo-fuzz", &["--version"]),
        apt: &[],
        brew: &[],
        crates: &["cargo-fuzz"],
        pip: &[],
        purposes: &[Purpose::Fuzz],
    },
];

/// Whether Python has aiortc, and what its script needs beside.
pub(crate) fn has_aiortc() -> bool {
    workspace::succeeds("python3", &["-c", "import aiortc, numpy"])
}

/// Whether clang's library is where bindgen looks for it, with which it reads C headers.
fn has_libclang() -> bool {
    ["/usr/lib/llvm-*/lib", "/usr/lib/*", "/usr/lib64"]
        .iter()
        .any(|folder| workspace::succeeds("sh", &["-c", &format!("ls {folder}/libclang*.so*")]))
}

/// The Chromium or Chrome to drive.
pub(crate) fn chromium() -> Option<&'static str> {
    const MAC: &str = "/Applications/Chromium.app/Contents/MacOS/Chromium";
    ["chromium", "chromium-browser", "google-chrome", MAC]
        .into_iter()
        .find(|program| workspace::succeeds(program, &["--version"]))
}

/// Why the machine could not be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SetupError {
    /// Something is missing, and nothing may be installed.
    #[error("missing: {}; run `{command}`", .names.join(", "))]
    Missing {
        /// What is missing.
        names: Vec<&'static str>,
        /// What would install it.
        command: String,
    },
    /// No package manager that is known here.
    #[error("missing: {}; install them with this system's package manager", .names.join(", "))]
    NoManager {
        /// What is missing.
        names: Vec<&'static str>,
    },
    /// The package manager failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Where system packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt { sudo: bool },
    Brew,
}

impl Manager {
    fn find() -> Option<Self> {
        if workspace::succeeds("apt-get", &["--version"]) {
            let root = workspace::first_line("id", &["-u"]).as_deref() == Some("0");
            Some(Self::Apt { sudo: !root })
        } else if workspace::succeeds("brew", &["--version"]) {
            Some(Self::Brew)
        } else {
            None
        }
    }

    /// The commands that install what these tools need from the system.
    fn commands(self, tools: &[&Tool]) -> Vec<Vec<&'static str>> {
        let mut packages: Vec<&str> = tools
            .iter()
            .flat_map(|tool| match self {
                Self::Apt { .. } => tool.apt,
                Self::Brew => tool.brew,
            })
            .copied()
            .collect();
        packages.dedup();
        if packages.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Brew => vec![[&["brew", "install"], packages.as_slice()].concat()],
            Self::Apt { sudo } => {
                let sudo: &[&str] = if sudo { &["sudo"] } else { &[] };
                let install = ["apt-get", "install", "--yes", "--no-install-recommends"];
                vec![
                    [sudo, &["apt-get", "update"]].concat(),
                    [sudo, &install, packages.as_slice()].concat(),
                ]
            }
        }
    }
}

/// Makes the machine ready, and says so.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    match ensure(workspace, &args.purposes, !args.no_install) {
        Ok(()) => {
            eprintln!("nothing is missing");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Installs what is missing for these purposes, or says how to if that is not wanted.
pub(crate) fn ensure(
    workspace: &Workspace,
    purposes: &[Purpose],
    install: bool,
) -> Result<(), SetupError> {
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    eprint!("{}", explained(&missing));
    let names = missing.iter().map(|tool| tool.name).collect();
    let commands = commands(&missing).ok_or_else(|| SetupError::NoManager {
        names: missing.iter().map(|tool| tool.name).collect(),
    })?;
    if !install {
        let lines: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
        let command = lines.join(" && ");
        return Err(SetupError::Missing { names, command });
    }
    for words in &commands {
        let mut command = workspace.command(words[0]);
        command
            .args(&words[1..])
            .env("DEBIAN_FRONTEND", "noninteractive");
        step::run_shown(&mut command)?;
    }
    Ok(())
}

/// What is missing for one purpose and the command that installs it, or `None` if nothing is.
pub(crate) fn advice(purpose: Purpose) -> Option<String> {
    let missing = missing(&[purpose]);
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    let purpose = clap::ValueEnum::to_possible_value(&purpose)?;
    (!names.is_empty()).then(|| {
        format!(
            "no {}: run `cargo xtask setup --for {}`",
            names.join(", "),
            purpose.get_name()
        )
    })
}

fn missing(purposes: &[Purpose]) -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| purposes.iter().any(|wanted| tool.purposes.contains(wanted)))
        .filter(|tool| !(tool.present)())
        .collect()
}

fn explained(missing: &[&Tool]) -> String {
    let mut text = String::from("This machine lacks:\n");
    for tool in missing {
        let _ = writeln!(text, "  {:14} {}", tool.name, tool.why);
    }
    text
}

/// The commands that install these tools, or `None` if no package manager is known here.
fn commands(missing: &[&Tool]) -> Option<Vec<Vec<&'static str>>> {
    let (from_crates, from_system): (Vec<&Tool>, Vec<&Tool>) =
        missing.iter().partition(|tool| !tool.crates.is_empty());
    let mut commands = if from_system.is_empty() {
        Vec::new()
    } else {
        Manager::find()?.commands(&from_system)
    };
    commands.extend(
        from_crates
            .iter()
            .map(|tool| [&["cargo", "install", "--locked"], tool.crates].concat()),
    );
    // A distribution's Python refuses packages that are not its own unless told; the user's folder is nobody else's.
    let pip = ["env", "PIP_BREAK_SYSTEM_PACKAGES=1", "python3", "-m", "pip"];
    let from_pip = missing.iter().filter(|tool| !tool.pip.is_empty());
    commands.extend(from_pip.map(|tool| [&pip, &["install", "--user"][..], tool.pip].concat()));
    Some(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(names: &[&str]) -> Vec<&'static Tool> {
        TOOLS
            .iter()
            .filter(|tool| names.contains(&tool.name))
            .collect()
    }

    #[test]
    fn apt_fetches_its_lists_first_because_a_fresh_image_has_none() {
        let commands = Manager::Apt { sudo: false }.commands(&tools(&["cmake"]));
        assert_eq!(commands[0], ["apt-get", "update"]);
        assert!(commands[1].ends_with(&["cmake", "make"]));
    }

    #[test]
    fn who_is_not_root_installs_by_sudo() {
        let commands = Manager::Apt { sudo: true }.commands(&tools(&["cmake"]));
        assert!(commands.iter().all(|words| words[0] == "sudo"));
    }

    #[test]
    fn a_package_that_serves_two_tools_is_asked_for_once() {
        let commands = Manager::Brew.commands(&tools(&["Node.js", "npm"]));
        assert_eq!(commands, [["brew", "install", "node"]]);
    }

    #[test]
    fn what_comes_from_crates_io_needs_no_package_manager() {
        assert_eq!(
            commands(&tools(&["cargo-fuzz"])),
            Some(vec![vec!["cargo", "install", "--locked", "cargo-fuzz"]])
        );
    }

    #[test]
    fn what_comes_from_pip_is_asked_of_it_once_it_is_there() {
        if let Some(commands) = commands(&tools(&["PESQ"])) {
            assert!(
                commands[commands.len() - 2].contains(&"python3-pip")
                    || cfg!(not(target_os = "linux"))
            );
            assert!(
                commands[commands.len() - 1].ends_with(&["install", "--user", "numpy", "pesq"])
            );
        }
    }

    #[test]
    fn every_tool_serves_a_purpose_and_says_why() {
        for tool in &TOOLS {
            assert!(!tool.purposes.is_empty() && !tool.why.is_empty());
        }
        let shown = explained(&tools(&["cmake"]));
        assert!(shown.contains("cmake") && shown.contains("builds Opus"));
    }
}
