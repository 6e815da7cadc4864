//! The shared state: every key's commands in order, and the value that they fold to.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use bytes::Bytes;

use crate::{
    GenesisHash, Key, MergeRule, Order, Roles, Schema, StateHash, Strategy, chain::Chain,
    path::Extent, prune::Values,
};

const CONTEXT: &[u8] = b"roundtable/state/v1\0";

/// A put that counts. Its value stays where its frame is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    lamport: u64,
    nonce: u64,
    /// The index of its author's chain; with [`UNDONE`] if its author has taken it back: it is kept,
    /// for it may be let count again.
    author: u32,
    value: Extent,
}

/// Far above any index of a chain.
const UNDONE: u32 = 1 << 31;

impl Op {
    /// What the author with this index put at a place in the order.
    pub(crate) const fn new(author: u32, order: &Order, value: Extent) -> Self {
        Self {
            lamport: order.lamport,
            nonce: order.nonce,
            author,
            value,
        }
    }

    const fn author(&self) -> u32 {
        self.author & !UNDONE
    }

    const fn stands(&self) -> bool {
        self.author < UNDONE
    }

    const fn mark(&mut self, undone: bool) {
        self.author = if undone {
            self.author | UNDONE
        } else {
            self.author()
        };
    }

    fn chain<'a>(&self, chains: &'a [Chain]) -> &'a Chain {
        &chains[self.author() as usize]
    }

    fn order(&self, chains: &[Chain]) -> Order {
        Order {
            lamport: self.lamport,
            author: self.chain(chains).author(),
            nonce: self.nonce,
        }
    }

    /// Compares by [`Order`], and looks authors up only where they decide.
    fn cmp(&self, other: &Self, chains: &[Chain]) -> Ordering {
        let by_author = || match self.author() == other.author() {
            true => Ordering::Equal,
            false => self.order(chains).cmp(&other.order(chains)),
        };
        let by_time = self.lamport.cmp(&other.lamport).then_with(by_author);
        by_time.then(self.nonce.cmp(&other.nonce))
    }

    fn value<'a>(&self, chains: &'a [Chain]) -> &'a [u8] {
        self.chain(chains).path.bytes(self.value)
    }
}

/// Folds one more value of a merged key in.
fn merge(folded: &mut Option<Vec<u8>>, rule: MergeRule, value: &[u8]) {
    if let MergeRule::Append { max_len } = rule {
        let whole = folded.get_or_insert_default();
        if whole.len() + value.len() <= max_len as usize {
            whole.extend_from_slice(value);
        }
        return;
    }
    let number = |bytes: &[u8]| Some(i64::from_le_bytes(bytes.try_into().ok()?));
    let Some(new) = number(value) else {
        return;
    };
    let merged = match (folded.as_deref().and_then(number), rule) {
        (Some(old), MergeRule::Add) => old.wrapping_add(new),
        (Some(old), MergeRule::Max) => old.max(new),
        (Some(old), MergeRule::Min) => old.min(new),
        _ => new,
    };
    *folded = Some(merged.to_le_bytes().to_vec());
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
    /// The value at the last stable checkpoint, which is earlier than all commands.
    base: Option<Box<[u8]>>,
    /// What the commands come to, if any counts.
    value: Option<Vec<u8>>,
}

impl Entry {
    const fn new(key: Key) -> Self {
        Self {
            key,
            ops: Vec::new(),
            folded: 0,
            unsorted: false,
            dirty: false,
            base: None,
            value: None,
        }
    }

    /// Adds a command, and says whether it found the key already decided against it.
    fn push(&mut self, op: Op, strategy: Strategy, chains: &[Chain]) -> bool {
        let late = self.ops.last();
        let late = late.is_some_and(|last| op.cmp(last, chains).is_lt());
        let conflict = match strategy {
            Strategy::Reject if self.base.is_some() => true,
            Strategy::Reject => self
                .ops
                .first()
                .is_some_and(|first| first.author() != op.author()),
            Strategy::LastWriteWins | Strategy::Merge(_) => late,
        };
        self.unsorted |= late;
        self.ops.push(op);
        conflict
    }

