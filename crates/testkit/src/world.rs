//! Peers, the cables between them, and a clock that jumps to the next thing to happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use roundtable_command_log::{
    Action, CommandLog, ForkProof, FrameId, Genesis, Schema, Stable, UnverifiedFrame,
};
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, CloseCode, Frame, Payload, PeerId, RoomId, Timestamp,
    TransportKind, WallTime,
};
use roundtable_netem::Conditions;
use roundtable_session::{
    Event, GenesisSource, Input, InputError, LinkId, LinkInfo, Output, Session, SessionConfig, Side,
};

use crate::{
    Fault, Kind, Violation,
    cable::{Cable, Parcel},
    dice::Dice,
    digest::Digest,
    hostile::Equivocation,
    messages::Talk,
    peer::{Peer, is_pruned},
    wire::{Ether, Noted, What},
};

/// How often shells look whether a link is to be made again.
const REDIAL: Duration = Duration::from_millis(500);
/// Most lines of what happened that are kept, the latest.
const MAX_TRACE: usize = 60;

/// A room of simulated peers in virtual time. The same seed and calls give the same world, to the byte.
pub struct World {
    pub(crate) now: Timestamp,
    pub(crate) peers: Vec<Peer>,
    pub(crate) cables: BTreeMap<u64, Cable>,
    pub(crate) dice: Dice,
    pub(crate) schema: Schema,
    pub(crate) fault: Option<Fault>,
    pub(crate) open_room: bool,
    /// How hostile authors sign several frames for one place.
    pub(crate) equivocation: Equivocation,
    /// Whether the peers' sides count: nothing passes from one to the other.
    pub(crate) partitioned: bool,
    conditions: Conditions,
    /// The first promise that was broken.
    violation: Option<Violation>,
    trace: Vec<(Timestamp, String)>,
    digest: Digest,
    next_redial: Timestamp,
    links_made: u64,
    /// Where real links live; without, links are models.
    ether: Option<Ether>,
    /// Of which kind links are; `None` for either.
    only: Option<TransportKind>,
    /// How many links over QUIC and over WebRTC came up.
    pub(crate) links_up: [u64; 2],
    pub(crate) signed: u64,
    /// How often a peer was told that an author has forked its log.
    pub(crate) forks: u64,
    /// The stable checkpoints, as those said who saw them first.
    pub(crate) stable: Vec<Stable>,
    /// Every command frame that was ever signed here or read on a link, once, in that order.
    pub(crate) archive: Vec<UnverifiedFrame>,
    archived: BTreeSet<FrameId>,
    /// What was said beside the log.
    pub(crate) talk: Talk,
    /// How often a replay could not be held against the rest, for want of branches that peers had let go.
    pub(crate) excused: u32,
    /// Who has forked.
    pub(crate) branches: BTreeSet<AuthorId>,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64, schema: Schema) -> Self {
        Self {
            now: Timestamp::from_millis(1000),
            peers: Vec::new(),
            cables: BTreeMap::new(),
            dice: Dice::new(seed),
            schema,
            fault: None,
            open_room: true,
            equivocation: Equivocation::Never,
            partitioned: false,
            conditions: Conditions::default(),
            violation: None,
            trace: Vec::new(),
            digest: Digest::default(),
            next_redial: Timestamp::from_millis(1000),
            links_made: 0,
            ether: None,
            only: None,
            links_up: [0; 2],
            signed: 0,
            forks: 0,
            stable: Vec::new(),
            archive: Vec::new(),
            archived: BTreeSet::new(),
            talk: Talk::default(),
            excused: 0,
            branches: BTreeSet::new(),
        }
    }

    /// Breaks the honest peers on purpose.
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Has real links, of one kind or of both, in place of models.
    ///
    /// # Errors
    /// When the system has no resources for a runtime.
    pub fn with_real_links(mut self, only: Option<TransportKind>) -> std::io::Result<Self> {
        self.ether = Some(Ether::new(self.now)?);
        self.only = only;
        Ok(self)
    }

    /// Whether its links are real ones.
    pub(crate) const fn is_wired(&self) -> bool {
        self.ether.is_some()
    }

    /// The first promise that was broken so far.
    ///
    /// # Errors
    /// That promise.
    pub fn verdict(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// What happened of late, a line each.
    pub fn trace(&self) -> Vec<String> {
        let line = |(time, what): &(Timestamp, String)| format!("{time:?}  {what}");
        self.trace.iter().map(line).collect()
    }

    /// Names everything that was sent so far; over real links, whose handshakes are never the same, only when
    /// and how much.
    pub fn digest(&self) -> [u8; 32] {
        self.digest.finish()
    }

    pub(crate) fn note(&mut self, what: String) {
        if self.trace.len() == MAX_TRACE {
            self.trace.remove(0);
        }
        self.trace.push((self.now, what));
    }

    pub(crate) fn judge(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.note(format!("VIOLATION: {violation}"));
            self.violation = Some(violation);
        }
    }

    /// Adds a peer that is not started; returns its number.
    pub fn add(&mut self, kind: Kind) -> usize {
        let number = self.peers.len();
        let mut seed = [0; 32];
        for part in seed.chunks_exact_mut(8) {
            part.copy_from_slice(&self.dice.number().to_le_bytes());
        }
        let mut peer = Peer::new(name(number), SigningKey::from_bytes(&seed), kind);
        peer.side = self.dice.chance(50);
        peer.elides = self.dice.chance(80);
        self.peers.push(peer);
        number
    }

    /// A peer's session; `None` while it is down, and for guests.
    pub fn session(&self, peer: usize) -> Option<&Session> {
        self.peers[peer].session.as_ref()
    }

    /// Whom a peer writes as.
    pub fn author(&self, peer: usize) -> AuthorId {
        self.peers[peer].author()
    }

    /// What a peer's clock shows.
    pub fn wall(&self, peer: usize) -> WallTime {
        self.peers[peer].clock(self.now).wall
    }

    /// Sets a peer's clock so many seconds ahead of the truth, or behind it.
    pub fn set_clock(&mut self, peer: usize, ahead_seconds: i64) {
        self.peers[peer].skew_micros = ahead_seconds * 1_000_000;
    }

    /// Starts a peer's session with what its disk holds.
    pub fn start(&mut self, number: usize, genesis: GenesisSource) {
        let seed = self.dice.number();
        let seed = *blake3::hash(&seed.to_le_bytes()).as_bytes();
        let others = self.peers.iter().any(|peer| peer.session.is_some());
        let forgets = self.fault == Some(Fault::ForgetsLogOnRestart);
        let peer = &mut self.peers[number];
        let now = peer.clock(self.now);
        let again = peer.starts > 0;
        peer.starts += 1;
        let config = SessionConfig::new(
            peer.id.clone(),
            room(),
            peer.key.clone(),
            self.schema.clone(),
            genesis,
            seed,
        );
        peer.forget_applied();
        // A hostile author's log is written by hand: its session signs nothing.
        let config = config
            .with_open_room(self.open_room && peer.is_honest())
            .with_elision(peer.elides)
            // Of those who died, others do not know so at once.
            .with_max_peers(64);
        let Ok(mut session) = Session::new(config, now) else {
            let failed = Violation::NotRestored(peer.id.clone());
            return self.judge(Err(failed));
        };
        let forgotten = again && forgets && peer.is_honest();
        if !forgotten {
            if let Some(snapshot) = peer.store.snapshot.clone() {
                let installed = session.install(now, snapshot);
                let failed = Violation::NotRestored(peer.id.clone());
                let installed = installed.map_or(Err(failed), |_| Ok(()));
                self.judge(installed);
            }
            let peer = &self.peers[number];
            let frames: Vec<Bytes> = [&peer.store.own[..], &peer.store.foreign].concat();
            session.restore(now, frames.iter().cloned());
            // Some may have come with the snapshot, and together they may have made a checkpoint stable.
            let kept = session.log().into_iter().flat_map(CommandLog::kept);
            let kept: BTreeSet<Bytes> = kept.map(|frame| frame.bytes().clone()).collect();
            let pruned = |frame: &Bytes| session.log().is_some_and(|log| is_pruned(log, frame));
            let restored = |frame: &Bytes| kept.contains(frame) || pruned(frame);
            let restored = frames.iter().all(restored);
            let failed = Violation::NotRestored(peer.id.clone());
            self.judge(if restored { Ok(()) } else { Err(failed) });
        }
        self.peers[number].session = Some(session);
        self.drain(number);
        if !others || forgotten {
            self.request(number, Input::AloneInRoom);
        }
    }

    /// Those who are up, guests included.
    pub(crate) fn running(&self) -> Vec<usize> {
        self.numbers(Peer::is_up)
    }

    pub(crate) fn numbers(&self, wanted: impl Fn(&Peer) -> bool) -> Vec<usize> {
        let wanted = |number: &usize| wanted(&self.peers[*number]);
        (0..self.peers.len()).filter(wanted).collect()
    }

    /// Those who keep the protocol and are up.
    pub fn honest(&self) -> Vec<usize> {
        self.numbers(|peer| peer.is_honest() && peer.session.is_some())
    }

    /// The genesis of the first honest peer that knows one.
    pub(crate) fn genesis(&self) -> Option<Genesis> {
        let sessions = self.peers.iter().filter_map(|peer| peer.session.as_ref());
        sessions.filter_map(Session::genesis).next().cloned()
    }

    /// Has a peer submit commands.
    ///
    /// # Errors
    /// As its session says.
    pub fn submit(&mut self, number: usize, actions: Vec<Action>) -> Result<(), InputError> {
        let result = self.input(number, Input::Submit { actions });
        self.drain(number);
        result
    }

    pub(crate) fn input(&mut self, number: usize, input: Input) -> Result<(), InputError> {
        let peer = &mut self.peers[number];
        let now = peer.clock(self.now);
        match &mut peer.session {
            Some(session) => session.handle_input(now, input),
            None => Ok(()),
        }
    }

    /// An input that may be refused; says whether it was taken.
    pub(crate) fn try_input(&mut self, number: usize, input: Input) -> bool {
        let taken = self.input(number, input).is_ok();
        self.drain(number);
        taken
    }

    /// An input that cannot fail.
    fn request(&mut self, number: usize, input: Input) {
        let taken = self.input(number, input);
        debug_assert!(taken.is_ok());
        self.drain(number);
    }

    /// Signaling tells a peer that another has left the room.
    pub fn tell_left(&mut self, told: usize, about: usize) {
        let peer = self.peers[about].id.clone();
        self.request(told, Input::PeerLeft { peer });
    }

    /// Links two peers, the first being the one that offers.
    pub fn link(&mut self, a: usize, b: usize, kind: TransportKind) {
        self.links_made += 1;
        let id = self.links_made;
        let seed = self.dice.number();
        if let Some(ether) = &self.ether {
            let keys = [a, b].map(|number| self.peers[number].key.clone());
            let wire = ether.dial(id, kind, keys, (seed, self.conditions));
            self.cables.insert(id, Cable::wired([a, b], wire));
            return;
        }
        self.links_up[usize::from(kind == TransportKind::WebRtc)] += 1;
        self.cables
            .insert(id, Cable::new([a, b], seed, self.conditions));
        let binding = *blake3::hash(&id.to_le_bytes()).as_bytes();
        for end in 0..2 {
            self.link_up(id, end, kind, (ChannelBinding::from_bytes(binding), None));
        }
    }

    /// An end of a link has it.
    fn link_up(
        &mut self,
        id: u64,
        end: usize,
        kind: TransportKind,
        (binding, proven_author): (ChannelBinding, Option<AuthorId>),
    ) {
        let Some(ends) = self.cables.get(&id).map(|cable| cable.ends) else {
            return;
        };
        let other = &self.peers[ends[1 - end]];
        let info = LinkInfo {
            peer: other.id.clone(),
            side: [Side::Initiator, Side::Responder][end],
            kind,
            binding,
            proven_author,
            promises_session: other.kind != Kind::Guest,
        };
        let link = LinkId(id);
        self.request(ends[end], Input::LinkUp { link, info });
    }

    /// Something happened at an end of a real link.
    fn on_noted(&mut self, noted: Noted) {
        let Noted {
            cable: id,
            end,
            what,
        } = noted;
        let Some(cable) = self.cables.get_mut(&id) else {
            return;
        };
        let (link, receiver) = (LinkId(id), cable.ends[end]);
        match what {
            What::Up(kind, binding, author) if cable.decide(end) => {
                cable.up[end] = true;
                self.links_up[usize::from(kind == TransportKind::WebRtc)] += u64::from(end == 0);
                self.link_up(id, end, kind, (binding, author));
            }
            What::Up(..) => {}
            What::Frame(frame) => {
                let command = None;
                self.arrive(id, end, Parcel::Frame { frame, command });
            }
            What::Down => {
                cable.decide(end);
                if std::mem::take(&mut cable.up[end]) {
                    self.request(receiver, Input::LinkDown { link });
                }
            }
        }
    }

    /// A peer's machine gets another address, on all its real links.
    pub fn readdress(&mut self, number: usize) {
        for cable in self.cables.values() {
            if cable.ends.contains(&number) {
                cable.readdress(cable.end_of(number));
            }
        }
    }

    /// Links every two running peers that can reach each other and have no link that works.
    pub fn dial(&mut self) {
        let running = self.running();
        for (index, a) in running.iter().enumerate() {
            for b in &running[index + 1..] {
                let linked = |cable: &Cable| cable.joins(*a, *b) && cable.works();
                let guests = [*a, *b].map(|n| self.peers[n].kind == Kind::Guest);
                if self.separated(*a, *b) || guests == [true; 2] || self.cables.values().any(linked)
                {
                    continue;
                }
                let mut kind = self.any_kind();
                if self.is_wired() && guests != [false; 2] {
                    // Guests are browsers.
                    kind = TransportKind::WebRtc;
                }
                self.link(*a, *b, kind);
            }
        }
    }

    pub(crate) fn any_kind(&mut self) -> TransportKind {
        let any = if self.dice.chance(50) {
            TransportKind::Quic
        } else {
            TransportKind::WebRtc
        };
        self.only.unwrap_or(any)
    }

    fn separated(&self, a: usize, b: usize) -> bool {
        self.partitioned && self.peers[a].side != self.peers[b].side
    }

    /// The link breaks, with all that is under way on it, and both ends notice at once.
    pub fn unplug(&mut self, id: u64) {
        let Some(mut cable) = self.cables.remove(&id) else {
            return;
        };
        for end in 0..2 {
            self.lose(&mut cable, end);
            if cable.up[end] {
                self.request(cable.ends[end], Input::LinkDown { link: LinkId(id) });
            }
        }
    }

    /// A faulty receiver takes what is lost for received.
    fn lose(&mut self, cable: &mut Cable, end: usize) {
        let receiver = &mut self.peers[cable.ends[end]];
        if self.fault == Some(Fault::DropsTailAtFailover) && receiver.is_honest() {
            receiver.ignored.extend(cable.commands_under_way(end));
        }
    }

    /// Nothing gets through on a link any more, and neither end is told.
    pub(crate) fn silence(&mut self, id: u64) {
        if let Some(cable) = self.cables.get_mut(&id) {
            cable.cut();
        }
    }

    /// Nothing passes between the two sides.
    pub fn partition(&mut self) {
        self.partitioned = true;
        let peers = &self.peers;
        for cable in self.cables.values_mut() {
            if peers[cable.ends[0]].side != peers[cable.ends[1]].side {
                cable.cut();
            }
        }
    }

    /// Everything passes again, on links that are silent too.
    pub fn mend(&mut self) {
        self.partitioned = false;
        for cable in self.cables.values_mut().filter(|cable| cable.is_cut()) {
            cable.mend(self.now);
        }
    }

    /// The network of all links.
    pub(crate) const fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// Changes the network for all links.
    pub fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
        for cable in self.cables.values_mut() {
            cable.set_conditions(conditions);
        }
    }

    /// A peer dies; what it has of others is on its disk up to some frame. If it dies `silently`, others find
    /// out by themselves.
    pub fn crash(&mut self, number: usize, silently: bool) {
        let Some(session) = self.peers[number].session.take() else {
            return;
        };
        let own = self.peers[number].author();
        let mut foreign: BTreeMap<AuthorId, Vec<Bytes>> = BTreeMap::new();
        for frame in session.log().into_iter().flat_map(|log| log.frames()) {
            if frame.author() != own {
                let frames = foreign.entry(frame.author()).or_default();
                frames.push(frame.bytes().clone());
            }
        }
        for frames in foreign.values_mut() {
            let kept = self.dice.index(frames.len() + 1).unwrap_or_default();
            frames.truncate(kept);
        }
        let peer = &mut self.peers[number];
        peer.store.foreign = foreign.into_values().flatten().collect();
        peer.due = None;
        for cable in self.cables.values_mut() {
            let end = cable.end_of(number);
            if cable.ends.contains(&number) && cable.up[end] && !silently {
                cable.close(self.now, end, (CloseCode::NORMAL, ""));
            } else if cable.ends.contains(&number) {
                cable.kill(end);
            }
        }
    }

    /// Puts a peer that is down back to a backup of its disk, of when it held so many own frames.
    pub(crate) fn roll_back(&mut self, number: usize, own: usize) {
        let store = &mut self.peers[number].store;
        store.roll_back(own);
        let kept = self.dice.index(store.foreign.len() + 1).unwrap_or_default();
        store.foreign.truncate(kept);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.ether.is_some() && self.run_links_until(end) {}
        while let Some(next) = self.next_moment().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Lets real links live until something happens; says whether that was before `end`.
    fn run_links_until(&mut self, end: Timestamp) -> bool {
        let next = self.next_moment().map_or(end, |next| next.min(end));
        let Some(ether) = &mut self.ether else {
            return false;
        };
        let (now, noted) = ether.run_until(next);
        self.now = self.now.max(now);
        let is_due = self.next_moment().is_some_and(|next| next <= self.now);
        match noted {
            Some(noted) => self.on_noted(noted),
            None if is_due => self.step(),
            None => return false,
        }
        true
    }

    fn next_moment(&self) -> Option<Timestamp> {
        let cables = self.cables.values().filter_map(Cable::next_timeout);
        let peers = self.peers.iter().filter_map(|peer| peer.due);
        cables.chain(peers).chain([self.next_redial]).min()
    }

    fn step(&mut self) {
        if self.next_redial <= self.now {
            self.next_redial = self.now + REDIAL;
            self.cables.retain(|_, cable| !cable.is_dead());
            self.dial();
        }
        let ready = |cable: &Cable| cable.next_timeout().is_some_and(|due| due <= self.now);
        let ready: Vec<u64> = self
            .cables
            .iter()
            .filter(|(_, cable)| ready(cable))
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            for end in 0..2 {
                while let Some(parcel) = self
                    .cables
                    .get_mut(&id)
                    .and_then(|cable| cable.poll(self.now, end))
                {
                    self.arrive(id, end, parcel);
                }
            }
        }
        for number in 0..self.peers.len() {
            let peer = &mut self.peers[number];
            if peer.due.is_none_or(|due| due > self.now) {
                continue;
            }
            let now = peer.clock(self.now);
            if let Some(session) = &mut peer.session {
                session.handle_timeout(now);
                self.drain(number);
            }
            let peer = &self.peers[number];
            if peer.due.is_some_and(|due| due <= self.now) {
                let spins = Violation::Spins(peer.id.clone());
                self.judge(Err(spins));
                self.peers[number].due = None;
            }
        }
    }

    fn arrive(&mut self, id: u64, end: usize, parcel: Parcel) {
        let Some(cable) = self.cables.get_mut(&id).filter(|cable| cable.up[end]) else {
            return;
        };
        let (receiver, sender, link) = (cable.ends[end], cable.ends[1 - end], LinkId(id));
        match parcel {
            Parcel::Closed => {
                cable.up[end] = false;
                self.request(receiver, Input::LinkDown { link });
            }
            Parcel::Frame { frame, command } => {
                let (fault, peer) = (self.fault, &mut self.peers[receiver]);
                // The session of a hostile peer would do it for the others.
                let all = fault == Some(Fault::NeverDescends);
                let fault = fault.filter(|_| all || peer.is_honest());
                let carries = command.is_some();
                match peer.takes(fault, &frame, command.as_deref()) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.request(receiver, Input::Received { link, frame });
                        if carries {
                            self.check_throttled(receiver, sender);
                        }
                    }
                    Err(violation) => self.judge(Err(violation)),
                }
            }
        }
    }

    /// Does what a session wants done.
    fn drain(&mut self, number: usize) {
        while let Some(output) = self.peers[number]
            .session
            .as_mut()
            .and_then(Session::poll_output)
        {
            match output {
                Output::Event(event) => self.on_event(number, event),
                Output::Transmit { link, frame } => self.transmit(number, link, frame),
                Output::Close { link, code, reason } => {
                    self.note(format!(
                        "p{number} closes link {}: {code}, {reason}",
                        link.0
                    ));
                    if let Some(cable) = self.cables.get_mut(&link.0) {
                        let end = cable.end_of(number);
                        cable.close(self.now, end, (code, reason));
                    }
                }
            }
        }
        let peer = &mut self.peers[number];
        peer.due = peer.session.as_ref().and_then(Session::next_timeout);
    }

    /// Puts a frame on its way.
    pub(crate) fn transmit(&mut self, number: usize, link: LinkId, mut frame: Frame) {
        self.falsify(number, &mut frame);
        self.digest.write(&self.now.as_micros().to_le_bytes());
        self.digest.write(&link.0.to_le_bytes());
        match &frame.payload {
            Payload::Binary(bytes) if self.ether.is_none() => {
                self.digest.write(bytes);
            }
            _ if self.ether.is_some() => {
                self.digest.write(&frame.payload_len().to_le_bytes());
            }
            _ => {}
        }
        let Some(cable) = self.cables.get_mut(&link.0) else {
            return;
        };
        let end = cable.end_of(number);
        let sender = &self.peers[number];
        let genesis = sender.session.as_ref().and_then(Session::genesis);
        let command = genesis.and_then(|g| cable.read(1 - end, &frame, &g.hash()));
        if let Some(command) = &command
            && self.archived.insert(command.id())
        {
            self.archive.push(UnverifiedFrame::clone(command));
        }
        let durable = match &command {
            Some(command) if sender.is_honest() => sender.check_sent(command.header()),
            _ => Ok(()),
        };
        let receiver = &self.peers[cable.ends[1 - end]];
        let for_guests = matches!(
            frame.channel,
            Channel::App | Channel::AppFast | Channel::Voice | Channel::Video
        );
        let honest = self.peers[number].is_honest();
        let served = (honest && receiver.kind == Kind::Guest && !for_guests).then(|| {
            Violation::GuestServed {
                sender: self.peers[number].id.clone(),
                guest: receiver.id.clone(),
                channel: frame.channel,
            }
        });
        cable.send(self.now, 1 - end, Parcel::Frame { frame, command });
        self.judge(durable);
        self.judge(served.map_or(Ok(()), Err));
    }

    fn on_event(&mut self, number: usize, event: Event) {
        let result = match event {
            Event::OwnFrame(frame) => {
                self.signed += u64::from(frame.header().count);
                let genesis = self.session(number).and_then(Session::genesis);
                let read = genesis
                    .and_then(|g| UnverifiedFrame::decode(frame.bytes().clone(), &g.hash()).ok());
                if let Some(read) = read
                    && self.archived.insert(frame.id())
                {
                    self.archive.push(read);
                }
                self.peers[number].store.keep(&frame);
                Ok(())
            }
            Event::GenesisKnown { hash, .. } => {
                self.note(format!("p{number} is in the room {hash:?}"));
                self.peers[number].forget_applied();
                Ok(())
            }
            Event::Applied(applied) if self.peers[number].is_honest() => {
                self.peers[number].apply(applied.author, applied.nonce)
            }
            Event::Retracted { author, after } => {
                self.peers[number].retract(author, after);
                Ok(())
            }
            Event::CheckpointStable(stable) => self.on_stable(number, &stable),
            Event::Forked(proof) => self.check_forked(&proof),
            Event::Message {
                peer,
                channel: Channel::App,
                payload,
            } => self.on_message(number, peer, &payload),
            Event::Undelivered { peer, count } => {
                self.undelivered(number, &peer, count);
                Ok(())
            }
            Event::Misbehaved { peer, code, .. } if self.both_honest(number, &peer) => {
                let judge = self.peers[number].id.clone();
                Err(Violation::Blamed { judge, peer, code })
            }
            Event::Refused { peer, code, .. }
                if self.both_honest(number, &peer) && !is_nobodys_fault(code) =>
            {
                let judge = self.peers[number].id.clone();
                Err(Violation::Barred { judge, peer, code })
            }
            _ => Ok(()),
        };
        self.judge(result);
    }

    /// An honest author never signs twice for one place.
    fn check_forked(&mut self, proof: &ForkProof) -> Result<(), Violation> {
        self.forks += 1;
        let author = proof.author();
        self.branches.insert(author);
        let honest = |peer: &&Peer| peer.is_honest() && peer.author() == author;
        let forked = self.peers.iter().find(honest);
        forked.map_or(Ok(()), |peer| Err(Violation::Forked(peer.id.clone())))
    }

    /// Whatever hostile peers send, honest ones do not come to be slowed down for what they pass on.
    fn check_throttled(&mut self, judge: usize, sender: usize) {
        let [one, other] = [judge, sender].map(|number| &self.peers[number]);
        let session = one
            .session
            .as_ref()
            .filter(|_| one.is_honest() && other.is_honest());
        if session.is_some_and(|session| session.is_throttled(self.now, other.author())) {
            let (judge, peer) = (one.id.clone(), other.id.clone());
            self.judge(Err(Violation::Throttled { judge, peer }));
        }
    }

    pub(crate) fn both_honest(&self, judge: usize, peer: &PeerId) -> bool {
        let honest = |other: &Peer| other.id == *peer && other.is_honest();
        self.peers[judge].is_honest() && self.peers.iter().any(honest)
    }
}

/// Codes of links that a network breaks.
fn is_nobodys_fault(code: CloseCode) -> bool {
    matches!(
        code,
        CloseCode::HEARTBEAT_TIMEOUT | CloseCode::HANDSHAKE_TIMEOUT
    )
}

#[allow(clippy::expect_used)] // both are constant
fn room() -> RoomId {
    RoomId::new("world").expect("a valid name")
}

#[allow(clippy::expect_used)] // a digit is a valid character
fn name(number: usize) -> PeerId {
    PeerId::new(&format!("p{number}")).expect("a valid name")
}
