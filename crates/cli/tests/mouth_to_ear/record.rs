//! Speaking into a sound system and listening to it from outside, with the programs that come with it.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use crate::{chirp::RATE_HZ, pulse::Pulse};

const FORMAT: [&str; 3] = ["--format=float32le", "--rate=48000", "--channels=1"];

/// Ends with its owner.
pub(crate) struct Ending(pub(crate) Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pacat(folder: &Path, mode: &str, latency_ms: u32, device: &str) -> Command {
    let mut command = Command::new("pacat");
    command
        .args([mode, "--raw", "--device", device])
        .arg(format!("--latency-msec={latency_ms}"))
        .args(FORMAT)
        .envs(Pulse::environment(folder))
        .stderr(Stdio::null());
    command
}

/// Plays these samples on a sink, to the end.
pub(crate) fn play(folder: &Path, sink: &str, samples: &[f32]) {
    // Early enough that it never runs dry.
    let mut player = pacat(folder, "--playback", 500, sink);
    let mut player = Ending(player.stdin(Stdio::piped()).spawn().unwrap());
    let mut input: ChildStdin = player.0.stdin.take().unwrap();
    let bytes: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    input.write_all(&bytes).unwrap();
    drop(input);
    player.0.wait().unwrap();
}

/// A recording that runs.
pub(crate) struct Recording {
    recorder: Ending,
    pieces: Receiver<(Instant, Vec<u8>)>,
}

/// What was recorded, and when.
pub(crate) struct Recorded {
    pub(crate) samples: Vec<f32>,
    /// When the first sample was there, had nothing held up the pieces: each one's arrival is no earlier than this and
    /// what lies before it.
    pub(crate) began: Instant,
}

impl Recording {
    /// Records what is played on a sink.
    pub(crate) fn start(folder: &Path, sink: &str) -> Self {
        let mut recorder = pacat(folder, "--record", 5, &format!("{sink}.monitor"));
        let mut recorder = Ending(recorder.stdout(Stdio::piped()).spawn().unwrap());
        let mut output = recorder.0.stdout.take().unwrap();
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 65_536];
            while let Ok(len @ 1..) = output.read(&mut piece) {
                #[allow(clippy::disallowed_methods)] // a test has no other clock
                let now = Instant::now();
                if sender.send((now, piece[..len].to_vec())).is_err() {
                    break;
                }
            }
        });
        Self { recorder, pieces }
    }

    pub(crate) fn stop(self) -> Recorded {
        drop(self.recorder);
        let (mut bytes, mut began) = (Vec::new(), None);
        for (arrived, piece) in self.pieces {
            bytes.extend_from_slice(&piece);
            let samples = bytes.len() / 4;
            let lasted = Duration::from_secs_f64(samples as f64 / RATE_HZ as f64);
            let begin = arrived.checked_sub(lasted).unwrap_or(arrived);
            // What was buffered before the stream ran comes at once.
            if samples > RATE_HZ / 2 {
                began = began.map_or(Some(begin), |earliest| Some(begin.min(earliest)));
            }
        }
        let sample = |x: &[u8]| f32::from_le_bytes(x.try_into().unwrap());
        Recorded {
            samples: bytes.chunks_exact(4).map(sample).collect(),
            began: began.expect("more than half a second was recorded"),
        }
    }
}

impl Recorded {
    /// By how much this one began later than another, in milliseconds.
    pub(crate) fn later_than_ms(&self, other: &Self) -> f64 {
        let later = self.began.saturating_duration_since(other.began);
        let earlier = other.began.saturating_duration_since(self.began);
        (later.as_secs_f64() - earlier.as_secs_f64()) * 1000.0
    }
}
