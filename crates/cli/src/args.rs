//! What can be said on the command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use roundtable::TransportPreference;
use roundtable_signaling_server::AddressRange;

/// Rooms in which up to ten peers talk and edit together.
#[derive(Debug, Parser)]
#[command(name = "roundtable", version, about, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a signaling server with its browser page
    Serve(Box<Serve>),
    /// Join a room: speak, listen, and edit the shared board
    Join(Box<Join>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    /// Let in who holds a grant, and keep keys and rooms in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "open")]
    pub(crate) data: Option<PathBuf>,

    /// Let anyone into any room, without a grant. For development
    #[arg(long)]
    pub(crate) open: bool,

    /// With --open: listen even where others can reach the server
    #[arg(long, requires = "open")]
    pub(crate) i_know: bool,

    /// Let pages of this origin connect, such as https://example.org. May be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<String>,

    /// A TURN server for peers to use, such as turn:turn.example.org:3478. May be repeated
    #[arg(long, value_name = "URI", requires = "turn_secret_file")]
    pub(crate) turn: Vec<String>,

    /// The file with the secret that is shared with the TURN servers
    #[arg(long, value_name = "FILE", requires = "turn")]
    pub(crate) turn_secret_file: Option<PathBuf>,

    /// Most connections at once
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub(crate) max_connections: usize,

    /// Most connections at once from one address
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_connections_per_address: usize,

    /// Believe X-Forwarded-For of this proxy, an address or a range. May be repeated
    #[arg(long, value_name = "RANGE")]
    pub(crate) trusted_proxy: Vec<AddressRange>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Transport {
    /// QUIC where both peers can, WebRTC otherwise
    Auto,
    /// QUIC only
    Quic,
    /// WebRTC only
    Webrtc,
}

impl From<Transport> for TransportPreference {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Auto => Self::Auto,
            Transport::Quic => Self::Quic,
            Transport::Webrtc => Self::WebRtc,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The signaling server, such as ws://127.0.0.1:8080
    #[arg(long, value_name = "URL", required_unless_present = "invite")]
    pub(crate) server: Option<String>,

    /// The room's name
    #[arg(long, required_unless_present = "invite")]
    pub(crate) room: Option<String>,

    /// An invite link, in place of --server and --room: proves that it is the right room
    #[arg(long, value_name = "LINK", conflicts_with_all = ["server", "room"])]
    pub(crate) invite: Option<String>,

    /// This peer's name in the room
    #[arg(long)]
    pub(crate) name: String,

    /// Which transports to use
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) transport: Transport,

    /// Keep key and log in this directory. Without it, every run is a new author
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,

    /// Speak this recording
    #[arg(long, value_name = "FILE.wav")]
    pub(crate) say: Option<PathBuf>,

    /// Start the recording again when it ends
    #[arg(long = "loop", requires = "say")]
    pub(crate) looped: bool,

    /// Use the microphone (unless --say is given) and the speakers
    #[arg(long)]
    pub(crate) audio: bool,

    /// Record each speaker, and the mix, as WAV files into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,

    /// Draw on the shared board with so many commands a second
    #[arg(long, value_name = "HZ", default_value_t = 0.0)]
    pub(crate) submit_rate: f64,

    /// Answer every app message with itself
    #[arg(long)]
    pub(crate) echo: bool,

    /// If this peer creates the room: let browsers in as guests, with voice and messages
    #[arg(long)]
    pub(crate) guests: bool,

    /// Leave after this many seconds
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,

    /// Write one JSON object for each event to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    parsed.ok_or_else(|| "give a number of seconds, such as 30 or 2.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_invite_stands_for_server_and_room() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("roundtable join --invite http://h/?room=r --name n").is_ok());
        assert!(parse("roundtable join --server ws://h --room r --name n").is_ok());
        assert!(parse("roundtable join --server ws://h --name n").is_err());
        assert!(parse("roundtable join --server ws://h --room r --name n --loop").is_err());
        assert!(parse("roundtable join --server ws://h --room r --name n --duration -1").is_err());
    }
}
