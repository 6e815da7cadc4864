//! Control messages: the handshake, heartbeats and anti-entropy of a session.
//!
//! Encoded by `schemas/session.fbs`, described in `docs/protocols/session.md`. Decoding verifies
//! the buffer, bounds every list and yields owned values; it never panics.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, VerifierOptions, WIPOffset};
use roundtable_core::{AuthorId, Channel, PeerId, RoomId};

use crate::generated::session::roundtable::session as fb;

/// Most heads in one [`Control::Heads`] and its like, and most ranges in one [`Control::Want`] or
/// [`Control::Served`]. A longer list is split by the sender and refused by the receiver.
pub const MAX_LIST: usize = 512;
/// Most capabilities in a [`Hello`].
pub const MAX_CAPABILITIES: usize = 32;
/// Most bytes of one capability's name.
pub const MAX_CAPABILITY_LEN: usize = 64;
/// Most bytes of an encoded genesis.
pub const MAX_GENESIS_LEN: usize = 4096;

/// One message of the Control channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The first message of either side.
    Hello(Hello),
    /// The Ed25519 signature over the handshake's transcript.
    Proof([u8; 64]),
    /// The sender's genesis has changed since its [`Hello`].
    GenesisUpdate {
        /// The encoded genesis.
        genesis: Bytes,
        /// As [`Hello::may_adopt`].
        may_adopt: bool,
    },
    /// What the sender holds, at most [`MAX_LIST`] entries. An author that is absent is not
    /// thereby unknown to the sender.
    Heads(Vec<Head>),
    /// Asks for the frames that hold these commands, at most [`MAX_LIST`] ranges.
    Want(Vec<Range>),
    /// Answers one [`Control::Want`]: what has been sent on the Command channel.
    Served(Vec<Range>),
    /// A heartbeat.
    Ping {
        /// Chosen by the sender, echoed by the [`Control::Pong`].
        sequence: u64,
    },
    /// The answer to a heartbeat.
    Pong {
        /// The [`Control::Ping`]'s number.
        sequence: u64,
        /// What the sender's clock shows, in Unix milliseconds; 0 from a version that does not say.
        wall_ms: u64,
    },
    /// The receiver of an elided frame does not remember what was left out: the next frame of each
    /// author is to come in full.
    FullForms,
    /// The sender holds proof that these authors' logs fork right after these commands; at most
    /// [`MAX_LIST`] entries.
    Forks(Vec<Head>),
    /// Asks for the frames of such proofs, at most [`MAX_LIST`] entries.
    WantForks(Vec<Head>),
    /// The ids of the sender's frames that hold these commands, at most [`MAX_LIST`] entries. Asks
    /// for the receiver's.
    Probe(Vec<Head>),
    /// Answers a [`Control::Probe`], entry by entry: the ids of the sender's frames that hold these
    /// commands, zeros for none.
    Probed(Vec<Head>),
    /// So many checkpoints are stable, and of what lies below the last the sender has only what it
    /// comes to. Goes with heads, and answers a [`Control::Want`] for what lies below.
    Pruned {
        /// How many, counted from the genesis.
        checkpoints: u64,
    },
    /// Asks for what made later checkpoints stable, and for the state at the last of them: for a few
    /// pieces of that, on the Snapshot channel. Who has none answers with heads.
    WantCheckpoint {
        /// How many checkpoints the sender has.
        after: u64,
        /// How many bytes of the answer the sender has.
        offset: u64,
    },
    /// Of the App channel, the sender has all chunks up to one, and takes more up to some cost.
    Acknowledged {
        /// The last chunk that it has, of those that are meant for this incarnation of it.
        through: u64,
        /// What all chunks from the first on may cost together: each its length and 64.
        limit: u64,
    },
    /// A message of a later minor version, to be skipped.
    Unknown,
}

