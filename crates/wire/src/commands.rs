//! The body of a command frame: what its author wants done, in order.

use std::{fmt, ops::Range};

use flatbuffers::{
    FlatBufferBuilder, InvalidFlatbuffer, UnionWIPOffset, VerifierOptions, WIPOffset,
};

use crate::{
    generated::commands::roundtable::commands as fb,
    limits::{
        BODY_OVERHEAD, COMMAND_OVERHEAD, MAX_BODY_LEN, MAX_COMMANDS, MAX_KEY_LEN, MAX_PAYLOAD_LEN,
    },
};

/// One command's action, borrowed from a body or about to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActionRef<'a> {
    /// Sets, proposes or merges a value, as the strategy of the key's type says.
    Put {
        /// The key's type in the room's schema.
        key_type: u16,
        /// The key, at most [`MAX_KEY_LEN`] bytes.
        key: &'a [u8],
        /// The value; with the key at most [`MAX_PAYLOAD_LEN`] bytes.
        value: &'a [u8],
    },
    /// Gives an author a role for all its nonces above a covered one.
    SetRole {
        /// The author's public key.
        target: [u8; 32],
        /// The role's number; not checked here.
        role: u8,
        /// The last nonce that keeps its role, 0 for none.
        covered_nonce: u64,
        /// The id of the target's frame that holds `covered_nonce`, zeros for none.
        covered_id: [u8; 32],
    },
    /// Takes back a put of the same author.
    Undo {
        /// The put's nonce.
        target: u64,
    },
    /// Lets a put of the same author count again.
    Redo {
        /// The put's nonce.
        target: u64,
    },
    /// Proposes a checkpoint.
    Propose {
        /// Its fixed layout; not checked here. At most [`MAX_PAYLOAD_LEN`] bytes.
        checkpoint: &'a [u8],
    },
    /// Says that a proposed checkpoint is true.
    Acknowledge(Ballot),
    /// Takes back a proposal of the same author.
    Withdraw(Ballot),
    /// Makes a proposed checkpoint final, as far as this author is concerned.
    Commit(Ballot),
    /// Asks that the next checkpoint need not wait for an author.
    Retire {
        /// The author's public key.
        author: [u8; 32],
        /// The hash of the stable checkpoint before, zeros if there is none.
        previous: [u8; 32],
    },
    /// An action of a later version. It takes a nonce and does nothing.
    Unknown {
        /// Its number in the schema's union.
        kind: u8,
    },
}

/// Which checkpoint an author speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ballot {
    /// The proposed checkpoint's hash.
    pub checkpoint: [u8; 32],
    /// The hash of the stable checkpoint that it follows, zeros if it is the first.
    pub previous: [u8; 32],
}

fn build_ballot(ballot: &Ballot) -> fb::Ballot {
    fb::Ballot::new(&ballot.checkpoint, &ballot.previous)
}

fn read_ballot(ballot: &fb::Ballot) -> Ballot {
    Ballot {
        checkpoint: ballot.checkpoint().into(),
        previous: ballot.previous().into(),
    }
}

impl ActionRef<'_> {
    /// The bytes that the author's budget pays for: key and value of a `Put`, the checkpoint of a
    /// `Propose`, 0 for anything else.
    pub const fn payload_len(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Propose { checkpoint } => checkpoint.len(),
            _ => 0,
        }
    }
}

/// Why commands do not fit a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// No command, or more than [`MAX_COMMANDS`].
    #[error("a frame holds 1 to {MAX_COMMANDS} commands; this one would hold {0}")]
    Count(usize),
    /// A key is longer than [`MAX_KEY_LEN`].
    #[error("a key has at most {MAX_KEY_LEN} bytes; this one has {0}")]
    Key(usize),
    /// A payload is larger than [`MAX_PAYLOAD_LEN`].
    #[error("a command's payload has at most {MAX_PAYLOAD_LEN} bytes; this one has {0}")]
    Payload(usize),
    /// The whole body is longer than [`MAX_BODY_LEN`]: send the commands in several frames.
    #[error("a frame's body has at most {MAX_BODY_LEN} bytes; this one would have {0}: split it")]
    Body(usize),
    /// [`ActionRef::Unknown`] stands for what this version cannot write.
    #[error("an unknown action cannot be encoded")]
    Unknown,
}

