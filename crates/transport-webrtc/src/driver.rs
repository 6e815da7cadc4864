//! The task of one link: owns the sockets and the peer, and moves packets, frames and time.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use roundtable_core::{Channel, ChannelBinding, Clock, CloseCode};
use roundtable_signaling_protocol::IceCandidate;
use roundtable_transport::{Closed, SystemClock};
use rtc::peer_connection::transport::RTCIceCandidateInit;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    ConnectError, ServerError, WebRtcConfig,
    bandwidth::Bandwidth,
    gather::{Gathering, Reach},
    interfaces,
    media::Codecs,
    multicast::Multicast,
    outbox::{Fate, Outbound, Outbox},
    peer::{Event, Peer},
    shared::Shared,
    socket::Sockets,
    stream::{StreamEvent, Streams},
    tcp::{Tcp, TcpEvent},
};

/// How long a close waits for reliable channels to be delivered.
const FLUSH: Duration = Duration::from_secs(1);
/// How long a close waits for the peer to hear why.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long TURN servers may take to hear that their relays are free again.
const RELEASE: Duration = Duration::from_millis(100);
/// Commands taken between two looks at the network.
const COMMAND_BATCH: usize = 256;

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Send(Outbound),
    Candidate(RTCIceCandidateInit),
    /// The peer's answer to our offer, and who wants to know whether it will do.
    Answer(String, oneshot::Sender<Result<(), ConnectError>>),
    Restart(Restarting),
    Close(Closed),
}

/// An ICE restart that is asked for.
#[derive(Debug)]
pub(crate) struct Restarting {
    /// Which addresses and servers to use.
    pub(crate) config: Box<WebRtcConfig>,
    /// The peer's offer, if it began.
    pub(crate) offer: Option<String>,
    /// Where our candidates go.
    pub(crate) candidates: mpsc::Sender<IceCandidate>,
    /// Where our description goes.
    pub(crate) reply: oneshot::Sender<Result<String, ConnectError>>,
}

/// How far a negotiation has come.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    Opening,
    Open(ChannelBinding, Codecs),
    Failed(ConnectError),
}

/// Where the link is in its life.
enum Phase {
    Opening,
    Open,
    /// Closing here: reliable channels are being delivered.
    Flushing {
        until: Instant,
        closed: Closed,
    },
    /// Closing here: the peer has been told, and tears the connection down when it has read so.
    Farewell {
        until: Instant,
    },
    Done,
}

/// When a link gives up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) open_by: Instant,
    pub(crate) open_timeout: Duration,
    pub(crate) lost_after: Duration,
}

pub(crate) struct Driver {
    pub(crate) peer: Peer,
    pub(crate) sockets: Sockets,
    tcp: Tcp,
    streams: Streams,
    /// While names are asked or answered for; `Err` where the system has no multicast.
    multicast: Option<Result<Multicast, io::ErrorKind>>,
    pub(crate) outbox: Outbox,
    bandwidth: Bandwidth,
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    commands: mpsc::UnboundedReceiver<Command>,
    progress: watch::Sender<Progress>,
    /// Where our candidates go, until the last is known.
    candidates: Option<mpsc::Sender<IceCandidate>>,
    phase: Phase,
}

/// The link's clock.
pub(crate) fn now() -> Instant {
    SystemClock::instant(SystemClock.now())
}

impl Driver {
    pub(crate) fn new(
        (mut peer, sockets, tcp, mut streams): (Peer, Sockets, Tcp, Streams),
        in_flight: usize,
        shared: Arc<Shared>,
        limits: Limits,
        commands: mpsc::UnboundedReceiver<Command>,
        (progress, candidates): (watch::Sender<Progress>, mpsc::Sender<IceCandidate>),
    ) -> Self {
        reach_servers(&mut peer, &sockets, &mut streams);
        let candidates = (!peer.has_gathered()).then_some(candidates);
        Self {
            peer,
            sockets,
            tcp,
            streams,
            multicast: None,
            outbox: Outbox::new(in_flight),
            bandwidth: Bandwidth::default(),
            shared,
            limits,
            commands,
            progress,
            candidates,
            phase: Phase::Opening,
        }
    }

