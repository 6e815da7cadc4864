//! What `roundtable join --json` prints, and the driver of the browser: one event a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One line. Fields that are of no interest here are left out, and kinds that are not are
/// [`Event::Other`], so that the program may say more than this tool understands.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The browser has started and waits to be told to open the page.
    Ready,
    /// The peer is in the room.
    Joined,
    /// The room's founding document is known.
    Room {
        /// A link that lets others in.
        invite: String,
    },
    /// A remote peer can be talked to.
    Connected {
        /// The remote peer.
        peer: String,
        /// `quic` or `webrtc`.
        transport: String,
        /// From the start of the negotiation until the transport was open, in milliseconds.
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
    /// A remote peer was heard for the first time.
    FirstVoice {
        /// The remote peer.
        peer: String,
    },
    /// The first command of another author was applied.
    FirstCommand,
    /// How far the log is, once a second.
    Applied {
        /// Commands applied so far.
        total: u64,
    },
    /// How a remote peer's voice arrives, once a second.
    Voice {
        /// The remote peer.
        peer: String,
        /// Whether it speaks, or none if it never has.
        speaking: Option<bool>,
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
    /// The last line of the browser's driver.
    Browser(Seen),
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
    /// Tasks that still ran after leaving.
    pub(crate) tasks_left: u64,
    /// Sockets that were still open after leaving, where the system tells.
    pub(crate) sockets_left: Option<u64>,
}

/// What the page saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Every audio stream that came in.
    pub(crate) inbound: Vec<Inbound>,
    /// Packets of speech that went out, over all connections.
    pub(crate) packets_sent: u64,
    /// Errors that the page reported.
    pub(crate) errors: Vec<String>,
}

/// An audio stream that came in, by getStats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inbound {
    /// Packets received.
    pub(crate) packets: u64,
    /// Packets lost; negative if some came twice.
    pub(crate) lost: i64,
    /// Total energy of what was played, in the unit of getStats.
    pub(crate) energy: f64,
}

/// A line: an event and when it was said.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Line {
    /// Milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub(crate) event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Event> {
        Some(serde_json::from_str::<Line>(line).ok()?.event)
    }

    #[test]
    fn a_line_is_read_with_the_fields_that_are_of_interest() {
        let line = r#"{"event":"connected","at_ms":17,"peer":"bob","transport":"quic","ms":4.5,"guest":false}"#;
        let event = Event::Connected {
            peer: "bob".into(),
            transport: "quic".into(),
            ms: 4.5,
        };
        assert_eq!(
            serde_json::from_str::<Line>(line).unwrap(),
            Line { at_ms: 17, event }
        );
    }

    #[test]
    fn the_mix_has_no_peer_and_a_young_link_no_round_trip_time() {
        let mix =
            r#"{"event":"recording_started","at_ms":1,"peer":null,"path":"mix.wav","unix_us":5}"#;
        assert!(matches!(
            parse(mix),
            Some(Event::RecordingStarted { peer: None, .. })
        ));
        let link = r#"{"event":"link","at_ms":1,"peer":"bob","transport":"quic","rtt_ms":null,"loss":null}"#;
        assert!(matches!(
            parse(link),
            Some(Event::Link { rtt_ms: None, .. })
        ));
    }

    #[test]
    fn the_summary_says_what_was_left_behind() {
        let line = r#"{"event":"summary","at_ms":1,"state_hash":"ab","commands":7,"frames":3,
            "links":[{"peer":"bob","transport":"quic"}],"tasks_left":0,"sockets_left":1}"#;
        let Some(Event::Summary(summary)) = parse(line) else {
            panic!("no summary");
        };
        assert_eq!((summary.commands, summary.sockets_left), (7, Some(1)));
    }

    #[test]
    fn the_browser_says_what_it_saw() {
        let line = r#"{"event":"browser","at_ms":1,"packets_sent":7,"errors":[],
            "inbound":[{"packets":5,"lost":-1,"energy":0.5}]}"#;
        let Some(Event::Browser(seen)) = parse(line) else {
            panic!("nothing seen");
        };
        assert_eq!((seen.packets_sent, seen.inbound[0].lost), (7, -1));
    }

    #[test]
    fn kinds_that_are_not_known_are_let_pass_and_other_text_is_none() {
        assert_eq!(
            parse(r#"{"event":"novelty","at_ms":1}"#),
            Some(Event::Other)
        );
        assert_eq!(parse("listening on http://127.0.0.1:8080/"), None);
    }
}
