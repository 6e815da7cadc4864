//! What frames cost on a link, and that short forms change nothing.
#![allow(clippy::unwrap_used)] // a test may fail loudly

mod common;

use bytes::Bytes;
use common::*;
use proptest::{collection::vec, prelude::*, sample::Index};
use roundtable_command_log::{
    CommandLog, FrameReader, FrameWriter, Genesis, ReadError, Received, Role, SharedFrame,
};

/// The first frames of so many authors, each author's in order.
fn chains(genesis: &Genesis, authors: u8, of_each: u64) -> Vec<Vec<SharedFrame>> {
    let chain = |number| {
        let mut log = if number == 0 {
            log(genesis, 0)
        } else {
            editor(genesis, number)
        };
        let append = |n: u64| log.append(at(20 * n), &[stroke(&format!("{n}"))]).unwrap();
        (0..of_each).map(append).collect()
    };
    (0..authors).map(chain).collect()
}

/// The log of an author whom the creator has made an Editor.
fn editor(genesis: &Genesis, number: u8) -> CommandLog {
    let grant = log(genesis, 0).append(at(0), &[set_role(number, Role::Editor)]);
    let mut log = log(genesis, number);
    give(&mut log, &grant.unwrap());
    log
}

fn read(reader: &mut FrameReader, genesis: &Genesis, bytes: &Bytes) -> Result<Bytes, ReadError> {
    let frame = reader.read(bytes.clone(), &genesis.hash())?;
    Ok(frame.bytes().clone())
}

#[test]
fn a_frame_that_follows_another_has_at_most_80_bytes_around_its_body() {
    let genesis = genesis();
    let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
    for (n, frame) in chains(&genesis, 1, 100)[0].iter().enumerate() {
        let bytes = writer.write(frame);
        let around = bytes.len() - frame.body().len();
        assert_eq!(around, if n == 0 { 190 } else { 73 });
        assert_eq!(
            read(&mut reader, &genesis, &bytes).as_ref(),
            Ok(frame.bytes())
        );
    }
    // After an hour's pause it is longer, and still short.
    let mut author = log(&genesis, 0);
    let first = author.append(at(0), &[stroke("before")]).unwrap();
    let second = author.append(at(3_600_000), &[stroke("after")]).unwrap();
    let mut writer = FrameWriter::default();
    writer.write(&first);
    assert!(writer.write(&second).len() - second.body().len() <= 80);
}

/// A relay restores what it takes, and elides it again against what it has sent itself.
#[test]
fn frames_survive_a_relay() {
    let genesis = genesis();
    let mut relay = reader(&genesis);
    let (mut writer, mut inbound) = (FrameWriter::default(), FrameReader::default());
    for frame in &chains(&genesis, 1, 50)[0] {
        let frame = relay.read(&mut inbound, writer.write(frame)).unwrap();
        let received = relay.receive_frame(at(2000), frame);
        assert!(matches!(received, Ok(Received::Accepted { .. })));
    }
    let (mut outbound, mut inbound) = (FrameWriter::default(), FrameReader::default());
    let mut last = reader(&genesis);
    for frame in relay.frames() {
        let frame = last.read(&mut inbound, outbound.write(&frame)).unwrap();
        last.receive_frame(at(2000), frame).unwrap();
    }
    assert_eq!(last.heads(), relay.heads());
}

#[test]
fn an_end_that_remembers_nothing_asks_and_gets_the_full_form() {
    let genesis = genesis();
    let frames = &chains(&genesis, 1, 4)[0];
    let mut writer = FrameWriter::default();
    writer.write(&frames[0]);
    let mut reader = FrameReader::default();
    let elided = writer.write(&frames[1]);
    assert_eq!(
        read(&mut reader, &genesis, &elided),
        Err(ReadError::Forgotten)
    );
    assert!(writer.forget());
    assert!(!writer.forget());
    for frame in &frames[2..] {
        let bytes = writer.write(frame);
        assert_eq!(
            read(&mut reader, &genesis, &bytes).as_ref(),
            Ok(frame.bytes())
        );
    }
}

/// Two more authors than there are slots, twice: nothing is remembered for long, and all arrive.
#[test]
fn slots_are_bounded_and_used_anew() {
    let genesis = genesis();
    let chains = chains(&genesis, 66, 2);
    let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
    for turn in 0..2 {
        for chain in &chains {
            let bytes = writer.write(&chain[turn]);
            let restored = read(&mut reader, &genesis, &bytes);
            assert_eq!(restored.as_ref(), Ok(chain[turn].bytes()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Frames of four authors in any order, some of them repeatedly.
    #[test]
    fn any_sequence_arrives_as_it_was_sent(order in vec((0..4_usize, any::<Index>()), 1..60)) {
        let genesis = genesis();
        let chains = chains(&genesis, 4, 6);
        let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
        for (author, index) in order {
            let frame = index.get(&chains[author]);
            let bytes = writer.write(frame);
            let restored = read(&mut reader, &genesis, &bytes);
            prop_assert_eq!(restored.as_ref(), Ok(frame.bytes()));
        }
    }

    /// Whatever of it is lost, nothing else arrives than what was sent.
    #[test]
    fn a_receiver_out_of_step_takes_nothing_for_what_it_is_not(
        order in vec((0..3_usize, any::<Index>(), any::<bool>()), 1..60),
    ) {
        let genesis = genesis();
        let chains = chains(&genesis, 3, 6);
        let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
        for (author, index, lost) in order {
            let frame = index.get(&chains[author]);
            let bytes = writer.write(frame);
            if lost {
                continue;
            }
            match read(&mut reader, &genesis, &bytes) {
                Ok(restored) => prop_assert_eq!(&restored, frame.bytes()),
                Err(error) => prop_assert_eq!(error, ReadError::Forgotten),
            }
        }
    }

    #[test]
    fn any_bytes_are_safe(
        messages in vec((0..4_u8, vec(any::<u8>(), 0..300)), 0..8), good in any::<bool>(),
    ) {
        let genesis = genesis();
        let mut reader = FrameReader::default();
        if good {
            let bytes = FrameWriter::default().write(&chains(&genesis, 1, 1)[0][0]);
            prop_assert!(read(&mut reader, &genesis, &bytes).is_ok());
        }
        for (form, bytes) in messages {
            let bytes = [&[form, 0], &bytes[..]].concat().into();
            let _ = reader.read(bytes, &genesis.hash());
        }
    }
}
