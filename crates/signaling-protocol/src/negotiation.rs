//! One negotiation between a pair of peers, as each end sees it (perfect negotiation, W3C WebRTC §10.7).

use std::collections::VecDeque;

use roundtable_core::PeerId;

use crate::{IceCandidate, RequestId};

/// Most candidates held for a description that has not been applied yet; further ones are dropped,
/// as a lossy network might, and ICE goes on with those it has.
const MAX_HELD: usize = 64;

/// How far a negotiation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// Nothing is going on.
    #[default]
    Idle,
    /// Our offer waits for its answer.
    OfferSent,
    /// Both descriptions are exchanged; the link is being made.
    Connecting,
    /// The link is up.
    Connected,
    /// The link or the attempt is over; [`Negotiation::reset`] allows another.
    Ended,
}

/// What to do with an offer from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferAction {
    /// Apply it and answer.
    Accept,
    /// Roll back our own offer of this id, then apply theirs and answer: the offers crossed and we
    /// are the polite side.
    RollbackAndAccept {
        /// Our offer, which expires silently.
        ours: RequestId,
    },
    /// Do nothing: the offers crossed and the peer is the polite side.
    Ignore,
}

/// What to do with a candidate from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CandidateAction {
    /// Hand it to ICE.
    Apply(IceCandidate),
    /// Nothing yet; [`Negotiation::poll_candidate`] gives it back once the description is applied.
    Held,
    /// It belongs to another offer, or too many are held.
    Dropped,
}

/// An answer came that nothing waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no offer with this request_id waits for an answer")]
pub struct UnexpectedAnswer;

/// The state of the negotiation of one [`Kind`](crate::Kind) with one peer. Renegotiating (an ICE
/// restart, say) runs through the same phases again while the link stays up.
#[derive(Debug, Clone)]
pub struct Negotiation {
    polite: bool,
    phase: Phase,
    request_id: Option<RequestId>,
    remote_applied: bool,
    held: VecDeque<IceCandidate>,
}

impl Negotiation {
    /// A negotiation between `own` and `peer`: the smaller name is the polite side.
    pub fn new(own: &PeerId, peer: &PeerId) -> Self {
        Self {
            polite: own < peer,
            phase: Phase::Idle,
            request_id: None,
            remote_applied: false,
            held: VecDeque::new(),
        }
    }

    /// How far it has come.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether this side yields when offers cross.
    pub const fn is_polite(&self) -> bool {
        self.polite
    }

