//! Puts own frames on disk before they are sent, many at a time, away from the room's task.

use std::collections::VecDeque;

use bytes::Bytes;
use roundtable_command_log::{Genesis, GenesisHash, SignedFrame};
use roundtable_core::{Channel, Frame};
use roundtable_session::LinkId;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::identity::{IdentityError, Record, RoomLog};

/// Records that may wait for the disk.
const QUEUE: usize = 4096;

/// The writing end of a room's log.
#[derive(Debug)]
pub(crate) struct Store {
    jobs: mpsc::Sender<(Record, Bytes)>,
    done: mpsc::Receiver<Result<usize, IdentityError>>,
    pending: usize,
    task: JoinHandle<()>,
}

impl Store {
    pub(crate) fn start(log: RoomLog) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (report, done) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(log, queue, report));
        Self {
            jobs,
            done,
            pending: 0,
            task,
        }
    }

    /// Queues a record. `false` when the disk is hopelessly behind or has failed.
    #[must_use]
    pub(crate) fn append(&mut self, kind: Record, content: Bytes) -> bool {
        let queued = self.jobs.try_send((kind, content)).is_ok();
        self.pending += usize::from(queued);
        queued
    }

    /// Lets go of the file, and of the identity's lock with it.
    pub(crate) async fn close(self) {
        let Self {
            jobs, done, task, ..
        } = self;
        drop((jobs, done));
        let _ = task.await;
    }

    /// Waits for the next group of records to reach the disk. Cancel safe.
    pub(crate) async fn synced(&mut self) -> Result<(), IdentityError> {
        match self.done.recv().await {
            Some(Ok(count)) => {
                self.pending = self.pending.saturating_sub(count);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            // The task ends only after it has reported a failure.
            None => std::future::pending().await,
        }
    }
}

/// Keeps the promise that an own frame is on disk before it is sent: command frames that the
/// session wants sent wait here, in order, while records are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Durable {
    /// `None` for an author without a directory.
    store: Option<Store>,
    stored_genesis: Option<GenesisHash>,
    held: VecDeque<(LinkId, Frame)>,
    failed: bool,
}

impl Durable {
    /// `stored_genesis` is what the log began with.
    pub(crate) fn new(store: Option<Store>, stored_genesis: Option<GenesisHash>) -> Self {
        Self {
            store,
            stored_genesis,
            held: VecDeque::new(),
            failed: false,
        }
    }

    /// The genesis that frames belong to from now on.
    pub(crate) fn genesis(&mut self, genesis: &Genesis) {
        if self.stored_genesis != Some(genesis.hash()) {
            self.stored_genesis = Some(genesis.hash());
            self.append(Record::Genesis, genesis.encode().into());
        }
    }

    pub(crate) fn own_frame(&mut self, frame: &SignedFrame) {
        self.append(Record::Frame, frame.bytes().clone());
    }

    fn append(&mut self, kind: Record, content: Bytes) {
        if let Some(store) = &mut self.store {
            self.failed |= !store.append(kind, content);
        }
    }

    /// Gives the frame back if it may be sent at once. What waits is bounded: own frames by the
    /// store's queue, others by what peers may have asked for.
    #[must_use]
    pub(crate) fn hold(&mut self, link: LinkId, frame: Frame) -> Option<Frame> {
        if frame.channel != Channel::Command {
            return Some(frame);
        }
        // After a failure some frame is not on disk, and others may build on it: none is sent.
        if self.failed {
            return None;
        }
        if self.is_pending() || !self.held.is_empty() {
            self.held.push_back((link, frame));
            return None;
        }
        Some(frame)
    }

    /// Whether records are on their way to the disk.
    pub(crate) fn is_pending(&self) -> bool {
        !self.failed && self.store.as_ref().is_some_and(|store| store.pending > 0)
    }

    /// Whether own commands can no longer be stored, so that none may be signed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Waits for the next group of records to reach the disk; for ever without a store. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<(), IdentityError> {
        match &mut self.store {
            Some(store) => store.synced().await,
            None => std::future::pending().await,
        }
    }

    /// The frames that may be sent, now that this has come from [`next`](Self::next).
    pub(crate) fn synced(
        &mut self,
        result: Result<(), IdentityError>,
    ) -> impl Iterator<Item = (LinkId, Frame)> + use<> {
        if let Err(error) = result {
            tracing::error!(%error, "own commands can no longer be stored");
            self.failed = true;
        }
        if self.failed {
            self.held.clear();
        }
        let released = match self.is_pending() {
            true => VecDeque::new(),
            false => std::mem::take(&mut self.held),
        };
        released.into_iter()
    }

    /// Lets go of the file, and of the identity's lock with it.
    pub(crate) async fn close(self) {
        if let Some(store) = self.store {
            store.close().await;
        }
    }
}

async fn run(
    mut log: RoomLog,
    mut queue: mpsc::Receiver<(Record, Bytes)>,
    report: mpsc::Sender<Result<usize, IdentityError>>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, 256).await > 0 {
        let records = std::mem::take(&mut batch);
        let count = records.len();
        let written = tokio::task::spawn_blocking(move || {
            let result = log.append(&records);
            (log, result)
        });
        let Ok((returned, result)) = written.await else {
            return;
        };
        log = returned;
        let failed = result.is_err();
        if report.send(result.map(|()| count)).await.is_err() || failed {
            return;
        }
    }
}