/// Who a peer says it is, before it has proven anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The author key.
    pub author: AuthorId,
    /// The name it announced to signaling.
    pub peer_id: PeerId,
    /// The room it believes to be in.
    pub room: RoomId,
    /// The encoded genesis, if it has one; at most [`MAX_GENESIS_LEN`] bytes.
    pub genesis: Option<Bytes>,
    /// Whether it would give up that genesis for another.
    pub may_adopt: bool,
    /// Fresh random bytes. The length is checked by the handshake, which wants exactly 32.
    pub nonce: Bytes,
    /// Peers of different major versions do not talk.
    pub protocol_major: u16,
    /// Later minor versions add messages and fields that earlier ones skip.
    pub protocol_minor: u16,
    /// Hash of the schema of commands.
    pub schema_hash: [u8; 32],
    /// What the peer can do, at most [`MAX_CAPABILITIES`] names of [`MAX_CAPABILITY_LEN`] bytes.
    pub capabilities: Vec<String>,
    /// Another number each time that the sender begins anew to number its App messages for this peer, and has
    /// forgotten which of the peer's have come. 0 if it knows no numbers, and exchanges them bare.
    pub incarnation: u64,
}

/// The last contiguous command of one author that a peer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The author.
    pub author: AuthorId,
    /// Id of the frame that ends with `nonce`.
    pub id: [u8; 32],
    /// Number of the author's last command held; 0 for none.
    pub nonce: u64,
}

/// Commands of one author, by nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The author.
    pub author: AuthorId,
    /// The first nonce.
    pub first: u64,
    /// The last nonce, included; below `first` for an empty range.
    pub last: u64,
}

/// Why a control message was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Longer than the Control channel allows.
    #[error("a control message has at most 61440 bytes; this one has {0}")]
    TooLarge(usize),
    /// Not a FlatBuffer with the identifier `RTB1`, or damaged.
    #[error("not a control message")]
    Malformed,
    /// A field is missing, or breaks its own rule.
    #[error("the field {0} of a control message is missing or invalid")]
    Field(&'static str),
}

impl Control {
    /// Encodes the message for the Control channel.
    ///
    /// Lists are the caller's to bound: a message over the limits above is refused by its receiver.
    pub fn encode(&self) -> Bytes {
        let mut fbb = FlatBufferBuilder::with_capacity(256);
        let (message_type, message) = build(&mut fbb, self);
        let control = fb::Control::create(
            &mut fbb,
            &fb::ControlArgs {
                message_type,
                message: Some(message),
            },
        );
        fb::finish_control_buffer(&mut fbb, control);
        Bytes::copy_from_slice(fbb.finished_data())
    }

    /// Decodes a message from the network.
    ///
    /// # Errors
    /// [`ControlError`] says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        if bytes.len() > Channel::Control.max_message_len() {
            return Err(ControlError::TooLarge(bytes.len()));
        }
        if bytes.len() < 8 || !fb::control_buffer_has_identifier(bytes) {
            return Err(ControlError::Malformed);
        }
        let options = VerifierOptions {
            max_depth: 8,
            max_tables: 8,
            max_apparent_size: 2 * Channel::Control.max_message_len(),
            ..VerifierOptions::default()
        };
        let control =
            fb::root_as_control_with_opts(&options, bytes).map_err(|_| ControlError::Malformed)?;
        read(&control)
    }
}

type Message = WIPOffset<flatbuffers::UnionWIPOffset>;

