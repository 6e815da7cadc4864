//! Command frames as they arrive: read in whatever form they have; those that answer a request of ours, or come in great
//! numbers, are gathered for a moment, so that their signatures are verified together.

use std::collections::BTreeSet;

use bytes::Bytes;
use roundtable_command_log::{FrameError, Header, ReadError, Received, UnverifiedFrame};
use roundtable_core::{AuthorId, CloseCode};
use roundtable_wire::session::Control;

use crate::{
    Session,
    event::{Event, LinkId, Now},
    handshake::Refusal,
    pacing::Pushed,
};

/// Frames that do not verify or are malformed, after which a link is closed.
const MAX_OFFENCES: u32 = 8;
/// How often a link's peer is asked for full forms, after which the link is closed. An honest peer
/// has to be asked at most when the room's genesis changes.
const MAX_MISREAD: u32 = 64;

/// Where a frame has come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    link: LinkId,
    header: Header,
    elided: bool,
}

impl Source {
    pub(crate) fn of(link: LinkId, frame: &UnverifiedFrame) -> Self {
        Self {
            link,
            header: *frame.header(),
            elided: frame.is_elided(),
        }
    }
}

/// What has to be done once frames have been judged.
#[derive(Debug, Default)]
struct Consequences {
    settle: bool,
    plan: bool,
    own: bool,
    /// Authors of whom something has come that was asked for.
    authors: BTreeSet<AuthorId>,
}

impl Session {
    /// Takes a command frame of an aligned link.
    pub(crate) fn on_command(&mut self, now: Now, id: LinkId, bytes: Bytes) {
        let (Some(room), Some(member)) = (&mut self.room, self.links.member_mut(id)) else {
            return;
        };
        let frame = match room.log.read(&mut member.reader, bytes) {
            Ok(frame) => frame.shown_by(member.author),
            Err(ReadError::Frame(error)) => return self.on_bad_frame(now, id, None, &error),
            Err(_) => return self.on_misread(now, id),
        };
        member.asked_in_full &= frame.is_elided();
        let peer = member.author;
        let asked_for = self.anti_entropy.is_fetching(&frame.author());
        if asked_for || !self.arrivals.may_pass(now.mono, peer) {
            match self.arrivals.push(now.mono, peer, (id, frame)) {
                Pushed::Waits => {}
                Pushed::Full => self.judge_round(now),
                Pushed::Dropped => self.counters.overrun(),
            }
            return;
        }
        let source = Source::of(id, &frame);
        let received = room.log.receive_frame(now.wall, frame);
        let mut consequences = Consequences::default();
        self.on_received(now, source, received, &mut consequences);
        self.follow(now, &consequences);
    }

    /// Follows up on a frame in full form that came by itself.
    pub(crate) fn on_judged(
        &mut self,
        now: Now,
        source: Source,
        received: Result<Received, FrameError>,
    ) {
        let mut consequences = Consequences::default();
        self.on_received(now, source, received, &mut consequences);
        self.follow(now, &consequences);
    }

    /// Judges frames that wait, if they have waited long enough.
    pub(crate) fn review_arrivals(&mut self, now: Now) {
        if self.arrivals.due().is_some_and(|due| due <= now.mono) {
            self.judge_round(now);
        }
    }

    fn judge_round(&mut self, now: Now) {
        let Some(room) = &mut self.room else {
            return;
        };
        let round = self.arrivals.round(now.mono).into_iter();
        let (sources, frames): (Vec<_>, Vec<_>) = round
            .map(|(id, frame)| (Source::of(id, &frame), frame))
            .unzip();
        let mut consequences = Consequences {
            authors: frames.iter().map(UnverifiedFrame::author).collect(),
            ..Consequences::default()
        };
        let verdicts = room.log.receive_all(now.wall, frames);
        for (source, verdict) in sources.into_iter().zip(verdicts) {
            self.on_received(now, source, verdict, &mut consequences);
        }
        self.follow(now, &consequences);
    }

