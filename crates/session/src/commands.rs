//! Commands: signing our own, and bringing the state up to date.

use roundtable_command_log::{Action, AppendError, Role, SharedFrame, Update};

use crate::{
    Session,
    event::{Event, InputError, Now},
    links::Link,
    room::Room,
};

impl Session {
    pub(crate) fn check_may_sign(&self) -> Result<&Room, InputError> {
        let room = self.room.as_ref().ok_or(InputError::NotReady)?;
        if room.log.fork(self.author).is_some() {
            return Err(AppendError::Forked.into());
        }
        if !self.own_head.is_certain() {
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
        if self.submissions.fill_a_frame() {
            self.counters.filled();
            self.submissions.hasten(now.mono);
        }
        Ok(())
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
        let Some(room) = self.room.as_ref().filter(|_| !self.grants.is_empty()) else {
            return;
        };
        let admin = room.log.role_of(self.author) == Role::Admin;
        if !self.own_head.is_certain() || !admin {
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
    pub(crate) fn publish(&mut self, now: Now, frame: &SharedFrame) {
        self.tell_own_frames();
        self.signing_rate.add(now.mono, frame.header().count);
        for id in self.links.best(Link::is_aligned) {
            if let Some(member) = self.links.member_mut(id) {
                self.outbox
                    .transmit(id, member.new_command(now.mono, frame));
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
            self.outbox.event(Event::OwnFrame(frame));
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
    pub(crate) fn settle_log(&mut self, now: Now) {
        let Some(room) = &mut self.room else {
            return;
        };
        if room.settle_due.is_none_or(|due| due > now.mono) {
            return;
        }
        room.settle_due = None;
        room.last_settle = now.mono;
        room.log.settle(now.wall);
        self.tell_updates();
        self.say_what_is_due(now);
    }

    /// Tells the user what has settled.
    pub(crate) fn tell_updates(&mut self) {
        let Some(room) = &mut self.room else {
            return;
        };
        let mut stable = false;
        while let Some(update) = room.log.poll_update() {
            stable |= matches!(update, Update::CheckpointStable(_));
            self.outbox.event(match update {
                Update::Applied(applied) => Event::Applied(applied),
                Update::Forked(proof) => Event::Forked(proof),
                Update::Retracted { author, after } => {
                    if author == self.author {
                        self.own_told = self.own_told.min(after);
                    }
                    Event::Retracted { author, after }
                }
                Update::CheckpointStable(stable) => Event::CheckpointStable(stable),
                _ => continue,
            });
        }
        if stable {
            self.warn_of_length();
        }
    }
}
