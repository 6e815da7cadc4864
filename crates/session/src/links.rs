//! The links of a session: how far each has come, and which one to send on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use roundtable_command_log::{FrameReader, FrameWriter, Genesis, SignedFrame};
use roundtable_core::{AuthorId, Channel, Delivery, Frame, PeerId, Timestamp, TransportKind};
use roundtable_wire::session::{Head, Range};

use crate::{
    datagrams::Tail,
    event::{LinkId, LinkInfo, Standing},
    handshake::Handshake,
    heartbeat::Heartbeat,
};

/// Most frames and bytes that one link may send ahead of its handshake.
const MAX_HELD_FRAMES: usize = 128;
const MAX_HELD_BYTES: usize = 512 * 1024;

/// How long two links to one peer stand side by side before the worse is closed, and for how long the better one has to answer
/// without a silence: longer than either end takes to notice that it is dead.
const SETTLED: Duration = Duration::from_secs(5);

/// Whether a link is silent, its kind, and its number.
pub(crate) type Rank = (bool, TransportKind, LinkId);

/// One link.
pub(crate) struct Link {
    pub(crate) opened: Timestamp,
    pub(crate) info: LinkInfo,
    pub(crate) phase: Phase,
    /// When the peer must be ready, until it is.
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) held: Held,
    /// Frames dropped: too early on an unreliable channel, or not for a guest.
    pub(crate) dropped: u64,
}

/// How far a link has come.
pub(crate) enum Phase {
    /// The peer promises no handshake.
    Guest {
        /// The genesis is known and allows guests.
        admitted: bool,
    },
    /// Hellos and proofs are under way.
    Handshaking(Box<Handshake>),
    /// The peer has proven its key.
    Proven(Box<Member>),
}

/// What is known of a peer that has proven its key.
pub(crate) struct Member {
    pub(crate) author: AuthorId,
    /// Its genesis, verified, if it has one.
    pub(crate) genesis: Option<Genesis>,
    /// Whether it would give that up.
    pub(crate) may_adopt: bool,
    /// Whether the user has been told: everything but commands may flow.
    pub(crate) ready: bool,
    /// Whether both sides have the same genesis: commands may flow.
    pub(crate) aligned: bool,
    pub(crate) heartbeat: Heartbeat,
    /// How far our clock is ahead of the peer's, once it has said what it shows.
    pub(crate) ahead_ms: Option<i64>,
    /// Changes of genesis that it has announced.
    pub(crate) updates: u32,
    /// Frames that did not verify or broke a rule.
    pub(crate) offences: u32,
    /// When its next request may be served.
    pub(crate) next_serve: Timestamp,
    /// What it asked for and has not been sent.
    pub(crate) wanted: Vec<Range>,
    /// Whether it reads elided frames.
    pub(crate) elides: bool,
    /// Whether it reads what the session sends unreliably.
    pub(crate) takes_datagrams: bool,
    /// What it was sent last, to be repeated.
    pub(crate) tail: Tail,
    /// What it remembers of the frames that were sent to it.
    pub(crate) writer: FrameWriter,
    /// What it may refer to in the frames that it sends.
    pub(crate) reader: FrameReader,
    /// Frames that could not be restored, or did not verify after that.
    pub(crate) misread: u32,
    /// Whether it was asked for full forms, and none has come yet.
    pub(crate) asked_in_full: bool,
    /// Names the conversation that it has with us on App; 0 if it exchanges bare messages.
    pub(crate) incarnation: u64,
    /// Whether it has said on this link what it has of our messages. Before that, it is sent none.
    pub(crate) acknowledges: bool,
    /// Proofs of forks that it asked for and has not been sent.
    pub(crate) wanted_forks: Vec<Head>,
    /// Where its log of an author was found to part from ours: after which nonce it is to be sent our frames.
    pub(crate) owed: Vec<(AuthorId, u64)>,
    /// Places of which it has asked what we hold there.
    pub(crate) probes: Vec<Head>,
    /// Authors of whose forks it was asked for a proof, and until when it is not asked again.
    pub(crate) proofs_asked: BTreeMap<AuthorId, Timestamp>,
}

