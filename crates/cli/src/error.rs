//! What ends the program: one line that says what to do.

/// Why the command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Args(String),
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    #[error(
        "log is wrong: {0:?} is no filter; write a level such as info, or parts such as roundtable_signaling_server=debug,warn"
    )]
    LogFilter(String),
    #[error("trusted_proxy is wrong: {0:?}: {1}")]
    TrustedProxy(String, roundtable_signaling_server::NotARange),
    #[error("nats is wrong: {0}")]
    Nats(roundtable_signaling_server::NatsConfigError),
    #[error("nats_cluster is wrong: {0}")]
    NatsCluster(roundtable_signaling_server::NatsConfigError),
    #[error("public_url is wrong: {0}")]
    PublicUrl(roundtable_signaling_server::NatsConfigError),
    #[error("--host is wrong: {0:?} is no name of a server; give one such as turn.example.org")]
    TurnHost(String),
    #[error("{given} needs {missing} beside it")]
    Alone {
        given: &'static str,
        missing: &'static str,
    },
    #[error(transparent)]
    Join(#[from] roundtable::JoinError),
    #[error(transparent)]
    Invite(#[from] roundtable::InviteError),
    #[error(transparent)]
    Identity(#[from] roundtable::IdentityError),
    #[error("the identity in {directory} has kept no room {room}; it has kept: {kept}", directory = directory.display())]
    NoSuchRoom {
        directory: std::path::PathBuf,
        room: String,
        kept: String,
    },
    #[error("room {room}: {source}")]
    Verify {
        room: roundtable::RoomId,
        source: roundtable::kept::VerifyError,
    },
    #[error(transparent)]
    Clip(#[from] roundtable::voice::ClipError),
    #[error("--submit-rate is {0}; give 0 to 1000 commands a second")]
    SubmitRate(f64),
    #[cfg(feature = "audio")]
    #[error(transparent)]
    Device(#[from] roundtable::voice::DeviceError),
    #[cfg(not(feature = "audio"))]
    #[error("this binary was built without sound devices: build it with --features audio")]
    NoAudio,
    #[error(
        "the secret file is wrong: cannot take a secret from {path}: {source}; write the TURN servers' secret on its first line, without blanks"
    )]
    TurnSecret {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("tls_cert or tls_key is wrong: {0}")]
    Tls(#[from] roundtable_signaling_server::TlsError),
    #[error(transparent)]
    Serve(#[from] roundtable_signaling_server::BindError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