/// Why bytes are not a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Longer than [`MAX_BODY_LEN`].
    #[error("the body has {0} bytes, more than {MAX_BODY_LEN}")]
    TooLong(usize),
    /// The file identifier is not that of a body.
    #[error("not a command body")]
    Identifier,
    /// The structure does not verify.
    #[error("malformed body")]
    Malformed(#[from] InvalidFlatbuffer),
    /// No command, or more than [`MAX_COMMANDS`].
    #[error("the body holds {0} commands, not 1 to {MAX_COMMANDS}")]
    Count(usize),
    /// A key is longer than [`MAX_KEY_LEN`].
    #[error("a key has {0} bytes, more than {MAX_KEY_LEN}")]
    Key(usize),
    /// A payload is larger than [`MAX_PAYLOAD_LEN`].
    #[error("a payload has {0} bytes, more than {MAX_PAYLOAD_LEN}")]
    Payload(usize),
    /// The body is shorter than its payloads (they share bytes) or much longer (it is padded).
    #[error("{payload} bytes of payload in a body of {body}")]
    Padding {
        /// The payloads of all commands, in bytes.
        payload: usize,
        /// The body's length in bytes.
        body: usize,
    },
}

/// Writes bodies, keeping its buffer from one to the next.
#[derive(Default)]
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
    /// Those of the body that is being written.
    commands: Vec<WIPOffset<fb::Command<'static>>>,
    /// By command, how far before the end of the body its key and its value begin; 0 if it has none.
    places: Vec<[usize; 2]>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// Encodes a body.
    ///
    /// # Errors
    /// [`EncodeError`] says which limit the commands exceed.
    pub fn encode<'a>(
        &mut self,
        actions: impl IntoIterator<Item = ActionRef<'a>>,
    ) -> Result<&[u8], EncodeError> {
        self.builder.reset();
        self.places.clear();
        self.commands.clear();
        let mut payload = 0;
        for action in actions {
            payload += check_payload(&action)?;
            if payload > MAX_BODY_LEN {
                return Err(EncodeError::Body(payload));
            }
            let command = self.command(&action)?;
            self.commands.push(command);
        }
        let count = self.commands.len();
        if count == 0 || count > MAX_COMMANDS {
            return Err(EncodeError::Count(count));
        }
        let commands = Some(self.builder.create_vector(&self.commands));
        let body = fb::Body::create(&mut self.builder, &fb::BodyArgs { commands });
        fb::finish_body_buffer(&mut self.builder, body);
        let body = self.builder.finished_data();
        if body.len() > MAX_BODY_LEN {
            return Err(EncodeError::Body(body.len()));
        }
        Ok(body)
    }

    /// Where in the body that was encoded last the key and the value of each of its commands are, if
    /// `actions` are those that it was encoded from. Empty for anything but a `Put`.
    pub fn payloads<'a>(
        &self,
        actions: impl IntoIterator<Item = ActionRef<'a>>,
    ) -> impl Iterator<Item = [Range<usize>; 2]> {
        /// What stands before the bytes of a vector: their number.
        const PREFIX: usize = 4;
        let len = self.builder.finished_data().len();
        let range = move |from_end: usize, bytes: usize| {
            let start = len - from_end + PREFIX;
            start..start + bytes
        };
        let pairs = self.places.iter().zip(actions);
        pairs.map(move |([key_at, value_at], action)| match action {
            ActionRef::Put { key, value, .. } => {
                [range(*key_at, key.len()), range(*value_at, value.len())]
            }
            _ => [0..0, 0..0],
        })
    }

    fn command(
        &mut self,
        action: &ActionRef<'_>,
    ) -> Result<WIPOffset<fb::Command<'static>>, EncodeError> {
        let (action_type, action, places) = create(&mut self.builder, action)?;
        let command = fb::CommandArgs {
            action_type,
            action: Some(action),
        };
        self.places.push(places);
        Ok(fb::Command::create(&mut self.builder, &command))
    }
}