    /// Runs until the link is closed; then nothing of it is left.
    pub(crate) async fn run(mut self) {
        loop {
            self.settle().await;
            if matches!(self.phase, Phase::Done) {
                break;
            }
            self.wait().await;
        }
        self.peer.close(now());
        self.send().await;
        tokio::join!(self.streams.finish(RELEASE), self.tcp.finish(RELEASE));
    }

    async fn send(&mut self) {
        self.sockets.send(self.peer.transmits()).await;
        for packet in self.peer.tcp_transmits().drain(..) {
            self.tcp.send(packet);
        }
        self.send_multicasts();
        for (id, message) in self.peer.stream_transmits().drain(..) {
            self.streams.send(id, message);
        }
        for id in self.peer.unused_streams().drain(..) {
            self.streams.close(id);
        }
    }

    fn send_multicasts(&mut self) {
        let Some(packets) = self.peer.multicasts() else {
            self.multicast = None;
            return;
        };
        if self.sockets.is_foreign() {
            packets.clear();
            return;
        }
        let multicast = self.multicast.get_or_insert_with(|| {
            let addresses = self.sockets.locals().map(|local| local.ip());
            Multicast::join(addresses).map_err(|error| {
                tracing::debug!(%error, "no multicast DNS: .local candidates are not looked up");
                error.kind()
            })
        });
        for packet in packets.drain(..) {
            if let Ok(multicast) = multicast {
                multicast.send(&packet);
            }
        }
    }

    /// Works until nothing more comes of it: an event may queue packets, a packet may cause events.
    async fn settle(&mut self) {
        let mut has_waited = false;
        loop {
            let mut progress = self.peer.read(now(), self.room());
            let mut delivered = false;
            while let Some(event) = self.peer.poll_event() {
                progress = true;
                delivered |= matches!(event, Event::Frame(_));
                self.on_event(event);
            }
            if delivered && !has_waited {
                // Whoever reads may have an answer: then that and the acknowledgement are one system call, and wake the
                // peer once.
                has_waited = true;
                tokio::task::yield_now().await;
                self.take_commands();
            }
            let now = now();
            let shared = &self.shared;
            self.outbox
                .pump(&mut self.peer, now, |fate| account(shared, fate));
            progress |= self.peer.write(now);
            self.send().await;
            progress |= self.advance(now);
            if matches!(self.phase, Phase::Done) {
                return;
            }
            if self.peer.poll_timeout().is_some_and(|due| due <= now) {
                self.peer.handle_timeout(now);
                progress = true;
            }
            if !progress {
                break;
            }
        }
        self.measure(now());
    }

    /// Writes down how the link does.
    fn measure(&mut self, now: Instant) {
        let mut stats = self.shared.stats();
        if self.bandwidth.is_due(now) {
            let handed = Channel::DATA.map(|channel| stats.channel(channel).sent_bytes);
            let waiting = Channel::DATA.map(|channel| self.peer.outstanding(channel));
            let waiting = u64::try_from(waiting.iter().sum::<usize>()).unwrap_or(u64::MAX);
            let handed = handed
                .iter()
                .fold(0_u64, |sum, bytes| sum.wrapping_add(*bytes));
            self.bandwidth.sample(now, handed, waiting);
        }
        self.peer.measurements().fill(now, &mut stats);
        stats.bandwidth = self.bandwidth.estimate();
    }

    /// How many data messages may be read. While closing here they are read and dropped, or the
    /// peer could not finish.
    fn room(&self) -> usize {
        match self.phase {
            Phase::Opening | Phase::Open => self.shared.inbox.room(),
            _ => usize::MAX,
        }
    }

