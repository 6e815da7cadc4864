//! The log: frames in, state out.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_core::{AuthorId, MetricsVisitor, Observe, WallTime};
use roundtable_wire::commands::Encoder;

use crate::{
    Action, AppendError, Covered, FrameError, FrameReader, Genesis, GenesisHash, Head, Header, Key,
    MERGE_VERSION, NonceRange, OpenError, Order, ReadError, Received, Role, Schema, SharedFrame,
    SignedFrame, StateHash, Strategy, UnverifiedFrame,
    backlog::Foreseen,
    chain::{Chain, Judged, Tip, total_cost},
    clock::LamportClock,
    fork::ForkProof,
    metrics::{Counters, bump},
    rate::Shortfall,
    roles::Roles,
    state::State,
    undo::{OwnHistory, Undos},
};

/// Something that has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// A command was applied, or found not to count.
    Applied(Applied),
    /// An author was found to have signed twice for one place. What that costs it comes as
    /// [`Retracted`](Self::Retracted).
    Forked(ForkProof),
    /// An author's log has become shorter: commands that were applied are taken back. They may be
    /// applied again, or others in their place, when an Admin says which branch counts.
    Retracted {
        /// Whose.
        author: AuthorId,
        /// All above this nonce.
        after: u64,
    },
}

/// What waits for the next settle, or to be polled after it.
#[derive(Debug)]
pub(crate) enum Settling {
    /// The commands of a frame.
    Frame(SharedFrame),
    /// Anything else; boxed, for it is rare and frames are many.
    Update(Box<Update>),
}

/// A command that has reached the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Who wrote it.
    pub author: AuthorId,
    /// Its number in the author's log.
    pub nonce: u64,
    /// Its Lamport time.
    pub lamport: u64,
    /// What it does.
    pub action: Action,
    /// Whether its author's role, the schema and the merge rule let it count. A command that does
    /// not count changes nothing.
    pub counted: bool,
}

/// A room's command log: accepts signed frames in any order, and comes to the state that every
/// other log with the same frames comes to.
///
/// What arrives is judged at once; the state that [`get`](Self::get) and the like show moves on
/// when [`settle`](Self::settle) is called, so that late frames cost one fold each tick and not
/// one each.
#[derive(Debug)]
pub struct CommandLog {
    pub(crate) genesis: Genesis,
    pub(crate) schema: Schema,
    pub(crate) own: Option<(SigningKey, usize)>,
    pub(crate) chains: Vec<Chain>,
    pub(crate) index: HashMap<AuthorId, usize>,
    clock: LamportClock,
    pub(crate) roles: Roles,
    pub(crate) state: State,
    pub(crate) undos: Undos,
    pub(crate) own_history: OwnHistory,
    encoder: Encoder,
    /// What came since the last settle, then what waits to be polled.
    pub(crate) arrived: VecDeque<Settling>,
    pub(crate) settled: VecDeque<Settling>,
    /// Commands of the frame that was polled last.
    pub(crate) applied: VecDeque<Applied>,
    pub(crate) counters: Counters,
}

impl CommandLog {
    /// Opens an empty log: to write with a key, or only to read.
    ///
    /// # Errors
    /// [`OpenError`] when this application cannot take part in the room.
    pub fn new(
        genesis: Genesis,
        schema: Schema,
        key: Option<SigningKey>,
    ) -> Result<Self, OpenError> {
        if schema.hash() != genesis.params().schema {
            return Err(OpenError::SchemaMismatch);
        }
        if genesis.merge_version() != MERGE_VERSION {
            return Err(OpenError::MergeVersion(genesis.merge_version()));
        }
        let roles = Roles::new(genesis.creator(), genesis.params().default_role);
        let mut log = Self {
            genesis,
            schema,
            own: None,
            chains: Vec::new(),
            index: HashMap::new(),
            clock: LamportClock::default(),
            roles,
            state: State::default(),
            undos: Undos::default(),
            own_history: OwnHistory::default(),
            encoder: Encoder::default(),
            arrived: VecDeque::new(),
            settled: VecDeque::new(),
            applied: VecDeque::new(),
            counters: Counters::default(),
        };
        if let Some(key) = key {
            let author = AuthorId::from_bytes(key.verifying_key().to_bytes());
            let chain = Chain::new(author, &log.genesis)?;
            log.own = Some((key, log.insert(chain)));
        }
        Ok(log)
    }

