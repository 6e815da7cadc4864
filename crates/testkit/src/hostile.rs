//! A member of the room who sends whatever hurts.

use std::collections::BTreeMap;

use bytes::Bytes;
use roundtable_command_log::{CommandLog, FrameWriter, SharedFrame};
use roundtable_core::{Channel, Frame};
use roundtable_session::LinkId;
use roundtable_wire::session::{Control, Head, Range};

use crate::{
    World,
    forge::{self, Draft, Forged, Forger, Tip},
};

/// A frame of this many commands is beyond the burst of every simulated room.
const BEYOND_BURST: u32 = 1000;
/// How far ahead of the truth a hostile author dates its frames.
const AHEAD_MS: u64 = 300_000;

/// How far a hostile author climbs at a time, and how often: each step is a small one, all together are not.
const STEP: u64 = 1 << 19;
const STEPS: u64 = 5;

/// How a world's hostile authors sign several frames for one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Equivocation {
    #[default]
    Never,
    /// Two branches at one moment, each shown to one peer.
    Once,
    /// Wherever they have been, shown to some.
    Often,
}

/// The hostile authors' logs, by peer.
pub(crate) type Forgers = BTreeMap<usize, Forger>;

const TRICKS: [(&str, Trick); 19] = [
    ("garbage", |_, world| Some(vec![world.garbage()])),
    ("a valid frame", |forger, world| {
        let (lamport, wall) = world.time_of(forger);
        Some(vec![forger.next(lamport, wall)])
    }),
    ("a frame dated ahead", |forger, world| {
        let (lamport, wall) = world.time_of(forger);
        Some(vec![forger.next(lamport, wall + AHEAD_MS)])
    }),
    ("a frame at the Lamport cap", |forger, world| {
        let (_, wall) = world.time_of(forger);
        Some(vec![forger.next(u64::MAX, wall)])
    }),
    ("a climb in Lamport time", |forger, world| {
        let (lamport, wall) = world.time_of(forger);
        let steps = 1..=STEPS;
        Some(
            steps
                .map(|step| forger.next(lamport + step * STEP, wall))
                .collect(),
        )
    }),
    ("a frame with torsion", |forger, world| {
        let (lamport, wall) = world.time_of(forger);
        let draft = forger.draft(lamport, wall, 1, b"torsion");
        let torsion = world.dice.index(8)?;
        let forged = forger.sign_with_torsion(&draft, torsion);
        forger.keep(&draft, &forged);
        Some(vec![forged.bytes])
    }),
    (
        "a frame over budget and its valid sibling",
        |forger, world| {
            let (lamport, wall) = world.time_of(forger);
            let cheat = forger.draft(lamport, wall, BEYOND_BURST, b"!");
            let cheat = forger.sign(&cheat).bytes;
            Some(vec![cheat, forger.next(lamport, wall)])
        },
    ),
    ("a bad frame and a valid one after it", |forger, world| {
        let (lamport, wall) = world.time_of(forger);
        let mut bad = forger.draft(lamport, wall, 1, b"bad");
        bad.count = 2;
        let forged = forger.sign(&bad);
        let good = forger.draft(lamport, wall, 1, b"good");
        let after = Draft {
            previous: forged.id(),
            first_nonce: bad.first_nonce + 2,
            ..good
        };
        Some(vec![forged.bytes.clone(), forger.sign(&after).bytes])
    }),
    ("a Lamport time beyond the cap", |forger, world| {
        forger.altered(world, |draft, cap| draft.lamport = cap + 1)
    }),
    ("a Lamport time that does not rise", |forger, world| {
        let last = forger.tip().lamport;
        forger.altered(world, |draft, _| draft.lamport = last)
    }),
    ("a wall time before the genesis", |forger, world| {
        let begin = forger.genesis_wall_ms();
        forger.altered(world, |draft, _| draft.wall_ms = begin - 1)
    }),
    ("the last nonce of all", |forger, world| {
        forger.altered(world, |draft, _| draft.first_nonce = u64::MAX - 1)
    }),
    ("a frame beyond a gap that never closes", |forger, world| {
        forger.altered(world, |draft, _| draft.first_nonce += 3)
    }),
    ("a frame of a weak key", |forger, world| {
        forger.altered(world, |draft, _| draft.author = forge::weak_key())
    }),
    ("frames of others, altered", |_, world| {
        let genuine = world.any_frame()?;
        let mut altered = genuine.to_vec();
        let at = world.dice.index(altered.len())?;
        altered[at] ^= 1;
        Some(vec![altered.into(), genuine])
    }),
    ("frames in another's name", |forger, world| {
        let honest = world.honest();
        let victim = world.dice.pick(&honest)?;
        let victim = world.author(victim);
        forger.altered(world, |draft, _| draft.author = victim)
    }),
    (
        "frames of others, elided and some of them lost",
        |_, world| {
            let elided = world.elided_frames();
            let mut sent = |_: &Bytes| world.dice.chance(70);
            Some(elided.into_iter().filter(|frame| sent(frame)).collect())
        },
    ),
    ("frames of others, elided and altered", |_, world| {
        let mut elided = world.elided_frames();
        let which = world.dice.index(elided.len())?;
        let mut altered = elided[which].to_vec();
        let at = world.dice.index(altered.len())?;
        altered[at] ^= 1;
        elided[which] = altered.into();
        Some(elided)
    }),
    ("garbage again, nine times", |_, world| {
        Some((0..9).map(|_| world.garbage()).collect())
    }),
];

