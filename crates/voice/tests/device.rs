//! A real sound system: what is written to the speakers comes back from the microphone, through a private
//! PulseAudio whose speakers are their own microphones, and which loses them.
//!
//! `cargo test -p roundtable-voice --features pulse --test device`
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)] // figures, in a test

#[cfg(feature = "pipewire")]
#[allow(unreachable_pub)] // a module of tests
#[path = "support/pipewire.rs"]
mod pipewire;
#[allow(unreachable_pub)] // a module of tests
#[path = "support/pulse.rs"]
mod pulse;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use pulse::{Pulse, add_sink, pactl};
use roundtable_voice::{AudioDevices, Capture, DEVICE_PERIOD, DeviceError, DeviceState, Playback};

/// Set to the sound system's folder for the process that talks to it: the environment of a running process is
/// best left alone.
const INSIDE: &str = "ROUNDTABLE_TEST_PULSE";

/// Runs the test of this name again, in a process that finds the sound system in `folder`.
fn run_inside(folder: &Path, test: &str) {
    run_with(folder, test, &Pulse::environment(folder));
}

fn run_with(folder: &Path, test: &str, environment: &[(&str, String)]) {
    let environment = environment.iter().map(|(name, value)| (name, value));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, folder)
        .envs(environment)
        .status()
        .unwrap();
    assert!(status.success(), "inside the sound system: {status}");
}

/// Runs `body` inside a sound system of its own, which has no devices.
fn with_pulse(test: &str, body: fn(&Path)) {
    if let Some(folder) = std::env::var_os(INSIDE) {
        body(&PathBuf::from(folder));
    } else if let Some(pulse) = Pulse::start(test) {
        run_inside(pulse.folder(), test);
    }
}

/// A microphone and speakers between which a tone goes round.
struct Loop {
    capture: Capture,
    playback: Playback,
    channels: usize,
    written: usize,
}

impl Loop {
    fn new(input: Option<&str>, output: Option<&str>, channels: usize) -> Self {
        Self {
            capture: Capture::start(input, DEVICE_PERIOD),
            playback: Playback::start(output, channels, DEVICE_PERIOD),
            channels,
            written: 0,
        }
    }

    /// Plays on for so long, a tone on the first channel alone, and returns what is heard meanwhile.
    fn run(&mut self, ms: u64) -> Vec<f32> {
        let step = 1_000.0 * std::f32::consts::TAU / 48_000.0;
        let mut heard = Vec::new();
        for _ in 0..ms / 5 {
            while self
                .playback
                .queued()
                .is_some_and(|it| it < Duration::from_millis(30))
            {
                let mut block = vec![0.0; 480 * self.channels];
                for (i, frame) in block.chunks_exact_mut(self.channels).enumerate() {
                    frame[0] = 0.3 * ((self.written + i) as f32 * step).sin();
                }
                self.written += 480;
                self.playback.write(&block);
            }
            self.capture.read(&mut heard);
            sleep(Duration::from_millis(5));
        }
        heard
    }

    /// Until both devices are as expected.
    fn wait(&mut self, what: &str, is: impl Fn(&DeviceState, &DeviceState) -> bool) {
        for _ in 0..400 {
            self.run(50);
            if is(&self.capture.state().clone(), self.playback.state()) {
                return;
            }
        }
        let (input, output) = (self.capture.state().clone(), self.playback.state());
        panic!("never {what}: {input:?}, {output:?}");
    }

    fn wait_until_open(&mut self) {
        self.wait("both open", |a, b| a.is_open() && b.is_open());
    }

    /// How loud the tone is that comes round, and its share of all that does.
    fn tone(&mut self) -> (f32, f32) {
        self.run(300);
        let heard = self.run(1_000);
        assert!(heard.len() > 24_000, "{} samples in a second", heard.len());
        let middle = &heard[heard.len() / 2 - 12_000..][..24_000];
        let power = middle.iter().map(|x| x * x).sum::<f32>() / middle.len() as f32;
        ((2.0 * power).sqrt(), share_at(middle, 1_000.0))
    }
}

fn name(state: &DeviceState) -> Option<(&str, bool)> {
    match state {
        DeviceState::Open { device, stands_in } => Some((&device.name, *stands_in)),
        _ => None,
    }
}

