//! Who is in the room, and the negotiations under way with each. When to begin one is the business of [`Breaker`].

mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use roundtable_core::{AuthorId, PeerId, Timestamp, TransportKind};
use roundtable_session::Side;
use roundtable_signaling_client::Event as SignalingEvent;
use roundtable_signaling_protocol::{
    AnswerBody, Capabilities, Capability, OfferBody, PeerInfo, RequestId, Spent, TokenBucket,
};
use roundtable_transport::Link;
use roundtable_transport_quic::QuicLink;
use roundtable_transport_webrtc::WebRtcLink;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    CommandTransport, TransportPreference,
    negotiation::{Contact, Negotiated, NegotiationError, Negotiator, Role, SIGNAL_QUEUE, Signal},
    reconnect::{
        Breaker, Crossing, Due, Fallen, Signaled, Turn, Upgrade, Waiting, better_way, offer_pace,
    },
};

use slot::Slot;

/// How many dials of one silent peer are under way: with two a second, each has two seconds.
const DIALS: u32 = 4;
/// Addresses of a silent peer that are dialled, first those that it has used.
const DIALLED: usize = 8;
/// How long a negotiation that was answered is not replaced by a probe.
const ANSWERED_FOR: Duration = Duration::from_secs(4);
/// From which probe on every other offer is for WebRTC, where QUIC had been tried alone: after 2 s.
const PROBES_OF_THE_BEST: u32 = 4;
/// By how much QUIC is tried before WebRTC joins the race (RFC 8305 §5 recommends it for addresses), and how long if the
/// peer has answered meanwhile, so that only the dial is missing.
const HEAD_START: Duration = Duration::from_millis(250);
const HEAD_START_ANSWERED: Duration = Duration::from_millis(750);

/// A negotiation that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) peer: PeerId,
    pub(crate) kind: TransportKind,
    pub(crate) side: Side,
    slot: Slot,
    pub(crate) started: Timestamp,
    pub(crate) result: Result<Negotiated, NegotiationError>,
}

impl Outcome {
    /// Whether this was one of many attempts that go by no signaling.
    pub(crate) fn is_direct(&self) -> bool {
        !self.slot.is_signaled()
    }
}

/// One peer of the room, as signaling tells.
#[derive(Debug)]
struct Present {
    capabilities: Capabilities,
    running: HashMap<Slot, Running>,
    breaker: Breaker,
    turn: Turn,
    /// It has refused us for good, or we it.
    given_up: bool,
    /// Where it was found over QUIC.
    contact: Option<Contact>,
    /// The pace of its offers, from the first on.
    pace: Option<TokenBucket>,
    /// When WebRTC joins the race that QUIC has begun.
    race: Option<Timestamp>,
    upgrade: Upgrade,
}

/// How a peer is linked.
#[derive(Debug)]
pub(crate) struct Linked {
    /// Whether over QUIC, among others, by a link on which it answers.
    pub(crate) by_quic: bool,
    /// Whether the link that is sent on leads over a TURN server.
    pub(crate) relayed: bool,
    /// Whether this peer has made its offer.
    pub(crate) offered_here: bool,
}

#[derive(Debug)]
struct Running {
    number: u64,
    side: Side,
    /// An offer of a new link, not of moving one.
    is_new: bool,
    started: Timestamp,
    answered: Arc<AtomicBool>,
    signals: mpsc::Sender<Signal>,
    task: AbortHandle,
}

impl Running {
    fn is_unanswered(&self) -> bool {
        self.side == Side::Initiator && !self.answered.load(Ordering::Relaxed)
    }
}

impl Present {
    /// Whether nothing is under way that could bring a link soon.
    fn is_idle(&self) -> bool {
        let is_idle = |slot: &Slot| matches!(slot, Slot::Await | Slot::Crossed(_));
        self.running.keys().all(is_idle)
    }