/// Writes an action's table, and says where its key and its value begin.
fn create(
    builder: &mut FlatBufferBuilder<'static>,
    action: &ActionRef<'_>,
) -> Result<(fb::Action, WIPOffset<UnionWIPOffset>, [usize; 2]), EncodeError> {
    let mut places = [0; 2];
    let (action_type, action) = match *action {
        ActionRef::Put {
            key_type,
            key,
            value,
        } => {
            let key = builder.create_vector(key);
            let value = builder.create_vector(value);
            places = [key.value() as usize, value.value() as usize];
            let (key, value) = (Some(key), Some(value));
            let put = fb::PutArgs {
                key_type,
                key,
                value,
            };
            let put = fb::Put::create(builder, &put);
            (fb::Action::Put, put.as_union_value())
        }
        ActionRef::SetRole {
            target,
            role,
            covered_nonce,
            covered_id,
        } => {
            let set = fb::SetRoleArgs {
                target: Some(&fb::Bytes32::new(&target)),
                role,
                covered: Some(&fb::Position::new(covered_nonce, &covered_id)),
            };
            let set = fb::SetRole::create(builder, &set);
            (fb::Action::SetRole, set.as_union_value())
        }
        ActionRef::Undo { target } => {
            let target = fb::Nonce::new(target);
            let target = Some(&target);
            let undo = fb::Undo::create(builder, &fb::UndoArgs { target });
            (fb::Action::Undo, undo.as_union_value())
        }
        ActionRef::Redo { target } => {
            let target = fb::Nonce::new(target);
            let target = Some(&target);
            let redo = fb::Redo::create(builder, &fb::RedoArgs { target });
            (fb::Action::Redo, redo.as_union_value())
        }
        _ => create_checkpoint(builder, action)?,
    };
    Ok((action_type, action, places))
}

/// Writes the table of an action that is about checkpoints.
fn create_checkpoint(
    builder: &mut FlatBufferBuilder<'static>,
    action: &ActionRef<'_>,
) -> Result<(fb::Action, WIPOffset<UnionWIPOffset>), EncodeError> {
    Ok(match *action {
        ActionRef::Propose { checkpoint } => {
            let checkpoint = Some(builder.create_vector(checkpoint));
            let propose = fb::Propose::create(builder, &fb::ProposeArgs { checkpoint });
            (fb::Action::Propose, propose.as_union_value())
        }
        ActionRef::Acknowledge(ballot) => {
            let ballot = Some(&build_ballot(&ballot));
            let said = fb::Acknowledge::create(builder, &fb::AcknowledgeArgs { ballot });
            (fb::Action::Acknowledge, said.as_union_value())
        }
        ActionRef::Withdraw(ballot) => {
            let ballot = Some(&build_ballot(&ballot));
            let said = fb::Withdraw::create(builder, &fb::WithdrawArgs { ballot });
            (fb::Action::Withdraw, said.as_union_value())
        }
        ActionRef::Commit(ballot) => {
            let ballot = Some(&build_ballot(&ballot));
            let said = fb::Commit::create(builder, &fb::CommitArgs { ballot });
            (fb::Action::Commit, said.as_union_value())
        }
        ActionRef::Retire { author, previous } => {
            let (author, previous) = (fb::Bytes32::new(&author), fb::Bytes32::new(&previous));
            let retire = fb::RetireArgs {
                author: Some(&author),
                previous: Some(&previous),
            };
            let retire = fb::Retire::create(builder, &retire);
            (fb::Action::Retire, retire.as_union_value())
        }
        _ => return Err(EncodeError::Unknown),
    })
}

