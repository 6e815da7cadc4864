//! Packets that somebody recorded: their times, numbers and lengths, with our words in them.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use roundtable_core::{MediaPacket, Timestamp, Unwrapper, WallTime};
use roundtable_media_codec::OpusConfig;
use roundtable_voice::{Activation, VoiceOut, VoiceSender, VoiceSenderConfig};

use crate::{
    Error, WARM_UP_S,
    figures::Played,
    speech,
    trace::{self, Arrival, BLOCK, Trace, is_measured},
};

/// How much a packet may hold, in ticks of 48 kHz: 10, 20, 40 or 60 ms.
const FRAMES: [u64; 4] = [480, 960, 1_920, 2_880];

/// One line of a table.
#[derive(Debug)]
struct Line {
    arrival: Timestamp,
    /// Unwrapped.
    sequence: i64,
    timestamp: i64,
    payload_len: u64,
}

/// A trace as a scenario: the frame that a packet's timestamp stands for goes into it.
pub(crate) fn play(path: &Path) -> Result<Played, Error> {
    let lines = read(&fs::read_to_string(path)?)?;
    let frame = frame_ticks(&lines)?;
    let first = lines.iter().map(|line| line.timestamp).min().unwrap_or(0);
    let place = |line: &Line| (line.timestamp - first).unsigned_abs() / frame;
    let frames = lines.iter().map(place).max().map_or(0, |last| last + 1);
    let seconds = (frames * frame).div_ceil(48_000) + 1;
    if (frames * frame / 48_000) as f64 <= WARM_UP_S {
        return Err(Error::TraceShort(frames * frame / 48_000));
    }
    let said = speech::lasting(&speech::recorded()?, seconds);
    let payloads = encoded(&said, frame)?;
    let trace = trace(&lines, &payloads, frame);
    let name = path
        .file_stem()
        .map_or("trace".into(), |stem| stem.to_string_lossy().into_owned());
    let ms = frame / 48;
    let mut played = Played {
        what: format!("recorded elsewhere: {} packets of {ms} ms", lines.len()),
        name,
        recovers_from_s: None,
        said,
        traces: vec![trace],
        heard: std::collections::BTreeMap::new(),
    };
    played.listen()?;
    Ok(played)
}

/// The arrivals, and what is true of them. What a packet weighs is what the table says, be its words ours.
fn trace(lines: &[Line], payloads: &[MediaPacket], frame: u64) -> Trace {
    let first = lines.iter().map(|line| line.timestamp).min().unwrap_or(0);
    let captured_us = |line: &Line| (line.timestamp - first) * 1_000_000 / 48_000;
    let transit_us = |line: &Line| line.arrival.as_micros().cast_signed() - captured_us(line);
    let least_us = lines.iter().map(transit_us).min().unwrap_or(0);
    // The fastest packet took no time after its last sample was captured.
    let frame_us = (frame * 1_000_000 / 48_000).cast_signed();
    let mut trace = Trace {
        fastest: Duration::ZERO,
        phase: trace::phase(1),
        ..Trace::default()
    };
    let mut sequences = BTreeSet::new();
    for line in lines {
        let shifted_us = |us: i64| Timestamp::from_micros(us.max(0).unsigned_abs());
        let arrival = shifted_us(line.arrival.as_micros().cast_signed() + frame_us - least_us);
        let sent = shifted_us(captured_us(line) + frame_us);
        trace.end = trace.end.max(sent);
        if is_measured(sent) && sequences.insert(line.sequence) {
            trace.bytes += line.payload_len;
            trace.slowest = trace.slowest.max(arrival.saturating_since(sent));
        }
        let place = (line.timestamp - first).unsigned_abs() / frame;
        if let Some(payload) = payloads.get(place as usize) {
            let packet = MediaPacket {
                sequence: line.sequence as u16,
                timestamp: line.timestamp as u32,
                ..payload.clone()
            };
            trace.arrivals.push((arrival, Arrival::Packet(packet)));
        }
    }
    trace.arrivals.sort_by_key(|(at, _)| *at);
    let span = sequences.first().zip(sequences.last());
    trace.sent = span.map_or(0, |(first, last)| (last - first + 1).unsigned_abs());
    trace.lost = trace.sent.saturating_sub(sequences.len() as u64);
    trace
}

