//! Signals between the room's peers, on this server and on others.

use std::sync::Arc;

use roundtable_core::PeerId;
use roundtable_signaling_protocol::{
    ConnectionId, MessageId, NodeId, Parcel, Reply, Request, RpcError,
};
use tokio::sync::oneshot;

use super::{RETRY_AFTER, Task};
use crate::{
    bus::{Answer, Letter, RouteError, unavailable},
    clock,
    routes::{self, Signal},
};

/// Letters that wait for a newer record; more are answered that the peer is elsewhere.
const MAX_PARKED: usize = 256;

impl Task {
    pub(super) fn on_request(
        &mut self,
        connection: ConnectionId,
        id: Option<MessageId>,
        request: Request,
    ) {
        let is_remote = |peer: &PeerId| self.room.node_of(peer).is_some();
        let is_remote = request.to().is_some_and(is_remote);
        if is_remote || request.to().is_some_and(|peer| self.routes.lead_to(peer)) {
            let parcel = match is_remote {
                true => self.room.send_out(clock::now(), connection, request),
                // The peer has just come here; its turn comes after what is under way to where it was.
                false => self.room.parcel(connection, request),
            };
            match parcel {
                Ok(parcel) => {
                    let pushed = self.routes.push(clock::now(), parcel, connection, id);
                    if let Err(signal) = pushed {
                        self.strand(*signal);
                    }
                }
                Err(error) => self.answer(connection, id, &Err(error)),
            }
            return;
        }
        let outcome = self.room.handle(clock::now(), connection, request);
        let has_left = outcome == Ok(Reply::Left);
        self.answer(connection, id, &outcome);
        if has_left {
            self.outboxes.remove(&connection);
        }
    }

    fn answer(
        &mut self,
        connection: ConnectionId,
        id: Option<MessageId>,
        outcome: &Result<Reply, RpcError>,
    ) {
        if let Err(error) = outcome {
            self.metrics.count_error(error.code);
        }
        if let Some(id) = id {
            let text = match outcome {
                Ok(reply) => reply.encode(&id),
                Err(error) => error.encode(Some(&id)),
            };
            self.send(connection, text);
        }
    }

    pub(super) fn on_answer(&mut self, outcome: routes::Outcome) {
        let routes::Outcome::Answered(signal, answer) = outcome else {
            self.metrics.route_failures.add(1);
            self.must_load = true;
            return;
        };
        let outcome = match answer {
            Ok(Answer::Done) => Ok(Reply::Forwarded),
            Ok(Answer::Refused(error)) => Err(error),
            Ok(Answer::Handed(_) | Answer::Elsewhere)
            | Err(RouteError::Dead | RouteError::Silent) => {
                self.metrics.route_failures.add(1);
                Err(unavailable(RETRY_AFTER))
            }
        };
        if outcome.is_err() {
            self.room.take_back(&signal.parcel);
        }
        self.answer(signal.connection, signal.id, &outcome);
    }

    /// Sends on what can be sent.
    pub(super) fn advance_signals(&mut self) {
        let (room, revision) = (&self.room, self.base.revision);
        let node_for = |parcel: &Parcel| room.node_for(parcel).cloned();
        for signal in self.routes.advance(clock::now(), revision, node_for) {
            self.strand(signal);
        }
    }

    /// A signal that cannot be sent: its peer has left, or come to this server; or it has waited too
    /// long, or is one too many.
    fn strand(&mut self, signal: Signal) {
        let Signal {
            parcel,
            connection,
            id,
            ..
        } = signal;
        let outcome = if self.room.node_for(&parcel).is_some() {
            self.room.take_back(&parcel);
            Err(unavailable(RETRY_AFTER))
        } else {
            self.room.bring_home(clock::now(), parcel)
        };
        self.answer(connection, id, &outcome);
    }

    pub(super) fn on_letter(&mut self, letter: Letter, answer: oneshot::Sender<Answer>) {
        match &letter {
            // Who it is from may have entered by a record that is not known here yet.
            Letter::Signal { revision, .. } if *revision > self.base.revision => {
                if self.parked.len() < MAX_PARKED {
                    self.parked.push((letter, answer));
                    self.must_load = true;
                } else {
                    // Whoever asked may have given up.
                    let _ = answer.send(Answer::Elsewhere);
                }
            }
            _ => self.carry_out_letter(letter, answer),
        }
    }

    pub(super) fn carry_out_letter(&mut self, letter: Letter, answer: oneshot::Sender<Answer>) {
        let now = clock::now();
        let outcome = match letter {
            Letter::Take { peer, seat, to } => {
                let handed = PeerId::new(&peer)
                    .ok()
                    .and_then(|peer| self.room.give_up(now, &peer, seat, &to));
                self.must_load = true;
                handed.map_or(Answer::Elsewhere, Answer::Handed)
            }
            Letter::Signal {
                forwarded, parcel, ..
            } => {
                if let Some(node) = self.room.node_for(&parcel).cloned() {
                    if !forwarded {
                        self.forward(node, parcel, answer);
                        return;
                    }
                    Answer::Elsewhere
                } else if self.draining.is_cancelled() && self.room.is_away(&parcel.to) {
                    // It is on its way to another server; what would be held here would be lost.
                    Answer::Elsewhere
                } else {
                    match self.room.receive(now, parcel) {
                        Ok(_) => Answer::Done,
                        Err(error) => Answer::Refused(error),
                    }
                }
            }
        };
        // Whoever asked may have given up.
        let _ = answer.send(outcome);
    }

    /// Sends a signal on to where its peer is now.
    fn forward(&mut self, node: NodeId, parcel: Parcel, answer: oneshot::Sender<Answer>) {
        let (bus, room) = (Arc::clone(&self.bus), self.id.clone());
        let letter = Letter::Signal {
            revision: self.base.revision,
            forwarded: true,
            parcel,
        };
        self.forwarding.spawn(async move {
            let forwarded = bus.ask(&node, &room, letter).await;
            if let Ok(forwarded) = forwarded {
                // Whoever asked may have given up.
                let _ = answer.send(forwarded);
            }
        });
    }
}
