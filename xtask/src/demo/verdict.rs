//! Whether the demo did all that it should, from what its processes said, left and recorded.

use serde::Serialize;

use crate::{
    demo::{
        room::Native,
        speech::{self, Comparison, MAX_PRESENCE, MIN_CORRELATION, MIN_DATED},
        state::State,
    },
    process::Ended,
};

/// What `demo --check` prints. Times are in milliseconds, and of several the largest is given.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Everything below is as it should be.
    pub(crate) ok: bool,
    /// What is not.
    pub(crate) failures: Vec<String>,
    /// What could not be tried here, and why.
    pub(crate) skipped: Vec<String>,
    /// From the start of a negotiation until its WebRTC transport is open.
    pub(crate) webrtc_open_ms: Option<f64>,
    /// The same over QUIC.
    pub(crate) quic_open_ms: Option<f64>,
    /// From a peer's first link until the first command of another author is applied.
    pub(crate) first_command_ms: Option<u64>,
    /// From a link until its voice is first heard; a pause of the speaker counts.
    pub(crate) first_voice_ms: Option<u64>,
    /// From a sample's capture to its playing, the median over all stretches of speech.
    pub(crate) mouth_to_ear_p50_ms: Option<f64>,
    /// The same, exceeded by one stretch in twenty.
    pub(crate) mouth_to_ear_p95_ms: Option<f64>,
    /// Every peer ended with the same state, the late one included.
    pub(crate) state_hashes_equal: bool,
    /// Commands that every peer applied.
    pub(crate) commands: u64,
    /// Processor time of all processes, in seconds, where the system tells.
    pub(crate) cpu_seconds: Option<f64>,
    /// How long they ran, in seconds.
    pub(crate) seconds: f64,
    /// Every pair of native peers.
    pub(crate) pairs: Vec<Pair>,
    /// Every native peer's recording of every speaker.
    pub(crate) correlations: Vec<Voice>,
    /// What the browser saw and what was heard of it.
    pub(crate) browser: Option<serde_json::Value>,
}

/// Two peers and how they were linked.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    peers: [&'static str; 2],
    transport: Option<String>,
    open_ms: Option<f64>,
}

/// One peer's recording of another.
#[derive(Debug, Serialize)]
pub(crate) struct Voice {
    /// Who spoke.
    pub(crate) speaker: String,
    /// Who recorded it.
    pub(crate) listener: String,
    /// Correlation of the envelopes.
    pub(crate) correlation: f64,
    /// Share of the stretches of speech that were found in the waveform.
    pub(crate) dated: f64,
    /// The most that another speaker was heard.
    pub(crate) intruder: f64,
    /// Median delay.
    pub(crate) mouth_to_ear_ms: Option<f64>,
}

impl Report {
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    /// Judges how every pair was linked. To be told before anyone leaves.
    pub(crate) fn judge_links(&mut self, state: &State, natives: &[Native]) {
        for (index, &one) in natives.iter().enumerate() {
            for &other in &natives[index + 1..] {
                self.judge_pair(state, one, other);
            }
        }
        let largest = |transport| {
            let taken = |pair: &&Pair| pair.transport.as_deref() == Some(transport);
            let times = self.pairs.iter().filter(taken).filter_map(|p| p.open_ms);
            times.reduce(f64::max)
        };
        (self.quic_open_ms, self.webrtc_open_ms) = (largest("quic"), largest("webrtc"));
    }

    fn judge_pair(&mut self, state: &State, one: Native, other: Native) {
        let expected = one.transport_to(other);
        let mut pair = Pair {
            peers: [one.name, other.name],
            transport: None,
            open_ms: None,
        };
        for (here, there) in [(one, other), (other, one)] {
            let names = format!("{} -> {}", here.name, there.name);
            let seen = state.peer(here.name).map(|peer| &peer.remotes);
            let Some(seen) = seen.and_then(|remotes| remotes.get(there.name)) else {
                self.fail(format!("{names}: never linked"));
                continue;
            };
            if seen.lost > 0 {
                self.fail(format!("{names}: lost {} times", seen.lost));
            }
            if seen.transport != expected {
                self.fail(format!(
                    "{names}: over {:?}, not {expected}",
                    seen.transport
                ));
            }
            pair.transport = Some(seen.transport.clone());
            let over_it = seen.connected.iter().filter(|(over, _)| *over == expected);
            let taken = over_it.map(|(_, ms)| *ms).next();
            pair.open_ms = pair.open_ms.max_some(taken);
        }
        self.pairs.push(pair);
    }

