//! Packets that somebody recorded: their times and numbers, with our words in them.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use roundtable_core::{MediaPacket, Timestamp, Unwrapper, WallTime};
use roundtable_voice::{Activation, VoiceOut, VoiceSender, VoiceSenderConfig};

use crate::{
    Error,
    figures::Played,
    speech,
    trace::{self, Arrival, BLOCK, Trace, is_measured},
};

/// One line of a table.
struct Line {
    arrival: Timestamp,
    sequence: u16,
    timestamp: u32,
}

/// A trace as a scenario: the frame of 20 ms that a packet's timestamp stands for goes into it.
pub(crate) fn play(path: &Path) -> Result<Played, Error> {
    let lines = read(&fs::read_to_string(path)?)?;
    let mut unwrapper = Unwrapper::new();
    let timestamps: Vec<i64> = lines
        .iter()
        .map(|line| unwrapper.unwrap_u32(line.timestamp))
        .collect();
    let first = timestamps.iter().copied().min().unwrap_or(0);
    let frames = timestamps
        .iter()
        .map(|timestamp| (timestamp - first) / 960)
        .max()
        .unwrap_or(0)
        + 1;
    let seconds = frames.unsigned_abs() / 50 + 1;
    let said = speech::lasting(&speech::recorded()?, seconds);
    let payloads = encoded(&said)?;
    let transit_us = |(line, timestamp): (&Line, &i64)| {
        line.arrival.as_micros().cast_signed() - (timestamp - first) * 1_000_000 / 48_000
    };
    let least_us = lines
        .iter()
        .zip(&timestamps)
        .map(transit_us)
        .min()
        .unwrap_or(0);
    // The fastest packet took no time after its last sample was captured.
    let shift_us = 20_000 - least_us;
    let mut trace = Trace {
        end: Timestamp::from_millis(seconds * 1000),
        fastest: Duration::ZERO,
        phase: trace::phase(1),
        ..Trace::default()
    };
    let mut sequences = BTreeMap::new();
    let mut unwrapper = Unwrapper::new();
    for (line, timestamp) in lines.iter().zip(&timestamps) {
        let at_us = line.arrival.as_micros().saturating_add_signed(shift_us);
        let arrival = Timestamp::from_micros(at_us);
        let Some(payload) = payloads.get(usize::try_from((timestamp - first) / 960).unwrap_or(0))
        else {
            continue;
        };
        trace.bytes += payload.payload.len() as u64;
        if is_measured(arrival) {
            sequences.insert(unwrapper.unwrap_u16(line.sequence), ());
        }
        let packet = MediaPacket {
            sequence: line.sequence,
            timestamp: line.timestamp,
            ..payload.clone()
        };
        trace.arrivals.push((arrival, Arrival::Packet(packet)));
    }
    trace.arrivals.sort_by_key(|(at, _)| *at);
    let span = sequences.first_key_value().zip(sequences.last_key_value());
    trace.sent = span.map_or(0, |(first, last)| (last.0 - first.0 + 1).unsigned_abs());
    trace.lost = trace.sent.saturating_sub(sequences.len() as u64);
    let name = path
        .file_stem()
        .map_or("trace".into(), |stem| stem.to_string_lossy().into_owned());
    let mut played = Played {
        what: format!("recorded elsewhere: {} packets", lines.len()),
        name,
        recovers_from_s: None,
        said,
        traces: vec![trace],
        heard: BTreeMap::new(),
    };
    played.listen()?;
    Ok(played)
}

fn read(table: &str) -> Result<Vec<Line>, Error> {
    let lines = table.lines().enumerate();
    let lines = lines.filter(|(index, line)| {
        !(line.trim().is_empty() || *index == 0 && line.contains("arrival"))
    });
    let line = |(index, line): (usize, &str)| {
        let mut fields = line
            .split(',')
            .map(|field| field.trim().parse::<u64>().ok());
        let mut next = || fields.next().flatten().ok_or(Error::Trace(index + 1));
        Ok(Line {
            arrival: Timestamp::from_micros(next()?),
            sequence: next()? as u16,
            timestamp: next()? as u32,
        })
    };
    lines.map(line).collect()
}

/// A packet for each 20 ms of `said`.
fn encoded(said: &[f32]) -> Result<Vec<MediaPacket>, Error> {
    let mut sender =
        VoiceSender::new(VoiceSenderConfig::default().with_activation(Activation::Always))?;
    let (mut out, mut packets) = (Vec::new(), Vec::new());
    for (tick, block) in said.chunks_exact(BLOCK).enumerate() {
        sender.push(
            Timestamp::from_millis(10 * tick as u64),
            WallTime::from_millis(0),
            block,
            &mut out,
        );
        for event in out.drain(..) {
            if let VoiceOut::Packet(packet) = event {
                packets.push(packet);
            }
        }
    }
    Ok(packets)
}
