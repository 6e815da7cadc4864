//! Signals from peers of this server to peers of others. Each pair's go one after the other, the
//! next when the last is answered: so they arrive in their order, wherever the peer is by then. A
//! server that is silent takes two seconds for each; what waited too long behind it is given up.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use roundtable_core::{PeerId, RoomId, Timestamp};
use roundtable_signaling_protocol::{ConnectionId, MessageId, NodeId, Parcel};

use crate::bus::{Answer, Bus, Letter, Pending, Revision, RouteError};

/// Signals waiting for one pair; more are refused.
const QUEUE: usize = 64;

/// Bytes of the signals waiting for one pair; more are refused.
const QUEUE_BYTES: usize = 128 * 1024;

/// After how long a signal is sent again to a peer that is between two servers.
const RETRY: Duration = Duration::from_millis(100);

/// How long a signal waits for such a peer, or behind others: who lost its server is back on another
/// within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// From whom, to whom.
type Pair = (PeerId, PeerId);

/// A signal under way, and who waits for the answer.
#[derive(Debug)]
pub(crate) struct Signal {
    pub(crate) parcel: Parcel,
    pub(crate) connection: ConnectionId,
    pub(crate) id: Option<MessageId>,
    since: Timestamp,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Route {
    /// The first is the one under way, if one is.
    queue: VecDeque<Box<Signal>>,
    bytes: usize,
    asking: bool,
    retry_at: Option<Timestamp>,
}

impl Route {
    fn pop(&mut self) -> Option<Box<Signal>> {
        let signal = self.queue.pop_front()?;
        self.bytes -= signal.bytes;
        Some(signal)
    }
}

/// What became of a signal.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Box<Signal>, Result<Answer, RouteError>),
    /// The peer was not to be found and may be back any moment: it is sent again.
    Again,
}

pub(crate) struct Routes {
    bus: Arc<dyn Bus>,
    room: RoomId,
    routes: HashMap<Pair, Route>,
    asking: FuturesUnordered<Pending<'static, (Pair, Result<Answer, RouteError>)>>,
}

impl Routes {
    pub(crate) fn new(bus: Arc<dyn Bus>, room: RoomId) -> Self {
        Self {
            bus,
            room,
            routes: HashMap::new(),
            asking: FuturesUnordered::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Whether a signal is on its way to this peer: what comes later must not overtake it.
    pub(crate) fn lead_to(&self, peer: &PeerId) -> bool {
        self.routes.keys().any(|(_, to)| to == peer)
    }

    /// Takes a signal; gives it back if too many wait for its pair.
    pub(crate) fn push(
        &mut self,
        now: Timestamp,
        parcel: Parcel,
        connection: ConnectionId,
        id: Option<MessageId>,
    ) -> Result<(), Box<Signal>> {
        let signal = Box::new(Signal {
            bytes: parcel.bytes(),
            parcel,
            connection,
            id,
            since: now,
        });
        let pair = (signal.parcel.from.clone(), signal.parcel.to.clone());
        let route = self.routes.entry(pair).or_default();
        let is_full = route.queue.len() >= QUEUE || route.bytes + signal.bytes > QUEUE_BYTES;
        if is_full {
            return Err(signal);
        }
        route.bytes += signal.bytes;
        route.queue.push_back(signal);
        Ok(())
    }

    /// Sends what can be sent, where `node_for` says; gives what has nowhere to go any more, and what has
    /// waited too long.
    pub(crate) fn advance(
        &mut self,
        now: Timestamp,
        revision: Revision,
        node_for: impl Fn(&Parcel) -> Option<NodeId>,
    ) -> Vec<Signal> {
        let mut stranded = Vec::new();
        for (pair, route) in &mut self.routes {
            if route.asking || route.retry_at.is_some_and(|at| now < at) {
                continue;
            }
            let mut there = None;
            while let Some(signal) = route.queue.front() {
                match node_for(&signal.parcel) {
                    Some(node) if now < signal.since + PATIENCE => {
                        there = Some(node);
                        break;
                    }
                    _ => stranded.extend(route.pop().map(|signal| *signal)),
                }
            }
            let (Some(node), Some(signal)) = (there, route.queue.front()) else {
                continue;
            };
            let letter = Letter::Signal {
                revision,
                forwarded: false,
                parcel: signal.parcel.clone(),
            };
            route.asking = true;
            // No time that is past: whoever waits for it would not wait at all.
            route.retry_at = None;
            let (bus, room, pair) = (Arc::clone(&self.bus), self.room.clone(), pair.clone());
            self.asking.push(Box::pin(async move {
                let answer = bus.ask(&node, &room, letter).await;
                (pair, answer)
            }));
        }
        self.routes
            .retain(|_, route| route.asking || !route.queue.is_empty());
        stranded
    }

    /// Sends at once what waits for peers that were between two servers.
    pub(crate) fn hurry(&mut self) {
        for route in self.routes.values_mut() {
            route.retry_at = None;
        }
    }

    /// When [`advance`](Self::advance) has something to do again.
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        let routes = self.routes.values();
        routes.filter_map(|route| route.retry_at).min()
    }

    /// The next answer; none comes while nothing is under way. Cancel safe.
    pub(crate) async fn next(&mut self, now: impl Fn() -> Timestamp) -> Outcome {
        let (pair, answer) = match self.asking.next().await {
            Some(answered) => answered,
            None => std::future::pending().await,
        };
        let now = now();
        let Some(route) = self.routes.get_mut(&pair) else {
            return Outcome::Again;
        };
        route.asking = false;
        let is_between = matches!(answer, Ok(Answer::Elsewhere) | Err(RouteError::Dead));
        let waited = route.queue.front().map(|signal| signal.since);
        if is_between && waited.is_some_and(|since| now < since + PATIENCE) {
            route.retry_at = Some(now + RETRY);
            return Outcome::Again;
        }
        route.retry_at = None;
        match route.pop() {
            Some(signal) => Outcome::Answered(signal, answer),
            None => Outcome::Again,
        }
    }
}
