//! Commands: signing our own, taking those of others, and making up for what was missed.

use std::sync::Arc;

use roundtable_command_log::{Action, AppendError, Role, SharedFrame, Update};
use roundtable_core::{AuthorId, Timestamp};
use roundtable_wire::session::{Control, Head, MAX_LIST, Range};

use crate::{
    Session,
    anti_entropy::Holdings,
    event::{Event, InputError, LinkId, Now},
    links::{Link, Links},
    room::Room,
};

/// Bytes of frames that answer one request. What remains has to be asked for again, so a slow
/// reader is never sent more than it takes.
const SERVE_BYTES: usize = 256 * 1024;
/// Least time between two answers to one peer.
const SERVE_INTERVAL: std::time::Duration = std::time::Duration::from_millis(5);
/// What we know of the end of our own log. A peer that has lost its last frames and signs others
/// in their place forks its log, so it signs nothing before it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnHead {
    /// Nobody has shown it to us yet.
    Unknown,
    /// Somebody holds our commands up to this one, and we do not yet.
    Behind(u64),
    /// We hold what we have written.
    Certain,
}

impl OwnHead {
    /// After a peer has shown that it holds our commands up to `nonce`, while we hold `held`.
    ///
    /// A peer that holds less than we do knows nothing of what we may have lost.
    const fn shown(self, nonce: u64, held: u64) -> Self {
        match self {
            Self::Certain => Self::Certain,
            Self::Behind(behind) if behind > nonce => Self::Behind(behind),
            _ if nonce > held => Self::Behind(nonce),
            Self::Unknown if nonce == held => Self::Certain,
            other => other,
        }
    }

    /// After something has been received or given up, and we hold `held`.
    const fn reviewed(self, held: u64, fetching: bool) -> Self {
        match self {
            Self::Behind(nonce) if held >= nonce => Self::Certain,
            // Whoever claimed it could not show it.
            Self::Behind(_) if !fetching => Self::Unknown,
            other => other,
        }
    }
}

impl Session {
    pub(crate) fn check_may_sign(&self) -> Result<&Room, InputError> {
        let room = self.room.as_ref().ok_or(InputError::NotReady)?;
        if self.own_head != OwnHead::Certain {
            return Err(InputError::NotReady);
        }
        let (needed, held) = (Role::Editor, room.log.role_of(self.author));
        if held < needed {
            return Err(AppendError::NotPermitted { needed, held }.into());
        }
        self.check_clock()?;
        Ok(room)
    }

    pub(crate) fn submit(&mut self, now: Now, actions: Vec<Action>) -> Result<(), InputError> {
        let room = self.check_may_sign()?;
        let admitted = self.submissions.admit(now.mono, &room.log, &actions);
        if let Err(InputError::RateLimited { .. }) = admitted {
            self.counters.rate_limited();
        }
        admitted?;
        let due = now.mono + self.config.flush_interval;
        self.submissions.push(due, actions);
        Ok(())
    }

    /// The own commands in the log that have not been taken back, to be submitted again to another.
    pub(crate) fn own_actions(&self) -> Vec<Action> {
        let entries = self
            .log()
            .into_iter()
            .flat_map(|log| log.entries_since(&[]));
        let own = entries.filter(|entry| entry.author == self.author && !entry.undone);
        own.map(|entry| entry.action).collect()
    }

