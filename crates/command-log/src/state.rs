//! The shared state: every key's commands in order, and the value that they fold to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use bytes::Bytes;
use roundtable_core::AuthorId;

use crate::{GenesisHash, Key, MergeRule, Order, Roles, Schema, StateHash, Strategy};

const CONTEXT: &[u8] = b"roundtable/state/v1\0";

/// A put that counts.
#[derive(Debug)]
struct Op {
    order: Order,
    value: Bytes,
    /// Whether its author has taken it back: it is kept, for it may be let count again.
    undone: bool,
}

/// What a key's commands come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Value {
    /// No command counts.
    #[default]
    None,
    /// The value of one command.
    Shared(Bytes),
    /// A concatenation.
    Appended(Vec<u8>),
    /// A number, in its encoding.
    Number([u8; 8]),
}

impl Value {
    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::None => None,
            Self::Shared(bytes) => Some(bytes),
            Self::Appended(bytes) => Some(bytes),
            Self::Number(bytes) => Some(bytes),
        }
    }

    fn number(&self) -> Option<i64> {
        match self {
            Self::Number(bytes) => Some(i64::from_le_bytes(*bytes)),
            _ => None,
        }
    }

    /// Folds one more command of a merged key in.
    fn merge(&mut self, rule: MergeRule, value: &[u8]) {
        if let MergeRule::Append { max_len } = rule {
            if !matches!(self, Self::Appended(_)) {
                *self = Self::Appended(Vec::new());
            }
            if let Self::Appended(whole) = self
                && whole.len() + value.len() <= max_len as usize
            {
                whole.extend_from_slice(value);
            }
            return;
        }
        let Ok(bytes) = value.try_into() else {
            return;
        };
        let new = i64::from_le_bytes(bytes);
        let folded = match (self.number(), rule) {
            (Some(old), MergeRule::Add) => old.wrapping_add(new),
            (Some(old), MergeRule::Max) => old.max(new),
            (Some(old), MergeRule::Min) => old.min(new),
            _ => new,
        };
        *self = Self::Number(folded.to_le_bytes());
    }
}

/// One key's commands and value.
#[derive(Debug)]
struct Entry {
    key: Key,
    ops: Vec<Op>,
    /// How many commands at the front are in order and folded into `value`; used by Merge only.
    folded: usize,
    unsorted: bool,
    /// Whether it is listed to be folded.
    dirty: bool,
    value: Value,
}

impl Entry {
    fn new(key: Key) -> Self {
        Self {
            key,
            ops: Vec::new(),
            folded: 0,
            unsorted: false,
            dirty: false,
            value: Value::None,
        }
    }

    /// Adds a command, and says whether it found the key already decided against it.
    fn push(&mut self, op: Op, strategy: Strategy) -> bool {
        let late = self.ops.last().is_some_and(|last| op.order < last.order);
        let conflict = match strategy {
            Strategy::Reject => self
                .ops
                .first()
                .is_some_and(|first| first.order.author != op.order.author),
            Strategy::LastWriteWins | Strategy::Merge(_) => late,
        };
        self.unsorted |= late;
        self.ops.push(op);
        conflict
    }

    /// Puts the commands in order.
    fn sort(&mut self) {
        if std::mem::take(&mut self.unsorted) {
            self.ops.sort_by_key(|op| op.order);
            self.folded = 0;
        }
    }

    /// Folds what has changed, and says whether the value did.
    fn fold(&mut self, strategy: Strategy) -> bool {
        self.sort();
        let shared = |op: &Op| Value::Shared(op.value.clone());
        let mut standing = self.ops.iter().filter(|op| !op.undone);
        let new = match strategy {
            Strategy::LastWriteWins => standing.next_back().map(shared),
            Strategy::Reject => standing.next().map(shared),
            Strategy::Merge(rule) => {
                let from = std::mem::replace(&mut self.folded, self.ops.len());
                let new = self.ops[from..].iter().filter(|op| !op.undone);
                if from > 0 {
                    new.for_each(|op| self.value.merge(rule, &op.value));
                    return from < self.ops.len();
                }
                let mut folded = Value::None;
                new.for_each(|op| folded.merge(rule, &op.value));
                Some(folded)
            }
        };
        let new = new.unwrap_or_default();
        let changed = self.value != new;
        self.value = new;
        changed
    }
}