    /// Lets our offer go on beside the answer to one that has crossed it.
    fn cross(&mut self, kind: TransportKind) {
        if let Some(ours) = self.running.remove(&Slot::Signaled(kind))
            && let Some(before) = self.running.insert(Slot::Crossed(kind), ours)
        {
            before.task.abort();
        }
    }

    /// Ends the negotiations in some slots.
    fn end(&mut self, mut ends: impl FnMut(&Slot, &Running) -> bool) {
        let ended = self.running.extract_if(|slot, running| ends(slot, running));
        ended.for_each(|(_, running)| running.task.abort());
    }
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
    /// Whether signaling is connected.
    connected: bool,
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
            connected: true,
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
                breaker: Breaker::new(),
                turn: Turn::Second,
                given_up: false,
                contact: None,
                pace: None,
                race: None,
                upgrade: Upgrade::default(),
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

    /// Ends what was negotiated with a peer by an earlier presence in the room.
    pub(crate) fn start_over(&mut self, peer: &PeerId) {
        if let Some(present) = self.present.get_mut(peer) {
            present.end(|slot, _| slot.is_signaled());
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

    /// Offers a link to `peer`: over QUIC if both take it, and over WebRTC if they don't, or if QUIC has brought no link after a
    /// head start. Both go on then, and the first is made use of; if that is WebRTC, QUIC takes over when it comes.
    pub(crate) fn offer(&mut self, peer: &PeerId, now: Timestamp) {
        let kinds = self.kinds(peer);
        match kinds {
            (true, _) => self.start(peer, Role::Offer(TransportKind::Quic), now),
            (_, true) => self.start(peer, Role::Offer(TransportKind::WebRtc), now),
            _ => tracing::warn!(%peer, "no transport in common"),
        }
        if let Some(present) = self.present.get_mut(peer) {
            present.breaker.attempted(now);
            // Probes have an order of their own.
            let races = kinds == (true, true) && !present.breaker.is_probing();
            present.race = races.then(|| now + HEAD_START);
        }
    }

    /// Lets WebRTC join where QUIC has had its head start.
    pub(crate) fn race(&mut self, now: Timestamp) {
        let mut joining = Vec::new();
        for (peer, present) in &mut self.present {
            if present.race.is_none_or(|race| race > now) {
                continue;
            }
            let quic = present.running.get(&Slot::Signaled(TransportKind::Quic));
            let answered = quic.filter(|quic| !quic.is_unanswered());
            let until = answered.map(|quic| quic.started + HEAD_START_ANSWERED);
            present.race = until.filter(|until| *until > now);
            if present.race.is_none() {
                joining.push(peer.clone());
            }
        }
        for peer in joining {
            self.offer_webrtc(&peer, now);
        }
    }

    /// Offers a link over WebRTC, unless one is being negotiated.
    fn offer_webrtc(&mut self, peer: &PeerId, now: Timestamp) {
        let webrtc = Slot::Signaled(TransportKind::WebRtc);
        let Some(present) = self.present.get_mut(peer) else {
            return;
        };
        present.race = None;
        if !present.running.contains_key(&webrtc) {
            self.start(peer, Role::Offer(TransportKind::WebRtc), now);
        }
    }

    /// Looks for a better way to a peer that is linked, if there may be one and it is time.
    pub(crate) fn review(&mut self, peer: &PeerId, linked: Linked, now: Timestamp) {
        let quic = self.kinds(peer).0 && !linked.by_quic;
        let Some(present) = self.present.get_mut(peer) else {
            return;
        };
        // A guest knows of one link alone.
        let relayed = linked.relayed && present.capabilities.contains(Capability::Session);
        if better_way(quic, relayed, 0).is_none() {
            return present.upgrade.is_best(now);
        }
        if !self.connected || present.breaker.is_probing() {
            return;
        }
        let turn = Turn::of(linked.offered_here);
        let made = present.upgrade.might_be_better(now, turn, random());
        let Some(kind) = made.and_then(|made| better_way(quic, relayed, made)) else {
            return;
        };
        if !present.running.contains_key(&Slot::Signaled(kind)) {
            tracing::debug!(%peer, ?kind, "looks for a better way");
            self.start(peer, Role::Offer(kind), now);
        }
    }

    /// Whether signaling is connected, from now on.
    pub(crate) fn signaling(&mut self, connected: bool) {
        self.connected = connected;
    }

    /// The network has changed: there may be better ways now.
    pub(crate) fn look_again(&mut self, now: Timestamp) {
        for present in self.present.values_mut() {
            present.upgrade.look_again(now);
        }
    }

    /// Whether both take QUIC, and WebRTC.
    fn kinds(&self, peer: &PeerId) -> (bool, bool) {
        let present = self.present.get(peer);
        let takes = |capability| present.is_some_and(|p| p.capabilities.contains(capability));
        let quic = self.preference.allows_quic() && self.negotiator.quic.is_some();
        let webrtc = self.preference.allows_webrtc();
        (
            quic && takes(Capability::Quic),
            webrtc && takes(Capability::Data),
        )
    }

    /// After a failed offer: WebRTC after QUIC, else the same again after a pause. Probes go on, unless they were refused.
    pub(crate) fn fall_back(
        &mut self,
        peer: &PeerId,
        failed: TransportKind,
        error: Option<&NegotiationError>,
        now: Timestamp,
    ) {
        let Some(present) = self.present.get_mut(peer) else {
            return;
        };
        if error.is_some_and(NegotiationError::is_of_signaling) {
            present.breaker.silent(now, present.turn);
        } else if present.breaker.is_probing() {
            if error.is_some_and(NegotiationError::is_refusal) {
                present.breaker.refused(now, present.turn, random());
            }
        } else if failed == TransportKind::Quic && self.kinds(peer).1 {
            self.offer_webrtc(peer, now);
        } else {
            self.retry_later(peer, now, true);
        }
    }

    /// Tries again after a pause: whoever made the last offer first, and the other side only if
    /// nothing has come of that.
    pub(crate) fn retry_later(&mut self, peer: &PeerId, now: Timestamp, offered_here: bool) {
        if let Some(present) = self.present.get_mut(peer) {
            present.turn = Turn::of(offered_here);
            present.breaker.unanswered(now, present.turn, random());
        }
    }

    /// Tries again after a pause, as one of the two has as many links as its room takes.
    pub(crate) fn full(&mut self, peer: &PeerId, now: Timestamp, offered_here: bool) {
        if let Some(present) = self.present.get_mut(peer) {
            present.turn = Turn::of(offered_here);
            present.breaker.full(now, present.turn, random());
        }
    }

    /// Whether an offer of a peer is being taken up that came later than this.
    pub(crate) fn answers(&self, peer: &PeerId, since: Timestamp) -> bool {
        let mut running = self.present.get(peer).into_iter().flat_map(|p| &p.running);
        running.any(|(slot, r)| {
            let offered = matches!(slot, Slot::Signaled(_)) && r.side == Side::Responder;
            offered && r.started > since
        })
    }

    /// No more offers to a peer that was refused for good.
    pub(crate) fn give_up(&mut self, peer: &PeerId) {
        if let Some(present) = self.present.get_mut(peer) {
            present.breaker.close();
            present.race = None;
            present.given_up = true;
        }
    }

    /// Whether signaling lists a peer.
    pub(crate) fn is_present(&self, peer: &PeerId) -> bool {
        self.present.contains_key(peer)
    }

    /// Ends whatever would bring a link to a peer.
    pub(crate) fn leave_alone(&mut self, peer: &PeerId) {
        self.give_up(peer);
        if let Some(present) = self.present.get_mut(peer) {
            present.end(|_, _| true);
        }
    }

    /// Offers a link to a peer that may have been left alone.
    pub(crate) fn connect(&mut self, peer: &PeerId, now: Timestamp) {
        if let Some(present) = self.present.get_mut(peer) {
            present.breaker.close();
            present.given_up = false;
            if present.is_idle() {
                self.offer(peer, now);
            }
        }
    }

    // --- silence -------------------------------------------------------------------------------

    /// A linked peer is silent, or no link to it could be negotiated since signaling is.
    pub(crate) fn silent(&mut self, peer: &PeerId, now: Timestamp, offered_here: Option<bool>) {
        if let Some(present) = self.present.get_mut(peer) {
            present.turn = offered_here.map_or(present.turn, Turn::of);
            present.breaker.silent(now, present.turn);
        }
    }

    /// It answers on a link: no other is needed, though it may open one when its addresses change.
    pub(crate) fn heard(&mut self, peer: &PeerId, now: Timestamp) {
        if let Some(present) = self.present.get_mut(peer) {
            present.breaker.close();
            present.given_up = false;
            present.end(|slot, running| match slot {
                // Both ends have this link, so it does no harm if the peer has chosen a dial, too.
                Slot::Dial(_) => true,
                Slot::Signaled(_) | Slot::Crossed(_) => running.is_unanswered(),
                Slot::Await => false,
            });
        }
        self.await_dial(peer, now);
    }

    /// Signaling is back: those who are probed are offered a link then.
    pub(crate) fn hurry(&mut self, peer: &PeerId, at: Timestamp) {
        if let Some(present) = self.present.get_mut(peer) {
            present.breaker.hurry(at);
        }
    }

    /// Those who are probed.
    pub(crate) fn probed(&self) -> impl Iterator<Item = &PeerId> {
        let present = self.present.iter();
        present.filter_map(|(peer, present)| present.breaker.is_probing().then_some(peer))
    }

    pub(crate) fn is_probed(&self, peer: &PeerId) -> bool {
        self.present
            .get(peer)
            .is_some_and(|p| p.breaker.is_probing())
    }

    /// Those whom this peer would be linked with.
    pub(crate) fn wanted(&self) -> Vec<PeerId> {
        let peers = self.present.iter().filter(|(_, p)| !p.given_up);
        let peers = peers.map(|(peer, _)| peer);
        let wanted = peers.filter(|peer| self.kinds(peer) != (false, false));
        wanted.cloned().collect()
    }

    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        let present = self.present.values();
        let timers = present.flat_map(|p| [p.breaker.next_timeout(), p.race]);
        timers.flatten().min()
    }

    /// Peers who are to be tried now.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<(PeerId, Due)> {
        let due = |(peer, present): (&PeerId, &mut Present)| {
            let due = present.breaker.due(now, present.turn, random())?;
            Some((peer.clone(), due))
        };
        self.present.iter_mut().filter_map(due).collect()
    }