    /// Signs and sends what waits, if it is due.
    pub(crate) fn flush(&mut self, now: Now) {
        self.grant(now);
        while self.submissions.due().is_some_and(|due| due <= now.mono) && self.may_sign() {
            let mut count = self.submissions.together();
            let Some(room) = &mut self.room else {
                return;
            };
            // What does not go as a whole may go in part: the budget suffices for less, or only
            // one command is at fault.
            let appended = loop {
                let actions = self.submissions.first(count);
                match room.log.append(now.wall, &actions) {
                    Err(AppendError::ClockExhausted | AppendError::OwnFramesMissing) => break None,
                    Err(_) if count > 1 => count /= 2,
                    appended => break Some(appended),
                }
            };
            match appended {
                Some(Ok(frame)) => {
                    self.submissions.drop_first(count);
                    self.publish(now, &frame);
                }
                Some(Err(AppendError::RateLimited { retry_after })) => {
                    self.counters.deferred();
                    self.submissions.postpone(now.mono + retry_after);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "command not signed");
                    for action in self.submissions.first(count) {
                        let error = error.clone();
                        self.outbox.event(Event::NotSigned { action, error });
                    }
                    self.submissions.drop_first(count);
                }
                None => self
                    .submissions
                    .postpone(now.mono + self.config.heads_interval),
            }
        }
    }

    /// Makes Editors of those who have come, as far as we are an Admin and may sign.
    fn grant(&mut self, now: Now) {
        let Some(room) = &self.room else {
            return;
        };
        let admin = room.log.role_of(self.author) == Role::Admin;
        if self.own_head != OwnHead::Certain || !admin {
            return;
        }
        let grants = std::mem::take(&mut self.grants);
        let grants = grants
            .into_iter()
            .filter(|author| room.log.role_of(*author) < Role::Editor)
            .map(|author| room.log.role_command(author, Role::Editor));
        self.submissions.push(now.mono, grants);
    }

    /// Hands an own frame to the user first, then to everyone.
    fn publish(&mut self, now: Now, frame: &SharedFrame) {
        self.tell_own_frames();
        self.signing_rate.add(now.mono, frame.header().count);
        for id in self.links.best(Link::is_aligned) {
            if let Some(member) = self.links.member_mut(id) {
                self.outbox.transmit(id, member.command(frame));
            }
        }
        self.settle_soon(now);
    }

    /// Hands the user the own frames that it has not seen: new ones, and those that a store had lost
    /// and peers have brought back.
    pub(crate) fn tell_own_frames(&mut self) {
        let Some(room) = &self.room else {
            return;
        };
        for frame in room
            .log
            .frames_after(self.author, self.own_told, usize::MAX)
        {
            self.own_told = frame.header().last_nonce();
            self.outbox.event(Event::OwnFrame(Arc::clone(frame)));
        }
    }

    /// Has the state move on: at once, or when the tick since the last time is over.
    pub(crate) fn settle_soon(&mut self, now: Now) {
        if let Some(room) = &mut self.room {
            let due = room.last_settle + self.config.flush_interval;
            room.settle_due = Some(due.max(now.mono));
        }
        self.settle_log(now);
    }

    /// Moves the state on, if that is due.
    fn settle_log(&mut self, now: Now) {
        let Some(room) = &mut self.room else {
            return;
        };
        if room.settle_due.is_none_or(|due| due > now.mono) {
            return;
        }
        room.settle_due = None;
        room.last_settle = now.mono;
        room.log.settle(now.wall);
        while let Some(update) = room.log.poll_update() {
            self.outbox.event(match update {
                Update::Applied(applied) => Event::Applied(applied),
                Update::Forked(proof) => Event::Forked(proof),
                Update::Retracted { author, after } => {
                    if author == self.author {
                        self.own_told = self.own_told.min(after);
                    }
                    Event::Retracted { author, after }
                }
                _ => continue,
            });
        }
    }

    /// Tells the peer of a link what we hold, its own commands first.
    pub(crate) fn send_heads(&mut self, id: LinkId) {
        let member = self.links.get(id).and_then(Link::member);
        let (Some(member), Some(room)) = (member, &self.room) else {
            return;
        };
        let of_peer = room.log.head(member.author);
        let of_peer = Head {
            author: member.author,
            id: of_peer.map_or([0; 32], |head| *head.id.as_bytes()),
            nonce: of_peer.map_or(0, |head| head.nonce),
        };
        let others = room.log.heads().into_iter();
        let others = others.filter(|head| head.author != member.author);
        let others: Vec<_> = others
            .map(|head| Head {
                author: head.author,
                id: *head.id.as_bytes(),
                nonce: head.nonce,
            })
            .collect();
        let mut parts = others.chunks(MAX_LIST - 1);
        let mut part = parts.next().unwrap_or_default();
        loop {
            let heads = [&[of_peer], part].concat();
            self.outbox.control(id, &Control::Heads(heads));
            match parts.next() {
                Some(next) => part = next,
                None => return,
            }
        }
    }

    pub(crate) fn on_heads(&mut self, now: Now, id: LinkId, heads: &[Head]) {
        let Some(room) = &self.room else {
            return;
        };
        for head in heads {
            let held = held(room, &head.author);
            if head.nonce > held {
                self.anti_entropy.claim(id, head.author, head.nonce);
            }
            if head.author == self.author {
                self.own_head = self.own_head.shown(head.nonce, held);
            }
        }
        self.plan(now);
        self.flush(now);
    }

    /// Asks for what is missing.
    pub(crate) fn plan(&mut self, now: Now) {
        let Some(room) = &self.room else {
            return;
        };
        let world = World {
            room,
            links: &self.links,
        };
        for (id, ranges) in self.anti_entropy.plan(now.mono, &world) {
            self.outbox.control(id, &Control::Want(ranges));
        }
        let fetching = self.anti_entropy.is_fetching(&self.author);
        let held = held(room, &self.author);
        self.own_head = self.own_head.reviewed(held, fetching);
    }

    pub(crate) fn on_want(&mut self, now: Now, id: LinkId, mut ranges: Vec<Range>) {
        if let Some(member) = self.links.member_mut(id) {
            ranges.truncate(MAX_LIST - member.wanted.len());
            member.wanted.append(&mut ranges);
        }
        self.serve(now, id);
    }

    /// Sends what a peer has asked for, as far as one answer goes.
    fn serve(&mut self, now: Now, id: LinkId) {
        let (Some(member), Some(room)) = (self.links.member_mut(id), &self.room) else {
            return;
        };
        if member.wanted.is_empty() || now.mono < member.next_serve {
            return;
        }
        member.next_serve = now.mono + SERVE_INTERVAL;
        let mut served = std::mem::take(&mut member.wanted);
        let mut left = SERVE_BYTES;
        for range in &mut served {
            let after = range.first.saturating_sub(1);
            let last = std::mem::replace(&mut range.last, after);
            if left == 0 {
                continue;
            }
            for frame in room.log.frames_after(range.author, after, left) {
                if frame.header().first_nonce > last {
                    break;
                }
                range.last = frame.header().last_nonce();
                left = left.saturating_sub(frame.bytes().len());
                self.outbox.transmit(id, member.command(frame));
            }
        }
        self.outbox.control(id, &Control::Served(served));
    }

    pub(crate) fn on_served(&mut self, now: Now, id: LinkId, ranges: &[Range]) {
        self.anti_entropy.on_served(id, ranges);
        self.plan(now);
    }

    /// Does what is due of the exchange of commands.
    pub(crate) fn exchange(&mut self, now: Now) {
        if now.mono >= self.next_heads {
            self.next_heads = now.mono + self.config.heads_interval;
            for id in self.links.best(Link::is_aligned) {
                self.send_heads(id);
            }
            // Frames from clocks ahead of ours may have come of age.
            self.settle_soon(now);
        }
        for id in self
            .links
            .ids(|l| l.member().is_some_and(|m| !m.wanted.is_empty()))
        {
            self.serve(now, id);
        }
        if self
            .anti_entropy
            .next_timeout()
            .is_some_and(|due| due <= now.mono)
        {
            self.plan(now);
        }
        self.review_backlog(now);
        self.settle_log(now);
    }

    pub(crate) fn settle_due(&self) -> Option<Timestamp> {
        self.room.as_ref()?.settle_due
    }
}

struct World<'a> {
    room: &'a Room,
    links: &'a Links,
}

impl Holdings for World<'_> {
    fn held(&self, author: &AuthorId) -> u64 {
        held(self.room, author)
    }

    fn leads_to(&self, link: LinkId, author: &AuthorId) -> bool {
        let member = self.links.get(link).and_then(Link::member);
        member.is_some_and(|member| member.author == *author)
    }

    fn linked(&self, author: &AuthorId) -> bool {
        let leads = |link: &Link| {
            link.member()
                .is_some_and(|m| m.aligned && m.author == *author)
        };
        self.links.iter().any(|(_, link)| leads(link))
    }
}

/// The author's last nonce here. All of them, where its log has ended: more is of no use.
fn held(room: &Room, author: &AuthorId) -> u64 {
    if room.log.fork(*author).is_some() {
        return u64::MAX;
    }
    room.log.head(*author).map_or(0, |head| head.nonce)
}
