//! The session itself: inputs in, outputs out, timers in between.

use std::{collections::BTreeSet, time::Duration};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use roundtable_command_log::{CommandLog, Genesis, StateHash};
use roundtable_core::{AuthorId, Channel, CloseCode, Frame, Payload, PeerId, Rate, Timestamp};
use roundtable_wire::session::Hello;

use crate::{
    anti_entropy::AntiEntropy,
    checkpoints::Checkpoints,
    config::{ConfigError, GenesisSource, SessionConfig},
    datagrams::{MARK, SESSION_DATAGRAMS},
    descent::Descents,
    event::{
        Event, Input, InputError, LinkId, LinkInfo, LinkView, Now, Output, PeerView, Recipient,
    },
    fetch::PIECE,
    given_up::GivenUp,
    handshake::{ELIDED_FRAMES, Handshake, NONCE_LEN, PROTOCOL_VERSION, Refusal},
    heartbeat::Beat,
    links::{Link, Links, Phase},
    messages::Message,
    messaging::Messages,
    metrics::Counters,
    outbox::Outbox,
    own_head::OwnHead,
    pacing::Queue,
    room::Room,
    submissions::Submissions,
};

/// A peer has one link of each kind, and for a moment one that replaces it.
const MAX_LINKS_TO_PEER: usize = 4;

/// What a peer does with its links, for one room.
///
/// Pure: it is told the time, it is handed what links receive, and it says what to send. After each
/// call of [`handle_input`](Self::handle_input) or [`handle_timeout`](Self::handle_timeout) take
/// everything out of [`poll_output`](Self::poll_output), then wait until
/// [`next_timeout`](Self::next_timeout) or the next input.
pub struct Session {
    pub(crate) config: SessionConfig,
    pub(crate) author: AuthorId,
    pub(crate) room: Option<Room>,
    pub(crate) links: Links,
    pub(crate) outbox: Outbox,
    pub(crate) anti_entropy: AntiEntropy,
    /// Command frames that wait to be judged.
    pub(crate) arrivals: Queue,
    pub(crate) descents: Descents,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) last_plan: Timestamp,
    pub(crate) plan_due: Option<Timestamp>,
    pub(crate) submissions: Submissions,
    /// Authors to make Editors of.
    pub(crate) grants: BTreeSet<AuthorId>,
    pub(crate) own_head: OwnHead,
    /// Up to which nonce the user has been handed our own frames.
    pub(crate) own_told: u64,
    pub(crate) next_heads: Timestamp,
    /// Since when peers are linked, or have been found to know no genesis either.
    pub(crate) orphaned_since: Option<Timestamp>,
    /// Geneses in whose logs we have signed, and which we have given up.
    pub(crate) given_up: GivenUp,
    pub(crate) messages: Messages,
    pub(crate) counters: Counters,
    pub(crate) signing_rate: Rate,
    rng: ChaCha20Rng,
}

