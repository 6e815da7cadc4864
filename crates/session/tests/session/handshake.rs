//! Who gets in, who does not, and what those are told. The other side is written out by hand here,
//! from the document and not from the crate.

use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use roundtable_command_log::{CommandLog, Genesis, GenesisParams, Role, SchemaHash};
use roundtable_core::{
    AuthorId, Channel, ChannelBinding, CloseCode, Frame, Payload, RoomId, Timestamp, TransportKind,
    WallTime,
};
use roundtable_session::{
    Event, GenesisSource, Input, LinkId, LinkInfo, Output, Session, Side, Standing,
};
use roundtable_wire::session::{Control, Head, Hello, Range};

use crate::world::{Plug, World, at, author, config, key, params, peer, schema, trail};

pub(crate) const LINK: LinkId = LinkId(1);
pub(crate) const START: Timestamp = Timestamp::from_millis(1000);

/// A session called `alice`, and a hand-made peer on a link to it.
pub(crate) struct Duel {
    pub(crate) session: Session,
    info: LinkInfo,
    now: Timestamp,
    pub(crate) outputs: Vec<Output>,
}

impl Duel {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut LinkInfo)) -> Self {
        Self::with_genesis(GenesisSource::Create(params(1)), change)
    }

    pub(crate) fn with_genesis(genesis: GenesisSource, change: impl FnOnce(&mut LinkInfo)) -> Self {
        let session = Session::new(config("alice", genesis), at(START));
        let mut info = LinkInfo {
            peer: peer("mallory"),
            side: Side::Responder,
            kind: TransportKind::Quic,
            binding: ChannelBinding::from_bytes([7; 32]),
            proven_author: None,
            promises_session: true,
        };
        change(&mut info);
        let mut duel = Self {
            session: session.unwrap(),
            info: info.clone(),
            now: START,
            outputs: Vec::new(),
        };
        duel.input(Input::LinkUp { link: LINK, info });
        duel
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.session.handle_input(at(self.now), input).unwrap();
        self.outputs
            .extend(std::iter::from_fn(|| self.session.poll_output()));
    }

    pub(crate) fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.session.handle_timeout(at(self.now));
        self.outputs
            .extend(std::iter::from_fn(|| self.session.poll_output()));
    }

    pub(crate) fn say(&mut self, bytes: impl Into<Bytes>) {
        let frame = Frame::binary(Channel::Control, bytes);
        self.input(Input::Received { link: LINK, frame });
    }

    /// What alice has sent on Control.
    pub(crate) fn heard(&self) -> Vec<Bytes> {
        let heard = self.outputs.iter().filter_map(|output| match output {
            Output::Transmit { frame, .. } if frame.channel == Channel::Control => {
                match &frame.payload {
                    Payload::Binary(bytes) => Some(bytes.clone()),
                    _ => None,
                }
            }
            _ => None,
        });
        heard.collect()
    }

    /// The hello of an honest peer with this link's name.
    pub(crate) fn honest_hello(&self) -> Hello {
        Hello {
            author: author("mallory"),
            peer_id: peer("mallory"),
            room: RoomId::new("demo").unwrap(),
            genesis: None,
            may_adopt: false,
            nonce: Bytes::from_static(&[9; 32]),
            protocol_major: 1,
            protocol_minor: 0,
            schema_hash: *schema().hash().as_bytes(),
            capabilities: vec!["session".to_owned()],
            // One of a version that knows no numbered messages.
            incarnation: 0,
        }
    }

    /// Says this hello and proves it with this key.
    pub(crate) fn handshake(&mut self, hello: &Hello, key: &SigningKey) {
        let hello = Control::Hello(hello.clone()).encode();
        let theirs = self.heard()[0].clone();
        self.say(hello.clone());
        self.say(prove(key, 0, &hello, &theirs, [7; 32]));
    }

    pub(crate) fn closed(&self) -> Option<CloseCode> {
        self.outputs.iter().find_map(|output| match output {
            Output::Close { code, .. } => Some(*code),
            _ => None,
        })
    }

    fn standing(&self) -> Option<Standing> {
        self.session.peers().next().map(|view| view.standing)
    }

    fn refusal_of(change: impl FnOnce(&mut Hello)) -> Option<CloseCode> {
        let mut duel = Self::new();
        let mut hello = duel.honest_hello();
        change(&mut hello);
        duel.handshake(&hello, &key("mallory"));
        duel.closed()
    }
}

