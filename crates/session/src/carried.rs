//! What of our commands goes from a log that is given up to the one that takes its place.

use std::collections::BTreeMap;

use bytes::Bytes;
use roundtable_command_log::{Action, CommandLog, Entry, Key};

/// What to submit to the log that takes the place of `left`, in which `waiting` had not been signed yet: our puts that
/// count, but for those that `former` has already, where we had been there before; and there, to take back what was
/// taken back since. Anything else speaks of the log that is left, and means nothing in another.
pub(crate) fn carried(
    left: Option<&CommandLog>,
    waiting: Vec<Action>,
    former: Option<&CommandLog>,
) -> Vec<Action> {
    let mut held = left.map(own_puts).unwrap_or_default();
    for action in &waiting {
        match action {
            Action::Undo { target } => set_undone(&mut held, *target, true),
            Action::Redo { target } => set_undone(&mut held, *target, false),
            _ => {}
        }
    }
    let (gone, alive): (Vec<_>, Vec<_>) = held.into_iter().partition(|entry| entry.undone);
    let gone: Vec<_> = gone.into_iter().map(|entry| entry.action).collect();
    let waiting = waiting.into_iter().filter(is_put);
    let alive: Vec<_> = alive
        .into_iter()
        .map(|entry| entry.action)
        .chain(waiting)
        .collect();
    let mut there = former.map(own_puts).unwrap_or_default();
    there.retain(|entry| !entry.undone);

    let (mut counting, mut taken_back) = (Puts::of(&alive), Puts::of(&gone));
    let gone_there = there
        .iter()
        .filter(|entry| !counting.take(&entry.action) && taken_back.take(&entry.action));
    let undo = gone_there.map(|entry| Action::Undo {
        target: entry.nonce,
    });
    let undo: Vec<_> = undo.collect();
    let there: Vec<_> = there.into_iter().map(|entry| entry.action).collect();
    let mut known = Puts::of(&there);
    let new = alive.iter().filter(|action| !known.take(action)).cloned();
    undo.into_iter().chain(new).collect()
}

/// Our own puts in a log.
fn own_puts(log: &CommandLog) -> Vec<Entry> {
    let own = log.own_author();
    let entries = log.entries_since(&[]);
    entries
        .filter(|entry| Some(entry.author) == own && is_put(&entry.action))
        .collect()
}

fn is_put(action: &Action) -> bool {
    matches!(action, Action::Put { .. })
}

fn set_undone(held: &mut [Entry], nonce: u64, undone: bool) {
    if let Some(entry) = held.iter_mut().find(|entry| entry.nonce == nonce) {
        entry.undone = undone;
    }
}

/// How many puts there are of each value to each key.
struct Puts<'a>(BTreeMap<&'a Key, BTreeMap<&'a Bytes, usize>>);

impl<'a> Puts<'a> {
    fn of(actions: &'a [Action]) -> Self {
        let mut puts: BTreeMap<&Key, BTreeMap<&Bytes, usize>> = BTreeMap::new();
        for action in actions {
            if let Action::Put { key, value } = action {
                let values = puts.entry(key).or_default();
                *values.entry(value).or_default() += 1;
            }
        }
        Self(puts)
    }

    /// Takes away a put like this one; says whether there was one.
    fn take(&mut self, action: &Action) -> bool {
        let Action::Put { key, value } = action else {
            return false;
        };
        let values = self.0.get_mut(key);
        let left = values.and_then(|values| values.get_mut(value));
        let left = left.filter(|left| **left > 0);
        left.map(|left| *left -= 1).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in helpers of tests, too

    use ed25519_dalek::SigningKey;
    use roundtable_command_log::{Genesis, GenesisParams, Schema, Strategy};
    use roundtable_core::WallTime;

    use super::*;

    const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

    fn log(room: u8, actions: impl IntoIterator<Item = Action>) -> CommandLog {
        let key = SigningKey::from_bytes(&[1; 32]);
        let schema = Schema::builder(1, 0).key_type(0, "note", Strategy::LastWriteWins);
        let schema = schema.build().unwrap();
        let params = GenesisParams::new([room; 32], NOW, schema.hash());
        let genesis = Genesis::create(params, &key).unwrap();
        let mut log = CommandLog::new(genesis, schema, Some(key)).unwrap();
        for action in actions {
            log.append(NOW, &[action]).unwrap();
            log.settle(NOW);
        }
        log
    }

    fn put(text: &'static str) -> Action {
        Action::put(Key::new(0, "note"), text)
    }

    fn undo(target: u64) -> Action {
        Action::Undo { target }
    }

    #[test]
    fn what_counts_or_waits_goes_along_and_what_was_taken_back_does_not() {
        let left = log(1, [put("a"), put("b"), undo(1)]);
        let all = carried(Some(&left), vec![put("c")], None);
        assert_eq!(all, [put("b"), put("c")]);
    }

    #[test]
    fn what_is_about_to_be_taken_back_does_not_go_along() {
        let left = log(1, [put("a"), put("b"), undo(2)]);
        let waiting = vec![undo(1), Action::Redo { target: 2 }];
        assert_eq!(carried(Some(&left), waiting, None), [put("b")]);
    }

    #[test]
    fn who_returns_takes_back_there_what_was_taken_back_since() {
        let former = log(1, [put("a"), put("b"), put("a")]);
        let left = log(
            2,
            [put("a"), put("b"), put("a"), put("c"), undo(2), undo(3)],
        );
        let all = carried(Some(&left), Vec::new(), Some(&former));
        assert_eq!(all, [undo(2), undo(3), put("c")]);
        // What was refused in the meantime, or still waits, was never taken back.
        let left = log(2, [put("a"), put("a")]);
        assert_eq!(carried(Some(&left), Vec::new(), Some(&former)), []);
        let left = log(2, [put("b"), undo(1), put("b")]);
        assert_eq!(carried(Some(&left), Vec::new(), Some(&former)), []);
    }
}
