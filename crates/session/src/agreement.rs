//! Agreement on the genesis, where no invite settles it.
//!
//! Whoever finds the room empty creates it; everyone else takes the genesis of the first peer. Two
//! may have found it empty, so a genesis that no invite vouches for is held loosely at first: between
//! two such, the lower hash wins. Once it has been shared for [`SETTLED`], or with a peer that stands by it,
//! it is firm: a loose one yields to it, and two firm ones do not mix.
//!
//! Of what lies below a checkpoint no command is left that could be submitted again elsewhere. So there are none
//! while the genesis is loose, and with one it stays firm.

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::{CommandLog, Genesis, OpenError};
use roundtable_core::{CloseCode, Timestamp};
use roundtable_wire::session::Control;

use crate::{
    Session,
    carried::carried,
    checkpoints::Checkpoints,
    config::GenesisSource,
    datagrams::Tail,
    event::{Event, LinkId, Now},
    given_up::Former,
    handshake::Refusal,
    links::{Link, Phase},
    own_head::OwnHead,
    room::{Position, Room, Verdict, compare},
};

/// How long linked peers wait for somebody to bring the genesis.
const ORPHANED: Duration = Duration::from_secs(10);
/// How long a genesis has to be shared until it is firm: several times what a meeting of peers who
/// all come at once takes to come to one.
const SETTLED: Duration = Duration::from_secs(2);

impl Session {
    /// Compares the two sides' geneses and does what follows.
    pub(crate) fn settle(&mut self, now: Now, id: LinkId) -> Result<(), Refusal> {
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
        let given_up = theirs.is_some_and(|theirs| self.given_up.bars(theirs.hash));
        match (compare(ours, theirs, invited), genesis) {
            // Its log is gone: to begin it again would be to sign each nonce again.
            (Verdict::Adopt, _) if given_up => {
                let reason = "a genesis that was given up before";
                return Err(Refusal::new(CloseCode::GENESIS_MISMATCH, reason));
            }
            (Verdict::Open, _) => self.make_ready(now, id),
            (Verdict::Same, _) => {
                let mut firm = false;
                if let Some(member) = self.links.member_mut(id) {
                    member.aligned = true;
                    firm = !member.may_adopt;
                }
                if let Some(room) = &mut self.room {
                    room.shared_since.get_or_insert(now.mono);
                }
                self.make_ready(now, id);
                if !was_aligned && self.links.contains(id) {
                    self.aligned(now, id);
                }
                if firm {
                    self.make_firm();
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

    /// Takes the genesis of the peer on `source` for our own.
    fn adopt(&mut self, now: Now, source: LinkId, genesis: Genesis) -> Result<(), Refusal> {
        let verified = matches!(self.config.genesis, GenesisSource::Invited(_));
        let (before, certain) = (self.room.take(), self.own_head.is_certain());
        let hash = genesis.hash();
        if let Err(error) = self.begin(genesis, verified) {
            self.room = before;
            let code = match error {
                OpenError::SchemaMismatch => CloseCode::SCHEMA_MISMATCH,
                _ => CloseCode::GENESIS_MISMATCH,
            };
            let reason = "the room needs another version of this program";
            return Err(Refusal::new(code, reason));
        }
        let before = before.map(|room| room.log);
        let former = self.given_up.take(hash);
        let there = former.as_ref().map(|former| &former.log);
        let carried = carried(before.as_ref(), self.submissions.begin_again(), there);
        if let Some(log) = before {
            self.given_up.keep(Former { log, certain });
        }
        if let Some(former) = former {
            self.return_to(now, &former);
        }
        self.submissions.push(now.mono, carried);
        let members = self.links.ids(|link| link.member().is_some());
        for id in &members {
            if let Some(member) = self.links.member_mut(*id) {
                member.aligned = false;
                // What was sent last is of the log that is given up.
                member.tail = Tail::default();
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

    /// Goes on where we were when we gave up the genesis that has just begun. The user's store has let go of it, and
    /// is handed our frames again.
    fn return_to(&mut self, now: Now, former: &Former) {
        if let Some(room) = &mut self.room {
            let frames = former.log.kept().map(|frame| frame.bytes().clone());
            room.log.restore(now.wall, frames);
        }
        if former.certain {
            self.own_head.make_certain();
        }
        self.tell_own_frames();
        self.settle_soon(now);
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
            firm: verified,
            shared_since: None,
            last_settle: Timestamp::ZERO,
            settle_due: None,
        });
        self.anti_entropy.clear();
        self.checkpoints = Checkpoints::default();
        self.arrivals.clear();
        self.descents.clear();
        self.grants.clear();
        self.own_head = OwnHead::default();
        self.own_told = 0;
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
        // Signaling sees nobody, but a link may still stand, and its peer may know more of us.
        let linked = |link: &Link| !matches!(link.phase, Phase::Guest { .. });
        let alone = !self.own_head.is_behind() && self.links.ids(linked).is_empty();
        if self.room.is_some() && alone {
            self.own_head.make_certain();
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
        self.own_head.make_certain();
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

    /// Whether we would give up our genesis.
    pub(crate) fn may_adopt(&self) -> bool {
        self.room.as_ref().is_some_and(|room| !room.firm)
    }

    /// When to stand by our genesis, unless another takes its place before.
    pub(crate) fn firm_due(&self) -> Option<Timestamp> {
        let room = self.room.as_ref().filter(|room| !room.firm)?;
        Some(room.shared_since? + SETTLED)
    }

    /// Stands by our genesis from here on, and says so.
    pub(crate) fn make_firm(&mut self) {
        if let Some(room) = &mut self.room
            && !std::mem::replace(&mut room.firm, true)
        {
            for id in self.links.ids(|link| link.member().is_some()) {
                self.announce_genesis(id);
            }
        }
    }

    /// Is ready to give up our genesis again, if nobody who shares it is left or has written
    /// anything, and no checkpoint has come about.
    pub(crate) fn review_firmness(&mut self) {
        let alone = self.links.ids(Link::is_aligned).is_empty();
        let author = self.author;
        if let Some(room) = &mut self.room
            && alone
            && !room.verified
            && room.log.checkpoint().is_none()
            && room.log.heads().iter().all(|head| head.author == author)
        {
            room.firm = false;
            room.shared_since = None;
        }
    }

    /// What a hello would say of our genesis now.
    pub(crate) fn shown_position(&self) -> (Option<Bytes>, bool) {
        let encoded = self.room.as_ref().map(|room| room.encoded.clone());
        (encoded, self.may_adopt())
    }

    pub(crate) fn announce_genesis(&mut self, id: LinkId) {
        let may_adopt = self.may_adopt();
        if let Some(room) = &self.room {
            let genesis = room.encoded.clone();
            let update = Control::GenesisUpdate { genesis, may_adopt };
            self.outbox.control(id, &update);
        }
    }
}
