//! A real sound system: what is written to the speaker comes back from the microphone, through a private
//! PulseAudio whose only speaker is its own microphone.
//!
//! `cargo test -p roundtable-voice --features pulse --test device`
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)] // figures, in a test

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use roundtable_voice::{AudioConfig, AudioDevices, Capture, DeviceError};

/// Set for the process that talks to the private sound system: the environment of a running process is
/// best left alone.
const INSIDE: &str = "ROUNDTABLE_TEST_PULSE";

struct Pulse(Child);

impl Drop for Pulse {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_pulse(folder: &Path) -> Option<Pulse> {
    let socket = folder.join("pulse.sock");
    let protocol = "module-native-protocol-unix auth-anonymous=1 socket=";
    let child = Command::new("pulseaudio")
        .args([
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            "--use-pid-file=no",
        ])
        .args(["--disable-shm=yes", "--realtime=no"])
        .arg(format!("--load={protocol}{}", socket.display()))
        .arg("--load=module-null-sink sink_name=lab rate=48000 channels=2 format=float32le")
        .env("XDG_RUNTIME_DIR", folder)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let pulse = Pulse(child);
    for _ in 0..100 {
        if socket.exists() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    Some(pulse)
}

#[test]
fn what_is_played_is_captured() {
    if std::env::var_os(INSIDE).is_some() {
        return loopback();
    }
    let folder = std::env::temp_dir().join(format!("roundtable-pulse-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let outcome = start_pulse(&folder).map(|_pulse| {
        let server = format!("unix:{}", folder.join("pulse.sock").display());
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_is_played_is_captured", "--nocapture"])
            .env(INSIDE, "1")
            .env("PULSE_SERVER", server)
            .env("XDG_RUNTIME_DIR", &folder)
            .status()
            .unwrap()
    });
    std::fs::remove_dir_all(&folder).unwrap();
    match outcome {
        Some(status) => assert!(status.success(), "inside the sound system: {status}"),
        None => println!("SKIP: no PulseAudio; apt-get install pulseaudio"),
    }
}

/// Plays a tone for two seconds and looks for it in what is heard.
fn loopback() {
    let names = AudioDevices::list().unwrap();
    println!("{names:?}");
    assert!(!names.inputs.is_empty() && !names.outputs.is_empty());
    let missing = AudioConfig::default().with_input("no such microphone");
    assert_eq!(Capture::open(&missing).err(), Some(DeviceError::NoInput));

    let (mut capture, mut playback) = AudioDevices::open(&AudioConfig::default()).unwrap();
    let tone = |i: usize| 0.3 * (i as f32 * 1_000.0 * std::f32::consts::TAU / 48_000.0).sin();
    let (mut heard, mut written) = (Vec::new(), 0);
    for _ in 0..400 {
        while playback.queued() < Duration::from_millis(30) && written < 96_000 {
            let block: Vec<f32> = (written..written + 480).map(tone).collect();
            playback.write(&block);
            written += block.len();
        }
        capture.read(&mut heard);
        sleep(Duration::from_millis(5));
    }
    let lost = capture.is_lost() || playback.is_lost();
    println!(
        "wrote {written}, heard {}, missed {}",
        heard.len(),
        capture.missed()
    );
    assert!(!lost && written > 48_000 && heard.len() > 48_000);

    let begin = heard.iter().position(|x| x.abs() > 0.1).unwrap();
    let share = share_at(&heard[begin + 9_600..][..24_000], 1_000.0);
    assert!(share > 0.9, "{share} of the energy is the tone's");
}

/// The share of the energy that lies at one frequency (Goertzel, in windows of 10 ms).
fn share_at(samples: &[f32], hz: f32) -> f32 {
    let step = hz * std::f32::consts::TAU / 48_000.0;
    let (mut at, mut all) = (0.0, 0.0);
    for window in samples.chunks_exact(480) {
        let (mut re, mut im) = (0.0, 0.0);
        for (i, x) in window.iter().enumerate() {
            re += x * (i as f32 * step).cos();
            im += x * (i as f32 * step).sin();
            all += x * x;
        }
        at += (re * re + im * im) * 2.0 / window.len() as f32;
    }
    at / all
}