#[test]
fn what_is_played_is_captured_in_mono_and_in_stereo() {
    with_pulse(
        "what_is_played_is_captured_in_mono_and_in_stereo",
        |folder| {
            add_sink(folder, "lab");
            let list = AudioDevices::connect().list().unwrap();
            let speakers = &list.outputs[0];
            assert_eq!(
                (&speakers.name[..], speakers.is_default),
                ("lab", true),
                "{list:?}"
            );
            assert_eq!(list.inputs[0].name, "Monitor of lab");

            // One channel goes to both of the device's; of two, the silent one halves what the mono microphone hears.
            for (channels, amplitude) in [(1, 0.3), (2, 0.15)] {
                let mut devices = Loop::new(None, Some(&speakers.id), channels);
                devices.wait_until_open();
                let (loud, pure) = devices.tone();
                assert!(pure > 0.9, "{pure} of the energy is the tone's");
                assert!(
                    (loud - amplitude).abs() < 0.05,
                    "{channels} channels: {loud}"
                );
                assert!(devices.capture.level_dbfs() > -25.0);
                assert!(devices.playback.latency() > Duration::ZERO);
            }
        },
    );
}

#[test]
fn a_device_that_vanishes_and_comes_back_is_used_again() {
    with_pulse(
        "a_device_that_vanishes_and_comes_back_is_used_again",
        |folder| {
            let module = add_sink(folder, "lab");
            let mut devices = Loop::new(Some("Monitor of lab"), Some("lab"), 1);
            devices.wait_until_open();
            assert!(devices.tone().1 > 0.9);

            pactl(folder, &format!("unload-module {module}"));
            devices.wait("both missing", |a, b| {
                let lost = |state: &DeviceState| matches!(state, DeviceState::Missing(_));
                lost(a) && lost(b)
            });
            assert!(devices.run(300).is_empty() && devices.playback.queued().is_none());
            assert!(devices.playback.take_change().is_some());
            assert_eq!(devices.playback.take_change(), None);

            add_sink(folder, "lab");
            devices.wait_until_open();
            assert!(devices.tone().1 > 0.9, "it is heard again");
        },
    );
}

#[test]
fn another_device_stands_in_until_the_chosen_one_is_there() {
    with_pulse(
        "another_device_stands_in_until_the_chosen_one_is_there",
        |folder| {
            add_sink(folder, "speakers");
            let mut devices = Loop::new(Some("Monitor of headset"), Some("headset"), 1);
            devices.wait("stood in for", |a, b| {
                name(a) == Some(("Monitor of speakers", true))
                    && name(b) == Some(("speakers", true))
            });
            assert!(devices.tone().1 > 0.9);

            let headset = add_sink(folder, "headset");
            devices.wait("the headset", |a, b| {
                name(a) == Some(("Monitor of headset", false))
                    && name(b) == Some(("headset", false))
            });
            assert!(devices.tone().1 > 0.9);

            pactl(folder, &format!("unload-module {headset}"));
            devices.wait("back at the speakers", |a, b| {
                name(a) == Some(("Monitor of speakers", true))
                    && name(b) == Some(("speakers", true))
            });
            devices.capture.choose(None);
            devices.playback.choose(None);
            devices.wait("chosen", |a, b| {
                name(a) == Some(("Monitor of speakers", false))
                    && name(b) == Some(("speakers", false))
            });
            assert!(devices.tone().1 > 0.9);
        },
    );
}

#[test]
fn no_device_is_a_state_and_the_default_is_followed() {
    with_pulse(
        "no_device_is_a_state_and_the_default_is_followed",
        |folder| {
            let mut devices = Loop::new(None, None, 1);
            devices.wait("missing", |a, b| {
                *a == DeviceState::Missing(DeviceError::NoInput)
                    && *b == DeviceState::Missing(DeviceError::NoOutput)
            });
            add_sink(folder, "first");
            devices.wait("open", |_, b| name(b) == Some(("first", false)));
            add_sink(folder, "second");
            pactl(folder, "set-default-sink second");
            devices.wait("the new default", |_, b| name(b) == Some(("second", false)));
        },
    );
}

#[test]
fn a_sound_system_that_dies_is_met_again() {
    const TEST: &str = "a_sound_system_that_dies_is_met_again";
    if let Some(folder) = std::env::var_os(INSIDE) {
        return outlive(&PathBuf::from(folder));
    }
    let Some(mut pulse) = Pulse::start(TEST) else {
        return;
    };
    add_sink(pulse.folder(), "lab");
    let folder = pulse.folder().to_owned();
    let inside = std::thread::spawn(move || run_inside(&folder, TEST));
    wait_for(&inside, pulse.folder(), "heard");
    pulse.stop();
    wait_for(&inside, pulse.folder(), "lost");
    pulse.resume();
    add_sink(pulse.folder(), "lab");
    inside.join().unwrap();
}