    /// Judges what the peers agree on at the end: the state, and no fewer than `least` commands.
    pub(crate) fn judge_log(&mut self, state: &State, natives: &[Native], least: u64) {
        let mut hashes = Vec::new();
        let mut fewest = u64::MAX;
        for native in natives {
            let peer = state.peer(native.name);
            let Some(summary) = peer.and_then(|peer| peer.summary.as_ref()) else {
                self.fail(format!("{}: no summary", native.name));
                continue;
            };
            hashes.push(summary.state_hash.as_str());
            fewest = fewest.min(summary.commands);
            let left = (summary.tasks_left, summary.sockets_left.unwrap_or(0));
            if left != (0, 0) {
                let (tasks, sockets) = left;
                self.fail(format!(
                    "{}: left {tasks} tasks and {sockets} sockets behind",
                    native.name
                ));
            }
        }
        self.state_hashes_equal = hashes.len() == natives.len()
            && hashes
                .iter()
                .all(|hash| !hash.is_empty() && *hash == hashes[0]);
        if !self.state_hashes_equal {
            self.fail(format!("state hashes differ: {}", hashes.join(", ")));
        }
        self.commands = if hashes.is_empty() { 0 } else { fewest };
        if self.commands < least {
            self.fail(format!("{} commands applied, not {least}", self.commands));
        }
        let peers = || natives.iter().filter_map(|native| state.peer(native.name));
        self.first_command_ms = peers().filter_map(|peer| peer.first_command_ms).max();
        self.first_voice_ms = peers()
            .flat_map(|peer| peer.remotes.values())
            .filter_map(|remote| remote.first_voice_ms)
            .max();
    }

    /// Judges one recording.
    pub(crate) fn judge_voice(&mut self, speaker: &str, listener: &str, found: &Comparison) {
        let names = format!("{speaker} as heard by {listener}");
        let correlation = found.correlation;
        // A correlation that is not a number must fail too.
        if correlation.is_nan() || correlation < MIN_CORRELATION {
            self.fail(format!("{names}: correlation is {correlation:.3}"));
        }
        if found.dated < MIN_DATED {
            let percent = found.dated * 100.0;
            self.fail(format!(
                "{names}: only {percent:.0} % of the words are found"
            ));
        }
        let intruder = found.intruder.as_ref();
        if let Some((name, presence)) = intruder.filter(|(_, presence)| *presence > MAX_PRESENCE) {
            self.fail(format!("{names}: holds {name} too ({presence:.2})"));
        }
        self.correlations.push(Voice {
            speaker: speaker.into(),
            listener: listener.into(),
            correlation: found.correlation,
            dated: found.dated,
            intruder: intruder.map_or(0.0, |(_, presence)| *presence),
            mouth_to_ear_ms: speech::percentile(&found.delays_ms, 50),
        });
    }

    /// Judges how the processes ended.
    pub(crate) fn judge_ends(&mut self, ended: &[Ended]) {
        for process in ended {
            match process.status {
                None => self.fail(format!("{}: had to be killed", process.name)),
                Some(status) if !status.success() => {
                    self.fail(format!("{}: {status}", process.name));
                }
                Some(_) => {}
            }
            if let Some(line) = process
                .log
                .lines()
                .find(|line| line.contains("panicked at"))
            {
                self.fail(format!("{}: {line}", process.name));
            }
        }
    }

    /// The last word.
    pub(crate) fn conclude(&mut self, strict: bool) {
        self.ok = self.failures.is_empty() && (!strict || self.skipped.is_empty());
    }
}

/// The larger of two values that may be missing.
trait MaxSome {
    fn max_some(self, other: Self) -> Self;
}

impl MaxSome for Option<f64> {
    fn max_some(self, other: Self) -> Self {
        self.into_iter().chain(other).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::room::NATIVES, process::Heard};

    fn tell(state: &mut State, name: &str, line: &str) {
        let name = name.to_owned();
        let line = Some(serde_json::from_str(line).unwrap());
        state.hear(Heard { name, line });
    }

    fn connect(state: &mut State, here: &str, there: &str, transport: &str, ms: f64) {
        let line = format!(
            r#"{{"event":"connected","at_ms":1,"peer":"{there}","transport":"{transport}","ms":{ms}}}"#
        );
        tell(state, here, &line);
    }

    fn linked() -> State {
        let mut state = State::default();
        for here in NATIVES {
            for there in NATIVES {
                if here != there {
                    let transport = here.transport_to(there);
                    let ms = if transport == "quic" { 5.0 } else { 20.0 };
                    connect(&mut state, here.name, there.name, transport, ms);
                }
            }
        }
        state
    }

    fn summarise(state: &mut State, name: &str, hash: &str, commands: u64, tasks: u64) {
        let line = format!(
            r#"{{"event":"summary","at_ms":1,"state_hash":"{hash}","commands":{commands},"tasks_left":{tasks},"sockets_left":0}}"#
        );
        tell(state, name, &line);
    }

    fn links(state: &State) -> Report {
        let mut report = Report::default();
        report.judge_links(state, &NATIVES);
        report
    }

    fn log(ends: [(&str, u64, u64); 3]) -> Report {
        let mut state = State::default();
        for (native, (hash, commands, tasks)) in NATIVES.iter().zip(ends) {
            summarise(&mut state, native.name, hash, commands, tasks);
        }
        let mut report = Report::default();
        report.judge_log(&state, &NATIVES, 300);
        report
    }

