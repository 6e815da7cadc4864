//! What the demo's peers have said so far.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use crate::{
    demo::event::{Event, Line, Seen, Summary},
    process::Heard,
};

/// What is known of every peer of the demo.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The peers by name.
    pub(crate) peers: BTreeMap<String, Peer>,
}

/// What one peer has said.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// It has started, if it is the browser.
    pub(crate) ready: bool,
    /// It is in the room.
    pub(crate) joined: bool,
    /// A link that lets others in.
    pub(crate) invite: Option<String>,
    /// The remote peers it has talked to.
    pub(crate) remotes: BTreeMap<String, Remote>,
    /// When its file's first sample was captured, in microseconds since the Unix epoch.
    pub(crate) speaking_since_us: Option<u64>,
    /// When it was first linked with anyone, in milliseconds since the Unix epoch.
    linked_at_ms: Option<u64>,
    /// From its first link to the first command of another author, in milliseconds.
    pub(crate) first_command_ms: Option<u64>,
    /// Commands applied.
    pub(crate) commands: u64,
    /// What it said last.
    pub(crate) summary: Option<Summary>,
    /// What the browser saw, if it is the browser.
    pub(crate) seen: Option<Seen>,
    /// Its output has ended.
    pub(crate) silent: bool,
}

/// What one peer knows of another.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Remote {
    /// The transports over which it was connected, in order, and the milliseconds each took.
    pub(crate) connected: Vec<(String, f64)>,
    /// When it was first connected, in milliseconds since the Unix epoch.
    connected_at_ms: Option<u64>,
    /// From the link until its voice was first heard, in milliseconds.
    pub(crate) first_voice_ms: Option<u64>,
    /// How often it was lost.
    pub(crate) lost: u32,
    /// The transport in use.
    pub(crate) transport: String,
    /// Round-trip time in milliseconds.
    pub(crate) rtt_ms: Option<f64>,
    /// Share of packets lost, 0 to 1.
    pub(crate) loss: Option<f64>,
    /// Whether it speaks.
    pub(crate) speaking: bool,
    /// The recording of its voice, and when its first sample was played.
    pub(crate) recording: Option<(PathBuf, u64)>,
}

impl State {
    /// Takes note of what a process said.
    pub(crate) fn hear(&mut self, heard: Heard<Line>) {
        let peer = self.peers.entry(heard.name).or_default();
        match heard.line {
            Some(line) => peer.hear(line),
            None => peer.silent = true,
        }
    }

    /// What is known of the peer of this name, if it has said anything.
    pub(crate) fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.get(name)
    }

    /// Whether each of these peers is connected to each other.
    pub(crate) fn all_linked(&self, names: &[&str]) -> bool {
        names.iter().all(|name| {
            self.peer(name).is_some_and(|peer| {
                names
                    .iter()
                    .filter(|remote| *remote != name)
                    .all(|remote| peer.is_connected(remote))
            })
        })
    }

    /// The live table: who sees whom, how, and what has come of it.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:22} {:9} {:>9} {:>7} {:>9}  {}\n",
            "peer", "transport", "rtt", "loss", "commands", "speaking"
        );
        for (name, peer) in &self.peers {
            for (remote, view) in &peer.remotes {
                let rtt = view.rtt_ms.map_or("-".into(), |ms| format!("{ms:.1} ms"));
                let percent = |share| format!("{:.1} %", share * 100.0);
                let loss = view.loss.map_or("-".into(), percent);
                let line = format!(
                    "{:22} {:9} {rtt:>9} {loss:>7} {:>9}  {}",
                    format!("{name} -> {remote}"),
                    view.transport,
                    peer.commands,
                    if view.speaking { "*" } else { "" }
                );
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        text
    }
}

impl Peer {
    /// Whether a remote peer can be talked to at the moment.
    fn is_connected(&self, remote: &str) -> bool {
        self.remotes
            .get(remote)
            .is_some_and(|remote| !remote.transport.is_empty())
    }