fn check_payload(action: &ActionRef<'_>) -> Result<usize, EncodeError> {
    if let ActionRef::Put { key, .. } = action
        && key.len() > MAX_KEY_LEN
    {
        return Err(EncodeError::Key(key.len()));
    }
    match action.payload_len() {
        len if len > MAX_PAYLOAD_LEN => Err(EncodeError::Payload(len)),
        len => Ok(len),
    }
}

/// A body that has been verified: every action in it can be read without further checks.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    commands: flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<fb::Command<'a>>>,
}

impl<'a> Body<'a> {
    /// Verifies `bytes` in time linear in their number.
    ///
    /// # Errors
    /// [`BodyError`]. Peers agree on the verdict, because a frame with a bad body counts as never
    /// signed.
    pub fn verify(bytes: &'a [u8]) -> Result<Self, BodyError> {
        if bytes.len() > MAX_BODY_LEN {
            return Err(BodyError::TooLong(bytes.len()));
        }
        if bytes.len() < 8 || !fb::body_buffer_has_identifier(bytes) {
            return Err(BodyError::Identifier);
        }
        let options = VerifierOptions {
            max_depth: 4,
            max_tables: 2 * MAX_COMMANDS + 1,
            max_apparent_size: 2 * MAX_BODY_LEN,
            ignore_missing_null_terminator: false,
        };
        let commands = fb::root_as_body_with_opts(&options, bytes)?.commands();
        let body = Self { commands };
        body.check(bytes.len())?;
        Ok(body)
    }

    fn check(&self, body: usize) -> Result<(), BodyError> {
        let count = self.commands.len();
        if count == 0 || count > MAX_COMMANDS {
            return Err(BodyError::Count(count));
        }
        let mut payload = 0;
        for action in self.actions() {
            payload += match check_payload(&action) {
                Ok(len) => len,
                Err(EncodeError::Key(len)) => return Err(BodyError::Key(len)),
                Err(_) => return Err(BodyError::Payload(action.payload_len())),
            };
        }
        if payload > body || body > payload + BODY_OVERHEAD + COMMAND_OVERHEAD * count {
            return Err(BodyError::Padding { payload, body });
        }
        Ok(())
    }

    /// The number of commands, 1 to [`MAX_COMMANDS`].
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// The actions in order.
    pub fn actions(&self) -> impl ExactSizeIterator<Item = ActionRef<'a>> + use<'a> {
        self.commands.iter().map(action)
    }
}

