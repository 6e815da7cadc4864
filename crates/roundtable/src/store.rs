//! Puts the room's log into the identity's store, many frames at a time, away from the room's
//! task: own frames before they are sent, those of others within a second.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use roundtable_command_log::{CommandLog, ForkProof, FrameId, Genesis, GenesisHash, SharedFrame};
use roundtable_core::{AuthorId, Frame, Timestamp};
use roundtable_log_store::{Record, Refusal, RoomLog, StoreError};
use roundtable_session::{LinkId, Session, carries_commands};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::noted::Noted;

/// Groups of records that may wait for the disk.
const QUEUE: usize = 4096;
/// Most groups that one commit takes.
const MAX_TOGETHER: usize = 1024;
/// How often what others wrote is put into the store: as much as a crash may lose of it.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How soon again, while there is more than one turn takes.
const KEEP_ON: Duration = Duration::from_millis(20);
/// Most bytes of others' frames that one turn hands over.
const KEEP_BYTES: usize = 4 << 20;

/// Records that are on disk together or not at all.
type Group = Vec<Record>;

/// The writing end of a room's log: inline where that costs nothing, else a task of its own.
#[derive(Debug)]
enum Writer {
    Inline(RoomLog),
    Task {
        jobs: mpsc::Sender<Group>,
        done: mpsc::Receiver<Result<u64, StoreError>>,
        task: JoinHandle<()>,
    },
}

/// Keeps the promise that an own frame is on disk before it is sent: command frames that the
/// session wants sent wait here, in order, while own records are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Durable {
    writer: Writer,
    genesis: Option<GenesisHash>,
    /// Groups of records handed over so far, how many of them are on disk, and how many must be before
    /// anything is sent.
    queued: u64,
    synced: u64,
    required: u64,
    /// Each with the number of groups that must be on disk before it is sent.
    held: VecDeque<(u64, LinkId, Frame)>,
    failed: bool,
    /// The last frame of each other author that was handed over.
    kept: HashMap<AuthorId, (u64, FrameId)>,
    /// Of the frames that the log keeps without counting them, those that were handed over: their authors and first
    /// nonces.
    aside: HashMap<FrameId, (AuthorId, u64)>,
    next_keep: Timestamp,
    /// How many checkpoints were handed over.
    checkpoints: u64,
    /// Up to which nonce own frames lie below the last of them.
    own_pruned: u64,
    noted: Noted,
}

impl Durable {
    /// Goes on after what `session` was restored with, and what was noted. Of the authors of whom anything is stored those
    /// for whom the log has no room any more are let go.
    pub(crate) fn new(
        log: RoomLog,
        session: &Session,
        noted: Noted,
        mut authors: Vec<AuthorId>,
    ) -> Self {
        authors.retain(|author| session.log().is_some_and(|log| !log.has_room_for(*author)));
        let outside = authors
            .into_iter()
            .map(|author| (author, (0, FrameId::NONE)));
        let heads = session.log().map(CommandLog::heads).unwrap_or_default();
        let kept = heads
            .iter()
            .map(|head| (head.author, (head.nonce, head.id)));
        let aside = session.log().into_iter().flat_map(CommandLog::set_aside);
        let checkpoint = session.log().and_then(CommandLog::checkpoint);
        Self {
            writer: Writer::start(log),
            genesis: session.genesis().map(Genesis::hash),
            queued: 0,
            synced: 0,
            required: 0,
            held: VecDeque::new(),
            failed: false,
            kept: outside.chain(kept).collect(),
            aside: aside.map(|frame| (frame.id(), place(&frame))).collect(),
            next_keep: Timestamp::ZERO,
            checkpoints: checkpoint.map_or(0, |stable| stable.number),
            own_pruned: session.log().map_or(0, own_pruned),
            noted,
        }
    }

    /// The log that frames belong to from now on. What it has already, because it was given up and taken up again, is in
    /// the store as soon as its genesis is: a crash between the two would leave an author that does not know what it has signed.
    pub(crate) fn genesis(&mut self, log: &CommandLog) {
        let genesis = log.genesis_hash();
        if self.genesis == Some(genesis) {
            return;
        }
        self.genesis = Some(genesis);
        self.kept.clear();
        self.aside.clear();
        (self.checkpoints, self.own_pruned) = (0, 0);
        self.noted = Noted::default();
        let begun = Record::Genesis {
            genesis: log.genesis().clone().into(),
            schema: log.schema().clone(),
        };
        let frames = log.kept().map(|frame| Record::Frame { genesis, frame });
        let group = std::iter::once(begun).chain(frames).collect();
        self.require(group);
    }

    /// Hands over an own frame of a log, and before it the checkpoint that it follows: in a store that has neither
    /// that nor the frames below, it would follow nothing.
    pub(crate) fn own_frame(&mut self, frame: &SharedFrame, log: Option<&CommandLog>) {
        if let Some(genesis) = self.genesis {
            let pruned = log.filter(|log| own_pruned(log) > self.own_pruned);
            if let Some(log) = pruned.filter(|log| log.genesis().hash() == genesis) {
                self.failed |= !self.append_checkpoint(genesis, log);
            }
            let frame = frame.clone();
            self.require(vec![Record::Frame { genesis, frame }]);
        }
    }