    /// Signs commands as one frame, the next of the own log. The frame must be durable before it
    /// is sent, or a restart forks the log.
    ///
    /// # Errors
    /// [`AppendError`]; nothing has changed then.
    pub fn append(
        &mut self,
        wall: WallTime,
        actions: &[Action],
    ) -> Result<SharedFrame, AppendError> {
        self.review();
        let Some((key, own)) = &self.own else {
            return Err(AppendError::ReadOnly);
        };
        let (own, chain) = (*own, &self.chains[*own]);
        let (author, tip) = (chain.author(), chain.tip);
        if chain.is_forked() {
            return Err(AppendError::Forked);
        }
        if chain.waiting.len() > 0 {
            return Err(AppendError::OwnFramesMissing);
        }
        let wall_ms = wall.as_millis().max(tip.wall_ms);
        let elapsed_ms = self.genesis.elapsed_ms(wall_ms).unwrap_or_default();
        let lamport = self.clock.next(elapsed_ms);
        for action in actions {
            self.check_action(author, &tip, lamport, action)?;
        }
        self.check_writers(actions)?;
        let count = u32::try_from(actions.len()).unwrap_or(u32::MAX);
        let first_nonce = tip.nonce.saturating_add(1);
        if tip.nonce.checked_add(u64::from(count) + 1).is_none() {
            return Err(AppendError::NoncesExhausted);
        }
        let header = Header {
            author,
            previous: tip.id,
            first_nonce,
            count,
            lamport,
            wall_ms,
            schema: self.schema.hash(),
        };
        let limits = &self.genesis.params().limits;
        let price = total_cost(actions);
        tip.afford(header.wall_ms, price, limits)
            .map_err(|shortfall| match shortfall {
                Shortfall::Wait(wait) => {
                    // A clock that was set back gains nothing until it is where it was.
                    let behind = Duration::from_millis(wall_ms - wall.as_millis());
                    let retry_after = wait + behind;
                    AppendError::RateLimited { retry_after }
                }
                Shortfall::Never => AppendError::OverBurst,
            })?;
        let body = self.encoder.encode(actions.iter().map(Action::as_wire))?;
        let hash = self.genesis.hash();
        let frame = SignedFrame::sign(&hash, header, body, key);
        // Of all rules, only one can still be broken: at its bound, the clock no longer rises.
        let tip = tip
            .extended(&header, frame.id(), price, &self.genesis)
            .map_err(|_| AppendError::ClockExhausted)?;
        let frame = Arc::new(frame);
        // What is kept shares the frame's memory, not the caller's.
        let body = frame.body();
        let payloads = self.encoder.payloads(actions.iter().map(Action::as_wire));
        let actions = actions.iter().zip(payloads);
        let actions = actions.map(|(action, at)| action.within(&body, at));
        let actions = actions.collect();
        self.commit(own, Arc::clone(&frame), Judged { tip, actions });
        bump(&mut self.counters.appended);
        Ok(frame)
    }

    /// Judges a frame in full form from anyone. Any bytes are safe.
    ///
    /// # Errors
    /// [`FrameError`]; the frame is then as if never signed. Rules are checked before the signature,
    /// which costs more, so most errors say something of who passed the frame on and nothing of the
    /// author it names; only a fork is proven.
    pub fn receive(&mut self, wall: WallTime, bytes: Bytes) -> Result<Received, FrameError> {
        let frame = UnverifiedFrame::decode(bytes, &self.genesis.hash());
        let frame = frame.inspect_err(|error| self.counters.refused(error))?;
        self.receive_frame(wall, frame)
    }

    /// Reads a frame in any form as it came on the link that `reader` belongs to.
    ///
    /// # Errors
    /// [`ReadError`]; a malformed frame is as if never signed.
    pub fn read(
        &mut self,
        reader: &mut FrameReader,
        bytes: Bytes,
    ) -> Result<UnverifiedFrame, ReadError> {
        let frame = reader.read(bytes, &self.genesis.hash());
        if let Err(ReadError::Frame(error)) = &frame {
            self.counters.refused(error);
        }
        frame
    }

