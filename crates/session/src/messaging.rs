//! The conversation on App with each peer: which link it takes, what becomes of it when the peer goes, and when it is acknowledged.
//!
//! Each side names its end of a conversation by a number, its *incarnation*, in every hello: who shows another one has forgotten the
//! conversation, or is another process. Then numbering begins anew on both sides, and what was not acknowledged is told of as undelivered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use roundtable_core::{AuthorId, Channel, CloseCode, Frame, Payload, PeerId, Timestamp};
use roundtable_wire::session::Control;

use crate::{
    Session,
    event::{self, Event, InputError, LinkId, MessageStats, Now},
    handshake::Refusal,
    links::{Link, Rank},
    messages::{Incoming, MAX_MESSAGE_LEN, Message, Outgoing, Taken, Unread},
};

/// How long a conversation is kept for a peer that is away.
const KEEP: Duration = Duration::from_secs(600);
/// Conversations with peers that are away. One more, and the one that has been away for the longest is forgotten.
const MAX_AWAY: usize = 32;
/// Bytes of messages that have not come whole from peers that are away. More, and of those who have sent such the one that has been away
/// for the longest is forgotten.
const MAX_AWAY_PARTIAL: usize = 2 * MAX_MESSAGE_LEN;

/// A conversation, with a member; of a guest only what is counted.
#[derive(Debug)]
struct Pair {
    incarnation: u64,
    /// Whether the peer may know that number.
    shown: bool,
    /// Whom it is with, and the peer's own number for it.
    remote: Option<(AuthorId, u64)>,
    outgoing: Outgoing,
    incoming: Incoming,
    /// The link that the outgoing half was last sent on.
    on: Option<LinkId>,
    /// The link on which the peer was last told what has come. If that dies, it may not have heard it.
    told_on: Option<LinkId>,
    /// Since when there is no link to the peer.
    away: Option<Timestamp>,
    stats: MessageStats,
}

/// All conversations, by peer.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pairs: BTreeMap<PeerId, Pair>,
    next_incarnation: u64,
    /// What the application has not read, also of peers that are forgotten.
    unread: Unread,
}

impl Messages {
    /// `seed`: a random number, so that no other process has the same incarnations.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            next_incarnation: seed,
            ..Self::default()
        }
    }

    fn pair(&mut self, peer: &PeerId) -> &mut Pair {
        let next = &mut self.next_incarnation;
        self.pairs.entry(peer.clone()).or_insert_with(|| {
            // 0 is for those who have none.
            *next = next.checked_add(1).unwrap_or(1);
            Pair {
                incarnation: *next,
                shown: false,
                remote: None,
                outgoing: Outgoing::default(),
                incoming: Incoming::default(),
                on: None,
                told_on: None,
                away: None,
                stats: MessageStats::default(),
            }
        })
    }

    /// Our number for the conversation with a peer to whom a link has opened.
    pub(crate) fn incarnation(&mut self, peer: &PeerId) -> u64 {
        let pair = self.pair(peer);
        // From here on the peer may know the number, so it must not be forgotten before the link is gone.
        pair.shown = true;
        pair.away = None;
        pair.incarnation
    }

    /// What was exchanged with a peer.
    pub(crate) fn stats(&self, peer: &PeerId) -> MessageStats {
        let Some(pair) = self.pairs.get(peer) else {
            return MessageStats::default();
        };
        let (waiting, waiting_bytes) = pair.outgoing.waiting();
        MessageStats {
            waiting,
            waiting_bytes,
            ..pair.stats
        }
    }

    /// A message of a peer is handed to the user. On App, it counts as unread.
    pub(crate) fn count_received(&mut self, peer: &PeerId, channel: Channel, payload: &Payload) {
        let len = text_or_bytes(payload);
        if let (Channel::App | Channel::AppFast, Some(len)) = (channel, len) {
            let pair = self.pair(peer);
            pair.stats.count_received(len);
            if channel == Channel::App {
                pair.incoming.unread().add(len);
                self.unread.add(len);
            }
        }
    }

    /// Whether a peer that heeds no limit has sent far more than the application has read.
    pub(crate) fn is_flooded_by(&self, peer: &PeerId) -> bool {
        let pair = self.pairs.get(peer);
        pair.is_some_and(|pair| pair.incoming.is_flooded(self.unread))
    }

    /// Whom to forget next, as too much is kept for peers that are away. First those who have never been met.
    fn forgettable(&self) -> Option<PeerId> {
        let away = || {
            let pairs = self.pairs.iter();
            pairs.filter_map(|(peer, pair)| Some((pair, pair.away?, peer)))
        };
        let longest = |(pair, since, _): &(&Pair, Timestamp, _)| (pair.remote.is_some(), *since);
        if away().count() > MAX_AWAY {
            return away().min_by_key(longest).map(|(_, _, peer)| peer.clone());
        }
        let partial = |(pair, ..): &(&Pair, Timestamp, &PeerId)| pair.incoming.partial();
        if away().map(|away| partial(&away)).sum::<usize>() > MAX_AWAY_PARTIAL {
            let holding = away().filter(|away| partial(away) > 0);
            return holding.min_by_key(longest).map(|(_, _, peer)| peer.clone());
        }
        None
    }

    /// How many conversations there are, what waits to be acknowledged in all of them, and what the application has not read.
    pub(crate) fn totals(&self) -> (usize, u64, u64) {
        let waiting = self.pairs.values().map(|pair| pair.outgoing.waiting().1);
        (self.pairs.len(), waiting.sum(), self.unread.weight)
    }

    /// When the next acknowledgement is due, or a conversation has been kept long enough.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let due = self.pairs.values().flat_map(|pair| {
            let forgotten = pair.away.map(|since| since + KEEP);
            pair.incoming.due().into_iter().chain(forgotten)
        });
        due.min()
    }
}

