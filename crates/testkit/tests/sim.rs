//! Worlds of simulated peers keep every promise, and those that are broken on purpose are found out.
#![allow(clippy::unwrap_used)] // a test may fail

use std::time::Duration;

use roundtable_command_log::{Action, GenesisParams, Key};
use roundtable_session::{GenesisSource, InputError};
use roundtable_testkit::{Fault, Kind, NOTE, Violation, World, run, schema};

/// Within how many seeds each fault is caught.
const SEEDS: u64 = 40;

#[test]
fn worlds_keep_every_promise() {
    for seed in 0..30 {
        if let Err(failure) = run(seed, None) {
            panic!("{failure}");
        }
    }
}

#[test]
fn one_seed_is_one_world_to_the_byte() {
    let report = run(1, None).unwrap();
    assert_eq!(run(1, None).unwrap(), report);
    assert_ne!(run(2, None).unwrap().digest, report.digest);
}

fn caught(fault: Fault) -> Vec<Violation> {
    let failures = (0..SEEDS).filter_map(|seed| run(seed, Some(fault)).err());
    failures.take(1).map(|failure| failure.violation).collect()
}

#[test]
fn a_peer_that_forgets_its_log_is_caught() {
    let caught = caught(Fault::ForgetsLogOnRestart);
    assert!(!caught.is_empty());
}

#[test]
fn a_tail_that_is_dropped_at_failover_is_caught() {
    let caught = caught(Fault::DropsTailAtFailover);
    assert!(
        matches!(caught[..], [Violation::NoConvergence(_)]),
        "{caught:?}"
    );
}

#[test]
fn duplicates_that_are_applied_are_caught() {
    let caught = caught(Fault::AppliesDuplicates);
    let twice = |violation: &Violation| matches!(violation, Violation::AppliedOutOfTurn { .. });
    assert!(caught.len() == 1 && caught.iter().all(twice), "{caught:?}");
}

#[test]
fn roles_without_ranks_are_caught() {
    let caught = caught(Fault::RolesByPlainOrder);
    assert!(matches!(caught[..], [Violation::Roles(_)]), "{caught:?}");
}

#[test]
fn peers_that_never_compare_heads_are_caught() {
    let caught = caught(Fault::NeverComparesHeads);
    assert!(
        matches!(caught[..], [Violation::NoConvergence(_)]),
        "{caught:?}"
    );
}

#[test]
fn a_lamport_window_that_moves_with_what_was_seen_is_caught() {
    let caught = caught(Fault::LamportWindowFromHighestSeen);
    assert!(
        matches!(caught[..], [Violation::NoConvergence(_)]),
        "{caught:?}"
    );
}

#[test]
fn verification_that_depends_on_the_batch_is_caught() {
    let caught = caught(Fault::DalekBatchRule);
    assert!(
        matches!(caught[..], [Violation::NoConvergence(_)]),
        "{caught:?}"
    );
}

#[test]
fn logs_that_are_never_compared_below_their_heads_are_caught() {
    let caught = caught(Fault::NeverDescends);
    assert!(
        matches!(caught[..], [Violation::NoConvergence(_)]),
        "{caught:?}"
    );
}

#[test]
fn proofs_of_forks_that_do_not_spread_are_caught() {
    let caught = caught(Fault::NeverSpreadsProofs);
    assert!(
        matches!(caught[..], [Violation::NoConvergence(_)]),
        "{caught:?}"
    );
}

/// A failing world says how to see it again, and what came before.
#[test]
fn a_failure_names_its_seed_and_what_happened() {
    let failures = (0..SEEDS).filter_map(|seed| run(seed, Some(Fault::AppliesDuplicates)).err());
    let failure = failures.take(1).next().unwrap();
    assert_eq!(
        run(failure.seed, Some(Fault::AppliesDuplicates)).err(),
        Some(failure.clone())
    );
    let shown = failure.to_string();
    assert!(
        shown.contains(&format!(
            "cargo xtask sim --seed {} --seeds 1",
            failure.seed
        )),
        "{shown}"
    );
    assert!(shown.contains("VIOLATION"), "{shown}");
}

/// A member whose clock is far from the others' signs nothing until it is set; nobody else is held up.
#[test]
fn a_clock_that_is_far_off_holds_up_only_its_owner() {
    let schema = schema().unwrap();
    let mut world = World::new(1, schema.clone());
    let [alice, bob, carol] = [(); 3].map(|()| world.add(Kind::Honest));
    let genesis = GenesisParams::new([1; 32], world.wall(alice), schema.hash());
    world.set_clock(carol, 6 * 60);
    world.start(alice, GenesisSource::Create(genesis.clone()));
    world.start(bob, GenesisSource::FirstCome(genesis.clone()));
    world.start(carol, GenesisSource::FirstCome(genesis));
    world.run_for(Duration::from_secs(3));
    let note = |writer: usize| vec![Action::put(Key::new(NOTE, format!("{writer}")), "here")];
    world.submit(bob, note(bob)).unwrap();
    let by = Duration::from_secs(6 * 60);
    match world.submit(carol, note(carol)) {
        Err(InputError::ClockOff {
            ahead: true,
            by: off,
        }) => {
            assert!(by.abs_diff(off) < Duration::from_secs(1), "{off:?}");
        }
        other => panic!("{other:?}"),
    }
    world.set_clock(carol, 60);
    world.run_for(Duration::from_secs(2));
    world.submit(carol, note(carol)).unwrap();
    world.run_for(Duration::from_secs(1));
    let log = world.session(alice).unwrap().log().unwrap();
    for writer in [bob, carol] {
        assert!(log.get(&Key::new(NOTE, format!("{writer}"))).is_some());
    }
    world.check().unwrap();
}

/// Here all who knew the room were down at once, and a returning peer was told that there is none.
#[test]
fn a_room_outlives_a_moment_in_which_nobody_who_knows_it_is_up() {
    assert_eq!(run(20_038, None).err(), None);
}
