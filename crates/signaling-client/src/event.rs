//! What a client hears.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use roundtable_core::PeerId;
use roundtable_signaling_protocol::{
    AnswerBody, IceCandidate, Joined, LeaveReason, Notification, OfferBody, PeerInfo, RequestId,
};
use tokio::sync::{mpsc, watch};

use crate::EndReason;

/// Events waiting to be read. While fewer than [`RESERVED`] places are free, the socket is not read.
pub(crate) const QUEUE: usize = 512;

/// Places kept for the client's own events.
pub(crate) const RESERVED: usize = 16;

/// Something happened in the room or to the connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A peer entered the room.
    PeerAnnounced(PeerInfo),
    /// A peer is gone.
    PeerLeft {
        /// Who.
        peer_id: PeerId,
        /// Why.
        reason: LeaveReason,
    },
    /// A peer offers a link; answer with the same `request_id` within 30 s.
    Offer {
        /// Who.
        from: PeerId,
        /// The offer's id.
        request_id: RequestId,
        /// How to reach it.
        body: OfferBody,
    },
    /// A peer answers our offer.
    Answer {
        /// Who.
        from: PeerId,
        /// Our offer's id.
        request_id: RequestId,
        /// How to reach it.
        body: AnswerBody,
    },
    /// A peer trickles a candidate.
    Candidate {
        /// Who.
        from: PeerId,
        /// The offer's id, whichever side made it.
        request_id: RequestId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// A peer ended its negotiations with us.
    Disconnected {
        /// Who.
        peer_id: PeerId,
        /// In its own words.
        reason: String,
    },
    /// Nobody answered our offer in time.
    OfferExpired {
        /// Whom we offered.
        to: PeerId,
        /// The offer's id.
        request_id: RequestId,
    },
    /// The connection is lost; links between peers are not affected.
    Reconnecting {
        /// Which attempt, from 1.
        attempt: u32,
        /// How long until it is made.
        delay: Duration,
    },
    /// The connection is back and so is our place, perhaps on another server: the others noticed
    /// nothing. What was sent to an old connection that broke may be lost, so who is in the room is
    /// given here. Without a [`Reconnecting`](Self::Reconnecting) before it, the new connection was
    /// made before the old one was given up, and nothing is lost.
    Resumed(Joined),
    /// The connection is back, but our place was lost: the room is as given here, and the others
    /// saw us leave and enter.
    Rejoined(Joined),
    /// The grant ends soon, and with it the client's place; one with a
    /// [`TokenSource`](crate::TokenSource) gets another by itself.
    GrantExpiring {
        /// How long until then.
        expires_in: Duration,
    },
    /// The server is about to stop; the client goes to another, or comes back, by itself.
    Draining,
    /// The client is no longer in the room. The last event.
    Ended(EndReason),
}

impl Event {
    /// `None` for a notification that this version does not know.
    pub(crate) fn from_notification(notification: Notification) -> Option<Self> {
        Some(match notification {
            Notification::PeerAnnounced(peer) => Event::PeerAnnounced(peer),
            Notification::PeerLeft { peer_id, reason } => Event::PeerLeft { peer_id, reason },
            Notification::Offer {
                from,
                request_id,
                body,
            } => Event::Offer {
                from,
                request_id,
                body,
            },
            Notification::Answer {
                from,
                request_id,
                body,
            } => Event::Answer {
                from,
                request_id,
                body,
            },
            Notification::Candidate {
                from,
                request_id,
                candidate,
            } => Event::Candidate {
                from,
                request_id,
                candidate,
            },
            Notification::Disconnected { peer_id, reason } => {
                Event::Disconnected { peer_id, reason }
            }
            Notification::OfferExpired { to, request_id } => Event::OfferExpired { to, request_id },
            Notification::Expiring { expires_in_ms } => Event::GrantExpiring {
                expires_in: Duration::from_millis(expires_in_ms),
            },
            Notification::Draining { .. } => Event::Draining,
            _ => return None,
        })
    }
}

/// How the connection to the server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// In the room.
    Connected,
    /// On the way back.
    Reconnecting {
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// Out of the room for good.
    Ended(EndReason),
}

/// The events of one client, in order; the last is [`Event::Ended`].
///
/// The queue holds 512 events. When it is full the client stops reading its socket, so a stream
/// that nobody reads ends in a lost connection, and at last in [`EndReason::EventsUnread`].
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Event>,
    state: watch::Receiver<ClientState>,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(events: mpsc::Receiver<Event>, state: watch::Receiver<ClientState>) -> Self {
        Self {
            events,
            state,
            ended: false,
        }
    }

    /// The next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// An event that is there already, but for the last.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(event) = ready!(self.events.poll_recv(cx)) {
            return Poll::Ready(Some(event));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        // The task writes how it ended before it drops the queue.
        Poll::Ready(match *self.state.borrow() {
            ClientState::Ended(reason) => Some(Event::Ended(reason)),
            _ => None,
        })
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}
