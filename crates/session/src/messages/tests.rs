use proptest::{collection::vec, prelude::*};

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn binary(len: usize) -> Message {
    let bytes: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
    let bytes = bytes.into();
    Message { text: false, bytes }
}

/// What a chunk on the wire costs.
fn cost(chunk: &Bytes) -> u64 {
    chunk.len() as u64 - 9 + CHUNK_COST
}

fn payload(message: &Message) -> Payload {
    Payload::Binary(message.bytes.clone())
}

/// Both halves, and what is on the wire between them.
#[derive(Default)]
struct Pair {
    outgoing: Outgoing,
    incoming: Incoming,
    chunks: VecDeque<Bytes>,
    acknowledgements: VecDeque<(u64, u64)>,
    received: Vec<Payload>,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self::default();
        pair.reconnect();
        pair
    }

    /// The link is lost with all that was under way, and the next one begins.
    fn reconnect(&mut self) {
        self.chunks.clear();
        self.acknowledgements.clear();
        let told = self.incoming.acknowledgement(Unread::default());
        self.acknowledgements.push_back(told);
        self.outgoing.rewind();
    }

    fn pump(&mut self) {
        self.chunks
            .extend(std::iter::from_fn(|| self.outgoing.next_chunk()));
    }

    /// So many chunks arrive; says whether there was one.
    fn carry(&mut self, count: usize) -> bool {
        let count = count.min(self.chunks.len());
        for chunk in self.chunks.drain(..count) {
            if let Taken::Whole(payload) = self.incoming.take(at(0), chunk).unwrap() {
                let Payload::Binary(bytes) = &payload else {
                    panic!("only bytes were sent")
                };
                self.incoming.unread().add(bytes.len());
                self.incoming.unread().read(bytes.len());
                self.received.push(payload);
            }
        }
        count > 0
    }

    fn acknowledge(&mut self, count: usize) {
        if self.incoming.due().is_some() {
            let told = self.incoming.acknowledgement(Unread::default());
            self.acknowledgements.push_back(told);
        }
        let count = count.min(self.acknowledgements.len());
        for (through, limit) in self.acknowledgements.drain(..count) {
            self.outgoing.acknowledge(through, limit).unwrap();
        }
    }

    fn finish(&mut self) {
        loop {
            self.acknowledge(usize::MAX);
            self.pump();
            if !self.carry(usize::MAX) {
                return;
            }
        }
    }
}

#[test]
fn messages_of_any_length_arrive_as_they_were() {
    let lengths = [
        0,
        1,
        CHUNK_LEN - 1,
        CHUNK_LEN,
        CHUNK_LEN + 1,
        MAX_MESSAGE_LEN,
    ];
    for len in lengths {
        let mut pair = Pair::new();
        let message = binary(len);
        assert!(pair.outgoing.push(message.clone()));
        pair.finish();
        assert!(pair.received == [payload(&message)], "{len} bytes");
        assert_eq!(pair.outgoing.waiting(), (0, 0));
    }
}

#[test]
fn what_waits_and_what_is_under_way_is_bounded() {
    let mut pair = Pair::new();
    let taken = (0..10_000).take_while(|_| pair.outgoing.push(binary(MAX_MESSAGE_LEN)));
    assert_eq!(taken.count(), 1, "one of any length is taken");
    pair.acknowledge(1);
    pair.pump();
    let under_way: u64 = pair.chunks.iter().map(cost).sum();
    assert!(under_way <= WINDOW && under_way > WINDOW - CHUNK_LEN as u64 - CHUNK_COST);
    // A receiver that would take everything is not sent everything at once.
    pair.outgoing.acknowledge(0, u64::MAX).unwrap();
    pair.pump();
    let under_way: u64 = pair.chunks.iter().map(cost).sum();
    assert!(under_way <= IN_FLIGHT);
}

#[test]
fn no_more_is_taken_of_a_peer_whose_messages_are_not_read() {
    let mut incoming = Incoming::default();
    let (_, limit) = incoming.acknowledgement(Unread::default());
    assert_eq!(limit, WINDOW);
    let mut outgoing = Outgoing::default();
    outgoing.push(binary(100_000));
    outgoing.acknowledge(0, limit).unwrap();
    while let Some(chunk) = outgoing.next_chunk() {
        incoming.take(at(0), chunk).unwrap();
    }
    let len = MAX_MESSAGE_LEN;
    incoming.unread().add(len);
    assert_eq!(incoming.acknowledgement(Unread::default()).1, WINDOW);
    incoming.unread().read(len);
    assert!(incoming.acknowledgement(Unread::default()).1 > WINDOW);
}

/// What others leave unread stops all but those who have less than a share unread; and in the end those as well.
#[test]
fn nobody_is_stopped_by_others_before_it_has_had_its_share() {
    let takes = |own: u64, len: usize, of_all: Unread| {
        let mut incoming = Incoming::default();
        (0..own).for_each(|_| incoming.unread().add(len));
        incoming.acknowledgement(of_all).1 > 0
    };
    let [many, much] =
        [(1024, 0), (0, 64 << 20)].map(|(messages, weight)| Unread { messages, weight });
    for full in [many, much] {
        assert!(takes(31, 0, full) && !takes(32, 0, full), "{full:?}");
        assert!(takes(1, 1 << 19, full) && !takes(1, 1 << 20, full));
    }
    assert!(takes(
        500,
        0,
        Unread {
            messages: 1023,
            weight: 0
        }
    ));
    assert!(!takes(
        0,
        0,
        Unread {
            messages: 2048,
            weight: 0
        }
    ));
    assert!(!takes(
        0,
        0,
        Unread {
            messages: 0,
            weight: 128 << 20
        }
    ));
}

