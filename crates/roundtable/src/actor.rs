//! The task that owns a room: its session, links, negotiations and disk.
//!
//! Everything comes in through channels, is put to the session, and what the session wants done is
//! done before the next thing is looked at. Nothing else touches this state.

mod signaling;
mod status;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::{Action, Entry, Head, Key, Role, Stable};
use roundtable_core::{
    AuthorId, Channel, Clock, CloseCode, Frame, PeerId, Timestamp, TransportKind,
};
use roundtable_log_store::{Claims, Culprit, Refusal, StoreError};
use roundtable_session::{
    Event as SessionEvent, Input, InputError, LinkId, LinkInfo, Now, Output, Recipient, Session,
    Side,
};
use roundtable_signaling_client::{EventStream, SignalingClient};
use roundtable_signaling_protocol::Joined;
use roundtable_transport::{Closed, Link, SystemClock};
use roundtable_transport_quic::QuicEndpoint;
use tokio::sync::{mpsc, oneshot};

use crate::{
    CommandTransport, ConnectionQuality, Event, PeerStatus, SubmitError, Summary, backlog,
    links::{FromLink, Gone, Links},
    mesh::{Mesh, MeshRequest},
    negotiation::Negotiated,
    network::Network,
    peers::{Attempts, Outcome},
    reconnect::Due,
    store::Durable,
    telling::Teller,
    voice::{self, FromVoice, Listeners, RoomVolumes, ToVoice, VoiceTask},
};

pub(crate) use watch::Watch;

/// How long signaling is asked for urgently once it is lost: a newcomer may have been announced that moment, who waits for this peer.
const NEWCOMER: Duration = Duration::from_secs(5);

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Request {
    Submit(Vec<Action>, oneshot::Sender<Result<(), SubmitError>>),
    /// One step back, or forth again.
    Undo(oneshot::Sender<Result<bool, SubmitError>>),
    Redo(oneshot::Sender<Result<bool, SubmitError>>),
    SetRole(AuthorId, Role, oneshot::Sender<Result<bool, SubmitError>>),
    /// Lets the branch of a forked author count that this peer had followed.
    Restore(AuthorId, Role, oneshot::Sender<Result<bool, SubmitError>>),
    ProposeCheckpoint(oneshot::Sender<Result<(), SubmitError>>),
    Retire(AuthorId, oneshot::Sender<Result<(), SubmitError>>),
    Checkpoint(oneshot::Sender<Option<Stable>>),
    Mesh(MeshRequest),
    Get(Key, oneshot::Sender<Option<Bytes>>),
    Entries(u16, oneshot::Sender<Vec<(Key, Bytes)>>),
    EntriesSince(Vec<Head>, oneshot::Sender<(Vec<Entry>, Vec<Head>)>),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Summary(oneshot::Sender<Summary>),
    Metrics(oneshot::Sender<String>),
    Quality(PeerId, oneshot::Sender<Option<ConnectionQuality>>),
    QualityHistory(PeerId, oneshot::Sender<Vec<ConnectionQuality>>),
    NetworkChanged,
    Leave,
}

/// Everything the task owns.
pub(crate) struct Actor {
    pub(crate) clock: SystemClock,
    pub(crate) session: Session,
    pub(crate) signaling: SignalingClient,
    pub(crate) signals: EventStream,
    pub(crate) links: Links,
    pub(crate) watch: Watch,
    pub(crate) inbox: mpsc::Receiver<FromLink>,
    pub(crate) attempts: Attempts,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) events: Teller,
    pub(crate) durable: Durable,
    pub(crate) may_edit: bool,
    pub(crate) quic: Option<QuicEndpoint>,
    pub(crate) voice: Option<VoiceTask>,
    /// Links are to be moved to another network as soon as signaling is there.
    pub(crate) moving: bool,
    /// `None` if the application says when the network changes.
    pub(crate) network: Option<Network>,
    /// This peer's own key.
    pub(crate) author: AuthorId,
    pub(crate) mesh: Mesh,
    /// Until when signaling is asked for urgently, whoever is silent or not.
    pub(crate) hurry_until: Option<Timestamp>,
}

