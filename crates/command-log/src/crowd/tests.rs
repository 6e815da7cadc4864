#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail loudly

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use roundtable_core::WallTime;

use super::*;
use crate::{Action, Genesis, GenesisParams, Key, Role, Schema, SharedFrame, Strategy};

mod pending;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
const AUTHORS: u8 = 8;
const PLACES: usize = 3;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn schema() -> Schema {
    let schema = Schema::builder(1, 0).key_type(1, "stroke", Strategy::LastWriteWins);
    schema.build().unwrap()
}

/// A room in which whoever comes may write, and that author 0 creates.
fn genesis() -> Genesis {
    let mut params = GenesisParams::new([42; 32], NOW, schema().hash());
    params.default_role = Role::Editor;
    Genesis::create(params, &key(0)).unwrap()
}

/// A log that has places for three strangers.
fn log(seed: Option<u8>) -> CommandLog {
    let mut log = CommandLog::new(genesis(), schema(), seed.map(key)).unwrap();
    log.crowd.most = PLACES;
    log
}

/// The seeds of all but the creator, by rising key.
fn by_key() -> Vec<u8> {
    let mut seeds: Vec<u8> = (1..AUTHORS).collect();
    seeds.sort_unstable_by_key(|seed| author(*seed));
    seeds
}

fn author(seed: u8) -> AuthorId {
    AuthorId::from_bytes(key(seed).verifying_key().to_bytes())
}

fn put(seed: u8) -> Action {
    Action::put(Key::new(1, vec![seed]), vec![seed])
}

/// Two frames of each author, the creator's among them.
fn frames(granted: &[u8]) -> Vec<SharedFrame> {
    let of = |seed: u8| {
        let mut log = log(Some(seed));
        let mut frames = vec![log.append(NOW, &[put(seed)]).unwrap()];
        let grants = granted.iter().filter(|_| seed == 0).map(|target| {
            let target = AuthorId::from_bytes(key(*target).verifying_key().to_bytes());
            let grant = log.role_command(target, Role::Admin);
            log.append(NOW, &[grant]).unwrap()
        });
        frames.extend(grants);
        frames.push(log.append(NOW, &[put(seed)]).unwrap());
        frames
    };
    (0..AUTHORS).flat_map(of).collect()
}

fn give(log: &mut CommandLog, frame: &SharedFrame) {
    // A stranger without a place is refused.
    let _ = log.receive(NOW, frame.bytes().clone());
}

/// Gives each log what the others have and it lacks, until none lacks anything.
fn exchange(logs: &mut [CommandLog]) {
    for _ in 0..100 {
        let mut quiet = true;
        for to in 0..logs.len() {
            for from in 0..logs.len() {
                for want in logs[to].wants(&logs[from].heads()) {
                    let frames: Vec<_> = logs[from]
                        .frames_after(want.author, want.after, usize::MAX)
                        .collect();
                    frames.iter().for_each(|frame| give(&mut logs[to], frame));
                    quiet &= frames.is_empty();
                }
            }
            logs[to].settle(NOW);
        }
        if quiet {
            return;
        }
    }
    panic!("the logs never have enough of each other");
}

/// The lowest keys of the strangers of whom any log has something: those who have a place in a room like this.
fn placed(logs: &[CommandLog], granted: &[u8]) -> BTreeSet<AuthorId> {
    let named: BTreeSet<_> = granted
        .iter()
        .chain([&0])
        .map(|seed| author(*seed))
        .collect();
    let begun = logs.iter().flat_map(CommandLog::heads);
    let begun: BTreeSet<_> = begun.map(|head| head.author).collect();
    begun.difference(&named).copied().take(PLACES).collect()
}

