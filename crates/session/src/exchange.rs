//! What peers tell each other of what they hold, and how each gets what it lacks.

use std::time::Duration;

use roundtable_command_log::{CommandLog, ForkProof, FrameId, SharedFrame};
use roundtable_core::{AuthorId, Timestamp};
use roundtable_wire::session::{Control, Head, MAX_LIST, Range};

use crate::{
    Session,
    anti_entropy::Holdings,
    descent::Next,
    event::{LinkId, Now},
    links::{Link, Links, Member},
    outbox::Outbox,
    room::Room,
};

/// Bytes of frames that answer one request. What remains has to be asked for again, so a slow
/// reader is never sent more than it takes.
const SERVE_BYTES: usize = 256 * 1024;
/// Least time between two answers to one peer.
const SERVE_INTERVAL: Duration = Duration::from_millis(5);
/// How long an asked peer has to show the proof of a fork before it is asked again.
const PROOF_PATIENCE: Duration = Duration::from_secs(1);
/// How many proofs one peer is asked for at a time. What it announces beyond that is passed over
/// until it announces it again.
const MAX_PROOFS_ASKED: usize = MAX_LIST;

impl Session {
    /// Tells the peer of a link what we hold, its own commands first.
    pub(crate) fn send_heads(&mut self, id: LinkId) {
        let member = self.links.get(id).and_then(Link::member);
        let (Some(member), Some(room)) = (member, &self.room) else {
            return;
        };
        let of_peer = room.log.head(member.author);
        let of_peer = Head {
            author: member.author,
            id: of_peer.map_or([0; 32], |head| *head.id.as_bytes()),
            nonce: of_peer.map_or(0, |head| head.nonce),
        };
        let others = room.log.heads().into_iter();
        let others = others.filter(|head| head.author != member.author);
        let others: Vec<_> = others
            .map(|head| Head {
                author: head.author,
                id: *head.id.as_bytes(),
                nonce: head.nonce,
            })
            .collect();
        let mut parts = others.chunks(MAX_LIST - 1);
        let mut part = parts.next().unwrap_or_default();
        loop {
            let heads = [&[of_peer], part].concat();
            self.outbox.control(id, &Control::Heads(heads));
            match parts.next() {
                Some(next) => part = next,
                None => return,
            }
        }
    }

    pub(crate) fn on_heads(&mut self, now: Now, id: LinkId, heads: &[Head]) {
        let Some(member) = self.links.get(id).and_then(Link::member) else {
            return;
        };
        let peer = member.author;
        for head in heads {
            let Some(room) = &self.room else {
                return;
            };
            let held = held(room, &head.author);
            let ours = room.log.header_with(head.author, head.nonce);
            // Of the end of what was pruned, only nonce and id are left.
            let end = room.log.head(head.author);
            let at_end = end.is_some_and(|h| (h.nonce, h.id.as_bytes()) == (head.nonce, &head.id));
            let same = ours.map_or(head.nonce == 0, |(_, id)| *id.as_bytes() == head.id) || at_end;
            let differs = ours.filter(|_| !same).map(|(header, _)| header.first_nonce);
            if head.author == self.author {
                let nonce = head.nonce;
                self.own_head.shown(now.mono, peer, nonce, held, same);
            }
            if head.nonce > held {
                self.anti_entropy.claim(id, head.author, head.nonce);
            } else if let Some(differs) = differs {
                self.descend(now, id, head.author, differs);
            } else if head.nonce > room.log.pruned_through(head.author)
                && ours.is_none()
                && room.log.sought(head.author) > 0
            {
                self.descend_from_tip(now, id, head.author);
            }
        }
        self.plan_soon(now);
        self.flush(now);
    }

    /// Looks for where a peer's log of an author parts from ours, somewhere up to `differs`.
    fn descend(&mut self, now: Now, id: LinkId, author: AuthorId, differs: u64) {
        let same = self.log().map_or(0, |log| log.pruned_through(author));
        let next = self.descents.begin(now.mono, id, author, same, differs);
        self.pursue(now, id, author, next);
    }