impl Actor {
    /// Runs until every handle is gone, then leaves in good order.
    pub(crate) async fn run(mut self, joined: Joined, announced: Timestamp) {
        self.roster(&joined, announced);
        loop {
            self.carry_out();
            let now = self.clock.now();
            self.hurry_until = self.hurry_until.filter(|until| *until > now);
            let is_silent = self.attempts.probed().next().is_some();
            self.signaling
                .set_urgent(is_silent || self.hurry_until.is_some());
            let timer = tokio::time::sleep_until(self.deadline().into());
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Leave) | None => break,
                    Some(Request::NetworkChanged) => self.network_changed(),
                    Some(request) => self.request(request),
                },
                Some(message) = self.inbox.recv() => self.on_link(message),
                event = self.signals.next(), if !self.attempts.is_closed() => match event {
                    Some(event) => {
                        for event in backlog::with_ready(event, &mut self.signals) {
                            self.signaling_event(event);
                        }
                    }
                    None => self.attempts.close(),
                },
                Some(outcome) = self.attempts.finished() => self.negotiated(outcome),
                Some(voice) = from_voice(&mut self.voice) => self.on_voice(voice),
                Some((peer, len)) = self.mesh.next_read() => self.must(Input::Read { peer, len }),
                () = network_change(&mut self.network) => self.network_changed(),
                synced = self.durable.next() => self.synced(synced),
                () = timer => self.timeout(),
            }
        }
        self.leave().await;
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.clock.now(),
            wall: self.clock.wall(),
        }
    }

    fn deadline(&self) -> std::time::Instant {
        let hour = self.clock.now() + Duration::from_secs(3600);
        let is_linked = self.links.iter().next().is_some();
        let timers = [
            self.session.next_timeout(),
            self.attempts.next_retry(),
            Some(self.durable.next_keep()),
            is_linked.then(|| self.watch.next()),
            self.hurry_until,
        ];
        SystemClock::instant(timers.into_iter().flatten().min().unwrap_or(hour))
    }

    pub(crate) fn timeout(&mut self) {
        let now = self.now();
        let verified = self.session.verified();
        self.session.handle_timeout(now);
        self.tell_verified(verified, now);
        self.keep(now.mono);
        self.listen(now.mono);
        self.watch(now.mono);
        self.attempts.race(now.mono);
        for (peer, due) in self.attempts.due(now.mono) {
            match due {
                Due::Retry if !self.links.reaches(&peer) => self.attempts.retry(&peer, now.mono),
                Due::Retry => {}
                Due::Probe(made) => {
                    let open = self.links.webrtc_to(&peer).map(|(id, link)| {
                        let unanswered = self.session.misses_heartbeats(id);
                        (link.clone(), unanswered)
                    });
                    self.attempts.probe(&peer, made, open, now.mono);
                }
            }
        }
    }

    // --- silence -------------------------------------------------------------------------------

    /// Whether `peer` is admitted on a link on which it answers.
    fn hears(&self, peer: &PeerId) -> bool {
        self.answers(peer, |_| true)
    }

    /// Whether `peer` is admitted on such a link, and answers there.
    fn answers(&self, peer: &PeerId, by: impl Fn(&CommandTransport) -> bool) -> bool {
        let mut links = self.links.iter();
        links.any(|(id, link)| {
            let is_its = link.peer == *peer && link.admitted && by(&link.transport);
            is_its && !self.session.is_silent(id)
        })
    }

    /// Notices which peers have fallen silent, and which are heard again.
    fn listen(&mut self, now: Timestamp) {
        let heard: Vec<_> = self
            .attempts
            .probed()
            .filter(|p| self.hears(p))
            .cloned()
            .collect();
        for peer in heard {
            self.attempts.heard(&peer, now);
        }
        let silent = self.links.iter();
        let silent = silent.filter(|(id, link)| {
            self.session.is_silent(*id)
                && !self.attempts.is_probed(&link.peer)
                && !self.hears(&link.peer)
        });
        let silent: Vec<_> = silent
            .map(|(_, link)| (link.peer.clone(), link.offered_here))
            .collect();
        for (peer, offered_here) in silent {
            self.fell_silent(&peer, Some(offered_here), now);
        }
    }

    /// Probes a peer from now on. Signaling, on which that may depend, has most likely been cut off with it.
    fn fell_silent(&mut self, peer: &PeerId, offered_here: Option<bool>, now: Timestamp) {
        tracing::debug!(%peer, "silent");
        self.attempts.silent(peer, now, offered_here);
        self.signaling.set_urgent(true);
        self.signaling.hint_reconnect_now();
    }

    /// Signaling is lost while some peers are not linked: nothing comes of what was negotiated with them.
    fn signaling_lost(&mut self, now: Timestamp) {
        self.hurry_until = Some(now + NEWCOMER);
        for peer in self.attempts.wanted() {
            if !self.hears(&peer) && self.mesh.seeks(&peer) {
                self.fell_silent(&peer, None, now);
            }
        }
    }

    /// Puts what others have written into the store, if that is due.
    fn keep(&mut self, now: Timestamp) {
        if self.durable.next_keep() <= now {
            self.durable.keep(now, self.session.log());
        }
    }

    pub(crate) fn input(&mut self, input: Input) -> Result<(), InputError> {
        let (now, verified) = (self.now(), self.session.verified());
        let result = self.session.handle_input(now, input);
        self.tell_verified(verified, now);
        result
    }

    /// Tells the session, which has no clock, how long it took it to verify signatures, if it did.
    fn tell_verified(&mut self, before: u64, since: Now) {
        if self.session.verified() != before {
            let took = self.clock.now().saturating_since(since.mono);
            self.session.tell_verified(before, took);
        }
    }

    /// For inputs that only the room makes, and makes rightly.
    pub(crate) fn must(&mut self, input: Input) {
        if let Err(error) = self.input(input) {
            tracing::error!(%error, "the session refused an input of its own room");
        }
    }

    // --- what the session wants done -----------------------------------------------------------

    pub(crate) fn carry_out(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Transmit { link, frame } => self.transmit(link, frame),
                Output::Close { link, code, reason } => self.close(link, code, reason),
                Output::Event(event) => self.session_event(event),
            }
        }
        let may_edit = self.session.may_sign();
        if may_edit != self.may_edit {
            self.may_edit = may_edit;
            self.tell(Event::MayEdit(may_edit));
        }
    }

    fn transmit(&mut self, link: LinkId, frame: Frame) {
        if let Some(frame) = self.durable.hold(link, frame) {
            self.put(link, frame);
        }
    }

    fn put(&mut self, link: LinkId, frame: Frame) {
        if self.links.send(link, frame).is_err() {
            self.must(Input::LinkDown { link });
            self.close(link, CloseCode::SLOW_CONSUMER, "too far behind on reading");
        }
    }

    pub(crate) fn synced(&mut self, result: Result<u64, StoreError>) {
        for (link, frame) in self.durable.synced(result) {
            self.put(link, frame);
        }
    }

    fn session_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::OwnFrame(frame) => self.durable.own_frame(&frame, self.session.log()),
            SessionEvent::GenesisKnown {
                hash,
                verified,
                created,
            } => {
                if let Some(log) = self.session.log() {
                    self.durable.genesis(log);
                }
                self.tell(Event::RoomKnown {
                    genesis: hash,
                    verified,
                    created,
                });
            }
            SessionEvent::PeerReady {
                peer, author, link, ..
            } => {
                self.connected(peer, link, Some(author));
            }
            SessionEvent::GuestAdmitted { peer, link } => self.connected(peer, link, None),
            SessionEvent::PeerGone { peer } => {
                if let Some(voice) = &mut self.voice {
                    voice.gone(peer);
                }
            }
            SessionEvent::Refused {
                peer, code, reason, ..
            } => {
                if !code.is_transient() {
                    self.attempts.give_up(&peer);
                }
                self.tell(Event::Refused { peer, code, reason });
            }
            SessionEvent::NotSigned { action, error } => {
                self.tell(Event::NotSigned {
                    action,
                    reason: error,
                });
            }
            SessionEvent::Applied(applied) => {
                let voice = matches!(&applied.action, Action::Put { key, .. } if key.key_type == voice::KEY_TYPE);
                self.tell(Event::Applied(applied));
                if voice {
                    self.inform_voice();
                }
            }
            SessionEvent::CheckpointStable(stable) => self.tell(Event::CheckpointStable(stable)),
            SessionEvent::SnapshotTooLong { peer, len, max } => {
                self.tell(Event::SnapshotTooLong { peer, len, max });
            }
            SessionEvent::Retracted { author, after } => {
                self.tell(Event::Retracted { author, after });
            }
            SessionEvent::Misbehaved { .. } | SessionEvent::Forked(_) => self.misconduct(event),
            received => self.received(received),
        }
    }

    /// What an audit is to show, too.
    fn misconduct(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Misbehaved {
                peer,
                sender,
                author,
                code,
                header,
            } => {
                self.durable.refused(Refusal {
                    at: self.clock.wall(),
                    culprit: author.map_or(Culprit::Sender(sender), Culprit::Author),
                    code,
                    claims: header.as_deref().map(Claims::from),
                });
                self.tell(Event::Misbehaved { peer, author, code });
            }
            SessionEvent::Forked(proof) => {
                self.durable.forked(&proof);
                self.tell(Event::Forked(proof));
            }
            _ => {}
        }
    }

    /// What a peer sent for the user or for voice.
    fn received(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Message {
                peer,
                channel,
                payload,
            } => {
                self.tell_message(peer, channel, payload);
            }
            SessionEvent::Writable { peer } => self.send_waiting(&peer),
            SessionEvent::Undelivered { peer, count } => {
                self.send_waiting(&peer);
                self.tell(Event::Undelivered { peer, count });
            }
            SessionEvent::Media {
                peer,
                channel: Channel::Voice,
                packet,
            } => {
                let arrived = self.clock.now();
                if let Some(voice) = &mut self.voice
                    && voice.packet(peer.clone(), arrived, packet)
                {
                    self.flooded(peer);
                }
            }
            SessionEvent::MediaClock {
                peer,
                channel: Channel::Voice,
                clock,
            } => {
                let arrived = self.clock.now();
                if let Some(voice) = &mut self.voice
                    && voice.clock(peer.clone(), arrived, clock)
                {
                    self.flooded(peer);
                }
            }
            _ => {}
        }
    }

    fn flooded(&self, peer: PeerId) {
        tracing::warn!(%peer, "sends far too much voice");
        self.tell(Event::VoiceFlood { peer });
    }

    fn connected(&mut self, peer: PeerId, link: LinkId, author: Option<AuthorId>) {
        let Some(active) = self.links.get_mut(link) else {
            return;
        };
        active.admitted = true;
        self.attempts.heard(&peer, self.clock.now());
        let event = Event::Connected {
            peer,
            transport: active.transport.kind(),
            author,
            opened_after: active.opened.saturating_since(active.started),
            ready_after: self.clock.now().saturating_since(active.started),
        };
        self.tell(event);
    }

    fn tell(&self, event: Event) {
        self.events.tell(event, None);
    }

    // --- links ---------------------------------------------------------------------------------

    pub(crate) fn on_link(&mut self, message: FromLink) {
        match message {
            FromLink::Frame { link, frame } => self.must(Input::Received { link, frame }),
            FromLink::Closed { link, closed } => self.link_closed(link, &closed),
        }
    }

    fn link_closed(&mut self, link: LinkId, closed: &Closed) {
        let Some(active) = self.links.remove(link) else {
            return;
        };
        tracing::debug!(peer = %active.peer, %closed, "link closed");
        self.must(Input::LinkDown { link });
        // An end that closes a link first sends what waits for it. By then its user may have asked for another.
        let asked = self.attempts.answers(&active.peer, active.opened);
        let others = asked || self.links.reaches(&active.peer);
        if closed.code == CloseCode::DISCONNECTED && closed.by_remote && !others {
            self.mesh.avoided_by(&active.peer);
            self.attempts.leave_alone(&active.peer);
        }
        self.link_gone(active, closed.code);
    }

    fn close(&mut self, link: LinkId, code: CloseCode, reason: &'static str) {
        if let Some(closing) = self.links.close(link, code, reason) {
            self.link_gone(closing, code);
        }
    }

    fn link_gone(&mut self, link: Gone, code: CloseCode) {
        let now = self.clock.now();
        self.watch.link_gone(link.kind, &link.stats);
        if !self.links.reaches(&link.peer) && self.mesh.seeks(&link.peer) {
            let silence = matches!(code, CloseCode::LOST | CloseCode::HEARTBEAT_TIMEOUT);
            if link.offered_here && link.kind == TransportKind::Quic && !link.admitted {
                // The offer's key or addresses may have led to somebody else.
                self.attempts.fall_back(&link.peer, link.kind, None, now);
            } else if silence && link.admitted {
                self.fell_silent(&link.peer, Some(link.offered_here), now);
            } else if code == CloseCode::ROOM_FULL {
                self.attempts.full(&link.peer, now, link.offered_here);
            } else if code.is_transient() {
                self.attempts
                    .retry_later(&link.peer, now, link.offered_here);
            }
        }
        if link.admitted && !self.links.admits(&link.peer) {
            self.tell(Event::Disconnected {
                peer: link.peer,
                code,
            });
        }
    }

    fn negotiated(&mut self, outcome: Outcome) {
        let now = self.clock.now();
        let is_direct = outcome.is_direct();
        let (peer, started, side) = (outcome.peer, outcome.started, outcome.side);
        match outcome.result {
            Ok(Negotiated::Moved) => tracing::debug!(%peer, "the link goes on by another way"),
            Ok(Negotiated::Link(transport)) if self.is_surplus(&peer, &transport, side) => {
                tracing::debug!(%peer, "nothing better was found than what is relayed");
                self.links.turn_down(transport, "it is relayed as well");
            }
            Ok(Negotiated::Link(transport)) => {
                let info = LinkInfo {
                    peer: peer.clone(),
                    side,
                    kind: transport.kind(),
                    binding: transport.binding(),
                    proven_author: transport.remote_author(),
                    promises_session: self.attempts.promises_session(&peer),
                };
                self.attempts.linked(&peer, &transport, now);
                let offered_here = side == Side::Initiator;
                let avoided = self.mesh.avoids(&peer);
                let link = self.links.add(peer, transport, offered_here, started, now);
                if avoided {
                    self.close(link, CloseCode::DISCONNECTED, "disconnected by the user");
                } else {
                    self.must(Input::LinkUp { link, info });
                }
            }
            Err(error) if is_direct => {
                tracing::trace!(%peer, %error, "not found where it was");
                if error.is_out_of_time() && self.hears(&peer) {
                    self.attempts.await_dial(&peer, now);
                }
            }
            Err(error) if self.hears(&peer) => {
                tracing::debug!(%peer, %error, "nothing better was found");
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "negotiation failed");
                let reason = error.to_string();
                self.tell(Event::LinkFailed {
                    peer: peer.clone(),
                    transport: outcome.kind,
                    reason,
                });
                if self.links.reaches(&peer) || self.mesh.avoids(&peer) {
                    return;
                }
                match side {
                    Side::Initiator => {
                        self.attempts
                            .fall_back(&peer, outcome.kind, Some(&error), now);
                    }
                    Side::Responder => self.attempts.retry_later(&peer, now, false),
                }
            }
        }
    }

    /// Moves everything to the network that there is now: signaling, and then the WebRTC links by it.
    /// Of a QUIC connection only the client may migrate, and does so by itself (RFC 9000 §9): where this peer is the server,
    /// it dials.
    fn network_changed(&mut self) {
        tracing::debug!("the network has changed");
        self.moving = true;
        self.signaling.network_changed();
        let now = self.clock.now();
        let accepted = self.links.iter().map(|(_, link)| link);
        let accepted = accepted.filter(|l| l.transport.kind() == TransportKind::Quic);
        let accepted = accepted.filter(|link| !link.offered_here);
        let accepted: Vec<_> = accepted.map(|link| link.peer.clone()).collect();
        for peer in accepted {
            self.attempts.dial(&peer, 0, now);
        }
        self.attempts.look_again(now);
    }

    fn move_links(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.moving) {
            for (peer, link) in self.links.webrtc() {
                self.attempts.restart(peer, link.clone(), now);
            }
        }
    }

    /// Closes the links to a peer that the session does not know.
    pub(crate) fn close_all_to(&mut self, peer: &PeerId, code: CloseCode, reason: &'static str) {
        let open: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer == *peer)
            .map(|(id, _)| id)
            .collect();
        for link in open {
            self.close(link, code, reason);
        }
    }

    // --- voice ---------------------------------------------------------------------------------

    fn on_voice(&mut self, message: FromVoice) {
        match message {
            FromVoice::Frame(frame) => {
                // Before anyone is linked there is nobody to hear.
                let _ = self.input(Input::Send {
                    to: Recipient::All,
                    frame,
                });
            }
            FromVoice::Event(event) => self.tell(event),
            FromVoice::Second => self.inform_voice(),
        }
    }

    /// Tells voice how its listeners are doing, and what the room wants of it.
    fn inform_voice(&mut self) {
        let Some(voice) = &mut self.voice else {
            return;
        };
        let listeners = Listeners::look(&self.session, &self.links);
        voice.listeners(self.clock.now(), listeners);
        let volumes = RoomVolumes::look(&self.session, self.author);
        voice.send(ToVoice::RoomVolumes(volumes));
    }

    // --- the user ------------------------------------------------------------------------------

    fn request(&mut self, request: Request) {
        // A user who no longer waits for an answer needs none.
        match request {
            Request::Submit(actions, reply) => {
                let _ = reply.send(self.submit(actions));
            }
            Request::Undo(reply) => {
                let _ = reply.send(self.submit_from_log(|log| log.undo_command(log.next_undo()?)));
            }
            Request::Redo(reply) => {
                let _ = reply.send(self.submit_from_log(|log| log.redo_command(log.next_redo()?)));
            }
            Request::SetRole(author, role, reply) => {
                let _ =
                    reply.send(self.submit_from_log(|log| Some(log.role_command(author, role))));
            }
            Request::Restore(author, role, reply) => {
                let _ = reply.send(self.submit_from_log(|log| log.restore_command(author, role)));
            }
            Request::Mesh(request) => self.mesh_request(request),
            Request::Get(key, reply) => {
                let value = self
                    .session
                    .log()
                    .and_then(|log| log.get(&key).map(Bytes::copy_from_slice));
                let _ = reply.send(value);
            }
            Request::Entries(key_type, reply) => {
                let entries = self.session.log().map(|log| {
                    let entries = log.entries(key_type);
                    entries
                        .map(|(key, value)| (key.clone(), Bytes::copy_from_slice(value)))
                        .collect()
                });
                let _ = reply.send(entries.unwrap_or_default());
            }
            Request::EntriesSince(heads, reply) => {
                let log = self.session.log();
                let entries = log.map(|log| (log.entries_since(&heads).collect(), log.heads()));
                let _ = reply.send(entries.unwrap_or((Vec::new(), heads)));
            }
            Request::Peers(reply) => {
                let _ = reply.send(self.peers());
            }
            Request::Summary(reply) => {
                let _ = reply.send(self.summary());
            }
            Request::Metrics(reply) => {
                let _ = reply.send(self.metrics());
            }
            Request::Quality(peer, reply) => {
                let _ = reply.send(self.watch.quality(&peer));
            }
            Request::QualityHistory(peer, reply) => {
                let _ = reply.send(self.watch.history(&peer));
            }
            other => self.request_about_checkpoints(other),
        }
    }

    async fn leave(mut self) {
        if let Some(voice) = self.voice.take() {
            voice.stop().await;
        }
        self.session.finish(self.now());
        self.say_last_words().await;
        self.durable.hasten();
        loop {
            let now = self.clock.now();
            let all_kept = self.durable.keep(now, self.session.log());
            while self.durable.is_pending() {
                let result = self.durable.next().await;
                self.synced(result);
            }
            if all_kept || self.durable.has_failed() {
                break;
            }
        }
        self.durable.close().await;
        self.attempts.shut_down().await;
        self.links
            .close_all(CloseCode::NORMAL, "left the room")
            .await;
        if let Some(quic) = self.quic {
            quic.close().await;
        }
        self.signaling.leave().await;
    }
}

async fn network_change(network: &mut Option<Network>) {
    match network {
        Some(network) => network.changed().await,
        None => std::future::pending().await,
    }
}

async fn from_voice(voice: &mut Option<VoiceTask>) -> Option<FromVoice> {
    match voice {
        Some(voice) => voice.recv().await,
        None => std::future::pending().await,
    }
}
