//! Control messages: handshakes and what follows them, and guests, who send none.

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::Genesis;
use roundtable_core::CloseCode;
use roundtable_wire::session::{Control, Hello};

use crate::{
    Session, clocks,
    datagrams::SESSION_DATAGRAMS,
    event::{Event, LinkId, Now},
    handshake::{ELIDED_FRAMES, Refusal},
    links::{Link, Member, Phase},
    room::Room,
};

/// How often a peer may announce another genesis on one link.
const MAX_GENESIS_UPDATES: u32 = 16;

/// By how much a link must be older than another for both ends to agree that it is.
const OLDER: Duration = Duration::from_secs(1);

impl Session {
    pub(crate) fn on_control(&mut self, now: Now, id: LinkId, message: &[u8]) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let handshaking = matches!(link.phase, Phase::Handshaking(_));
        let Ok(control) = Control::decode(message) else {
            let code = if handshaking {
                CloseCode::HANDSHAKE_INVALID
            } else {
                CloseCode::PROTOCOL
            };
            return self.refuse(now, id, Refusal::new(code, "a malformed control message"));
        };
        match &mut link.phase {
            Phase::Handshaking(handshake) => {
                let key = &self.config.signing_key;
                let step = match control {
                    Control::Hello(hello) => handshake
                        .on_hello(&link.info, key, hello, message)
                        .map(|proof| self.outbox.control(id, &proof)),
                    Control::Proof(signature) => match handshake.on_proof(&signature) {
                        Ok(hello) => {
                            let (hello, shown) = (hello.clone(), handshake.shown_position());
                            self.proven(now, id, &hello, shown)
                        }
                        Err(refusal) => Err(refusal),
                    },
                    Control::Unknown => Ok(()),
                    _ => Err(Refusal::new(
                        CloseCode::HANDSHAKE_INVALID,
                        "a control message before the handshake",
                    )),
                };
                if let Err(refusal) = step {
                    self.refuse(now, id, refusal);
                }
            }
            Phase::Proven(_) => self.on_member_control(now, id, control),
            Phase::Guest { .. } => link.dropped += 1,
        }
    }

    fn on_member_control(&mut self, now: Now, id: LinkId, control: Control) {
        let Some(member) = self.links.member_mut(id) else {
            return;
        };
        match control {
            Control::Hello(_) | Control::Proof(_) => {
                let reason = "a second handshake";
                self.refuse(now, id, Refusal::new(CloseCode::HANDSHAKE_INVALID, reason));
            }
            Control::GenesisUpdate { genesis, may_adopt } => {
                if let Err(refusal) = self.on_genesis(now, id, &genesis, may_adopt) {
                    self.refuse(now, id, refusal);
                }
            }
            Control::Ping { sequence } => {
                let wall_ms = now.wall.as_millis();
                let pong = Control::Pong { sequence, wall_ms };
                self.outbox.control(id, &pong);
            }
            Control::Pong { sequence, wall_ms } => {
                if let Some(round_trip) = member.heartbeat.on_pong(now.mono, sequence) {
                    member.ahead_ms = clocks::ahead_ms(now.wall, wall_ms, round_trip);
                    self.flush(now);
                }
            }
            Control::Acknowledged { through, limit } => {
                self.on_acknowledged(now, id, through, limit)
            }
            Control::Heads(heads) if member.aligned => self.on_heads(now, id, &heads),
            Control::Want(ranges) if member.aligned => self.on_want(now, id, ranges),
            Control::Served(ranges) if member.aligned => self.on_served(now, id, &ranges),
            Control::FullForms if member.aligned => self.on_full_forms(id),
            Control::Forks(forks) if member.aligned => self.on_forks(now, id, forks),
            Control::WantForks(forks) if member.aligned => self.on_want_forks(now, id, forks),
            Control::Probe(heads) if member.aligned => self.on_probe(now, id, heads),
            Control::Probed(heads) if member.aligned => self.on_probed(now, id, &heads),
            Control::Pruned { checkpoints } if member.aligned => {
                self.on_pruned(now, id, checkpoints);
            }
            Control::WantCheckpoint { after, offset } if member.aligned => {
                self.on_want_checkpoint(now, id, (after, offset));
            }
            // Sent before the peer knew of our change of genesis, or by a later version.
            _ => {}
        }
    }

    pub(crate) fn ping(&mut self, id: LinkId, sequence: u64) {
        self.outbox.control(id, &Control::Ping { sequence });
    }

    /// The peer has proven its key. `shown` is what our own hello said of our genesis.
    fn proven(
        &mut self,
        now: Now,
        id: LinkId,
        hello: &Hello,
        shown: (Option<Bytes>, bool),
    ) -> Result<(), Refusal> {
        let genesis = hello
            .genesis
            .as_deref()
            .map(|bytes| self.read_genesis(bytes));
        let genesis = genesis.transpose()?;
        let Some(link) = self.links.get(id) else {
            return Ok(());
        };
        let peer = link.info.peer.clone();
        let other_key = |other: &Link| {
            other.info.peer == peer && other.member().is_some_and(|m| m.author != hello.author)
        };
        if !self.links.ids(other_key).is_empty() {
            let reason = "not the key of the peer's other link";
            return Err(Refusal::new(CloseCode::IDENTITY_MISMATCH, reason));
        }
        let guest =
            |other: &Link| other.info.peer == peer && matches!(other.phase, Phase::Guest { .. });
        for guest in self.links.ids(guest) {
            let reason = "the name belongs to a member";
            self.refuse(
                now,
                guest,
                Refusal::new(CloseCode::IDENTITY_MISMATCH, reason),
            );
        }
        let mut member = Member::new(
            now.mono,
            hello.author,
            genesis,
            hello.may_adopt,
            self.config.heartbeat_interval,
        );
        let can = |capability| hello.capabilities.iter().any(|name| name == capability);
        member.elides = self.config.elision && can(ELIDED_FRAMES);
        member.takes_datagrams = self.config.datagrams && can(SESSION_DATAGRAMS);
        member.incarnation = hello.incarnation;
        let met = (hello.author, hello.incarnation);
        if let Some(link) = self.links.get_mut(id) {
            link.phase = Phase::Proven(Box::new(member));
        }
        self.meet(&peer, met);
        if shown != self.shown_position() {
            self.announce_genesis(id);
        }
        self.settle(now, id)
    }

    fn read_genesis(&self, bytes: &[u8]) -> Result<Genesis, Refusal> {
        let genesis = Genesis::decode(bytes).map_err(|_| {
            Refusal::new(CloseCode::GENESIS_MISMATCH, "the genesis does not verify")
        })?;
        if genesis.params().schema != self.config.schema.hash() {
            let reason = "the genesis is for another command schema";
            return Err(Refusal::new(CloseCode::SCHEMA_MISMATCH, reason));
        }
        Ok(genesis)
    }

    fn on_genesis(
        &mut self,
        now: Now,
        id: LinkId,
        genesis: &[u8],
        may_adopt: bool,
    ) -> Result<(), Refusal> {
        let genesis = self.read_genesis(genesis)?;
        let Some(member) = self.links.member_mut(id) else {
            return Ok(());
        };
        member.updates += 1;
        if member.updates > MAX_GENESIS_UPDATES {
            let reason = "too many changes of genesis";
            return Err(Refusal::new(CloseCode::PROTOCOL, reason));
        }
        member.genesis = Some(genesis);
        member.may_adopt = may_adopt;
        // Frames of its new log may have overtaken this news.
        member.offences = 0;
        self.settle(now, id)
    }

    pub(crate) fn make_ready(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        link.deadline = None;
        let (peer, kind) = (link.info.peer.clone(), link.info.kind);
        if link.is_ready() || link.member().is_none() {
            return;
        }
        if self.is_full_for(&peer) {
            let reason = "the room has as many peers as it takes";
            return self.refuse(now, id, Refusal::new(CloseCode::ROOM_FULL, reason));
        }
        let Some(member) = self.links.member_mut(id) else {
            return;
        };
        member.ready = true;
        let author = member.author;
        self.orphaned_since.get_or_insert(now.mono);
        tracing::debug!(%peer, link = id.0, ?author, "ready");
        self.outbox.event(Event::PeerReady {
            peer,
            author,
            link: id,
            kind,
        });
        self.acknowledge(id);
        self.release(now, id);
        self.replace_older(now, id);
    }

    /// Closes links that a new one of the same kind makes superfluous: most likely their peer gave
    /// them up before we noticed. Links that came about at almost the same time stay for now, as the
    /// two ends could disagree on which is the older.
    fn replace_older(&mut self, now: Now, id: LinkId) {
        let Some(new) = self.links.get(id) else {
            return;
        };
        let older = |link: &Link| {
            let same = link.info.peer == new.info.peer && link.info.kind == new.info.kind;
            same && link.is_ready() && link.opened + OLDER <= new.opened
        };
        for old in self.links.ids(older) {
            let reason = "a newer link took over";
            self.close(now, old, Refusal::new(CloseCode::REPLACED, reason));
        }
    }

    /// Closes links beside which a better one has stood for a while.
    pub(crate) fn drop_superfluous(&mut self, now: Now) {
        for id in self.links.superfluous(self.author, now.mono) {
            let reason = "a better link took over";
            self.close(now, id, Refusal::new(CloseCode::REPLACED, reason));
        }
    }

    /// Both sides of a link have the same genesis: commands may flow.
    pub(crate) fn aligned(&mut self, now: Now, id: LinkId) {
        if let Some(author) = self.links.get(id).and_then(Link::member).map(|m| m.author)
            && self.config.open_room
        {
            self.grants.insert(author);
        }
        // What was sent before was of another log.
        if let Some(member) = self.links.member_mut(id) {
            member.writer.forget();
        }
        self.send_pruned(id);
        self.send_heads(id);
        self.release(now, id);
        self.flush(now);
    }

    pub(crate) fn review_guests(&mut self, now: Now) {
        for id in self
            .links
            .ids(|link| matches!(link.phase, Phase::Guest { .. }))
        {
            self.review_guest(now, id);
        }
    }

    /// Admits or turns away a guest, once the genesis says which.
    pub(crate) fn review_guest(&mut self, now: Now, id: LinkId) {
        let Some(genesis) = self.room.as_ref().map(Room::genesis) else {
            return;
        };
        if !genesis.params().guests_allowed {
            let reason = "this room admits no guests";
            return self.refuse(now, id, Refusal::new(CloseCode::GUESTS_REFUSED, reason));
        }
        // A member may have lost its signaling and with it its name there, but not its links.
        let peer = self.links.get(id).map(|link| link.info.peer.clone());
        let member = |link: &Link| {
            Some(&link.info.peer) == peer.as_ref() && !matches!(link.phase, Phase::Guest { .. })
        };
        if !self.links.ids(member).is_empty() {
            let reason = "a member is linked under this name";
            return self.refuse(now, id, Refusal::new(CloseCode::IDENTITY_MISMATCH, reason));
        }
        if let Some(peer) = &peer
            && self.is_full_for(peer)
        {
            let reason = "the room has as many peers as it takes";
            return self.refuse(now, id, Refusal::new(CloseCode::ROOM_FULL, reason));
        }
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if let Phase::Guest { admitted } = &mut link.phase
            && !std::mem::replace(admitted, true)
        {
            let peer = link.info.peer.clone();
            self.outbox.event(Event::GuestAdmitted { peer, link: id });
        }
    }
}
