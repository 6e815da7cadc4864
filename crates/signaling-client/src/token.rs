//! Where grants come from, and when the next one is due.

use std::{error::Error, fmt, pin::Pin, sync::Arc, time::Duration};

use roundtable_signaling_protocol::Joined;
use tokio::time::{Instant, sleep_until};

use crate::clock;

/// How long to wait before a grant that could not be had, or was refused, is asked for again.
const RETRY: Duration = Duration::from_secs(5);

/// Why a [`TokenSource`] has no grant: whatever it met.
pub type TokenError = Box<dyn Error + Send + Sync>;

/// How long after one grant another is asked for at the earliest, whatever the server says of their ends.
const FLOOR: Duration = Duration::from_secs(1);

type Fetch = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

/// Gets a grant each time one is needed: before each announce, and when three quarters of the
/// present one's life are over. Fetching runs beside the connection and does not hold it up.
#[derive(Clone)]
pub struct TokenSource(Arc<dyn Fn() -> Fetch + Send + Sync>);

impl TokenSource {
    /// A source that runs `fetch`, such as an exchange of the room's invite for a grant
    /// (`POST /v1/rooms/{room}/grants`). What it takes to join counts towards the join timeout.
    pub fn new<F, T>(fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(fetch())))
    }

    pub(crate) fn fetch(&self) -> Fetch {
        (self.0)()
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource(..)")
    }
}

/// Gets the next grant in time.
pub(crate) struct Renewal {
    source: Option<TokenSource>,
    due: Option<Instant>,
    /// Before this, none is due.
    earliest: Instant,
    fetching: Option<Fetch>,
    /// The server's clock in milliseconds since the Unix epoch, and when it was told.
    server_time: (u64, Instant),
}

impl Renewal {
    pub(crate) fn new(source: Option<TokenSource>, joined: &Joined) -> Self {
        let mut renewal = Self {
            source,
            due: None,
            earliest: clock::deadline(FLOOR),
            fetching: None,
            server_time: (0, clock::deadline(Duration::ZERO)),
        };
        renewal.joined(joined);
        renewal
    }

    /// The client is in the room, with a fresh grant.
    pub(crate) fn joined(&mut self, joined: &Joined) {
        self.server_time = (joined.server_time_ms, clock::deadline(Duration::ZERO));
        (self.due, self.fetching) = (None, None);
        self.earliest = clock::deadline(FLOOR);
        if let Some(expires_ms) = joined.grant_expires_ms {
            self.granted(expires_ms);
        }
    }

    /// The grant ends at `expires_ms` of the server's clock.
    pub(crate) fn granted(&mut self, expires_ms: u64) {
        let (told, then) = self.server_time;
        let now = clock::deadline(Duration::ZERO);
        let life = Duration::from_millis(expires_ms.saturating_sub(told));
        let left = life.saturating_sub(now.saturating_duration_since(then));
        self.due = Some(clock::deadline(left * 3 / 4));
    }

    /// There is no new grant: try again, but not at once.
    pub(crate) fn failed(&mut self) {
        self.due = Some(clock::deadline(RETRY));
    }

    /// The server warns that the grant ends.
    pub(crate) fn hurry(&mut self) {
        if self.fetching.is_none() {
            self.due = Some(clock::deadline(Duration::ZERO));
        }
    }

    /// The next grant, once it is due and had; never without a source. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<String, TokenError> {
        loop {
            if let Some(fetching) = &mut self.fetching {
                let fetched = fetching.await;
                self.fetching = None;
                return fetched;
            }
            let (Some(source), Some(due)) = (&self.source, self.due) else {
                return std::future::pending().await;
            };
            sleep_until(due.max(self.earliest)).await;
            self.due = None;
            self.earliest = clock::deadline(FLOOR);
            self.fetching = Some(source.fetch());
        }
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn grants_that_end_at_once_are_asked_for_once_a_second() {
        let joined: Joined = serde_json::from_value(serde_json::json!({
            "peer_id": "alice", "room": "room", "server_time_ms": 1_000_000, "grant_expires_ms": 1_000_000,
            "resume": "AAAAAAAAAAAAAAAAAAAAAA", "resume_ttl_ms": 30_000, "peers": [], "max_peers": 10,
        }))
        .unwrap();
        let source = TokenSource::new(async || Ok("grant".to_owned()));
        let begin = clock::now();
        let mut renewal = Renewal::new(Some(source), &joined);
        for _ in 0..10 {
            renewal.next().await.unwrap();
            renewal.granted(0);
            renewal.hurry();
        }
        let took = clock::now().saturating_since(begin);
        assert!(took >= Duration::from_secs(9), "{took:?}");
    }
}
