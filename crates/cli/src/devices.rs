//! `roundtable devices`: microphones and speakers, and how loud one of them is.

use std::time::Duration;

use roundtable::voice::{AudioDevices, Capture, DEVICE_PERIOD, DeviceInfo, DeviceState, Direction};
use serde_json::{Value, json};

use crate::{args::Devices, clock, error::CliError, report::Report};

/// How often the level is shown.
const METER: Duration = Duration::from_millis(200);
/// Levels are drawn from here, in dB of full scale, to 0.
const QUIET_DBFS: f32 = -60.0;

/// Lists what is there, and meters a microphone if that is wanted.
pub(crate) fn run(args: &Devices) -> Result<(), CliError> {
    let report = Report { json: args.json };
    let list = AudioDevices::connect().list()?;
    for (direction, devices) in [
        (Direction::Input, &list.inputs),
        (Direction::Output, &list.outputs),
    ] {
        if devices.is_empty() && !args.json {
            println!("no {}", direction.name());
        }
        for device in devices {
            listed(report, direction, device);
        }
    }
    if let Some(device) = &args.meter {
        let chosen = (!device.is_empty()).then_some(device.as_str());
        meter(report, Capture::start(chosen, DEVICE_PERIOD), args.duration);
    }
    Ok(())
}

fn listed(report: Report, direction: Direction, device: &DeviceInfo) {
    let DeviceInfo {
        id,
        name,
        is_default,
    } = device;
    let direction = direction.name();
    let fields = json!({ "direction": direction, "id": id, "name": name, "default": is_default });
    let default = if *is_default { ", default" } else { "" };
    report.event(
        "found",
        fields,
        Some(format!("{direction:6} {name} ({id}{default})")),
    );
}

fn meter(report: Report, mut microphone: Capture, duration: Duration) {
    let until = clock::now() + duration;
    let mut heard = Vec::new();
    while clock::now() < until {
        std::thread::sleep(METER);
        if let Some(state) = microphone.take_change() {
            let (fields, words) = told(Direction::Input, &state);
            report.event("device", fields, Some(words));
        }
        heard.clear();
        if microphone.read(&mut heard) > 0 {
            let level = microphone.level_dbfs();
            let share = ((level - QUIET_DBFS) / -QUIET_DBFS).clamp(0.0, 1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 40
            let bar = "#".repeat((share * 40.0) as usize);
            let words = format!("{:4.0} dB {bar}", level.max(-99.0));
            report.event("level", json!({ "dbfs": level }), Some(words));
        }
    }
}

/// What has become of a device, as fields and in words.
pub(crate) fn told(direction: Direction, state: &DeviceState) -> (Value, String) {
    let direction = direction.name();
    match state {
        DeviceState::Open { device, stands_in } => (
            json!({ "direction": direction, "state": "open", "id": device.id, "name": device.name,
                "stands_in": stands_in }),
            match stands_in {
                true => format!(
                    "{direction}: {} stands in for the chosen one, which is not there",
                    device.name
                ),
                false => format!("{direction}: {}", device.name),
            },
        ),
        DeviceState::Missing(error) => (
            json!({ "direction": direction, "state": "missing", "reason": error.to_string() }),
            format!("no {direction}: {error}"),
        ),
        _ => (
            json!({ "direction": direction, "state": "opening" }),
            format!("{direction}: looking for it"),
        ),
    }
}
