//! The links' raw figures: throughput, round trips and set-up of WebRTC and QUIC over loopback, and how soon ten
//! peers are all linked. The other systems, under `benches/peers/transport-*`, do the same in the same order.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // a bench may fail loudly
#![allow(clippy::disallowed_methods)] // to read the clock is what a bench does

mod duel;
mod mesh;

use clap::Parser;

use crate::duel::{Quic, WebRtc};

#[derive(clap::Parser)]
struct Args {
    /// Move less, and open fewer links.
    #[arg(long)]
    quick: bool,
    /// Only this: `webrtc`, `quic` or `mesh`.
    part: Option<String>,
}

fn main() {
    let args = Args::parse();
    let wanted = |part: &str| args.part.as_deref().is_none_or(|only| only == part);
    if wanted("webrtc") {
        duel::run::<WebRtc>(args.quick);
    }
    if wanted("quic") {
        duel::run::<Quic>(args.quick);
    }
    if wanted("mesh") {
        mesh::run();
    }
}
