//! Who gets a seat: what the room's record should be, and what it is.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use roundtable_core::{PeerId, RoomId, Timestamp};
use roundtable_signaling_protocol::{
    Applicant, ErrorCode, Fingerprint, HandOver, NodeId, ResumeToken, Roster, RpcError, Ruling,
};
use tokio::time::timeout;

use super::{Done, Join, REFRESH, RETRY, RETRY_AFTER, Task};
use crate::{
    bus::{Answer, Bus, Letter, Pending, Record, Revision, Stored, Unreachable, unavailable},
    clock,
    metrics::Metrics,
};

/// How long a peer waits at the door while the bus is slow, before it is told to ask again. What is
/// then under way may take twice [`TAKE`] and the bus's own two seconds more: less in all than clients wait.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long other servers have to tell what they hold for peers that have come here. The room waits
/// meanwhile, and most often it takes a millisecond. Who is silent is asked once more, for either way may have lost it.
const TAKE: Duration = Duration::from_secs(1);

/// A peer at the door, and the resume token that it would get.
pub(super) struct Waiting {
    join: Join,
    token: ResumeToken,
    until: Timestamp,
}

impl Waiting {
    fn refuse(self, metrics: &Metrics, error: RpcError) {
        if error.code == ErrorCode::Unavailable {
            metrics.unavailable.add(1);
        }
        // A connection that is gone by now will say so.
        let _ = self.join.reply.send(Err(error));
    }
}

/// A change of the record under way.
pub(super) struct Drafted {
    roster: Arc<Roster>,
    applicants: Vec<(Waiting, Ruling)>,
    displaced: Vec<PeerId>,
}

impl Task {
    pub(super) fn join(&mut self, join: Join) {
        self.keep_alive.get_or_insert_with(|| join.room.clone());
        let Some(token) = random_token() else {
            let error = RpcError::new(ErrorCode::Internal, "no random bytes");
            // A connection that is gone by now will say so.
            let _ = join.reply.send(Err(error));
            return;
        };
        let until = clock::now() + PATIENCE;
        let waiting = Waiting { join, token, until };
        if self.room.resumes_here(&waiting.join.announce) {
            // No other server has a say in this.
            self.let_in(waiting, None, None);
            self.dirty = true;
        } else {
            self.waiting.push_back(waiting);
        }
    }

    fn let_in(&mut self, waiting: Waiting, seat: Option<Fingerprint>, handed: Option<HandOver>) {
        let Waiting { join, token, .. } = waiting;
        let (connection, peer) = (join.connection, join.announce.peer_id.clone());
        self.flush();
        let joined = self
            .room
            .let_in(clock::wall(), connection, join.announce, &token, seat);
        self.outboxes.insert(connection, join.outbox);
        if let Some(handed) = handed {
            self.room.take_over(clock::now(), &peer, handed);
        }
        // A connection that is gone by now will say so.
        let _ = join.reply.send(Ok(joined));
        self.flush_to(Some(connection));
    }

