//! Control messages: handshakes, agreement on the genesis, guests.

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::{CommandLog, Genesis, OpenError};
use roundtable_core::{AuthorId, CloseCode, Timestamp};
use roundtable_wire::session::{Control, Hello};

use crate::{
    Session,
    commands::OwnHead,
    config::GenesisSource,
    event::{Event, LinkId, Now},
    handshake::Refusal,
    links::{Link, Member, Phase},
    room::{Position, Room, Verdict, compare},
};

/// How often a peer may announce another genesis on one link.
const MAX_GENESIS_UPDATES: u32 = 16;
/// How long linked peers wait for somebody to bring the genesis.
const ORPHANED: Duration = Duration::from_secs(10);

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
            Control::Ping { sequence } => self.outbox.control(id, &Control::Pong { sequence }),
            Control::Pong { sequence } => member.heartbeat.on_pong(now.mono, sequence),
            Control::Heads(heads) if member.aligned => self.on_heads(now, id, &heads),
            Control::Want(ranges) if member.aligned => self.on_want(now, id, ranges),
            Control::Served(ranges) if member.aligned => self.on_served(now, id, &ranges),
            // Sent before the peer knew of our change of genesis, or by a later version.
            Control::Heads(_) | Control::Want(_) | Control::Served(_) | Control::Unknown => {}
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
        let member = Member::new(
            now.mono,
            hello.author,
            genesis,
            hello.may_adopt,
            self.config.heartbeat_interval,
        );
        if let Some(link) = self.links.get_mut(id) {
            link.phase = Phase::Proven(Box::new(member));
        }
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
        self.settle(now, id)
    }

    /// Compares the two sides' geneses and does what follows.
    fn settle(&mut self, now: Now, id: LinkId) -> Result<(), Refusal> {
        let Some(member) = self.links.member_mut(id) else {
            return Ok(());
        };
        let was_aligned = std::mem::replace(&mut member.aligned, false);
        let genesis = member.genesis.clone();
        let theirs = genesis.as_ref().map(|genesis| Position {
            hash: genesis.hash(),
            may_adopt: member.may_adopt,
        });
        let ours = self.room.as_ref().map(|room| Position {
            hash: room.hash,
            may_adopt: self.may_adopt(),
        });
        let invited = match self.config.genesis {
            GenesisSource::Invited(hash) => Some(hash),
            _ => None,
        };
        match (compare(ours, theirs, invited), genesis) {
            (Verdict::Open, _) => self.make_ready(now, id),
            (Verdict::Same, _) => {
                if let Some(member) = self.links.member_mut(id) {
                    member.aligned = true;
                }
                self.make_ready(now, id);
                if !was_aligned {
                    self.aligned(now, id);
                }
            }
            (Verdict::Adopt, Some(genesis)) => return self.adopt(now, id, genesis),
            (Verdict::Await, _) => {
                let deadline = now.mono + self.config.handshake_deadline;
                if let Some(link) = self.links.get_mut(id) {
                    link.deadline.get_or_insert(deadline);
                }
                self.anti_entropy.forget(id);
            }
            (Verdict::Clash | Verdict::Adopt, _) => {
                let reason = "another genesis";
                return Err(Refusal::new(CloseCode::GENESIS_MISMATCH, reason));
            }
        }
        Ok(())
    }

    fn make_ready(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        link.deadline = None;
        let (peer, kind) = (link.info.peer.clone(), link.info.kind);
        let Some(member) = link.member_mut() else {
            return;
        };
        if std::mem::replace(&mut member.ready, true) {
            return;
        }
        let author = member.author;
        self.orphaned_since.get_or_insert(now.mono);
        tracing::debug!(%peer, link = id.0, ?author, "ready");
        self.outbox.event(Event::PeerReady {
            peer,
            author,
            link: id,
            kind,
        });
        self.release(now, id);
    }

    /// Both sides of a link have the same genesis: commands may flow.
    fn aligned(&mut self, now: Now, id: LinkId) {
        if let Some(author) = self.links.get(id).and_then(Link::member).map(|m| m.author)
            && self.config.open_room
        {
            self.grants.insert(author);
        }
        self.send_heads(id);
        self.release(now, id);
        // We are no longer alone with our genesis: whoever waits for us to give it up should know.
        for waiting in self
            .links
            .ids(|link| link.member().is_some_and(|m| !m.ready))
        {
            self.announce_genesis(waiting);
        }
        self.flush(now);
    }

    /// Takes the genesis of the peer on `source` for our own.
    fn adopt(&mut self, now: Now, source: LinkId, genesis: Genesis) -> Result<(), Refusal> {
        let verified = matches!(self.config.genesis, GenesisSource::Invited(_));
        let abandoned = self.own_actions();
        self.begin(genesis, verified).map_err(|error| {
            let code = match error {
                OpenError::SchemaMismatch => CloseCode::SCHEMA_MISMATCH,
                _ => CloseCode::GENESIS_MISMATCH,
            };
            Refusal::new(code, "the room needs another version of this program")
        })?;
        self.submissions.push(now.mono, abandoned);
        let members = self.links.ids(|link| link.member().is_some());
        for id in &members {
            if let Some(member) = self.links.member_mut(*id) {
                member.aligned = false;
            }
            self.announce_genesis(*id);
        }
        self.settle(now, source)?;
        for id in members.into_iter().filter(|id| *id != source) {
            if let Err(refusal) = self.settle(now, id) {
                self.refuse(now, id, refusal);
            }
        }
        self.review_guests(now);
        Ok(())
    }

    /// Starts the log of a genesis, in place of any other.
    pub(crate) fn begin(&mut self, genesis: Genesis, verified: bool) -> Result<(), OpenError> {
        let (hash, encoded) = (genesis.hash(), genesis.encode().into());
        let created = genesis.creator() == self.author;
        let key = self.config.signing_key.clone();
        let log = CommandLog::new(genesis, self.config.schema.clone(), Some(key))?;
        self.room = Some(Room {
            log,
            hash,
            encoded,
            verified,
            last_settle: Timestamp::ZERO,
            settle_due: None,
        });
        self.anti_entropy.clear();
        self.grants.clear();
        self.own_head = OwnHead::Unknown;
        tracing::debug!(genesis = %hash, verified, created, "genesis known");
        self.outbox.event(Event::GenesisKnown {
            hash,
            verified,
            created,
        });
        Ok(())
    }

    /// Nobody else is in the room: its state is what we have, and if it has not begun, we begin it.
    pub(crate) fn alone(&mut self, now: Now) {
        if self.room.is_none() {
            self.found(now);
        }
        if self.room.is_some() {
            self.own_head = OwnHead::Certain;
        }
    }

    /// Creates the room, if that is for us to do, and tells everyone who is linked.
    fn found(&mut self, now: Now) {
        let GenesisSource::FirstCome(params) = &self.config.genesis else {
            return;
        };
        let mut params = params.clone();
        params.wall = now.wall;
        // `SessionConfig::validate` has tried the same parameters.
        let genesis = Genesis::create(params, &self.config.signing_key);
        let begun = genesis.is_ok_and(|genesis| self.begin(genesis, false).is_ok());
        debug_assert!(begun);
        self.own_head = OwnHead::Certain;
        for id in self.links.ids(|link| link.member().is_some()) {
            self.announce_genesis(id);
        }
        self.review_guests(now);
    }

    /// Founds a room that everyone has entered too late: who created it left before showing it.
    ///
    /// When linked peers have waited together for [`ORPHANED`], the one with the lowest key
    /// creates the room anew. Should two do so, the lower hash wins as ever.
    pub(crate) fn found_if_orphaned(&mut self, now: Now) {
        if self.orphaned_due().is_none_or(|due| due > now.mono) {
            return;
        }
        self.orphaned_since = Some(now.mono);
        let members = self.links.iter().filter_map(|(_, link)| link.member());
        if members.map(|m| m.author).all(|author| self.author < author) {
            self.found(now);
        }
    }

    /// When to look whether the room is orphaned.
    pub(crate) fn orphaned_due(&self) -> Option<Timestamp> {
        let founder = matches!(self.config.genesis, GenesisSource::FirstCome(_));
        let waits = founder && self.room.is_none();
        self.orphaned_since
            .filter(|_| waits)
            .map(|since| since + ORPHANED)
    }

    /// Whether we would give up our genesis: nobody vouches for it, nobody else has used it, and
    /// nobody is linked who has it.
    pub(crate) fn may_adopt(&self) -> bool {
        self.room.as_ref().is_some_and(|room| {
            let own = |author: AuthorId| author == self.author;
            !room.verified
                && room.log.heads().iter().all(|head| own(head.author))
                && self.links.ids(Link::is_aligned).is_empty()
        })
    }

    /// What a hello would say of our genesis now.
    fn shown_position(&self) -> (Option<Bytes>, bool) {
        let encoded = self.room.as_ref().map(|room| room.encoded.clone());
        (encoded, self.may_adopt())
    }

    fn announce_genesis(&mut self, id: LinkId) {
        let may_adopt = self.may_adopt();
        if let Some(room) = &self.room {
            let genesis = room.encoded.clone();
            let update = Control::GenesisUpdate { genesis, may_adopt };
            self.outbox.control(id, &update);
        }
    }

    fn review_guests(&mut self, now: Now) {
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
