//! Counts aloud in a room, and prints what it hears: how long links take, and what an outage does to them.
//!
//! From when it is first linked, it submits a command every `--every-ms` and sends a message to everyone, both with the next number. Each
//! command and each message that comes from another peer is a line of JSON on standard output, and so is each
//! link that opens or closes. `cargo xtask lab` runs it on both sides of a network with faults.
//!
//! ```text
//! roundtable serve --open &
//! cargo run --example pulse -- --server ws://127.0.0.1:8080 --room count --name alice &
//! cargo run --example pulse -- --server ws://127.0.0.1:8080 --room count --name bob --for-s 5
//! ```
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use futures_util::StreamExt;
use roundtable::{
    Action, Event, Key, Limits, Payload, Room, RoomBuilder, TransportPreference, WebRtcConfig,
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// The type of the keys under which numbers are put.
const COUNT: u16 = 0;
/// How long it listens after its last number.
const LISTEN: Duration = Duration::from_secs(3);
/// How often the links are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Counts aloud in a room, and prints what it hears.
#[derive(Debug, Parser)]
struct Args {
    /// The signaling server
    #[arg(long)]
    server: String,
    /// The room's name
    #[arg(long)]
    room: String,
    /// This peer's name
    #[arg(long)]
    name: String,
    /// Which transports to use
    #[arg(long, value_enum, default_value = "auto")]
    transport: Transport,
    /// Time from one number to the next; 0 only listens
    #[arg(long, default_value_t = 50)]
    every_ms: u64,
    /// Stop counting after so many seconds, as Ctrl-C does; listen for three more, and leave
    #[arg(long)]
    for_s: Option<f64>,
    /// A certificate (DER) of a TURN server that nobody else vouches for
    #[arg(long)]
    trust: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Transport {
    Auto,
    Quic,
    Webrtc,
}

impl From<Transport> for TransportPreference {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Auto => Self::Auto,
            Transport::Quic => Self::Quic,
            Transport::Webrtc => Self::WebRtc,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let counts = args.every_ms > 0;
    let mut tick = interval(Duration::from_millis(args.every_ms.max(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut look = interval(LOOK);
    let stop = stopped(args.for_s);
    let room = builder(&args)?.join().await?;
    say("joined", json!({}));
    let mut events = room.events();
    let mut stop = std::pin::pin!(stop);
    // Messages go to those who are linked, or have been: a number that is said before is heard by nobody.
    let (mut number, mut may_edit, mut is_met) = (0, false, false);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::MayEdit(may)) => may_edit = may,
                Some(event) => {
                    is_met |= matches!(event, Event::Connected { .. });
                    heard(&room, &event);
                }
                None => break,
            },
            _ = tick.tick(), if counts && may_edit && is_met => {
                number += u64::from(count(&room, number).await);
            }
            _ = look.tick() => links(&room).await,
            () = &mut stop => break,
        }
    }
    say("counted", json!({ "numbers": number }));
    let mut end = std::pin::pin!(sleep(if counts { LISTEN } else { Duration::ZERO }));
    loop {
        tokio::select! {
            Some(event) = events.next() => heard(&room, &event),
            () = &mut end => break,
        }
    }
    room.leave().await;
    Ok(())
}

/// Resolves on Ctrl-C, or after so many seconds.
async fn stopped(seconds: Option<f64>) {
    let over = async {
        match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = over => {}
    }
}

fn builder(args: &Args) -> std::io::Result<RoomBuilder> {
    let mut webrtc = WebRtcConfig::default();
    if let Some(file) = &args.trust {
        webrtc = webrtc.with_trusted_certificates([std::fs::read(file)?]);
    }
    Ok(Room::builder(&args.server, &args.room, &args.name)
        .transport(args.transport.into())
        .limits(Limits {
            burst: 10_000,
            per_second: 1_000,
        })
        .webrtc(webrtc))
}

/// Says a number, unless this peer may not write just now: as when it has only now learned whose room it is.
async fn count(room: &Room, number: u64) -> bool {
    let put = Action::put(
        Key::new(COUNT, room.peer().as_str().to_owned()),
        number.to_string(),
    );
    if let Err(error) = room.submit([put]).await {
        eprintln!("not said: {error}");
        return false;
    }
    // Whoever is not linked now hears of it when the links are back.
    let _ = room.broadcast(Payload::Text(number.to_string())).await;
    true
}

fn heard(room: &Room, event: &Event) {
    match event {
        Event::Connected {
            peer,
            transport,
            opened_after,
            ready_after,
            ..
        } => {
            let millis = |time: &Duration| time.as_secs_f64() * 1000.0;
            let times = (millis(opened_after), millis(ready_after));
            say(
                "connected",
                json!({ "peer": peer.as_str(), "transport": transport.name(),
                    "open_ms": times.0, "ready_ms": times.1 }),
            );
        }
        Event::Disconnected { peer, code } => say(
            "disconnected",
            json!({ "peer": peer.as_str(), "reason": code.name() }),
        ),
        Event::LinkFailed {
            peer,
            transport,
            reason,
        } => say(
            "link_failed",
            json!({ "peer": peer.as_str(), "transport": transport.name(), "reason": reason }),
        ),
        Event::Applied(applied) if applied.author != room.author() => {
            if let Action::Put { value, .. } = &applied.action {
                let number = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok());
                say("command", json!({ "number": number.unwrap_or(0_u64) }));
            }
        }
        Event::Message {
            payload: Payload::Text(text),
            ..
        } => say(
            "message",
            json!({ "number": text.parse().unwrap_or(0_u64) }),
        ),
        _ => {}
    }
}

/// Over what the links run, and how they do.
async fn links(room: &Room) {
    for status in room.peers().await {
        for (kind, stats) in &status.links {
            let path = stats.path.map(|path| path.to_string());
            say(
                "link",
                json!({ "peer": status.peer.as_str(), "transport": kind.name(), "path": path,
                    "rtt_ms": stats.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0) }),
            );
        }
    }
}

/// One line, with the time in milliseconds since the Unix epoch.
#[allow(clippy::print_stdout)] // it is what this program is for
fn say(event: &str, fields: Value) {
    let mut line = json!({ "event": event, "at_ms": unix_ms() });
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    println!("{line}");
}

#[allow(clippy::disallowed_methods)] // a program around the library: it reads the clock
fn unix_ms() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}
