//! Who is linked with whom, and what they tell each other: real server, real sockets.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test watches the real clock

#[path = "support/cable.rs"]
mod cable;
mod support;

use std::{collections::BTreeSet, time::Duration};

use cable::Cable;
use roundtable::{
    CloseCode, ConnectError, Event, MAX_MESSAGE_LEN, MessageError, Payload, PeerId, QuicConfig,
    Room, TransportPreference,
};
use support::{Member, PATIENCE, TestServer};

fn connected(event: &Event) -> Option<()> {
    matches!(event, Event::Connected { .. }).then_some(())
}

fn disconnected(event: &Event) -> Option<CloseCode> {
    match event {
        Event::Disconnected { code, .. } => Some(*code),
        _ => None,
    }
}

fn message(event: &Event) -> Option<Payload> {
    match event {
        Event::Message { payload, .. } => Some(payload.clone()),
        _ => None,
    }
}

async fn leave(members: impl IntoIterator<Item = Member>, server: TestServer) {
    for member in members {
        member.room.leave().await;
    }
    server.stop().await;
}

/// Two members that are linked over one transport.
async fn two(server: &TestServer, transport: TransportPreference) -> [Member; 2] {
    let mut members = Vec::new();
    for name in ["alice", "bob"] {
        members.push(Member::join(server.room(name).transport(transport)).await);
    }
    for member in &mut members {
        member.wait_for("the other", connected).await;
    }
    members.try_into().ok().unwrap()
}

