//! The command log's raw figures, as `cargo xtask bench log` reads them.
#![allow(clippy::unwrap_used)] // a bench may fail loudly

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use ed25519_dalek::Signer;
use ed25519_zebra::{Signature, VerificationKey};
use roundtable_benches::{
    per_second, print_figure,
    room::{self, KEYS, NOW, STROKE, TRAIL},
    seconds,
};
use roundtable_command_log::{CommandLog, Role};
use roundtable_core::{ChannelBinding, PeerId, RoomId, Timestamp, TransportKind, WallTime};
use roundtable_session::{
    GenesisSource, Input, LinkId, LinkInfo, Now, Output, Session, SessionConfig, Side,
};

const COMMANDS_A_SECOND: &str = "commands/s";
/// How many authors a backlog has.
const AUTHORS: u8 = 4;
/// The length of what an author signs for each frame.
const SIGNED_LEN: usize = 216;
/// How many commands are put into frames of 32, and how many each into a frame of its own, at a time: some
/// hundredths of a second's work.
const FRAMED: usize = 32 * 1024;
const SINGLE: usize = 2048;
/// How often each is done.
const ROUNDS: usize = 20;
/// How many commands a long log has.
const LONG: usize = 100_000;

fn main() {
    accept();
    append();
    bare_signatures();
    late_frame();
    late_join();
}

fn accept() {
    let take = |(log, frames): &mut (CommandLog, Vec<Bytes>)| {
        let frames = std::mem::take(frames);
        log.restore(NOW, frames);
        log.settle(NOW);
    };
    let one_by_one = |(log, frames): &mut (CommandLog, Vec<Bytes>)| {
        for frame in frames.drain(..) {
            log.receive(NOW, frame).unwrap();
            log.settle(NOW);
        }
    };
    let framed = room::backlog(STROKE, FRAMED, 32, AUTHORS);
    let setup = || (room::reader(), framed.clone());
    let rate = per_second(FRAMED, ROUNDS, setup, take);
    print_figure("accept_framed_32", rate, COMMANDS_A_SECOND);

    let single = room::backlog(STROKE, SINGLE, 1, AUTHORS);
    let setup = || (room::reader(), single.clone());
    let rate = per_second(SINGLE, ROUNDS, setup, take);
    print_figure("accept_single_backlog", rate, COMMANDS_A_SECOND);
    let setup = || (room::reader(), single.clone());
    let rate = per_second(SINGLE, ROUNDS, setup, one_by_one);
    print_figure("accept_single", rate, COMMANDS_A_SECOND);
}

fn append() {
    for (id, count, size) in [
        ("append_framed_32", FRAMED, 32),
        ("append_single", SINGLE, 1),
    ] {
        let batches = room::batches(STROKE, count, size);
        let rate = per_second(
            count,
            ROUNDS,
            || room::log(0),
            |log| room::append_all(log, &batches),
        );
        print_figure(id, rate, COMMANDS_A_SECOND);
    }
}

/// What verifying one signature costs by itself. No two are alike, as in a log: the same one again and again would
/// teach the processor its branches.
fn bare_signatures() {
    let sign = |number: usize| {
        let author = u8::try_from(number % usize::from(AUTHORS)).unwrap();
        let mut message = [7; SIGNED_LEN];
        message[..8].copy_from_slice(&number.to_le_bytes());
        let signature = room::signing_key(author).sign(&message).to_bytes();
        let public = VerificationKey::try_from(*room::author(author).as_bytes()).unwrap();
        (public, message, Signature::from_bytes(&signature))
    };
    let signed: Vec<_> = (0..SINGLE).map(sign).collect();
    let verify = |(): &mut ()| {
        let mut signed = signed.iter();
        signed.all(|(public, message, signature)| public.verify(signature, message).is_ok())
    };
    let rate = per_second(SINGLE, ROUNDS, || (), verify);
    print_figure("zebra_verify", rate, "signatures/s");
}

