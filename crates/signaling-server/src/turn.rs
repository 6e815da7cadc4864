//! What peers are told of the TURN servers.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use roundtable_core::{PeerId, WallTime};
use roundtable_signaling_protocol::{IceServer, TurnSecret};
use serde::Serialize;

use crate::ice_uri::{IceUri, Service};

/// TURN servers that take credentials made with a shared secret, as coturn does with
/// `use-auth-secret`. Clones share the secret.
#[derive(Debug, Clone)]
pub struct TurnConfig {
    pub(crate) uris: Vec<String>,
    secret: Arc<RwLock<TurnSecret>>,
    pub(crate) ttl: Duration,
}

/// What `GET /v1/turn-credentials` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<'a> {
    username: String,
    password: String,
    ttl: u64,
    uris: &'a [String],
}

impl TurnConfig {
    /// TURN servers by their `turn:` and `turns:` URIs (RFC 7065), and the secret shared with them.
    pub fn new(uris: impl IntoIterator<Item = String>, secret: TurnSecret) -> Self {
        Self {
            uris: uris.into_iter().collect(),
            secret: Arc::new(RwLock::new(secret)),
            ttl: Duration::from_secs(3600),
        }
    }

    /// How long credentials serve. Default one hour; clients renew them before.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Signs with another secret from now on, in a server that runs with a clone of this, too. Lest
    /// anybody is turned away, let the TURN servers take both secrets before, and for `ttl` after.
    pub fn rotate(&self, secret: TurnSecret) {
        *self.secret.write().unwrap_or_else(PoisonError::into_inner) = secret;
    }

    /// How long credentials serve, in milliseconds.
    pub(crate) fn ttl_ms(&self) -> u64 {
        self.ttl_secs().saturating_mul(1000)
    }

    /// In whole seconds, as their user names have it.
    fn ttl_secs(&self) -> u64 {
        self.ttl.as_secs().max(1)
    }

    /// Whether every URI is one of a TURN server.
    pub(crate) fn is_valid(&self) -> bool {
        let is_turn = |uri: &String| {
            let uri = uri.parse::<IceUri>();
            uri.is_ok_and(|uri| uri.service == Service::Turn)
        };
        !self.uris.is_empty() && self.uris.iter().all(is_turn) && !self.ttl.is_zero()
    }

    pub(crate) fn answer(&self, now: WallTime, user: &PeerId) -> Answer<'_> {
        let ttl = self.ttl_secs();
        let expires_ms = now.as_millis().saturating_add(self.ttl_ms());
        let secret = self.secret.read().unwrap_or_else(PoisonError::into_inner);
        let credentials = secret.credentials(user, WallTime::from_millis(expires_ms));
        Answer {
            username: credentials.username,
            password: credentials.password,
            ttl,
            uris: &self.uris,
        }
    }

    /// The same in the form of an announce's result.
    pub(crate) fn ice_server(&self, now: WallTime, user: &PeerId) -> IceServer {
        let answer = self.answer(now, user);
        IceServer {
            urls: self.uris.clone(),
            username: Some(answer.username),
            credential: Some(answer.password),
        }
    }
}
