//! A client: what it believes about the room, and a negotiation of each kind with everyone in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use roundtable_core::{PeerId, Timestamp};
use roundtable_signaling_protocol::{
    Announce, CandidateAction, Capabilities, Capability, ClientMessage, ConnectionId, Description,
    IceCandidate, Kind, MessageId, Negotiation, Notification, OfferAction, Phase, Request,
    RequestId, ResumeToken, ServerMessage,
};

use super::{KINDS, SignalingFault, SignalingReport, room};

/// How long an offer may wait here: the server's word that it expired may be lost.
const OFFER_PATIENCE: Duration = Duration::from_secs(35);
/// How long a link may take to open, and how long the other end may be silent.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// Before a lost socket is dialled again.
const REDIAL: Duration = Duration::from_millis(200);
/// Candidates of each side.
const CANDIDATES: u16 = 2;

/// One side of a negotiation.
#[derive(Debug)]
struct End {
    negotiation: Negotiation,
    /// Since when it has been waiting for what comes next.
    since: Timestamp,
    retry_at: Option<Timestamp>,
    /// Candidates applied for the present offer.
    applied: u16,
}

/// What was asked and not answered yet.
#[derive(Debug)]
enum Asked {
    Announce,
    About(PeerId, Kind, RequestId),
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: PeerId,
    /// What it hands to its socket, which may be broken.
    pub(super) outgoing: Vec<String>,
    pub(super) socket: Option<ConnectionId>,
    dial_at: Option<Timestamp>,
    resume: Option<ResumeToken>,
    others: BTreeMap<PeerId, BTreeMap<Kind, End>>,
    asked: BTreeMap<i64, Asked>,
    last_id: i64,
    fault: Option<SignalingFault>,
}

impl Client {
    #[allow(clippy::expect_used)] // a digit is a valid name
    pub(super) fn new(number: u64, first: Timestamp, fault: Option<SignalingFault>) -> Self {
        Self {
            name: PeerId::new(&format!("p{number}")).expect("a valid name"),
            outgoing: Vec::new(),
            socket: None,
            dial_at: Some(first),
            resume: None,
            others: BTreeMap::new(),
            asked: BTreeMap::new(),
            last_id: 0,
            fault,
        }
    }

    pub(super) fn picture(&self) -> BTreeSet<PeerId> {
        self.others.keys().cloned().collect()
    }

    pub(super) fn negotiation(&self, peer: &PeerId, kind: Kind) -> Option<&Negotiation> {
        Some(&self.others.get(peer)?.get(&kind)?.negotiation)
    }

    pub(super) fn has_all_candidates(&self, peer: &PeerId, kind: Kind) -> bool {
        let end = self.others.get(peer).and_then(|kinds| kinds.get(&kind));
        end.is_some_and(|end| end.applied == CANDIDATES)
    }

    // --- the socket -----------------------------------------------------------------------------