fn text_or_bytes(payload: &Payload) -> Option<usize> {
    match payload {
        Payload::Text(text) => Some(text.len()),
        Payload::Binary(bytes) => Some(bytes.len()),
        Payload::Media(_) | Payload::Clock(_) => None,
    }
}

impl Session {
    /// Whether a message on App is taken for a peer: too much may wait for it already ([`Event::Writable`] says when that is over).
    /// True of peers that cannot be reached at all.
    pub fn is_writable(&self, peer: &PeerId) -> bool {
        let pair = self.messages.pairs.get(peer);
        pair.is_none_or(|pair| !pair.outgoing.is_full())
    }

    /// Sends a message on App to every peer that may have it: all who are linked, and members that are away for a moment. Says of
    /// each whether it was taken for it; that nobody is there is no error.
    ///
    /// # Errors
    /// [`InputError::TooLarge`] above [`MAX_MESSAGE_LEN`], [`InputError::WrongChannel`] for media: then nobody is sent anything.
    pub fn broadcast(&mut self, payload: Payload) -> Result<event::Taken, InputError> {
        let message = Message::new(payload).ok_or(InputError::WrongChannel(Channel::App))?;
        check_len(message.bytes.len(), MAX_MESSAGE_LEN)?;
        let linked = self.links.iter().filter(|(_, l)| l.carries(Channel::App));
        let linked = linked.map(|(_, link)| &link.info.peer);
        let met = self.messages.pairs.iter();
        let met = met.filter_map(|(peer, pair)| pair.remote.map(|_| peer));
        let peers: BTreeSet<PeerId> = linked.chain(met).cloned().collect();
        let send = |peer: PeerId| {
            let sent = self.send_message(&peer, message.clone());
            (peer, sent)
        };
        Ok(peers.into_iter().map(send).collect())
    }

