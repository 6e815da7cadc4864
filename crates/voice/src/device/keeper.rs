//! The thread that keeps one device open: opens it, notices its loss, waits, and opens it or another again.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use cpal::{Device, ErrorKind, HostId, Stream};

use super::{
    AudioDevices, DeviceError, DeviceInfo, DeviceState, Direction,
    orders::{Inbox, Orders, orders},
    ring::Health,
    system::{Found, Shape},
};

/// How long the sound system may take to find or to start a device.
const START: Duration = Duration::from_secs(5);
/// How often an open device is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks between two at what other devices there are: 2 s.
const LOOKS_AROUND: u32 = 20;
/// Looks in a row at which a device that runs has not moved, after which it counts as lost: 3 s.
const STALLED_LOOKS: u32 = 30;
/// Looks after which a device that runs counts as well: 2 s.
const WELL: u32 = 20;
/// The first pause before a missing device is looked for again; each next one is twice as long, until one is well.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Questions that the sound system has not answered: beyond these none is asked.
const MAX_STUCK: usize = 3;
/// Devices whose closing the sound system has never answered: beyond these none is opened. It takes as many losses, each
/// by the fault of the sound system.
const MAX_CLOSING: usize = 32;
/// News that may wait; where they find no room, the thread waits.
const QUEUE: usize = 8;

/// Opens a device; what it gives is used by the other side.
pub(super) type Opener<E> = fn(&Device, Shape, &Arc<Health>) -> Result<(Stream, E), DeviceError>;

/// What the thread tells.
enum News<E> {
    /// A device runs, and this is our end of it.
    Opened(E, Arc<Health>, DeviceState),
    /// None runs.
    Closed(DeviceState),
}

/// The other side's handle. Dropping it closes the device.
pub(super) struct Keeper<E> {
    orders: Orders,
    news: Receiver<News<E>>,
    state: DeviceState,
    /// Whether the state was not asked for since it changed.
    changed: bool,
    open: Option<(E, Arc<Health>)>,
    /// Frames that earlier devices missed.
    missed: u64,
}

impl<E: Send + 'static> Keeper<E> {
    pub(super) fn start(
        direction: Direction,
        wanted: Option<String>,
        shape: Shape,
        open: Opener<E>,
    ) -> Self {
        let (orders, inbox) = orders(wanted.clone());
        let (outbox, news) = sync_channel(QUEUE);
        let work = Work {
            direction,
            wanted,
            shape,
            opener: open,
            outbox,
            told: DeviceState::Opening,
            devices: None,
            host: None,
            stuck: Vec::new(),
            closing: Vec::new(),
        };
        let thread = thread::Builder::new().name(format!("audio {}", direction.name()));
        let failed = thread.spawn(move || work.run(&inbox)).is_err();
        let state = match failed {
            true => DeviceState::Missing(DeviceError::System(ErrorKind::ResourceExhausted)),
            false => DeviceState::Opening,
        };
        Self {
            orders,
            news,
            state,
            changed: failed,
            open: None,
            missed: 0,
        }
    }

    pub(super) fn choose(&self, wanted: Option<String>) {
        self.orders.give(wanted);
    }

    /// Our end of the device that runs, if one does.
    pub(super) fn end(&mut self) -> Option<(&mut E, &Health)> {
        self.heed();
        self.open.as_mut().map(|(end, health)| (end, &**health))
    }

    pub(super) fn state(&mut self) -> &DeviceState {
        self.heed();
        &self.state
    }

    pub(super) fn take_change(&mut self) -> Option<DeviceState> {
        self.heed();
        std::mem::take(&mut self.changed).then(|| self.state.clone())
    }

    pub(super) fn missed(&self) -> u64 {
        let now = self.open.as_ref().map_or(0, |(_, health)| health.missed());
        self.missed.wrapping_add(now)
    }

    fn heed(&mut self) {
        loop {
            let (open, state) = match self.news.try_recv() {
                Ok(News::Opened(end, health, state)) => (Some((end, health)), state),
                Ok(News::Closed(state)) => (None, state),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            };
            self.missed = self.missed();
            self.open = open;
            self.state = state;
            self.changed = true;
        }
    }
}

