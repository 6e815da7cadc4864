//! Events on their way to whoever listens.
//!
//! Two rings, so that what comes in masses (each command that is applied, who speaks, how good connections are) pushes nothing out
//! that comes once: a message, a link that came or went, a command that was not signed. Numbers put both back in order.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use roundtable_core::{Channel, PeerId};
use tokio::{
    sync::{broadcast, mpsc},
    task::{consume_budget, unconstrained},
};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use crate::Event;

/// Events that a reader may be behind before it misses some: of those that come in masses, and of all others. Of the latter
/// the session lets at most 2,048 messages go unread, and what windows it had given out before may still bring some 250 from each peer.
const MANY: usize = 4096;
const FEW: usize = 8192;

/// A message that the user has not read. Says so when it is dropped.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) peer: PeerId,
    pub(crate) len: usize,
    pub(crate) read: mpsc::UnboundedSender<(PeerId, usize)>,
}

impl Drop for Unread {
    fn drop(&mut self) {
        // A room that was left takes no more messages anyway.
        let _ = self.read.send((self.peer.clone(), self.len));
    }
}

/// An event on its way to the user.
#[derive(Debug, Clone)]
struct Told {
    number: u64,
    event: Event,
    /// Goes when everyone who listens has read the event, or has missed it.
    _unread: Option<Arc<Unread>>,
}

/// The end that tells. Clones tell the same listeners.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    many: broadcast::Sender<Told>,
    few: broadcast::Sender<Told>,
    next: Arc<AtomicU64>,
}

impl Teller {
    pub(crate) fn new() -> Self {
        Self {
            many: broadcast::channel(MANY).0,
            few: broadcast::channel(FEW).0,
            next: Arc::default(),
        }
    }

    /// Tells everyone who listens. One task does so, or the numbers would mean nothing.
    pub(crate) fn tell(&self, event: Event, unread: Option<Unread>) {
        let ring = match comes_in_masses(&event) {
            true => &self.many,
            false => &self.few,
        };
        // Nobody listening is fine.
        let _ = ring.send(Told {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            event,
            _unread: unread.map(Arc::new),
        });
    }

    /// All that is told from now on.
    pub(crate) fn listen(&self) -> Listener {
        Listener {
            rings: [&self.few, &self.many].map(|ring| Ring {
                told: BroadcastStream::new(ring.subscribe()),
                head: None,
                is_over: false,
            }),
        }
    }
}

/// Whether so many of an event may come that a reader falls behind, and it is no harm to miss some.
fn comes_in_masses(event: &Event) -> bool {
    match event {
        Event::Message { channel, .. } => *channel == Channel::AppFast,
        Event::Applied(_)
        | Event::Speaking { .. }
        | Event::QualityChanged { .. }
        | Event::LinkFailed { .. }
        | Event::Misbehaved { .. }
        | Event::VoiceFlood { .. } => true,
        _ => false,
    }
}

#[derive(Debug)]
struct Ring {
    told: BroadcastStream<Told>,
    /// The oldest that was not handed on.
    head: Option<Told>,
    is_over: bool,
}

impl Ring {
    /// Looks what is the oldest; how many were missed, if some were.
    fn look(&mut self, cx: &mut Context<'_>) -> Option<u64> {
        if self.head.is_none() && !self.is_over {
            let next = poll_fn(|cx| Pin::new(&mut self.told).poll_next(cx));
            match pin!(unconstrained(next)).poll(cx) {
                Poll::Ready(Some(Ok(told))) => self.head = Some(told),
                Poll::Ready(Some(Err(BroadcastStreamRecvError::Lagged(missed)))) => {
                    return Some(missed);
                }
                Poll::Ready(None) => self.is_over = true,
                Poll::Pending => {}
            }
        }
        None
    }
}

