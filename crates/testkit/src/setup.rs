//! How long two machines take to get a link over a bad network.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use roundtable_core::{Clock, TransportKind};
use roundtable_netem::Conditions;
use roundtable_transport::SystemClock;

use crate::{dial::DialError, dial::dial, duct::Duct};

/// More than any dial may take: an end that has not decided by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A dial that did not end with a link at both ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetUpFailure {
    /// An end gave up, as it is to when its own deadline is over; a room would dial again.
    #[error("gave up: {0}")]
    GaveUp(#[from] DialError),
    /// An end did neither.
    #[error("an end hangs: after {} s it has neither a link nor an error", PATIENCE.as_secs())]
    Hangs,
    /// No runtime.
    #[error("no runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Runs a future in virtual time, on this thread.
///
/// # Errors
/// When the system has no resources for a runtime.
pub fn in_virtual_time<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(virtual_runtime()?.block_on(future))
}

/// A runtime of this thread whose clock jumps to the next thing to happen.
pub(crate) fn virtual_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // The clock's epoch comes before any runtime's, or it would stand still at first.
    SystemClock.now();
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

/// Dials once over a network of these conditions; returns how long it took from the offer until both ends
/// had the link, of which [`SIGNALING_DELAY`](crate::SIGNALING_DELAY) is spent twice.
///
/// # Errors
/// [`SetUpFailure`].
pub fn set_up(
    kind: TransportKind,
    seed: u64,
    conditions: Conditions,
) -> Result<Duration, SetUpFailure> {
    let dialled = async {
        let duct = Duct::new(seed, conditions);
        let keys = [1, 2].map(|key| SigningKey::from_bytes(&[key; 32]));
        let begin = SystemClock.now();
        let (offerer, answerer) = dial(kind, [duct.end(0), duct.end(1)], keys);
        let both = async { tokio::try_join!(offerer, answerer) };
        let links = tokio::time::timeout(PATIENCE, both).await;
        links.map_err(|_| SetUpFailure::Hangs)??;
        Ok(SystemClock.now().saturating_since(begin))
    };
    in_virtual_time(dialled)?
}
