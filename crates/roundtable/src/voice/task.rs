//! The task that owns a room's voice: every few milliseconds it captures, sends, receives, mixes and plays.

use std::{collections::HashMap, sync::Arc, time::Duration};

use roundtable_core::{Bitrate, Clock, Frame, MediaClock, MediaPacket, PeerId, Timestamp};
use roundtable_transport::SystemClock;
#[cfg(feature = "device")]
use roundtable_voice::Direction;
use roundtable_voice::{
    FloodGuard, Listener, Position, VoiceConfigError, VoiceDiagnostics, VoiceSenderConfig,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Voice, VoiceError, VoiceHandle,
    desk::Desk,
    listeners::{Listeners, RoomVolumes},
    recorder::Recordings,
};
use crate::Event;

/// How often the call is looked at: what listeners report, what the room asks, how it goes.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Peers whose packets are counted; beyond that, the one that sent least is forgotten.
const MAX_GUARDS: usize = 64;
/// Packets that may wait for the task: half a second of ten speakers. Later ones are dropped, as
/// they would be late anyway.
const QUEUE: usize = 256;
/// Events and packets that may wait for the room.
const OUT_QUEUE: usize = 256;

/// What the room gives to the voice task.
#[derive(Debug)]
pub(crate) enum ToVoice {
    Packet {
        peer: PeerId,
        arrived: Timestamp,
        packet: MediaPacket,
    },
    Clock {
        peer: PeerId,
        arrived: Timestamp,
        clock: MediaClock,
    },
    Gone {
        peer: PeerId,
    },
    Listeners(Listeners),
    RoomVolumes(RoomVolumes),
}

/// What the user asks of the voice task.
#[derive(Debug)]
pub(crate) enum Control {
    Mute(bool),
    Talk(bool),
    Volume(PeerId, f32),
    Place(PeerId, Option<Position>),
    Listener(Listener),
    #[cfg(feature = "device")]
    Device(Direction, Option<String>),
    Bitrate(Bitrate, oneshot::Sender<Result<(), VoiceConfigError>>),
    Sender(
        Box<VoiceSenderConfig>,
        oneshot::Sender<Result<(), VoiceConfigError>>,
    ),
}

/// What the voice task gives to the room.
#[derive(Debug)]
pub(crate) enum FromVoice {
    Frame(Frame),
    Event(Event),
    /// A second has passed: what do listeners report?
    Second,
}

/// The room's end of the task.
#[derive(Debug)]
pub(crate) struct VoiceTask {
    input: mpsc::Sender<ToVoice>,
    output: mpsc::Receiver<FromVoice>,
    handle: VoiceHandle,
    task: JoinHandle<()>,
    /// Peers that are gone, while the task's queue was full.
    gone: Vec<PeerId>,
    guards: HashMap<PeerId, FloodGuard>,
    /// Packets that the task was too far behind for.
    dropped: u64,
}

impl VoiceTask {
    pub(crate) fn start(voice: Voice, clock: SystemClock) -> Result<Self, VoiceError> {
        let recordings = match &voice.record {
            Some(directory) => {
                let failed = |source| VoiceError::Record {
                    path: directory.clone(),
                    source,
                };
                std::fs::create_dir_all(directory).map_err(failed)?;
                Some((directory.clone(), Recordings::start().map_err(failed)?))
            }
            None => None,
        };
        let (input, from_room) = mpsc::channel(QUEUE);
        let (to_room, output) = mpsc::channel(OUT_QUEUE);
        let (controls, control) = mpsc::channel(16);
        let (diagnostics, watched) = watch::channel(Arc::default());
        let desk = Desk::new(voice, clock, recordings, to_room)?;
        let task = tokio::spawn(run(desk, from_room, control, diagnostics));
        Ok(Self {
            input,
            output,
            handle: VoiceHandle {
                controls,
                diagnostics: watched,
            },
            task,
            gone: Vec::new(),
            guards: HashMap::new(),
            dropped: 0,
        })
    }

    pub(crate) fn handle(&self) -> VoiceHandle {
        self.handle.clone()
    }

