//! What ends the program: one line that says what to do.

/// Why the command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Join(#[from] roundtable::JoinError),
    #[error(transparent)]
    Invite(#[from] roundtable::InviteError),
    #[error(transparent)]
    Identity(#[from] roundtable::IdentityError),
    #[error(transparent)]
    Clip(#[from] roundtable::voice::ClipError),
    #[error("--submit-rate is {0}; give 0 to 1000 commands a second")]
    SubmitRate(f64),
    #[cfg(not(feature = "audio"))]
    #[error("this binary was built without sound devices: build it with --features audio")]
    NoAudio,
    #[error(
        "cannot take a secret from {path}: {source}; write the TURN servers' secret on its first line"
    )]
    TurnSecret {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Serve(#[from] roundtable_signaling_server::BindError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
