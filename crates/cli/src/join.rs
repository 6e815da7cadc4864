//! `roundtable join`.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use roundtable::{
    Applied, Channel, Event, Identity, Invite, Limits, Payload, PeerId, Room, SubmitError, Summary,
    voice::{Activation, Clip, Voice, VoiceSenderConfig},
};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

#[cfg(feature = "audio")]
use crate::devices;
use crate::{
    args::{Join, VoicePreset},
    board::{self, Pen},
    clock::{self, unix_us},
    error::CliError,
    leftovers::Census,
    report::Report,
    serve::stopped,
};

/// Rooms that this command creates let an author write 60 commands a second, after a burst of 200.
const LIMITS: Limits = Limits {
    burst: 200,
    per_second: 60,
};
/// Before leaving: nothing must have been applied for so long, so that all peers have everything.
const QUIET: Duration = Duration::from_secs(1);
/// The longest wait for that.
const SETTLE: Duration = Duration::from_secs(8);
/// How long tasks and sockets may take to disappear after leaving.
const VANISH: Duration = Duration::from_secs(1);

/// Joins, takes part until told to stop, and leaves in good order.
pub(crate) async fn run(args: Join) -> Result<(), CliError> {
    if !(0.0..=1000.0).contains(&args.submit_rate) {
        return Err(CliError::SubmitRate(args.submit_rate));
    }
    let mut stop = std::pin::pin!(stop_signal(args.duration));
    // Installs the signal handlers, which own a socket, before anything is counted.
    futures_util::future::poll_immediate(&mut stop).await;
    let census = Census::take();
    let started = unix_us();
    let room = builder(&args)?.join().await?;
    let mut member = Member {
        events: Box::pin(room.events()),
        report: Report { json: args.json },
        pen: Pen::new(&args.name),
        echo: args.echo,
        started,
        applied: 0,
        last_applied: unix_us(),
        foreign_command: false,
        may_edit: false,
        voices: HashMap::new(),
        room,
    };
    member.joined();
    member.take_part(args.submit_rate, stop).await;
    member.settle().await;
    let summary = member.room.summary().await;
    let (room, report) = (member.room.clone(), member.report);
    drop(member);
    room.leave().await;
    let left = vanished(census).await;
    summarise(report, summary.as_ref(), left);
    Ok(())
}

async fn stop_signal(duration: Option<Duration>) {
    let over = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stopped() => {}
        () = over => {}
    }
}

fn builder(args: &Join) -> Result<roundtable::RoomBuilder, CliError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (server, more) = match args.server.split_first() {
        Some((first, more)) => (first.as_str(), more),
        None => ("", &[][..]), // the invite knows
    };
    let mut builder = Room::builder(server, &text(&args.room), &args.name)
        .more_servers(more)
        .schema(board::schema())
        .limits(LIMITS)
        .guests(args.guests)
        .transport(args.transport.into());
    if let Some(link) = &args.invite {
        builder = builder.invite(link.parse::<Invite>()?);
    }
    if let Some(grant) = &args.token {
        builder = builder.token(grant);
    }
    if let Some(secret) = &args.invite_grant {
        builder = builder.invite_secret(secret);
    }
    if let Some(directory) = &args.identity {
        builder = builder.identity(Identity::open(directory)?);
    }
    Ok(builder.voice(voice(args)?))
}