fn prove(
    key: &SigningKey,
    side: u8,
    initiator: &[u8],
    responder: &[u8],
    binding: [u8; 32],
) -> Bytes {
    let mut signed = b"roundtable/handshake/v1\0".to_vec();
    signed.push(side);
    signed.extend_from_slice(blake3::hash(initiator).as_bytes());
    signed.extend_from_slice(blake3::hash(responder).as_bytes());
    signed.extend_from_slice(&binding);
    Control::Proof(key.sign(&signed).to_bytes()).encode()
}

#[test]
fn a_peer_made_by_the_document_alone_gets_in() {
    let mut duel = Duel::new();
    let hello = duel.honest_hello();
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(duel.closed(), None);
    assert_eq!(duel.standing(), Some(Standing::Member(author("mallory"))));
    // And alice has proven herself by the same rule.
    let heard = duel.heard();
    let hello = Control::Hello(hello).encode();
    assert_eq!(
        heard[1],
        prove(&key("alice"), 1, &hello, &heard[0], [7; 32])
    );
}

#[test]
fn an_empty_or_short_nonce_is_refused() {
    for length in [0, 31, 33] {
        let refused = Duel::refusal_of(|hello| hello.nonce = vec![1; length].into());
        assert_eq!(refused, Some(CloseCode::HANDSHAKE_INVALID));
    }
}

#[test]
fn a_future_version_is_refused_before_anything_else_is_looked_at() {
    let refused = Duel::refusal_of(|hello| {
        hello.protocol_major = 2;
        hello.nonce = Bytes::new();
    });
    assert_eq!(refused, Some(CloseCode::VERSION_MISMATCH));
    assert_eq!(Duel::refusal_of(|hello| hello.protocol_minor = 9), None);
}

#[test]
fn another_schema_is_refused() {
    let refused = Duel::refusal_of(|hello| hello.schema_hash[0] ^= 1);
    assert_eq!(refused, Some(CloseCode::SCHEMA_MISMATCH));
}

#[test]
fn another_genesis_is_refused() {
    let other = |schema: SchemaHash| {
        let params = GenesisParams::new([8; 32], WallTime::from_millis(1), schema);
        let genesis = Genesis::create(params, &key("mallory")).unwrap();
        Some(Bytes::from(genesis.encode()))
    };
    let refused = Duel::refusal_of(|hello| hello.genesis = other(schema().hash()));
    assert_eq!(refused, Some(CloseCode::GENESIS_MISMATCH));
    let refused = Duel::refusal_of(|hello| hello.genesis = other(SchemaHash::from_bytes([1; 32])));
    assert_eq!(refused, Some(CloseCode::SCHEMA_MISMATCH));
    let refused = Duel::refusal_of(|hello| hello.genesis = Some(Bytes::from_static(b"made up")));
    assert_eq!(refused, Some(CloseCode::GENESIS_MISMATCH));
}

#[test]
fn a_peer_that_is_not_whom_signaling_named_is_refused() {
    let refused = Duel::refusal_of(|hello| hello.peer_id = peer("bob"));
    assert_eq!(refused, Some(CloseCode::IDENTITY_MISMATCH));
    let refused = Duel::refusal_of(|hello| hello.room = RoomId::new("other").unwrap());
    assert_eq!(refused, Some(CloseCode::IDENTITY_MISMATCH));
}

#[test]
fn a_peer_with_another_key_than_its_transport_is_refused() {
    let mut duel = Duel::with(|info| info.proven_author = Some(author("bob")));
    let hello = duel.honest_hello();
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(duel.closed(), Some(CloseCode::IDENTITY_MISMATCH));
}

