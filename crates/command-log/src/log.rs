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
    Action, AppendError, CheckpointName, Covered, FrameError, FrameId, FrameReader, Genesis,
    GenesisHash, Head, Header, Key, MERGE_VERSION, NonceRange, OpenError, Order, PublicKey,
    ReadError, Received, Role, Schema, SharedFrame, SignedFrame, Stable, StateHash,
    UnverifiedFrame,
    backlog::Foreseen,
    certificate::Line,
    chain::{Chain, Judged, Tip},
    clock::LamportClock,
    crowd::Crowd,
    fork::ForkProof,
    metrics::{Counters, bump},
    outline::{self, Outline},
    path::BodyPlace,
    prune::{Behind, Values},
    rate::Shortfall,
    roles::Roles,
    state::{Op, State},
    testimony::Testimony,
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
    /// A checkpoint has become stable: nothing changes any more below it, and what lay there is
    /// gone from the log. Values that this log had not known come as changed keys, not as commands.
    CheckpointStable(Stable),
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
    pub(crate) crowd: Crowd,
    pub(crate) clock: LamportClock,
    /// The stable checkpoints, what was said of the next one, and one that is stable while this log
    /// lacks something below it.
    pub(crate) line: Line,
    pub(crate) testimony: Testimony,
    pub(crate) behind: Option<Behind>,
    /// The values at the proposal that was found true last, for when it becomes stable.
    pub(crate) drafted: Option<(CheckpointName, Values)>,
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
        let mut log = Self::empty(genesis, schema);
        if let Some(key) = key {
            let author = AuthorId::from_bytes(key.verifying_key().to_bytes());
            let chain = Chain::new(author, &log.genesis)?;
            log.own = Some((key, log.insert(chain)));
        }
        Ok(log)
    }

    /// A log without frames, only to read.
    pub(crate) fn empty(genesis: Genesis, schema: Schema) -> Self {
        Self {
            line: Line::new(&genesis),
            testimony: Testimony::default(),
            behind: None,
            drafted: None,
            roles: Roles::new(&genesis),
            genesis,
            schema,
            own: None,
            chains: Vec::new(),
            index: HashMap::new(),
            crowd: Crowd::default(),
            clock: LamportClock::default(),
            state: State::default(),
            undos: Undos::default(),
            own_history: OwnHistory::default(),
            encoder: Encoder::default(),
            arrived: VecDeque::new(),
            settled: VecDeque::new(),
            applied: VecDeque::new(),
            counters: Counters::default(),
        }
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
        self.check_due(wall, actions)?;
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
        let lamport = self.next_lamport(wall);
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
        let price = actions.iter().map(Action::cost).sum();
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
        let payloads = self.encoder.payloads(actions.iter().map(Action::as_wire));
        let commands = actions.iter().zip(payloads);
        let commands = commands.map(|(action, at)| Outline::encoded(action, at));
        let commands = commands.collect();
        self.commit(own, Arc::clone(&frame), Judged { tip, commands });
        bump(&mut self.counters.appended);
        Ok(frame)
    }

    /// Judges a frame in full form from anyone. Any bytes are safe.
    ///
    /// # Errors
    /// [`FrameError`]; the frame is then as if never signed. Most errors say something of who passed the frame on and nothing
    /// of the author it names. Only [`FrameError::Rule`] is the author's: its signature has been verified.
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
            Ok(Received::Duplicate | Received::Pruned) => bump(&mut self.counters.duplicates),
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
        self.call_awaited();
        self.thin();
        self.advance(wall);
        self.settle_undos();
        self.state.settle(&self.schema, &self.chains);
        self.settled.extend(std::mem::take(&mut self.arrived));
        self.counters.settled(wall);
    }

    /// The next thing that has settled. Each command that counts comes once, an author's commands in
    /// order; after [`Update::Retracted`] they go on from there. What is not polled is kept, as a
    /// frame in full form beside the log's own.
    pub fn poll_update(&mut self) -> Option<Update> {
        if self.applied.is_empty() {
            let frame = match self.settled.pop_front() {
                Some(Settling::Frame(frame)) => frame,
                Some(Settling::Update(update)) => return Some(*update),
                None => {
                    // A backlog's worth of empty places is not kept.
                    self.settled = VecDeque::new();
                    return None;
                }
            };
            self.applied = self.applied_by(&frame);
        }
        self.applied.pop_front().map(Update::Applied)
    }

    /// What the commands of a frame did.
    pub(crate) fn applied_by(&self, frame: &SignedFrame) -> VecDeque<Applied> {
        let header = frame.header();
        let numbered = frame.actions().into_iter().zip(header.first_nonce..);
        let applied = numbered.map(|(action, nonce)| Applied {
            author: header.author,
            nonce,
            lamport: header.lamport,
            counted: self.counts(header, nonce, &action),
            action,
        });
        applied.collect()
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
    ) -> impl Iterator<Item = SharedFrame> {
        let chain = self.chain(author).into_iter();
        let records = chain.flat_map(move |chain| chain.records_after(nonce));
        let frames = records.map(|record| record.frame());
        frames.scan(0_usize, move |sent, frame| {
            let first = *sent == 0;
            *sent += frame.bytes().len();
            (first || *sent <= limit_bytes).then_some(frame)
        })
    }

    /// All frames that count: each author's in order, authors in the order they came. The log keeps
    /// them in a shorter form; each is made when its turn comes.
    pub fn frames(&self) -> impl Iterator<Item = SharedFrame> {
        let records = self.chains.iter().flat_map(|chain| chain.records_after(0));
        records.map(|record| record.frame())
    }

    /// How many frames count.
    pub fn frame_count(&self) -> usize {
        self.chains.iter().map(|chain| chain.trunk).sum()
    }

    /// The header and the id of the frame that holds a command and counts.
    pub fn header_with(&self, author: AuthorId, nonce: u64) -> Option<(Header, FrameId)> {
        let record = self.chain(author)?.record_with(nonce)?;
        Some((record.header, record.id))
    }

    /// All frames that the log holds: besides those that count, the proofs of forks and what lies
    /// beyond them. From these, in any order, another log comes to where this one is.
    pub fn kept(&self) -> impl Iterator<Item = SharedFrame> {
        self.frames().chain(self.set_aside())
    }

    /// How many frames [`kept`](Self::kept) has.
    pub fn kept_count(&self) -> usize {
        self.frame_count() + self.set_aside().count()
    }

    /// What [`kept`](Self::kept) has beside the frames that count.
    pub fn set_aside(&self) -> impl Iterator<Item = SharedFrame> {
        self.chains.iter().flat_map(Chain::set_aside)
    }

    /// What this log lacks of what another one has.
    pub fn wants(&self, theirs: &[Head]) -> Vec<NonceRange> {
        let want = |head: &Head| match self.chain(head.author) {
            _ if !self.has_room_for(head.author) => None,
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
            // Below the root there are no frames to offer.
            let root = self.chain(head.author)?.path.root().nonce;
            (head.nonce > after && after >= root).then_some(NonceRange {
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

    /// The Lamport time that the next own frame would have.
    pub(crate) fn next_lamport(&self, wall: WallTime) -> u64 {
        let wall_ms = self
            .own
            .as_ref()
            .map_or(0, |(_, own)| self.chains[*own].tip.wall_ms);
        let wall_ms = wall.as_millis().max(wall_ms);
        let elapsed_ms = self.genesis.elapsed_ms(wall_ms).unwrap_or_default();
        self.clock.next(elapsed_ms)
    }

    /// Whether the log holds anything of an author, or waits for it.
    pub fn knows(&self, author: AuthorId) -> bool {
        self.index.contains_key(&author)
    }

    /// How many authors' commands the log holds or waits for.
    pub fn authors(&self) -> usize {
        self.index.len()
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
            Action::SetRole { target, .. } => {
                PublicKey::new(*target)?;
            }
            Action::Undo { target } | Action::Redo { target } => {
                let undoes = matches!(action, Action::Undo { .. });
                if !self.may_reverse(*target, undoes) {
                    return Err(AppendError::NothingToReverse(*target));
                }
            }
            _ => {}
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

    /// Takes the commands of a frame that counts, whose body is at a place of its author's path, into
    /// state and roles.
    pub(crate) fn count(
        &mut self,
        index: usize,
        frame: SharedFrame,
        at: BodyPlace,
        commands: Vec<Outline>,
    ) {
        let header = frame.header();
        self.clock.observe(header.lamport);
        self.counters.accepted(header.count);
        if commands.iter().any(Outline::is_about_checkpoints) {
            self.hear(&frame);
        }
        if self.may_matter(header) {
            let own = self.own.as_ref().is_some_and(|(_, own)| *own == index);
            for (command, nonce) in commands.into_iter().zip(header.first_nonce..) {
                if own {
                    self.own_history.take(nonce, &command);
                }
                self.index_command(index, &frame, at, header.order(nonce), command);
            }
        }
        self.arrived.push_back(Settling::Frame(frame));
    }

    /// Whether a frame's commands may count, as far as can be told without looking at them: it speaks
    /// the room's schema, and does not come to light only after a cut above it has become stable.
    pub(crate) fn may_matter(&self, header: &Header) -> bool {
        header.schema == self.schema.hash() && header.lamport > self.line.last().cut
    }

    pub(crate) fn index_command(
        &mut self,
        index: usize,
        frame: &SignedFrame,
        at: BodyPlace,
        order: Order,
        command: Outline,
    ) {
        match command {
            Outline::Put {
                key_type,
                key,
                value,
            } => {
                let body = frame.body_bytes();
                let strategy = self.schema.strategy(key_type);
                let strategy = strategy.filter(|s| s.accepts(outline::at(body, &value)));
                if let Some(strategy) = strategy
                    && self.roles.permits_put(&order)
                {
                    let key = (key_type, outline::at(body, &key));
                    let op = Op::new(narrow(index), &order, at.within(&value));
                    if self.state.push(key, op, strategy, &self.chains) {
                        self.counters.conflict(strategy);
                    }
                }
            }
            Outline::Reverse { target, undoes } => self.undos.push(order, target, undoes),
            Outline::Other(action) => self.index_other(order, *action),
        }
    }

    /// What is said of checkpoints is weighed apart.
    fn index_other(&mut self, order: Order, action: Action) {
        if let Action::SetRole {
            target,
            role,
            covered,
        } = action
        {
            self.roles.push(order, target, role, covered);
        }
    }

    /// How many signatures have been verified; wraps.
    pub const fn verified(&self) -> u64 {
        self.counters.verified
    }

    /// Tells how long it took to verify so many signatures: a log has no clock to measure with. Shown among the
    /// metrics, as the share of each.
    pub fn tell_verified(&mut self, signatures: u64, took: Duration) {
        self.counters.took(signatures, took);
    }

    /// Whether a command of the log counts.
    pub(crate) fn counts(&self, header: &Header, nonce: u64, action: &Action) -> bool {
        let usable = match action {
            Action::Put { key, value } => self
                .schema
                .strategy(key.key_type)
                .is_some_and(|strategy| strategy.accepts(value)),
            Action::SetRole { target, .. } => self.roles.counts(&header.order(nonce), *target),
            Action::Propose { .. }
            | Action::Acknowledge(_)
            | Action::Withdraw(_)
            | Action::Commit(_)
            | Action::Retire { .. } => true,
            Action::Undo { target } | Action::Redo { target } => {
                *target < nonce && self.is_put(header.author, *target)
            }
            Action::Unknown { .. } => false,
        };
        usable
            && self.may_matter(header)
            && self.roles.at(header.author, nonce, header.lamport) >= action.needs()
    }
}

impl Observe for CommandLog {
    #[allow(clippy::cast_precision_loss)] // gauges are for people
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        self.counters.observe(visitor);
        let waiting: usize = self.chains.iter().map(|chain| chain.waiting.len()).sum();
        visitor.gauge("log_waiting_frames", &[], waiting as f64);
        let queues = [("arrived", &self.arrived), ("settled", &self.settled)];
        for (queue, queued) in queues {
            let queued = queued.len() as f64;
            visitor.gauge("log_queued_frames", &[("queue", queue)], queued);
        }
        visitor.gauge("log_authors", &[], self.index.len() as f64);
        visitor.gauge("log_lamport", &[], self.clock.highest() as f64);
        let last = self.line.last();
        visitor.gauge("log_checkpoints", &[], last.number as f64);
        visitor.gauge("log_stable_cut", &[], last.cut as f64);
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

/// The index of a chain: no log has 2^31 authors.
pub(crate) fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or_default()
}