/// What comes late to a log of 100,000 commands, half of them by each of two authors: a frame of 32 commands
/// of a third that 1,000 commands outrank, and a role that makes one half count no longer.
fn late_frame() {
    let mut creator = room::log(0);
    let batches = room::batches(TRAIL, LONG / 2, 32);
    let first = room::append_all(&mut creator, &batches);
    let second = room::append_all(&mut room::log(1), &batches);
    let revoked = creator.role_command(room::author(1), Role::Viewer);
    let revoked = creator.append(NOW, &[revoked]).unwrap();
    // Both halves have the same Lamport times.
    let seen = first.len() - KEYS / 64;
    let mut late = room::log(2);
    late.restore(NOW, room::copies(&first[..seen]));
    let late = late.append(NOW, &room::batches(TRAIL, 32, 32)[0]).unwrap();

    let full = || {
        let mut log = room::reader();
        log.restore(NOW, room::copies(&[&first[..], &second].concat()));
        log.settle(NOW);
        log
    };
    for (id, frame) in [("late_frame_ms", late), ("late_role_ms", revoked)] {
        let take = |log: &mut CommandLog| {
            log.receive(NOW, frame.bytes().clone()).unwrap();
            log.settle(NOW);
        };
        let seconds = seconds(5, full, take);
        print_figure(id, seconds * 1000.0, "ms");
    }
}

/// A newcomer takes a long log from one peer, with nothing between them but memory.
fn late_join() {
    let frames = room::backlog(STROKE, LONG, 32, AUTHORS);
    let seconds = seconds(3, || Pair::new(&frames), Pair::join);
    print_figure("late_join_100k_s", seconds, "s");
}

/// Two sessions in one thread, and what is on its way to each.
struct Pair {
    epoch: Instant,
    sessions: [Session; 2],
    under_way: [VecDeque<roundtable_core::Frame>; 2],
}

const LINK: LinkId = LinkId(1);

impl Pair {
    /// The first session has the frames from its store.
    #[allow(clippy::disallowed_methods)] // to read the clock is what a bench does
    fn new(frames: &[Bytes]) -> Self {
        let epoch = Instant::now();
        let now = now(epoch);
        let session = |number: u8| {
            let config = SessionConfig::new(
                name(number),
                RoomId::new("bench").unwrap(),
                room::signing_key(100 + number),
                room::schema(),
                GenesisSource::Known(room::genesis()),
                [number; 32],
            );
            Session::new(config, now).unwrap()
        };
        let mut sessions = [session(0), session(1)];
        assert_eq!(
            sessions[0].restore(now, frames.iter().cloned()),
            frames.len()
        );
        while sessions[0].poll_output().is_some() {}
        Self {
            epoch,
            sessions,
            under_way: Default::default(),
        }
    }

    /// Links the two, and returns when the second has everything.
    fn join(&mut self) {
        for (number, side) in [(0, Side::Initiator), (1, Side::Responder)] {
            let info = LinkInfo {
                peer: name(1 - number),
                side,
                kind: TransportKind::Memory,
                binding: ChannelBinding::from_bytes([7; 32]),
                proven_author: None,
                promises_session: true,
            };
            let up = Input::LinkUp { link: LINK, info };
            let now = now(self.epoch);
            self.sessions[usize::from(number)]
                .handle_input(now, up)
                .unwrap();
        }
        while !self.is_joined() {
            self.step();
        }
    }

    /// Whether both hold and show the same.
    fn is_joined(&self) -> bool {
        let [old, new] = &self.sessions;
        let heads = |session: &Session| session.log().map(CommandLog::heads);
        heads(old) == heads(new) && old.state_hash() == new.state_hash()
    }

    /// Delivers what is under way, or waits for the next timer.
    fn step(&mut self) {
        let mut idle = true;
        for end in 0..2 {
            while let Some(output) = self.sessions[end].poll_output() {
                idle = false;
                if let Output::Transmit { frame, .. } = output {
                    self.under_way[1 - end].push_back(frame);
                }
            }
            if let Some(frame) = self.under_way[end].pop_front() {
                idle = false;
                let received = Input::Received { link: LINK, frame };
                let now = now(self.epoch);
                self.sessions[end].handle_input(now, received).unwrap();
            }
        }
        let next = self.sessions.iter().filter_map(Session::next_timeout).min();
        let at = now(self.epoch);
        match next {
            Some(next) if next > at.mono && idle => {
                std::thread::sleep(next.saturating_since(at.mono))
            }
            _ => {}
        }
        for session in &mut self.sessions {
            if session.next_timeout().is_some_and(|due| due <= at.mono) {
                session.handle_timeout(at);
            }
        }
    }
}

fn name(number: u8) -> PeerId {
    PeerId::new(&format!("p{number}")).unwrap()
}

fn now(epoch: Instant) -> Now {
    let elapsed = epoch.elapsed();
    let micros = u64::try_from(elapsed.as_micros()).unwrap();
    Now {
        mono: Timestamp::ZERO + elapsed,
        wall: WallTime::from_micros(NOW.as_millis() * 1000 + micros),
    }
}
