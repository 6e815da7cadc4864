//! Who is in the room, and the negotiations under way with each.

use std::{collections::HashMap, time::Duration};

use roundtable_core::{PeerId, Timestamp, TransportKind};
use roundtable_session::Side;
use roundtable_signaling_client::Event as SignalingEvent;
use roundtable_signaling_protocol::{Capabilities, Capability, OfferBody, PeerInfo, RequestId};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    CommandTransport, TransportPreference,
    negotiation::{NegotiationError, Negotiator, Role, SIGNAL_QUEUE, Signal},
};

/// First and longest pause before a peer that could not be linked is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// By how much longer the side that did not make the last offer waits before it makes one.
const PATIENCE: Duration = Duration::from_secs(5);

/// A negotiation that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) peer: PeerId,
    pub(crate) kind: TransportKind,
    pub(crate) side: Side,
    pub(crate) started: Timestamp,
    pub(crate) result: Result<CommandTransport, NegotiationError>,
}

/// One peer of the room, as signaling tells.
#[derive(Debug)]
struct Present {
    capabilities: Capabilities,
    /// At most one negotiation of each kind.
    running: HashMap<TransportKind, Running>,
    failures: u32,
    retry_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Running {
    number: u64,
    side: Side,
    signals: mpsc::Sender<Signal>,
    task: AbortHandle,
}

/// The room's roster and its negotiations.
#[derive(Debug)]
pub(crate) struct Attempts {
    own: PeerId,
    preference: TransportPreference,
    negotiator: Negotiator,
    present: HashMap<PeerId, Present>,
    tasks: JoinSet<(u64, Outcome)>,
    next: u64,
    closed: bool,
}

impl Attempts {
    pub(crate) fn new(own: PeerId, preference: TransportPreference, shared: Negotiator) -> Self {
        Self {
            own,
            preference,
            negotiator: shared,
            present: HashMap::new(),
            tasks: JoinSet::new(),
            next: 0,
            closed: false,
        }
    }

    // --- the roster ----------------------------------------------------------------------------

    pub(crate) fn present(&mut self, info: &PeerInfo) {
        let present = self
            .present
            .entry(info.peer_id.clone())
            .or_insert_with(|| Present {
                capabilities: info.capabilities,
                running: HashMap::new(),
                failures: 0,
                retry_at: None,
            });
        present.capabilities = info.capabilities;
    }

    pub(crate) fn forget(&mut self, peer: &PeerId) {
        if let Some(present) = self.present.remove(peer) {
            for running in present.running.into_values() {
                running.task.abort();
            }
        }
    }

    /// Those whom signaling no longer lists.
    pub(crate) fn absent(&self, listed: &[PeerInfo]) -> Vec<PeerId> {
        let listed = |peer: &PeerId| listed.iter().any(|info| info.peer_id == *peer);
        let gone = self.present.keys().filter(|peer| !listed(peer));
        gone.cloned().collect()
    }

    pub(crate) fn forget_all(&mut self) {
        let peers: Vec<_> = self.present.keys().cloned().collect();
        for peer in peers {
            self.forget(&peer);
        }
    }

    pub(crate) fn promises_session(&self, peer: &PeerId) -> bool {
        // A peer that left signaling before its link opened is held to the stricter rule.
        self.present
            .get(peer)
            .is_none_or(|p| p.capabilities.contains(Capability::Session))
    }

    pub(crate) fn anyone_promises_session(&self) -> bool {
        self.present
            .values()
            .any(|p| p.capabilities.contains(Capability::Session))
    }

    // --- negotiations --------------------------------------------------------------------------

    /// Offers a link to `peer`, over the best transport that both take.
    pub(crate) fn offer(&mut self, peer: &PeerId, now: Timestamp) {
        let Some(present) = self.present.get_mut(peer) else {
            return;
        };
        present.retry_at = None;
        let quic = self.preference.allows_quic() && self.negotiator.quic.is_some();
        if quic && present.capabilities.contains(Capability::Quic) {
            self.start(peer, Role::Offer(TransportKind::Quic), now);
        } else if self.preference.allows_webrtc() && present.capabilities.contains(Capability::Data)
        {
            self.start(peer, Role::Offer(TransportKind::WebRtc), now);
        } else {
            tracing::warn!(%peer, "no transport in common");
        }
    }

    /// After a failed offer: WebRTC after QUIC, else the same again after a pause.
    pub(crate) fn fall_back(&mut self, peer: &PeerId, failed: TransportKind, now: Timestamp) {
        let takes_data = self
            .present
            .get(peer)
            .is_some_and(|p| p.capabilities.contains(Capability::Data));
        if failed == TransportKind::Quic && self.preference.allows_webrtc() && takes_data {
            self.start(peer, Role::Offer(TransportKind::WebRtc), now);
        } else {
            self.retry_later(peer, now, true);
        }
    }

