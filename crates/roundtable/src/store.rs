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
    done: mpsc::Receiver<Result<u64, IdentityError>>,
    /// Records queued so far, and how many of them are on disk.
    queued: u64,
    synced: u64,
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
            queued: 0,
            synced: 0,
            task,
        }
    }

    /// Queues a record. `false` when the disk is hopelessly behind or has failed.
    #[must_use]
    pub(crate) fn append(&mut self, kind: Record, content: Bytes) -> bool {
        let queued = self.jobs.try_send((kind, content)).is_ok();
        self.queued += u64::from(queued);
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
                self.synced += count;
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
    /// Each with the number of records that must be on disk before it is sent.
    held: VecDeque<(u64, LinkId, Frame)>,
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
        let Some(store) = &self.store else {
            return Some(frame);
        };
        if store.synced < store.queued || !self.held.is_empty() {
            self.held.push_back((store.queued, link, frame));
            return None;
        }
        Some(frame)
    }

    /// Whether records are on their way to the disk.
    pub(crate) fn is_pending(&self) -> bool {
        !self.failed && self.store.as_ref().is_some_and(|s| s.synced < s.queued)
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
        let synced = self.store.as_ref().map_or(0, |store| store.synced);
        let ready = self.held.partition_point(|(needed, ..)| *needed <= synced);
        let rest = self.held.split_off(ready);
        let released = std::mem::replace(&mut self.held, rest);
        released.into_iter().map(|(_, link, frame)| (link, frame))
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
    report: mpsc::Sender<Result<u64, IdentityError>>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, 256).await > 0 {
        let records = std::mem::take(&mut batch);
        let count = records.len() as u64;
        let written = tokio::task::spawn_blocking(move || {
            let result = log.append(&records);
            (log, result)
        });
        let Ok((returned, result)) = written.await else {
            let _ = report.send(Err(IdentityError::StoreFailed)).await;
            return;
        };
        log = returned;
        let failed = result.is_err();
        if report.send(result.map(|()| count)).await.is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn command(byte: u8) -> Frame {
        Frame::binary(Channel::Command, vec![byte])
    }

    #[tokio::test]
    async fn a_frame_waits_for_the_records_before_it_and_for_none_after() {
        let path = std::env::temp_dir().join(format!("roundtable-store-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let identity = Identity::open(&path).unwrap();
        let (log, _) = identity.room_log(&"r".parse().unwrap()).unwrap().unwrap();
        let mut durable = Durable::new(Some(Store::start(log)), None);
        let link = LinkId(1);
        assert!(
            durable.hold(link, command(0)).is_some(),
            "nothing to wait for"
        );

        durable.append(Record::Frame, vec![1].into());
        assert!(durable.hold(link, command(1)).is_none());
        let message = Frame::text(Channel::App, "not held");
        assert!(durable.hold(link, message).is_some());
        let mut sent = Vec::new();
        // Somebody goes on writing: there is always a record under way.
        for byte in 2..10 {
            durable.append(Record::Frame, vec![byte].into());
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
        std::fs::remove_dir_all(path).unwrap();
    }
}
