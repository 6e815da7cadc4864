//! What the program says of its work, on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::{error::CliError, settings::LogFormat};

/// What `join` logs unless `RUST_LOG` says otherwise. The WebRTC core warns about every packet that it cannot place,
/// such as a browser's own; the client of PulseAudio takes each goodbye for an error, and what is one is told as a device's state.
pub(crate) const JOIN: &str = "warn,rtc=error,pulseaudio=off";

/// Logs what `RUST_LOG` chooses, or else `filter`.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), CliError> {
    let parsed = EnvFilter::try_new(filter);
    let parsed = parsed.map_err(|_| CliError::LogFilter(filter.to_owned()))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or(parsed);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