/// The thread's side.
struct Work<E> {
    direction: Direction,
    wanted: Option<String>,
    shape: Shape,
    opener: Opener<E>,
    outbox: SyncSender<News<E>>,
    told: DeviceState,
    devices: Option<AudioDevices>,
    /// The sound system that a device was first opened of. Another one is not taken for it while it is away: it may
    /// hold the very devices that this one wants back.
    host: Option<HostId>,
    /// Questions that were not answered in time.
    stuck: Vec<thread::JoinHandle<()>>,
    /// Devices that are being closed.
    closing: Vec<thread::JoinHandle<()>>,
}

/// The device that runs.
struct Open {
    _stream: Stream,
    health: Arc<Health>,
    info: DeviceInfo,
    stands_in: bool,
    calls: u32,
    /// Looks in a row at which it had not moved.
    still: u32,
    /// Looks since the last one around.
    looks: u32,
    /// Looks in all.
    age: u32,
}

/// How long to rest before a device is looked for again.
struct Pause(Duration);

impl Pause {
    /// A device was found to run, so many looks after it was opened. One that soon fails again is no better than none.
    fn runs(&mut self, looks: u32) {
        if looks >= WELL {
            self.0 = FIRST_PAUSE;
        }
    }

    /// There is none, or none any more.
    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (2 * now).min(LONGEST_PAUSE);
        now
    }
}

/// The other side is gone.
struct Over;