    /// Judges a frame from anyone.
    ///
    /// # Errors
    /// [`FrameError`], as of [`receive`](Self::receive).
    pub fn receive_frame(
        &mut self,
        wall: WallTime,
        frame: UnverifiedFrame,
    ) -> Result<Received, FrameError> {
        let received = self.admit(wall, frame, Foreseen::default());
        self.tally(&received);
        received
    }

    /// Counts what became of a frame.
    pub(crate) fn tally(&mut self, received: &Result<Received, FrameError>) {
        match received {
            Ok(Received::Accepted { .. } | Received::Forked { .. }) => {}
            Ok(Received::Duplicate) => bump(&mut self.counters.duplicates),
            Ok(Received::Waiting { .. } | Received::Early) => bump(&mut self.counters.waited),
            Ok(Received::Aside { .. } | Received::Ended | Received::Detached { .. }) => {
                bump(&mut self.counters.branched);
            }
            Err(error) => self.counters.refused(error),
        }
    }

    /// Brings the state up to date with everything received and appended: takes in frames whose
    /// time has come, evaluates roles and forks, folds the keys that changed. Call it once a tick.
    pub fn settle(&mut self, wall: WallTime) {
        for index in 0..self.chains.len() {
            self.release(index, wall);
        }
        self.review();
        self.settle_undos();
        self.state.settle(&self.schema);
        self.settled.append(&mut self.arrived);
    }

    /// The next thing that has settled. Each command that counts comes once, an author's commands in
    /// order; after [`Update::Retracted`] they go on from there. What is not polled is kept, at the
    /// cost of one pointer a frame.
    pub fn poll_update(&mut self) -> Option<Update> {
        if self.applied.is_empty() {
            let frame = match self.settled.pop_front()? {
                Settling::Frame(frame) => frame,
                Settling::Update(update) => return Some(*update),
            };
            let header = frame.header();
            for (action, nonce) in frame.actions().into_iter().zip(header.first_nonce..) {
                let counted = self.counts(header, nonce, &action);
                self.applied.push_back(Applied {
                    author: header.author,
                    nonce,
                    lamport: header.lamport,
                    action,
                    counted,
                });
            }
        }
        self.applied.pop_front().map(Update::Applied)
    }

    /// The next key whose value has changed in a settle, each once until it changes again.
    pub fn poll_changed(&mut self) -> Option<Key> {
        self.state.poll_changed()
    }

    /// A key's value, `None` if no command on it counts.
    pub fn get(&self, key: &Key) -> Option<&[u8]> {
        self.state.get(key)
    }

    /// All keys of a type that have a value, sorted.
    pub fn entries(&self, key_type: u16) -> impl Iterator<Item = (&Key, &[u8])> {
        self.state.of_type(key_type)
    }

    /// The role in which an author would write now.
    pub fn role_of(&self, author: AuthorId) -> Role {
        self.roles.now(author)
    }

    /// The authors whose role is not the room's default, sorted.
    pub fn roles(&self) -> impl Iterator<Item = (AuthorId, Role)> {
        self.roles.current()
    }

    /// A role command for all that `target` writes beyond what this log has of it.
    pub fn role_command(&self, target: AuthorId, role: Role) -> Action {
        let covered = self.head(target).map_or(Covered::NOTHING, |head| Covered {
            nonce: head.nonce,
            id: head.id,
        });
        Action::SetRole {
            target,
            role,
            covered,
        }
    }

    /// Names the state: keys, values and roles. Logs of one genesis that have settled the same
    /// frames have the same hash. Costs time in proportion to the state.
    pub fn state_hash(&self) -> StateHash {
        self.state.hash(&self.genesis.hash(), &self.roles)
    }

    /// How far the log has each author that wrote something, sorted by author.
    pub fn heads(&self) -> Vec<Head> {
        let mut heads: Vec<_> = self.chains.iter().filter_map(head).collect();
        heads.sort_by_key(|head| head.author);
        heads
    }

    /// How far the log has an author.
    pub fn head(&self, author: AuthorId) -> Option<Head> {
        head(self.chain(author)?)
    }