    /// Hands over records without which nothing may be sent.
    fn require(&mut self, group: Group) {
        self.failed |= !self.append_group(group);
        self.required = self.queued;
    }

    /// `false` when the disk is hopelessly behind or has failed.
    fn append(&mut self, record: Record) -> bool {
        self.append_group(vec![record])
    }

    fn append_group(&mut self, group: Group) -> bool {
        let taken = match &self.writer {
            Writer::Inline(log) => log.commit(&group).is_ok(),
            Writer::Task { jobs, .. } => jobs.try_send(group).is_ok(),
        };
        self.queued += u64::from(taken);
        if matches!(self.writer, Writer::Inline(_)) {
            self.synced = self.queued;
        }
        taken
    }

    /// When [`keep`](Self::keep) is due.
    pub(crate) fn next_keep(&self) -> Timestamp {
        self.next_keep
    }

    /// Hands over what others have written since the last time, as far as one turn goes; says
    /// whether that was all. What the queue has no room for is handed over the next time.
    pub(crate) fn keep(&mut self, now: Timestamp, log: Option<&CommandLog>) -> bool {
        let done = log.is_none_or(|log| self.keep_some(log)) && self.keep_noted(now);
        self.next_keep = now + if done { KEEP_INTERVAL } else { KEEP_ON };
        done
    }

    fn keep_some(&mut self, log: &CommandLog) -> bool {
        let Some(genesis) = self.genesis.filter(|_| !self.failed) else {
            return true;
        };
        if !self.keep_checkpoint(genesis, log) {
            return false;
        }
        if !self.let_go(genesis, log) {
            return false;
        }
        let mut left = KEEP_BYTES;
        for head in log.heads() {
            let (nonce, id) = self.kept_of(head.author);
            if (nonce, id) == (head.nonce, head.id) || log.own_author() == Some(head.author) {
                continue;
            }
            // If the log has another frame there now, or none, it may be another branch: keep that, too.
            let there = log
                .frames_after(head.author, nonce.saturating_sub(1), 0)
                .next();
            let goes_on = nonce == 0 || there.is_some_and(|frame| frame.id() == id);
            let after = if goes_on { nonce } else { 0 };
            for frame in log.frames_after(head.author, after, usize::MAX) {
                let len = frame.bytes().len();
                let record = Record::Frame {
                    genesis,
                    frame: frame.clone(),
                };
                if len > left || !self.has_room() || !self.append(record) {
                    return false;
                }
                left -= len;
                let last = (frame.header().last_nonce(), frame.id());
                self.kept.insert(head.author, last);
            }
        }
        self.keep_aside(genesis, log)
    }

    /// Authors of whom the log has let go, because there are too many without a role, go from the store, too.
    fn let_go(&mut self, genesis: GenesisHash, log: &CommandLog) -> bool {
        let gone = self.kept.keys().filter(|author| !log.knows(**author));
        let gone: Vec<_> = gone.copied().collect();
        for author in gone {
            let record = Record::LetGoAuthor { genesis, author };
            if !self.has_room() || !self.append(record) {
                return false;
            }
            self.kept.remove(&author);
        }
        true
    }

    /// What is left of what lies below a checkpoint that has become stable, in place of the frames.
    fn keep_checkpoint(&mut self, genesis: GenesisHash, log: &CommandLog) -> bool {
        let number = log.checkpoint().map_or(0, |stable| stable.number);
        number <= self.checkpoints || (self.has_room() && self.append_checkpoint(genesis, log))
    }

    /// `false` when the checkpoint could not be handed over.
    fn append_checkpoint(&mut self, genesis: GenesisHash, log: &CommandLog) -> bool {
        let new = log.checkpoint_contents();
        let Some(new) = new.filter(|new| new.number > self.checkpoints) else {
            return true;
        };
        let Some(snapshot) = log.snapshot(0) else {
            return true;
        };
        let authors = new.authors.iter();
        let record = Record::Checkpoint {
            genesis,
            snapshot: snapshot.encode(),
            through: authors.map(|at| (at.author, at.head.nonce)).collect(),
        };
        let taken = self.append(record);
        if taken {
            (self.checkpoints, self.own_pruned) = (new.number, own_pruned(log));
        }
        taken
    }

    /// The proofs of forks and what lies beyond them: little, and of use to whoever joins. What the log has let go of
    /// that goes from the store, too, so that it holds no more than the log does.
    fn keep_aside(&mut self, genesis: GenesisHash, log: &CommandLog) -> bool {
        let mut current = HashSet::new();
        for frame in log.set_aside() {
            current.insert(frame.id());
            if !self.aside.contains_key(&frame.id()) {
                let (id, place) = (frame.id(), place(&frame));
                if !self.has_room() || !self.append(Record::Frame { genesis, frame }) {
                    return false;
                }
                self.aside.insert(id, place);
            }
        }
        let gone: Vec<_> = self
            .aside
            .iter()
            .filter(|(id, _)| !current.contains(id))
            .map(|(id, place)| (*id, *place))
            .collect();
        for (id, (author, first_nonce)) in gone {
            let there = log.header_with(author, first_nonce);
            let counts = there.is_some_and(|(_, counted)| counted == id);
            let record = Record::LetGo {
                genesis,
                author,
                first_nonce,
                id,
            };
            let keep = counts || log.own_author() == Some(author);
            if !keep && (!self.has_room() || !self.append(record)) {
                return false;
            }
            self.aside.remove(&id);
        }
        true
    }