/// How this peer speaks and listens.
fn voice(args: &Join) -> Result<Voice, CliError> {
    let sender = match args.voice {
        VoicePreset::Talk => VoiceSenderConfig::default(),
        VoicePreset::LowLatency => VoiceSenderConfig::low_latency(),
        VoicePreset::LowBandwidth => VoiceSenderConfig::low_bandwidth(),
        VoicePreset::Music => VoiceSenderConfig::music(),
    };
    let mut voice = Voice::default();
    if args.voice == VoicePreset::LowLatency {
        voice = voice.low_latency();
    }
    voice = voice.sender(match args.open_mic {
        true => sender.with_activation(Activation::Always),
        false => sender,
    });
    if let Some(file) = &args.say {
        voice = voice.say(Clip::open(file)?.looped(args.looped));
    }
    if let Some(directory) = &args.record {
        voice = voice.record(directory);
    }
    #[cfg(feature = "audio")]
    if args.audio {
        voice = voice.devices();
        if let Some(input) = &args.input {
            voice = voice.input(input);
        }
        if let Some(output) = &args.output {
            voice = voice.output(output);
        }
    }
    #[cfg(not(feature = "audio"))]
    if args.audio {
        return Err(CliError::NoAudio);
    }
    Ok(voice)
}

/// A joined room and what is remembered about it.
struct Member<E> {
    room: Room,
    events: E,
    report: Report,
    pen: Pen,
    echo: bool,
    started: u64,
    applied: u64,
    last_applied: u64,
    foreign_command: bool,
    may_edit: bool,
    /// Whether each peer that was ever heard speaks now.
    voices: HashMap<PeerId, bool>,
}

impl<E: futures_util::Stream<Item = Event> + Unpin> Member<E> {
    fn since_start_ms(&self) -> f64 {
        millis(unix_us().saturating_sub(self.started))
    }

    fn joined(&self) {
        let peer = self.room.peer();
        let fields = json!({ "peer": peer.as_str(), "author": self.room.author().to_string(),
            "ms": self.since_start_ms() });
        self.report
            .event("joined", fields, Some(format!("joined as {peer}")));
    }

    async fn take_part(&mut self, rate: f64, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let period = if rate > 0.0 { 1.0 / rate } else { 3600.0 };
        let mut stroke = tokio::time::interval(Duration::from_secs_f64(period));
        stroke.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut resting_until = clock::now();
        loop {
            tokio::select! {
                () = &mut stop => return,
                event = self.events.next() => match event {
                    Some(event) => self.event(event).await,
                    None => return,
                },
                now = stroke.tick(), if rate > 0.0 && self.may_edit => if now >= resting_until {
                    resting_until = now + self.draw().await;
                },
                _ = second.tick() => self.every_second().await,
            }
        }
    }

    /// Submits the next command; says how long to rest.
    async fn draw(&mut self) -> Duration {
        match self.room.submit([self.pen.next()]).await {
            Ok(()) => Duration::ZERO,
            Err(SubmitError::RateLimited { retry_after }) => retry_after,
            Err(error) => {
                tracing::error!(%error, "drawing stopped");
                Duration::from_secs(3600)
            }
        }
    }