    /// Puts the commands in order.
    fn sort(&mut self, chains: &[Chain]) {
        if std::mem::take(&mut self.unsorted) {
            self.ops.sort_by(|op, other| op.cmp(other, chains));
            self.folded = 0;
        }
    }

    /// Marks the command at this place in the order, and says whether that is news.
    fn set_undone(&mut self, order: &Order, undone: bool, chains: &[Chain]) -> bool {
        self.sort(chains);
        let found = self.ops.binary_search_by(|op| op.order(chains).cmp(order));
        let Some(op) = found.ok().map(|index| &mut self.ops[index]) else {
            return false;
        };
        let news = op.stands() == undone;
        op.mark(undone);
        if news {
            self.folded = 0;
        }
        news
    }

    /// Folds what has changed, and says whether the value did.
    fn fold(&mut self, strategy: Strategy, chains: &[Chain]) -> bool {
        self.sort(chains);
        let mut standing = self.ops.iter().filter(|op| op.stands());
        let base = self.base.as_deref();
        let new = match strategy {
            Strategy::LastWriteWins => standing.next_back().map(|op| op.value(chains)).or(base),
            Strategy::Reject => base.or_else(|| standing.next().map(|op| op.value(chains))),
            Strategy::Merge(rule) => return self.fold_merged(rule, chains),
        };
        let changed = self.value.as_deref() != new;
        if changed {
            self.value = new.map(<[u8]>::to_vec);
        }
        changed
    }

    fn fold_merged(&mut self, rule: MergeRule, chains: &[Chain]) -> bool {
        let from = std::mem::replace(&mut self.folded, self.ops.len());
        let new = self.ops[from..].iter().filter(|op| op.stands());
        if from > 0 {
            new.for_each(|op| merge(&mut self.value, rule, op.value(chains)));
            return from < self.ops.len();
        }
        let mut folded = self.base.as_deref().map(<[u8]>::to_vec);
        new.for_each(|op| merge(&mut folded, rule, op.value(chains)));
        let changed = self.value != folded;
        self.value = folded;
        changed
    }
}

/// Where each key of a type is: to find one, and to go through them in order.
#[derive(Debug, Default)]
struct Keys {
    places: HashMap<Bytes, usize>,
    sorted: BTreeMap<Bytes, usize>,
}

/// All keys. What reads it sees the state as of the last [`settle`](Self::settle).
///
/// Chains are handed in where the order of commands or their values are needed.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// A place stays that of its key until no command on the key is left.
    entries: Vec<Entry>,
    /// Places that have no key.
    free: Vec<usize>,
    /// By key type.
    types: BTreeMap<u16, Keys>,
    /// The places to fold, each once.
    dirty: Vec<usize>,
    changed: BTreeSet<Key>,
}

impl State {
    /// Adds a put, and says whether it met a conflict.
    pub(crate) fn push(
        &mut self,
        (key_type, key): (u16, &[u8]),
        op: Op,
        strategy: Strategy,
        chains: &[Chain],
    ) -> bool {
        let place = match self.place(key_type, key) {
            Some(place) => place,
            None => self.insert(Key::new(key_type, Bytes::copy_from_slice(key))),
        };
        self.touch(place).push(op, strategy, chains)
    }

    fn place(&self, key_type: u16, key: &[u8]) -> Option<usize> {
        self.types.get(&key_type)?.places.get(key).copied()
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
        let keys = self.types.entry(key.key_type).or_default();
        keys.places.insert(key.bytes.clone(), place);
        keys.sorted.insert(key.bytes, place);
        place
    }

    /// Takes back what an author put on a key with a nonce above `after`.
    pub(crate) fn retract(&mut self, (key_type, key): (u16, &[u8]), author: u32, after: u64) {
        if let Some(place) = self.place(key_type, key) {
            let entry = self.touch(place);
            let kept = |op: &Op| op.author() != author || op.nonce <= after;
            entry.ops.retain(kept);
            entry.folded = 0;
        }
    }