#[test]
fn a_peer_with_another_key_than_on_its_other_link_is_refused() {
    let mut duel = Duel::new();
    let hello = duel.honest_hello();
    duel.handshake(&hello, &key("mallory"));
    let second = LinkId(2);
    let info = duel.info.clone();
    duel.input(Input::LinkUp { link: second, info });
    let theirs = duel.heard().pop().unwrap();
    let hello = Control::Hello(Hello {
        author: author("eve"),
        ..hello
    });
    let hello = hello.encode();
    let proof = prove(&key("eve"), 0, &hello, &theirs, [7; 32]);
    for message in [hello, proof] {
        let frame = Frame::binary(Channel::Control, message);
        duel.input(Input::Received {
            link: second,
            frame,
        });
    }
    assert_eq!(duel.closed(), Some(CloseCode::IDENTITY_MISMATCH));
    assert_eq!(duel.standing(), Some(Standing::Member(author("mallory"))));
}

#[test]
fn a_wrong_signature_is_refused() {
    let mut duel = Duel::new();
    let hello = duel.honest_hello();
    duel.handshake(&hello, &key("eve"));
    assert_eq!(duel.closed(), Some(CloseCode::HANDSHAKE_SIGNATURE));
}

#[test]
fn a_weak_key_is_refused() {
    // The neutral element: with it, one signature fits any message.
    let mut weak = [0; 32];
    weak[0] = 1;
    let refused = Duel::refusal_of(|hello| hello.author = AuthorId::from_bytes(weak));
    assert_eq!(refused, Some(CloseCode::HANDSHAKE_SIGNATURE));
}

#[test]
fn our_own_hello_sent_back_is_refused() {
    let mut duel = Duel::with(|info| info.peer = peer("alice"));
    let own = duel.heard()[0].clone();
    duel.say(own);
    assert_eq!(duel.closed(), Some(CloseCode::HANDSHAKE_REFLECTED));

    let mut duel = Duel::new();
    let Ok(Control::Hello(own)) = Control::decode(&duel.heard()[0]) else {
        panic!("the first message is no hello");
    };
    let mut hello = duel.honest_hello();
    hello.nonce = own.nonce;
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(duel.closed(), Some(CloseCode::HANDSHAKE_REFLECTED));
}

#[test]
fn our_own_key_in_the_hello_of_another_is_refused() {
    let refused = Duel::refusal_of(|hello| hello.author = author("alice"));
    assert_eq!(refused, Some(CloseCode::HANDSHAKE_REFLECTED));
}

#[test]
fn our_own_proof_sent_back_is_refused() {
    let mut duel = Duel::new();
    let hello = duel.honest_hello();
    duel.say(Control::Hello(hello).encode());
    let proof = duel.heard()[1].clone();
    duel.say(proof);
    assert_eq!(duel.closed(), Some(CloseCode::HANDSHAKE_SIGNATURE));
}

#[test]
fn a_recorded_handshake_played_again_is_refused() {
    let mut duel = Duel::new();
    let hello = Control::Hello(duel.honest_hello()).encode();
    let theirs = duel.heard()[0].clone();
    let proof = prove(&key("mallory"), 0, &hello, &theirs, [7; 32]);
    for message in [hello.clone(), proof.clone()] {
        duel.say(message);
    }
    assert_eq!(duel.closed(), None);
    // On the next link of the same session, alice's nonce is another.
    duel.input(Input::LinkDown { link: LINK });
    let info = duel.info.clone();
    duel.input(Input::LinkUp { link: LINK, info });
    for message in [hello, proof] {
        duel.say(message);
    }
    assert_eq!(duel.closed(), Some(CloseCode::HANDSHAKE_SIGNATURE));
}

#[test]
fn a_man_in_the_middle_of_two_links_is_refused_by_both_sides() {
    let mut world = World::founded_by(1, &["alice", "bob"]);
    let plug = Plug {
        bindings: [[1; 32], [2; 32]],
        ..Plug::new(TransportKind::WebRtc)
    };
    world.plug("alice", "bob", &plug);
    world.secs(1);
    let refused = Some(CloseCode::HANDSHAKE_SIGNATURE);
    let codes = ["alice", "bob"].map(|n| world.node(n).closed.first().map(|(_, code)| *code));
    assert!(codes.contains(&refused), "{codes:?}");
    assert_eq!(world.node("alice").session.peers().count(), 0);
    assert_eq!(world.node("bob").session.peers().count(), 0);
}

