//! The settings of `roundtable serve`. Each has one name, written `--max-rooms` as a flag, `ROUNDTABLE_MAX_ROOMS` in
//! the environment and `max_rooms` in a file; a flag counts before the environment, that before the file, and the
//! file before the default.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args as _, Command, ValueEnum};
use config::{Config, ConfigError, Environment, File, FileFormat, Value};
use serde::{Deserialize, Deserializer, Serialize, de};

/// What the names of environment variables start with.
const PREFIX: &str = "ROUNDTABLE";

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// Everything that can be set. `None` and an empty list leave it to the next source.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// The address to listen on
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "address")]
    pub(crate) listen: Option<SocketAddr>,

    /// Let in who holds a grant, and keep keys and rooms in this directory
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,

    /// Let anyone into any room, without a grant. For development
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<bool>,

    /// With --open: listen even where others can reach the server
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) i_know: Option<bool>,

    /// Serve https and wss with the certificates of this PEM file, the server's own first. Read again when it changes
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The PEM file with the certificate's private key
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Let pages of this origin connect, such as https://example.org. May be repeated
    #[arg(long, value_name = "ORIGIN")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) allow_origin: Vec<String>,

    /// Believe X-Forwarded-For of this proxy, an address or a range. May be repeated
    #[arg(long, value_name = "RANGE")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) trusted_proxy: Vec<String>,

    /// A STUN server for peers to use, such as stun:stun.example.org:3478. May be repeated
    #[arg(long, value_name = "URI")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) stun: Vec<String>,

    /// A TURN server for peers to use, such as turn:turn.example.org:3478. May be repeated
    #[arg(long, value_name = "URI")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) turn: Vec<String>,

    /// The file whose first line is the secret that is shared with the TURN servers
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) turn_secret_file: Option<PathBuf>,

    /// How many seconds TURN credentials serve
    #[arg(long, value_name = "SECS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) turn_life_secs: Option<u64>,

    /// Whether /readyz answers 503 while a STUN or TURN server fails its check
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) turn_required: Option<bool>,

    /// A NATS server that joins this server with others to a cluster, such as nats://127.0.0.1:4222. May be repeated
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub(crate) nats: Vec<String>,

    /// Which cluster to join, where one NATS serves several
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nats_cluster: Option<String>,

    /// The file of NATS credentials
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nats_credentials: Option<PathBuf>,

    /// Under which URL clients reach this server of a cluster: the others send theirs there when they stop
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public_url: Option<String>,

    /// How many seconds a server of a cluster that is to stop gives its clients to go to another
    #[arg(long, value_name = "SECS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_secs: Option<u64>,

    /// Most peers in a room
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_peers: Option<usize>,

    /// Most rooms at once in a closed server
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_rooms: Option<usize>,

    /// Most connections at once
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<usize>,

    /// Most connections at once from one address (IPv6: one /64)
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections_per_address: Option<usize>,

    /// Most MiB that wait for all clients together; who reads too slowly is then put out earlier
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_queued_mib: Option<usize>,

    /// How many messages a connection may send at once
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_burst: Option<u32>,

    /// How many messages a second a connection may send in the long run
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages_per_second: Option<u32>,

    /// How many seconds a grant lives, at most 600
    #[arg(long, value_name = "SECS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grant_life_secs: Option<u64>,

    /// How many seconds a room's session lives unless it is renewed
    #[arg(long, value_name = "SECS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) room_life_secs: Option<u64>,

    /// How logs are written, to stderr
    #[arg(long, value_enum, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub(crate) log_format: Option<LogFormat>,

    /// What is logged, such as info or roundtable_signaling_server=debug
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<String>,
}

/// Why the settings make no sense: one line that names the setting and the mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SettingsError {
    #[error("cannot read --config {path}: {source}; give a file that the server may read")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} is no TOML: {cause}; write `name = value`, as `roundtable serve --print-config` does"
    )]
    Syntax { path: PathBuf, cause: String },
    #[error(
        "{origin}: there is no setting {key}; `roundtable serve --print-config` prints them all"
    )]
    Unknown { key: String, origin: String },
    #[error("{origin}: {key} is wrong: {cause}")]
    Value {
        key: String,
        origin: String,
        cause: String,
    },
}