    /// Tries a peer once more after a pause. A negotiation that is under way is not cut short.
    pub(crate) fn retry(&mut self, peer: &PeerId, now: Timestamp) {
        let idle = self.present.get(peer).is_some_and(Present::is_idle);
        if idle {
            self.offer(peer, now);
        }
    }

    /// Tries a silent peer: by QUIC where it was last, and by signaling; there by moving its silent link as long as that is `open`,
    /// if heartbeats went unanswered on it.
    pub(crate) fn probe(
        &mut self,
        peer: &PeerId,
        made: u32,
        open: Option<(WebRtcLink, bool)>,
        now: Timestamp,
    ) {
        self.dial(peer, made, now);
        let Some(present) = self.present.get(peer) else {
            return;
        };
        let holds = |(slot, running): (&Slot, &Running)| {
            let fresh = now.saturating_since(running.started) < ANSWERED_FOR;
            slot.is_signaled() && fresh && !running.is_unanswered()
        };
        if present.running.iter().any(holds) {
            return;
        }
        let moving = Slot::Signaled(TransportKind::WebRtc);
        let fallen = open.as_ref().map(|(_, unanswered)| Fallen {
            unanswered: *unanswered,
            moving: present.running.contains_key(&moving),
        });
        match (Signaled::of(fallen, present.turn, self.connected), open) {
            (Signaled::Move, Some((link, _))) => self.restart(peer, link, now),
            (Signaled::Offer, _) => self.probe_by_signaling(peer, made, now),
            _ => {}
        }
    }