fn action(command: fb::Command<'_>) -> ActionRef<'_> {
    if let Some(put) = command.action_as_put() {
        return ActionRef::Put {
            key_type: put.key_type(),
            key: put.key().bytes(),
            value: put.value().bytes(),
        };
    }
    if let Some(set) = command.action_as_set_role() {
        return ActionRef::SetRole {
            target: set.target().bytes().into(),
            role: set.role(),
            covered_nonce: set.covered().nonce(),
            covered_id: set.covered().id().into(),
        };
    }
    if let Some(undo) = command.action_as_undo() {
        let target = undo.target().number();
        return ActionRef::Undo { target };
    }
    if let Some(redo) = command.action_as_redo() {
        let target = redo.target().number();
        return ActionRef::Redo { target };
    }
    if let Some(propose) = command.action_as_propose() {
        let checkpoint = propose.checkpoint().bytes();
        return ActionRef::Propose { checkpoint };
    }
    if let Some(said) = command.action_as_acknowledge() {
        return ActionRef::Acknowledge(read_ballot(said.ballot()));
    }
    if let Some(said) = command.action_as_withdraw() {
        return ActionRef::Withdraw(read_ballot(said.ballot()));
    }
    if let Some(said) = command.action_as_commit() {
        return ActionRef::Commit(read_ballot(said.ballot()));
    }
    if let Some(retire) = command.action_as_retire() {
        return ActionRef::Retire {
            author: retire.author().bytes().into(),
            previous: retire.previous().bytes().into(),
        };
    }
    ActionRef::Unknown {
        kind: command.action_type().0,
    }
}

/// Fuzz body: whatever verifies reads without a panic and encodes again to the same actions.
#[cfg(feature = "__fuzz")]
pub fn __fuzz_commands(bytes: &[u8]) {
    let Ok(body) = Body::verify(bytes) else {
        return;
    };
    let known = || {
        body.actions()
            .filter(|action| !matches!(action, ActionRef::Unknown { .. }))
    };
    let mut encoder = Encoder::default();
    if let Ok(again) = encoder.encode(known()) {
        let again = Body::verify(again).expect("what we encode verifies");
        assert!(again.actions().eq(known()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn put(value: &[u8]) -> ActionRef<'_> {
        ActionRef::Put {
            key_type: 3,
            key: b"stroke",
            value,
        }
    }

    fn grant() -> ActionRef<'static> {
        ActionRef::SetRole {
            target: KEY,
            role: 1,
            covered_nonce: u64::MAX,
            covered_id: KEY,
        }
    }

    #[test]
    fn a_body_reads_back_as_it_was_written() {
        let undo = ActionRef::Undo { target: 1 };
        let redo = ActionRef::Redo { target: u64::MAX };
        let ballot = Ballot {
            checkpoint: [9; 32],
            previous: [8; 32],
        };
        let actions = [
            put(b"red"),
            grant(),
            undo,
            put(b""),
            redo,
            ActionRef::Propose {
                checkpoint: &[3; 200],
            },
            ActionRef::Acknowledge(ballot),
            ActionRef::Withdraw(ballot),
            ActionRef::Commit(ballot),
            ActionRef::Retire {
                author: KEY,
                previous: [8; 32],
            },
        ];
        let mut encoder = Encoder::default();
        let bytes = encoder.encode(actions).unwrap();
        let body = Body::verify(bytes).unwrap();
        assert_eq!(body.count(), actions.len());
        assert!(body.actions().eq(actions));
    }

    proptest! {
        #[test]
        fn payloads_are_where_the_encoder_says(
            puts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..40)), 1..20),
            other in any::<prop::sample::Index>(),
        ) {
            let put = |(key, value)| ActionRef::Put { key_type: 3, key, value };
            let mut actions: Vec<_> = puts
                .iter()
                .map(|(key, value)| put((key.as_slice(), value.as_slice())))
                .collect();
            actions.insert(other.index(actions.len()), grant());
            let mut encoder = Encoder::default();
            encoder.encode([put((b"before", b"this"))]).unwrap();
            let body = encoder.encode(actions.iter().copied()).unwrap().to_vec();
            let payloads = encoder.payloads(actions.iter().copied());
            for (action, [key_at, value_at]) in actions.iter().zip(payloads) {
                match action {
                    ActionRef::Put { key, value, .. } => {
                        prop_assert_eq!(&body[key_at], *key);
                        prop_assert_eq!(&body[value_at], *value);
                    }
                    _ => prop_assert_eq!([key_at, value_at], [0..0, 0..0]),
                }
            }
        }
    }

    #[test]
    fn the_largest_command_fits_and_one_byte_more_does_not() {
        let mut encoder = Encoder::default();
        let value = vec![1; MAX_PAYLOAD_LEN - 6];
        let bytes = encoder.encode([put(&value)]).unwrap();
        assert!(Body::verify(bytes).is_ok());
        let value = vec![1; MAX_PAYLOAD_LEN - 5];
        assert_eq!(
            encoder.encode([put(&value)]).err(),
            Some(EncodeError::Payload(MAX_PAYLOAD_LEN + 1))
        );
    }

    #[test]
    fn the_most_commands_fit_one_body() {
        let mut encoder = Encoder::default();
        let bytes = encoder.encode([put(b"red"); MAX_COMMANDS]).unwrap();
        assert_eq!(Body::verify(bytes).unwrap().count(), MAX_COMMANDS);
    }

    #[test]
    fn limits_are_kept_when_encoding() {
        let mut encoder = Encoder::default();
        assert_eq!(encoder.encode([]).err(), Some(EncodeError::Count(0)));
        let many = vec![put(b""); MAX_COMMANDS + 1];
        assert_eq!(
            encoder.encode(many).err(),
            Some(EncodeError::Count(MAX_COMMANDS + 1))
        );
        let half = vec![0; 40 * 1024];
        assert!(matches!(
            encoder.encode([put(&half), put(&half)]),
            Err(EncodeError::Body(_))
        ));
        let key = ActionRef::Put {
            key_type: 0,
            key: &[0; MAX_KEY_LEN + 1],
            value: b"",
        };
        assert_eq!(
            encoder.encode([key]).err(),
            Some(EncodeError::Key(MAX_KEY_LEN + 1))
        );
    }

    #[test]
    fn bytes_that_no_budget_pays_for_are_refused() {
        let mut encoder = Encoder::default();
        let mut padded = encoder.encode([put(b"red")]).unwrap().to_vec();
        padded.resize(padded.len() + BODY_OVERHEAD + COMMAND_OVERHEAD, 0);
        assert!(matches!(
            Body::verify(&padded),
            Err(BodyError::Padding { payload: 9, .. })
        ));
    }

    #[test]
    fn commands_may_not_share_one_payload() {
        let mut builder = FlatBufferBuilder::new();
        let shared = vec![9_u8; 30_000];
        let value = builder.create_vector(&shared);
        let key = builder.create_vector(b"k");
        let put = fb::PutArgs {
            key_type: 0,
            key: Some(key),
            value: Some(value),
        };
        let put = fb::Put::create(&mut builder, &put);
        let command = fb::CommandArgs {
            action_type: fb::Action::Put,
            action: Some(put.as_union_value()),
        };
        let command = fb::Command::create(&mut builder, &command);
        let commands = Some(builder.create_vector(&[command, command]));
        let body = fb::Body::create(&mut builder, &fb::BodyArgs { commands });
        fb::finish_body_buffer(&mut builder, body);
        assert!(matches!(
            Body::verify(builder.finished_data()),
            Err(BodyError::Padding {
                payload: 60_002,
                ..
            })
        ));
    }

    #[test]
    fn an_action_of_a_later_version_is_unknown_not_an_error() {
        let mut encoder = Encoder::default();
        let mut bytes = encoder.encode([put(b"red")]).unwrap().to_vec();
        let body = Body::verify(&bytes).unwrap();
        let kind_at = {
            let command = body.commands.get(0)._tab;
            command.loc() + usize::from(command.vtable().get(fb::Command::VT_ACTION_TYPE))
        };
        bytes[kind_at] = 200;
        let body = Body::verify(&bytes).unwrap();
        assert!(body.actions().eq([ActionRef::Unknown { kind: 200 }]));
    }

    proptest! {
        #[test]
        fn puts_round_trip(
            puts in prop::collection::vec(
                (any::<u16>(), prop::collection::vec(any::<u8>(), 0..64), prop::collection::vec(any::<u8>(), 0..300)),
                1..40,
            ),
        ) {
            let actions: Vec<_> = puts
                .iter()
                .map(|(key_type, key, value)| ActionRef::Put { key_type: *key_type, key, value })
                .collect();
            let mut encoder = Encoder::default();
            let bytes = encoder.encode(actions.iter().copied()).unwrap();
            let body = Body::verify(bytes).unwrap();
            prop_assert!(body.actions().eq(actions));
        }

        #[test]
        fn damaged_bodies_never_panic(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>()) {
            let mut encoder = Encoder::default();
            let mut bytes = encoder.encode([put(b"red"), grant(), ActionRef::Undo { target: 1 }, put(b"blue")]).unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes.truncate(1 + cut.index(bytes.len()));
            if let Ok(body) = Body::verify(&bytes) {
                prop_assert!(body.actions().count() >= 1);
            }
        }
    }
}