#[test]
fn a_silent_peer_is_cut_off_after_five_seconds_and_never_becomes_a_guest() {
    let mut duel = Duel::new();
    duel.pass(Duration::from_millis(4999));
    assert_eq!(duel.closed(), None);
    assert_eq!(duel.standing(), Some(Standing::Handshaking));
    duel.input(Input::Received {
        link: LINK,
        frame: Frame::text(Channel::App, "let me in"),
    });
    duel.pass(Duration::from_millis(1));
    assert_eq!(duel.closed(), Some(CloseCode::HANDSHAKE_TIMEOUT));
    let told = |output: &Output| {
        matches!(
            output,
            Output::Event(Event::GuestAdmitted { .. } | Event::Message { .. })
        )
    };
    assert!(!duel.outputs.iter().any(told));
}

#[test]
fn messages_out_of_turn_are_refused() {
    let invalid = Some(CloseCode::HANDSHAKE_INVALID);
    let mut duel = Duel::new();
    duel.say(Control::Proof([0; 64]).encode());
    assert_eq!(duel.closed(), invalid);
    let mut duel = Duel::new();
    duel.say(Control::Ping { sequence: 1 }.encode());
    assert_eq!(duel.closed(), invalid);
    let mut duel = Duel::new();
    duel.say(Bytes::from_static(b"\0\0\0\0RTB1 is no hello"));
    assert_eq!(duel.closed(), invalid);
    let mut duel = Duel::new();
    let hello = duel.honest_hello();
    duel.say(Control::Hello(hello.clone()).encode());
    duel.say(Control::Hello(hello.clone()).encode());
    assert_eq!(duel.closed(), invalid);
    let mut duel = Duel::new();
    duel.handshake(&hello, &key("mallory"));
    duel.say(Control::Hello(hello).encode());
    assert_eq!(duel.closed(), invalid);
}

#[test]
fn what_overtakes_the_handshake_is_held_and_bounded() {
    let mut duel = Duel::new();
    let app = |text: &str| Input::Received {
        link: LINK,
        frame: Frame::text(Channel::App, text),
    };
    let messages = |duel: &Duel| {
        let message = |o: &&Output| matches!(o, Output::Event(Event::Message { .. }));
        duel.outputs.iter().filter(message).count()
    };
    duel.input(app("one"));
    duel.input(Input::Received {
        link: LINK,
        frame: Frame::text(Channel::AppFast, "lost"),
    });
    duel.input(app("two"));
    assert_eq!(messages(&duel), 0);
    let hello = duel.honest_hello();
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(messages(&duel), 2);

    let mut duel = Duel::new();
    for _ in 0..=128 {
        duel.input(app("flood"));
    }
    assert_eq!(duel.closed(), Some(CloseCode::PROTOCOL));
}

#[test]
fn commands_that_overtake_the_news_of_their_genesis_are_held() {
    let open = GenesisParams {
        default_role: Role::Editor,
        ..params(1)
    };
    let mut duel = Duel::with_genesis(GenesisSource::Create(open), |_| {});
    let genesis = duel.session.genesis().unwrap().clone();
    let mut log = CommandLog::new(genesis.clone(), schema(), Some(key("mallory"))).unwrap();
    let command = log.append(at(START).wall, &[trail("early")]).unwrap();
    // She came without a genesis, has taken alice's, and her first frame is faster than her word.
    let hello = duel.honest_hello();
    duel.handshake(&hello, &key("mallory"));
    let frame = Frame::binary(Channel::Command, command.bytes().clone());
    duel.input(Input::Received { link: LINK, frame });
    assert_eq!(duel.session.log().unwrap().heads(), []);
    let update = Control::GenesisUpdate {
        genesis: genesis.encode().into(),
        may_adopt: true,
    };
    duel.say(update.encode());
    let heads = duel.session.log().unwrap().heads();
    assert_eq!((heads[0].author, heads[0].nonce), (author("mallory"), 1));
}

