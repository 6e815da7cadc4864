//! Several server processes that NATS joins to one, and what happens when one of them, or NATS, goes
//! away.
#![allow(clippy::unwrap_used)] // these are tests
#![allow(clippy::disallowed_methods)] // how long things take is printed, and nothing depends on it

mod common;
#[path = "common/nats.rs"]
mod nats;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::Serve;
use futures_util::{FutureExt, StreamExt};
use nats::{
    Nats, closed_node, config, free_port, hears, metric, node, node_at, nodes, peer, soon,
    terminate,
};
use roundtable::Room;
use roundtable_core::PeerId;
use roundtable_signaling_client::{
    AnswerBody, ClientConfig, ErrorCode, Event, EventStream, IceCandidate, JoinError, LeaveReason,
    OfferBody, RequestError, RequestId, SignalingClient,
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

fn offer() -> OfferBody {
    OfferBody::WebRtc { sdp: "v=0".into() }
}

async fn join(server: &Serve, room: &str, name: &str) -> (SignalingClient, EventStream) {
    let (client, _, events) = SignalingClient::join(config(&[server], room, name))
        .await
        .unwrap();
    (client, events)
}

#[tokio::test]
async fn peers_of_different_servers_meet_negotiate_and_part() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [one, two, _] = nodes(&nats, "").await;
    let (alice, mut alice_hears) = join(&one, "room", "alice").await;
    let (bob, joined, mut bob_hears) = SignalingClient::join(config(&[&two], "room", "bob"))
        .await
        .unwrap();
    assert_eq!(joined.peers[0].peer_id, peer("alice"));
    let heard = hears(&mut alice_hears).await;
    assert!(matches!(heard, Event::PeerAnnounced(info) if info.peer_id == peer("bob")));

    // A pair's signals keep their order.
    for round in 0..20 {
        let id = alice.offer(&peer("bob"), offer()).await.unwrap();
        for n in 0..10 {
            let candidate = IceCandidate {
                candidate: format!("candidate {round} {n}"),
                ..IceCandidate::default()
            };
            alice.candidate(&peer("bob"), &id, candidate).await.unwrap();
        }
        let heard = hears(&mut bob_hears).await;
        assert!(matches!(heard, Event::Offer { request_id, .. } if request_id == id));
        for n in 0..10 {
            match hears(&mut bob_hears).await {
                Event::Candidate { candidate, .. } => {
                    assert_eq!(candidate.candidate, format!("candidate {round} {n}"));
                }
                other => panic!("{other:?}"),
            }
        }
        let body = AnswerBody::WebRtc { sdp: "v=0".into() };
        bob.answer(&peer("alice"), &id, body.clone()).await.unwrap();
        let heard = hears(&mut alice_hears).await;
        assert!(matches!(heard, Event::Answer { request_id, .. } if request_id == id));
        match bob.answer(&peer("alice"), &id, body).await {
            Err(RequestError::Refused(error)) => assert_eq!(error.code, ErrorCode::OfferExpired),
            other => panic!("{other:?}"),
        }
    }
    bob.leave().await;
    let heard = hears(&mut alice_hears).await;
    let reason = LeaveReason::Left;
    assert!(
        matches!(heard, Event::PeerLeft { reason: r, .. } if r == reason),
        "{heard:?}"
    );
    match alice.offer(&peer("bob"), offer()).await {
        Err(RequestError::Refused(error)) => assert_eq!(error.code, ErrorCode::PeerNotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_never_takes_more_peers_or_one_name_twice_whichever_servers_they_come_to() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let servers = nodes(&nats, "--max-peers 10").await;
    for room in 0..5 {
        let mut joining = JoinSet::new();
        for n in 0..60 {
            // Each name comes twice, to two servers.
            let (server, name) = (&servers[n % 3], format!("p{}", n / 2));
            let config = config(&[server], &format!("room{room}"), &name);
            joining.spawn(async move { (name, SignalingClient::join(config).await) });
        }
        let mut inside = Vec::new();
        while let Some(joined) = joining.join_next().await {
            match joined.unwrap() {
                (name, Ok(joined)) => inside.push((name, joined)),
                (_, Err(JoinError::PeerIdTaken | JoinError::RoomFull { max: 10 })) => {}
                (name, Err(other)) => panic!("{name}: {other}"),
            }
        }
        let names: BTreeSet<_> = inside.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!((inside.len(), names.len()), (10, 10));
    }
    let conflicts: usize = servers
        .iter()
        .map(|s| metric(&s.address, "bus_conflicts_total"))
        .sum();
    println!("{conflicts} conflicts");
    assert!(conflicts > 0, "the servers did not compete");
}

/// What a watched client tells of.
enum Seen {
    Back(Instant),
    /// Something that it should not have noticed.
    Noticed(Event),
}

/// Clients that stay in their rooms; each tells when it is back after its connection was lost.
struct Watched {
    /// Who lets go of one leaves.
    _clients: Vec<SignalingClient>,
    seen: mpsc::UnboundedReceiver<Seen>,
    _watching: JoinSet<()>,
}

impl Watched {
    /// `peers` clients in each of `rooms` rooms, who know all these servers.
    async fn join(servers: &[&Serve], rooms: usize, peers: usize) -> Self {
        let mut joining = JoinSet::new();
        for room in 0..rooms {
            let config = move |servers: &[&Serve], n| {
                config(servers, &format!("room{room}"), &format!("p{n}"))
            };
            let configs: Vec<_> = (0..peers).map(|n| config(servers, n)).collect();
            joining.spawn(async move {
                let mut inside = Vec::new();
                for config in configs {
                    inside.push(SignalingClient::join(config).await.unwrap());
                }
                // Everybody has heard of everybody before anything happens.
                for (n, (_, _, events)) in inside.iter_mut().enumerate() {
                    for _ in n + 1..peers {
                        let heard = soon("a peer", events.next()).await.unwrap();
                        assert!(matches!(heard, Event::PeerAnnounced(_)), "{heard:?}");
                    }
                }
                inside
            });
        }
        let (tell, seen) = mpsc::unbounded_channel();
        let (mut clients, mut watching) = (Vec::new(), JoinSet::new());
        while let Some(inside) = joining.join_next().await {
            for (client, _, mut events) in inside.unwrap() {
                clients.push(client);
                let tell = tell.clone();
                watching.spawn(async move {
                    while let Some(event) = events.next().await {
                        let seen = match event {
                            Event::Reconnecting { .. } | Event::Draining => continue,
                            Event::Resumed(_) => Seen::Back(Instant::now()),
                            other => Seen::Noticed(other),
                        };
                        // The test may be over.
                        let _ = tell.send(seen);
                    }
                });
            }
        }
        Self {
            _clients: clients,
            seen,
            _watching: watching,
        }
    }

    /// Waits until so many are back; gives the milliseconds since `start` within which 99 of 100 were.
    async fn back_p99_ms(&mut self, count: usize, start: Instant) -> u128 {
        let mut times = Vec::new();
        while times.len() < count {
            match soon("a client that is back", self.seen.recv())
                .await
                .unwrap()
            {
                Seen::Back(at) => times.push(at.duration_since(start).as_millis()),
                Seen::Noticed(event) => panic!("a client noticed: {event:?}"),
            }
        }
        times.sort_unstable();
        times[(times.len() * 99).div_ceil(100) - 1]
    }

    fn noticed_nothing(&mut self) {
        while let Ok(seen) = self.seen.try_recv() {
            if let Seen::Noticed(event) = seen {
                panic!("a client noticed: {event:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_server_is_killed_its_clients_are_back_on_others_and_nobody_notices() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [mut one, two, three] = nodes(&nats, "").await;
    let mut watched = Watched::join(&[&one, &two, &three], 60, 5).await;
    let lost = metric(&one.address, "peers");
    assert!(lost > 30, "only {lost} of 300 came to this server");
    let start = Instant::now();
    one.process.kill().unwrap();
    let p99 = watched.back_p99_ms(lost, start).await;
    println!(
        "{{\"id\":\"killed_back_p99_ms\",\"value\":{p99},\"unit\":\"ms\",\"target\":3000,\"met\":{}}}",
        p99 <= 3000
    );
    // The killed server's lease has run out by then, and whoever it still had would be gone.
    sleep(Duration::from_secs(8)).await;
    watched.noticed_nothing();
    let now: usize = [&two, &three]
        .map(|s| metric(&s.address, "peers"))
        .iter()
        .sum();
    assert_eq!(now, 300);
    one.process.wait().unwrap();
}

#[tokio::test]
async fn who_does_not_come_back_from_a_killed_server_is_gone_in_ten_seconds() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [mut one, two, three] = nodes(&nats, "").await;
    // These know no other server.
    let _stays = join(&one, "room", "lost").await;
    let _alone = join(&one, "nobody-else", "lost").await;
    let (_alice, mut alice_hears) = join(&two, "room", "alice").await;
    let start = Instant::now();
    one.process.kill().unwrap();
    let heard = hears(&mut alice_hears).await;
    println!("gone after {} ms", start.elapsed().as_millis());
    let reason = LeaveReason::Lost;
    assert!(
        matches!(heard, Event::PeerLeft { reason: r, .. } if r == reason),
        "{heard:?}"
    );
    // Also where nobody was left to notice: the name is free.
    soon("a name that is free", async {
        while SignalingClient::join(config(&[&three], "nobody-else", "lost"))
            .await
            .is_err()
        {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    one.process.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_members_stay_and_nobody_enters_and_with_it_all_is_as_before() {
    let Some(mut nats) = Nats::start().await else {
        return;
    };
    let [one, two, three] = nodes(&nats, "").await;
    let mut watched = Watched::join(&[&one, &two, &three], 20, 5).await;
    let (alice, mut alice_hears) = join(&one, "pair", "alice").await;
    let (_bob, mut bob_hears) = join(&one, "pair", "bob").await;
    let (_carol, mut carol_hears) = join(&two, "pair", "carol").await;
    for _ in ["bob", "carol"] {
        let heard = hears(&mut alice_hears).await;
        assert!(matches!(heard, Event::PeerAnnounced(_)), "{heard:?}");
    }

    nats.kill();
    soon("a server that knows", async {
        while metric(&one.address, "bus_up") > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    alice.offer(&peer("bob"), offer()).await.unwrap();
    while !matches!(hears(&mut bob_hears).await, Event::Offer { .. }) {}
    match alice.offer(&peer("carol"), offer()).await {
        Err(RequestError::Refused(error)) => {
            assert_eq!(error.code, ErrorCode::Unavailable);
            assert!(error.retry_after().is_some());
        }
        other => panic!("{other:?}"),
    }
    match SignalingClient::join(config(&[&one], "pair", "dave")).await {
        Err(JoinError::Unavailable { retry_after }) => assert!(retry_after.is_some()),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("admitted without NATS"),
    }

    // It comes back, and has forgotten everything.
    nats.run().await;
    let start = Instant::now();
    soon("an offer to another server", async {
        while alice.offer(&peer("carol"), offer()).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    while !matches!(hears(&mut carol_hears).await, Event::Offer { .. }) {}
    let dave = soon("a newcomer", async {
        loop {
            match SignalingClient::join(config(&[&three], "pair", "dave")).await {
                Ok((_, joined, _)) => return joined,
                Err(JoinError::Unavailable { .. }) => sleep(Duration::from_millis(20)).await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    println!("converged after {} ms", start.elapsed().as_millis());
    let names: Vec<_> = dave.peers.iter().map(|p| p.peer_id.as_str()).collect();
    assert_eq!(names, ["alice", "bob", "carol"]);
    match SignalingClient::join(config(&[&three], "room0", "p0")).await {
        Err(JoinError::PeerIdTaken) => {}
        other => panic!("{:?}", other.map(drop)),
    }
    sleep(Duration::from_secs(8)).await;
    watched.noticed_nothing();
}

/// Whose offers went where.
struct Ledger {
    /// Lets some join at a time, so that none runs out of time where the machine is busy.
    joining: Semaphore,
    /// Offers that the server said it had passed on.
    sent: Mutex<BTreeSet<RequestId>>,
    received: Mutex<BTreeSet<RequestId>>,
    refused: AtomicUsize,
}

impl Ledger {
    /// Waits until every offer that was sent has arrived.
    async fn all_arrived(&self) {
        loop {
            let lost = {
                let (sent, received) = (self.sent.lock().unwrap(), self.received.lock().unwrap());
                sent.difference(&received).count()
            };
            if lost == 0 {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Joining,
    Offering,
    Listening,
}

/// Offers to the next peer of its room again and again, and notes what comes.
async fn offers_and_listens(
    config: ClientConfig,
    next: PeerId,
    ledger: Arc<Ledger>,
    mut stage: watch::Receiver<Stage>,
) {
    let turn = ledger.joining.acquire().await.unwrap();
    let (client, _, mut events) = SignalingClient::join(config).await.unwrap();
    drop(turn);
    let listening = async {
        while let Some(event) = events.next().await {
            match event {
                Event::Offer { request_id, .. } => {
                    ledger.received.lock().unwrap().insert(request_id);
                }
                Event::PeerLeft { .. } | Event::Rejoined(_) | Event::Ended(_) => {
                    panic!("noticed: {event:?}")
                }
                _ => {}
            }
        }
    };
    let offering = async {
        stage
            .wait_for(|stage| *stage != Stage::Joining)
            .await
            .unwrap();
        while *stage.borrow() == Stage::Offering {
            match client.offer(&next, offer()).await {
                Ok(id) => _ = ledger.sent.lock().unwrap().insert(id),
                Err(_) => _ = ledger.refused.fetch_add(1, Ordering::Relaxed),
            }
            sleep(Duration::from_secs(2)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = listening => panic!("the stream ended"),
        () = offering => {}
    }
}

/// A server drains that 2,000 clients are connected to, while each of them offers again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_loses_no_offer() {
    const ROOMS: usize = 200;
    const PEERS: usize = 10;
    let Some(nats) = Nats::start().await else {
        return;
    };
    let mut one = node(&nats, "").await;
    // Everybody comes to the first server: the others are not there yet.
    let later = [free_port(), free_port()];
    let urls = later.map(|port| format!("ws://127.0.0.1:{port}"));
    let ledger = Arc::new(Ledger {
        joining: Semaphore::new(50),
        sent: Mutex::default(),
        received: Mutex::default(),
        refused: AtomicUsize::new(0),
    });
    let (stage, stages) = watch::channel(Stage::Joining);
    let mut clients = JoinSet::new();
    for n in 0..ROOMS * PEERS {
        let (room, n) = (n / PEERS, n % PEERS);
        let config = config(&[&one], &format!("room{room}"), &format!("p{n}"));
        let config = config.with_more_urls(&urls).unwrap();
        let next = peer(&format!("p{}", (n + 1) % PEERS));
        let client = offers_and_listens(config, next, Arc::clone(&ledger), stages.clone());
        clients.spawn(client);
    }
    let all = ROOMS * PEERS;
    soon("everybody's joining", async {
        while metric(&one.address, "peers") < all {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let others = [
        node_at(&nats, later[0], "").await,
        node_at(&nats, later[1], "").await,
    ];
    stage.send(Stage::Offering).unwrap();
    sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    terminate(&one);
    let status = soon(
        "the end of the drain",
        tokio::task::spawn_blocking(move || one.process.wait()),
    );
    assert!(status.await.unwrap().unwrap().success());
    println!("drained in {} ms", start.elapsed().as_millis());
    stage.send(Stage::Listening).unwrap();
    soon("everybody's coming back", async {
        let peers = |serve: &Serve| metric(&serve.address, "peers");
        while others.iter().map(peers).sum::<usize>() < all {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    soon("the last offers", ledger.all_arrived()).await;
    let (sent, refused) = (
        ledger.sent.lock().unwrap().len(),
        ledger.refused.load(Ordering::Relaxed),
    );
    println!("{sent} offers arrived, {refused} were refused and made again");
    assert!(clients.try_join_next().is_none(), "a client gave up");
    // Without this their leaving would be noticed.
    clients.shutdown().await;
}

/// Real peers, linked to each other, while a server of theirs is killed.
#[tokio::test(flavor = "multi_thread")]
async fn links_between_peers_outlive_their_server() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [mut one, two, three] = nodes(&nats, "").await;
    let urls = [&one, &two, &three].map(|s| format!("ws://{}", s.address));
    let join = |name: &str| {
        Room::builder(&urls[0], "room", name)
            .more_servers(&urls)
            .join()
    };
    let mut rooms = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        rooms.push(join(name).await.unwrap());
    }
    let linked = async |rooms: &[Room]| {
        for room in rooms {
            while room.peers().await.len() + 1 < rooms.len() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    soon("links between all", linked(&rooms)).await;
    let mut events: Vec<_> = rooms.iter().map(Room::events).collect();
    let on_one = metric(&one.address, "peers");
    println!("{on_one} of 6 are connected to the server that is killed");
    one.process.kill().unwrap();
    one.process.wait().unwrap();
    // Longer than its lease.
    sleep(Duration::from_secs(9)).await;
    for events in &mut events {
        while let Some(Some(event)) = events.next().now_or_never() {
            let is_torn = matches!(event, roundtable::Event::Disconnected { .. });
            assert!(!is_torn, "{event:?}");
        }
    }
    // Everybody can still be found.
    rooms.push(join("g").await.unwrap());
    soon("links with the newcomer", linked(&rooms)).await;
    for room in rooms {
        room.leave().await;
    }
}

/// Makes a room, as the operator's own service does; gives the operator's interface's answer.
fn make_room(server: &Serve, key: &str) -> Value {
    let request = format!(
        "POST /v1/rooms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let response = nats::exchange(&server.address, &request);
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_room_of_a_closed_server_is_known_to_all_with_the_same_keys() {
    let Some(nats) = Nats::start().await else {
        return;
    };
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let data = |dir: &tempfile::TempDir| format!("--data {}", dir.path().display());
    let one = closed_node(&nats, &data(&first)).await;
    for file in ["keys.json", "operator-key.json"] {
        // With the file's mode.
        std::fs::copy(first.path().join(file), second.path().join(file)).unwrap();
    }
    let key = std::fs::read_to_string(first.path().join("operator-key.json")).unwrap();
    let key: String = serde_json::from_str(&key).unwrap();
    let before = make_room(&one, &key);
    let two = closed_node(&nats, &data(&second)).await;
    let after = make_room(&one, &key);
    // The one it asks for, the other it is told of.
    for room in [before, after] {
        let text = |member: &str| room[member].as_str().unwrap();
        let enter = async |server: &Serve, name: &str| {
            let config = config(&[server], text("room"), name).with_invite(text("invite"));
            soon("a grant", async {
                loop {
                    match SignalingClient::join(config.clone()).await {
                        Ok(joined) => return joined,
                        Err(JoinError::NoToken { .. }) => sleep(Duration::from_millis(50)).await,
                        Err(other) => panic!("{other}"),
                    }
                }
            })
            .await
        };
        let (_alice, _, _alice_hears) = enter(&one, "alice").await;
        let (_bob, joined, _) = enter(&two, "bob").await;
        assert_eq!(joined.peers[0].peer_id, peer("alice"));
    }
}
