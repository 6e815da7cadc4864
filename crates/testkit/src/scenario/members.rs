//! What the members of a room, its guests and its enemies do.

use std::time::Duration;

use roundtable_command_log::{Action, Key, Role};
use roundtable_core::{Channel, Frame};
use roundtable_session::LinkId;

use super::life::Life;
use crate::{CLAIM, Kind, NOTE, SCORE, TRAIL, World, hostile::Equivocation};

/// Bytes of a large value: a dozen of them are more than one answer to a request holds.
const LARGE: usize = 24 * 1024;

impl Life {
    /// Several peers write at once.
    pub(super) fn write(&mut self) {
        for _ in 0..self.world.dice.between(1, 3) {
            let writer = self.any_honest();
            let count = self.world.dice.between(1, 6);
            let actions: Vec<_> = (0..count).map(|_| self.any_put()).collect();
            if self.world.submit(writer, actions).is_ok() {
                self.world.note(format!("p{writer} writes {count}"));
            }
        }
    }

    /// One who may writes much.
    pub(super) fn fill(&mut self) {
        let may_sign = |number: &usize| {
            let session = self.world.session(*number);
            session.is_some_and(|session| session.may_sign())
        };
        let writers: Vec<_> = self.world.honest().into_iter().filter(may_sign).collect();
        if let Some(writer) = self.world.dice.pick(&writers) {
            let actions: Vec<_> = (0..10).map(|_| self.any_put()).collect();
            // What its budget does not allow is not written.
            let _ = self.world.submit(writer, actions);
        }
    }

    /// One peer takes back what it wrote last, or lets it count again, a few steps.
    pub(super) fn go_back(&mut self) {
        let writer = self.any_honest();
        for _ in 0..self.world.dice.between(1, 4) {
            let forth = self.world.dice.chance(40);
            let log = self.world.session(writer).and_then(|session| session.log());
            let command = log.and_then(|log| {
                let back = || log.undo_command(log.next_undo()?);
                let forth = forth.then(|| log.redo_command(log.next_redo()?));
                forth.flatten().or_else(back)
            });
            let Some(command) = command else {
                return;
            };
            let what = format!("p{writer} writes {command:?}");
            if self.world.submit(writer, vec![command]).is_ok() {
                self.world.note(what);
            }
            self.pass(Duration::from_millis(12));
        }
    }

    /// One peer writes frame after frame.
    pub(super) fn pour(&mut self) {
        let writer = self.any_honest();
        let frames = self.world.dice.between(10, 30);
        self.world.note(format!("p{writer} pours out {frames}"));
        for _ in 0..frames {
            let action = self.any_put();
            // What its role or its budget does not allow is not written.
            let _ = self.world.submit(writer, vec![action]);
            self.pass(Duration::from_millis(12));
        }
    }

    /// Some peers send each other messages, now and then a long one.
    pub(super) fn talk(&mut self) {
        let honest = self.world.honest();
        for _ in 0..self.world.dice.between(1, 8) {
            let pair = [(); 2].map(|()| self.world.dice.pick(&honest));
            let [Some(from), Some(to)] = pair else {
                return;
            };
            let long = if self.world.dice.chance(10) {
                100_000
            } else {
                300
            };
            let len = self.world.dice.index(long).unwrap_or_default();
            if from != to && self.world.say(from, to, len) {
                self.world.note(format!("p{from} tells p{to} {len} bytes"));
            }
        }
    }

    /// Signaling says that a peer has left, whether or not that is true.
    pub(super) fn misinform(&mut self) {
        let (told, about) = (self.any_honest(), self.any_author());
        if told != about {
            self.world
                .note(format!("p{told} hears that p{about} has left"));
            self.world.tell_left(told, about);
        }
    }

    fn any_put(&mut self) -> Action {
        let dice = &mut self.world.dice;
        let key = [b'a' + dice.below(5).to_le_bytes()[0]].to_vec();
        let value = dice.below(1000);
        let text = format!("{value} ").into_bytes();
        let (key_type, value) = match dice.below(4) {
            0 => (CLAIM, text),
            1 => (TRAIL, text),
            2 => (SCORE, value.to_le_bytes().to_vec()),
            _ if dice.chance(5) => (NOTE, vec![b'x'; LARGE]),
            _ => (NOTE, text),
        };
        Action::put(Key::new(key_type, key), value)
    }

    /// An Admin gives or takes a role.
    pub(super) fn rule(&mut self) {
        let admin = |world: &World, number: &usize| {
            let log = world.session(*number).and_then(|session| session.log());
            log.is_some_and(|log| log.role_of(world.author(*number)) == Role::Admin)
        };
        let admins: Vec<_> = self
            .world
            .honest()
            .into_iter()
            .filter(|number| admin(&self.world, number))
            .collect();
        let (ruler, mut subject) = (self.world.dice.pick(&admins), self.any_author());
        if self.world.equivocation != Equivocation::Never && self.world.dice.chance(40) {
            let hostile = self.world.numbers(|peer| peer.kind == Kind::Hostile);
            subject = hostile.first().copied().unwrap_or(subject);
        }
        let role = self
            .world
            .dice
            .pick(&[Role::Viewer, Role::Editor, Role::Admin, Role::Admin]);
        let (Some(ruler), Some(role)) = (ruler, role) else {
            return;
        };
        let subject_key = self.world.author(subject);
        let restores = self.world.dice.chance(70);
        let log = self.world.session(ruler).and_then(|session| session.log());
        let command = log.map(|log| {
            let restore = log.restore_command(subject_key, role).filter(|_| restores);
            restore.unwrap_or_else(|| log.role_command(subject_key, role))
        });
        if self
            .world
            .submit(ruler, command.into_iter().collect())
            .is_ok()
        {
            self.world
                .note(format!("p{ruler} makes p{subject} {role:?}"));
        }
    }

    /// Someone comes late.
    pub(super) fn join(&mut self) {
        if self.world.running().len() >= 10 {
            return;
        }
        let number = self.world.add(Kind::Honest);
        self.world.note(format!("p{number} joins"));
        self.start(number);
    }

    pub(super) fn propose(&mut self) {
        self.world.propose();
    }

    pub(super) fn retire(&mut self) {
        self.world.retire();
    }

    pub(super) fn attack(&mut self) {
        for number in self.world.numbers(|peer| peer.kind == Kind::Hostile) {
            self.world.attack(number, &mut self.forgers);
        }
    }

    /// Guests say something, on channels that are theirs and on others.
    pub(super) fn chatter(&mut self) {
        for number in self.world.numbers(|peer| peer.kind == Kind::Guest) {
            let links = self
                .world
                .cables
                .iter()
                .filter(|(_, cable)| cable.ends.contains(&number));
            let links: Vec<u64> = links.map(|(id, _)| *id).collect();
            for link in links.into_iter().map(LinkId) {
                self.world
                    .transmit(number, link, Frame::text(Channel::App, "hello"));
                for channel in [Channel::Command, Channel::Control, Channel::Snapshot] {
                    let frame = Frame::binary(channel, vec![1; 300]);
                    self.world.transmit(number, link, frame);
                }
            }
        }
    }
}