type Trick = fn(&mut Forger, &mut World) -> Option<Vec<Bytes>>;

impl Forger {
    /// The next frame of the own log, kept.
    fn next(&mut self, lamport: u64, wall_ms: u64) -> Bytes {
        let draft = self.draft(lamport, wall_ms, 1, &wall_ms.to_le_bytes());
        let forged = self.sign(&draft);
        self.keep(&draft, &forged);
        forged.bytes
    }

    /// What would be the next frame, but for one thing. `alter` is told the cap of Lamport time.
    fn altered(&self, world: &World, alter: impl FnOnce(&mut Draft, u64)) -> Option<Vec<Bytes>> {
        let (lamport, wall) = world.time_of(self);
        let mut draft = self.draft(lamport, wall, 1, b"altered");
        let cap = self.cap(draft.wall_ms);
        alter(&mut draft, cap);
        let Forged { bytes, .. } = self.sign(&draft);
        Some(vec![bytes])
    }
}

impl World {
    /// A hostile peer does something, to some of those it is linked to.
    pub(crate) fn attack(&mut self, number: usize, forgers: &mut Forgers) {
        let Some(genesis) = self.genesis() else {
            return;
        };
        let key = self.peers[number].key.clone();
        let forger = forgers
            .entry(number)
            .or_insert_with(|| Forger::new(key, genesis));
        if self.dice.chance(20) {
            let message = self.nonsense();
            self.note(format!("p{number} sends nonsense on control"));
            return self.send_to_some(number, 60, &[(Channel::Control, message)]);
        }
        match self.equivocation {
            Equivocation::Once => return self.split(number, forger),
            Equivocation::Often if self.dice.chance(70) => {
                for _ in 0..self.dice.between(1, 4) {
                    self.equivocate(number, forger);
                }
                return;
            }
            _ => {}
        }
        let Some((name, trick)) = self.dice.pick(&TRICKS) else {
            return;
        };
        self.note(format!("p{number} sends {name}"));
        let frames = trick(forger, self).into_iter().flatten();
        let frames: Vec<_> = frames.map(|bytes| (Channel::Command, bytes)).collect();
        self.send_to_some(number, 60, &frames);
    }

    /// A hostile author signs a few frames after one that others have followed, or will, and shows
    /// them to some.
    fn equivocate(&mut self, number: usize, forger: &mut Forger) {
        let past = forger.past();
        let at = match self.dice.below(3) {
            0 => past.len() - 1,
            1 => past.len().saturating_sub(2),
            _ => self.dice.index(past.len()).unwrap_or_default(),
        };
        let from = self
            .tip_of_the_room(number, forger)
            .filter(|_| self.dice.chance(40));
        forger.go_back(from.unwrap_or(past[at]));
        let count = self.dice.between(1, 4);
        self.note(format!(
            "p{number} signs {count} from {at} of {}",
            forger.past().len()
        ));
        let (lamport, wall) = self.time_of(forger);
        let frames: Vec<_> = (0..count)
            .map(|n| (Channel::Command, forger.next(lamport, wall + n)))
            .collect();
        self.send_to_some(number, 30, &frames);
    }