    /// How far the own log is; `None` if nothing was written.
    pub fn own_head(&self) -> Option<Head> {
        head(&self.chains[self.own.as_ref()?.1])
    }

    /// Whom this log writes as.
    pub fn own_author(&self) -> Option<AuthorId> {
        Some(self.chains[self.own.as_ref()?.1].author())
    }

    /// An author's frames from the one that holds the nonce after `nonce`: as many as fit
    /// `limit_bytes`, and at least one if there is any.
    pub fn frames_after(
        &self,
        author: AuthorId,
        nonce: u64,
        limit_bytes: usize,
    ) -> impl Iterator<Item = &SharedFrame> {
        let chain = self.chain(author).into_iter();
        let frames = chain.flat_map(move |chain| chain.frames_after(nonce));
        frames.scan(0_usize, move |sent, frame| {
            let first = *sent == 0;
            *sent += frame.bytes().len();
            (first || *sent <= limit_bytes).then_some(frame)
        })
    }

    /// All frames that count: each author's in order, authors in the order they came.
    pub fn frames(&self) -> impl Iterator<Item = &SharedFrame> {
        self.chains.iter().flat_map(Chain::frames)
    }

    /// All frames that the log holds: besides those that count, the proofs of forks and what lies
    /// beyond them. From these, in any order, another log comes to where this one is.
    pub fn kept(&self) -> impl Iterator<Item = &SharedFrame> {
        self.frames().chain(self.set_aside())
    }

    /// What [`kept`](Self::kept) has beside the frames that count.
    pub fn set_aside(&self) -> impl Iterator<Item = &SharedFrame> {
        self.chains.iter().flat_map(Chain::set_aside)
    }

    /// What this log lacks of what another one has.
    pub fn wants(&self, theirs: &[Head]) -> Vec<NonceRange> {
        let want = |head: &Head| match self.chain(head.author) {
            Some(chain) => chain.gap(head.nonce),
            None => Some(NonceRange {
                author: head.author,
                after: 0,
                through: head.nonce,
            }),
        };
        theirs.iter().filter_map(want).collect()
    }

    /// What another log lacks of what this one has.
    pub fn offers(&self, theirs: &[Head]) -> Vec<NonceRange> {
        let theirs: HashMap<_, _> = theirs
            .iter()
            .map(|head| (head.author, head.nonce))
            .collect();
        let offer = |head: Head| {
            let after = theirs.get(&head.author).copied().unwrap_or(0);
            (head.nonce > after).then_some(NonceRange {
                author: head.author,
                after,
                through: head.nonce,
            })
        };
        self.heads().into_iter().filter_map(offer).collect()
    }

    /// The highest Lamport time in the log.
    pub const fn lamport(&self) -> u64 {
        self.clock.highest()
    }

    /// How many authors' commands the log holds or waits for.
    pub const fn authors(&self) -> usize {
        self.chains.len()
    }

    /// The room's genesis.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Names the room's genesis.
    pub const fn genesis_hash(&self) -> GenesisHash {
        self.genesis.hash()
    }

    /// The room's schema.
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    pub(crate) fn chain(&self, author: AuthorId) -> Option<&Chain> {
        Some(&self.chains[*self.index.get(&author)?])
    }

    pub(crate) fn insert(&mut self, chain: Chain) -> usize {
        let index = self.chains.len();
        self.index.insert(chain.author(), index);
        self.chains.push(chain);
        index
    }

    fn check_action(
        &self,
        author: AuthorId,
        tip: &Tip,
        lamport: u64,
        action: &Action,
    ) -> Result<(), AppendError> {
        let needed = action.needs();
        let held = self.roles.at(author, tip.nonce.saturating_add(1), lamport);
        if held < needed {
            return Err(AppendError::NotPermitted { needed, held });
        }
        match action {
            Action::Put { key, value } => {
                let key_type = key.key_type;
                let strategy = self
                    .schema
                    .strategy(key_type)
                    .ok_or(AppendError::UnknownKeyType(key_type))?;
                let len = value.len();
                if !strategy.accepts(value) {
                    return Err(AppendError::BadValue { key_type, len });
                }
            }
            Action::Undo { target } | Action::Redo { target } => {
                let undoes = matches!(action, Action::Undo { .. });
                if !self.may_reverse(*target, undoes) {
                    return Err(AppendError::NothingToReverse(*target));
                }
            }
            Action::SetRole { .. } | Action::Unknown { .. } => {}
        }
        Ok(())
    }

