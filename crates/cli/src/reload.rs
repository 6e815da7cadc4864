//! What a running server reads again when a service manager asks it to reload (SIGHUP).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use roundtable_signaling_server::{GrantKeys, TlsConfig, TurnConfig, TurnSecret};

use crate::error::CliError;

/// What may change while the server runs.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) turn: Option<(PathBuf, TurnConfig)>,
    pub(crate) keys: Option<GrantKeys>,
}

impl Reloads {
    /// Reads everything again at each SIGHUP, for as long as the program runs.
    #[cfg(unix)]
    pub(crate) fn on_hangup(self) -> io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangups = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                tokio::task::block_in_place(|| self.all());
            }
        });
        Ok(())
    }

    /// There is no such signal here; changed certificates are noticed all the same.
    #[cfg(not(unix))]
    pub(crate) fn on_hangup(self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(unix)]
    fn all(&self) {
        if let Some((path, turn)) = &self.turn {
            match turn_secret(path) {
                Ok(secret) => {
                    turn.rotate(secret);
                    tracing::info!("the TURN secret was read again");
                }
                Err(error) => tracing::error!(%error, "the TURN secret stays as it was"),
            }
        }
        match self.keys.as_ref().map(GrantKeys::reload) {
            Some(Ok(signs)) => tracing::info!(signs, "the keys of grants were read again"),
            Some(Err(error)) => tracing::error!(%error, "the keys of grants stay as they were"),
            None => {}
        }
        match self.tls.as_ref().map(TlsConfig::reload) {
            Some(Ok(())) => tracing::info!("the certificate was read again"),
            Some(Err(error)) => tracing::error!(%error, "the certificate stays as it was"),
            None => {}
        }
    }
}

/// The secret on a file's first line.
pub(crate) fn turn_secret(path: &Path) -> Result<TurnSecret, CliError> {
    let read = fs::read_to_string(path).and_then(|text| {
        let line = text.lines().next().unwrap_or_default().trim();
        TurnSecret::new(line).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    });
    read.map_err(|source| CliError::TurnSecret {
        path: path.to_owned(),
        source,
    })
}
