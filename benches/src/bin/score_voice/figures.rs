//! What came out of a scenario: one set of figures for each listener.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    Error, WARM_UP_S,
    aims::{self, Aim},
    ear,
    listen::{self, Heard},
    pesq,
    scenario::Scenario,
    speech,
    trace::{self, Trace},
};

/// From capture to packet, and Opus's own look-ahead: in every delay, whoever listens.
pub(crate) const CODEC_MS: f64 = 20.0 + 6.5;
/// Delays of buffers that do not adapt, in milliseconds: two to compare with, and more for the picture.
pub(crate) const FIXED_MS: [u64; 2] = [60, 100];

/// Who listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listener {
    /// The receiver as it is.
    Adaptive,
    /// The receiver with one delay, in milliseconds.
    Fixed(u64),
    /// The crate `neteq`.
    NetEq,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Adaptive => f.write_str("adaptive"),
            Self::Fixed(ms) => write!(f, "fixed {ms}"),
            Self::NetEq => f.write_str("neteq"),
        }
    }
}

/// A scenario that was played to everybody, with one or more seeds.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) name: String,
    pub(crate) what: String,
    /// When the delay should begin to come back, in seconds.
    pub(crate) recovers_from_s: Option<f64>,
    pub(crate) said: Vec<f32>,
    pub(crate) traces: Vec<Trace>,
    /// By listener and seed.
    pub(crate) heard: BTreeMap<Listener, Vec<Heard>>,
}

/// The figures of one listener: medians over the seeds, and the worst of what aims are about.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) scenario: String,
    pub(crate) listener: Listener,
    /// Share of the packets that the network lost, in percent.
    pub(crate) lost: f64,
    /// By how much speech was heard later than the fastest packet would have brought it, in milliseconds.
    pub(crate) mean_ms: f64,
    pub(crate) mean_worst_ms: f64,
    pub(crate) p95_ms: f64,
    /// By how much the slowest packet was behind the fastest, in milliseconds.
    pub(crate) slowest_ms: f64,
    /// Shares of what was sent, in percent.
    pub(crate) concealed: f64,
    pub(crate) concealed_worst: f64,
    /// The worst of made up less lost, in percentage points.
    pub(crate) beyond_worst: f64,
    pub(crate) stretched: f64,
    pub(crate) late: f64,
    /// Until the delay was back within 10 ms after a spike, in seconds.
    pub(crate) recovery_s: Option<f64>,
    pub(crate) kbps: f64,
    pub(crate) pesq: Option<f64>,
    pub(crate) pesq_worst: Option<f64>,
}

impl Played {
    /// Lets our listeners hear it.
    pub(crate) fn new(scenario: &Scenario, seeds: u64, speech: &[f32]) -> Result<Self, Error> {
        let said = speech::lasting(speech, scenario.seconds);
        let traces = (1..=seeds).map(|seed| trace::talk(scenario, seed, &said));
        let traces: Vec<Trace> = traces.collect::<Result<_, _>>()?;
        let mut this = Self {
            name: scenario.name.into(),
            what: scenario.what.into(),
            recovers_from_s: scenario.recovers_from_s(),
            said,
            traces,
            heard: BTreeMap::new(),
        };
        this.listen()?;
        Ok(this)
    }

    /// Lets our listeners hear it.
    pub(crate) fn listen(&mut self) -> Result<(), Error> {
        let listeners = [None].into_iter().chain(FIXED_MS.map(Some));
        for fixed_ms in listeners {
            let listener = fixed_ms.map_or(Listener::Adaptive, Listener::Fixed);
            for seed in 0..self.traces.len() {
                let heard = listen::listen(&self.traces[seed], listen::config(fixed_ms))?;
                self.add(listener, seed, heard);
            }
        }
        Ok(())
    }

    /// Compares what was heard of a seed with what was said, and keeps what is needed of it: sound is large. PESQ takes long,
    /// so it judges all that our own listener heard, and of the others the first seed.
    pub(crate) fn add(&mut self, listener: Listener, seed: usize, mut heard: Heard) {
        let trace = &self.traces[seed];
        let samples = std::mem::take(&mut heard.samples);
        heard.delays = delays(&self.said, trace, &samples);
        if seed == 0 || listener == Listener::Adaptive {
            heard.pieces = pesq::pieces(&self.said, trace, &samples, &heard.delays);
        }
        if seed > 0 {
            heard.course = Vec::new();
        }
        self.heard.entry(listener).or_default().push(heard);
    }

    pub(crate) fn figures(&self) -> Vec<Figures> {
        let listeners = self.heard.iter();
        listeners
            .map(|(listener, heard)| self.of(*listener, heard))
            .collect()
    }