    /// Looks for it anywhere up to the end of what we hold.
    pub(crate) fn descend_from_tip(&mut self, now: Now, id: LinkId, author: AuthorId) {
        let head = self.log().and_then(|log| log.head(author));
        let differs = head.map_or(0, |head| head.nonce).saturating_add(1);
        self.descend(now, id, author, differs);
    }

    /// Does what a descent calls for.
    fn pursue(&mut self, now: Now, id: LinkId, author: AuthorId, next: Option<Next>) {
        let Some(room) = &self.room else {
            return;
        };
        match next {
            Some(Next::Probe(nonce)) => {
                let probe = vec![at_nonce(&room.log, author, nonce)];
                self.outbox.control(id, &Control::Probe(probe));
            }
            Some(Next::Want(range)) => self.outbox.control(id, &Control::Want(vec![range])),
            Some(Next::Found(same)) => {
                let sought = room.log.sought(author);
                if let Some(member) = self.links.member_mut(id)
                    && member.owed.len() < MAX_LIST
                {
                    member.owed.push((author, same));
                }
                self.serve(now, id);
                let next = self.descents.fetch(now.mono, id, author, same, sought);
                self.pursue(now, id, author, next);
            }
            None => {}
        }
    }

    /// Takes a question which frames we hold somewhere. At most 512 wait to be answered; the peer asks again for
    /// others.
    pub(crate) fn on_probe(&mut self, now: Now, id: LinkId, mut heads: Vec<Head>) {
        if let Some(member) = self.links.member_mut(id) {
            heads.truncate(MAX_LIST - member.probes.len());
            member.probes.append(&mut heads);
        }
        self.serve(now, id);
    }

    pub(crate) fn on_probed(&mut self, now: Now, id: LinkId, heads: &[Head]) {
        for Head {
            author,
            id: theirs,
            nonce,
        } in heads.iter().copied()
        {
            let Some(room) = &self.room else {
                return;
            };
            let ours = room.log.header_with(author, nonce);
            let same = ours.is_some_and(|(_, id)| *id.as_bytes() == theirs);
            let ours = ours.map(|(header, _)| (header.first_nonce, header.last_nonce()));
            let next = self
                .descents
                .on_probed(now.mono, id, author, nonce, ours, same);
            self.pursue(now, id, author, next);
        }
    }

    /// Tells the peer of a link of which authors we can prove that their logs fork.
    fn send_forks(&mut self, id: LinkId) {
        let forks = self.log().map(CommandLog::forks).unwrap_or_default();
        for part in forks.chunks(MAX_LIST) {
            let places = part.iter().map(place).collect();
            self.outbox.control(id, &Control::Forks(places));
        }
    }

    /// Asks for the proofs that we lack of forks in what we hold: each peer by itself, so that one
    /// that announces what it cannot prove keeps no other one's proofs away.
    pub(crate) fn on_forks(&mut self, now: Now, id: LinkId, forks: Vec<Head>) {
        let (Some(member), Some(room)) = (self.links.member_mut(id), &self.room) else {
            return;
        };
        let asked = &mut member.proofs_asked;
        asked.retain(|_, until| *until > now.mono);
        let lacking = |head: &Head| {
            let parent = FrameId::from_bytes(head.id);
            let new = asked.len() < MAX_PROOFS_ASKED
                && !asked.contains_key(&head.author)
                && room.log.lacks_fork(head.author, head.nonce, parent);
            if new {
                asked.insert(head.author, now.mono + PROOF_PATIENCE);
            }
            new
        };
        let wanted: Vec<_> = forks.into_iter().filter(lacking).collect();
        if !wanted.is_empty() {
            self.outbox.control(id, &Control::WantForks(wanted));
        }
    }

    pub(crate) fn on_want_forks(&mut self, now: Now, id: LinkId, mut forks: Vec<Head>) {
        if let Some(member) = self.links.member_mut(id) {
            forks.truncate(MAX_LIST - member.wanted_forks.len());
            member.wanted_forks.append(&mut forks);
        }
        self.serve(now, id);
    }

