//! The rooms by name: each is owned by one task, which lives while somebody is in it or on the way
//! in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use roundtable_core::RoomId;
use roundtable_signaling_protocol::RoomLimits;
use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    budget::Budget,
    bus::Bus,
    metrics::Metrics,
    room_task::{Input, QUEUE, Task},
};

/// All rooms by name.
#[derive(Debug)]
pub(crate) struct Rooms {
    limits: RoomLimits,
    metrics: Arc<Metrics>,
    bus: Arc<dyn Bus>,
    budget: Arc<Budget>,
    life: Life,
    tasks: TaskTracker,
    /// Held for a look-up, never across an await.
    by_name: Arc<Mutex<ByName>>,
}

/// The stages of a server's end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Clients are asked to go elsewhere.
    pub(crate) drain: CancellationToken,
    /// Connections are closed.
    pub(crate) stop: CancellationToken,
    /// Rooms end.
    pub(crate) end: CancellationToken,
}

impl Life {
    /// Ends everything when it is dropped.
    pub(crate) fn guard(&self) -> [DropGuard; 3] {
        [&self.drain, &self.stop, &self.end].map(|stage| stage.clone().drop_guard())
    }
}

/// A room's task ends when no strong sender is left.
type ByName = HashMap<RoomId, mpsc::WeakSender<Input>>;

impl Rooms {
    pub(crate) fn new(
        limits: RoomLimits,
        metrics: Arc<Metrics>,
        bus: Arc<dyn Bus>,
        budget: Arc<Budget>,
        life: Life,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            limits,
            metrics,
            bus,
            budget,
            life,
            tasks,
            by_name: Arc::default(),
        }
    }

    fn by_name(&self) -> MutexGuard<'_, ByName> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way into a room, which is made if it does not exist.
    pub(crate) fn get(&self, id: &RoomId) -> mpsc::Sender<Input> {
        let mut by_name = self.by_name();
        if let Some(sender) = by_name.get(id).and_then(mpsc::WeakSender::upgrade) {
            return sender;
        }
        let (sender, inputs) = mpsc::channel(QUEUE);
        by_name.insert(id.clone(), sender.downgrade());
        let task = Task::new(
            id.clone(),
            self.limits.clone(),
            Arc::clone(&self.bus),
            Arc::clone(&self.metrics),
            Arc::clone(&self.budget),
            self.life.drain.clone(),
        );
        let (id, by_name) = (id.clone(), Arc::clone(&self.by_name));
        let end = self.life.end.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task.run(inputs) => {}
                () = end.cancelled() => {}
            }
            // Under the same name another room may have begun meanwhile.
            let mut by_name = by_name.lock().unwrap_or_else(PoisonError::into_inner);
            if by_name
                .get(&id)
                .is_some_and(|sender| sender.strong_count() == 0)
            {
                by_name.remove(&id);
            }
        });
        sender
    }

    /// The way into a room that exists.
    pub(crate) fn find(&self, id: &RoomId) -> Option<mpsc::Sender<Input>> {
        self.by_name().get(id)?.upgrade()
    }

    /// The ways into all rooms.
    pub(crate) fn all(&self) -> Vec<mpsc::Sender<Input>> {
        let by_name = self.by_name();
        by_name
            .values()
            .filter_map(mpsc::WeakSender::upgrade)
            .collect()
    }
}