    fn on_event(&mut self, event: Event) {
        match (event, &self.phase) {
            (Event::LocalCandidate(candidate), _) => self.trickle(candidate),
            (Event::NoRelay, Phase::Opening) => {
                self.fail(ConnectError::NoRelay(self.peer.failures()));
            }
            (Event::Opened, Phase::Opening) => {
                self.tcp.keep(self.peer.tcp_way());
                self.opened();
            }
            (Event::Moved, Phase::Open) => self.tcp.keep(self.peer.tcp_way()),
            (Event::Frame(frame), Phase::Opening | Phase::Open) => self.shared.deliver(frame),
            (Event::Dropped(channel), _) => self.shared.count_dropped(channel),
            (Event::Closed(closed), Phase::Open) => {
                self.read_the_rest();
                self.end(closed);
            }
            (Event::Closed(..) | Event::Failed, Phase::Opening) => {
                self.fail(ConnectError::Handshake);
            }
            (Event::Closed(..), _) => self.phase = Phase::Done,
            (Event::Violation(code), Phase::Open) => {
                tracing::warn!(%code, "the peer broke the link protocol");
                self.start_closing(Closed::new(code, "", false));
            }
            (Event::Failed, Phase::Open) => self.lose(),
            (Event::Failed, _) => self.phase = Phase::Done,
            _ => {}
        }
    }

    fn opened(&mut self) {
        if let Some(binding) = self.peer.binding() {
            self.phase = Phase::Open;
            // Whoever is told may ask at once by which path.
            self.measure(now());
            let codecs = self.peer.codecs().clone();
            self.progress.send_replace(Progress::Open(binding, codecs));
        }
    }

    fn trickle(&mut self, candidate: IceCandidate) {
        let is_end = candidate.is_end();
        if let Some(candidates) = &self.candidates {
            // Full if nobody asks for them; gone if nobody will.
            let _ = candidates.try_send(candidate);
        }
        if is_end {
            self.candidates = None;
        }
    }

    /// The peer has delivered everything before it said goodbye, perhaps more than the inbox wants:
    /// at most what SCTP's receive window held.
    fn read_the_rest(&mut self) {
        while self.peer.step(now(), usize::MAX) {}
        while let Some(event) = self.peer.poll_event() {
            if let Event::Frame(frame) = event {
                self.shared.deliver(frame);
            }
        }
    }

    /// Moves on to the next phase when it is time. Whether there is something to send now.
    fn advance(&mut self, now: Instant) -> bool {
        match &self.phase {
            Phase::Opening if now >= self.limits.open_by => {
                let (after, servers) = (self.limits.open_timeout, self.peer.failures());
                self.fail(if servers.0.is_empty() {
                    ConnectError::Timeout(after)
                } else {
                    ConnectError::Unreachable { after, servers }
                });
            }
            Phase::Open if now >= self.peer.last_heard() + self.limits.lost_after => self.lose(),
            Phase::Flushing { until, closed }
                if now >= *until || self.outbox.is_flushed(&mut self.peer) =>
            {
                self.peer.say_goodbye(now, closed);
                self.phase = Phase::Farewell {
                    until: now + FAREWELL,
                };
                return true;
            }
            Phase::Farewell { until } if now >= *until => self.phase = Phase::Done,
            _ => {}
        }
        false
    }

    fn fail(&mut self, error: ConnectError) {
        self.progress.send_replace(Progress::Failed(error));
        self.phase = Phase::Done;
    }

    fn lose(&mut self) {
        self.end(Closed::new(CloseCode::LOST, "", false));
    }

    fn end(&mut self, closed: Closed) {
        self.shared.close(closed);
        self.phase = Phase::Done;
    }

    /// Closes from this side: no more frames are taken or handed up.
    fn start_closing(&mut self, closed: Closed) {
        match self.phase {
            Phase::Opening => self.fail(ConnectError::Abandoned),
            Phase::Open => {
                self.shared.close(closed.clone());
                let until = now() + FLUSH;
                self.phase = Phase::Flushing { until, closed };
            }
            _ => {}
        }
    }