    /// Whether the room has places for all that these commands would make writers.
    fn check_writers(&self, actions: &[Action]) -> Result<(), AppendError> {
        let default = self.genesis.params().default_role;
        let joins = |action: &Action| match action {
            Action::SetRole { target, role, .. } => {
                (*role > default && self.role_of(*target) <= default).then_some(*target)
            }
            _ => None,
        };
        let joining: BTreeSet<_> = actions.iter().filter_map(joins).collect();
        if joining.is_empty() {
            return Ok(());
        }
        let max = self.genesis.params().max_writers;
        let writers = self.roles().filter(|(_, role)| *role > default).count();
        if writers + joining.len() > usize::from(max) {
            return Err(AppendError::TooManyWriters(max));
        }
        Ok(())
    }

    /// Takes the commands of a frame that counts into state and roles.
    pub(crate) fn count(&mut self, frame: SharedFrame, actions: Vec<Action>) {
        let header = *frame.header();
        self.clock.observe(header.lamport);
        self.counters.accepted(header.count);
        for (action, nonce) in actions.into_iter().zip(header.first_nonce..) {
            self.index_action(&header, nonce, action);
        }
        self.arrived.push_back(Settling::Frame(frame));
    }

    fn index_action(&mut self, header: &Header, nonce: u64, action: Action) {
        if header.schema != self.schema.hash() {
            return;
        }
        let order = header.order(nonce);
        match action {
            Action::Put { key, value } => {
                if self.own_author() == Some(header.author) {
                    self.own_history.put(nonce);
                }
                if let Some(conflict) = self.index_put(order, key, value) {
                    self.counters.conflict(conflict);
                }
            }
            Action::SetRole {
                target,
                role,
                covered,
            } => self.roles.push(order, target, role, covered),
            Action::Undo { target } => self.index_reversal(order, target, true),
            Action::Redo { target } => self.index_reversal(order, target, false),
            Action::Unknown { .. } => {}
        }
    }

    fn index_reversal(&mut self, order: Order, target: u64, undoes: bool) {
        self.undos.push(order, target, undoes);
        if self.own_author() == Some(order.author) {
            self.own_history.reversed(target, undoes);
        }
    }

    /// Gives a put to the state if it counts, and says by which strategy it met a conflict there.
    pub(crate) fn index_put(&mut self, order: Order, key: Key, value: Bytes) -> Option<Strategy> {
        let strategy = self.schema.strategy(key.key_type)?;
        if !strategy.accepts(&value) || !self.roles.permits_put(&order) {
            return None;
        }
        let conflict = self.state.push(key, order, value, strategy);
        conflict.then_some(strategy)
    }

    /// Whether a command of the log counts.
    pub(crate) fn counts(&self, header: &Header, nonce: u64, action: &Action) -> bool {
        let usable = match action {
            Action::Put { key, value } => self
                .schema
                .strategy(key.key_type)
                .is_some_and(|strategy| strategy.accepts(value)),
            Action::SetRole { .. } => true,
            Action::Undo { target } | Action::Redo { target } => {
                *target < nonce && self.put_at(header.author, *target).is_some()
            }
            Action::Unknown { .. } => false,
        };
        usable
            && header.schema == self.schema.hash()
            && self.roles.at(header.author, nonce, header.lamport) >= action.needs()
    }
}

impl Observe for CommandLog {
    #[allow(clippy::cast_precision_loss)] // gauges are for people
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        self.counters.observe(visitor);
        let waiting: usize = self.chains.iter().map(|chain| chain.waiting.len()).sum();
        visitor.gauge("log_waiting_frames", &[], waiting as f64);
        visitor.gauge("log_authors", &[], self.chains.len() as f64);
        visitor.gauge("log_lamport", &[], self.clock.highest() as f64);
    }
}

fn head(chain: &Chain) -> Option<Head> {
    let Tip {
        nonce, id, lamport, ..
    } = chain.tip;
    (nonce > 0).then_some(Head {
        author: chain.author(),
        nonce,
        id,
        lamport,
    })
}
