//! Commands that wait to be signed together.

use std::{collections::VecDeque, time::Duration};

use roundtable_command_log::{Action, AppendError, CommandLog, Role};
use roundtable_core::Timestamp;
use roundtable_wire::{
    commands::EncodeError,
    limits::{COMMAND_OVERHEAD, MAX_BODY_LEN, MAX_KEY_LEN, MAX_PAYLOAD_LEN},
};

use crate::event::InputError;

/// Most commands that wait, whatever the room's burst.
const MAX_QUEUED: usize = 4096;
/// Most commands in one signed frame of ours. Beyond this a signature costs next to nothing.
const MAX_TOGETHER: usize = 256;

/// The queue of submitted commands. Full, it refuses.
#[derive(Debug, Default)]
pub(crate) struct Submissions {
    queue: VecDeque<Action>,
    /// What they cost together.
    cost: u64,
    /// What they may take of frames' bodies.
    bytes: usize,
    /// When the first of them has waited long enough, or the author's budget allows it.
    due: Option<Timestamp>,
    /// Until when the budget is known to be spent.
    blocked_until: Option<Timestamp>,
}

impl Submissions {
    /// Whether the log would take these actions and all of them find room.
    ///
    /// The queue takes no more than one burst, so that commands in excess are refused at once
    /// rather than signed long after their time.
    pub(crate) fn admit(
        &self,
        now: Timestamp,
        log: &CommandLog,
        actions: &[Action],
    ) -> Result<(), InputError> {
        let limits = log.genesis().params().limits;
        let (burst, rate) = (u64::from(limits.burst), u64::from(limits.per_second));
        let mut cost = 0;
        for action in actions {
            check(log, action)?;
            cost += action.cost();
        }
        if cost > burst || actions.len() > MAX_QUEUED {
            return Err(AppendError::OverBurst.into());
        }
        let blocked = self.blocked_until.filter(|until| *until > now);
        let excess = (self.cost + cost).saturating_sub(burst);
        let full = excess > 0 || self.queue.len() + actions.len() > MAX_QUEUED;
        if blocked.is_none() && !full {
            return Ok(());
        }
        let refill = Duration::from_millis((excess * 1000).div_ceil(rate));
        let unblocked = blocked.map_or(Duration::ZERO, |until| until.saturating_since(now));
        let retry_after = refill.max(unblocked).max(Duration::from_millis(1));
        Err(InputError::RateLimited { retry_after })
    }

    /// Queues actions, to be signed at `due` unless the queue is due earlier.
    pub(crate) fn push(&mut self, due: Timestamp, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            self.cost += action.cost();
            self.bytes += body_len(&action);
            self.queue.push_back(action);
            self.due.get_or_insert(due);
        }
    }

    /// Starts over for another log: takes out all that waits.
    pub(crate) fn begin_again(&mut self) -> Vec<Action> {
        std::mem::take(self).queue.into()
    }

    /// How many commands wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// When to sign; `None` while nothing waits.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// Lets the flush interval be over.
    pub(crate) fn hasten(&mut self, now: Timestamp) {
        self.due = self.due.map(|due| due.min(now));
    }

    /// Signs nothing before `until`.
    pub(crate) fn postpone(&mut self, until: Timestamp) {
        self.due = self.due.map(|_| until);
        self.blocked_until = Some(until);
    }

    /// Whether enough waits for a frame, so that nothing is gained by waiting longer.
    pub(crate) fn fill_a_frame(&self) -> bool {
        self.queue.len() >= MAX_TOGETHER || self.bytes >= MAX_BODY_LEN
    }

    /// How many of the first commands fit one frame, 0 if none waits.
    pub(crate) fn together(&self) -> usize {
        let mut room = MAX_BODY_LEN;
        let mut count = 0;
        for action in self.queue.iter().take(MAX_TOGETHER) {
            let len = body_len(action);
            if len > room {
                break;
            }
            room -= len;
            count += 1;
        }
        count.max(usize::from(!self.queue.is_empty()))
    }

    /// Copies of the first `count` commands; they share their bytes.
    pub(crate) fn first(&self, count: usize) -> Vec<Action> {
        self.queue.iter().take(count).cloned().collect()
    }

    /// Drops the first `count` commands, which have been signed or never will be.
    pub(crate) fn drop_first(&mut self, count: usize) {
        for action in self.queue.drain(..count.min(self.queue.len())) {
            self.cost -= action.cost();
            self.bytes -= body_len(&action);
        }
        if self.queue.is_empty() {
            self.due = None;
        }
    }
}

/// The most that a command takes of a frame's body.
fn body_len(action: &Action) -> usize {
    payload_len(action) + COMMAND_OVERHEAD
}

fn payload_len(action: &Action) -> usize {
    match action {
        Action::Put { key, value } => key.bytes.len() + value.len(),
        _ => 0,
    }
}

/// Whether the log would take such a command from an Editor.
fn check(log: &CommandLog, action: &Action) -> Result<(), AppendError> {
    let Action::Put { key, value } = action else {
        let held = log
            .own_author()
            .map_or(Role::Viewer, |own| log.role_of(own));
        let needed = action.needs();
        if matches!(action, Action::Unknown { .. }) {
            return Err(EncodeError::Unknown.into());
        }
        if held < needed {
            return Err(AppendError::NotPermitted { needed, held });
        }
        return Ok(());
    };
    let (key_type, len) = (key.key_type, value.len());
    let strategy = log
        .schema()
        .strategy(key_type)
        .ok_or(AppendError::UnknownKeyType(key_type))?;
    if !strategy.accepts(value) {
        return Err(AppendError::BadValue { key_type, len });
    }
    if key.bytes.len() > MAX_KEY_LEN {
        return Err(EncodeError::Key(key.bytes.len()).into());
    }
    if payload_len(action) > MAX_PAYLOAD_LEN {
        return Err(EncodeError::Payload(payload_len(action)).into());
    }
    Ok(())
}