    fn probe_by_signaling(&mut self, peer: &PeerId, made: u32, now: Timestamp) {
        let other = made >= PROBES_OF_THE_BEST && made % 2 == 1;
        match self.kinds(peer) {
            (true, true) if other => self.start(peer, Role::Offer(TransportKind::WebRtc), now),
            _ => self.offer(peer, now),
        }
    }

    /// Dials a peer that was linked over QUIC, and lets it dial us.
    pub(crate) fn dial(&mut self, peer: &PeerId, made: u32, now: Timestamp) {
        let quic = self.kinds(peer).0;
        let Some(present) = self.present.get(peer).filter(|_| quic) else {
            return;
        };
        if let Some(contact) = present.contact.clone() {
            self.start_in(Slot::Dial(made % DIALS), peer, Role::Dial(contact), now);
        }
        self.await_dial(peer, now);
    }

    /// Lets a peer that was linked over QUIC dial us.
    pub(crate) fn await_dial(&mut self, peer: &PeerId, now: Timestamp) {
        let quic = self.kinds(peer).0;
        let present = self.present.get(peer).filter(|_| quic);
        let idle = present.filter(|p| !p.running.contains_key(&Slot::Await));
        if let Some(contact) = idle.and_then(|present| present.contact.as_ref()) {
            let role = Role::Await(contact.author);
            self.start_in(Slot::Await, peer, role, now);
        }
    }