    pub(crate) fn send_message(
        &mut self,
        peer: &PeerId,
        message: Message,
    ) -> Result<(), InputError> {
        let len = message.bytes.len();
        check_len(len, MAX_MESSAGE_LEN)?;
        let link = self.links.best_to(peer, |link| link.carries(Channel::App));
        let bare = link.filter(|id| !self.links.get(*id).is_some_and(Link::numbers_messages));
        if let Some(id) = bare {
            check_len(len, Channel::App.max_message_len())?;
            let frame = match String::from_utf8(message.bytes.to_vec()) {
                Ok(text) if message.text => Frame::text(Channel::App, text),
                _ => Frame::binary(Channel::App, message.bytes),
            };
            self.count_sent_on(id, &frame);
            self.outbox.transmit(id, frame);
            return Ok(());
        }
        let pair = self.messages.pairs.get_mut(peer);
        let pair = pair.filter(|pair| pair.remote.is_some());
        let pair = pair.ok_or_else(|| InputError::Unreachable(peer.clone()))?;
        if !pair.outgoing.push(message) {
            return Err(InputError::QueueFull(peer.clone()));
        }
        pair.stats.count_sent(len);
        self.pump(peer);
        Ok(())
    }

    pub(crate) fn count_sent_on(&mut self, id: LinkId, frame: &Frame) {
        if let (Channel::App | Channel::AppFast, Some(link)) = (frame.channel, self.links.get(id)) {
            let pair = self.messages.pair(&link.info.peer);
            pair.stats.count_sent(frame.payload_len());
        }
    }

    /// A peer has proven who it is, and named its end of the conversation.
    pub(crate) fn meet(&mut self, peer: &PeerId, (author, incarnation): (AuthorId, u64)) {
        let pair = self.messages.pair(peer);
        let remote = (incarnation != 0).then_some((author, incarnation));
        if pair.remote == remote {
            return;
        }
        pair.remote = remote;
        pair.incoming.begin_anew();
        let lost = std::mem::take(&mut pair.outgoing);
        (pair.on, pair.told_on) = (None, None);
        self.tell_undelivered(peer, &lost);
    }

    fn tell_undelivered(&mut self, peer: &PeerId, lost: &Outgoing) {
        let (count, _) = lost.waiting();
        let peer = peer.clone();
        if count > 0 {
            self.outbox.event(Event::Undelivered { peer, count });
        }
    }

    /// Whether a link is one of the present conversation.
    fn converses(&self, link: &Link) -> bool {
        let pair = self.messages.pairs.get(&link.info.peer);
        let remote = pair.and_then(|pair| pair.remote);
        let shown = link.member().map(|m| (m.author, m.incarnation));
        link.is_ready() && remote.is_some() && remote == shown
    }

    /// The best link of the conversation with a peer that satisfies a condition: one on which the peer answers, if there is any.
    fn conversing(&self, peer: &PeerId, wanted: impl Fn(&Link) -> bool) -> Option<LinkId> {
        let links = self.links.iter();
        let links = links.filter(|(_, l)| l.info.peer == *peer && wanted(l) && self.converses(l));
        let best = links.min_by_key(|(id, link)| link.rank(*id));
        best.map(|(id, _)| id)
    }

    /// Sends what may be sent, on the link that is best by now.
    fn pump(&mut self, peer: &PeerId) {
        let acknowledges = |link: &Link| link.member().is_some_and(|m| m.acknowledges);
        let best = self.conversing(peer, acknowledges);
        let Some(pair) = self.messages.pairs.get_mut(peer) else {
            return;
        };
        if pair.on != best {
            pair.on = best;
            pair.outgoing.rewind();
        }
        let Some(link) = best else {
            return;
        };
        while let Some(chunk) = pair.outgoing.next_chunk() {
            self.outbox
                .transmit(link, Frame::binary(Channel::App, chunk));
        }
    }

    /// Goes on with both halves on the link that is best by now.
    fn keep_to_the_best(&mut self, peer: &PeerId) {
        let best = self.conversing(peer, |_| true);
        let told_on = self.messages.pairs.get(peer).and_then(|p| p.told_on);
        match best {
            Some(best) if told_on != Some(best) => self.acknowledge(best),
            _ => self.pump(peer),
        }
    }

    pub(crate) fn on_chunk(&mut self, now: Now, id: LinkId, chunk: Bytes) {
        let Some(link) = self.links.get(id).filter(|link| self.converses(link)) else {
            return;
        };
        let peer = link.info.peer.clone();
        let pair = self.messages.pair(&peer);
        match pair.incoming.take(now.mono, chunk) {
            Ok(Taken::Again | Taken::Part) => {}
            Ok(Taken::Whole(payload)) => {
                let channel = Channel::App;
                self.messages.count_received(&peer, channel, &payload);
                self.outbox.event(Event::Message {
                    peer,
                    channel,
                    payload,
                });
            }
            Err(violation) => {
                let refusal = Refusal::new(CloseCode::PROTOCOL, violation.reason());
                self.refuse(now, id, refusal);
            }
        }
    }