fn build<'a>(fbb: &mut FlatBufferBuilder<'a>, control: &Control) -> (fb::Message, Message) {
    match control {
        Control::Hello(hello) => (fb::Message::Hello, build_hello(fbb, hello)),
        Control::Proof(signature) => {
            let signature = Some(fbb.create_vector(signature));
            let proof = fb::Proof::create(fbb, &fb::ProofArgs { signature });
            (fb::Message::Proof, proof.as_union_value())
        }
        Control::GenesisUpdate { genesis, may_adopt } => {
            let args = fb::GenesisUpdateArgs {
                genesis: Some(fbb.create_vector(genesis)),
                may_adopt: *may_adopt,
            };
            let update = fb::GenesisUpdate::create(fbb, &args);
            (fb::Message::GenesisUpdate, update.as_union_value())
        }
        Control::Heads(heads) => {
            let heads = Some(build_heads(fbb, heads));
            let heads = fb::Heads::create(fbb, &fb::HeadsArgs { heads });
            (fb::Message::Heads, heads.as_union_value())
        }
        Control::Want(ranges) => {
            let ranges = Some(build_ranges(fbb, ranges));
            let want = fb::Want::create(fbb, &fb::WantArgs { ranges });
            (fb::Message::Want, want.as_union_value())
        }
        Control::Served(ranges) => {
            let ranges = Some(build_ranges(fbb, ranges));
            let served = fb::Served::create(fbb, &fb::ServedArgs { ranges });
            (fb::Message::Served, served.as_union_value())
        }
        Control::Forks(forks) => {
            let forks = Some(build_heads(fbb, forks));
            let forks = fb::Forks::create(fbb, &fb::ForksArgs { forks });
            (fb::Message::Forks, forks.as_union_value())
        }
        Control::WantForks(forks) => {
            let forks = Some(build_heads(fbb, forks));
            let want = fb::WantForks::create(fbb, &fb::WantForksArgs { forks });
            (fb::Message::WantForks, want.as_union_value())
        }
        Control::Probe(heads) => {
            let heads = Some(build_heads(fbb, heads));
            let probe = fb::Probe::create(fbb, &fb::ProbeArgs { heads });
            (fb::Message::Probe, probe.as_union_value())
        }
        Control::Probed(heads) => {
            let heads = Some(build_heads(fbb, heads));
            let probed = fb::Probed::create(fbb, &fb::ProbedArgs { heads });
            (fb::Message::Probed, probed.as_union_value())
        }
        _ => build_short(fbb, control),
    }
}

/// Those of a few numbers at most.
fn build_short(fbb: &mut FlatBufferBuilder<'_>, control: &Control) -> (fb::Message, Message) {
    match control {
        &Control::Ping { sequence } => {
            let ping = fb::Ping::create(fbb, &fb::PingArgs { sequence });
            (fb::Message::Ping, ping.as_union_value())
        }
        &Control::Pong { sequence, wall_ms } => {
            let pong = fb::Pong::create(fbb, &fb::PongArgs { sequence, wall_ms });
            (fb::Message::Pong, pong.as_union_value())
        }
        Control::FullForms => {
            let full = fb::FullForms::create(fbb, &fb::FullFormsArgs {});
            (fb::Message::FullForms, full.as_union_value())
        }
        &Control::Pruned { checkpoints } => {
            let pruned = fb::Pruned::create(fbb, &fb::PrunedArgs { checkpoints });
            (fb::Message::Pruned, pruned.as_union_value())
        }
        &Control::WantCheckpoint { after, offset } => {
            let want = fb::WantCheckpointArgs { after, offset };
            let want = fb::WantCheckpoint::create(fbb, &want);
            (fb::Message::WantCheckpoint, want.as_union_value())
        }
        &Control::Acknowledged { through, limit } => {
            let acknowledged = fb::AcknowledgedArgs { through, limit };
            let acknowledged = fb::Acknowledged::create(fbb, &acknowledged);
            (fb::Message::Acknowledged, acknowledged.as_union_value())
        }
        // What a later version meant cannot be said again; an empty table of no type stands for it.
        _ => {
            let empty = fb::Ping::create(fbb, &fb::PingArgs { sequence: 0 });
            (fb::Message(u8::MAX), empty.as_union_value())
        }
    }
}

