//! What `roundtable join --json` prints: one event a line.

use std::path::PathBuf;

use serde::Deserialize;

/// One line. Fields that are of no interest here are left out, and kinds that are not are
/// [`Event::Other`], so that the program may say more than this tool understands.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The peer is in the room.
    Joined {
        /// A link that lets others in.
        #[serde(default)]
        invite: Option<String>,
    },
    /// A remote peer can be talked to.
    Connected {
        /// The remote peer.
        peer: String,
        /// `quic` or `webrtc`.
        transport: String,
        /// From the announce to ready, in milliseconds.
        ms: f64,
    },
    /// The first sample of the file that is spoken was captured.
    SpeakingStarted {
        /// When, in microseconds since the Unix epoch.
        unix_us: u64,
    },
    /// The first sample of a recording was played.
    RecordingStarted {
        /// Whose voice it is, or none for the mix.
        #[serde(default)]
        peer: Option<String>,
        /// The file.
        path: PathBuf,
        /// When, in microseconds since the Unix epoch.
        unix_us: u64,
    },
    /// The first frame of a remote peer's voice was played.
    FirstVoice {
        /// Since its link was ready, in milliseconds.
        ms: f64,
    },
    /// The first command of another author was applied.
    FirstCommand {
        /// Since the peer joined, in milliseconds.
        ms: f64,
    },
    /// How far the log is, once a second.
    Applied {
        /// Commands applied so far.
        total: u64,
    },
    /// How a remote peer's voice arrives, once a second.
    Voice {
        /// The remote peer.
        peer: String,
        /// Whether it speaks.
        speaking: bool,
    },
    /// How a link does, once a second.
    Link {
        /// The remote peer.
        peer: String,
        /// `quic` or `webrtc`.
        transport: String,
        /// Round-trip time in milliseconds, if it is known.
        #[serde(default)]
        rtt_ms: Option<f64>,
        /// Share of packets lost, 0 to 1, if it is known.
        #[serde(default)]
        loss: Option<f64>,
    },
    /// A remote peer is gone.
    Disconnected {
        /// The remote peer.
        peer: String,
    },
    /// The last line.
    Summary(Summary),
    /// Something else.
    #[serde(other)]
    Other,
}

/// How a peer left the room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Summary {
    /// The hash of its state.
    pub(crate) state_hash: String,
    /// Commands applied.
    pub(crate) commands: u64,
    /// The links it had at the end.
    #[serde(default)]
    pub(crate) links: Vec<SummaryLink>,
    /// Tasks that still ran after leaving.
    pub(crate) tasks_left: u64,
    /// Sockets that were still open after leaving.
    pub(crate) sockets_left: u64,
}

/// A link at the end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct SummaryLink {
    /// The remote peer.
    pub(crate) peer: String,
    /// `quic` or `webrtc`.
    pub(crate) transport: String,
}

impl Event {
    /// Reads a line, or `None` if it is no event.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_the_fields_that_are_of_interest() {
        let line = r#"{"event":"connected","at_ms":17,"peer":"bob","transport":"quic","ms":4.5,"guest":false}"#;
        assert_eq!(
            Event::parse(line),
            Some(Event::Connected {
                peer: "bob".into(),
                transport: "quic".into(),
                ms: 4.5
            })
        );
    }

    #[test]
    fn the_mix_has_no_peer_and_a_young_link_no_round_trip_time() {
        let mix = r#"{"event":"recording_started","peer":null,"path":"mix.wav","unix_us":5}"#;
        assert!(matches!(
            Event::parse(mix),
            Some(Event::RecordingStarted { peer: None, .. })
        ));
        let link = r#"{"event":"link","peer":"bob","transport":"quic","rtt_ms":null,"loss":null}"#;
        assert!(matches!(
            Event::parse(link),
            Some(Event::Link { rtt_ms: None, .. })
        ));
    }

    #[test]
    fn the_summary_says_what_was_left_behind() {
        let line = r#"{"event":"summary","state_hash":"ab","commands":7,"frames":3,
            "links":[{"peer":"bob","transport":"quic"}],"tasks_left":0,"sockets_left":1}"#;
        let Some(Event::Summary(summary)) = Event::parse(line) else {
            panic!("no summary");
        };
        assert_eq!((summary.commands, summary.sockets_left), (7, 1));
        assert_eq!(summary.links[0].peer, "bob");
    }

    #[test]
    fn kinds_that_are_not_known_are_let_pass_and_other_text_is_none() {
        assert_eq!(Event::parse(r#"{"event":"novelty"}"#), Some(Event::Other));
        assert_eq!(Event::parse("hello"), None);
    }
}