    /// Waits for a packet, a command, a deadline, or room in the inbox.
    async fn wait(&mut self) {
        let deadline = tokio::time::Instant::from_std(self.deadline());
        let is_full = self.room() == 0;
        let is_closing = self.is_closing();
        // In an order, so that a simulation repeats; whatever came first, the network is looked at below.
        tokio::select! {
            biased;
            command = self.commands.recv(), if !is_closing => self.on_commands(command),
            event = self.streams.next() => self.on_stream(event),
            event = self.tcp.next() => self.on_tcp(event),
            () = multicast_readable(self.multicast.as_ref()) => {
                if let Some(Ok(multicast)) = &self.multicast {
                    multicast.receive(|from, packet| {
                        self.peer.handle_multicast(now(), from, packet);
                    });
                }
            }
            ready = self.sockets.readable() => if let Err(error) = ready {
                tracing::warn!(%error, "socket");
                self.lose();
                return;
            },
            () = tokio::time::sleep_until(deadline) => {}
            () = self.shared.inbox.freed(), if is_full => {}
        }
        if let Some(event) = self.streams.try_next() {
            self.on_stream(event);
        }
        if let Some(event) = self.tcp.try_next() {
            self.on_tcp(event);
        }
        self.sockets
            .receive(|packet| self.peer.handle_datagram(now(), packet));
    }

    /// Takes what a connection brought and what has come behind it.
    fn on_stream(&mut self, first: StreamEvent) {
        let mut next = Some(first);
        for _ in 0..COMMAND_BATCH {
            match next {
                Some(StreamEvent::Reached(index, reach)) => self.peer.reached(now(), index, reach),
                Some(StreamEvent::Message(id, message)) => {
                    self.peer.handle_stream(now(), id, message);
                }
                Some(StreamEvent::Closed(id)) => self.peer.stream_closed(now(), id),
                None => return,
            }
            next = self.streams.try_next();
        }
    }

    /// Takes what came over TCP from a peer, and what has come behind it.
    fn on_tcp(&mut self, first: TcpEvent) {
        let mut next = Some(first);
        for _ in 0..COMMAND_BATCH {
            let Some(event) = next else {
                return;
            };
            if let Some(packet) = self.tcp.on_event(event) {
                self.peer.handle_datagram(now(), packet);
            }
            next = self.tcp.try_next();
        }
    }

    fn on_restart(&mut self, restarting: Restarting) {
        let Restarting {
            config,
            offer,
            candidates,
            reply,
        } = restarting;
        let result = match (&self.phase, offer) {
            (Phase::Open, Some(offer)) if !self.peer.is_restart(&offer) => {
                Err(ConnectError::NoRestart)
            }
            (Phase::Open, offer) => {
                let judged = offer
                    .as_deref()
                    .map_or(Ok(()), |offer| Peer::judge(now(), offer));
                judged.and_then(|()| self.move_to_new_sockets(&config, offer, candidates))
            }
            _ => Err(ConnectError::Abandoned),
        };
        // Whoever asked may have gone; then the link is lost, unless it is asked again.
        let _ = reply.send(result);
    }