    /// Listens on until nothing new has come for a while.
    async fn settle(&mut self) {
        let deadline = clock::now() + SETTLE;
        self.last_applied = unix_us();
        while clock::now() < deadline {
            let quiet = Duration::from_micros(unix_us().saturating_sub(self.last_applied));
            let Some(rest) = QUIET.checked_sub(quiet).filter(|rest| !rest.is_zero()) else {
                return;
            };
            match tokio::time::timeout(rest, self.events.next()).await {
                Ok(Some(event)) => self.event(event).await,
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::RoomKnown {
                genesis,
                verified,
                created,
            } => {
                let invite = self.room.invite().await.to_string();
                let fields = json!({ "genesis": genesis.to_string(), "verified": verified,
                    "created": created, "invite": invite });
                self.report
                    .event("room", fields, Some(format!("invite: {invite}")));
            }
            Event::MayEdit(may_edit) => self.may_edit = may_edit,
            Event::Connected {
                peer,
                transport,
                author,
                opened_after,
                ready_after,
            } => {
                let (ms, ready_ms) = (duration_ms(opened_after), duration_ms(ready_after));
                let (transport, guest) = (transport.name(), author.is_none());
                let fields = json!({ "peer": peer.as_str(), "transport": transport, "ms": ms,
                    "ready_ms": ready_ms, "guest": guest });
                let kind = if guest { " (guest)" } else { "" };
                let words = format!("{peer}{kind} connected over {transport} in {ms:.0} ms");
                self.report.event("connected", fields, Some(words));
            }
            Event::Disconnected { peer, code } => {
                let fields = json!({ "peer": peer.as_str(), "reason": code.name() });
                self.report
                    .event("disconnected", fields, Some(format!("{peer} left: {code}")));
            }
            Event::Applied(applied) => self.applied(&applied),
            Event::Message {
                peer,
                channel,
                payload,
            } => {
                self.message(&peer, channel, payload).await;
            }
            Event::Speaking { peer, speaking } => self.speaking(peer, speaking),
            Event::CaptureStarted { at } => {
                let fields = json!({ "unix_us": at.as_micros() });
                self.report.event("speaking_started", fields, None);
            }
            Event::RecordingStarted { peer, at, path } => {
                let fields = json!({ "peer": peer.as_ref().map(PeerId::as_str),
                    "unix_us": at.as_micros(), "path": path });
                self.report.event("recording_started", fields, None);
            }
            #[cfg(feature = "audio")]
            Event::Device { direction, state } => {
                let (fields, words) = devices::told(direction, &state);
                self.report.event("device", fields, Some(words));
            }
            other => self.trouble(&other),
        }
    }

    /// What is worth a line, but needs nothing done.
    fn trouble(&self, event: &Event) {
        let (name, fields, words) = match event {
            Event::LinkFailed {
                peer,
                transport,
                reason,
            } => (
                "link_failed",
                json!({ "peer": peer.as_str(), "transport": transport.name(), "reason": reason }),
                format!("no {} link to {peer}: {reason}", transport.name()),
            ),
            Event::Refused { peer, code, reason } => (
                "refused",
                json!({ "peer": peer.as_str(), "code": code.0, "reason": reason }),
                format!("{peer} was refused: {reason}"),
            ),
            Event::NotSigned { action, reason } => (
                "not_signed",
                json!({ "kind": board::kind(action), "reason": reason.to_string() }),
                format!("a command was not signed: {reason}"),
            ),
            Event::Misbehaved { peer, author, code } => (
                "misbehaved",
                json!({ "peer": peer.as_str(), "author": author.map(|author| author.to_string()), "code": code }),
                match author {
                    Some(author) => format!(
                        "{author} has signed a frame that breaks a rule (code {code}); {peer} sent it"
                    ),
                    None => format!("{peer} sent a frame that no honest peer sends (code {code})"),
                },
            ),
            Event::Forked(proof) => (
                "forked",
                json!({ "author": proof.author().to_string(), "after": proof.after() }),
                format!(
                    "two copies of {} have signed: what it wrote after command {} does not count",
                    proof.author(),
                    proof.after()
                ),
            ),
            Event::SnapshotTooLong { peer, len, max } => (
                "snapshot_too_long",
                json!({ "peer": peer.as_ref().map(PeerId::as_str), "bytes": len, "most": max }),
                format!("the room's state has {len} bytes: nobody can join with more than {max}"),
            ),
            Event::SignalingLost => (
                "signaling_lost",
                json!({}),
                "signaling is away; links stay up".to_owned(),
            ),
            Event::SignalingResumed => (
                "signaling_resumed",
                json!({}),
                "signaling is back".to_owned(),
            ),
            Event::SignalingEnded => (
                "signaling_ended",
                json!({}),
                "signaling has ended; links stay up".to_owned(),
            ),
            Event::Lagged(missed) => (
                "lagged",
                json!({ "missed": missed }),
                format!("{missed} events were missed"),
            ),
            _ => return,
        };
        self.report.event(name, fields, Some(words));
    }

    fn applied(&mut self, applied: &Applied) {
        self.applied += 1;
        self.last_applied = unix_us();
        if !self.foreign_command && applied.author != self.room.author() {
            self.foreign_command = true;
            let fields = json!({ "ms": self.since_start_ms(),
                "author": applied.author.to_string(), "kind": board::kind(&applied.action) });
            self.report.event("first_command", fields, None);
        }
    }

    async fn message(&self, peer: &PeerId, channel: Channel, payload: Payload) {
        let (text, len) = match &payload {
            Payload::Text(text) => (Some(text.clone()), text.len()),
            Payload::Binary(bytes) => (None, bytes.len()),
            Payload::Media(_) | Payload::Clock(_) => return,
        };
        let words = match &text {
            Some(text) => format!("{peer}: {text}"),
            None => format!("{peer} sent {len} bytes"),
        };
        let fields = json!({ "peer": peer.as_str(), "channel": channel.name(), "text": text,
            "bytes": len });
        self.report.event("message", fields, Some(words));
        if self.echo
            && channel == Channel::App
            && let Err(error) = self.room.send(peer, payload).await
        {
            tracing::warn!(%error, "an echo was not sent");
        }
    }

    fn speaking(&mut self, peer: PeerId, speaking: bool) {
        if !self.voices.contains_key(&peer) {
            let fields = json!({ "peer": peer.as_str(), "ms": self.since_start_ms() });
            self.report
                .event("first_voice", fields, Some(format!("{peer} speaks")));
        }
        self.voices.insert(peer, speaking);
    }

    async fn every_second(&mut self) {
        let fields = json!({ "total": self.applied });
        self.report.event("applied", fields, None);
        for status in self.room.peers().await {
            for (kind, stats) in &status.links {
                let path = stats.path.map(|path| path.to_string());
                let fields = json!({ "peer": status.peer.as_str(), "transport": kind.name(),
                    "path": path, "rtt_ms": stats.rtt.map(duration_ms), "loss": stats.loss });
                self.report.event("link", fields, None);
            }
        }
        let Some(voice) = self.room.voice() else {
            return;
        };
        for speaker in &voice.diagnostics().speakers {
            let (peer, stats) = (&speaker.peer, &speaker.stats);
            let latency: HashMap<_, _> = speaker.latency.stages().into_iter().collect();
            let fields = json!({ "peer": peer.as_str(), "packets": stats.packets,
                "lost": stats.lost, "late": stats.late, "concealed": stats.concealed,
                "jitter_ms": stats.jitter_ms, "delay_ms": stats.delay_ms,
                "latency_ms": latency, "speaking": self.voices.get(peer) });
            self.report.event("voice", fields, None);
        }
    }
}

/// Waits a little for what is still on its way out, and counts what stays.
async fn vanished(census: Census) -> Census {
    let deadline = clock::now() + VANISH;
    loop {
        let left = census.since();
        let clean = left.tasks == 0 && left.sockets.unwrap_or(0) == 0;
        if clean || clock::now() >= deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn summarise(report: Report, summary: Option<&Summary>, left: Census) {
    let Some(summary) = summary else { return };
    let hash = summary.state_hash.map(|hash| hash.to_string());
    let links: Vec<Value> = summary
        .peers
        .iter()
        .flat_map(|status| {
            let peer = status.peer.as_str();
            status.links.iter().map(move |(kind, stats)| {
                let path = stats.path.map(|path| path.to_string());
                json!({ "peer": peer, "transport": kind.name(), "path": path })
            })
        })
        .collect();
    let fields = json!({ "state_hash": hash,
        "commands": summary.commands, "frames": summary.frames, "links": links,
        "tasks_left": left.tasks, "sockets_left": left.sockets });
    let words = format!(
        "left with {} commands in {} frames; state {}",
        summary.commands,
        summary.frames,
        hash.unwrap_or_else(|| "unknown".into())
    );
    report.event("summary", fields, Some(words));
}

fn millis(micros: u64) -> f64 {
    duration_ms(Duration::from_micros(micros))
}

fn duration_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
