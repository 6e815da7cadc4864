//! What can be said on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind};
use roundtable::TransportPreference;

use crate::{
    settings::{self, Settings},
    turn::TurnConfigArgs,
};

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
    /// Help with running coturn, the TURN server, beside the signaling server
    #[command(subcommand)]
    Turn(Turn),
    /// Check each thing that connections depend on, and say what to change; ends with 1 if something must be
    Doctor(Box<Doctor>),
    /// Join a room: speak, listen, and edit the shared board
    Join(Box<Join>),
    /// List microphones and speakers, to choose from by join --input and --output
    Devices(Devices),
    /// Look into the logs that an identity has kept
    #[command(subcommand)]
    Log(Log),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Devices {
    /// Then show how loud this microphone is, by its id or name; the default one if none is given
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, default_missing_value = "")]
    pub(crate) meter: Option<String>,

    /// For so many seconds
    #[arg(long, value_name = "SECS", value_parser = seconds, default_value = "10", requires = "meter")]
    pub(crate) duration: Duration,

    /// Write one JSON object for each thing to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Verify every signature and every rule from the genesis on; ends with 1 if a frame is refused
    Verify(KeptLog),
    /// Print every command, in the order that counts, as one JSON object a line
    Export(KeptLog),
    /// Print who did what and when: commands, roles, authors who signed twice, frames that were refused
    Audit(KeptLog),
}

#[derive(Debug, clap::Args)]
pub(crate) struct KeptLog {
    /// The directory that was given to --identity. No process may have it in use
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Only this room
    #[arg(long)]
    pub(crate) room: Option<String>,

    /// Write one JSON object for each thing to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Turn {
    /// Print a hardened configuration for coturn
    Config(Box<TurnConfigArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Read settings from this TOML file; the environment and flags count before it
    #[arg(long, value_name = "FILE", env = "ROUNDTABLE_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Print the settings in effect as such a file, and end
    #[arg(long)]
    pub(crate) print_config: bool,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// The signaling server, such as ws://127.0.0.1:8080, which names the STUN and TURN servers
    #[arg(long, value_name = "URL", required_unless_present = "invite")]
    pub(crate) server: Option<String>,

    /// A room that may be entered for a moment
    #[arg(long, allow_hyphen_values = true, default_value = "doctor")]
    pub(crate) room: String,

    /// An invite link, in place of --server and --room
    #[arg(long, value_name = "LINK", conflicts_with_all = ["server", "room"])]
    pub(crate) invite: Option<String>,

    /// For a closed server: a grant to show it
    #[arg(
        long,
        value_name = "GRANT",
        env = "ROUNDTABLE_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,

    /// This peer's name meanwhile; a grant may ask for a certain one
    #[arg(long, allow_hyphen_values = true, default_value = "doctor")]
    pub(crate) name: String,

    /// Write one JSON object to stdout
    #[arg(long)]
    pub(crate) json: bool,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VoicePreset {
    /// For talking: 20 ms frames, 32 kbit/s
    Talk,
    /// As soon as possible: 10 ms frames, 48 kbit/s; needs a network that does not jitter
    LowLatency,
    /// For thin lines: 60 ms frames, 16 kbit/s
    LowBandwidth,
    /// For instruments: 96 kbit/s, all the time
    Music,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The signaling server, such as ws://127.0.0.1:8080. May be repeated for the servers of one cluster
    #[arg(long, value_name = "URL", required_unless_present = "invite")]
    pub(crate) server: Vec<String>,

    /// The room's name
    #[arg(long, allow_hyphen_values = true, required_unless_present = "invite")]
    pub(crate) room: Option<String>,

    /// An invite link, in place of --server and --room: proves that it is the right room
    #[arg(long, value_name = "LINK", conflicts_with_all = ["server", "room"])]
    pub(crate) invite: Option<String>,

    /// For a closed server: a grant to show it. It ends, and signaling with it
    #[arg(
        long,
        value_name = "GRANT",
        env = "ROUNDTABLE_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,

    /// For a closed server: the room's secret, to be exchanged for grants. An invite link may carry it, too
    #[arg(
        long,
        value_name = "SECRET",
        allow_hyphen_values = true,
        env = "ROUNDTABLE_INVITE_GRANT",
        hide_env_values = true
    )]
    pub(crate) invite_grant: Option<String>,

    /// This peer's name in the room
    #[arg(long, allow_hyphen_values = true)]
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

    /// With --audio: this microphone, by its id or name as `roundtable devices` tells it
    #[arg(long, value_name = "DEVICE", requires = "audio")]
    pub(crate) input: Option<String>,

    /// With --audio: these speakers
    #[arg(long, value_name = "DEVICE", requires = "audio")]
    pub(crate) output: Option<String>,

    /// How the voice is sent and played
    #[arg(long, value_enum, default_value = "talk")]
    pub(crate) voice: VoicePreset,

    /// Send all that the microphone hears, rather than voice alone
    #[arg(long)]
    pub(crate) open_mic: bool,

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

impl Args {
    /// What the command line says; what is wrong with it, in one line.
    pub(crate) fn read() -> Result<Self, String> {
        let command = Self::command().mut_subcommand("serve", settings::explain);
        let matches = command.try_get_matches();
        match matches.and_then(|matches| Self::from_arg_matches(&matches)) {
            Ok(args) => Ok(args),
            // Help and version are no mistakes, and who says nothing at all is helped best by all there is to say.
            Err(error)
                if !error.use_stderr()
                    || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
            {
                error.exit()
            }
            Err(error) => Err(one_line(&error.render().to_string())),
        }
    }
}

/// The parser's message without its usage.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ").replace(":; ", ": ");
    line.trim_start_matches("error: ").to_owned()
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

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_invite_stands_for_server_and_room() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("roundtable join --invite http://h/?room=r --name n").is_ok());
        assert!(parse("roundtable join --server ws://h --room r --name n").is_ok());
        assert!(parse("roundtable join --server ws://h --room -r --name -n").is_ok());
        assert!(parse("roundtable join --server ws://h --name n").is_err());
        assert!(parse("roundtable join --server ws://h --room r --name n --loop").is_err());
        assert!(parse("roundtable join --server ws://h --room r --name n --duration -1").is_err());
    }
}
