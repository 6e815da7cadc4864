//! A server as one of several: how it finds the others, and who is told what comes from them.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use roundtable_core::RoomId;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval_at, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    access::{Access, SharedRoom},
    bus::{Answer, Bus, BusEvent, Notice},
    clock,
    room_task::Input,
    rooms::Rooms,
};

/// How often the rooms that nobody here is in are looked after.
const SWEEP: Duration = Duration::from_secs(60);

/// Rooms that are looked after at once.
const SWEEP_BATCH: usize = 64;

/// Rooms in one notice.
const NOTICE_ROOMS: usize = 200;

/// Pause between two batches.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// Notices of rooms that wait to be learned; when more come, the other servers are asked for all rooms
/// once these are done.
const LEARNING_QUEUE: usize = 64;

/// What is wrong with a [`NatsConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NatsConfigError {
    /// Not an address of a NATS server.
    #[error("NATS servers are given as nats://HOST:PORT or tls://HOST:PORT, at least one")]
    Address,
    /// Subjects and the bucket begin with it.
    #[error("the cluster's name has 1 to 32 characters of A-Z, a-z, 0-9, _ and -")]
    Cluster,
    /// No URL that a client could be sent to.
    #[error("a server's public URL is like wss://one.example.org, of at most 256 characters")]
    PublicUrl,
}

/// Whether others may be told of this URL: nothing in it can be taken for anything but a URL.
pub(crate) fn is_public_url(url: &str) -> bool {
    let rest = url.strip_prefix("wss://").or(url.strip_prefix("ws://"));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:/[]".contains(c);
    rest.is_some_and(|rest| !rest.is_empty() && url.len() <= 256 && rest.chars().all(is_plain))
}

/// The NATS that joins several servers to one: peers on any of them meet in the same rooms. Needs
/// JetStream, and NATS 2.9 or later.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    pub(crate) addresses: Vec<async_nats::ServerAddr>,
    pub(crate) cluster: String,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) public_url: Option<String>,
}

impl NatsConfig {
    /// The NATS servers, as `nats://HOST:PORT` or `tls://HOST:PORT`; a user's name and password may
    /// stand before the host.
    ///
    /// # Errors
    /// [`NatsConfigError::Address`]
    pub fn new<S: AsRef<str>>(
        addresses: impl IntoIterator<Item = S>,
    ) -> Result<Self, NatsConfigError> {
        let parse = |address: S| {
            let parsed = address.as_ref().parse::<async_nats::ServerAddr>();
            parsed.map_err(|_| NatsConfigError::Address)
        };
        let addresses: Vec<_> = addresses.into_iter().map(parse).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(NatsConfigError::Address);
        }
        Ok(Self {
            addresses,
            cluster: "roundtable".to_owned(),
            credentials: None,
            public_url: None,
        })
    }

    /// Which cluster to join, where one NATS serves several. Default `roundtable`.
    ///
    /// # Errors
    /// [`NatsConfigError::Cluster`]
    pub fn with_cluster(mut self, cluster: &str) -> Result<Self, NatsConfigError> {
        let is_name = RoomId::new(cluster).is_ok() && cluster.len() <= 32;
        if !is_name {
            return Err(NatsConfigError::Cluster);
        }
        self.cluster = cluster.to_owned();
        Ok(self)
    }

    /// Under which URL clients reach this server, `wss://…` or `ws://…`: the others name it to theirs, above all when
    /// they stop. Default: none, and clients know the servers that they were told of.
    ///
    /// # Errors
    /// [`NatsConfigError::PublicUrl`]
    pub fn with_public_url(mut self, url: &str) -> Result<Self, NatsConfigError> {
        if !is_public_url(url) {
            return Err(NatsConfigError::PublicUrl);
        }
        self.public_url = Some(url.to_owned());
        Ok(self)
    }

    /// A NATS credentials file. Default: none.
    #[must_use]
    pub fn with_credentials(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials = Some(path.into());
        self
    }
}

/// Hands on to the rooms what comes from other servers, and looks after the rooms that nobody is in.
pub(crate) async fn run(
    mut events: mpsc::Receiver<BusEvent>,
    rooms: Arc<Rooms>,
    bus: Arc<dyn Bus>,
    access: Option<Arc<Access>>,
) {
    let mut news = access.as_ref().map(|access| access.news());
    let pupil = access.as_ref().map(|access| Pupil::start(access, &bus));
    let mut sweeps = interval_at(clock::deadline(SWEEP), SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweeping = JoinSet::new();
    loop {
        while sweeping.try_join_next().is_some() {}
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    let is_gone = matches!(event, BusEvent::Gone);
                    let event = match (&access, &pupil) {
                        (Some(access), Some(pupil)) => on_rooms(event, access, pupil, &bus).await,
                        _ => Some(event),
                    };
                    if let Some(event) = event {
                        on_event(event, &rooms).await;
                    }
                    if is_gone {
                        sweep(&mut sweeping, &rooms, &bus);
                    }
                }
                None => return,
            },
            changed = next(&mut news) => match changed {
                Some(room) => bus.tell_all(Notice::Rooms(vec![room])).await,
                // Some were missed.
                None => if let Some(access) = &access {
                    tell_rooms(access, &bus).await;
                },
            },
            _ = sweeps.tick() => sweep(&mut sweeping, &rooms, &bus),
        }
    }
}

