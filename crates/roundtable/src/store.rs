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
mod tests {
    #![allow(clippy::unwrap_used)] // in helpers of tests, too

    use roundtable_command_log::{
        Action, Covered, GenesisParams, Key, Role, Schema, Snapshot, Strategy, Unrestored,
    };
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use roundtable_core::{Channel, RoomId, WallTime};
    use roundtable_log_store::{Contents, Culprit, MemoryStore, Store};
    use roundtable_session::{GenesisSource, Now, SessionConfig};

    use super::*;
    use crate::Identity;

    const NOW: Now = Now {
        mono: Timestamp::ZERO,
        wall: WallTime::from_millis(1_700_000_000_000),
    };

    fn schema() -> Schema {
        let schema = Schema::builder(1, 0).key_type(0, "note", Strategy::LastWriteWins);
        schema.build().unwrap()
    }

    fn genesis(identity: &Identity) -> Genesis {
        let params = GenesisParams::new([1; 32], NOW.wall, schema().hash());
        Genesis::create(params, identity.key()).unwrap()
    }

    /// One in which anyone may write.
    fn open_genesis(identity: &Identity) -> Genesis {
        let mut params = GenesisParams::new([3; 32], NOW.wall, schema().hash());
        params.default_role = Role::Editor;
        Genesis::create(params, identity.key()).unwrap()
    }

    fn log(genesis: &Genesis, identity: &Identity) -> CommandLog {
        CommandLog::new(genesis.clone(), schema(), Some(identity.key().clone())).unwrap()
    }

    fn note(log: &mut CommandLog) -> SharedFrame {
        let action = Action::put(Key::new(0, "note"), "text");
        log.append(NOW.wall, &[action]).unwrap()
    }

    fn durable(identity: &Identity) -> Durable {
        let room = "r".parse().unwrap();
        let (log, _) = identity.room(&room).unwrap();
        let source = GenesisSource::Known(genesis(identity));
        let peer = "alice".parse().unwrap();
        let config = SessionConfig::new(
            peer,
            room,
            identity.key().clone(),
            schema(),
            source,
            [7; 32],
        );
        let session = Session::new(config, NOW).unwrap();
        let mut durable = Durable::new(log, &session, Noted::default(), Vec::new());
        durable.genesis = None; // nothing of it is in the store yet
        durable.genesis(&self::log(&genesis(identity), identity));
        durable
    }

    fn command(byte: u8) -> Frame {
        Frame::binary(Channel::Command, vec![byte])
    }

    #[tokio::test]
    async fn a_frame_waits_for_the_own_records_before_it_and_for_none_after() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::open(directory.path()).unwrap();
        let mut durable = durable(&identity);
        while durable.is_pending() {
            let result = durable.next().await;
            durable.synced(result).for_each(drop);
        }
        let link = LinkId(1);
        assert!(
            durable.hold(link, command(0)).is_some(),
            "nothing to wait for"
        );