    /// Notes who has signed twice for one place.
    pub(crate) fn forked(&mut self, proof: &ForkProof) {
        self.noted.forked(proof);
    }

    /// Notes what was refused.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.noted.refused(refusal);
    }

    /// Lets all that was noted be handed over the next time.
    pub(crate) fn hasten(&mut self) {
        self.noted.hasten();
    }

    fn keep_noted(&mut self, now: Timestamp) -> bool {
        let Some(genesis) = self.genesis.filter(|_| !self.failed) else {
            return true;
        };
        let mut noted = std::mem::take(&mut self.noted);
        let done = noted.keep(now, genesis, |record| {
            self.has_room() && self.append(record)
        });
        self.noted = noted;
        done
    }

    fn kept_of(&self, author: AuthorId) -> (u64, FrameId) {
        let kept = self.kept.get(&author).copied();
        kept.unwrap_or((0, FrameId::NONE))
    }

    /// Whether there is room for what others wrote: half the queue is for own frames.
    fn has_room(&self) -> bool {
        match &self.writer {
            Writer::Inline(_) => true,
            Writer::Task { jobs, .. } => jobs.capacity() > QUEUE / 2,
        }
    }

    /// Gives the frame back if it may be sent at once. What waits is bounded: own frames by the
    /// store's queue, others by what peers may have asked for.
    #[must_use]
    pub(crate) fn hold(&mut self, link: LinkId, frame: Frame) -> Option<Frame> {
        if !carries_commands(&frame) {
            return Some(frame);
        }
        // After a failure some frame is not on disk, and others may build on it: none is sent.
        if self.failed {
            return None;
        }
        if self.synced < self.required || !self.held.is_empty() {
            self.held.push_back((self.required, link, frame));
            return None;
        }
        Some(frame)
    }

    /// Whether records are on their way to the disk.
    pub(crate) fn is_pending(&self) -> bool {
        !self.failed && self.synced < self.queued
    }

    /// Whether own commands can no longer be stored, so that none may be signed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Waits for the next group of records to reach the disk. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<u64, StoreError> {
        if let Writer::Task { done, .. } = &mut self.writer
            && let Some(result) = done.recv().await
        {
            return result;
        }
        // Nothing is ever on its way, or the task has reported its failure and ended.
        std::future::pending().await
    }

    /// The frames that may be sent, now that this has come from [`next`](Self::next).
    pub(crate) fn synced(
        &mut self,
        result: Result<u64, StoreError>,
    ) -> impl Iterator<Item = (LinkId, Frame)> + use<> {
        match result {
            Ok(count) => self.synced += count,
            Err(error) => {
                tracing::error!(%error, "own commands can no longer be stored");
                self.failed = true;
            }
        }
        if self.failed {
            self.held.clear();
        }
        let synced = self.synced;
        let ready = self.held.partition_point(|(needed, ..)| *needed <= synced);
        let rest = self.held.split_off(ready);
        let released = std::mem::replace(&mut self.held, rest);
        released.into_iter().map(|(_, link, frame)| (link, frame))
    }

    /// Lets go of the room's log, and of the identity's lock with it.
    pub(crate) async fn close(self) {
        if let Writer::Task { jobs, done, task } = self.writer {
            drop((jobs, done));
            let _ = task.await;
        }
    }
}

/// Up to which nonce own frames lie below the last stable checkpoint.
fn own_pruned(log: &CommandLog) -> u64 {
    log.own_author().map_or(0, |own| log.pruned_through(own))
}

/// A frame's author and first nonce.
fn place(frame: &SharedFrame) -> (AuthorId, u64) {
    (frame.author(), frame.header().first_nonce)
}

impl Writer {
    fn start(log: RoomLog) -> Self {
        if !log.blocks() {
            return Self::Inline(log);
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (report, done) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(log, queue, report));
        Self::Task { jobs, done, task }
    }
}

/// Group commit: whatever waits shares one transaction and one sync.
async fn run(
    mut log: RoomLog,
    mut queue: mpsc::Receiver<Group>,
    report: mpsc::Sender<Result<u64, StoreError>>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_TOGETHER).await > 0 {
        let count = batch.len() as u64;
        let records: Vec<_> = batch.drain(..).flatten().collect();
        let written = tokio::task::spawn_blocking(move || {
            let result = log.commit(&records);
            (log, result)
        });
        let Ok((returned, result)) = written.await else {
            let _ = report.send(Err(StoreError::Panicked)).await;
            return;
        };
        log = returned;
        let failed = result.is_err();
        if report.send(result.map(|()| count)).await.is_err() || failed {
            return;
        }
    }
}

#[cfg(all(test, feature = "store"))]
mod tests;