/// The next room that has changed here; `None` if some were missed.
async fn next(news: &mut Option<broadcast::Receiver<SharedRoom>>) -> Option<SharedRoom> {
    match news {
        Some(news) => news.recv().await.ok(),
        None => std::future::pending().await,
    }
}

/// Does what an event means for who may be where; gives back what means something to the rooms.
async fn on_rooms(
    event: BusEvent,
    access: &Access,
    pupil: &Pupil,
    bus: &Arc<dyn Bus>,
) -> Option<BusEvent> {
    match event {
        BusEvent::Noticed(Notice::Rooms(rooms)) => {
            pupil.learn(rooms);
            None
        }
        BusEvent::Noticed(Notice::WhichRooms) => {
            tell_rooms(access, bus).await;
            None
        }
        BusEvent::Reset => {
            bus.tell_all(Notice::WhichRooms).await;
            tell_rooms(access, bus).await;
            Some(BusEvent::Reset)
        }
        other => Some(other),
    }
}

/// Takes note of the rooms that other servers tell of. It writes files, and nothing else waits for it.
struct Pupil {
    lessons: mpsc::Sender<Vec<SharedRoom>>,
    has_missed: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Pupil {
    fn start(access: &Arc<Access>, bus: &Arc<dyn Bus>) -> Self {
        let (lessons, mut queue) = mpsc::channel::<Vec<SharedRoom>>(LEARNING_QUEUE);
        let has_missed = Arc::new(AtomicBool::new(false));
        let (access, bus, missed) = (Arc::clone(access), Arc::clone(bus), Arc::clone(&has_missed));
        let task = tokio::spawn(async move {
            while let Some(rooms) = queue.recv().await {
                let access = Arc::clone(&access);
                let learning = tokio::task::spawn_blocking(move || {
                    for room in rooms {
                        if let Err(error) = access.learn(clock::wall(), room) {
                            tracing::error!(%error, "a room of another server is not known here");
                        }
                    }
                });
                // It fails only when the server stops.
                let _ = learning.await;
                if queue.is_empty() && missed.swap(false, Ordering::Relaxed) {
                    bus.tell_all(Notice::WhichRooms).await;
                }
            }
        });
        Self {
            lessons,
            has_missed,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn learn(&self, rooms: Vec<SharedRoom>) {
        if self.lessons.try_send(rooms).is_err() {
            self.has_missed.store(true, Ordering::Relaxed);
        }
    }
}

/// Tells all others of every room.
async fn tell_rooms(access: &Access, bus: &Arc<dyn Bus>) {
    for rooms in access.shared_rooms().chunks(NOTICE_ROOMS) {
        bus.tell_all(Notice::Rooms(rooms.to_vec())).await;
    }
}

async fn on_event(event: BusEvent, rooms: &Rooms) {
    match event {
        BusEvent::Changed { room, revision } => {
            if let Some(room) = rooms.find(&room) {
                // A room that has ended has nobody to tell.
                let _ = room.send(Input::Changed(revision)).await;
            }
        }
        BusEvent::Asked {
            room,
            letter,
            answer,
        } => match rooms.find(&room) {
            Some(room) => {
                // A room that has ended does not answer.
                let _ = room.send(Input::Asked { letter, answer }).await;
            }
            None => {
                // Whoever asked may have given up.
                let _ = answer.send(Answer::Elsewhere);
            }
        },
        // An open server has nothing of the kind.
        BusEvent::Noticed(_) => {}
        BusEvent::Reset => {
            for room in rooms.all() {
                // A room that has ended needs nothing.
                let _ = room.send(Input::Reload).await;
            }
        }
        BusEvent::Gone => {
            for room in rooms.all() {
                // A room that has ended needs nothing.
                let _ = room.send(Input::Look(room.clone())).await;
            }
        }
    }
}

/// Has every room looked at that has a record, if that falls to this server: peers of servers that
/// are gone leave also where nobody is left to notice.
fn sweep(sweeping: &mut JoinSet<()>, rooms: &Arc<Rooms>, bus: &Arc<dyn Bus>) {
    if !bus.leads() || !sweeping.is_empty() {
        return;
    }
    let (rooms, bus) = (Arc::clone(rooms), Arc::clone(bus));
    sweeping.spawn(async move {
        let Ok(names) = bus.rooms().await else {
            return;
        };
        for batch in names.chunks(SWEEP_BATCH) {
            for name in batch {
                let room = rooms.get(name);
                // It was alive a moment ago.
                let _ = room.send(Input::Look(room.clone())).await;
            }
            sleep(SWEEP_PAUSE).await;
        }
    });
}
