//! Frames that leave out what the other end of a link knows, and frames that are judged together.

use std::time::Duration;

use bytes::Bytes;
use roundtable_command_log::{CommandLog, FrameWriter, GenesisParams, Role, SharedFrame};
use roundtable_core::{Channel::Command, CloseCode, Frame, TransportKind::Quic};
use roundtable_session::{Event, GenesisSource, Input, Output};
use roundtable_wire::session::{Control, Head};

use crate::{
    handshake::{Duel, LINK, START},
    world::{World, at, author, config, key, note, params, schema, trail},
};

/// Mallory, who keeps the protocol unless told otherwise, and the first frames of her log.
fn duel(frames: usize) -> (Duel, Vec<SharedFrame>) {
    let open = GenesisParams {
        default_role: Role::Editor,
        ..params(1)
    };
    let mut duel = Duel::with_genesis(GenesisSource::Create(open), |_| {});
    let genesis = duel.session.genesis().unwrap().clone();
    let mut hello = duel.honest_hello();
    hello.genesis = Some(genesis.encode().into());
    hello.capabilities.push("elided-frames".into());
    duel.handshake(&hello, &key("mallory"));
    let mut log = CommandLog::new(genesis, schema(), Some(key("mallory"))).unwrap();
    let frames = (0..frames).map(|n| log.append(at(START).wall, &[trail(&n.to_string())]));
    (duel, frames.map(Result::unwrap).collect())
}

impl Duel {
    fn command(&mut self, bytes: impl Into<Bytes>) {
        let frame = Frame::binary(Command, bytes);
        self.input(Input::Received { link: LINK, frame });
    }

    /// How often alice has said this.
    fn said(&self, wanted: fn(&Control) -> bool) -> usize {
        let heard = self
            .heard()
            .into_iter()
            .map(|bytes| Control::decode(&bytes));
        heard.flatten().filter(wanted).count()
    }

    fn asked_in_full(&self) -> usize {
        self.said(|control| *control == Control::FullForms)
    }

    fn blamed(&self) -> usize {
        let blames = |output: &&Output| matches!(output, Output::Event(Event::Misbehaved { .. }));
        self.outputs.iter().filter(blames).count()
    }

    fn held(&self) -> u64 {
        let head = self.session.log().unwrap().head(author("mallory"));
        head.map_or(0, |head| head.nonce)
    }
}

/// The bytes around the bodies of all that alice has sent on Command, and how many frames those were.
fn around(world: &World) -> (usize, usize) {
    let (frames, bytes) = world.node("alice").sent[&Command];
    let log = world.node("alice").session.log().unwrap();
    let bodies: usize = log.frames().map(|frame| frame.body().len()).sum();
    (bytes - bodies, frames)
}

#[test]
fn frames_that_follow_each_other_leave_out_what_the_peer_knows() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    world.link("alice", "bob", Quic);
    for n in 0..50 {
        world.millis(40);
        world.submit("alice", vec![note("n", &n.to_string())]);
    }
    world.secs(1);
    world.common_hash();
    let (around, frames) = around(&world);
    assert_eq!(frames, 51); // with bob's role
    assert!(around <= 190 + 50 * 80, "{around}");
}

#[test]
fn a_peer_that_reads_no_elided_frames_is_sent_none() {
    let mut world = World::founded_by(2, &["alice"]);
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    let old = config("bob", GenesisSource::Known(genesis)).with_elision(false);
    world.add(old, "bob");
    world.link("alice", "bob", Quic);
    world.secs(1);
    for n in 0..20 {
        world.millis(40);
        world.submit("alice", vec![note("n", &n.to_string())]);
        world.submit("bob", vec![note("m", &n.to_string())]);
    }
    world.secs(1);
    world.common_hash();
    let log = world.node("alice").session.log().unwrap();
    let own = log.frames_after(author("alice"), 0, usize::MAX);
    let full: usize = own.map(|frame| frame.bytes().len()).sum();
    let (_, bytes) = world.node("alice").sent[&Command];
    assert!(bytes >= full, "{bytes} of {full}");
}