impl Settings {
    /// What holds where nothing is set.
    pub(crate) fn defaults() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8080))),
            open: Some(false),
            i_know: Some(false),
            turn_life_secs: Some(3600),
            turn_required: Some(false),
            nats_cluster: Some("roundtable".into()),
            drain_secs: Some(10),
            max_peers: Some(10),
            max_rooms: Some(10_000),
            max_connections: Some(16_384),
            max_connections_per_address: Some(1024),
            max_queued_mib: Some(512),
            message_burst: Some(500),
            messages_per_second: Some(100),
            grant_life_secs: Some(600),
            room_life_secs: Some(3600),
            log_format: Some(LogFormat::Text),
            log: Some("info".into()),
            ..Self::default()
        }
    }

    /// These flags over the environment over the file over the defaults.
    pub(crate) fn load(
        self,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let unbuilt = |error| wrong("", "the settings", &error);
        let defaults = Config::try_from(&Self::defaults()).map_err(unbuilt)?;
        let mut sources = Config::builder().add_source(defaults);
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
                    path: path.to_owned(),
                    source,
                })?;
            let parsed = Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
            let parsed = parsed.build().map_err(|error| SettingsError::Syntax {
                path: path.to_owned(),
                cause: one_line(&error),
            })?;
            known(&parsed, &format!("{}", path.display()))?;
            // Checked by itself, so that the error says where the value is from.
            deserialized(&parsed, &path.display().to_string())?;
            sources = sources.add_source(parsed);
        }
        // Other variables may begin alike: an orchestrator makes some for each service.
        let names = names();
        let ours = environment.into_iter().filter(|(name, _)| {
            let key = name
                .strip_prefix(PREFIX)
                .and_then(|name| name.strip_prefix('_'));
            key.is_some_and(|key| names.contains(&key.to_lowercase()))
        });
        let ours = Environment::with_prefix(PREFIX).source(Some(ours.collect()));
        let ours = Config::builder()
            .add_source(ours)
            .build()
            .map_err(unbuilt)?;
        deserialized(&ours, "the environment")?;
        let flags =
            Config::try_from(&self).map_err(|error| wrong("", "the command line", &error))?;
        let all = sources.add_source(ours).add_source(flags).build();
        deserialized(&all.map_err(unbuilt)?, "the settings")
    }
}

/// The names of all settings, as in a file.
fn names() -> Vec<String> {
    let command = Settings::augment_args(Command::new("serve"));
    command
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .collect()
}

/// Adds to each flag's help what holds without it, and the variable that sets it, too.
pub(crate) fn explain(command: Command) -> Command {
    let defaults = literals(&Settings::defaults());
    let names = names();
    command.mut_args(|arg| {
        let name = arg.get_id().to_string();
        if !names.contains(&name) {
            return arg;
        }
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        // Writing to a string does not fail.
        if let Some(default) = defaults.get(&name) {
            let _ = write!(help, " [default: {}]", default.trim_matches('"'));
        }
        let _ = write!(help, " [env: {PREFIX}_{}]", name.to_uppercase());
        arg.help(help)
    })
}

/// What is set, as it would be written in a file.
fn literals(settings: &Settings) -> HashMap<String, String> {
    // A JSON string, number or list of strings is one of TOML, too.
    let json = serde_json::to_value(settings).unwrap_or_default();
    let members = json.as_object().cloned().unwrap_or_default();
    members
        .into_iter()
        .map(|(key, value)| (key, value.to_string()))
        .collect()
}

/// Puts `***` for the name and password (RFC 3986 §3.2.1) in a URL: what is printed gets into logs and tickets.
fn mask_userinfo(url: &mut String) {
    if let Some((before, host)) = url.rsplit_once('@') {
        let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
        let separator = if scheme.is_empty() { "" } else { "://" };
        *url = format!("{scheme}{separator}***@{host}");
    }
}

/// The settings in effect, without passwords, as a configuration file, with what each is for.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.clone();
        shown.nats.iter_mut().for_each(mask_userinfo);
        let set = literals(&shown);
        let command = Self::augment_args(Command::new("serve"));
        for (index, arg) in command.get_arguments().enumerate() {
            let (name, help) = (arg.get_id().as_str(), arg.get_help());
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "# {}", help.map(ToString::to_string).unwrap_or_default())?;
            match set.get(name) {
                Some(value) => writeln!(f, "{name} = {value}")?,
                None => writeln!(f, "# {name} =")?,
            }
        }
        Ok(())
    }
}

fn known(config: &Config, origin: &str) -> Result<(), SettingsError> {
    let names = names();
    let found: Result<HashMap<String, Value>, _> = config.clone().try_deserialize();
    let found = found.map_err(|error| wrong("", origin, &error))?;
    match found.into_keys().filter(|key| !names.contains(key)).min() {
        None => Ok(()),
        Some(key) => Err(SettingsError::Unknown {
            key,
            origin: origin.to_owned(),
        }),
    }
}