    /// Where a peer says that it is to be found over QUIC.
    fn learn(&mut self, peer: &PeerId, author: AuthorId, addresses: &[SocketAddr]) {
        if let Some(present) = self.present.get_mut(peer) {
            let addresses = addresses.iter().copied().take(DIALLED).collect();
            present.contact = Some(Contact { author, addresses });
        }
    }

    /// Where a peer is linked over QUIC.
    fn found(&mut self, peer: &PeerId, link: &QuicLink) {
        let (Some(author), Some(address)) = (link.remote_author(), link.remote_address()) else {
            return;
        };
        if let Some(present) = self.present.get_mut(peer) {
            let known = present.contact.take().filter(|c| c.author == author);
            let mut addresses = known.map_or_else(Vec::new, |contact| contact.addresses);
            addresses.retain(|known| *known != address);
            addresses.insert(0, address);
            addresses.truncate(DIALLED);
            present.contact = Some(Contact { author, addresses });
        }
    }

    // --- links ---------------------------------------------------------------------------------

    /// Moves an open link to the network that there is now.
    pub(crate) fn restart(&mut self, peer: &PeerId, link: WebRtcLink, now: Timestamp) {
        self.start(peer, Role::Restart(link), now);
    }

    /// Takes an offer, which may be to move the `open` link. If ours of the same kind is under way,
    /// the peer with the smaller id gives way (perfect negotiation).
    pub(crate) fn offered(
        &mut self,
        from: &PeerId,
        (request, body): (RequestId, OfferBody),
        open: Option<WebRtcLink>,
        now: Timestamp,
    ) {
        let role = Role::Answer {
            request,
            body,
            open,
        };
        let allowed = match role.kind() {
            TransportKind::Quic => self.preference.allows_quic() && self.negotiator.quic.is_some(),
            _ => self.preference.allows_webrtc(),
        };
        let Some(present) = self.present.get_mut(from).filter(|_| allowed) else {
            tracing::debug!(%from, kind = ?role.kind(), "an offer is not taken");
            return;
        };
        let pace = present.pace.get_or_insert_with(|| offer_pace(now));
        if pace.spend(now) != Spent::Granted {
            tracing::debug!(%from, kind = ?role.kind(), "an offer too many");
            return;
        }
        let slot = Slot::Signaled(role.kind());
        let ours = present.running.get(&slot).filter(|r| r.is_unanswered());
        let ours = ours.map(|ours| Waiting {
            age: now.saturating_since(ours.started),
            is_new: ours.is_new,
        });
        match Crossing::of(ours, self.own < *from, present.breaker.is_probing()) {
            Crossing::Refuse => return,
            Crossing::Both => present.cross(role.kind()),
            Crossing::GiveWay => {}
        }
        if let Role::Answer {
            body:
                OfferBody::Quic {
                    author_key,
                    addresses,
                },
            ..
        } = &role
        {
            self.learn(from, *author_key, addresses);
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
        if let Signal::Answer {
            body:
                AnswerBody::Quic {
                    author_key,
                    addresses,
                },
            ..
        } = &signal
        {
            self.learn(&peer, *author_key, addresses);
        }
        let Some(present) = self.present.get(&peer) else {
            return;
        };
        let signaled = |(slot, running): (&Slot, _)| slot.is_signaled().then_some(running);
        for running in present.running.iter().filter_map(signaled) {
            if running.signals.try_send(signal.clone()).is_err() {
                tracing::debug!(%peer, "a signal came too late or too often");
            }
        }
    }

    /// Begins to negotiate, unless signaling is away: what waited for that would be said when it holds no longer, and the peer
    /// would wait for who has begun anew.
    fn start(&mut self, peer: &PeerId, role: Role, now: Timestamp) {
        if !self.connected {
            return;
        }
        self.start_in(Slot::Signaled(role.kind()), peer, role, now);
    }

    fn start_in(&mut self, slot: Slot, peer: &PeerId, role: Role, now: Timestamp) {
        let Some(present) = self.present.get_mut(peer) else {
            return;
        };
        let (kind, side) = (role.kind(), role.side());
        let is_new = matches!(role, Role::Offer(_));
        self.next += 1;
        let number = self.next;
        let (signals, queue) = mpsc::channel(SIGNAL_QUEUE);
        let answered = Arc::default();
        let negotiator = Negotiator {
            answered: Arc::clone(&answered),
            ..self.negotiator.clone()
        };
        let negotiation = negotiator.run(peer.clone(), role, queue);
        let peer = peer.clone();
        let task = self.tasks.spawn(async move {
            let result = negotiation.await;
            (
                number,
                Outcome {
                    peer,
                    kind,
                    side,
                    slot,
                    started: now,
                    result,
                },
            )
        });
        let running = Running {
            number,
            side,
            is_new,
            started: now,
            answered,
            signals,
            task,
        };
        if let Some(replaced) = present.running.insert(slot, running) {
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
            // It may have another slot by now, and another negotiation its own.
            present
                .running
                .retain(|_, running| running.number != number);
            return Some(outcome);
        }
    }

    /// A link is open: what would bring another is not begun. Dials that are under way go on, as the peer may have chosen one.
    pub(crate) fn linked(&mut self, peer: &PeerId, transport: &CommandTransport, now: Timestamp) {
        if let Some(present) = self.present.get_mut(peer) {
            present.breaker.opened(now);
            present.race = None;
            present.end(|slot, running| match slot {
                Slot::Signaled(_) | Slot::Crossed(_) => running.is_unanswered(),
                Slot::Dial(_) | Slot::Await => false,
            });
        }
        if let CommandTransport::Quic(link) = transport {
            self.found(peer, link);
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

/// Any number; the middle of the range where the operating system has none to give.
fn random() -> u32 {
    let mut bytes = [0, 0, 0, 0x80];
    // Falls back on the bytes above: jitter is not a secret.
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