    pub(crate) fn on_acknowledged(&mut self, now: Now, id: LinkId, through: u64, limit: u64) {
        let Some(member) = self.links.member_mut(id) else {
            return;
        };
        member.acknowledges = true;
        let shown = Some((member.author, member.incarnation));
        let Some(peer) = self.links.get(id).map(|link| link.info.peer.clone()) else {
            return;
        };
        let pair = self.messages.pair(&peer);
        if pair.remote != shown {
            return;
        }
        let was_full = pair.outgoing.is_full();
        if let Err(violation) = pair.outgoing.acknowledge(through, limit) {
            let refusal = Refusal::new(CloseCode::PROTOCOL, violation.reason());
            return self.refuse(now, id, refusal);
        }
        let writable = was_full && !pair.outgoing.is_full();
        self.pump(&peer);
        if writable {
            self.outbox.event(Event::Writable { peer });
        }
    }

    /// Tells a peer on a link what has come of it.
    pub(crate) fn acknowledge(&mut self, id: LinkId) {
        let unread = self.messages.unread;
        let Some(link) = self.links.get(id).filter(|link| self.converses(link)) else {
            return;
        };
        let peer = link.info.peer.clone();
        let pair = self.messages.pair(&peer);
        pair.told_on = Some(id);
        let (through, limit) = pair.incoming.acknowledgement(unread);
        self.outbox
            .control(id, &Control::Acknowledged { through, limit });
        // It may have said the same before this link was ready.
        self.pump(&peer);
    }

    /// The application has read a message.
    pub(crate) fn on_read(&mut self, now: Now, peer: &PeerId, len: usize) {
        self.messages.unread.read(len);
        if let Some(pair) = self.messages.pairs.get_mut(peer) {
            pair.incoming.unread().read(len);
        }
        for pair in self.messages.pairs.values_mut() {
            if pair.remote.is_some() {
                pair.incoming.look_again(now.mono);
            }
        }
    }

    /// Acknowledges what has come, moves what is on its way off silent links, and forgets who has been away for too long.
    pub(crate) fn review_messages(&mut self, now: Now) {
        for peer in self.conversations_to_review(now) {
            let pair = self.messages.pair(&peer);
            if pair.incoming.due().is_some_and(|due| due <= now.mono) {
                pair.incoming.put_off();
                if let Some(id) = self.conversing(&peer, |_| true) {
                    self.acknowledge(id);
                }
            }
            let away = self.messages.pair(&peer).away;
            if away.is_some_and(|since| since + KEEP <= now.mono) {
                self.forget_messages(&peer);
            } else {
                self.keep_to_the_best(&peer);
            }
        }
    }

    /// With whom something is to be done: mostly nobody. A session is woken often, and has many peers and links.
    fn conversations_to_review(&self, now: Now) -> Vec<PeerId> {
        // By peer, the best link of the conversation, and the best on which it acknowledges.
        let mut best: BTreeMap<&PeerId, [Option<Rank>; 2]> = BTreeMap::new();
        for (id, link) in self.links.iter().filter(|(_, link)| self.converses(link)) {
            let rank = link.rank(id);
            let acknowledges = link.member().is_some_and(|m| m.acknowledges);
            let [any, acknowledging] = best.entry(&link.info.peer).or_default();
            *any = Some(any.map_or(rank, |best| best.min(rank)));
            if acknowledges {
                *acknowledging = Some(acknowledging.map_or(rank, |best| best.min(rank)));
            }
        }
        let to_review = |(peer, pair): &(&PeerId, &Pair)| {
            let best = best.get(*peer).copied().unwrap_or_default();
            let [any, acknowledging] = best.map(|rank| rank.map(|(_, _, id)| id));
            let forgotten = pair.away.map(|since| since + KEEP);
            let due = pair.incoming.due().into_iter().chain(forgotten).min();
            due.is_some_and(|due| due <= now.mono)
                || (any.is_some() && pair.told_on != any)
                || pair.on != acknowledging
                || (pair.on.is_some() && pair.outgoing.has_chunk())
        };
        let pairs = self.messages.pairs.iter();
        pairs
            .filter(to_review)
            .map(|(peer, _)| peer.clone())
            .collect()
    }

