//! `cargo xtask demo`: a room on this machine with three native peers and a page for browsers.

mod browser;
mod check;
mod event;
mod live;
mod room;
mod speech;
mod state;
mod verdict;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    demo::room::{RoomError, Setting},
    setup::{self, Purpose, SetupError},
    step::{self, Outcome, Step},
    workspace::{RunError, Workspace},
};

/// In `ci`: the demo without a screen, and with a browser where there is one.
pub(crate) const CHECK: Step = Step::own("demo", |workspace| {
    let args = Args {
        no_install: true,
        check: true,
        browser: true,
        ..Args::default()
    };
    match prepare(workspace, &args) {
        Ok(setting) => check::outcome(workspace, setting),
        Err(error) => Outcome::Failed(error.to_string()),
    }
});

/// What `demo` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Install nothing; if something is missing, only print the command.
    #[arg(long)]
    no_install: bool,
    /// Where the signaling server and its page listen.
    #[arg(long, default_value_t = default_address(), conflicts_with = "check")]
    listen: SocketAddr,
    /// Run without a screen for half a minute, check that everything really happened, and print one
    /// JSON object.
    #[arg(long)]
    check: bool,
    /// In a check, drive the browser page as well.
    #[arg(long, requires = "check")]
    browser: bool,
    /// In a check, fail if something had to be skipped.
    #[arg(long, requires = "check")]
    strict: bool,
    /// In a check, print nothing but the JSON object.
    #[arg(long, requires = "check")]
    json: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            no_install: false,
            listen: default_address(),
            check: false,
            browser: false,
            strict: false,
            json: false,
        }
    }
}

fn default_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

/// The demo could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum DemoError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Build(#[from] RunError),
    #[error("cannot listen for Ctrl-C: {0}")]
    Signal(#[source] io::Error),
    #[error("no free port on 127.0.0.1: {0}")]
    Port(#[source] io::Error),
    #[error(transparent)]
    Room(#[from] RoomError),
}

/// Runs the demo or its check.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let result = prepare(workspace, args).and_then(|setting| {
        if args.check {
            let options = check::Options {
                browser: args.browser,
                strict: args.strict,
                quiet: args.json,
            };
            Ok(check::run(workspace, setting, options))
        } else {
            live::run(setting).map(|()| true).map_err(DemoError::from)
        }
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Installs what is missing, builds the program, and finds a place for the room.
fn prepare(workspace: &Workspace, args: &Args) -> Result<Setting, DemoError> {
    setup::ensure(workspace, &[Purpose::Demo], !args.no_install)?;
    if args.browser && !args.no_install {
        // Without them the browser is skipped, which the check reports.
        if let Err(error) = setup::ensure(workspace, &[Purpose::Browser], true) {
            eprintln!("    {error}");
        }
    }
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "roundtable-cli"]);
    build.args(["--bin", "roundtable"]);
    step::run_shown(&mut build)?;
    let program = format!("roundtable{}", std::env::consts::EXE_SUFFIX);
    let address = if args.check {
        free_address().map_err(DemoError::Port)?
    } else {
        args.listen
    };
    Ok(Setting {
        program: workspace.target_dir().join("release").join(program),
        assets: workspace.root().join("crates/roundtable/assets"),
        address,
        folder: folder(workspace),
        stop: stopped_by_signals().map_err(DemoError::Signal)?,
    })
}

/// Where this run keeps logs and recordings.
fn folder(workspace: &Workspace) -> PathBuf {
    let run = format!("demo-{}", std::process::id());
    workspace.target_dir().join("xtask").join(run)
}

/// A flag that Ctrl-C and a polite kill set.
fn stopped_by_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// An address of this machine that nobody listens on at the moment.
fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()
}