    fn of(&self, listener: Listener, heard: &[Heard]) -> Figures {
        let all = self.traces.iter().zip(heard);
        let singles: Vec<Figures> = all
            .map(|(trace, heard)| self.one(listener, trace, heard))
            .collect();
        let sorted = |part: fn(&Figures) -> Option<f64>| {
            let mut values: Vec<f64> = singles.iter().filter_map(part).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let middle = |part| sorted(part).get(singles.len() / 2).copied().unwrap_or(0.0);
        let most = |part| sorted(part).last().copied();
        let ratings = sorted(|one| one.pesq);
        Figures {
            scenario: self.name.clone(),
            listener,
            lost: middle(|one| Some(one.lost)),
            mean_ms: middle(|one| Some(one.mean_ms)),
            mean_worst_ms: most(|one| Some(one.mean_ms)).unwrap_or(0.0),
            p95_ms: middle(|one| Some(one.p95_ms)),
            slowest_ms: middle(|one| Some(one.slowest_ms)),
            concealed: middle(|one| Some(one.concealed)),
            concealed_worst: most(|one| Some(one.concealed)).unwrap_or(0.0),
            beyond_worst: most(|one| Some(one.beyond_worst)).unwrap_or(0.0),
            stretched: middle(|one| Some(one.stretched)),
            late: middle(|one| Some(one.late)),
            recovery_s: most(|one| one.recovery_s),
            kbps: middle(|one| Some(one.kbps)),
            pesq: ratings.get(ratings.len() / 2).copied(),
            pesq_worst: ratings.first().copied(),
        }
    }

    fn one(&self, listener: Listener, trace: &Trace, heard: &Heard) -> Figures {
        let delays = &heard.delays;
        let mut sorted: Vec<f64> = delays
            .iter()
            .filter(|(at, _)| *at >= WARM_UP_S)
            .map(|(_, ms)| *ms)
            .collect();
        sorted.sort_by(f64::total_cmp);
        let percent = |part: u64, packets: u64| 100.0 * part as f64 / packets.max(1) as f64;
        let mean_ms = sorted.iter().sum::<f64>() / sorted.len().max(1) as f64;
        let lost = percent(trace.lost, trace.sent);
        let concealed = percent(heard.concealed, 2 * trace.sent);
        let slowest = trace.slowest.saturating_sub(trace.fastest);
        Figures {
            scenario: self.name.clone(),
            listener,
            lost,
            mean_ms,
            mean_worst_ms: mean_ms,
            p95_ms: sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(0.0),
            slowest_ms: slowest.as_secs_f64() * 1000.0,
            concealed,
            concealed_worst: concealed,
            beyond_worst: concealed - lost,
            stretched: percent(heard.stretched, trace.sent),
            late: percent(heard.late, trace.sent),
            recovery_s: self.recovers_from_s.map(|from| recovery(delays, from)),
            kbps: trace.kbps(),
            pesq: heard.pesq,
            pesq_worst: heard.pesq,
        }
    }
}

/// The delays that the ear found, over the fastest packet's transit.
pub(crate) fn delays(said: &[f32], trace: &Trace, heard: &[f32]) -> Vec<(f64, f64)> {
    let least_ms = CODEC_MS + trace.fastest.as_secs_f64() * 1000.0;
    let delays = ear::delays(said, heard, trace.ppm);
    delays
        .into_iter()
        .map(|(at, ms)| (at, ms - least_ms))
        .collect()
}

/// How long after `from` the delay is back within 10 ms of what it was in the 5 s before the spike, and
/// stays so: the last stretch beyond, of those in the 10 s after.
fn recovery(delays: &[(f64, f64)], from: f64) -> f64 {
    let earlier: Vec<f64> = delays
        .iter()
        .filter(|(at, _)| (from - 5.5..from - 0.5).contains(at))
        .map(|(_, ms)| *ms)
        .collect();
    let before = earlier.iter().sum::<f64>() / earlier.len().max(1) as f64;
    let after = delays
        .iter()
        .filter(|(at, _)| (from..from + 10.0).contains(at));
    let beyond = after.filter(|(_, ms)| *ms > before + 10.0);
    beyond.map(|(at, _)| at - from).fold(0.0, f64::max)
}

impl Figures {
    pub(crate) fn json(&self) -> serde_json::Value {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        json!({
            "scenario": self.scenario,
            "listener": self.listener.to_string(),
            "lost_percent": rounded(self.lost),
            "delay_mean_ms": rounded(self.mean_ms),
            "delay_mean_worst_ms": rounded(self.mean_worst_ms),
            "slowest_packet_ms": rounded(self.slowest_ms),
            "delay_p95_ms": rounded(self.p95_ms),
            "concealed_percent": rounded(self.concealed),
            "concealed_worst_percent": rounded(self.concealed_worst),
            "stretched_percent": rounded(self.stretched),
            "late_percent": rounded(self.late),
            "recovery_s": self.recovery_s.map(rounded),
            "kbps": rounded(self.kbps),
            "pesq_wb": self.pesq.map(rounded),
            "pesq_wb_worst": self.pesq_worst.map(rounded),
        })
    }

    /// Prints a row of the table, or the JSON object, with what was aimed at.
    pub(crate) fn show(&self, json: bool, aims: &[Aim]) {
        if json {
            let mut object = self.json();
            aims::add_to(&mut object, aims);
            println!("{object}");
            return;
        }
        let pesq = self.pesq.map_or("-".into(), |pesq| format!("{pesq:.2}"));
        let recovery = self
            .recovery_s
            .map_or(String::new(), |s| format!("  back after {s:.1} s"));
        let missed = aims::missed(aims);
        println!(
            "{:<14} {:<10} {:>6.1} ms (worst {:>5.1}, 95 % {:>5.1})  lost {:>5.2} %  concealed {:>5.2} % (worst {:>5.2})  stretched {:>5.2} %  late {:>5.2} %  {:>5.1} kbit/s  PESQ {pesq}{recovery}{missed}",
            self.scenario,
            self.listener.to_string(),
            self.mean_ms,
            self.mean_worst_ms,
            self.p95_ms,
            self.lost,
            self.concealed,
            self.concealed_worst,
            self.stretched,
            self.late,
            self.kbps,
        );
    }
}