impl<E: Send + 'static> Work<E> {
    fn run(mut self, inbox: &Inbox) {
        let mut open = None;
        let mut pause = Pause(FIRST_PAUSE);
        while let Ok(wait) = self.step(&mut open, &mut pause) {
            match inbox.wait(wait) {
                Ok(()) => {
                    self.wanted = inbox.wanted();
                    pause = Pause(FIRST_PAUSE);
                    if let Some(open) = &mut open {
                        open.looks = LOOKS_AROUND;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Last the stream, so that the connection to the sound system ends with it.
        self.devices = None;
        self.close(open);
    }

    /// Looks after the device, or for one. Returns how long to rest.
    fn step(&mut self, open: &mut Option<Open>, pause: &mut Pause) -> Result<Duration, Over> {
        if let Some(running) = open {
            let Some(state) = self.look(running) else {
                pause.runs(running.age);
                return Ok(LOOK);
            };
            self.close(open.take());
            // Another one is there already where this one is not lost.
            let is_lost = matches!(state, DeviceState::Missing(_));
            self.closed(state)?;
            return Ok(if is_lost {
                pause.next()
            } else {
                Duration::ZERO
            });
        }
        match self.find_and_open() {
            Ok((running, end)) => {
                self.told = DeviceState::Open {
                    device: running.info.clone(),
                    stands_in: running.stands_in,
                };
                let news = News::Opened(end, running.health.clone(), self.told.clone());
                self.outbox.send(news).map_err(|_| Over)?;
                *open = Some(running);
                Ok(LOOK)
            }
            Err(error) => {
                if matches!(error, DeviceError::NoHost | DeviceError::Gone) {
                    // One that is started later is met anew.
                    self.devices = None;
                }
                self.closed(DeviceState::Missing(error))?;
                Ok(pause.next())
            }
        }
    }

    /// Whether the device still runs and, now and then, whether it is still the right one. If not, what to tell.
    fn look(&mut self, open: &mut Open) -> Option<DeviceState> {
        let calls = open.health.calls();
        let moved = calls != open.calls;
        open.still = if moved { 0 } else { open.still + 1 };
        open.calls = calls;
        open.looks += 1;
        open.age = open.age.saturating_add(1);
        if open.health.is_lost() {
            return Some(DeviceState::Missing(DeviceError::Gone));
        }
        if open.still > STALLED_LOOKS {
            return Some(DeviceState::Missing(DeviceError::Stalled));
        }
        // While this one stands still the sound system may, too, and it is soon told whether it is lost.
        if open.looks <= LOOKS_AROUND || !moved {
            return None;
        }
        open.looks = 0;
        // While nothing is found, what works is kept.
        let found = self.find().ok()?;
        let same = found.info.id == open.info.id && found.stands_in == open.stands_in;
        (!same).then_some(DeviceState::Opening)
    }

    fn find(&mut self) -> Result<Found, DeviceError> {
        let (known, host) = (self.devices.take(), self.host);
        let (direction, wanted) = (self.direction, self.wanted.clone());
        let (devices, found) = self.ask("find", move || {
            let devices = match known {
                Some(devices) => devices,
                None => AudioDevices::of(host)?,
            };
            let found = devices.find(direction, wanted.as_deref());
            Ok((devices, found))
        })?;
        self.devices = Some(devices);
        found
    }

    fn find_and_open(&mut self) -> Result<(Open, E), DeviceError> {
        let Found {
            device,
            info,
            stands_in,
        } = self.find()?;
        let health = Arc::new(Health::default());
        let (stream, end) = self.open(device, &health)?;
        self.host = self.devices.as_ref().map(AudioDevices::host);
        let open = Open {
            _stream: stream,
            calls: health.calls(),
            health,
            info,
            stands_in,
            still: 0,
            looks: 0,
            age: 0,
        };
        Ok((open, end))
    }

    fn open(&mut self, device: Device, health: &Arc<Health>) -> Result<(Stream, E), DeviceError> {
        self.closing.retain(|thread| !thread.is_finished());
        if self.closing.len() >= MAX_CLOSING {
            return Err(DeviceError::Stalled);
        }
        let (opener, shape, health) = (self.opener, self.shape, health.clone());
        self.ask("open", move || opener(&device, shape, &health))
    }

    /// Asks something of the sound system on a thread of its own, as some never answer.
    fn ask<T: Send + 'static>(
        &mut self,
        what: &str,
        question: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        self.stuck.retain(|thread| !thread.is_finished());
        if self.stuck.len() >= MAX_STUCK {
            return Err(DeviceError::Stalled);
        }
        let (answer, answered) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("{what} {}", self.direction.name()))
            .spawn(move || {
                let _ = answer.send(question());
            })
            .map_err(|_| DeviceError::System(ErrorKind::ResourceExhausted))?;
        answered.recv_timeout(START).unwrap_or_else(|_| {
            self.stuck.push(thread);
            Err(DeviceError::Stalled)
        })
    }

    /// Closes a device on a thread of its own: PulseAudio's never returns where it was the sound system that ended the
    /// stream (docs/upstream/cpal-pulseaudio-drop.md).
    fn close(&mut self, open: Option<Open>) {
        let name = format!("close {}", self.direction.name());
        // Where no thread is to be had, it is closed here.
        let thread = thread::Builder::new().name(name).spawn(move || drop(open));
        self.closing.extend(thread.ok());
    }

    fn closed(&mut self, state: DeviceState) -> Result<(), Over> {
        if state == self.told {
            return Ok(());
        }
        self.told = state.clone();
        self.outbox.send(News::Closed(state)).map_err(|_| Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_opens_and_soon_fails_is_opened_ever_more_seldom() {
        let mut pause = Pause(FIRST_PAUSE);
        let rests: Vec<_> = (0..8)
            .map(|_| {
                (1..WELL).for_each(|looks| pause.runs(looks));
                pause.next().as_millis()
            })
            .collect();
        assert_eq!(rests, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        pause.runs(WELL);
        assert_eq!(pause.next(), FIRST_PAUSE, "it was well for two seconds");
    }
}