fn build_hello(fbb: &mut FlatBufferBuilder<'_>, hello: &Hello) -> Message {
    let capabilities: Vec<_> = hello
        .capabilities
        .iter()
        .map(|name| fbb.create_string(name))
        .collect();
    let args = fb::HelloArgs {
        author: Some(fbb.create_vector(hello.author.as_bytes())),
        peer_id: Some(fbb.create_string(hello.peer_id.as_str())),
        room: Some(fbb.create_string(hello.room.as_str())),
        genesis: hello.genesis.as_ref().map(|g| fbb.create_vector(g)),
        may_adopt: hello.may_adopt,
        nonce: Some(fbb.create_vector(&hello.nonce)),
        protocol_major: hello.protocol_major,
        protocol_minor: hello.protocol_minor,
        schema_hash: Some(fbb.create_vector(&hello.schema_hash)),
        capabilities: Some(fbb.create_vector(&capabilities)),
        incarnation: hello.incarnation,
    };
    fb::Hello::create(fbb, &args).as_union_value()
}

fn build_heads<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    heads: &[Head],
) -> WIPOffset<Vector<'a, fb::Head>> {
    let heads: Vec<_> = heads
        .iter()
        .map(|head| fb::Head::new(head.author.as_bytes(), &head.id, head.nonce))
        .collect();
    fbb.create_vector(&heads)
}

fn build_ranges<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    ranges: &[Range],
) -> WIPOffset<Vector<'a, fb::Range>> {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|range| fb::Range::new(range.author.as_bytes(), range.first, range.last))
        .collect();
    fbb.create_vector(&ranges)
}

fn read(control: &fb::Control<'_>) -> Result<Control, ControlError> {
    if let Some(hello) = control.message_as_hello() {
        return read_hello(&hello).map(Control::Hello);
    }
    if let Some(proof) = control.message_as_proof() {
        return Ok(Control::Proof(exact(proof.signature(), "signature")?));
    }
    if let Some(update) = control.message_as_genesis_update() {
        return Ok(Control::GenesisUpdate {
            genesis: bounded(update.genesis(), MAX_GENESIS_LEN, "genesis")?,
            may_adopt: update.may_adopt(),
        });
    }
    if let Some(heads) = control.message_as_heads() {
        return read_heads(&heads.heads()).map(Control::Heads);
    }
    if let Some(want) = control.message_as_want() {
        return read_ranges(&want.ranges()).map(Control::Want);
    }
    if let Some(served) = control.message_as_served() {
        return read_ranges(&served.ranges()).map(Control::Served);
    }
    if let Some(forks) = control.message_as_forks() {
        return read_heads(&forks.forks()).map(Control::Forks);
    }
    if let Some(want) = control.message_as_want_forks() {
        return read_heads(&want.forks()).map(Control::WantForks);
    }
    if let Some(probe) = control.message_as_probe() {
        return read_heads(&probe.heads()).map(Control::Probe);
    }
    if let Some(probed) = control.message_as_probed() {
        return read_heads(&probed.heads()).map(Control::Probed);
    }
    if let Some(ping) = control.message_as_ping() {
        let sequence = ping.sequence();
        return Ok(Control::Ping { sequence });
    }
    if let Some(pong) = control.message_as_pong() {
        let (sequence, wall_ms) = (pong.sequence(), pong.wall_ms());
        return Ok(Control::Pong { sequence, wall_ms });
    }
    if let Some(pruned) = control.message_as_pruned() {
        let checkpoints = pruned.checkpoints();
        return Ok(Control::Pruned { checkpoints });
    }
    if let Some(want) = control.message_as_want_checkpoint() {
        let (after, offset) = (want.after(), want.offset());
        return Ok(Control::WantCheckpoint { after, offset });
    }
    if let Some(acknowledged) = control.message_as_acknowledged() {
        let (through, limit) = (acknowledged.through(), acknowledged.limit());
        return Ok(Control::Acknowledged { through, limit });
    }
    if control.message_as_full_forms().is_some() {
        return Ok(Control::FullForms);
    }
    Ok(Control::Unknown)
}