    /// Tries again after a pause: whoever made the last offer first, and the other side only if
    /// nothing has come of that.
    pub(crate) fn retry_later(&mut self, peer: &PeerId, now: Timestamp, offered_here: bool) {
        if let Some(present) = self.present.get_mut(peer) {
            let pause = RETRY
                .0
                .saturating_mul(1 << present.failures.min(5))
                .min(RETRY.1);
            present.failures += 1;
            let patience = if offered_here {
                Duration::ZERO
            } else {
                PATIENCE
            };
            present.retry_at = Some(now + pause + patience);
        }
    }

    /// No more offers to a peer that was refused for good.
    pub(crate) fn give_up(&mut self, peer: &PeerId) {
        if let Some(present) = self.present.get_mut(peer) {
            present.retry_at = None;
        }
    }

    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        self.present
            .values()
            .filter_map(|present| present.retry_at)
            .min()
    }

    /// Peers whose pause is over.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<PeerId> {
        let due = self.present.iter_mut();
        let due = due.filter(|(_, present)| present.retry_at.is_some_and(|at| at <= now));
        let mut peers = Vec::new();
        for (peer, present) in due {
            present.retry_at = None;
            // A negotiation that is under way is not cut short.
            if present.running.is_empty() {
                peers.push(peer.clone());
            }
        }
        peers
    }

    /// Takes an offer. If ours of the same kind is under way, the peer with the smaller id gives
    /// way (perfect negotiation).
    pub(crate) fn offered(
        &mut self,
        from: &PeerId,
        request: RequestId,
        body: OfferBody,
        now: Timestamp,
    ) {
        let role = Role::Answer { request, body };
        let allowed = match role.kind() {
            TransportKind::Quic => self.preference.allows_quic() && self.negotiator.quic.is_some(),
            _ => self.preference.allows_webrtc(),
        };
        let Some(present) = self.present.get(from).filter(|_| allowed) else {
            tracing::debug!(%from, kind = ?role.kind(), "an offer is not taken");
            return;
        };
        let ours = present.running.get(&role.kind());
        if ours.is_some_and(|ours| ours.side == Side::Initiator) && self.own > *from {
            return;
        }
        self.start(from, role, now);
    }

    /// Hands a signal to the negotiations with its sender; each picks its own by request id.
    pub(crate) fn signal(&mut self, event: SignalingEvent) {
        let (peer, signal) = match event {
            SignalingEvent::Answer {
                from,
                request_id,
                body,
            } => (
                from,
                Signal::Answer {
                    request: request_id,
                    body,
                },
            ),
            SignalingEvent::Candidate {
                from,
                request_id,
                candidate,
            } => (
                from,
                Signal::Candidate {
                    request: request_id,
                    candidate,
                },
            ),
            SignalingEvent::OfferExpired { to, request_id } => (
                to,
                Signal::Ended {
                    request: Some(request_id),
                },
            ),
            SignalingEvent::Disconnected { peer_id, .. } => {
                (peer_id, Signal::Ended { request: None })
            }
            _ => return,
        };
        let Some(present) = self.present.get(&peer) else {
            return;
        };
        for running in present.running.values() {
            if running.signals.try_send(signal.clone()).is_err() {
                tracing::debug!(%peer, "a signal came too late or too often");
            }
        }
    }

    fn start(&mut self, peer: &PeerId, role: Role, now: Timestamp) {
        let Some(present) = self.present.get_mut(peer) else {
            return;
        };
        let (kind, side) = (role.kind(), role.side());
        self.next += 1;
        let number = self.next;
        let (signals, queue) = mpsc::channel(SIGNAL_QUEUE);
        let negotiation = self.negotiator.clone().run(peer.clone(), role, queue);
        let peer = peer.clone();
        let task = self.tasks.spawn(async move {
            let result = negotiation.await;
            (
                number,
                Outcome {
                    peer,
                    kind,
                    side,
                    started: now,
                    result,
                },
            )
        });
        let running = Running {
            number,
            side,
            signals,
            task,
        };
        if let Some(replaced) = present.running.insert(kind, running) {
            replaced.task.abort();
        }
    }

    /// The next negotiation that has ended by itself; `None` while none is running. Cancel safe.
    pub(crate) async fn finished(&mut self) -> Option<Outcome> {
        loop {
            // An aborted negotiation was replaced or its peer has left: nobody waits for it.
            let Ok((number, outcome)) = self.tasks.join_next().await? else {
                continue;
            };
            let Some(present) = self.present.get_mut(&outcome.peer) else {
                if outcome.result.is_ok() {
                    return Some(outcome);
                }
                continue;
            };
            if present
                .running
                .get(&outcome.kind)
                .is_some_and(|r| r.number == number)
            {
                present.running.remove(&outcome.kind);
            }
            if outcome.result.is_ok() {
                present.failures = 0;
                present.retry_at = None;
            }
            return Some(outcome);
        }
    }

    /// Signaling has ended: no more offers can be made or taken.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.forget_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends every negotiation and waits until nothing of them is left.
    pub(crate) async fn shut_down(&mut self) {
        self.forget_all();
        self.tasks.shutdown().await;
    }
}