/// By how much a packet's timestamp usually differs from the one's before: what a packet holds.
fn frame_ticks(lines: &[Line]) -> Result<u64, Error> {
    let mut numbers: Vec<(i64, i64)> = lines
        .iter()
        .map(|line| (line.sequence, line.timestamp))
        .collect();
    numbers.sort_unstable();
    let pairs = numbers.windows(2);
    let steps = pairs.filter(|pair| pair[1].0 == pair[0].0 + 1);
    // After a pause of the speaker it differs by more.
    let least = steps.map(|pair| pair[1].1.abs_diff(pair[0].1)).min();
    let frame = least.unwrap_or(0);
    if FRAMES.contains(&frame) {
        Ok(frame)
    } else {
        Err(Error::TraceFrames(frame))
    }
}

fn read(table: &str) -> Result<Vec<Line>, Error> {
    let lines = table.lines().enumerate();
    let lines = lines.filter(|(index, line)| {
        !(line.trim().is_empty() || *index == 0 && line.contains("arrival"))
    });
    let (mut sequences, mut timestamps) = (Unwrapper::new(), Unwrapper::new());
    let line = |(index, line): (usize, &str)| {
        let strange = || Error::Trace(index + 1);
        let fields = line.split(',').map(|field| field.trim().parse::<u64>());
        let fields: Vec<u64> = fields.collect::<Result<_, _>>().map_err(|_| strange())?;
        let &[arrival_us, sequence, timestamp, payload_len] = fields.as_slice() else {
            return Err(strange());
        };
        let sequence = u16::try_from(sequence).map_err(|_| strange())?;
        let timestamp = u32::try_from(timestamp).map_err(|_| strange())?;
        Ok(Line {
            arrival: Timestamp::from_micros(arrival_us),
            sequence: sequences.unwrap_u16(sequence),
            timestamp: timestamps.unwrap_u32(timestamp),
            payload_len,
        })
    };
    lines.map(line).collect()
}

/// A packet for each frame of `said`.
fn encoded(said: &[f32], frame: u64) -> Result<Vec<MediaPacket>, Error> {
    let duration = Duration::from_millis(frame / 48);
    let config = VoiceSenderConfig::default()
        .with_opus(OpusConfig::default().with_frame_duration(duration))
        .with_activation(Activation::Always);
    let mut sender = VoiceSender::new(config)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// So many seconds of packets of 100 bytes, each `ticks` long and 40 ms on its way, of which every tenth is lost.
    fn table(seconds: u64, ticks: u64) -> String {
        let packets = (0..seconds * 48_000 / ticks).filter(|number| number % 10 != 9);
        let line = |number: u64| {
            let at_us = (number + 1) * ticks * 1_000_000 / 48_000 + 40_000;
            format!(
                "{at_us},{},{},100\n",
                (65_500 + number) % 65_536,
                number * ticks
            )
        };
        let lines: String = packets.map(line).collect();
        format!("arrival_us,seq,rtp_timestamp,payload_len\n{lines}")
    }

    fn traced(table: &str, ticks: u64) -> Trace {
        let lines = read(table).unwrap();
        assert_eq!(frame_ticks(&lines).unwrap(), ticks);
        trace(&lines, &[], ticks)
    }

    #[test]
    fn a_trace_weighs_what_its_table_says_from_the_tenth_second_on() {
        for (ticks, kbps) in [(480, 72.0), (960, 36.0), (2_880, 12.0)] {
            let trace = traced(&table(20, ticks), ticks);
            assert!(
                (trace.kbps() - kbps).abs() < 0.03 * kbps,
                "{}",
                trace.kbps()
            );
            let lost = 100.0 * trace.lost as f64 / trace.sent as f64;
            assert!((9.0..=10.5).contains(&lost), "{lost} % of {}", trace.sent);
        }
    }

    #[test]
    fn what_is_no_trace_of_voice_is_refused() {
        assert!(matches!(read("0,1,960\n"), Err(Error::Trace(1))));
        assert!(matches!(read("0,65536,960,80\n"), Err(Error::Trace(1))));
        assert!(matches!(read("0,1,4294967296,80\n"), Err(Error::Trace(1))));
        let lines = read(&table(12, 1_000)).unwrap();
        assert!(matches!(
            frame_ticks(&lines),
            Err(Error::TraceFrames(1_000))
        ));
    }

    #[test]
    fn a_trace_that_ends_within_the_warm_up_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short.csv");
        fs::write(&path, table(10, 960)).unwrap();
        assert!(matches!(play(&path), Err(Error::TraceShort(_))));
    }
}