impl Member {
    /// A peer that has just proven its key.
    pub(crate) fn new(
        now: Timestamp,
        author: AuthorId,
        genesis: Option<Genesis>,
        may_adopt: bool,
        heartbeat_interval: Duration,
    ) -> Self {
        Self {
            author,
            genesis,
            may_adopt,
            ready: false,
            aligned: false,
            heartbeat: Heartbeat::new(now, heartbeat_interval),
            ahead_ms: None,
            updates: 0,
            offences: 0,
            next_serve: now,
            wanted: Vec::new(),
            elides: false,
            takes_datagrams: false,
            tail: Tail::default(),
            writer: FrameWriter::default(),
            reader: FrameReader::default(),
            misread: 0,
            asked_in_full: false,
            incarnation: 0,
            acknowledges: false,
            wanted_forks: Vec::new(),
            owed: Vec::new(),
            probes: Vec::new(),
            proofs_asked: BTreeMap::new(),
        }
    }

    /// Whether it has asked for something.
    pub(crate) fn waits(&self) -> bool {
        let lists = [self.wanted_forks.len(), self.owed.len(), self.probes.len()];
        !self.wanted.is_empty() || lists != [0; 3]
    }

    /// A new frame, to be repeated if this peer knows how to take that.
    pub(crate) fn new_command(&mut self, now: Timestamp, frame: &SignedFrame) -> Frame {
        if self.takes_datagrams {
            self.tail.push(now, frame);
        }
        self.command(frame)
    }

    /// A frame in the shortest form that this peer reads.
    pub(crate) fn command(&mut self, frame: &SignedFrame) -> Frame {
        let bytes = if self.elides {
            self.writer.write(frame)
        } else {
            frame.bytes().clone()
        };
        Frame::binary(Channel::Command, bytes)
    }
}

impl Link {
    pub(crate) fn new(
        opened: Timestamp,
        info: LinkInfo,
        phase: Phase,
        deadline: Option<Timestamp>,
    ) -> Self {
        Self {
            opened,
            info,
            phase,
            deadline,
            held: Held::default(),
            dropped: 0,
        }
    }

    pub(crate) fn member(&self) -> Option<&Member> {
        match &self.phase {
            Phase::Proven(member) => Some(member),
            _ => None,
        }
    }

    pub(crate) fn member_mut(&mut self) -> Option<&mut Member> {
        match &mut self.phase {
            Phase::Proven(member) => Some(member),
            _ => None,
        }
    }

    /// Which of a peer's links is sent on: the least. One that answers before one that is silent, memory before QUIC, QUIC
    /// before WebRTC, an older link before a newer one.
    pub(crate) fn rank(&self, id: LinkId) -> Rank {
        (self.is_silent(), self.info.kind, id)
    }

    fn is_silent(&self) -> bool {
        self.member().is_some_and(|m| m.heartbeat.is_silent())
    }

    /// Which of a peer's links stays, if it has had several for a while: the least of those that answer. Of one kind the
    /// newest, as with links that replace others at once.
    fn merit(&self, id: LinkId) -> (TransportKind, Reverse<(Timestamp, LinkId)>) {
        (self.info.kind, Reverse((self.opened, id)))
    }

    /// Whether anything may flow to the user.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.phase {
            Phase::Guest { admitted } => *admitted,
            Phase::Handshaking(_) => false,
            Phase::Proven(member) => member.ready,
        }
    }

    /// Whether commands may flow.
    pub(crate) fn is_aligned(&self) -> bool {
        self.member().is_some_and(|member| member.aligned)
    }

    /// Whether the user may exchange messages on this channel.
    pub(crate) fn carries(&self, channel: Channel) -> bool {
        let for_guests = matches!(
            channel,
            Channel::App | Channel::AppFast | Channel::Voice | Channel::Video
        );
        self.is_ready() && (for_guests || !matches!(self.phase, Phase::Guest { .. }))
    }

    /// Whether messages on App are numbered here, and may flow.
    pub(crate) fn numbers_messages(&self) -> bool {
        self.is_ready() && self.member().is_some_and(|member| member.incarnation != 0)
    }

    pub(crate) fn standing(&self) -> Standing {
        match &self.phase {
            Phase::Guest { admitted: true } => Standing::Guest,
            Phase::Proven(member) if member.ready => Standing::Member(member.author),
            _ => Standing::Handshaking,
        }
    }
}