    /// A hostile author goes on in two ways at once, and shows each to one peer only: who compares
    /// with the other later finds that they part far below what both hold.
    fn split(&mut self, number: usize, forger: &mut Forger) {
        let mut links: Vec<_> = self.honest();
        self.dice.shuffle(&mut links);
        let to = |victim: &usize| {
            let mut cables = self.cables.iter();
            let link = cables.find(|(_, cable)| cable.joins(number, *victim) && cable.works());
            link.map(|(id, _)| LinkId(*id))
        };
        let links: Vec<_> = links.iter().filter_map(to).collect();
        let [one, other, ..] = links[..] else {
            return;
        };
        self.equivocation = Equivocation::Never;
        self.note(format!(
            "p{number} goes on in two ways, on {one:?} and {other:?}"
        ));
        let end = forger.tip();
        for link in [one, other] {
            forger.go_back(end);
            let (lamport, wall) = self.time_of(forger);
            for n in 0..self.dice.between(3, 9) {
                let bytes = forger.next(lamport, wall + n);
                self.transmit(number, link, Frame::binary(Channel::Command, bytes));
            }
        }
    }

    /// Where the log of a hostile author ends for an honest peer.
    fn tip_of_the_room(&mut self, number: usize, forger: &Forger) -> Option<Tip> {
        let honest = self.honest();
        let peer = self.dice.pick(&honest)?;
        let head = self.session(peer)?.log()?.head(self.author(number))?;
        let tips = forger.past().iter();
        tips.copied().find(|tip| tip.id == *head.id.as_bytes())
    }

    fn send_to_some(&mut self, number: usize, percent: u64, messages: &[(Channel, Bytes)]) {
        let links = self
            .cables
            .iter()
            .filter(|(_, cable)| cable.ends.contains(&number) && cable.up[cable.end_of(number)]);
        let links: Vec<u64> = links.map(|(id, _)| *id).collect();
        for id in links {
            if self.dice.chance(percent) {
                for (channel, message) in messages {
                    let frame = Frame::binary(*channel, message.clone());
                    self.transmit(number, LinkId(id), frame);
                }
            }
        }
    }

    /// Lamport and wall time that fit the moment.
    fn time_of(&self, forger: &Forger) -> (u64, u64) {
        let honest = self.honest();
        let logs = honest
            .iter()
            .filter_map(|number| self.session(*number)?.log());
        let lamport = logs.map(|log| log.lamport()).max().unwrap_or_default();
        let elapsed_ms = self.now.as_micros() / 1000;
        (lamport + 1, forger.genesis_wall_ms() + elapsed_ms)
    }

    fn garbage(&mut self) -> Bytes {
        let length = self.dice.between(0, 400);
        let bytes = (0..length).map(|_| self.dice.number().to_le_bytes()[0]);
        bytes.collect::<Vec<u8>>().into()
    }

    fn any_frame(&mut self) -> Option<Bytes> {
        let honest = self.honest();
        let owner = self.dice.pick(&honest)?;
        let frames: Vec<_> = self.session(owner)?.log()?.frames().collect();
        let index = self.dice.index(frames.len())?;
        Some(frames[index].bytes().clone())
    }

    /// A few frames of one author as they would follow each other on a link, had it begun with the first.
    fn elided_frames(&mut self) -> Vec<Bytes> {
        let honest = self.honest();
        let author = self.any_frame().map(|frame| frame.slice(1..33));
        let owner = self.dice.pick(&honest);
        let log = owner.and_then(|owner| self.session(owner)?.log());
        let frames: Vec<_> = log.into_iter().flat_map(CommandLog::frames).collect();
        let of_author =
            |frame: &&SharedFrame| author.as_deref() == Some(frame.author().as_bytes().as_slice());
        let frames = frames.iter().filter(of_author).rev().take(5);
        let mut writer = FrameWriter::default();
        let frames: Vec<_> = frames.collect();
        frames
            .into_iter()
            .rev()
            .map(|frame| writer.write(frame))
            .collect()
    }

    /// A control message that is well formed and makes no sense, or is not even well formed.
    fn nonsense(&mut self) -> Bytes {
        let honest = self.honest();
        let author = match self.dice.pick(&honest) {
            Some(number) if self.dice.chance(70) => self.author(number),
            _ => forge::weak_key(),
        };
        let (first, last) = (self.dice.between(0, 30), self.dice.number());
        let range = Range {
            author,
            first,
            last,
        };
        match self.dice.below(6) {
            0 => Control::Want(vec![range; 50]).encode(),
            1 => Control::Served(vec![range; 5]).encode(),
            2 => {
                let (id, nonce) = ([9; 32], last);
                Control::Heads(vec![Head { author, id, nonce }]).encode()
            }
            3 => Control::Pong {
                sequence: last,
                wall_ms: first,
            }
            .encode(),
            4 => Control::FullForms.encode(),
            _ => self.garbage(),
        }
    }
}