    /// Asks for what is missing: at once, or when the flush interval since the last time is over.
    pub(crate) fn plan_soon(&mut self, now: Now) {
        let due = self.last_plan + self.config.flush_interval;
        self.plan_due = Some(due.max(now.mono));
        if due <= now.mono {
            self.plan(now);
        }
    }

    /// Asks for what is missing.
    fn plan(&mut self, now: Now) {
        self.plan_due = None;
        self.last_plan = now.mono;
        let Some(room) = &self.room else {
            return;
        };
        let world = World {
            room,
            links: &self.links,
        };
        for (id, ranges) in self.anti_entropy.plan(now.mono, &world) {
            self.outbox.control(id, &Control::Want(ranges));
        }
    }

    /// Asks for more of an author of whom something has come.
    pub(crate) fn go_on(&mut self, now: Now, author: AuthorId) {
        let Some(room) = &self.room else {
            return;
        };
        let world = World {
            room,
            links: &self.links,
        };
        for (id, ranges) in self.anti_entropy.go_on(now.mono, &world, author) {
            self.outbox.control(id, &Control::Want(ranges));
        }
    }

    /// The last nonce of our own log that we hold, 0 for none.
    pub(crate) fn own_nonce(&self) -> u64 {
        let head = self.log().and_then(CommandLog::own_head);
        head.map_or(0, |head| head.nonce)
    }

    /// Finds out whether we know our own last command by now.
    fn review_own_head(&mut self, now: Now) {
        let held = self.own_nonce();
        self.own_head.review(now.mono, held);
    }

    pub(crate) fn on_want(&mut self, now: Now, id: LinkId, mut ranges: Vec<Range>) {
        if let Some(member) = self.links.member_mut(id) {
            ranges.truncate(MAX_LIST - member.wanted.len());
            member.wanted.append(&mut ranges);
        }
        self.serve(now, id);
    }

    /// Sends what a peer has asked for, as far as one answer goes.
    fn serve(&mut self, now: Now, id: LinkId) {
        let (Some(member), Some(room)) = (self.links.member_mut(id), &self.room) else {
            return;
        };
        if !member.waits() || now.mono < member.next_serve {
            return;
        }
        member.next_serve = now.mono + SERVE_INTERVAL;
        let mut left = SERVE_BYTES;
        answer(id, member, &room.log, &mut self.outbox, &mut left);
        let mut served = std::mem::take(&mut member.wanted);
        let forks = std::mem::take(&mut member.wanted_forks);
        let mut pruned = false;
        for head in forks {
            let Some(proof) = room.log.fork(head.author) else {
                continue;
            };
            if left == 0 {
                member.wanted_forks.push(head);
                continue;
            }
            for frame in proof.frames() {
                self.outbox.transmit(id, member.command(frame));
            }
            let bytes = proof.frames().map(|frame| frame.bytes().len());
            left = left.saturating_sub(bytes.iter().sum());
        }
        for range in &mut served {
            let after = range.first.saturating_sub(1);
            let last = std::mem::replace(&mut range.last, after);
            let below = after < room.log.pruned_through(range.author);
            pruned |= below;
            if left == 0 || below {
                continue;
            }
            for frame in room.log.frames_after(range.author, after, left) {
                if frame.header().first_nonce > last {
                    break;
                }
                range.last = frame.header().last_nonce();
                left = left.saturating_sub(frame.bytes().len());
                self.outbox.transmit(id, member.command(&frame));
            }
        }
        if !served.is_empty() {
            self.outbox.control(id, &Control::Served(served));
        }
        if pruned {
            self.send_pruned(id);
        }
    }

    pub(crate) fn on_served(&mut self, now: Now, id: LinkId, ranges: &[Range]) {
        for range in ranges {
            let next = self.descents.on_served(now.mono, id, range);
            self.pursue(now, id, range.author, next);
        }
        for author in self.anti_entropy.on_served(id, ranges) {
            self.go_on(now, author);
        }
        self.plan_soon(now);
    }