    /// Lets the put at this place in the order of its key do nothing, or count again.
    pub(crate) fn set_undone(
        &mut self,
        (key_type, key): (u16, &[u8]),
        order: &Order,
        undone: bool,
        chains: &[Chain],
    ) {
        if let Some(place) = self.place(key_type, key)
            && self.entries[place].set_undone(order, undone, chains)
        {
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
    pub(crate) fn settle(&mut self, schema: &Schema, chains: &[Chain]) {
        for place in std::mem::take(&mut self.dirty) {
            let entry = &mut self.entries[place];
            let Some(strategy) = schema.strategy(entry.key.key_type) else {
                continue;
            };
            entry.dirty = false;
            if entry.fold(strategy, chains) {
                self.changed.insert(entry.key.clone());
            }
            if entry.ops.is_empty() && entry.base.is_none() {
                if let Some(keys) = self.types.get_mut(&entry.key.key_type) {
                    keys.places.remove(&entry.key.bytes);
                    keys.sorted.remove(&entry.key.bytes);
                }
                self.free.push(place);
            }
        }
    }

    /// The next key whose value has changed, each once until it changes again.
    pub(crate) fn poll_changed(&mut self) -> Option<Key> {
        self.changed.pop_first()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&[u8]> {
        let place = self.place(key.key_type, &key.bytes)?;
        self.entries[place].value.as_deref()
    }

    /// The state at a checkpoint, settled. Types that the schema does not know have no values.
    pub(crate) fn after(values: &Values, schema: &Schema) -> Self {
        let mut state = Self::default();
        for (key, value) in values {
            if schema.strategy(key.key_type).is_some() {
                let place = state.insert(key.clone());
                let entry = &mut state.entries[place];
                entry.base = Some(value.as_ref().into());
                entry.value = Some(value.to_vec());
            }
        }
        state
    }

    /// All live keys and their values, sorted.
    pub(crate) fn values(&self) -> Values {
        let live = self.live(self.types.values());
        live.map(|(key, value)| (key.clone(), Bytes::copy_from_slice(value)))
            .collect()
    }

    /// The values at the last stable checkpoint, sorted.
    pub(crate) fn base(&self) -> Values {
        let based = self.based();
        based
            .map(|(key, value)| (key.clone(), Bytes::copy_from_slice(value)))
            .collect()
    }

    /// The same, in no order.
    pub(crate) fn based(&self) -> impl Iterator<Item = (&Key, &[u8])> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| Some((&entry.key, entry.base.as_deref()?)))
    }

    /// Takes the place of another state: what differs has changed, and what had changed there.
    pub(crate) fn replace(&mut self, old: Self) {
        let live = self.live(self.types.values());
        let differing = live.filter(|(key, value)| old.get(key) != Some(*value));
        let gone = old.live(old.types.values());
        let gone = gone.filter(|(key, _)| self.get(key).is_none());
        let mut changed: BTreeSet<_> = differing.chain(gone).map(|(key, _)| key.clone()).collect();
        changed.extend(old.changed.iter().cloned());
        self.changed = changed;
    }

    /// The live keys of a type, sorted.
    pub(crate) fn of_type(&self, key_type: u16) -> impl Iterator<Item = (&Key, &[u8])> {
        self.live(self.types.get(&key_type))
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
        for (key, value) in self.live(self.types.values()) {
            field(&key.key_type.to_le_bytes());
            field(&key.bytes);
            field(value);
        }
        hasher.finalize().into()
    }

    fn live<'a>(
        &'a self,
        types: impl IntoIterator<Item = &'a Keys>,
    ) -> impl Iterator<Item = (&'a Key, &'a [u8])> {
        let places = types.into_iter().flat_map(|keys| keys.sorted.values());
        let entries = places.map(|place| &self.entries[*place]);
        entries.filter_map(|entry| Some((&entry.key, entry.value.as_deref()?)))
    }
}