/// Links and applications have room for so many messages, not only for so many bytes.
#[test]
fn short_messages_are_few_at_a_time() {
    let mut pair = Pair::new();
    let taken = (0..20_000).take_while(|_| pair.outgoing.push(binary(0)));
    assert_eq!(taken.count(), 20_000);
    pair.acknowledge(1);
    pair.pump();
    assert_eq!(pair.chunks.len(), 256);
    pair.finish();
    assert_eq!(pair.received.len(), 20_000);
    // Nor does a receiver get more that would take everything.
    let mut outgoing = Outgoing::default();
    (0..20_000).for_each(|_| assert!(outgoing.push(binary(0))));
    outgoing.acknowledge(0, u64::MAX).unwrap();
    assert_eq!(std::iter::from_fn(|| outgoing.next_chunk()).count(), 512);
}

#[test]
fn acknowledgements_wait_a_moment_for_more_to_come() {
    let mut pair = Pair::new();
    pair.acknowledge(1);
    (0..20).for_each(|_| assert!(pair.outgoing.push(binary(CHUNK_LEN))));
    pair.pump();
    pair.carry(1);
    assert_eq!(pair.incoming.due(), Some(at(0) + ACK_DELAY));
    pair.carry(6);
    assert_eq!(pair.incoming.due(), Some(at(0) + ACK_DELAY));
    pair.carry(1);
    assert_eq!(pair.incoming.due(), Some(at(0)), "an eighth of a MiB");
}

fn chunk(number: u64, kind: u8, bytes: &[u8]) -> Bytes {
    [&number.to_le_bytes()[..], &[kind], bytes].concat().into()
}

#[test]
fn no_honest_peer_sends_this() {
    let take = |chunks: &[Bytes]| {
        let mut incoming = Incoming::default();
        incoming.acknowledgement(Unread::default());
        let mut taken = chunks.iter().map(|c| incoming.take(at(0), c.clone()));
        taken.find_map(Result::err)
    };
    let is = |violation| Some(violation);
    assert_eq!(take(&[Bytes::new()]), is(Violation::Malformed));
    assert_eq!(take(&[chunk(1, 4, b"")]), is(Violation::Malformed));
    assert_eq!(take(&[chunk(0, 0, b"")]), is(Violation::Malformed));
    assert_eq!(take(&[chunk(2, 0, b"")]), is(Violation::Gap));
    assert_eq!(take(&[chunk(u64::MAX, 0, b"")]), is(Violation::Gap));
    assert_eq!(take(&[chunk(1, TEXT, &[0xff])]), is(Violation::NotText));
    let changed = [chunk(1, TEXT | MORE, b"a"), chunk(2, 0, b"b")];
    assert_eq!(take(&changed), is(Violation::Malformed));
    let flood: Vec<_> = (1..100).map(|n| chunk(n, 0, &[0; 16_000])).collect();
    assert_eq!(take(&flood), is(Violation::BeyondLimit));
    // A character may lie across two chunks.
    let text = [chunk(1, TEXT | MORE, &[0xc3]), chunk(2, TEXT, &[0xa9])];
    assert_eq!(take(&text), None);
    let mut outgoing = Outgoing::default();
    outgoing.push(binary(1));
    assert_eq!(outgoing.acknowledge(1, 0), Err(Violation::NeverSent));
}

#[test]
fn a_message_without_end_is_given_up_at_the_limit_and_takes_no_more_memory_than_has_come() {
    let mut incoming = Incoming::default();
    let piece = vec![0; 60_000];
    let error = (1..).find_map(|number| {
        incoming.acknowledgement(Unread::default());
        incoming.take(at(0), chunk(number, MORE, &piece)).err()
    });
    assert_eq!(error, Some(Violation::TooLong));
    assert!(incoming.partial.is_none());
}

#[derive(Debug, Clone)]
enum Op {
    Send(usize),
    Pump,
    Carry(usize),
    Acknowledge(usize),
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        prop_oneof![0..100_usize, 0..200_000_usize].prop_map(Op::Send),
        Just(Op::Pump),
        (1..40_usize).prop_map(Op::Carry),
        (1..4_usize).prop_map(Op::Acknowledge),
        Just(Op::Reconnect),
    ]
}

proptest! {
    #[test]
    fn every_message_arrives_once_and_in_order_however_often_links_break(ops in vec(op(), 0..80)) {
        let mut pair = Pair::new();
        let mut sent = Vec::new();
        for op in ops {
            match op {
                Op::Send(len) => {
                    let message = binary(len + sent.len());
                    if pair.outgoing.push(message.clone()) {
                        sent.push(payload(&message));
                    }
                }
                Op::Pump => pair.pump(),
                Op::Carry(count) => drop(pair.carry(count)),
                Op::Acknowledge(count) => pair.acknowledge(count),
                Op::Reconnect => pair.reconnect(),
            }
        }
        pair.reconnect();
        pair.finish();
        prop_assert!(pair.received == sent);
        prop_assert_eq!(pair.outgoing.waiting(), (0, 0));
    }

    #[test]
    fn whatever_comes_is_taken_or_refused(
        chunks in vec((0..6_u64, any::<u8>(), vec(any::<u8>(), 0..40)), 0..20),
        told in vec(any::<(u64, u64)>(), 0..5),
    ) {
        let mut incoming = Incoming::default();
        incoming.acknowledgement(Unread::default());
        for (number, kind, bytes) in chunks {
            let _ = incoming.take(at(0), chunk(number, kind, &bytes));
        }
        let mut outgoing = Outgoing::default();
        outgoing.push(binary(100_000));
        for (through, limit) in told {
            let _ = outgoing.acknowledge(through % 10, limit);
            while outgoing.next_chunk().is_some() {}
        }
    }
}