/// What is told, in order.
#[derive(Debug)]
pub(crate) struct Listener {
    rings: [Ring; 2],
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        // A reader that never has to wait lets others run. Not in between: a ring would seem to be empty that is not.
        ready!(pin!(consume_budget()).poll(cx));
        let [few, many] = &mut self.rings;
        // The first is looked at again behind the second: what came meanwhile may be older than what was found there.
        for (look, at) in [0, 1, 0].into_iter().enumerate() {
            // If nothing was found there, what is found now may be younger than what comes there next.
            if look == 2 && many.head.is_none() {
                break;
            }
            let ring = if at == 0 { &mut *few } else { &mut *many };
            if let Some(missed) = ring.look(cx) {
                return Poll::Ready(Some(Event::Lagged(missed)));
            }
        }
        let number = |ring: &Ring| ring.head.as_ref().map_or(u64::MAX, |told| told.number);
        let first = if number(few) <= number(many) {
            few
        } else {
            many
        };
        match first.head.take() {
            Some(told) => Poll::Ready(Some(told.event)),
            None if self.rings.iter().all(|ring| ring.is_over) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use roundtable_core::Payload;

    use super::*;

    fn peer() -> PeerId {
        "bob".parse().unwrap()
    }

    fn speaking(speaking: bool) -> Event {
        let peer = peer();
        Event::Speaking { peer, speaking }
    }

    fn message(text: &str) -> Event {
        Event::Message {
            peer: peer(),
            channel: Channel::App,
            payload: Payload::Text(text.into()),
        }
    }

    /// What there is to be heard, in words.
    async fn heard(listener: &mut Listener) -> Vec<String> {
        unconstrained(all(listener)).await
    }

    async fn all(listener: &mut Listener) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            let next = poll_fn(|cx| Poll::Ready(Pin::new(&mut *listener).poll_next(cx))).await;
            heard.push(match next {
                Poll::Ready(Some(Event::Message { payload, .. })) => match payload {
                    Payload::Text(text) => text,
                    other => format!("{other:?}"),
                },
                Poll::Ready(Some(Event::Lagged(missed))) => format!("missed {missed}"),
                Poll::Ready(Some(event)) => format!("{event:?}"),
                Poll::Ready(None) | Poll::Pending => return heard,
            });
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_far_behind_misses_chatter_and_no_message() {
        let (teller, read) = (Teller::new(), mpsc::unbounded_channel());
        let mut listener = teller.listen();
        teller.tell(message("first"), None);
        for _ in 0..MANY + 7 {
            teller.tell(speaking(true), None);
        }
        teller.tell(
            Event::Undelivered {
                peer: peer(),
                count: 1,
            },
            None,
        );
        let unread = Unread {
            peer: peer(),
            len: 4,
            read: read.0,
        };
        teller.tell(message("last"), Some(unread));
        let mut unread = read.1;
        assert!(unread.try_recv().is_err(), "nobody has read it");
        let heard = heard(&mut listener).await;
        assert_eq!(unread.try_recv(), Ok((peer(), 4)));
        assert_eq!(heard.len(), 1 + 1 + MANY + 2);
        let kept: Vec<_> = heard.iter().filter(|it| !it.contains("Speaking")).collect();
        assert_eq!(kept[0], "missed 7");
        assert_eq!(kept[1], "first");
        assert!(kept[2].starts_with("Undelivered"), "{kept:?}");
        assert_eq!(kept[3], "last");
    }

    #[tokio::test]
    async fn what_is_told_is_heard_in_order_whatever_its_kind() {
        let teller = Teller::new();
        let mut listener = teller.listen();
        let mut expected = Vec::new();
        for number in 0..100 {
            if number % 3 == 0 {
                teller.tell(message(&number.to_string()), None);
                expected.push(number.to_string());
            } else {
                teller.tell(speaking(number % 2 == 0), None);
                expected.push(format!("{:?}", speaking(number % 2 == 0)));
            }
        }
        assert_eq!(heard(&mut listener).await, expected);
        drop(teller);
        let over = poll_fn(|cx| Pin::new(&mut listener).poll_next(cx)).await;
        assert!(over.is_none());
    }
}