fn read_hello(hello: &fb::Hello<'_>) -> Result<Hello, ControlError> {
    let genesis = hello
        .genesis()
        .map(|genesis| bounded(genesis, MAX_GENESIS_LEN, "genesis"))
        .transpose()?;
    Ok(Hello {
        author: AuthorId::from_bytes(exact(hello.author(), "author")?),
        peer_id: PeerId::new(hello.peer_id()).map_err(|_| ControlError::Field("peer_id"))?,
        room: RoomId::new(hello.room()).map_err(|_| ControlError::Field("room"))?,
        genesis,
        may_adopt: hello.may_adopt(),
        nonce: bounded(hello.nonce(), 64, "nonce")?,
        protocol_major: hello.protocol_major(),
        protocol_minor: hello.protocol_minor(),
        schema_hash: exact(hello.schema_hash(), "schema_hash")?,
        capabilities: match hello.capabilities() {
            Some(names) => read_capabilities(&names)?,
            None => Vec::new(),
        },
        incarnation: hello.incarnation(),
    })
}

fn read_capabilities(
    names: &Vector<'_, ForwardsUOffset<&str>>,
) -> Result<Vec<String>, ControlError> {
    let valid = names.len() <= MAX_CAPABILITIES
        && names.iter().all(|name| name.len() <= MAX_CAPABILITY_LEN);
    if !valid {
        return Err(ControlError::Field("capabilities"));
    }
    Ok(names.iter().map(str::to_owned).collect())
}

fn read_heads(heads: &Vector<'_, fb::Head>) -> Result<Vec<Head>, ControlError> {
    if heads.len() > MAX_LIST {
        return Err(ControlError::Field("heads"));
    }
    let read = |head: &fb::Head| Head {
        author: AuthorId::from_bytes(head.author().into()),
        id: head.id().into(),
        nonce: head.nonce(),
    };
    Ok(heads.iter().map(read).collect())
}

fn read_ranges(ranges: &Vector<'_, fb::Range>) -> Result<Vec<Range>, ControlError> {
    if ranges.len() > MAX_LIST {
        return Err(ControlError::Field("ranges"));
    }
    let read = |range: &fb::Range| Range {
        author: AuthorId::from_bytes(range.author().into()),
        first: range.first(),
        last: range.last(),
    };
    Ok(ranges.iter().map(read).collect())
}

fn exact<const N: usize>(
    bytes: Vector<'_, u8>,
    field: &'static str,
) -> Result<[u8; N], ControlError> {
    bytes
        .bytes()
        .try_into()
        .map_err(|_| ControlError::Field(field))
}

fn bounded(bytes: Vector<'_, u8>, max: usize, field: &'static str) -> Result<Bytes, ControlError> {
    if bytes.len() > max {
        return Err(ControlError::Field(field));
    }
    Ok(Bytes::copy_from_slice(bytes.bytes()))
}

