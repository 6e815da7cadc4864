//! Fuzz bodies. Here: a session that has one member and one stranger, who send anything.

mod ops;
mod planner;
mod stranger;

use ed25519_dalek::SigningKey;
use roundtable_command_log::{self as log, GenesisParams, Schema};
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, Frame, PeerId, RoomId, Timestamp, TransportKind, WallTime,
};

use crate::{GenesisSource, Input, LinkId, LinkInfo, Now, Output, Session, SessionConfig, Side};

#[cfg(feature = "__fuzz")]
pub use ops::__fuzz_session_ops;
#[cfg(feature = "__fuzz")]
pub use planner::__fuzz_anti_entropy;
#[cfg(feature = "__fuzz")]
pub use stranger::__fuzz_handshake;

const MEMBER: LinkId = LinkId(1);
const STRANGER: LinkId = LinkId(2);

fn at(mono: Timestamp) -> Now {
    let wall = WallTime::from_micros(1_700_000_000_000_000 + mono.as_micros());
    Now { mono, wall }
}

fn session(name: &str, byte: u8) -> Option<Session> {
    let schema = Schema::builder(1, 0).key_type(1, "note", log::Strategy::LastWriteWins);
    let schema = schema.build().ok()?;
    let params = GenesisParams::new([byte; 32], at(Timestamp::ZERO).wall, schema.hash());
    let (peer, room) = (PeerId::new(name).ok()?, RoomId::new("fuzz").ok()?);
    let key = SigningKey::from_bytes(&[byte; 32]);
    let genesis = GenesisSource::FirstCome(params);
    let config = SessionConfig::new(peer, room, key, schema, genesis, [byte; 32]);
    Session::new(config, at(Timestamp::ZERO)).ok()
}

fn info(name: &str, side: Side) -> Option<LinkInfo> {
    Some(LinkInfo {
        peer: PeerId::new(name).ok()?,
        side,
        kind: TransportKind::Memory,
        binding: ChannelBinding::from_bytes([0; 32]),
        proven_author: None::<AuthorId>,
        promises_session: true,
    })
}

/// Two sessions shake hands; then one of them gets what `data` says: for each step a byte for link
/// and channel, a byte for the time that passes, two for a length, and that many bytes of message.
#[allow(unreachable_pub)] // reached with the feature
pub fn __fuzz_session(data: &[u8]) {
    let Some(mut session) = fuzzed(data) else {
        return;
    };
    // Whatever has come, it ends in quiet: no timer fires for ever at one moment.
    for _ in 0..64 {
        let Some(due) = session.next_timeout() else {
            return;
        };
        session.handle_timeout(at(due));
        while session.poll_output().is_some() {}
        assert!(session.next_timeout().is_none_or(|next| next > due));
    }
}

fn fuzzed(mut data: &[u8]) -> Option<Session> {
    let (mut alice, mut bob) = (session("alice", 1)?, session("bob", 2)?);
    let mut now = Timestamp::ZERO;
    alice.handle_input(at(now), Input::AloneInRoom).ok()?;
    let up = |link, info| Input::LinkUp { link, info };
    let (to_bob, to_alice) = (
        info("bob", Side::Initiator)?,
        info("alice", Side::Responder)?,
    );
    let stranger = info("eve", Side::Responder)?;
    alice.handle_input(at(now), up(MEMBER, to_bob)).ok()?;
    bob.handle_input(at(now), up(MEMBER, to_alice)).ok()?;
    while pass(now, &mut alice, &mut bob) | pass(now, &mut bob, &mut alice) {}
    alice.handle_input(at(now), up(STRANGER, stranger)).ok()?;
    while let [kind, wait, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        data = rest;
        now = now + std::time::Duration::from_millis(u64::from(*wait));
        let link = if kind & 8 == 0 { MEMBER } else { STRANGER };
        let frame = Frame::binary(Channel::from_number(kind & 7)?, message.to_vec());
        alice
            .handle_input(at(now), Input::Received { link, frame })
            .ok()?;
        alice.handle_timeout(at(now));
        while alice.poll_output().is_some() {}
    }
    Some(alice)
}

/// Carries what one session sends to the other; says whether there was anything.
fn pass(now: Timestamp, from: &mut Session, to: &mut Session) -> bool {
    let mut any = false;
    while let Some(output) = from.poll_output() {
        any = true;
        if let Output::Transmit { link, frame } = output {
            let received = to.handle_input(at(now), Input::Received { link, frame });
            assert_eq!(received, Ok(()));
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use roundtable_wire::session::{Control, Head, Range};

    use super::*;

    /// Messages that are well formed, and make no sense.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let author = prop_oneof![
            Just(SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes()),
            Just(SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes()),
            any::<[u8; 32]>(),
        ];
        let author = author.prop_map(AuthorId::from_bytes);
        let number = prop_oneof![0..20_u64, any::<u64>()];
        let range = (author, number.clone(), number).prop_map(|(author, first, last)| Range {
            author,
            first,
            last,
        });
        let head = |range: &Range| Head {
            author: range.author,
            id: [0; 32],
            nonce: range.last,
        };
        let kinds: [fn(Vec<Head>) -> Control; 5] = [
            Control::Heads,
            Control::Forks,
            Control::WantForks,
            Control::Probe,
            Control::Probed,
        ];
        prop_oneof![
            vec(any::<u8>(), 0..100),
            vec(range.clone(), 0..5).prop_map(|ranges| Control::Want(ranges).encode().to_vec()),
            vec(range.clone(), 0..5).prop_map(|ranges| Control::Served(ranges).encode().to_vec()),
            (vec(range, 0..5), 0..kinds.len()).prop_map(move |(ranges, kind)| {
                let heads = ranges.iter().map(head).collect();
                kinds[kind](heads).encode().to_vec()
            }),
            any::<(u64, u64)>().prop_map(|(sequence, wall_ms)| Control::Pong { sequence, wall_ms }
                .encode()
                .to_vec()),
        ]
    }

    #[test]
    fn the_two_honest_sessions_do_get_to_know_each_other() {
        let alice = fuzzed(&[]).unwrap();
        let standings: Vec<_> = alice.peers().map(|view| view.standing).collect();
        let bob = SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes();
        let bob = crate::Standing::Member(AuthorId::from_bytes(bob));
        assert_eq!(standings, [bob, crate::Standing::Handshaking]);
    }

    proptest! {
        #[test]
        fn whatever_peers_send_a_session_stands(
            steps in vec((0_u8..16, any::<u8>(), message()), 0..20),
        ) {
            let step = |(kind, wait, message): &(u8, u8, Vec<u8>)| {
                let length = u16::try_from(message.len()).unwrap().to_le_bytes();
                [&[*kind, *wait, length[0], length[1]], message.as_slice()].concat()
            };
            __fuzz_session(&steps.iter().map(step).collect::<Vec<_>>().concat());
        }
    }
}
