//! Any order, any duplicates: the same frames come to the same state, and to the one that a plain
//! reading of the rules gives.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

mod common;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use roundtable_command_log::{CommandLog, Genesis, Role};
use roundtable_core::AuthorId;
use roundtable_wire::commands::ActionRef;

const AUTHORS: u8 = 5;
const TYPES: [u16; 4] = [STROKE, CLAIM, POINTS, COUNT];

#[derive(Debug, Clone)]
enum Act {
    Put {
        key_type: u16,
        key: u8,
        value: i64,
    },
    SetRole {
        target: u8,
        role: Role,
        covered: u64,
    },
    /// Takes back, or lets count again, whatever the author has at a nonce.
    Reverse {
        target: u64,
        undoes: bool,
    },
}

/// A frame of the script: its author, how far its Lamport time rises, what it does.
type Scripted = (u8, u64, Vec<Act>);

fn act() -> impl Strategy<Value = Act> {
    let key_type = prop::sample::select(&TYPES[..]);
    let role = prop::sample::select(&[Role::Viewer, Role::Editor, Role::Admin][..]);
    prop_oneof![
        3 => (key_type, 0..3_u8, any::<i64>())
            .prop_map(|(key_type, key, value)| Act::Put { key_type, key, value }),
        2 => (0..12_u64, any::<bool>())
            .prop_map(|(target, undoes)| Act::Reverse { target, undoes }),
        1 => (0..AUTHORS, role, 0..6_u64)
            .prop_map(|(target, role, covered)| Act::SetRole { target, role, covered }),
    ]
}

fn script() -> impl Strategy<Value = Vec<Scripted>> {
    let frame = (0..AUTHORS, 1..4_u64, prop::collection::vec(act(), 1..4));
    // The creator makes Admins first, or little of what follows would count.
    let grant = |target| Act::SetRole {
        target,
        role: Role::Admin,
        covered: 0,
    };
    prop::collection::vec(frame, 1..40).prop_map(move |mut script| {
        script.insert(0, (0, 1, vec![grant(1), grant(2)]));
        script
    })
}

/// A command as the plain reading sees it.
#[derive(Debug, Clone)]
struct Command {
    order: (u64, AuthorId, u64),
    act: Act,
}

fn sign(genesis: &Genesis, script: &[Scripted]) -> (Vec<Bytes>, Vec<Command>) {
    let mut authors: Vec<_> = (0..AUTHORS).map(|n| Forger::new(genesis, n)).collect();
    let mut frames = Vec::new();
    let mut commands = Vec::new();
    for (who, rise, acts) in script {
        let author = &mut authors[usize::from(*who)];
        author.lamport += rise;
        for (act, nonce) in acts.iter().zip(author.nonce..) {
            commands.push(Command {
                order: (author.lamport, id(*who), nonce),
                act: act.clone(),
            });
        }
        let values: Vec<_> = acts.iter().map(encoded).collect();
        let actions: Vec<_> = values.iter().map(|(act, bytes)| wire(act, bytes)).collect();
        frames.push(author.sign(&actions).bytes);
    }
    (frames, commands)
}

fn encoded(act: &Act) -> (&Act, [u8; 8]) {
    match act {
        Act::Put { value, .. } => (act, value.to_le_bytes()),
        Act::SetRole { .. } | Act::Reverse { .. } => (act, [0; 8]),
    }
}

fn wire<'a>(act: &'a Act, value: &'a [u8]) -> ActionRef<'a> {
    match act {
        Act::Put { key_type, key, .. } => ActionRef::Put {
            key_type: *key_type,
            key: std::slice::from_ref(key),
            value,
        },
        Act::SetRole {
            target,
            role,
            covered,
        } => ActionRef::SetRole {
            target: *id(*target).as_bytes(),
            role: role.number(),
            covered_nonce: *covered,
            covered_id: [0; 32],
        },
        Act::Reverse { target, undoes } => match undoes {
            true => ActionRef::Undo { target: *target },
            false => ActionRef::Redo { target: *target },
        },
    }
}

/// The rules of roles, one command at a time and without a thought for cost.
struct Plain<'a> {
    commands: &'a [Command],
    /// The rank of each role command that counts.
    ranks: Vec<Option<usize>>,
}

impl<'a> Plain<'a> {
    fn read(commands: &'a [Command]) -> Self {
        let ranks = vec![None; commands.len()];
        let mut plain = Self { commands, ranks };
        for rank in 1..=commands.len() {
            let found: Vec<_> = (0..commands.len())
                .filter(|n| matches!(commands[*n].act, Act::SetRole { .. }))
                .filter(|n| plain.standing(&commands[*n]) == (Role::Admin, Some(rank - 1)))
                .collect();
            if found.is_empty() {
                break;
            }
            found.iter().for_each(|n| plain.ranks[*n] = Some(rank));
        }
        plain
    }

