//! From the user's commands to signed frames.

use roundtable_command_log::{Action, AppendError, GenesisParams, Key, Limits, Role};
use roundtable_core::{Channel, Frame, TransportKind::Quic};
use roundtable_session::{Event, GenesisSource, Input, InputError, Recipient};

use crate::world::{World, author, config, note, params, peer, trail};

fn submit(world: &mut World, name: &str, actions: Vec<Action>) -> Result<(), InputError> {
    world.input(name, Input::Submit { actions })
}

fn own_frames(world: &World, name: &str) -> Vec<u32> {
    let frames = world
        .node(name)
        .events
        .iter()
        .filter_map(|event| match event {
            Event::OwnFrame(frame) => Some(frame.header().count),
            _ => None,
        });
    frames.collect()
}

fn room(limits: Limits) -> World {
    let mut world = World::new(1);
    let params = GenesisParams {
        limits,
        ..params(1)
    };
    world.add(config("alice", GenesisSource::Create(params)), "alice");
    world
}

#[test]
fn commands_of_one_tick_share_a_signature() {
    let mut world = World::founded_by(1, &["alice"]);
    for round in 0..10 {
        submit(&mut world, "alice", vec![trail("x"); 3]).unwrap();
        assert!(own_frames(&world, "alice").is_empty(), "{round}");
        world.millis(1);
    }
    world.millis(1);
    assert_eq!(own_frames(&world, "alice"), [30]);
    submit(&mut world, "alice", vec![trail("y")]).unwrap();
    world.secs(1);
    assert_eq!(own_frames(&world, "alice"), [30, 1]);
    assert_eq!(world.node("alice").trail(), format!("{}y", "x".repeat(30)));
}

#[test]
fn a_tick_with_more_than_a_frame_holds_makes_several() {
    let mut world = World::founded_by(2, &["alice", "bob"]);
    world.mesh(&["alice", "bob"]);
    world.secs(1);
    let large = "z".repeat(30_000);
    submit(&mut world, "alice", vec![trail(&large); 5]).unwrap();
    submit(&mut world, "alice", vec![trail("s"); 600]).unwrap();
    world.secs(1);
    // The grant for bob; two large ones a frame, the last of them with small ones; 256 at most.
    let frames = own_frames(&world, "alice");
    assert_eq!(frames.iter().sum::<u32>(), 606);
    assert_eq!(frames[..3], [1, 2, 2]);
    assert_eq!(world.node("bob").trail().len(), 150_600);
    world.common_hash();
}

#[test]
fn a_burst_over_the_budget_is_refused_with_a_time_and_then_taken() {
    let mut world = room(Limits {
        burst: 100,
        per_second: 10,
    });
    submit(&mut world, "alice", vec![trail("x"); 100]).unwrap();
    let refused = submit(&mut world, "alice", vec![trail("y"); 10]);
    assert!(matches!(refused, Err(InputError::RateLimited { .. })));
    world.millis(20);
    assert_eq!(own_frames(&world, "alice"), [100]);
    // The budget is spent; what is submitted now waits for it, and nothing is taken beyond that.
    submit(&mut world, "alice", vec![trail("y"); 10]).unwrap();
    world.millis(20);
    let Err(InputError::RateLimited { retry_after }) =
        submit(&mut world, "alice", vec![trail("z")])
    else {
        panic!("taken while the budget is spent");
    };
    assert!(retry_after.as_millis() <= 1000);
    world.run(retry_after);
    world.secs(1);
    assert_eq!(own_frames(&world, "alice").iter().sum::<u32>(), 110);
    submit(&mut world, "alice", vec![trail("z")]).unwrap();
    let endless = submit(&mut world, "alice", vec![trail("x"); 101]);
    assert_eq!(endless, Err(AppendError::OverBurst.into()));
}

#[test]
fn commands_that_could_never_count_are_refused_at_once() {
    let mut world = room(Limits::default());
    let unknown = Action::put(Key::new(99, "k"), "v");
    assert_eq!(
        submit(&mut world, "alice", vec![trail("fine"), unknown]),
        Err(AppendError::UnknownKeyType(99).into())
    );
    let long_key = Action::put(Key::new(1, vec![0; 257]), "v");
    assert!(submit(&mut world, "alice", vec![long_key]).is_err());
    let huge = Action::put(Key::new(1, "k"), vec![0; 65_536]);
    assert!(submit(&mut world, "alice", vec![huge]).is_err());
    world.secs(1);
    assert!(own_frames(&world, "alice").is_empty());
}