    /// Whether it is time to connect.
    pub(super) fn dials(&mut self, now: Timestamp) -> bool {
        self.socket.is_none() && self.dial_at.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn announce(&mut self, socket: ConnectionId) {
        self.socket = Some(socket);
        let announce = Announce {
            protocol: 1,
            room: room(),
            peer_id: self.name.clone(),
            capabilities: Capabilities::from([Capability::Data, Capability::Quic]),
            token: None,
            resume: self.resume.clone(),
            user_data: serde_json::Value::Null,
        };
        self.ask(Asked::Announce, Request::Announce(Box::new(announce)));
    }

    /// The socket is gone. What was not answered may have arrived or not.
    pub(super) fn lose(&mut self, now: Timestamp, socket: ConnectionId) {
        if self.socket != Some(socket) {
            return;
        }
        self.socket = None;
        self.dial_at.get_or_insert(now + REDIAL);
        for asked in std::mem::take(&mut self.asked).into_values() {
            self.fail(now, &asked);
        }
    }

    /// Leaves the room, to come back at another time.
    pub(super) fn leave(&mut self, back: Timestamp) {
        if self.socket.is_none() {
            return;
        }
        let reason = String::new();
        self.notify(Request::Disconnect { to: None, reason });
        self.others.clear();
        self.asked.clear();
        self.dial_at = Some(back);
    }

    fn ask(&mut self, asked: Asked, request: Request) {
        self.last_id += 1;
        self.asked.insert(self.last_id, asked);
        let id = MessageId::Number(self.last_id);
        self.outgoing
            .push(ClientMessage::request(id, request).encode());
    }

    fn notify(&mut self, request: Request) {
        self.outgoing
            .push(ClientMessage::notification(request).encode());
    }

    // --- what it does ---------------------------------------------------------------------------

    fn end(&mut self, now: Timestamp, peer: &PeerId, kind: Kind) -> Option<&mut End> {
        let (own, fault) = (&self.name, self.fault);
        let kinds = self.others.get_mut(peer)?;
        Some(kinds.entry(kind).or_insert_with(|| End {
            negotiation: match fault {
                Some(SignalingFault::EveryonePolite) => {
                    Negotiation::new(own.min(peer), own.max(peer))
                }
                _ => Negotiation::new(own, peer),
            },
            since: now,
            retry_at: None,
            applied: 0,
        }))
    }

    /// Offers, unless an offer waits already: a peer connection has one at a time.
    pub(super) fn offer(&mut self, now: Timestamp, peer: &PeerId, kind: Kind, id: RequestId) {
        if self.socket.is_none() {
            return;
        }
        let Some(end) = self.end(now, peer, kind) else {
            return;
        };
        if end.negotiation.phase() == Phase::OfferSent {
            return;
        }
        end.negotiation.offer(id.clone());
        (end.since, end.retry_at, end.applied) = (now, None, 0);
        let request = Request::Offer {
            to: peer.clone(),
            request_id: id.clone(),
            body: description(kind),
        };
        self.ask(Asked::About(peer.clone(), kind, id.clone()), request);
        self.trickle(peer, &id);
    }

    fn trickle(&mut self, peer: &PeerId, id: &RequestId) {
        for number in 0..CANDIDATES {
            let candidate = IceCandidate {
                candidate: format!("candidate:{number}"),
                ..IceCandidate::default()
            };
            self.notify(Request::Candidate {
                to: peer.clone(),
                request_id: id.clone(),
                candidate,
            });
        }
    }

    /// What is to be offered again now.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<(PeerId, Kind)> {
        if self.socket.is_none() {
            return Vec::new();
        }
        let ends = self.others.iter_mut();
        let ends = ends
            .flat_map(|(peer, kinds)| kinds.iter_mut().map(move |(kind, end)| (peer, kind, end)));
        let due = ends.filter_map(|(peer, kind, end)| {
            end.retry_at.take_if(|at| *at <= now)?;
            Some((peer.clone(), *kind))
        });
        due.collect()
    }

    /// Gives up what takes too long, and tries again after a pause.
    pub(super) fn give_up_late(&mut self, now: Timestamp, pause: Duration) {
        for end in self.others.values_mut().flat_map(BTreeMap::values_mut) {
            let waited = now.saturating_since(end.since);
            let late = match end.negotiation.phase() {
                Phase::OfferSent => waited > OFFER_PATIENCE,
                Phase::Connecting | Phase::Connected => waited > LINK_PATIENCE,
                Phase::Idle | Phase::Ended => false,
            };
            if late {
                end.negotiation.end();
            }
            if matches!(end.negotiation.phase(), Phase::Idle | Phase::Ended) {
                end.retry_at.get_or_insert(now + pause);
            }
        }
    }

    /// How the link to a peer does: whether both ends know the same offer and its answer.
    pub(super) fn link(&mut self, now: Timestamp, peer: &PeerId, kind: Kind, agreed: bool) {
        let end = self
            .others
            .get_mut(peer)
            .and_then(|kinds| kinds.get_mut(&kind));
        if let Some(end) = end.filter(|_| agreed) {
            end.negotiation.on_connected();
            end.since = now;
        }
    }

    // --- what it hears --------------------------------------------------------------------------

    /// Takes a message; `fresh` names the offer that it may lead to, one for each kind being enough.
    pub(super) fn hear(
        &mut self,
        now: Timestamp,
        text: &str,
        fresh: &RequestId,
        report: &mut SignalingReport,
    ) {
        match ServerMessage::parse(text) {
            Ok(ServerMessage::Result {
                id: MessageId::Number(id),
                result,
            }) => {
                if let Some(Asked::Announce) = self.asked.remove(&id)
                    && let Ok(joined) = ServerMessage::joined(&result)
                {
                    self.resume = Some(joined.resume);
                    let there = joined.peers.into_iter().map(|peer| peer.peer_id).collect();
                    self.enter(now, joined.resumed, &there, fresh);
                }
            }
            Ok(ServerMessage::Error {
                id: Some(MessageId::Number(id)),
                ..
            }) => {
                if let Some(asked) = self.asked.remove(&id) {
                    self.fail(now, &asked);
                }
            }
            Ok(ServerMessage::Notification(notification)) => {
                self.take_news(now, notification, report)
            }
            _ => {}
        }
    }