proptest! {
    /// Whatever comes first and to whom, a room with more strangers than places comes to one state. Some logs only read, and
    /// others write themselves, while they have a place: these have all that they ever signed, and show of it what others do.
    #[test]
    fn which_strangers_are_kept_does_not_depend_on_who_came_first(
        granted in prop::sample::subsequence((1..AUTHORS).collect::<Vec<_>>(), 0..3),
        writers in prop::sample::subsequence((1..AUTHORS).collect::<Vec<_>>(), 0..=3),
        writes in prop::collection::vec(0..40_usize, 3),
        orders in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..40), 3),
        late in any::<bool>(),
    ) {
        // What writes itself is nowhere else, or it would sign twice for one place.
        let mut frames = frames(&granted);
        frames.retain(|frame| writers.iter().all(|seed| frame.author() != author(*seed)));
        // Each has some of the frames, in some order; between them they have all.
        let mut logs: Vec<_> = (0..3).map(|n| log(writers.get(n).copied())).collect();
        for ((log, order), write) in logs.iter_mut().zip(&orders).zip(&writes) {
            for (step, index) in order.iter().enumerate() {
                if step == *write {
                    // Without a place it writes nothing.
                    let _ = log.append(NOW, &[put(step as u8)]);
                }
                give(log, &frames[index.index(frames.len())]);
                if late && step % 5 == 0 {
                    log.settle(NOW);
                }
            }
            let _ = log.append(NOW, &[put(100)]);
        }
        let signed: Vec<_> = logs.iter().map(CommandLog::own_head).collect();
        let mut whole = log(None);
        frames.iter().for_each(|frame| give(&mut whole, frame));
        whole.settle(NOW);
        frames.iter().for_each(|frame| give(&mut whole, frame));
        whole.settle(NOW);
        logs.push(whole);
        exchange(&mut logs);

        let placed = placed(&logs, &granted);
        for (log, signed) in logs.iter().zip(signed.into_iter().chain([None])) {
            prop_assert_eq!(log.own_head(), signed, "what was signed stays known");
            let outside = log.own_author().filter(|own| log.roles.is_outside(*own));
            let mut heads = log.heads();
            heads.retain(|head| Some(head.author) != outside);
            prop_assert_eq!(heads.len(), log.heads().len() - usize::from(outside.and(signed).is_some()));
            prop_assert_eq!(heads, logs[3].heads());
            prop_assert_eq!(log.state_hash(), logs[3].state_hash());
            prop_assert_eq!(&log.crowd.members, &placed);
            prop_assert_eq!(log.chains.len(), log.authors() + log.crowd.vacant.len());
        }
    }
}

/// Else it would show its user what nobody else has.
#[test]
fn an_author_without_a_place_counts_for_nothing_in_its_own_log_either() {
    let mut by_key: Vec<u8> = (1..AUTHORS).collect();
    by_key.sort_unstable_by_key(|seed| key(*seed).verifying_key().to_bytes());
    let last = by_key.pop().unwrap();
    let (mut own, mut other) = (log(Some(last)), log(None));
    let mine = own.append(NOW, &[put(last)]).unwrap();
    own.settle(NOW);
    let shown = Key::new(1, vec![last]);
    assert_eq!(own.get(&shown), Some(&[last][..]));
    for seed in &by_key[..PLACES] {
        let frame = log(Some(*seed)).append(NOW, &[put(*seed)]).unwrap();
        give(&mut own, &frame);
        give(&mut other, &frame);
    }
    give(&mut other, &mine);
    own.settle(NOW);
    other.settle(NOW);
    assert_eq!(own.get(&shown), None);
    assert_eq!(own.state_hash(), other.state_hash());
    assert!(own.append(NOW, &[put(last)]).is_err());

    // An Admin sees to it that it has a place, and all that it wrote counts.
    let mut creator = log(Some(0));
    let target = own.own_author().unwrap();
    let covered = crate::Covered::NOTHING;
    let role = Role::Admin;
    let grant = creator
        .append(
            NOW,
            &[Action::SetRole {
                target,
                role,
                covered,
            }],
        )
        .unwrap();
    give(&mut own, &grant);
    give(&mut other, &grant);
    own.settle(NOW);
    other.settle(NOW);
    give(&mut other, &mine);
    other.settle(NOW);
    assert_eq!(own.get(&shown), Some(&[last][..]));
    assert_eq!(own.state_hash(), other.state_hash());
    assert!(own.append(NOW, &[put(last)]).is_ok());
}

/// Or logs that had its first frame before the command and those that had it after would keep others.
#[test]
fn whom_a_role_command_without_a_place_names_stays_a_stranger() {
    let mut params = GenesisParams::new([42; 32], NOW, schema().hash());
    params.default_role = Role::Editor;
    params.max_writers = 3;
    let genesis = Genesis::create(params, &key(0)).unwrap();
    let log = |seed: u8| CommandLog::new(genesis.clone(), schema(), Some(key(seed))).unwrap();
    let author = |seed: u8| AuthorId::from_bytes(key(seed).verifying_key().to_bytes());
    let admin = |seed: u8| Action::SetRole {
        target: author(seed),
        role: Role::Admin,
        covered: crate::Covered::NOTHING,
    };
    let (mut creator, mut other) = (log(0), log(1));
    let first = creator.append(NOW, &[admin(1)]).unwrap();
    give(&mut other, &first);
    other.settle(NOW);
    // Two name somebody at a time, and one place is left.
    let ours = creator.append(NOW, &[admin(2)]).unwrap();
    let theirs = other.append(NOW, &[admin(3)]).unwrap();
    give(&mut creator, &theirs);
    give(&mut other, &ours);
    for log in [&mut creator, &mut other] {
        log.settle(NOW);
        assert_eq!(
            [2, 3]
                .map(author)
                .iter()
                .filter(|a| log.is_stranger(**a))
                .count(),
            1
        );
    }
}
