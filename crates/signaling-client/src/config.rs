//! Where to join, as whom, and how patiently.

use std::{fmt, time::Duration};

use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_protocol::{Announce, Capabilities, Capability, ResumeToken, limits};
use serde_json::Value;
use url::Url;

use crate::{JoinError, TokenSource, grant};

/// How long a server may take to open the WebSocket where another can be tried instead. Its answer to
/// the announce is waited for however many there are ([`limits::ANNOUNCE_ANSWER`]): it may have let us in.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Servers that a client keeps in mind; it takes note of no more than that from others.
const MAX_SERVERS: usize = 16;

/// Why a [`ClientConfig`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a URL.
    #[error("not a URL ({0}): give one like ws://127.0.0.1:8080")]
    Url(#[from] url::ParseError),
    /// Neither `ws` nor `wss`.
    #[error("the URL must start with ws:// or wss://, like ws://127.0.0.1:8080")]
    Scheme,
    /// A `wss` URL, but the crate was built without its feature `tls`.
    #[error("this build has no TLS: use ws://, or build with the feature `tls`")]
    NoTls,
}

/// How long to wait between attempts to reconnect: a random time between zero and a bound, which is
/// short for the first attempt and then doubles with each (full jitter). Where a client knows several
/// servers, it tries each before the bound grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first attempt: most connections that break can be made again at once. Default
    /// 250 ms.
    pub first: Duration,
    /// The bound of the second attempt. Default 1 s.
    pub base: Duration,
    /// The bound never grows beyond this. Default 30 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The delay before `attempt` (the first is 1), where `random` is uniform over all `u32`.
    pub fn delay(&self, attempt: u32, random: u32) -> Duration {
        let bound = match attempt {
            0 | 1 => self.first,
            _ => self.base.saturating_mul(1 << (attempt - 2).min(31)),
        };
        let bound = bound.min(self.max);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// The endpoint that a URL stands for.
fn endpoint(url: &str) -> Result<Url, ConfigError> {
    let mut url = Url::parse(url)?;
    match url.scheme() {
        "ws" => {}
        "wss" if cfg!(feature = "tls") => {}
        "wss" => return Err(ConfigError::NoTls),
        _ => return Err(ConfigError::Scheme),
    }
    url.set_fragment(None);
    if url.path() == "/" {
        url.set_path(limits::WEBSOCKET_PATH);
    }
    Ok(url)
}

/// What to show the server.
#[derive(Clone)]
enum Token {
    None,
    Fixed(String),
    Source(TokenSource),
    /// To be exchanged for grants.
    Invite(String),
}

/// How a [`SignalingClient`](crate::SignalingClient) joins. `Debug` does not show the token.
#[derive(Clone)]
pub struct ClientConfig {
    /// At least one.
    urls: Vec<Url>,
    pub(crate) room: RoomId,
    pub(crate) peer_id: PeerId,
    pub(crate) capabilities: Capabilities,
    pub(crate) user_data: Value,
    token: Token,
    pub(crate) backoff: Backoff,
    pub(crate) join_timeout: Duration,
    pub(crate) silence_timeout: Duration,
}

impl ClientConfig {
    /// To join `room` as `peer_id` on the server at `url` (`ws` or `wss`). The endpoint's path
    /// `/v1/ws` is added where the URL has none; a fragment is never sent.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with the URL.
    pub fn new(url: &str, room: RoomId, peer_id: PeerId) -> Result<Self, ConfigError> {
        Ok(Self {
            urls: vec![endpoint(url)?],
            room,
            peer_id,
            capabilities: Capabilities::from([Capability::Data]),
            user_data: Value::Null,
            token: Token::None,
            backoff: Backoff::default(),
            join_timeout: Duration::from_secs(10),
            silence_timeout: limits::SILENCE_TIMEOUT,
        })
    }

    /// Further servers of the same cluster, in addition to the first. The client begins with any of
    /// them, and goes to the next when one fails or drains. Default: none.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with the first bad URL.
    pub fn with_more_urls<S: AsRef<str>>(
        mut self,
        urls: impl IntoIterator<Item = S>,
    ) -> Result<Self, ConfigError> {
        for url in urls {
            let url = endpoint(url.as_ref())?;
            if !self.urls.contains(&url) {
                self.urls.push(url);
            }
        }
        Ok(self)
    }

    /// What this peer can do. Default: `data`.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: impl Into<Capabilities>) -> Self {
        self.capabilities = capabilities.into();
        self
    }

    /// Anything the others are to see, at most 1 KiB of JSON and 16 arrays or objects deep. Default: nothing.
    #[must_use]
    pub fn with_user_data(mut self, user_data: Value) -> Self {
        self.user_data = user_data;
        self
    }

    /// The grant to show. Default: none, which only an open server takes. When it ends, so does the
    /// client: see [`with_token_source`](Self::with_token_source).
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::Fixed(token.into());
        self
    }

    /// Where to get grants, again and again while the client is in the room. Replaces
    /// [`with_token`](Self::with_token).
    #[must_use]
    pub fn with_token_source(mut self, source: TokenSource) -> Self {
        self.token = Token::Source(source);
        self
    }

    /// The secret of the room's invite, which the servers exchange for grants (`POST /v1/rooms/{room}/grants`), again
    /// and again while the client is in the room. Replaces [`with_token`](Self::with_token).
    #[must_use]
    pub fn with_invite(mut self, invite: impl Into<String>) -> Self {
        self.token = Token::Invite(invite.into());
        self
    }

    /// How long to wait between attempts to reconnect. Default: 250 ms, then 1 s doubling to 30 s,
    /// full jitter.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long one attempt to connect and announce may take. Default 10 s, which is as long as a slow
    /// cluster may take; where there are further servers to try, 3 s of it at most to connect.
    #[must_use]
    pub fn with_join_timeout(mut self, join_timeout: Duration) -> Self {
        self.join_timeout = join_timeout;
        self
    }

    /// How long the server may stay silent before the connection counts as lost; it pings every
    /// 15 s. Default 45 s.
    #[must_use]
    pub fn with_silence_timeout(mut self, silence_timeout: Duration) -> Self {
        self.silence_timeout = silence_timeout;
        self
    }

    /// Takes note of a server that another has named; gives its number. Not if it is one without TLS and the
    /// first has it, or one too many.
    pub(crate) fn learn(&mut self, url: &str) -> Option<usize> {
        let url = endpoint(url).ok()?;
        if self.url().scheme() == "wss" && url.scheme() != "wss" {
            return None;
        }
        let known = self.urls.iter().position(|known| *known == url);
        if known.is_none() && self.urls.len() < MAX_SERVERS {
            self.urls.push(url);
            return Some(self.urls.len() - 1);
        }
        known
    }

    /// The first server's endpoint.
    pub fn url(&self) -> &Url {
        &self.urls[0]
    }

    /// The endpoints of all servers, at least one.
    pub fn urls(&self) -> &[Url] {
        &self.urls
    }

    /// How long one attempt may take until the WebSocket is open.
    pub(crate) fn dial_timeout(&self) -> Duration {
        match self.urls.len() {
            1 => self.join_timeout,
            _ => self.join_timeout.min(DIAL_TIMEOUT),
        }
    }

    /// How long one server may take to exchange an invite: the connection is to have its part of the attempt, too.
    fn exchange_timeout(&self) -> Duration {
        self.dial_timeout() / 2
    }

    /// Where grants come from, if they can be had again. Invites are exchanged at `server` first, by its number: a grant is
    /// of no use for a server that cannot be reached.
    pub(crate) fn token_source(&self, server: usize) -> Option<TokenSource> {
        match &self.token {
            Token::Source(source) => Some(source.clone()),
            Token::Invite(invite) => {
                let mut urls = self.urls.clone();
                urls.rotate_left(server);
                let (room, peer_id) = (self.room.clone(), self.peer_id.clone());
                let (invite, patience) = (invite.clone(), self.exchange_timeout());
                Some(TokenSource::new(move || {
                    let (urls, invite) = (urls.clone(), invite.clone());
                    grant::exchange(urls, room.clone(), peer_id.clone(), invite, patience)
                }))
            }
            Token::None | Token::Fixed(_) => None,
        }
    }

    /// The grant for an announce at `server`.
    pub(crate) async fn token(&self, server: usize) -> Result<Option<String>, JoinError> {
        if let Token::Fixed(token) = &self.token {
            return Ok(Some(token.clone()));
        }
        match self.token_source(server) {
            None => Ok(None),
            Some(source) => {
                let fetched = source.fetch().await.map(Some);
                fetched.map_err(|source| JoinError::NoToken { source })
            }
        }
    }

    pub(crate) fn announce(&self, token: Option<String>, resume: Option<ResumeToken>) -> Announce {
        Announce {
            protocol: limits::PROTOCOL_VERSION,
            room: self.room.clone(),
            peer_id: self.peer_id.clone(),
            capabilities: self.capabilities,
            token,
            resume,
            user_data: self.user_data.clone(),
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field(
                "urls",
                &self.urls.iter().map(Url::as_str).collect::<Vec<_>>(),
            )
            .field("room", &self.room)
            .field("peer_id", &self.peer_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<ClientConfig, ConfigError> {
        ClientConfig::new(url, RoomId::new("r").unwrap(), PeerId::new("p").unwrap())
    }

    #[test]
    fn the_endpoints_path_is_added_where_there_is_none() {
        for (given, full) in [
            ("ws://host:8080", "ws://host:8080/v1/ws"),
            ("ws://host/", "ws://host/v1/ws"),
            ("ws://host/behind/proxy", "ws://host/behind/proxy"),
            ("ws://host/#secret", "ws://host/v1/ws"),
        ] {
            assert_eq!(config(given).unwrap().url().as_str(), full);
        }
    }

    #[test]
    fn a_server_that_is_named_twice_counts_once() {
        let config = config("ws://a").unwrap();
        let config = config.with_more_urls(["ws://b", "ws://a/"]).unwrap();
        let urls: Vec<_> = config.urls().iter().map(Url::as_str).collect();
        assert_eq!(urls, ["ws://a/v1/ws", "ws://b/v1/ws"]);
        let refused = config.with_more_urls(["ws://c", "http://d"]);
        assert_eq!(refused.unwrap_err(), ConfigError::Scheme);
    }

    #[test]
    fn an_attempt_is_not_given_up_while_the_server_may_still_let_us_in() {
        let config = config("ws://a").unwrap().with_more_urls(["ws://b"]);
        let config = config.unwrap();
        let answer_by = config.dial_timeout() + limits::ANNOUNCE_ANSWER;
        assert!(answer_by <= config.join_timeout);
    }

    #[test]
    fn a_server_names_others_but_none_that_is_less_safe_and_not_without_end() {
        let mut open = config("ws://a").unwrap();
        assert_eq!(open.learn("ws://b"), Some(1));
        assert_eq!(
            (open.learn("ws://a/"), open.learn("nonsense")),
            (Some(0), None)
        );
        for n in 0..100 {
            open.learn(&format!("ws://c{n}"));
        }
        assert_eq!(open.urls().len(), MAX_SERVERS);
        if let Ok(mut safe) = config("wss://a") {
            assert_eq!(
                (safe.learn("ws://b"), safe.learn("wss://b")),
                (None, Some(1))
            );
        }
    }

    #[test]
    fn other_urls_are_refused() {
        assert_eq!(config("http://host").unwrap_err(), ConfigError::Scheme);
        assert!(matches!(config("host").unwrap_err(), ConfigError::Url(_)));
    }

    #[test]
    fn the_delay_doubles_to_its_bound_and_jitters_from_zero() {
        let backoff = Backoff::default();
        let longest = |attempt| backoff.delay(attempt, u32::MAX).as_millis();
        assert_eq!(
            [1, 2, 3, 6, 7, 99].map(longest),
            [250, 1000, 2000, 16_000, 30_000, 30_000]
        );
        assert_eq!(backoff.delay(9, 0), Duration::ZERO);
    }

    #[test]
    fn the_token_is_not_shown() {
        let config = config("ws://host").unwrap().with_token("secret");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
