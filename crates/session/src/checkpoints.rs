//! Checkpoints between peers: saying what is due of them, and fetching what lies below one that others have
//! and we lack.
//!
//! A snapshot is asked for from one peer at a time, a few pieces after the other, so that the receiver paces
//! the sender.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use roundtable_command_log::{Action, Role, Snapshot, SnapshotError};
use roundtable_core::{AuthorId, Channel, CloseCode, Frame, Timestamp};
use roundtable_wire::session::Control;

use crate::{
    Session,
    event::{Event, InputError, LinkId, Now},
    fetch::{Fetch, Next, PIECE_LEN, PIECES, Piece},
    handshake::Refusal,
    links::Link,
    room::Room,
};

/// How long frames have to bring a checkpoint that a peer has and we lack, before it is fetched.
const GRACE: Duration = Duration::from_millis(500);
/// Least time between two answers to one peer.
const ANSWER_INTERVAL: Duration = Duration::from_millis(5);
/// Least time between two snapshots that have to be made: peers that ask for many different ones wait.
const MAKE_INTERVAL: Duration = Duration::from_millis(200);
/// Least time between two that have to be made for one peer: less than it waits for one.
const MAKE_INTERVAL_OF_ONE: Duration = Duration::from_millis(800);
/// How many encoded snapshots are kept for those who are fetching them.
const MAX_KEPT: usize = 4;
/// How far back a cut lies that we propose: what lies below has reached everyone.
const CUT_AGE: Duration = Duration::from_secs(3);

/// What is under way about checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// By link: how many checkpoints its peer has.
    claims: BTreeMap<LinkId, u64>,
    /// Since when somebody has had more than we have.
    lacking_since: Option<Timestamp>,
    fetch: Option<Fetch>,
    /// Whom not to ask for a while: nothing came of it.
    passed_over: Vec<LinkId>,
    /// On which links the user was told that a snapshot is too long.
    too_long: BTreeSet<LinkId>,
    /// How often all were asked in vain.
    rounds: u32,
    /// By how many checkpoints the asking peer has: the number of the last, and the snapshot. Whose last use is
    /// longest ago comes first, and goes first.
    kept: VecDeque<(u64, u64, Bytes)>,
    /// When the next one may be made.
    next_make: Timestamp,
    /// By link: what its peer asked for last and has not been sent.
    wanted: BTreeMap<LinkId, Wanted>,
    /// By link: when its peer's next request may be answered.
    next_answer: BTreeMap<LinkId, Timestamp>,
    /// By link: when the next snapshot may be made for its peer.
    next_make_of: BTreeMap<LinkId, Timestamp>,
    /// The log's Lamport time as it was, now and then.
    marks: VecDeque<(Timestamp, u64)>,
    /// When the last checkpoint became stable here, or the session began.
    since: Timestamp,
    /// How many were stable when we looked last.
    seen: u64,
}

/// What a peer asks for: the checkpoints after so many, from a place on.
type Want = (u64, u64);

/// What there is for a peer that asks.
enum Made {
    /// The snapshot.
    Whole(Bytes),
    /// Only its length: it is longer than is made.
    TooLong(u64),
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    want: Want,
    /// Since when the peer has waited. Asking for something else instead keeps the place in the row.
    since: Timestamp,
    /// When it may be answered.
    due: Timestamp,
}

impl Checkpoints {
    /// Forgets what a link's peer has and was asked for.
    pub(crate) fn forget(&mut self, link: LinkId) {
        self.claims.remove(&link);
        self.wanted.remove(&link);
        self.next_answer.remove(&link);
        self.next_make_of.remove(&link);
        self.too_long.remove(&link);
        self.passed_over.retain(|passed| *passed != link);
        self.fetch.take_if(|fetch| fetch.link == link);
    }

    /// When to look again for whom to ask.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let fetch = match &self.fetch {
            Some(fetch) => Some(fetch.deadline),
            None => self.lacking_since.map(|since| since + GRACE),
        };
        let answers = self.wanted.values().map(|wanted| wanted.due);
        answers.chain(fetch).min()
    }

    /// Remembers how far the log is.
    fn mark(&mut self, now: Timestamp, lamport: u64) {
        self.marks.push_back((now, lamport));
        while self
            .marks
            .get(1)
            .is_some_and(|(at, _)| *at + CUT_AGE <= now)
        {
            self.marks.pop_front();
        }
    }

    /// How long it has been since a checkpoint became stable, at the last mark.
    pub(crate) fn age(&self) -> Option<Duration> {
        let (now, _) = self.marks.back()?;
        Some(now.saturating_since(self.since))
    }

    /// How far the log was a while ago.
    fn cut(&self, now: Timestamp) -> Option<u64> {
        let (_, lamport) = self.marks.iter().rfind(|(at, _)| *at + CUT_AGE <= now)?;
        Some(*lamport)
    }
}

