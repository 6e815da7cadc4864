//! Plays packet traces through `neteq`: `peer-neteq FOLDER NAME:PHASE_US...`. The listener's blocks of 10 ms begin at the phase.
//!
//! Of each trace, `FOLDER/NAME.csv` has a line a packet, `arrival_us,seq,rtp_timestamp,payload_len`, and `FOLDER/NAME.opus` what
//! they carry, one after the other. What is heard goes to `FOLDER/NAME.f32`, 48 kHz mono from time 0 on, and one line a trace to
//! standard output: name, blocks of 10 ms that were made up, samples that stretching took away or added, and packets that were
//! late, all since the 10th second.
//!
//! The crate reads the clock itself, so a trace takes as long as it lasts; all are played at once, each by a thread, a little
//! after one another so that their blocks do not fall on the same moment.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use neteq::{AudioPacket, NetEq, NetEqConfig, NetEqStats, RtpHeader, codec::AudioDecoder};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const RATE_HZ: u32 = 48_000;
const BLOCK: Duration = Duration::from_millis(10);
/// One thread begins so long after the one before: in 10 ms all have their turn.
const APART: Duration = Duration::from_micros(9_130);
const WARM_UP: Duration = Duration::from_secs(10);
const PAYLOAD_TYPE: u8 = 111;

struct Packet {
    arrival: Duration,
    header: RtpHeader,
    payload: Vec<u8>,
}

struct Opus(opus::Decoder);

impl AudioDecoder for Opus {
    fn sample_rate(&self) -> u32 {
        RATE_HZ
    }

    fn channels(&self) -> u8 {
        1
    }

    fn decode(&mut self, encoded: &[u8]) -> neteq::Result<Vec<f32>> {
        let mut samples = vec![0.0; 5_760];
        let len = self
            .0
            .decode_float(encoded, &mut samples, false)
            .map_err(|error| neteq::NetEqError::DecoderError(error.to_string()))?;
        samples.truncate(len);
        Ok(samples)
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("peer-neteq FOLDER NAME...")?);
    let begin = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = args
        .zip(0_u32..)
        .map(|(argument, index)| {
            let (name, phase) = argument.split_once(':').unwrap_or((&argument, "3000"));
            let (name, phase) = (name.to_owned(), phase.to_owned());
            let path = folder.join(&name);
            let begin = begin + index * APART;
            thread::spawn(move || -> Result<String> {
                let phase = Duration::from_micros(phase.parse()?);
                let (samples, before, after) = play(&read(&path)?, begin, phase)?;
                fs::write(path.with_extension("f32"), samples)?;
                let made_up = after.lifetime.concealed_samples - before.lifetime.concealed_samples;
                let stretched = |stats: &NetEqStats| {
                    let lifetime = &stats.lifetime;
                    lifetime.inserted_samples_for_deceleration + lifetime.removed_samples_for_acceleration
                };
                let late = after.lifetime.late_packets_discarded - before.lifetime.late_packets_discarded;
                Ok(format!("{name} {} {} {late}", made_up / 480, stretched(&after) - stretched(&before)))
            })
        })
        .collect();
    for thread in threads {
        println!("{}", thread.join().map_err(|_| "a listener panicked")??);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Packet>> {
    let table = fs::read_to_string(path.with_extension("csv"))?;
    let payloads = fs::read(path.with_extension("opus"))?;
    let mut rest = payloads.as_slice();
    let packet = |line: &str| -> Result<Packet> {
        let fields: Vec<u64> = line.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
        let [arrival_us, sequence, timestamp, len] = fields[..] else {
            return Err("a packet has four fields".into());
        };
        let (payload, after) = rest.split_at_checked(usize::try_from(len)?).ok_or("payloads are missing")?;
        rest = after;
        Ok(Packet {
            arrival: Duration::from_micros(arrival_us),
            header: RtpHeader::new(u16::try_from(sequence)?, u32::try_from(timestamp)?, 1, PAYLOAD_TYPE, false),
            payload: payload.into(),
        })
    };
    table.lines().skip(1).map(packet).collect()
}

/// What was heard as little-endian floats, and the statistics after the warm-up and at the end.
fn play(packets: &[Packet], begin: Instant, phase: Duration) -> Result<(Vec<u8>, NetEqStats, NetEqStats)> {
    let config = NetEqConfig { sample_rate: RATE_HZ, ..NetEqConfig::default() };
    let mut neteq = NetEq::new(config)?;
    let decoder = opus::Decoder::new(RATE_HZ, opus::Channels::Mono)?;
    neteq.register_decoder(PAYLOAD_TYPE, Box::new(Opus(decoder)));
    let last = packets.last().map_or(Duration::ZERO, |packet| packet.arrival);
    let mut packets = packets.iter().peekable();
    let silence = usize::try_from(phase.as_micros() * 48 / 1000)?;
    let mut heard = vec![0; 4 * silence];
    let (mut now, mut before, mut after) = (phase, None, None);
    while now < last + Duration::from_secs(1) {
        while let Some(packet) = packets.next_if(|packet| packet.arrival <= now) {
            wait_until(begin + packet.arrival);
            let samples = opus::packet::get_nb_samples(&packet.payload, RATE_HZ)?;
            let ms = u32::try_from(samples)? * 1000 / RATE_HZ;
            let packet = AudioPacket::new(packet.header.clone(), packet.payload.clone(), RATE_HZ, 1, ms);
            neteq.insert_packet(packet)?;
        }
        wait_until(begin + now);
        if now >= WARM_UP && before.is_none() {
            before = Some(neteq.get_statistics());
        }
        // What it makes up when nobody sends any more is no concealment.
        if now >= last && after.is_none() {
            after = Some(neteq.get_statistics());
        }
        let frame = neteq.get_audio()?;
        heard.extend(frame.samples.iter().flat_map(|sample| sample.to_le_bytes()));
        now += BLOCK;
    }
    let after = after.unwrap_or_else(|| neteq.get_statistics());
    Ok((heard, before.unwrap_or_else(|| after.clone()), after))
}

fn wait_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}