    /// The offer that candidates of both sides belong to now.
    pub const fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }

    fn start(&mut self, phase: Phase, request_id: RequestId) {
        self.phase = phase;
        self.request_id = Some(request_id);
        self.remote_applied = false;
        self.held.clear();
    }

    /// We send an offer. A second one replaces the first.
    pub fn offer(&mut self, request_id: RequestId) {
        self.start(Phase::OfferSent, request_id);
    }

    /// The peer's offer arrived.
    pub fn on_offer(&mut self, request_id: RequestId) -> OfferAction {
        if self.phase == Phase::OfferSent && !self.polite {
            return OfferAction::Ignore;
        }
        let ours = self.request_id.take();
        let crossed = self.phase == Phase::OfferSent;
        self.start(Phase::Connecting, request_id);
        match ours {
            Some(ours) if crossed => OfferAction::RollbackAndAccept { ours },
            _ => OfferAction::Accept,
        }
    }

    /// The peer's answer arrived.
    ///
    /// # Errors
    /// [`UnexpectedAnswer`] if it answers no offer of ours that still waits; drop it then.
    pub fn on_answer(&mut self, request_id: &RequestId) -> Result<(), UnexpectedAnswer> {
        if self.phase != Phase::OfferSent || self.request_id.as_ref() != Some(request_id) {
            return Err(UnexpectedAnswer);
        }
        self.phase = Phase::Connecting;
        Ok(())
    }

    /// The peer's description has been applied: candidates may go to ICE from now on.
    pub fn on_remote_applied(&mut self) {
        self.remote_applied = true;
    }

    /// A candidate of the peer arrived.
    pub fn on_candidate(
        &mut self,
        request_id: &RequestId,
        candidate: IceCandidate,
    ) -> CandidateAction {
        if self.request_id.as_ref() != Some(request_id) {
            return CandidateAction::Dropped;
        }
        if self.remote_applied {
            return CandidateAction::Apply(candidate);
        }
        if self.held.len() == MAX_HELD {
            return CandidateAction::Dropped;
        }
        self.held.push_back(candidate);
        CandidateAction::Held
    }

    /// The next held candidate, once the description is applied.
    pub fn poll_candidate(&mut self) -> Option<IceCandidate> {
        self.remote_applied.then(|| self.held.pop_front()).flatten()
    }

    /// The link came up.
    pub fn on_connected(&mut self) {
        if self.phase == Phase::Connecting {
            self.phase = Phase::Connected;
        }
    }

    /// The server says that nobody answered our offer. Returns whether that ended the attempt: an
    /// offer that was rolled back or replaced expires silently.
    pub fn on_offer_expired(&mut self, request_id: &RequestId) -> bool {
        let ours = self.phase == Phase::OfferSent && self.request_id.as_ref() == Some(request_id);
        if ours {
            self.end();
        }
        ours
    }

    /// The link or the attempt is over: the peer left, disconnected, or ICE failed.
    pub fn end(&mut self) {
        self.phase = Phase::Ended;
        self.request_id = None;
        self.remote_applied = false;
        self.held.clear();
    }

    /// Back to [`Phase::Idle`], ready for another attempt.
    pub fn reset(&mut self) {
        self.end();
        self.phase = Phase::Idle;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Negotiation, Negotiation) {
        let (a, b) = (PeerId::new("a").unwrap(), PeerId::new("b").unwrap());
        (Negotiation::new(&a, &b), Negotiation::new(&b, &a))
    }

    fn id(text: &str) -> RequestId {
        RequestId::new(text).unwrap()
    }

    fn candidate(n: usize) -> IceCandidate {
        IceCandidate {
            candidate: format!("candidate:{n}"),
            ..IceCandidate::default()
        }
    }

    #[test]
    fn one_offer_runs_through_all_phases() {
        let (mut a, mut b) = pair();
        a.offer(id("1"));
        assert_eq!(a.phase(), Phase::OfferSent);
        assert_eq!(b.on_offer(id("1")), OfferAction::Accept);
        a.on_answer(&id("1")).unwrap();
        assert_eq!(
            (a.phase(), b.phase()),
            (Phase::Connecting, Phase::Connecting)
        );
        a.on_connected();
        assert_eq!(a.phase(), Phase::Connected);
        a.end();
        assert_eq!(a.phase(), Phase::Ended);
        a.reset();
        assert_eq!(a.phase(), Phase::Idle);
    }

    #[test]
    fn crossing_offers_end_with_the_impolite_sides_offer() {
        let (mut a, mut b) = pair();
        a.offer(id("from-a"));
        b.offer(id("from-b"));
        assert_eq!(b.on_offer(id("from-a")), OfferAction::Ignore);
        let ours = id("from-a");
        assert_eq!(
            a.on_offer(id("from-b")),
            OfferAction::RollbackAndAccept { ours }
        );
        b.on_answer(&id("from-b")).unwrap();
        assert_eq!(a.request_id(), b.request_id());
        assert!(!a.on_offer_expired(&id("from-a")), "expires silently");
    }

    #[test]
    fn an_answer_counts_once_and_only_for_its_offer() {
        let (mut a, _) = pair();
        assert_eq!(a.on_answer(&id("1")), Err(UnexpectedAnswer));
        a.offer(id("1"));
        assert_eq!(a.on_answer(&id("2")), Err(UnexpectedAnswer));
        a.on_answer(&id("1")).unwrap();
        assert_eq!(a.on_answer(&id("1")), Err(UnexpectedAnswer));
    }

    #[test]
    fn candidates_wait_for_the_description_within_bounds() {
        let (mut a, _) = pair();
        a.offer(id("1"));
        for n in 0..MAX_HELD {
            assert_eq!(
                a.on_candidate(&id("1"), candidate(n)),
                CandidateAction::Held
            );
        }
        assert_eq!(
            a.on_candidate(&id("1"), candidate(99)),
            CandidateAction::Dropped
        );
        assert_eq!(a.poll_candidate(), None);
        a.on_answer(&id("1")).unwrap();
        a.on_remote_applied();
        for n in 0..MAX_HELD {
            assert_eq!(a.poll_candidate(), Some(candidate(n)));
        }
        let late = a.on_candidate(&id("1"), candidate(7));
        assert_eq!(late, CandidateAction::Apply(candidate(7)));
    }

    proptest! {
        /// Whoever offers when, and however the messages of the two directions interleave: once
        /// everything is delivered, both sides agree on one offer and wait for nothing.
        #[test]
        fn both_sides_agree_when_the_network_is_quiet(steps in prop::collection::vec(0..4_u8, 1..40)) {
            #[derive(Clone)]
            enum Wire { Offer(RequestId), Answer(RequestId) }
            let (a, b) = pair();
            let mut ends = [a, b];
            let mut wires: [VecDeque<Wire>; 2] = Default::default();
            let mut offers = 0;
            let deliver = |ends: &mut [Negotiation; 2], wires: &mut [VecDeque<Wire>; 2], to: usize| {
                match wires[to].pop_front() {
                    Some(Wire::Offer(id)) if ends[to].on_offer(id.clone()) != OfferAction::Ignore => {
                        wires[1 - to].push_back(Wire::Answer(id));
                    }
                    Some(Wire::Offer(_)) | None => {}
                    Some(Wire::Answer(id)) => drop(ends[to].on_answer(&id)),
                }
            };
            for step in steps {
                let end = usize::from(step & 1);
                if step & 2 == 0 {
                    // An offer is only made where none waits, as a peer connection demands.
                    if ends[end].phase() != Phase::OfferSent {
                        offers += 1;
                        let id = id(&format!("{offers}"));
                        ends[end].offer(id.clone());
                        wires[1 - end].push_back(Wire::Offer(id));
                    }
                } else {
                    deliver(&mut ends, &mut wires, end);
                }
            }
            while wires.iter().any(|wire| !wire.is_empty()) {
                deliver(&mut ends, &mut wires, 0);
                deliver(&mut ends, &mut wires, 1);
            }
            prop_assert_eq!(ends[0].request_id(), ends[1].request_id());
            prop_assert_eq!(ends[0].phase(), ends[1].phase());
            prop_assert_ne!(ends[0].phase(), Phase::OfferSent);
        }
    }
}