    /// In the room, again or for the first time. What was sent over a broken socket is lost, news about who came and left
    /// among it: only the result says who is there.
    fn enter(
        &mut self,
        now: Timestamp,
        resumed: bool,
        there: &BTreeSet<PeerId>,
        fresh: &RequestId,
    ) {
        if resumed && self.fault == Some(SignalingFault::KeepsOldPicture) {
            return;
        }
        self.others
            .retain(|peer, _| resumed && there.contains(peer));
        for (number, peer) in there.iter().enumerate() {
            if self.others.contains_key(peer) {
                continue;
            }
            self.others.insert(peer.clone(), BTreeMap::new());
            for kind in KINDS {
                let id = format!("{fresh}-{number}-{kind:?}");
                if let Ok(id) = RequestId::new(&id) {
                    self.offer(now, peer, kind, id);
                }
            }
        }
    }

    /// A request was refused, or nobody knows.
    fn fail(&mut self, now: Timestamp, asked: &Asked) {
        match asked {
            Asked::Announce => {
                // The place is somebody's: ours from before, until it is given up.
                self.socket = None;
                self.dial_at = Some(now + Duration::from_secs(1));
            }
            Asked::About(peer, kind, id) => {
                if let Some(end) = self.end(now, peer, *kind)
                    && end.negotiation.request_id() == Some(id)
                    && end.negotiation.phase() != Phase::Connected
                {
                    end.negotiation.end();
                }
            }
        }
    }

    fn take_news(
        &mut self,
        now: Timestamp,
        notification: Notification,
        report: &mut SignalingReport,
    ) {
        match notification {
            // The newcomer offers.
            Notification::PeerAnnounced(info) => {
                self.others.entry(info.peer_id).or_default();
            }
            Notification::PeerLeft { peer_id, .. } => {
                self.others.remove(&peer_id);
            }
            Notification::Offer {
                from,
                request_id,
                body,
            } => {
                self.on_offer(now, &from, body.kind(), request_id, report);
            }
            Notification::Answer {
                from,
                request_id,
                body,
            } => {
                if let Some(end) = self.end(now, &from, body.kind())
                    && end.negotiation.on_answer(&request_id).is_ok()
                {
                    end.since = now;
                    end.describe();
                }
            }
            Notification::Candidate {
                from,
                request_id,
                candidate,
            } => {
                let kinds = self.others.get_mut(&from);
                for end in kinds.into_iter().flat_map(BTreeMap::values_mut) {
                    let action = end.negotiation.on_candidate(&request_id, candidate.clone());
                    end.applied += u16::from(matches!(action, CandidateAction::Apply(_)));
                }
            }
            Notification::OfferExpired { to, request_id } => {
                report.expired += 1;
                let kinds = self.others.get_mut(&to);
                for end in kinds.into_iter().flat_map(BTreeMap::values_mut) {
                    end.negotiation.on_offer_expired(&request_id);
                }
            }
            _ => {}
        }
    }

    fn on_offer(
        &mut self,
        now: Timestamp,
        from: &PeerId,
        kind: Kind,
        id: RequestId,
        report: &mut SignalingReport,
    ) {
        let Some(end) = self.end(now, from, kind) else {
            return;
        };
        match end.negotiation.on_offer(id.clone()) {
            OfferAction::Ignore => return,
            OfferAction::RollbackAndAccept { .. } => report.crossed += 1,
            OfferAction::Accept => {}
        }
        (end.since, end.retry_at, end.applied) = (now, None, 0);
        end.describe();
        let request = Request::Answer {
            to: from.clone(),
            request_id: id.clone(),
            body: description(kind),
        };
        self.ask(Asked::About(from.clone(), kind, id.clone()), request);
        self.trickle(from, &id);
    }
}

impl End {
    /// The other side's description is applied, and with it the candidates that came before.
    fn describe(&mut self) {
        self.negotiation.on_remote_applied();
        while self.negotiation.poll_candidate().is_some() {
            self.applied += 1;
        }
    }
}

#[allow(clippy::expect_used)] // it is constant
fn description(kind: Kind) -> Description {
    match kind {
        Kind::WebRtc => Description::WebRtc { sdp: "v=0".into() },
        Kind::Quic => Description::Quic {
            author_key: "ab".repeat(32).parse().expect("64 digits"),
            addresses: Vec::new(),
        },
    }
}
