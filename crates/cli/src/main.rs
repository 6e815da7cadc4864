//! The `roundtable` command: serve rooms, join them, and look into what was kept of them.
#![forbid(unsafe_code)]

mod args;
mod board;
mod clock;
#[cfg(feature = "audio")]
mod devices;
mod doctor;
mod error;
mod join;
mod leftovers;
mod log;
mod logging;
mod reload;
mod report;
mod serve;
mod settings;
mod turn;

use std::process::ExitCode;

use crate::{
    args::{Args, Command, Turn},
    error::CliError,
    settings::LogFormat,
};

fn main() -> ExitCode {
    let outcome = Args::read().map_err(CliError::Args).and_then(run);
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("roundtable: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> Result<ExitCode, CliError> {
    match args.command {
        Command::Serve(serve) => serve::run(*serve)?,
        Command::Turn(Turn::Config(config)) => turn::config(&config)?,
        Command::Join(join) => {
            logging::start(logging::JOIN, LogFormat::Text)?;
            runtime()?.block_on(join::run(*join))?;
        }
        #[cfg(feature = "audio")]
        Command::Devices(args) => devices::run(&args)?,
        #[cfg(not(feature = "audio"))]
        Command::Devices(_) => return Err(CliError::NoAudio),
        Command::Doctor(args) => {
            logging::start(logging::JOIN, LogFormat::Text)?;
            return runtime()?.block_on(doctor::run(*args));
        }
        Command::Log(log) => return log::run(&log),
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}