        let mut log = log(&genesis(&identity), &identity);
        durable.own_frame(&note(&mut log), Some(&log));
        assert!(durable.hold(link, command(1)).is_none());
        let message = Frame::text(Channel::App, "not held");
        assert!(durable.hold(link, message).is_some());
        let mut sent = Vec::new();
        // Somebody goes on writing: there is always a record under way.
        for byte in 2..10 {
            durable.own_frame(&note(&mut log), Some(&log));
            assert!(durable.hold(link, command(byte)).is_none());
            let result = durable.next().await;
            sent.extend(durable.synced(result).map(|(_, frame)| frame));
            assert!(!sent.is_empty(), "held back though its record is on disk");
        }
        while durable.is_pending() {
            let result = durable.next().await;
            sent.extend(durable.synced(result).map(|(_, frame)| frame));
        }
        assert_eq!(sent, (1..10).map(command).collect::<Vec<_>>());
        durable.close().await;
    }

    #[tokio::test]
    async fn what_others_wrote_is_kept_and_holds_nothing_back() {
        let directory = tempfile::tempdir().unwrap();
        let alice = Identity::open(directory.path()).unwrap();
        let bob = Identity::ephemeral().unwrap();
        let mut durable = durable(&alice);
        while durable.is_pending() {
            let result = durable.next().await;
            durable.synced(result).for_each(drop);
        }
        let mut log = log(&genesis(&alice), &alice);
        let grant = log.role_command(bob.author(), Role::Editor);
        let grant = log.append(NOW.wall, &[grant]).unwrap();
        let mut bobs = self::log(&genesis(&alice), &bob);
        bobs.receive(NOW.wall, grant.bytes().clone()).unwrap();
        bobs.settle(NOW.wall);
        let frames = [note(&mut bobs), note(&mut bobs)];
        for frame in &frames {
            log.receive(NOW.wall, frame.bytes().clone()).unwrap();
            assert!(durable.keep(NOW.mono, Some(&log)));
            assert!(durable.hold(LinkId(1), command(1)).is_some());
        }
        while durable.is_pending() {
            let result = durable.next().await;
            durable.synced(result).for_each(drop);
        }
        durable.close().await;
        let (_, stored) = alice.room(&"r".parse().unwrap()).unwrap();
        let stored = stored.frames[&bob.author()].iter();
        assert!(stored.eq(frames.iter().map(|frame| frame.bytes())));
    }

    /// Bob's log is written by two copies of him, and alice names a branch that is shorter than the
    /// one that was kept.
    #[test]
    fn a_shorter_branch_than_the_one_before_is_kept_too() {
        let (alice, bob) = (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        );
        let (genesis, mut durable) = (genesis(&alice), durable(&alice));
        let mut log = log(&genesis, &alice);
        let write = |log: &mut CommandLog, action| log.append(NOW.wall, &[action]).unwrap();
        let give = |log: &mut CommandLog, frames: &[SharedFrame]| {
            for frame in frames {
                log.receive(NOW.wall, frame.bytes().clone()).unwrap();
            }
            log.settle(NOW.wall);
        };
        let grant = log.role_command(bob.author(), Role::Editor);
        let grant = write(&mut log, grant);
        durable.own_frame(&grant, Some(&log));
        let [long, short] = [("long", 3), ("short", 2)].map(|(text, count)| {
            let mut copy = self::log(&genesis, &bob);
            give(&mut copy, std::slice::from_ref(&grant));
            let note = || Action::put(Key::new(0, "note"), text);
            let frames: Vec<_> = (0..count).map(|_| write(&mut copy, note())).collect();
            frames
        });
        give(&mut log, &long);
        assert!(durable.keep(NOW.mono, Some(&log)));

        let covered = Covered {
            nonce: 2,
            id: short[1].id(),
        };
        let names = Action::SetRole {
            target: bob.author(),
            role: Role::Editor,
            covered,
        };
        durable.own_frame(&write(&mut log, names), Some(&log));
        give(&mut log, &short[..1]);
        give(&mut log, &short[1..]);
        assert_eq!(log.head(bob.author()).unwrap().id, short[1].id());
        assert!(durable.keep(NOW.mono, Some(&log)));

        let stored = alice.store().load(&"r".parse().unwrap()).unwrap();
        let mut again = self::log(&genesis, &alice);
        again.restore(NOW.wall, stored.into_frames());
        again.settle(NOW.wall);
        assert_eq!(again.heads(), log.heads());
        assert_eq!(again.state_hash(), log.state_hash());
    }

    /// Bob forks his log wherever he can. The log keeps some of the proofs, and the store no more than those.
    #[test]
    fn what_the_log_lets_go_of_goes_from_the_store() {
        let (alice, bob) = (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        );
        let (genesis, mut durable) = (genesis(&alice), durable(&alice));
        let mut log = log(&genesis, &alice);
        let grant = log.role_command(bob.author(), Role::Editor);
        let grant = log.append(NOW.wall, &[grant]).unwrap();
        durable.own_frame(&grant, Some(&log));
        let copy = |frames: &[SharedFrame]| {
            let mut copy = self::log(&genesis, &bob);
            let all = [std::slice::from_ref(&grant), frames].concat();
            copy.restore(NOW.wall, all.iter().map(|frame| frame.bytes().clone()));
            copy
        };
        let mut author = copy(&[]);
        let (mut frames, mut rivals) = (Vec::new(), Vec::new());
        let later = WallTime::from_millis(NOW.wall.as_millis() + 60_000);
        for _ in 0..24 {
            let large = Action::put(Key::new(0, "note"), vec![0; 60 * 1024]);
            rivals.push(copy(&frames).append(later, &[large]).unwrap());
            frames.push(note(&mut author));
        }
        for frame in frames.iter().chain(rivals.iter().rev()) {
            log.receive(NOW.wall, frame.bytes().clone()).unwrap();
            log.settle(NOW.wall);
            assert!(durable.keep(NOW.mono, Some(&log)));
        }
        let kept = log.kept().count();
        assert!(kept < 48, "not all is kept");
        let stored = alice.store().load(&"r".parse().unwrap()).unwrap();
        assert_eq!(stored.frame_count(), kept);
    }

    /// Keys cost nothing, and 1,025 of them have written something. The log keeps those 1,024 that are lowest.
    #[test]
    fn of_whom_the_log_has_no_room_for_any_more_nothing_stays_in_the_store() {
        let alice = Identity::ephemeral().unwrap();
        let (genesis, mut durable) = (open_genesis(&alice), durable(&alice));
        let mut log = log(&genesis, &alice);
        durable.genesis(&log);
        let mut strangers: Vec<_> = (0..1025).map(|_| Identity::ephemeral().unwrap()).collect();
        strangers.sort_by_key(Identity::author);
        let highest = strangers[1024].author();
        let room = "r".parse().unwrap();
        let stored = || alice.store().load(&room).unwrap().frames;
        for stranger in strangers.iter().rev() {
            let frame = note(&mut self::log(&genesis, stranger));
            log.receive(NOW.wall, frame.bytes().clone()).unwrap();
            if stranger.author() == strangers[1].author() {
                assert!(durable.keep(NOW.mono, Some(&log)));
                assert!(stored().contains_key(&highest));
            }
        }
        log.settle(NOW.wall);
        assert!(durable.keep(NOW.mono, Some(&log)));
        let stored = stored();
        assert_eq!(stored.len(), 1024);
        assert!(!stored.contains_key(&highest));
    }

    /// A store that loses all that comes after so many commits, as in a crash.
    #[derive(Debug)]
    struct Crashing {
        store: Arc<MemoryStore>,
        left: AtomicUsize,
    }

    impl Store for Crashing {
        fn rooms(&self) -> Result<Vec<RoomId>, StoreError> {
            self.store.rooms()
        }

        fn load(&self, room: &RoomId) -> Result<Contents, StoreError> {
            self.store.load(room)
        }

        fn commit(&self, room: &RoomId, records: &[Record]) -> Result<(), StoreError> {
            let one_less = |left: usize| left.checked_sub(1);
            match self.left.fetch_update(Relaxed, Relaxed, one_less) {
                Ok(_) => self.store.commit(room, records),
                Err(_) => Ok(()),
            }
        }

        fn blocks(&self) -> bool {
            false
        }
    }

    /// Alice gives up a genesis in whose log she has signed, and returns to it. Her machine dies at any point.
    #[test]
    fn a_genesis_to_which_we_return_is_never_stored_without_what_we_signed_there() {
        let key = Identity::ephemeral().unwrap().key().clone();
        let room: RoomId = "r".parse().unwrap();
        for left in 0..6 {
            let store = Arc::new(MemoryStore::default());
            let crashing = Crashing {
                store: Arc::clone(&store),
                left: left.into(),
            };
            let alice = Identity::with_store(key.clone(), crashing);
            let mut durable = durable(&alice);
            let mut first = log(&genesis(&alice), &alice);
            for _ in 0..2 {
                durable.own_frame(&note(&mut first), Some(&first));
            }
            let params = GenesisParams::new([2; 32], NOW.wall, schema().hash());
            let other = Genesis::create(params, alice.key()).unwrap();
            durable.genesis(&log(&other, &alice));
            durable.genesis(&first);
            for frame in first.frames() {
                durable.own_frame(&frame, Some(&first));
            }
            let stored = store.load(&room).unwrap();
            let returned = left > 4;
            assert_eq!(stored.superseded.len(), usize::from(left > 3));
            if returned {
                assert_eq!(stored.genesis.as_ref(), Some(first.genesis()));
                assert_eq!(stored.frame_count(), 2, "after {left} commits");
            }
        }
    }

    /// Bob's log forks, and mallory is refused. When alice is there again she still knows.
    #[test]
    fn what_was_noted_is_kept_refusals_no_more_often_than_every_ten_seconds() {
        let (alice, bob) = (
            Identity::ephemeral().unwrap(),
            Identity::ephemeral().unwrap(),
        );
        let (genesis, mut durable) = (open_genesis(&alice), durable(&alice));
        let mut log = log(&genesis, &alice);
        durable.genesis(&log);
        let later = WallTime::from_millis(NOW.wall.as_millis() + 1);
        for wall in [NOW.wall, later] {
            let action = Action::put(Key::new(0, "note"), "text");
            let frame = self::log(&genesis, &bob).append(wall, &[action]).unwrap();
            log.receive(NOW.wall, frame.bytes().clone()).unwrap();
        }
        durable.forked(&log.forks()[0]);
        let refusal = Refusal {
            at: NOW.wall,
            culprit: Culprit::Sender(bob.author()),
            code: 6,
            claims: None,
        };
        let stored = || alice.store().load(&"r".parse().unwrap()).unwrap();
        let at = |secs| NOW.mono + Duration::from_secs(secs);
        for (now, counted) in [(0, 1), (1, 1), (9, 1), (10, 4), (11, 4)] {
            durable.refused(refusal);
            durable.keep(at(now), None);
            let stored = stored().refusals();
            let count = stored.tallies().map(|(.., tally)| tally.count);
            assert_eq!(count.sum::<u64>(), counted, "after {now} s");
        }
        durable.hasten();
        durable.keep(at(11), None);
        assert_eq!(stored().refusals().last().count(), 5);
        assert_eq!(stored().equivocations().iter().count(), 1);
    }

    /// Alice starts from an old backup, and peers bring her a checkpoint far above it and what she has written since.
    /// Then her machine dies.
    #[test]
    fn an_own_frame_is_never_stored_without_the_checkpoint_that_it_follows() {
        let alice = Identity::ephemeral().unwrap();
        let (genesis, mut durable) = (genesis(&alice), durable(&alice));
        let mut log = log(&genesis, &alice);
        let mut before = self::log(&genesis, &alice);
        for _ in 0..3 {
            let frame = note(&mut log);
            durable.own_frame(&frame, Some(&log));
            before.restore(NOW.wall, [frame.bytes().clone()]);
        }
        // What she had done since the backup was made, and her peers know.
        before.settle(NOW.wall);
        note(&mut before);
        before.settle(NOW.wall);
        let proposal = before.checkpoint_command(before.lamport()).unwrap();
        let mut next = Some(proposal);
        while let Some(action) = next {
            before.append(NOW.wall, &[action]).unwrap();
            before.settle(NOW.wall);
            next = before.due(NOW.wall);
        }
        let snapshot = before.snapshot(0).unwrap();
        assert!(log.install(NOW.wall, &snapshot).unwrap());
        for frame in before.kept() {
            log.receive(NOW.wall, frame.bytes().clone()).unwrap();
        }
        log.settle(NOW.wall);
        for frame in before.frames_after(alice.author(), 0, usize::MAX) {
            durable.own_frame(&frame, Some(&log));
        }

        let stored = alice.store().load(&"r".parse().unwrap()).unwrap();
        let mut again = self::log(&genesis, &alice);
        let kept = Snapshot::decode(stored.snapshot.clone().unwrap()).unwrap();
        again.install(NOW.wall, &kept).unwrap();
        let own = stored.frames[&alice.author()].clone();
        again.restore(NOW.wall, stored.into_frames());
        assert_eq!(again.unrestored(own), Unrestored::default());
        assert_eq!(again.heads(), log.heads());
    }
}