#[test]
fn what_cannot_be_restored_is_asked_for_in_full_and_nobody_is_blamed() {
    let (mut duel, frames) = duel(4);
    let mut writer = FrameWriter::default();
    let lost = writer.write(&frames[0]);
    duel.command(writer.write(&frames[1]));
    duel.command(writer.write(&frames[2]));
    assert_eq!((duel.asked_in_full(), duel.blamed()), (1, 0));
    writer.forget();
    duel.command(writer.write(&frames[3])); // beyond a gap, which is asked for
    assert_eq!(duel.said(|control| matches!(control, Control::Want(_))), 1);
    duel.command(lost);
    duel.command(writer.write(&frames[1]));
    duel.command(writer.write(&frames[2]));
    duel.pass(Duration::from_millis(1));
    assert_eq!((duel.held(), duel.blamed()), (4, 0));
    assert_eq!((duel.asked_in_full(), duel.closed()), (1, None));
}

#[test]
fn an_elided_frame_that_does_not_verify_is_asked_for_in_full_before_anyone_is_blamed() {
    let (mut duel, frames) = duel(3);
    let mut writer = FrameWriter::default();
    duel.command(writer.write(&frames[0]));
    let mut altered = writer.write(&frames[1]).to_vec();
    altered[12] ^= 1; // in the signature
    duel.command(altered.clone());
    assert_eq!((duel.asked_in_full(), duel.blamed()), (1, 0));
    // In full it is no better.
    let mut altered = frames[1].bytes().to_vec();
    altered[130] ^= 1;
    duel.command(altered);
    assert_eq!(duel.blamed(), 1);
    duel.command(frames[1].bytes().clone());
    assert_eq!(duel.held(), 2);
}

#[test]
fn who_keeps_leaving_out_what_was_never_sent_is_cut_off() {
    let (mut duel, frames) = duel(1);
    for round in 0..65 {
        assert_eq!((duel.closed(), duel.asked_in_full()), (None, round));
        duel.command(vec![2, 63, 0, 0, 0, 0]);
        duel.command(vec![2, 63, 0, 0, 0, 0]);
        duel.command(frames[0].bytes().clone());
    }
    assert_eq!(duel.closed(), Some(CloseCode::PROTOCOL));
    assert_eq!(duel.blamed(), 0);
}

/// To ask for full forms costs us no more than what we send anyway.
#[test]
fn who_asks_for_full_forms_over_and_over_is_answered_once() {
    let (mut duel, _) = duel(0);
    duel.input(Input::Submit {
        actions: vec![trail("mine")],
    });
    duel.pass(Duration::from_millis(20));
    let heads = |duel: &Duel| duel.said(|control| matches!(control, Control::Heads(_)));
    let before = heads(&duel);
    for _ in 0..100 {
        duel.say(Control::FullForms.encode());
    }
    assert_eq!(heads(&duel), before + 1);
}

#[test]
fn a_bad_frame_among_those_that_were_asked_for_costs_only_its_sender() {
    let (mut duel, frames) = duel(20);
    let (last, head) = (frames[19].header(), frames[19].id());
    duel.say(
        Control::Heads(vec![Head {
            author: author("mallory"),
            id: *head.as_bytes(),
            nonce: last.last_nonce(),
        }])
        .encode(),
    );
    assert_eq!(duel.said(|control| matches!(control, Control::Want(_))), 1);
    for (n, frame) in frames.iter().enumerate() {
        let mut bytes = frame.bytes().to_vec();
        if n == 9 {
            bytes[130] ^= 1; // in the signature
        }
        duel.command(bytes);
    }
    assert_eq!(duel.held(), 0, "they are judged together");
    duel.pass(Duration::from_millis(1));
    assert_eq!((duel.held(), duel.blamed()), (9, 1));
    duel.command(frames[9].bytes().clone());
    duel.pass(Duration::from_millis(1));
    assert_eq!(duel.held(), 20);
}