impl Session {
    /// A session without links.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting does not work.
    pub fn new(config: SessionConfig, now: Now) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut session = Self {
            author: AuthorId::from_bytes(config.signing_key.verifying_key().to_bytes()),
            room: None,
            links: Links::default(),
            outbox: Outbox::default(),
            anti_entropy: AntiEntropy::default(),
            arrivals: Queue::default(),
            descents: Descents::default(),
            checkpoints: Checkpoints::default(),
            last_plan: Timestamp::ZERO,
            plan_due: None,
            submissions: Submissions::default(),
            grants: BTreeSet::new(),
            own_head: OwnHead::default(),
            own_told: 0,
            next_heads: now.mono,
            orphaned_since: None,
            given_up: GivenUp::default(),
            messages: Messages::default(),
            counters: Counters::default(),
            signing_rate: Rate::default(),
            rng: ChaCha20Rng::from_seed(config.seed),
            config,
        };
        session.messages = Messages::new(session.rng.next_u64());
        match session.config.genesis.clone() {
            GenesisSource::Known(genesis) => session.begin(genesis, true)?,
            GenesisSource::Remembered(genesis) => session.begin(genesis, false)?,
            GenesisSource::Create(params) => {
                let genesis = Genesis::create(params, &session.config.signing_key)?;
                session.begin(genesis, true)?;
                session.own_head.make_certain();
            }
            GenesisSource::Invited(_) | GenesisSource::FirstCome(_) => {}
        }
        Ok(session)
    }

    /// Takes something that happened.
    ///
    /// # Errors
    /// [`InputError`] when a request of the user cannot be met. What comes from the network is
    /// never an error here.
    pub fn handle_input(&mut self, now: Now, input: Input) -> Result<(), InputError> {
        match input {
            Input::LinkUp { link, info } => return self.link_up(now, link, info),
            Input::LinkDown { link } => self.link_down(now, link),
            Input::Received { link, frame } => self.received(now, link, frame),
            Input::Submit { actions } => return self.submit(now, actions),
            Input::Send { to, frame } => return self.send(&to, frame),
            Input::ProposeCheckpoint => return self.propose_checkpoint(now),
            Input::Retire { author } => return self.retire(now, author),
            Input::AloneInRoom => self.alone(now),
            Input::PeerLeft { peer } => {
                let reason = Refusal::new(CloseCode::NORMAL, "the peer has left the room");
                self.part_with(now, &peer, reason);
            }
            Input::Disconnect { peer } => {
                let reason = Refusal::new(CloseCode::DISCONNECTED, "disconnected by the user");
                self.part_with(now, &peer, reason);
            }
            Input::Read { peer, len } => self.on_read(now, &peer, len),
        }
        Ok(())
    }

    /// The next thing to do, `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest. May lie in the past:
    /// then at once.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let mut next = [
            self.exchange_due(),
            self.submissions.due().filter(|_| self.may_sign()),
            self.orphaned_due(),
            self.checkpoints.due(),
            self.firm_due(),
            self.messages.due(),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut at = |time| next = Some(next.map_or(time, |next: Timestamp| next.min(time)));
        for (_, link) in self.links.iter() {
            link.deadline.into_iter().for_each(&mut at);
            let Some(member) = link.member() else {
                continue;
            };
            at(member.heartbeat.next_timeout());
            member.tail.due().into_iter().for_each(&mut at);
            if member.aligned {
                at(self.next_heads);
            }
            if member.waits() {
                at(member.next_serve);
            }
        }
        next
    }

    /// Does everything that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let late = |link: &Link| link.deadline.is_some_and(|deadline| deadline <= now.mono);
        for id in self.links.ids(late) {
            let proven = self.links.get(id).is_some_and(|l| l.member().is_some());
            let refusal = if proven {
                Refusal::new(CloseCode::GENESIS_MISMATCH, "the peer kept its own genesis")
            } else {
                Refusal::new(CloseCode::HANDSHAKE_TIMEOUT, "no handshake in time")
            };
            self.refuse(now, id, refusal);
        }
        self.found_if_orphaned(now);
        if self.firm_due().is_some_and(|due| due <= now.mono) {
            self.make_firm();
        }
        self.signing_rate.add(now.mono, 0);
        self.beat(now);
        self.repeat_commands(now);
        self.exchange(now);
        self.review_messages(now);
        self.review_checkpoints(now);
        self.flush(now);
    }

    /// The log, once the genesis is known.
    pub fn log(&self) -> Option<&CommandLog> {
        self.room.as_ref().map(|room| &room.log)
    }

    /// How many signatures of frames have been verified; wraps. For [`tell_verified`](Self::tell_verified).
    pub fn verified(&self) -> u64 {
        self.log().map_or(0, CommandLog::verified)
    }

    /// Tells how long it took to handle an input or a timeout, with what [`verified`](Self::verified) had been before:
    /// a session has no clock to measure with. Shown as the latency of each signature verified since, if any was.
    pub fn tell_verified(&mut self, before: u64, took: Duration) {
        if let Some(room) = &mut self.room {
            let count = room.log.verified().wrapping_sub(before);
            room.log.tell_verified(count, took);
        }
    }

    /// The genesis, once it is known.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.room.as_ref().map(Room::genesis)
    }

    /// The own key.
    pub const fn author(&self) -> AuthorId {
        self.author
    }

    /// Names the state, once the genesis is known: peers with equal hashes hold equal state.
    pub fn state_hash(&self) -> Option<StateHash> {
        self.log().map(CommandLog::state_hash)
    }

    /// Whether submitted commands are signed and count.
    pub fn may_sign(&self) -> bool {
        self.check_may_sign().is_ok()
    }

    /// The linked peers, by name.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> {
        let names: BTreeSet<&PeerId> = self.links.iter().map(|(_, link)| &link.info.peer).collect();
        names.into_iter().map(|peer| self.view(peer))
    }

    /// Whether the peer at the other end of a link has let a whole heartbeat go by without an answer, or has stopped sending
    /// after it had sent steadily, and answered nothing for half a second. It may still come: after the third heartbeat the link is
    /// closed.
    pub fn is_silent(&self, link: LinkId) -> bool {
        let link = self.links.get(link).and_then(Link::member);
        link.is_some_and(|member| member.heartbeat.is_silent())
    }

    /// Whether the command frames of a peer have to wait, because it has sent too many that brought nothing into the log: 2,000 at once,
    /// or more than 1,000 a second.
    pub fn is_throttled(&self, now: Timestamp, author: AuthorId) -> bool {
        self.arrivals.is_spent(now, author)
    }

    /// Whether the peer at the other end of a silent link has let a whole heartbeat go by without an answer: then this is no
    /// moment's hitch.
    pub fn misses_heartbeats(&self, link: LinkId) -> bool {
        let link = self.links.get(link).and_then(Link::member);
        link.is_some_and(|member| member.heartbeat.misses_answers())
    }

    fn view(&self, peer: &PeerId) -> PeerView {
        let of_peer = self.links.iter().filter(|(_, l)| l.info.peer == *peer);
        let mut of_peer: Vec<_> = of_peer.collect();
        of_peer.sort_by_key(|(id, link)| (!link.is_ready(), link.rank(*id)));
        let view = |(id, link): &(LinkId, &Link)| LinkView {
            link: *id,
            kind: link.info.kind,
            rtt: link.member().and_then(|member| member.heartbeat.rtt()),
        };
        PeerView {
            peer: peer.clone(),
            standing: of_peer[0].1.standing(),
            links: of_peer.iter().map(view).collect(),
            messages: self.messages.stats(peer),
        }
    }

    fn link_up(&mut self, now: Now, id: LinkId, info: LinkInfo) -> Result<(), InputError> {
        if self.links.contains(id) {
            return Err(InputError::LinkExists(id));
        }
        tracing::debug!(peer = %info.peer, link = id.0, kind = info.kind.name(), "link up");
        let to_peer = |link: &Link| link.info.peer == info.peer;
        let crowded = self.links.ids(to_peer).len() >= MAX_LINKS_TO_PEER;
        if info.promises_session {
            let deadline = now.mono + self.config.handshake_deadline;
            let (handshake, hello) = Handshake::start(&info, self.hello(&info.peer));
            let phase = Phase::Handshaking(Box::new(handshake));
            self.links
                .insert(id, Link::new(now.mono, info, phase, Some(deadline)));
            self.outbox
                .transmit(id, Frame::binary(Channel::Control, hello));
        } else {
            let phase = Phase::Guest { admitted: false };
            self.links
                .insert(id, Link::new(now.mono, info, phase, None));
            self.review_guest(now, id);
        }
        if crowded {
            let reason = "too many links to one peer";
            self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
        }
        Ok(())
    }

    fn hello(&mut self, peer: &PeerId) -> Hello {
        let mut nonce = vec![0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        let capabilities = self.config.capabilities.iter().map(String::as_str);
        let own = [
            self.config.elision.then_some(ELIDED_FRAMES),
            self.config.datagrams.then_some(SESSION_DATAGRAMS),
        ];
        let own = own.into_iter().flatten();
        let capabilities = capabilities.chain(own).map(str::to_owned).collect();
        Hello {
            author: self.author,
            peer_id: self.config.peer_id.clone(),
            room: self.config.room.clone(),
            genesis: self.room.as_ref().map(|room| room.encoded.clone()),
            may_adopt: self.may_adopt(),
            nonce: nonce.into(),
            protocol_major: PROTOCOL_VERSION.0,
            protocol_minor: PROTOCOL_VERSION.1,
            schema_hash: *self.config.schema.hash().as_bytes(),
            capabilities,
            incarnation: self.messages.incarnation(peer),
        }
    }

    fn link_down(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.links.remove(id) else {
            return;
        };
        tracing::debug!(peer = %link.info.peer, link = id.0, dropped = link.dropped, "link down");
        self.anti_entropy.forget(id);
        self.descents.forget(id);
        self.checkpoints.forget(id);
        self.counters.link_gone(&link);
        if let Some(member) = link.member() {
            self.grants.remove(&member.author);
            let others = self.links.iter().filter_map(|(_, link)| link.member());
            if !others
                .into_iter()
                .any(|other| other.author == member.author)
            {
                self.own_head.gone(&member.author);
            }
        }
        let peer = link.info.peer.clone();
        if link.is_ready() && self.links.best_to(&peer, Link::is_ready).is_none() {
            self.outbox.event(Event::PeerGone { peer: peer.clone() });
        }
        self.messages_link_down(now, &peer);
        self.review_firmness();
        // What was in flight on the lost link is asked for on the next.
        if let Some(next) = self.links.best_to(&peer, Link::is_aligned) {
            self.send_heads(next);
        }
        self.plan_soon(now);
    }

    /// Closes a link and forgets it.
    pub(crate) fn close(&mut self, now: Now, id: LinkId, reason: Refusal) {
        self.outbox.close(id, reason);
        self.link_down(now, id);
    }

    /// Closes a link because of what its peer did or left undone.
    pub(crate) fn refuse(&mut self, now: Now, id: LinkId, refusal: Refusal) {
        let Some(link) = self.links.get(id) else {
            return;
        };
        let peer = link.info.peer.clone();
        let Refusal { code, reason } = refusal;
        tracing::warn!(%peer, link = id.0, %code, reason, "refused");
        self.counters.link_refused();
        self.outbox.event(Event::Refused {
            peer,
            link: id,
            code,
            reason,
        });
        self.close(now, id, refusal);
    }

    /// Takes a frame from a link, or keeps it until the link has come far enough.
    pub(crate) fn received(&mut self, now: Now, id: LinkId, frame: Frame) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if let Some(member) = link.member_mut() {
            member.heartbeat.on_heard(now.mono);
        }
        let guest = matches!(link.phase, Phase::Guest { .. });
        match (frame.channel, frame.payload) {
            (Channel::Control, Payload::Binary(message)) if !guest => {
                self.on_control(now, id, &message);
            }
            (Channel::Command, Payload::Binary(bytes)) if link.is_aligned() => {
                self.on_command(now, id, bytes);
            }
            (Channel::Snapshot, Payload::Binary(bytes))
                if link.is_aligned() && bytes.starts_with(PIECE) =>
            {
                self.on_piece(now, id, &bytes);
            }
            (Channel::Replication, Payload::Binary(bytes))
                if link.member().is_some_and(|m| m.takes_datagrams) && bytes.starts_with(MARK) =>
            {
                self.on_datagram(now, id, &bytes.slice(MARK.len()..));
            }
            (Channel::App, Payload::Binary(chunk)) if link.numbers_messages() => {
                self.on_chunk(now, id, chunk);
            }
            (Channel::App, _) if link.numbers_messages() => {
                let reason = "a bare message to one who numbers them";
                self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
            }
            (channel, payload) if link.carries(channel) && channel != Channel::Command => {
                let peer = link.info.peer.clone();
                if channel == Channel::App && self.messages.is_flooded_by(&peer) {
                    let reason = "far more messages than are read";
                    return self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
                }
                self.messages.count_received(&peer, channel, &payload);
                self.outbox.event(deliver(peer, channel, payload));
            }
            (channel, payload) if !guest && !link.is_aligned() => {
                match link.held.push(Frame { channel, payload }) {
                    Ok(kept) => link.dropped += u64::from(!kept),
                    Err(_) => {
                        let reason = "too much before the handshake";
                        self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
                    }
                }
            }
            _ => link.dropped += 1,
        }
    }

    /// Takes again what came too early.
    pub(crate) fn release(&mut self, now: Now, id: LinkId) {
        let held = self.links.get_mut(id).map(|link| link.held.take());
        for frame in held.into_iter().flatten() {
            self.received(now, id, frame);
        }
    }

    fn send(&mut self, to: &Recipient, frame: Frame) -> Result<(), InputError> {
        let (channel, len) = (frame.channel, frame.payload_len());
        let reserved = matches!(channel, Channel::Control | Channel::Command);
        let begins = |mark: &[u8]| matches!(&frame.payload, Payload::Binary(bytes) if bytes.starts_with(mark));
        let reserved = reserved
            || (channel == Channel::Snapshot && begins(PIECE))
            || (channel == Channel::Replication && begins(MARK));
        if reserved || !frame.is_consistent() {
            return Err(InputError::WrongChannel(channel));
        }
        if channel == Channel::App {
            return match to {
                Recipient::All => self.broadcast(frame.payload).map(drop),
                Recipient::Peer(peer) => {
                    let message = Message::new(frame.payload);
                    let message = message.ok_or(InputError::WrongChannel(channel))?;
                    self.send_message(peer, message)
                }
            };
        }
        let max = channel.max_message_len();
        if len > max {
            return Err(InputError::TooLarge { channel, len, max });
        }
        let carries = |link: &Link| link.carries(channel);
        match to {
            Recipient::All => {
                for id in self.links.best(carries) {
                    self.count_sent_on(id, &frame);
                    self.outbox.transmit(id, frame.clone());
                }
            }
            Recipient::Peer(peer) => {
                let link = self.links.best_to(peer, carries);
                let id = link.ok_or_else(|| InputError::Unreachable(peer.clone()))?;
                self.count_sent_on(id, &frame);
                self.outbox.transmit(id, frame);
            }
        }
        Ok(())
    }

    fn beat(&mut self, now: Now) {
        for id in self.links.ids(|link| link.member().is_some()) {
            let was_silent = self.is_silent(id);
            while let Some(member) = self.links.member_mut(id)
                && let Some(beat) = member.heartbeat.poll(now.mono)
            {
                match beat {
                    Beat::Ping(sequence) => self.ping(id, sequence),
                    Beat::Ask(sequence) => self.ask(id, sequence),
                    Beat::Silent => {}
                    Beat::Dead => {
                        let reason = "three heartbeats were missed";
                        self.refuse(now, id, Refusal::new(CloseCode::HEARTBEAT_TIMEOUT, reason));
                    }
                }
            }
            if !was_silent && self.is_silent(id) {
                self.fell_silent(id);
            }
        }
        self.drop_superfluous(now);
    }

    /// A link has fallen silent: what was sent on it last may be lost, so that its peer is told on another one, if there is
    /// one, what we hold. From here on that is sent on.
    fn fell_silent(&mut self, id: LinkId) {
        let Some(peer) = self.links.get(id).map(|link| link.info.peer.clone()) else {
            return;
        };
        tracing::debug!(%peer, link = id.0, "silent");
        let next = self.links.best_to(&peer, Link::is_aligned);
        if let Some(next) = next.filter(|next| *next != id) {
            self.send_heads(next);
        }
    }
}

fn deliver(peer: PeerId, channel: Channel, payload: Payload) -> Event {
    match payload {
        Payload::Media(packet) => Event::Media {
            peer,
            channel,
            packet,
        },
        Payload::Clock(clock) => Event::MediaClock {
            peer,
            channel,
            clock,
        },
        payload @ (Payload::Binary(_) | Payload::Text(_)) => Event::Message {
            peer,
            channel,
            payload,
        },
    }
}
