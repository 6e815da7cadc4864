//! Puts own frames on disk before they are sent, many at a time, away from the room's task.

use bytes::Bytes;
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

    /// Whether everything queued is on disk.
    pub(crate) fn is_synced(&self) -> bool {
        self.pending == 0
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
