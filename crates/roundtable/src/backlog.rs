//! What signaling has kept for us while we were away, and tells all at once.

use std::collections::HashSet;

use roundtable_signaling_client::{Event, EventStream};

use crate::negotiation;

/// Events that are looked at together.
const TOGETHER: usize = 256;

/// An event and those that have come with it, but for what is no longer true.
pub(crate) fn with_ready(first: Event, signals: &mut EventStream) -> Vec<Event> {
    let ready = std::iter::from_fn(|| signals.try_next());
    without_replaced(std::iter::once(first).chain(ready).take(TOGETHER).collect())
}

/// Leaves out offers that a later one of the same peer has replaced. A peer that probes makes two a second, and waits for
/// the answer to the last only: the others would use up how many are taken from it, and the last would be refused.
fn without_replaced(mut events: Vec<Event>) -> Vec<Event> {
    let mut offers = HashSet::new();
    events.reverse();
    events.retain(|event| match event {
        Event::Offer { from, body, .. } => offers.insert((from.clone(), negotiation::kind(body))),
        _ => true,
    });
    events.reverse();
    events
}

#[cfg(test)]
mod tests {
    use roundtable_core::AuthorId;
    use roundtable_signaling_protocol::OfferBody;

    use super::*;

    fn webrtc(sdp: &str) -> OfferBody {
        OfferBody::WebRtc { sdp: sdp.into() }
    }

    fn quic() -> OfferBody {
        OfferBody::Quic {
            author_key: AuthorId::from_bytes([1; 32]),
            addresses: Vec::new(),
        }
    }

    fn offer(from: &str, number: u32, body: OfferBody) -> Event {
        Event::Offer {
            from: from.parse().unwrap(),
            request_id: format!("r{number}").parse().unwrap(),
            body,
        }
    }

    #[test]
    fn of_the_offers_that_a_peer_made_in_our_absence_the_last_of_each_kind_counts() {
        let left = Event::Ended(roundtable_signaling_client::EndReason::Left);
        let mut events: Vec<_> = (0..30).map(|n| offer("bob", n, webrtc("old"))).collect();
        events.push(offer("bob", 30, quic()));
        events.push(offer("carol", 31, webrtc("hers")));
        events.push(offer("bob", 32, webrtc("new")));
        events.push(left);
        let kept: Vec<_> = without_replaced(events)
            .into_iter()
            .map(|event| match event {
                Event::Offer { request_id, .. } => request_id.to_string(),
                _ => "end".to_owned(),
            })
            .collect();
        assert_eq!(kept, ["r30", "r31", "r32", "end"]);
    }
}
