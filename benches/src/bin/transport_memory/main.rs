//! How much memory links and rooms take, as `cargo xtask bench transport` reads it. A program by itself, because
//! counting slows every allocation down. What is counted are live bytes of this process' heap: all ends are in it, so that
//! a figure is divided by their number. Neither the kernel's socket buffers nor what C libraries allocate are in it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly
#![allow(clippy::cast_precision_loss)] // no figure has that many digits

mod churn;
mod flood;
mod idle;
mod live;
mod pair;
mod voice;

use clap::Parser;

#[derive(clap::Parser)]
struct Args {
    /// Open fewer links and rooms.
    #[arg(long)]
    quick: bool,
    /// Only this: `idle`, `flood`, `voice` or `churn`.
    part: Option<String>,
}

fn main() {
    let args = Args::parse();
    let wanted = |part: &str| args.part.as_deref().is_none_or(|only| only == part);
    if wanted("idle") {
        idle::run();
    }
    if wanted("flood") {
        flood::run();
    }
    if wanted("voice") {
        voice::run(args.quick);
    }
    if wanted("churn") {
        churn::run(args.quick);
    }
}