    /// When somebody at the door has waited too long.
    pub(super) fn patience_ends(&self) -> Option<Timestamp> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    /// Tells those who have waited too long to ask again.
    pub(super) fn lose_patience(&mut self, now: Timestamp) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.until <= now) {
            waiting.refuse(&self.metrics, unavailable(RETRY_AFTER));
        }
    }

    /// Asks of the bus what is to be asked next, if nothing is asked of it now.
    pub(super) fn advance(&mut self) {
        self.advance_signals();
        if self.asking.is_some() {
            return;
        }
        if self.retry_at.is_some() && self.waiting.is_empty() && self.parked.is_empty() {
            return;
        }
        let is_needed = self.room.has_local() || !self.parked.is_empty();
        let wants = self.dirty || !self.waiting.is_empty();
        if self.must_load && (is_needed || wants) {
            self.load();
        } else if wants {
            self.draft();
        }
    }

    fn load(&mut self) {
        self.must_load = false;
        let (bus, id) = (Arc::clone(&self.bus), self.id.clone());
        self.asking = Some(Box::pin(async move { Done::Loaded(bus.load(&id).await) }));
    }

    fn draft(&mut self) {
        self.dirty = false;
        let closed = self.bus.admits().err().map(unavailable);
        let applicants = self.waiting.iter().map(|waiting| Applicant {
            announce: &waiting.join.announce,
            resume: &waiting.token,
        });
        let gone = |node: &_| self.bus.is_gone(node);
        let draft = self
            .room
            .draft(&self.base.roster, gone, closed.as_ref(), applicants);
        let applicants = self.waiting.drain(..).zip(draft.rulings).collect();
        let is_same = draft.roster == *self.base.roster;
        let drafted = Drafted {
            roster: Arc::new(draft.roster),
            applicants,
            displaced: draft.displaced,
        };
        if is_same {
            // Nobody can have got a seat.
            self.carry_out(drafted, HashMap::new());
        } else {
            self.asking = Some(store(
                Arc::clone(&self.bus),
                self.id.clone(),
                self.base.revision,
                drafted,
            ));
        }
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Loaded(Ok(record)) => {
                self.refresh_at = clock::now() + REFRESH;
                // What the record should be instead shows in the next draft.
                self.dirty |= record.revision != self.base.revision || record.revision == 0;
                self.adopt(record);
                for (letter, answer) in std::mem::take(&mut self.parked) {
                    self.carry_out_letter(letter, answer);
                }
            }
            Done::Loaded(Err(Unreachable)) => {
                let applicants = std::mem::take(&mut self.waiting);
                self.turn_away(applicants);
            }
            Done::Stored {
                outcome,
                draft,
                handed,
            } => match outcome {
                Ok(Stored::At(revision)) => {
                    let roster = Arc::clone(&draft.roster);
                    self.adopt(Record { revision, roster });
                    self.carry_out(draft, handed);
                }
                Ok(Stored::Conflict) => {
                    self.metrics.bus_conflicts.add(1);
                    self.must_load = true;
                    // They came before those who wait.
                    let again = draft.applicants.into_iter().rev();
                    again.for_each(|(waiting, _)| self.waiting.push_front(waiting));
                    self.dirty = true;
                }
                Err(Unreachable) => {
                    let applicants = draft.applicants.into_iter();
                    self.turn_away(applicants.map(|(waiting, _)| waiting));
                    self.dirty = true;
                }
            },
        }
    }

    fn adopt(&mut self, record: Record) {
        self.room.adopt(clock::now(), &record.roster);
        self.base = record;
        self.routes.hurry();
    }

    /// A draft's rulings hold.
    fn carry_out(&mut self, draft: Drafted, mut handed: HashMap<PeerId, HandOver>) {
        for peer in &draft.displaced {
            self.room.displace(peer);
        }
        for (waiting, ruling) in draft.applicants {
            let peer = &waiting.join.announce.peer_id;
            match ruling {
                Ruling::Seated => self.let_in(waiting, None, None),
                Ruling::Moved { seat, .. } => {
                    let handed = handed.remove(peer);
                    self.let_in(waiting, Some(seat), handed);
                }
                Ruling::Refused(error) => waiting.refuse(&self.metrics, error),
            }
        }
    }

    /// The bus is away: nobody enters, and everybody stays.
    fn turn_away(&mut self, applicants: impl IntoIterator<Item = Waiting>) {
        self.must_load = true;
        self.retry_at = Some(clock::now() + RETRY);
        for waiting in applicants {
            waiting.refuse(&self.metrics, unavailable(RETRY_AFTER));
        }
        for (_, answer) in self.parked.drain(..) {
            // Whoever asked may have given up.
            let _ = answer.send(Answer::Elsewhere);
        }
    }
}

/// Stores a draft, and asks the servers that its applicants come from what they have for them.
fn store(
    bus: Arc<dyn Bus>,
    room: RoomId,
    expected: Revision,
    draft: Drafted,
) -> Pending<'static, Done> {
    Box::pin(async move {
        let outcome = bus.store(&room, expected, &draft.roster).await;
        let handed = match outcome {
            Ok(Stored::At(_)) => take(&*bus, &room, &draft).await,
            _ => HashMap::new(),
        };
        Done::Stored {
            outcome,
            draft,
            handed,
        }
    })
}

/// What other servers have for those who have moved here: all are asked at once, and none is waited for
/// that is dead or silent.
async fn take(bus: &dyn Bus, room: &RoomId, draft: &Drafted) -> HashMap<PeerId, HandOver> {
    let ask = |peer: &PeerId, from: &NodeId, seat: Fingerprint| {
        let (peer, from) = (peer.clone(), from.clone());
        async move {
            let letter = Letter::Take {
                peer: peer.to_string(),
                seat,
                to: bus.node().clone(),
            };
            for _ in 0..2 {
                let asked = timeout(TAKE, bus.ask(&from, room, letter.clone())).await;
                match asked {
                    Ok(Ok(Answer::Handed(had))) => return Some((peer, had)),
                    Ok(_) => return None,
                    Err(_) => {}
                }
            }
            None
        }
    };
    let asked = draft.applicants.iter().filter_map(|(waiting, ruling)| {
        let Ruling::Moved { from, seat } = ruling else {
            return None;
        };
        let peer = &waiting.join.announce.peer_id;
        // A server that is dead has nothing for anybody.
        (!bus.is_gone(from)).then(|| ask(peer, from, *seat))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn random_token() -> Option<ResumeToken> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(ResumeToken::from_random(bytes))
}