impl Session {
    /// Proposes a checkpoint of what everyone has had the time to see.
    pub(crate) fn propose_checkpoint(&mut self, now: Now) -> Result<(), InputError> {
        self.check_may_speak()?;
        let cut = self.checkpoints.cut(now.mono);
        let room = self.room.as_mut().ok_or(InputError::NotReady)?;
        let last = room.log.checkpoint().map_or(0, |stable| stable.cut);
        let cut = cut.filter(|cut| *cut > last);
        let cut = cut.unwrap_or_else(|| room.log.lamport());
        let proposal = room.log.checkpoint_command(cut)?;
        self.say(now, proposal)
    }

    /// Asks that checkpoints need not wait for an author any more.
    pub(crate) fn retire(&mut self, now: Now, author: AuthorId) -> Result<(), InputError> {
        let retire = self.check_may_speak()?.log.retire_command(author);
        self.say(now, retire)
    }

    /// Whether anything may be said of checkpoints: not while another genesis may take the place of ours.
    fn check_may_speak(&self) -> Result<&Room, InputError> {
        let room = self.check_may_sign()?;
        if room.firm {
            Ok(room)
        } else {
            Err(InputError::Unsettled)
        }
    }

    /// Signs and sends at once what concerns checkpoints.
    fn say(&mut self, now: Now, action: Action) -> Result<(), InputError> {
        let room = self.room.as_mut().ok_or(InputError::NotReady)?;
        let frame = room.log.append(now.wall, &[action])?;
        self.publish(now, &frame);
        Ok(())
    }

    /// Says what is due of checkpoints. What the budget or the clock does not allow now is due later.
    pub(crate) fn say_what_is_due(&mut self, now: Now) {
        if !self.own_head.is_certain() {
            return;
        }
        let firm = self.room.as_mut().filter(|room| room.firm);
        let due = firm.and_then(|room| room.log.due(now.wall));
        if let Some(action) = due
            && self.check_clock().is_ok()
            && let Err(error) = self.say(now, action)
        {
            tracing::debug!(%error, "what is due of checkpoints is not signed now");
        }
    }

    /// How many checkpoints are stable here.
    fn checkpoint_count(&self) -> u64 {
        let stable = self.log().and_then(|log| log.checkpoint());
        stable.map_or(0, |stable| stable.number)
    }

    /// Tells a peer how many checkpoints are stable, if any is.
    pub(crate) fn send_pruned(&mut self, id: LinkId) {
        let checkpoints = self.checkpoint_count();
        if checkpoints > 0 {
            self.outbox.control(id, &Control::Pruned { checkpoints });
        }
    }

    pub(crate) fn on_pruned(&mut self, now: Now, id: LinkId, checkpoints: u64) {
        self.checkpoints.claims.insert(id, checkpoints);
        self.review_checkpoints(now);
    }

    /// Answers whose turn it is, and asks for a snapshot if somebody has a checkpoint that does not come to us by
    /// frames.
    pub(crate) fn review_checkpoints(&mut self, now: Now) {
        self.answer_wants(now);
        let ours = self.checkpoint_count();
        let state = &mut self.checkpoints;
        if let Some(late) = state.fetch.take_if(|fetch| fetch.deadline <= now.mono) {
            state.passed_over.push(late.link);
        }
        state.fetch.take_if(|fetch| fetch.after < ours);
        if state.claims.values().all(|theirs| *theirs <= ours) {
            (state.lacking_since, state.fetch, state.rounds) = (None, None, 0);
            state.passed_over.clear();
            return;
        }
        let room = self.room.as_ref();
        let nothing = room.is_none_or(|room| room.log.heads().is_empty());
        let since = *state.lacking_since.get_or_insert(now.mono);
        let due = nothing || since + GRACE <= now.mono;
        if state.fetch.is_some() || !due {
            return;
        }
        let passed = |link: &LinkId| state.passed_over.contains(link);
        let useful = state.claims.iter().filter(|(_, theirs)| **theirs > ours);
        let link = useful.map(|(link, _)| *link).find(|link| !passed(link));
        let Some(link) = link else {
            // Everyone was asked: once more from the beginning, after a while.
            state.passed_over.clear();
            state.rounds = state.rounds.saturating_add(1);
            state.lacking_since = Some(now.mono);
            return;
        };
        let max_len = self.config.max_snapshot_len;
        state.fetch = Some(Fetch::new(now.mono, link, ours, state.rounds, max_len));
        let want = Control::WantCheckpoint {
            after: ours,
            offset: 0,
        };
        self.outbox.control(link, &want);
    }

