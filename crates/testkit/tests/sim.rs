//! Worlds of simulated peers keep every promise, and those that are broken on purpose are found out.
#![allow(clippy::unwrap_used)] // a test may fail

use std::time::Duration;

use roundtable_command_log::{Action, GenesisParams, Key};
use roundtable_session::{GenesisSource, InputError};
use roundtable_testkit::{Fault, Kind, Medium, NOTE, Violation, World, run, run_over, schema};

/// Full worlds, in some of which each fault is caught.
const SEEDS: std::ops::Range<u64> = 1001..1101;

#[test]
fn worlds_keep_every_promise() {
    for seed in 0..30 {
        if let Err(failure) = run(seed, None) {
            panic!("{failure}");
        }
    }
}

/// Real sessions over real links, packet by packet: outages, partitions, crashes, addresses that change. No
/// command is lost or applied twice, and in the end all show the same.
#[test]
fn mixed_quic_webrtc_clients_converge_to_identical_state() {
    let (mut links, mut moves) = ([0, 0], 0);
    for seed in [0, 2, 4] {
        let report = run_over(seed, Medium::Mixed).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.commands > 0, "{report:?}");
        links = [0, 1].map(|kind| links[kind] + report.links[kind]);
        moves += report.moves;
    }
    assert!(
        links[0] > 3 && links[1] > 3 && moves > 0,
        "{links:?}, {moves}"
    );
}

#[test]
fn worlds_of_one_kind_of_link_keep_every_promise() {
    for (medium, other) in [(Medium::Quic, None), (Medium::WebRtc, Some(0))] {
        let report = run_over(6, medium).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(
            other.is_none_or(|other| report.links[other] == 0),
            "{report:?}"
        );
        assert!(report.links.iter().sum::<u64>() > 0, "{report:?}");
    }
}

/// Times and sizes, that is: keys of handshakes are never the same.
#[test]
fn one_seed_is_one_world_of_real_links() {
    let report = run_over(8, Medium::Mixed).unwrap();
    assert_eq!(run_over(8, Medium::Mixed).unwrap(), report);
}

#[test]
fn one_seed_is_one_world_to_the_byte() {
    let report = run(1, None).unwrap();
    assert_eq!(run(1, None).unwrap(), report);
    assert_ne!(run(2, None).unwrap().digest, report.digest);
}

fn caught(fault: Fault) -> Vec<Violation> {
    let failures = SEEDS.filter_map(|seed| run(seed, Some(fault)).err());
    // It is the fault that is caught, in a world that keeps every promise without.
    let failures = failures.filter(|failure| run(failure.seed, None).is_ok());
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
        matches!(
            caught[..],
            [Violation::NoConvergence(_) | Violation::Barred { .. }]
        ),
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

#[test]
fn rival_checkpoints_that_are_both_committed_are_caught() {
    let caught = caught(Fault::CommitsRivals);
    assert!(
        matches!(caught[..], [Violation::Unsettled { .. }]),
        "{caught:?}"
    );
}

#[test]
fn a_snapshot_that_is_used_unverified_is_caught() {
    let caught = caught(Fault::TrustsSnapshots);
    assert!(!caught.is_empty());
}

#[test]
fn messages_that_do_not_reach_the_application_are_caught() {
    let caught = caught(Fault::LosesMessages);
    assert!(
        matches!(caught[..], [Violation::MessagesLost { .. }]),
        "{caught:?}"
    );
}

/// A failing world says how to see it again, and what came before.
#[test]
fn a_failure_names_its_seed_and_what_happened() {
    let failures = SEEDS.filter_map(|seed| run(seed, Some(Fault::AppliesDuplicates)).err());
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

/// All who know the room are down at once; the first to return is told that nobody is there, and goes on in it.
#[test]
fn a_room_outlives_a_moment_in_which_nobody_who_knows_it_is_up() {
    let schema = schema().unwrap();
    let mut world = World::new(2, schema.clone());
    let [alice, bob] = [(); 2].map(|()| world.add(Kind::Honest));
    let params = GenesisParams::new([1; 32], world.wall(alice), schema.hash());
    for peer in [alice, bob] {
        world.start(peer, GenesisSource::FirstCome(params.clone()));
    }
    world.run_for(Duration::from_secs(5));
    let genesis = world.session(alice).unwrap().genesis().unwrap().clone();
    for peer in [alice, bob] {
        world.crash(peer, true);
    }
    world.run_for(Duration::from_secs(1));
    for peer in [bob, alice] {
        world.start(peer, GenesisSource::Remembered(genesis.clone()));
        world.run_for(Duration::from_secs(4));
    }
    for (peer, text) in [(alice, "hers"), (bob, "his")] {
        let put = Action::put(Key::new(NOTE, text), text);
        world.submit(peer, vec![put]).unwrap();
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.session(bob).unwrap().genesis(), Some(&genesis));
    world.check().unwrap();
}

#[test]
fn worlds_agree_on_checkpoints() {
    let reports: Vec<_> = (1..20).map(|seed| run(seed, None).unwrap()).collect();
    let with = |least: usize| reports.iter().filter(|r| r.checkpoints >= least).count();
    assert!(with(1) >= 5 && with(2) >= 1);
}

/// Of the first thousand worlds every other one is full, then all but every fiftieth.
#[test]
fn worlds_have_enough_going_on_at_once() {
    for seed in [1, 999, 1001, 1002] {
        let report = run(seed, None).unwrap();
        assert!(report.is_full() && !report.is_small(), "{report:?}");
    }
    for seed in [2, 1050] {
        assert!(run(seed, None).unwrap().is_small());
    }
}