    /// In which role a command was written, and who of which rank gave it.
    fn standing(&self, command: &Command) -> (Role, Option<usize>) {
        let (lamport, author, nonce) = command.order;
        if author == id(0) {
            return (Role::Admin, Some(0));
        }
        let mut rulings: Vec<_> = self
            .commands
            .iter()
            .zip(&self.ranks)
            .filter_map(|(ruling, rank)| match ruling.act {
                Act::SetRole {
                    target,
                    role,
                    covered,
                } if id(target) == author && covered < nonce => {
                    Some(((*rank)?, Reverse(ruling.order), role))
                }
                _ => None,
            })
            .collect();
        rulings.sort();
        let gives = rulings.iter().position(|(_, order, _)| order.0.0 < lamport);
        let taking = &rulings[..gives.map_or(rulings.len(), |at| at + 1)];
        let ceiling = taking.iter().map(|(_, _, role)| *role).min();
        match gives {
            Some(at) => (ceiling.unwrap(), Some(rulings[at].0)),
            None => (Role::Viewer, None),
        }
    }

    /// What its author said last about a command, if that counts, is that it be taken back.
    fn is_undone(&self, command: &Command) -> bool {
        let (_, author, nonce) = command.order;
        let mut said: Vec<_> = self
            .commands
            .iter()
            .filter(|later| later.order.1 == author && later.order.2 > nonce)
            .filter(|later| self.standing(later).0 >= Role::Editor)
            .filter_map(|later| match later.act {
                Act::Reverse { target, undoes } if target == nonce => Some((later.order.2, undoes)),
                _ => None,
            })
            .collect();
        said.sort_unstable();
        said.last().is_some_and(|(_, undoes)| *undoes)
    }

    /// The value of every key.
    fn values(&self) -> BTreeMap<(u16, u8), Vec<u8>> {
        let mut counted: Vec<_> = self
            .commands
            .iter()
            .filter(|command| self.standing(command).0 >= Role::Editor)
            .filter(|command| !self.is_undone(command))
            .collect();
        counted.sort_by_key(|command| command.order);
        let mut values = BTreeMap::<_, Vec<u8>>::new();
        for command in counted {
            let Act::Put {
                key_type,
                key,
                value,
            } = command.act
            else {
                continue;
            };
            let new = value.to_le_bytes().to_vec();
            let slot = values.entry((key_type, key));
            match key_type {
                STROKE => drop(slot.insert_entry(new)),
                CLAIM => drop(slot.or_insert(new)),
                POINTS => {
                    let whole = slot.or_default();
                    if whole.len() < 40 {
                        whole.extend(new);
                    }
                }
                _ => {
                    let sum = slot.or_insert_with(|| vec![0; 8]);
                    let old = i64::from_le_bytes(sum[..].try_into().unwrap());
                    *sum = old.wrapping_add(value).to_le_bytes().to_vec();
                }
            }
        }
        values
    }
}

fn values(log: &CommandLog) -> BTreeMap<(u16, u8), Vec<u8>> {
    let of_type = |key_type| log.entries(key_type);
    TYPES
        .into_iter()
        .flat_map(of_type)
        .map(|(key, value)| ((key.key_type, key.bytes[0]), value.to_vec()))
        .collect()
}

/// Feeds frames in the order of `plan`, settling where it says, then whatever is still missing.
fn deliver(
    genesis: &Genesis,
    frames: &[Bytes],
    plan: &[(prop::sample::Index, bool)],
) -> CommandLog {
    let mut log = reader(genesis);
    for (frame, settle) in plan {
        log.receive(at(0), frame.get(frames).clone()).unwrap();
        if *settle {
            log.settle(at(0));
        }
    }
    for frame in frames.iter().rev() {
        log.receive(at(0), frame.clone()).unwrap();
    }
    log.settle(at(0));
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_delivery_comes_to_the_same_state(
        script in script(),
        plan in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..120),
    ) {
        let genesis = genesis();
        let (frames, commands) = sign(&genesis, &script);
        let plain = Plain::read(&commands);

        let mut scratch = reader(&genesis);
        for frame in &frames {
            scratch.receive(at(0), frame.clone()).unwrap();
        }
        scratch.settle(at(0));
        let mut shuffled = deliver(&genesis, &frames, &plan);

        prop_assert_eq!(values(&scratch), plain.values());
        prop_assert_eq!(values(&shuffled), values(&scratch));
        prop_assert_eq!(shuffled.state_hash(), scratch.state_hash());
        prop_assert_eq!(shuffled.heads(), scratch.heads());

        // Every command is applied once, each author's in order.
        let applied: Vec<_> = applied(&mut shuffled)
            .iter()
            .map(|applied| (applied.author, applied.nonce))
            .collect();
        let mut next = BTreeMap::new();
        for (author, nonce) in &applied {
            let last = next.entry(*author).or_insert(0);
            prop_assert_eq!(*nonce, *last + 1);
            *last = *nonce;
        }
        let once: BTreeSet<_> = applied.iter().collect();
        prop_assert_eq!(once.len(), commands.len());
    }

    #[test]
    fn logs_that_differ_have_different_hashes(script in script()) {
        let genesis = genesis();
        let (frames, _) = sign(&genesis, &script);
        let (some, all) = (deliver(&genesis, &frames[..1], &[]), deliver(&genesis, &frames, &[]));
        let equal = values(&some) == values(&all) && some.roles().eq(all.roles());
        prop_assert_eq!(some.state_hash() == all.state_hash(), equal);
    }
}
