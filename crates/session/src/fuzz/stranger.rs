//! One link whose other end knows the handshake and does not keep to it.

use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use roundtable_core::{AuthorId, Channel, Frame, PeerId, RoomId, Timestamp};
use roundtable_wire::session::{Control, Hello};

use super::{MEMBER, at, info, session};
use crate::{Input, Output, Session, Side, Standing};

/// What is signed, as docs/protocols/session.md has it.
const CONTEXT: &[u8] = b"roundtable/handshake/v1\0";
const BINDING: [u8; 32] = [0; 32];
/// The stranger's own keys, of whom it can sign as.
const KEYS: [u8; 2] = [2, 3];

/// A session has one link, whose other end sends what `data` says: a byte for the session's side, then steps of a
/// byte for what is sent, a byte for how it is altered, and perhaps more.
///
/// # Panics
/// When a key is taken for the peer's that has not signed this very handshake.
#[allow(unreachable_pub)] // reached with the feature
pub fn __fuzz_handshake(data: &[u8]) {
    shake(data);
}

/// Whom the session takes the peer for in the end, if it still has the link.
fn shake(data: &[u8]) -> Option<Standing> {
    let (first, mut data) = data.split_first()?;
    let side = [Side::Initiator, Side::Responder][usize::from(first & 1)];
    let mut alice = session("alice", 1)?;
    let mut now = Timestamp::ZERO;
    alice.handle_input(at(now), Input::AloneInRoom).ok()?;
    let info = info("eve", side)?;
    let link = MEMBER;
    alice
        .handle_input(at(now), Input::LinkUp { link, info })
        .ok()?;
    let own_hello = drain(&mut alice)?;
    let mut stranger = Stranger {
        side,
        own_hello,
        hello: None,
        entitled: None,
    };
    while let [kind, how, rest @ ..] = data {
        let (message, rest) = stranger.step(*kind, *how, rest)?;
        data = rest;
        now = now + Duration::from_millis(u64::from(kind >> 4) * 10);
        let channel = match kind & 8 {
            0 => Channel::Control,
            _ => Channel::from_number(how & 7)?,
        };
        if channel == Channel::Control {
            stranger.note(&message);
        }
        let frame = Frame::binary(channel, message);
        // A link that is closed takes nothing any more.
        alice
            .handle_input(at(now), Input::Received { link, frame })
            .ok()?;
        alice.handle_timeout(at(now));
        drain(&mut alice);
        let standing = standing(&alice);
        if let Some(Standing::Member(author)) = standing {
            assert_eq!(Some(author), stranger.entitled, "nobody has signed for it");
        }
        assert_ne!(standing, Some(Standing::Guest), "it promised a session");
    }
    standing(&alice)
}

fn standing(alice: &Session) -> Option<Standing> {
    alice.peers().next().map(|view| view.standing)
}

/// Takes what a session sends; returns the first message.
fn drain(alice: &mut Session) -> Option<Bytes> {
    let mut first = None;
    while let Some(output) = alice.poll_output() {
        if let Output::Transmit { frame, .. } = output
            && let roundtable_core::Payload::Binary(message) = frame.payload
        {
            first.get_or_insert(message);
        }
    }
    first
}

/// The other end, and what it has a right to.
struct Stranger {
    /// The session's.
    side: Side,
    own_hello: Bytes,
    /// The first hello that it sent: its bytes, and whose key it shows.
    hello: Option<(Bytes, AuthorId)>,
    /// Whom it has proven to be.
    entitled: Option<AuthorId>,
}