#[test]
fn a_peer_that_lies_about_our_own_commands_cannot_keep_us_silent() {
    let genesis = Genesis::create(params(1), &key("alice")).unwrap();
    let mut duel = Duel::with_genesis(GenesisSource::Known(genesis.clone()), |_| {});
    let mut hello = duel.honest_hello();
    hello.genesis = Some(genesis.encode().into());
    duel.handshake(&hello, &key("mallory"));
    let head = |nonce| Head {
        author: author("alice"),
        id: [3; 32],
        nonce,
    };
    duel.say(Control::Heads(vec![head(99)]).encode());
    let wanted = Range {
        author: author("alice"),
        first: 1,
        last: 99,
    };
    assert_eq!(
        duel.heard().last(),
        Some(&Control::Want(vec![wanted]).encode())
    );
    // She sends nothing, and someone else would now say the truth.
    duel.pass(Duration::from_millis(999));
    duel.say(Control::Heads(vec![head(0)]).encode());
    assert!(!duel.session.may_sign());
    duel.pass(Duration::from_millis(1));
    duel.say(Control::Heads(vec![head(0)]).encode());
    assert!(duel.session.may_sign());
}

/// Whoever stands by a genesis that alice has given up would have her sign her first command a second time.
#[test]
fn a_genesis_that_was_given_up_is_taken_again_only_with_its_log() {
    let source = GenesisSource::FirstCome(params(1));
    let mut duel = Duel::with_genesis(source.clone(), |_| {});
    duel.input(Input::AloneInRoom);
    let own = duel.session.genesis().unwrap().clone();
    duel.input(Input::Submit {
        actions: vec![trail("signed")],
    });
    duel.pass(Duration::from_millis(20));
    let signed = duel.session.log().unwrap().own_head().unwrap();
    // mallory stands by another genesis, which alice takes; then mallory leaves.
    let other = Genesis::create(params(2), &key("mallory")).unwrap();
    let mut hello = duel.honest_hello();
    hello.genesis = Some(other.encode().into());
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(duel.session.genesis(), Some(&other));
    duel.input(Input::LinkDown { link: LINK });
    let info = duel.info.clone();
    duel.outputs.clear();
    duel.input(Input::LinkUp { link: LINK, info });
    hello.genesis = Some(own.encode().into());
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(duel.closed(), None);
    let log = duel.session.log().unwrap();
    assert_eq!(log.genesis(), &own);
    // She goes on behind it, and makes mallory an Editor.
    let first = log.header_with(author("alice"), 1).unwrap();
    assert_eq!(first.1, signed.id);
    assert_eq!(log.own_head().unwrap().nonce, 2);

    // In another session she does not have the log any more.
    let mut duel = Duel::with_genesis(source, |_| {});
    duel.session.forsake([own.hash()]);
    duel.handshake(&hello, &key("mallory"));
    assert_eq!(duel.closed(), Some(CloseCode::GENESIS_MISMATCH));
}

#[test]
fn forged_frames_close_the_link_that_brings_them_and_change_nothing() {
    let mut duel = Duel::new();
    let mut hello = duel.honest_hello();
    let genesis = duel.session.genesis().unwrap().clone();
    hello.genesis = Some(genesis.encode().into());
    duel.handshake(&hello, &key("mallory"));
    // A frame of alice's, with one bit of its body changed.
    let actions = vec![trail("mine")];
    duel.input(Input::Submit { actions });
    duel.pass(Duration::from_millis(20));
    let log = duel.session.log().unwrap();
    let mut forged = log.frames().last().unwrap().bytes().to_vec();
    let before = duel.session.state_hash();
    *forged.last_mut().unwrap() ^= 1;
    for _ in 0..8 {
        assert_eq!(duel.closed(), None);
        let frame = Frame::binary(Channel::Command, forged.clone());
        duel.input(Input::Received { link: LINK, frame });
    }
    assert_eq!(duel.closed(), Some(CloseCode::PROTOCOL));
    assert_eq!(duel.session.state_hash(), before);
}
