//! Everything the voice task owns: sources, the sender, a receiver for each peer, the mixer, recordings, devices.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use roundtable_core::{Bitrate, Channel, Clock, Frame, PeerId, Timestamp, WallTime};
use roundtable_transport::SystemClock;
#[cfg(feature = "device")]
use roundtable_voice::{DEVICE_PERIOD, DeviceState};
use roundtable_voice::{
    Gain, LatencyBreakdown, Listener, LossEstimate, Mixer, Placement, Position, Pulled,
    SpatialConfig, SpeakerDiagnostics, VoiceDiagnostics, VoiceOut, VoiceReceiver,
    VoiceReceiverConfig, VoiceSender, VoiceStats, level_dbfs,
};
use tokio::sync::mpsc;

#[cfg(feature = "device")]
use super::devices::Devices;
use super::{
    SAMPLE_RATE_HZ, Source, Voice, VoiceError,
    listeners::{ListenerReport, Listeners, RoomVolumes},
    recorder::Recordings,
    task::{Control, FromVoice, ToVoice},
};
use crate::Event;

/// What is captured and played at a time: 5 ms. Half of it is what a sample waits for its turn, at either end.
const BLOCK: usize = SAMPLE_RATE_HZ as usize / 200;
pub(super) const BLOCK_TIME: Duration = Duration::from_millis(5);
/// Devices give and take when they like: what they have given waits for half of this.
#[cfg(feature = "device")]
const DEVICE_TICK: Duration = Duration::from_millis(2);
const BLOCK_MS: f32 = 5.0;
const BLOCK_US: u64 = 5_000;
/// What Opus looks ahead, as nearly every sender uses it (RFC 6716 §2.1).
const CODEC_MS: f32 = 6.5;
/// After a longer pause of the whole process, playing and speaking go on from now and not from where they were.
const MAX_BEHIND_BLOCKS: u64 = 40;
/// After so much silence a speaker has ceased to speak, 500 ms. In pauses Opus sends a packet every 400 ms.
const HUSH_BLOCKS: u64 = 100;

/// One remote speaker.
struct Speaker {
    receiver: VoiceReceiver,
    gain: Gain,
    placement: Placement,
    track: Option<usize>,
    /// Whether the room was told that it speaks.
    speaking: bool,
    /// How many blocks of silence were played since it was last heard.
    silent: u64,
    /// Payload bytes by the last look.
    bytes: u64,
}

/// What is known of a peer beside its sound.
#[derive(Debug, Default)]
struct Known {
    loss: LossEstimate,
    report: Option<ListenerReport>,
}

/// Everything the task owns.
pub(super) struct Desk {
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
    /// Every listener that was reported, until it goes.
    known: HashMap<PeerId, Known>,
    /// What the user wants: kept while a peer is away.
    volumes: HashMap<PeerId, f32>,
    positions: HashMap<PeerId, Position>,
    listener: Listener,
    spatial: SpatialConfig,
    muted: bool,
    room: RoomVolumes,
    mixer: Mixer,
    mix_dbfs: f32,
    mix: Vec<f32>,
    recordings: Option<(PathBuf, Recordings)>,
    mix_track: Option<usize>,
    to_room: mpsc::Sender<FromVoice>,
    sent_bytes: u64,
    dropped: u64,
    #[cfg(feature = "device")]
    heard: Vec<f32>,
    /// While no device asks for sound: since when the clock does, and what had been played by then.
    pace: Option<(Timestamp, u64)>,
    #[cfg(feature = "device")]
    devices: Devices,
}

impl Desk {
    /// Nothing captured, nobody heard.
    pub(super) fn new(
        voice: Voice,
        clock: SystemClock,
        recordings: Option<(PathBuf, Recordings)>,
        to_room: mpsc::Sender<FromVoice>,
    ) -> Result<Self, VoiceError> {
        // Refuses a bad configuration now rather than at the first packet.
        VoiceReceiver::new(voice.receiver.clone())?;
        let mixer = match voice.spatial {
            Some(_) => Mixer::stereo(),
            None => Mixer::new(),
        };
        #[cfg(feature = "device")]
        let devices = {
            let microphone = matches!(voice.source, Source::Microphone);
            let microphone = microphone.then_some(voice.input.as_deref());
            let speakers = voice.speakers.then_some(voice.output.as_deref());
            let period = voice.period.unwrap_or(DEVICE_PERIOD);
            Devices::start(microphone, speakers, mixer.channels(), period)
        };
        Ok(Self {
            sender: VoiceSender::new(voice.sender)?,
            source: voice.source,
            receiver: voice.receiver,
            captured: 0,
            played: 0,
            started: clock.now(),
            wall: clock.wall(),
            clock,
            speakers: HashMap::new(),
            known: HashMap::new(),
            volumes: HashMap::new(),
            positions: HashMap::new(),
            listener: Listener::default(),
            spatial: voice.spatial.unwrap_or_default(),
            muted: false,
            room: RoomVolumes::default(),
            mix: vec![0.0; BLOCK * mixer.channels()],
            mixer,
            mix_dbfs: -200.0,
            recordings,
            mix_track: None,
            to_room,
            sent_bytes: 0,
            dropped: 0,
            #[cfg(feature = "device")]
            heard: Vec::new(),
            pace: Some((clock.now(), 0)),
            #[cfg(feature = "device")]
            devices,
        })
    }