fn deserialized(config: &Config, origin: &str) -> Result<Settings, SettingsError> {
    let settings = config.clone().try_deserialize();
    settings.map_err(|error| wrong("", origin, &error))
}

fn wrong(key: &str, origin: &str, error: &ConfigError) -> SettingsError {
    match error {
        ConfigError::At { error, key: at, .. } => {
            wrong(at.as_deref().unwrap_or(key), origin, error)
        }
        ConfigError::Type {
            unexpected,
            expected,
            key: at,
            ..
        } => SettingsError::Value {
            key: at.as_deref().unwrap_or(key).to_owned(),
            origin: origin.to_owned(),
            cause: format!("it is {unexpected}, and should be {expected}"),
        },
        other => SettingsError::Value {
            key: key.to_owned(),
            origin: origin.to_owned(),
            cause: one_line(other),
        },
    }
}

fn one_line(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    // Not the excerpts of the file, which only make sense below each other.
    let words = lines.filter(|line| !line.is_empty() && !line.contains('|'));
    words.collect::<Vec<_>>().join(" ")
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let help = || {
        de::Error::custom(format_args!(
            "{text:?} is no address; write IP:PORT, such as 127.0.0.1:8080"
        ))
    };
    text.parse().map(Some).map_err(|_| help())
}

fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LogFormat>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let named = LogFormat::from_str(&text, false).map(Some);
    named.map_err(|_| de::Error::custom(format_args!("{text:?} is no format; write text or json")))
}

/// A list, or in the environment its items with commas between them.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "write a list of strings, such as [\"a\", \"b\"]"
    )]
    enum List {
        Items(Vec<String>),
        Text(String),
    }
    Ok(match List::deserialize(deserializer)? {
        List::Items(items) => items,
        List::Text(text) => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            items.map(str::to_owned).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: &str,
        environment: &[(&str, &str)],
        flags: Settings,
    ) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        flags.load(Some(&path), environment)
    }

    #[test]
    fn what_is_printed_has_no_password_of_nats() {
        let settings = Settings {
            nats: vec![
                "nats://me:p@ss@10.0.0.1:4222".into(),
                "token@b".into(),
                "nats://c:4222".into(),
            ],
            ..Settings::default()
        };
        let printed = settings.to_string();
        let shown = r#"nats = ["nats://***@10.0.0.1:4222","***@b","nats://c:4222"]"#;
        assert!(printed.lines().any(|line| line == shown), "{printed}");
    }

    #[test]
    fn a_flag_counts_before_the_environment_that_before_the_file_and_that_before_the_default() {
        let file =
            "max_rooms = 1\nmax_peers = 2\nmax_connections = 3\nstun = [\"stun:a\"]\nopen = true";
        let environment = [
            ("ROUNDTABLE_MAX_PEERS", "4"),
            ("ROUNDTABLE_MAX_CONNECTIONS", "5"),
            ("ROUNDTABLE_TURN", "turn:b, turn:c"),
        ];
        let flags = Settings {
            max_connections: Some(6),
            ..Settings::default()
        };
        let settings = load(file, &environment, flags).unwrap();
        assert_eq!(settings.max_rooms, Some(1));
        assert_eq!(settings.max_peers, Some(4));
        assert_eq!(settings.max_connections, Some(6));
        assert_eq!(settings.max_connections_per_address, Some(1024));
        assert_eq!(settings.open, Some(true));
        assert_eq!(
            (settings.stun, settings.turn),
            (
                vec!["stun:a".into()],
                vec!["turn:b".into(), "turn:c".into()]
            )
        );
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let environment = [
            ("ROUNDTABLE_DATA", "/var/lib/\"x\""),
            ("ROUNDTABLE_LOG_FORMAT", "json"),
            ("ROUNDTABLE_OPEN", "false"),
        ];
        let settings = load("", &environment, Settings::default()).unwrap();
        let printed = settings.to_string();
        assert!(
            printed.contains("data = \"/var/lib/\\\"x\\\"\"\n"),
            "{printed}"
        );
        let again = load(&printed, &[], Settings::default()).unwrap();
        assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn a_variable_that_only_begins_alike_is_not_ours() {
        let environment = [
            ("ROUNDTABLE_PORT", "tcp://10.0.0.1:80"),
            ("ROUNDTABLE_SERVICE_HOST", "x"),
        ];
        assert!(load("", &environment, Settings::default()).is_ok());
    }
}
