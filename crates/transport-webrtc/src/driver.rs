//! The task of one link: owns the sockets and the peer, and moves packets, frames and time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use roundtable_core::{Clock, CloseCode};
use roundtable_transport::{Closed, SystemClock};
use rtc::peer_connection::transport::RTCIceCandidateInit;
use tokio::sync::{mpsc, watch};

use crate::{
    ConnectError,
    outbox::{Fate, Outbound, Outbox},
    peer::{Event, Peer},
    shared::Shared,
    socket::Sockets,
};

/// How long a close waits for reliable channels to be delivered.
const FLUSH: Duration = Duration::from_secs(1);
/// How long a close waits for the peer to hear why.
const FAREWELL: Duration = Duration::from_millis(250);
/// Commands taken between two looks at the network.
const COMMAND_BATCH: usize = 256;

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Send(Outbound),
    Candidate(RTCIceCandidateInit),
    Close(Closed),
}

/// How far a negotiation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Opening,
    Open,
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
    pub(crate) outbox: Outbox,
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    commands: mpsc::UnboundedReceiver<Command>,
    progress: watch::Sender<Progress>,
    phase: Phase,
}

/// The link's clock.
pub(crate) fn now() -> Instant {
    SystemClock::instant(SystemClock.now())
}

impl Driver {
    pub(crate) fn new(
        (peer, sockets): (Peer, Sockets),
        in_flight: usize,
        shared: Arc<Shared>,
        limits: Limits,
        commands: mpsc::UnboundedReceiver<Command>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        Self {
            peer,
            sockets,
            outbox: Outbox::new(in_flight),
            shared,
            limits,
            commands,
            progress,
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
        self.sockets.send(self.peer.transmits()).await;
    }

    /// Works until nothing more comes of it: an event may queue packets, a packet may cause events.
    async fn settle(&mut self) {
        loop {
            let now = now();
            let shared = &self.shared;
            self.outbox
                .pump(&mut self.peer, now, |fate| account(shared, fate));
            let mut progress = self.peer.step(now, self.room());
            self.sockets.send(self.peer.transmits()).await;
            while let Some(event) = self.peer.poll_event() {
                progress = true;
                self.on_event(event);
            }
            self.advance(now);
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
        self.peer.measurements().fill(&mut self.shared.stats());
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
            (Event::Opened, Phase::Opening) => {
                self.phase = Phase::Open;
                self.progress.send_replace(Progress::Open);
            }
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

    /// Moves on to the next phase when it is time.
    fn advance(&mut self, now: Instant) {
        match &self.phase {
            Phase::Opening if now >= self.limits.open_by => {
                self.fail(ConnectError::Timeout(self.limits.open_timeout));
            }
            Phase::Open if now >= self.peer.last_heard() + self.limits.lost_after => self.lose(),
            Phase::Flushing { until, closed }
                if now >= *until || self.outbox.is_flushed(&mut self.peer) =>
            {
                self.peer.say_goodbye(now, closed);
                self.phase = Phase::Farewell {
                    until: now + FAREWELL,
                };
            }
            Phase::Farewell { until } if now >= *until => self.phase = Phase::Done,
            _ => {}
        }
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
        let is_closing = !matches!(self.phase, Phase::Opening | Phase::Open);
        tokio::select! {
            ready = self.sockets.readable() => match ready {
                Ok(()) => self.sockets.receive(|packet| self.peer.handle_datagram(now(), packet)),
                Err(error) => {
                    tracing::warn!(%error, "socket");
                    self.lose();
                }
            },
            command = self.commands.recv(), if !is_closing => self.on_commands(command),
            () = tokio::time::sleep_until(deadline) => {}
            () = self.shared.inbox.freed(), if is_full => {}
        }
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
        for _ in 1..COMMAND_BATCH {
            let Ok(next) = self.commands.try_recv() else {
                return;
            };
            self.on_command(next);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Send(outbound) => self.outbox.push(outbound),
            Command::Candidate(candidate) => self.peer.add_remote_candidate(candidate),
            Command::Close(closed) => self.start_closing(closed),
        }
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
