//! What a set of frames means, computed as `docs/protocols/command-log.md` words it: all at once, slowly, and
//! sharing no code with the log.

use std::collections::{BTreeMap, BTreeSet};

use roundtable_command_log::{
    Action, AuthorAtCut, CommandLog, Genesis, Key, MergeRule, Role, Schema, SharedFrame, Snapshot,
    Strategy,
};
use roundtable_core::AuthorId;

/// Where a command stands among all.
type Place = (u64, AuthorId, u64);

#[derive(Debug)]
struct RoleCommand {
    place: Place,
    target: AuthorId,
    role: Role,
    covered: u64,
}

struct Ruling<'a> {
    rank: u32,
    command: &'a RoleCommand,
}

/// Roles and values as they should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Model {
    /// The authors whose role is not the default.
    pub(crate) roles: BTreeMap<AuthorId, Role>,
    pub(crate) values: BTreeMap<Key, Vec<u8>>,
}

/// What a log goes on from.
#[derive(Debug, Default)]
pub(crate) struct Base {
    cut: u64,
    rulings: Vec<(u32, RoleCommand)>,
    values: Vec<(Key, Vec<u8>)>,
}

impl Base {
    /// That of a log's last stable checkpoint.
    pub(crate) fn of(log: &CommandLog) -> Self {
        let Some(checkpoint) = log.checkpoint_contents() else {
            return Self::default();
        };
        let ruling = |at: &AuthorAtCut| {
            let (role, rank) = at.role?;
            let command = RoleCommand {
                place: (0, at.author, 0),
                target: at.author,
                role,
                covered: at.head.nonce,
            };
            Some((rank, command))
        };
        let snapshot = log.snapshot(0);
        let values = snapshot.iter().flat_map(Snapshot::values);
        Self {
            cut: checkpoint.cut,
            rulings: checkpoint.authors.iter().filter_map(ruling).collect(),
            values: values
                .map(|(key, value)| (key.clone(), value.to_vec()))
                .collect(),
        }
    }
}

impl Model {
    pub(crate) fn of(
        genesis: &Genesis,
        schema: &Schema,
        base: &Base,
        frames: impl Iterator<Item = SharedFrame>,
    ) -> Self {
        // What lies at or below the cut and was not named does nothing.
        let frames = frames.filter(|frame| frame.header().lamport > base.cut);
        let commands = commands(schema, frames);
        let role_commands = role_commands(&commands);
        let rulings = rulings(genesis, base, &role_commands);
        let mut puts: BTreeMap<Key, (Strategy, Vec<&[u8]>)> = BTreeMap::new();
        for (key, value) in &base.values {
            if let Some(strategy) = schema.strategy(key.key_type) {
                puts.insert(key.clone(), (strategy, vec![value]));
            }
        }
        for (place, action) in &commands {
            let Action::Put { key, value } = action else {
                continue;
            };
            let Some(strategy) = schema.strategy(key.key_type) else {
                continue;
            };
            let (role, _) = role_at(genesis, &rulings, *place);
            let stands = !is_undone(genesis, &rulings, &commands, *place);
            if role >= Role::Editor && stands && strategy.accepts(value) {
                let (_, values) = puts.entry(key.clone()).or_insert((strategy, Vec::new()));
                values.push(value);
            }
        }
        let fold = |(key, (strategy, values)): (Key, (Strategy, Vec<&[u8]>))| {
            (key, fold(strategy, &values))
        };
        Self {
            roles: without_default(genesis, base, &role_commands, |author| {
                role_at(genesis, &rulings, (u64::MAX, author, u64::MAX)).0
            }),
            values: puts.into_iter().map(fold).collect(),
        }
    }
}

/// All commands of the room's schema, in order.
fn commands(schema: &Schema, frames: impl Iterator<Item = SharedFrame>) -> Vec<(Place, Action)> {
    let mut commands = Vec::new();
    for frame in frames.filter(|frame| frame.header().schema == schema.hash()) {
        let header = frame.header();
        for (action, nonce) in frame.actions().into_iter().zip(header.first_nonce..) {
            commands.push(((header.lamport, header.author, nonce), action));
        }
    }
    commands.sort_by_key(|(place, _)| *place);
    commands
}

