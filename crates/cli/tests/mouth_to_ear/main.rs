//! From mouth to ear through everything: a chirp is played on one null sink of a private PulseAudio, whose monitor is one
//! process' microphone; another process plays what it hears on a second sink, which is recorded.
//!
//! How long that takes is printed and, where `cargo xtask score mouth-to-ear` asks for it, kept; here it is only
//! asserted that the chirps arrive.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod chirp;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, unreachable_pub)] // a module of tests, each using a part
#[path = "../../../voice/tests/support/pulse.rs"]
mod pulse;
mod record;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::sleep,
    time::Duration,
};

use chirp::percentile;
use common::Serve;
use pulse::{Pulse, add_sink};
use record::{Ending, Recording};
use roundtable::voice::{Capture, DEVICE_PERIOD, Playback};
use serde_json::{Value, json};

/// Set, to the devices' period in milliseconds, for the process that is a wire.
const WIRE: &str = "ROUNDTABLE_TEST_WIRE";
/// How many chirps are said; a score takes more than a test.
const CHIRPS: &str = "ROUNDTABLE_CHIRPS";
/// The file to which figures go.
const FIGURES: &str = "ROUNDTABLE_FIGURES";
/// How long a room or a device may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until delays have settled.
const SETTLE: Duration = Duration::from_secs(3);
/// What a room keeps queued for the speakers at least, beyond what they take at once.
const SPARE: Duration = Duration::from_millis(5);

#[test]
fn chirps_said_at_one_peer_are_heard_at_another_over_quic_and_webrtc() {
    if let Ok(period_ms) = std::env::var(WIRE) {
        return be_a_wire(Duration::from_millis(period_ms.parse().unwrap()));
    }
    let Some(pulse) = Pulse::start("mouth") else {
        return;
    };
    let folder = pulse.folder();
    for sink in ["void", "mouth", "ear"] {
        add_sink(folder, sink);
    }
    let presets = [("talk", DEVICE_PERIOD), ("low-latency", DEVICE_PERIOD / 2)];
    // Only a score needs to know what devices take. Whatever holds them up is not the devices.
    let scored = std::env::var_os(FIGURES).is_some();
    let devices_ms = presets.map(|(preset, period)| {
        scored.then(|| percentile(&delays(folder, preset, wire(folder, period)), 1))
    });
    let server = Serve::start();
    for transport in ["quic", "webrtc"] {
        for ((preset, _), devices_ms) in presets.iter().zip(devices_ms) {
            let mut peers = Peers::meet(&server, folder, transport, preset);
            let delays = delays(folder, &format!("{transport}, {preset}"), ());
            let (p50, p95) = (percentile(&delays, 50), percentile(&delays, 95));
            let stages = peers.stages();
            println!(
                "{transport}, {preset}, open mic: p50 {p50:.1} ms, p95 {p95:.1} ms; {stages:?}"
            );
            let Some(devices_ms) = devices_ms else {
                continue;
            };
            keep(
                &json!({ "transport": transport, "preset": preset, "chirps": delays.len(),
                "total_p50_ms": p50, "total_p95_ms": p95, "devices_ms": devices_ms,
                "beyond_p50_ms": p50 - devices_ms, "beyond_p95_ms": p95 - devices_ms,
                "stages_ms": stages }),
            );
        }
    }
}

fn keep(figures: &Value) {
    if let Some(path) = std::env::var_os(FIGURES) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        writeln!(file.unwrap(), "{figures}").unwrap();
    }
}

/// Says chirps at the mouth and tells how long each took to the ear. Most must arrive. A machine that is busy with other things
/// tears holes into any sound: then they are said again, twice at most. `_between` is what carries them.
fn delays<T>(folder: &Path, what: &str, _between: T) -> Vec<f64> {
    let count = std::env::var(CHIRPS).map_or(12, |count| count.parse().unwrap());
    let mut heard = Vec::new();
    for _ in 0..3 {
        sleep(SETTLE);
        heard = said_and_heard(folder, count);
        if heard.len() * 5 >= count * 4 {
            return heard;
        }
        println!("{what}: {} of {count} chirps arrived", heard.len());
    }
    assert!(heard.len() * 2 > count, "{what}: too few chirps arrive");
    heard
}

