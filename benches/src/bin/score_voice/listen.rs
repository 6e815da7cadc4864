//! One listener: the real receiver, told the time.

use std::time::Duration;

use roundtable_core::Timestamp;
use roundtable_sync::JitterConfig;
use roundtable_voice::{VoiceReceiver, VoiceReceiverConfig, VoiceStats};

use crate::{
    Error,
    pesq::Piece,
    trace::{Arrival, Trace, is_measured},
};

/// What is pulled at once: 5 ms, as in a room.
pub(crate) const PULL: usize = 240;
/// How often in a second.
pub(crate) const PULLS: u64 = 200;

/// What the listener's ear gets, and how it came about; the counters are those since the warm-up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// From time 0 on; taken away once it was compared with what was said.
    pub(crate) samples: Vec<f32>,
    /// What PESQ judges of it.
    pub(crate) pieces: Vec<Piece>,
    /// Wide-band PESQ (ITU-T P.862.2), if it could be taken.
    pub(crate) pesq: Option<f64>,
    /// When something was said, in seconds, and how much later than by the fastest packet it was heard, in milliseconds.
    pub(crate) delays: Vec<(f64, f64)>,
    /// Pieces of 10 ms that were made up.
    pub(crate) concealed: u64,
    /// Frames that were shortened or lengthened.
    pub(crate) stretched: u64,
    /// Packets that came too late.
    pub(crate) late: u64,
    /// Ten times a second: when, the delay, and the one aimed at, in milliseconds.
    pub(crate) course: Vec<(f64, f32, f32)>,
}

/// The receiver's own configuration, or a buffer that does not adapt.
pub(crate) fn config(fixed_ms: Option<u64>) -> VoiceReceiverConfig {
    let config = VoiceReceiverConfig::default();
    let Some(ms) = fixed_ms else {
        return config;
    };
    let delay = Duration::from_millis(ms);
    let jitter = JitterConfig::voice()
        .with_delay(delay, delay)
        .with_start_delay(delay);
    config.with_jitter(jitter)
}

/// Listens to all of it, and a second longer.
pub(crate) fn listen(trace: &Trace, config: VoiceReceiverConfig) -> Result<Heard, Error> {
    let mut receiver = VoiceReceiver::new(config)?;
    let mut arrivals = trace.arrivals.iter().peekable();
    let mut heard = Heard::default();
    heard.samples.resize(trace.phase_samples(), 0.0);
    let (mut before, mut now) = (None, Timestamp::ZERO);
    let ticks = trace.end.as_micros() * PULLS / 1_000_000 + PULLS;
    for tick in 0..ticks {
        now = Timestamp::from_millis(tick * 1000 / PULLS) + trace.phase;
        while let Some((at, arrival)) = arrivals.next_if(|(at, _)| *at <= now) {
            match arrival {
                Arrival::Packet(packet) => receiver.push(*at, packet.clone()),
                Arrival::Clock(clock) => receiver.push_clock(*at, *clock),
            }
        }
        if is_measured(now) {
            before.get_or_insert_with(|| receiver.stats(now));
        }
        let mut block = [0.0; PULL];
        receiver.pull(now, &mut block);
        heard.samples.extend_from_slice(&block);
        if tick % (PULLS / 10) == 0 {
            let stats = receiver.stats(now);
            let at_s = now.as_micros() as f64 / 1e6;
            heard.course.push((at_s, stats.delay_ms, stats.target_ms));
        }
    }
    let before = before.unwrap_or_default();
    count(&mut heard, &before, &receiver.stats(now));
    Ok(heard)
}

fn count(heard: &mut Heard, before: &VoiceStats, after: &VoiceStats) {
    heard.concealed = after.concealed - before.concealed;
    heard.stretched = after.stretched - before.stretched;
    heard.late = after.late - before.late;
}