    /// A peer asks for a few pieces. Of what it asks for faster than it is answered, the last counts.
    pub(crate) fn on_want_checkpoint(&mut self, now: Now, id: LinkId, want: Want) {
        let state = &mut self.checkpoints;
        let due = state.next_answer.get(&id).copied().unwrap_or(now.mono);
        let wanted = state.wanted.entry(id).or_insert(Wanted {
            want,
            since: now.mono,
            due,
        });
        (wanted.want, wanted.due) = (want, due);
        self.answer_wants(now);
    }

    /// Answers those whose turn it is, whoever has waited longest first.
    fn answer_wants(&mut self, now: Now) {
        let wanted = self.checkpoints.wanted.iter();
        let due = wanted.filter(|(_, wanted)| wanted.due <= now.mono);
        let mut due: Vec<_> = due.map(|(id, wanted)| (*id, *wanted)).collect();
        due.sort_by_key(|(_, wanted)| wanted.since);
        for (id, wanted) in due {
            let ((after, offset), number) = (wanted.want, self.checkpoint_count());
            let state = &mut self.checkpoints;
            let made = |(from, of, _): &(u64, u64, Bytes)| (*from, *of) == (after, number);
            if after < number && !state.kept.iter().any(made) {
                let own = state.next_make_of.get(&id).copied();
                let may = state.next_make.max(own.unwrap_or(now.mono));
                if now.mono < may {
                    state.wanted.insert(id, Wanted { due: may, ..wanted });
                    continue;
                }
                state.next_make = now.mono + MAKE_INTERVAL;
                let own = now.mono + MAKE_INTERVAL_OF_ONE;
                state.next_make_of.insert(id, own);
            }
            state.wanted.remove(&id);
            state.next_answer.insert(id, now.mono + ANSWER_INTERVAL);
            self.answer(id, after, offset);
        }
    }

    fn answer(&mut self, id: LinkId, after: u64, offset: u64) {
        let number = self.checkpoint_count();
        if after >= number {
            return self.send_heads(id);
        }
        let made = self.snapshot_after(after, number);
        let mut send = |len, offset, bytes| {
            let piece = Piece {
                number,
                len,
                offset,
                bytes,
            };
            let frame = Frame::binary(Channel::Snapshot, piece.message());
            self.outbox.transmit(id, frame);
        };
        match made {
            None => {}
            Some(Made::TooLong(len)) => send(len, offset, Bytes::new()),
            Some(Made::Whole(whole)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = whole.get(start..).unwrap_or_default();
                for (nth, piece) in (0_u64..).zip(rest.chunks(PIECE_LEN).take(PIECES)) {
                    let offset = offset + nth * PIECE_LEN as u64;
                    send(whole.len() as u64, offset, whole.slice_ref(piece));
                }
            }
        }
    }

    fn snapshot_after(&mut self, after: u64, number: u64) -> Option<Made> {
        let kept = &mut self.checkpoints.kept;
        kept.retain(|(_, of, _)| *of == number);
        if let Some(index) = kept.iter().position(|(from, ..)| *from == after) {
            let used = kept.remove(index)?;
            let whole = used.2.clone();
            kept.push_back(used);
            return Some(Made::Whole(whole));
        }
        let log = &self.room.as_ref()?.log;
        let len = log.snapshot_len(after)?;
        if len > self.config.max_snapshot_len {
            self.counters.snapshot_oversized();
            return Some(Made::TooLong(len));
        }
        let whole = log.snapshot(after)?.encode();
        kept.push_back((after, number, whole.clone()));
        if kept.len() > MAX_KEPT {
            kept.pop_front();
        }
        Some(Made::Whole(whole))
    }

    /// A checkpoint has become stable here: tells the user if nobody can join by it.
    pub(crate) fn warn_of_length(&mut self) {
        let max = self.config.max_snapshot_len;
        let len = self.log().and_then(|log| log.snapshot_len(0));
        if let Some(len) = len.filter(|len| *len > max) {
            tracing::warn!(len, max, "the state is too long for anyone to join");
            let peer = None;
            self.outbox.event(Event::SnapshotTooLong { peer, len, max });
        }
    }