    /// Packets may be dropped, but this may not.
    pub(crate) fn gone(&mut self, peer: PeerId) {
        self.guards.remove(&peer);
        self.gone.push(peer);
        self.tell_gone();
    }

    fn tell_gone(&mut self) {
        while let Some(peer) = self.gone.pop() {
            let message = ToVoice::Gone { peer: peer.clone() };
            if self.input.try_send(message).is_err() {
                self.gone.push(peer);
                return;
            }
        }
    }

    /// Hands a packet on. Returns whether its peer has just been muted for sending too many.
    pub(crate) fn packet(&mut self, peer: PeerId, arrived: Timestamp, packet: MediaPacket) -> bool {
        let message = ToVoice::Packet {
            peer: peer.clone(),
            arrived,
            packet,
        };
        self.admit(&peer, arrived, message)
    }

    /// Hands a sender's clock on, which counts as a packet does.
    pub(crate) fn clock(&mut self, peer: PeerId, arrived: Timestamp, clock: MediaClock) -> bool {
        let message = ToVoice::Clock {
            peer: peer.clone(),
            arrived,
            clock,
        };
        self.admit(&peer, arrived, message)
    }

    /// Hands on what a peer sent, unless it sends too much. Returns whether it has just been muted for that.
    fn admit(&mut self, peer: &PeerId, arrived: Timestamp, message: ToVoice) -> bool {
        let guard = self.guard(peer);
        let muted = guard.is_muted(arrived);
        if !guard.admit(arrived) {
            return !muted;
        }
        self.send(message);
        false
    }

    fn guard(&mut self, peer: &PeerId) -> &mut FloodGuard {
        if self.guards.len() >= MAX_GUARDS && !self.guards.contains_key(peer) {
            let least = self.guards.iter().min_by_key(|(_, guard)| guard.dropped());
            if let Some(peer) = least.map(|(peer, _)| peer.clone()) {
                self.guards.remove(&peer);
            }
        }
        self.guards.entry(peer.clone()).or_default()
    }

    /// Tells what listeners report; what is known here is added.
    pub(crate) fn listeners(&mut self, now: Timestamp, mut listeners: Listeners) {
        for report in &mut listeners.reports {
            if let Some(guard) = self.guards.get(&report.peer) {
                report.flooded = guard.dropped();
                report.muted_for_flood = guard.is_muted(now);
            }
        }
        listeners.dropped = self.dropped;
        self.send(ToVoice::Listeners(listeners));
    }

    /// Hands a message on; while the task is behind, it is dropped.
    pub(crate) fn send(&mut self, message: ToVoice) {
        self.tell_gone();
        if self.input.try_send(message).is_err() {
            self.dropped = self.dropped.wrapping_add(1);
            tracing::trace!("voice is behind: a packet was dropped");
        }
    }

    /// Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<FromVoice> {
        self.output.recv().await
    }

    /// Ends the task and closes recordings.
    pub(crate) async fn stop(self) {
        let Self {
            input,
            output,
            task,
            ..
        } = self;
        drop((input, output));
        let _ = task.await;
    }
}

async fn run(
    mut desk: Desk,
    mut input: mpsc::Receiver<ToVoice>,
    mut control: mpsc::Receiver<Control>,
    diagnostics: watch::Sender<Arc<VoiceDiagnostics>>,
) {
    desk.begin();
    let mut ticks = tokio::time::interval(desk.tick());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reported = desk.clock().now();
    loop {
        tokio::select! {
            biased;
            message = input.recv() => match message {
                Some(message) => desk.receive(message),
                None => break,
            },
            Some(control) = control.recv() => desk.control(control),
            _ = ticks.tick() => {
                let now = desk.clock().now();
                desk.capture(now);
                desk.play(now);
                #[cfg(feature = "device")]
                desk.look_at_devices();
                let passed = now.saturating_since(reported);
                if passed >= REPORT_INTERVAL {
                    reported = now;
                    diagnostics.send_replace(Arc::new(desk.diagnose(now, passed)));
                    desk.ask_listeners();
                }
            }
        }
    }
    if let Some(recordings) = desk.finish() {
        let _ = tokio::task::spawn_blocking(move || recordings.finish()).await;
    }
}

#[cfg(test)]
mod tests;