    /// One link fewer leads to a peer.
    pub(crate) fn messages_link_down(&mut self, now: Now, peer: &PeerId) {
        if !self.links.ids(|link| link.info.peer == *peer).is_empty() {
            return self.keep_to_the_best(peer);
        }
        let Some(pair) = self.messages.pairs.get_mut(peer) else {
            return;
        };
        if !pair.shown {
            self.messages.pairs.remove(peer);
            return;
        }
        // Even if the peer was not met: it may have met us, and then has begun to send.
        pair.on = None;
        pair.away = Some(now.mono);
        while let Some(forgettable) = self.messages.forgettable() {
            self.forget_messages(&forgettable);
        }
    }

    fn forget_messages(&mut self, peer: &PeerId) {
        if let Some(pair) = self.messages.pairs.remove(peer) {
            self.tell_undelivered(peer, &pair.outgoing);
        }
    }

    /// Closes all links to a peer, and forgets what it was still to be sent.
    pub(crate) fn part_with(&mut self, now: Now, peer: &PeerId, reason: Refusal) {
        for id in self.links.ids(|link| link.info.peer == *peer) {
            self.close(now, id, reason);
        }
        self.forget_messages(peer);
    }

    /// Whether as many others are linked as the room takes.
    pub(crate) fn is_full_for(&self, peer: &PeerId) -> bool {
        let ready = self.links.iter().filter(|(_, link)| link.is_ready());
        let others: BTreeSet<_> = ready.map(|(_, link)| &link.info.peer).collect();
        !others.contains(peer) && others.len() + 1 >= self.config.max_peers
    }
}

fn check_len(len: usize, max: usize) -> Result<(), InputError> {
    let channel = Channel::App;
    if len > max {
        return Err(InputError::TooLarge { channel, len, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    fn peer(number: usize) -> PeerId {
        PeerId::new(&format!("p{number}")).unwrap()
    }

    /// A peer that went after so many bytes of a message.
    fn away(messages: &mut Messages, number: usize, mut partial: usize) {
        messages.incarnation(&peer(number));
        let pair = messages.pair(&peer(number));
        let since = Timestamp::from_millis(number as u64);
        for chunk in 1_u64.. {
            let len = partial.min(60_000);
            if len == 0 {
                break;
            }
            let mut bytes = chunk.to_le_bytes().to_vec();
            bytes.put_u8(2);
            bytes.resize(9 + len, 0);
            pair.incoming.acknowledgement(Unread::default());
            assert_eq!(pair.incoming.take(since, bytes.into()), Ok(Taken::Part));
            partial -= len;
        }
        pair.away = Some(since);
    }

    #[test]
    fn few_halves_of_messages_are_kept_for_peers_that_are_away() {
        let mut messages = Messages::new(0);
        let half = MAX_MESSAGE_LEN / 2;
        away(&mut messages, 1, 0);
        (2..6).for_each(|number| away(&mut messages, number, half));
        assert_eq!(messages.forgettable(), None);
        away(&mut messages, 6, half);
        assert_eq!(
            messages.forgettable(),
            Some(peer(2)),
            "not who holds nothing"
        );
        messages.pair(&peer(2)).away = None;
        assert_eq!(
            messages.forgettable(),
            None,
            "one that is linked does not count"
        );
    }

    #[test]
    fn who_was_never_met_is_forgotten_before_who_was() {
        let mut messages = Messages::new(0);
        (0..=MAX_AWAY).for_each(|number| away(&mut messages, number, 0));
        for number in 0..10 {
            let author = AuthorId::from_bytes([7; 32]);
            messages.pair(&peer(number)).remote = Some((author, 1));
        }
        assert_eq!(messages.forgettable(), Some(peer(10)));
    }
}