    fn hear(&mut self, line: Line) {
        let at_ms = line.at_ms;
        match line.event {
            Event::Ready => self.ready = true,
            Event::Joined => self.joined = true,
            Event::Room { invite } => self.invite = Some(invite),
            Event::Connected {
                peer,
                transport,
                ms,
            } => {
                self.linked_at_ms.get_or_insert(at_ms);
                let remote = self.remote(peer);
                remote.connected_at_ms.get_or_insert(at_ms);
                remote.transport.clone_from(&transport);
                remote.connected.push((transport, ms));
            }
            Event::SpeakingStarted { unix_us } => {
                self.speaking_since_us.get_or_insert(unix_us);
            }
            Event::RecordingStarted {
                peer: Some(peer),
                path,
                unix_us,
            } => {
                self.remote(peer).recording.get_or_insert((path, unix_us));
            }
            Event::FirstVoice { peer } => {
                let remote = self.remote(peer);
                let since = remote.connected_at_ms.unwrap_or(at_ms);
                remote.first_voice_ms = Some(at_ms.saturating_sub(since));
            }
            Event::FirstCommand => {
                let since = self.linked_at_ms.unwrap_or(at_ms);
                self.first_command_ms = Some(at_ms.saturating_sub(since));
            }
            Event::Applied { total } => self.commands = total,
            Event::Voice { peer, speaking } => {
                self.remote(peer).speaking = speaking.unwrap_or(false);
            }
            Event::Link {
                peer,
                transport,
                rtt_ms,
                loss,
            } => {
                let remote = self.remote(peer);
                remote.transport = transport;
                remote.rtt_ms = rtt_ms;
                remote.loss = loss;
            }
            Event::Disconnected { peer } => {
                let remote = self.remote(peer);
                remote.transport.clear();
                remote.lost += 1;
            }
            Event::Summary(summary) => {
                self.commands = summary.commands;
                self.summary = Some(summary);
            }
            Event::Browser(seen) => self.seen = Some(seen),
            Event::RecordingStarted { peer: None, .. } | Event::Other => {}
        }
    }

    fn remote(&mut self, name: String) -> &mut Remote {
        self.remotes.entry(name).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[(&str, &str)]) -> State {
        let mut state = State::default();
        for (name, line) in lines {
            let name = (*name).to_owned();
            let line = Some(serde_json::from_str(line).unwrap());
            state.hear(Heard { name, line });
        }
        state
    }

    const TO_BOB: &str =
        r#"{"event":"connected","at_ms":1,"peer":"bob","transport":"quic","ms":5}"#;
    const TO_ALICE: &str =
        r#"{"event":"connected","at_ms":1,"peer":"alice","transport":"quic","ms":6}"#;

    #[test]
    fn a_pair_is_linked_once_both_sides_say_so() {
        assert!(!told(&[("alice", TO_BOB)]).all_linked(&["alice", "bob"]));
        assert!(told(&[("alice", TO_BOB), ("bob", TO_ALICE)]).all_linked(&["alice", "bob"]));
    }

    #[test]
    fn a_lost_peer_is_not_linked_and_its_loss_is_remembered() {
        let lost = r#"{"event":"disconnected","at_ms":1,"peer":"bob","reason":"lost"}"#;
        let state = told(&[("alice", TO_BOB), ("bob", TO_ALICE), ("alice", lost)]);
        assert!(!state.all_linked(&["alice", "bob"]));
        assert_eq!(state.peers["alice"].remotes["bob"].lost, 1);
    }

    #[test]
    fn the_table_shows_each_link_with_what_is_known() {
        let link = r#"{"event":"link","at_ms":1,"peer":"bob","transport":"quic","rtt_ms":0.42,"loss":0.013}"#;
        let voice = r#"{"event":"voice","at_ms":1,"peer":"bob","speaking":true}"#;
        let applied = r#"{"event":"applied","at_ms":1,"total":123,"rate":30.0}"#;
        let lines = [TO_BOB, link, voice, applied].map(|line| ("alice", line));
        let table = told(&lines).table();
        let row = table.lines().nth(1).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "alice", "->", "bob", "quic", "0.4", "ms", "1.3", "%", "123", "*"
            ]
        );
    }

    #[test]
    fn first_times_are_counted_from_the_link_and_not_from_the_start_of_the_program() {
        let linked = r#"{"event":"connected","at_ms":5000,"peer":"bob","transport":"quic","ms":5}"#;
        let voice = r#"{"event":"first_voice","at_ms":5300,"peer":"bob","ms":9000.0}"#;
        let command = r#"{"event":"first_command","at_ms":5040,"ms":8000.0}"#;
        let state = told(&[("alice", linked), ("alice", voice), ("alice", command)]);
        let alice = &state.peers["alice"];
        assert_eq!(alice.first_command_ms, Some(40));
        assert_eq!(alice.remotes["bob"].first_voice_ms, Some(300));
    }

    #[test]
    fn a_speaker_who_begins_his_file_again_has_begun_once() {
        let first = r#"{"event":"speaking_started","at_ms":1,"file":"a.wav","unix_us":10}"#;
        let again = r#"{"event":"speaking_started","at_ms":1,"file":"a.wav","unix_us":20}"#;
        let state = told(&[("alice", first), ("alice", again)]);
        assert_eq!(state.peers["alice"].speaking_since_us, Some(10));
    }
}
