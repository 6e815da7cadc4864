//! `roundtable serve`.

use std::{fs, io, path::Path};

use roundtable_signaling_server::{Server, ServerConfig, TurnConfig, TurnSecret};

use crate::{args::Serve, error::CliError};

pub(crate) async fn run(args: Serve) -> Result<(), CliError> {
    let mut config = ServerConfig::new(args.listen)
        .with_open(args.open)
        .with_open_to_all(args.i_know)
        .with_allowed_origins(args.allow_origin)
        .with_max_connections(args.max_connections)
        .with_max_connections_per_address(args.max_connections_per_address)
        .with_trusted_proxies(args.trusted_proxy);
    if let Some(data) = args.data {
        config = config.with_data_dir(data);
    }
    if let Some(path) = args.turn_secret_file {
        let turn = TurnConfig::new(args.turn, turn_secret(&path)?);
        config = config.with_turn(turn.clone());
        #[cfg(unix)]
        rotate_on_hangup(path, turn)?;
    }
    let server = Server::bind(config)?;
    println!("listening on http://{}/", server.local_addr());
    server.run(stopped()).await;
    Ok(())
}

/// The secret on a file's first line.
fn turn_secret(path: &Path) -> Result<TurnSecret, CliError> {
    let read = fs::read_to_string(path).and_then(|text| {
        let line = text.lines().next().unwrap_or_default().trim();
        TurnSecret::new(line).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    });
    read.map_err(|source| CliError::TurnSecret {
        path: path.to_owned(),
        source,
    })
}

/// Reads the secret again whenever a service manager asks to reload (SIGHUP), for as long as the
/// program runs.
#[cfg(unix)]
fn rotate_on_hangup(path: std::path::PathBuf, turn: TurnConfig) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            match turn_secret(&path) {
                Ok(secret) => turn.rotate(secret),
                Err(error) => tracing::error!(%error, "the TURN secret stays as it was"),
            }
        }
    });
    Ok(())
}

/// Resolves when the process is asked to stop: Ctrl-C, or SIGTERM from a service manager.
pub(crate) async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
