//! Roundtable's own commands: `cargo xtask --help`.
//!
//! Needs no native library, so that it builds on a fresh machine before `cargo xtask setup` has run.
//! One file per command; what a command does is a list of [`step::Step`]s where that is possible.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod clock;
mod codegen;
mod demo;
mod docs;
mod fuzz;
mod interop;
mod lab;
mod layers;
mod lint;
mod node;
mod page;
mod process;
mod sanitize;
mod score;
mod setup;
mod sim;
mod step;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Roundtable's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open a room on this machine with three peers who talk and draw, and a page for browsers.
    Demo(demo::Args),
    /// Install the system packages that are missing, after saying which and why.
    Setup(setup::Args),
    /// Check formatting and run clippy with warnings denied.
    Lint,
    /// Hold the crates' dependencies against the table of who may use whom.
    Layers,
    /// Run all tests and doc tests.
    Test,
    /// Build the documentation with warnings denied.
    Docs,
    /// Run the fuzz targets, or replay their corpora.
    Fuzz(fuzz::Args),
    /// Write the Rust code of the FlatBuffers schemas.
    Codegen(codegen::Args),
    /// Play worlds of simulated peers and print the seeds that fail.
    Sim(sim::Args),
    /// Run the benches.
    Bench(bench::Args),
    /// Score voices and the timing of media on simulated networks.
    Score(score::Args),
    /// Run the native codecs under Valgrind.
    Sanitize {
        /// Fail where Valgrind is missing.
        #[arg(long)]
        strict: bool,
    },
    /// Connect peers through routers, outages and TURN servers, in network namespaces. Needs root.
    Lab(lab::Args),
    /// Link with Chromium, libwebrtc, aiortc and the webrtc crate, in both roles.
    Interop(interop::Args),
    /// Run everything that must hold before a change is merged.
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let workspace = match Workspace::find() {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match Cli::parse().command {
        Command::Demo(args) => demo::run(&workspace, &args),
        Command::Setup(args) => setup::run(&workspace, &args),
        Command::Lint => step::run_all(&workspace, &lint::STEPS, false),
        Command::Layers => step::run_all(&workspace, &[layers::STEP], false),
        Command::Test => step::run_all(&workspace, &test::STEPS, false),
        Command::Docs => step::run_all(&workspace, &[docs::STEP], false),
        Command::Fuzz(args) => fuzz::run(&workspace, &args),
        Command::Codegen(args) => codegen::run(&workspace, args),
        Command::Sim(args) => sim::run(&workspace, &args),
        Command::Bench(args) => bench::run(&workspace, &args),
        Command::Score(args) => score::run(&workspace, &args),
        Command::Sanitize { strict } => sanitize::run(&workspace, strict),
        Command::Lab(args) => lab::run(&workspace, &args),
        Command::Interop(args) => interop::run(&workspace, &args),
        Command::Ci(args) => ci::run(&workspace, args),
    }
}