    fn on_received(
        &mut self,
        now: Now,
        source: Source,
        received: Result<Received, FrameError>,
        consequences: &mut Consequences,
    ) {
        let id = source.link;
        let member = self.links.get(id).and_then(|link| link.member());
        if let Some(member) = member.filter(|_| was_of_no_use(&received)) {
            self.counters.unused();
            self.arrivals.unused(now.mono, member.author);
        }
        match received {
            Ok(Received::Accepted { frame }) => {
                let author = frame.author();
                consequences.settle = true;
                consequences.own |= author == self.author;
            }
            Ok(Received::Forked { .. } | Received::Aside { .. }) => consequences.settle = true,
            Ok(Received::Detached { author }) => self.descend_from_tip(now, id, author),
            Ok(Received::Waiting { missing }) if self.links.contains(id) => {
                self.anti_entropy.claim(id, missing.author, missing.through);
                consequences.plan = true;
            }
            // Nobody is to blame: the peer may not know yet whose places these are. No signature was verified.
            Ok(_) | Err(FrameError::TooManyAuthors) => {}
            Err(error) if source.elided && is_offence(&error) && !self.was_asked_in_full(id) => {
                self.on_misread(now, id);
            }
            Err(error) => {
                self.on_bad_frame(now, id, Some(&source.header), &error);
            }
        }
    }

    fn follow(&mut self, now: Now, consequences: &Consequences) {
        if consequences.settle {
            self.settle_soon(now);
        }
        for author in &consequences.authors {
            self.go_on(now, *author);
        }
        if consequences.plan {
            self.plan_soon(now);
        }
        if consequences.own {
            self.tell_own_frames();
            let held = self.own_nonce();
            self.own_head.grown(now.mono, held);
            self.flush(now);
        }
    }

    fn was_asked_in_full(&self, id: LinkId) -> bool {
        let member = self.links.get(id).and_then(|link| link.member());
        member.is_some_and(|member| member.asked_in_full)
    }

    /// A frame leaves out what we do not remember, or what we do remember does not fit it. Nobody is
    /// to blame yet: its full form is asked for. What cannot be restored until that comes is dropped,
    /// and asked for like anything that is missing.
    fn on_misread(&mut self, now: Now, id: LinkId) {
        self.counters.misread();
        let Some(member) = self.links.member_mut(id) else {
            return;
        };
        if std::mem::replace(&mut member.asked_in_full, true) {
            return;
        }
        member.misread += 1;
        if member.misread > MAX_MISREAD {
            let reason = "too many frames that leave out what was never sent";
            return self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
        }
        tracing::debug!(link = id.0, "a frame could not be restored");
        self.outbox.control(id, &Control::FullForms);
    }

    /// The peer could not restore a frame. It is told what we hold, so that it asks for what it lacks.
    pub(crate) fn on_full_forms(&mut self, id: LinkId) {
        let member = self.links.member_mut(id);
        if member.is_some_and(|member| member.writer.forget()) {
            self.send_heads(id);
        }
    }

    /// Who breaks a rule has signed that, and is to blame; else it is whoever passed the frame on without a look at it.
    fn on_bad_frame(&mut self, now: Now, id: LinkId, header: Option<&Header>, error: &FrameError) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let (peer, code) = (link.info.peer.clone(), error.code());
        let Some(member) = link.member_mut() else {
            return;
        };
        if is_offence(error) {
            tracing::warn!(%peer, link = id.0, %error, "bad frame");
            member.offences += 1;
        } else {
            tracing::debug!(%peer, link = id.0, %error, "frame refused");
        }
        let (offences, sender) = (member.offences, member.author);
        let proven = header.filter(|_| matches!(error, FrameError::Rule(_)));
        self.outbox.event(Event::Misbehaved {
            peer,
            sender,
            author: proven.map(|header| header.author),
            code,
            header: header.copied().map(Box::new),
        });
        if offences >= MAX_OFFENCES {
            let reason = "too many frames that no honest peer sends";
            self.refuse(now, id, Refusal::new(CloseCode::PROTOCOL, reason));
        }
    }
}

/// Whether a signature was verified, and the log has not grown by that. Whose fault that is makes no difference: who passes on what
/// breaks a rule is not blamed for it, but has our verifications for that at no other pace.
fn was_of_no_use(received: &Result<Received, FrameError>) -> bool {
    match received {
        Ok(Received::Accepted { .. } | Received::Duplicate | Received::Ended) => false,
        Ok(_) => true,
        Err(error) => matches!(error, FrameError::Signature(_) | FrameError::Rule(_)),
    }
}

/// Whether a frame that was refused like this can only come from a peer that did not check it
/// itself. Full tables, unknown forms and breaches of rules may reach honest peers.
fn is_offence(error: &FrameError) -> bool {
    matches!(
        error,
        FrameError::Length(_)
            | FrameError::Nonces
            | FrameError::Key(_)
            | FrameError::Signature(_)
            | FrameError::Body(_)
            | FrameError::Count { .. }
    )
}