/// Fuzz body: whatever decodes must survive encoding and decoding unchanged.
#[cfg(feature = "__fuzz")]
pub fn __fuzz_control(data: &[u8]) {
    if let Ok(control) = Control::decode(data) {
        assert_eq!(Control::decode(&control.encode()), Ok(control));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    fn author() -> impl Strategy<Value = AuthorId> {
        any::<[u8; 32]>().prop_map(AuthorId::from_bytes)
    }

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
    }

    fn ranges() -> impl Strategy<Value = Vec<Range>> {
        let range = (author(), any::<u64>(), any::<u64>());
        let range = range.prop_map(|(author, first, last)| Range {
            author,
            first,
            last,
        });
        vec(range, 0..40)
    }

    prop_compose! {
        fn hello()(
            author in author(),
            peer_id in "[A-Za-z0-9_-]{1,64}",
            room in "[A-Za-z0-9_-]{1,64}",
            genesis in option::of(bytes(300)),
            may_adopt in any::<bool>(),
            nonce in bytes(64),
            version in any::<(u16, u16)>(),
            schema_hash in any::<[u8; 32]>(),
            capabilities in vec("[a-zé]{0,20}", 0..MAX_CAPABILITIES),
            incarnation in any::<u64>(),
        ) -> Hello {
            Hello {
                author,
                peer_id: PeerId::new(&peer_id).unwrap(),
                room: RoomId::new(&room).unwrap(),
                genesis,
                may_adopt,
                nonce,
                protocol_major: version.0,
                protocol_minor: version.1,
                schema_hash,
                capabilities,
                incarnation,
            }
        }
    }

    fn control() -> impl Strategy<Value = Control> {
        let heads = || {
            let head = (author(), any::<[u8; 32]>(), any::<u64>());
            let head = head.prop_map(|(author, id, nonce)| Head { author, id, nonce });
            vec(head, 0..40)
        };
        prop_oneof![
            hello().prop_map(Control::Hello),
            (any::<[u8; 32]>(), any::<[u8; 32]>())
                .prop_map(|(r, s)| { Control::Proof([r, s].concat().try_into().unwrap()) }),
            (bytes(300), any::<bool>())
                .prop_map(|(genesis, may_adopt)| Control::GenesisUpdate { genesis, may_adopt }),
            heads().prop_map(Control::Heads),
            heads().prop_map(Control::Forks),
            heads().prop_map(Control::WantForks),
            heads().prop_map(Control::Probe),
            heads().prop_map(Control::Probed),
            ranges().prop_map(Control::Want),
            ranges().prop_map(Control::Served),
            any::<u64>().prop_map(|sequence| Control::Ping { sequence }),
            any::<(u64, u64)>().prop_map(|(sequence, wall_ms)| Control::Pong { sequence, wall_ms }),
            Just(Control::FullForms),
            any::<u64>().prop_map(|checkpoints| Control::Pruned { checkpoints }),
            any::<(u64, u64)>()
                .prop_map(|(after, offset)| Control::WantCheckpoint { after, offset }),
            any::<(u64, u64)>()
                .prop_map(|(through, limit)| Control::Acknowledged { through, limit }),
        ]
    }

    proptest! {
        #[test]
        fn every_message_survives_the_wire(message in control(), shift in 0_usize..8) {
            let encoded = message.encode();
            // A datagram's payload may start at any address.
            let shifted = [vec![0; shift], encoded.to_vec()].concat();
            prop_assert_eq!(Control::decode(&shifted[shift..]), Ok(message));
        }

        #[test]
        fn damage_is_an_error_or_another_message_but_no_panic(
            message in control(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut encoded = message.encode().to_vec();
            for (index, byte) in damage {
                let at = index.index(encoded.len());
                encoded[at] = byte;
            }
            if let Ok(other) = Control::decode(&encoded) {
                prop_assert_eq!(Control::decode(&other.encode()), Ok(other));
            }
            let _ = Control::decode(&encoded[..cut.index(encoded.len())]);
        }
    }

    #[test]
    fn messages_of_later_versions_are_skipped() {
        let encoded = Control::Unknown.encode();
        assert_eq!(Control::decode(&encoded), Ok(Control::Unknown));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(Control::decode(&[]), Err(ControlError::Malformed));
        assert_eq!(
            Control::decode(b"GET / HTTP/1.1"),
            Err(ControlError::Malformed)
        );
        let huge = vec![0; 100_000];
        assert_eq!(Control::decode(&huge), Err(ControlError::TooLarge(100_000)));
    }

    #[test]
    fn lists_over_their_bound_are_refused() {
        let range = Range {
            author: AuthorId::from_bytes([1; 32]),
            first: 1,
            last: 2,
        };
        let long = Control::Want(vec![range; MAX_LIST + 1]).encode();
        assert_eq!(Control::decode(&long), Err(ControlError::Field("ranges")));
        let full = Control::Want(vec![range; MAX_LIST]).encode();
        assert!(Control::decode(&full).is_ok());
    }

    #[test]
    fn full_lists_fit_the_channel() {
        let head = Head {
            author: AuthorId::from_bytes([1; 32]),
            id: [2; 32],
            nonce: u64::MAX,
        };
        let heads = Control::Heads(vec![head; MAX_LIST]).encode();
        assert!(heads.len() <= Channel::Control.max_message_len());
    }
}