    /// Leaves the old sockets for new ones, bound to what addresses there are now.
    fn move_to_new_sockets(
        &mut self,
        config: &WebRtcConfig,
        offer: Option<String>,
        candidates: mpsc::Sender<IceCandidate>,
    ) -> Result<String, ConnectError> {
        let sockets = interfaces::bind(config)?;
        let now = now();
        let mut gathering = Gathering::new(config, now, sockets.locals().collect());
        let mut tcp = Tcp::listen(config, sockets.locals());
        tcp.succeed(&self.tcp);
        gathering.listen(tcp.listening());
        let names = interfaces::names(config, &sockets)?;
        self.peer.release(now);
        self.peer.hide(names);
        (self.tcp, self.multicast) = (tcp, None);
        let mut left: VecDeque<_> = self.peer.transmits().drain(..).collect();
        let messages: Vec<_> = self.peer.stream_transmits().drain(..).collect();
        let mut old = std::mem::replace(&mut self.sockets, sockets);
        let streams = Streams::new(config.trusted.clone());
        let mut old_streams = std::mem::replace(&mut self.streams, streams);
        tokio::spawn(async move {
            for (id, message) in messages {
                old_streams.send(id, message);
            }
            // A socket without a network may not take them.
            let _ = tokio::time::timeout(RELEASE, old.send(&mut left)).await;
            old_streams.finish(RELEASE).await;
        });
        let description = match offer {
            None => self.peer.restart(now, gathering),
            Some(offer) => self.peer.answer_restart(now, gathering, &offer),
        }?;
        self.candidates = (!self.peer.has_gathered()).then_some(candidates);
        reach_servers(&mut self.peer, &self.sockets, &mut self.streams);
        Ok(description)
    }

    fn deadline(&mut self) -> Instant {
        let phase = match &self.phase {
            Phase::Opening => self.limits.open_by,
            Phase::Open => self.peer.last_heard() + self.limits.lost_after,
            Phase::Flushing { until, .. } | Phase::Farewell { until } => *until,
            Phase::Done => now(),
        };
        self.peer.poll_timeout().map_or(phase, |due| due.min(phase))
    }

    /// Takes a command and those that wait behind it. `None` means that every handle is gone.
    fn on_commands(&mut self, first: Option<Command>) {
        let all_gone = || Command::Close(Closed::new(CloseCode::NORMAL, "", false));
        self.on_command(first.unwrap_or_else(all_gone));
        self.take_commands();
    }

    /// Takes the commands that wait, unless the link is being closed.
    fn take_commands(&mut self) {
        for _ in 1..COMMAND_BATCH {
            if self.is_closing() {
                return;
            }
            let Ok(next) = self.commands.try_recv() else {
                return;
            };
            self.on_command(next);
        }
    }

    fn is_closing(&self) -> bool {
        !matches!(self.phase, Phase::Opening | Phase::Open)
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Send(outbound) => self.outbox.push(outbound),
            Command::Candidate(candidate) => self.peer.add_remote_candidate(candidate),
            Command::Restart(restarting) => self.on_restart(restarting),
            Command::Answer(sdp, reply) => {
                let result = self.peer.accept_answer(now(), &sdp);
                if let (Err(error), Phase::Opening) = (&result, &self.phase) {
                    self.fail(error.clone());
                }
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
            Command::Close(closed) => self.start_closing(closed),
        }
    }
}

/// Finds out how to reach the servers; over another network than the system's there is no way.
fn reach_servers(peer: &mut Peer, sockets: &Sockets, streams: &mut Streams) {
    let servers: Vec<_> = peer.servers().collect();
    for (index, server) in servers {
        if sockets.is_foreign() {
            peer.reached(now(), index, Reach::Failed(ServerError::Unsupported));
        } else {
            streams.reach(index, server);
        }
    }
}

/// Waits until multicast DNS has something to read.
async fn multicast_readable(multicast: Option<&Result<Multicast, io::ErrorKind>>) {
    match multicast {
        // An error shows when it is read.
        Some(Ok(multicast)) => drop(multicast.readable().await),
        _ => std::future::pending().await,
    }
}

fn account(shared: &Shared, fate: Fate) {
    match fate {
        Fate::Sent(channel, len) => shared.count(channel, |stats| {
            stats.sent_frames = stats.sent_frames.wrapping_add(1);
            let bytes = u64::try_from(len).unwrap_or(u64::MAX);
            stats.sent_bytes = stats.sent_bytes.wrapping_add(bytes);
        }),
        Fate::Dropped(channel) => shared.count_dropped(channel),
    }
}

impl Drop for Driver {
    /// Also when the runtime goes away: nobody may wait for ever.
    fn drop(&mut self) {
        self.shared.close(Closed::new(CloseCode::LOST, "", false));
    }
}
