//! One of our WebRTC links with one foreign peer, as `cargo xtask interop` asks for it: the foreign peer is a process that is
//! told what to do by lines of JSON (`xtask/interop/peer.mjs` says which). Prints one line for each thing that was tried:
//! `{"case","ok","detail"}`; before them `{"version"}` of the foreign peer.
//!
//!   interop [--without CASE] offer|answer PROGRAM ARGUMENTS…
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // its failures are reported by whoever runs it

mod foreign;
mod tone;

use std::{error::Error, time::Duration};

use clap::{Parser, ValueEnum};
use roundtable_core::{Channel, CloseCode, Frame, Payload};
use roundtable_transport::Link;
use roundtable_transport_webrtc::{Connecting, WebRtcConfig, WebRtcLink};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::foreign::Foreign;

/// How long anything may take; only failures take so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is sent in one message at most.
const LARGEST: usize = 60 << 10;
/// What is sent in many.
const FILE: usize = 5 << 20;
/// How long each side listens to the other.
const LISTENING: Duration = Duration::from_secs(2);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Who makes the first offer: we or the foreign peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Offer,
    Answer,
}

#[derive(Parser)]
struct Args {
    /// What the foreign peer is known not to do.
    #[arg(long)]
    without: Vec<String>,
    role: Role,
    /// What starts the foreign peer.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<String>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    if let Err(error) = run(&args).await {
        say("start", &Err(error));
    }
}

/// Prints what became of one thing that was tried.
fn say(case: &str, outcome: &Outcome<String>) {
    let (ok, detail) = match outcome {
        Ok(detail) => (true, detail.clone()),
        Err(error) => (false, error.to_string()),
    };
    println!("{}", json!({ "case": case, "ok": ok, "detail": detail }));
}

async fn run(args: &Args) -> Outcome<()> {
    let role = args.role;
    let mut foreign = Foreign::start(&args.program)?;
    let version = foreign.hear("ready").await?;
    println!("{}", json!({ "version": version }));
    let opened = timeout(PATIENCE, open(role, &mut foreign)).await;
    let link = match opened.map_err(Into::into).flatten() {
        Ok((link, took)) => {
            say("open", &Ok(format!("{} ms", took.as_millis())));
            link
        }
        Err(error) => {
            say("open", &Err(error));
            return Ok(());
        }
    };
    say("text", &echo(&link, texts()).await);
    say("binary", &echo(&link, binaries()).await);
    say(
        "60 KB",
        &echo(&link, vec![binary(pattern(LARGEST, 3))]).await,
    );
    let file = pattern(FILE, 5);
    let pieces = file.chunks(LARGEST).map(|piece| binary(piece.to_vec()));
    say("5 MB", &echo(&link, pieces.collect()).await);
    let (out, back) = voices(&link, &mut foreign).await;
    say("Opus out", &out);
    say("Opus in", &back);
    if !args.without.iter().any(|case| case == "ICE restart") {
        let restarted = timeout(PATIENCE, restart(role, &link, &mut foreign)).await;
        say("ICE restart", &restarted.map_err(Into::into).flatten());
    }
    link.close(CloseCode::NORMAL, "bye").await;
    let closed = foreign.hear("closed").await;
    say("close", &closed.map(|code| format!("code {code}")));
    foreign.stop().await;
    Ok(())
}

/// The link, and how long it took from the first word of the negotiation on.
#[allow(clippy::disallowed_methods)] // to read the clock is what it is for
async fn open(role: Role, foreign: &mut Foreign) -> Outcome<(WebRtcLink, Duration)> {
    let config = WebRtcConfig::default();
    let start = std::time::Instant::now();
    let link = match role {
        Role::Offer => {
            let (connecting, offer) = Connecting::offer(&config).await?;
            foreign.tell(&json!({ "offer": offer })).await?;
            connecting
                .accept_answer(&foreign.hear("answer").await?)
                .await?;
            connecting.opened().await?
        }
        Role::Answer => {
            foreign.tell(&json!({ "do": "offer" })).await?;
            let offer = foreign.hear("offer").await?;
            let (connecting, answer) = Connecting::answer(&config, &offer).await?;
            foreign.tell(&json!({ "answer": answer })).await?;
            connecting.opened().await?
        }
    };
    Ok((link, start.elapsed()))
}

