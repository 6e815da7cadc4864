//! `roundtable serve`.

use roundtable_signaling_server::{Server, ServerConfig};

use crate::{args::Serve, error::CliError};

pub(crate) async fn run(args: Serve) -> Result<(), CliError> {
    let config = ServerConfig::new(args.listen).with_open(args.open);
    let server = Server::bind(config)?;
    println!("listening on http://{}/", server.local_addr());
    server.run(stopped()).await;
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