impl Stranger {
    /// What a step sends, and the steps behind it.
    fn step<'a>(&self, kind: u8, how: u8, rest: &'a [u8]) -> Option<(Bytes, &'a [u8])> {
        match kind & 7 {
            0 => {
                let (length, rest) = rest.split_first()?;
                let (message, rest) = rest.split_at(usize::from(*length).min(rest.len()));
                Some((Bytes::copy_from_slice(message), rest))
            }
            1 | 2 => Some((self.hello(how)?, rest)),
            3 | 4 => Some((self.proof(how), rest)),
            // One byte of a message that is right otherwise.
            5 => {
                let [place, value, rest @ ..] = rest else {
                    return None;
                };
                let mut hello = self.hello(how & 1)?.to_vec();
                let place = usize::from(*place) % hello.len();
                hello[place] ^= value;
                Some((hello.into(), rest))
            }
            6 => Some((self.own_hello.clone(), rest)),
            _ => {
                let (wall_ms, sequence) = (u64::from(how), u64::from(kind));
                Some((Control::Pong { sequence, wall_ms }.encode(), rest))
            }
        }
    }

    /// A hello that is right but for what the bits of `how` alter; the lowest chooses the key.
    fn hello(&self, how: u8) -> Option<Bytes> {
        let Ok(Control::Hello(own)) = Control::decode(&self.own_hello) else {
            return None;
        };
        let key = SigningKey::from_bytes(&[KEYS[usize::from(how & 1)]; 32]);
        let mut hello = Hello {
            author: author(&key),
            peer_id: PeerId::new("eve").ok()?,
            nonce: Bytes::from(vec![7; 32]),
            genesis: None,
            ..own.clone()
        };
        match how >> 1 {
            1 => hello.author = own.author,
            // A key of small order, for which anything verifies.
            2 => hello.author = AuthorId::from_bytes(std::array::from_fn(|i| u8::from(i == 0))),
            3 => hello.nonce = own.nonce,
            4 => hello.nonce = Bytes::from(vec![7; 31]),
            5 => hello.peer_id = PeerId::new("mallory").ok()?,
            6 => hello.room = RoomId::new("elsewhere").ok()?,
            7 => hello.schema_hash[0] ^= 1,
            8 => hello.protocol_major += 1,
            9 => hello.protocol_minor += 1,
            10 => hello.genesis = own.genesis,
            11 => hello.genesis = Some(Bytes::from_static(b"no genesis")),
            12 => hello.may_adopt = !hello.may_adopt,
            13 => hello.capabilities.clear(),
            _ => {}
        }
        Some(Control::Hello(hello).encode())
    }

    /// A proof of the first hello that is right but for what the bits of `how` alter.
    fn proof(&self, how: u8) -> Bytes {
        let key = SigningKey::from_bytes(&[KEYS[usize::from(how & 1)]; 32]);
        let mut transcript = self.transcript();
        // The side, either hash, and the binding, in this order; what is beyond alters nothing.
        let place = CONTEXT.len() + [0, 1, 40, 70][usize::from(how >> 1 & 3)];
        if how & 8 != 0 {
            transcript[place] ^= 1;
        }
        let mut signature = key.sign(&transcript).to_bytes();
        if how & 16 != 0 {
            signature[usize::from(how >> 5)] ^= 1;
        }
        Control::Proof(signature).encode()
    }

    /// What the other end has to sign.
    fn transcript(&self) -> Vec<u8> {
        let theirs = self.hello.as_ref().map_or(&[][..], |(hello, _)| hello);
        let (side, initiator, responder) = match self.side {
            Side::Initiator => (1, &self.own_hello[..], theirs),
            Side::Responder => (0, theirs, &self.own_hello[..]),
        };
        [
            CONTEXT,
            &[side],
            blake3::hash(initiator).as_bytes(),
            blake3::hash(responder).as_bytes(),
            &BINDING,
        ]
        .concat()
    }

    /// Takes note of what a message that goes out on control gives a right to.
    fn note(&mut self, message: &Bytes) {
        match Control::decode(message) {
            Ok(Control::Hello(hello)) if self.hello.is_none() => {
                self.hello = Some((message.clone(), hello.author));
            }
            Ok(Control::Proof(signature)) => {
                let transcript = self.transcript();
                let signer = KEYS.map(|key| SigningKey::from_bytes(&[key; 32]));
                let signer = signer.iter().find(|key| {
                    let signature = ed25519_dalek::Signature::from_bytes(&signature);
                    key.verify(&transcript, &signature).is_ok()
                });
                let shown = self.hello.as_ref().map(|(_, author)| *author);
                self.entitled = self
                    .entitled
                    .or(signer.map(author).filter(|signer| Some(*signer) == shown));
            }
            _ => {}
        }
    }
}

fn author(key: &SigningKey) -> AuthorId {
    AuthorId::from_bytes(key.verifying_key().to_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn who_shows_a_key_and_signs_with_it_is_its_author_on_either_side() {
        for side in 0..2 {
            let key = SigningKey::from_bytes(&[KEYS[1]; 32]);
            let member = Some(Standing::Member(author(&key)));
            assert_eq!(shake(&[side, 1, 1, 3, 1]), member);
            // With the other key, for another side, of another hello, over another link; altered.
            for how in [0, 1 | 8, 1 | 2 | 8, 1 | 4 | 8, 1 | 6 | 8, 1 | 16] {
                assert_eq!(shake(&[side, 1, 1, 3, how]), None, "{how}");
            }
            // Ahead of the hello; twice.
            assert_eq!(shake(&[side, 3, 1, 1, 1]), None);
            assert_eq!(shake(&[side, 1, 1, 1, 1, 3, 1]), None);
        }
    }

    #[test]
    fn hellos_that_are_not_for_us_are_refused() {
        for how in 1..=8 {
            assert_eq!(shake(&[0, 1, how << 1, 3, 0]), None, "{how}");
        }
        let mirrored = shake(&[0, 6, 0]);
        assert_eq!(mirrored, None);
    }

    proptest! {
        #[test]
        fn nobody_is_taken_for_an_author_who_has_not_signed(
            side in 0..2_u8,
            steps in vec((0..16_u8, any::<u8>()), 0..12),
            rest in vec(any::<u8>(), 0..40),
        ) {
            let steps = steps.iter().flat_map(|(kind, how)| [*kind, *how]);
            let data: Vec<u8> = std::iter::once(side).chain(steps).chain(rest).collect();
            __fuzz_handshake(&data);
        }
    }
}
