//! Strangers whom a pending checkpoint names.

use std::sync::Arc;

use roundtable_wire::commands::Encoder;

use super::*;
use crate::{Header, SignedFrame};

/// The creator's log, that of the stranger with the highest key, and a reader's: all know what the stranger has written and a
/// checkpoint that names it, which those two have acknowledged.
fn acknowledged() -> [CommandLog; 3] {
    let last = *by_key().last().unwrap();
    let mut logs = [log(Some(0)), log(Some(last)), log(None)];
    say(&mut logs, 1, &put(last));
    let cut = logs[0].lamport();
    let proposal = logs[0].checkpoint_command(cut).unwrap();
    say(&mut logs, 0, &proposal);
    for who in [1, 0] {
        let due = logs[who].due(NOW).unwrap();
        assert!(matches!(due, Action::Acknowledge(_)), "{due:?}");
        say(&mut logs, who, &due);
    }
    logs
}

/// One says something, and all hear it.
fn say(logs: &mut [CommandLog], who: usize, action: &Action) {
    let frame = logs[who].append(NOW, std::slice::from_ref(action)).unwrap();
    tell(logs, &frame);
}

fn tell(logs: &mut [CommandLog], frame: &SharedFrame) {
    for log in logs {
        give(log, frame);
        log.settle(NOW);
    }
}

/// Others come, as many as there are places, all with lower keys.
fn crowd_in(logs: &mut [CommandLog]) {
    for seed in &by_key()[..PLACES] {
        let frame = log(Some(*seed)).append(NOW, &[put(*seed)]).unwrap();
        tell(logs, &frame);
    }
}

/// Else whoever makes keys that are low enough could hold up a checkpoint for ever: whom it names must commit it, and would not
/// be heard.
#[test]
fn whom_a_pending_checkpoint_names_is_heard_although_its_place_is_taken() {
    let mut logs = acknowledged();
    crowd_in(&mut logs);
    let shown = Key::new(1, vec![*by_key().last().unwrap()]);
    for log in &logs {
        assert_eq!(
            log.get(&shown),
            None,
            "it has no place, and counts for nothing"
        );
        assert_eq!(log.state_hash(), logs[2].state_hash());
    }
    for who in [0, 1] {
        let due = logs[who].due(NOW).unwrap();
        assert!(matches!(due, Action::Commit(_)), "{due:?}");
        say(&mut logs, who, &due);
    }
    for log in &logs {
        assert_eq!(log.checkpoint().map(|stable| stable.number), Some(1));
        assert_eq!(log.get(&shown), Some(&shown.bytes[..]), "a place for good");
        assert!(log.crowd.awaited.is_empty());
        assert_eq!(log.state_hash(), logs[2].state_hash());
        assert_eq!(log.heads(), logs[2].heads());
    }
}

/// A proposer that takes back what it must not any more holds up nobody either: others may have committed it.
#[test]
fn whom_a_committed_checkpoint_names_is_heard_although_it_is_withdrawn() {
    let mut logs = acknowledged();
    let commit = logs[0].due(NOW).unwrap();
    let Action::Commit(ballot) = commit else {
        panic!("{commit:?}");
    };
    say(&mut logs, 0, &commit);
    let withdrawal = sign(&logs[0], &Action::Withdraw(ballot));
    tell(&mut logs, &withdrawal);
    assert!(!logs[0].has_open_proposal());
    crowd_in(&mut logs);
    let due = logs[1].due(NOW).unwrap();
    assert_eq!(due, Action::Commit(ballot));
    say(&mut logs, 1, &due);
    for log in &logs {
        assert_eq!(log.checkpoint().map(|stable| stable.number), Some(1));
        assert_eq!(log.state_hash(), logs[2].state_hash());
    }
}

/// What an author signs that does not ask its log.
fn sign(log: &CommandLog, action: &Action) -> SharedFrame {
    let (key, own) = log.own.as_ref().unwrap();
    let tip = log.chains[*own].tip;
    let header = Header {
        author: log.chains[*own].author(),
        previous: tip.id,
        first_nonce: tip.nonce + 1,
        count: 1,
        lamport: log.next_lamport(NOW),
        wall_ms: NOW.as_millis(),
        schema: log.schema.hash(),
    };
    let mut encoder = Encoder::default();
    let body = encoder.encode([action.as_wire()]).unwrap();
    Arc::new(SignedFrame::sign(&log.genesis.hash(), header, body, key))
}

/// What is withdrawn keeps nobody.
#[test]
fn whom_a_checkpoint_named_is_let_go_when_that_is_withdrawn() {
    let last = *by_key().last().unwrap();
    let mut logs = [log(Some(0)), log(None)];
    tell(
        &mut logs,
        &log(Some(last)).append(NOW, &[put(last)]).unwrap(),
    );
    let cut = logs[0].lamport();
    let proposal = logs[0].checkpoint_command(cut).unwrap();
    say(&mut logs, 0, &proposal);
    crowd_in(&mut logs);
    for log in &logs {
        assert!(log.crowd.awaited.contains(&author(last)));
        assert!(log.head(author(last)).is_some());
        assert!(!log.heads_at(u64::MAX).contains_key(&author(last)));
    }
    // Those who came in have written below the cut.
    let due = logs[0].due(NOW).unwrap();
    assert!(matches!(due, Action::Withdraw(_)), "{due:?}");
    say(&mut logs, 0, &due);
    for log in &logs {
        assert!(log.crowd.awaited.is_empty());
        assert_eq!(log.head(author(last)), None);
        assert!(!log.has_room_for(author(last)));
    }
}

/// It is asked for again, and a log that returns takes it from its store.
#[test]
fn whom_a_checkpoint_names_is_taken_by_a_log_that_had_no_place_for_it() {
    let last = *by_key().last().unwrap();
    let mut logs = acknowledged();
    crowd_in(&mut logs);
    let mut late = log(None);
    crowd_in(std::slice::from_mut(&mut late));
    let first = logs[0].frames_after(author(last), 0, 1).next().unwrap();
    give(&mut late, &first);
    assert_eq!(late.head(author(last)), None, "nothing speaks for it yet");
    for frame in logs[0].frames_after(author(0), 0, usize::MAX) {
        give(&mut late, &frame);
    }
    let wanted = late.wants(&logs[0].heads());
    assert!(
        wanted.iter().any(|range| range.author == author(last)),
        "{wanted:?}"
    );
    let mut logs = [late, logs.into_iter().next().unwrap()];
    exchange(&mut logs);
    let [late, creator] = &logs;
    assert_eq!(late.heads(), creator.heads());
    assert_eq!(late.state_hash(), creator.state_hash());

    let mut returned = log(None);
    returned.restore(NOW, creator.kept().map(|frame| frame.bytes().clone()));
    returned.settle(NOW);
    assert_eq!(returned.heads(), creator.heads());
    assert_eq!(returned.state_hash(), creator.state_hash());
}

#[test]
fn no_more_are_kept_for_checkpoints_than_one_can_name() {
    let mut logs = acknowledged();
    let last = author(*by_key().last().unwrap());
    logs[2].crowd.most_awaited = 0;
    crowd_in(&mut logs);
    assert!(logs[0].head(last).is_some());
    assert_eq!(logs[2].head(last), None);
    assert!(!logs[2].has_room_for(last));
    assert_eq!(Crowd::default().most_awaited, 640);
}