fn said_and_heard(folder: &Path, count: usize) -> Vec<f64> {
    let (mouth, ear) = (
        Recording::start(folder, "mouth"),
        Recording::start(folder, "ear"),
    );
    record::play(folder, "mouth", &chirp::said(count));
    sleep(Duration::from_millis(500));
    let (mouth, ear) = (mouth.stop(), ear.stop());
    let offset_ms = ear.later_than_ms(&mouth);
    let delays = chirp::delays_ms(&mouth.samples, &ear.samples, offset_ms, count);
    delays.into_iter().flatten().collect()
}

/// A process that plays what it captures, on the devices that a room would use and as a room would use them, and nothing else.
fn wire(folder: &Path, period: Duration) -> Ending {
    let test = "chirps_said_at_one_peer_are_heard_at_another_over_quic_and_webrtc";
    let wire = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(WIRE, period.as_millis().to_string())
        .envs(Pulse::environment(folder))
        .stdout(Stdio::null())
        .spawn();
    Ending(wire.unwrap())
}

/// Until killed, but no longer than ten minutes.
fn be_a_wire(period: Duration) {
    let kept = period + SPARE;
    // A room adds blocks of 5 ms, the wire what is captured at once: neither queues more than this and 5 ms.
    let least = kept + SPARE - period;
    let mut capture = Capture::start(Some("Monitor of mouth"), period);
    let mut playback = Playback::start(Some("ear"), 1, period);
    let mut heard = Vec::new();
    for tick in 0..600_000 {
        heard.clear();
        capture.read(&mut heard);
        // Begun, or run dry.
        if playback.queued() == Some(Duration::ZERO) {
            playback.write(&vec![0.0; 48 * kept.as_millis() as usize]);
        }
        // What has gathered while the devices were opened goes, until chirps are said.
        let most = if tick < 1_500 { least } else { 3 * kept };
        if playback.queued().is_some_and(|queued| queued < most) {
            playback.write(&heard);
        }
        sleep(Duration::from_millis(1));
    }
}

/// One who speaks and one who listens.
struct Peers {
    _speaker: Ending,
    _listener: Ending,
    told: Receiver<Value>,
}

impl Peers {
    fn meet(server: &Serve, folder: &Path, transport: &str, preset: &str) -> Self {
        let room = format!("{transport}-{preset}");
        let join = |name: &str, input: &str, output: &str, rest: &str| {
            let line = format!(
                "join --server ws://{} --room {room} --transport {transport} --voice {preset} --audio --json",
                server.address
            );
            let mut peer = common::roundtable(&line)
                .args(rest.split_whitespace())
                .args(["--name", name, "--input", input, "--output", output])
                .envs(Pulse::environment(folder))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(peer.stdout.take().unwrap()).lines();
            let (sender, told) = channel();
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let event = serde_json::from_str(&line).unwrap();
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            });
            (Ending(peer), told)
        };
        let (listener, told) = join("listener", "Monitor of void", "ear", "");
        let (speaker, speaker_told) = join("speaker", "Monitor of mouth", "void", "--open-mic");
        // Nobody reads what the speaker tells, but the pipe must not fill.
        std::thread::spawn(move || speaker_told.into_iter().for_each(drop));
        wait_for(&told, "the first voice", |event| {
            event["event"] == "first_voice"
        });
        Self {
            _speaker: speaker,
            _listener: listener,
            told,
        }
    }

    /// Where the time goes, as the listener tells.
    fn stages(&mut self) -> BTreeMap<String, f64> {
        let is_voice = |event: &Value| event["event"] == "voice";
        let last = self.told.try_iter().filter(is_voice).last();
        let event = last.unwrap_or_else(|| wait_for(&self.told, "diagnostics", is_voice));
        serde_json::from_value(event["latency_ms"].clone()).unwrap()
    }
}

fn wait_for(told: &Receiver<Value>, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut seen = Vec::new();
    loop {
        match told.recv_timeout(PATIENCE) {
            Ok(event) if is(&event) => return event,
            Ok(event) => seen.push(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("never {what}, but {seen:#?}")
            }
        }
    }
}