/// All keys. What reads it sees the state as of the last [`settle`](Self::settle).
#[derive(Debug, Default)]
pub(crate) struct State {
    /// A place stays that of its key until no command on the key is left.
    entries: Vec<Entry>,
    /// Places that have no key.
    free: Vec<usize>,
    /// Where each key is: to find one, and to go through them in order.
    places: HashMap<Key, usize>,
    sorted: BTreeMap<Key, usize>,
    /// The places to fold, each once.
    dirty: Vec<usize>,
    changed: BTreeSet<Key>,
}

impl State {
    /// Adds a put, and says whether it met a conflict.
    pub(crate) fn push(
        &mut self,
        key: Key,
        order: Order,
        value: Bytes,
        strategy: Strategy,
    ) -> bool {
        let op = Op {
            order,
            value,
            undone: false,
        };
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.insert(key),
        };
        self.touch(place).push(op, strategy)
    }

    /// Gives a new key a place.
    fn insert(&mut self, key: Key) -> usize {
        let entry = Entry::new(key.clone());
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.places.insert(key.clone(), place);
        self.sorted.insert(key, place);
        place
    }

    /// Takes back what an author put on a key with a nonce above `after`.
    pub(crate) fn retract(&mut self, key: &Key, author: AuthorId, after: u64) {
        if let Some(place) = self.places.get(key) {
            let entry = self.touch(*place);
            let kept = |op: &Op| op.order.author != author || op.order.nonce <= after;
            entry.ops.retain(kept);
            entry.folded = 0;
        }
    }

    /// Lets the put at this place in the order of its key do nothing, or count again.
    pub(crate) fn set_undone(&mut self, key: &Key, order: Order, undone: bool) {
        let Some(place) = self.places.get(key).copied() else {
            return;
        };
        let entry = &mut self.entries[place];
        entry.sort();
        let found = entry.ops.binary_search_by_key(&order, |op| op.order);
        let Some(op) = found.ok().map(|index| &mut entry.ops[index]) else {
            return;
        };
        if std::mem::replace(&mut op.undone, undone) != undone {
            entry.folded = 0;
            self.touch(place);
        }
    }

    /// Lists a place to be folded.
    fn touch(&mut self, place: usize) -> &mut Entry {
        let entry = &mut self.entries[place];
        if !std::mem::replace(&mut entry.dirty, true) {
            self.dirty.push(place);
        }
        entry
    }

    /// Folds every key that something reached since the last time.
    pub(crate) fn settle(&mut self, schema: &Schema) {
        for place in std::mem::take(&mut self.dirty) {
            let entry = &mut self.entries[place];
            let Some(strategy) = schema.strategy(entry.key.key_type) else {
                continue;
            };
            entry.dirty = false;
            if entry.fold(strategy) {
                self.changed.insert(entry.key.clone());
            }
            if entry.ops.is_empty() {
                self.places.remove(&entry.key);
                self.sorted.remove(&entry.key);
                self.free.push(place);
            }
        }
    }

    /// The next key whose value has changed, each once until it changes again.
    pub(crate) fn poll_changed(&mut self) -> Option<Key> {
        self.changed.pop_first()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&[u8]> {
        self.entries[*self.places.get(key)?].value.as_bytes()
    }

    /// The live keys of a type, sorted.
    pub(crate) fn of_type(&self, key_type: u16) -> impl Iterator<Item = (&Key, &[u8])> {
        let from = Key::new(key_type, Bytes::new());
        let range = (Bound::Included(from), Bound::Unbounded);
        self.live(self.sorted.range(range))
            .take_while(move |(key, _)| key.key_type == key_type)
    }

    /// Names all live keys, their values and all roles.
    pub(crate) fn hash(&self, genesis: &GenesisHash, roles: &Roles) -> StateHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTEXT);
        hasher.update(genesis.as_bytes());
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (author, role) in roles.current() {
            field(author.as_bytes());
            field(&[role.number()]);
        }
        field(&[]);
        for (key, value) in self.live(self.sorted.iter()) {
            field(&key.key_type.to_le_bytes());
            field(&key.bytes);
            field(value);
        }
        hasher.finalize().into()
    }

    fn live<'a>(
        &'a self,
        places: impl Iterator<Item = (&'a Key, &'a usize)>,
    ) -> impl Iterator<Item = (&'a Key, &'a [u8])> {
        places.filter_map(|(key, place)| Some((key, self.entries[*place].value.as_bytes()?)))
    }
}