#[test]
fn a_sound_system_that_hangs_is_done_without_until_it_goes_on() {
    const TEST: &str = "a_sound_system_that_hangs_is_done_without_until_it_goes_on";
    if let Some(folder) = std::env::var_os(INSIDE) {
        return outlive(&PathBuf::from(folder));
    }
    let Some(pulse) = Pulse::start(TEST) else {
        return;
    };
    add_sink(pulse.folder(), "lab");
    let folder = pulse.folder().to_owned();
    let inside = std::thread::spawn(move || run_inside(&folder, TEST));
    wait_for(&inside, pulse.folder(), "heard");
    pulse.hang();
    wait_for(&inside, pulse.folder(), "lost");
    pulse.wake();
    inside.join().unwrap();
}

/// PipeWire has a host of its own, for where nothing in it stands in for PulseAudio.
#[cfg(feature = "pipewire")]
#[test]
fn pipewire_is_talked_to_directly_and_its_devices_and_itself_come_and_go() {
    const TEST: &str = "pipewire_is_talked_to_directly_and_its_devices_and_itself_come_and_go";
    if let Some(folder) = std::env::var_os(INSIDE) {
        return through_pipewire(&PathBuf::from(folder));
    }
    let Some(mut system) = pipewire::PipeWire::start(TEST) else {
        return;
    };
    pipewire::add_node(system.folder(), "lab");
    let folder = system.folder().to_owned();
    let inside = std::thread::spawn(move || {
        run_with(&folder, TEST, &pipewire::PipeWire::environment(&folder));
    });
    wait_for(&inside, system.folder(), "heard");
    system.stop();
    wait_for(&inside, system.folder(), "lost");
    system.resume();
    pipewire::add_node(system.folder(), "lab");
    inside.join().unwrap();
}

#[cfg(feature = "pipewire")]
fn through_pipewire(folder: &Path) {
    let list = AudioDevices::connect().list().unwrap();
    let lab = list.outputs.iter().find(|device| device.name == "lab");
    let lab = lab.unwrap_or_else(|| panic!("{list:?}"));
    assert!(lab.id.starts_with("pipewire:"), "{list:?}");

    let mut devices = Loop::new(Some("lab"), Some(&lab.id), 1);
    devices.wait_until_open();
    let (loud, pure) = devices.tone();
    assert!(pure > 0.9, "{pure} of the energy is the tone's");
    assert!((loud - 0.3).abs() < 0.05, "{loud}");

    pipewire::remove_node(folder, "lab");
    devices.wait("gone", |a, b| {
        name(a).is_none_or(|it| it.1) && name(b).is_none_or(|it| it.1)
    });
    pipewire::add_node(folder, "lab");
    let chosen = |state: &DeviceState| name(state) == Some(("lab", false));
    devices.wait("back", |a, b| chosen(a) && chosen(b));
    assert!(devices.tone().1 > 0.9);

    std::fs::write(folder.join("heard"), "").unwrap();
    devices.wait("lost", |a, b| !a.is_open() && !b.is_open());
    std::fs::write(folder.join("lost"), "").unwrap();
    devices.wait("met again", |a, b| chosen(a) && chosen(b));
    assert!(devices.tone().1 > 0.9);
}

/// Until the process inside has told of something, by a file, or is over.
fn wait_for(inside: &std::thread::JoinHandle<()>, folder: &Path, file: &str) {
    let told = (0..600).any(|_| {
        sleep(Duration::from_millis(50));
        folder.join(file).exists() || inside.is_finished()
    });
    assert!(told, "never {file}");
}

fn outlive(folder: &Path) {
    let mut devices = Loop::new(None, None, 1);
    devices.wait_until_open();
    assert!(devices.tone().1 > 0.9);
    std::fs::write(folder.join("heard"), "").unwrap();
    devices.wait("lost", |a, b| !a.is_open() && !b.is_open());
    std::fs::write(folder.join("lost"), "").unwrap();
    devices.wait_until_open();
    assert!(devices.tone().1 > 0.9);
}

/// The share of the energy that lies at one frequency (Goertzel, in windows of 10 ms).
fn share_at(samples: &[f32], hz: f32) -> f32 {
    let step = hz * std::f32::consts::TAU / 48_000.0;
    let (mut at, mut all) = (0.0, 1e-9);
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
