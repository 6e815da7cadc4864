//! A peer's grant while its connection lives: when it ends, what renews it, what revokes it.

use std::{sync::Arc, time::Duration};

use roundtable_core::{Timestamp, WallTime};
use roundtable_signaling_protocol::{
    Announce, Capabilities, Grant, GrantError, GrantKeyId, limits,
};
use tokio::sync::watch;

use crate::{access::Access, clock};

/// Timers run on another clock than grants, which may be set meanwhile: look again this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What a session's time brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The grant ends soon.
    Expiring(Duration),
    /// It has ended.
    Ended,
}

/// The grant that a peer is in the room with.
#[derive(Debug)]
pub(crate) struct Session {
    access: Arc<Access>,
    revocations: watch::Receiver<()>,
    grant: Grant,
    key: GrantKeyId,
    capabilities: Capabilities,
    /// How long before its end the peer is told; `None` once it is.
    notice: Option<Duration>,
    due: Timestamp,
}

impl Session {
    /// Checks the grant that an announce carries.
    pub(crate) fn begin(access: &Arc<Access>, announce: &Announce) -> Result<Self, GrantError> {
        // Before the check, so that nothing is revoked unseen between it and the first wait.
        let revocations = access.revocations();
        let token = announce.token.as_deref().unwrap_or_default();
        let (grant, key) = access.verify(clock::wall(), token)?;
        grant.covers(&announce.room, &announce.peer_id, announce.capabilities)?;
        let mut session = Self {
            access: Arc::clone(access),
            revocations,
            notice: Some(notice(&grant)),
            grant,
            key,
            capabilities: announce.capabilities,
            due: Timestamp::ZERO,
        };
        session.schedule();
        Ok(session)
    }

    /// When the grant ends.
    pub(crate) fn expires(&self) -> WallTime {
        self.grant.expires
    }

    /// Goes on with another grant for the same peer.
    pub(crate) fn refresh(&mut self, token: &str) -> Result<WallTime, GrantError> {
        let (grant, key) = self.access.verify(clock::wall(), token)?;
        grant.covers(&self.grant.room, &self.grant.peer_id, self.capabilities)?;
        self.notice = Some(notice(&grant));
        (self.grant, self.key) = (grant, key);
        self.schedule();
        Ok(self.grant.expires)
    }

    /// When to [look](Self::look) again.
    pub(crate) fn due(&self) -> Timestamp {
        self.due
    }

    /// What the time has brought, if anything.
    pub(crate) fn look(&mut self) -> Option<Moment> {
        let left = until(self.grant.expires);
        if left.is_zero() {
            return Some(Moment::Ended);
        }
        let told = self.notice.take_if(|notice| left <= *notice);
        self.schedule();
        told.map(|_| Moment::Expiring(left))
    }

    /// Completes when the grant no longer counts though its time is not over. Cancel safe.
    pub(crate) async fn revoked(&mut self) {
        loop {
            // The sender lives as long as `access`.
            let _ = self.revocations.changed().await;
            if !self.access.counts(clock::wall(), &self.grant, &self.key) {
                return;
            }
        }
    }

    fn schedule(&mut self) {
        let pause = until(self.grant.expires).saturating_sub(self.notice.unwrap_or_default());
        self.due = clock::now() + pause.min(LONGEST_SLEEP);
    }
}

/// A short grant's end is told late, lest each refresh be answered with the next notice.
fn notice(grant: &Grant) -> Duration {
    limits::EXPIRY_NOTICE.min(until(grant.expires) / 5)
}

fn until(time: WallTime) -> Duration {
    let left = time.as_micros().saturating_sub(clock::wall().as_micros());
    Duration::from_micros(left)
}