/// Whoever offered first restarts; then a message has to come through.
async fn restart(role: Role, link: &WebRtcLink, foreign: &mut Foreign) -> Outcome<String> {
    let config = WebRtcConfig::default();
    match role {
        Role::Offer => {
            let (restart, offer) = link.restart_ice(&config).await?;
            foreign.tell(&json!({ "offer": offer })).await?;
            restart
                .accept_answer(&foreign.hear("answer").await?)
                .await?;
        }
        Role::Answer => {
            foreign.tell(&json!({ "do": "restart" })).await?;
            let offer = foreign.hear("offer").await?;
            let (_restart, answer) = link.answer_restart(&config, &offer).await?;
            foreign.tell(&json!({ "answer": answer })).await?;
        }
    }
    echo(link, texts()).await
}

fn binary(bytes: Vec<u8>) -> Payload {
    Payload::Binary(bytes.into())
}

fn texts() -> Vec<Payload> {
    let texts = ["hello", "Grüße, 你好, 🎻", ""];
    texts.map(|text| Payload::Text(text.into())).into()
}

fn binaries() -> Vec<Payload> {
    vec![
        binary((0..=255).collect()),
        binary(vec![0]),
        binary(Vec::new()),
    ]
}

/// Bytes that do not repeat soon.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(state.to_be_bytes()[0])
    };
    std::iter::repeat_n((), len)
        .scan(seed, |state, ()| step(state))
        .collect()
}

/// Sends messages, and takes them back as they were: so they went both ways.
async fn echo(link: &WebRtcLink, messages: Vec<Payload>) -> Outcome<String> {
    let bytes: usize = messages.iter().map(len).sum();
    let send = async {
        for payload in messages.clone() {
            let channel = Channel::App;
            link.send(Frame { channel, payload }).await?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let receive = async {
        for (number, expected) in messages.iter().enumerate() {
            let payload = loop {
                let frame = link.recv().await?;
                // Voices may be on their way, too.
                if frame.channel == Channel::App {
                    break frame.payload;
                }
            };
            if payload != *expected {
                let (was, is) = (len(expected), len(&payload));
                return Err(
                    format!("message {number} of {was} B came back as another of {is} B").into(),
                );
            }
        }
        Ok(())
    };
    timeout(PATIENCE, async { tokio::try_join!(send, receive) }).await??;
    Ok(format!("{bytes} B"))
}

fn len(payload: &Payload) -> usize {
    match payload {
        Payload::Binary(bytes) => bytes.len(),
        Payload::Text(text) => text.len(),
        Payload::Media(_) | Payload::Clock(_) => 0,
    }
}

/// Both speak at once. What the foreign peer heard of us, and what we heard of it.
async fn voices(link: &WebRtcLink, foreign: &mut Foreign) -> (Outcome<String>, Outcome<String>) {
    let mut ear = tone::Ear::default();
    let listen = async {
        while let Ok(frame) = link.recv().await {
            if let Payload::Media(packet) = frame.payload {
                ear.listen(&packet);
            }
        }
    };
    let mut sent = 0;
    tokio::select! {
        spoken = tone::speak(link, LISTENING) => sent = spoken,
        () = listen => {}
    }
    // What is played late is heard late.
    sleep(Duration::from_millis(200)).await;
    let out = async {
        foreign.tell(&json!({ "do": "report" })).await?;
        let report = foreign.hear_value("report").await?;
        let packets = report["packets"].as_u64().unwrap_or(0);
        let energy = report["energy"].as_f64().unwrap_or(0.0);
        let detail = format!("{packets} of {sent} packets, energy {energy:.3}");
        // The first may come before its track is ready for them.
        if packets * 10 >= sent * 9 && energy > 0.0 {
            Ok(detail)
        } else {
            Err(detail.into())
        }
    };
    (out.await, ear.verdict(LISTENING))
}
