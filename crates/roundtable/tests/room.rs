//! Whole rooms in one process: real server, real sockets, real keys, real speech.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test watches the real clock

mod support;

use std::collections::BTreeSet;

use roundtable::{
    Action, Event, Identity, JoinError, Key, MAX_MESSAGE_LEN, MergeRule, MessageError, Payload,
    Role, Schema, Strategy, SubmitError, TransportKind, TransportPreference, voice::Voice,
};
use support::{Member, TestServer, converged};

const TITLE: u16 = 1;
const POINTS: u16 = 2;
const CLAIM: u16 = 3;

fn schema() -> Schema {
    Schema::builder(1, 0)
        .key_type(TITLE, "title", Strategy::LastWriteWins)
        .key_type(
            POINTS,
            "points",
            Strategy::Merge(MergeRule::Append { max_len: 1024 }),
        )
        .key_type(CLAIM, "claim", Strategy::Reject)
        .build()
        .unwrap()
}

fn connected(event: &Event) -> Option<(String, TransportKind)> {
    match event {
        Event::Connected {
            peer, transport, ..
        } => Some((peer.to_string(), *transport)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_edit_together_and_a_fourth_catches_up() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice").schema(schema())).await;
    alice.may_edit().await;
    let mut bob = Member::join(server.room("bob").schema(schema())).await;
    bob.may_edit().await;
    let webrtc = server
        .room("carol")
        .schema(schema())
        .transport(TransportPreference::WebRtc);
    let mut carol = Member::join(webrtc).await;
    carol.may_edit().await;

    assert_eq!(
        alice.wait_for("bob", connected).await,
        ("bob".into(), TransportKind::Quic)
    );
    assert_eq!(
        alice.wait_for("carol", connected).await,
        ("carol".into(), TransportKind::WebRtc)
    );

    for member in [&alice, &bob, &carol] {
        let name = member.room.peer().to_string();
        let actions = [
            Action::put(Key::new(TITLE, "t"), name.clone()),
            Action::put(Key::new(POINTS, "p"), vec![name.as_bytes()[0]]),
            Action::put(Key::new(CLAIM, "c"), name),
        ];
        member.room.submit(actions).await.unwrap();
    }
    // Nine commands of theirs, and alice's two grants.
    converged(&[&alice, &bob, &carol], 11).await;
    let mut dave = Member::join(server.room("dave").schema(schema())).await;
    dave.may_edit().await;
    converged(&[&alice, &bob, &carol, &dave], 12).await;

    let points = dave.room.get(Key::new(POINTS, "p")).await.unwrap();
    assert_eq!(
        points.iter().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from(*b"abc")
    );
    let winner = dave.room.get(Key::new(CLAIM, "c")).await.unwrap();
    assert_eq!(alice.room.get(Key::new(CLAIM, "c")).await.unwrap(), winner);
    assert_eq!(dave.room.entries(TITLE).await.len(), 1);

    for member in [alice, bob, carol, dave] {
        member.room.leave().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_reach_one_peer_or_all_and_keep_their_kind() {
    let server = TestServer::start().await;
    let alice = Member::join(server.room("alice")).await;
    let mut bob = Member::join(server.room("bob")).await;
    bob.wait_for("alice", connected).await;
    let mut carol = Member::join(server.room("carol").transport(TransportPreference::WebRtc)).await;
    let mut linked = BTreeSet::new();
    while linked.len() < 2 {
        linked.insert(carol.wait_for("both", connected).await.0);
    }

    let binary = Payload::Binary(vec![0, 1, 2].into());
    let sent = carol.room.broadcast(Payload::Text("to all".into())).await;
    let sent = sent.unwrap();
    assert_eq!((sent.queued.len(), sent.total()), (2, 2));
    carol
        .room
        .send(bob.room.peer(), binary.clone())
        .await
        .unwrap();
    let message = |event: &Event| match event {
        Event::Message { peer, payload, .. } if peer.as_str() == "carol" => Some(payload.clone()),
        _ => None,
    };
    assert_eq!(
        bob.wait_for("the text", message).await,
        Payload::Text("to all".into())
    );
    assert_eq!(bob.wait_for("the bytes", message).await, binary);

    let huge = Payload::Binary(vec![0; MAX_MESSAGE_LEN + 1].into());
    assert!(matches!(
        alice.room.broadcast(huge).await,
        Err(MessageError::TooLarge { .. })
    ));
    let nobody = "nobody".parse().unwrap();
    let lost = alice.room.send(&nobody, Payload::Text("?".into())).await;
    assert_eq!(lost, Err(MessageError::NotConnected(nobody)));
    for member in [alice, bob, carol] {
        member.room.leave().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_name_is_refused_and_free_again_after_leaving() {
    let server = TestServer::start().await;
    let alice = Member::join(server.room("alice")).await;
    let again = server.room("alice").join().await;
    assert!(matches!(
        again.map(|_| ()),
        Err(JoinError::Signaling(
            roundtable_signaling_client::JoinError::PeerIdTaken
        ))
    ));
    alice.room.leave().await;
    Member::join(server.room("alice")).await.room.leave().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_returns_with_its_key_and_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let title = || Key::new(0, "title");

    let identity = Identity::open(directory.path()).unwrap();
    let author = identity.author();
    let mut alice = Member::join(server.room("alice").identity(identity)).await;
    alice.may_edit().await;
    alice
        .room
        .submit([Action::put(title(), "kept")])
        .await
        .unwrap();
    let hash = loop {
        alice
            .wait_for("the title", |e| {
                matches!(e, Event::Applied(_)).then_some(())
            })
            .await;
        if alice.room.get(title()).await.is_some() {
            break alice.hash().await;
        }
    };
    alice.room.leave().await;

    let identity = Identity::open(directory.path()).unwrap();
    assert_eq!(identity.author(), author);
    let mut alice = Member::join(server.room("alice").identity(identity)).await;
    alice.may_edit().await;
    assert_eq!(alice.room.get(title()).await.as_deref(), Some(&b"kept"[..]));
    assert_eq!(alice.hash().await, hash);
    alice
        .room
        .submit([Action::put(title(), "changed")])
        .await
        .unwrap();
    let mut bob = Member::join(server.room("bob")).await;
    bob.may_edit().await;
    assert_eq!(
        bob.room.get(title()).await.as_deref(),
        Some(&b"changed"[..])
    );
    alice.room.leave().await;
    bob.room.leave().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_author_takes_back_its_own_commands() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice")).await;
    alice.may_edit().await;
    assert_eq!(alice.room.undo().await, Ok(false), "nothing yet");
    let mut bob = Member::join(server.room("bob")).await;
    bob.may_edit().await;
    let title = || Key::new(0, "title");
    let write = |text: &'static str| [Action::put(title(), text)];
    alice.room.submit(write("one")).await.unwrap();
    converged(&[&alice, &bob], 2).await;
    bob.room.submit(write("bob's")).await.unwrap();
    converged(&[&alice, &bob], 3).await;

    // Taken back before it was even signed.
    alice.room.submit(write("two")).await.unwrap();
    assert_eq!(alice.room.undo().await, Ok(true));
    converged(&[&alice, &bob], 5).await;
    assert_eq!(bob.room.get(title()).await.unwrap(), "bob's");
    assert_eq!(alice.room.redo().await, Ok(true));
    converged(&[&alice, &bob], 6).await;
    assert_eq!(bob.room.get(title()).await.unwrap(), "two");
    assert_eq!(alice.room.redo().await, Ok(false));

    let (history, heads) = bob.room.entries_since(Vec::new()).await;
    assert_eq!(history.len(), 6, "{history:#?}");
    alice.room.submit(write("three")).await.unwrap();
    converged(&[&alice, &bob], 7).await;
    let (history, _) = bob.room.entries_since(heads).await;
    let actions: Vec<_> = history.into_iter().map(|entry| entry.action).collect();
    assert_eq!(actions, write("three"));
    for member in [alice, bob] {
        member.room.leave().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_takes_a_role_and_gives_it_back() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice")).await;
    alice.may_edit().await;
    let mut bob = Member::join(server.room("bob")).await;
    bob.may_edit().await;
    let author = bob.room.author();
    alice.room.set_role(author, Role::Viewer).await.unwrap();
    bob.wait_for("losing its role", |e| {
        matches!(e, Event::MayEdit(false)).then_some(())
    })
    .await;
    let note = || [Action::put(Key::new(0, "note"), "here")];
    let refused = bob.room.submit(note()).await;
    assert!(
        matches!(refused, Err(SubmitError::Refused(_))),
        "{refused:?}"
    );
    assert!(bob.room.set_role(author, Role::Admin).await.is_err());

    alice.room.set_role(author, Role::Editor).await.unwrap();
    bob.may_edit().await;
    bob.room.submit(note()).await.unwrap();
    // It has signed nothing twice, so there is nothing to restore.
    assert_eq!(alice.room.restore(author, Role::Editor).await, Ok(false));
    for member in [alice, bob] {
        member.room.leave().await;
    }
    server.stop().await;
}

/// Everyone leaves, and one comes back alone: with what the others wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_survives_whole_in_any_of_its_members() {
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let kept = Identity::open(directory.path()).unwrap();
    let in_memory = Identity::ephemeral().unwrap();
    let mut alice = Member::join(server.room("alice").identity(kept)).await;
    alice.may_edit().await;
    let mut bob = Member::join(server.room("bob").identity(in_memory.clone())).await;
    bob.may_edit().await;
    for (member, name) in [(&alice, "alice"), (&bob, "bob")] {
        let note = Action::put(Key::new(0, name), "was here");
        member.room.submit([note]).await.unwrap();
    }
    converged(&[&alice, &bob], 3).await;
    let hash = alice.hash().await;
    bob.room.leave().await;
    alice.room.leave().await;

    // On disk as in memory.
    for identity in [Identity::open(directory.path()).unwrap(), in_memory] {
        let mut back = Member::join(server.room("carol").identity(identity)).await;
        back.may_edit().await;
        assert_eq!(back.hash().await, hash);
        back.room.leave().await;
    }
    server.stop().await;
}

/// What two have agreed on is final; one comes back with it, and a third takes it as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everyone_agreed_on_is_final_for_those_who_come_later() {
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::open(directory.path()).unwrap();
    let mut alice = Member::join(server.room("alice").identity(identity).schema(schema())).await;
    alice.may_edit().await;
    let mut bob = Member::join(server.room("bob").schema(schema())).await;
    bob.may_edit().await;
    let put = |key_type, text: &str| Action::put(Key::new(key_type, "k"), text.to_owned());
    bob.room
        .submit([put(CLAIM, "bob"), put(POINTS, "1")])
        .await
        .unwrap();
    alice.room.submit([put(POINTS, "2")]).await.unwrap();
    converged(&[&alice, &bob], 4).await;
    let stable = |event: &Event| match event {
        Event::CheckpointStable(stable) => Some(*stable),
        _ => None,
    };
    // Without an invite, nothing is made final before it is sure that this is the room.
    while let Err(error) = alice.room.propose_checkpoint().await {
        assert_eq!(error, SubmitError::Unsettled);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let agreed = alice.wait_for("a checkpoint", stable).await;
    assert_eq!(bob.wait_for("a checkpoint", stable).await, agreed);
    assert_eq!(bob.room.checkpoint().await, Some(agreed));
    let metrics = bob.room.metrics().await;
    assert!(metrics.contains("log_checkpoints 1"), "{metrics}");

    let mut carol = Member::join(server.room("carol").schema(schema())).await;
    carol.may_edit().await;
    // A proposal, two who acknowledge and commit it, and carol's role.
    converged(&[&alice, &bob, &carol], 10).await;
    assert_eq!(carol.room.checkpoint().await, Some(agreed));
    let claim = carol.room.get(Key::new(CLAIM, "k")).await;
    assert_eq!(claim.as_deref(), Some(&b"bob"[..]));

    alice.room.leave().await;
    let identity = Identity::open(directory.path()).unwrap();
    let mut alice = Member::join(server.room("alice").identity(identity).schema(schema())).await;
    alice.may_edit().await;
    assert_eq!(alice.room.checkpoint().await, Some(agreed));
    alice.room.submit([put(POINTS, "3")]).await.unwrap();
    converged(&[&alice, &bob, &carol], 11).await;
    for member in [alice, bob, carol] {
        member.room.leave().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_leads_to_its_room_and_to_no_other() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice")).await;
    alice.may_edit().await;
    let invite = alice.room.invite().await;
    assert!(invite.genesis().is_some());
    let mut bob = Member::join(server.room("bob").invite(invite.clone())).await;
    let verified = |event: &Event| match event {
        Event::RoomKnown { verified, .. } => Some(*verified),
        _ => None,
    };
    assert!(bob.wait_for("the room", verified).await);
    bob.room.leave().await;
    alice.room.leave().await;

    // Somebody else founds a room of the same name: the old invite does not lead there.
    let mut mallory = Member::join(server.room("mallory")).await;
    mallory.may_edit().await;
    let mut bob = Member::join(server.room("bob").invite(invite)).await;
    let refused = |event: &Event| matches!(event, Event::Refused { .. }).then_some(());
    bob.wait_for("the refusal", refused).await;
    assert_eq!(bob.hash().await, None);
    bob.room.leave().await;
    mallory.room.leave().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_beyond_the_limits_are_refused_with_a_time_to_try_again() {
    let server = TestServer::start().await;
    let mut alice = Member::join(server.room("alice")).await;
    alice.may_edit().await;
    let put = || Action::put(Key::new(0, "k"), "v");
    let refused = loop {
        if let Err(error) = alice.room.submit([put()]).await {
            break error;
        }
    };
    assert!(matches!(refused, SubmitError::RateLimited { retry_after } if !retry_after.is_zero()));
    let unknown = alice
        .room
        .submit([Action::put(Key::new(9, "k"), "v")])
        .await;
    assert!(matches!(unknown, Err(SubmitError::Refused(_))));
    let room = alice.room.clone();
    alice.room.leave().await;
    assert_eq!(room.submit([put()]).await, Err(SubmitError::Left));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_leaves_no_task_behind() {
    let server = TestServer::start().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let alice = Member::join(server.room("alice").voice(Voice::default())).await;
    // The first room starts what the process keeps for good; count from the second.
    let before = metrics.num_alive_tasks();
    for transport in [TransportPreference::Quic, TransportPreference::WebRtc] {
        let builder = server
            .room("bob")
            .transport(transport)
            .voice(Voice::default());
        let mut bob = Member::join(builder).await;
        bob.wait_for("alice", connected).await;
        bob.room.leave().await;
    }
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while metrics.num_alive_tasks() > before {
        assert!(tokio::time::Instant::now() < deadline, "tasks are left");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    alice.room.leave().await;
    server.stop().await;
}
