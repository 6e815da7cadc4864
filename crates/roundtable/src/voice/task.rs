//! The task that owns a room's voice: every 10 ms it captures, sends, receives, mixes and plays.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use roundtable_core::{
    Channel, Clock, Frame, MediaClock, MediaPacket, PeerId, Timestamp, WallTime,
};
use roundtable_transport::SystemClock;
use roundtable_voice::{
    Gain, Mixer, Pulled, VoiceOut, VoiceReceiver, VoiceReceiverConfig, VoiceSender, VoiceStats,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

#[cfg(feature = "device")]
use super::devices::Devices;
use super::{SAMPLE_RATE_HZ, Source, Voice, VoiceError, VoiceHandle, recorder::Recordings};
use crate::Event;

/// What is captured and played at a time: 10 ms.
const BLOCK: usize = SAMPLE_RATE_HZ as usize / 100;
const BLOCK_TIME: Duration = Duration::from_millis(10);
/// After a longer pause of the whole process, playing goes on from now and not from where it was.
const MAX_BEHIND_BLOCKS: u64 = 20;
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
}

/// What the user asks of the voice task.
#[derive(Debug)]
pub(crate) enum Control {
    Mute(bool),
    Volume(PeerId, f32),
}

/// What the voice task gives to the room.
#[derive(Debug)]
pub(crate) enum FromVoice {
    Frame(Frame),
    Event(Event),
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
        let (stats, watched) = watch::channel(Arc::default());
        // Refuses a bad configuration now rather than at the first packet.
        VoiceReceiver::new(voice.receiver.clone())?;
        let desk = Desk {
            sender: VoiceSender::new(voice.sender)?,
            source: voice.source,
            receiver: voice.receiver,
            clock,
            captured: 0,
            played: 0,
            started: clock.now(),
            wall: clock.wall(),
            speakers: HashMap::new(),
            mixer: Mixer::new(),
            recordings,
            mix_track: None,
            volumes: HashMap::new(),
            to_room,
            #[cfg(feature = "device")]
            speakers_wanted: voice.speakers,
            #[cfg(feature = "device")]
            devices: Devices::default(),
        };
        let task = tokio::spawn(run(desk, from_room, control, stats));
        Ok(Self {
            input,
            output,
            handle: VoiceHandle {
                controls,
                stats: watched,
            },
            task,
            gone: Vec::new(),
        })
    }

    pub(crate) fn handle(&self) -> VoiceHandle {
        self.handle.clone()
    }

    /// Packets may be dropped, but this may not.
    pub(crate) fn gone(&mut self, peer: PeerId) {
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

    pub(crate) fn send(&mut self, message: ToVoice) {
        self.tell_gone();
        if self.input.try_send(message).is_err() {
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
    stats: watch::Sender<Arc<HashMap<PeerId, VoiceStats>>>,
) {
    #[cfg(feature = "device")]
    desk.open_devices().await;
    desk.begin();
    let mut ticks = tokio::time::interval(BLOCK_TIME);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reported = desk.started;
    loop {
        tokio::select! {
            biased;
            message = input.recv() => match message {
                Some(message) => desk.receive(message),
                None => break,
            },
            Some(control) = control.recv() => desk.control(control),
            _ = ticks.tick() => {
                let now = desk.clock.now();
                desk.capture(now);
                desk.play(now);
                if now.saturating_since(reported) >= Duration::from_secs(1) {
                    reported = now;
                    stats.send_replace(Arc::new(desk.stats(now)));
                }
            }
        }
    }
    if let Some((_, recordings)) = desk.recordings.take() {
        let _ = tokio::task::spawn_blocking(move || recordings.finish()).await;
    }
}

/// One remote speaker.
struct Speaker {
    receiver: VoiceReceiver,
    track: Option<usize>,
    speaking: bool,
}

/// Everything the task owns.
struct Desk {
    clock: SystemClock,
    sender: VoiceSender,
    source: Source,
    receiver: VoiceReceiverConfig,
    /// When capturing and playing began, and the wall time of that.
    started: Timestamp,
    wall: WallTime,
    /// Blocks captured and played since then.
    captured: u64,
    played: u64,
    speakers: HashMap<PeerId, Speaker>,
    volumes: HashMap<PeerId, Gain>,
    mixer: Mixer,
    recordings: Option<(PathBuf, Recordings)>,
    mix_track: Option<usize>,
    to_room: mpsc::Sender<FromVoice>,
    #[cfg(feature = "device")]
    speakers_wanted: bool,
    #[cfg(feature = "device")]
    devices: Devices,
}

impl Desk {
    #[cfg(feature = "device")]
    async fn open_devices(&mut self) {
        let microphone = matches!(self.source, Source::Microphone);
        let speakers = self.speakers_wanted;
        let opened = tokio::task::spawn_blocking(move || Devices::open(microphone, speakers));
        self.devices = opened.await.unwrap_or_default();
    }

    fn begin(&mut self) {
        self.started = self.clock.now();
        self.wall = self.clock.wall();
        if !matches!(self.source, Source::Silent) {
            self.tell(Event::CaptureStarted { at: self.wall });
        }
        self.mix_track = self.open_track(None);
    }

    fn tell(&self, event: Event) {
        if self.to_room.try_send(FromVoice::Event(event)).is_err() {
            tracing::debug!("the room is behind: an event of voice was dropped");
        }
    }

    fn receive(&mut self, message: ToVoice) {
        match message {
            ToVoice::Packet {
                peer,
                arrived,
                packet,
            } => {
                if let Some(speaker) = self.speaker(peer) {
                    speaker.receiver.push(arrived, packet);
                }
            }
            ToVoice::Clock {
                peer,
                arrived,
                clock,
            } => {
                if let Some(speaker) = self.speaker(peer) {
                    speaker.receiver.push_clock(arrived, clock);
                }
            }
            ToVoice::Gone { peer } => {
                let speaker = self.speakers.remove(&peer);
                if speaker.as_ref().is_some_and(|speaker| speaker.speaking) {
                    self.tell(Event::Speaking {
                        peer,
                        speaking: false,
                    });
                }
                let track = speaker.and_then(|speaker| speaker.track);
                if let (Some(track), Some((_, recordings))) = (track, &mut self.recordings) {
                    recordings.close(track);
                }
            }
        }
    }

    /// The speaker, new with its first packet.
    fn speaker(&mut self, peer: PeerId) -> Option<&mut Speaker> {
        if !self.speakers.contains_key(&peer) {
            let receiver = VoiceReceiver::new(self.receiver.clone()).ok()?;
            let track = self.open_track(Some(&peer));
            self.speakers.insert(
                peer.clone(),
                Speaker {
                    receiver,
                    track,
                    speaking: false,
                },
            );
        }
        self.speakers.get_mut(&peer)
    }

    fn open_track(&mut self, peer: Option<&PeerId>) -> Option<usize> {
        let (directory, recordings) = self.recordings.as_mut()?;
        let name = peer.map_or("mix", PeerId::as_str);
        let mut path = directory.join(format!("{name}.wav"));
        // A speaker who comes again is recorded anew, not over.
        let mut again = 1;
        while path.exists() && again < 1000 {
            again += 1;
            path = directory.join(format!("{name}.{again}.wav"));
        }
        let track = recordings.open(path.clone());
        let at = self.wall_at(self.played);
        self.tell(Event::RecordingStarted {
            peer: peer.cloned(),
            at,
            path,
        });
        Some(track)
    }

    fn wall_at(&self, block: u64) -> WallTime {
        WallTime::from_micros(self.wall.as_micros() + block * 10_000)
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Mute(muted) => self.sender.mute(muted),
            Control::Volume(peer, volume) => {
                self.volumes.entry(peer).or_default().set(volume);
            }
        }
    }

    /// Blocks whose time has come fully by `now`.
    fn blocks_by(&self, now: Timestamp) -> u64 {
        let passed = now.saturating_since(self.started).as_micros() / BLOCK_TIME.as_micros();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    /// Captures what has been said by now.
    fn capture(&mut self, now: Timestamp) {
        let due = self.blocks_by(now);
        let mut out = Vec::new();
        let mut block = [0.0; BLOCK];
        while self.captured < due {
            match &self.source {
                Source::Silent => self.captured = due,
                #[cfg(feature = "device")]
                Source::Microphone => {
                    self.captured = due;
                    self.listen(now, &mut out);
                }
                Source::Clip(clip) => {
                    let first = self.captured * BLOCK as u64;
                    for (sample, position) in block.iter_mut().zip(first..) {
                        *sample = clip.sample(position);
                    }
                    let at = self.started + BLOCK_TIME * u32::try_from(self.captured).unwrap_or(0);
                    self.sender
                        .push(at, self.wall_at(self.captured), &block, &mut out);
                    self.captured += 1;
                }
            }
        }
        for out in out {
            let frame = match out {
                VoiceOut::Packet(packet) => Frame::media(Channel::Voice, packet),
                VoiceOut::Clock(clock) => Frame::clock(Channel::Voice, clock),
            };
            if self.to_room.try_send(FromVoice::Frame(frame)).is_err() {
                tracing::debug!("the room is behind: a packet of voice was dropped");
            }
        }
    }

    /// Takes what the microphone has heard up to now.
    #[cfg(feature = "device")]
    fn listen(&mut self, now: Timestamp, out: &mut Vec<VoiceOut>) {
        let mut heard = Vec::new();
        self.devices.read(&mut heard);
        let micros = heard.len() as u64 * 1_000_000 / u64::from(SAMPLE_RATE_HZ);
        let wall = self.clock.wall().as_micros().saturating_sub(micros);
        let at = now - Duration::from_micros(micros);
        self.sender
            .push(at, WallTime::from_micros(wall), &heard, out);
    }

    /// Plays what the speakers want, or without speakers, the blocks whose time has begun by now.
    fn play(&mut self, now: Timestamp) {
        #[cfg(feature = "device")]
        if self.devices.want().is_some() {
            while self.devices.want() == Some(true) {
                self.play_block(now);
                self.played += 1;
            }
            return;
        }
        let due = self.blocks_by(now) + 1;
        if due.saturating_sub(self.played) > MAX_BEHIND_BLOCKS {
            self.skip_to(due - 1);
        }
        while self.played < due {
            self.play_block(now);
            self.played += 1;
        }
    }

    /// After a long pause: recordings get silence for it, so that their time stays true.
    fn skip_to(&mut self, block: u64) {
        tracing::warn!(
            blocks = block - self.played,
            "playing paused: the process was held up"
        );
        if let Some((_, recordings)) = &mut self.recordings {
            let tracks = self.speakers.values().filter_map(|speaker| speaker.track);
            for track in tracks.chain(self.mix_track) {
                for _ in self.played..block {
                    recordings.write(track, &[0.0; BLOCK]);
                }
            }
        }
        self.played = block;
    }

    fn play_block(&mut self, now: Timestamp) {
        let mut block = [0.0; BLOCK];
        for (peer, speaker) in &mut self.speakers {
            let pulled = speaker.receiver.pull(now, &mut block);
            self.mixer
                .add(&block, self.volumes.entry(peer.clone()).or_default());
            if let (Some(track), Some((_, recordings))) = (speaker.track, &mut self.recordings) {
                recordings.write(track, &block);
            }
            let speaking = pulled != Pulled::Silence;
            if speaking != speaker.speaking {
                speaker.speaking = speaking;
                let event = Event::Speaking {
                    peer: peer.clone(),
                    speaking,
                };
                let _ = self.to_room.try_send(FromVoice::Event(event));
            }
        }
        self.mixer.finish(&mut block);
        #[cfg(feature = "device")]
        self.devices.write(&block);
        if let (Some(track), Some((_, recordings))) = (self.mix_track, &mut self.recordings) {
            recordings.write(track, &block);
        }
    }

    fn stats(&self, now: Timestamp) -> HashMap<PeerId, VoiceStats> {
        let stats =
            |(peer, speaker): (&PeerId, &Speaker)| (peer.clone(), speaker.receiver.stats(now));
        self.speakers.iter().map(stats).collect()
    }
}