/// Whether the last thing that its author said about a put, of what counts, is that it be taken back.
fn is_undone(
    genesis: &Genesis,
    rulings: &[Ruling<'_>],
    commands: &[(Place, Action)],
    (_, author, target): Place,
) -> bool {
    let said = commands.iter().filter_map(|(place, action)| {
        let (named, undone) = match action {
            Action::Undo { target } => (*target, true),
            Action::Redo { target } => (*target, false),
            _ => return None,
        };
        let (role, _) = role_at(genesis, rulings, *place);
        let counts = place.1 == author && named == target && place.2 > target;
        (counts && role >= Role::Editor).then_some((place.2, undone))
    });
    said.max().is_some_and(|(_, undone)| undone)
}

fn role_commands(commands: &[(Place, Action)]) -> Vec<RoleCommand> {
    let role_command = |(place, action): &(Place, Action)| match action {
        Action::SetRole {
            target,
            role,
            covered,
        } => Some(RoleCommand {
            place: *place,
            target: *target,
            role: *role,
            covered: covered.nonce,
        }),
        _ => None,
    };
    commands.iter().filter_map(role_command).collect()
}

fn rulings<'a>(genesis: &Genesis, base: &'a Base, commands: &'a [RoleCommand]) -> Vec<Ruling<'a>> {
    let places = usize::from(genesis.params().max_writers);
    let based = base.rulings.iter();
    let mut rulings: Vec<Ruling<'a>> = based
        .map(|(rank, command)| Ruling {
            rank: *rank,
            command,
        })
        .collect();
    let highest = rulings.iter().map(|ruling| ruling.rank).max().unwrap_or(0);
    for rank in 1.. {
        let counts = |command: &&RoleCommand| {
            role_at(genesis, &rulings, command.place) == (Role::Admin, Some(rank - 1))
        };
        let counted: Vec<_> = commands.iter().filter(counts).collect();
        if counted.is_empty() && rank > highest {
            break;
        }
        for command in counted {
            let before = writers(genesis, &rulings);
            rulings.push(Ruling { rank, command });
            let after = writers(genesis, &rulings);
            if after.len() > before.len() && after.len() > places {
                rulings.pop();
            }
        }
    }
    rulings
}

/// Whose role in future is above the default.
fn writers(genesis: &Genesis, rulings: &[Ruling<'_>]) -> BTreeSet<AuthorId> {
    let targets = rulings.iter().map(|ruling| ruling.command.target);
    let authors = targets.chain([genesis.creator()]);
    let role = |author| role_at(genesis, rulings, (u64::MAX, author, u64::MAX)).0;
    let default = genesis.params().default_role;
    authors.filter(|author| role(*author) > default).collect()
}

fn role_at(genesis: &Genesis, rulings: &[Ruling<'_>], place: Place) -> (Role, Option<u32>) {
    let (lamport, author, nonce) = place;
    if author == genesis.creator() {
        return (Role::Admin, Some(0));
    }
    let on_author =
        |ruling: &&Ruling<'_>| ruling.command.target == author && ruling.command.covered < nonce;
    let mut rulings: Vec<_> = rulings.iter().filter(on_author).collect();
    rulings.sort_by_key(|ruling| (ruling.rank, std::cmp::Reverse(ruling.command.place)));
    let mut lowest = Role::Admin;
    for ruling in rulings {
        lowest = lowest.min(ruling.command.role);
        if ruling.command.place.0 < lamport {
            return (lowest, Some(ruling.rank));
        }
    }
    (lowest.min(genesis.params().default_role), None)
}

fn without_default(
    genesis: &Genesis,
    base: &Base,
    commands: &[RoleCommand],
    role: impl Fn(AuthorId) -> Role,
) -> BTreeMap<AuthorId, Role> {
    let based = base.rulings.iter().map(|(_, command)| command);
    let targets = commands.iter().chain(based).map(|command| command.target);
    let authors: BTreeSet<_> = targets.chain([genesis.creator()]).collect();
    let roles = authors.into_iter().map(|author| (author, role(author)));
    let default = genesis.params().default_role;
    roles.filter(|(_, role)| *role != default).collect()
}

fn fold(strategy: Strategy, values: &[&[u8]]) -> Vec<u8> {
    let numbers = || {
        let number = |value: &&[u8]| Some(i64::from_le_bytes((*value).try_into().ok()?));
        values.iter().filter_map(number)
    };
    let value = match strategy {
        Strategy::LastWriteWins => return values.last().map_or(Vec::new(), |v| v.to_vec()),
        Strategy::Reject => return values.first().map_or(Vec::new(), |v| v.to_vec()),
        Strategy::Merge(MergeRule::Append { max_len }) => {
            let mut whole = Vec::new();
            for value in values {
                if whole.len() + value.len() <= max_len as usize {
                    whole.extend_from_slice(value);
                }
            }
            return whole;
        }
        Strategy::Merge(MergeRule::Add) => numbers().fold(0, i64::wrapping_add),
        Strategy::Merge(MergeRule::Max) => numbers().max().unwrap_or_default(),
        Strategy::Merge(MergeRule::Min) => numbers().min().unwrap_or_default(),
        _ => 0,
    };
    value.to_le_bytes().to_vec()
}
