//! A peer's grant while its connection lives: when it ends, what renews it, what revokes it.

use std::{sync::Arc, time::Duration};

use roundtable_core::WallTime;
use roundtable_signaling_protocol::{
    Announce, Capabilities, Grant, GrantError, GrantKeyId, limits,
};
use tokio::{sync::watch, time::sleep_until};

use crate::{access::Access, clock};

/// Timers run on another clock than grants, which may be set meanwhile: look again this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What a session's time brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The grant ends soon.
    Expiring(Duration),
    /// It has ended, or was revoked.
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
}

impl Session {
    /// Checks the grant that an announce carries.
    pub(crate) fn begin(access: &Arc<Access>, announce: &Announce) -> Result<Self, GrantError> {
        // Before the check, so that nothing is revoked unseen between it and the first wait.
        let revocations = access.revocations();
        let token = announce.token.as_deref().unwrap_or_default();
        let (grant, key) = access.verify(clock::wall(), token)?;
        grant.covers(&announce.room, &announce.peer_id, announce.capabilities)?;
        Ok(Self {
            access: Arc::clone(access),
            revocations,
            notice: Some(notice(&grant)),
            grant,
            key,
            capabilities: announce.capabilities,
        })
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
        Ok(self.grant.expires)
    }

    /// Waits for what comes next. Cancel safe.
    pub(crate) async fn moment(&mut self) -> Moment {
        loop {
            let left = until(self.grant.expires);
            if left.is_zero() {
                return Moment::Ended;
            }
            let pause = left.saturating_sub(self.notice.unwrap_or_default());
            if pause.is_zero() {
                self.notice = None;
                return Moment::Expiring(left);
            }
            tokio::select! {
                () = sleep_until(clock::deadline(pause.min(LONGEST_SLEEP))) => {}
                // The sender lives as long as `access`.
                _ = self.revocations.changed() => {
                    if !self.access.counts(clock::wall(), &self.grant, &self.key) {
                        return Moment::Ended;
                    }
                }
            }
        }
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