/// Frames on reliable channels that came before they could be used: another stream may overtake
/// the one with the handshake.
#[derive(Default)]
pub(crate) struct Held {
    frames: VecDeque<Frame>,
    bytes: usize,
}

/// Too much came before the handshake.
pub(crate) struct HeldTooMuch;

impl Held {
    /// Keeps a frame of a reliable channel; says whether it was kept.
    pub(crate) fn push(&mut self, frame: Frame) -> Result<bool, HeldTooMuch> {
        if frame.channel.delivery() == Delivery::UnreliableUnordered {
            return Ok(false);
        }
        let bytes = self.bytes + frame.payload_len();
        if self.frames.len() == MAX_HELD_FRAMES || bytes > MAX_HELD_BYTES {
            return Err(HeldTooMuch);
        }
        self.bytes = bytes;
        self.frames.push_back(frame);
        Ok(true)
    }

    /// Takes everything, in the order of arrival.
    pub(crate) fn take(&mut self) -> VecDeque<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

/// All links, by number.
#[derive(Default)]
pub(crate) struct Links(BTreeMap<LinkId, Link>);

impl Links {
    pub(crate) fn contains(&self, id: LinkId) -> bool {
        self.0.contains_key(&id)
    }

    pub(crate) fn insert(&mut self, id: LinkId, link: Link) {
        self.0.insert(id, link);
    }

    pub(crate) fn remove(&mut self, id: LinkId) -> Option<Link> {
        self.0.remove(&id)
    }

    pub(crate) fn get(&self, id: LinkId) -> Option<&Link> {
        self.0.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.0.get_mut(&id)
    }

    pub(crate) fn member_mut(&mut self, id: LinkId) -> Option<&mut Member> {
        self.get_mut(id)?.member_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.0.iter().map(|(id, link)| (*id, link))
    }

    /// The numbers of the links that satisfy a condition.
    pub(crate) fn ids(&self, mut wanted: impl FnMut(&Link) -> bool) -> Vec<LinkId> {
        let wanted = self.iter().filter(|(_, link)| wanted(link));
        wanted.map(|(id, _)| id).collect()
    }

    /// For each peer, the best of its links that satisfy a condition.
    pub(crate) fn best(&self, wanted: impl Fn(&Link) -> bool) -> Vec<LinkId> {
        let mut best: BTreeMap<&PeerId, Rank> = BTreeMap::new();
        for (id, link) in self.iter().filter(|(_, link)| wanted(link)) {
            let rank = link.rank(id);
            let chosen = best.entry(&link.info.peer).or_insert(rank);
            *chosen = rank.min(*chosen);
        }
        best.into_values().map(|(_, _, id)| id).collect()
    }

    /// Links that `own` is to close: their peers have had a better one for so long that it can be relied on. Both ends
    /// must agree on which link stays, so only one of them chooses, the one whose author key is lower; and no clock is shared
    /// that could tell links apart that opened together.
    pub(crate) fn superfluous(&self, own: AuthorId, now: Timestamp) -> Vec<LinkId> {
        let settled = |link: &Link| {
            let chooses = link.member().is_some_and(|m| m.ready && own < m.author);
            chooses && link.opened + SETTLED <= now
        };
        let settled: Vec<_> = self.iter().filter(|(_, link)| settled(link)).collect();
        let worse = |(id, link): &(LinkId, &Link)| {
            let better = |(other, by): &(LinkId, &Link)| {
                let since = by.member().and_then(|m| m.heartbeat.answering_since());
                let answers = || since.is_some_and(|since| since + SETTLED <= now);
                by.merit(*other) < link.merit(*id) && by.info.peer == link.info.peer && answers()
            };
            settled.iter().any(better)
        };
        settled
            .iter()
            .filter(|link| worse(link))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The best link to one peer that satisfies a condition.
    pub(crate) fn best_to(&self, peer: &PeerId, wanted: impl Fn(&Link) -> bool) -> Option<LinkId> {
        self.best(|link| link.info.peer == *peer && wanted(link))
            .pop()
    }
}