    #[test]
    fn every_pair_over_its_transport_passes_and_the_slowest_is_told() {
        let mut state = linked();
        state.peers.get_mut("carol").unwrap().remotes.clear();
        connect(&mut state, "carol", "alice", "webrtc", 20.0);
        connect(&mut state, "carol", "bob", "webrtc", 31.0);
        let report = links(&state);
        assert_eq!(report.failures, [""; 0]);
        assert_eq!(report.quic_open_ms, Some(5.0));
        assert_eq!(report.webrtc_open_ms, Some(31.0));
    }

    #[test]
    fn a_pair_over_the_wrong_transport_or_seen_by_one_side_only_fails() {
        let mut state = linked();
        connect(&mut state, "bob", "alice", "webrtc", 9.0);
        assert_eq!(links(&state).failures.len(), 1);
        let mut state = linked();
        let bob = state.peers.get_mut("bob").unwrap();
        bob.remotes.remove("carol");
        assert_eq!(links(&state).failures, ["bob -> carol: never linked"]);
    }

    #[test]
    fn a_link_that_broke_in_between_fails() {
        let mut state = linked();
        let lost = r#"{"event":"disconnected","at_ms":1,"peer":"bob","reason":"lost"}"#;
        tell(&mut state, "alice", lost);
        connect(&mut state, "alice", "bob", "quic", 5.0);
        assert_eq!(links(&state).failures, ["alice -> bob: lost 1 times"]);
    }

    #[test]
    fn equal_hashes_with_all_commands_pass() {
        let report = log([("ab", 302, 0), ("ab", 302, 0), ("ab", 302, 0)]);
        assert_eq!(report.failures, [""; 0]);
        assert!(report.state_hashes_equal);
        assert_eq!(report.commands, 302);
    }

    #[test]
    fn one_differing_hash_one_missing_command_and_one_leaked_task_each_fail() {
        let differing = log([("ab", 302, 0), ("cd", 302, 0), ("ab", 302, 0)]);
        assert!(!differing.state_hashes_equal);
        assert_eq!(differing.failures.len(), 1);
        let missing = log([("ab", 300, 0), ("ab", 299, 0), ("ab", 300, 0)]);
        assert_eq!(missing.failures, ["299 commands applied, not 300"]);
        let leaking = log([("ab", 300, 0), ("ab", 300, 0), ("ab", 300, 2)]);
        assert_eq!(
            leaking.failures,
            ["carol: left 2 tasks and 0 sockets behind"]
        );
    }

    #[test]
    fn a_peer_without_a_summary_fails_though_the_others_agree() {
        let mut state = State::default();
        summarise(&mut state, "alice", "ab", 300, 0);
        summarise(&mut state, "bob", "ab", 300, 0);
        let mut report = Report::default();
        report.judge_log(&state, &NATIVES, 300);
        assert!(!report.state_hashes_equal);
        assert_eq!(report.failures[0], "carol: no summary");
    }

    #[test]
    fn a_recording_fails_for_its_envelope_for_lost_words_and_for_an_intruder() {
        let good = Comparison {
            correlation: 0.97,
            delays_ms: vec![50.0, 60.0, 70.0],
            dated: 1.0,
            intruder: Some(("bob".into(), 0.03)),
        };
        let failures = |change: fn(&mut Comparison)| {
            let mut found = good.clone();
            change(&mut found);
            let mut report = Report::default();
            report.judge_voice("alice", "carol", &found);
            report.failures.len()
        };
        assert_eq!(failures(|_| {}), 0);
        assert_eq!(failures(|found| found.correlation = 0.89), 1);
        assert_eq!(failures(|found| found.correlation = f64::NAN), 1);
        assert_eq!(failures(|found| found.dated = 0.5), 1);
        assert_eq!(
            failures(|found| found.intruder = Some(("bob".into(), 0.3))),
            1
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_panic_a_bad_exit_and_a_killed_process_each_fail() {
        let ended = |code: Option<i32>, log: &str| Ended {
            name: "bob".into(),
            status: code.map(|code| std::os::unix::process::ExitStatusExt::from_raw(code << 8)),
            log: log.into(),
        };
        let failures = |ended: Ended| {
            let mut report = Report::default();
            report.judge_ends(&[ended]);
            report.failures.len()
        };
        assert_eq!(failures(ended(Some(0), "joined")), 0);
        assert_eq!(failures(ended(Some(0), "thread 'a' panicked at b.rs")), 1);
        assert_eq!(failures(ended(Some(2), "")), 1);
        assert_eq!(failures(ended(None, "")), 1);
    }

    #[test]
    fn what_was_skipped_fails_only_a_strict_check() {
        let mut report = Report::default();
        report.skipped.push("no browser".into());
        report.conclude(false);
        assert!(report.ok);
        report.conclude(true);
        assert!(!report.ok);
    }
}