fn bytes(len: usize) -> Payload {
    let bytes: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
    Payload::Binary(bytes.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_peers_are_linked_in_a_full_mesh_and_send_to_one_and_to_all() {
    let server = TestServer::start().await;
    let mut members = Vec::new();
    for name in ["alice", "bob", "carol", "dave"] {
        members.push(Member::join(server.room(name)).await);
    }
    for member in &mut members {
        for _ in 0..3 {
            member.wait_for("everyone", connected).await;
        }
        let peers = member.room.peers().await;
        let others: BTreeSet<_> = peers.iter().map(|status| status.peer.as_str()).collect();
        assert_eq!(others.len(), 3, "{others:?}");
    }
    let sent = members[0].room.broadcast_json(&vec![1, 2]).await.unwrap();
    assert_eq!((sent.queued.len(), sent.failed.len()), (3, 0));
    let bob: PeerId = "bob".parse().unwrap();
    members[0].room.send_json(&bob, &"for bob").await.unwrap();
    for member in &mut members[1..] {
        let json = member.wait_for("a message", message).await;
        assert_eq!(json, Payload::Text("[1,2]".into()));
    }
    let json = members[1].wait_for("a message", message).await;
    assert_eq!(json, Payload::Text("\"for bob\"".into()));
    let peers = members[1].room.peers().await;
    let alice = peers.iter().find(|s| s.peer.as_str() == "alice").unwrap();
    let stats = alice.messages;
    assert_eq!((stats.received, stats.received_bytes), (2, 14));
    leave(members, server).await;
}

/// Text, bytes and JSON of any length, over both transports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_many_megabytes_arrive_as_they_were() {
    let server = TestServer::start().await;
    for (transport, len) in [
        (TransportPreference::Quic, MAX_MESSAGE_LEN),
        (TransportPreference::WebRtc, 3_000_000),
    ] {
        let [alice, mut bob] = two(&server, transport).await;
        let text = Payload::Text("é".repeat(40_000));
        for payload in [bytes(len), text.clone(), bytes(0)] {
            alice.room.send(bob.room.peer(), payload).await.unwrap();
        }
        assert!(bob.wait_for("the bytes", message).await == bytes(len));
        assert!(bob.wait_for("the text", message).await == text);
        assert!(bob.wait_for("nothing", message).await == bytes(0));
        for member in [alice, bob] {
            member.room.leave().await;
        }
    }
    server.stop().await;
}

/// Bob does not look at what comes, so that after a while no more is taken for him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_waits_for_a_slow_reader_and_what_is_given_up_was_not_sent() {
    let server = TestServer::start().await;
    let [alice, mut bob] = two(&server, TransportPreference::Quic).await;
    let peer = bob.room.peer().clone();
    let numbered = |number: u8| Payload::Binary(vec![number; 4_000_000].into());
    let send = |payload| {
        let (room, peer) = (alice.room.clone(), peer.clone());
        async move { room.send(&peer, payload).await }
    };
    // Five of them are what a peer may leave unread; of the others two wait, and no more.
    let mut sent = 0;
    loop {
        let all = alice.room.broadcast(numbered(sent)).await.unwrap();
        let peers = alice.room.peers().await;
        if all.queued == [peer.clone()] {
            sent += 1;
        } else if peers[0].messages.waiting + 5 == usize::from(sent) {
            let full = MessageError::QueueFull(peer.clone());
            assert_eq!(all.failed, [(peer.clone(), full)]);
            break;
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(sent, 7);
    let given_up = tokio::time::timeout(Duration::from_millis(100), send(numbered(99))).await;
    assert!(given_up.is_err());
    let waiting = tokio::spawn(send(Payload::Text("last".into())));
    for number in 0..sent {
        assert!(bob.wait_for("what was taken", message).await == numbered(number));
    }
    assert_eq!(waiting.await.unwrap(), Ok(()));
    let last = bob.wait_for("the last", message).await;
    assert!(
        last == Payload::Text("last".into()),
        "what was given up came"
    );
    leave([alice, bob], server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_disconnected_stays_away_until_it_is_connected_again() {
    let server = TestServer::start().await;
    let [mut alice, mut bob] = two(&server, TransportPreference::Auto).await;
    let peer = bob.room.peer().clone();
    alice.room.disconnect_peer(&peer).await.unwrap();
    let code = alice.wait_for("the end", disconnected).await;
    assert_eq!(code, CloseCode::DISCONNECTED);
    let code = bob.wait_for("the end", disconnected).await;
    assert_eq!(code, CloseCode::DISCONNECTED);
    // Long enough for a link that is offered anew after it was lost.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for member in [&alice, &bob] {
        assert!(member.room.peers().await.is_empty());
    }
    let lost = alice.room.send(&peer, Payload::Text("?".into())).await;
    assert_eq!(lost, Err(MessageError::NotConnected(peer.clone())));

    alice.room.connect_peer(&peer).await.unwrap();
    alice.wait_for("bob", connected).await;
    bob.wait_for("alice", connected).await;
    let hello = Payload::Text("hello".into());
    alice.room.send(&peer, hello.clone()).await.unwrap();
    assert_eq!(bob.wait_for("a message", message).await, hello);

    let nobody: PeerId = "nobody".parse().unwrap();
    let refused = alice.room.connect_peer(&nobody).await;
    assert_eq!(refused, Err(ConnectError::NotPresent(nobody.clone())));
    let refused = alice.room.disconnect_peer(&nobody).await;
    assert_eq!(refused, Err(ConnectError::NotPresent(nobody)));
    leave([alice, bob], server).await;
}

/// What is sent while nothing gets through arrives when it does, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_survive_a_temporary_network_partition() {
    let server = TestServer::start().await;
    let cable = Cable::lay(&server.url).await;
    let mut members = Vec::new();
    for (name, address) in ["alice", "bob"].into_iter().zip(cable.peers) {
        let builder = Room::builder(&cable.url, "test", name)
            .transport(TransportPreference::Quic)
            .quic(QuicConfig::default().with_bind(address));
        members.push(Member::join(builder).await);
    }
    for member in &mut members {
        member.wait_for("the other", connected).await;
    }
    let [mut alice, mut bob] = <[Member; 2]>::try_from(members).ok().unwrap();
    let peer = bob.room.peer().clone();
    let numbered = |number: usize| bytes(20_000 * (number % 3) + number);
    for number in 0..30 {
        if number == 10 {
            cable.cut();
        }
        if number == 20 {
            alice.wait_for("the loss", disconnected).await;
        }
        alice.room.send(&peer, numbered(number)).await.unwrap();
    }
    cable.mend_links();
    for number in 0..30 {
        let came = bob.wait_for("what was sent", message).await;
        assert!(came == numbered(number), "not {number}");
    }
    cable.mend_signaling();
    leave([alice, bob], server).await;
}

/// Of peers that come and go nothing is left: no task, no socket, no conversation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_joins_and_leaves_leave_nothing_behind() {
    let server = TestServer::start().await;
    let tasks = tokio::runtime::Handle::current().metrics();
    let mut alice = Member::join(server.room("alice")).await;
    let mut before = None;
    for number in 0..100 {
        let name = format!("peer{number}");
        let mut peer = Member::join(server.room(&name)).await;
        alice.wait_for("the peer", connected).await;
        peer.wait_for("alice", connected).await;
        let sent = alice.room.broadcast(bytes(50_000)).await.unwrap();
        assert_eq!(sent.queued.len(), 1, "{sent:?}");
        peer.wait_for("a message", message).await;
        peer.room.leave().await;
        alice.wait_for("its leaving", disconnected).await;
        // The first starts what the process keeps for good.
        if number == 0 {
            before = Some((settled(&tasks).await, sockets()));
        }
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (tasks_before, sockets_before) = before.unwrap();
    while tasks.num_alive_tasks() > tasks_before || sockets() > sockets_before {
        assert!(tokio::time::Instant::now() < deadline, "something is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let metrics = alice.room.metrics().await;
    assert!(metrics.contains("session_conversations 0"), "{metrics}");
    assert!(
        metrics.contains("session_waiting_message_bytes 0"),
        "{metrics}"
    );
    leave([alice], server).await;
}

/// How many tasks there are once none has ended for a while.
async fn settled(tasks: &tokio::runtime::RuntimeMetrics) -> usize {
    let mut count = tasks.num_alive_tasks();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        count = count.min(tasks.num_alive_tasks());
    }
    count
}

/// Sockets that this process has open; where that cannot be seen, none.
fn sockets() -> usize {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return 0;
    };
    let links = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
    sockets.count()
}
