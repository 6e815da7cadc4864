//! The `roundtable` command: serve rooms, and join them.
#![forbid(unsafe_code)]

mod args;
mod board;
mod clock;
mod error;
mod join;
mod leftovers;
mod report;
mod serve;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match args.command {
                Command::Serve(serve) => serve::run(*serve).await,
                Command::Join(join) => join::run(*join).await,
            }
        }),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roundtable: {error}");
            ExitCode::from(2)
        }
    }
}

/// Logs go to stderr; `RUST_LOG` chooses what is logged, warnings by default.
fn start_logging() {
    // The WebRTC core warns about every packet that it cannot place, such as a browser's own.
    let default = EnvFilter::new("warn,rtc=error");
    let filter = EnvFilter::try_from_default_env().unwrap_or(default);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