    /// Does what is due of the exchange of commands.
    pub(crate) fn exchange(&mut self, now: Now) {
        if now.mono >= self.next_heads {
            self.next_heads = now.mono + self.config.heads_interval;
            for id in self.links.best(Link::is_aligned) {
                self.send_heads(id);
                self.send_forks(id);
            }
            self.mark_for_checkpoints(now);
            // Frames from clocks ahead of ours may have come of age.
            self.settle_soon(now);
        }
        for id in self.links.ids(|l| l.member().is_some_and(Member::waits)) {
            self.serve(now, id);
        }
        if self.plan_timeout().is_some_and(|due| due <= now.mono) {
            self.plan(now);
        }
        self.review_own_head(now);
        self.review_arrivals(now);
        self.settle_log(now);
    }

    /// When to ask for what is missing.
    fn plan_timeout(&self) -> Option<Timestamp> {
        self.anti_entropy
            .next_timeout()
            .into_iter()
            .chain(self.plan_due)
            .min()
    }

    /// When [`exchange`](Self::exchange) has something to do, apart from heads and answers.
    pub(crate) fn exchange_due(&self) -> Option<Timestamp> {
        let own = self.own_head.next_timeout(self.own_nonce());
        let settle = self.room.as_ref().and_then(|room| room.settle_due);
        own.into_iter()
            .chain(self.arrivals.due())
            .chain(settle)
            .chain(self.plan_timeout())
            .min()
    }
}

struct World<'a> {
    room: &'a Room,
    links: &'a Links,
}

impl Holdings for World<'_> {
    fn held(&self, author: &AuthorId) -> u64 {
        held(self.room, author)
    }

    fn leads_to(&self, link: LinkId, author: &AuthorId) -> bool {
        let member = self.links.get(link).and_then(Link::member);
        member.is_some_and(|member| member.author == *author)
    }

    fn linked(&self, author: &AuthorId) -> bool {
        let leads = |link: &Link| {
            link.member()
                .is_some_and(|m| m.aligned && m.author == *author)
        };
        self.links.iter().any(|(_, link)| leads(link))
    }
}

/// The author's last nonce here. All of them, where its log has ended or there is no room for it: more is of no use.
fn held(room: &Room, author: &AuthorId) -> u64 {
    if room.log.fork(*author).is_some() || !room.log.has_room_for(*author) {
        return u64::MAX;
    }
    room.log.head(*author).map_or(0, |head| head.nonce)
}

/// Answers a peer's questions, and sends it our frames where its logs part from ours.
fn answer(
    id: LinkId,
    member: &mut Member,
    log: &CommandLog,
    outbox: &mut Outbox,
    left: &mut usize,
) {
    let probes = std::mem::take(&mut member.probes);
    if !probes.is_empty() {
        let ours = probes
            .iter()
            .map(|head| at_nonce(log, head.author, head.nonce));
        outbox.control(id, &Control::Probed(ours.collect()));
    }
    for (author, same) in std::mem::take(&mut member.owed) {
        if *left == 0 {
            member.owed.push((author, same));
            continue;
        }
        for frame in next_frames(log, author, same) {
            *left = left.saturating_sub(frame.bytes().len());
            outbox.transmit(id, member.command(&frame));
        }
    }
}

/// What follows a nonce in an author's log: both frames, if it forks there.
fn next_frames(log: &CommandLog, author: AuthorId, nonce: u64) -> Vec<SharedFrame> {
    let fork = log.fork(author).filter(|fork| fork.after() == nonce);
    let frames = fork.iter().flat_map(ForkProof::frames).cloned();
    let next = log.frame_with(author, nonce.saturating_add(1));
    frames.chain(next).collect()
}

/// Which frame we hold at a nonce; zeros for none.
fn at_nonce(log: &CommandLog, author: AuthorId, nonce: u64) -> Head {
    let frame = log.header_with(author, nonce);
    Head {
        author,
        id: frame.map_or([0; 32], |(_, id)| *id.as_bytes()),
        nonce,
    }
}

/// After which frame a fork is.
fn place(fork: &ForkProof) -> Head {
    Head {
        author: fork.author(),
        id: *fork.parent().as_bytes(),
        nonce: fork.after(),
    }
}