#[test]
fn a_command_that_fails_at_the_last_moment_takes_no_other_with_it() {
    let mut world = World::new(7);
    let two_writers = GenesisParams {
        max_writers: 2,
        ..params(1)
    };
    let closed = config("alice", GenesisSource::Create(two_writers)).with_open_room(false);
    world.add(closed, "alice");
    let log = world.node("alice").session.log().unwrap();
    let [bob, carol] = ["bob", "carol"].map(|n| log.role_command(author(n), Role::Editor));
    let actions = vec![trail("a"), bob, trail("b"), carol.clone(), trail("c")];
    submit(&mut world, "alice", actions).unwrap();
    world.secs(1);
    let log = world.node("alice").session.log().unwrap();
    assert_eq!(log.role_of(author("bob")), Role::Editor);
    assert_eq!(log.role_of(author("carol")), Role::Viewer);
    assert_eq!(world.node("alice").trail(), "abc");
    let failed: Vec<_> = world
        .node("alice")
        .events
        .iter()
        .filter_map(|event| match event {
            Event::NotSigned { action, error } => Some((action.clone(), error.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [(carol, AppendError::TooManyWriters(2))]);
}

#[test]
fn a_full_frame_is_signed_without_waiting_for_the_tick() {
    let mut world = World::founded_by(7, &["alice"]);
    let signed = |world: &World| world.node("alice").session.log().unwrap().frames().count();
    let some = |count: usize| (0..count).map(|_| trail("x")).collect::<Vec<_>>();
    let before = signed(&world);
    submit(&mut world, "alice", some(255)).unwrap();
    world.millis(1);
    assert_eq!(signed(&world), before);
    submit(&mut world, "alice", some(1)).unwrap();
    world.millis(1);
    assert_eq!(signed(&world), before + 1);
    // Bytes fill a frame, too.
    let large = || vec![note("n", &"x".repeat(40_000))];
    submit(&mut world, "alice", large()).unwrap();
    world.millis(1);
    assert_eq!(signed(&world), before + 1);
    submit(&mut world, "alice", large()).unwrap();
    world.millis(1);
    assert_eq!(signed(&world), before + 3);
}

#[test]
fn a_viewer_signs_nothing() {
    let mut world = World::new(5);
    let closed = config("alice", GenesisSource::Create(params(1))).with_open_room(false);
    world.add(closed, "alice");
    let genesis = world.node("alice").session.genesis().unwrap().clone();
    world.add(config("bob", GenesisSource::Known(genesis)), "bob");
    assert_eq!(
        submit(&mut world, "bob", vec![trail("b")]),
        Err(InputError::NotReady)
    );
    world.link("bob", "alice", Quic);
    world.secs(1);
    let (needed, held) = (Role::Editor, Role::Viewer);
    assert_eq!(
        submit(&mut world, "bob", vec![trail("b")]),
        Err(AppendError::NotPermitted { needed, held }.into())
    );
    // Until an Admin says otherwise.
    let log = world.node("alice").session.log().unwrap();
    let grant = log.role_command(author("bob"), Role::Editor);
    submit(&mut world, "alice", vec![grant]).unwrap();
    world.secs(1);
    submit(&mut world, "bob", vec![trail("b")]).unwrap();
    world.secs(1);
    assert_eq!(world.node("alice").trail(), "b");
}

#[test]
fn users_send_only_on_their_channels_and_within_limits() {
    let mut world = World::founded_by(6, &["alice", "bob"]);
    world.mesh(&["alice", "bob"]);
    world.secs(1);
    let mut send = |frame| {
        let to = Recipient::All;
        world.input("alice", Input::Send { to, frame })
    };
    for channel in [Channel::Control, Channel::Command] {
        let refused = send(Frame::binary(channel, vec![1]));
        assert_eq!(refused, Err(InputError::WrongChannel(channel)));
    }
    let refused = send(Frame::text(Channel::Snapshot, "text"));
    assert_eq!(refused, Err(InputError::WrongChannel(Channel::Snapshot)));
    let (channel, len, max) = (Channel::AppFast, 1101, 1100);
    let refused = send(Frame::binary(channel, vec![0; len]));
    assert_eq!(refused, Err(InputError::TooLarge { channel, len, max }));
    let to = Recipient::Peer(peer("nobody"));
    let frame = Frame::text(Channel::App, "hi");
    assert_eq!(
        world.input("alice", Input::Send { to, frame }),
        Err(InputError::Unreachable(peer("nobody")))
    );
}