    /// Takes a piece of a snapshot. One that was not asked for, or that does not follow, is dropped.
    pub(crate) fn on_piece(&mut self, now: Now, id: LinkId, message: &Bytes) {
        let fetch = self.checkpoints.fetch.as_mut().filter(|f| f.link == id);
        let (Some(fetch), Some(piece)) = (fetch, Piece::read(message.clone())) else {
            return;
        };
        let after = fetch.after;
        match fetch.take(now.mono, &piece) {
            Next::Wait => {}
            Next::Ask(offset) => {
                let want = Control::WantCheckpoint { after, offset };
                self.outbox.control(id, &want);
            }
            Next::Use => self.fetched(now, id),
            Next::PassOver => self.pass_over(now, id),
            Next::TooLong(len) => {
                self.counters.snapshot_oversized();
                let max = self.config.max_snapshot_len;
                tracing::warn!(
                    link = id.0,
                    len,
                    max,
                    "a snapshot is longer than is fetched"
                );
                let peer = self.links.get(id).map(|link| link.info.peer.clone());
                if self.checkpoints.too_long.insert(id) {
                    self.outbox.event(Event::SnapshotTooLong { peer, len, max });
                }
                self.pass_over(now, id);
            }
        }
    }

    /// Gives up what is fetched from a link, and asks another.
    fn pass_over(&mut self, now: Now, id: LinkId) {
        self.checkpoints.fetch.take_if(|fetch| fetch.link == id);
        self.checkpoints.passed_over.push(id);
        self.review_checkpoints(now);
    }

    /// Uses a snapshot that has come, if it is what the writers have committed. Whoever sends what does not lead
    /// on is not asked again before the others.
    fn fetched(&mut self, now: Now, id: LinkId) {
        let Some(fetch) = self.checkpoints.fetch.take() else {
            return;
        };
        match self.install(now, fetch.bytes.freeze()) {
            Ok(true) => {
                self.checkpoints.rounds = 0;
                // What lies above comes with the peer's heads.
                let after = self.checkpoint_count();
                let want = Control::WantCheckpoint { after, offset: 0 };
                self.outbox.control(id, &want);
                self.review_checkpoints(now);
            }
            Ok(false) | Err(SnapshotError::Gap(_)) => self.pass_over(now, id),
            Err(error) => {
                tracing::warn!(link = id.0, %error, "bad snapshot");
                let reason = "a snapshot that the room's writers have not committed";
                self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
            }
        }
    }

    /// Goes on from a snapshot that a peer has sent, or a store has kept: then before
    /// [`restore`](Self::restore). It is verified from the genesis on before anything of it is used. Says
    /// whether it was news.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing has changed then.
    pub fn install(&mut self, now: Now, snapshot: Bytes) -> Result<bool, SnapshotError> {
        let Some(room) = &mut self.room else {
            return Ok(false);
        };
        let snapshot = Snapshot::decode(snapshot)?;
        let news = room.log.install(now.wall, &snapshot)?;
        if news {
            room.firm = true;
            self.tell_updates();
            self.tell_own_frames();
        }
        Ok(news)
    }

    /// Remembers how far the log is, and tells peers how many checkpoints there are.
    pub(crate) fn mark_for_checkpoints(&mut self, now: Now) {
        if let Some(lamport) = self.log().map(|log| log.lamport()) {
            self.checkpoints.mark(now.mono, lamport);
        }
        let count = self.checkpoint_count();
        if self.checkpoints.seen != count || self.checkpoints.since == Timestamp::ZERO {
            (self.checkpoints.seen, self.checkpoints.since) = (count, now.mono);
        }
        for id in self.links.best(Link::is_aligned) {
            self.send_pruned(id);
        }
        self.propose_if_due(now);
    }

    /// Proposes a checkpoint from time to time, where that is configured.
    fn propose_if_due(&mut self, now: Now) {
        let (Some(interval), Some(age)) = (self.config.checkpoint_interval, self.checkpoints.age())
        else {
            return;
        };
        let cut = self.checkpoints.cut(now.mono);
        let firm = self.room.as_ref().filter(|room| room.firm);
        let worth = firm.is_some_and(|Room { log, .. }| {
            let last = log.checkpoint().map_or(0, |stable| stable.cut);
            log.role_of(self.author) == Role::Admin
                && !log.has_open_proposal()
                && cut.is_some_and(|cut| log.has_news(last, cut))
        });
        if worth
            && age >= interval
            && let Err(error) = self.propose_checkpoint(now)
        {
            tracing::debug!(%error, "no checkpoint is proposed now");
        }
    }
}