    pub(super) fn clock(&self) -> SystemClock {
        self.clock
    }

    /// How often to look for something to capture or to play.
    pub(super) fn tick(&self) -> Duration {
        #[cfg(feature = "device")]
        if self.devices.are_wanted() {
            return DEVICE_TICK;
        }
        BLOCK_TIME
    }

    /// Hands out what must be closed.
    pub(super) fn finish(&mut self) -> Option<Recordings> {
        self.recordings.take().map(|(_, recordings)| recordings)
    }

    pub(super) fn begin(&mut self) {
        self.started = self.clock.now();
        self.wall = self.clock.wall();
        self.pace = Some((self.started, 0));
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

    pub(super) fn receive(&mut self, message: ToVoice) {
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
                // A clock is no voice: nobody becomes a speaker by it. The next one comes in a few seconds.
                if let Some(speaker) = self.speakers.get_mut(&peer) {
                    speaker.receiver.push_clock(arrived, clock);
                }
            }
            ToVoice::Listeners(listeners) => self.heed(listeners),
            ToVoice::RoomVolumes(room) => {
                self.room = room;
                self.apply_mute();
                self.apply_volumes();
            }
            ToVoice::Gone { peer } => {
                self.known.remove(&peer);
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
            let mut placement = Placement::CENTRE;
            placement.set(self.gains(&peer));
            let speaker = Speaker {
                receiver,
                gain: Gain::new(self.volume(&peer)),
                placement,
                track,
                speaking: false,
                silent: 0,
                bytes: 0,
            };
            self.speakers.insert(peer.clone(), speaker);
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
        let channels = if peer.is_none() {
            self.mixer.channels()
        } else {
            1
        };
        let track = recordings.open(path.clone(), channels);
        let at = self.wall_at(self.played);
        self.tell(Event::RecordingStarted {
            peer: peer.cloned(),
            at,
            path,
        });
        Some(track)
    }

    fn wall_at(&self, block: u64) -> WallTime {
        WallTime::from_micros(self.wall.as_micros() + block * BLOCK_US)
    }

    pub(super) fn control(&mut self, control: Control) {
        match control {
            Control::Mute(muted) => {
                self.muted = muted;
                self.apply_mute();
            }
            Control::Talk(talking) => self.sender.talk(talking),
            Control::Volume(peer, volume) => {
                self.volumes.insert(peer, volume);
                self.apply_volumes();
            }
            Control::Place(peer, position) => {
                match position {
                    Some(position) => self.positions.insert(peer, position),
                    None => self.positions.remove(&peer),
                };
                self.apply_places();
            }
            Control::Listener(listener) => {
                self.listener = listener;
                self.apply_places();
            }
            #[cfg(feature = "device")]
            Control::Device(direction, device) => {
                self.devices.choose(direction, device.as_deref());
            }
            // Who no longer waits for an answer needs none.
            Control::Bitrate(bitrate, reply) => {
                let _ = reply.send(self.sender.set_bitrate(bitrate));
            }
            Control::Sender(config, reply) => {
                let _ = reply.send(self.sender.reconfigure(*config));
            }
        }
    }

    /// Muted by the user, or by the room.
    fn apply_mute(&mut self) {
        self.sender.mute(self.muted || self.room.own == Some(0.0));
    }

    fn volume(&self, peer: &PeerId) -> f32 {
        let user = self.volumes.get(peer).copied().unwrap_or(1.0);
        user * self.room.peers.get(peer).copied().unwrap_or(1.0)
    }

    fn apply_volumes(&mut self) {
        let mut speakers = std::mem::take(&mut self.speakers);
        for (peer, speaker) in &mut speakers {
            speaker.gain.set(self.volume(peer));
        }
        self.speakers = speakers;
    }

    fn gains(&self, peer: &PeerId) -> [f32; 2] {
        let position = self.positions.get(peer);
        position.map_or([1.0, 1.0], |at| self.spatial.gains(&self.listener, at))
    }

    fn apply_places(&mut self) {
        let mut speakers = std::mem::take(&mut self.speakers);
        for (peer, speaker) in &mut speakers {
            speaker.placement.set(self.gains(peer));
        }
        self.speakers = speakers;
    }

    /// Prepares what is sent for what listeners report, the worst of them first.
    fn heed(&mut self, listeners: Listeners) {
        self.dropped = listeners.dropped;
        let all = &listeners.reports;
        let without = all.iter().any(|report| !report.takes_redundancy);
        // Who is no longer reported listens no more.
        self.known
            .retain(|peer, _| all.iter().any(|report| report.peer == *peer));
        for report in listeners.reports {
            let known = self.known.entry(report.peer.clone()).or_default();
            if let Some(loss) = report.loss {
                known.loss.report(loss);
            }
            known.report = Some(report);
        }
        let losses = self.known.values().map(|known| known.loss.get());
        let worst = losses.fold(0.0, f32::max);
        self.sender.set_fec_needed(without);
        self.sender.set_expected_loss(worst);
    }

    /// Asks the room how listeners are doing; the answer comes when it has time.
    pub(super) fn ask_listeners(&self) {
        let _ = self.to_room.try_send(FromVoice::Second);
    }

    /// Captures what has been said by now.
    pub(super) fn capture(&mut self, now: Timestamp) {
        let due = blocks_in(now.saturating_since(self.started));
        if due.saturating_sub(self.captured) > MAX_BEHIND_BLOCKS {
            // What would have been said meanwhile would all be sent at once, and be late. A clip has gone on.
            self.captured = due;
        }
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
        let mut heard = std::mem::take(&mut self.heard);
        heard.clear();
        let age = self.devices.read(&mut heard);
        if !heard.is_empty() {
            let micros = heard.len() as u64 * 1_000_000 / u64::from(SAMPLE_RATE_HZ);
            // Reports say when it was said, not when the sound system handed it over.
            let said = micros + u64::try_from(age.as_micros()).unwrap_or(0);
            let wall = self.clock.wall().as_micros().saturating_sub(said);
            let at = now - Duration::from_micros(micros);
            self.sender
                .push(at, WallTime::from_micros(wall), &heard, out);
        }
        self.heard = heard;
    }

    /// Plays what the speakers want, or without speakers, the blocks whose time has begun by now.
    pub(super) fn play(&mut self, now: Timestamp) {
        #[cfg(feature = "device")]
        if self.devices.want(now).is_some() {
            self.pace = None;
            while self.devices.want(now) == Some(true) {
                self.play_block(now);
                self.played += 1;
            }
            return;
        }
        // From where the speakers were, when they have gone or hang.
        let (since, before) = *self.pace.get_or_insert((now, self.played));
        let due = before + blocks_in(now.saturating_since(since)) + 1;
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
                let silence = vec![
                    0.0;
                    if Some(track) == self.mix_track {
                        self.mix.len()
                    } else {
                        BLOCK
                    }
                ];
                for _ in self.played..block {
                    recordings.write(track, &silence);
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
                .add_placed(&block, &mut speaker.gain, &mut speaker.placement);
            if let (Some(track), Some((_, recordings))) = (speaker.track, &mut self.recordings) {
                recordings.write(track, &block);
            }
            speaker.silent = match pulled {
                Pulled::Silence => speaker.silent.saturating_add(1),
                _ => 0,
            };
            let hushed = speaker.silent > if speaker.speaking { HUSH_BLOCKS } else { 0 };
            let speaking = !hushed;
            if speaking != speaker.speaking {
                let event = Event::Speaking {
                    peer: peer.clone(),
                    speaking,
                };
                // While the room is behind, it is told with a later block, if it is still so.
                if self.to_room.try_send(FromVoice::Event(event)).is_ok() {
                    speaker.speaking = speaking;
                }
            }
        }
        let mut mix = std::mem::take(&mut self.mix);
        self.mixer.finish(&mut mix);
        self.mix_dbfs = level_dbfs(&mix);
        #[cfg(feature = "processing")]
        {
            // An echo is looked for in one channel.
            let channels = self.mixer.channels();
            for (out, frame) in block.iter_mut().zip(mix.chunks_exact(channels)) {
                *out = frame.iter().sum::<f32>() / channels as f32;
            }
            self.sender.hear_far_end(&block);
        }
        // Speakers that hang would go on with what has long been said.
        #[cfg(feature = "device")]
        if self.pace.is_none() {
            self.devices.write(&mix);
        }
        if let (Some(track), Some((_, recordings))) = (self.mix_track, &mut self.recordings) {
            recordings.write(track, &mix);
        }
        self.mix = mix;
    }

    /// How the call is going, `passed` after the last look.
    pub(super) fn diagnose(&mut self, now: Timestamp, passed: Duration) -> VoiceDiagnostics {
        let sender = self.sender.stats();
        let sent_bitrate = bitrate(sender.bytes.wrapping_sub(self.sent_bytes), passed);
        self.sent_bytes = sender.bytes;
        let ours = LatencyBreakdown {
            capture_ms: self.capture_ms(),
            codec_ms: CODEC_MS,
            playout_ms: self.playout_ms(),
            ..LatencyBreakdown::default()
        };
        let mut speakers = std::mem::take(&mut self.speakers);
        let look = |(peer, speaker): (&PeerId, &mut Speaker)| {
            let stats = speaker.receiver.stats(now);
            let bytes = stats.bytes.wrapping_sub(speaker.bytes);
            speaker.bytes = stats.bytes;
            let known = self.known.get(peer);
            let report = known.and_then(|known| known.report.as_ref());
            SpeakerDiagnostics {
                peer: peer.clone(),
                bitrate: bitrate(bytes, passed),
                latency: latency(ours, &stats, report),
                volume: speaker.gain.get(),
                flooded: report.map_or(0, |report| report.flooded),
                muted_for_flood: report.is_some_and(|report| report.muted_for_flood),
                reported_loss: known.map_or(0.0, |known| known.loss.get()),
                stats,
            }
        };
        let mut list: Vec<_> = speakers.iter_mut().map(look).collect();
        list.sort_by(|a, b| a.peer.cmp(&b.peer));
        self.speakers = speakers;
        VoiceDiagnostics {
            sender,
            sent_bitrate,
            speakers: list,
            dropped: self.dropped,
            recording_dropped: self.recordings.as_ref().map_or(0, |(_, it)| it.dropped()),
            mix_dbfs: self.mix_dbfs,
        }
    }

    /// Tells what has become of the devices.
    #[cfg(feature = "device")]
    pub(super) fn look_at_devices(&mut self) {
        while let Some((direction, state)) = self.devices.take_change() {
            match &state {
                DeviceState::Missing(error) => {
                    tracing::warn!(%error, direction = direction.name(), "no sound device");
                }
                state => tracing::debug!(?state, direction = direction.name(), "sound device"),
            }
            self.tell(Event::Device { direction, state });
        }
    }

    /// What waits before the encoder: half a block, and what the microphone's sound system says.
    fn capture_ms(&mut self) -> f32 {
        #[cfg(feature = "device")]
        let held = self.devices.capture();
        #[cfg(not(feature = "device"))]
        let held = Duration::ZERO;
        BLOCK_MS / 2.0 + held.as_secs_f32() * 1000.0
    }

    /// What waits between the mixer and the ear: half a block, and what is queued at the speakers and inside them.
    fn playout_ms(&mut self) -> f32 {
        #[cfg(feature = "device")]
        if let Some(playout) = self.devices.playout() {
            return BLOCK_MS / 2.0 + playout.as_secs_f32() * 1000.0;
        }
        BLOCK_MS / 2.0
    }
}

/// Blocks that lie fully within this time.
fn blocks_in(time: Duration) -> u64 {
    let blocks = time.as_micros() / BLOCK_TIME.as_micros();
    u64::try_from(blocks).unwrap_or(u64::MAX)
}

/// Where the time goes on the way from a speaker to us.
fn latency(
    ours: LatencyBreakdown,
    stats: &VoiceStats,
    report: Option<&ListenerReport>,
) -> LatencyBreakdown {
    let rtt = report.and_then(|report| report.rtt).unwrap_or_default();
    LatencyBreakdown {
        frame_ms: stats.frame_ms,
        network_ms: rtt.as_secs_f32() * 500.0,
        buffer_ms: stats.delay_ms,
        ..ours
    }
}

fn bitrate(bytes: u64, passed: Duration) -> Bitrate {
    let bits = u128::from(bytes) * 8 * 1_000_000 / passed.as_micros().max(1);
    Bitrate::from_bps(u32::try_from(bits).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
